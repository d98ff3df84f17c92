"""Speeds on this machine, as ratios within one run: to a matrix product, or to the duration of the audio."""

import time
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from samuel.audio import SAMPLE_RATE
from samuel.codec import HOP, load_codec
from samuel.config import CodecConfig, SeparatorConfig, Settings
from samuel.demo import compose
from samuel.device import resolve_device
from samuel.model.unet import SamuelUNet, parameter_count
from samuel.popdb.separator import load_separator

ROUNDS = 5
FRAMES = 1024


def machine_rows(settings: Settings) -> list[tuple[str, str]]:
    """Rows (what, figure): the network against a 2048³ product, the embedded parts against real time."""
    device = resolve_device(settings.device)
    return network_rows(settings, device) + audio_rows(device)


def network_rows(settings: Settings, device: torch.device) -> list[tuple[str, str]]:
    """Forward pass at batch 2 and training step at the batch size of the settings, float32."""
    product = _product_rate(device)
    network = SamuelUNet(settings.model, settings.diffusion).to(device)
    batch = settings.training.batch_size
    forward, step = _forward(network, 2, device), _training_step(network, batch, device)
    return [
        ("parameters", f"{parameter_count(network):,}"),
        ("2048³ product", f"{product / 1e9:.0f} GFLOP/s"),
        (f"forward, batch 2 × {FRAMES} frames", _network_figure(forward, product, device)),
        (f"training step, batch {batch} × {FRAMES} frames", _network_figure(step, product, device)),
    ]


def audio_rows(device: torch.device) -> list[tuple[str, str]]:
    """The embedded separator and codec on a synthetic song, in seconds of audio per second."""
    song = compose(seed=0, index=0)
    chunk = torch.from_numpy(song.mix[None, :, : FRAMES * HOP])
    codec = load_codec(CodecConfig(name="mel"), device)
    separator = load_separator(SeparatorConfig(name="repet"), device)
    latents = codec.encode(chunk)
    chunk_s = chunk.shape[-1] / SAMPLE_RATE
    return [
        ("repet", _real_time(lambda: separator.vocals(song.mix), song.duration_s)),
        ("mel, encode", _real_time(lambda: codec.encode(chunk), chunk_s)),
        ("mel, decode", _real_time(lambda: codec.decode(latents), chunk_s)),
    ]


def seconds(work: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Median time of a call, after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[rounds // 2]


def _product_rate(device: torch.device) -> float:
    a, b = torch.randn(2, 2048, 2048, device=device)
    return 2 * 2048**3 / seconds(lambda: a @ b, device)


def _forward(network: SamuelUNet, batch: int, device: torch.device) -> Callable[[], object]:
    x, vocal = torch.randn(2, batch, network.null_condition.shape[0], FRAMES, device=device)
    t = torch.zeros(batch, dtype=torch.int64, device=device)

    def work() -> None:
        with torch.inference_mode():
            network(x, t, vocal)

    return work


def _training_step(network: SamuelUNet, batch: int, device: torch.device) -> Callable[[], object]:
    x, vocal = torch.randn(2, batch, network.null_condition.shape[0], FRAMES, device=device)
    t = torch.zeros(batch, dtype=torch.int64, device=device)
    optimiser = torch.optim.AdamW(network.parameters())

    def work() -> None:
        optimiser.zero_grad(set_to_none=True)
        network(x, t, vocal).square().mean().backward()
        optimiser.step()

    return work


def _network_figure(work: Callable[[], object], product: float, device: torch.device) -> str:
    # The counter does not know the CPU's fused attention; the plain one computes the same.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    time_s, flops = seconds(work, device), counter.get_total_flops()
    rate = flops / time_s
    return f"{time_s:.3f} s, {flops / 1e9:.1f} GFLOP, {rate / product:.0%} of the product's rate"


def _real_time(work: Callable[[], object], audio_s: float) -> str:
    return f"{audio_s / seconds(work, torch.device('cpu'), rounds=3):.1f} × real time"
