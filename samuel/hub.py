"""Weights that others published: fetching them, telling them apart, saying why they are not there."""

import contextlib
import errno
import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from samuel.artifacts import sha256
from samuel.config import without_secrets
from samuel.errors import MissingPartError, OperatorError, SamuelError

LOOK_TIMEOUT_S = 5.0
SCALAR: Any = np.float64(0).__reduce__()[0]
# What a load of weights alone may build beside tensors: numbers of NumPy, by their names in NumPy 1 and 2.
NUMPY_SCALARS: list[Any] = [
    np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType,
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]  # fmt: skip
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


def read_checkpoint(path: Path, classes: Sequence[Any] = (), *, mmap: bool = False) -> Any:
    """Read what `torch.save` wrote, by a load that brings only tensors, plain values and `classes`.

    Errors are those of `torch.load`, for a file that holds code or is no regular one, too.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no regular file: {path.name}")
    if zipfile.is_zipfile(path):  # torch would unpack what is compressed, a thousandfold
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("its content is compressed, which torch.save does not do")
    with torch.serialization.safe_globals([*NUMPY_SCALARS, *classes]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


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
    """Compare a file of the hub's cache with its published sha256; a MissingPartError where they differ."""
    # A link snapshots/<revision>/<name> → blobs/<sha256 of a large file>, which may be a link in its turn.
    blob = path.readlink() if path.is_symlink() else path
    published = blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name)
    if published and sha256(path) != blob.name:
        fault = "damaged, its bytes are not those that the hub published"
        raise MissingPartError(f"{path}: {fault}; delete {path.resolve()} and fetch it again")


def fetch(repository: str, name: str, remedy: str) -> Path:
    """A file of a Hugging Face repository `owner/name`, from the local cache or the hub, or a `hub_error`."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name))
    except Exception as error:
        raise hub_error(error, repository, remedy) from error


def cached(repository: str, names: Sequence[str]) -> bool:
    """Whether all the named files of a repository are in the local cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    with contextlib.suppress(HFValidationError):
        return all(isinstance(try_to_load_from_cache(repository, name), str) for name in names)
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
    """An error for what huggingface_hub raised; `remedy` ("or …") is what the user can do without the hub."""
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
    line = without_secrets((str(error).splitlines() or [""])[0])
    match error:
        case errors.HFValidationError():
            why = "no such folder, and no name of a hub repository (owner/name)", "correct it"
        case errors.GatedRepoError():
            why = "gated", f"accept the terms at {page}, then {LOGIN}"
        case errors.RepositoryNotFoundError():
            why = f"the hub shows no such repository to you ({page})", f"correct its name, or {LOGIN}"
        case errors.RemoteEntryNotFoundError(response=response):
            why = f"the hub's repository holds no {Path(response.url.path).name} ({page})", "correct its name"
        case errors.HfHubHTTPError(response=response) if response.status_code in (401, 403):
            why = f"the hub refuses your login (HTTP {response.status_code})", RELOGIN
        case errors.HfHubHTTPError(response=response):
            why = f"the hub could not be reached (it answered HTTP {response.status_code})", "try again later"
        case UnicodeEncodeError():  # of a header
            why = "your login is no token of the hub", RELOGIN
        case errors.OfflineModeIsEnabled():
            why = f"{away} (offline mode)", "unset HF_HUB_OFFLINE"
        case errors.LocalEntryNotFoundError() | errors.FileMetadataError() | httpx2.HTTPError():
            why = f"{away} ({type(error).__name__})", "connect to the internet"
        case _ if line.startswith("Consistency check failed"):
            why = "the download broke off", "fetch it again"
        case _:
            why = f"not usable ({type(error).__name__}: {line})", "fetch it again"
    return Refusal(*why, gated=isinstance(error, errors.GatedRepoError))
