"""The processes that train together: one, or those that torchrun started (Lightning Fabric, DDP)."""

import os
from typing import TYPE_CHECKING

import torch

from samuel.config import TrainingPrecision
from samuel.device import uses_bf16
from samuel.errors import SettingsError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_fabric(device: torch.device, precision: TrainingPrecision) -> "Fabric":
    """Fabric on `device`, for this process alone or, under torchrun, for all that it started.

    Gradients are then averaged over the processes. What else Fabric could find in the environment, such as
    a cluster's scheduler, is left aside: a flow's process trains alone.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    together = TorchElasticEnvironment.detect()
    world_size = int(os.environ["WORLD_SIZE"]) if together else 1
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if together else 1
    fabric = Fabric(
        accelerator=device.type,
        devices=here,
        num_nodes=world_size // here,
        strategy=DDPStrategy(broadcast_buffers=False) if together else "auto",  # they never change
        precision="bf16-mixed" if uses_bf16(device, precision) else "32-true",
        plugins=[TorchElasticEnvironment() if together else LightningEnvironment()],
    )
    fabric.launch()
    return fabric


def share_of(batch_size: int, world_size: int, accumulate: int) -> int:
    """Pairs of a batch that each of the processes has.

    Raises:
        SettingsError: They cannot be dealt evenly.
    """
    if batch_size % (world_size * accumulate):
        raise SettingsError(
            f"training.batch_size = {batch_size} cannot be dealt to {world_size} processes in "
            f"training.accumulate = {accumulate} equal parts each"
        )
    return batch_size // world_size
