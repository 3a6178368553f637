"""A sweep: one run a cell, what was measured before is reused, a failed cell stops no other.

At the end stand one table over all cells and one plot.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import endpoint, slo
from harness.cells import Cell, finished
from harness.errors import DataError, HarnessError, StoppedError, UsageError
from harness.metrics import (
    LATENCIES,
    OUTPUT_TOKEN_THROUGHPUT,
    RATES,
    REQUEST_LATENCY,
    TTFT,
)
from harness.plan import Plan
from harness.plot import Dot, Limits, Plot, draw, is_drawn
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
from harness.summary import P95_SAMPLES, Summary
from harness.table import Column, Table, number, to_md, to_text, to_tsv
from harness.verdict import Level

TSV = "sweep_summary.tsv"
MD = "sweep_summary.md"
SVG = "sweep.svg"

_PREFIXES = ("ttft", "latency", "itl")
_FAILED = "FAILED"
_STOPPED = "STOPPED"
_THIN = "*"


@dataclass(frozen=True, slots=True)
class Point:
    """One cell of a sweep, with its outcome or the reason (and error) why there is none.

    ``settings`` and ``plan`` are the cell's own. ``measured`` is when the run ended (ISO 8601,
    UTC; empty where it failed); ``reused`` tells that it was measured before.
    """

    settings: Settings
    plan: Plan
    outcome: Outcome | None
    problem: str = ""
    measured: str = ""
    reused: bool = False
    error: HarnessError | None = None

    @property
    def label(self) -> str:
        """Return what tells the point from the others of its sweep."""
        return Cell(self.settings, self.plan).label

    @property
    def word(self) -> str:
        """Return the verdict's word, or FAILED, or STOPPED where a person ended the sweep."""
        if self.outcome:
            return self.outcome.verdict.level.value
        return _STOPPED if isinstance(self.error, StoppedError) else _FAILED


@dataclass(frozen=True, slots=True)
class Sweep:
    """The points of a sweep; ``interrupted`` when a person stopped it before the last."""

    points: tuple[Point, ...]
    interrupted: StoppedError | None

    @property
    def n_bad(self) -> int:
        """Return how many points failed, are INVALID or miss an objective."""
        return sum(not (point.outcome and point.outcome.is_good) for point in self.points)

    @property
    def n_reused(self) -> int:
        """Return how many points were measured before."""
        return sum(point.reused for point in self.points)


def run_sweep(
    cells: Sequence[Cell], target: Target, environ: Mapping[str, str], talk: Talk, *, fresh: bool
) -> Sweep:
    """Measure each cell that has no result yet (all, if ``fresh``), and go on past those that fail.

    Once a person has stopped it, the rest is as it was measured before, or not. Raises UsageError
    where the cause is on this side (a full disk, a folder in use): every cell would meet it.
    """
    earlier = [None if fresh else reusable(c.settings, c.plan, target, environ) for c in cells]
    points: list[Point] = []
    took_s: list[float] = []
    stopped: StoppedError | None = None
    for number_, (cell, found) in enumerate(zip(cells, earlier, strict=True), 1):
        head = f"[{number_}/{len(cells)}] {cell.label}"
        if found:
            points.append(found)
            if not stopped:
                talk(f"{head}: {reuse_text(found)}")
        elif stopped:
            points.append(Point(cell.settings, cell.plan, None, "not measured", error=stopped))
        else:
            talk(head + _time_left(took_s, earlier[number_ - 1 :].count(None)))
            began_s = time.monotonic()
            point, stopped = _measured_or_stopped(cell, target, environ, talk)
            points.append(point)
            took_s.append(time.monotonic() - began_s)
    return Sweep(tuple(points), stopped)


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
    KeyboardInterrupt between two runs, when a person stops it; UsageError as `run_sweep`.
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


def reuse_text(point: Point) -> str:
    """Return ``reused, measured 2026-11-21 07:10 UTC``."""
    day, _, clock = point.measured.partition("T")
    return f"reused, measured {day} {clock[:5]} UTC"


def write_sweep(sweep: Sweep, folder: Path, artifacts: Path) -> list[Path]:
    """Write table and plot into ``folder`` and return the files; older ones are archived.

    A file that would not change stays as it is. There is no plot where no point has figures.
    """
    files = [folder / TSV, folder / MD]
    for file, text in zip(files, (to_tsv(_full_table(sweep)), _markdown(sweep)), strict=True):
        if not (file.is_file() and file.read_bytes() == text.encode()):
            shelve(file, artifacts)
            write_text(file, text)
    return [*files, *write_plot(sweep, folder / SVG, artifacts)]


def write_plot(sweep: Sweep, svg: Path, artifacts: Path) -> list[Path]:
    """Draw the sweep into ``svg`` and return it; nothing where no point has figures."""
    plot = _plot(sweep)
    if not is_drawn(plot, svg):
        shelve(svg, artifacts)
        if plot.dots:
            write_text(svg, draw(plot))
    return [svg] if plot.dots else []


