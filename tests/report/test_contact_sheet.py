from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.figure import Figure
from torch import Tensor

from samuel.audio import SAMPLE_RATE, Audio
from samuel.codecs.base import CodecInfo
from samuel.codecs.mel import MelCodec
from samuel.errors import DatasetError, MissingPartError
from samuel.evaluate.features import log_mel_db
from samuel.popdb.dataset import STREAMS, Popdb
from samuel.popdb.writer import write_popdb
from samuel.report.contact_sheet import choose_strips, most_sung_s, write_contact_sheet
from tests.popdb.latents import encoded_song, small_settings, sung

HOSTILE = "a $\\frac$ b$ \\$c$ \x1b[31m\u202e 日本語 " + "W" * 200


class Holding:
    """A codec of nothing: channel 0 of a frame is the level of its 2048 samples."""

    window, encode_reach, decode_reach = 256, 0, 0

    def __init__(self, version: str = MelCodec.info.version) -> None:
        self.info = CodecInfo(name="mel", version=version, sample_rate=44_100, hop=2048, channels=64)

    def encode(self, audio: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        return 0.5 * latents[:, :1].repeat_interleave(2048, dim=-1).expand(-1, 2, -1)

    def cancel(self) -> None:
        raise NotImplementedError


def made(root: Path, shares: dict[str, Sequence[float]]) -> Popdb:
    songs = [sung(encoded_song(root, name, len(given)), *given) for name, given in shares.items()]
    return write_popdb(songs, small_settings(root))


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    return made(tmp_path_factory.mktemp("popdb"), {"a": [0.1, 0.9], "b": [0.2, 0.5], "c": [0.3, 0.4]})


def decoded(popdb: Popdb, row: dict[str, Any]) -> list[Audio]:
    return [Holding().decode(stream.float())[0].numpy() for stream in popdb.read([row])]


def images(figure: Figure) -> list[Any]:
    return [plot.images[0] for plot in figure.axes if plot.images]


def titles(figure: Figure) -> list[str]:
    return [plot.get_title(loc="left") for plot in figure.axes if plot.get_title(loc="left")]


def test_pairs_are_chosen_from_the_least_to_the_most_sung_of_many_songs(popdb: Popdb, tmp_path: Path) -> None:
    chosen = choose_strips(popdb, 3)
    assert [row["pair_id"] for row in chosen] == ["a-000", "c-000", "b-001"]  # of three songs
    assert [row["vocal_share"] for row in choose_strips(popdb, 99)] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.9]
    assert [row["pair_id"] for row in choose_strips(popdb, 1)] == ["a-000"]
    many = made(tmp_path / "many", {"a": [0.5] * 20, "b": [0.9], "c": [0.1]})
    assert {row["song_id"] for row in choose_strips(many, 3)} == {"a", "b", "c"}


def test_the_clips_are_what_was_decoded(popdb: Popdb, tmp_path: Path) -> None:
    row, folder, done = choose_strips(popdb, 6)[0], tmp_path / "sheet", list[str]()
    sheet = write_contact_sheet(popdb, [row], Holding(), folder, lambda: done.append("pair"))
    assert (sheet, done) == (folder / "contact-sheet.png", ["pair"])
    names = {"contact-sheet.png", *(f"a-000-{stem}.wav" for stem in (*STREAMS, "mix"))}
    assert {path.name for path in folder.iterdir()} == names
    vocal, accompaniment = decoded(popdb, row)
    total = vocal + accompaniment
    assert np.abs(total).max() > 1.0  # would clip
    wanted = {"vocal": vocal, "accompaniment": accompaniment, "mix": total / np.abs(total).max()}
    for stem, audio in wanted.items():
        clip, rate = soundfile.read(folder / f"a-000-{stem}.wav")
        assert rate == SAMPLE_RATE
        np.testing.assert_allclose(clip.T, audio.clip(-1, 1), atol=1 / 2**15)


def test_the_sheet_shows_what_was_decoded_or_the_latents_on_one_scale(
    popdb: Popdb, tmp_path: Path, figures: list[Figure]
) -> None:
    rows = choose_strips(popdb, 2)
    first, again = (write_contact_sheet(popdb, rows, Holding(), tmp_path / name) for name in "xy")
    assert first.read_bytes() == again.read_bytes()
    drawn = images(figures[0])[:4]
    assert {image.get_clim() for image in drawn} == {(-80.0, 0.0)}
    expected = [log_mel_db(audio) for row in rows for audio in decoded(popdb, row)]
    for image, levels in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(np.asarray(image.get_array()), levels)
    for title, row in zip(titles(figures[0]), rows, strict=True):
        assert title.startswith(f"Title of {row['song_id']} · {row['pair_id']} · from ")
        assert title.endswith(f"{row['split']} · sung {row['vocal_share']:.0%}")
    write_contact_sheet(popdb, rows[:1], None, tmp_path / "sheet")
    assert [path.name for path in (tmp_path / "sheet").iterdir()] == ["contact-sheet.png"]
    for image, stream, latents in zip(images(figures[2])[:2], STREAMS, popdb.read(rows[:1]), strict=True):
        mean, std = (torch.tensor(popdb.stats[stream][name])[:, None] for name in ("mean", "std"))
        shown = np.asarray(image.get_array())
        np.testing.assert_allclose(shown, (latents[0].float() - mean) / std, atol=1e-5)


def test_what_a_stranger_wrote_leads_nowhere_and_another_codec_is_refused(
    popdb: Popdb, tmp_path: Path, figures: list[Figure]
) -> None:
    row = choose_strips(popdb, 1)[0] | {"title": HOSTILE, "pair_id": "../../$up\x00"}
    row |= {"vocal_share": None, "start_s": None}
    folder = tmp_path / "deep" / "sheet"
    write_contact_sheet(popdb, [row], Holding(), folder)
    assert set(tmp_path.rglob("*.wav")) == {folder / f"_______up_-{stem}.wav" for stem in (*STREAMS, "mix")}
    (title,) = titles(figures[0])
    assert title.isprintable()
    assert len(title) < 150
    assert title.endswith("vocal share not measured")
    with pytest.raises(MissingPartError, match=r"holds latents of mel/1.*, the codec at hand is mel/2"):
        write_contact_sheet(popdb, [row], Holding("2"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_damaged_latents_are_not_drawn(tmp_path: Path) -> None:
    popdb = made(tmp_path, {"a": [0.1]})
    (row,) = popdb.index
    shard = popdb.root / row["shard"]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DatasetError, match=row["pair_id"]):
        write_contact_sheet(popdb, [row], None, tmp_path / "sheet")
    assert not (tmp_path / "sheet" / "contact-sheet.png").exists()


def test_the_clip_is_where_most_is_sung() -> None:
    """A vocal that sings in these stretches, and an even band."""
    for duration_s, stretches_s, clip_s in (
        (40.0, [(20.0, 26.0), (31.0, 40.0)], (30.0, 40.0)),  # the longer, a second of silence before it
        (3.0, [(1.0, 2.0)], (0.0, 3.0)),
    ):
        shape = (2, 2, round(duration_s * SAMPLE_RATE))
        vocal, band = 0.1 * np.random.default_rng(0).normal(size=shape).astype(np.float32)
        seconds = np.arange(vocal.shape[1]) / SAMPLE_RATE
        vocal[:, ~np.any([(first <= seconds) & (seconds < end) for first, end in stretches_s], axis=0)] = 0
        assert most_sung_s(vocal, band, length_s=10.0) == pytest.approx(clip_s, abs=0.2)
