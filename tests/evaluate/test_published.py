"""Training, tracks and report on a dataset that was imported from published arrays."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from samuel.artifacts import Artifact
from samuel.audio import read_wav
from samuel.checkpoint import load_model
from samuel.codecs import load_codec
from samuel.codecs.base import Codec
from samuel.config import EvaluationConfig, Settings
from samuel.errors import CheckpointError, SettingsError
from samuel.evaluate.distribution import DatasetSpace
from samuel.evaluate.summary import score_lineup
from samuel.evaluate.tracks import (
    choose_pairs,
    lineup_of,
    make_track,
    require_codec,
)
from samuel.generate import accompany
from samuel.popdb.dataset import Popdb
from samuel.popdb.published import import_published
from samuel.report.report import write_report
from samuel.train import fit, run_folder
from tests.popdb.latents import small_settings
from tests.popdb.published_arrays import FRAMES, GAP, write_published
from tests.weights import write_stable_audio

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("run")
    write_stable_audio(root / "vae")
    return small_settings(root, codec={"name": "stable-audio-open", "path": str(root / "vae")})


@pytest.fixture(scope="module")
def popdb(settings: Settings) -> Popdb:
    files = write_published(settings.data / "published", GAP + 40)
    return import_published(*files, settings.popdb_path)


@pytest.fixture(scope="module")
def codec(settings: Settings) -> Codec:
    return load_codec(settings.codec, CPU)


@pytest.fixture(scope="module")
def model(popdb: Popdb, settings: Settings) -> Artifact:
    return fit(popdb, settings, run_folder(popdb, settings), lambda _: None)


def tracks_of(popdb: Popdb, settings: Settings, codec: Codec, model: Artifact) -> list[Artifact]:
    return [
        make_track(
            pair, popdb, lambda: (load_model(model.folder, CPU), codec), model.sha256["model.safetensors"],
            settings.sampling, settings.artifacts / "samples",
        )
        for pair in choose_pairs(popdb, 2)
    ]  # fmt: skip


def test_from_the_arrays_to_the_report(
    popdb: Popdb, settings: Settings, codec: Codec, model: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    require_codec(popdb, settings.codec)
    tracks = tracks_of(popdb, settings, codec, model)
    assert "by weights unknown" in caplog.text
    for track, pair in zip(tracks, choose_pairs(popdb, 2), strict=True):
        assert pair["split"] == "validation"
        wanted = codec.decode(popdb.read([pair])[0].float())[0].numpy()
        assert read_wav(track.path("vocal.wav")) == pytest.approx(np.clip(wanted, -1, 1), abs=1e-6)
    space, root = DatasetSpace(popdb, tracks), settings.artifacts / "scores"
    scores = score_lineup(lineup_of(tracks), EvaluationConfig(), root, space)
    report = write_report(popdb, model, tracks, scores, settings.artifacts / "reports")
    text = report.path("report.md").read_text()
    assert "Vocal share: not measured." in text
    assert "published without their songs" in text
    assert "split by song" not in text
    assert "### Published pair " in text
    assert not re.search(r", from \d+\.\d s", text)  # where in its song a pair begins is not known
    assert "vocal-share.png" not in report.sha256


def test_another_codec_is_refused(popdb: Popdb, settings: Settings, model: Artifact, tmp_path: Path) -> None:
    mel = load_codec(Settings().codec, CPU)
    with pytest.raises(SettingsError, match="stable-audio-open"):
        require_codec(popdb, Settings().codec)
    with pytest.raises(CheckpointError, match="the codec is 'mel/1"):
        tracks_of(popdb, settings.model_copy(update={"artifacts": tmp_path}), mel, model)


def test_a_model_of_published_latents_accompanies_by_that_codec(
    settings: Settings, codec: Codec, model: Artifact
) -> None:
    vocal = np.zeros((2, FRAMES * 2048), np.float32)
    vocal[:, ::100] = 0.5
    trained = load_model(model.folder, CPU)
    assert trained.codec == "stable-audio-open/published"
    assert accompany(vocal, trained, codec, settings.sampling).shape == vocal.shape
    with pytest.raises(CheckpointError, match="the model learned latents"):
        accompany(vocal, trained, load_codec(Settings().codec, CPU), settings.sampling)
