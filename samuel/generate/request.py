"""What is asked of `generate`, and where it goes."""

from dataclasses import dataclass, field
from pathlib import Path

from samuel.config import SamplingConfig
from samuel.errors import InputError
from samuel.files import read_json
from samuel.generate.balance import BALANCE_DB
from samuel.generate.keep import Keep
from samuel.generate.output import require_writable
from samuel.popdb.separator import Separator

MOST_TAKES = 100


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes:
        vocal: Any audio file.
        output: The accompaniment, `.wav` or `.flac`.
        sampling: Sampler, steps, guidance and seed.
        takes: How many, with the seeds that follow.
        length_s: Only so much from the beginning; none: all of it.
        separator: What takes the vocals out first, where `vocal` is a whole song.
        balance_db: Loudness of the vocal over that of the accompaniment in the mix.
        keep: Seconds of an existing accompaniment that stay.
    """

    vocal: Path
    output: Path
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    takes: int = 1
    length_s: float | None = None
    separator: Separator | None = None
    balance_db: float = BALANCE_DB
    keep: Keep | None = None

    def places(self) -> "list[Take]":
        """Where the takes go, in the order of their seeds."""
        numbers = [""] if self.takes == 1 else [f"-{number}" for number in range(1, self.takes + 1)]
        return [
            Take(
                accompaniment=self.output.with_stem(f"{self.output.stem}{number}"),
                mix=self.output.with_stem(f"{self.output.stem}{number}-mix"),
                record=self.output.with_name(f"{self.output.stem}{number}.json"),
                # Seeds wrap around: the last one there is has a successor too.
                seed=(self.sampling.seed + i) % 2**32,
            )
            for i, number in enumerate(numbers)
        ]

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InputError: Too many takes, no balance, or an output that is read.
        """
        if not 1 <= self.takes <= MOST_TAKES:
            raise InputError(f"{self.takes} takes: ask for 1 to {MOST_TAKES}")
        if not -60 <= self.balance_db <= 60:
            raise InputError(f"a balance of {self.balance_db} dB: give -60 to 60")
        read = [self.vocal, *([self.keep.accompaniment] if self.keep else [])]
        for take in self.places():
            for place in (take.accompaniment, take.mix):
                if any(place.exists() and path.exists() and place.samefile(path) for path in read):
                    raise InputError(f"{place}: would be written over what is read; give another output")


@dataclass(frozen=True)
class Take:
    """A finished accompaniment.

    Attributes:
        accompaniment: As long as the vocal, 24 bits, 44.1 kHz.
        mix: Both together.
        record: JSON: seed, settings, digest of the checkpoint, levels.
        seed: Of its noise.
    """

    accompaniment: Path
    mix: Path
    record: Path
    seed: int

    def within(self, folder: Path) -> "Take":
        """The same names in another folder."""
        accompaniment, mix, record = (
            folder / path.name for path in (self.accompaniment, self.mix, self.record)
        )
        return Take(accompaniment, mix, record, self.seed)

    def require_room(self) -> None:
        """Refuse to take the place of what was not asked to go: only OUTPUT itself was named.

        Raises:
            InputError: A file that is no take of ours stands where the mix or the record is to go.
            OperatorError: Nothing can be written there.
        """
        require_writable(self.accompaniment)
        require_writable(self.mix)
        ours = _is_record(self.record)
        if (self.record.exists() and not ours) or (self.mix.exists() and not ours):
            culprit = self.record if self.record.exists() else self.mix
            raise InputError(
                f"{culprit}: is there, and of no earlier take; move it away, or give another output"
            )


def _is_record(path: Path) -> bool:
    try:
        return "samuel" in read_json(path)
    except (OSError, ValueError, TypeError):
        return False
