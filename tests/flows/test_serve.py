import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.flows.serving import Served, serving, until

pytestmark = pytest.mark.timeout(600)  # a server boots four times


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("home")) as served:
        yield served


def healthy(served: Served) -> bool:
    try:
        return httpx.get(f"{served.environment['PREFECT_API_URL']}/health").json() is True
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize(("name", "words"), [("server", "server start"), ("worker", "prefect worker start")])
def test_who_is_killed_is_started_again(served: Served, name: str, words: str) -> None:
    first = served.child(words)
    first.kill()
    served.until_said(f"the {name} ended with SIGKILL; it starts again in 1 s")
    until(lambda: served.child(words).pid != first.pid and healthy(served), served.said)
    if name == "worker":
        served.until_said("Worker '.*' started", times=2)


def test_automation_and_deployments_are_registered(served: Served) -> None:
    with served.client() as client:
        (found,) = client.read_automations_by_name("samuel: runs without heartbeat")
        assert found.enabled
        assert {deployment.name for deployment in client.read_deployments()} >= {"build-popdb", "demo"}


def test_a_second_one_uses_the_server_of_the_first(served: Served) -> None:
    second = served.start("flows.serve")
    served.until_said("Prefect UI", times=2)
    children = [" ".join(child.cmdline()) for child in psutil.Process(second.pid).children()]
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=60) == 0
    assert children
    assert not [line for line in children if "server start" in line]
    assert healthy(served)


def test_killed_it_takes_its_children_along_and_starts_again(tmp_path: Path, served: Served) -> None:
    left = served.everyone()
    assert len(left) >= 4  # server, worker with its fence, watch
    served.process.kill()
    served.process.wait()
    assert psutil.wait_procs(left, timeout=40)[1] == []
    served.process = served.start("flows.serve")
    served.until_said("Prefect UI", times=3)
    assert healthy(served)
    left = served.everyone()
    assert served.end() == 0
    assert psutil.wait_procs(left, timeout=1)[1] == []
