"""The songs in the UI: on their way through the stages, and what the dataset made of them holds."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect.artifacts import MarkdownArtifact, TableArtifact
from prefect.logging import get_run_logger

from flows.artifacts.live import Live, Pace, Share, show
from flows.artifacts.pictures import with_pictures
from samuel.config import Settings
from samuel.popdb.accounts import (
    SEARCHES,
    STEPS,
    WHY_NO_PAIR,
    Progress,
    Step,
    duration,
    funnel,
    least_s,
    step_into_dataset,
    text_of,
)
from samuel.popdb.catalog import Song, SongList
from samuel.popdb.outcome import Outcome
from samuel.popdb.shards import Popdb

STAGES = {"download": "Songs downloaded", "separate": "Songs separated", "encode": "Songs encoded"}


def show_list(listed: SongList) -> None:
    """How many rows each rule took away."""
    table = listed.table()
    show(TableArtifact(key="song-list", table=table, description="The song list, rule by rule"))


class Journey:
    """The songs on their way through the stages: a bar for each stage, a funnel, and how long it will take.

    Args:
        songs: All of the list.
        settings: The tree.
    """

    def __init__(self, songs: Sequence[Song], settings: Settings) -> None:
        self._at_hand = all(song.url for song in songs)
        pauses = [least_s(songs, settings.download), 0.0, 0.0]
        self._stages = [Progress(len(songs), pause) for pause in pauses]
        self._bars = [Share(key, title) for key, title in STAGES.items()]
        self._newest: dict[str, tuple[int, Outcome]] = {}
        self._table, self._pace = Live(), Pace()
        self._send()

    def show(self, stage: int, outcomes: Sequence[Outcome]) -> None:
        """Count songs that came out of a stage; many groups at once are one table, not many.

        Args:
            stage: 0 download, 1 separate, 2 encode.
            outcomes: What became of them there.
        """
        for outcome in outcomes:
            known = self._newest.get(outcome.song.song_id)
            if known is None or stage >= known[0]:
                self._newest[outcome.song.song_id] = stage, outcome
        self._stages[stage].add(outcomes)
        if self._pace.due() or self._over:
            self._send()

    def line(self) -> str:
        """How far the songs are, and how long the rest will take: for the log."""
        done = ", ".join(f"{STEPS[k]} {p.done:,}" for k, p in zip(STAGES, self._stages, strict=True))
        return f"{done} of {self._stages[0].songs:,} songs, {self._left()}"

    @property
    def _over(self) -> bool:
        return all(stage.done == stage.songs for stage in self._stages)

    def _left(self) -> str:
        if self._over:
            return "all stages are done"
        known = [stage.worked or stage.done == stage.songs for stage in self._stages]
        left_s = max(stage.left_s for stage in self._stages)
        if not left_s:
            return "time left not known yet"
        return f"{'about' if all(known) else 'at least'} {duration(left_s)} left"

    def _send(self) -> None:
        get_run_logger().info(self.line())
        for progress, shown in zip(self._stages, self._bars, strict=True):
            shown.show(progress.done, progress.songs)
        outcomes = [outcome for _, outcome in self._newest.values()]
        rows = rows_under_way(outcomes, self._stages[0].songs, at_hand=self._at_hand)
        self._table.show(TableArtifact(key="songs", table=rows, description=self.line()))


def rows_under_way(outcomes: Iterable[Outcome], listed: int, *, at_hand: bool) -> list[dict[str, Any]]:
    """The funnel while songs are still on their way: of each step also how many may yet reach it.

    Args:
        outcomes: The newest of each song that has any.
        listed: How many songs there are.
        at_hand: They are not searched for.
    """
    steps = [stage for stage in STEPS if not (at_hand and stage in SEARCHES)]
    fates = [(steps.index(outcome.stage), outcome) for outcome in outcomes if outcome.stage in steps]
    rows: list[dict[str, Any]] = [Step("listed", listed, {}).row() | {"to come": 0}]
    before = listed
    for place, stage in enumerate(steps):
        lost = Counter(outcome.status.value for at, outcome in fates if at == place and not outcome.ok)
        reached = sum(at > place or (at == place and outcome.ok) for at, outcome in fates)
        step = Step(STEPS[stage], reached, dict(lost.most_common()))
        rows.append(step.row() | {"to come": before - reached - lost.total()})
        before -= lost.total()
    return rows


def show_dataset(popdb: Popdb, outcomes: Sequence[Outcome]) -> None:
    """What became of the songs, and what the dataset holds."""
    songs = popdb.songs(WHY_NO_PAIR).to_pylist()  # without the candidates, which are many
    kept = step_into_dataset(songs, popdb.info["settings"]["min_vocal_share"])
    rows = [step.row() for step in [*funnel(outcomes), kept]]
    get_run_logger().info("What became of the songs\n%s", text_of(rows))
    show(TableArtifact(key="songs", table=rows, description="What became of the songs"))
    numbers = [{"count": name, "value": value} for name, value in popdb.info["counts"].items()]
    show(TableArtifact(key="popdb", table=numbers, description=f"POPDB at {popdb.location}"))
    _show_vocal_share(popdb)


def _show_vocal_share(popdb: Popdb) -> None:
    from samuel.report.training import caveats, vocal_share_report  # matplotlib: not before it is drawn

    with TemporaryDirectory() as folder:
        text = with_pictures(vocal_share_report(popdb, Path(folder)), Path(folder))
    markdown = f"# Vocal share of the chunks\n\n{text}\n\n{caveats(popdb)}"
    show(MarkdownArtifact(key="vocal-share", markdown=markdown, description="How much is sung"))
