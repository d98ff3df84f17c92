"""One table of scores per run: each track, each scorer, each kind of accompaniment.

The kinds are `real` (the true accompaniment after the codec's round trip), `generated`, and `other vocal`
(the generated accompaniment against another song's vocal). A score that follows the vocal must tell the last
two apart.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from samuel.audio import Audio, read_wav
from samuel.config import EvaluationConfig
from samuel.evaluate.signal import signal_scores
from samuel.files import Entry, digest, find_entry, make_entry, sha256, write_json

VERSION = 1


def score_tracks(
    tracks: Sequence[Entry], config: EvaluationConfig, root: Path, each: Callable = iter
) -> Entry:
    """Score every track, or find the scores: `scores.json`, a list of rows.

    Args:
        tracks: Entries of `make_track`.
        config: Which scorers.
        root: Where the entry goes.
        each: Wraps the loop over tracks, e.g. in a progress bar.
    """
    digests = [track.sha256 for track in tracks]
    weights = config.audiobox_path and sha256(config.audiobox_path)
    folder = root / digest("scores", VERSION, digests, config.scorers, weights)

    def make(target: Path) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        if "signal" in config.scorers:
            rows += [row for track in each(tracks) for row in _signal_rows(track)]
        if "audiobox" in config.scorers:
            rows += _audiobox_rows(tracks, config)
        write_json(target / "scores.json", rows)
        return {"tracks": len(tracks), "scorers": list(config.scorers)}

    return find_entry(folder) or make_entry(folder, make)


def _signal_rows(track: Entry) -> list[dict[str, Any]]:
    vocal, generated, reference = (_stem(track, name) for name in ("vocal", "accompaniment", "reference"))
    rows = [
        _row(track, "real", signal_scores(vocal, reference, reference)),
        _row(track, "generated", signal_scores(vocal, generated, reference)),
    ]
    if "other_vocal.wav" in track.sha256:
        rows.append(
            _row(track, "other vocal", signal_scores(_stem(track, "other_vocal"), generated, reference))
        )
    return rows


def _audiobox_rows(tracks: Sequence[Entry], config: EvaluationConfig) -> list[dict[str, Any]]:
    from samuel.evaluate.audiobox import load_audiobox, score

    predictor = load_audiobox(config.audiobox_path)
    rows = []
    for kind, stem in (("real", "reference"), ("generated", "accompaniment")):
        scores = score(predictor, [_stem(track, stem) for track in tracks])
        rows += [_row(track, kind, axes) for track, axes in zip(tracks, scores, strict=True)]
    return rows


def _row(track: Entry, kind: str, scores: dict[str, float]) -> dict[str, Any]:
    # NaN is not JSON: a score that could not be measured is null.
    values = {name: None if math.isnan(value) else round(value, 4) for name, value in scores.items()}
    return {
        "pair_id": track.record["pair_id"],
        "title": track.record["title"],
        "kind": kind,
        "scores": values,
    }


def _stem(track: Entry, name: str) -> Audio:
    return read_wav(track.path(f"{name}.wav"))


def means(rows: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean of every score per kind: `{score: {kind: mean}}`, None where no track has it."""
    gathered: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for name, value in row["scores"].items():
            kinds = gathered.setdefault(name, {})
            kinds.setdefault(row["kind"], [])
            if value is not None:
                kinds[row["kind"]].append(value)
    return {
        name: {kind: sum(values) / len(values) if values else None for kind, values in kinds.items()}
        for name, kinds in gathered.items()
    }
