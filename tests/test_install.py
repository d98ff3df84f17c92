"""`make install` makes anew what only looks like its environment: a dry run says so."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parent.parent / "Makefile"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


def plan(folder: Path, *options: str, **environment: str) -> str:
    command = [str(shutil.which("make")), "--dry-run", "install", *options]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run(command, cwd=folder, env=environment or None, check=False, **output).stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(MAKEFILE, folder)
    for name in ("requirements.lock", "pyproject.toml"):
        (folder / name).touch()
    venv.create(folder / ".venv", with_pip=True, symlinks=True)
    (folder / ".venv" / "installed").touch()
    return folder


def test_an_environment_that_is_whole_is_left_alone(installed: Path) -> None:
    assert "Nothing to be done" in plan(installed)
    assert "-r requirements.lock" in plan(installed, "--what-if=requirements.lock")


@pytest.mark.parametrize("fault", ["moved", "no pip", "no python", "another python"])
def test_one_that_only_looks_like_it_is_made_anew(installed: Path, tmp_path: Path, fault: str) -> None:
    folder = Path(shutil.copytree(installed, tmp_path / "copy", symlinks=True))
    if fault != "moved":
        pip = folder / ".venv" / "bin" / "pip"
        pip.write_text(pip.read_text().replace(str(installed), str(folder)))
        assert "Nothing to be done" in plan(folder)
    python = folder / ".venv" / "bin" / "python"
    if fault == "no pip":
        [package] = (folder / ".venv" / "lib").glob("*/site-packages/pip")
        shutil.rmtree(package)
    elif fault != "moved":
        python.unlink()
        if fault == "another python":
            newer = "import sys; sys.version_info = (3, 13)"
            python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{newer}\n$2"\n')
            python.chmod(0o755)
    assert f"{sys.executable} -m venv --clear .venv" in plan(folder, f"PYTHON={sys.executable}")


def test_without_a_python_that_will_do_it_says_which(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_bytes(MAKEFILE.read_bytes())
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    assert "Python 3.11 or 3.12 is needed; set PYTHON=" in plan(tmp_path, PATH=str(tmp_path))
