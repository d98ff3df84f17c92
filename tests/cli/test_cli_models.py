"""`samuel train`, `validate`, `ablate`, `generate` and `render`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samuel.baselines.render import track_seed
from samuel.cli import main
from samuel.config import Settings
from samuel.evaluate.systems import folders
from samuel.popdb.dataset import open_popdb
from samuel.popdb.writer import write_popdb
from samuel.train import run_folder
from tests.baselines.layouts import write_musicgen, write_stable_audio_open
from tests.generate.voices import voice
from tests.models import small_model
from tests.popdb.latents import encoded_song, small_settings

SAMPLES = 60_000
Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str]:
    """Settings for a dataset that is there, and the file they are in."""
    root = tmp_path_factory.mktemp("trained")
    ablation = {"factors": ["loss_weight"], "seeds": 1}
    settings = small_settings(root, popdb={"validation_share": 0.4}, training={"steps": 2}, ablation=ablation)
    write_popdb([encoded_song(root, name) for name in "abcdefgh"], settings)
    (root / "settings.json").write_text(settings.model_dump_json())
    return settings, str(root / "settings.json")


def test_train_makes_the_model_where_the_flow_would_look(trained: tuple[Settings, str], capsys: Said) -> None:
    settings, file = trained
    model = run_folder(open_popdb(settings.popdb_path), settings) / "model"
    assert main(["train", "--settings", file]) == 0
    output = capsys.readouterr().out
    assert f"{model}: trained, validation loss " in output
    assert "with another song's vocal" in output
    assert main(["train", "--settings", file]) == 0
    assert f"{model}: already there" in capsys.readouterr().out
    assert main(["validate", str(model), "--settings", file]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[:7]] == ["own", "t", "100", "300", "500", "700", "all"]
    assert main(["train", "--settings", file, "popdb.path=absent"]) == 1
    assert "absent" in capsys.readouterr().err


def test_ablate_prints_the_table_and_each_fit(trained: tuple[Settings, str], capsys: Said) -> None:
    settings, file = trained
    assert main(["ablate", "--settings", file]) == 0
    shown = capsys.readouterr()
    folder = Path(shown.out.splitlines()[-1])
    assert shown.out.startswith((folder / "ablation.md").read_text("utf-8"))
    losses = [fit["best_loss"] for fit in json.loads((folder / "ablation.json").read_text())["fits"]]
    names = ["as set", "loss_weight = snr", "loss_weight = uniform"]
    told = [f"{name}, seed 0: validation loss {loss:.4f}" for name, loss in zip(names, losses, strict=True)]
    assert [line for line in shown.err.splitlines() if "seed 0" in line] == told
    assert (folder.parent, folder.is_dir()) == (settings.artifacts / "ablations", True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    small_model(folder).rename(folder / "samuel")
    write_musicgen(folder / "musicgen")
    write_stable_audio_open(folder / "stable-audio-open")
    return {path.name: path for path in folder.iterdir() if path.is_dir()}


@pytest.fixture
def vocal(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "vocal.flac", voice(150_000)[0, ::2], 22_050)
    return tmp_path / "vocal.flac"


def generating(vocal: Path, models: dict[str, Path], *more: str) -> list[str]:
    output = vocal.parent / "out" / "band.wav"
    return [
        "generate", str(vocal), "--model", str(models["samuel"]), "-o", str(output), "--steps", "2", *more
    ]  # fmt: skip


def test_options_reach_the_sampling_and_the_files_are_named(
    vocal: Path, models: dict[str, Path], capsys: Said
) -> None:
    more = "--sampler unipc --guidance 3 --seed 7 sampling.guidance_rescale=0.5 sampling.precision=bf16"
    more += " sampling.guidance_interval=[0.1,0.9] --n 2 --length 2 --balance 6"
    assert main(generating(vocal, models, *more.split())) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(paths) == sorted((vocal.parent / "out").iterdir())
    assert len(paths) == 6
    assert soundfile.info(paths[0]).frames == soundfile.info(paths[1]).frames == 88_200
    record = json.loads((vocal.parent / "out" / "band-2.json").read_text())
    assert record["sampling"] == {
        "sampler": "unipc", "steps": 2, "guidance_scale": 3.0, "guidance_rescale": 0.5,
        "guidance_interval": [0.1, 0.9], "seed": 8, "precision": "bf16"
    }  # fmt: skip
    assert (record["balance"]["wanted_db"], record["vocal"]["duration_s"]) == (6, 2.0)


def test_a_whole_song_and_kept_seconds(vocal: Path, models: dict[str, Path]) -> None:
    assert main(generating(vocal, models, "--from-mix")) == 0
    first = vocal.parent / "out" / "band.wav"
    second = first.with_name("second.flac")
    more = ["--existing", str(first), "--keep", "0-1.5", "--seed", "9", "-o", str(second)]
    assert main(generating(vocal, models, *more)) == 0
    before, after = (soundfile.read(path)[0] for path in (first, second))
    assert np.array_equal(before[:60_000], after[:60_000])
    assert not np.array_equal(before[80_000:], after[80_000:])
    assert json.loads(first.with_suffix(".json").read_text())["vocal"]["separator"].startswith("repet-sim/")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--steps", "801"], "sampling.steps = 801"),
        (["--keep", "1-2"], "--keep and --existing belong together"),
        (["-o", "band.mp3"], "neither .wav nor .flac"),
        (["--model", "{other}"], "the model learned latents of mel/0 "),
    ],
)
def test_what_is_wrong_is_named_and_leaves_nothing(
    more: list[str], words: str, vocal: Path, models: dict[str, Path], tmp_path: Path, capsys: Said
) -> None:
    shutil.copytree(models["samuel"], tmp_path / "other")
    entry = tmp_path / "other" / "entry.json"
    entry.write_text(entry.read_text().replace('"version": "1 ', '"version": "0 '))
    assert main(generating(vocal, models, *(text.format(other=entry.parent) for text in more))) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    out = vocal.parent / "out"
    assert not out.exists() or list(out.iterdir()) == []


def test_a_signal_ends_it_and_leaves_nothing(vocal: Path, models: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "samuel.cli", *generating(vocal, models, "--steps", "800")]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = os.environ | {"TMPDIR": str(scratch)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
        deadline = time.monotonic() + 120
        while not any(scratch.rglob("vocal.wav")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "interrupted; takes that were finished stay, the rest is not there"
    assert "Traceback" not in error
    assert list(scratch.iterdir()) == []
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def vocals(tmp_path: Path) -> Path:
    (folder := tmp_path / "vocals").mkdir()
    soundfile.write(folder / "--x.wav", voice(SAMPLES)[0, ::2], 22_050)
    soundfile.write(folder / "song <b>.flac", voice(SAMPLES - 7).T, 44_100)
    return folder


def rendering(system: str, models: dict[str, Path], vocals: Path, *more: str) -> list[str]:
    output = str(vocals.parent / system)
    known = ["--vocals", str(vocals), "--output", output, "--model", str(models[system])]
    return ["render", system, *known, "device=cpu", *more]


@pytest.mark.parametrize(
    ("system", "name", "conditioning", "setting"),
    [
        ("samuel", "SAMUeL", "vocal", "sampling.steps=2"),
        ("musicgen", "MusicGen", "vocal, text", "musicgen.top_k=9"),
        ("stable-audio-open", "Stable Audio Open", "text", "stable_audio_open.steps=2"),
    ],
)
def test_every_system_makes_a_folder_that_can_be_evaluated(
    system: str, name: str, conditioning: str, setting: str, models: dict[str, Path], vocals: Path,
    tmp_path: Path, capsys: Said
) -> None:  # fmt: skip
    command = rendering(system, models, vocals, "--seed", "5", setting)
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 made, 0 there already, 0 failed"
    lineup = folders(vocals, {name: vocals.parent / system})
    assert lineup.problems == ()
    about = json.loads((vocals.parent / system / "system.json").read_text())
    assert (about["system"], about["conditioning"], about["model"]) == (name, conditioning, system)
    named, value = setting.partition(".")[2].split("=")
    assert (about["settings"]["seed"], about["settings"][named]) == (5, int(value))
    first, second = (soundfile.read(path)[0] for path in lineup.systems[0].files.values())
    assert (len(first), len(second)) == (SAMPLES, SAMPLES - 7)
    assert not np.array_equal(first[: SAMPLES // 2], second[: SAMPLES // 2])  # each has its own seed
    if system == "samuel":  # what is rendered is what generate writes
        more = ["-o", str(tmp_path / "x.flac"), "--seed", str(track_seed(5, "--x")), "device=cpu"]
        assert main(generating(vocals / "--x.wav", models, *more)) == 0
        assert np.array_equal(first, soundfile.read(tmp_path / "x.flac")[0])
        capsys.readouterr()
    (vocals / "bad\x1b[31m.wav").write_bytes(b"la la la")
    (vocals / "notes.txt").write_text("none")
    assert main(command) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == "0 made, 2 there already, 1 failed"
    assert "notes.txt: no audio file, by its suffix: skipped" in shown.err
    assert "bad?[31m.wav: " in shown.err
    assert main([*command, "--seed", "6"]) == 1
    assert "settings.seed: 5 there, 6 here" in capsys.readouterr().err


def test_what_is_wrong_is_named_and_nothing_is_begun_or_fetched(
    models: dict[str, Path], vocals: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    for system, more, words in (
        ("samuel", ["--vocals", "absent"], "absent: no such folder"),
        ("samuel", ["--prompt", "pop"], "--prompt: SAMUeL reads no text"),
        ("musicgen", ["--model", "absent"], "absent: no such folder, and no hub repository"),
        ("musicgen", ["--seed", "-1"], "setting musicgen.seed"),
        ("stable-audio-open", ["--prompt", ""], "setting stable_audio_open.prompt"),
        ("stable-audio-open", ["device=mps"], "device = 'mps'"),
    ):
        assert main(rendering(system, models, vocals, *more)) == 1
        assert words in capsys.readouterr().err
        assert not (vocals.parent / system).exists()
    monkeypatch.setitem(sys.modules, "transformers", None)
    for system, words in (
        ("musicgen", "MusicGen needs transformers: pip install 'samuel-accompaniment[baselines]'"),
        ("samuel", "--model is missing"),
    ):
        assert main(["render", system, "--vocals", str(vocals), "-o", str(vocals.parent / "out")]) == 1
        assert words in capsys.readouterr().err
