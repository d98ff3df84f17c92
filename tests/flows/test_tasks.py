"""What all flows share, on a real server: parameters, groups, retries, limits, how tasks hear of the end."""

import gc
import io
import logging
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
import yaml
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.utilities.collections import visit_collection

from flows import build_popdb
from flows.runner import run_ends, until_run_ends, workers
from flows.tasks import (
    RETRIED,
    SONGS_PER_TASK,
    Group,
    chosen,
    create_limit,
    gather,
    gpu_slot,
    groups,
    slot,
    submit,
)
from samuel.config import Settings, parse
from samuel.errors import MissingPartError, OperatorError, SettingsError, StoppedError
from samuel.popdb.loader import Batches
from samuel.popdb.parts import Parts
from samuel.popdb.writer import write_popdb
from tests.flows.runs import ROOT, wait_for
from tests.popdb.latents import encoded_song, small_settings

pytestmark = pytest.mark.usefixtures("server")
PAPER = Settings(preset="paper")


def test_settings_hold_over_those_of_the_preset() -> None:
    assert chosen("paper", {}) == PAPER
    ours = chosen("paper", {"training": {"steps": 5}, "songs": {"limit": 3}})
    assert ours.training == Settings(preset="paper").training.model_copy(update={"steps": 5})
    assert (ours.songs.source, ours.songs.limit) == ("csv", 3)
    with pytest.raises(SettingsError, match=r"training\.steps"):
        chosen("demo", {"training": {"steps": 0}})
    given = build_popdb.build_popdb.validate_parameters({"settings": PAPER})
    assert chosen("demo", given["settings"]).model_copy(update={"preset": "paper"}) == PAPER
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    parameters = {(found["entrypoint"], found["name"]): found.get("parameters") for found in deployments}
    assert len(parameters) == 6  # which name a preset and repeat nothing of it
    for (_, name), given in parameters.items():
        assert given == (None if name == "demo" else {"preset": "paper"})


def test_the_form_has_bounds_and_sends_no_defaults() -> None:
    schema = build_popdb.build_popdb.parameters.model_dump()
    steps = schema["definitions"]["TrainingConfig"]["properties"]["steps"]
    assert steps == {
        "type": "integer", "minimum": 1, "maximum": 10**9, "title": "Steps",
        "description": "optimiser steps (at least 1, at most 1,000,000,000); demo: 360, paper: 88,400",
    }  # fmt: skip
    settings = schema["properties"]["settings"]
    assert settings["default"] == {}
    assert "preset" not in settings["properties"]
    sections = [settings, *schema["definitions"].values()]
    assert not [name for section in sections for name, f in section["properties"].items() if "default" in f]
    assert all(section["additionalProperties"] is False for section in sections)


@pytest.mark.parametrize(
    ("songs", "audio", "tasks"),
    [
        (0, "keep", 0), (1, "keep", 1), (12, "keep", 4), (128, "keep", 4), (2_112, "keep", 66),
        (2_113, "keep", 65), (13_987, "keep", 66), (2_113, "remove", 67), (13_987, "remove", 220),
    ],
)  # fmt: skip
def test_every_song_is_in_one_group_and_the_tasks_stay_few(
    songs: int, audio: Any, tasks: int, tmp_path: Any
) -> None:
    parts = groups(range(songs), small_settings(tmp_path, retention={"audio": audio}))
    assert [song for _, part in parts for song in part] == list(range(songs))
    assert [name for name, _ in parts] == [f"songs {part[0] + 1}-{part[-1] + 1}" for _, part in parts]
    assert len(parts) == tasks
    if songs > 10_000 and audio == "keep":  # the first are small, the others alike
        sizes = [len(part) for _, part in parts]
        assert sizes[:8] == [SONGS_PER_TASK] * 8
        assert set(sizes[8:-1]) == {max(sizes)}


def test_what_a_stage_gave_is_let_go_while_the_run_goes_on(tmp_path: Any) -> None:
    parts, count = Parts(small_settings(tmp_path)), 6
    songs = count * SONGS_PER_TASK
    made: list[weakref.ref[Group[int]]] = []
    told: list[tuple[int, list[int]]] = []

    @task
    def first(songs: Group[int], parts: Parts, group: str) -> Group[int]:
        found = Group(number + 10 for number in songs)
        made.append(weakref.ref(found))
        return found

    @task
    def second(songs: Group[int], parts: Parts, group: str) -> Group[int]:
        return Group(number + 100 for number in songs)

    def none_is_held() -> bool:
        gc.collect()
        return not any(found() for found in made)

    def tell(stage: int, group: Any) -> None:
        told.append((stage, list(group)))
        if len(told) == 2 * count:  # the last of all, and the run has not ended
            wait_for(none_is_held)  # once Prefect has sent its events, which hold what their task was given

    @flow
    def numbers() -> list[Any]:
        with workers(parts.settings, 2) as run:
            return gather(submit(run, (first, second), parts, groups(range(songs), parts.settings)), tell)

    assert numbers() == [number + 100 for number in range(10, songs + 10)]
    assert sorted(n for stage, group in told for n in group if stage == 0) == [*range(10, songs + 10)]
    seen: list[Any] = []
    visit_collection({"songs": Group([["a"], ["b"]])}, seen.append, return_data=False)
    assert "a" not in seen  # Prefect does not look into a group


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_no_secret_of_a_url_is_logged_with_what_an_error_came_from() -> None:
    signed = ConnectionRefusedError("GET https://me:s3cret@host/shard?X-Amz-Signature=s3cret")
    loggers = [logging.getLogger(kind) for kind in ("prefect.flow_runs", "prefect.task_runs")]
    handler = logging.StreamHandler(io.StringIO())

    @task
    def fails() -> None:
        raise caused(OperatorError("s3://bucket: not reached"), signed)

    @flow
    def calls() -> None:
        fails()

    with ExitStack() as listening, pytest.raises(OperatorError):
        for logger in loggers:
            logger.addHandler(handler)
            listening.callback(logger.removeHandler, handler)
        calls()
    assert handler.stream.getvalue().count("GET https://…@host/shard?…") == 2
    assert "s3cret" not in handler.stream.getvalue()


