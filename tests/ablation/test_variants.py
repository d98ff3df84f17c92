from pathlib import Path

import pytest

from samuel.ablation import planned_fits, variants
from samuel.config import Factor, Settings, parse


def choices(settings: Settings) -> dict[str, object]:
    model, diffusion = settings.model, settings.diffusion
    return {
        "mixing": model.mixing,
        "window": model.window,
        "condition_dropout": diffusion.condition_dropout,
        "loss_weight": diffusion.loss_weight,
    }


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ({}, {"mixing": 4, "window": 3, "condition_dropout": 3, "loss_weight": 2}),
        (
            {"model": {"window": 12}, "diffusion": {"condition_dropout": 0.3}},
            {"mixing": 4, "window": 4, "condition_dropout": 4, "loss_weight": 2},
        ),
    ],
)
def test_a_variant_differs_in_one_choice_and_none_is_there_twice(
    changed: dict[str, dict[str, float]], counts: dict[str, int]
) -> None:
    settings = parse(changed)
    base, *others = variants(settings)
    assert (base.factor, base.settings) == (None, settings)
    differing = []
    for variant in others:
        own, new = choices(settings), choices(variant.settings)
        differing += [(name, new[name]) for name in own if own[name] != new[name]]
        assert differing[-1] == (variant.factor, variant.value)
        assert Settings.model_validate_json(variant.settings.model_dump_json()) == variant.settings
    assert len(differing) == len(others) == len(set(differing))
    assert {factor: sum(name == factor for name, _ in differing) for factor in counts} == counts


def test_the_values_are_the_papers_questions() -> None:
    found: dict[Factor | None, set[object]] = {}
    for variant in variants(parse({"model": {"window": 2, "mixing": "even"}})):
        found.setdefault(variant.factor, set()).add(variant.value)
    assert found["window"] == {8, 16, 32, 64}
    assert found["mixing"] == {"eq3", "prose", "global", "local"}
    assert found["condition_dropout"] == {0.0, 0.05, 0.2}
    assert found["loss_weight"] == {"snr", "uniform"}


def test_a_factor_that_is_named_twice_is_varied_once() -> None:
    settings = parse({"ablation": {"factors": ["window", "window"]}})
    assert [variant.value for variant in variants(settings)] == [None, 8, 32, 64]


def test_every_variant_has_every_seed_and_nothing_else_changes() -> None:
    settings = parse({"ablation": {"factors": ["window"], "seeds": 3}, "training": {"seed": 2**32 - 2}})
    planned = planned_fits(settings)
    assert [fit.seed for fit in planned] == [2**32 - 2] * 4 + [2**32 - 1] * 4 + [0] * 4
    for fit in planned:
        assert fit.settings.training.seed == fit.seed
        again = fit.settings.training.model_copy(update={"seed": settings.training.seed})
        assert fit.settings.model_copy(update={"training": again}) == fit.variant.settings
    assert len({fit.name for fit in planned}) == len(planned)


def test_paths_stay_as_they_are(tmp_path: Path) -> None:
    settings = parse({"data": tmp_path, "artifacts": tmp_path / "a"})
    assert {fit.settings.artifacts for fit in planned_fits(settings)} == {tmp_path / "a"}
