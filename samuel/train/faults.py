"""What ends a training early, and what to do about it."""

from collections.abc import Callable, Mapping

import torch

from samuel.errors import DatasetError, OperatorError

DIVERGED = 3.0
"""Mean squared error of v over some steps that no training comes back from: a network that answers zero has
about 1, as the latents are normalised."""

WINDOW = 20
"""Steps whose mean is looked at: one batch says little."""

WANTS = ("can't allocate memory", "out of memory")
"""How the errors of a CPU and of an Apple GPU read, which have no class of their own."""


def watch(recent: list[float], step: int, v_mse: float) -> None:
    """Take the error of v of a step into `recent`, which holds that of the last `WINDOW` steps.

    Raises:
        DatasetError: Their mean is above `DIVERGED`.
    """
    recent[:] = [*recent, v_mse][-WINDOW:]
    mean = sum(recent) / len(recent)
    if len(recent) == WINDOW and mean > DIVERGED:
        raise DatasetError(
            f"step {step}: the error of v is {mean:.3g} over the last {WINDOW} steps, about 1 before "
            "anything is learned: the training diverged. Its last checkpoint is kept; lower "
            "training.learning_rate, or lengthen training.warmup_steps"
        )


def not_finite(step: int, loss: float, norm: float, finite: Mapping[str, bool]) -> DatasetError:
    """The error of a step whose loss or gradient is not a finite number.

    Args:
        step: Which.
        loss: Its loss.
        norm: The norm of its gradient.
        finite: Its pairs by name, and whether their latents are finite.
    """
    if broken := [name for name, whole in finite.items() if not whole]:
        return DatasetError(
            f"step {step}: NaN or infinity in the latents of {', '.join(broken)}; run samuel verify --repair"
        )
    return DatasetError(
        f"step {step}: the loss is {loss:.4g} and the gradient's norm {norm:.4g}, for pairs whose latents "
        f"are finite: {', '.join(finite)}; lower training.learning_rate, or set training.precision to fp32"
    )


def out_of_memory(
    error: BaseException, batch: int, parts: int, fits: Callable[[int], bool]
) -> OperatorError | None:
    """What to say where `error` is a want of memory; None where it is something else.

    Args:
        error: What a step raised.
        batch: Pairs of a batch on this process.
        parts: Parts it was computed in.
        fits: Tries some pairs at a time.
    """
    if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in WANTS):
        return None
    size = batch // parts
    while size > 1:
        size = max(part for part in range(1, size // 2 + 1) if batch % part == 0)  # equal parts
        if fits(size):
            return OperatorError(
                f"{batch // parts} pairs at a time do not fit in memory, {size} do: training.accumulate = "
                f"{batch // size} gives the same training, in parts of {size}"
            )
    return OperatorError("not even one pair fits in memory; free the device, or take narrower model.channels")
