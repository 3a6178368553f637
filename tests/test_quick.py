"""A quick look: which server it takes, when it stops, its three lines, and one real look."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import quick
from harness.capacity import Edge, Probe
from harness.endpoint import Access, EndpointFacts, ServedModel
from harness.errors import EndpointError, EngineError, HarnessError, TimeLimitError
from harness.plan import Plan
from harness.profiling import Outcome, Target
from harness.quick import (
    PLACES,
    Look,
    Place,
    Seen,
    choose_model,
    choose_server,
    edge_so_far,
    find_servers,
    look_around,
    quick_plan,
    quick_settings,
    quick_text,
)
from harness.records import read_run
from harness.settings import Settings
from harness.slo import check, objectives
from harness.summary import summarize
from harness.sweep import Point
from harness.tokenizer import TokenizerChoice
from harness.verdict import Level, Reason, Verdict
from tests.exports import used, write_aggregate, write_rows
from tests.servers import Simulator, simulator

ROOT = Path(__file__).parent.parent
CLOSED = Place("Nobody", "http://127.0.0.1:9")
SETTINGS = Settings(model="m", aiperf_url="http://h", request_count=10, slo_ttft_p95_ms=200.0)
CHOICE = TokenizerChoice("builtin", "fallback", "why", exact=False, server_counts=False)
TARGET = Target("http://h", Access(), EndpointFacts(None, None, None), CHOICE)


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    slow = ("--service-slots", "1", "--ttft-ms", "100", "--itl-ms", "10")
    with simulator("--model", "sim", *slow) as running:
        yield running


def facts(*names: str) -> EndpointFacts:
    return EndpointFacts(tuple(ServedModel(name) for name in names), None, None)


class TestServer:
    """Where the server and its model come from."""

    def test_those_that_answer_are_found_in_order(self, server: Simulator) -> None:
        here = Place("Sim", server.url)
        assert [seen.place for seen in find_servers([CLOSED, here, here])] == [here, here]

    def test_none_found_lists_what_was_tried_and_how_to_name_one(self) -> None:
        with pytest.raises(EndpointError) as caught:
            choose_server((), PLACES, print)
        for word in ("Ollama", "11434", "8000", "8080", "1234", "30000", "make quick AIPERF_URL="):
            assert word in str(caught.value)

    def test_of_several_the_first_is_taken_and_the_others_are_told(self) -> None:
        talk: list[str] = []
        seen = [Seen(place, facts("m")) for place in PLACES[:2]]
        assert choose_server(seen, PLACES, talk.append) is seen[0]
        assert talk == [
            "Server: http://127.0.0.1:11434, where Ollama usually listens",
            "note: http://127.0.0.1:8000 answers too; make quick AIPERF_URL=http://127.0.0.1:8000",
        ]

    def test_a_model_for_embeddings_is_passed_over(self) -> None:
        talk: list[str] = []
        assert choose_model(facts("nomic-embed-text", "llama"), talk.append) == "llama"
        assert talk == ["Model: llama (of 2; make quick MODEL=name takes another)"]

    def test_without_any_model_one_must_be_named(self) -> None:
        with pytest.raises(EndpointError, match="MODEL=name"):
            choose_model(facts(), print)


class TestSettings:
    """What is followed and what is not."""

    def settings(self, tmp_path: Path, url: str, text: str = "", **environ: str) -> Settings:
        (tmp_path / ".env").write_text(text)
        environ = {"ENV_FILE": str(tmp_path / ".env"), **environ}
        return quick_settings(environ, [Place("Sim", url)], lambda _: None)

    def test_need_no_env_file(self, tmp_path: Path, server: Simulator) -> None:
        found = self.settings(tmp_path, server.url)
        assert (found.model, found.aiperf_url) == ("sim", server.url)
        assert (found.slo_ttft_p95_ms, found.slo_itl_p95_ms) == (1000.0, 100.0)
        assert found.artifacts_dir == "artifacts/quick"
        assert found.connection_reuse == "pooled"

    def test_a_key_is_not_sent_to_a_server_that_nobody_named(
        self, tmp_path: Path, server: Simulator
    ) -> None:
        key = "OPENAI_API_KEY=lab-key\n"
        assert self.settings(tmp_path, server.url, key).openai_api_key is None
        named = self.settings(tmp_path, "http://127.0.0.1:9", key, AIPERF_URL=server.url)
        assert named.openai_api_key == "lab-key"

    def test_a_model_of_the_env_file_is_not_asked_of_another_server(
        self, tmp_path: Path, server: Simulator
    ) -> None:
        other = "MODEL=lab\nTOKENIZER=lab/tokenizer\n"
        found = self.settings(tmp_path, server.url, other)
        assert (found.model, found.tokenizer) == ("sim", None)
        assert self.settings(tmp_path, server.url, other, MODEL="typed").model == "typed"
        named = self.settings(tmp_path, "http://127.0.0.1:9", other, AIPERF_URL=server.url)
        assert (named.model, named.tokenizer) == ("lab", "lab/tokenizer")
        served = self.settings(tmp_path, server.url, "MODEL=sim\nTOKENIZER=lab/tokenizer\n")
        assert (served.model, served.tokenizer) == ("sim", "lab/tokenizer")

    def test_objectives_of_the_person_take_the_place_of_the_defaults(
        self, tmp_path: Path, server: Simulator
    ) -> None:
        found = self.settings(tmp_path, server.url, "SLO_LATENCY_P99_MS=900\n")
        assert [one.key for one in objectives(found)] == ["SLO_LATENCY_P99_MS"]

    def test_the_load_is_its_own(self, tmp_path: Path, server: Simulator) -> None:
        text = "OUTPUT_TOKENS_MEAN=2000\nREQUEST_RATE=5\nINPUT_FILE=x.jsonl\nREQUEST_COUNT=900\n"
        found = self.settings(tmp_path, server.url, text)
        plan = quick_plan(found, 1)
        assert (plan.n_requests, plan.request_rate, found.input_file) == (10, None, None)
        assert found.output_tokens_mean == 32

    def test_a_server_of_llama_cpp_gets_a_connection_a_request(
        self, tmp_path: Path, server: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said = EndpointFacts((ServedModel("sim"),), None, "llama.cpp")
        monkeypatch.setattr("harness.endpoint.look", lambda *_, **__: said)
        assert self.settings(tmp_path, server.url).connection_reuse == "never"
        kept = self.settings(tmp_path, server.url, "CONNECTION_REUSE=pooled\n")
        assert kept.connection_reuse == "pooled"


@pytest.fixture
def point(tmp_path: Path) -> Callable[..., Point]:
    """Return what makes a level: with a TTFT of 240 ms, failed, or in doubt."""
    folder = write_rows(tmp_path / "run", [used(ttft_ms=240.0, latency_ms=300.0)] * 20)
    write_aggregate(folder, 20)
    summary = summarize(read_run(folder))

    def make(
        n_users: int,
        limit_ms: float = 300,
        problem: str = "",
        doubt: str = "",
        error: HarnessError | None = None,
    ) -> Point:
        settings = Settings(model="m", slo_ttft_p95_ms=limit_ms)
        plan = quick_plan(SETTINGS, n_users)
        if problem:
            return Point(settings, plan, None, problem, error=error)
        reasons = (Reason(doubt, "", "do"),) if doubt else ()
        verdict = Verdict(Level.SUSPECT if doubt else Level.VALID, reasons)
        outcome = Outcome(folder, summary, verdict, check(summary, objectives(settings)))
        return Point(settings, plan, outcome)

    return make


class TestTime:
    """Levels are measured until the edge, or until there is no time for another."""

    def look(
        self,
        monkeypatch: pytest.MonkeyPatch,
        point: Callable[..., Point],
        knee: int,
        level_s: float,
        problem: str = "",
    ) -> Look:
        now = [0.0]

        def run_cell(_: Settings, plan: Plan, *__: object, **___: object) -> Point:
            now[0] += level_s
            n_users = plan.concurrency or 0
            return point(n_users, 300 if n_users <= knee else 200, problem)

        monkeypatch.setattr(quick, "run_cell", run_cell)
        return look_around(SETTINGS, TARGET, {}, print, lambda: now[0], are_default=True)

    def test_the_edge_is_found_where_there_is_time(
        self, monkeypatch: pytest.MonkeyPatch, point: Callable[..., Point]
    ) -> None:
        look = self.look(monkeypatch, point, 5, level_s=6)
        assert (look.edge, look.out_of_time) == (Edge(5, 6), False)

    def test_without_time_it_says_at_least(
        self, monkeypatch: pytest.MonkeyPatch, point: Callable[..., Point]
    ) -> None:
        look = self.look(monkeypatch, point, 400, level_s=14)
        assert (look.edge, look.out_of_time) == (Edge(4, None), True)
        assert "at least 4 at once" in quick_text(look)

    def test_a_gap_that_is_left_is_told(
        self, monkeypatch: pytest.MonkeyPatch, point: Callable[..., Point]
    ) -> None:
        look = self.look(monkeypatch, point, 5, level_s=11)
        assert look.edge == Edge(4, 8)
        assert "at least 4 at once" in quick_text(look)
        assert "at 8 p95 TTFT is 240 ms against 200" in quick_text(look)

    def test_a_level_that_its_own_time_limit_ended_is_no_miss(
        self, monkeypatch: pytest.MonkeyPatch, point: Callable[..., Point]
    ) -> None:
        over = TimeLimitError("AIPerf", "stopped after 15 s", "wait")

        def run_cell(_: Settings, plan: Plan, *__: object, **___: object) -> Point:
            is_slow = plan.concurrency == 8
            return point(plan.concurrency, problem=str(over) if is_slow else "", error=over)

        monkeypatch.setattr(quick, "run_cell", run_cell)
        look = look_around(SETTINGS, TARGET, {}, print, lambda: 0.0, are_default=True)
        assert (look.edge, look.out_of_time) == (Edge(4, None), True)
        assert "Users: at least 4 at once within TTFT p95 ≤ 200 ms" in quick_text(look)
        assert "there was no time for more" in quick_text(look)

    def test_one_user_who_cannot_be_measured_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch, point: Callable[..., Point]
    ) -> None:
        with pytest.raises(EngineError, match="stopped after 80 s"):
            self.look(monkeypatch, point, 5, level_s=80, problem="stopped after 80 s")


def test_levels_above_a_miss_do_not_count_as_met(point: Callable[..., Point]) -> None:
    probes = [Probe(1, 1, point(1)), Probe(2, 1, point(2)), Probe(4, 1, point(4, 200))]
    assert edge_so_far(probes) == Edge(2, 4)
    assert edge_so_far(probes[:1]) == Edge(1, None)


def test_three_lines_say_it(point: Callable[..., Point]) -> None:
    probes = (Probe(1, 1, point(1)), Probe(2, 1, point(2, 200, doubt="the client was slow")))
    told = quick_text(Look(SETTINGS, Edge(1, 2), probes, False, are_default=True)).splitlines()
    assert told == [
        "One user: the first token after 240 ms, then ? tokens/s (medians; m at http://h)",
        "Users: 1 at once within TTFT p95 ≤ 200 ms (the defaults); "
        "at 2 p95 TTFT is 240 ms against 200",
        "Caveats: a quick look: 10 requests a level, 100 tokens in, 200 out, nothing repeated; "
        "2 concurrent users: the client was slow. To be sure: make capacity SLO_TTFT_P95_MS=200",
    ]


@pytest.mark.engine
def test_a_real_look_ends_in_three_lines(tmp_path: Path, server: Simulator) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    (tmp_path / ".env").touch()
    own = {"AIPERF_URL": server.url, "ENV_FILE": str(tmp_path / ".env"), "SLO_TTFT_P95_MS": "350"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "quick.py")],
        cwd=tmp_path,
        env={**kept, **own},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, many, caveats = done.stdout.splitlines()
    assert one.startswith("One user: the first token after 1")
    assert many.startswith("Users: 1 at once within TTFT p95 ≤ 350 ms; at 2 p95 TTFT is ")
    assert caveats.startswith("Caveats: a quick look: 10 requests a level")
    assert (tmp_path / "artifacts/quick/sweep_2_ISL64_OSL32_CON2/run.json").exists()
