"""Capacity: the highest concurrency that meets the objectives, found run by run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from harness import endpoint, slo
from harness.errors import DataError, EndpointError, TimeLimitError, UsageError
from harness.metrics import ERROR_RATE, INTER_TOKEN_LATENCY, OUTPUT_TOKEN_THROUGHPUT, TTFT
from harness.metrics import REQUEST_LATENCY as LATENCY
from harness.plan import Plan, make_plan
from harness.profiling import LOOK_TIMEOUT_S, Talk, Target
from harness.prompts import PromptFile
from harness.runs import shelve, write_text
from harness.settings import Settings
from harness.summary import P95_SAMPLES, P99_SAMPLES, Summary
from harness.sweep import Point, Sweep, reuse_text, run_cell, write_plot
from harness.table import Column, Table, number, to_md, to_text, to_tsv
from harness.verdict import Level

TSV = "capacity_summary.tsv"
MD = "capacity_summary.md"
SVG = "capacity.svg"
_HISTORY = "search_history.json"
SEARCH_FOLDER = "aiperf_search"
SEARCH_PROBE_S = 30.0
SEARCH_LIMIT_S = 7200.0
_FIRST, _SECOND, _THIRD = 1, 2, 3
_WORDS = {_FIRST: "", _SECOND: "_again", _THIRD: "_third"}
_SEED_STEP = 1 << 20  # further than the concurrencies of a sweep are apart


class _Side(msgspec.Struct):
    value: float


class _Boundary(msgspec.Struct):
    feasible_max: _Side | None = None
    infeasible_min: _Side | None = None


class _History(msgspec.Struct):
    """What AIPerf's own search writes, as far as it is read."""

    boundary_summary: _Boundary
    iterations: list[msgspec.Raw] = []


@dataclass(frozen=True, slots=True)
class Edge:
    """``met`` users meet the objectives and ``missed`` do not; 0 and None where there is none."""

    met: int
    missed: int | None


@dataclass(frozen=True, slots=True)
class Probe:
    """One cell: the first or the second run at a concurrency."""

    n_users: int
    run: int
    point: Point

    @property
    def name(self) -> str:
        """Return the probe in words, such as ``12 concurrent users, run 2``."""
        return users(self.n_users) + (f", run {self.run}" if self.run != _FIRST else "")

    @property
    def results(self) -> tuple[slo.Result, ...]:
        """Return the objectives and what the run showed; empty where it failed."""
        return self.point.outcome.slos if self.point.outcome else ()

    @property
    def met(self) -> bool:
        """Tell whether all objectives are met by figures that can be used."""
        is_usable = self.point.word not in ("FAILED", Level.INVALID.value)
        return is_usable and not slo.missed(self.results)

    @property
    def why_not(self) -> str:
        """Return why the probe does not count as met; empty if it does."""
        outcome = self.point.outcome
        if outcome is None:
            return f"the run failed: {self.point.problem}"
        if outcome.verdict.level is Level.INVALID:
            return f"the run is INVALID: {'; '.join(outcome.verdict.texts)}"
        return " and ".join(result.text for result in slo.missed(self.results))

    @property
    def doubts(self) -> tuple[str, ...]:
        """Return why the probe's figures are not VALID, each reason in one line."""
        outcome = self.point.outcome
        return outcome.verdict.texts if outcome else (self.point.problem,)

    @property
    def is_client_bound(self) -> bool:
        """Tell whether the client, not the server, may be what the probe shows."""
        outcome = self.point.outcome
        reasons = outcome.verdict.reasons if outcome else ()
        return any(reason.figure.startswith("client-bound") for reason in reasons)


