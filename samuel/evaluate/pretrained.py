"""Scores by networks of others: AudioBox-Aesthetics, and accompaniment prompt adherence (APA) by CLAP.

Their weights are looked through before the packages load them, and what was measured is kept by its digests.
"""

import contextlib
import io
import random
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samuel.artifacts import digest, sha256, write_json
from samuel.audio import SAMPLE_RATE, Audio
from samuel.errors import InputError, MissingPartError
from samuel.evaluate.features import load_start
from samuel.evaluate.scores import AUDIOBOX, Evaluation, Findings
from samuel.evaluate.systems import System
from samuel.hub import fetch, hub_error, quietly, read_checkpoint, require_finite, verify_blob
from samuel.reading import open_tensors, read_json

VERSION = 2

AUDIOBOX_REPOSITORY = "facebook/audiobox-aesthetics"
AUDIOBOX_FILES = ("config.json", "model.safetensors")
AUDIOBOX_REMEDY = (
    "or set evaluation.audiobox_path to its checkpoint.pt, or leave 'audiobox' out of the scorers"
)
NETWORK_RATE, WINDOW_S = 16_000, 10
BATCH_SIZE, BATCH_SIZE_ON_GPU = 1, 16  # windows: on a CPU one is fastest; on a GPU sixteen would take 3 GiB


def measure_audiobox(evaluation: Evaluation) -> Findings:
    """PQ, PC, CE and CU of every file that can be read; each file once, its scores kept."""
    path, root = evaluation.config.audiobox_path, evaluation.root / "audiobox"
    weights = audiobox_identity(path)
    systems = evaluation.lineup.systems
    files = sorted({file for system in systems for file in system.files.values() if file.is_file()})
    kept = {file: root / f"{digest('audiobox', VERSION, sha256(file), weights)}.json" for file in files}
    fresh = [file for file, place in kept.items() if not place.is_file()]
    predictor = load_audiobox(path) if fresh else None
    for file in evaluation.each(fresh):
        try:
            audio, _ = load_start(file)
        except InputError:  # the report names it where its other scores are missing
            continue
        row = score_aesthetics(predictor, audio)
        write_json(kept[file], {axis: None if isnan(value) else value for axis, value in row.items()})
    rows = {file: read_json(place) for file, place in kept.items() if place.is_file()}
    by_track = {
        axis: {s.name: {t: rows[file][axis] for t, file in s.files.items() if file in rows} for s in systems}
        for axis in AUDIOBOX
    }
    return Findings(by_track=by_track, weights={"audiobox": weights})


def load_audiobox(path: Path | None) -> Any:
    """The package's predictor by a checkpoint in its layout, or by the hub's; on a GPU where there is one.

    MissingPartError where either is absent, damaged or of another layout, or the hub is out of reach.
    """
    fetched = [] if path else [fetch(AUDIOBOX_REPOSITORY, name, AUDIOBOX_REMEDY) for name in AUDIOBOX_FILES]
    for file in fetched:
        verify_blob(file)
    if path:  # the package would ask the hub for an absent file, and trusts torch's default where it is there
        found = _read_checkpoint(_existing(path, "audiobox_path"))
        axes = found.get("target_transform") if isinstance(found, dict) else None
        if not (isinstance(axes, dict) and set(AUDIOBOX) <= axes.keys()):
            raise MissingPartError(f"{path}: not a checkpoint of audiobox_aesthetics; give its checkpoint.pt")
    with quietly():
        from audiobox_aesthetics.infer import initialize_predictor

        try:
            predictor = initialize_predictor(ckpt=str(path) if path else None)
        except Exception as error:
            refused = hub_error(error, AUDIOBOX_REPOSITORY, AUDIOBOX_REMEDY)
            raise (_unusable(path, error) if path else refused) from error
    state = predictor.model.state_dict()
    if fetched:  # which the package loads leniently: a tensor that is not there would stay random
        with open_tensors(fetched[-1].resolve()) as opened:
            absent = sorted(state.keys() - opened.keys())
        if absent:
            listed = f"lacks {len(absent)} tensors, {absent[0]} among them"
            raise MissingPartError(f"{fetched[-1]}: {listed}; fetch it again")
    require_finite(state, str(path or AUDIOBOX_REPOSITORY))
    return predictor


