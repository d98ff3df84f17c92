import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from samuel.errors import DatasetError, InputError
from samuel.hub import quietly
from samuel.popdb.dataset import Popdb
from samuel.popdb.exchange import export_stable_audio
from samuel.popdb.writer import write_popdb
from tests.popdb.latents import FRAMES, encoded_song, small_settings

TITLE = 'A\r\n" \N{LINE SEPARATOR}\x00 ../../sóng'
SIZES: dict[str, Any] = {"batch_size": 2, "sample_size": FRAMES * 2048, "sample_rate": 44_100}
# It asks for pinned memory wherever it runs.
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")


@pytest.fixture(scope="module")
def popdb(tmp_path_factory: pytest.TempPathFactory) -> Popdb:
    root = tmp_path_factory.mktemp("data")
    songs = [encoded_song(root, name, 3) for name in "abcde"]
    titled = [replace(song, song=replace(song.song, title=TITLE)) for song in songs]
    return write_popdb(titled, small_settings(root, popdb={"validation_share": 0.4, "pairs_per_shard": 2}))


@pytest.fixture
def exported(popdb: Popdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The set, at another place than it was written to, and the process in it."""
    export_stable_audio(popdb, tmp_path / "written").rename(tmp_path / "moved.npy set")
    monkeypatch.chdir(tmp_path / "moved.npy set")
    return Path()


def loader(config: dict[str, Any], **changes: Any) -> Any:
    with quietly():
        from stable_audio_tools.data.dataset import create_dataloader_from_config

        return create_dataloader_from_config(config | changes, num_workers=1, **SIZES)


def items(config: Path, **changes: Any) -> Iterator[tuple[NDArray[np.float16], dict[str, Any]]]:
    for latents, metadata in loader(json.loads(config.read_text()), **changes):
        yield from zip(latents.numpy(), metadata, strict=True)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def latents_of(popdb: Popdb, split: str) -> dict[str, tuple[NDArray[np.float16], NDArray[np.float16]]]:
    rows = popdb.pairs(split)
    vocal, accompaniment = (tensor.numpy() for tensor in popdb.read(rows))
    return {row["pair_id"]: (vocal[i], accompaniment[i]) for i, row in enumerate(rows)}


@pytest.mark.parametrize(
    ("config", "split"), [("dataset_config.json", "train"), ("validation_dataset_config.json", "validation")]
)
def test_the_tools_own_loader_gives_every_pair_once(
    config: str, split: str, popdb: Popdb, exported: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted, seen = latents_of(popdb, split), []
    assert len(wanted) > 2
    for accompaniment, item in items(exported / config, drop_last=False):
        vocal, own = wanted[item["pair_id"]]
        assert accompaniment.dtype == item["vocal"].numpy().dtype == np.float16
        assert np.array_equal(accompaniment, own)
        assert np.array_equal(item["vocal"].numpy(), vocal)
        assert item["padding_mask"][0].tolist() == [1] * FRAMES
        assert item["seconds_total"] == pytest.approx(FRAMES * 2048 / 44_100, abs=1e-4)
        assert item["title"] == TITLE
        seen.append(item["pair_id"])
    assert sorted(seen) == sorted(wanted)
    assert "Couldn't load" not in capfd.readouterr().out


def test_both_streams_are_cropped_alike(
    popdb: Popdb, exported: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted, starts = latents_of(popdb, "train"), set()
    crop = {"latent_crop_length": 16, "random_crop": True, "drop_last": False}
    for accompaniment, item in items(exported / "dataset_config.json", **crop):
        start = item["latent_crop_start"]
        vocal, own = (latents[:, start : start + 16] for latents in wanted[item["pair_id"]])
        assert np.array_equal(accompaniment, own)
        assert np.array_equal(item["vocal"].numpy(), vocal)
        starts.add(start)
    assert len(starts) > 1
    assert "Couldn't load" not in capfd.readouterr().out


def test_the_vocal_alone_goes_missing_with_its_file(
    exported: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the loader does with an item that it cannot read: the tests above would see it."""
    first = min((exported / "vocal" / "train").iterdir())
    first.unlink()
    seen = [item["pair_id"] for _, item in items(exported / "dataset_config.json", drop_last=False)]
    assert first.stem not in seen
    assert "Couldn't load" in capfd.readouterr().out


def test_a_model_of_the_tool_is_conditioned_as_the_readme_says(exported: Path) -> None:
    found = re.search(r"```json\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert found
    told = json.loads(found[1])
    told["diffusion"]["config"] |= {"embed_dim": 64, "depth": 1, "num_heads": 1}
    with quietly():
        from stable_audio_tools.models.factory import create_model_from_config

        torch.manual_seed(0)
        config = {"model_type": "diffusion_cond", "sample_rate": 44_100, "sample_size": FRAMES * 2048}
        model: Any = create_model_from_config(config | {"model": {"io_channels": 64, **told}})
    with torch.no_grad():
        torch.nn.init.normal_(model.model.model.transformer.project_out.weight)  # zeros at first
    latents, metadata = next(iter(loader(json.loads((exported / "dataset_config.json").read_text()))))
    noised = latents * torch.ones(2, 1, 1)  # as its training does it: by float32 factors
    outputs = []
    for vocals in (metadata, metadata[::-1]):
        condition = model.conditioner(vocals, "cpu")
        assert torch.equal(condition["vocal"][0][0], vocals[0]["vocal"])
        outputs.append(model(noised, torch.full((2,), 0.5), cond=condition))
    assert outputs[0].shape == latents.shape
    assert outputs[0].isfinite().all()
    assert not torch.allclose(outputs[0], outputs[1])


def test_what_is_there_already_is_left(popdb: Popdb, tmp_path: Path) -> None:
    calls: list[None] = []
    folder = export_stable_audio(popdb, tmp_path / "set", lambda: calls.append(None))
    before = folder.stat().st_mtime_ns
    export_stable_audio(popdb, folder, lambda: calls.append(None))
    assert len(calls) == len(popdb.index)
    assert folder.stat().st_mtime_ns == before
    assert names(tmp_path) == {"set", ".locks"}


def test_nothing_else_is_replaced(popdb: Popdb, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    for folder in (tmp_path / "set", tmp_path / "set" / "mine.txt"):
        with pytest.raises(InputError, match="something else is there"):
            export_stable_audio(popdb, folder)
    assert (tmp_path / "set" / "mine.txt").read_text() == "mine"


def test_a_dataset_that_has_changed_is_not_mixed_with_the_old(tmp_path: Path) -> None:
    songs = [encoded_song(tmp_path, name) for name in "abc"]
    folder = export_stable_audio(write_popdb(songs[:2], small_settings(tmp_path)), tmp_path / "set")
    with pytest.raises(InputError, match="something else is there"):
        export_stable_audio(write_popdb(songs, small_settings(tmp_path)), folder)


def test_a_broken_export_leaves_nothing(popdb: Popdb, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()  # empty: may be used

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_stable_audio(popdb, tmp_path / "set", stop)
    assert names(tmp_path) == {"set", ".locks"}
    export_stable_audio(popdb, tmp_path / "set")
    assert (tmp_path / "set" / "details.json").is_file()


def test_a_pair_that_has_changed_is_not_exported(tmp_path: Path) -> None:
    popdb = write_popdb([encoded_song(tmp_path, name) for name in "ab"], small_settings(tmp_path))
    shard = popdb.root / popdb.index[0]["shard"]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DatasetError, match="not the latents of the index"):
        export_stable_audio(popdb, tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["../up", "a.npy", "a/b", "", "a\0", "x" * 101, "A"])
def test_an_id_that_is_no_file_name_is_refused(name: str, tmp_path: Path) -> None:
    songs = [encoded_song(tmp_path, known) for known in "ab"]
    popdb = write_popdb(songs, small_settings(tmp_path))
    ids = [f"{name}-000" if name == "A" else name, *popdb.table["pair_id"].to_pylist()[1:]]
    if name == "A":
        ids[1] = "a-000"
    table = popdb.table.set_column(0, "pair_id", [ids])
    hostile = replace(popdb, table=table)
    with pytest.raises(DatasetError, match="pair id"):
        export_stable_audio(hostile, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_no_held_out_pairs_no_configuration_for_them(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, popdb={"validation_share": 0.0})
    folder = export_stable_audio(write_popdb([encoded_song(tmp_path, "a")], settings), tmp_path / "set")
    assert not (folder / "validation_dataset_config.json").exists()
    assert "validation" not in (folder / "README.md").read_text()
