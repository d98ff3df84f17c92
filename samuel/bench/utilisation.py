"""How busy a GPU is, as its driver says."""

import subprocess
import threading
from contextlib import AbstractContextManager
from statistics import fmean
from typing import Self

import torch

INTERVAL_MS = 200
EDGE = 0.1
"""Share of the samples at either end that are no steady state: the first song is read, the last written."""


class Utilisation(AbstractContextManager["Utilisation"]):
    """Samples the share of time in which a kernel ran, by `nvidia-smi`, while the block runs."""

    def __init__(self, device: torch.device) -> None:
        """Of a CUDA device; any other has no samples."""
        self._device = device
        self._samples: list[float] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            uuid = torch.cuda.get_device_properties(self._device).uuid
            command = [
                "nvidia-smi", f"--id=GPU-{uuid}", "--query-gpu=utilization.gpu",
                "--format=csv,noheader,nounits", f"--loop-ms={INTERVAL_MS}",
            ]  # fmt: skip
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._reader.join()
            self._process.communicate()  # closes the pipe

    @property
    def steady(self) -> float | None:
        """Mean share without the first and the last tenth; None where nothing was sampled."""
        edge = int(len(self._samples) * EDGE)
        middle = self._samples[edge : len(self._samples) - edge]
        return fmean(middle) / 100 if middle else None

    def _read(self) -> None:
        if self._process and self._process.stdout:
            self._samples += [float(line) for line in self._process.stdout if line.strip().isdigit()]
