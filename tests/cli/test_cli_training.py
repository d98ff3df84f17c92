"""`samuel train`, `validate`, `ablate` and `synthesise`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from samuel.cli import main
from samuel.config import Settings
from samuel.popdb.dataset import open_popdb
from samuel.popdb.writer import write_popdb
from samuel.train import run_folder
from tests.popdb.latents import encoded_song, small_settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    settings = small_settings(tmp_path, popdb={"validation_share": 0.4})
    write_popdb([encoded_song(tmp_path, name) for name in "abcdefgh"], settings)
    path = tmp_path / "settings.json"
    path.write_text(settings.model_dump_json())
    return path


def test_train_makes_the_model_where_the_flow_would_look(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small_settings(tmp_path, popdb={"validation_share": 0.4})
    run = run_folder(open_popdb(settings.popdb_path), settings)
    assert main(["train", "--settings", str(file)]) == 0
    output = capsys.readouterr().out
    assert f"{run / 'model'}: trained, validation loss " in output
    assert "with another song's vocal" in output
    assert main(["train", "--settings", str(file)]) == 0
    assert f"{run / 'model'}: already there" in capsys.readouterr().out
    assert main(["validate", str(run / "model"), "--settings", str(file)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[:7]] == ["own", "t", "100", "300", "500", "700", "all"]


def test_train_without_a_dataset_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"data": str(tmp_path / "absent")}))
    assert main(["train", "--settings", str(path)]) == 1
    assert "absent" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_of_torchrun_print_once(file: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "samuel.cli", "train", "--settings", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained, validation loss") == 1


def written(root: Path, **sections: Any) -> tuple[Settings, str]:
    """Settings, and the file they are in."""
    settings = small_settings(root, **sections)
    path = root / "settings.json"
    path.write_text(settings.model_dump_json())
    return settings, str(path)


def test_synthesise_writes_the_dataset_it_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, path = written(tmp_path, popdb={"chunk_frames": 512})
    assert main(["synthesise", "--settings", path, "--songs", "1"]) == 0
    pairs = open_popdb(settings.popdb_path).info["counts"]["pairs"]
    assert pairs > 1
    assert capsys.readouterr().out == f"{settings.popdb_path}: {pairs} pairs\n"


@pytest.mark.parametrize("songs", ["0", "-3", "1000000000"])
def test_synthesise_wants_a_number_of_songs(
    songs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = written(tmp_path)
    assert main(["synthesise", "--settings", path, "--songs", songs]) == 2
    assert f"{songs} is not in the range 1<=x<=100000" in capsys.readouterr().err


def test_synthesise_refuses_songs_without_known_stems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = written(tmp_path, songs={"source": "csv"})
    assert main(["synthesise", "--settings", path, "--songs", "1"]) == 1
    assert "true stems are those of songs.source = 'synthetic'" in capsys.readouterr().err


def test_ablate_prints_the_table_and_each_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, path = written(
        tmp_path, training={"steps": 2}, ablation={"factors": ["loss_weight"], "seeds": 1}
    )
    write_popdb([encoded_song(tmp_path, name) for name in "abcd"], settings)
    assert main(["ablate", "--settings", path]) == 0
    shown = capsys.readouterr()
    folder = Path(shown.out.splitlines()[-1])
    assert shown.out.startswith((folder / "ablation.md").read_text("utf-8"))
    losses = [fit["best_loss"] for fit in json.loads((folder / "ablation.json").read_text())["fits"]]
    names = ["as set", "loss_weight = snr", "loss_weight = uniform"]
    told = [f"{name}, seed 0: validation loss {loss:.4f}" for name, loss in zip(names, losses, strict=True)]
    assert [line for line in shown.err.splitlines() if "seed 0" in line] == told
    assert (folder.parent, folder.is_dir()) == (settings.artifacts / "ablations", True)


def test_an_interrupted_study_says_that_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    settings, path = written(tmp_path)
    write_popdb([encoded_song(tmp_path, name) for name in "ab"], settings)
    monkeypatch.setattr("samuel.ablation.fit", interrupt)
    assert main(["ablate", "--settings", path]) == 130
    assert "what is done stays, and the same command goes on from there" in capsys.readouterr().err
