"""The process that is measured: one run over the list, by the flow or by a plain loop.

`python -m flows.orchestration.work flow|loop ORDER RESULT`, where ORDER is what `Order` writes.
"""

import json
import logging
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flows.orchestration.stand_ins import install, stand_in_settings
from flows.tasks import groups
from samuel.artifacts import write_json
from samuel.config import Settings
from samuel.popdb import songs as catalog
from samuel.popdb import stages as pipeline
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome
from samuel.popdb.writer import require_place, write_popdb

AT_A_TIME = 3  # tasks in hand, as the flow has


@dataclass(frozen=True)
class Order:
    """What is to be run.

    Attributes:
        data: The data folder.
        song_list: The list, a CSV file.
        songs: At most so many of it; none: all.
        sleep_s: What a stand-in sleeps for each song.
    """

    data: Path
    song_list: Path
    songs: int | None
    sleep_s: float

    def write(self, path: Path) -> None:
        """Write it where `read` finds it."""
        write_json(path, json.loads(json.dumps(asdict(self), default=str)))

    @classmethod
    def read(cls, path: Path) -> "Order":
        """What `write` wrote."""
        values = json.loads(path.read_text("utf-8"))
        return cls(**values | {name: Path(values[name]) for name in ("data", "song_list")})


@dataclass
class Told:
    """What the process says of its run.

    Attributes:
        flow_run: Its id on the server; empty for a loop.
        counts: Of `dataset.json`.
        began: When the run began, in seconds since the epoch, after everything was imported.
        ended: When it ended.
        ends: Of each task run that this process ended: its id, its state's name, and when that was.
    """

    flow_run: str = ""
    counts: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0
    ended: float = 0.0
    ends: list[tuple[str, str, float]] = field(default_factory=list)


def main() -> None:
    """Run, and say so in a file."""
    kind, order_path, result = sys.argv[1:]
    order = Order.read(Path(order_path))
    settings = stand_in_settings(order.data, order.song_list, order.songs)
    install(settings, order.sleep_s)
    told = flow(settings) if kind == "flow" else loop(settings)
    write_json(Path(result), asdict(told))


def flow(settings: Settings) -> Told:
    """The real flow, whose every task run is written down as it ends."""
    from prefect import Task

    from flows import build_popdb

    told = Told()
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_not_of_a_hook)

    def ended(_: Any, run: Any, state: Any) -> None:
        told.ends.append((str(run.id), state.name, time.time()))

    for part in vars(build_popdb).values():
        if isinstance(part, Task):
            part.on_completion(ended)
            part.on_failure(ended)

    def begun(flow: Any, flow_run: Any, state: Any) -> None:
        told.flow_run = str(flow_run.id)

    build_popdb.build_popdb.on_running_hooks.append(begun)
    told.began = time.time()
    told.counts = build_popdb.build_popdb(settings)
    told.ended = time.time()
    return told


def _not_of_a_hook(record: logging.LogRecord) -> bool:
    """Prefect logs the hooks that count here; a run that nobody measures has none."""
    return not record.getMessage().startswith(("Running hook", "Hook "))


def loop(settings: Settings) -> Told:
    """The same calls by threads alone: what the run takes where nobody keeps its history."""
    told = Told(began=time.time())
    require_place(settings)
    shared = Parts(settings)
    pipeline.reclaim_audio(shared)
    shared.rate_limiter.start_run()
    songs = catalog.list_songs(settings.songs, settings.data).songs

    def stages(part: Sequence[Song]) -> list[Outcome]:
        separated = pipeline.separate_songs(acquire_songs(part, shared), shared)
        return pipeline.encode_songs(separated, shared)

    parts = [part for _, part in groups(songs, settings)]
    with ThreadPoolExecutor(AT_A_TIME) as workers:
        outcomes = [outcome for made in workers.map(stages, parts) for outcome in made]
    told.counts = write_popdb(outcomes, settings).info["counts"]
    told.ended = time.time()
    return told


if __name__ == "__main__":
    main()
