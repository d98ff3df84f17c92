"""Keeps processes running: what dies is started again, a little later each time, and not for ever."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from flows.service.processes import exit_words, stop

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
DEATHS = 5  # within so many seconds are no accident
WITHIN_S = 180.0


class SupervisionError(RuntimeError):
    """A process dies again and again."""


@dataclass
class Child:
    """A process that is kept running.

    Args:
        name: What the terminal calls it.
        start: Starts it.
        where: What a user reads to learn why it died.
        needed: What must be true before it is started.
        essential: Without it nothing works: it may not die again and again.
    """

    name: str
    start: Callable[[], "subprocess.Popen[bytes]"]
    where: str
    needed: Callable[[], bool] = lambda: True
    essential: bool = True
    process: "subprocess.Popen[bytes] | None" = None
    deaths: list[float] = field(default_factory=list)
    again_at: float = 0.0

    def keep(self) -> None:
        """Start it where it is not running, once its pause is over; call it often.

        Raises:
            SupervisionError: It has died too often; names it, and where to look.
        """
        if self.process and (code := self.process.poll()) is not None:
            stop(self.process)  # what it left behind may hold the port
            self.process = None
            self._pause(code)
        if not self.process and time.monotonic() >= self.again_at and self.needed():
            self.process = self.start()

    def _pause(self, code: int) -> None:
        now = time.monotonic()
        self.deaths = [*(death for death in self.deaths if now - death < WITHIN_S), now]
        if len(self.deaths) >= DEATHS and self.essential:
            raise SupervisionError(
                f"the {self.name} died {DEATHS} times within {WITHIN_S:.0f} s, at last with"
                f" {exit_words(code)}; see {self.where}"
            )
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (len(self.deaths) - 1))
        self.again_at = now + pause
        print(f"the {self.name} ended with {exit_words(code)}; it starts again in {pause:.0f} s", flush=True)

    def end(self) -> None:
        """Stop it for good."""
        if self.process:
            stop(self.process)
