"""The error of v on held-out pairs, and the conditioning gain: what another song's vocal adds to it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from samuel.errors import DatasetError
from samuel.model.diffusion import CosineSchedule, q_sample, v_target
from samuel.model.unet import SamuelUNet
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser, Places, evaluation_dataset

# The error of v on held-out pairs, so that the losses of any two runs on a dataset compare.
#
# Shapes: P pairs, N = 4 noise levels, C = 64 latent channels, T frames.


LEVELS = 4  # noise levels at which each pair is scored
NOISES = 8  # tensors of noise for each level; the pairs take turns
SEED = 20_250_727

Sum = Callable[[Tensor], Tensor]


@dataclass
class Validation:
    """Held-out pairs at fixed timesteps with fixed noise.

    What is measured does not depend on the loss weight or on how many processes share the work, and on the
    device only as far as it rounds otherwise.

    Attributes:
        popdb: The dataset.
        most: Pairs at most, spread evenly over those held out.
        schedule: Of the network.
        at_a_time: Pairs in one pass of the network, each at every level.
        rank: Which of several processes this is.
        world_size: How many they are.
    """

    popdb: Popdb = field(repr=False)
    most: int
    schedule: CosineSchedule
    at_a_time: int = 1
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        self.pairs = evaluation_dataset(self.popdb)
        device = self.schedule.alpha_bar.device
        self.normaliser = Normaliser.of(self.popdb.stats).to(device)
        self.t = ((torch.arange(LEVELS) + 0.5) / LEVELS * self.schedule.timesteps).long().to(device)
        shape = (NOISES, LEVELS, *self.pairs[0][0].shape)
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(device)
        count = min(self.most, len(self.pairs))
        self.places: Places = np.linspace(0, len(self.pairs) - 1, count).round().astype(np.int64)
        self.others = other_songs([self.pairs.pair_ids[place] for place in self.places], self.popdb)

    def losses(self, network: nn.Module, total: Sum = lambda part: part) -> dict[str, float]:
        """`validation_loss` (squared error of v), `validation_shuffled` and `conditioning_gain_error`.

        The second is the same with every vocal replaced by one of another song, where there is another: a
        network that listens does worse there. The difference is the conditioning gain, and the third its
        standard error over the pairs.

        Args:
            network: Predicts v from (x_t, t, vocal).
            total: Sums a tensor over the processes.

        Raises:
            DatasetError: The loss is not finite.
        """
        own, other = (errors.mean(dim=1) for errors in self.errors(network))
        sums = torch.stack((own.sum(), other.sum(), (other - own).square().sum()))
        loss, shuffled, square = (total(sums) / len(self.places)).tolist()
        if not math.isfinite(loss):
            raise DatasetError(
                f"the validation loss is {loss}; lower training.learning_rate or verify the dataset"
            )
        if self.others is None:
            return {"validation_loss": loss}
        error = math.sqrt(max(0.0, square - (shuffled - loss) ** 2) / max(1, len(self.places) - 1))
        return {"validation_loss": loss, "validation_shuffled": shuffled, "conditioning_gain_error": error}

    @torch.no_grad()
    def errors(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """Error of v of each pair of this process at each level, with its own vocal and with another song's.

        Each is float64 (P, N); they are the same where there is no other song.
        """
        network.eval()
        mine = np.arange(self.rank, len(self.places), self.world_size)
        halves: tuple[list[Tensor], list[Tensor]] = ([], [])
        for start in range(0, len(mine), self.at_a_time):
            for half, errors in zip(
                halves, self._errors(network, mine[start : start + self.at_a_time]), strict=True
            ):
                half.append(errors)
        none = torch.zeros(0, LEVELS, dtype=torch.float64)
        return torch.cat([none, *halves[0]]), torch.cat([none, *halves[1]])

    def _errors(self, network: nn.Module, which: Places) -> tuple[Tensor, Tensor]:
        """`errors` of some of `places`."""
        vocal, x0 = (half.to(self.t.device) for half in self.pairs.batch(self.places[which]))
        eps = self.noise[torch.from_numpy(which % NOISES)]
        own = self._error(network, x0, vocal, eps)
        if self.others is None:
            return own, own
        vocal = self.pairs.batch(self.places[self.others[which]])[0].to(self.t.device)
        return own, self._error(network, x0, vocal, eps)

    def _error(self, network: nn.Module, x0: Tensor, vocal: Tensor, eps: Tensor) -> Tensor:
        """Mean over channels and frames: float64 (P, N); eps is (P, N, C, T)."""
        t, eps = self.t.repeat(len(x0)), eps.flatten(0, 1)
        x0 = self.normaliser.accompaniment(x0).repeat_interleave(LEVELS, 0)
        vocal = self.normaliser.vocal(vocal).repeat_interleave(LEVELS, 0)
        predicted = network(q_sample(self.schedule, x0, eps, t), t, vocal)
        error = (predicted.float() - v_target(self.schedule, x0, eps, t)).square()
        return error.mean(dim=(1, 2)).cpu().double().unflatten(0, (-1, LEVELS))


def songs_of(pair_ids: list[str], popdb: Popdb) -> list[str]:
    """The song of each pair."""
    songs: dict[str, str] = dict(
        zip(popdb.table["pair_id"].to_pylist(), popdb.table["song_id"].to_pylist(), strict=True)
    )
    return [songs[pair_id] for pair_id in pair_ids]


def other_songs(pair_ids: list[str], popdb: Popdb) -> Places | None:
    """For each pair the place of one of another song; None where all are of one.

    It is half-way round the list, or as soon after that as there is one.
    """
    own, count = songs_of(pair_ids, popdb), len(pair_ids)
    if len(set(own)) < 2:
        return None
    found = [
        next(p for p in ((place + count // 2 + i) % count for i in range(count)) if own[p] != own[place])
        for place in range(count)
    ]
    return np.array(found, dtype=np.int64)


@dataclass(frozen=True)
class ConditioningGain:
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


def conditioning_gain(network: SamuelUNet, popdb: Popdb) -> ConditioningGain:
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
    return ConditioningGain(checked.t.tolist(), len(own), own.mean(dim=0), other.mean(dim=0), by_song)
