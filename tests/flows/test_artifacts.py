"""What the UI is shown, on a real server."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect import flow
from prefect.artifacts import MarkdownArtifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.exceptions import PrefectHTTPStatusError

from flows import artifacts
from flows.artifacts import (
    FOLDER,
    URL,
    Live,
    Throttle,
    address_of,
    few_tracks_pictured,
    training_markdown,
    with_links,
)
from samuel.artifacts import make_artifact, read_jsonl
from samuel.config import Settings, TrainingConfig
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from samuel.train.run_state import MetricsLog
from tests.popdb.latents import encoded_song


def in_a_flow(work: Callable[[], object]) -> None:
    flow(name="shows")(work)()


def shown(key: str) -> list[Any]:
    """All artifacts of this key, the oldest first."""
    only = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        return sorted(client.read_artifacts(artifact_filter=only), key=lambda found: str(found.created))


def fate(name: str, stage: str, status: Status = Status.OK, entry: Any = None) -> Outcome:
    return Outcome(Song(name, name), stage, status, "", 1, entry, {}, did_work=True)


@pytest.fixture
def outcomes(tmp_path: Path) -> dict[str, Outcome]:
    """Three songs after each stage: one encoded, one lost at the search, one on its way."""
    entry = encoded_song(tmp_path, "a").artifact
    return {
        "a downloaded": fate("a", "download", entry=entry),
        "a encoded": fate("a", "encode", entry=entry),
        "b lost": fate("b", "match", Status.NO_MATCH),
        "c downloaded": fate("c", "download", entry=entry),
    }


def test_the_funnel_tells_what_is_lost_from_what_is_to_come(
    server: str, outcomes: dict[str, Outcome], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    songs = [Song(name, name) for name in "abcd"]

    def work() -> None:
        progress = artifacts.SongProgress(songs, Settings())
        # As they may come: a later stage's first.
        progress.add(2, [outcomes["a encoded"]])
        progress.add(0, [outcomes["a downloaded"], outcomes["b lost"], outcomes["c downloaded"]])
        progress.send()

    before = len(shown("songs"))
    in_a_flow(work)
    tables = shown("songs")
    assert len(tables) == before + 1  # one row, though it was shown twice
    rows = {row["step"]: (row["songs"], row["lost"], row["to come"]) for row in as_rows(tables[-1].data)}
    assert rows == {
        "listed": (4, 0, 0), "searched": (3, 0, 1), "matched": (2, 1, 1), "downloaded": (2, 0, 1),
        "separated": (1, 0, 2), "encoded": (1, 0, 2),
    }  # fmt: skip
    assert "no_match 1" in str(tables[-1].data)
    assert "downloaded 3, separated 0, encoded 1 of 4 songs, at least" in caplog.text
    assert [shown(key)[-1].data for key in ("download", "separate", "encode")] == [75.0, 0.0, 25.0]


def as_rows(data: Any) -> list[dict[str, Any]]:
    return json.loads(data) if isinstance(data, str) else data


def test_many_groups_at_once_are_one_table(server: str, outcomes: dict[str, Outcome]) -> None:
    songs = [Song(str(number), str(number)) for number in range(300)]
    calls: list[str] = []

    def work() -> None:
        progress = artifacts.SongProgress(songs, Settings())
        progress._table.show = lambda artifact, **_: calls.append(artifact.description)  # type: ignore[method-assign]
        for stage in range(3):
            for song in songs:
                progress.add(stage, [fate(song.song_id, "encode", entry=outcomes["a encoded"].artifact)])

    in_a_flow(work)
    assert len(calls) < 100
    assert calls[-1] == "downloaded 300, separated 300, encoded 300 of 300 songs, all stages are done"
    assert shown("encode")[-1].data == 100.0


def test_what_is_shown_gets_rarer_as_the_run_gets_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0.0, 48 * 3600.0, 1.0))
    monkeypatch.setattr("flows.artifacts.time.monotonic", lambda: next(clock))
    throttle = Throttle(10, 0.005)
    assert [throttle.due() for _ in range(30)] == [number % 10 == 9 for number in range(30)]
    assert 500 < sum(throttle.due() for _ in range(47 * 3600)) < 1500


def test_what_was_deleted_in_the_ui_is_shown_again(server: str) -> None:
    def work() -> None:
        live = Live()
        live.show(MarkdownArtifact(key="deleted", markdown="one"))
        with get_client(sync_client=True) as client:
            client.delete_artifact(shown("deleted")[-1].id)
        live.show(MarkdownArtifact(key="deleted", markdown="two"))
        live.show(MarkdownArtifact(key="deleted", markdown="three", description="changed"))

    in_a_flow(work)
    (found,) = shown("deleted")
    assert (found.data, found.description) == ("three", "changed")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Give artifacts Prefect's own client of a server with one status for everything; 0: nobody listens."""
    servers: list[HTTPServer] = []

    def answer(status: int) -> None:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # Prefect's client asks for a token first
                self.send_response(404)
                self.end_headers()

            def do_PATCH(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any, **__: Any) -> None:
                pass

        answers = HTTPServer(("127.0.0.1", 0), Answer)
        if status:
            threading.Thread(target=answers.serve_forever, daemon=True).start()
            servers.append(answers)
        else:
            answers.server_close()
        client = SyncPrefectClient(f"http://127.0.0.1:{answers.server_port}/api")
        monkeypatch.setattr(artifacts, "get_client", lambda **_: client)

    yield answer
    for answers in servers:
        answers.shutdown()
        answers.server_close()