@dataclass(frozen=True, slots=True)
class Found:
    """The edge, and every probe in the order in which it was made."""

    edge: Edge
    probes: tuple[Probe, ...]

    @property
    def sentence(self) -> str:
        """Return the result in one sentence, marked where there is reason to doubt it."""
        return self._result + (" (SUSPECT)" if self._is_suspect else "")

    @property
    def _result(self) -> str:
        met, missed = self.edge.met, self.edge.missed
        if missed is None:
            return f"Capacity: at least {users(met)}, the most that CAPACITY_LIMIT allows"
        misses = [p for p in self.probes if p.n_users == missed and not p.met]
        told = f"at {missed} {misses[0].why_not}{self._vote(missed)}"
        if not met:
            return f"Capacity: none; {told}"
        least = "at least " if any(probe.is_client_bound for probe in misses) else ""
        return f"Capacity: {least}{users(met)}{self._vote(met)}; {told}"

    @property
    def caveats(self) -> tuple[str, ...]:
        """Return what speaks against the figures on both sides of the edge."""
        doubts = [f"{p.name} {p.point.word}: {doubt}" for p in self._sides for doubt in p.doubts]
        return (*doubts, *_about_p99(self._sides))

    @property
    def _sides(self) -> list[Probe]:
        return [p for p in self.probes if p.n_users in (self.edge.met, self.edge.missed)]

    @property
    def _is_suspect(self) -> bool:
        return any(probe.point.word == Level.SUSPECT.value for probe in self._sides)

    def _vote(self, n_users: int) -> str:
        """Say so where the runs at a concurrency did not agree."""
        n_runs = sum(probe.n_users == n_users for probe in self.probes)
        return " in two runs of three" if n_runs == _THIRD else ""


@dataclass(slots=True)
class _Log:
    """The probes so far; a run that was made is not made twice."""

    run: Callable[[int, int], Probe]
    probes: list[Probe] = field(default_factory=list)

    def meets(self, n_users: int, run: int) -> bool:
        known = {(probe.n_users, probe.run): probe.met for probe in self.probes}
        if (n_users, run) not in known:
            self.probes.append(self.run(n_users, run))
            return self.probes[-1].met
        return known[n_users, run]


def users(n: int) -> str:
    """Return a number of users in words."""
    return f"{n} concurrent user{'' if n == 1 else 's'}"


def require_objectives(settings: Settings) -> None:
    """Raise UsageError where no objective is set."""
    if not slo.objectives(settings):
        keys = "SLO_TTFT_P95_MS, SLO_ITL_P95_MS, SLO_LATENCY_P99_MS, SLO_ERROR_RATE_PCT"
        remedy = f"set one of {keys}: make capacity SLO_TTFT_P95_MS=500"
        raise UsageError("capacity", "no objective is set that users should meet", remedy)


def find_edge(meets: Callable[[int], bool], limit: int) -> Edge:
    """Find the highest number up to ``limit`` that meets, by doubling, then halving the gap.

    ``meets`` is asked about 2 × log2 of the answer times, never twice the same. It is taken to be
    true up to some number and false above it.
    """
    met, missed, n = 0, None, 1
    while missed is None and met < limit:
        if meets(n):
            met, n = n, min(2 * n, limit)
        else:
            missed = n
    while missed is not None and missed - met > 1:
        middle = (met + missed) // 2
        if meets(middle):
            met = middle
        else:
            missed = middle
    return Edge(met, missed)


def find_confirmed(meets: Callable[[int, int], bool], limit: int) -> Edge:
    """Find an edge both sides of which a second run confirms; where it does not, a third decides.

    ``meets(n, run)`` tells of the first, second or third run at ``n``. A decision against the first
    run moves the edge, and the search goes on from there.
    """
    verdicts: dict[int, bool] = {}
    settled: set[int] = {0}

    def judged(n: int) -> bool:
        if n not in verdicts:
            verdicts[n] = meets(n, _FIRST)
        return verdicts[n]

    while True:
        edge = find_edge(judged, limit)
        sides = [n for n in (edge.met, edge.missed) if n is not None and n not in settled]
        if not sides:
            return edge
        n = sides[0]
        if meets(n, _SECOND) is not verdicts[n]:
            verdicts[n] = meets(n, _THIRD)
        settled.add(n)


