"""The reverse process: noise and a vocal in, accompaniment latents out (paper §IV-C, §V).

Shapes: B batch, C channels, T frames. The samplers are diffusers' schedulers on our own betas.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from samuel.config import Sampler, SamplingConfig
from samuel.errors import SettingsError
from samuel.model.diffusion import CosineSchedule
from samuel.model.guidance import Denoiser, Velocity, guided
from samuel.model.windows import VocalConditioned

Callback = Callable[[int, int], object]  # (step, steps in all)


@dataclass(frozen=True)
class Kept:
    """Parts of an accompaniment that stay as they are while the rest is drawn."""

    x0: Tensor  # normalised latents, (B, C, T); where nothing is kept, anything finite
    mask: Tensor  # bool (T,), True = kept


def keeping(velocity: Velocity, kept: Kept, schedule: CosineSchedule) -> Velocity:
    """The same denoiser, for which the clean latents of what is kept are known.

    It predicts v = (√ᾱ_t · x_t - x0) / √(1 - ᾱ_t) there (eq. 4 solved for v). Any solver then leads those
    frames from their noise to x0 and nowhere else, and the network sees them at the noise level of all
    others. Differs from RePaint (arXiv 2201.09865), which noises them anew at every step: here
    a solver of higher order finds its own history in them.
    """

    def known(x: Tensor, timestep: int) -> Tensor:
        t = torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)
        signal, noise = schedule.levels(t, x)
        return torch.where(kept.mask, (signal * x - kept.x0) / noise, velocity(x, timestep))

    return known


@torch.no_grad()
def sample(
    model: Denoiser | VocalConditioned,
    vocal: Tensor,
    schedule: CosineSchedule,
    config: SamplingConfig,
    generator: torch.Generator,
    callback: Callback | None = None,
    kept: Kept | None = None,
) -> Tensor:
    """Draw the accompaniment of a vocal, all in normalised latents.

    A pure function of its arguments: the generator makes the starting noise and what DDPM adds on the way,
    so the same seed gives the same result.

    Args:
        model: Anything that predicts v from (x_t (B, C, T), t int64 (B,), vocal (B, C, T) or None).
        vocal: Vocal latents, (B, C, T).
        schedule: The schedule the model was trained on.
        config: Sampler, number of steps, guidance; its seed and precision are for the caller.
        generator: On any device; the noise is moved to the vocal's.
        callback: Called after every step with (steps done, steps in all).
        kept: Parts of the accompaniment that are known.

    Returns:
        x0, (B, C, T).

    Raises:
        SettingsError: More steps than the schedule has.
    """
    velocity = guided(model, vocal, config, schedule.timesteps)
    if kept is not None:
        velocity = keeping(velocity, kept, schedule)
    solver = make_solver(schedule, config)
    noise = torch.randn(vocal.shape, generator=generator, device=generator.device, dtype=vocal.dtype)
    x = noise.to(vocal.device)
    extra = {"generator": generator} if config.sampler == "ddpm" else {}
    for step, t in enumerate(solver.timesteps.tolist(), start=1):
        x = solver.step(velocity(x, t), t, x, **extra).prev_sample
        if callback is not None:
            callback(step, len(solver.timesteps))
    return x


def make_solver(schedule: CosineSchedule, config: SamplingConfig) -> Any:
    """The diffusers scheduler behind a sampler's name, on our betas, ready for `config.steps` steps.

    Timesteps are "trailing" (arXiv 2305.08891): the schedule ends at zero signal, so the first evaluation
    must stand at the very last timestep. Samples are not clipped: latents have no bounds. DDIM is
    DPM-Solver++ of first order, the same formula (arXiv 2211.01095): diffusers' `DDIMScheduler` steps to a
    wrong level wherever the steps do not divide the timesteps.

    Raises:
        SettingsError: More steps than the schedule has.
    """
    if config.steps > schedule.timesteps:
        raise SettingsError(
            f"sampling.steps = {config.steps}: the schedule has {schedule.timesteps} timesteps, take no more"
        )
    # diffusers takes seconds to import, and training never needs it.
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    common = {
        "num_train_timesteps": schedule.timesteps,
        "trained_betas": schedule.betas.cpu().numpy(),
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
    }
    solvers: dict[Sampler, Callable[[], Any]] = {
        "ddpm": lambda: DDPMScheduler(**common, clip_sample=False),
        "ddim": lambda: DPMSolverMultistepScheduler(**common, solver_order=1),
        "dpmsolver++": lambda: DPMSolverMultistepScheduler(**common, solver_order=2),
        "unipc": lambda: UniPCMultistepScheduler(**common),
    }
    solver, steps = solvers[config.sampler](), config.steps
    solver.set_timesteps(steps)  # on the CPU, where the loop reads them
    # Its "trailing" is a floating-point `arange` whose last element falls just above zero for 37 of the 800
    # possible counts, 29 among them. That becomes timestep -1, which reads the tables' noisiest entry: DDPM
    # then returns noise. So the surplus one is dropped.
    solver.timesteps = solver.timesteps[:steps]
    solver.num_inference_steps = steps
    if hasattr(solver, "sigmas"):
        solver.sigmas = torch.cat((solver.sigmas[:steps], solver.sigmas[-1:]))
    return solver
