import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from samuel.baselines.render import track_seed
from samuel.cli import main
from samuel.evaluate.systems import folders
from tests.baselines.layouts import write_musicgen, write_stable_audio_open
from tests.generate.voices import voice
from tests.models import small_model

SAMPLES = 60_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    small_model(folder).rename(folder / "samuel")
    write_musicgen(folder / "musicgen")
    write_stable_audio_open(folder / "stable-audio-open")
    return {path.name: path for path in folder.iterdir() if path.is_dir()}


@pytest.fixture
def vocals(tmp_path: Path) -> Path:
    folder = tmp_path / "vocals"
    folder.mkdir()
    soundfile.write(folder / "--x.wav", voice(SAMPLES)[0, ::2], 22_050)
    soundfile.write(folder / "song <b>.flac", voice(SAMPLES - 7).T, 44_100)
    return folder


def arguments(system: str, models: dict[str, Path], vocals: Path, *more: str) -> list[str]:
    output = str(vocals.parent / system)
    known = ["--vocals", str(vocals), "--output", output, "--model", str(models[system])]
    return ["render", system, *known, "device=cpu", *more]


def settings(folder: Path, values: Any) -> list[str]:
    (folder / "settings.json").write_text(json.dumps(values))
    return ["--settings", str(folder / "settings.json")]


@pytest.mark.parametrize(
    ("system", "name", "conditioning", "values"),
    [
        ("samuel", "SAMUeL", "vocal", {"sampling": {"steps": 2}}),
        ("musicgen", "MusicGen", "vocal, text", {"musicgen": {"top_k": 9}}),
        ("stable-audio-open", "Stable Audio Open", "text", {"stable_audio_open": {"steps": 2}}),
    ],
)
def test_every_system_makes_a_folder_that_can_be_evaluated(
    system: str,
    name: str,
    conditioning: str,
    values: dict[str, Any],
    models: dict[str, Path],
    vocals: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = arguments(system, models, vocals, "--seed", "5", *settings(vocals.parent, values))
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 made, 0 there already, 0 failed"
    lineup = folders(vocals, {name: vocals.parent / system})
    assert lineup.problems == ()
    about = json.loads((vocals.parent / system / "system.json").read_text())
    assert (about["system"], about["conditioning"], about["model"]) == (name, conditioning, system)
    assert about["settings"]["seed"] == 5
    assert about["settings"].items() >= next(iter(values.values())).items()
    first, second = (soundfile.read(path)[0] for path in lineup.systems[0].files.values())
    assert (len(first), len(second)) == (SAMPLES, SAMPLES - 7)
    assert not np.array_equal(first[: SAMPLES // 2], second[: SAMPLES // 2])  # each has its own seed
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 made, 2 there already, 0 failed"
    assert main([*command, "--seed", "6"]) == 1
    assert "settings.seed: 5 there, 6 here" in capsys.readouterr().err


def test_ours_is_what_generate_writes(models: dict[str, Path], vocals: Path) -> None:
    steps = settings(vocals.parent, {"sampling": {"steps": 2}})
    assert main(arguments("samuel", models, vocals, *steps)) == 0
    vocal, generated = vocals / "--x.wav", vocals.parent / "generated.flac"
    seed = str(track_seed(0, "--x"))
    generate = [
        "generate",
        str(vocal),
        "--model",
        str(models["samuel"]),
        "-o",
        str(generated),
        "--seed",
        seed,
    ]
    assert main([*generate, *steps, "device=cpu"]) == 0
    rendered, _ = soundfile.read(vocals.parent / "samuel" / "--x.flac")
    assert np.abs(rendered).max() > 0
    assert np.array_equal(rendered, soundfile.read(generated)[0])


def test_an_unreadable_vocal_among_good_ones(
    models: dict[str, Path], vocals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (vocals / "bad\x1b[31m.wav").write_bytes(b"la la la")
    (vocals / "notes.txt").write_text("none")
    assert main(arguments("musicgen", models, vocals)) == 1
    shown = capsys.readouterr()
    assert "notes.txt: no audio file, by its suffix: skipped" in shown.err
    assert "bad?[31m.wav: " in shown.err
    assert "not readable as audio" in shown.err
    assert "\x1b" not in shown.err + shown.out
    assert shown.out.splitlines()[-1] == "2 made, 0 there already, 1 failed"
    assert len(list((vocals.parent / "musicgen").glob("*.flac"))) == 2


@pytest.mark.parametrize(
    ("system", "more", "words"),
    [
        ("samuel", ["--prompt", "pop"], "SAMUeL reads no text"),
        ("samuel", ["--vocals", "absent"], "absent: no such folder"),
        ("samuel", ["--model", "absent"], "absent: no whole checkpoint here"),
        ("musicgen", ["--model", "absent"], "absent: no such folder, and no hub repository"),
        ("musicgen", ["--settings", "absent.json"], "absent.json: no such file"),
        ("musicgen", ["--seed", "-1"], "setting musicgen.seed"),
        ("stable-audio-open", ["--prompt", ""], "setting stable_audio_open.prompt"),
        ("stable-audio-open", ["device=mps"], "device = 'mps'"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_begun(
    system: str,
    more: list[str],
    words: str,
    models: dict[str, Path],
    vocals: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(arguments(system, models, vocals, *more)) == 1
    assert words in capsys.readouterr().err
    assert not (vocals.parent / system).exists()


def test_a_model_must_be_named_for_our_own(vocals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "samuel", "--vocals", str(vocals), "-o", str(vocals.parent / "out")]) == 1
    assert "--model is missing" in capsys.readouterr().err


def test_a_missing_extra_is_named_before_anything_is_fetched(
    vocals: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["render", "musicgen", "--vocals", str(vocals), "-o", str(vocals.parent / "out")]) == 1
    assert "MusicGen needs transformers: pip install 'samuel[baselines]'" in capsys.readouterr().err
