"""What the files of a run say: whether they are the same, what was in hand, what was done again."""

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from samuel.config import Settings

MADE = ("data/*/*/entry.json", "artifacts/*/*/entry.json", "artifacts/*/samples/*/entry.json")
IN_HAND = ("data/*/.*.tmp", "artifacts/*/.*.tmp", "artifacts/*/samples/.*.tmp")


def content_of(settings: Settings) -> dict[str, str]:
    """Digest by name of what a run is for: the dataset, the model's weights, the accompaniments."""
    popdb, artifacts = Path(settings.popdb_path), settings.artifacts
    files = {f"popdb/{path.relative_to(popdb)}": path for path in popdb.rglob("*") if path.is_file()}
    for pattern in ("*/model/model.safetensors", "*/samples/*/accompaniment.wav"):
        files |= {str(path.relative_to(artifacts)): path for path in artifacts.glob(pattern)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(files.items())}


@dataclass
class Witness:
    """Watches the folders of a run.

    Attributes:
        root: Where `data` and `artifacts` lie.
        again: Finished pieces that were made a second time.
        longest_s: The longest that a piece took.
        lost_s: At every kill, how long the oldest piece in hand had been worked on.
        lost_steps: At every kill, training steps since the last checkpoint.
    """

    root: Path
    again: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    lost_s: list[float] = field(default_factory=list)
    lost_steps: list[int] = field(default_factory=list)
    _finished: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _since: dict[Path, float] = field(default_factory=dict)
    _killed: float = 0.0

    def watch(self) -> None:
        """Look at what is finished and what is in hand; to be called many times a second."""
        now = time.monotonic()
        in_hand = {path for path in self._found(IN_HAND) if self._begun_anew(path)}
        for path in set(self._since) - in_hand:
            self.longest_s = max(self.longest_s, now - self._since.pop(path))
        for path in in_hand:
            self._since.setdefault(path, now)
        for path in self._found(MADE):
            self._compare(path)

    def kill_came(self) -> None:
        """Note what was in hand."""
        now = time.monotonic()
        self.lost_s.append(max((now - since for since in self._since.values()), default=0.0))
        self.lost_steps.append(self._steps_since_checkpoint())
        self._since, self._killed = {}, time.time()

    def _begun_anew(self, folder: Path) -> bool:
        """Whether somebody has worked there since the last kill; who was killed left it as it was."""
        try:
            return folder.stat().st_mtime > self._killed
        except FileNotFoundError:
            return False

    def _compare(self, path: Path) -> None:
        try:
            stat = path.stat()
        except FileNotFoundError:  # a checkpoint that is no longer kept
            return
        mark = (stat.st_ino, stat.st_mtime_ns)
        if self._finished.setdefault(path, mark) != mark:
            self.again.append(str(path.relative_to(self.root)))
            self._finished[path] = mark

    def _found(self, patterns: tuple[str, ...]) -> list[Path]:
        return [path for pattern in patterns for path in self.root.glob(pattern)]

    def _steps_since_checkpoint(self) -> int:
        for metrics in self.root.glob("artifacts/*/training/metrics.jsonl"):
            lines = metrics.read_text().splitlines()
            steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
            kept = [int(path.name.removeprefix("step-")) for path in metrics.parent.glob("step-*")]
            if kept or not (metrics.parent.parent / "model").exists():
                return max(steps, default=0) - max(kept, default=0)
        return 0
