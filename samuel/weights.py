"""Weights that others published: fetching them, telling them apart, saying why they are not there."""

import contextlib
import errno
import hashlib
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from samuel.errors import MissingPartError, OperatorError, SamuelError


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep a third-party library's prints and warnings to itself while it is imported or built."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Twenty hexadecimal digits of the sha256 over every tensor's name, type, shape and bytes."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:20]


def fetch(repository: str, name: str, remedy: str) -> Path:
    """A file of a Hugging Face repository, from the local cache or the hub.

    Args:
        repository: `owner/name`.
        name: The file.
        remedy: What the user can do without the hub; ends the message.

    Raises:
        MissingPartError: It is gated, absent, or out of reach (after about 25 s of retries).
        OperatorError: The disk is full.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name))
    except Exception as error:
        raise hub_error(error, repository, remedy) from error


def hub_error(error: Exception, repository: str, remedy: str) -> SamuelError:
    """Turn whatever came out of huggingface_hub into an error that says what to do."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return OperatorError(f"disk full while fetching {repository}; free space or move HF_HOME, then rerun")
    return MissingPartError(f"{repository}: {_reason(error, repository)}; {remedy}")


def _reason(error: Exception, repository: str) -> str:
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repository}"
    if isinstance(error, errors.GatedRepoError):
        return f"gated; accept the terms at {page}, then log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub shows no such repository to you ({page})"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return "not in the local cache, and the Hugging Face hub could not be reached or is switched off"
    lines = str(error).splitlines() or [""]
    return f"not usable ({type(error).__name__}: {lines[0]})"
