"""Title → what the site's search says."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from samuel.config import DownloadConfig
from samuel.errors import SongError
from samuel.popdb.download.choice import Hit, hit_of
from samuel.popdb.download.faults import yt_dlp_fails
from samuel.popdb.download.pace import Pace
from samuel.popdb.download.site import YtDlp, site_options
from samuel.popdb.status import Status


def search(title: str, config: DownloadConfig, pace: Pace, *, again: bool = False) -> dict[str, Any]:
    """Search the site for `title`, as text whatever it looks like; `again` where that has failed before.

    Returns:
        `{"hits": [...]}`: the site's first `config.search_results` videos, each the fields of a `Hit`.

    Raises:
        SongError: The site did not answer; `status` says why.
        OperatorError: The site wants to see a human, or the run was stopped.
    """
    if not title.strip():
        raise SongError(Status.NO_MATCH, "the title is empty: nothing to search for")
    with pace.asking("search", again=again), tempfile.TemporaryDirectory() as workplace:
        found = _ask(title, config, Path(workplace))
    return {"hits": [asdict(hit_of(entry)) for entry in found]}


def _ask(title: str, config: DownloadConfig, workplace: Path) -> list[Any]:
    options = site_options(config, workplace)
    try:
        with yt_dlp_fails(workplace), YtDlp(options) as ydl:
            found: Any = ydl.extract_info(f"{config.search}{config.search_results}:{title}", download=False)
            return [entry for entry in found.get("entries") or [] if isinstance(entry, dict)]
    except SongError as error:
        if Status(error.status).retryable:
            raise
        # Without an answer nothing is known of the song, let alone for good.
        raise SongError(Status.SERVER_ERROR, error.message) from error


def hits_of(record: dict[str, Any]) -> list[Hit]:
    """The hits of what `search` returned."""
    return [Hit(**fields) for fields in record["hits"]]
