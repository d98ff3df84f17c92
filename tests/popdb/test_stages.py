"""Audio to stems to paired latents: what is written, which songs are refused, what is made again."""

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

from samuel.artifacts import Artifact, find_artifact, make_artifact
from samuel.audio import SAMPLE_RATE, Audio, dbfs, read_wav, write_wav
from samuel.codecs import CodecInfo, load_codec
from samuel.config import CodecConfig
from samuel.errors import InputError, MissingPartError, SongError
from samuel.popdb import stages
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song
from samuel.popdb.stages import encode_pair, read_stems, separate, write_stems
from samuel.popdb.status import Outcome
from tests.popdb.latents import FRAMES, small_settings
from tests.popdb.noise import Share, noise, run, songs_of
from tests.weights import write_stable_audio

STEP = 2.0**-23
MEL = load_codec(CodecConfig(), torch.device("cpu"))
HOP = MEL.info.hop
CHUNK = FRAMES * HOP

# Stems on disk -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mix_level", "vocal_level", "scale"),
    [(0.5, 0.4, 1.0), (1.0, 0.0, 0.5), (1.4, 1.3, 0.25), (0.9, 0.5, 0.5), (3.0, 5.0, 0.0625), (0, 0, 1.0)],
)
def test_the_pair_sums_to_the_last_bit(
    tmp_path: Path, mix_level: float, vocal_level: float, scale: float
) -> None:
    mix, vocals = (np.random.default_rng(seed).uniform(-1, 1, (2, 44_100)).astype("f4") for seed in (0, 1))
    mix, vocals = mix * np.float32(mix_level), vocals * np.float32(vocal_level)
    mix[0, :2] = mix_level, -mix_level
    vocals[0, :2] = -vocal_level, vocal_level
    assert write_stems(mix, vocals, tmp_path) == scale
    read, rest = read_stems(tmp_path, scale)
    grid = np.rint(mix.astype(np.float64) * scale / STEP) * STEP / scale
    assert np.array_equal((read + rest).astype(np.float64), grid)
    assert np.array_equal(read.astype(np.float64) + rest.astype(np.float64), grid)
    assert np.abs(read - vocals).max() <= STEP / scale
    assert read.dtype == rest.dtype == np.float32


def test_stems_are_files_for_anybody_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    vocals = noise(SAMPLE_RATE, 0.05, seed=1)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_stems(noise(SAMPLE_RATE), vocals, tmp_path / name)
    for stem in ("vocals.flac", "accompaniment.flac"):
        assert (tmp_path / "a" / stem).read_bytes() == (tmp_path / "b" / stem).read_bytes()
    read, rate = soundfile.read(tmp_path / "a" / "vocals.flac", dtype="float64")
    assert soundfile.info(tmp_path / "a" / "vocals.flac").subtype == "PCM_24"
    assert rate == SAMPLE_RATE
    assert np.abs(read.T - vocals).max() <= STEP / 2


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


# Separation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, -4.0])
def test_stems_sum_to_the_song(tmp_path: Path, share: float) -> None:
    write_wav(tmp_path / "audio.wav", noise(3 * SAMPLE_RATE))
    mix = read_wav(tmp_path / "audio.wav")
    record = separate(Share(share), tmp_path / "audio.wav", tmp_path)
    vocals, rest = read_stems(tmp_path, record["stems_scale"])
    assert np.abs(vocals - share * mix).max() < 1e-6
    assert np.abs(vocals + rest - mix).max() < 1e-6
    assert record == {
        "stems_scale": 1.0 if share > 0 else 0.25,
        "vocals_dbfs": round(dbfs(mix * np.float32(share)), 4),
        "accompaniment_dbfs": pytest.approx(dbfs(mix * np.float32(1 - share)), abs=1e-3),
        "peak": round(float(np.abs(mix).max()), 4),
    }


