"""What identifies a dataset and its recordings, for publishing it without anybody's audio.

Latents decode to audio, and titles and messages are what others wrote: neither is in it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from samuel.popdb.exchange.folder import export_folder
from samuel.popdb.shards import Popdb

LAYOUT = 1
PAIRS, MANIFEST = "pairs.jsonl", "manifest.json"
OF_PAIR = ("pair_id", "song_id", "video_id", "chunk", "start_s", "split", "latents_sha256", "pair_sha256")
OF_SONG = ("audio_sha256", "recording")
# Counts that follow from the songs, not from how the dataset has grown.
COUNTS = ("songs_listed", "songs_kept", "chunks", "chunks_left_out", "pairs", "train", "validation")
README = """\
# POPDB, without its audio

This folder identifies a dataset of paired vocal and accompaniment latents. It holds ids, digests and settings
only: no latents, no audio and no titles.

- `manifest.json`: what the dataset was made of, its settings, its counts and two digests:
  - `content_sha256`: of a line `pair_id pair_sha256 split` per pair, each ended by a line feed, in the order
    of the ids;
  - `pairs_sha256`: of the file `pairs.jsonl`.
- `pairs.jsonl`: a line per pair, in the order of the ids:
  - `pair_id`, `song_id`, `chunk`, `start_s`: the chunk of the song, and where it begins;
  - `video_id`: where the song was found; null for songs that came as files;
  - `audio_sha256`: of the song's audio file;
  - `recording`: the same for songs that sound the same, which stand on one side of the split;
  - `split`: `train` or `validation`;
  - `latents_sha256`: of the file that held the song's latents;
  - `pair_sha256`: of the pair's latents, little-endian float16 (64, {frames}), row by row: first those of the
    vocal, then those of the accompaniment.

All of it is copied from the index of the dataset, and no latents were read: run `samuel verify` on the
dataset first, which compares them with their digests.

## To rebuild it

Build a dataset with SAMUeL (arXiv 2507.19991) from the same songs, with the separator, the codec and the
`settings` of `manifest.json`, by the flow `build-popdb`. Where the source is `published`, run
`samuel import-popdb` on the two files whose digests stand among the settings.

## To check what was rebuilt

Export the manifest of the new dataset (`samuel export-manifest`) and compare the two folders, as with
`diff -r`. Equal datasets give equal bytes, however their files have grown. Where lines differ, they say why:
another video (`video_id`), other audio from the same video (`audio_sha256`), or other latents from the same
audio (`pair_sha256`), which separators and codecs compute a little differently on different processors.
"""


def export_manifest(popdb: Popdb, folder: Path) -> Path:
    """Write ids, digests and settings of a dataset: `manifest.json`, `pairs.jsonl` and `README.md`.

    Equal datasets give equal bytes. A folder that holds the same already is left as it is.

    Raises:
        InputError: Something else is in the folder.
    """
    lines = _lines(popdb)
    info = popdb.info
    stated = {
        "layout": LAYOUT,
        **{name: info[name] for name in ("source", "separator", "codec", "chunk_frames", "settings")},
        "counts": {name: info["counts"][name] for name in COUNTS},
        "content_sha256": info["content_sha256"],
        "pairs_sha256": hashlib.sha256(lines).hexdigest(),
    }

    def make(target: Path) -> None:
        (target / PAIRS).write_bytes(lines)
        (target / "README.md").write_text(README.format(frames=info["chunk_frames"]), "utf-8")

    return export_folder(folder, MANIFEST, stated, make)


def _lines(popdb: Popdb) -> bytes:
    songs = {row["song_id"]: row for row in popdb.songs(["song_id", *OF_SONG]).to_pylist()}
    unknown: dict[str, Any] = dict.fromkeys(OF_SONG)
    rows = [
        {name: row[name] for name in OF_PAIR}
        | {name: songs.get(row["song_id"], unknown)[name] for name in OF_SONG}
        for row in popdb.index
    ]
    # ASCII: a video id is what a site said, and a line must stay one.
    return "".join(json.dumps(row) + "\n" for row in rows).encode("ascii")
