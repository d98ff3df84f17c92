"""What can become of a song, and whether another try is worth it."""

from enum import StrEnum


class Status(StrEnum):
    """Status of a song in `songs.parquet`."""

    OK = "ok"
    # the site's answer, final
    UNAVAILABLE = "unavailable"
    GEO_BLOCKED = "geo_blocked"
    AGE_GATED = "age_gated"
    NO_MATCH = "no_match"
    TOO_LONG = "too_long"
    LIVE = "live"
    # the audio itself, final
    DECODE_FAILED = "decode_failed"
    TOO_SHORT = "too_short"
    SILENT = "silent"
    NOT_FINITE = "not_finite"
    # passing faults
    RATE_LIMITED = "rate_limited"
    FORBIDDEN = "forbidden"
    NETWORK = "network"
    SERVER_ERROR = "server_error"

    @property
    def retryable(self) -> bool:
        """True where a rerun should try again."""
        return self in (Status.RATE_LIMITED, Status.FORBIDDEN, Status.NETWORK, Status.SERVER_ERROR)
