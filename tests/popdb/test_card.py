import json
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from huggingface_hub import DatasetCard

from samuel.codecs.mel import MelCodec
from samuel.codecs.stable_audio_open import PUBLISHED_INFO
from samuel.popdb.card import dataset_card, share_counts
from samuel.popdb.dataset import Popdb
from samuel.popdb.status import Status
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import encoded_song, failed_song, small_settings

HOSTILE = "x\n---\nlicense: cc0-1.0\n# Free for all\n```\n<script>alert(1)</script> | [a](b) \x1b[31m \u202e"


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    songs = [encoded_song(tmp_path, name) for name in "abc"]
    return write_popdb([*songs, failed_song("d", Status.UNAVAILABLE)], small_settings(tmp_path))


def info(**values: Any) -> dict[str, Any]:
    return {
        "format_version": 4,
        "stats": {"vocal": {"mean": [0.0] * 64}},
        "chunk_frames": 1024,
        "source": "csv",
        "separator": "demucs/1",
        "codec": PUBLISHED_INFO.model_dump(),
        "settings": {"seed": 0},
        "counts": {"pairs": 15_713, "train": 14_142, "validation": 1571},
    } | values


def test_the_hub_understands_the_card(popdb: Popdb, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", no_network)
    data = DatasetCard((popdb.root / "README.md").read_text("utf-8")).data.to_dict()
    assert data["license"] == "other"
    assert data["task_categories"] == ["audio-to-audio"]
    rows = {}
    for config in data["configs"]:
        (table,) = config["data_files"]
        assert re.fullmatch(r"\w+", table["split"])
        assert table["split"] not in ("all", "train")  # reserved, and wrong
        (path,) = popdb.root.glob(table["path"])
        rows[config["config_name"]] = pandas.read_parquet(path)
    assert set(rows) == {"pairs", "songs"}
    assert rows["pairs"]["pair_id"].tolist() == [row["pair_id"] for row in popdb.index]
    assert rows["songs"]["status"].tolist() == ["ok", "ok", "ok", "unavailable"]


@pytest.mark.parametrize(
    ("pairs", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (15_713, "10K<n<100K"), (100_000, "100K<n<1M")],
)
def test_the_size_is_one_of_the_hubs(pairs: int, category: str) -> None:
    card = dataset_card(info(counts={"pairs": pairs}), [])
    assert DatasetCard(card).data.to_dict()["size_categories"] == category


def test_what_the_card_says_about_reading_runs(popdb: Popdb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(popdb.root)
    blocks = re.findall(
        r"^```python\n(.*?)^```", Path("README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    (by_samuel, without) = ({}, {})
    for block, names in zip(blocks, (by_samuel, without), strict=True):
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102  (our own text)
    training = popdb.pairs("train")[:4]
    for i, row in enumerate(training):
        vocal, accompaniment = popdb.read_checked(row)
        assert by_samuel["vocal"][i].equal(vocal)
        assert by_samuel["accompaniment"][i].equal(accompaniment)
    assert len(by_samuel["vocal"]) == len(training) > 0
    np.testing.assert_array_equal(without["vocal"], popdb.read_checked(popdb.index[0])[0].numpy())


def test_the_counts_are_those_of_the_dataset(popdb: Popdb) -> None:
    card = (popdb.root / "README.md").read_text("utf-8")
    table = dict(re.findall(r"^\| ([a-z ]+) \| ([\d,]+) \|$", card, re.MULTILINE))
    assert table == {name.replace("_", " "): str(count) for name, count in popdb.info["counts"].items()}
    assert (table["pairs"], table["songs listed"], table["songs kept"]) == ("6", "4", "3")
    assert "of 2.97 s" in card  # 64 frames of 2048 samples


def test_every_share_is_in_the_histogram() -> None:
    shares = [*np.random.default_rng(0).random(500).tolist(), *(i / 10 for i in range(11)), 1.0]
    counts = [0] * 10
    for share in shares:
        counts[min(next(i for i in range(10, -1, -1) if share >= i / 10), 9)] += 1
    assert [count for _, count in share_counts(shares)] == counts
    card = dataset_card(info(), shares)
    rows = re.findall(r"^\| (\d\.\d) to (\d\.\d) \| (\d+) \| (█*) \|$", card, re.MULTILINE)
    assert [int(row[2]) for row in rows] == counts
    longest = max(range(10), key=lambda i: counts[i])
    assert len(rows[longest][3]) == max(len(row[3]) for row in rows) == 40


def test_one_chunk_among_thousands_is_seen() -> None:
    card = dataset_card(info(), [0.05, *[0.95] * 5000])
    assert "| 0.0 to 0.1 | 1 | █ |" in card
    assert "| 0.1 to 0.2 | 0 |  |" in card


def test_shares_that_were_not_measured_are_not_made_up() -> None:
    card = dataset_card(info(), [])
    assert "was not measured" in card
    assert "█" not in card


def test_the_card_warns_and_says_whose_the_songs_are() -> None:
    card = dataset_card(info(), [])
    assert "Latents decode to audio" in card
    assert "The songs belong to those who wrote" in card
    assert "Stability AI Community License" in card
    assert "no song is on both sides" in card


def test_synthetic_songs_are_the_projects_own() -> None:
    card = dataset_card(info(source="synthetic", codec=MelCodec.info.model_dump()), [])
    assert "the project's own work" in card
    assert "The songs belong to" not in card
    assert "Stability" not in card


def test_published_latents_have_no_split_by_song() -> None:
    card = dataset_card(info(source="published"), [])
    assert "no song is on both sides" not in card
    assert "can be on both sides" in card


def test_the_same_dataset_gives_the_same_card() -> None:
    values = info(settings={"b": 1, "a": 2})
    again = dict(reversed(values.items())) | {"settings": {"a": 2, "b": 1}}
    assert dataset_card(values, [0.5]) == dataset_card(again, [0.5])


def test_what_a_dataset_says_of_itself_is_no_markup() -> None:
    codec = PUBLISHED_INFO.model_dump() | {"version": HOSTILE[:200]}
    given = {"source": HOSTILE, "codec": codec, "separator": HOSTILE, "settings": {HOSTILE: HOSTILE}}
    card, harmless = dataset_card(info(**given), []), dataset_card(info(), [])
    assert DatasetCard(card).data.to_dict() == DatasetCard(harmless).data.to_dict()
    assert re.findall(r"^#.*$", card, re.MULTILINE) == re.findall(r"^#.*$", harmless, re.MULTILINE)
    assert len(re.findall(r"^ {0,3}```", card, re.MULTILINE)) == 6  # three blocks
    (block,) = re.findall(r"^```json\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    assert {name: json.loads(block)[name] for name in given} == given
    before, after = card.split(block)
    assert not any(word in before + after for word in ("script", "cc0", "Free for all", "\x1b", "\u202e"))
