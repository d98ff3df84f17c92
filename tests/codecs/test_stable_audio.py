"""The VAE of Stable Audio Open: shapes, exactness, and what is said of weights that are absent or wrong."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from samuel.codecs import load_codec
from samuel.codecs.base import Codec
from samuel.codecs.stable_audio_open import FILES
from samuel.config import CodecConfig
from samuel.errors import MissingPartError
from tests.codecs.music import music
from tests.hub import local_hub
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
        whole = weights[1].encode(audio).latent_dist.mean
        decoded = weights[1].decode(whole).sample
    latents = vae.encode(audio)
    assert whole.std() > 1e-3
    assert torch.allclose(latents, whole, atol=1e-4 * float(whole.std()))
    assert torch.allclose(vae.decode(latents), decoded, atol=1e-4 * float(decoded.std()))


def test_samples_follow_the_librarys_posterior(weights: tuple[Path, Any], vae: Codec) -> None:
    config = CodecConfig(name="stable-audio-open", path=str(weights[0]), posterior="sample")
    sampling = load_codec(config, CPU)
    audio = torch.cat([music(600, seed=1), music(600, seed=2)])
    with torch.no_grad():
        posterior = weights[1].encode(audio).latent_dist
    drawn = (sampling.encode(audio) - posterior.mean) / posterior.std
    assert drawn.mean().abs() < 0.05
    assert drawn.std() == pytest.approx(1.0, abs=0.05)
    # The noise of one stem says nothing of another's, and is the same the next time.
    assert torch.corrcoef(drawn.flatten(1))[0, 1].abs() < 0.07
    assert torch.equal(sampling.encode(audio)[1:], sampling.encode(audio[1:]))
    assert sampling.info != vae.info


def changed(weights: tuple[Path, Any], folder: Path, change: Any) -> Codec:
    """The codec of a copy whose configuration and tensors `change` has changed."""
    config, state = json.loads((weights[0] / FILES[0]).read_text()), load_file(weights[0] / FILES[1])
    change(config, state)
    (folder / "vae").mkdir()
    (folder / FILES[0]).write_text(json.dumps(config))
    save_file(state, folder / FILES[1])
    return load_codec(CodecConfig(name="stable-audio-open", path=str(folder)), CPU)


def test_identity_follows_the_weights(vae: Codec, weights: tuple[Path, Any], tmp_path: Path) -> None:
    assert vae.info.channels == 4
    for name, change in (("same", 0.0), ("other", 1e-3)):
        (tmp_path / name).mkdir()
        info = changed(weights, tmp_path / name, lambda _, state, by=change: state[BIAS].add_(by)).info
        assert (info == vae.info) == (name == "same")


BIAS = "encoder.conv1.bias"
WRONG_TENSOR = r"diffusion_pytorch_model\.safetensors: .*encoder\.conv1\.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _, s: s.pop(BIAS), WRONG_TENSOR),
        (lambda _, s: s[BIAS].fill_(torch.nan), rf"{WRONG_TENSOR}.* no numbers"),
        (lambda _, s: s.update(more=torch.zeros(1)), "of another network"),
        (lambda c, _: c.update(decoder_channels=10**9), "decoder_channels: Input should be less"),
        (lambda c, _: c.update(decoder_channels=512), "of another network"),
        (lambda c, _: c.update(encoder_hidden_size=9), "a mean and a scale for each"),
        (lambda c, _: c.update(downsampling_ratios=[2, 4, 4, 8]), "downsampling_ratios"),
        (lambda c, _: c.update(more="x" * 2**20), "over 1,048,576 bytes"),
    ],
)
def test_what_is_not_this_autoencoder_is_refused(
    weights: tuple[Path, Any], tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(MissingPartError, match=message):
        changed(weights, tmp_path, change)


def test_weights_run_no_code_and_no_pipe_is_waited_for(weights: tuple[Path, Any], tmp_path: Path) -> None:
    file = Path(shutil.copytree(weights[0], tmp_path / "copy")) / FILES[1]
    for make, message in (
        (lambda: torch.save(Trap(tmp_path / "sprung"), file), "damaged, or of another network"),
        (lambda: (file.unlink(), os.mkfifo(file)), "no regular one"),
    ):
        make()
        with pytest.raises(MissingPartError, match=rf"\.safetensors: .*{message}"):
            load_codec(CodecConfig(name="stable-audio-open", path=str(tmp_path / "copy")), CPU)
    assert not (tmp_path / "sprung").exists()


def test_the_hub_is_asked_for_the_autoencoder_alone(
    vae: Codec, weights: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Path(shutil.copytree(weights[0], tmp_path / "repository"))
    (repository / "model.safetensors").write_bytes(b"the whole diffusion model")
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.folders["someone/open"] = repository
        info = load_codec(CodecConfig(name="stable-audio-open", path="someone/open"), CPU).info
    assert info == vae.info
    asked = {path.partition("/resolve/main/")[2] for _, path in hub.requests}
    assert {name for name in asked if name} == set(FILES)