@pytest.mark.parametrize(
    ("level", "share", "status", "message"),
    [
        (0.0, 0.5, "silent", "dBFS"),
        (0.0009, 0.5, "silent", "dBFS"),
        (np.nan, 0.5, "not_finite", "the song"),
        (3e4, 0.5, "decode_failed", "full scale"),
        (0.1, np.nan, "not_finite", "the vocals by share/1"),
        (0.1, np.inf, "not_finite", "the vocals by share/1"),
    ],
)
def test_songs_that_cannot_be_separated(
    tmp_path: Path, level: float, share: float, status: str, message: str
) -> None:
    write_wav(tmp_path / "audio.wav", noise(SAMPLE_RATE, level))
    with pytest.raises(SongError, match=message) as caught:
        separate(Share(share), tmp_path / "audio.wav", tmp_path)
    assert caught.value.status == status
    assert [path.name for path in tmp_path.iterdir()] == ["audio.wav"]


# Encoding ----------------------------------------------------------------------------------------


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


def stems_of(folder: Path, vocals: Audio, accompaniment: Audio) -> Artifact:
    def make(target: Path) -> dict[str, float]:
        return {"stems_scale": write_stems(vocals + accompaniment, vocals, target)}

    return make_artifact(folder / "stems", make)


@pytest.mark.parametrize(
    ("samples", "chunks"), [(CHUNK, 1), (3 * CHUNK - 1, 2), (3 * CHUNK, 3), (3 * CHUNK + 5, 3)]
)
def test_chunks_are_the_song_cut(tmp_path: Path, samples: int, chunks: int) -> None:
    vocals = noise(samples)
    stems = stems_of(tmp_path, vocals, noise(samples, seed=1))
    record = encode_pair(MEL, stems, FRAMES, tmp_path)
    latents = load_file(tmp_path / "latents.safetensors")
    assert set(latents) == {"vocal", "accompaniment"}
    for stream in latents.values():
        assert (stream.shape, stream.dtype) == ((chunks, 64, FRAMES), torch.float16)
    starts_s = [round(k * CHUNK / SAMPLE_RATE, 4) for k in range(chunks)]
    assert [row["start_s"] for row in record["chunks"]] == starts_s
    whole = MEL.encode(torch.from_numpy(vocals)[None])[0].half()
    stored = torch.cat(list(latents["vocal"]), dim=1)
    torch.testing.assert_close(stored, whole[:, : chunks * FRAMES], atol=2e-3, rtol=0)


def test_both_streams_hold_an_impulse_in_its_frame(tmp_path: Path) -> None:
    stem = np.zeros((2, 2 * CHUNK), dtype=np.float32)
    stem[:, (FRAMES + 21) * HOP + 700] = 1.0
    encode_pair(MEL, stems_of(tmp_path, stem, stem), FRAMES, tmp_path)
    for stream in load_file(tmp_path / "latents.safetensors").values():
        assert int(stream[1].float().sum(0).argmax()) == 21
        assert stream[0].unique().numel() == 1


def test_chunks_are_described(tmp_path: Path) -> None:
    vocals, accompaniment = noise(2 * CHUNK), noise(2 * CHUNK, seed=1)
    vocals[:, CHUNK:] = 0.0
    record = encode_pair(MEL, stems_of(tmp_path, vocals, accompaniment), FRAMES, tmp_path)
    sung, unsung = record["chunks"]
    assert sung["vocal_share"] > 0.97
    assert unsung["vocal_share"] < 0.03
    assert sung["vocal_rms_db"] == pytest.approx(dbfs(vocals[:, :CHUNK]), abs=1e-4)
    assert unsung["vocal_rms_db"] == -120.0
    mix = (vocals + accompaniment)[:, CHUNK:]
    assert unsung["mix_peak"] == pytest.approx(float(np.abs(mix).max()), abs=1e-4)


@pytest.mark.parametrize(
    ("samples", "value", "status"),
    [(CHUNK - 1, 0.0, "too_short"), *[(CHUNK, value, "not_finite") for value in (np.nan, np.inf, 7e4)]],
)
def test_songs_that_cannot_be_encoded(tmp_path: Path, samples: int, value: float, status: str) -> None:
    stems = stems_of(tmp_path, noise(samples), noise(samples))
    with pytest.raises(SongError) as caught:
        encode_pair(Constant(value), stems, FRAMES, tmp_path)
    assert caught.value.status == status
    assert not (tmp_path / "latents.safetensors").exists()


