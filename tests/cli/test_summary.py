import json
from pathlib import Path

import pytest

from samuel.cli import main
from samuel.config import ModelConfig
from samuel.model.unet import SamuelUNet, parameter_count
from tests.model.conftest import SMALL


def test_summary_of_the_default_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["part", "parameters", "GFLOP", "share"]
    assert rows[-1].split() == ["total", f"{parameter_count(SamuelUNet(ModelConfig())):,}", "5.680", "100.0%"]
    shares = [float(row.split()[3].rstrip("%")) for row in rows[:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_summary_of_settings_and_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"model": SMALL.model_dump(mode="json")}))
    assert main(["summary", "--frames", "64", "--settings", str(path)]) == 0
    total = capsys.readouterr().out.splitlines()[-1].split()
    assert total[1] == f"{parameter_count(SamuelUNet(SMALL)):,}"
    assert main(["summary", "--frames", "12"]) == 1
    assert "12 latent frames" in capsys.readouterr().err
