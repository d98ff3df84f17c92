"""build-popdb: song list → download → separation → latents → POPDB (paper §III-C)."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows import artifacts
from flows.stages import bar, gather, groups, shown, submit, told
from samuel.config import Settings, demo
from samuel.doctor import dataset_parts, require
from samuel.popdb import catalog, pipeline
from samuel.popdb.acquisition import acquire_songs, pace_of
from samuel.popdb.catalog import Song, SongList
from samuel.popdb.outcome import Outcome
from samuel.popdb.shards import Popdb, require_place, write_popdb
from samuel.popdb.space import require_space

WORKERS = 3  # a group downloads while the one before it is separated and the one before that encoded


@flow(
    name="build-popdb",
    flow_run_name="{settings.songs.source}-{settings.separator.name}-{settings.codec.name}",
    task_runner=ThreadPoolTaskRunner(max_workers=WORKERS),  # type: ignore[arg-type]
)
def build_popdb(settings: Settings = demo()) -> dict[str, Any]:  # noqa: B008  (frozen, and the UI's form)
    """Build the dataset POPDB from a list of songs.

    Args:
        settings: What to take, which parts to use and where to write; see `samuel.config`.
    """
    examine(settings)
    listed = list_songs(settings)
    artifacts.show_list(listed)
    require_space(listed.songs, settings)
    acquisition = artifacts.Acquisition(listed.songs, settings)
    stages = submit((download, separate, encode), groups(listed.songs), settings)
    with ExitStack() as broken_off:
        broken_off.callback(pace_of(settings).leave)  # or the groups to come would download for nobody
        outcomes = gather(stages, acquisition.show)
        broken_off.pop_all()
    popdb = assemble.submit(outcomes, settings).result()
    artifacts.show_dataset(popdb, outcomes)
    return {"path": popdb.location, **popdb.info["counts"]}


@task(task_run_name="check this machine", cache_policy=NO_CACHE)
def examine(settings: Settings) -> None:
    """Stop before the long work where a part that the settings name is missing."""
    require(settings, dataset_parts(settings))
    require_place(settings)
    pipeline.reclaim_audio(settings)
    pace_of(settings).open()  # whoever starts a run has read why the last one stopped


@task(task_run_name="list songs ({settings.songs.source})", cache_policy=NO_CACHE)
def list_songs(settings: Settings) -> SongList:
    """Song list → songs."""
    return catalog.list_songs(settings.songs, settings.data, lambda items: bar(items, "compose"))


@task(task_run_name="download {group}", cache_policy=NO_CACHE)
def download(songs: Sequence[Song], settings: Settings, group: str) -> list[Outcome]:
    """Songs → audio."""
    with bar(songs, f"download {group}") as progress:
        return told(acquire_songs(songs, settings, lambda _: progress.update()))


@task(task_run_name="separate {group}", cache_policy=NO_CACHE)
def separate(downloaded: Sequence[Outcome], settings: Settings, group: str) -> list[Outcome]:
    """Audio → vocals and accompaniment."""
    with bar(downloaded, f"separate {group}") as progress:
        return told(pipeline.separate_songs(downloaded, settings, lambda _: progress.update()))


@task(task_run_name="encode {group}", cache_policy=NO_CACHE)
def encode(separated: Sequence[Outcome], settings: Settings, group: str) -> list[Outcome]:
    """Stems → paired latents."""
    with bar(separated, f"encode {group}") as progress:
        return told(pipeline.encode_songs(separated, settings, lambda _: progress.update()))


@task(task_run_name="write shards and index", cache_policy=NO_CACHE)
def assemble(outcomes: Sequence[Outcome], settings: Settings) -> Popdb:
    """Latents → POPDB."""
    popdb = write_popdb(list(outcomes), settings)
    return shown(popdb, cached=not popdb.made, what=f"{popdb.info['counts']['pairs']} pairs")
