"""What the UI is shown, on a real server."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prefect import flow
from prefect.artifacts import MarkdownArtifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.exceptions import PrefectHTTPStatusError

from flows import artifacts
from flows.artifacts import FOLDER, URL, Live, SongProgress, TrainingPage, address_of, with_links
from samuel.artifacts import make_artifact
from samuel.config import Settings, TrainingConfig
from samuel.popdb.songs import Song
from samuel.popdb.status import Outcome, Status
from samuel.reading import read_jsonl
from samuel.train.trainer import MetricsLog
from tests.popdb.latents import encoded_song


def in_a_flow(work: Callable[[], object]) -> None:
    flow(name="shows")(work)()


def shown(key: str) -> list[Any]:
    """All artifacts of this key, the oldest first."""
    only = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        return sorted(client.read_artifacts(artifact_filter=only), key=lambda found: str(found.created))


def test_the_funnel_tells_what_is_lost_from_what_is_to_come(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    entry = encoded_song(tmp_path, "a").artifact

    def fate(name: str, stage: str, status: Status = Status.OK) -> Outcome:
        artifact = entry if status == Status.OK else None
        return Outcome(Song(name, name), stage, status, "", 1, artifact, {}, did_work=True)

    lost, tables = fate("b", "match", Status.NO_MATCH), list[list[dict[str, Any]]]()

    def work() -> None:
        progress = SongProgress([Song(name, name) for name in "abcd"], Settings())
        # As they may come: a later stage's first.
        progress.add(2, [fate("a", "encode")])
        progress.add(0, [fate("a", "download"), lost, fate("c", "download")])
        progress.send()
        assert "downloaded 3, separated 0, encoded 1 of 4 songs, at least" in caplog.text
        found = shown("songs")[-1].data
        tables.append(json.loads(found) if isinstance(found, str) else found)
        progress.add(0, [fate("d", "download")])
        progress.add(1, [lost, *(fate(name, "separate") for name in "acd")])
        progress.add(2, [lost, *(fate(name, "encode") for name in "cd")])

    before = len(shown("songs"))
    in_a_flow(work)
    assert len(shown("songs")) == before + 1  # one row, though it was shown three times
    rows = {row["step"]: row for row in tables[0]}
    assert {step: (row["songs"], row["lost"], row["to come"]) for step, row in rows.items()} == {
        "listed": (4, 0, 0), "searched": (3, 0, 1), "matched": (2, 1, 1), "downloaded": (2, 0, 1),
        "separated": (1, 0, 2), "encoded": (1, 0, 2),
    }  # fmt: skip
    assert rows["matched"]["why"] == "no_match 1"
    assert shown("songs")[-1].description.endswith("of 4 songs, all stages are done")
    assert [shown(key)[-1].data for key in ("download", "separate", "encode")] == [100.0] * 3


def test_what_is_shown_gets_rarer_as_the_run_gets_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0.0, 48 * 3600.0, 1.0))
    monkeypatch.setattr("flows.artifacts.time", SimpleNamespace(monotonic=lambda: next(clock)))
    live = Live(10, 0.005)
    assert [live.due() for _ in range(30)] == [number % 10 == 9 for number in range(30)]
    assert 500 < sum(live.due() for _ in range(47 * 3600)) < 1500


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
            threading.Thread(target=answers.serve_forever, args=(0.02,), daemon=True).start()
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
        live, text = Live(), MarkdownArtifact(key="away", markdown="one")
        live.show(text)
        with get_client(sync_client=True) as client:
            client.delete_artifact(shown("away")[-1].id)
        live.show(MarkdownArtifact(key="away", markdown="two"))  # what was deleted in the UI is shown again
        live.show(MarkdownArtifact(key="away", markdown="three", description="changed"))
        (found,) = shown("away")
        assert (found.data, found.description) == ("three", "changed")
        for status, warnings in ((0, 1), (503, 1), (204, 1), (0, 2)):
            answering(status)
            live.show(text)
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
    rows = write_metrics(tmp_path / "metrics.jsonl", 20_000, 200)
    others = {page.id for page in shown("training-loss")}  # of other tests on this server

    def record_of_model(folder: Path) -> dict[str, Any]:
        (folder / "metrics.jsonl").write_bytes((tmp_path / "metrics.jsonl").read_bytes())
        return {"progress": {"best_step": 400, "step": 20_000}}

    def work() -> None:
        page = TrainingPage(TrainingConfig(steps=88_400, validate_every=200), tmp_path / "metrics.jsonl")
        for row in rows[:300]:
            page.show(row)
        assert len(shown("training-loss")) == len(others) + 1
        page.end(make_artifact(tmp_path / "model", record_of_model))

    in_a_flow(work)
    (page,) = [page for page in shown("training-loss") if page.id not in others]
    assert "**Step 20,000 of 88,400**, 4 steps a second (median of the last 100)" in page.data
    assert "The training is over; the model is that of step 400" in page.data
    assert "0.3000 at step 400, the best" in page.data
    assert "![Loss](data:image/png;base64,iVBOR" in page.data
    assert len(page.data) < 60_000
    assert shown("training")[-1].data == 100.0


def test_audio_is_linked_where_its_folder_is_served(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "# R\n\n- [mix](audio/mix/t-1.flac)\n- [real \\(codec\\)](audio/r/t-1.flac)\n"

    def write(folder: Path) -> dict[str, Any]:
        pictures = [f"![Spectrograms](spectrogram-{n}.png)\n\n" for n in range(5)]
        (folder / "report.md").write_text(text + "".join(pictures))
        for n in range(5):
            (folder / f"spectrogram-{n}.png").write_bytes(b"png")
        (folder / "summary.json").write_text('{"systems": [], "scores": {}, "distribution": {}, "tracks": 1}')
        return {}

    report = make_artifact(tmp_path / "served" / "a run" / "report", write)
    monkeypatch.setenv(URL, "http://127.0.0.1:4201/")
    monkeypatch.setenv(FOLDER, str(tmp_path / "served"))
    in_a_flow(lambda: artifacts.show_report(report))
    base = "http://127.0.0.1:4201/a%20run/report"
    markdown = shown("report")[-1].data
    assert f"[Open it with its audio]({base}/report.html)" in markdown
    assert f"- [real (codec)]({base}/audio/r/t-1.flac)" in markdown
    assert str(tmp_path) not in markdown
    assert markdown.count("![Spectrograms](data:image/png;base64,") == 3  # the database keeps every picture
    assert shown("report-page")[-1].data == f"[The report, with players]({base}/report.html)"
    assert shown("first-track")[-1].data == f"[Hear the first track]({base}/audio/mix/t-1.flac)"
    assert with_links(text, None) == "# R\n\n- mix\n- real (codec)\n"
    assert address_of(tmp_path / "elsewhere") is None
    monkeypatch.delenv(URL)
    assert address_of(report.folder) is None
