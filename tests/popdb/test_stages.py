"""Audio to stems to paired latents: what is written, which songs are refused, what is made again."""

import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor

from samuel.artifacts import Artifact, find_artifact, release
from samuel.audio import SAMPLE_RATE, Audio, dbfs, read_wav, write_wav
from samuel.codecs import CodecInfo, load_codec
from samuel.config import CodecConfig, Settings, parse
from samuel.errors import InputError, MissingPartError, OperatorError, SettingsError, SongError
from samuel.popdb import stages
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.stages import encode_stems, encode_true_song, encode_true_stems, read_stems, write_stems
from samuel.popdb.status import Outcome
from samuel.synthetic.song import compose
from tests.popdb.latents import FRAMES, small_settings
from tests.popdb.noise import Share, noise, run, separate, songs_of
from tests.weights import write_stable_audio

STEP = 2.0**-23
MEL = load_codec(CodecConfig(), torch.device("cpu"))
HOP = MEL.info.hop
CHUNK = FRAMES * HOP


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> Share:
    separator = Share()
    monkeypatch.setattr(Parts, "separator", separator)
    return separator


# --- stems ---


@pytest.mark.parametrize(
    ("mix_level", "vocal_level", "scale"),
    [(0.5, 0.4, 1.0), (1.0, 0.0, 0.5), (1.4, 1.3, 0.25), (3.0, 5.0, 0.0625), (0, 0, 1.0)],
)
def test_the_pair_sums_to_the_last_bit(
    tmp_path: Path, mix_level: float, vocal_level: float, scale: float
) -> None:
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


def test_damaged_stems_are_named(tmp_path: Path) -> None:
    write_stems(noise(SAMPLE_RATE), noise(SAMPLE_RATE, seed=1), tmp_path)
    soundfile.write(tmp_path / "vocals.flac", np.zeros((100, 2)), SAMPLE_RATE, subtype="PCM_24")
    with pytest.raises(InputError, match="different length"):
        read_stems(tmp_path, 1.0)
    soundfile.write(tmp_path / "vocals.flac", np.zeros((100, 1)), 48_000, subtype="PCM_24")
    with pytest.raises(InputError, match=r"vocals\.flac: 48000 Hz, 1 channels"):
        read_stems(tmp_path, 1.0)
    (tmp_path / "vocals.flac").write_bytes(b"fLaC and no more")
    with pytest.raises(InputError, match=r"vocals\.flac: not readable"):
        read_stems(tmp_path, 1.0)


@pytest.mark.parametrize("share", [0.3, -4.0])
def test_stems_sum_to_the_song(tmp_path: Path, share: float) -> None:
    write_wav(tmp_path / "audio.wav", noise(3 * SAMPLE_RATE))
    mix = read_wav(tmp_path / "audio.wav")
    record = stages.separate(Share(share), tmp_path / "audio.wav", tmp_path)
    vocals, rest = read_stems(tmp_path, record["stems_scale"])
    assert np.abs(vocals - share * mix).max() < 1e-6
    assert np.abs(vocals + rest - mix).max() < 1e-6
    assert record == {
        "stems_scale": 1.0 if share > 0 else 0.25,
        "vocals_dbfs": round(dbfs(mix * np.float32(share)), 4),
        "accompaniment_dbfs": pytest.approx(dbfs(mix * np.float32(1 - share)), abs=1e-3),
        "peak": round(float(np.abs(mix).max()), 4),
    }


# --- latents ---


