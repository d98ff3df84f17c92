"""build-popdb: song list → download → separation → latents → POPDB (paper §III-C)."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows import artifacts
from flows.credentials import take_secrets
from flows.runner import Workers, ending, parts_here, until_ended, workers
from flows.tasks import (
    DOWNLOADS,
    RETRIED,
    Group,
    bar,
    create_limit,
    gather,
    gpu_slot,
    group_sizes,
    groups,
    shown,
    slot,
    submit,
    told,
)
from samuel.config import Settings, demo
from samuel.doctor import dataset_parts, require
from samuel.popdb import songs as catalog
from samuel.popdb import stages as pipeline
from samuel.popdb.accounts import counted
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.dataset import Popdb
from samuel.popdb.parts import Parts
from samuel.popdb.songs import Song, SongList
from samuel.popdb.space import require_space
from samuel.popdb.status import Outcome
from samuel.popdb.writer import require_place, write_popdb

THREADS = 3  # a group downloads while the one before it is separated and the one before that encoded


@flow(
    name="build-popdb",
    flow_run_name="{settings.songs.source}-{settings.separator.name}-{settings.codec.name}",
)
def build_popdb(settings: Settings = demo()) -> dict[str, Any]:  # noqa: B008  (frozen, and the UI's form)
    """Build the dataset POPDB from a list of songs.

    Args:
        settings: What to take, which parts to use and where to write; see `samuel.config`.
    """
    take_secrets()
    if settings.songs.source == "csv":
        create_limit(DOWNLOADS)
    parts = Parts(settings)
    with workers(settings, THREADS) as run, ending():
        run.submit(examine, computes=True, parts=parts).result()
        listed = list_songs(settings)
        artifacts.show_list(listed)
        require_space(listed.songs, settings, max(group_sizes(len(listed.songs), settings), default=1))
        outcomes = prepare(run, listed.songs, parts)
        popdb = run.submit(assemble, outcomes=Group(outcomes), settings=settings).result()
    artifacts.show_dataset(popdb, outcomes)
    made = {"path": popdb.location, **popdb.info["counts"]}
    return cast("dict[str, Any]", Completed(message=summary(popdb.info["counts"]), data=made))


def prepare(run: Workers, songs: Sequence[Song], parts: Parts) -> list[Outcome]:
    """Songs → paired latents, group by group, and what became of each."""
    journey = artifacts.Journey(songs, parts.settings)
    run.everywhere(partial(begin, parts))
    with ExitStack() as broken_off:  # the groups to come would download for nobody
        broken_off.callback(parts.rate_limiter.cancel)
        named = groups(songs, parts.settings)
        outcomes = gather(submit(run, (download, separate, encode), named, parts), journey.show)
        broken_off.pop_all()
    return outcomes


def begin(parts: Parts) -> None:
    """Whoever starts a run has read why the last one stopped."""
    parts.rate_limiter.start_run()


def summary(counts: dict[str, int]) -> str:
    """What a run ends with, in one line."""
    kept, listed = counts["songs_kept"], counts["songs_listed"]
    return f"{counted(counts['pairs'], 'pair')} from {kept:,} of {counted(listed, 'song')}"


@task(task_run_name="check the parts", cache_policy=NO_CACHE)
def examine(parts: Parts) -> None:
    """Stop before the long work where a part that the settings name is missing."""
    settings, parts = parts.settings, parts_here(parts)
    require(settings, dataset_parts(settings))
    require_place(settings)
    pipeline.reclaim_audio(parts)


@task(task_run_name="list songs ({settings.songs.source})", cache_policy=NO_CACHE)
def list_songs(settings: Settings) -> SongList:
    """Song list → songs."""
    return catalog.list_songs(settings.songs, settings.data, lambda items: bar(items, "compose"))


@task(task_run_name="download {group}", tags=["download"], cache_policy=NO_CACHE, **RETRIED)
def download(songs: Sequence[Song], parts: Parts, group: str) -> Group[Outcome]:
    """Songs → audio."""
    with bar(songs, f"download {group}") as progress:
        done = until_ended(lambda _: progress.update())
        return told(acquire_songs(songs, parts_here(parts), done, while_asking=slot(DOWNLOADS)))


@task(task_run_name="separate {group}", tags=["separate"], cache_policy=NO_CACHE, **RETRIED)
def separate(songs: Sequence[Outcome], parts: Parts, group: str) -> Group[Outcome]:
    """Audio → vocals and accompaniment."""
    with gpu_slot(parts.settings), bar(songs, f"separate {group}") as progress:
        done = until_ended(lambda _: progress.update())
        return told(pipeline.separate_songs(songs, parts_here(parts), done))


@task(task_run_name="encode {group}", tags=["encode"], cache_policy=NO_CACHE, **RETRIED)
def encode(songs: Sequence[Outcome], parts: Parts, group: str) -> Group[Outcome]:
    """Stems → paired latents."""
    with gpu_slot(parts.settings), bar(songs, f"encode {group}") as progress:
        done = until_ended(lambda _: progress.update())
        return told(pipeline.encode_songs(songs, parts_here(parts), done))


@task(task_run_name="write shards and index", cache_policy=NO_CACHE, **RETRIED)
def assemble(outcomes: Sequence[Outcome], settings: Settings) -> Popdb:
    """Latents → POPDB."""
    popdb = write_popdb(list(outcomes), settings)
    return shown(popdb, cached=not popdb.made, what=f"{popdb.info['counts']['pairs']} pairs")
