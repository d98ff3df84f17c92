"""What a vocal is worth to a model: its error with the right one against that with another song's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from samuel.errors import DatasetError
from samuel.model.unet import SamuelUNet
from samuel.popdb.shards import Popdb
from samuel.train.validation import LEVELS, Validation, songs_of


@dataclass(frozen=True)
class Worth:
    """Errors of v on held-out songs; the means are over pairs, S songs and N noise levels.

    Attributes:
        t: The timesteps, (N,).
        pairs: How many pairs.
        own: Error with the right vocal, (N,).
        other: Error with that of another song, (N,).
        by_song: What the difference is on average for each song and level, (S, N).
    """

    t: list[int]
    pairs: int
    own: Tensor
    other: Tensor
    by_song: Tensor

    def table(self) -> list[dict[str, str]]:
        """A row for each level, and one for all, with the standard error of the difference over the songs."""
        levels = [
            (str(t), *values) for t, *values in zip(self.t, self.own, self.other, self.by_song.T, strict=True)
        ]
        rows = [*levels, ("all", self.own.mean(), self.other.mean(), self.by_song.mean(dim=1))]
        return [
            {
                "t": name,
                "own vocal": f"{own:.4f}",
                "another song's": f"{other:.4f}",
                "difference": f"{other - own:+.4f} ± {difference.std() / len(difference) ** 0.5:.4f}",
            }
            for name, own, other, difference in rows
        ]

    def sentence(self) -> str:
        """How many of the songs are predicted worse with the vocal of another."""
        worse = int((self.by_song.mean(dim=1) > 0).sum())
        return f"worse with another song's vocal: {worse} of {len(self.by_song)} songs ({self.pairs} pairs)"


def worth_of_vocal(network: SamuelUNet, popdb: Popdb) -> Worth:
    """Measure it on all held-out pairs, as `Validation` does.

    Raises:
        DatasetError: There are not two held-out songs.
    """
    checked = Validation(popdb, len(popdb.index), network.schedule, at_a_time=LEVELS)
    if checked.others is None:
        raise DatasetError(
            f"{popdb.location}: one song to validate on; there is no other one's vocal to give"
        )
    own, other = checked.errors(network)
    songs = songs_of([checked.pairs.pair_ids[place] for place in checked.places], popdb)
    differences: dict[str, list[Tensor]] = {}
    for song, difference in zip(songs, other - own, strict=True):
        differences.setdefault(song, []).append(difference)
    by_song = torch.stack([torch.stack(rows).mean(dim=0) for rows in differences.values()])
    return Worth(checked.t.tolist(), len(own), own.mean(dim=0), other.mean(dim=0), by_song)
