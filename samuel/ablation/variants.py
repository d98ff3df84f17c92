"""What an ablation trains: the settings as they are, and every other value of each factor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, get_args

from samuel.config import Factor, LossWeight, Mixing, Settings

Value: TypeAlias = str | int | float

AS_SET = "as set"
SEEDS = 2**32  # there are no more

VALUES: Mapping[Factor, tuple[Value, ...]] = {
    "mixing": get_args(Mixing),
    "window": (8, 16, 32, 64),
    "condition_dropout": (0.0, 0.05, 0.1, 0.2),
    "loss_weight": get_args(LossWeight),
}
"""The values that are compared; those of window and condition dropout are the papers' open questions."""

SECTIONS: Mapping[Factor, str] = {
    "mixing": "model",
    "window": "model",
    "condition_dropout": "diffusion",
    "loss_weight": "diffusion",
}


@dataclass(frozen=True)
class Variant:
    """Settings that differ in one choice from those an ablation starts from.

    Attributes:
        factor: What differs; None: nothing does.
        value: The choice; None where nothing differs.
        settings: The whole tree.
    """

    factor: Factor | None
    value: Value | None
    settings: Settings

    @property
    def name(self) -> str:
        """For people: "window = 8"."""
        return AS_SET if self.factor is None else f"{self.factor} = {self.value}"


@dataclass(frozen=True)
class PlannedFit:
    """One training of one variant.

    Attributes:
        variant: What is trained.
        seed: Of its weights, batches, noise and dropout.
    """

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """For people: "window = 8, seed 0"."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def settings(self) -> Settings:
        """The variant's, with this seed."""
        return _changed(self.variant.settings, "training", "seed", self.seed)


def variants(settings: Settings) -> list[Variant]:
    """The settings as they are, once, then each other value of every factor of `settings.ablation`."""
    found = [Variant(None, None, settings)]
    for factor in dict.fromkeys(settings.ablation.factors):
        section, own = SECTIONS[factor], value_of(settings, factor)
        found += [
            Variant(factor, value, _changed(settings, section, factor, value))
            for value in VALUES[factor]
            if value != own
        ]
    return found


def planned_fits(settings: Settings) -> list[PlannedFit]:
    """Every variant with every seed, from `settings.training.seed` on; seed by seed."""
    seeds = [(settings.training.seed + place) % SEEDS for place in range(settings.ablation.seeds)]
    return [PlannedFit(variant, seed) for seed in seeds for variant in variants(settings)]


def value_of(settings: Settings, factor: Factor) -> Value:
    """What the settings say of a factor."""
    return getattr(getattr(settings, SECTIONS[factor]), factor)


def _changed(settings: Settings, section: str, name: str, value: Value) -> Settings:
    old = getattr(settings, section)
    return settings.model_copy(update={section: old.model_copy(update={name: value})})
