"""A sweep: one run a concurrency, a failed point does not stop the others, one table at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import endpoint
from harness.cells import finished
from harness.errors import DataError, HarnessError, StoppedError
from harness.metrics import LATENCIES, RATES
from harness.plan import Plan
from harness.profiling import (
    LOOK_TIMEOUT_S,
    Outcome,
    Talk,
    Target,
    key_of,
    measure,
    read_outcome,
)
from harness.runs import now_utc, read_manifest, shelve, write_text
from harness.settings import Settings
from harness.summary import Summary
from harness.table import Column, Table, number, to_md, to_text, to_tsv
from harness.verdict import Level

_PREFIXES = ("ttft", "latency", "itl")
_FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Point:
    """One cell of a sweep, with its outcome or the reason why there is none.

    ``settings`` and ``plan`` are the cell's own. ``measured`` is when the run ended (ISO 8601,
    UTC; empty where it failed); ``reused`` tells that it was measured by an earlier sweep.
    """

    settings: Settings
    plan: Plan
    outcome: Outcome | None
    problem: str = ""
    measured: str = ""
    reused: bool = False

    @property
    def word(self) -> str:
        """Return the verdict's word, or FAILED."""
        return self.outcome.verdict.level.value if self.outcome else _FAILED


@dataclass(frozen=True, slots=True)
class Sweep:
    """All points that were run; ``interrupted`` when a person stopped it before the last."""

    points: tuple[Point, ...]
    interrupted: StoppedError | None

    @property
    def n_bad(self) -> int:
        """Return how many points failed or are INVALID."""
        return sum(point.word in (_FAILED, Level.INVALID.value) for point in self.points)


def run_sweep(
    settings: Settings,
    plans: Sequence[Plan],
    target: Target,
    environ: Mapping[str, str],
    talk: Talk,
) -> Sweep:
    """Run each plan in turn and go on past those that fail."""
    points = []
    for number_, plan in enumerate(plans, 1):
        talk(f"[{number_}/{len(plans)}] CON={plan.concurrency}")
        try:
            points.append(run_cell(settings, plan, target, environ, talk, fresh=True))
        except (StoppedError, KeyboardInterrupt) as stop:
            stopped = stop if isinstance(stop, StoppedError) else _stopped(plan)
            points.append(Point(settings, plan, None, stopped.what))
            return Sweep(tuple(points), stopped)
    return Sweep(tuple(points), None)


def write_sweep(sweep: Sweep, folder: Path, artifacts: Path) -> None:
    """Write sweep_summary.tsv and sweep_summary.md into ``folder``; older ones are archived."""
    texts = {"sweep_summary.tsv": to_tsv(_full_table(sweep)), "sweep_summary.md": _markdown(sweep)}
    for name, text in texts.items():
        shelve(folder / name, artifacts)
        write_text(folder / name, text)


def sweep_text(sweep: Sweep) -> str:
    """Return the sweep for a terminal: the table for people, then why points failed."""
    return to_text(_short_table(sweep)) + "".join(f"  {line}\n" for line in _problems(sweep))


def run_cell(
    settings: Settings,
    plan: Plan,
    target: Target,
    environ: Mapping[str, str],
    talk: Talk,
    fresh: bool,
) -> Point:
    """Return the cell's earlier result where one stands (unless ``fresh``), else measure it.

    A cell that fails is a Point without outcome, and is told. Raises StoppedError, or
    KeyboardInterrupt between two runs, when a person stops it.
    """
    earlier = None if fresh else reusable(settings, plan, target, environ)
    return earlier or _measured(settings, plan, target, environ, talk)


def reusable(
    settings: Settings, plan: Plan, target: Target, environ: Mapping[str, str]
) -> Point | None:
    """Return the cell as measured before with the same key; None where it must be measured."""
    key = key_of(settings, plan, target, environ)
    found = finished(Path(settings.artifacts_dir), plan.name, key)
    try:
        outcome = read_outcome(settings, found.folder) if found else None
    except DataError:  # files were removed or mended by hand
        return None
    if found is None or outcome is None or outcome.verdict.level is Level.INVALID:
        return None
    return Point(settings, plan, outcome, measured=found.measured, reused=True)