# Parts, and what is made again ---------------------------------------------------------------------


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, songs = small_settings(tmp_path), songs_of(tmp_path, 1)

    def made(separator: str) -> list[Outcome]:
        monkeypatch.setattr(Parts, "separator", Share(identity=separator))
        return [outcome for outcome in run(songs, settings) if outcome.did_work]

    assert made("share/1")
    assert not made("share/1")
    assert made("share/2")
    for stage in stages.VERSIONS:
        monkeypatch.setitem(stages.VERSIONS, stage, 99)
        assert made("share/2")
    codec = load_codec(CodecConfig(), torch.device("cpu"))
    other = codec.info.model_copy(update={"version": "0"})
    monkeypatch.setattr(codec, "info", other)
    monkeypatch.setattr(Parts, "codec", codec)
    [again] = made("share/2")
    assert (again.record["codec"], again.record["separator"]) == (other.model_dump(), "share/2")
    assert len(list((tmp_path / "data" / "stems").glob("*/entry.json"))) == 3
    assert len(list((tmp_path / "data" / "latents").glob("*/entry.json"))) == 5


def test_a_song_that_failed_passes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parts, "separator", Share())
    parts, absent = Parts(small_settings(tmp_path)), Song("none", "none", url=(tmp_path / "no").as_uri())
    downloaded = acquire_songs([absent, *songs_of(tmp_path, 1)], parts)
    [failed, made] = stages.encode_songs(stages.separate_songs(downloaded, parts), parts)
    assert (failed.song, failed.stage, failed.status, failed.did_work) == (
        absent, "download", downloaded[0].status, False,
    )  # fmt: skip
    assert made.ok


# The codec is proved before the long work ------------------------------------------------------------


def low_notes(root: Path) -> Song:
    """Four seconds below 200 Hz, which faithful small weights give back."""
    time_s = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    notes = sum(0.2 * np.sin(2 * np.pi * hz * time_s + phase) for hz, phase in ((55, 0), (110, 1), (165, 2)))
    write_wav(root / "low.wav", np.stack([notes, 0.8 * notes]).astype(np.float32))
    return Song("low", "low notes", url=(root / "low.wav").as_uri())


def vae_settings(root: Path) -> Any:
    return small_settings(root, codec={"name": "stable-audio-open", "path": str(root / "vae")})


def test_weights_that_reconstruct_noise_stop_the_run_before_the_long_work(tmp_path: Path) -> None:
    write_stable_audio(tmp_path / "vae")
    settings = vae_settings(tmp_path)
    parts = Parts(settings)
    downloaded = acquire_songs([low_notes(tmp_path)], parts)
    with pytest.raises(MissingPartError, match=r"does not give back the audio .* codec\.path"):
        stages.separate_songs(downloaded, parts)
    assert not list((tmp_path / "data" / "stems").rglob("*.flac"))
    write_stable_audio(tmp_path / "vae", faithful=True)
    separated = stages.separate_songs(downloaded, Parts(settings))
    # Other weights, for which there are stems already.
    write_stable_audio(tmp_path / "vae")
    with pytest.raises(MissingPartError, match="does not give back"):
        stages.encode_songs(separated, Parts(settings))
    assert not list((tmp_path / "data" / "latents").rglob("*.safetensors"))


def test_weights_are_proved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stable_audio(tmp_path / "vae", faithful=True)
    parts = Parts(vae_settings(tmp_path))
    separated = stages.separate_songs(acquire_songs([low_notes(tmp_path)], parts), parts)
    [encoded] = stages.encode_songs(separated, parts)
    proof = find_artifact(stages.round_trip_folder(parts))
    assert proof
    assert proof.record["si_sdr_db"] > 20
    assert encoded.artifact
    encoded.artifact.path("latents.safetensors").unlink()
    monkeypatch.setattr(stages, "require_faithful", None)
    assert stages.encode_songs(separated, parts)[0].did_work


def test_one_odd_song_is_no_proof_against_a_codec(tmp_path: Path) -> None:
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
