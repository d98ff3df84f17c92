"""Where tasks run: the workers of a Dask cluster, and trainings on two processes."""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, LocalCluster
from prefect import flow, task
from safetensors.torch import load_file

from flows.build_popdb import build_popdb
from flows.processes import spawn
from flows.runner import GPU, fit_together, newest_row, parts_here, run_ends, wants_gpu, workers
from flows.train_and_eval import train, train_and_eval
from samuel.artifacts import Artifact, find_artifact
from samuel.config import RunnerConfig, Settings
from samuel.errors import MissingPartError, SamuelError, StoppedError
from samuel.popdb.dataset import open_popdb
from samuel.popdb.parts import Parts
from samuel.popdb.writer import write_popdb
from samuel.train import fit, run_folder
from tests.flows.runs import ROOT, digests, folder_settings, wait_for
from tests.popdb.latents import encoded_song, small_settings
from tests.train.trainings import ignore

HERE: dict[str, Any] = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
pytestmark = [
    # Of Dask's own sockets and processes, which it leaves to the end of the interpreter.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(600),  # every worker imports torch
]


@pytest.fixture(scope="module")
def on_threads(server: str, songs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = folder_settings(tmp_path_factory.mktemp("threads"), songs_folder)
    build_popdb(settings=settings)
    return settings


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two workers, one of which offers what stands for a GPU."""
    local: Any = LocalCluster(n_workers=1, env={"PREFECT_PLUGINS_ENABLED": "false"}, **HERE)
    command = [sys.executable, "-m", "distributed.cli.dask_worker", local.scheduler_address]
    command += ["--resources", f"{GPU}=1", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]
    environment = {**os.environ, "PREFECT_PLUGINS_ENABLED": "false"}
    with local, subprocess.Popen(command, env=environment) as worker:
        try:
            wait_for(lambda: len(local.scheduler_info["workers"]) == 2)
            yield local
        finally:
            for process in [*psutil.Process(worker.pid).children(recursive=True), worker]:
                process.terminate()


def test_tasks_run_where_they_can_hear_the_end_and_load_parts_once(
    cluster: Any, server: str, tmp_path: Path
) -> None:
    dask = {"kind": "dask", "address": cluster.scheduler_address}
    settings = small_settings(tmp_path, runner=dask).model_copy(update={"device": "auto"})
    begun, heard = tmp_path / "begun", tmp_path / "heard"

    @task
    def here(parts: Parts, after: Any = None) -> tuple[int, int]:
        return os.getpid(), id(parts_here(parts))

    @task
    def long() -> None:
        ends = run_ends()
        begun.touch()
        while not ends():
            time.sleep(0.01)
        heard.touch()

    seen: list[Any] = []

    @flow
    def broken() -> None:
        with workers(settings, 1) as run:
            first = run.submit(here, computes=True, parts=Parts(settings))
            seen.extend(
                run.submit(here, computes=True, parts=Parts(settings), after=first).result() for _ in range(3)
            )
            assert run.client
            seen.append((run.client.submit(os.getpid, resources={GPU: 1}).result(), seen[0][1]))
            run.submit(long)
            wait_for(begun.exists)
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        broken()
    assert len(set(seen)) == 1  # what computes ran where a GPU is offered, with the parts of the first
    assert seen[0][0] != os.getpid()
    wait_for(heard.exists)


def test_a_worker_killed_in_mid_run_harms_nobody_and_others_train(
    cluster: Any, on_threads: Settings, songs_folder: Path, tmp_path: Path
) -> None:
    settings = folder_settings(tmp_path, songs_folder, runner={"kind": "dask", "workers": 2})
    others = psutil.Process().children()

    def kill() -> None:
        wait_for(lambda: any((settings.data / "stems").glob("*/entry.json")), pause_s=0.005)
        ours = (child for child in psutil.Process().children() if child not in others)
        next(child for child in ours if "spawn_main" in " ".join(child.cmdline())).kill()

    killer = threading.Thread(target=kill)
    killer.start()
    build_popdb(settings=settings)
    killer.join()
    assert digests(Path(settings.popdb_path)) == digests(Path(on_threads.popdb_path))
    runner = RunnerConfig(kind="dask", address=cluster.scheduler_address)
    made = train_and_eval(settings=on_threads.model_copy(update={"runner": runner, "device": "auto"}))
    assert Path(made["report"]).is_file()


def test_only_who_has_the_certificate_of_a_local_cluster_reaches_it(server: str, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, runner={"kind": "dask", "workers": 1})
    others = set(psutil.Process().children(recursive=True))

    @flow
    def attacked() -> None:
        with workers(settings, 1) as run:
            assert run.client
            info = run.client.scheduler_info(n_workers=-1)
            [(itself, worker)] = info["workers"].items()
            for address in (info["address"], itself, worker["nanny"]):
                assert address.startswith("tls://127.0.0.1:")
                stranger = ssl.create_default_context()
                stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
                place = ("127.0.0.1", int(address.rpartition(":")[2]))
                with (
                    socket.create_connection(place) as connection,
                    pytest.raises(ssl.SSLError, match="certificate required"),
                ):
                    stranger.wrap_socket(connection).recv(1)
                with pytest.raises(OSError, match=r"reset|closed|Timed out"):
                    Client(address.replace("tls", "tcp"), timeout=3)
            for port in (info["services"]["dashboard"], worker["services"]["dashboard"]):
                for page in ("", "status", "info/main/workers.html", "json/identity.json", "health"):
                    with pytest.raises(urllib.error.HTTPError, match="404"):
                        urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}")
            here = psutil.Process()
            for process in {here, *here.children(recursive=True)} - others:
                listening = [at for at in process.net_connections("inet") if at.status == "LISTEN"]
                assert {at.laddr.ip for at in listening} <= {"127.0.0.1"}

    attacked()


def test_a_gpu_or_scheduler_that_is_not_there_is_told_before_the_work(
    server: str, songs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto, cuda, cpu = (
        small_settings(tmp_path).model_copy(update={"device": device}) for device in ("auto", "cuda", "cpu")
    )
    with pytest.raises(MissingPartError, match=r"none of 2 Dask workers offers a GPU.*--resources GPU=1"):
        wants_gpu([{}, {"memory": 1.0}], cuda)
    assert wants_gpu([{}, {GPU: 1.0}], cuda)
    assert not wants_gpu([{}], auto)
    assert not wants_gpu([{GPU: 1.0}], cpu)
    monkeypatch.setattr("flows.runner.CONNECT_S", 1)
    runner = {"kind": "dask", "address": "tcp://127.0.0.1:9"}
    with pytest.raises(
        MissingPartError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 .*dask sched"
    ):
        build_popdb(settings=folder_settings(tmp_path, songs_folder, runner=runner))
    assert not list(tmp_path.glob("data/raw/*/entry.json"))


# Several processes.

LONG = {"steps": 4000, "validate_every": 500, "checkpoint_every": 1000}
CHILD = """
import sys
from pathlib import Path
from flows.runner import fit_together
from samuel.config import read_settings
settings = read_settings(Path(sys.argv[1]))
fit_together(settings, Path(sys.argv[2]), lambda row: None, lambda: False)
"""


@pytest.fixture
def temporary_files_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings' file is then below `tmp_path`, and so is the command line of every process."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)


def together(root: Path, **training: Any) -> tuple[Settings, Path]:
    """Settings of two processes, with a dataset, and the folder of the run."""
    settings = small_settings(root, training={"processes": 2, **training})
    popdb = write_popdb([encoded_song(root, name) for name in "abcd"], settings)
    return settings, run_folder(popdb, settings)


def children(root: Path) -> list[str]:
    """Command lines of the processes of a training below `root`."""
    found = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    return [line for line in found if str(root) in line and "samuel.cli train" in line]


@pytest.mark.usefixtures("temporary_files_here")
def test_two_processes_make_the_model_that_one_makes(server: str, tmp_path: Path) -> None:
    settings, run = together(tmp_path)

    @flow
    def trained() -> Any:
        return train(open_popdb(settings.popdb_path), Parts(settings), return_state=True)

    assert trained(return_state=True).result().name == "Completed"
    model = find_artifact(run / "model")
    assert model
    assert model.record["progress"]["step"] == settings.training.steps
    alone = fit(open_popdb(settings.popdb_path), settings, tmp_path / "alone", ignore)
    ours, other = (load_file(found.path("model.safetensors")) for found in (model, alone))
    assert max((ours[name] - other[name]).abs().max().item() for name in ours) < 1e-5
    assert trained(return_state=True).result().name == "Cached"
    assert not children(tmp_path)


@pytest.mark.usefixtures("temporary_files_here")
def test_killed_it_leaves_nobody_and_told_to_end_it_leaves_a_checkpoint(tmp_path: Path) -> None:
    settings, run = together(tmp_path, **LONG)
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    command = [sys.executable, "-c", CHILD, str(tmp_path / "settings.json"), str(run)]
    parent = psutil.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    metrics = run / "training" / "metrics.jsonl"
    wait_for(lambda: newest_row(metrics) or parent.poll() is not None)
    assert parent.poll() is None, parent.communicate()[1]
    assert len(children(tmp_path)) == 4  # who fences them in, who starts them and two that train
    parent.kill()
    parent.communicate(timeout=60)
    wait_for(lambda: not children(tmp_path))
    assert find_artifact(run / "model") is None

    modes: set[int] = set()
    steps: list[int] = []

    def on_step(row: dict[str, Any]) -> None:
        steps.append(row["step"])
        modes.update(path.stat().st_mode & 0o777 for path in (tmp_path / "tmp").glob("samuel-*"))

    with pytest.raises(StoppedError, match="goes on from its checkpoint"):
        fit_together(settings, run, on_step, lambda: len(steps) > 1)  # the first is of before
    assert not children(tmp_path)
    newest = newest_row(metrics)
    assert newest
    assert (run / "training" / f"step-{newest['step']:08d}").is_dir()
    assert steps[1] <= newest["step"] < LONG["steps"]
    assert modes == {0o700}  # nobody else reads the settings


def test_what_went_wrong_is_told_in_the_words_of_the_training(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, run = together(tmp_path)
    script = ["sh", "-c", "echo 'error: step 0: NaN'; echo another says that it is lost; exit 3"]
    monkeypatch.setattr("flows.runner.spawn", lambda _, log: spawn(script, log=log))

    @flow
    def trained() -> Artifact:
        return fit_together(settings, run, ignore, lambda: False)

    with pytest.raises(SamuelError, match=r"^step 0: NaN$"):
        trained()
    script[-1] = "exit 3"
    with pytest.raises(SamuelError, match="the training processes ended with exit code 3"):
        trained()


def test_the_newest_row_is_the_last_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert newest_row(path) is None
    path.write_text('{"step": 1')
    assert newest_row(path) is None
    path.write_text("".join(json.dumps({"step": n, "fill": "x" * 50}) + "\n" for n in range(1000)) + '{"st')
    assert newest_row(path) == {"step": 999, "fill": "x" * 50}
