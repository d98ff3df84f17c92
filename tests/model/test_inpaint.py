from typing import get_args

import pytest
import torch

from samuel.config import Sampler, SamplingConfig
from samuel.model.diffusion import CosineSchedule, q_sample
from samuel.model.inpaint import Kept
from samuel.model.sample import sample
from tests.model.conftest import awake

SCHEDULE = CosineSchedule()
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)


def known(frames: int) -> Kept:
    mask = torch.zeros(frames, dtype=torch.bool)
    mask[10:30] = True
    return Kept(torch.randn(1, 64, frames), mask)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_what_is_kept_comes_out_as_it_was(sampler: Sampler, steps: int) -> None:
    network, kept, vocal = awake().eval(), known(64), torch.randn(1, 64, 64)
    config = SamplingConfig(sampler=sampler, steps=steps)
    free, x0 = (
        sample(network, vocal, SCHEDULE, config, torch.Generator().manual_seed(0), kept=k)
        for k in (None, kept)
    )
    torch.testing.assert_close(x0[..., 10:30], kept.x0[..., 10:30], atol=2e-3, rtol=1e-3)
    assert not torch.allclose(free[..., 10:30], kept.x0[..., 10:30], atol=0.1)


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "unipc"])
def test_the_network_sees_it_at_the_noise_level_of_all_frames(sampler: Sampler) -> None:
    kept, start = known(64), torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    seen = []

    def network(x: torch.Tensor, t: torch.Tensor, vocal: torch.Tensor | None) -> torch.Tensor:
        expected = q_sample(SCHEDULE, kept.x0, start, t)
        seen.append((x - expected)[..., kept.mask].abs().max().item())
        return torch.zeros_like(x)

    config = SamplingConfig(sampler=sampler, steps=10, guidance_scale=1)
    sample(network, torch.zeros(1, 64, 64), SCHEDULE, config, torch.Generator().manual_seed(0), kept=kept)
    assert len(seen) == 10
    assert max(seen) < 5e-3


def test_the_rest_is_written_to_fit() -> None:
    network, vocal = awake().eval(), torch.randn(1, 64, 64)
    one, other = (
        sample(
            network,
            vocal,
            SCHEDULE,
            SamplingConfig(steps=4),
            torch.Generator().manual_seed(0),
            kept=known(64),
        )
        for _ in range(2)
    )
    assert not torch.allclose(one[..., 30:40], other[..., 30:40], atol=1e-3)
