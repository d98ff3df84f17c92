"""Small parts that the model's tests share."""

from collections.abc import Iterator

import pytest
import torch

from samuel.config import ModelConfig
from samuel.model.unet import SamuelUNet

SMALL = ModelConfig(channels=(16, 32, 32, 32), heads=2, head_dim=8, window=8)


def awake(config: ModelConfig = SMALL) -> SamuelUNet:
    """A U-Net whose zero-initialised layers are not zero, so that its output says something."""
    torch.manual_seed(0)
    model = SamuelUNet(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from a second core, and on a busy machine they lose."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test from the same random state, and none leaves its own behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
