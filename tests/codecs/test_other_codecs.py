"""A codec of another rate, hop or width goes the whole road: songs, dataset, training, generation, scores."""

from pathlib import Path

import pytest
import torch

from samuel.audio import SAMPLE_RATE, read_wav
from samuel.checkpoint import load_model
from samuel.codecs.base import CodecInfo
from samuel.codecs.mel import MelCodec, mel_info
from samuel.evaluate.distribution import FolderSpace
from samuel.evaluate.summary import score_lineup
from samuel.evaluate.systems import folders
from samuel.evaluate.tracks import with_ceiling
from samuel.generate import Request, generate
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.dataset import open_popdb
from samuel.popdb.parts import Parts
from samuel.popdb.songs import list_songs
from samuel.popdb.stages import encode_songs, separate_songs
from samuel.popdb.verify import verify
from samuel.popdb.writer import write_popdb
from samuel.train import fit, run_folder
from tests.popdb.latents import small_settings

CPU = torch.device("cpu")
OTHERS = [mel_info(sample_rate=48_000, hop=1920), mel_info(bands=32)]


@pytest.mark.parametrize("info", OTHERS, ids=["48 kHz, hop 1920", "32 channels"])
def test_another_codec_goes_the_whole_road(
    info: CodecInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samuel.codecs.mel.load", lambda *_: MelCodec(CPU, info))
    monkeypatch.setattr("samuel.codecs.round_trip.MOST_LEVEL_DB", 6.0)  # 32 bands lose 5 dB
    settings = small_settings(tmp_path, songs={"limit": 2}, popdb={"chunk_frames": 512})
    parts = Parts(settings)
    downloaded = acquire_songs(list_songs(settings.songs, settings.data).songs, parts)
    popdb = write_popdb(encode_songs(separate_songs(downloaded, parts), parts), settings)
    assert verify(settings.popdb_path) == []
    assert open_popdb(settings.popdb_path).codec == info
    vocal, _ = popdb.read(popdb.index[:1])
    assert vocal.shape == (1, info.channels, 512)
    starts_s = [row["start_s"] for row in popdb.index if row["song_id"] == popdb.index[0]["song_id"]]
    assert starts_s[1] == pytest.approx(512 * info.hop / info.sample_rate, abs=1e-3)

    model = load_model(fit(popdb, settings, run_folder(popdb, settings), lambda _: None).folder, CPU)
    assert model.codec == info

    songs = sorted((settings.data / "demo").glob("*/vocals.wav"))
    (tmp_path / "vocals").mkdir()
    (tmp_path / "made").mkdir()
    for number, song in enumerate(songs):
        vocals = tmp_path / "vocals" / f"{number}.wav"
        vocals.symlink_to(song)
        made = tmp_path / "made" / f"{number}.wav"
        request = Request(vocal=vocals, output=made, sampling=settings.sampling, length_s=12.0)
        generate(request, model, MelCodec(CPU, info), lambda *_: None)
        assert read_wav(made).shape == (2, 12 * SAMPLE_RATE)
        for beside in (*made.parent.glob("*-mix.wav"), *made.parent.glob("*.json")):
            beside.unlink()

    lineup = folders(tmp_path / "vocals", {"SAMUeL": tmp_path / "made"}, tmp_path / "made")
    codec = MelCodec(CPU, info)
    lineup = with_ceiling(lineup, codec, tmp_path / "ceiling")
    scores = score_lineup(lineup, settings.evaluation, tmp_path / "scores", FolderSpace(codec, popdb))
    assert scores.record["tracks"] == 2
