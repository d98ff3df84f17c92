"""How busy a GPU is, as its driver says."""

import shutil
import subprocess
import threading
from contextlib import AbstractContextManager
from statistics import fmean
from typing import Self

import torch

INTERVAL_S = 0.2
EDGE = 0.1
"""Share of the samples at either end that are no steady state: the first song is read, the last written."""


class Utilisation(AbstractContextManager["Utilisation"]):
    """Samples the share of time in which a kernel ran, by `nvidia-smi`, while the block runs."""

    def __init__(self, device: torch.device) -> None:
        """Of a CUDA device; any other has no samples, and nor has a machine without `nvidia-smi`."""
        self._device, self._program = device, shutil.which("nvidia-smi")
        self._samples: list[float] = []
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        if self._device.type == "cuda" and self._program:
            self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._sampler.is_alive():
            self._sampler.join()

    @property
    def steady(self) -> float | None:
        """Mean share without the first and the last tenth; None where nothing was sampled."""
        edge = int(len(self._samples) * EDGE)
        middle = self._samples[edge : len(self._samples) - edge]
        return fmean(middle) / 100 if middle else None

    def _sample(self) -> None:
        uuid = torch.cuda.get_device_properties(self._device).uuid
        question = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._over.wait(INTERVAL_S):
            said = subprocess.run(
                [str(self._program), f"--id=GPU-{uuid}", *question],
                capture_output=True,
                text=True,
                check=False,
            ).stdout.strip()
            if said.isdigit():
                self._samples.append(float(said))
