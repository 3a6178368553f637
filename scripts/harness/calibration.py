"""What this machine's client adds to the figures, and what load is more than it can drive.

`make calibrate` measures it against the simulator; every later run on this machine is held against
the result, which is kept as ``calibration/<machine>.json`` under the artifacts.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from harness import provenance
from harness.errors import UsageError
from harness.metrics import OUTPUT_TOKEN_THROUGHPUT, REQUEST_THROUGHPUT
from harness.runs import now_utc, shelve, write_text
from harness.summary import Summary
from harness.verdict import Reason

SCHEMA_VERSION = 1
FOLDER = "calibration"
#: The client is the limit of a level at which one of these is passed (shares).
LEAST_ACHIEVED = 0.90
MOST_ADDED_TO_TTFT = 0.10
MOST_FAILED = 0.01
#: A run beyond this share of the limit is client-bound; one below the other, in all its rates, not.
CLOSE = 0.80
LIGHT = 0.50

DEFINITION = (
    "The client is the limit where it achieves less than 90 % of the requests per second that the "
    "delays allow, adds more than 10 % to the median TTFT, or more than 1 % of requests fail."
)
_REMEDY = "lower the load, or run from a machine with more free cores"


@dataclass(frozen=True, slots=True)
class Delays:
    """The simulated server: constant delays and the tokens of an answer, one a chunk."""

    ttft_ms: float = 100.0
    itl_ms: float = 10.0
    n_tokens: int = 64

    @property
    def latency_s(self) -> float:
        """Return how long an answer takes."""
        return (self.ttft_ms + (self.n_tokens - 1) * self.itl_ms) / 1e3


@dataclass(frozen=True, slots=True)
class Added:
    """Measured minus true, request by request, in ms."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Rung:
    """One concurrency: what the client achieved, and what it added to the truth.

    ``n_used`` requests were answered and found in the truth log. ``possible_…`` is what the delays
    allow so many users. ``run`` is the folder of the run, beside the calibration's file.
    """

    concurrency: int
    n_used: int
    n_failed: int
    true_ttft_p50_ms: float
    true_itl_p50_ms: float
    ttft: Added
    itl: Added
    requests_per_s: float
    chunks_per_s: float
    possible_requests_per_s: float
    run: str

    @property
    def achieved(self) -> float:
        """Return the share of the possible requests per second that was achieved."""
        return self.requests_per_s / self.possible_requests_per_s

    @property
    def excess(self) -> str:
        """Say why the client is the limit here; empty where it keeps up."""
        failed = self.n_failed / (self.n_failed + self.n_used)
        added = self.ttft.p50_ms / self.true_ttft_p50_ms
        if failed > MOST_FAILED:
            return f"{failed:.0%} of the requests failed"
        if self.achieved < LEAST_ACHIEVED:
            return f"{self.achieved:.0%} of the possible requests per second"
        return f"{added:.0%} added to the median TTFT" if added > MOST_ADDED_TO_TTFT else ""


@dataclass(frozen=True, slots=True)
class Limit:
    """The first level at which the client was the limit, why, and the most it achieved at any."""

    concurrency: int
    why: str
    requests_per_s: float
    chunks_per_s: float


@dataclass(frozen=True, slots=True)
class Machine:
    """The client's machine, by which a calibration is found again."""

    host: str
    cpu: str
    n_cpus: int | None

    @property
    def key(self) -> str:
        """Return a name for files: the host's, and a hash of all three."""
        host = re.sub(r"[^a-z0-9]+", "-", self.host.lower()).strip("-") or "machine"
        told = f"{self.host}|{self.cpu}|{self.n_cpus}"
        return f"{host}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Calibration:
    """The levels of one calibration, rising; ``limit`` is None where the client kept up with all.

    The simulator ran on the same cores: with the server elsewhere the client can do more, so the
    limit is a lower bound.
    """

    schema_version: int
    calibrated: str
    machine: Machine
    aiperf: str | None
    versions: dict[str, object]
    delays: Delays
    rungs: tuple[Rung, ...]
    limit: Limit | None

    @property
    def day(self) -> str:
        """Return the date it was made."""
        return self.calibrated[:10]


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    return Machine(platform.node(), provenance.cpu_name(), os.cpu_count())


def conclude(rungs: Sequence[Rung], delays: Delays, broke: Limit | None = None) -> Calibration:
    """Return what the levels show of this machine; ``broke`` is a level that could not be run."""
    past = next((rung for rung in rungs if rung.excess), None)
    limit = limit_at(past.concurrency, past.excess, rungs) if past else broke
    versions = provenance.versions()
    aiperf = provenance.version_of("aiperf")
    return Calibration(
        SCHEMA_VERSION, now_utc(), this_machine(), aiperf, versions, delays, tuple(rungs), limit
    )


def limit_at(concurrency: int, why: str, rungs: Sequence[Rung]) -> Limit:
    """Return a limit at this concurrency, with the highest rates of all levels."""
    return Limit(
        concurrency,
        why,
        max(rung.requests_per_s for rung in rungs),
        max(rung.chunks_per_s for rung in rungs),
    )


