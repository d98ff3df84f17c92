import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samuel.cli import main
from tests.generate.voices import voice
from tests.models import small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def vocal(tmp_path: Path) -> Path:
    path = tmp_path / "vocal.flac"
    soundfile.write(path, voice(150_000)[0, ::2], 22_050)
    return path


def arguments(vocal: Path, model: Path, *more: str) -> list[str]:
    output = vocal.parent / "out" / "band.wav"
    return ["generate", str(vocal), "--model", str(model), "-o", str(output), "--steps", "2", *more]


def test_generate_writes_what_it_names(vocal: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(vocal, model)) == 0
    shown = capsys.readouterr()
    paths = [Path(line) for line in shown.out.splitlines()]
    assert [path.name for path in paths] == ["band.wav", "band-mix.wav", "band.json"]
    assert sorted(paths) == sorted((vocal.parent / "out").iterdir())
    assert soundfile.info(paths[0]).frames == soundfile.info(paths[1]).frames == 150_000


def test_options_reach_the_sampling(vocal: Path, model: Path) -> None:
    more = "--sampler unipc --guidance 3 --seed 7 sampling.guidance_rescale=0.5"
    more += " sampling.guidance_interval=[0.1,0.9]"
    more += " --n 2 sampling.precision=bf16 --length 2 --balance 6"
    assert main(arguments(vocal, model, *more.split())) == 0
    record = json.loads((vocal.parent / "out" / "band-2.json").read_text())
    assert record["sampling"] == {
        "sampler": "unipc", "steps": 2, "guidance_scale": 3.0, "guidance_rescale": 0.5,
        "guidance_interval": [0.1, 0.9], "seed": 8, "precision": "bf16",
    }  # fmt: skip
    assert record["balance"]["wanted_db"] == 6
    assert record["vocal"]["duration_s"] == 2.0


def test_settings_are_not_written_over(
    vocal: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "song.json"
    file.write_text("{}")
    again = arguments(vocal, model, "--settings", str(file))
    again[5] = str(tmp_path / "song.wav")
    assert main(again) == 1
    assert "song.json: is there, and of no earlier take" in capsys.readouterr().err
    assert file.read_text() == "{}"


def test_a_whole_song_and_kept_seconds(vocal: Path, model: Path) -> None:
    assert main(arguments(vocal, model, "--from-mix")) == 0
    first = vocal.parent / "out" / "band.wav"
    again = arguments(vocal, model, "--existing", str(first), "--keep", "0-1.5", "--seed", "9")
    again[5] = str(second := first.with_name("second.flac"))
    assert main(again) == 0
    before, after = (soundfile.read(path)[0] for path in (first, second))
    assert np.array_equal(before[:60_000], after[:60_000])
    assert not np.array_equal(before[80_000:], after[80_000:])
    assert json.loads(first.with_suffix(".json").read_text())["vocal"]["separator"].startswith("repet-sim/")


def test_silence_gives_a_warning_and_a_result(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(44_100), 44_100)
    assert main(arguments(tmp_path / "silence.wav", model)) == 0
    assert "silent" in caplog.text
    assert soundfile.info(tmp_path / "out" / "band.wav").frames == 44_100


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--steps", "0"], "sampling.steps"),
        (["--steps", "801"], "sampling.steps = 801"),
        (["--guidance", "nan"], "sampling.guidance_scale"),
        (["sampling.guidance_interval=[0.9,0.1]"], "sampling.guidance_interval"),
        (["--n", "0"], "0 takes"),
        (["--length", "0"], "length_s"),
        (["--keep", "1-2"], "--keep and --existing belong together"),
        (["--existing", "absent.wav", "--keep", "1-2"], "absent.wav: no such file"),
        (["-o", "band.mp3"], "neither .wav nor .flac"),
    ],
)
def test_what_is_wrong_is_named_and_leaves_nothing(
    more: list[str], words: str, vocal: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(vocal, model, *more)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    out = vocal.parent / "out"
    assert not out.exists() or list(out.iterdir()) == []


def test_an_unknown_sampler_is_refused_with_those_there_are(
    vocal: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(vocal, model, "--sampler", "euler")) == 2
    assert "dpmsolver++" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not readable as audio"), (b"RIFF" + bytes(99), "not readable as audio"), (b"la la la", "audio")],
)
def test_a_file_that_is_no_audio_is_named(
    content: bytes, words: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.wav").write_bytes(content)
    assert main(arguments(tmp_path / "wrong.wav", model)) == 1
    error = capsys.readouterr().err
    assert "wrong.wav" in error
    assert words in error


def test_a_model_of_another_codec_is_refused(
    vocal: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    other = tmp_path / "model"
    shutil.copytree(model, other)
    entry = other / "entry.json"
    entry.write_text(entry.read_text().replace('"version": "1 ', '"version": "0 '))
    assert main(arguments(vocal, other)) == 1
    assert "the model learned latents of mel/0 " in capsys.readouterr().err


def test_a_signal_ends_it_and_leaves_nothing(vocal: Path, model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "samuel.cli", *arguments(vocal, model, "--steps", "800")]
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
