import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from flows.orchestration import __main__ as command
from flows.orchestration import measure
from flows.orchestration.measure import Server, measured
from flows.orchestration.rows import history, rows
from flows.orchestration.stand_ins import install, stand_in_settings, write_list
from flows.orchestration.work import Order
from samuel.cli import main
from samuel.errors import InputError, SamuelError
from samuel.popdb import acquire as acquisition
from samuel.popdb import stages as pipeline
from samuel.popdb.dataset import open_popdb
from samuel.popdb.songs import list_songs

SONGS = 40
SAME = "the same as the client's"


def order_of(root: Path, songs: int) -> Order:
    write_list(root / "list.csv", songs)
    return Order(root / "data", root / "list.csv", None, 0.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("orchestration")


@pytest.fixture(scope="module")
def figures(server: str, root: Path) -> dict[str, str]:
    return dict(rows(order_of(root, SONGS), root, Server(server)))


@pytest.mark.timeout(600)
def test_the_server_has_every_task_run_of_the_client(figures: dict[str, str]) -> None:
    assert figures["the server's task runs"] == f"15 Completed; {SAME}"


def test_a_rerun_is_cached_and_leaves_a_whole_history_too(figures: dict[str, str]) -> None:
    assert figures["rerun: the server's task runs"] == f"13 Cached, 2 Completed; {SAME}"


def test_it_says_that_the_stages_are_stand_ins_and_what_was_not_measured(figures: dict[str, str]) -> None:
    assert "stand-ins" in figures["stages"]
    assert figures["database"].startswith("not measured")
    assert "300 songs an hour" in figures["share of the real run"]


def test_the_entries_and_the_dataset_are_real(figures: dict[str, str], root: Path) -> None:
    for run in (root / "data", root / "without-prefect"):
        popdb = open_popdb(run / "popdb")
        assert popdb.info["counts"]["pairs"] == SONGS
        assert popdb.read_checked(popdb.index[-1])[0].shape == (64, 64)
        rows = popdb.songs().to_pylist()
        assert {(row["stage"], row["status"], len(row["candidates"])) for row in rows} == {
            ("encode", "ok", 5)
        }
        assert len({row["recording"] for row in rows}) == SONGS
    digests = {
        run: open_popdb(root / run / "popdb").info["content_sha256"] for run in ("data", "without-prefect")
    }
    assert len(set(digests.values())) == 1


def test_history_that_was_lost_is_told(
    figures: dict[str, str], server: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "RECORD_SECONDS", 1)
    rerun = measured("flow", Order(root / "data", root / "list.csv", None, 0.0), root, Server(server))
    told = replace(rerun.told, ends=[*rerun.told.ends, ["of a lost task", "Cached", 0.0]])
    [(_, figure)] = history("", replace(rerun, told=told), Server(server))
    assert figure == "13 Cached, 2 Completed; NOT the client's: 14 Cached, 2 Completed"
    told = replace(rerun.told, ends=rerun.told.ends[:-1])  # in another state, or one too many
    [(_, figure)] = history("", replace(rerun, told=told), Server(server))
    assert "NOT the client's" in figure


def test_a_run_that_fails_is_told_with_its_own_words(server: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("title\nx\n")
    with pytest.raises(SamuelError, match=r"(?s)the measured loop failed.*no column song_name"):
        measured("loop", Order(tmp_path / "data", tmp_path / "list.csv", None, 0.0), tmp_path, Server(server))


def test_the_list_that_is_made_up_is_read_whole(tmp_path: Path) -> None:
    order = order_of(tmp_path, 500)
    listed = list_songs(stand_in_settings(order.data, order.song_list, None).songs, order.data)
    assert len({song.title for song in listed.songs}) == 500
    assert {song.url for song in listed.songs} == {None}


def test_a_stage_that_is_gone_is_not_replaced_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = acquisition.search
    monkeypatch.delattr(pipeline, "encode_pair")
    order = order_of(tmp_path, 1)
    with pytest.raises(InputError, match=r"samuel\.popdb\.pipeline has no encode_pair"):
        install(stand_in_settings(order.data, order.song_list, None), 0.0)
    assert acquisition.search is real


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--songs", "0"], "--songs: give at least 1"),
        (["--seconds", "-1"], "--seconds"),
        (["--list", "/absent/list.csv"], "/absent/list.csv: no such file"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["orchestration", *arguments])
    assert command.main() == 1
    assert message in capsys.readouterr().err


def test_settings_are_refused_and_the_exit_code_is_passed_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text("{}")
    assert main(["bench", "orchestration", "--settings", str(tmp_path / "settings.json")]) != 0
    assert "leave --settings out" in capfd.readouterr().err
    assert main(["bench", "orchestration", "--list", "/absent/list.csv"]) == 1
    assert "/absent/list.csv: no such file" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_history_of_a_thousand_songs_is_complete(server: str, tmp_path: Path) -> None:
    order = order_of(tmp_path, 1000)
    for expected in ({"Completed": 99}, {"Cached": 97, "Completed": 2}):
        run = measured("flow", order, tmp_path, Server(server))
        assert run.states == Counter(expected)
        assert Server(server).recorded(run.told.flow_run, run.states) == run.states


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_command_measures_server_and_pages_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PREFECT_HOME": str(tmp_path / "not-touched")}
    done = subprocess.run(
        [sys.executable, "-m", "samuel.cli", "bench", "orchestration", "--songs", "8"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(SAME) == 2
    assert "MB; under 500 MB: yes" in done.stdout
    assert "NOT" not in done.stdout
    assert "page" in done.stdout
    assert list(tmp_path.iterdir()) == []
