"""AudioBox-Aesthetics in its own layout, with an encoder small enough for tests."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samuel.hub import quietly
from tests.weights import write_audiobox

SMALL = {
    "encoder_layers": 12, "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4, "conv_pos_groups": 4,
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
}  # fmt: skip


@contextlib.contextmanager
def small_audiobox(folder: Path) -> Iterator[tuple[Path, Any]]:
    """A checkpoint with random weights, and its network.

    The layout says nothing about the encoder's size; a small one is put in the package meanwhile.
    """
    with quietly():
        from audiobox_aesthetics.model import aes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aes, "DEFAULT_AUDIO_CFG", aes.WavLMConfig({**vars(aes.DEFAULT_AUDIO_CFG), **SMALL}))
        path = folder / "checkpoint.pt"
        network = write_audiobox(path)
        yield path, network
