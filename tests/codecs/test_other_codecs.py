"""A codec of another rate, hop and width goes the whole road, from songs to scores."""

from pathlib import Path

import pytest
import torch

from samuel.audio import SAMPLE_RATE, read_wav, write_wav
from samuel.checkpoint import load_model
from samuel.codecs.mel import MelCodec, mel_info
from samuel.evaluate.distribution import Space
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
from tests.separators.test_repet import loop_and_line

CPU = torch.device("cpu")
INFO = mel_info(sample_rate=48_000, hop=1920, bands=32)
SECONDS = 6


def test_another_codec_goes_the_whole_road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samuel.codecs.mel.load", lambda *_: MelCodec(CPU, INFO))
    monkeypatch.setattr("samuel.codecs.base.MOST_LEVEL_DB", 6.0)  # 32 bands lose 5 dB
    songs, vocals, made = (tmp_path / name for name in ("songs", "vocals", "made"))
    for folder in (songs, vocals, made):
        folder.mkdir()
    for number in range(2):
        line, background = loop_and_line(SECONDS, seed=number)
        write_wav(songs / f"{number}.wav", line + background)
        write_wav(vocals / f"{number}.wav", line)

    chosen = {"source": "folder", "path": songs}
    settings = small_settings(tmp_path, songs=chosen, popdb={"min_vocal_share": 0.0})
    parts = Parts(settings)
    downloaded = acquire_songs(list_songs(settings.songs, settings.data).songs, parts)
    popdb = write_popdb(encode_songs(separate_songs(downloaded, parts), parts), settings)
    assert verify(settings.popdb_path) == []
    assert open_popdb(settings.popdb_path).codec == INFO
    vocal, _ = popdb.read(popdb.index[:1])
    assert vocal.shape == (1, INFO.channels, 64)
    starts_s = [row["start_s"] for row in popdb.index if row["song_id"] == popdb.index[0]["song_id"]]
    assert starts_s[1] == pytest.approx(64 * INFO.hop / INFO.sample_rate, abs=1e-3)

    model = load_model(fit(popdb, settings, run_folder(popdb, settings), lambda _: None).folder, CPU)
    assert model.codec == INFO
    codec = MelCodec(CPU, INFO)
    for vocal_file in sorted(vocals.iterdir()):
        request = Request(vocal_file, tmp_path / "takes" / vocal_file.name, settings.sampling)
        (take,) = generate(request, model, codec, lambda *_: None)
        assert read_wav(take.accompaniment).shape == (2, SECONDS * SAMPLE_RATE)
        take.accompaniment.rename(made / vocal_file.name)

    lineup = with_ceiling(folders(vocals, {"SAMUeL": made}, made), codec, tmp_path / "ceiling")
    scores = score_lineup(lineup, settings.evaluation, tmp_path / "scores", Space(codec.info, codec, popdb))
    assert scores.record["tracks"] == 2
