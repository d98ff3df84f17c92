"""The VAE of Stable Audio Open: shapes, exactness, and what is said of weights that are absent or wrong."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from samuel.codecs import load_codec
from samuel.codecs.base import Codec, CodecInfo
from samuel.config import CodecConfig
from samuel.errors import MissingPartError
from tests.codecs.music import music
from tests.weights import Trap, write_stable_audio

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("stable-audio")
    return folder, write_stable_audio(folder)


@pytest.fixture(scope="module")
def vae(weights: tuple[Path, Any]) -> Codec:
    return load_codec(CodecConfig(name="stable-audio-open", path=str(weights[0])), CPU)


def test_windows_equal_one_pass(vae: Codec, weights: tuple[Path, Any]) -> None:
    audio = music(300)
    with torch.no_grad():
        whole = weights[1].encode(audio, skip_bottleneck=True).chunk(2, dim=1)[0]
        decoded = weights[1].decode(whole)
    latents = vae.encode(audio)
    assert whole.std() > 1e-3
    assert torch.allclose(latents, whole, atol=1e-4 * float(whole.std()))
    assert torch.allclose(vae.decode(latents), decoded, atol=1e-4 * float(decoded.std()))


def test_samples_follow_the_librarys_posterior(weights: tuple[Path, Any], vae: Codec) -> None:
    config = CodecConfig(name="stable-audio-open", path=str(weights[0]), posterior="sample")
    sampling = load_codec(config, CPU)
    audio = torch.cat([music(100, seed=1), music(100, seed=2)])
    with torch.no_grad():
        mean, scale = weights[1].encode(audio, skip_bottleneck=True).chunk(2, dim=1)
    deviation = torch.nn.functional.softplus(scale) + 1e-4
    drawn = (sampling.encode(audio) - mean) / deviation
    assert drawn.mean().abs() < 0.03
    assert drawn.std() == pytest.approx(1.0, abs=0.03)
    # The noise of one stem says nothing of another's, and is the same the next time.
    assert torch.corrcoef(drawn.flatten(1))[0, 1].abs() < 0.04
    assert torch.equal(sampling.encode(audio)[1:], sampling.encode(audio[1:]))
    assert sampling.info != vae.info


def test_identity_follows_the_weights(vae: Codec, weights: tuple[Path, Any], tmp_path: Path) -> None:
    state = load_file(weights[0] / "model.safetensors")
    config = (weights[0] / "model_config.json").read_text()

    def info_of(name: str, tensors: dict[str, Tensor]) -> CodecInfo:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model_config.json").write_text(config)
        save_file(tensors, folder / "model.safetensors")
        return load_codec(CodecConfig(name="stable-audio-open", path=str(folder)), CPU).info

    own = {name: value for name, value in state.items() if name.startswith("pretransform.model.")}
    assert info_of("alone", own) == vae.info
    own[next(iter(own))] += 1e-3
    assert info_of("changed", own) != vae.info


BIAS = "pretransform.model.encoder.layers.0.bias"
WRONG_TENSOR = r"model\.safetensors: .*encoder\.layers\.0\.bias"


def part(config: dict[str, Any]) -> dict[str, Any]:
    """The autoencoder's own configuration."""
    return config["model"]["pretransform"]["config"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _, s: s.pop(BIAS), WRONG_TENSOR),
        (lambda _, s: s[BIAS].fill_(torch.nan), rf"{WRONG_TENSOR}.* no numbers"),
        (lambda c, _: part(c)["encoder"]["config"].update(channels=10**9), "channels: Input should be less"),
        (lambda c, _: part(c)["encoder"]["config"].update(channels=512), "of another network"),
        (lambda c, _: c.update(more="x" * 2**20), "over 1048576 bytes"),
    ],
)
def test_what_is_not_this_autoencoder_is_refused(
    weights: tuple[Path, Any], tmp_path: Path, change: Any, message: str
) -> None:
    config = json.loads((weights[0] / "model_config.json").read_text())
    state = load_file(weights[0] / "model.safetensors")
    change(config, state)
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(MissingPartError, match=message):
        load_codec(CodecConfig(name="stable-audio-open", path=str(tmp_path)), CPU)


def test_weights_run_no_code_and_no_pipe_is_waited_for(weights: tuple[Path, Any], tmp_path: Path) -> None:
    file = Path(shutil.copytree(weights[0], tmp_path / "vae")) / "model.safetensors"
    for make, message in (
        (lambda: torch.save(Trap(tmp_path / "sprung"), file), "damaged, or of another network"),
        (lambda: (file.unlink(), os.mkfifo(file)), "no regular one"),
    ):
        make()
        with pytest.raises(MissingPartError, match=rf"model\.safetensors: .*{message}"):
            load_codec(CodecConfig(name="stable-audio-open", path=str(file.parent)), CPU)
    assert not (tmp_path / "sprung").exists()


def test_encode_gives_the_mean_of_the_librarys_bottleneck(
    vae: Codec, weights: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = music(20)
    latents = vae.encode(audio)
    with torch.no_grad():
        sampled = weights[1].encode_audio(audio)
        monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
        assert torch.allclose(latents, weights[1].encode_audio(audio), atol=1e-5)
    assert not torch.allclose(latents, sampled, atol=1e-2)
