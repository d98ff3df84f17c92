import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks import samplers
from benchmarks.__main__ import benchmarks
from benchmarks.loader import noise, write_noise
from benchmarks.samplers import Row, draws, held_out, table
from samuel.artifacts import read_jsonl
from samuel.checkpoint import TrainedModel, save_model
from samuel.config import DiffusionConfig, SamplingConfig
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser
from tests.model.conftest import SMALL, awake

FRAMES = 32
PLANNED = [SamplingConfig(steps=steps, seed=seed) for steps in (2, 3) for seed in range(2)]


@pytest.fixture
def popdb(tmp_path: Path) -> Popdb:
    return write_noise(tmp_path / "popdb", noise(5, 64))


@pytest.fixture
def model(popdb: Popdb) -> TrainedModel:
    return TrainedModel(
        network=awake().eval(),
        normaliser=Normaliser.of(popdb.stats),
        diffusion=DiffusionConfig(timesteps=50),
        codec=popdb.codec,
        frames=64,
        sha256="a" * 64,
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[SamplingConfig]:
    """What was drawn and not found."""
    seen: list[SamplingConfig] = []
    draw = samplers._draw

    def keep(*arguments: Any) -> Row:
        seen.append(arguments[-1])
        return draw(*arguments)

    monkeypatch.setattr(samplers, "_draw", keep)
    return seen


def test_what_is_recorded_is_not_drawn_again(
    model: TrainedModel, popdb: Popdb, drawn: list[SamplingConfig], tmp_path: Path
) -> None:
    record = tmp_path / "samplers.jsonl"
    first = next(iter(draws(model, popdb, PLANNED, FRAMES, record)))  # and then it is killed
    assert drawn == PLANNED[:1]
    rows = list(draws(model, popdb, PLANNED, FRAMES, record))
    assert drawn == PLANNED
    assert rows[0] == first
    assert read_jsonl(record) == rows
    assert list(draws(model, popdb, PLANNED, FRAMES, record)) == rows
    assert drawn == PLANNED
    fields = SamplingConfig.model_fields
    assert [SamplingConfig(**{name: row[name] for name in fields}) for row in rows] == PLANNED


def test_a_seed_gives_its_distance_again_and_another_seed_another(
    model: TrainedModel, popdb: Popdb, tmp_path: Path
) -> None:
    once, again = (
        [row["frechet"] for row in draws(model, popdb, PLANNED[:2], FRAMES, tmp_path / name)] for name in "ab"
    )
    assert once == again
    assert once[0] != once[1]
    assert min(once) > 0


def test_items_are_stretches_of_all_pairs(popdb: Popdb, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = torch.cat([stream.float() for stream in popdb.read(popdb.index)], dim=-1)  # (5, C, 2 · 64)
    for stream, latents in enumerate(held_out(popdb, FRAMES)):
        halves = [pair[:, 64 * stream :][:, at : at + FRAMES] for pair in expected for at in (0, FRAMES)]
        assert torch.equal(latents, torch.stack(halves))
    monkeypatch.setattr(samplers, "ITEMS", 3)
    vocal, _ = held_out(popdb, FRAMES)
    assert torch.equal(vocal, torch.stack([expected[0, :, :32], expected[2, :, :32], expected[4, :, 32:64]]))
    assert held_out(popdb, 50)[0].shape == (3, 64, 50)


def rows_of(sampler: str, steps: int, guidance: float, distances: Sequence[float]) -> list[Row]:
    return [
        {"sampler": sampler, "steps": steps, "guidance_scale": guidance, "seed": seed, "frechet": distance}
        for seed, distance in enumerate(distances)
    ]


def test_the_table_holds_means_deviations_and_ratios_to_the_reference_of_the_same_guidance() -> None:
    rows = [
        *rows_of("unipc", 8, 2.0, [10.0, 12.0, 14.0]),
        *rows_of("unipc", 8, 1.0, [3.0]),
        *rows_of("ddim", 10, 4.0, [7.0]),
        *rows_of("ddpm", 800, 2.0, [9.0, 11.0]),
        *rows_of("ddpm", 800, 1.0, [4.0]),
    ]
    columns = ("sampler", "steps", "guidance", "Fréchet distance", "to the reference")
    assert [tuple(row[column] for column in columns) for row in table(rows)] == [
        ("unipc", "8", "2", "12.000 ± 2.000", "1.200"),
        ("unipc", "8", "1", "3.000", "0.750"),
        ("ddim", "10", "4", "7.000", ""),
        ("ddpm", "800", "2", "10.000 ± 1.414", "1.000"),
        ("ddpm", "800", "1", "4.000", "1.000"),
    ]


def test_the_command_prints_every_setting_and_the_table(
    popdb: Popdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers, "CANDIDATES", (("unipc", 2),))
    monkeypatch.setattr(samplers, "REFERENCE", ("ddpm", 20))
    record = {
        "model": SMALL.model_dump(mode="json"),
        "diffusion": {"timesteps": 20},
        "stats": popdb.stats,
        "codec": popdb.info["codec"],
        "frames": 64,
    }
    save_model(tmp_path / "model", awake().state_dict(), record)
    (tmp_path / "settings.json").write_text(json.dumps({"popdb": {"path": str(popdb.root)}, "device": "cpu"}))
    drawn = tmp_path / "samplers.jsonl"
    files = ["--settings", tmp_path / "settings.json", "--model", tmp_path / "model", "--record", drawn]
    command = ["samplers", *map(str, files), "--frames", "32", "--reference-seeds", "1"]
    done = CliRunner().invoke(benchmarks, [*command, "--seeds", "2"])
    *lines, empty, _, unipc, ddpm = done.output.splitlines()
    assert [line.split(" steps")[0] for line in lines] == ["unipc, 2", "unipc, 2", "ddpm, 20"]
    assert empty == ""
    first, second, reference = [row["frechet"] for row in read_jsonl(drawn)]
    assert unipc.split()[3] == f"{(first + second) / 2:.3f}"
    assert unipc.split()[-1] == f"{(first + second) / 2 / reference:.3f}"
    assert ddpm.split()[-2:] == [f"{reference:.3f}", "1.000"]
