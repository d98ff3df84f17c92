"""Weights that others published: fetching them, telling them apart, saying why they are not there."""

import contextlib
import errno
import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from samuel.artifacts import sha256
from samuel.errors import MissingPartError, OperatorError, SamuelError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

LOOK_TIMEOUT_S = 5.0
LOGIN = "log in with `hf auth login` or set HF_TOKEN"
RELOGIN = "log in again with `hf auth login` or correct HF_TOKEN"


@dataclass(frozen=True)
class Refusal:
    """Why the Hugging Face hub does not give a file.

    Attributes:
        reason: What happened; repeats no token, no address of a download and nothing the server wrote.
        remedy: What the user can do about it.
        gated: Whether terms must be accepted first.
    """

    reason: str
    remedy: str
    gated: bool = False


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep a third-party library's prints and warnings to itself while it is imported or built."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Hexadecimal sha256 over every tensor's name, type, shape and bytes."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def require_finite(state: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that no training run would have kept.

    Args:
        state: Tensors by name.
        what: Where they are from; begins the message.

    Raises:
        MissingPartError: A tensor holds NaN or an infinity.
    """
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise MissingPartError(f"{what}: {name!r:.120} holds values that are no numbers; fetch it again")


def verify_blob(path: Path) -> None:
    """Compare a file of the hub's cache with the sha256 under which the hub published it.

    In the cache a file is a link `snapshots/<revision>/<name>` → `blobs/<etag>`, and the etag of a large file
    is its sha256. A file that lies elsewhere, or whose etag is none, passes.

    Raises:
        MissingPartError: The bytes are others.
    """
    if not path.is_symlink():
        return
    # One link only: the blob may itself lead on to a store for all repositories, named by another digest.
    blob = path.readlink()
    if blob.parent.name != "blobs" or not re.fullmatch("[0-9a-f]{64}", blob.name):
        return
    if sha256(path) != blob.name:
        raise MissingPartError(
            f"{path}: damaged, its bytes are not those that the hub published; delete {path.resolve()} and"
            " fetch it again"
        )


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


def cached(repository: str, names: Sequence[str]) -> bool:
    """Whether all the named files of a repository are in the local cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return all(isinstance(try_to_load_from_cache(repository, name), str) for name in names)
    except HFValidationError:
        return False


def refusal(repository: str, names: Sequence[str]) -> Refusal | None:
    """Ask the hub for the named files without fetching them; None where it would give them all."""
    import httpx2
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HFValidationError

    try:
        for name in names:
            get_hf_file_metadata(hf_hub_url(repository, name), timeout=LOOK_TIMEOUT_S)
    except (httpx2.HTTPError, HFValidationError, OSError, UnicodeEncodeError) as error:
        return _explain(error, repository)
    return None


def hub_error(error: Exception, repository: str, remedy: str) -> SamuelError:
    """Turn whatever came out of huggingface_hub into an error that says what to do.

    Args:
        error: Of huggingface_hub, or of what read the fetched file.
        repository: `owner/name`.
        remedy: What the user can do without the hub, beginning with "or"; ends the message.
    """
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return OperatorError(f"disk full while fetching {repository}; free space or move HF_HOME, then rerun")
    refused = _explain(error, repository)
    return MissingPartError(f"{repository}: {refused.reason}; {refused.remedy}, {remedy}")


def _explain(error: Exception, repository: str) -> Refusal:
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return _answered(error, repository)
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return _explain(error.__cause__, repository)  # it only says that the cache cannot help either
    if isinstance(error, errors.HFValidationError):
        return Refusal("no such folder, and no name of a hub repository (owner/name)", "correct it")
    return _unreached(error) or _broken(error)


def _unreached(error: Exception) -> Refusal | None:
    """What no answer means; None where the error is of another kind."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, UnicodeEncodeError):  # of a header
        return Refusal("your login is no token of the hub", RELOGIN)
    reason = "not in the local cache, and the hub could not be reached"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Refusal(f"{reason} (offline mode)", "unset HF_HUB_OFFLINE")
    if isinstance(error, errors.LocalEntryNotFoundError | errors.FileMetadataError | httpx2.HTTPError):
        return Refusal(f"{reason} ({type(error).__name__})", "connect to the internet")
    return None


def _broken(error: Exception) -> Refusal:
    """What a fault after the hub's answer means."""
    lines = str(error).splitlines() or [""]
    if lines[0].startswith("Consistency check failed"):  # and then the address, which may be a signed one
        return Refusal("the download broke off", "fetch it again")
    return Refusal(f"not usable ({type(error).__name__}: {lines[0]})", "fetch it again")


def _answered(error: "HfHubHTTPError", repository: str) -> Refusal:
    """What the hub's own answer means."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{getattr(error, 'repo_id', None) or repository}"
    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return Refusal("gated", f"accept the terms at {page}, then {LOGIN}", gated=True)
    if isinstance(error, errors.RepositoryNotFoundError):
        reason = f"the hub shows no such repository to you ({page})"
        return Refusal(reason, f"correct its name, or where it is private {LOGIN}")
    if isinstance(error, errors.EntryNotFoundError):
        file = Path(error.response.url.path).name
        return Refusal(f"the hub's repository holds no {file} ({page})", "correct its name")
    if status in (401, 403):
        return Refusal(f"the hub refuses your login (HTTP {status})", RELOGIN)
    return Refusal(f"the hub could not be reached (it answered HTTP {status})", "try again later")
