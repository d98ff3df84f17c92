"""Ctrl-C and SIGTERM, heard between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether somebody has asked for the end."""

    def __init__(self) -> None:
        self.wanted = False

    def __bool__(self) -> bool:
        return self.wanted


@contextmanager
def heard() -> Iterator[Interrupt]:
    """Within, the first SIGINT or SIGTERM only sets the flag that is yielded; a second one acts as ever.

    Outside the main thread, where Python hears no signals, the flag is never set.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    # None: a handler that is not Python's, which Python cannot put back.
    before = {
        number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)
    }

    def hear(_number: int, _frame: FrameType | None) -> None:
        interrupt.wanted = True
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, hear)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
