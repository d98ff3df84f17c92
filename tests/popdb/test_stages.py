"""Audio to stems to paired latents: what is written, which songs are refused, what is made again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from samuel.artifacts import find_artifact
from samuel.audio import SAMPLE_RATE, write_wav
from samuel.codecs import load_codec
from samuel.config import CodecConfig
from samuel.errors import MissingPartError
from samuel.popdb import stages
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.stages import encode_true_stems, read_stems, write_stems
from samuel.popdb.status import Outcome
from samuel.synthetic.song import compose
from tests.popdb.latents import small_settings
from tests.popdb.noise import Share, run, songs_of
from tests.weights import write_stable_audio

STEP = 2.0**-23
MEL = load_codec(CodecConfig(), torch.device("cpu"))


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> Share:
    separator = Share()
    monkeypatch.setattr(Parts, "separator", separator)
    return separator


@pytest.mark.parametrize(
    ("mix_level", "vocal_level", "scale"), [(0.5, 0.4, 1.0), (1.4, 1.3, 0.25), (0, 0, 1.0)]
)
def test_a_pair_sums_exactly(tmp_path: Path, mix_level: float, vocal_level: float, scale: float) -> None:
    mix, vocals = (np.random.default_rng(seed).uniform(-1, 1, (2, 44_100)).astype("f4") for seed in (0, 1))
    mix, vocals = mix * np.float32(mix_level), vocals * np.float32(vocal_level)
    mix[0, :2] = mix_level, -mix_level
    vocals[0, :2] = -vocal_level, vocal_level
    assert write_stems(mix, vocals, tmp_path) == scale
    written = [(tmp_path / name).read_bytes() for name in ("vocals.flac", "accompaniment.flac")]
    read, rest = read_stems(tmp_path, scale)
    grid = np.rint(mix.astype(np.float64) * scale / STEP) * STEP / scale
    assert np.array_equal((read + rest).astype(np.float64), grid)
    assert np.array_equal(read.astype(np.float64) + rest.astype(np.float64), grid)
    assert np.abs(read - vocals).max() <= STEP / scale
    assert read.dtype == rest.dtype == np.float32
    assert soundfile.info(tmp_path / "vocals.flac").subtype == "PCM_24"
    write_stems(mix, vocals, tmp_path)
    assert written == [(tmp_path / name).read_bytes() for name in ("vocals.flac", "accompaniment.flac")]


def test_a_change_makes_latents_anew(tmp_path: Path, half: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, songs = small_settings(tmp_path), songs_of(tmp_path, 1)

    def made(**changes: Any) -> list[Outcome]:
        for name, value in changes.items():
            monkeypatch.setattr(half, name, value)
        return [outcome for outcome in run(songs, settings) if outcome.did_work]

    assert made()
    assert not made()
    assert made(identity="share/2")
    for stage in stages.VERSIONS:
        monkeypatch.setitem(stages.VERSIONS, stage, 99)
        assert made()
    codec = load_codec(CodecConfig(), torch.device("cpu"))
    monkeypatch.setattr(codec, "info", codec.info.model_copy(update={"version": "0"}))
    monkeypatch.setattr(Parts, "codec", codec)
    [again] = made()
    assert (again.record["codec"], again.record["separator"]) == (codec.info.model_dump(), "share/2")
    assert len(list((tmp_path / "data" / "stems").glob("*/entry.json"))) == 3
    assert len(list((tmp_path / "data" / "latents").glob("*/entry.json"))) == 5


def files(root: Path, suffix: str) -> int:
    return len(list((root / "data").rglob(f"*{suffix}")))


def keeping(audio: str, stems: str) -> Any:
    return {"audio": audio, "stems": stems}


@pytest.mark.parametrize(("audio", "stems"), [("keep", "keep"), ("remove", "remove")])
def test_what_is_removed_is_not_made_again(tmp_path: Path, half: Share, audio: str, stems: str) -> None:
    songs, settings = songs_of(tmp_path), small_settings(tmp_path, retention=keeping(audio, stems))
    first, second = run(songs, settings), run(songs, settings)
    assert all(outcome.ok and outcome.did_work for outcome in first)
    assert all(outcome.ok and not outcome.did_work for outcome in second)
    assert [o.artifact and o.artifact.sha256 for o in first] == [
        o.artifact and o.artifact.sha256 for o in second
    ]
    assert [o.record for o in first] == [o.record for o in second]
    assert half.songs == 3
    assert files(tmp_path, "audio.wav") == (3 if audio == "keep" else 0)
    assert files(tmp_path, ".flac") == (6 if stems == "keep" else 0)
    assert first[1].artifact
    first[1].artifact.path("latents.safetensors").unlink()  # made again, from the start where need be
    again = run(songs, settings)
    assert [outcome.did_work for outcome in again] == [False, True, False]
    assert again[1].artifact
    assert again[1].artifact.sha256 == first[1].artifact.sha256
    assert half.songs == (3 if stems == "keep" else 4)
    assert files(tmp_path, "audio.wav") == (3 if audio == "keep" else 0)


def low_notes(root: Path) -> Song:
    """Four seconds below 200 Hz, alike on both sides, which faithful small weights give back."""
    time_s = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    notes = sum(0.2 * np.sin(2 * np.pi * hz * time_s + phase) for hz, phase in ((55, 0), (110, 1), (165, 2)))
    write_wav(root / "low.wav", np.stack([notes, notes]).astype(np.float32))
    return Song("low", "low notes", url=(root / "low.wav").as_uri())


def test_weights_that_reconstruct_noise_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_settings(tmp_path, codec={"name": "stable-audio-open", "path": str(tmp_path / "vae")})
    write_stable_audio(tmp_path / "vae")
    downloaded = acquire_songs([low_notes(tmp_path)], Parts(settings))
    with pytest.raises(MissingPartError, match=r"does not give back the audio .* codec\.path"):
        stages.separate_songs(downloaded, Parts(settings))
    assert not list((tmp_path / "data" / "stems").rglob("*.flac"))
    write_stable_audio(tmp_path / "vae", faithful=True)
    parts = Parts(settings)
    [encoded] = stages.encode_songs(stages.separate_songs(downloaded, parts), parts)
    proof = find_artifact(stages.round_trip_folder(parts))
    assert proof
    assert proof.record["si_sdr_db"] > 20
    assert encoded.artifact
    encoded.artifact.path("latents.safetensors").unlink()
    monkeypatch.setattr(stages, "require_faithful", None)  # proved once
    assert run([low_notes(tmp_path)], settings)[0].did_work


def test_a_pair_is_the_encoded_true_stems(tmp_path: Path) -> None:
    parts = Parts(small_settings(tmp_path, popdb={"chunk_frames": 512}, songs={"seed": 5}))
    told: list[Outcome] = []
    [outcome] = encode_true_stems(parts, 1, told.append)
    assert (told, outcome.did_work) == ([outcome], True)
    [again] = encode_true_stems(parts, 1, told.append)
    assert (again.song, again.record, again.did_work) == (outcome.song, outcome.record, False)
    song = compose(5, 0)
    assert (outcome.song.title, outcome.record["separator"]) == (song.title, "true-stems/1")
    assert outcome.artifact
    latents = load_file(outcome.artifact.path("latents.safetensors"))
    for name, stem in (("vocal", song.vocals), ("accompaniment", song.accompaniment)):
        whole = MEL.encode(torch.from_numpy(stem)[None])[0]
        assert len(latents[name]) == whole.shape[-1] // 512
        stored = torch.cat(list(latents[name]), dim=1).float()
        torch.testing.assert_close(stored, whole[:, : stored.shape[1]], atol=5e-3, rtol=1e-3)
