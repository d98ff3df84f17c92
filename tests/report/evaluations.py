"""What an evaluation leaves behind, by hand: `summary.json` and `scores.parquet`."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from samuel.artifacts import Artifact, make_artifact, write_json
from samuel.evaluate.summary import SCHEMA, VERSION
from samuel.popdb.tables import table_bytes

REAL, CEILING, OURS = "real", "real (through the codec)", "SAMUeL"
OWN = {
    "chroma_likeness": (0.712, 0.681, 0.612),
    "beat_f1": (0.55, 0.54, 0.31),
    "onset_correlation": (0.35, 0.33, 0.11),
    "key_agreement": (0.8, 0.78, 0.4),
}
FOLLOWED_BY = tuple(OWN)
P = {"chroma_likeness": 0.0001, "beat_f1": 0.016, "onset_correlation": 0.02, "key_agreement": 0.6}


def interval(mean: float, half: float = 0.03, n: int = 20) -> dict[str, Any]:
    return {"n": n, "mean": mean, "low": mean - half, "high": mean + half}


def followed(
    own: float, other: float, p: float | None, n: int = 20, p_least: float | None = 0.0001
) -> dict[str, Any]:
    difference = interval(own - other, 0.02, n)
    return {"n": n, "own": own, "other": other, "difference": difference, "p": p, "p_least": p_least}


NOT_FOLLOWED: dict[str, Any] = {
    "n": 0, "own": None, "other": None, "p": None, "p_least": None,
    "difference": {"n": 0, "mean": None, "low": None, "high": None},
}  # fmt: skip
"""Of a track that no other song's vocal can be compared with."""


SUMMARY: dict[str, Any] = {
    "version": VERSION,
    "tracks": 20,
    "systems": [REAL, CEILING, OURS],
    "scores": {
        **{
            score: {system: interval(mean) for system, mean in zip((REAL, CEILING, OURS), own, strict=True)}
            for score, own in OWN.items()
        },
        "log_mel_distance_db": {CEILING: interval(1.0, 0.2), OURS: interval(12.34, 0.5, 18)},
        "level_dbfs": {REAL: interval(-18.0, 1), CEILING: interval(-18.1, 1), OURS: interval(-17.5, 0.8)},
    },
    "following": {
        score: {
            REAL: followed(own[0], own[0] - 0.2, 0.0001),
            CEILING: followed(own[1], own[1] - 0.15, 0.0001),
            OURS: followed(own[2], own[2] - 0.09, P[score]),
        }
        for score, own in OWN.items()
    },
    "distribution": {
        "frechet": {OURS: 57.6},
        "frechet_items": {OURS: 20},
        "true_items": 128,
        "frechet_design": "20 generated items against 128 held-out ones, the mean over 10 halvings.",
        "floor": {OURS: {"mean": 3.2, "low": 2.2, "high": 4.0, "splits": 10, "items": 20}},
        "unit": "squared deviations of the latents",
        "nearest": [
            {
                "system": OURS, "track": f"a-00{i}", "pair_id": f"b-00{i}", "title": "A training song",
                "similarity": 0.2 + 0.02 * i, "lag_s": -1.2,
            }
            for i in range(3)
        ],
        "nearest_held_out": {"n": 30, "median": 0.30, "highest": 0.41},
        "diversity": {
            "takes": 3, "between_takes": 0.8, "between_songs": 0.9,
            "tracks": [{"track": "a-000", "between_takes": 0.8}],
        },
    },
    "efficiency": {
        OURS: {
            "parameters": 15_000_000, "seconds_per_track": 1.29, "track_s": 47.55, "real_time_factor": 0.0271,
            "peak_memory_bytes": 2**30, "memory": "of the process", "device": "cpu", "machine": "2 cores",
            "conditioning": "vocal", "source": "measured", "repeats": 3,
        }
    },
    "not_measured": {"audiobox": "the scorer 'audiobox' was not chosen"},
    "apa": {},
    "problems": [{"system": "MusicGen", "track": "song7", "message": "no such file: not scored"}],
    "codec": "mel/1",
}  # fmt: skip


def summary(**parts: Any) -> dict[str, Any]:
    """`SUMMARY` with other parts."""
    return deepcopy(SUMMARY) | parts


def cells(text: str) -> list[list[str]]:
    """Cells of the tables in Markdown, without the first head and rule."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def scores_entry(folder: Path, found: dict[str, Any], rows: list[dict[str, Any]] | None = None) -> Artifact:
    """An entry as `samuel.evaluate.summary` writes it."""

    def make(target: Path) -> dict[str, Any]:
        write_scores(target, found, rows)
        return {}

    return make_artifact(folder, make)


def write_scores(folder: Path, found: dict[str, Any], rows: list[dict[str, Any]] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.parquet").write_bytes(table_bytes(rows or [], SCHEMA))
    write_json(folder / "summary.json", found)


def rows_of(
    system: str, score: str, values: Mapping[str, float | None], against: str | None = "own vocal"
) -> list[dict[str, Any]]:
    """Rows of `scores.parquet`: a value for each track."""
    return [
        {"system": system, "track": track, "title": track, "against": against, "score": score, "value": value}
        for track, value in values.items()
    ]


def noise(seconds: float, seed: int = 0) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Audio, (2, S) at 44.1 kHz."""
    shape = (2, round(44_100 * seconds))
    return (0.1 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)
