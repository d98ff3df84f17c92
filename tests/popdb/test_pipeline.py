import dataclasses
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from samuel.artifacts import find_artifact, release
from samuel.audio import Audio, write_wav
from samuel.codecs import load_codec
from samuel.config import CodecConfig
from samuel.device import resolve_device
from samuel.errors import MissingPartError
from samuel.popdb import stages as pipeline
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome
from tests.popdb.latents import small_settings
from tests.weights import write_stable_audio


@dataclasses.dataclass
class Half:
    """A separator that takes half of everything for the voice."""

    identity: str

    def vocals(self, mix: Audio) -> Audio:
        return (mix / 2).astype(np.float32)

    def cancel(self) -> None:
        raise NotImplementedError


def encoded(root: Path, level: float = 0.1) -> Outcome:
    """A song of noise through all three stages."""
    wav = root / f"song-{level}.wav"
    write_wav(wav, (level * np.random.default_rng(0).normal(size=(2, 4 * 44_100))).astype(np.float32))
    settings = small_settings(root)
    song = Song(f"song{level}", "noise", url=wav.as_uri())
    [downloaded] = acquire_songs([song], Parts(settings))
    return pipeline.encode_song(pipeline.separate_song(downloaded, Parts(settings)), Parts(settings))


def test_latents_are_made_again_when_what_determines_them_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load_codec(CodecConfig(), resolve_device("cpu"))
    monkeypatch.setattr(Parts, "separator", Half("half/1"))
    monkeypatch.setattr(Parts, "codec", codec)
    assert encoded(tmp_path).did_work
    assert not encoded(tmp_path).did_work
    assert encoded(tmp_path, level=0.2).did_work
    for stage in pipeline.VERSIONS:
        monkeypatch.setitem(pipeline.VERSIONS, stage, 99)
    assert encoded(tmp_path).did_work
    monkeypatch.setattr(codec, "identity", "mel/other weights")
    again = encoded(tmp_path)
    assert again.did_work
    assert again.record["codec"] == "mel/other weights"
    assert again.record["separator"] == "half/1"
    assert len(list((tmp_path / "data" / "latents").glob("*/entry.json"))) == 4


def test_another_separator_separates_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for identity in ("half/1", "half/2", "half/2"):
        monkeypatch.setattr(Parts, "separator", Half(identity))
        encoded(tmp_path)
    assert len(list((tmp_path / "data" / "stems").glob("*/entry.json"))) == 2


def test_what_is_known_is_what_the_stage_would_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parts, "separator", Half("half/1"))
    settings = small_settings(tmp_path)
    wav = tmp_path / "song-0.1.wav"
    write_wav(wav, (0.1 * np.random.default_rng(0).normal(size=(2, 4 * 44_100))).astype(np.float32))
    songs = [Song("song", "noise", url=wav.as_uri()), Song("none", "none", url=(tmp_path / "no").as_uri())]
    downloaded, failed = acquire_songs(songs, Parts(settings))
    assert downloaded.artifact
    assert pipeline.stems_known(downloaded, Parts(settings)) is None
    separated = pipeline.separate_song(downloaded, Parts(settings))
    assert pipeline.latents_known(separated, Parts(settings)) is None
    release(
        pipeline.stems_folder(downloaded.artifact, Parts(settings))
    )  # and nothing made of them: made again
    assert pipeline.stems_known(downloaded, Parts(settings)) is None
    separated = pipeline.separate_song(downloaded, Parts(settings))
    made = pipeline.encode_song(separated, Parts(settings))
    release(pipeline.stems_folder(downloaded.artifact, Parts(settings)))
    known = pipeline.stems_known(downloaded, Parts(settings))
    assert known
    assert known == pipeline.separate_song(downloaded, Parts(settings))
    assert pipeline.latents_known(known, Parts(settings)) == pipeline.encode_song(known, Parts(settings))
    assert made.did_work
    assert pipeline.stems_known(failed, Parts(settings)) == pipeline.separate_song(failed, Parts(settings))
    assert pipeline.latents_known(failed, Parts(settings)) == pipeline.encode_song(failed, Parts(settings))