def audiobox_identity(path: Path | None) -> str:
    """Tell the weights that `load_audiobox` takes from others: their sha256, or the hub's revision."""
    if path:
        return sha256(_existing(path, "audiobox_path"))
    # In the cache a file is snapshots/<revision>/<name>; two revisions where it changed meanwhile.
    revisions = {fetch(AUDIOBOX_REPOSITORY, name, AUDIOBOX_REMEDY).parent.name for name in AUDIOBOX_FILES}
    return f"{AUDIOBOX_REPOSITORY}@{'+'.join(sorted(revisions))}"


def score_aesthetics(predictor: Any, audio: Audio, batch_size: int | None = None) -> dict[str, float]:
    """PQ, PC, CE and CU of (2, S) at 44.1 kHz; NaN where there is no sample.

    They are what the package gives for a whole track (to about 1e-5), which puts all windows of it into one
    batch, about 0.2 GiB each; here they pass in batches of a fixed size.
    """
    if not audio.size:
        return dict.fromkeys(AUDIOBOX, nan)
    size = batch_size or (BATCH_SIZE if predictor.device.type == "cpu" else BATCH_SIZE_ON_GPU)
    track = torch.tensor(audio)  # a copy, as it may be read-only
    (mono,) = predictor.audio_resample_mono([{"path": track, "sample_rate": SAMPLE_RATE}])
    windows = mono.split(WINDOW_S * NETWORK_RATE, dim=1)
    rows: list[Mapping[str, float]] = []
    for start in range(0, len(windows), size):
        # The package takes each window for a track, pads it and masks what it padded.
        batch = [{"path": window, "sample_rate": NETWORK_RATE} for window in windows[start : start + size]]
        with quietly():  # it calls torch's attention in a way torch warns about
            rows += predictor.forward(batch)
    lengths = [window.shape[1] for window in windows]
    return {axis: float(np.average([row[axis] for row in rows], weights=lengths)) for axis in AUDIOBOX}


def _existing(path: Path, setting: str) -> Path:
    if not path.is_file():
        wrong = "a folder" if path.is_dir() else "no such file"
        raise MissingPartError(f"{path}: {wrong}; give a checkpoint (evaluation.{setting})")
    return path


def _read_checkpoint(path: Path, *, mmap: bool = False) -> Any:
    try:
        return read_checkpoint(path, mmap=mmap)
    except Exception as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> MissingPartError:
    # torch names the tensor that does not fit in its second line
    words = f"{type(error).__name__}: {' '.join(line.strip() for line in str(error).splitlines()[:2]):.300}"
    return MissingPartError(f"{path}: not a usable checkpoint ({words}); fetch it again")


CLAP_REPOSITORY = "lukewys/laion_clap"
CLAP_CHECKPOINT = "music_audioset_epoch_15_esc_90.14.pt"  # trained on music, the package's default; 2.35 GB
INSTALL_APA = "in a checkout: uv pip install --group apa. It is under the GPL-3"
APA_REMEDY = "or leave 'apa' out of evaluation.scorers"
CLAP_RATE, CLAP_WINDOW_S, LEAST_PAIRS = 48_000, 5.0, 2

Pairs = Iterable[tuple[Audio, Audio]]  # vocals and accompaniments, (2, S) each; what one has more is cut off


def measure_apa(evaluation: Evaluation) -> Findings:
    """APA of every system but the true pairs that it is measured by: as recorded, or through the codec."""
    lineup, path = evaluation.lineup, evaluation.config.apa_path
    reference = lineup.reference()
    if reference is None:
        raise InputError("there are no true accompaniments to compare with")

    def pairs(system: System) -> Pairs:
        for track in lineup.tracks:
            if track.name in system.files:
                with contextlib.suppress(InputError):  # what cannot be read is named by the other scores
                    yield load_start(track.vocal)[0], load_start(system.files[track.name])[0]

    weights = sha256(_existing(path, "apa_path")) if path else CLAP_CHECKPOINT
    place = evaluation.root / "apa" / f"{digest('apa', VERSION, evaluation.identity, weights)}.json"
    if not place.is_file():
        candidates = {system.name: pairs(system) for system in lineup.systems if system is not reference}
        write_json(place, adherence(load_clap(path), pairs(reference), candidates))
    return Findings(by_system={"apa": read_json(place)}, weights={"apa_weights": weights})


