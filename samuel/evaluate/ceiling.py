"""What no model of latents can exceed: the true accompaniments after the codec's own round trip."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from samuel.audio import write_wav
from samuel.codec import Codec
from samuel.errors import InputError
from samuel.evaluate.listen import load_start
from samuel.evaluate.systems import CEILING, NOT_SCORED, REAL, Lineup, Problem, System
from samuel.files import digest, find_entry, make_entry, sha256

Each = Callable[[Iterable[Any]], Iterable[Any]]
FILE = "round-trip.wav"


def with_ceiling(lineup: Lineup, codec: Codec, root: Path, each: Each = iter) -> Lineup:
    """A lineup with its true accompaniments encoded and decoded, as 24-bit WAV; as it is without them.

    Args:
        lineup: What is compared.
        codec: Any.
        root: Where entries go.
        each: Wraps the loop over tracks, e.g. in a progress bar.
    """
    real = lineup.system(REAL)
    if real is None:
        return lineup
    made: dict[str, Path] = {}
    problems: list[Problem] = []
    for track, path in each(real.files.items()):
        try:
            made[track] = _made(path, codec, root)
        except InputError as error:
            problems.append(Problem(CEILING, track, f"{error}: {NOT_SCORED}"))
    return lineup.with_ceiling(System(CEILING, made), problems)


def _made(path: Path, codec: Codec, root: Path) -> Path:
    def make(folder: Path) -> dict[str, Any]:
        audio, _ = load_start(path)
        with torch.inference_mode():
            decoded = codec.decode(codec.encode(torch.from_numpy(audio)[None]))[0]
        write_wav(folder / FILE, decoded.float().cpu().numpy()[:, : audio.shape[1]], "PCM_24")
        return {"codec": codec.identity}

    if not path.is_file():
        raise InputError(f"{path.name}: no such file")
    folder = root / digest("round trip", 1, sha256(path), codec.identity)
    return (find_entry(folder) or make_entry(folder, make)).path(FILE)
