"""What a system's own `system.json` states of its cost (paper Table II); anybody may have written it."""

from statistics import median
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from samuel.evaluate.paper_tables import TRACK_S
from samuel.evaluate.systems import ABOUT, Problem, System

Words = Annotated[str, Field(max_length=200)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Made(BaseModel):
    seconds: Positive
    duration_s: Positive


class _Stated(BaseModel):
    parameters: Annotated[int, Field(gt=0)] | None = None
    conditioning: Words | None = None
    device: Words | None = None
    machine: Words | None = None
    memory: Words | None = None
    peak_memory_bytes: Annotated[int, Field(gt=0)] | None = None
    tracks: dict[str, _Made] = {}


def stated_efficiency(system: System) -> tuple[dict[str, Any] | None, Problem | None]:
    """A system's row of the table of efficiency, None where nothing is stated, and what is wrong with it.

    The time is the median over its tracks of seconds of work for a second of audio, for a track of 47.55 s.
    """
    if not system.about:
        return None, None
    try:
        stated = _Stated.model_validate(system.about)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return None, Problem(system.name, "", f"{ABOUT}: {where}: {first['msg']}: its figures are left out")
    row = stated.model_dump(exclude={"tracks"})
    if stated.tracks:
        factor = median(made.seconds / made.duration_s for made in stated.tracks.values())
        row |= {"real_time_factor": factor, "seconds_per_track": factor * TRACK_S, "track_s": TRACK_S}
    return row | {"tracks": len(stated.tracks)}, None
