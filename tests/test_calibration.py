"""Calibration: what the client adds, what it cannot drive, and how later runs are told."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calibrate import main as calibrate_main
from harness import calibration, calibration_steps
from harness.calibration import (
    Added,
    Calibration,
    Delays,
    Finding,
    Limit,
    Machine,
    Rung,
    conclude,
    error_line,
    finding_of,
    load,
    reasons,
    save,
    this_machine,
)
from harness.calibration_steps import TRUTH_LOG, calibrate, n_requests
from harness.errors import DataError, EngineError, StoppedError, UsageError
from harness.export.timings import read_timings
from harness.provenance import version_of
from harness.runs import lock
from harness.settings import Settings
from harness.simulator.truth import read_truth
from harness.verdict import Level, Reason
from tests.servers import Simulator, simulator
from tests.test_profile_verb import environment, manifest, run

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests/golden"


def rung(concurrency: int, requests_per_s: float, ttft_p50_ms: float = 1.0, **more: Any) -> Rung:
    usual = Rung(
        concurrency=concurrency,
        n_used=100,
        n_failed=0,
        true_ttft_p50_ms=100.0,
        true_itl_p50_ms=10.0,
        ttft=Added(ttft_p50_ms, 2 * ttft_p50_ms),
        itl=Added(0.01, 0.1),
        requests_per_s=requests_per_s,
        chunks_per_s=64 * requests_per_s,
        possible_requests_per_s=float(concurrency),
        run=f"ISL100_OSL64_CON{concurrency}",
    )
    return replace(usual, **more)


#: Keeps up at 10, is the limit at 100: 80 requests and 5,120 chunks a second are the most it did.
FOUND = conclude([rung(10, 9.9, 1.2), rung(100, 80.0, 3.0)], Delays())


class TestALevel:
    def test_at_which_the_client_keeps_up_has_nothing_against_it(self) -> None:
        assert rung(10, 9.1, 9.9).excess == ""

    @pytest.mark.parametrize(
        ("past", "why"),
        [
            (rung(10, 8.9), "89% of the possible requests per second"),
            (rung(10, 10.0, 11.0), "11% added to the median TTFT"),
            (rung(10, 10.0, n_failed=2), "2% of the requests failed"),
        ],
    )
    def test_past_the_limit_says_by_what(self, past: Rung, why: str) -> None:
        assert past.excess == why

    def test_the_first_past_the_limit_is_the_limit_and_the_rates_are_the_highest(self) -> None:
        assert FOUND.limit is not None
        assert FOUND.limit.concurrency == 100
        assert FOUND.limit.why == "80% of the possible requests per second"
        assert (FOUND.limit.requests_per_s, FOUND.limit.chunks_per_s) == (80.0, 5120.0)

    def test_without_one_past_it_no_limit_is_known(self) -> None:
        assert conclude([rung(1, 1.0), rung(10, 9.9)], Delays()).limit is None

    def test_measures_six_requests_a_user_and_enough_for_few_users(self) -> None:
        assert [n_requests(c) for c in (1, 4, 10, 50, 400)] == [30, 40, 100, 300, 2400]


class TestARun:
    def test_at_ten_users_of_a_client_that_drives_a_hundred_is_not_client_bound(self) -> None:
        assert reasons(FOUND, 10, 9.9, 630.0) == ()

    def test_beyond_80_percent_of_the_chunks_is_client_bound(self) -> None:
        (reason,) = reasons(FOUND, 10, 5.0, 4200.0)
        assert reason.text.startswith("client-bound: 4200 tokens per second by this machine's")
        assert f"(limit: 80 % of 5120, calibrated {FOUND.day})" in reason.text
        assert reason.level is Level.SUSPECT

    def test_at_80_percent_of_the_chunks_is_not(self) -> None:
        assert reasons(FOUND, 10, 5.0, 0.8 * 5120) == ()

    def test_beyond_80_percent_of_the_concurrency_is_client_bound(self) -> None:
        (reason,) = reasons(FOUND, 81, 50.0, 3000.0)
        assert reason.figure == "client-bound: 81 requests at once by this machine's client"
        assert reasons(FOUND, 80, 50.0, 3000.0) == ()

    def test_of_many_users_whose_rates_are_unknown_is_client_bound(self) -> None:
        assert reasons(FOUND, 100, None, None)

    def test_of_many_users_of_a_slow_server_is_little_work(self) -> None:
        assert reasons(FOUND, 100, 2.0, 400.0) == ()
        assert reasons(FOUND, 100, 60.0, 400.0), "short answers, and many of them"

    def test_of_an_open_loop_is_held_to_the_chunks_alone(self) -> None:
        assert reasons(FOUND, None, 70.0, 3000.0) == ()
        assert reasons(FOUND, None, 70.0, 5000.0)

    def test_is_held_to_nothing_where_no_limit_was_found(self) -> None:
        assert reasons(conclude([rung(4, 4.0)], Delays()), 400, 400.0, 99999.0) == ()
        assert reasons(None, 400, 400.0, 99999.0) == ()

    @pytest.mark.parametrize(("concurrency", "nearest"), [(1, 10), (30, 10), (33, 100)])
    def test_is_told_what_the_client_adds_at_the_nearest_level(
        self, concurrency: int, nearest: int
    ) -> None:
        added = {10: "1.2 ms at p50, 2.4 ms at p99", 100: "3.0 ms at p50, 6.0 ms at p99"}[nearest]
        where = f"(calibrated {FOUND.day} at concurrency {nearest})"
        told = error_line(FOUND, concurrency)
        assert told == f"of TTFT the client itself adds {added} {where}"

    def test_beyond_the_highest_level_is_told_what_the_client_adds_at_least(self) -> None:
        assert "adds at least 3.0 ms at p50, 6.0 ms at p99" in error_line(FOUND, 101)

    def test_without_calibration_or_concurrency_is_told_nothing(self) -> None:
        assert error_line(None, 10) == error_line(FOUND, None) == ""

    def test_keeps_what_was_found_in_its_run_json(self) -> None:
        finding = Finding("of TTFT …", (Reason("client-bound: …", "80 %", "use more cores"),))
        kept = json.loads(json.dumps({"calibration": finding.stored()}))
        assert finding_of(kept) == finding

    @pytest.mark.parametrize("kept", [{}, {"calibration": None}, {"calibration": [1]}])
    def test_without_any_finding_has_an_empty_one(self, kept: dict[str, object]) -> None:
        assert finding_of(kept) == Finding()


class TestTheFile:
    def test_comes_back_as_it_was_saved(self, tmp_path: Path) -> None:
        path = save(FOUND, tmp_path)
        assert path == tmp_path / "calibration" / f"{this_machine().key}.json"
        assert load(tmp_path, pytest.fail) == FOUND

    def test_is_archived_by_the_next(self, tmp_path: Path) -> None:
        before = replace(FOUND, calibrated="2026-01-01T00:00:00Z")
        path = save(before, tmp_path)
        save(FOUND, tmp_path)
        (kept,) = (tmp_path / "calibration/archive" / path.stem).iterdir()
        assert json.loads(kept.read_text())["calibrated"] == before.calibrated
        assert load(tmp_path, pytest.fail) == FOUND

    def test_holds_for_a_folder_of_its_artifacts_but_for_no_calibration(
        self, tmp_path: Path
    ) -> None:
        save(FOUND, tmp_path)
        assert load(tmp_path / "quick", pytest.fail) == FOUND
        assert load(tmp_path / "calibration", pytest.fail) is None
        other = replace(FOUND, calibrated="2026-01-01T00:00:00Z")
        save(other, tmp_path / "quick")
        assert load(tmp_path / "quick", pytest.fail) == other

    def test_is_left_out_with_a_note_where_aiperf_is_another(self, tmp_path: Path) -> None:
        notes: list[str] = []
        save(replace(FOUND, aiperf="0.4.0"), tmp_path)
        assert load(tmp_path, notes.append) is None
        assert "is of AIPerf 0.4.0, this is " in notes[0]
        assert "make calibrate" in notes[0]

    def test_is_left_out_with_a_note_where_it_is_broken(self, tmp_path: Path) -> None:
        notes: list[str] = []
        save(FOUND, tmp_path).write_text('{"schema_version": 1')
        assert load(tmp_path, notes.append) is None
        assert "cannot be read" in notes[0]

    def test_of_another_machine_is_not_this_ones(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(FOUND, tmp_path)
        monkeypatch.setattr(calibration, "this_machine", lambda: Machine("other", "CPU", 64))
        assert load(tmp_path, pytest.fail) is None

    def test_is_named_by_host_cpu_and_their_number(self) -> None:
        machine = Machine("Büro Mac.local", "Apple M3", 8)
        assert machine.key.startswith("b-ro-mac-local-")
        assert machine.key != replace(machine, n_cpus=10).key
        assert machine.key != replace(machine, cpu="Apple M4").key


class TestTheLevels:
    """What `calibrate` does with levels, whatever they show."""

    @pytest.fixture
    def measured(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Replace the runs by made-up ones: 200 is past the limit, 300 fails, 400 is stopped."""
        seen: list[int] = []

        def measure(concurrency: int, *_: object) -> Rung:
            seen.append(concurrency)
            if concurrency == 300:
                raise EngineError("AIPerf", "ended with status 1", "see its log")
            if concurrency == 400:
                raise StoppedError("AIPerf", "interrupted", "nothing is lost")
            return rung(concurrency, concurrency * (0.5 if concurrency == 200 else 1.0))

        monkeypatch.setattr(calibration_steps, "_rung", measure)
        return seen

    def calibrate(self, *levels: int) -> Calibration:
        return calibrate(levels, Delays(), Settings(model="m"), {}, lambda _: None)

    def test_rise_no_further_than_the_first_past_the_limit(self, measured: list[int]) -> None:
        assert self.calibrate(1, 200, 500).limit is not None
        assert measured == [1, 200]

    @pytest.mark.usefixtures("measured")
    def test_that_cannot_be_run_are_the_limit(self) -> None:
        found = self.calibrate(1, 10, 300, 500)
        assert found.limit == Limit(300, "ended with status 1", 10.0, 640.0)
        assert [each.concurrency for each in found.rungs] == [1, 10]

    @pytest.mark.usefixtures("measured")
    def test_of_which_not_even_the_first_can_be_run_end_in_its_error(self) -> None:
        with pytest.raises(EngineError, match="status 1"):
            self.calibrate(300)

    @pytest.mark.usefixtures("measured")
    def test_that_are_stopped_end_in_no_calibration(self) -> None:
        with pytest.raises(StoppedError):
            self.calibrate(1, 400)