def sweep_text(sweep: Sweep) -> str:
    """Return the sweep for a terminal: the table for people, then why points failed."""
    lines = [*_thin_note(sweep), *(f"  {line}" for line in _problems(sweep))]
    return to_text(_short_table(sweep)) + "".join(f"{line}\n" for line in lines)


def _measured_or_stopped(
    cell: Cell, target: Target, environ: Mapping[str, str], talk: Talk
) -> tuple[Point, StoppedError | None]:
    try:
        return _measured(cell.settings, cell.plan, target, environ, talk), None
    except (StoppedError, KeyboardInterrupt) as stop:
        stopped = stop if isinstance(stop, StoppedError) else _stopped(cell.plan)
        return Point(cell.settings, cell.plan, None, stopped.what, error=stopped), stopped


def _measured(
    settings: Settings, plan: Plan, target: Target, environ: Mapping[str, str], talk: Talk
) -> Point:
    try:
        endpoint.look(target.base, settings.openai_api_key, LOOK_TIMEOUT_S, target.access)
        outcome = measure(settings, plan, target, environ, talk)
    except (StoppedError, UsageError):
        raise
    except HarnessError as error:
        talk(f"error: {error}")
        return Point(settings, plan, None, str(error), error=error)
    ended = read_manifest(outcome.folder).get("ended")
    return Point(settings, plan, outcome, measured=str(ended or now_utc()))


def _time_left(took_s: Sequence[float], n_left: int) -> str:
    """Return what is left by the mean of the cells so far; empty before the first has ended."""
    if not took_s:
        return ""
    left_s = sum(took_s) / len(took_s) * n_left
    text = f"{math.ceil(left_s / 5) * 5} s" if left_s < 90 else f"{math.ceil(left_s / 60)} min"
    return f" (about {text} left)"


def _stopped(plan: Plan) -> StoppedError:
    return StoppedError(plan.name, "interrupted before it began", "the points before it are kept")


def _markdown(sweep: Sweep) -> str:
    reused = [f"{point.label}: {reuse_text(point)}" for point in sweep.points if point.reused]
    sections = {"Points to look at": _problems(sweep), "Points measured before": reused}
    text = "# Sweep\n\n" + to_md(_short_table(sweep))
    text += "".join(f"\n\\{line}\n" for line in _thin_note(sweep))
    for heading, lines in sections.items():
        if lines:
            text += f"\n## {heading}\n\n" + "".join(f"- {line}\n" for line in lines)
    return text


def _thin_note(sweep: Sweep) -> list[str]:
    rows = [row for p in sweep.points if p.outcome for row in p.outcome.summary.latencies]
    if not any(row.is_p95_thin for row in rows):
        return []
    few = f"p95 of fewer than {P95_SAMPLES} requests is little more than the slowest of them"
    return [f"{_THIN} {few}; raise REQUEST_COUNT"]


def _problems(sweep: Sweep) -> list[str]:
    lines = []
    for point in sweep.points:
        reasons = point.outcome.verdict.texts if point.outcome else (point.problem,)
        lines += [f"{point.label} {point.word}: {reason}" for reason in reasons]
    return lines


def _axes(sweep: Sweep) -> list[tuple[str, str, Callable[[Point], str]]]:
    """Return what a point is told by: its heading for machines, for people, and its value."""
    of = sweep.points[0].settings if sweep.points else None
    axes: list[tuple[str, str, Callable[[Point], str]]] = []
    if of and of.sweep_input_tokens:
        axes.append(("input_tokens", "ISL", lambda p: str(p.settings.input_tokens_mean)))
    if of and of.sweep_output_tokens:
        axes.append(("output_tokens", "OSL", lambda p: str(p.settings.output_tokens_mean)))
    if any(point.plan.request_rate is not None for point in sweep.points):
        axes.append(("request_rate", "RATE", lambda p: f"{p.plan.request_rate or 0:g}"))
    if not axes or any(point.plan.concurrency is not None for point in sweep.points):
        axes.append(("concurrency", "CON", lambda p: str(p.plan.concurrency or "")))
    return axes


def _full_table(sweep: Sweep) -> Table:
    """Return every figure of summary.tsv, one row a point: for machines and spreadsheets."""
    axes = _axes(sweep)
    names = [f"{p}_{s}_ms" for p in _PREFIXES for s in ("p50", "p95", "p99", "avg")]
    rates = ("tokens_per_s", "tokens_per_s_per_user", "requests_per_s", "error_rate_pct")
    endings = ("requests", "errors", *_slo_heading(sweep), "verdict", "folder", "measured")
    headings = [*(heading for heading, _, _ in axes), *names, *rates, *endings]
    blank = [""] * (len(names) + len(rates))
    rows = tuple(
        (
            *(value(point) for _, _, value in axes),
            *_cells(point, _all_figures, blank),
            *_end(point, sweep),
        )
        for point in sweep.points
    )
    return Table(tuple(Column(heading) for heading in headings), rows)