def test_parts_are_loaded_once_however_many_threads_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[CodecConfig] = []

    def load(config: CodecConfig, *_: object) -> object:
        loaded.append(config)
        time.sleep(0.05)
        return object()

    monkeypatch.setattr("samuel.codecs.load_codec", load)
    parts = Parts(small_settings(tmp_path))
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: parts.codec, range(8)))) == 1
    elsewhere = pickle.loads(pickle.dumps(parts))  # noqa: S301  (ours: as Dask does it)
    assert elsewhere.settings == parts.settings
    assert elsewhere.codec is not parts.codec
    assert loaded == [parts.settings.codec] * 2


def low_notes(root: Path) -> Song:
    """Four seconds below 200 Hz, which faithful small weights give back."""
    time_s = np.arange(4 * 44_100) / 44_100
    notes = [
        0.2 * np.sin(2 * np.pi * hertz * time_s + phase) for hertz, phase in ((55, 0), (110, 1), (165, 2))
    ]
    write_wav(root / "low.wav", np.stack([sum(notes), 0.8 * sum(notes)]).astype(np.float32))
    return Song("low", "low notes", url=(root / "low.wav").as_uri())


def test_weights_that_reconstruct_noise_stop_the_run_before_the_long_work(tmp_path: Path) -> None:
    write_stable_audio(tmp_path / "vae")
    codec = {"name": "stable-audio-open", "path": str(tmp_path / "vae")}
    settings = small_settings(tmp_path, codec=codec)
    downloaded = acquire_songs([low_notes(tmp_path)], Parts(settings))
    with pytest.raises(MissingPartError, match=r"does not give back the audio .* codec\.path"):
        pipeline.separate_songs(downloaded, Parts(settings))
    assert not list((tmp_path / "data" / "stems").rglob("*.flac"))
    write_stable_audio(tmp_path / "vae", faithful=True)
    separated = pipeline.separate_songs(downloaded, Parts(settings))
    # Other weights, for which there are stems already.
    write_stable_audio(tmp_path / "vae")
    with pytest.raises(MissingPartError, match="does not give back"):
        pipeline.encode_songs(separated, Parts(settings))
    assert not list((tmp_path / "data" / "latents").rglob("*.safetensors"))


def test_weights_are_proved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stable_audio(tmp_path / "vae", faithful=True)
    codec = {"name": "stable-audio-open", "path": str(tmp_path / "vae")}
    settings = small_settings(tmp_path, codec=codec)
    separated = pipeline.separate_songs(
        acquire_songs([low_notes(tmp_path)], Parts(settings)), Parts(settings)
    )
    [encoded_low] = pipeline.encode_songs(separated, Parts(settings))
    assert encoded_low.artifact
    proof = find_artifact(pipeline.round_trip_folder(Parts(settings)))
    assert proof
    assert proof.record["si_sdr_db"] > 20
    encoded_low.artifact.path("latents.safetensors").unlink()
    monkeypatch.setattr(pipeline, "require_faithful", None)
    assert pipeline.encode_songs(separated, Parts(settings))[0].did_work


def test_one_odd_song_is_no_proof_against_a_codec(tmp_path: Path) -> None:
    click = np.zeros((2, 4 * 44_100), dtype=np.float32)
    click[:, 60_000:60_200] = 0.9
    click[1] *= -1  # and silent to a mono codec
    write_wav(tmp_path / "odd.wav", click)
    settings = small_settings(tmp_path)
    downloaded = acquire_songs([Song("odd", "odd", url=(tmp_path / "odd.wav").as_uri())], Parts(settings))
    [outcome] = pipeline.encode_songs(pipeline.separate_songs(downloaded, Parts(settings)), Parts(settings))
    assert outcome.ok
    proof = find_artifact(pipeline.round_trip_folder(Parts(settings)))
    assert proof
    assert proof.record["distance_db"] < 8
