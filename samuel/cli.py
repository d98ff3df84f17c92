"""The command `samuel`."""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tqdm import tqdm

from samuel import __version__
from samuel.config import CodecConfig, SamplingConfig, SeparatorConfig, Settings, parse
from samuel.errors import InputError, NotBuiltError, SamuelError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from samuel.popdb.accounts import Progress
    from samuel.popdb.outcome import Outcome

SECONDS_BETWEEN_LINES = 60.0
NOT_BUILT = {
    "evaluate": "the report of train-and-eval holds the scores of its own tracks",
    "import-popdb": "build a dataset with the flow build-popdb",
    "export-sat": "the shards are safetensors, see README.md",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 with a clear message when the user must act."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        return options.command(options)
    except (SamuelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what is done stays, and the same command goes on from there", file=sys.stderr)
        return 130


def doctor(options: argparse.Namespace) -> int:
    """Print what this machine has and lacks for these settings; 1 where something they need is lacking."""
    from samuel.doctor import dataset_parts, examine, require, table, training_parts

    settings = read_settings(options.settings)
    print(table(examine(settings)))
    require(settings, dataset_parts(settings) | training_parts(settings))
    return 0


def demo(options: argparse.Namespace) -> int:
    """Run both flows; they are beside this library, which knows nothing of them."""
    settings = [str(options.settings)] if options.settings else []
    return subprocess.run([sys.executable, "-m", "flows.demo", *settings], check=False).returncode


def download(options: argparse.Namespace) -> int:
    """Acquire the songs of the list and write what became of each; the rest is the flow's."""
    from samuel.doctor import require
    from samuel.popdb.accounts import Progress, funnel, least_s, text_of
    from samuel.popdb.acquisition import acquire_songs, pace_of
    from samuel.popdb.catalog import list_songs
    from samuel.popdb.songs import same_recordings, song_rows, write_songs
    from samuel.popdb.space import require_audio_space

    settings = read_settings(options.settings)
    require(settings, {settings.songs.source})
    listed = list_songs(settings.songs, settings.data)
    print(text_of(listed.table()), end="\n\n", flush=True)
    require_audio_space(listed.songs, settings)
    progress = Progress(len(listed.songs), least_s(listed.songs, settings.download))
    pace_of(settings).open()
    with tqdm(total=progress.songs, desc="download", disable=None) as bar:
        outcomes = acquire_songs(listed.songs, settings, lambda outcome: _tell(progress, outcome, bar))
    path = settings.data / "songs.parquet"
    write_songs(path, song_rows(outcomes, same_recordings(outcomes)))
    print(f"{text_of([step.row() for step in funnel(outcomes)])}\n\neach song and its candidates: {path}")
    return 0


def _tell(progress: "Progress", outcome: "Outcome", bar: "tqdm[NoReturn]") -> None:
    progress.add([outcome])
    bar.update()
    if bar.disable and progress.due(SECONDS_BETWEEN_LINES):  # no terminal: a log
        print(progress.line(), file=sys.stderr, flush=True)


def generate(options: argparse.Namespace) -> int:
    """Write an accompaniment for a vocal."""
    from samuel.audio import load_audio, write_wav
    from samuel.checkpoint import load_model
    from samuel.codec import load_codec
    from samuel.device import resolve_device
    from samuel.files import replacing
    from samuel.generate import accompany

    device = resolve_device(options.device)
    model = load_model(options.model, device)
    codec = load_codec(_codec_config(options, model.codec), device)
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


def verify(options: argparse.Namespace) -> int:
    """Check a dataset; 1 when it has faults."""
    from samuel.popdb.verify import verify as faults_of

    faults = faults_of(options.path)
    print("\n".join(faults) if faults else f"{options.path}: sound")
    return 1 if faults else 0


def bench(options: argparse.Namespace) -> int:
    """Print what this machine does, figure by figure, as they are measured."""
    settings, what = read_settings(options.settings), options.what
    if what == "separation":
        return _bench_separation(settings, options.songs)
    for name, figure in _bench_rows(what, settings, options):
        print(f"{name:<38}  {figure}", flush=True)
    return 0


def _bench_rows(what: str, settings: Settings, options: argparse.Namespace) -> "Iterable[tuple[str, str]]":
    if what == "machine":
        from samuel.bench.machine import machine_rows

        return machine_rows(settings)
    if what == "exactness":
        from samuel.bench.exactness import exactness_rows

        return exactness_rows(settings)
    from samuel.bench.pipeline import pipeline_rows

    return pipeline_rows(settings, options.songs, options.seconds)


def _bench_separation(settings: Settings, songs: int | None) -> int:
    from samuel.bench.separation import separation_rows
    from samuel.device import resolve_device
    from samuel.popdb.accounts import text_of

    demucs = settings.separator if settings.separator.name == "demucs" else SeparatorConfig(name="demucs")
    rows = separation_rows(
        songs or 12,
        [SeparatorConfig(), demucs],
        resolve_device(settings.device),
        lambda items: tqdm(items, desc="separate", total=songs or 12, disable=None),
    )
    print(text_of([row.row() for row in rows]))
    return 0


def not_built(options: argparse.Namespace) -> int:
    """Say that a command of the design is not there yet."""
    raise NotBuiltError(f"samuel {options.name} is not in version {__version__}; {NOT_BUILT[options.name]}")


def read_settings(path: Path | None) -> Settings:
    """Settings from a JSON file, the defaults without one."""
    if path is None:
        return Settings()
    try:
        return parse(json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path}: not JSON ({error})") from error


def _codec_config(options: argparse.Namespace, identity: str) -> CodecConfig:
    # An identity begins with the part's name: "mel/1 bands=64 …".
    values: dict[str, str] = {"name": identity.partition("/")[0]}
    words = identity.split()
    values |= {"posterior": "sample"} if "sample" in words else {}
    values |= {"precision": "bf16"} if "bf16" in words else {}
    if options.codec_path:
        values["path"] = options.codec_path
    return parse({"codec": values}).codec


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="samuel", description="An accompaniment for a vocal.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("-v", "--verbose", action="store_true", help="show what happens")
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("doctor", help="what this machine has and lacks")
    command.add_argument("--settings", type=Path, help="JSON file of settings; none: the embedded default")
    command.set_defaults(command=doctor)

    command = commands.add_parser("demo", help="run both flows on this machine")
    command.add_argument("--settings", type=Path, help="JSON file of settings; none: the embedded default")
    command.set_defaults(command=demo)

    command = commands.add_parser("download", help="acquire the songs of a list, and account for each")
    command.add_argument("--settings", type=Path, help="JSON file of settings; none: the embedded default")
    command.set_defaults(command=download)

    _add_generate(commands)

    command = commands.add_parser("verify", help="check a dataset")
    command.add_argument("path", type=Path, nargs="?", default=Path("data/popdb"))
    command.set_defaults(command=verify)

    _add_bench(commands)

    for name in NOT_BUILT:
        command = commands.add_parser(name, help="not in this version")
        command.set_defaults(command=not_built, name=name)
    return parser


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("bench", help="what this machine does in a second, and how exactly")
    command.add_argument(
        "what",
        nargs="?",
        default="machine",
        choices=["machine", "pipeline", "exactness", "separation"],
        help="machine: network and embedded parts; pipeline: separation and encoding at full size; "
        "exactness: these against the libraries' own loops; separation: separators against true stems",
    )
    command.add_argument("--settings", type=Path, help="JSON file of settings; none: the embedded default")
    command.add_argument("--songs", type=int, help="pipeline, separation: how many songs")
    command.add_argument("--seconds", type=float, help="pipeline: their duration")
    command.set_defaults(command=bench)


def _add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    default = SamplingConfig()
    command = commands.add_parser("generate", help="write an accompaniment for a vocal")
    command.add_argument("vocal", type=Path, help="any audio file of at most 47.55 s")
    command.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    command.add_argument("-o", "--output", type=Path, default=Path("accompaniment.wav"))
    command.add_argument("--steps", type=int, default=default.steps)
    command.add_argument("--guidance", type=float, default=default.guidance_scale)
    command.add_argument("--seed", type=int, default=default.seed)
    command.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    command.add_argument("--codec-path", help="stable-audio-open: local weights or a hub repository")
    command.set_defaults(command=generate)


if __name__ == "__main__":
    sys.exit(main())
