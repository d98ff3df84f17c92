"""Lets `prefect deployment run build-popdb` be typed as it is.

Prefect wants `<flow>/<deployment>`. Our flows and their first deployments have the same name, so a name
without a slash can only mean `name/name`. And it wants the password of `make serve`, which it gets for the
address of that server and no other. Prefect loads this module by the entry point `prefect.plugins`, switched
on in `prefect.toml`, and reads its settings again afterwards.
"""

import functools
import os
from typing import Any

import httpx
from prefect.plugins import HookContext, SetupResult, register_hook
from prefect.settings import get_current_settings

from flows.server import API_URL, PASSWORD, PORT_VARIABLE, ServerError, read_password, without_proxy

PREFECT_PLUGIN_API_REQUIRES = ">=0.1,<1"


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """Wrap the client's public lookup, once, have it know our server, and send others no word of all this."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.update(without_proxy())
    know_the_server(ctx.api_url)
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
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.UNAUTHORIZED:
                raise
            remedy = f"set {PASSWORD} to its user:password"
            raise SystemExit(f"error: the server at {self.api_url} wants a password; {remedy}") from None

    PrefectClient.read_deployment_by_name = read_deployment_by_name
    return None


def know_the_server(api_url: str | None) -> None:
    """Put the address of `make serve` into the environment where it has another port, and its password."""
    if PORT_VARIABLE in os.environ:
        api_url = os.environ.setdefault("PREFECT_API_URL", API_URL)
    if api_url == API_URL and not get_current_settings().api.auth_string:
        try:
            password = read_password()
        except ServerError as error:
            raise SystemExit(f"error: {error}") from None
        if password:
            os.environ[PASSWORD] = password
