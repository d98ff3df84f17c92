import pytest
import torch

from samuel.checkpoint import TrainedModel, load_model
from samuel.codecs import load_codec
from samuel.codecs.base import Codec
from samuel.config import CodecConfig
from tests.models import small_model

CPU = torch.device("cpu")


@pytest.fixture(scope="package")
def codec() -> Codec:
    return load_codec(CodecConfig(), CPU)


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A model for 64 frames: longer vocals go through it in windows."""
    return load_model(small_model(tmp_path_factory.mktemp("model")), CPU)
