"""Artifacts on the server. What is shown of a run never ends it: a server may be away for a while."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast
from uuid import UUID

import httpx
from prefect.artifacts import Artifact, ProgressArtifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

Item = TypeVar("Item")

LEAST_S = 10.0
GROWTH = 0.005


class Pace:
    """When something may be shown again: the longer a run takes, the rarer.

    Each time costs a call and a row in the server's database. At this pace a run of two days shows a thing
    some thousand times.
    """

    def __init__(self, least_s: float = LEAST_S, growth: float = GROWTH) -> None:
        """From now on, every `least_s` and every `growth` of the time that has passed."""
        self._least_s, self._growth = least_s, growth
        self._began = self._last = time.monotonic()

    def due(self) -> bool:
        """True when it is time; the next time counts from here."""
        now = time.monotonic()
        if now - self._last < max(self._least_s, self._growth * (now - self._began)):
            return False
        self._last = now
        return True


class Connection:
    """The one way to the server for artifacts. Where it cannot be reached, a warning says so once."""

    def __init__(self) -> None:
        self._away = False

    def call(self, send: Callable[[], UUID | None], *, patient: bool) -> UUID | None:
        """What `send` returns; None where the server cannot be reached.

        Args:
            send: Calls the server.
            patient: Wait for it as long as Prefect's client does; else the work in hand matters more.
        """
        try:
            with _patience(patient):
                sent = send()
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            if isinstance(error, PrefectHTTPStatusError) and not error.response.is_server_error:
                raise
            if not self._away:
                get_run_logger().warning(
                    "the Prefect server cannot be reached (%s): the run goes on, the UI shows less of it",
                    error,
                )
            self._away = True
            return None
        self._away = False
        return sent


CONNECTION = Connection()


def show(artifact: Artifact) -> None:
    """Show what stays as it is."""
    CONNECTION.call(lambda: _create(artifact), patient=True)


class Live:
    """An artifact that changes while a run goes on: one row in the server's database, however often."""

    def __init__(self) -> None:
        self._id: UUID | None = None

    def show(self, artifact: Artifact) -> None:
        """Show this in place of what was shown before."""
        self._id = CONNECTION.call(lambda: self._send(artifact), patient=False) or self._id

    def _send(self, artifact: Artifact) -> UUID:
        if self._id is None:
            return _create(artifact)
        try:
            update = ArtifactUpdate(data=cast("Any", artifact.format()), description=artifact.description)
            get_client(sync_client=True).update_artifact(self._id, update)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
            return _create(artifact)  # somebody deleted it in the UI
        return self._id


class Share:
    """How much of something is done, as a bar.

    Args:
        key: Of the artifact.
        title: What is done.
    """

    def __init__(self, key: str, title: str) -> None:
        self._key, self._title, self._live, self._pace = key, title, Live(), Pace()

    def show(self, done: int, total: int) -> None:
        """Show how much is done."""
        description = f"{self._title}: {done:,} of {total:,}"
        progress = 100 * done / total if total else 100.0
        self._live.show(ProgressArtifact(key=self._key, description=description, progress=progress))

    def over(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        """The items; each counts as done when the next one is asked for."""
        self.show(0, total)
        for done, item in enumerate(items):
            if self._pace.due():
                self.show(done, total)
            yield item
        self.show(total, total)


def _create(artifact: Artifact) -> UUID:
    return cast("Any", artifact.create()).id


def _patience(patient: bool) -> AbstractContextManager[Any]:
    return nullcontext() if patient else temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})
