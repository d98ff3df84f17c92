"""Lets `prefect deployment run build-popdb` be typed as it is.

Prefect wants `<flow>/<deployment>`. Our flows and their first deployments have the same name, so a name
without a slash can only mean `name/name`. Prefect loads this module by the entry point `prefect.plugins`,
switched on in `prefect.toml`; the long form works without it.
"""

import functools
import os
from typing import Any

import httpx
from prefect.plugins import HookContext, SetupResult, register_hook

PREFECT_PLUGIN_API_REQUIRES = ">=0.1,<1"


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """Wrap the client's public lookup, once, and send nobody word of what is done here."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from prefect.client.orchestration import PrefectClient

    lookup = PrefectClient.read_deployment_by_name
    if hasattr(lookup, "__wrapped__"):
        return None

    @functools.wraps(lookup)
    async def read_deployment_by_name(self: PrefectClient, name: str) -> Any:
        try:
            return await lookup(self, name if "/" in name else f"{name}/{name}")
        except httpx.ConnectError:
            remedy = "start one with `make serve`, or set PREFECT_API_URL"
            raise SystemExit(f"error: no Prefect server answers at {self.api_url}; {remedy}") from None

    PrefectClient.read_deployment_by_name = read_deployment_by_name
    return None
