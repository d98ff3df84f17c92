"""Everything that can go wrong, as a tree.

SamuelError
├── SettingsError      a setting is out of range, or names a part that does not exist
├── InputError         something the user gave: a song list, a folder, an audio file
├── MissingPartError   weights, a program or a machine feature that is not there
├── DatasetError       POPDB is absent, half-written or not what its index says
│   └── NewerFormatError   its format is newer than what this version reads
├── CheckpointError    a checkpoint is absent, damaged or belongs to other settings
├── OperatorError      the run must stop and a person must act: a bot check, a full disk
├── StoppedError       work that was ended because other work failed, which has its own error
└── SongError          one song failed; the others go on, and this becomes its status

Messages name the culprit and the remedy. Only SongError is caught inside the pipeline.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class SamuelError(Exception):
    """Base of every error this library raises on purpose."""


class SettingsError(SamuelError):
    """A setting is out of range or unknown."""


class InputError(SamuelError):
    """Input given by the user cannot be used."""


class MissingPartError(SamuelError):
    """Weights, a program or hardware that the chosen part needs is not there."""


class DatasetError(SamuelError):
    """POPDB is absent or not what its index says."""


class NewerFormatError(DatasetError):
    """POPDB is of a format that a later version writes."""


class CheckpointError(SamuelError):
    """A checkpoint is absent, damaged or of other settings."""


class OperatorError(SamuelError):
    """The run stops until a person has acted."""


class StoppedError(SamuelError):
    """Ended because other work of the same run failed."""


class SongError(SamuelError):
    """One song failed. `status` is a name from `samuel.popdb.status`."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(status, message)  # both, so that it survives pickling between processes
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


def first_fault(error: "ValidationError") -> str:
    """One line on what a schema refused: where, why, and how many more faults there are."""
    problem, *others = error.errors(include_url=False, include_input=False)
    place = ".".join(str(part) for part in problem["loc"])
    more = f", and {len(others)} more" if others else ""
    return f"{place[:120]}: {problem['msg'][:200]}{more}"