def _slo_heading(sweep: Sweep) -> tuple[str, ...]:
    """Return the heading of the objectives' column, where there are any."""
    is_set = any(slo.objectives(point.settings) for point in sweep.points)
    return ("slo",) if is_set else ()


def _slo_cell(point: Point, sweep: Sweep) -> tuple[str, ...]:
    cell = slo.cell(point.outcome.slos) if point.outcome else ""
    return (cell,) * len(_slo_heading(sweep))


def _short_table(sweep: Sweep) -> Table:
    """Return what a person compares: medians, tails, throughput."""
    axes = _axes(sweep)
    headings = ("TTFT p50", "p95", "Latency p50", "p95", "ITL p50", "tokens/s", "req/s", "errors %")
    columns = [Column(heading) for heading in (*(short for _, short, _ in axes), *headings)]
    blank = [""] * len(headings)
    rows = tuple(
        (
            *(value(point) for _, _, value in axes),
            *_cells(point, _main_figures, blank),
            *_slo_cell(point, sweep),
            point.word,
        )
        for point in sweep.points
    )
    words = (*(heading.upper() for heading in _slo_heading(sweep)), "verdict")
    return Table((*columns, *(Column(word, "left") for word in words)), rows)


def _cells(
    point: Point, figures: Callable[[Summary], list[str]], blank: Sequence[str]
) -> Sequence[str]:
    """Return the figures; empty cells, never 0, where the point failed."""
    return figures(point.outcome.summary) if point.outcome else blank


def _all_figures(summary: Summary) -> list[str]:
    cells = []
    for metric in LATENCIES:
        row = summary.latency(metric)
        cells += [number(v, 2) for v in (row.p50_ms, row.p95_ms, row.p99_ms, row.avg_ms)]
    return cells + [number(summary.rate(metric), 2) for metric in RATES]


def _main_figures(summary: Summary) -> list[str]:
    ttft, latency, itl = (summary.latency(metric) for metric in LATENCIES)
    tokens, _, requests, errors = RATES
    thin = {row.metric.tag for row in summary.latencies if row.is_p95_thin}
    marks = [_THIN if metric.tag in thin else " " for metric in (TTFT, REQUEST_LATENCY)]
    return [
        number(ttft.p50_ms, 1),
        number(ttft.p95_ms, 1) + marks[0],
        number(latency.p50_ms, 1),
        number(latency.p95_ms, 1) + marks[1],
        number(itl.p50_ms, 2),
        *(number(summary.rate(m), m.digits) for m in (tokens, requests, errors)),
    ]


def _end(point: Point, sweep: Sweep) -> tuple[str, ...]:
    met = _slo_cell(point, sweep)
    if not point.outcome:
        return ("", "", *met, point.word, "", "")
    summary = point.outcome.summary
    counts = str(summary.n_used), str(summary.n_failed)
    return (*counts, *met, point.word, str(point.outcome.folder), point.measured)


def _plot(sweep: Sweep) -> Plot:
    """Return what the plot shows; points without figures are named in it, not drawn."""
    dots, lacking = [], []
    for point in sorted(sweep.points, key=_load):  # lines go from point to point
        dot = _dot(point)
        if dot:
            dots.append(dot)
        else:
            lacking.append(f"{point.label} {point.word}")
    if not sweep.points:
        return Plot("", (), (), Limits(None, None))
    of = sweep.points[0].settings
    limits = Limits(of.slo_ttft_p95_ms, of.slo_latency_p99_ms)
    return Plot(f"{of.model} at {of.base}", tuple(dots), tuple(lacking), limits)


def _load(point: Point) -> float:
    return point.plan.request_rate or point.plan.concurrency or 0


def _dot(point: Point) -> Dot | None:
    if point.outcome is None:
        return None
    summary = point.outcome.summary
    tokens_per_s = summary.rate(OUTPUT_TOKEN_THROUGHPUT)
    ttft, latency = summary.latency(TTFT), summary.latency(REQUEST_LATENCY)
    if tokens_per_s is None or ttft.p95_ms is None or latency.p95_ms is None:
        return None
    *lengths, load = point.label.split()
    rate = point.plan.request_rate
    return Dot(
        label=f"{rate:g}/s" if rate is not None else load.removeprefix("CON="),
        group=" ".join(lengths),
        tokens_per_s=tokens_per_s,
        ttft_p95_ms=ttft.p95_ms,
        latency_p95_ms=latency.p95_ms,
        latency_p99_ms=latency.p99_ms,
        level=point.word,
    )
