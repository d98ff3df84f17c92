import json
import subprocess
import sys
from pathlib import Path

import pytest

from samuel.cli import main
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
    assert [line.split()[0] for line in table[:6]] == ["t", "100", "300", "500", "700", "all"]
    assert table[-1].endswith("of 3 songs (6 pairs)")


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
