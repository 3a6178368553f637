"""The truth log: when the endpoint really wrote its answers, one JSON line a request."""

from __future__ import annotations

from pathlib import Path

import msgspec

from harness.errors import DataError


class Truth(msgspec.Struct, kw_only=True):
    """One chat request as the server saw it; the only value here that changes as it is served.

    ``*_ns`` are wall-clock nanoseconds, as AIPerf's metadata are; None for what never happened.
    """

    request_id: str | None  # the X-Request-ID header, as AIPerf sends it
    ordinal: int  # from 0, in order of arrival
    arrival_ns: int
    n_in_flight: int  # requests in the house at arrival, this one included
    start_ns: int | None = None  # when it left the queue for a service slot
    n_in_service: int | None = None  # requests in service then, this one included
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    tokens: int = 0  # written
    prompt_tokens: int | None = None
    status: int | None = None  # HTTP; 499 = the client went away
    fault: str = "none"

    @property
    def ttft_ms(self) -> float | None:
        """Return the time from arrival to the first token written."""
        return (
            None if self.first_token_ns is None else (self.first_token_ns - self.arrival_ns) / 1e6
        )

    @property
    def itl_ms(self) -> float | None:
        """Return the mean time between tokens; None below two tokens."""
        if self.first_token_ns is None or self.last_token_ns is None or self.tokens < 2:
            return None
        return (self.last_token_ns - self.first_token_ns) / 1e6 / (self.tokens - 1)


class TruthLog:
    """Appends finished requests to a file; each line reaches the system at once.

    So a killed simulator loses only the requests it was serving. With no path nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("ab", buffering=0) if path else None

    def add(self, truth: Truth) -> None:
        """Write one request."""
        if self._file:
            self._file.write(msgspec.json.encode(truth) + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


def read_truth(path: Path) -> list[Truth]:
    """Return the requests of a truth log in order of their end; a cut-off last line is left out.

    DataError if the file cannot be read or holds anything else.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
        return [msgspec.json.decode(line, type=Truth) for line in lines]
    except OSError as error:
        raise DataError(str(path), str(error.strerror), "name a truth log") from None
    except msgspec.MsgspecError as error:
        raise DataError(str(path), f"is no truth log ({error})", "name a truth log") from None
