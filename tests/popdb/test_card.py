"""The dataset card: what the hub reads, what a reader runs, and what a hostile dataset cannot say in it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from huggingface_hub import DatasetCard

from samuel.codecs.stable_audio_open import PUBLISHED_INFO
from samuel.popdb.dataset import Popdb
from samuel.popdb.status import Status
from samuel.popdb.writer import dataset_card, write_popdb
from tests.popdb.latents import encoded_song, failed_song, small_settings

HOSTILE = "x\n---\nlicense: cc0-1.0\n# Free for all\n```\n<script>alert(1)</script> | [a](b) \x1b[31m \u202e"


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    root = tmp_path_factory.mktemp("data")
    songs = [encoded_song(root, name) for name in "abc"]
    return write_popdb([*songs, failed_song("d", Status.UNAVAILABLE)], small_settings(root))


def info(**values: Any) -> dict[str, Any]:
    return {
        "format_version": 4,
        "chunk_frames": 1024,
        "source": "csv",
        "separator": "demucs/1",
        "codec": PUBLISHED_INFO.model_dump(),
        "settings": {"seed": 0},
        "counts": {"pairs": 15_713, "train": 14_142, "validation": 1571},
    } | values


def test_the_hub_understands_the_card(popdb: Popdb) -> None:
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
    for pairs, category in ((999, "n<1K"), (1000, "1K<n<10K"), (100_000, "100K<n<1M")):
        card = dataset_card(info(counts={"pairs": pairs}), [])
        assert DatasetCard(card).data.to_dict()["size_categories"] == category


def test_what_the_card_says_about_reading_runs(popdb: Popdb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(popdb.root)
    card = Path("README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    by_samuel: dict[str, Any] = {}
    without: dict[str, Any] = {}
    for block, names in zip(blocks, (by_samuel, without), strict=True):
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102  (our own text)
    training = popdb.pairs("train")[:4]
    for i, row in enumerate(training):
        vocal, accompaniment = popdb.read_checked(row)
        assert by_samuel["vocal"][i].equal(vocal)
        assert by_samuel["accompaniment"][i].equal(accompaniment)
    assert len(by_samuel["vocal"]) == len(training) > 0
    np.testing.assert_array_equal(without["vocal"], popdb.read_checked(popdb.index[0])[0].numpy())
    table = dict(re.findall(r"^\| ([a-z ]+) \| ([\d,]+) \|$", card, re.MULTILINE))
    assert table == {name.replace("_", " "): str(count) for name, count in popdb.info["counts"].items()}


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
