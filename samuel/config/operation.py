"""Settings of the operation: where the tasks of a flow run."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from samuel.config.popdb import NO_AT
from samuel.config.section import Section

SCHEMES = ("tcp", "tls", "ws", "wss", "ucx")


class RunnerConfig(Section):
    """Where the tasks of a flow run."""

    kind: Literal["threads", "dask"] = Field(
        default="threads", description="threads of the flow's own process, or the workers of a Dask cluster"
    )
    address: str | None = Field(
        default=None,
        description="dask: the scheduler, as in tcp://host:8786; none: worker processes on this machine",
        json_schema_extra=NO_AT,
    )
    workers: Annotated[int, Field(ge=1, le=256)] = Field(
        default=2, description="dask without an address: how many worker processes"
    )

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        # Settings are shown in the UI, kept in its database and written to logs.
        if value is None:
            return value
        parts = urlsplit(value)
        if "@" in value or parts.scheme not in SCHEMES or not parts.hostname or not parts.port:
            raise ValueError(f"no address; give one of {', '.join(SCHEMES)}, as in tcp://host:8786")
        return value

    @model_validator(mode="after")
    def _address_is_used(self) -> "RunnerConfig":
        if self.address and self.kind != "dask":
            raise ValueError("runner.address needs runner.kind = 'dask'")
        return self
