"""Training, tracks and report on a dataset that was imported from published arrays."""

import re
from pathlib import Path
from typing import Any

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
from samuel.evaluate.distribution import Space
from samuel.evaluate.summary import score_lineup
from samuel.evaluate.tracks import choose_pairs, lineup_of, make_track, require_codec
from samuel.generate import accompany
from samuel.popdb.exchange import import_published
from samuel.report.report import write_report
from samuel.train import fit, run_folder
from tests.popdb.latents import small_settings
from tests.popdb.published_arrays import FRAMES, GAP, write_published
from tests.weights import write_stable_audio

CPU = torch.device("cpu")


def test_from_published_arrays_to_the_report_by_their_codec_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_stable_audio(tmp_path / "vae")
    settings = small_settings(tmp_path, codec={"name": "stable-audio-open", "path": str(tmp_path / "vae")})
    popdb = import_published(*write_published(tmp_path / "published", GAP + 40), settings.popdb_path)
    codec, mel = load_codec(settings.codec, CPU), load_codec(Settings().codec, CPU)
    require_codec(popdb, settings.codec)
    with pytest.raises(SettingsError, match="stable-audio-open"):
        require_codec(popdb, Settings().codec)
    model = fit(popdb, settings, run_folder(popdb, settings), lambda _: None)
    trained = load_model(model.folder, CPU)

    def track(pair: dict[str, Any], by: Codec, root: Path) -> Artifact:
        return make_track(pair, popdb, lambda: (trained, by), "digest", settings.sampling, root)

    pairs = choose_pairs(popdb, 2)
    tracks = [track(pair, codec, tmp_path / "samples") for pair in pairs]
    assert "by weights unknown" in caplog.text
    assert {pair["split"] for pair in pairs} == {"validation"}
    wanted = codec.decode(popdb.read(pairs[:1])[0].float())[0].numpy()
    assert read_wav(tracks[0].path("vocal.wav")) == pytest.approx(np.clip(wanted, -1, 1), abs=1e-6)
    scores = score_lineup(
        lineup_of(tracks), EvaluationConfig(), tmp_path, Space(popdb.codec, None, popdb, tracks)
    )
    report = write_report(popdb, model, tracks, scores, tmp_path / "reports")
    text = report.path("report.md").read_text()
    for words in ("Vocal share: not measured.", "published without their songs", "### Published pair "):
        assert words in text
    assert "split by song" not in text
    assert not re.search(r", from \d+\.\d s", text)  # where in its song a pair begins is not known
    assert "vocal-share.png" not in report.sha256
    vocal = np.zeros((2, FRAMES * 2048), np.float32)
    vocal[:, ::100] = 0.5
    assert accompany(vocal, trained, codec, settings.sampling).shape == vocal.shape
    with pytest.raises(CheckpointError, match="the codec is mel/1"):
        track(pairs[0], mel, tmp_path / "other")
    with pytest.raises(CheckpointError, match="the model learned latents"):
        accompany(vocal, trained, mel, settings.sampling)
