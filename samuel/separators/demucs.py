"""Demucs, in batches of segments (paper §III-C).

The same result as demucs' own `apply_model(shifts=0, overlap=0.25)`, song by song: without the random shift a
song gives the same stems every time. Legend: S samples at 44.1 kHz, L samples of a segment, C = 2 channels.
"""

import re
import threading
from collections.abc import Callable
from fractions import Fraction
from importlib import import_module
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from samuel.artifacts import digest
from samuel.audio import CHANNELS, SAMPLE_RATE, Audio
from samuel.config import Precision, SeparatorConfig
from samuel.device import Batcher
from samuel.errors import MissingPartError, OperatorError
from samuel.hub import fetch, quietly, read_checkpoint, require_finite, verify_blob, weights_sha256
from samuel.reading import open_tensors, read_bounded

OVERLAP = 0.25  # of a segment with the next; demucs' default
SHORTEST_SEGMENT_S = 0.1
MAX_BATCH = 32  # segments: about four minutes of song
SOURCE = "vocals"
NETWORKS = ("demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs", "demucs.demucs.Demucs")
MAX_LISTING_BYTES, MAX_MODELS = 2**16, 16  # of a bag
REMEDY = "or set separator.repo to a folder with its weights, or separator.name to 'repet'"


class DemucsSeparator:
    """One model of demucs, or of a bag those that have a say in the vocals."""

    def __init__(
        self, model: Any, name: str, device: torch.device, *,
        precision: Precision = "fp32", batch: int | None = None, turn: "threading.Lock | None" = None,
    ) -> None:  # fmt: skip
        """Move the networks to `device`; `batch` is of segments, by default as many as the GPU holds."""
        singers = _singers(model)
        members = [
            (type(one).__name__, getattr(one, "_init_args_kwargs", None), str(one.segment), weight)
            for one, weight in singers
        ]
        weights = digest(weights_sha256(model.state_dict())[:20], members)
        rounded = "" if precision == "fp32" else f" {precision}"
        kind = f"demucs/{version('demucs')} {name} shifts=0 overlap={OVERLAP}{rounded}"
        self.identity = f"{kind} weights={weights}"
        # Each network, what its vocals count in the mean over the bag, and what applies it.
        self._members: list[tuple[Any, float, Batcher]] = []
        for network, weight in singers:
            network.to(device).eval().requires_grad_(False)
            # Only the vocals leave the GPU; and a copy, or on a CPU they would keep the other sources alive.
            batcher = Batcher(
                lambda segments, network=network: network(segments)[:, network.sources.index(SOURCE)].clone(),
                device, precision=precision, size=batch, most=MAX_BATCH, turn=turn,
            )  # fmt: skip
            self._members.append((network, weight, batcher))

    def vocals(self, mix: Audio) -> Audio:
        """(2, S) → vocals (2, S); normalised by the song's mean and deviation, as demucs does."""
        wave = torch.from_numpy(mix)
        middle = wave.mean(0)
        mean, deviation = middle.mean(), middle.std() + 1e-8
        normal = (wave - mean) / deviation
        total = sum(weight * _apply(network, batcher, normal) for network, weight, batcher in self._members)
        total = total / sum(weight for _, weight, _ in self._members)
        return np.ascontiguousarray((total * deviation + mean).numpy(), dtype=np.float32)

    def cancel(self) -> None:
        """End what other threads wait for, each with a StoppedError."""
        for _, _, batcher in self._members:
            batcher.cancel()


def _singers(model: Any) -> list[tuple[Any, float]]:
    """The networks that have a say in the vocals, with their weights."""
    if not hasattr(model, "models"):
        return [(model, 1.0)]
    place = model.sources.index(SOURCE)
    weighted = zip(model.models, model.weights, strict=True)
    return [(network, float(weights[place])) for network, weights in weighted if weights[place] > 0]