def cell_plan(settings: Settings, n_users: int, run: int, prompts: PromptFile | None) -> Plan:
    """Return a probe's load: that of a sweep's cell, with enough requests for a p95.

    Each run has a name of its own, so that all are kept, and prompts of its own. Raises UsageError
    where something else fixes the load.
    """
    _require_users(settings)
    n_requests = settings.request_count or P95_SAMPLES
    plan = make_plan(replace(settings, request_count=n_requests), "sweep", n_users, prompts)
    name = f"capacity_{plan.name.removeprefix('sweep_')}{_WORDS[run]}"
    return replace(plan, name=name, seed=plan.seed + (run - 1) * _SEED_STEP)


def find_capacity(
    settings: Settings,
    target: Target,
    environ: Mapping[str, str],
    prompts: PromptFile | None,
    talk: Talk,
    *,
    fresh: bool,
) -> Found:
    """Probe until the edge is found and confirmed; cells that stand are not measured again.

    Only what a load can do to a server is a missed probe: any other error, as of a full disk or of
    AIPerf itself, is raised. So is EndpointError when the server has gone, and StoppedError when a
    person stops it; the cells that are finished stay.
    """

    def run(n_users: int, run_: int) -> Probe:
        plan = cell_plan(settings, n_users, run_, prompts)
        point = run_cell(settings, plan, target, environ, talk, fresh)
        if point.error and not isinstance(point.error, EndpointError | TimeLimitError):
            raise point.error
        if point.outcome is None:  # is it the load, or has the server gone?
            endpoint.look(target.base, settings.openai_api_key, LOOK_TIMEOUT_S, target.access)
        probe = Probe(n_users, run_, point)
        talk(_progress(probe))
        return probe

    log = _Log(run)
    edge = find_confirmed(log.meets, settings.capacity_limit)
    return Found(edge, tuple(log.probes))


def search_settings(settings: Settings) -> Settings:
    """Return the settings for AIPerf's own search: probes of a set length, files of their own.

    Raises UsageError where AIPerf cannot search for the objectives that are set, or a search
    cannot begin.
    """
    pct = settings.slo_error_rate_pct
    if pct in (0, 100):
        what = f"AIPerf's own search knows no {pct:g} %"
        remedy = "set a value between, unset it, or set CAPACITY_ENGINE=harness"
        raise UsageError("SLO_ERROR_RATE_PCT", what, remedy)
    if settings.capacity_limit == 1:
        remedy = "raise it, or set CAPACITY_ENGINE=harness"
        raise UsageError("CAPACITY_LIMIT", "is 1, where AIPerf has nothing to search", remedy)
    return replace(
        settings,
        benchmark_duration=settings.benchmark_duration or SEARCH_PROBE_S,
        request_count=None,
        run_time_limit=settings.run_time_limit or SEARCH_LIMIT_S,
        artifacts_dir=str(Path(settings.artifacts_dir, SEARCH_FOLDER)),
    )


def search_plan(settings: Settings, prompts: PromptFile | None) -> Plan:
    """Return the load of AIPerf's own search; its concurrency is the highest to be tried."""
    _require_users(settings)
    plan = make_plan(settings, "sweep", settings.capacity_limit, prompts)
    return replace(plan, n_warmup=0)  # its recipe warms up by time


def capacity_text(found: Found) -> str:
    """Return the result for a terminal: the probes as a table, caveats, the sentence last."""
    caveats = "".join(f"  {caveat}\n" for caveat in found.caveats)
    return f"{to_text(_short_table(found.probes))}{caveats}\n{found.sentence}\n"


def write_capacity(found: Found, folder: Path, artifacts: Path) -> list[Path]:
    """Write table and plot into ``folder`` and return the files; older ones are archived."""
    markdown = f"# {found.sentence}\n\n{to_md(_short_table(found.probes))}"
    if found.caveats:
        lines = "".join(f"- {caveat}\n" for caveat in found.caveats)
        markdown += f"\n## Caveats at the edge\n\n{lines}"
    for name, text in {TSV: to_tsv(_full_table(found)), MD: markdown}.items():
        shelve(folder / name, artifacts)
        write_text(folder / name, text)
    firsts = sorted((p for p in found.probes if p.run == _FIRST), key=lambda p: p.n_users)
    plotted = Sweep(tuple(probe.point for probe in firsts), None)
    return [folder / TSV, folder / MD, *write_plot(plotted, folder / SVG, artifacts)]