def save(calibration: Calibration, artifacts: Path) -> Path:
    """Write a calibration as this machine's; an earlier one is archived.

    Raises UsageError where it cannot be written.
    """
    folder = artifacts / FOLDER
    path = folder / f"{calibration.machine.key}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shelve(path, folder)
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise UsageError(str(folder), what, "make it writable or set ARTIFACTS_DIR") from None
    write_text(path, msgspec.json.format(msgspec.json.encode(calibration)).decode() + "\n")
    return path


def load(artifacts: Path, tell: Callable[[str], None]) -> Calibration | None:
    """Return this machine's calibration; None if there is none that holds today.

    Artifacts that are a folder among others, as a quick look's are, have that of the others.
    ``tell`` gets a note where there is one that cannot be used: of another AIPerf, or unreadable.
    """
    path = _kept_in(artifacts)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        tell(f"note: the calibration {path} cannot be read ({error}); `make calibrate` makes anew")
        return None
    version = provenance.version_of("aiperf")
    if found.aiperf == version and found.schema_version == SCHEMA_VERSION and found.rungs:
        return found
    tell(
        f"note: the calibration of {found.day} is of AIPerf {found.aiperf}, this is {version}; "
        "it is left out until `make calibrate` is run again"
    )
    return None


def _kept_in(artifacts: Path) -> Path:
    """Return where this machine's calibration is; one that is being made knows no earlier one."""
    name = Path(FOLDER, f"{this_machine().key}.json")
    own, of_others = artifacts / name, artifacts.parent / name
    is_there = artifacts.name != FOLDER and of_others.is_file() and not own.is_file()
    return of_others if is_there else own


@dataclass(frozen=True, slots=True)
class Finding:
    """What a calibration says of one run: the client's share of TTFT, and reasons against it.

    Kept in the run's run.json, since another machine may sum it up.
    """

    note: str = ""
    reasons: tuple[Reason, ...] = ()

    def stored(self) -> object:
        """Return it as run.json holds it."""
        told: object = msgspec.to_builtins(self)
        return told


def finding_of(manifest: Mapping[str, object]) -> Finding:
    """Return what a run's run.json holds; nothing where it holds none."""
    try:
        return msgspec.convert(manifest.get(FOLDER), Finding)
    except msgspec.ValidationError:
        return Finding()


def noted(summary: Summary, finding: Finding) -> Summary:
    """Return the summary with what the client adds to TTFT among its notes."""
    return replace(summary, notes=(finding.note, *summary.notes)) if finding.note else summary


def against(calibration: Calibration | None, summary: Summary, concurrency: int | None) -> Finding:
    """Hold a run against this machine's calibration; ``concurrency`` is None for an open loop.

    Its tokens count as chunks: a server that sends several in one makes less work than it seems.
    """
    rates = (summary.rate(REQUEST_THROUGHPUT), summary.rate(OUTPUT_TOKEN_THROUGHPUT))
    note = error_line(calibration, concurrency)
    return Finding(note, reasons(calibration, concurrency, *rates))


def reasons(
    calibration: Calibration | None,
    concurrency: int | None,
    requests_per_s: float | None,
    chunks_per_s: float | None,
) -> tuple[Reason, ...]:
    """Say that a run was client-bound: beyond 80 % of the calibrated limit.

    That is so by its chunks per second, or by its concurrency, unless it is known to have asked
    for less than half of both rates: many users of a slow server are little work. Nothing is said
    where no limit was found. ``concurrency`` is None for an open loop, rates where unknown.
    """
    if calibration is None or calibration.limit is None:
        return ()
    return tuple(_bound(calibration, calibration.limit, concurrency, requests_per_s, chunks_per_s))


def _bound(
    calibration: Calibration,
    limit: Limit,
    concurrency: int | None,
    requests_per_s: float | None,
    chunks_per_s: float | None,
) -> Iterator[Reason]:
    told = f"calibrated {calibration.day}"
    if chunks_per_s is not None and chunks_per_s > CLOSE * limit.chunks_per_s:
        figure = f"client-bound: {chunks_per_s:.0f} tokens per second by this machine's client"
        yield Reason(figure, f"80 % of {limit.chunks_per_s:.0f}, {told}", _REMEDY)
        return
    rates = (
        (requests_per_s, limit.requests_per_s),
        (chunks_per_s, limit.chunks_per_s),
    )
    is_light = all(rate is not None and rate < LIGHT * most for rate, most in rates)
    if concurrency is not None and concurrency > CLOSE * limit.concurrency and not is_light:
        figure = f"client-bound: {concurrency} requests at once by this machine's client"
        yield Reason(figure, f"80 % of {limit.concurrency}, {told}", _REMEDY)


def error_line(calibration: Calibration | None, concurrency: int | None) -> str:
    """Say what the client itself adds to TTFT, by the nearest calibrated level.

    Beyond the highest of them it adds at least that. Empty without a calibration, or for an open
    loop, which has no concurrency.
    """
    if calibration is None or not concurrency:
        return ""
    rung = min(calibration.rungs, key=lambda rung: abs(math.log(rung.concurrency / concurrency)))
    p50_ms, p99_ms = rung.ttft.p50_ms, rung.ttft.p99_ms
    at_least = "at least " if concurrency > calibration.rungs[-1].concurrency else ""
    return (
        f"of TTFT the client itself adds {at_least}{p50_ms:.1f} ms at p50, {p99_ms:.1f} ms at p99 "
        f"(calibrated {calibration.day} at concurrency {rung.concurrency})"
    )