def _apply(network: Any, batcher: Batcher, wave: Tensor) -> Tensor:
    """(C, S) → vocals (C, S): segments weighted by a triangle, 1 in the middle, and overlapped."""
    from demucs.apply import TensorChunk
    from demucs.utils import center_trim

    samples, length = wave.shape[-1], int(network.samplerate * network.segment)
    starts = range(0, samples, int((1 - OVERLAP) * length))
    segments = [TensorChunk(wave, start, length) for start in starts]
    valid = getattr(network, "valid_length", lambda samples: samples)
    # A segment at the end has the song before it for context.
    sung = batcher([segment.padded(valid(segment.length)) for segment in segments])
    triangle = torch.cat([torch.arange(1, length // 2 + 1), torch.arange(length - length // 2, 0, -1)])
    triangle = triangle / triangle.max()
    total, weights = torch.zeros_like(wave), torch.zeros(samples)
    for start, segment, piece in zip(starts, segments, sung, strict=True):
        weight = triangle[: segment.length]
        total[:, start : start + length] += weight * center_trim(piece, segment.length)
        weights[start : start + length] += weight
    return total / weights


def load(
    config: SeparatorConfig, device: torch.device, turn: "threading.Lock | None" = None
) -> DemucsSeparator:
    """The model that the settings name, from a local repository or the hub; else a MissingPartError."""
    name, repo = config.model, config.repo
    if repo is not None and not repo.is_dir():
        raise MissingPartError(f"{repo}: no such folder; separator.repo must hold demucs weights")
    try:
        with quietly():
            model: Any = _from_hub(name) if repo is None else _from_folder(name, repo)
    except (MissingPartError, OperatorError):
        raise
    except (Exception, SystemExit) as error:  # demucs exits where the package diffq is missing
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.200}"
        where = repo or "the hub's cache"
        raise MissingPartError(f"{where}: demucs cannot load {name!r} ({reason}); fetch it again") from error
    if SOURCE not in model.sources or (model.samplerate, model.audio_channels) != (SAMPLE_RATE, CHANNELS):
        raise MissingPartError(f"demucs {name}: no 44.1 kHz stereo model with a source named {SOURCE!r}")
    singers = _singers(model)
    shortest_s = min((float(network.segment) for network, _ in singers), default=0.0)
    if shortest_s < SHORTEST_SEGMENT_S or not isfinite(sum(weight for _, weight in singers)):
        raise MissingPartError(f"demucs {name}: a bag that makes no vocals; fetch its list of models again")
    require_finite(model.state_dict(), f"demucs {name}")
    return DemucsSeparator(model, name, device, precision=config.precision, batch=config.batch, turn=turn)


def hub_repository(model: str) -> tuple[str, str]:
    """Where demucs looks for a model on the hub: the repository, and the file that lists its networks."""
    from demucs.hf import DEFAULT_NAMESPACE, hf_repo_name

    namespace, _, name = model.removeprefix("hf://").rpartition("/")
    return f"{namespace or DEFAULT_NAMESPACE}/{hf_repo_name(name)}", f"{name}.yaml"


def _from_hub(model: str) -> Any:
    """What demucs would make of the hub's files, once they are seen to be whole and to name no other code."""
    from demucs.hf import load_safetensors_model

    repository, listing = hub_repository(model)

    def load_network(signature: str) -> Any:
        verify_blob(path := fetch(repository, f"{signature}.safetensors", REMEDY))
        # Demucs calls whatever class a file names; a stranger's could name anything.
        with open_tensors(path.resolve()) as opened:
            metadata = opened.metadata() or {}
        if (kind := metadata.get("klass")) not in NETWORKS or "structure" in metadata:
            known = f"one of {', '.join(NETWORKS)} without quantisation"
            raise MissingPartError(f"{path}: not loaded: its network is {kind!r:.80}, and not {known}")
        return load_safetensors_model(path)

    return _read_bag(fetch(repository, listing, REMEDY), load_network).eval()


def _from_folder(name: str, repo: Path) -> Any:
    """What demucs, which unpickles, would make of a folder's files, if they lie in it and hold no code."""
    from demucs.repo import check_checksum
    from demucs.states import load_model

    kinds = [getattr(import_module(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in NETWORKS]

    def load_network(signature: str) -> Any:
        [path] = [file for file in repo.glob("*.th") if file.stem.partition("-")[0] == signature]
        if not path.is_file() or not path.resolve().is_relative_to(repo.resolve()):
            raise MissingPartError(f"{path}: leads out of its folder, or is no file; put the weights there")
        if digest := path.stem.partition("-")[2]:
            check_checksum(path, digest)
        return load_model(read_checkpoint(path, [*kinds, Fraction]))  # the length of a segment

    listing = repo / f"{name}.yaml"
    return _read_bag(listing, load_network) if listing.is_file() else load_network(name)


def _read_bag(listing: Path, load_network: Callable[[str], Any]) -> Any:
    """The networks of a list, of which none is a path."""
    from demucs.apply import BagOfModels

    bag: Any = yaml.safe_load(read_bounded(listing.resolve(), MAX_LISTING_BYTES))
    sound = (isinstance(name, str) and re.fullmatch(r"\w{1,64}", name) for name in bag["models"])
    if len(bag["models"]) > MAX_MODELS or not all(sound):
        raise MissingPartError(f"{listing}: no list of models; fetch it again, {REMEDY}")
    networks = [load_network(name) for name in bag["models"]]
    return BagOfModels(networks, bag.get("weights"), bag.get("segment"))
