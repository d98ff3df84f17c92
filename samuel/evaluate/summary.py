"""Everything that is measured of a lineup: `scores.parquet`, a row for each number, and `summary.json`.

A row's `against` tells whether its score was measured with the track's own vocal or others'. `summary.json`:

    version, tracks, systems    how many tracks have a readable vocal; names, the true accompaniments first
    scores                      {score: {system: {n, mean, low, high}}}, `Interval` of the mean over tracks
    following                   {score: {system: `Pairing.summary`}} of scores that need a vocal
    distribution                what the `Space` found: frechet, floor, nearest, diversity, ...
    apa, efficiency             {system: value}, and so on for every score of whole systems
    not_measured                {`Score.part` or "other vocals": reason}
    problems                    [{system, track, message}]
    vocals                      {track: digest of its vocal}, by which tracks of other runs are known
    codec, dataset, model, audiobox, apa_weights    what it was measured by, where there is any
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from math import isnan
from pathlib import Path
from pkgutil import resolve_name
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from samuel.artifacts import Artifact, digest, find_artifact, make_artifact, sha256, write_json
from samuel.concurrency import side_by_side
from samuel.config import EvaluationConfig
from samuel.errors import InputError
from samuel.evaluate.features import Features, Sound, analyse, common_part
from samuel.evaluate.scores import (
    NOT_MEASURED,
    REGISTRY,
    Each,
    Evaluation,
    Findings,
    follow,
    scores_that_need,
)
from samuel.evaluate.statistics import Pairing, mean_interval
from samuel.evaluate.systems import CEILING, NOT_SCORED, REAL, VOCALS, Lineup, Problem, Track
from samuel.popdb.tables import table_bytes

if TYPE_CHECKING:
    from samuel.codecs.base import Codec
    from samuel.evaluate.distribution import Space

VERSION = 3
SCORES, SUMMARY = "scores.parquet", "summary.json"
OWN, OTHERS = "own vocal", "other vocals"
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("system", "track", "title", "against", "score")]
    + [("value", pa.float64())]
)
WORKERS = 2  # most of the work is NumPy's and librosa's, which leave the interpreter to others
SLACK_S = 0.1
BLOCK = 32  # tracks compared with each other's vocals: so the work grows with them, not with their square
LIKE_LENGTH = 0.8  # of the median: what is shorter is not compared with other songs' vocals
NOT_CHOSEN = "it was not chosen (evaluation.scorers)"
TOO_SHORT = "much shorter than the others: not compared with other songs' vocals"

ByTrack = Mapping[str, Features]
Analysis = tuple[dict[str, Features], dict[str, dict[str, Sound]], list[Problem]]  # vocals, systems, faults


def score_lineup(
    lineup: Lineup, config: EvaluationConfig, root: Path, space: "Space",
    costs: Mapping[str, Any] | None = None, each: Each = iter,
) -> Artifact:  # fmt: skip
    """Score every system, or find the scores in `root`: `scores.parquet` and `summary.json`.

    What cannot be measured is named with its reason. `costs` are rows of `efficiency`, measured.
    """
    made = {path for system in lineup.systems for path in system.files.values()}
    digests = {path: sha256(path) for path in made | {t.vocal for t in lineup.tracks} if path.is_file()}
    named = [(track.name, track.title, digests.get(track.vocal)) for track in lineup.tracks]
    systems = [
        (s.name, [(n, digests.get(path)) for n, path in sorted(s.files.items())]) for s in lineup.systems
    ]
    identity = [named, systems, [asdict(problem) for problem in lineup.problems]]
    evaluation = Evaluation(lineup, identity, config, root, costs or {}, each)
    findings, missing = measure_sets("lineup", config.scorers, evaluation)
    made_of = [list(REGISTRY), asdict(findings), missing]
    folder = root / digest("scores", VERSION, identity, space.identity, made_of)

    def make(target: Path) -> dict[str, Any]:
        vocals, sounds, problems = analyse_lineup(lineup, space.codec, each)
        rows, means, following = measure_tracks(lineup, (vocals, sounds, problems), findings)
        latents = space.latents({
            system: {track: s.latents for track, s in by_track.items() if s.latents is not None}
            for system, by_track in sounds.items()
        })  # fmt: skip
        compared, missing_latents = measure_sets("latents", config.scorers, space, latents)
        lacking: dict[str, str] = {}
        if len(vocals) < 2:
            lacking["other vocals"] = "a single track has no other song's vocal"
        if lineup.reference() is None:
            reason = "there are no true accompaniments to compare with (--references)"
            lacking |= {score.part: reason for score in scores_that_need("reference")}
        summary = {
            "version": VERSION, "tracks": len(vocals), "systems": list(sounds), "scores": means,
            "following": following, "distribution": compared.by_system,
            "not_measured": missing | lacking | missing_latents,
            "problems": [asdict(problem) for problem in problems],
            "vocals": {t.name: digests[t.vocal] for t in lineup.tracks if t.vocal in digests},
            **findings.by_system, **findings.weights, **space.described,
        }  # fmt: skip
        (target / SCORES).write_bytes(table_bytes(rows, SCHEMA))
        write_json(target / SUMMARY, summary)
        return {"tracks": summary["tracks"], "systems": summary["systems"]}

    return find_artifact(folder) or make_artifact(folder, make)


def measure_sets(needs: str, chosen: Collection[str], *given: Any) -> tuple[Findings, dict[str, str]]:
    """Measure the scores of whole sets that need `given`, and tell by `Score.part` why others were not."""
    by_track, by_system, weights, missing = {}, {}, {}, {}
    for measure, score in {score.measure: score for score in scores_that_need(needs)}.items():
        try:
            if score.scorer and score.scorer not in chosen:
                raise InputError(NOT_CHOSEN)
            found: Findings = (resolve_name(measure) if isinstance(measure, str) else measure)(*given)
        except NOT_MEASURED as error:
            missing[score.part] = str(error)
        else:
            by_track |= found.by_track
            by_system |= found.by_system
            weights |= found.weights
    return Findings(by_track, by_system, weights), missing


def analyse_lineup(lineup: Lineup, codec: "Codec | None", each: Each = iter) -> Analysis:
    """Measure every file once, several tracks at a time; without its vocal a track is left out."""
    vocals, problems = dict[str, Features](), list(lineup.problems)
    sounds: dict[str, dict[str, Sound]] = {system.name: {} for system in lineup.systems}
    tracks = list(lineup.tracks)
    done = dict(each(side_by_side(lambda track: _analyse_track(track, lineup, codec), tracks, WORKERS)))
    for place, track in enumerate(tracks):
        found, faults = done[place]
        problems += faults
        if VOCALS in found:
            vocals[track.name] = found.pop(VOCALS).features
            for name, sound in found.items():
                sounds[name][track.name] = sound
    for name, of_system in sounds.items():
        if mono := sum(sound.mono for sound in of_system.values()):
            message = f"mono: both channels are the same in {mono} of {len(of_system)} tracks"
            problems.append(Problem(name, "", message))
    return vocals, sounds, problems


def _analyse_track(
    track: Track, lineup: Lineup, codec: "Codec | None"
) -> tuple[dict[str, Sound], list[Problem]]:
    """Measure the vocal and every system's accompaniment of a track; nothing without a readable vocal."""
    files = {s.name: s.files[track.name] for s in lineup.systems if track.name in s.files}
    alone = {score.name: score.measure for score in scores_that_need("audio")}
    sounds, problems = dict[str, Sound](), list[Problem]()
    for name, path in {VOCALS: track.vocal, **files}.items():
        try:
            sounds[name] = analyse(path, *(({}, None) if name == VOCALS else (alone, codec)))
        except InputError as error:
            problems.append(Problem(name, track.name, f"{error}: {NOT_SCORED}"))
            if name == VOCALS:
                return {}, problems
    vocal_s = sounds[VOCALS].features.duration_s
    reference = next((sounds[name] for name in (REAL, CEILING) if name in sounds), None)
    compared = {}
    for name, sound in sounds.items():
        problems += [Problem(name, track.name, remark) for remark in sound.remarks]
        own_s = sound.features.duration_s
        if abs(own_s - vocal_s) > SLACK_S:
            common = f"compared over the first {min(own_s, vocal_s):.1f} s"
            problems.append(Problem(name, track.name, f"{own_s:.1f} s, its vocal {vocal_s:.1f} s: {common}"))
        values = dict(sound.values)
        if reference and name != VOCALS and sound is not reference:
            values |= {score.name: score.measure(reference, sound) for score in scores_that_need("reference")}
        compared[name] = replace(sound, values=values, log_mel=sound.log_mel[:, :0].copy())
    return compared, problems