def test_timings_are_of_answered_requests_after_the_warm_up() -> None:
    path = GOLDEN / "warmup" / "profile_export.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    measured = [row for row in rows if row["metadata"]["benchmark_phase"] == "profiling"]
    timings = read_timings(path)
    assert 0 < len(measured) < len(rows)
    assert [each.request_id for each in timings] == [
        row["metadata"]["x_request_id"] for row in measured
    ]
    assert timings[0].ttft_ms == measured[0]["metrics"]["time_to_first_token"]["value"]


def test_failed_requests_have_no_timings() -> None:
    assert read_timings(GOLDEN / "all_failed" / "profile_export.jsonl") == []


def test_an_export_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        read_timings(tmp_path / "rows.jsonl")


def verb(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/calibrate.py"), *words],
        cwd=folder,
        env=environment(folder, "http://127.0.0.1:9", INPUT_FILE="nowhere.jsonl"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [(("--levels", "0,4"), "'0,4'"), (("--levels", "4,4"), "'4,4'"), (("10",), "10")],
)
def test_levels_that_are_none_are_named(tmp_path: Path, words: tuple[str, ...], named: str) -> None:
    done = verb(*words, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: calibrate: ")
    assert named in done.stderr


@pytest.mark.engine
def test_the_verb_finds_what_the_client_adds_whatever_load_is_set(tmp_path: Path) -> None:
    done = verb("--levels", "4,1", "--output-tokens", "8", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = load(tmp_path / "artifacts", pytest.fail)
    assert found is not None
    assert found.aiperf == version_of("aiperf")
    assert [(each.concurrency, each.n_used) for each in found.rungs][:1] == [(1, 30)]
    assert [line.split()[0] for line in done.stdout.splitlines()[3:4]] == ["1"]
    for each in found.rungs:
        assert each.true_ttft_p50_ms >= 100
        assert each.true_itl_p50_ms == pytest.approx(10, rel=0.2)
        assert each.ttft.p50_ms <= each.ttft.p99_ms
        folder = tmp_path / "artifacts/calibration" / each.run
        assert manifest(folder)["settings"]["OUTPUT_TOKENS_MEAN"] == 8
        assert len(read_truth(folder / TRUTH_LOG)) >= each.n_used
    assert "a lower bound" in done.stdout


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    with simulator("--model", "sim", "--ttft-ms", "10", "--itl-ms", "2") as running:
        yield running


@pytest.mark.engine
def test_a_run_beyond_the_calibrated_limit_is_suspect_and_says_so_ever_after(
    tmp_path: Path, server: Simulator
) -> None:
    one_user = rung(1, 0.1, 1.5, run="ISL100_OSL64_CON1")
    save(conclude([one_user], Delays()), tmp_path / "artifacts")
    done = run(tmp_path, server.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SUSPECT  sim at ")
    told = f"client itself adds at least 1.5 ms at p50, 3.0 ms at p99 (calibrated {FOUND.day}"
    folder = tmp_path / "artifacts/ISL100_OSL10_CON2"
    script = [sys.executable, str(ROOT / "scripts/summarize_export.py"), str(folder)]
    again = subprocess.run(
        script, cwd=tmp_path, env=environment(tmp_path, server.url), capture_output=True,
        text=True, timeout=60, check=True,
    )  # fmt: skip
    for text in (done.stdout, again.stdout, *(p.read_text() for p in folder.glob("summary.*"))):
        assert "client-bound: " in text
        assert told in text


def test_the_simulator_can_end_with_its_standard_input() -> None:
    script = [sys.executable, str(ROOT / "scripts/simulate_endpoint.py"), "--until-eof"]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline().startswith(b"listening on ")
        child.stdin.close()
        assert child.wait(30) == 0


def test_a_dry_run_of_the_verb_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path / "artifacts"))
    monkeypatch.setenv("ENV_FILE", "")
    monkeypatch.setenv("DRY_RUN", "1")
    err = io.StringIO()
    assert calibrate_main(["--levels", "4,1"], io.StringIO(), err) == 0
    assert err.getvalue().startswith("1, 4 users: about ")
    assert not (tmp_path / "artifacts").exists()


def test_two_calibrations_at_once_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path))
    with lock(tmp_path, "calibration", ""), pytest.raises(UsageError, match="measure each other"):
        calibrate_main(["--levels", "1"], io.StringIO(), io.StringIO())
