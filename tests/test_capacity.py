"""Capacity: the search over made-up servers, its result in words, and one real search."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import capacity
from harness.capacity import (
    Edge,
    Found,
    Probe,
    capacity_text,
    cell_plan,
    find_capacity,
    find_confirmed,
    find_edge,
    require_objectives,
    search_plan,
    search_settings,
    searched,
    write_capacity,
)
from harness.command import build_search_argv
from harness.endpoint import DIRECT, EndpointFacts
from harness.errors import (
    DataError,
    EndpointError,
    EngineError,
    HarnessError,
    TimeLimitError,
    UsageError,
)
from harness.metrics import REQUEST_LATENCY, TTFT
from harness.plan import Plan, make_plan
from harness.profiling import Outcome, Target
from harness.records import read_run
from harness.settings import Settings
from harness.slo import Slo, check
from harness.summary import summarize
from harness.sweep import Point
from harness.tokenizer import TokenizerChoice
from harness.verdict import Level, Reason, Verdict
from tests.exports import used, write_aggregate, write_rows
from tests.servers import simulator

ROOT = Path(__file__).parent.parent
SETTINGS = Settings(model="m", slo_ttft_p95_ms=200.0)
CHOICE = TokenizerChoice("builtin", "fallback", "why", exact=False, server_counts=False)
TARGET = Target("http://h", DIRECT, EndpointFacts(None, None, None), CHOICE)
KNEES = st.integers(0, 600)
LIMITS = st.integers(1, 512)


def expected(knee: int, limit: int) -> Edge:
    return Edge(limit, None) if knee >= limit else Edge(knee, knee + 1)


def counted(probe: Callable[[int], bool], asked: list[int]) -> Callable[[int], bool]:
    def ask(n: int) -> bool:
        asked.append(n)
        return probe(n)

    return ask


@given(KNEES, LIMITS)
def test_the_edge_of_any_server_is_found_with_few_probes(knee: int, limit: int) -> None:
    asked: list[int] = []
    assert find_edge(counted(lambda n: n <= knee, asked), limit) == expected(knee, limit)
    assert len(set(asked)) == len(asked) <= 2 * math.log2(max(knee, 1)) + 3
    assert all(1 <= n <= limit for n in asked)


@given(KNEES, LIMITS)
def test_both_sides_of_the_edge_are_run_twice_and_nothing_else(knee: int, limit: int) -> None:
    asked: list[tuple[int, int]] = []

    def meets(n: int, run: int) -> bool:
        asked.append((n, run))
        return n <= knee

    edge = find_confirmed(meets, limit)
    assert edge == expected(knee, limit)
    again = sorted(n for n, run in asked if run == 2)
    assert again == [n for n in (edge.met, edge.missed) if n]
    assert not [n for n, run in asked if run == 3]
    assert len(asked) <= 2 * math.log2(max(knee, 1)) + 5


@given(st.data(), LIMITS)
def test_a_server_that_answers_at_random_ends_the_search_all_the_same(
    data: st.DataObject, limit: int
) -> None:
    asked: list[tuple[int, int]] = []

    def meets(n: int, run: int) -> bool:
        asked.append((n, run))
        return data.draw(st.booleans())

    edge = find_confirmed(meets, limit)
    assert 0 <= edge.met <= limit
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize(("unlucky", "edge"), [((8, 1), 8), ((9, 1), 8), ((4, 1), 8)])
def test_one_run_that_is_off_does_not_move_the_edge(unlucky: tuple[int, int], edge: int) -> None:
    def meets(n: int, run: int) -> bool:
        return (n <= edge) is not ((n, run) == unlucky)

    assert find_confirmed(meets, 64) == Edge(edge, edge + 1)


def test_capacity_without_objectives_names_the_keys_and_an_example() -> None:
    with pytest.raises(UsageError, match=r"SLO_ITL_P95_MS.*make capacity SLO_TTFT_P95_MS=500"):
        require_objectives(Settings(model="m"))
    require_objectives(SETTINGS)


def test_a_probe_is_a_sweeps_cell_with_enough_requests_for_a_p95() -> None:
    first, second = (cell_plan(replace(SETTINGS, random_seed=7), 2, run, None) for run in (1, 2))
    assert (first.name, first.n_requests) == ("capacity_2_ISL100_OSL200_CON2", 20)
    assert second.name == first.name + "_again"
    assert second.seed != first.seed
    assert cell_plan(replace(SETTINGS, request_count=50), 2, 1, None).n_requests == 50
    assert cell_plan(SETTINGS, 40, 1, None).n_requests == 120


def test_a_fixed_rate_is_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"^REQUEST_RATE: .*; unset it: make capacity"):
        cell_plan(replace(SETTINGS, request_rate=5.0), 1, 1, None)


class TestFailures:
    """Only what a load can do to a server is a missed probe."""

    def found(self, monkeypatch: pytest.MonkeyPatch, error: HarnessError) -> Found:
        def run_cell(settings: Settings, plan: Plan, *_: object) -> Point:
            return Point(settings, plan, None, str(error), error=error)

        monkeypatch.setattr(capacity, "run_cell", run_cell)
        monkeypatch.setattr("harness.endpoint.look", lambda *_: None)
        return find_capacity(SETTINGS, TARGET, {}, None, lambda _: None, fresh=False)

    @pytest.mark.parametrize("kind", [UsageError, EngineError, DataError])
    def test_of_this_side_end_the_search(
        self, monkeypatch: pytest.MonkeyPatch, kind: type[HarnessError]
    ) -> None:
        with pytest.raises(kind, match="broken"):
            self.found(monkeypatch, kind("AIPerf", "broken", "mend it"))

    @pytest.mark.parametrize("kind", [EndpointError, TimeLimitError])
    def test_under_load_are_misses(
        self, monkeypatch: pytest.MonkeyPatch, kind: type[HarnessError]
    ) -> None:
        found = self.found(monkeypatch, kind("server", "overrun", "wait"))
        assert found.edge == Edge(0, 1)
        assert "at 1 the run failed: server: overrun; wait" in found.sentence


class TestResult:
    """What a person reads."""

    @pytest.fixture
    def probe(self, tmp_path: Path) -> Callable[..., Probe]:
        folder = write_rows(tmp_path / "run", [used(ttft_ms=240.0, latency_ms=300.0)] * 20)
        write_aggregate(folder, 20)
        summary = summarize(read_run(folder))

        def make(
            n_users: int, limit_ms: float, run: int = 1, invalid: str = "", doubt: str = ""
        ) -> Probe:
            asked = [Slo("SLO_TTFT_P95_MS", TTFT, "p95", limit_ms)]
            if doubt == "p99":
                asked.append(Slo("SLO_LATENCY_P99_MS", REQUEST_LATENCY, "p99", 900))
            slos = check(summary, asked)
            reasons = (Reason(invalid or doubt, "", "do"),) if invalid or doubt else ()
            level = Level.SUSPECT if doubt else Level.VALID
            verdict = Verdict(Level.INVALID if invalid else level, reasons)
            plan = make_plan(SETTINGS, "sweep", n_users)
            outcome = Outcome(folder, summary, verdict, slos)
            return Probe(n_users, run, Point(SETTINGS, plan, outcome, measured="2026-01-01"))

        return make

    def test_is_one_sentence(self, probe: Callable[..., Probe]) -> None:
        found = Found(Edge(12, 13), (probe(12, 300), probe(13, 200)))
        told = "Capacity: 12 concurrent users; at 13 p95 TTFT is 240 ms against 200"
        assert found.sentence == told
        assert capacity_text(found).endswith(f"\n\n{told}\n")

    def test_carries_the_doubts_of_the_edge_alone(
        self, probe: Callable[..., Probe], tmp_path: Path
    ) -> None:
        runs = (probe(1, 300, doubt="far off"), probe(2, 300), probe(2, 300, 2, doubt="unsteady"))
        found = Found(Edge(2, 3), (*runs, probe(3, 200)))
        line = "2 concurrent users, run 2 SUSPECT: unsteady; do"
        assert found.caveats == (line,)
        assert found.sentence.endswith("240 ms against 200 (SUSPECT)")
        assert f"\n  {line}\n\nCapacity: 2" in capacity_text(found)
        files = write_capacity(found, tmp_path, tmp_path / "artifacts")
        assert files[1].read_text(encoding="utf-8").endswith(f"\n\n- {line}\n")

    def test_is_a_lower_bound_where_the_client_was_the_limit(
        self, probe: Callable[..., Probe]
    ) -> None:
        bound = probe(2, 200, doubt="client-bound: 2 requests at once by this machine's client")
        told = Found(Edge(1, 2), (probe(1, 300), bound)).sentence
        assert told.startswith("Capacity: at least 1 concurrent user; at 2 ")

    def test_says_what_a_p99_of_few_requests_is(self, probe: Callable[..., Probe]) -> None:
        found = Found(Edge(1, 2), (probe(1, 300, doubt="p99"), probe(2, 200)))
        told = "p99 of 20 requests is little more than the slowest"
        assert found.caveats[-1] == f"{told}; REQUEST_COUNT=100 or more make it a percentile"

    def test_says_where_runs_did_not_agree(self, probe: Callable[..., Probe]) -> None:
        runs = (probe(1, 300), probe(2, 200), probe(2, 300, 2), probe(2, 200, 3))
        assert Found(Edge(1, 2), runs).sentence == (
            "Capacity: 1 concurrent user; at 2 p95 TTFT is 240 ms against 200 in two runs of three"
        )

    def test_says_that_not_even_one_user_is_served(self, probe: Callable[..., Probe]) -> None:
        told = "Capacity: none; at 1 p95 TTFT is 240 ms against 200"
        assert Found(Edge(0, 1), (probe(1, 200),)).sentence == told

    def test_says_that_the_limit_ended_the_search(self, probe: Callable[..., Probe]) -> None:
        told = "Capacity: at least 4 concurrent users, the most that CAPACITY_LIMIT allows"
        assert Found(Edge(4, None), (probe(4, 300),)).sentence == told

    def test_an_invalid_probe_is_not_met_and_says_why(self, probe: Callable[..., Probe]) -> None:
        bad = probe(2, 300, invalid="6 of 20 requests failed")
        assert not bad.met
        told = Found(Edge(1, 2), (probe(1, 300), bad)).sentence
        assert told.endswith("at 2 the run is INVALID: 6 of 20 requests failed; do")

    def test_a_failed_probe_is_not_met_and_has_empty_cells(self, tmp_path: Path) -> None:
        plan = make_plan(SETTINGS, "sweep", 2)
        bad = Probe(2, 1, Point(SETTINGS, plan, None, "AIPerf: ended; see"))
        assert not bad.met
        assert bad.why_not == "the run failed: AIPerf: ended; see"
        write_capacity(Found(Edge(0, 2), (bad,)), tmp_path, tmp_path / "artifacts")
        row = (tmp_path / "capacity_summary.tsv").read_text().splitlines()[1]
        assert row.split("\t")[:9] == ["2", "1", "", "", "", "", "", "", "FAILED"]

    def test_stands_in_files_with_a_plot(self, probe: Callable[..., Probe], tmp_path: Path) -> None:
        found = Found(Edge(12, 13), (probe(12, 300), probe(13, 200)))
        files = write_capacity(found, tmp_path, tmp_path / "artifacts")
        assert [file.name for file in files] == [
            "capacity_summary.tsv",
            "capacity_summary.md",
            "capacity.svg",
        ]
        assert files[1].read_text(encoding="utf-8").startswith(f"# {found.sentence}\n")
        assert "13\t1\t240.00\t" in files[0].read_text(encoding="utf-8")


class TestByAiperf:
    """CAPACITY_ENGINE=aiperf."""

    def argv(self, settings: Settings) -> list[str]:
        settings = search_settings(settings)
        plan = search_plan(settings, None)
        return build_search_argv(settings, plan, CHOICE, "http://h", Path("run"))

    def test_hands_the_objectives_over_in_its_own_flags(self) -> None:
        more = replace(SETTINGS, slo_itl_p95_ms=50, slo_latency_p99_ms=900, slo_error_rate_pct=2)
        argv = self.argv(replace(more, capacity_limit=32))
        assert " ".join(argv).endswith(
            "--search-recipe max-concurrency-under-sla --concurrency-max 32 --ttft-sla-ms 200 "
            "--itl-sla-ms 50 --e2e-sla-ms 900 --error-rate-sla 0.02"
        )
        assert "--concurrency" not in argv
        assert argv[argv.index("--benchmark-duration") + 1] == "30"

    def test_knows_no_error_rate_of_nothing(self) -> None:
        for pct in (0, 100):
            with pytest.raises(UsageError, match="SLO_ERROR_RATE_PCT"):
                self.argv(replace(SETTINGS, slo_error_rate_pct=pct))

    def test_what_it_found_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "search_history.json").write_text(
            '{"iterations": [{}, {}], "boundary_summary": {"feasible_max": {"value": 8}, '
            '"infeasible_min": {"value": 11}}}'
        )
        assert searched(tmp_path) == (
            8,
            "Capacity by AIPerf's search: 8 concurrent users (2 probes); "
            "11 do not meet the objectives",
        )
        with pytest.raises(DataError):
            searched(tmp_path / "none")

    def test_nothing_found_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "search_history.json").write_text(
            '{"iterations": [{}], "boundary_summary": {"infeasible_min": {"value": 1}}}'
        )
        assert searched(tmp_path) == (0, "Capacity by AIPerf's search: none; 1 probes")


@pytest.mark.engine
def test_the_knee_of_a_real_server_is_found_and_a_second_search_measures_nothing(
    tmp_path: Path,
) -> None:
    """One request in service at a time: the second user waits for the first."""
    (tmp_path / ".env").touch()
    delays = ("--service-slots", "1", "--ttft-ms", "100", "--itl-ms", "30")
    with simulator("--model", "sim", *delays) as server:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environ = kept | {
            "MODEL": "sim",
            "AIPERF_URL": server.url,
            "OUTPUT_TOKENS_MEAN": "8",
            "REQUEST_COUNT": "4",
            "WARMUP_REQUESTS": "0",
            "SLO_TTFT_P95_MS": "220",
            "CAPACITY_LIMIT": "2",
            "ENV_FILE": str(tmp_path / ".env"),
        }
        texts = []
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, str(ROOT / "scripts" / "capacity.py")],
                cwd=tmp_path,
                env=environ,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            texts.append(done.stdout)
    assert "\nCapacity: 1 concurrent user; at 2 p95 TTFT is " in texts[0]
    assert texts[1] == texts[0]
    assert done.stderr.count("reused") == 4
    assert (tmp_path / "artifacts/capacity_2_ISL100_OSL8_CON2_again/run.json").exists()
