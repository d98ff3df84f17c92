"""Lets `prefect deployment run build-popdb` be typed as it is.

Prefect wants `<flow>/<deployment>`. Our flows and their first deployments have the same name, so a name
without a slash can only mean `name/name`. Prefect loads this module by its plugin system (the entry point
group `prefect.plugins`, switched on in `prefect.toml`); the long form works without it.
"""

import functools
import os
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
from prefect.plugins import HookContext, SetupResult, register_hook

PREFECT_PLUGIN_API_REQUIRES = ">=0.1,<1"
LOOKUP = "read_deployment_by_name"
Lookup = Callable[..., Coroutine[Any, Any, Any]]


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """Wrap the client's public lookup, once, and send nobody word of what is done here."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from prefect.client.orchestration import PrefectClient

    lookup = getattr(PrefectClient, LOOKUP)
    if not hasattr(lookup, "__wrapped__"):
        setattr(PrefectClient, LOOKUP, with_short_names(lookup))
    return None


def with_short_names(lookup: Lookup) -> Lookup:
    """Make a lookup to which `name` means `name/name`."""

    @functools.wraps(lookup)
    async def read_deployment_by_name(client: Any, name: str) -> Any:
        try:
            return await lookup(client, name if "/" in name else f"{name}/{name}")
        except httpx.ConnectError:
            remedy = "start one with `make serve`, or set PREFECT_API_URL"
            raise SystemExit(f"error: no Prefect server answers at {client.api_url}; {remedy}") from None

    return read_deployment_by_name
