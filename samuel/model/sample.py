"""The reverse process, at any length: noise and a vocal in, accompaniment latents out (paper §IV-C, §V).

Shapes: B batch, C channels, T frames. The samplers are diffusers' schedulers on our own betas.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import torch
from torch import Tensor

from samuel.config import Sampler, SamplingConfig
from samuel.errors import SettingsError
from samuel.model.diffusion import CosineSchedule

OVERLAP_DIVISOR = 4  # neighbouring windows share a quarter of their frames: of 1024, 12 s to pass over
AT_A_TIME = {"cpu": 2, "mps": 2, "cuda": 16}  # windows in one call
Velocity = Callable[[Tensor, int], Tensor]  # (x_t (B, C, T), timestep of all items) → v (B, C, T)
Callback = Callable[[int, int], object]  # (steps done, steps in all)


class VocalConditioned(Protocol):
    """A denoiser that can show its null condition: `SamuelUNet`, or `Windowed`."""

    def __call__(self, x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        """Predict v, (B, C, T), of x_t at the timesteps t, (B,)."""
        ...

    def condition(self, vocal: Tensor, drop_mask: Tensor) -> Tensor:
        """Replace the vocal of dropped items."""
        ...


def guided(model: VocalConditioned, vocal: Tensor, config: SamplingConfig, timesteps: int) -> Velocity:
    """Predictions pushed away from what the model would write without a vocal (paper §V).

        v = v_null + scale · (v_cond - v_null)

    With scale 1, and outside the interval (arXiv 2404.07724, in shares of the timesteps), the model is asked
    once. Otherwise both questions go as one batch.
    """
    scale, (low, high) = config.guidance_scale, config.guidance_interval
    everything = torch.ones(len(vocal), dtype=torch.bool, device=vocal.device)
    both = vocal if scale == 1 else torch.cat((vocal, model.condition(vocal, everything)))

    def velocity(x: Tensor, timestep: int) -> Tensor:
        t = torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)
        if scale == 1 or not low <= timestep / (timesteps - 1) <= high:
            return model(x, t, vocal)
        v_cond, v_null = model(x.repeat(2, 1, 1), t.repeat(2), both).chunk(2)
        v, share = v_null + scale * (v_cond - v_null), config.guidance_rescale
        if share:  # back towards the deviation of unguided predictions (arXiv 2305.08891, eq. 15, 16)
            ratio = v_cond.std(dim=(1, 2), keepdim=True) / v.std(dim=(1, 2), keepdim=True)
            v = v * (share * ratio + (1 - share))
        return v

    return velocity


@dataclass(frozen=True)
class Kept:
    """Parts of an accompaniment that stay as they are while the rest is drawn."""

    x0: Tensor  # normalised latents, (B, C, T); where nothing is kept, anything finite
    mask: Tensor  # bool (T,), True = kept


def keeping(velocity: Velocity, kept: Kept, schedule: CosineSchedule) -> Velocity:
    """The same denoiser, for which the clean latents of what is kept are known.

    It predicts v = (√ᾱ_t · x_t - x0) / √(1 - ᾱ_t) there (eq. 4 solved for v): any solver leads those frames
    to x0, and the network sees them at the noise level of all others. Differs from RePaint (arXiv
    2201.09865), which noises them anew at every step: a solver of higher order finds its history in them.
    """

    def known(x: Tensor, timestep: int) -> Tensor:
        t = torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)
        signal, noise = schedule.levels(t, x)
        return torch.where(kept.mask, (signal * x - kept.x0) / noise, velocity(x, timestep))

    return known


@torch.no_grad()
def sample(
    model: VocalConditioned, vocal: Tensor, schedule: CosineSchedule, config: SamplingConfig,
    generator: torch.Generator, callback: Callback | None = None, kept: Kept | None = None,
) -> Tensor:  # fmt: skip
    """Draw the accompaniment x0 (B, C, T) of a vocal (B, C, T), both normalised latents.

    A pure function: the generator, on any device, makes the starting noise and what DDPM adds on the way; the
    seed and precision of `config` are for the caller.
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
    must stand at the very last timestep. DDIM is DPM-Solver++ of first order, the same formula (arXiv
    2211.01095): diffusers' `DDIMScheduler` steps to a wrong level wherever steps do not divide the timesteps.
    """
    if config.steps > (most := schedule.timesteps):
        raise SettingsError(
            f"sampling.steps = {config.steps}: the schedule has {most} timesteps, take no more"
        )
    # diffusers takes seconds to import, and training never needs it.
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    kinds: dict[Sampler, tuple[Any, dict[str, Any]]] = {
        "ddpm": (DDPMScheduler, {"clip_sample": False}),
        "ddim": (DPMSolverMultistepScheduler, {"solver_order": 1}),
        "dpmsolver++": (DPMSolverMultistepScheduler, {"solver_order": 2}),
        "unipc": (UniPCMultistepScheduler, {}),
    }
    (kind, own), steps = kinds[config.sampler], config.steps
    solver = kind(
        num_train_timesteps=schedule.timesteps, trained_betas=schedule.betas.cpu().numpy(),
        prediction_type="v_prediction", timestep_spacing="trailing", **own,
    )  # fmt: skip
    solver.set_timesteps(steps)  # on the CPU, where the loop reads them
    # Its "trailing" is a floating-point `arange` with one element too many for 37 of the 800 possible counts,
    # 29 among them: timestep -1, which reads the tables' noisiest entry.
    solver.timesteps = solver.timesteps[:steps]
    solver.num_inference_steps = steps
    if hasattr(solver, "sigmas"):
        solver.sigmas = torch.cat((solver.sigmas[:steps], solver.sigmas[-1:]))
    return solver


def window_starts(length: int, frames: int, overlap: int) -> list[int]:
    """First frames of the windows of `frames` frames that cover `length`: as few as may be, evenly spaced."""
    gaps = ceil((length - frames) / (frames - overlap))
    return [round(i * (length - frames) / gaps) for i in range(gaps + 1)] if gaps else [0]


class Windowed:
    """A denoiser for any length from one for windows (MultiDiffusion, arXiv 2302.08113).

    At every step each window of x_t is denoised with its part of the vocal, and the predictions are averaged
    where windows overlap. Differs from MultiDiffusion, which weighs all windows alike: here one counts less
    towards its ends, or the average would jump where one begins.
    """

    def __init__(self, network: VocalConditioned, frames: int, overlap: int = 0, at_a_time: int = 0) -> None:
        """Windows have the `frames` that the network was trained on; a shorter song goes through whole."""
        self.network, self.frames, self.at_a_time = network, frames, at_a_time
        self.overlap = overlap or frames // OVERLAP_DIVISOR

    def condition(self, vocal: Tensor, drop_mask: Tensor) -> Tensor:
        """Replace the vocal of dropped items, (B, C, T)."""
        return self.network.condition(vocal, drop_mask)

    def __call__(self, x_t: Tensor, t: Tensor, vocal: Tensor | None) -> Tensor:
        """Predict v, (B, C, T), of x_t at the timesteps t, (B,)."""
        if x_t.shape[-1] <= self.frames:
            return self.network(x_t, t, vocal)
        starts = window_starts(x_t.shape[-1], self.frames, self.overlap)
        # A window rises over the overlap and falls over it at the end; it is never 0.
        place = torch.arange(self.frames, device=x_t.device, dtype=x_t.dtype)
        fade = ((torch.minimum(place, self.frames - 1 - place) + 0.5) / self.overlap).clamp(max=1.0)
        v, weight = torch.zeros_like(x_t), x_t.new_zeros(x_t.shape[-1])
        for start in starts:
            weight[start : start + self.frames] += fade
        # The items of a window lie side by side: with guidance, it is asked with and without its vocal.
        places = [(item, start) for start in starts for item in range(len(x_t))]
        at_a_time = self.at_a_time or AT_A_TIME[x_t.device.type]
        for first in range(0, len(places), at_a_time):
            group = places[first : first + at_a_time]
            sung = None if vocal is None else self._cut(vocal, group)
            predicted = self.network(self._cut(x_t, group), t[[item for item, _ in group]], sung)
            for (item, start), part in zip(group, predicted, strict=True):
                v[item, :, start : start + self.frames] += fade * part
        return v / weight

    def _cut(self, x: Tensor, places: list[tuple[int, int]]) -> Tensor:
        return torch.stack([x[item, :, start : start + self.frames] for item, start in places])
