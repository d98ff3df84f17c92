"""Which device computes."""

import torch

from samuel.errors import MissingPartError


def resolve_device(name: str) -> torch.device:
    """The device a setting names; `auto` is a GPU where there is one.

    Raises:
        MissingPartError: The device is named and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise MissingPartError("device = 'cuda', and torch sees no CUDA GPU; set device = 'auto' or 'cpu'")
    if name == "mps" and not torch.backends.mps.is_available():
        raise MissingPartError("device = 'mps', and torch sees no Apple GPU; set device = 'auto' or 'cpu'")
    return torch.device(name)
