"""build-popdb: song list → download → separation → latents → POPDB (paper §III-C)."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows import artifacts, tasks
from flows.runner import Workers, parts_here, until_run_ends, workers
from flows.tasks import AS_PRESET, RETRIED, Group, Overrides, bar, gpu_slot, shown_songs
from samuel.config import Preset
from samuel.doctor import dataset_parts, require
from samuel.popdb import songs as catalog
from samuel.popdb import stages
from samuel.popdb.accounts import require_space
from samuel.popdb.acquire import acquire_songs
from samuel.popdb.dataset import Popdb
from samuel.popdb.parts import Parts
from samuel.popdb.songs import SongList
from samuel.popdb.status import Outcome
from samuel.popdb.writer import require_place, write_popdb
from samuel.text import counted

THREADS = 3  # a group downloads while the one before it is separated and the one before that encoded


@flow(name="build-popdb", flow_run_name=tasks.run_name("{songs.source}-{separator.name}-{codec.name}"))
def build_popdb(preset: Preset = "demo", settings: Overrides = AS_PRESET) -> dict[str, Any]:
    """Build the dataset POPDB from a list of songs.

    Args:
        preset: demo, the embedded parts, or paper, the paper's run.
        settings: What is to differ from the preset: songs, parts, where to write.
    """
    parts = Parts(tasks.chosen(preset, settings))
    with workers(parts.settings, THREADS) as run:
        run.submit(examine, computes=True, parts=parts).result()
        listed = list_songs(parts)
        artifacts.show_list(listed)
        outcomes = prepare(run, listed, parts)
        popdb = run.submit(assemble, outcomes=Group(outcomes), parts=parts).result()
    artifacts.show_dataset(popdb, outcomes)
    counts = popdb.info["counts"]
    kept, of = counts["songs_kept"], counted(counts["songs_listed"], "song")
    message = f"{counted(counts['pairs'], 'pair')} from {kept:,} of {of}"
    return cast("dict[str, Any]", Completed(message=message, data={"path": popdb.location, **counts}))


def prepare(run: Workers, listed: SongList, parts: Parts) -> list[Outcome]:
    """Take songs to paired latents, group by group; what became of each."""
    groups = tasks.groups(listed.songs, parts.settings)
    require_space(listed.songs, parts.settings, max((len(group) for _, group in groups), default=1))
    if parts.settings.songs.source == "csv":
        tasks.create_limit(tasks.DOWNLOADS)
    progress = artifacts.SongProgress(listed.songs, parts.settings)
    parts.rate_limiter.start_run()  # whoever starts a run has read why the last one stopped
    with ExitStack() as broken_off:
        broken_off.callback(parts.rate_limiter.cancel)  # the groups to come would download for nobody
        futures = tasks.submit(run, (download, separate, encode), parts, groups)
        outcomes = tasks.gather(futures, progress.add)
        broken_off.pop_all()
    return outcomes


@task(task_run_name="check the parts", cache_policy=NO_CACHE)
def examine(parts: Parts) -> None:
    """Stop before the long work where a part that the settings name is missing."""
    require(parts.settings, dataset_parts(parts.settings))
    require_place(parts.settings)
    stages.reclaim_audio(parts_here(parts))


@task(task_run_name="list songs", cache_policy=NO_CACHE)
def list_songs(parts: Parts) -> SongList:
    """Song list → songs."""
    settings = parts.settings
    return catalog.list_songs(settings.songs, settings.data, lambda items: bar(items, "compose"))


@task(task_run_name="download {group}", tags=["download"], cache_policy=NO_CACHE, **RETRIED)
def download(songs: Sequence[catalog.Song], parts: Parts, group: str) -> Group[Outcome]:
    """Songs → audio."""
    with bar(songs, f"download {group}") as progress:
        done, asking = until_run_ends(lambda _: progress.update()), tasks.slot(tasks.DOWNLOADS)
        return shown_songs(acquire_songs(songs, parts_here(parts), done, while_asking=asking))


@task(task_run_name="separate {group}", tags=["separate"], cache_policy=NO_CACHE, **RETRIED)
def separate(songs: Sequence[Outcome], parts: Parts, group: str) -> Group[Outcome]:
    """Audio → vocals and accompaniment."""
    with gpu_slot(parts.settings), bar(songs, f"separate {group}") as progress:
        done = until_run_ends(lambda _: progress.update())
        return shown_songs(stages.separate_songs(songs, parts_here(parts), done))


@task(task_run_name="encode {group}", tags=["encode"], cache_policy=NO_CACHE, **RETRIED)
def encode(songs: Sequence[Outcome], parts: Parts, group: str) -> Group[Outcome]:
    """Stems → paired latents."""
    with gpu_slot(parts.settings), bar(songs, f"encode {group}") as progress:
        done = until_run_ends(lambda _: progress.update())
        return shown_songs(stages.encode_songs(songs, parts_here(parts), done))


@task(task_run_name="write shards and index", cache_policy=NO_CACHE, **RETRIED)
def assemble(outcomes: Sequence[Outcome], parts: Parts) -> Popdb:
    """Latents → POPDB."""
    popdb = write_popdb(list(outcomes), parts.settings, parts.store)
    return tasks.shown(popdb, cached=not popdb.made, what=f"{popdb.info['counts']['pairs']} pairs")
