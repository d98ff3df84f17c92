"""The network's speed, as a ratio to a matrix product measured in the same run; on a GPU, its memory too.

A figure is the best of several rounds: what disturbs a measurement makes it slower, never faster.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clock import seconds
from samuel.config import Settings
from samuel.model.unet import SamuelUNet, parameter_count

ROUNDS = 5
FRAMES = 1024
FORWARD_BATCH, TRAINING_BATCH, GPU_TRAINING_BATCH = 2, 16, 256

Work = Callable[[], object]
Figure = tuple[str, str]


def network_rows(settings: Settings, device: torch.device) -> list[Figure]:
    """Rows (what, figure): forward pass at batch 2 and training step at the paper's batch of 16, float32."""
    network = SamuelUNet(settings.model, settings.diffusion).to(device)
    a, b = torch.randn(2, 2048, 2048, device=device)
    works: dict[str, Work] = {
        f"forward, batch {FORWARD_BATCH} × {FRAMES} frames": _forward(network, FORWARD_BATCH, device),
        f"training step, batch {TRAINING_BATCH} × {FRAMES} frames": _step(network, TRAINING_BATCH, device),
    }
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        flops = {name: _flops(work) for name, work in works.items()}
        times = fastest({"product": lambda: a @ b, **works}, device)
    product = 2 * 2048**3 / times["product"]
    return [
        ("parameters", f"{parameter_count(network):,}"),
        ("2048³ product", f"{product / 1e9:.0f} GFLOP/s"),
        *((name, _figure(flops[name], times[name], product)) for name in works),
    ]


def gpu_rows(settings: Settings, device: torch.device) -> list[Figure]:
    """Rows (what, figure) of a CUDA device, and of no other: memory, then speed in bfloat16, compiled."""
    inference_gb, training_gb = _inference_memory_gb(settings, device), _training_memory_gb(settings, device)
    forward_ms = 1e3 * _graphed_forward_s(settings, device)
    return [
        (f"memory, forward, batch {FORWARD_BATCH}, float32", f"{inference_gb:.2f} GB at most"),
        (f"memory, training, batch {TRAINING_BATCH}, float32", f"{training_gb:.2f} GB at most"),
        (f"forward, batch {FORWARD_BATCH}, bf16, CUDA graphs", f"{forward_ms:.2f} ms"),
        (f"training, batch {GPU_TRAINING_BATCH}, bf16, compiled", _training_rate(settings, device)),
    ]


def fastest(works: Mapping[str, Work], device: torch.device, rounds: int = ROUNDS) -> dict[str, float]:
    """Shortest time of every call in seconds, after one that is not counted.

    They take turns, so that what else the machine does in a while troubles all of them alike.
    """
    times = dict.fromkeys(works, float("inf"))
    for count in range(rounds + 1):
        for name, work in works.items():
            elapsed_s = seconds(work, device)
            times[name] = min(times[name], elapsed_s) if count else times[name]
    return times


def _items(network: SamuelUNet, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    x, vocal = torch.randn(2, batch, network.null_condition.shape[0], FRAMES, device=device)
    return x, torch.zeros(batch, dtype=torch.int64, device=device), vocal


def _forward(network: SamuelUNet, batch: int, device: torch.device) -> Work:
    x, t, vocal = _items(network, batch, device)

    def work() -> None:
        with torch.inference_mode():
            network(x, t, vocal)

    return work


def _step(network: SamuelUNet, batch: int, device: torch.device) -> Work:
    x, t, vocal = _items(network, batch, device)
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)

    def work() -> None:
        optimiser.zero_grad(set_to_none=True)
        network(x, t, vocal).square().mean().backward()
        optimiser.step()

    return work


def _flops(work: Work) -> int:
    # The counter does not know the CPU's fused attention; the plain one computes the same.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _figure(flops: int, time_s: float, product: float) -> str:
    return f"{time_s:.3f} s, {flops / 1e9:.1f} GFLOP, {flops / time_s / product:.0%} of the product's rate"


def _inference_memory_gb(settings: Settings, device: torch.device) -> float:
    network = SamuelUNet(settings.model, settings.diffusion).to(device)
    return _peak_gb(_forward(network, FORWARD_BATCH, device), device)


def _training_memory_gb(settings: Settings, device: torch.device) -> float:
    network = SamuelUNet(settings.model, settings.diffusion).to(device)
    work = _step(network, TRAINING_BATCH, device)
    work()  # AdamW makes its moments in the first step
    return _peak_gb(work, device)


def _peak_gb(work: Work, device: torch.device) -> float:
    """The most memory that tensors hold during a call, those before it included."""
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 1e9


def _graphed_forward_s(settings: Settings, device: torch.device) -> float:
    network = SamuelUNet(settings.model, settings.diffusion).to(device)
    x, t, vocal = _items(network, FORWARD_BATCH, device)
    compiled = torch.compile(network, mode="reduce-overhead")

    def work() -> None:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            compiled(x, t, vocal)

    for _ in range(3):  # compiled, warmed up and recorded in the first calls
        work()
    return fastest({"forward": work}, device, rounds=50)["forward"]


def _training_rate(settings: Settings, device: torch.device) -> str:
    network = SamuelUNet(settings.model, settings.diffusion).to(device)
    x, t, vocal = _items(network, GPU_TRAINING_BATCH, device)
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    compiled = torch.compile(network)

    def work() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            v = compiled(x, t, vocal)
        v.square().mean().backward()
        optimiser.step()

    try:
        time_s = fastest({"step": work}, device, rounds=10)["step"]
    except torch.OutOfMemoryError:
        return "more than the GPU's memory"
    return f"{GPU_TRAINING_BATCH / time_s:,.0f} items/s"
