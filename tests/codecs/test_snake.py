"""The lighter activation computes what the library's does."""

import pytest
import torch
from torch import nn

from samuel.codecs.stable_audio_open import Snake, with_light_snakes
from samuel.hub import quietly


@pytest.mark.parametrize("logscale", [True, False])
def test_equals_the_librarys(logscale: bool) -> None:
    with quietly():
        from stable_audio_tools.models.blocks import SnakeBeta
    theirs = SnakeBeta(5, alpha_logscale=logscale)
    with torch.no_grad():
        theirs.alpha.copy_(torch.linspace(0.2, 2.0, 5))
        theirs.beta.copy_(torch.linspace(0.3, 1.5, 5))
    x = torch.linspace(-8, 8, 2 * 5 * 40).reshape(2, 5, 40)
    network = with_light_snakes(nn.Sequential(nn.Sequential(theirs), nn.ReLU()))
    assert isinstance(network[0][0], Snake)  # type: ignore[index]
    given = x.clone()
    assert torch.allclose(network[0](x), theirs(x), atol=1e-6)  # type: ignore[index]
    assert torch.equal(x, given)
