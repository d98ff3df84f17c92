import re
import tempfile
from pathlib import Path

import pytest
import torch

from benchmarks.loader import loader_rows, noise, verify_figure, write_noise
from samuel.errors import DatasetError


def test_the_noise_is_written_in_its_order_and_is_a_sound_dataset(tmp_path: Path) -> None:
    latents = noise(11, 64)
    popdb = write_noise(tmp_path / "popdb", latents)
    for stream, read in enumerate(popdb.read(popdb.index)):
        assert torch.equal(read, torch.from_numpy(latents[:, stream]))
    assert popdb.info["counts"]["train"] == 11
    assert verify_figure(popdb, latents.nbytes).endswith(" MB/s")


def test_a_fault_ends_the_measurement(tmp_path: Path) -> None:
    popdb = write_noise(tmp_path / "popdb", noise(3, 64))
    shard = popdb.root / popdb.index[0]["shard"]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match=shard.name):
        verify_figure(popdb, 1)


def test_every_figure_is_there_and_ratios_are_those_of_the_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = dict(loader_rows(pairs=40, frames=64, opened=30))
    assert [path for path in tmp_path.iterdir() if "pymp-" not in path.name] == []  # multiprocessing's own

    def numbers(name: str) -> list[float]:
        return [float(number.replace(",", "")) for number in re.findall(r"[\d.,]*\d", rows[name])]

    [rate] = numbers("batches of 16, shuffled, float32")
    for name in ("a copy made float32", "a copy of their float16", "a copy of their float32"):
        ratio, base = (float(part.replace(",", "")) for part in rows[f"  against {name}"].split()[0::2])
        assert ratio == pytest.approx(rate / base, abs=0.006)
    ratio, base = numbers("  against a Parquet list column")
    assert ratio == pytest.approx(rate / base, abs=0.06)
    assert rows["dataset"] == "40 pairs of 64 frames, 1 MB"
    assert rows["verify"].endswith(" MB/s")
    assert rows["writing, digests and fsync included"].endswith(" MB/s")
    best_s, first_s = numbers("opening 30 pairs")
    assert 0 < min(best_s, first_s) < 1
    for name in ("left in float16, as for a GPU", "normalised on the CPU", "normalised, read by 2 workers"):
        assert rows[f"  {name}"].endswith(" pairs/s")
    assert numbers("memory growth over an epoch of 40")[0] < 100