class Constant:
    """A codec whose every latent is one value."""

    info = CodecInfo(name="constant", version="1", sample_rate=44_100, hop=2048, channels=64)
    window, encode_reach, decode_reach = 256, 0, 0

    def __init__(self, value: float) -> None:
        self.value = value

    def encode(self, audio: Tensor) -> Tensor:
        return torch.full((1, 64, -(-audio.shape[-1] // HOP)), self.value)

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError

    def cancel(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(("samples", "chunks"), [(CHUNK, 1), (3 * CHUNK - 1, 2), (3 * CHUNK + 5, 3)])
def test_chunks_are_the_song_cut(tmp_path: Path, samples: int, chunks: int) -> None:
    vocals = noise(samples)
    record = encode_stems(MEL, vocals, noise(samples, seed=1), FRAMES, tmp_path)
    latents = load_file(tmp_path / "latents.safetensors")
    assert set(latents) == {"vocal", "accompaniment"}
    for stream in latents.values():
        assert (stream.shape, stream.dtype) == ((chunks, 64, FRAMES), torch.float16)
    starts_s = [round(k * CHUNK / SAMPLE_RATE, 4) for k in range(chunks)]
    assert [row["start_s"] for row in record["chunks"]] == starts_s
    whole = MEL.encode(torch.from_numpy(vocals)[None])[0].half()
    stored = torch.cat(list(latents["vocal"]), dim=1)
    torch.testing.assert_close(stored, whole[:, : chunks * FRAMES], atol=2e-3, rtol=0)


def test_chunks_are_described(tmp_path: Path) -> None:
    vocals, accompaniment = noise(2 * CHUNK), noise(2 * CHUNK, seed=1)
    vocals[:, CHUNK:] = 0.0
    sung, unsung = encode_stems(MEL, vocals, accompaniment, FRAMES, tmp_path)["chunks"]
    assert sung["vocal_share"] > 0.97
    assert unsung["vocal_share"] < 0.03
    assert sung["vocal_rms_db"] == pytest.approx(dbfs(vocals[:, :CHUNK]), abs=1e-4)
    assert unsung["vocal_rms_db"] == -120.0
    mix = (vocals + accompaniment)[:, CHUNK:]
    assert unsung["mix_peak"] == pytest.approx(float(np.abs(mix).max()), abs=1e-4)


@pytest.mark.parametrize(
    ("samples", "value", "status"),
    [(CHUNK - 1, 0.0, "too_short"), (CHUNK, np.nan, "not_finite"), (CHUNK, 7e4, "not_finite")],
)
def test_songs_that_cannot_be_encoded(tmp_path: Path, samples: int, value: float, status: str) -> None:
    with pytest.raises(SongError) as caught:
        encode_stems(Constant(value), noise(samples), noise(samples), FRAMES, tmp_path)
    assert caught.value.status == status
    assert not (tmp_path / "latents.safetensors").exists()


# --- parts, and what is made again ---


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


def test_latents_are_made_again_when_what_determines_them_changes(
    tmp_path: Path, half: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_songs_come_in_order_and_one_that_failed_passes_through(tmp_path: Path, half: Share) -> None:
    parts, absent = Parts(small_settings(tmp_path)), Song("none", "none", url=(tmp_path / "no").as_uri())
    downloaded = acquire_songs([absent, *songs_of(tmp_path)], parts)
    done: list[str] = []
    separated = stages.separate_songs(downloaded, parts, lambda song: done.append(song.song.song_id))
    failed, *made = stages.encode_songs(separated, parts)
    assert (failed.song, failed.stage, failed.did_work) == (absent, "download", False)
    assert failed.status == downloaded[0].status
    assert [song.song.song_id for song in made if song.ok] == ["song0", "song1", "song2"]
    assert sorted(done) == ["none", "song0", "song1", "song2"]


def test_what_concerns_all_songs_ends_the_stage_and_keeps_what_is_done(
    tmp_path: Path, half: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vocals(mix: Audio) -> Audio:
        half.songs += 1
        if half.songs == 2:
            raise OSError(28, "No space left on device")
        return mix * np.float32(0.5)

    monkeypatch.setattr(half, "vocals", vocals)
    parts = Parts(small_settings(tmp_path).model_copy(update={"songs_in_hand": 1}))
    with pytest.raises(OSError, match="No space left"):
        stages.separate_songs(acquire_songs(songs_of(tmp_path), parts), parts)
    assert (half.songs, half.cancelled) == (2, 1)
    assert files(tmp_path, ".flac") == 2


# --- retention ---


def files(root: Path, suffix: str) -> int:
    return len(list((root / "data").rglob(f"*{suffix}")))


def keeping(audio: str, stems: str) -> Any:
    return {"audio": audio, "stems": stems}


@pytest.mark.parametrize(("audio", "stems"), [("keep", "keep"), ("keep", "remove"), ("remove", "remove")])
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


@pytest.mark.parametrize(("stems", "downloads"), [("remove", 3), ("keep", 0)])
def test_other_settings_want_the_audio_back_unless_there_are_stems(
    tmp_path: Path, half: Share, stems: str, downloads: int
) -> None:
    songs, gone = songs_of(tmp_path), keeping("remove", stems)
    run(songs, small_settings(tmp_path, retention=gone))
    settings = small_settings(tmp_path, retention=gone, popdb={"chunk_frames": 72})
    assert stages.reclaim_audio(Parts(settings)) == downloads
    assert all(outcome.ok and outcome.did_work for outcome in run(songs, settings))
    assert half.songs == 3 + downloads
    assert files(tmp_path, ".safetensors") == 6


@pytest.mark.parametrize("stage", ["separate", "encode"])
def test_a_source_removed_under_a_run_stops_it_with_advice(tmp_path: Path, half: Share, stage: str) -> None:
    settings, songs = small_settings(tmp_path), songs_of(tmp_path, 1)
    parts = Parts(settings)
    step = stages.separate_songs if stage == "separate" else stages.encode_songs
    before = acquire_songs(songs, parts) if stage == "separate" else separate(songs, settings)
    assert before[0].artifact
    release(before[0].artifact.folder)
    with pytest.raises(OperatorError, match="start this one again"):
        step(before, parts)
    assert stages.reclaim_audio(parts) == (1 if stage == "separate" else 0)
    assert run(songs, settings)[0].ok


# --- the codec is proved before the long work ---


def low_notes(root: Path) -> Song:
    """Four seconds below 200 Hz, which faithful small weights give back."""
    time_s = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    notes = sum(0.2 * np.sin(2 * np.pi * hz * time_s + phase) for hz, phase in ((55, 0), (110, 1), (165, 2)))
    write_wav(root / "low.wav", np.stack([notes, 0.8 * notes]).astype(np.float32))
    return Song("low", "low notes", url=(root / "low.wav").as_uri())


def test_weights_that_reconstruct_noise_stop_the_run_before_the_long_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_one_odd_song_is_no_proof_against_a_codec(tmp_path: Path, half: Share) -> None:
    click = np.zeros((2, 4 * SAMPLE_RATE), dtype=np.float32)
    click[:, 60_000:60_200] = 0.9
    click[1] *= -1  # and silent to a mono codec
    write_wav(tmp_path / "odd.wav", click)
    settings = small_settings(tmp_path)
    [outcome] = run([Song("odd", "odd", url=(tmp_path / "odd.wav").as_uri())], settings)
    assert outcome.ok
    proof = find_artifact(stages.round_trip_folder(Parts(settings)))
    assert proof
    assert proof.record["distance_db"] < 8


# --- synthetic songs without a separator ---


def test_a_pair_is_the_encoded_true_stems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_settings(tmp_path, popdb={"chunk_frames": 512}, songs={"seed": 5})
    there = encode_true_song(settings, 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    told: list[Outcome] = []
    outcomes = encode_true_stems(settings, 2, told.append)
    assert told == outcomes
    assert [outcome.did_work for outcome in outcomes] == [True, False]
    assert (outcomes[1].song, outcomes[1].record) == (there.song, there.record)
    song, outcome = compose(5, 0), outcomes[0]
    assert (outcome.song.title, outcome.record["separator"]) == (song.title, "true-stems/1")
    latents = load_file(
        (outcome.artifact or there.artifact or Artifact(tmp_path, {}, {})).path("latents.safetensors")
    )
    for name, stem in (("vocal", song.vocals), ("accompaniment", song.accompaniment)):
        whole = MEL.encode(torch.from_numpy(stem)[None])[0]
        assert len(latents[name]) == whole.shape[-1] // 512
        stored = torch.cat(list(latents[name]), dim=1).float()
        torch.testing.assert_close(stored, whole[:, : stored.shape[1]], atol=5e-3, rtol=1e-3)


def test_true_stems_of_other_sources_and_codecs_are_refused(tmp_path: Path) -> None:
    def refuse(_: Outcome) -> None:
        raise AssertionError

    sections: list[dict[str, Any]] = [
        {"songs": {"source": "folder", "path": "songs"}},
        {"codec": {"name": "stable-audio-open"}},
    ]
    for section in sections:
        settings: Settings = parse({"data": tmp_path, **section})
        with pytest.raises(SettingsError, match=r"songs\.source = 'synthetic'.*codec\.name = 'mel'"):
            encode_true_stems(settings, 1, refuse)
