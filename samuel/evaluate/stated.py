"""What a system's own `system.json` states of its cost (paper Table II); anybody may have written it."""

from statistics import median
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from samuel.evaluate.paper_tables import TRACK_S
from samuel.evaluate.systems import ABOUT, Problem, System

Words = Annotated[str, Field(max_length=200)]
Seconds = Annotated[float, Field(ge=1e-6, le=1e7)]
Count = Annotated[int, Field(gt=0, lt=2**63, strict=True)]


class _Made(BaseModel):
    seconds: Seconds
    duration_s: Annotated[float, Field(ge=1e-3, le=1e6)]


class _Stated(BaseModel):
    parameters: Count | None = None
    conditioning: Words | None = None
    device: Words | None = None
    machine: Words | None = None
    memory: Words | None = None
    peak_memory_bytes: Count | None = None
    tracks: dict[str, _Made] = {}


def stated_efficiency(system: System) -> tuple[dict[str, Any] | None, Problem | None]:
    """A system's row of the table of efficiency, None where nothing is stated, and what is wrong with it.

    The time is the median, over the tracks that are scored, of seconds of work for a second of audio, scaled
    to a track of 47.55 s.
    """
    if not system.about:
        return None, None
    try:
        stated = _Stated.model_validate(system.about)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return None, Problem(system.name, "", f"{ABOUT}: {where}: {first['msg']}: its figures are left out")
    row = stated.model_dump(exclude={"tracks"}) | {"source": "stated"}
    made = [made for name, made in stated.tracks.items() if name in system.files]
    if made:
        factor = median(track.seconds / track.duration_s for track in made)
        row |= {"real_time_factor": factor, "seconds_per_track": factor * TRACK_S, "track_s": TRACK_S}
    return row | {"tracks": len(made)}, None