def measure_tracks(
    lineup: Lineup, analysis: Analysis, findings: Findings
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Rows of `scores.parquet`, NaN as null, and `scores`, of own vocals, and `following` of a summary."""
    rows, means, following = list[dict[str, Any]](), dict[str, Any](), dict[str, Any]()
    vocals, by_system, problems = analysis
    for system, sounds in by_system.items():
        paired = pairings(vocals, {track: sound.features for track, sound in sounds.items()})
        compared = {name for pairing in paired.values() for block in pairing.tracks for name in block}
        problems.extend(Problem(system, name, TOO_SHORT) for name in sounds if name not in compared)
        columns: dict[tuple[str, str | None], Mapping[str, float | None]] = {}  # by score, and against what
        for score in REGISTRY:
            if pairing := paired.get(score):
                columns[score, OWN], columns[score, OTHERS] = pairing.own, pairing.others()
                following.setdefault(score, {})[system] = pairing.summary()
            own: dict[str, Any] = {t: s.values[score] for t, s in sounds.items() if score in s.values}
            found = findings.by_track.get(score, {}).get(system, {})
            if own := own | {track: v for track, v in found.items() if track in vocals}:
                columns[score, None] = own
        for (score, against), values in columns.items():
            if against != OTHERS:
                means.setdefault(score, {})[system] = mean_interval(
                    np.array(list(values.values()), dtype=np.float64)
                )
        for track in lineup.tracks:
            for (score, against), values in columns.items():
                if track.name in values:
                    value = values[track.name]
                    value = None if value is None or isnan(value) else float(value)
                    cells = (system, track.name, track.title, against, score, value)
                    rows.append(dict(zip(SCHEMA.names, cells, strict=True)))
    return rows, means, following


def pairings(vocals: ByTrack, accompaniments: ByTrack) -> dict[str, Pairing]:
    """Measure every score that needs a vocal, of one system; both are given by track.

    Tracks are compared with each other's vocals over the length of the shortest: over lengths of their own, a
    pair would be told by its length. So those that are much shorter than the others are left out.
    """
    own = {name: follow(vocals[name], made) for name, made in accompaniments.items() if name in vocals}
    if not own:
        return {}
    blocks, tables = comparable_blocks(vocals, accompaniments), []
    for names in blocks:
        every = common_part(*(vocals[name] for name in names), *(accompaniments[name] for name in names))
        sung, played = every[: len(names)], every[len(names) :]
        tables.append([[follow(vocal, made) for vocal in sung] for made in played])
    return {
        score.name: Pairing(
            {name: values[score.name] for name, values in own.items()},
            blocks,
            [np.array([[cell[score.name] for cell in row] for row in table]) for table in tables],
        )
        for score in scores_that_need("vocal")
    }


def comparable_blocks(vocals: ByTrack, accompaniments: ByTrack) -> list[list[str]]:
    """Tracks that a system has, in blocks of about one size, without those much shorter than the median."""
    blocks = []
    for part in np.array_split(list(vocals), -(-len(vocals) // BLOCK)) if vocals else []:
        names = [str(name) for name in part if name in accompaniments]
        both_s = {name: min(vocals[name].duration_s, accompaniments[name].duration_s) for name in names}
        if names:
            least_s = LIKE_LENGTH * median(both_s.values())
            blocks.append([name for name in names if both_s[name] >= least_s])
    return blocks
