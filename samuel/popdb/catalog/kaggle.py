"""The song list of the paper, fetched from Kaggle."""

import logging
import tarfile
import zipfile
import zlib
from functools import partial
from pathlib import Path

from samuel.errors import MissingPartError

DATASET = "yasserh/song-popularity-dataset"
FILE = "song_data.csv"
REMEDY = (
    "put Kaggle credentials into ~/.kaggle/kaggle.json (or KAGGLE_USERNAME and KAGGLE_KEY), or download "
    f"the list from https://www.kaggle.com/datasets/{DATASET} yourself and give songs.path"
)
ARCHIVE_FAILURES = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)


def fetch_list() -> Path:
    """The list in kagglehub's cache, fetched where Kaggle has a version that is not there yet.

    Raises:
        MissingPartError: It could not be fetched; says why, and what to do.
    """
    _quieten()
    _check_credentials()
    path = _fetch() / FILE
    if not path.is_file():
        raise MissingPartError(f"the Kaggle dataset holds no {FILE} ({path.parent}); {REMEDY}")
    return path


def _fetch() -> Path:
    import kagglehub
    from kagglehub import exceptions as kaggle

    try:
        return Path(kagglehub.dataset_download(DATASET))
    except (
        OSError, ValueError, *ARCHIVE_FAILURES,
        kaggle.BackendError, kaggle.CredentialError, kaggle.DataCorruptionError,
    ) as error:  # fmt: skip
        # What a site says may repeat the key that it was sent: it stays out of message and traceback.
        cause = None if _status(error) else error
        raise MissingPartError(
            f"the Kaggle song list could not be fetched: {_reason(error)}; {REMEDY}"
        ) from cause


def _quieten() -> None:
    # kagglehub writes its log to standard output, shows a bar and advertises its next version.
    from kagglehub import clients
    from tqdm import tqdm

    log = logging.getLogger("kagglehub")
    log.handlers = [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]
    log.propagate = True
    clients.tqdm = partial(tqdm, disable=True)  # type: ignore[misc]
    clients.already_printed_version_warning = True


def _check_credentials() -> None:
    from kagglehub.config import get_kaggle_credentials

    try:
        get_kaggle_credentials()
    except (OSError, ValueError) as error:
        raise MissingPartError(f"the Kaggle credentials cannot be read ({error}); {REMEDY}") from error


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: Exception) -> str:
    status = _status(error)
    if status in (401, 403):
        return f"Kaggle refuses the credentials (HTTP {status})"
    if status:
        return f"Kaggle answers with an error (HTTP {status})"
    if isinstance(error, OSError):
        return error.strerror or "Kaggle cannot be reached, or the connection broke off"
    return f"kagglehub cannot use what it found ({type(error).__name__})"
