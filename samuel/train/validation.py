"""The error of v on held-out pairs, and the conditioning gain: what another song's vocal adds to it.

Every pair is scored at fixed timesteps with fixed noise, so that any two trainings on a dataset compare.
Shapes: P pairs, N = 4 noise levels, C latent channels, T frames.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from samuel.errors import DatasetError
from samuel.model.diffusion import CosineSchedule, q_sample, v_target
from samuel.model.unet import SamuelUNet
from samuel.popdb.dataset import Popdb
from samuel.popdb.loader import Normaliser, Places, evaluation_dataset, evaluation_pairs

LEVELS = 4  # noise levels at which each pair is scored
NOISES = 8  # tensors of noise for each level; the pairs take turns
SEED = 20_250_727


class Validation:
    """At most `max_pairs` held-out pairs, or training pairs where none are held out, with their noise.

    The schedule is the network's, on its device; `pairs_per_pass` go through it at once, each at every level.
    Of `world_size` processes, each scores every `world_size`-th pair.
    """

    def __init__(
        self, popdb: Popdb, max_pairs: int, schedule: CosineSchedule,
        pairs_per_pass: int = 1, rank: int = 0, world_size: int = 1,
    ) -> None:  # fmt: skip
        device = schedule.alpha_bar.device
        self.schedule, self.pairs_per_pass = schedule, pairs_per_pass
        self.rank, self.world_size = rank, world_size
        self.pairs, self.normaliser = evaluation_dataset(popdb), Normaliser.of(popdb.stats).to(device)
        self.t = ((torch.arange(LEVELS) + 0.5) / LEVELS * schedule.timesteps).long().to(device)  # (N,)
        shape = (NOISES, LEVELS, *self.pairs[0][0].shape)  # (NOISES, N, C, T)
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(device)
        # Those that are scored, spread evenly over all; the song of each; for each a place of another song.
        count = min(max_pairs, len(self.pairs))
        self.places: Places = np.linspace(0, len(self.pairs) - 1, count).round().astype(np.int64)
        song_of = {row["pair_id"]: row["song_id"] for row in evaluation_pairs(popdb)}
        self.songs = [song_of[self.pairs.pair_ids[place]] for place in self.places]
        self.others = other_songs(self.songs)

    def losses(
        self, network: nn.Module, total: Callable[[Tensor], Tensor] = lambda part: part
    ) -> dict[str, float]:
        """Measure `validation_loss`, the mean squared error of v, and how it depends on the vocal.

        `validation_shuffled` is the same with every vocal replaced by one of another song: it exceeds the
        first by the conditioning gain, of which `conditioning_gain_error` is the standard error over the
        pairs. `total` sums a tensor over the processes.
        """
        own, other = (errors.mean(dim=1) for errors in self.errors(network))
        sums = torch.stack((own.sum(), other.sum(), (other - own).square().sum()))
        loss, shuffled, square = (total(sums) / len(self.places)).tolist()
        if not math.isfinite(loss):
            remedy = "lower training.learning_rate or verify the dataset"
            raise DatasetError(f"the validation loss is {loss}; {remedy}")
        if self.others is None:
            return {"validation_loss": loss}
        error = math.sqrt(max(0.0, square - (shuffled - loss) ** 2) / max(1, len(self.places) - 1))
        return {"validation_loss": loss, "validation_shuffled": shuffled, "conditioning_gain_error": error}

    @torch.no_grad()
    def errors(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """Measure the error of v of each pair here, with its own and another song's vocal: float64 (P, N)."""
        network.eval()
        here = np.arange(self.rank, len(self.places), self.world_size)
        found = [torch.zeros(2, 0, LEVELS, dtype=torch.float64)]
        for start in range(0, len(here), self.pairs_per_pass):
            which = here[start : start + self.pairs_per_pass]
            vocal, x0 = self.normaliser.batch(self.pairs.batch(self.places[which]))
            vocals = [vocal]
            if self.others is not None:
                vocals += [self.normaliser.batch(self.pairs.batch(self.places[self.others[which]]))[0]]
            t, eps = self.t.repeat(len(x0)), self.noise[torch.from_numpy(which % NOISES)].flatten(0, 1)
            x0, vocals = x0.repeat_interleave(LEVELS, 0), [v.repeat_interleave(LEVELS, 0) for v in vocals]
            x_t, v = q_sample(self.schedule, x0, eps, t), v_target(self.schedule, x0, eps, t)
            errors = [(network(x_t, t, vocal).float() - v).square().mean(dim=(1, 2)) for vocal in vocals]
            both = torch.stack((errors[0], errors[-1])).cpu().double()
            found.append(both.unflatten(1, (-1, LEVELS)))
        own, other = torch.cat(found, dim=1)
        return own, other


def other_songs(songs: Sequence[str]) -> Places | None:
    """Pair each place with one of another song, from half-way round the list on; None where all are one."""
    count = len(songs)
    if len(set(songs)) < 2:
        return None
    found = [
        next(p for p in ((place + count // 2 + i) % count for i in range(count)) if songs[p] != song)
        for place, song in enumerate(songs)
    ]
    return np.array(found, dtype=np.int64)


def conditioning_gain(network: SamuelUNet, popdb: Popdb) -> pd.DataFrame:
    """Measure the gain on all held-out pairs: a row for each timestep, and one for "all".

    Its columns are the mean error of v over the pairs with the `own` vocal and with one of `another` song;
    the `gain`, its standard error over the songs, and in how many songs it is above zero.
    """
    validation = Validation(popdb, sys.maxsize, network.schedule, pairs_per_pass=LEVELS)
    if validation.others is None:
        raise DatasetError(f"{popdb.location}: one song to validate on, and no other one's vocal to give")
    levels = [str(t) for t in validation.t.tolist()]
    own, other = (pd.DataFrame(errors.numpy(), columns=levels) for errors in validation.errors(network))
    own["all"], other["all"] = own.mean(axis=1), other.mean(axis=1)
    by_song = cast("pd.DataFrame", (other - own).groupby(validation.songs).mean())
    above = (by_song > 0).sum().map(lambda count: f"{count} of {len(by_song)}")
    columns = {
        "own": own.mean(), "another": other.mean(), "gain": other.mean() - own.mean(),
        "standard error": by_song.sem(), "songs above 0": above,
    }  # fmt: skip
    return pd.DataFrame(columns).rename_axis("t")