def searched(folder: Path) -> tuple[int, str]:
    """Return the users that AIPerf's own search found, 0 for none, and its result in a sentence.

    Raises DataError where it left no result.
    """
    path = folder / _HISTORY
    try:
        history = msgspec.json.decode(path.read_bytes(), type=_History)
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "see the log beside it") from None
    met, missed = history.boundary_summary.feasible_max, history.boundary_summary.infeasible_min
    if met is None:
        return 0, f"Capacity by AIPerf's search: none; {len(history.iterations)} probes"
    above = f"; {missed.value:g} do not meet the objectives" if missed else ""
    probes = f"{len(history.iterations)} probes"
    n_users = int(met.value)
    return n_users, f"Capacity by AIPerf's search: {users(n_users)} ({probes}){above}"


def _require_users(settings: Settings) -> None:
    if settings.request_rate is not None:
        what = "fixes the load that the search varies"
        raise UsageError("REQUEST_RATE", what, "unset it: make capacity REQUEST_RATE=")


def _about_p99(probes: Iterable[Probe]) -> Iterator[str]:
    """Say what a p99 of few requests is worth, where an objective is about one."""
    counts = [
        probe.point.outcome.summary.n_used
        for probe in probes
        if probe.point.outcome and any(r.slo.statistic == "p99" for r in probe.results)
    ]
    if counts and min(counts) < P99_SAMPLES:
        told = f"p99 of {min(counts)} requests is little more than the slowest"
        yield f"{told}; REQUEST_COUNT={P99_SAMPLES} or more make it a percentile"


def _progress(probe: Probe) -> str:
    told = "SLOs met" if probe.met else f"SLOs missed: {probe.why_not}"
    reused = f" ({reuse_text(probe.point)})" if probe.point.reused else ""
    return f"{probe.name}: {told}{reused}"


def _short_table(probes: Iterable[Probe]) -> Table:
    headings = ("users", "run", "TTFT p95", "ITL p95", "Latency p99", "errors %", "tokens/s")
    columns = (*(Column(h) for h in headings), Column("SLO", "left"), Column("verdict", "left"))
    rows = tuple(
        (str(probe.n_users), str(probe.run), *_figures(probe, rounded=True), *_ending(probe))
        for probe in probes
    )
    return Table(columns, rows)


def _full_table(found: Found) -> Table:
    headings = (
        *("concurrency", "run", "ttft_p95_ms", "itl_p95_ms", "latency_p99_ms", "error_rate_pct"),
        *("tokens_per_s", "slo", "verdict", "folder", "measured", "reused"),
    )
    rows = tuple(
        (str(p.n_users), str(p.run), *_figures(p, rounded=False), *_ending(p), *_origin(p))
        for p in found.probes
    )
    return Table(tuple(Column(heading) for heading in headings), rows)


def _figures(probe: Probe, *, rounded: bool) -> Sequence[str]:
    """Return the figures that objectives are about; empty cells where the run failed."""
    if probe.point.outcome is None:
        return [""] * 5
    summary: Summary = probe.point.outcome.summary
    figures = (
        (TTFT, summary.latency(TTFT).p95_ms),
        (INTER_TOKEN_LATENCY, summary.latency(INTER_TOKEN_LATENCY).p95_ms),
        (LATENCY, summary.latency(LATENCY).p99_ms),
        (ERROR_RATE, summary.rate(ERROR_RATE)),
        (OUTPUT_TOKEN_THROUGHPUT, summary.rate(OUTPUT_TOKEN_THROUGHPUT)),
    )
    return [number(value, metric.digits if rounded else 2) for metric, value in figures]


def _ending(probe: Probe) -> tuple[str, str]:
    return slo.cell(probe.results), probe.point.word


def _origin(probe: Probe) -> tuple[str, str, str]:
    folder = str(probe.point.outcome.folder) if probe.point.outcome else ""
    return folder, probe.point.measured, "1" if probe.point.reused else "0"