def test_only_a_connection_that_may_come_back_is_waited_for() -> None:
    errors = {
        ConnectionResetError("reset"): 6,
        TimeoutError("too long"): 6,
        httpx.ConnectError("refused"): 6,
        caused(OperatorError("s3://bucket: not reached"), ConnectionRefusedError()): 6,
        OperatorError("the disk is full"): 1,
        MissingPartError("no weights"): 1,
        OSError(28, "full"): 1,
    }
    runs: list[Exception] = []

    @task(**{**RETRIED, "retry_delay_seconds": 0})
    def work(error: Any) -> None:
        runs.append(error)
        raise error

    @flow
    def fail() -> None:
        for error in errors:
            work(error, return_state=True)

    fail()
    assert {error: runs.count(error) for error in errors} == errors
    for stage in (build_popdb.download, build_popdb.separate, build_popdb.encode, build_popdb.assemble):
        assert stage.retry_delay_seconds == [10, 20, 40, 80, 160]
        assert stage.retry_condition_fn is RETRIED["retry_condition_fn"]


def active(name: str) -> int:
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(name).active_slots


def test_a_limit_holds_for_all_and_one_that_is_there_stays_as_it_is() -> None:
    def hold(_: int) -> tuple[float, float]:
        with slot("samuel-test-one"):
            begin = time.time()
            time.sleep(0.5)
            return begin, time.time()

    with ThreadPoolExecutor(2) as threads:
        times = sorted(threads.map(hold, range(2)))
    assert all(end <= begin for (_, end), (begin, _) in pairwise(times))
    assert active("samuel-test-one") == 0
    create_limit("samuel-test-wide", slots=2)
    create_limit("samuel-test-wide")  # whoever changed it knew why
    with slot("samuel-test-wide"), slot("samuel-test-wide"):
        assert active("samuel-test-wide") == 2


def test_a_gpu_belongs_to_one_task_by_whatever_name_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu_slot(parse({"device": "cpu"})), get_client(sync_client=True) as client:  # a CPU is shared
        assert not [c for c in client.read_global_concurrency_limits() if c.name.startswith("samuel-gpu")]
    monkeypatch.setattr("flows.tasks.resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: SimpleNamespace(uuid="AB"[n]))
    with gpu_slot(Settings()):
        assert active("samuel-gpu-B") == 1
    with gpu_slot(Settings(), gpus=2):
        assert (active("samuel-gpu-A"), active("samuel-gpu-B")) == (1, 1)
    assert (active("samuel-gpu-A"), active("samuel-gpu-B")) == (0, 0)


def test_the_end_of_a_run_is_heard_by_its_tasks_until_it_is_tried_again(tmp_path: Path) -> None:
    settings, begun, heard = small_settings(tmp_path), threading.Event(), threading.Event()
    told: list[int] = []

    @task
    def long() -> None:
        ends = run_ends()
        begun.set()
        while not ends():
            time.sleep(0.01)
        heard.set()

    @flow
    def broken() -> None:
        call = until_run_ends(told.append)
        call(1)
        with pytest.raises(ValueError, match="a bug"), workers(settings, 1) as run:
            run.submit(long)
            begun.wait(60)
            raise ValueError("a bug")
        with pytest.raises(StoppedError, match="the run has ended"):
            call(2)
        with workers(settings, 1):
            call(3)

    broken()
    assert heard.is_set()
    assert told == [1, 2, 3]


def test_workers_of_a_loader_end_well_within_a_flow(tmp_path: Path) -> None:
    """Prefect has threads, and a hook at exit that fails in a forked process."""
    songs = [encoded_song(tmp_path, name) for name in "abcd"]
    batches = Batches(write_popdb(songs, small_settings(tmp_path)), batch_size=2, seed=0)

    @flow
    def read() -> int:
        return len(list(batches.on(torch.device("cpu"), steps=5, num_workers=2)))

    assert read() == 5