def _measured(
    settings: Settings, plan: Plan, target: Target, environ: Mapping[str, str], talk: Talk
) -> Point:
    try:
        endpoint.look(target.base, settings.openai_api_key, LOOK_TIMEOUT_S, target.access)
        outcome = measure(settings, plan, target, environ, talk)
    except StoppedError:
        raise
    except HarnessError as error:
        talk(f"error: {error}")
        return Point(settings, plan, None, str(error))
    ended = read_manifest(outcome.folder).get("ended")
    return Point(settings, plan, outcome, measured=str(ended or now_utc()))


def _stopped(plan: Plan) -> StoppedError:
    return StoppedError(plan.name, "interrupted before it began", "the points before it are kept")


def _markdown(sweep: Sweep) -> str:
    problems = "".join(f"- {line}\n" for line in _problems(sweep))
    body = to_md(_short_table(sweep))
    return "# Sweep\n\n" + body + (f"\n## Points to look at\n\n{problems}" if problems else "")


def _problems(sweep: Sweep) -> list[str]:
    lines = []
    for point in sweep.points:
        reasons = point.outcome.verdict.texts if point.outcome else (point.problem,)
        lines += [f"CON={point.plan.concurrency} {point.word}: {reason}" for reason in reasons]
    return lines


def _full_table(sweep: Sweep) -> Table:
    """Return every figure of summary.tsv, one row a point: for machines and spreadsheets."""
    names = [f"{p}_{s}_ms" for p in _PREFIXES for s in ("p50", "p95", "p99", "avg")]
    rates = ("tokens_per_s", "tokens_per_s_per_user", "requests_per_s", "error_rate_pct")
    headings = ["concurrency", *names, *rates, "requests", "errors", "verdict", "folder"]
    blank = [""] * (len(names) + len(rates))
    rows = tuple((*_start(point, _all_figures, blank), *_ending(point)) for point in sweep.points)
    return Table(tuple(Column(heading) for heading in headings), rows)


def _short_table(sweep: Sweep) -> Table:
    """Return what a person compares: medians, tails, throughput."""
    headings = ("CON", "TTFT p50", "p95", "Latency p50", "p95", "ITL p50", "tokens/s", "req/s")
    columns = (*(Column(h) for h in headings), Column("errors %"), Column("verdict", "left"))
    blank = [""] * (len(columns) - 2)
    rows = tuple((*_start(point, _main_figures, blank), point.word) for point in sweep.points)
    return Table(columns, rows)


def _start(
    point: Point, figures: Callable[[Summary], list[str]], blank: Sequence[str]
) -> tuple[str, ...]:
    """Return concurrency and figures; empty cells, never 0, where the point failed."""
    cells = figures(point.outcome.summary) if point.outcome else blank
    return (str(point.plan.concurrency), *cells)


def _all_figures(summary: Summary) -> list[str]:
    cells = []
    for metric in LATENCIES:
        row = summary.latency(metric)
        cells += [number(v, 2) for v in (row.p50_ms, row.p95_ms, row.p99_ms, row.avg_ms)]
    return cells + [number(summary.rate(metric), 2) for metric in RATES]


def _main_figures(summary: Summary) -> list[str]:
    ttft, latency, itl = (summary.latency(metric) for metric in LATENCIES)
    tokens, _, requests, errors = RATES
    return [
        *(number(v, 1) for v in (ttft.p50_ms, ttft.p95_ms, latency.p50_ms, latency.p95_ms)),
        number(itl.p50_ms, 2),
        *(number(summary.rate(m), m.digits) for m in (tokens, requests, errors)),
    ]


def _ending(point: Point) -> tuple[str, ...]:
    if not point.outcome:
        return ("", "", point.word, "")
    summary = point.outcome.summary
    return (str(summary.n_used), str(summary.n_failed), point.word, str(point.outcome.folder))
