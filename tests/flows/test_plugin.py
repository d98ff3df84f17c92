import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.plugin import with_short_names

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("typed", "looked_up"),
    [("build-popdb", "build-popdb/build-popdb"), ("build-popdb/demo", "build-popdb/demo"), ("a/b", "a/b")],
)
def test_a_name_without_a_slash_is_both_names(typed: str, looked_up: str) -> None:
    async def lookup(client: Any, name: str) -> tuple[Any, str]:
        return client, name

    assert asyncio.run(with_short_names(lookup)("the client", typed)) == ("the client", looked_up)


def prefect(server: str, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PREFECT_API_URL": server, "PREFECT_HOME": str(home), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_names_of_the_readme_run_on_a_real_server(server: str, tmp_path: Path) -> None:
    pool = prefect(server, tmp_path, "work-pool", "create", "samuel", "--type", "process", "--overwrite")
    assert pool.returncode == 0, pool.stderr
    deployed = prefect(server, tmp_path, "--no-prompt", "deploy", "--all")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    for name in ("build-popdb", "train-and-eval", "build-popdb/build-popdb", "train-and-eval/demo"):
        run = prefect(server, tmp_path, "deployment", "run", name)
        assert run.returncode == 0, run.stdout + run.stderr
        assert "Created flow run" in run.stdout
    assert prefect(server, tmp_path, "deployment", "run", "no-such-flow").returncode == 1
    refused = {
        "settings.training.steps": ("settings", '{"training": {"steps": 0}}'),
        "'stepps' was unexpected": ("settings", '{"training": {"stepps": 5}}'),
        "'nonsense'": ("nonsense", "1"),
        "settings.store": ("settings", '{"store": "s3://me:secret@bucket/x"}'),
        "settings.popdb.path": ("settings", '{"popdb": {"path": "s3://me:secret@bucket/x"}}'),
        "settings.download.proxy": ("settings", '{"download": {"proxy": "http://me:secret@host:1"}}'),
    }
    for words, (name, value) in refused.items():
        run = prefect(
            server, tmp_path, "deployment", "run", "train-and-eval/demo", "--param", f"{name}={value}"
        )
        assert run.returncode == 1
        assert words in run.stdout + run.stderr


def test_without_a_server_it_says_what_to_start(tmp_path: Path) -> None:
    run = prefect("http://127.0.0.1:9/api", tmp_path, "deployment", "run", "build-popdb")
    assert run.returncode == 1
    assert "no Prefect server answers at http://127.0.0.1:9/api" in run.stderr
    assert "make serve" in run.stderr
    assert "Traceback" not in run.stderr
