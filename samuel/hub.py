"""Weights that others published: fetching them, telling them apart, saying why they are not there."""

import contextlib
import errno
import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from samuel.artifacts import sha256
from samuel.errors import MissingPartError, OperatorError, SamuelError

LOOK_TIMEOUT_S = 5.0
LOGIN = "log in with `hf auth login` or set HF_TOKEN"
RELOGIN = "log in again with `hf auth login` or correct HF_TOKEN"


class Refusal(NamedTuple):
    """Why the hub gives no file; repeats no token, no address of a download, nothing the server wrote."""

    reason: str
    remedy: str
    gated: bool = False  # terms must be accepted first


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
    """Refuse weights that hold NaN or an infinity, with a MissingPartError that begins with `what`."""
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
    blob = path.readlink()  # one link only: it may lead on to a store for all repositories, by another digest
    published = blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name)
    if published and sha256(path) != blob.name:
        raise MissingPartError(
            f"{path}: damaged, its bytes are not those that the hub published; delete {path.resolve()} and"
            " fetch it again"
        )


def fetch(repository: str, name: str, remedy: str) -> Path:
    """A file of a Hugging Face repository `owner/name`, from the local cache or the hub.

    Raises:
        MissingPartError: It is gated, absent, or out of reach (after 25 s of retries); ends with `remedy`.
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
    """Turn what came out of huggingface_hub, or what read a fetched file, into an error that says what to do.

    `remedy` is what the user can do without the hub, beginning with "or"; it ends the message.
    """
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return OperatorError(f"disk full while fetching {repository}; free space or move HF_HOME, then rerun")
    refused = _explain(error, repository)
    return MissingPartError(f"{repository}: {refused.reason}; {refused.remedy}, {remedy}")


def _explain(error: BaseException, repository: str) -> Refusal:
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        return _explain(error.__cause__, repository)  # it only says that the cache cannot help either
    page = f"https://huggingface.co/{getattr(error, 'repo_id', None) or repository}"
    away = "not in the local cache, and the hub could not be reached"
    line = (str(error).splitlines() or [""])[0]
    match error:
        case errors.HFValidationError():
            why = "no such folder, and no name of a hub repository (owner/name)", "correct it"
        case errors.GatedRepoError():
            why = "gated", f"accept the terms at {page}, then {LOGIN}"
        case errors.RepositoryNotFoundError():
            remedy = f"correct its name, or where it is private {LOGIN}"
            why = f"the hub shows no such repository to you ({page})", remedy
        case errors.RemoteEntryNotFoundError(response=response):
            file = Path(response.url.path).name
            why = f"the hub's repository holds no {file} ({page})", "correct its name"
        case errors.HfHubHTTPError(response=response) if response.status_code in (401, 403):
            why = f"the hub refuses your login (HTTP {response.status_code})", RELOGIN
        case errors.HfHubHTTPError(response=response):
            answered = f"it answered HTTP {response.status_code}"
            why = f"the hub could not be reached ({answered})", "try again later"
        case UnicodeEncodeError():  # of a header
            why = "your login is no token of the hub", RELOGIN
        case errors.OfflineModeIsEnabled():
            why = f"{away} (offline mode)", "unset HF_HUB_OFFLINE"
        case errors.LocalEntryNotFoundError() | errors.FileMetadataError() | httpx2.HTTPError():
            why = f"{away} ({type(error).__name__})", "connect to the internet"
        case _ if line.startswith("Consistency check failed"):  # and then the address, maybe a signed one
            why = "the download broke off", "fetch it again"
        case _:
            why = f"not usable ({type(error).__name__}: {line})", "fetch it again"
    return Refusal(*why, gated=isinstance(error, errors.GatedRepoError))