def test_a_server_that_is_away_is_told_of_once_and_ends_nothing(
    server: str, answering: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> None:
        live, text = Live(), MarkdownArtifact(key="away", markdown="text")
        live.show(text)
        for status, patient, warnings in (
            (0, False, 1),
            (0, True, 1),
            (503, False, 1),
            (204, False, 1),
            (0, False, 2),
        ):
            answering(status)
            live.show(text, patient=patient)
            assert caplog.text.count("cannot be reached") == warnings
        answering(422)  # a fault of ours is no absence of the server
        with pytest.raises(PrefectHTTPStatusError, match="422"):
            live.show(text)

    in_a_flow(work)


def write_metrics(path: Path, steps: int, validate_every: int) -> list[dict[str, Any]]:
    log, noise = MetricsLog(path, None), np.random.default_rng(0).normal(size=(2, steps))
    for step in range(1, steps + 1):
        error = 0.3 + np.exp(-step / 300)
        row = {"step": step, "v_mse": error + 0.05 * noise[0][step - 1], "seconds": 0.25}
        row |= {"learning_rate": 1e-3, "gradient_norm": float(np.exp(noise[1][step - 1]))}
        if step % validate_every == 0:
            row |= {"validation_loss": abs(step - 2 * validate_every) / 1e4 + 0.3, "validation_shuffled": 0.5}
        log.append(row)
    log.close()
    return read_jsonl(path)


def test_a_training_shows_its_curve_before_it_ends(server: str, tmp_path: Path) -> None:
    rows = write_metrics(tmp_path / "metrics.jsonl", 300, 100)
    config = TrainingConfig(steps=400, validate_every=100)
    others = {page.id for page in shown("training-loss")}  # of other tests on this server

    def work() -> None:
        page = artifacts.TrainingPage(config, tmp_path / "metrics.jsonl")
        for row in rows:
            page.show(row)
        assert len(shown("training-loss")) == len(others) + 1
        model = make_artifact(tmp_path / "model", record_of_model)
        page.end(model)

    def record_of_model(folder: Path) -> dict[str, Any]:
        (folder / "metrics.jsonl").write_bytes((tmp_path / "metrics.jsonl").read_bytes())
        return {"progress": {"best_step": 200, "step": 300}}

    in_a_flow(work)
    (page,) = [page for page in shown("training-loss") if page.id not in others]
    assert "**Step 300 of 400**, 4 steps a second (median of the last 100)" in page.data
    assert "The training is over; the model is that of step 200" in page.data
    assert shown("training")[-1].data == 100.0


def test_the_page_of_a_long_training_stays_small(tmp_path: Path) -> None:
    rows = write_metrics(tmp_path / "metrics.jsonl", 20_000, 200)
    text = training_markdown(rows, 88_400, "About 5 h left")
    assert "![Loss](data:image/png;base64,iVBOR" in text
    assert len(text) < 60_000
    assert "| **0.3000** |" not in text  # the best is not among the newest
    short = training_markdown(rows[:1000], 88_400, "About 5 h left")
    assert "| 400 | **0.3000** | 0.5000 |" in short


REPORT = r"""# R

- [vocal](audio/vocal/t-1.flac)
- [mix](audio/mix/t-1.flac)
- [real \(codec\)](audio/r/t-1.flac)
"""


def test_audio_is_linked_where_its_folder_is_served(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path) -> dict[str, Any]:
        (folder / "report.md").write_text(REPORT)
        (folder / "report.html").write_text("")
        (folder / "summary.json").write_text('{"systems": [], "scores": {}, "tracks": 1}')
        return {}

    report = make_artifact(tmp_path / "served" / "a run" / "report", write)
    monkeypatch.setenv(URL, "http://127.0.0.1:4201/")
    monkeypatch.setenv(FOLDER, str(tmp_path / "served"))
    in_a_flow(lambda: artifacts.show_report(report))
    base = "http://127.0.0.1:4201/a%20run/report"
    text = shown("report")[-1].data
    assert f"[Open it with its audio]({base}/report.html)" in text
    assert f"- [vocal]({base}/audio/vocal/t-1.flac)" in text
    assert f"- [real (codec)]({base}/audio/r/t-1.flac)" in text
    assert str(tmp_path) not in text
    assert shown("report-page")[-1].data == f"[The report, with players]({base}/report.html)"
    assert shown("first-track")[-1].data == f"[Hear the first track]({base}/audio/mix/t-1.flac)"


def test_no_link_leads_where_nobody_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL, raising=False)
    assert address_of(tmp_path) is None
    monkeypatch.setenv(URL, "http://127.0.0.1:4201")
    monkeypatch.setenv(FOLDER, str(tmp_path / "other"))
    assert address_of(tmp_path / "report") is None
    assert with_links(REPORT, None) == "# R\n\n- vocal\n- mix\n- real (codec)\n"


def test_the_ui_keeps_the_pictures_of_the_first_tracks_alone() -> None:
    tracks = [f"### {n}\n\n![Spectrograms](spectrogram-{n}.png)\n\n- after {n}\n" for n in range(5)]
    text = few_tracks_pictured("![Loss](loss.png)\n" + "".join(tracks))
    assert [f"spectrogram-{n}.png" in text for n in range(5)] == [True] * 3 + [False] * 2
    assert "![Loss](loss.png)" in text
    assert all(f"- after {n}\n" in text for n in range(5))
