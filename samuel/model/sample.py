"""The reverse process: noise and a vocal in, accompaniment latents out (paper §IV-C, §V).

Shapes: B batch, C channels, T frames. Samplers are diffusers' schedulers on our own betas.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from samuel.config import SamplingConfig
from samuel.errors import SettingsError
from samuel.model.diffusion import CosineSchedule

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x_t, t, vocal or None) -> v
Callback = Callable[[int, int], None]  # (step, steps in all)


@runtime_checkable
class NullConditioned(Protocol):
    """A denoiser that can show its null condition, so that guidance needs one call a step, not two."""

    def condition(self, vocal: Tensor, drop_mask: Tensor) -> Tensor:
        """Replace the vocal of dropped items."""
        ...


@torch.no_grad()
def sample(
    model: Denoiser,
    vocal: Tensor,
    schedule: CosineSchedule,
    config: SamplingConfig,
    generator: torch.Generator,
    callback: Callback | None = None,
) -> Tensor:
    """Draw the accompaniment of a vocal, all in normalised latents.

    A pure function of its arguments: the generator makes the starting noise and what DDPM adds on the way,
    so the same seed gives the same result.

    Args:
        model: Anything that predicts v from (x_t (B, C, T), t int64 (B,), vocal (B, C, T) or None).
        vocal: Vocal latents, (B, C, T).
        schedule: The schedule the model was trained on.
        config: Sampler, number of steps, guidance scale; its seed is for the caller's generator.
        generator: On any device; the noise is moved to the vocal's.
        callback: Called after every step with (steps done, steps in all).

    Returns:
        x0, (B, C, T).

    Raises:
        SettingsError: More steps than the schedule has.
    """
    velocity = guided(model, vocal, config.guidance_scale)
    solver = make_solver(schedule, config)
    solver.set_timesteps(config.steps, device=vocal.device)
    noise = torch.randn(vocal.shape, generator=generator, device=generator.device, dtype=vocal.dtype)
    x = noise.to(vocal.device)
    extra = {"generator": generator} if config.sampler == "ddpm" else {}
    for step, t in enumerate(solver.timesteps, start=1):
        v = velocity(x, t.long().expand(len(x)))
        x = solver.step(v, t, x, **extra).prev_sample
        if callback is not None:
            callback(step, len(solver.timesteps))
    return x


def guided(model: Denoiser, vocal: Tensor, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Classifier-free guidance (paper §V): v = v_null + scale · (v_cond - v_null).

    Scale 1 asks the model once, without the null condition. Otherwise the two questions go as one batch of
    two if the model can show its null condition, and as two calls if not.

    Args:
        model: The denoiser.
        vocal: Vocal latents, (B, C, T).
        scale: Guidance scale; 0 ignores the vocal.

    Returns:
        A function (x_t (B, C, T), t (B,)) -> v (B, C, T).
    """
    if scale == 1:
        return lambda x, t: model(x, t, vocal)
    both = _with_null(model, vocal) if isinstance(model, NullConditioned) else None

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        if both is None:
            v_cond, v_null = model(x, t, vocal), model(x, t, None)
        else:
            v_cond, v_null = model(x.repeat(2, 1, 1), t.repeat(2), both).chunk(2)
        return v_null + scale * (v_cond - v_null)

    return velocity


def _with_null(model: NullConditioned, vocal: Tensor) -> Tensor:
    """The vocal and, after it, as many null conditions: (2B, C, T)."""
    everything = torch.ones(len(vocal), dtype=torch.bool, device=vocal.device)
    return torch.cat((vocal, model.condition(vocal, everything)))


def make_solver(schedule: CosineSchedule, config: SamplingConfig) -> Any:
    """The diffusers scheduler behind a sampler's name, on our betas.

    Timesteps are "trailing" (arXiv 2305.08891): the schedule ends at zero signal, so the first evaluation
    must stand at the very last timestep. Samples are not clipped: latents have no bounds. Karras and Lu
    spacings crash on a cosine schedule (diffusers #12771).

    Raises:
        SettingsError: More steps than the schedule has.
    """
    if config.steps > schedule.timesteps:
        raise SettingsError(
            f"sampling.steps = {config.steps}: the schedule has {schedule.timesteps} timesteps, take no more"
        )
    import diffusers  # noqa: PLC0415  # takes seconds to import, and training never needs it

    common = {
        "num_train_timesteps": schedule.timesteps,
        "trained_betas": schedule.betas.cpu().numpy(),
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
    }
    solvers: dict[str, Callable[[], Any]] = {
        "ddpm": lambda: diffusers.DDPMScheduler(**common, clip_sample=False),
        "ddim": lambda: diffusers.DDIMScheduler(**common, clip_sample=False),
        "dpmsolver++": lambda: diffusers.DPMSolverMultistepScheduler(**common, algorithm_type="dpmsolver++"),
        "unipc": lambda: diffusers.UniPCMultistepScheduler(**common),
    }
    return solvers[config.sampler]()
