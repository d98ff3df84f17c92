"""SIGKILL at random moments of the demo, and whether it matters.

    python -m tests.chaos --kills 50

Both flows run once undisturbed. Then, in other folders, they run under a worker while the process of the flow
run, the worker, the server, or all of these and `make serve` are killed, again and again. A run that died is
started again, as a person would. In the end the dataset, the weights and the accompaniments must have the
same bytes, nothing may have been made twice, and no run may be shown as running.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

PORT = os.environ.setdefault("SAMUEL_PREFECT_PORT", "4290")
# Before Prefect is imported, which reads it then.
os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{PORT}/api"

from prefect.client.schemas.objects import StateType  # noqa: E402

from samuel.config import Settings, parse  # noqa: E402
from tests.chaos.operation import Operation, state_of, submit, unfinished  # noqa: E402
from tests.chaos.witness import Witness, content_of  # noqa: E402

FLOWS = ("build-popdb/demo", "train-and-eval/demo")
VICTIMS = ("flow", "flow", "worker", "server", "machine")  # what dies most often, twice
LONGEST_WAIT_S = 30.0  # until the next kill, from when the run is at work
AT_START = 0.2  # of the kills come while a run starts, which takes about as long
WATCH_EVERY_S = 0.05
LOOK_EVERY_S = 1.0
GONE_S = 25.0  # without a process, a run that is not over has died; a worker takes seconds to start one
RUN_S = 1800
SETTLE_S = 600  # within which nothing may be shown as running any more
SMALL: dict[str, Any] = {
    "songs": {"limit": 6},
    "popdb": {"chunk_frames": 256},
    "training": {"steps": 60, "checkpoint_every": 10, "validate_every": 30},
    "evaluation": {"tracks": 1, "takes": 1},
}


class Disturbed:
    """The flows in folders of their own, with a kill now and then.

    Args:
        operation: The server and the worker, started.
        home: Where the folders are made.
        kills: How many are left.
        seed: Of the moments and the victims.
        sizes: The demo's settings, less the folders.
    """

    def __init__(
        self, operation: Operation, home: Path, kills: int, seed: int, sizes: dict[str, Any]
    ) -> None:
        self.operation, self.home, self.left, self.sizes = operation, home, kills, sizes
        self.killed: Counter[str] = Counter()
        self.witnesses: list[Witness] = []
        self.runs = 0
        self._draw = Random(seed)  # noqa: S311
        self._next_s = self._seen_s = 0.0
        self._deadly = self._at_work = False

    def folder(self, name: str) -> Settings:
        """Settings of a run in a folder of this name."""
        root = self.home / name
        return parse({**self.sizes, "data": str(root / "data"), "artifacts": str(root / "artifacts")})

    def through(self, name: str) -> Settings:
        """Run both flows to their end."""
        settings = self.folder(name)
        witness = Witness(self.home / name)
        self.witnesses.append(witness)
        for flow in FLOWS:
            while not self._run(flow, settings, witness):
                self.operation.start()
        return settings

    def _run(self, flow: str, settings: Settings, witness: Witness) -> bool:
        """Submit a flow and follow it; False when it was killed."""
        run = submit(flow, settings.model_dump(mode="json"))
        self.runs += 1
        self._wait_anew()
        self._at_work = self._draw.random() < AT_START
        self._deadly, self._seen_s = False, time.monotonic()
        deadline, looked_s = time.monotonic() + RUN_S, 0.0
        while time.monotonic() < deadline:
            witness.watch()
            if self.left and self._at_work and time.monotonic() > self._next_s and self._kill(witness):
                return False
            if time.monotonic() - looked_s > LOOK_EVERY_S:
                looked_s = time.monotonic()
                self.operation.start()  # as systemd would, where it had to give up
                if (ended := self._ended(flow, run)) is not None:
                    return ended
            time.sleep(WATCH_EVERY_S)
        raise TimeoutError(f"{flow}: not over after {RUN_S} s")

    def _ended(self, flow: str, run: UUID) -> bool | None:
        """True: it is done. False: it died of a kill. None: it goes on."""
        state = state_of(run)
        if state and state.type == StateType.COMPLETED:
            return True
        if state and state.type == StateType.RUNNING and not self._at_work:
            self._at_work = True
            self._wait_anew()
        waits = state and state.type == StateType.SCHEDULED  # for a worker that is about to start
        if waits or any(self.operation.processes("flow")):
            self._seen_s = time.monotonic()
        if state and not state.is_final() and time.monotonic() - self._seen_s < GONE_S:
            return None
        if not self._deadly:
            raise RuntimeError(f"{flow}: {state and state.name}, and nobody had killed it: {state}")
        # Prefect gives up a run that finds no server when it begins, and the fence those of a killed worker.
        return False

    def _kill(self, witness: Witness) -> bool:
        """Kill somebody; whether the flow run died of it."""
        victim = self._draw.choice(VICTIMS)
        if not self.operation.kill(victim):  # a worker between two lives
            return False
        witness.kill_came()
        self.left -= 1
        self.killed[victim] += 1
        lost = f"piece in hand {witness.lost_s[-1]:.1f} s old, {witness.lost_steps[-1]} steps lost"
        print(f"kill {self.killed.total():3}: {victim:8} {lost}", flush=True)  # noqa: T201
        self._wait_anew()
        self._deadly = True
        return victim in ("flow", "machine")

    def _wait_anew(self) -> None:
        self._next_s = time.monotonic() + self._draw.uniform(0, LONGEST_WAIT_S)


def main() -> int:
    """0 where every kill was survived, and everything is as if there had been none."""
    options = _options()
    with tempfile.TemporaryDirectory() as temporary:
        home = (options.folder or Path(temporary)).resolve()
        home.mkdir(parents=True, exist_ok=True)
        operation = Operation(home)
        operation.start()
        try:
            return _report(*_disturb(operation, home, options))
        finally:
            operation.stop()


def _disturb(
    operation: Operation, home: Path, options: argparse.Namespace
) -> tuple[Disturbed, list[str], list[str]]:
    """Kill until enough were killed; where the bytes differ, and what is still shown as running."""
    disturbed = Disturbed(operation, home, 0, options.seed, SMALL if options.small else {})
    began_s = time.monotonic()
    wanted = content_of(disturbed.through("undisturbed"))
    print(f"undisturbed: {time.monotonic() - began_s:.0f} s, {len(wanted)} files to compare", flush=True)  # noqa: T201
    disturbed.left, disturbed.runs, differing = options.kills, 0, []
    for number in _rounds(disturbed):
        name = f"round-{number}"
        made = content_of(disturbed.through(name))
        differing += [
            f"{name}/{file}" for file in sorted({*wanted, *made}) if wanted.get(file) != made.get(file)
        ]
        print(f"{name}: {disturbed.left} kills left, {len(differing)} files differ", flush=True)  # noqa: T201
    return disturbed, differing, _still_running()


def _rounds(disturbed: Disturbed) -> Iterator[int]:
    """The demo is over before everybody has been killed: begin again in another folder."""
    number = 0
    while disturbed.left:
        number += 1
        yield number


def _still_running() -> list[str]:
    deadline = time.monotonic() + SETTLE_S
    while (names := unfinished()) and time.monotonic() < deadline:
        time.sleep(5)
    return names


def _report(disturbed: Disturbed, differing: Sequence[str], running: Sequence[str]) -> int:
    rounds = disturbed.witnesses[1:]
    again = [name for witness in rounds for name in witness.again]
    lost_s = [seconds for witness in rounds for seconds in witness.lost_s]
    lost_steps = [steps for witness in rounds for steps in witness.lost_steps]
    victims = ", ".join(f"{victim} {count}" for victim, count in disturbed.killed.most_common())
    longest_s = max(witness.longest_s for witness in disturbed.witnesses)
    rows = {
        "kills": f"{disturbed.killed.total()} ({victims})",
        "rounds of the demo": f"{len(rounds)}, in {disturbed.runs} flow runs",
        "files that differ": f"{len(differing)} {' '.join(differing[:5])}",
        "made a second time": f"{len(again)} {' '.join(again[:5])}",
        "shown as running": f"{len(running)} {' '.join(running[:5])}",
        "work lost at a kill": f"median {statistics.median(lost_s):.1f} s, most {max(lost_s):.1f} s: age of"
        f" the oldest piece in hand; the longest piece took {longest_s:.1f} s",
        "steps lost at a kill": f"median {statistics.median(lost_steps):.0f}, most {max(lost_steps)}",
    }
    print("\n" + "\n".join(f"{name:<22}{value}" for name, value in rows.items()))  # noqa: T201
    return 1 if differing or again or running else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--small", action="store_true", help="a smaller demo, for a first look")
    parser.add_argument("--folder", type=Path, help="where to work; none: a temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
