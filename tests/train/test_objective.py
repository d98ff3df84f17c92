import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from samuel.config import Settings
from samuel.model.diffusion import CosineSchedule
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser
from samuel.train import Training
from samuel.train.objective import Objective
from tests.popdb.latents import small_settings
from tests.train.trainings import weights

CPU = torch.device("cpu")
SHAPE = (8, 64, 64)


def objective(settings: Settings) -> Objective:
    return Objective(settings, CPU)


def test_what_is_drawn_does_not_depend_on_how_the_batch_is_shared(settings: Settings) -> None:
    drawn = objective(settings)
    whole = drawn.draw(3, SHAPE, slice(None))
    parts = [drawn.draw(3, SHAPE, slice(first, first + 2)) for first in range(0, 8, 2)]
    for name in ("t", "eps", "dropped"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert torch.equal(drawn.draw(3, SHAPE, slice(None)).eps, whole.eps)
    assert not torch.equal(drawn.draw(4, SHAPE, slice(None)).eps, whole.eps)


def test_timesteps_are_stratified_and_uniform(settings: Settings) -> None:
    drawn = objective(settings)
    steps = torch.stack([drawn.draw(step, (8, 1, 8), slice(None)).t for step in range(400)])
    assert torch.equal(steps * 8 // 800, torch.arange(8).expand(400, 8))  # one of each eighth, always
    within = (steps % 100).double()
    assert within.mean().item() == pytest.approx(49.5, abs=4 * 28.9 / math.sqrt(within.numel()))


@pytest.mark.parametrize("count", [2, 16, 256])
def test_the_uppermost_draw_is_still_a_timestep(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    uppermost = torch.tensor(1.0).nextafter(torch.tensor(0.0))
    monkeypatch.setattr(torch, "rand", lambda count, **_: uppermost.expand(count))
    drawn = objective(settings)
    t = drawn.draw(0, (count, 1, 8), slice(None)).t
    assert t.max().item() == 799
    assert drawn.weight[t].shape == (count,)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 1.0])
def test_the_rate_of_dropped_conditions_is_that_of_the_settings(tmp_path: Path, rate: float) -> None:
    drawn = objective(small_settings(tmp_path, diffusion={"condition_dropout": rate}))
    dropped = torch.stack([drawn.draw(step, (16, 1, 8), slice(None)).dropped for step in range(500)]).double()
    error = 4 * math.sqrt(rate * (1 - rate) / dropped.numel())
    assert dropped.mean().item() == pytest.approx(rate, abs=error)
    if 0 < rate < 1:  # items, not batches
        assert 0 < dropped.mean(dim=1).var().item() < 2 * rate * (1 - rate) / 16


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("uniform", torch.ones_like),
        ("snr", lambda snr: snr.clamp(max=5)),
        ("min_snr", lambda snr: snr.clamp(max=5) / (snr + 1)),
    ],
)
def test_the_loss_is_weighted_by_its_formula(tmp_path: Path, name: str, expected: Any) -> None:
    drawn = objective(small_settings(tmp_path, diffusion={"loss_weight": name}))
    alpha_bar = CosineSchedule().alpha_bar.double()
    assert torch.allclose(drawn.weight.double(), expected(alpha_bar / (1 - alpha_bar)), rtol=1e-3)


def moved(popdb: Popdb, root: Path, **training: Any) -> Tensor:
    """Weights after three steps."""
    settings = small_settings(root, training={"batch_size": 8, **training})
    fit = Training(popdb, settings, root / "run")
    for _ in range(3):
        fit.step()
        fit.progress.step += 1
    return weights(fit)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_batch_in_parts_is_the_same_batch(popdb: Popdb, tmp_path: Path, parts: int) -> None:
    whole = moved(popdb, tmp_path)
    assert torch.allclose(moved(popdb, tmp_path, accumulate=parts), whole, atol=2e-5)
    assert not torch.allclose(moved(popdb, tmp_path, batch_size=4), whole, atol=2e-5)


def test_augmentation_reaches_the_vocal_and_nothing_else(popdb: Popdb, tmp_path: Path) -> None:
    def heard(**augmentation: float) -> list[tuple[Tensor, Tensor]]:
        settings = small_settings(tmp_path, training={"batch_size": 4, "augmentation": augmentation})
        fit, found = Training(popdb, settings, tmp_path / "run"), []
        original = fit.objective.errors

        def errors(network: Any, x0: Tensor, vocal: Tensor, drawn: Any) -> Any:
            found.append((x0, vocal))
            return original(network, x0, vocal, drawn)

        fit.objective.errors = errors
        fit.step()
        return found

    [(x0, plain)], [(same, noisy)] = heard(), heard(noise=0.5)
    assert torch.equal(x0, same)
    deviations = (noisy - plain).std(dim=(1, 2))
    assert (deviations > 0).all() and (deviations < 0.51).all()
    assert len(set(deviations.tolist())) == 4  # every item its own
    assert torch.equal(heard(noise=0.5)[0][1], noisy)


def test_shards_in_half_precision_give_the_loss_of_whole(
    popdb: Popdb, settings: Settings, tmp_path: Path
) -> None:
    """The latents before they were rounded to float16, against what is read."""
    fit = Training(popdb, settings, tmp_path / "run")
    for _ in range(3):
        fit.step()
        fit.progress.step += 1
    halves = fit.batches.pairs.batch(fit.batches.places(3))
    generator, normaliser = torch.Generator().manual_seed(0), Normaliser.of(popdb.stats)
    # Somewhere within the interval that float16 rounds to the value that was stored.
    exact = [
        half + half.float() * 2**-12 * (2 * torch.rand(half.shape, generator=generator) - 1)
        for half in halves
    ]
    drawn = fit.objective.draw(3, tuple(exact[0].shape), slice(None))
    losses = []
    for vocal, x0 in (halves, exact):
        error, weight = fit.objective.errors(
            fit.module, normaliser.accompaniment(x0), normaliser.vocal(vocal), drawn
        )
        losses.append((error * weight).mean().item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0] != losses[1]


def test_bf16_autocast_gives_nearly_the_same_loss(popdb: Popdb, tmp_path: Path) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        settings = small_settings(tmp_path, training={"precision": precision, "batch_size": 4})
        fit = Training(popdb, settings, tmp_path / precision)
        fit.step()
        fit.progress.step += 1
        losses.append(fit.step()["loss"])
        assert weights(fit).dtype == torch.float32
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert losses[0] != losses[1]