def adherence(embedder: Any, references: Pairs, candidates: Mapping[str, Pairs], seed: int = 0) -> Any:
    """Do accompaniments belong to their vocals? APA of each set of candidates, from 0 to 1, by its name.

    By the authors' own package `audio-metrics` (Grachten and Nistal, arXiv 2503.06346). It embeds mixes of
    vocal and accompaniment in windows of 5 s by CLAP, and compares sets of them by their Fréchet distances:

        APA = ½ + (FAD(C, R') - FAD(C, R)) / (2 FAD(R, R'))

    with the mixes C of the candidates, R of true pairs, and R' of true pairs that were dealt anew, window by
    window. InputError where pairs are too few, too short or not finite. All true ones stay in memory.
    """
    state = random.getstate()
    random.seed(seed)  # the package deals by the global generator
    try:
        with quietly(), contextlib.redirect_stderr(io.StringIO()):
            # Without a GPU it wants the name of a device all the same, and compares that with the network's.
            device = embedder.get_device()
            indices = [device.index or 0] if device.type == "cuda" else [None]
            package = _import("audio_metrics")
            metrics = package.AudioMetrics(metrics=["apa"], device_indices=indices, embedder=embedder)
            metrics.add_reference(_at_48_khz(references, "true pairs"))
            found = {
                name: metrics.evaluate(_at_48_khz(pairs, name))["apa"] for name, pairs in candidates.items()
            }
    finally:
        random.setstate(state)
    if found and not metrics.apa_d_x_xp > 0:
        raise InputError("the true pairs are all alike, none can be told from strangers; give more")
    return {name: float(value) for name, value in found.items()}


def load_clap(path: Path | None) -> Any:
    """CLAP as the package loads it, by a checkpoint in laion-clap's layout, or by the default one of the hub.

    laion-clap unpickles its checkpoint with no restriction, so that is looked through first. It asks the hub
    for three tokenizers too. MissingPartError where package or checkpoint are not there or not usable.
    """
    _import("audio_metrics")
    remedy = f"or set evaluation.apa_path to a copy of it, {APA_REMEDY}"
    path = _existing(path, "apa_path") if path else fetch(CLAP_REPOSITORY, CLAP_CHECKPOINT, remedy)
    found = _read_checkpoint(path, mmap=True)
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise MissingPartError(f"{path}: not a checkpoint of laion-clap (needs a state_dict of tensors)")
    require_finite(state, str(path))
    with quietly(), contextlib.redirect_stderr(io.StringIO()):
        laion_clap = _import("laion_clap")
        try:
            clap = laion_clap.CLAP_Module(enable_fusion=False, amodel="HTSAT-base")
        except OSError as error:
            tokenizers = "roberta-base, bert-base-uncased and facebook/bart-base"
            raise hub_error(error, tokenizers, APA_REMEDY) from error
        try:
            clap.load_ckpt(str(path), verbose=False)
        except (RuntimeError, KeyError) as error:
            raise _unusable(path, error) from error
    # Its own constructor would look for the file in another cache, by its name alone, or fetch it unchecked.
    official = import_module("audio_metrics.embedders").LaionCLAP
    embedder = official.__new__(official)
    embedder.clap, embedder.layer = clap, None
    return embedder


def _at_48_khz(pairs: Pairs, what: str) -> Iterator[NDArray[np.float32]]:
    """Pairs as the package wants them, mono, (S, 2) at 48 kHz; an error behind the last if they are too few.

    Here and not in the package, which resamples in threads and so changes the order.
    """
    import soxr

    count = windows = 0
    for vocal, accompaniment in pairs:
        samples = min(vocal.shape[-1], accompaniment.shape[-1])
        both = np.stack([audio[:, :samples].mean(axis=0) for audio in (vocal, accompaniment)], axis=1)
        if not np.isfinite(both).all():  # which would end the whole process inside LAPACK
            raise InputError("a vocal or accompaniment holds NaN or infinite numbers")
        resampled = soxr.resample(both.astype(np.float32), SAMPLE_RATE, CLAP_RATE)
        count, windows = count + 1, windows + len(resampled) // round(CLAP_WINDOW_S * CLAP_RATE)
        yield resampled
    if min(count, windows) < LEAST_PAIRS:
        held = f"{what}: {count} pairs with {windows} windows of {CLAP_WINDOW_S:g} s in all"
        raise InputError(f"{held}: adherence is measured between sets, give at least {LEAST_PAIRS} of both")


def _import(name: str) -> Any:
    try:
        with quietly():
            return import_module(name)
    except ImportError as error:
        package = name.replace("_", "-")
        raise MissingPartError(f"the package {package} is not usable ({error}); {INSTALL_APA}") from error
