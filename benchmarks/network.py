"""The network's speed, as a ratio to a matrix product measured in the same run; the embedded parts' too."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Figure, Work, fastest
from samuel.audio import SAMPLE_RATE
from samuel.codecs import load_codec
from samuel.config import CodecConfig, SeparatorConfig, Settings
from samuel.device import resolve_device
from samuel.model.unet import SamuelUNet, parameter_count
from samuel.separators import load_separator
from samuel.synthetic.song import compose

FRAMES = 1024
FORWARD_BATCH, TRAINING_BATCH, GPU_TRAINING_BATCH = 2, 16, 256


def rows(settings: Settings) -> Iterator[Figure]:
    """Yield (what, figure): the network against a 2048³ product, the embedded parts against real time."""
    device = resolve_device(settings.device)
    yield from network_rows(settings, device)
    if device.type == "cuda":
        yield from gpu_rows(settings, device)
    song, codec = compose(seed=0, index=0), load_codec(CodecConfig(name="mel"), device)
    separator = load_separator(SeparatorConfig(name="repet"), device)
    chunk = torch.from_numpy(song.mix[None, :, : codec.info.samples(FRAMES)])
    latents, chunk_s = codec.encode(chunk), chunk.shape[-1] / SAMPLE_RATE
    works: dict[str, Work] = {
        "repet": lambda: separator.vocals(song.mix),
        "mel, encode": lambda: codec.encode(chunk),
        "mel, decode": lambda: codec.decode(latents),
    }
    for name, time_s in fastest(works, device, rounds=3).items():
        yield name, f"{(song.duration_s if name == 'repet' else chunk_s) / time_s:.1f} × real time"


def network_rows(settings: Settings, device: torch.device) -> Iterator[Figure]:
    """Yield the forward pass at batch 2 and the training step at the paper's batch of 16, in float32."""
    network = SamuelUNet(settings.model, settings.diffusion).to(device)
    yield "parameters", f"{parameter_count(network):,}"
    a, b = torch.randn(2, 2048, 2048, device=device)
    step = training_step(settings, TRAINING_BATCH, FRAMES, device)
    works: dict[str, Work] = {
        f"forward, batch {FORWARD_BATCH} × {FRAMES} frames": _forward(network, device),
        f"training step, batch {TRAINING_BATCH} × {FRAMES} frames": step,
    }
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        flops: dict[str, int] = {}
        for name, work in works.items():
            # The counter does not know the CPU's fused attention; the plain one computes the same.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                work()
            flops[name] = counter.get_total_flops()
        times = fastest({"product": lambda: a @ b, **works}, device)
    product = 2 * 2048**3 / times["product"]
    yield "2048³ product", f"{product / 1e9:.0f} GFLOP/s"
    for name in works:
        share = flops[name] / times[name] / product
        yield name, f"{times[name]:.3f} s, {flops[name] / 1e9:.1f} GFLOP, {share:.0%} of the product's rate"


def gpu_rows(settings: Settings, device: torch.device) -> Iterator[Figure]:
    """Yield memory and speed of training on a CUDA device, in bfloat16 and compiled."""
    step = training_step(settings, GPU_TRAINING_BATCH, FRAMES, device, compiled=True)
    try:
        rate = f"{GPU_TRAINING_BATCH / fastest({'': step}, device, rounds=10)['']:,.0f} items/s"
    except torch.OutOfMemoryError:
        rate = "more than the GPU's memory"
    peak_gb = torch.cuda.max_memory_allocated(device) / 1e9
    yield f"training, batch {GPU_TRAINING_BATCH}, bf16, compiled", f"{rate}, {peak_gb:.2f} GB at most"


def training_step(
    settings: Settings, batch: int, frames: int, device: torch.device, *, compiled: bool = False
) -> Work:
    """Make a bare step of a fresh network on noise: forward, backward, AdamW; compiled, in bfloat16."""
    network = SamuelUNet(settings.model, settings.diffusion).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    items = _items(network, batch, frames, device)
    forward = torch.compile(network) if compiled else network

    def work() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=compiled):
            v = forward(*items)
        v.square().mean().backward()
        optimiser.step()

    return work


def _forward(network: SamuelUNet, device: torch.device) -> Work:
    items = _items(network, FORWARD_BATCH, FRAMES, device)

    def work() -> None:
        with torch.inference_mode():
            network(*items)

    return work


def _items(
    network: SamuelUNet, batch: int, frames: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    x, vocal = torch.randn(2, batch, network.null_condition.shape[0], frames, device=device)
    return x, torch.zeros(batch, dtype=torch.int64, device=device), vocal
