"""AudioBox-Aesthetics, the paper's scorer (§VI), by its own package.

It hears 16 kHz mono in windows of 10 s and never the vocal: it says nothing about following it.
"""

from pathlib import Path
from typing import Any, Protocol

import torch

from samuel.audio import SAMPLE_RATE, Audio
from samuel.errors import MissingPartError
from samuel.weights import hub_error, quietly

REPOSITORY = "facebook/audiobox-aesthetics"
AXES = ("PQ", "PC", "CE", "CU")
"""Production quality, production complexity, content enjoyment, content usefulness; each from 1 to 10."""
REMEDY = "or set evaluation.audiobox_path to its checkpoint.pt, or leave 'audiobox' out of evaluation.scorers"


class Predictor(Protocol):
    """What the package calls `AesPredictor`."""

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, float]]:
        """Tracks, each `path` (C, S) and `sample_rate` → a row of scores for each."""
        ...


def load_audiobox(path: Path | None) -> Predictor:
    """The package's predictor; it takes a GPU where there is one.

    Args:
        path: A checkpoint in the package's own layout; None: safetensors from the hub.

    Raises:
        MissingPartError: The checkpoint is absent, damaged or of another layout, or the hub is out of reach.
    """
    if path is not None:
        _check(path)
    with quietly():
        from audiobox_aesthetics.infer import initialize_predictor

        try:
            return initialize_predictor(ckpt=None if path is None else str(path))
        except Exception as error:
            raise _refusal(error, path) from error


def score(predictor: Predictor, tracks: list[Audio]) -> list[dict[str, float]]:
    """Score tracks, (2, S) each at 44.1 kHz: PQ, PC, CE and CU of every one.

    One track at a time: the package puts all windows of a call into one batch.
    """
    rows: list[dict[str, float]] = []
    for track in tracks:
        with quietly():  # the package calls torch's attention in a way torch warns about
            row = predictor.forward([{"path": torch.from_numpy(track), "sample_rate": SAMPLE_RATE}])[0]
        rows.append({axis: float(row[axis]) for axis in AXES})
    return rows


def _check(path: Path) -> None:
    """Refuse what is no checkpoint, by a load that can only bring tensors and plain values.

    The package would ask the hub where the file is absent, and trusts torch's default where it is there.
    """
    if not path.is_file():
        raise MissingPartError(f"{path}: no such file; evaluation.audiobox_path must be its checkpoint.pt")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _refusal(error, path) from error
    wanted = {"state_dict", "model_cfg", "target_transform"}
    if not isinstance(found, dict) or not wanted <= found.keys():
        raise MissingPartError(f"{path}: not a checkpoint of audiobox_aesthetics (needs {sorted(wanted)})")


def _refusal(error: Exception, path: Path | None) -> Exception:
    if path is None:
        return hub_error(error, REPOSITORY, REMEDY)
    lines = str(error).splitlines() or [""]
    return MissingPartError(
        f"{path}: not a usable checkpoint ({type(error).__name__}: {lines[0]}); fetch it again"
    )
