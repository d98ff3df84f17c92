"""Hostile input at every door: `python -m tests.fuzz --seed 0 --minutes 10`; `--case 7` repeats one.

A case damages a copy of sound material, and meets it by a real command in a forked process. It passes where
that ends with 0, or with 1 and one line `error: …`, without a traceback, within 5 s and 1 GiB, and where
nothing outside the folders of the command has changed.
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from samuel import cli
from samuel.artifacts import sha256
from samuel.audio import run_ffmpeg, write_wav
from samuel.errors import InputError, SamuelError
from samuel.popdb.dataset import open_popdb
from samuel.popdb.tables import INDEX_SCHEMA
from samuel.popdb.writer import write_popdb
from samuel.reading import read_bounded
from samuel.text import text_of
from tests.generate.voices import voice
from tests.models import small_model
from tests.popdb.latents import encoded_song, small_settings
from tests.popdb.published_arrays import write_published
from tests.popdb.test_verify import BOMBS, change_index, relist, restate, set_row

MOST_S, EVALUATE_S, MOST_MIB, HANGS_S = 5.0, 5.0, 1024, 60  # `evaluate` takes as long for what is sound
OWN_MIB = 540  # of a process that has the libraries, and has done nothing
OUTSIDE = "../../../canary/popdb"
TEXTS = ["", OUTSIDE, "/dev/zero", "a/../../b", "\u202e\x1b[2J\n", "x" * 100_000]
NUMBERS = [0, -1, 3, 2**31 - 1, 1e308, float("nan")]
JSON = [
    *map(json.dumps, [*TEXTS, *NUMBERS, 10**30, float("inf"), True, None, [], {}, [[]], {"a": 1}]), "",
    "9" * 5000, "[" * 100_000, '{"a":' * 100_000, "[" * 900 + "]" * 900, f"[{'[],' * 500_000}1]", "1e999",
    '"\\ud800"',
]  # fmt: skip


# How things are damaged.


def damage_bytes(random: Random, content: bytes) -> bytes:
    """Cut off, or some bytes near the beginning or anywhere left out, doubled, or others."""
    start = min(random.randrange(len(content) + 1), random.choice((8, 4096, 2**40)))
    end = start + random.choice((1, 1, 4, 64))
    middle = random.choice((b"", random.randbytes(end - start), b"\xff" * 4, content[start:end] * 2))
    return content[:start] + random.choice((b"", *[middle + content[end:]] * 5))


def damage_json(random: Random, content: bytes) -> bytes:
    """A name, a value, a list or an object replaced, once or twice."""
    text = content.decode()
    for _ in range(random.randint(1, 2)):
        parts = [*re.finditer(r'"[^"]*"|[-\w.+]+|\[[^][]*\]|\{[^{}]*\}', text), re.match("", text)]
        if part := random.choice(parts):
            text = text[: part.start()] + random.choice(JSON) + text[part.end() :]
    return text.encode()


def damage_safetensors(random: Random, content: bytes) -> bytes:
    """Another header, and at times another length of it."""
    length = int.from_bytes(content[:8], "little")
    header = damage_json(random, content[8 : 8 + length])
    said = random.choice((*[len(header)] * 5, 0, 2**40, 2**64 - 1, len(header) - 1))
    return said.to_bytes(8, "little") + header + content[8 + length :]


def damage_parquet(random: Random, content: bytes) -> bytes:
    """A hostile column, more rows, other encodings, or one of those that expand."""
    table = pq.read_table(pa.BufferReader(content))
    place, count = random.randrange(table.num_columns), random.choice((1, 1, 1, 0, 1000)) * len(table)
    field, made = table.field(place), pa.nulls(len(table), random.choice([pa.string(), pa.list_(pa.null())]))
    if pa.types.is_string(field.type):
        offsets = pa.py_buffer(np.arange(len(table) + 1, dtype=np.int32) * 2)
        made = pa.StringArray.from_buffers(len(table), offsets, pa.py_buffer(b"\xff\xfe" * len(table)))
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    others = [{"use_dictionary": True}, {"data_page_version": "2.0"}, {"column_encoding": "DELTA_BYTE_ARRAY"}]
    options |= random.choice([{}, {}, {"compression": "zstd"}, {"row_group_size": 1}, *others])
    sink = pa.BufferOutputStream()
    with suppress(pa.ArrowException, ValueError, OSError):
        if random.random() < 0.8:
            table = table.set_column(place, field if made.type == field.type else field.name, made)
        pq.write_table(pa.concat_tables([table] * max(count, 1)).slice(0, count), sink, **options)
    return random.choice(
        (sink.getvalue().to_pybytes(), *[bomb() for bomb in random.choices([*BOMBS.values()])])
    )


def replace_file(random: Random, path: Path) -> str:
    """Something else under the name of a file."""
    act, size = random.choice(("fifo", "/dev/zero", OUTSIDE, "folder", "gone", "sparse")), path.stat().st_size
    path.unlink()
    if act == "fifo":
        os.mkfifo(path)
    elif act == "folder":
        path.mkdir()
    elif act == "sparse":
        path.touch()
        os.truncate(path, random.choice((0, size, 2**33, 2**42)))
    elif act != "gone":
        case = next(above for above in path.parents if above.name == "case")
        path.symlink_to(case.parent / "canary/popdb/dataset.json" if act == OUTSIDE else act)
    return f"{path.name} is {act}"


def damage_file(random: Random, path: Path) -> str:
    """A file of whatever kind."""
    own = {".json": damage_json, ".safetensors": damage_safetensors, ".parquet": damage_parquet}
    if random.random() < 0.2:
        return replace_file(random, path)
    damage = random.choice((damage_bytes, *[own.get(path.suffix, damage_bytes)] * 3))
    path.write_bytes(damage(random, path.read_bytes()))
    return f"{damage.__name__} of {path.name}"


def damage_any(random: Random, folder: Path, names: str = "**/*") -> str:
    """One of several files."""
    return damage_file(random, random.choice(sorted(path for path in folder.glob(names) if path.is_file())))


def damage_popdb(random: Random, root: Path) -> str:
    """A dataset, with digests that fit where the damage lies deeper."""
    popdb, act = open_popdb(root), random.randrange(8)
    if act == 0:
        return damage_any(random, root)
    if act < 3:
        return damage_file(random, root / "dataset.json")
    if act == 3:
        name = random.choice(("shards", "README.md", ".lock"))
        (root / name).rename(root / "aside") if name == "shards" else (root / name).unlink()
        (root / name).symlink_to(Path(OUTSIDE, name))
        return f"{name} is a link"
    if act == 4:
        name, value = random.choice(INDEX_SCHEMA.names), random.choice([*TEXTS, *NUMBERS, None])
        with suppress(pa.ArrowException, TypeError):
            change_index(popdb, set_row(random.randrange(6), **{name: value}))
        return f"{name} is {value!r:.40}"
    if act == 5:
        old = popdb.index[0]["shard"]
        new = relist(popdb, old, damage_safetensors(random, (root / old).read_bytes()))
        change_index(popdb, lambda rows: [r | ({"shard": new} if r["shard"] == old else {}) for r in rows])
        return "the header of a shard"
    table, count = random.choice((("index", "pairs"), ("songs", "songs_listed")))
    content = damage_parquet(random, (root / popdb.info[table]).read_bytes())
    relist(popdb, popdb.info[table], content)
    with suppress(pa.ArrowException):
        restate(popdb, counts={count: pq.ParquetFile(pa.BufferReader(content)).metadata.num_rows})
    return f"the Parquet file of the {table}"


def damage_artifact(random: Random, folder: Path) -> str:
    """A folder with a manifest, with digests that fit where the damage lies deeper."""
    about = damage_any(random, folder, random.choice(("*", "entry.json")))
    with suppress(InputError, ValueError, OSError, RecursionError, TypeError, AttributeError, KeyError):
        manifest = json.loads(read_bounded(folder / "entry.json"))  # by now it may be without an end
        for name, file in manifest["files"].items():
            if not (path := folder / name).is_symlink() and 0 < path.stat().st_size < 2**30:
                file |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
        (folder / "entry.json").write_text(json.dumps(manifest))
    return about


def damage_training(random: Random, folder: Path) -> str:
    """A finished model, or a checkpoint."""
    return damage_artifact(random, random.choice(sorted(folder.glob("**/entry.json"))).parent)


def damage_audio(random: Random, folder: Path) -> str:
    """One recording of some format, alone in its folder."""
    kept = random.choice(sorted(folder.iterdir()))
    for path in sorted(folder.iterdir()):
        if path != kept:
            path.unlink()
    return damage_file(random, kept)


# What is damaged, and the commands that meet it.

POPDB, MODEL, VOICE = "in/popdb", "in/model", "in/vocals/voice.wav"
FORMATS = ("wav", "flac", "mp3", "ogg", "m4a", "webm", "aiff")
SMALL = ["device=cpu", "model.channels=[8,8,8,8]", "model.heads=1", "model.head_dim=8"]
STEPS = [f"training.{name}=1" for name in ("steps", "batch_size", "validate_every", "checkpoint_every")]
QUICK = ["--model", MODEL, "device=cpu", "sampling.steps=1"]
GENERATE = ["generate", "-o", "out/x.wav", "--length", "1", *QUICK]
EVALUATE = ["evaluate", "device=cpu", "--vocals", "in/vocals", "--system", "A=in/vocals", "-o"]
VALIDATE = ["validate", MODEL, f"popdb.path={POPDB}", "device=cpu"]
TRAIN = ["train", f"popdb.path={POPDB}", *SMALL, *STEPS]
Kind = tuple[int, str, Callable[[Random, Path], str], list[list[str]]]
LATE = ("lightning_fabric", "librosa", *[f"samuel.{name}" for name in (
    "train.validation", "generate.takes", "report.report", "report.compare", "report.contact_sheet",
    "baselines.pretrained", "evaluate.tracks", "popdb.verify",
)])  # fmt: skip
KINDS: dict[str, Kind] = {  # share of the cases, what is damaged, how, and the commands
    "dataset": (36, POPDB, damage_popdb, [
        *[["verify", POPDB], ["inspect", POPDB, "--pairs", "1", "--no-audio", "-o", "out"], ["rebuild"]] * 2,
        ["export-sat", POPDB, "-o", "out/sat"], ["export-manifest", POPDB, "-o", "out/manifest"], VALIDATE,
        [*TRAIN, "artifacts=out"], [*EVALUATE, "out", "--dataset", POPDB],
    ]),
    "model": (25, MODEL, damage_artifact, [
        [*GENERATE, VOICE], VALIDATE, ["render", "samuel", "--vocals", "in/vocals", "-o", "out/r", *QUICK],
    ]),
    "training": (4, "in/runs", damage_training, [[*TRAIN, "artifacts=in/runs"]]),
    "checkpoint": (6, "in/begun", damage_training, [[*TRAIN, "artifacts=in/begun"]]),
    "settings": (12, "in/settings.json", damage_file, [
        [name, "--settings", "in/settings.json"] for name in ("settings", "summary")
    ]),
    "scores": (5, "in/one/report", damage_any, [["compare", "in/one", "in/two", "-o", "out"]]),
    "system": (1, "in/vocals/system.json", damage_file, [[*EVALUATE, "out"]]),
    "arrays": (3, "in/latent_accomp.npy", damage_file, [["import-popdb", "in", "-o", "out/popdb"]]),
    "audio": (8, "in/audio", damage_audio, [
        *[[*GENERATE, "in/audio/*"]] * 2,
        [*EVALUATE[:2], "--vocals", "in/audio", "--system", "A=in/audio", "-o", "out"],
    ]),
}  # fmt: skip


def build(root: Path) -> None:
    """Sound material in `in`, and `canary`, another dataset, which no case may touch."""
    songs = [encoded_song(root, name, pairs) for name, pairs in (("a", 3), ("b", 1), ("c", 2))]
    for name in (POPDB, "canary/popdb"):
        write_popdb(songs, small_settings(root, popdb={"path": root / name, "pairs_per_shard": 4, "seed": 4}))
    small_model(root / "in")
    write_published(root / "in", 5)
    for name in LATE:
        import_module(name)  # here, and not in every case
    for name in ("vocals", "audio"):
        (root / "in" / name).mkdir()
    write_wav(root / VOICE, voice(44_100))
    for name in FORMATS:
        run_ffmpeg(["-i", str(root / VOICE), "-y", str(root / f"in/audio/voice.{name}")])
    about = {"system": "A", "tracks": {"voice": {"seconds": 1.0, "duration_s": 1.0}}}
    (root / "in/vocals/system.json").write_text(json.dumps(about))
    (root / "in/settings.json").write_text(json.dumps(small_settings(root).model_dump(mode="json")))
    with patch("samuel.train.trainer.clear_checkpoints"):  # as where a training was killed
        sound = [*TRAIN, "artifacts=in/begun"], [*TRAIN, "artifacts=in/runs"]
        for arguments in (*sound, [*EVALUATE, "in/one"], [*EVALUATE, "in/two"]):
            assert meet(root, arguments, root / "said")[0] == 0, (root / "said").read_text()
    shutil.rmtree(next(root.glob("in/begun/*/model")))


def run(arguments: list[str], root: Path) -> int:
    """Run a command of `samuel`, or write the dataset again; its exit code."""
    if arguments != ["rebuild"]:
        return cli.main(arguments)
    try:
        songs = [encoded_song(root / "out", name) for name in "ab"]
        write_popdb(songs, small_settings(root, popdb={"path": root / POPDB}))
    except (SamuelError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


# One case, and many.


def meet(root: Path, arguments: list[str], said: Path) -> tuple[int, float, float]:
    """Run a command in `root`, in a process of its own: its exit code, seconds of computing and MiB."""
    sys.stdout.flush()
    started, surplus = time.monotonic(), inherited_mib() - OWN_MIB
    if not (child := os.fork()):
        code = 70
        with said.open("w") as sys.stdout:
            sys.stderr = sys.stdout
            for number in (1, 2):
                os.dup2(sys.stdout.fileno(), number)
            warnings.resetwarnings()
            try:
                os.chdir(root)
                code = run(arguments, root)
            except BaseException:  # noqa: BLE001 - which is what is looked for
                traceback.print_exc()
        os._exit(code)
    while not (ended := os.wait4(child, os.WNOHANG))[0]:
        time.sleep(0.005)
        with suppress(OSError, IndexError):  # it has just ended
            pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
            mib = pages * resource.getpagesize() / 2**20 - surplus
            if time.monotonic() - started > HANGS_S or mib > 2 * MOST_MIB:
                os.kill(child, signal.SIGKILL)
    hung, used = time.monotonic() - started > HANGS_S, ended[2]
    seconds = HANGS_S if hung else used.ru_utime + used.ru_stime
    return os.waitstatus_to_exitcode(ended[1]), seconds, used.ru_maxrss / 1024 - surplus


def inherited_mib() -> float:
    """MiB that a process has by being forked from this one, which tests before it may have made large."""
    if not (child := os.fork()):
        os._exit(0)
    return os.wait4(child, 0)[2].ru_maxrss / 1024


class Result(NamedTuple):
    """What became of a case; `fault` is empty where it passed."""

    kind: str
    about: str
    code: int
    seconds: float
    mib: float
    fault: str


def attack(sound: Path, kind: str, damage: Callable[[Path], str], arguments: list[str]) -> Result:
    """Damage a copy of the sound material, and judge how a command meets it."""
    with tempfile.TemporaryDirectory(prefix="samuel-fuzz-") as folder:
        root, outside = Path(folder) / "case", Path(folder) / "canary"
        shutil.copytree(sound / "in", root / "in")
        shutil.copytree(sound / "canary", outside)
        (root / "out").mkdir()
        about, before = damage(root / KINDS[kind][1]), _state(outside)
        given = [str(found) for text in arguments for found in ("*" in text and [*root.glob(text)]) or [text]]
        code, seconds, mib = meet(root, given, root / "said")
        said = (root / "said").read_text(errors="replace")
        after = _state(outside)
    lines = sum(line.startswith("error: ") for line in said.splitlines())
    wrong = {
        f"traceback: {said.strip()[-200:]}": "Traceback (most recent call last)" in said,
        f"exit code {code}": code not in (0, 1),
        f"{lines} lines of errors": code == 1 and lines != 1 and arguments[0] not in ("verify", "render"),
        f"time: {seconds:.1f} s": seconds > MOST_S + EVALUATE_S * (arguments[0] == "evaluate"),
        f"memory: {mib:.0f} MiB": mib > MOST_MIB,
        "touched what is outside": before != after,
    }
    fault = "; ".join(name for name in wrong if wrong[name])
    return Result(kind, f"{' '.join(arguments)}, where {about}", code, seconds, mib, fault)


def _state(folder: Path) -> dict[Path, tuple[int, int]]:
    paths = [folder.parent, folder, *folder.rglob("*")]
    return {path: ((stat := path.lstat()).st_size, stat.st_mtime_ns) for path in paths}


def case(sound: Path, seed: int, number: int) -> Result:
    """Case `number` of a seed."""
    random = Random(f"{seed} {number}")  # noqa: S311
    [kind] = random.choices(list(KINDS), [share for share, *_ in KINDS.values()])
    *_, damage, commands = KINDS[kind]
    arguments = random.choice(commands)
    return attack(sound, kind, lambda place: damage(random, place), arguments)


def table(results: list[Result]) -> str:
    """A row for each kind, and one for all."""
    rows = []
    for kind in [*KINDS, "all"]:
        own = [result for result in results if kind in (result.kind, "all")] or [Result("", "", 0, 0, 0, "")]
        faults = ("traceback", "time", "memory", "touched", "")
        counts = {name or "failures": sum(name in r.fault and r.fault > "" for r in own) for name in faults}
        codes = {"accepted": sum(r.code == 0 for r in own), "refused": sum(r.code == 1 for r in own)}
        most = {"s": f"{max(r.seconds for r in own):.1f}", "MiB": f"{max(r.mib for r in own):.0f}"}
        rows.append({"kind": kind, "cases": len(own), **codes, **counts, **most})
    return text_of(rows)


def main() -> int:
    """Run the cases of a seed until the time is over, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--case", type=int, help="this one alone")
    given, results = parser.parse_args(), list[Result]()
    with tempfile.TemporaryDirectory(prefix="samuel-fuzz-") as folder:
        build(sound := Path(folder))
        ends, number = time.monotonic() + 60 * given.minutes, given.case or 0
        while not results or (given.case is None and time.monotonic() < ends):
            results.append(result := case(sound, given.seed, number))
            if result.fault or given.case is not None:
                repeat = f"python -m tests.fuzz --seed {given.seed} --case {number}"
                sys.stdout.write(f"{result.fault or 'passed'}\n  {result.about}\n  {repeat}\n")
            number += 1
    sys.stdout.write(table(results) + "\n")
    return int(any(result.fault for result in results))


if __name__ == "__main__":
    sys.exit(main())
