"""The parts that the stages of a run share: made once, handed down, and loaded when they are first used."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from samuel.artifacts import Store
from samuel.config import Settings
from samuel.popdb.rate_limit import RateLimiter

if TYPE_CHECKING:  # a run that only downloads needs no torch
    import torch

    from samuel.codecs.base import Codec
    from samuel.separators import Separator

Part = TypeVar("Part")


class Parts:
    """Store, rate limiter, device, codec and separator of one run, the heavy ones loaded when asked for.

    Pickled it is its settings alone: another process loads parts of its own.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.data, settings.store)
        self.rate_limiter = RateLimiter(settings.download, settings.data / "raw" / ".rate_limit")
        self._lock = threading.RLock()
        self._turn = threading.Lock()  # two networks at once would want twice the memory
        self._loaded: dict[str, Any] = {}

    def __reduce__(self) -> tuple[type["Parts"], tuple[Settings]]:
        return Parts, (self.settings,)

    @property
    def device(self) -> "torch.device":
        """Computes for codec and separator."""
        from samuel.device import resolve_device

        return self._once("device", lambda: resolve_device(self.settings.device))

    @property
    def codec(self) -> "Codec":
        """Audio ↔ latents."""
        from samuel.codecs import load_codec

        return self._once("codec", lambda: load_codec(self.settings.codec, self.device, turn=self._turn))

    @property
    def separator(self) -> "Separator":
        """A song → its vocals."""
        from samuel.separators import load_separator

        wanted = self.settings.separator
        return self._once("separator", lambda: load_separator(wanted, self.device, self._turn))

    def _once(self, name: str, load: Callable[[], Part]) -> Part:
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load()
            return self._loaded[name]
