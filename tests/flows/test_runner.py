"""The flow on Dask workers, and what it says of a cluster that does not suit."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import LocalCluster
from prefect import flow, task

from flows.build_popdb import build_popdb
from flows.runner import GPU, asked_to_end, wants_gpu, workers
from flows.train_and_eval import train_and_eval
from samuel.config import RunnerConfig, Settings
from samuel.errors import MissingPartError
from tests.flows.test_flows import digests, folder_settings
from tests.popdb.latents import small_settings

pytestmark = [
    # Of Dask's own sockets and processes, which it leaves to the end of the interpreter.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(600),  # every worker imports torch
]


@pytest.fixture(scope="module")
def on_threads(server: str, songs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = folder_settings(tmp_path_factory.mktemp("threads"), songs_folder)
    build_popdb(settings)
    return settings


@contextmanager
def cluster(**options: Any) -> Iterator[LocalCluster]:
    here: dict[str, Any] = {"host": "127.0.0.1", "threads_per_worker": 1, "dashboard_address": None}
    local: Any = LocalCluster(**here, **options)
    with local:
        yield local


def test_two_worker_processes_make_the_same_bytes(
    on_threads: Settings, songs_folder: Path, tmp_path: Path
) -> None:
    settings = folder_settings(tmp_path, songs_folder, runner={"kind": "dask", "workers": 2})
    build_popdb(settings)
    assert digests(Path(settings.popdb_path)) == digests(Path(on_threads.popdb_path))


def test_a_worker_killed_in_mid_run_harms_nobody(
    on_threads: Settings, songs_folder: Path, tmp_path: Path
) -> None:
    with cluster(n_workers=2) as local:
        runner = {"kind": "dask", "address": local.scheduler_address}
        settings = folder_settings(tmp_path, songs_folder, runner=runner)
        killed: list[int] = []

        def kill() -> None:
            wait_for(lambda: any((settings.data / "stems").glob("*/entry.json")))
            pid = next(iter(local.workers.values())).pid
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        killer = threading.Thread(target=kill)
        killer.start()
        build_popdb(settings)
        killer.join()
    assert killed
    assert digests(Path(settings.popdb_path)) == digests(Path(on_threads.popdb_path))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_tasks_run_in_the_workers_processes(server: str, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, runner={"kind": "dask", "workers": 2})

    @task
    def here(after: Any) -> int:
        return os.getpid()

    @flow
    def ask() -> list[int]:
        with workers(settings, 1) as run:
            first = run.submit(here, after=None)
            return [first.result(), run.submit(here, after=first).result()]

    assert os.getpid() not in ask()


def test_what_computes_runs_where_a_gpu_is_offered(server: str, tmp_path: Path) -> None:
    @task
    def here() -> int:
        return os.getpid()

    @flow
    def ask(settings: Settings) -> tuple[set[int], int]:
        with workers(settings, 1) as run:
            pids = {run.submit(here, computes=True).result() for _ in range(4)}
            return pids, run._client.submit(os.getpid, resources={GPU: 1}).result()  # type: ignore[attr-defined]

    with cluster(n_workers=1, env={"PREFECT_PLUGINS_ENABLED": "false"}) as local:
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            local.scheduler_address,
            "--resources",
            "GPU=1",
        ]
        with subprocess.Popen(
            [*command, "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]
        ) as worker:
            try:
                wait_for(lambda: len(local.scheduler_info["workers"]) == 2)
                runner = {"kind": "dask", "address": local.scheduler_address}
                settings = small_settings(tmp_path, runner=runner)
                pids, of_gpu = ask(settings.model_copy(update={"device": "auto"}))
            finally:
                for process in [*psutil.Process(worker.pid).children(recursive=True), worker]:
                    process.terminate()
    assert pids == {of_gpu}


def test_a_gpu_that_nobody_offers_is_told_before_the_work(server: str, tmp_path: Path) -> None:
    settings = small_settings(tmp_path).model_copy(update={"device": "cuda"})
    with pytest.raises(MissingPartError, match=r"none of 2 Dask workers offers a GPU.*--resources GPU=1"):
        wants_gpu([{}, {"memory": 1.0}], settings)
    assert wants_gpu([{}, {GPU: 1.0}], settings)
    assert not wants_gpu([{}], small_settings(tmp_path).model_copy(update={"device": "auto"}))
    assert not wants_gpu([{GPU: 1.0}], small_settings(tmp_path).model_copy(update={"device": "cpu"}))


def test_a_scheduler_that_does_not_answer_is_named(
    server: str, songs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.runner.CONNECT_S", 1)
    runner = {"kind": "dask", "address": "tcp://127.0.0.1:9"}
    with pytest.raises(
        MissingPartError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 .*dask scheduler"
    ):
        build_popdb(folder_settings(tmp_path, songs_folder, runner=runner))
    assert not list(tmp_path.glob("data/raw/*/entry.json"))


def test_a_training_on_a_worker_ends_in_a_report(on_threads: Settings) -> None:
    settings = on_threads.model_copy(update={"runner": RunnerConfig(kind="dask", workers=1)})
    made = train_and_eval(settings)
    assert Path(made["report"]).is_file()


def test_a_task_on_a_cluster_hears_that_its_run_ends(server: str, tmp_path: Path) -> None:
    begun, heard = tmp_path / "begun", tmp_path / "heard"

    @task
    def long() -> None:
        ends = asked_to_end()
        begun.touch()
        while not ends():
            time.sleep(0.01)
        heard.touch()

    @flow
    def broken(settings: Settings) -> None:
        with workers(settings, 1) as run:
            run.submit(long)
            wait_for(begun.exists)
            raise ValueError("a bug")

    with cluster(n_workers=1) as local:
        runner = {"kind": "dask", "address": local.scheduler_address}
        with pytest.raises(ValueError, match="a bug"):
            broken(small_settings(tmp_path, runner=runner))
        wait_for(heard.exists)
