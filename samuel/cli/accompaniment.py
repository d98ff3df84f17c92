"""`samuel generate`: an accompaniment for a vocal."""

import argparse
import tempfile
from pathlib import Path

from tqdm import tqdm

from samuel.cli.settings import Commands, add_codec, codec_of
from samuel.config import SamplingConfig, parse


def add_commands(commands: Commands) -> None:
    """Add it to the command line."""
    default = SamplingConfig()
    command = commands.add_parser("generate", help="write an accompaniment for a vocal")
    command.add_argument("vocal", type=Path, help="any audio file of at most 47.55 s")
    command.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    command.add_argument("-o", "--output", type=Path, default=Path("accompaniment.wav"))
    command.add_argument("--steps", type=int, default=default.steps)
    command.add_argument("--guidance", type=float, default=default.guidance_scale)
    command.add_argument("--seed", type=int, default=default.seed)
    add_codec(command)
    command.set_defaults(command=generate)


def generate(options: argparse.Namespace) -> int:
    """Write an accompaniment for a vocal."""
    from samuel.audio import load_audio, write_wav
    from samuel.checkpoint import load_model
    from samuel.device import resolve_device
    from samuel.files import replacing
    from samuel.generate import accompany

    device = resolve_device(options.device)
    model = load_model(options.model, device)
    codec = codec_of(model.codec, options)
    with tempfile.TemporaryDirectory() as workspace:
        vocal = load_audio(options.vocal, Path(workspace))
    chosen = {"steps": options.steps, "guidance_scale": options.guidance, "seed": options.seed}
    config = parse({"sampling": chosen}).sampling
    with tqdm(total=config.steps, desc="generate", disable=None) as progress:
        accompaniment = accompany(
            vocal, model, codec, config, lambda done, _: progress.update(done - progress.n)
        )
    with replacing(options.output) as temporary:
        write_wav(temporary, accompaniment, "PCM_24")
    print(options.output)
    return 0
