"""Everything that can go wrong: messages name the culprit and the remedy.

Only SongError is caught inside the pipeline.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class SamuelError(Exception):
    """Base of every error this library raises on purpose."""


class SettingsError(SamuelError):
    """A setting is out of range, or names a part that does not exist."""


class InputError(SamuelError):
    """Something the user gave cannot be used: a song list, a folder, an audio file."""


class MissingPartError(SamuelError):
    """Weights, a program or a machine feature that is not there."""


class DatasetError(SamuelError):
    """POPDB is absent, half-written or not what its index says."""


class NewerFormatError(DatasetError):
    """Its format is newer than what this version reads."""


class CheckpointError(SamuelError):
    """A checkpoint is absent, damaged or belongs to other settings."""


class OperatorError(SamuelError):
    """The run must stop and a person must act: a bot check, a full disk."""


class StoppedError(SamuelError):
    """Work that was ended because other work failed, which has its own error."""


class SongError(SamuelError):
    """One song failed; the others go on, and `status`, of `samuel.popdb.status`, becomes its own."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(status, message)  # both, so that it survives pickling between processes
        self.status, self.message = status, message

    def __str__(self) -> str:
        return self.message


def first_fault(error: "ValidationError") -> str:
    """Where and why a schema refused, and how many more faults there are, in one line."""
    problem, *others = error.errors(include_url=False, include_input=False)
    place = ".".join(str(part) for part in problem["loc"])
    more = f", and {len(others)} more" if others else ""
    return f"{place[:120]}: {problem['msg'][:200]}{more}"
