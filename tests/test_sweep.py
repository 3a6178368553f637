"""A sweep: what is reused, what is told, and what stands in its table."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import sweep as room
from harness.cells import sweep_cells
from harness.endpoint import DIRECT, EndpointFacts
from harness.errors import EngineError, StoppedError, UsageError
from harness.plan import Plan
from harness.profiling import Outcome, Talk, Target, key_of, read_outcome
from harness.runs import read_manifest, write_manifest
from harness.settings import Settings
from harness.sweep import Sweep, run_cell, run_sweep, sweep_text, write_sweep
from harness.tokenizer import TokenizerChoice
from tests.exports import GOLDEN, failed, used, write_rows
from tests.servers import simulator

ROOT = Path(__file__).parent.parent
TARGET = Target(
    "http://lab",
    DIRECT,
    EndpointFacts(None, None, None),
    TokenizerChoice("builtin", "fallback", "why", exact=False, server_counts=True),
)


class Bench:
    """Stands in for AIPerf: publishes a golden run, and fails where it is told to."""

    def __init__(self, artifacts: Path, **changes: Any) -> None:
        asked: dict[str, Any] = {
            "sweep_concurrencies": (1, 5, 20),
            "artifacts_dir": str(artifacts),
            **changes,
        }
        self.settings = Settings(model="m", aiperf_url="http://lab", **asked)
        self.errors: dict[int, Exception | KeyboardInterrupt] = {}
        self.measured: list[str] = []
        self.talk: list[str] = []

    def measure(
        self, settings: Settings, plan: Plan, target: Target, environ: Mapping[str, str], _: Talk
    ) -> Outcome:
        if error := self.errors.get(plan.concurrency or 0):
            raise error
        self.measured.append(plan.name)
        folder = Path(settings.artifacts_dir, plan.name)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(GOLDEN / "clean", folder)
        key = key_of(settings, plan, target, environ)
        verdict = {"level": "VALID", "reasons": []}
        ended = "2026-11-21T07:10:00Z"
        write_manifest(folder, {"cell_key": key, "verdict": verdict, "ended": ended})
        return read_outcome(settings, folder)

    def run(self, *, fresh: bool = False) -> Sweep:
        self.measured.clear()
        self.talk.clear()
        cells = sweep_cells(self.settings)
        return run_sweep(cells, TARGET, {}, self.talk.append, fresh=fresh)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path / "artifacts")
    monkeypatch.setattr(room, "measure", made.measure)
    monkeypatch.setattr("harness.sweep.endpoint.look", lambda *_: TARGET.facts)
    return made


class TestASweepAgain:
    """Only what is missing, failed or of other settings is measured."""

    def test_measures_nothing_twice_and_names_what_it_reuses(self, bench: Bench) -> None:
        first = bench.run()
        assert len(bench.measured) == 3
        assert bench.talk[0] == "[1/3] CON=1"
        again = bench.run()
        assert bench.measured == []
        assert bench.talk == [
            f"[{n}/3] CON={c}: reused, measured 2026-11-21 07:10 UTC"
            for n, c in enumerate((1, 5, 20), 1)
        ]
        assert [p.outcome for p in again.points] == [p.outcome for p in first.points]
        assert (again.n_reused, again.n_bad) == (3, 0)

    def test_measures_all_anew_if_asked_to(self, bench: Bench) -> None:
        bench.run()
        assert bench.run(fresh=True).n_reused == 0
        assert len(bench.measured) == 3

    def test_measures_the_cell_that_failed_only(self, bench: Bench) -> None:
        bench.errors[5] = EngineError("AIPerf", "ended with status 1", "see the log")
        assert [point.word for point in bench.run().points] == ["VALID", "FAILED", "VALID"]
        bench.errors.clear()
        assert [point.reused for point in bench.run().points] == [True, False, True]

    def test_is_ended_by_a_cause_on_this_side(self, bench: Bench) -> None:
        bench.errors[5] = UsageError("artifacts", "cannot be written", "free some space")
        with pytest.raises(UsageError, match="cannot be written"):
            bench.run()
        assert len(bench.measured) == 1

    def test_measures_all_after_a_setting_changed(self, bench: Bench) -> None:
        bench.run()
        bench.settings = replace(bench.settings, extra_inputs={"ignore_eos": True})
        assert bench.run().n_reused == 0

    def test_measures_only_the_points_that_were_added(self, bench: Bench) -> None:
        bench.run()
        bench.settings = replace(bench.settings, sweep_concurrencies=(1, 2, 5, 20))
        assert [point.reused for point in bench.run().points] == [True, False, True, True]

    def test_judges_by_todays_limits(self, bench: Bench) -> None:
        bench.run()
        folder = Path(bench.settings.artifacts_dir) / "sweep_5_ISL100_OSL200_CON5"
        write_rows(folder, [used()] * 9 + [failed()])
        (folder / "profile_export_aiperf.json").unlink()
        assert [point.reused for point in bench.run().points] == [True, False, True]

    def test_measures_a_cell_whose_files_are_gone(self, bench: Bench) -> None:
        bench.run()
        folder = Path(bench.settings.artifacts_dir) / "sweep_5_ISL100_OSL200_CON5"
        for file in folder.glob("profile_export*"):
            file.unlink()
        assert [point.reused for point in bench.run().points] == [True, False, True]

    def test_tells_after_an_objective_changed_what_it_says_of_the_same_runs(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        bench.run()
        bench.settings = replace(bench.settings, slo_ttft_p95_ms=0.001)
        again = bench.run()
        assert (again.n_reused, again.n_bad) == (3, 3)
        write_sweep(again, tmp_path, tmp_path / "artifacts")
        assert {row["slo"] for row in table(tmp_path)} == {"fail: TTFT p95"}


class TestASweepThatIsStopped:
    """Nothing that was measured is lost."""

    @pytest.mark.parametrize(
        "stop", [StoppedError("AIPerf", "interrupted", "kept"), KeyboardInterrupt()]
    )
    def test_keeps_points_before_and_reuses_them(
        self, bench: Bench, stop: Exception | KeyboardInterrupt
    ) -> None:
        bench.errors[5] = stop
        stopped = bench.run()
        assert isinstance(stopped.interrupted, StoppedError)
        assert [point.word for point in stopped.points] == ["VALID", "STOPPED", "STOPPED"]
        assert "CON=20 STOPPED: not measured" in sweep_text(stopped)
        bench.errors.clear()
        resumed = bench.run()
        assert [point.reused for point in resumed.points] == [True, False, False]
        assert resumed.interrupted is None

    def test_still_shows_later_points_of_earlier_sweeps(self, bench: Bench) -> None:
        bench.settings = replace(bench.settings, sweep_concurrencies=(20,))
        bench.run()
        bench.settings = replace(bench.settings, sweep_concurrencies=(1, 5, 20))
        bench.errors[1] = KeyboardInterrupt()
        assert [point.word for point in bench.run().points] == ["STOPPED", "STOPPED", "VALID"]


def test_one_cell_is_reused_or_measured_as_asked(bench: Bench) -> None:
    (cell, *_) = sweep_cells(bench.settings)

    def run(*, fresh: bool) -> bool:
        return run_cell(cell.settings, cell.plan, TARGET, {}, bench.talk.append, fresh).reused

    assert [run(fresh=False), run(fresh=False), run(fresh=True)] == [False, True, False]


def test_time_left_is_told_from_the_second_measured_cell_on(bench: Bench) -> None:
    bench.settings = replace(bench.settings, sweep_concurrencies=(1, 2, 3, 4))
    bench.run()
    assert "left" not in bench.talk[0]
    assert all("(about " in line and line.endswith(" s left)") for line in bench.talk[1:])


def table(folder: Path) -> list[dict[str, str]]:
    text = (folder / "sweep_summary.tsv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


class TestTheFiles:
    """Table and plot."""

    def test_of_a_resumed_sweep_are_those_of_an_uninterrupted_one(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        bench.errors[5] = KeyboardInterrupt()
        bench.run()
        bench.errors.clear()
        write_sweep(bench.run(), tmp_path, tmp_path / "artifacts")
        resumed = table(tmp_path)
        write_sweep(bench.run(fresh=True), tmp_path, tmp_path / "artifacts")
        assert table(tmp_path) == resumed
        assert [row["concurrency"] for row in resumed] == ["1", "5", "20"]
        assert {row["measured"] for row in resumed} == {"2026-11-21T07:10:00Z"}

    def test_have_columns_for_the_axes_alone(self, bench: Bench, tmp_path: Path) -> None:
        bench.settings = replace(
            bench.settings, sweep_input_tokens=(50, 500), sweep_request_rates=(2.0,)
        )
        sweep = bench.run()
        write_sweep(sweep, tmp_path, tmp_path / "artifacts")
        rows = table(tmp_path)
        assert list(rows[0])[:3] == ["input_tokens", "request_rate", "ttft_p50_ms"]
        assert [row["input_tokens"] for row in rows] == ["50", "500"]
        assert sweep_text(sweep).split()[:2] == ["ISL", "RATE"]

    def test_that_do_not_change_stay_and_others_are_archived(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        artifacts = tmp_path / "artifacts"
        first = write_sweep(bench.run(), tmp_path, artifacts)
        assert [file.name for file in first] == [
            "sweep_summary.tsv",
            "sweep_summary.md",
            "sweep.svg",
        ]
        times = [file.stat().st_mtime_ns for file in first]
        write_sweep(bench.run(fresh=True), tmp_path, artifacts)
        assert [file.stat().st_mtime_ns for file in first] == times
        assert not (artifacts / "archive").exists()
        bench.settings = replace(bench.settings, sweep_concurrencies=(1, 5))
        write_sweep(bench.run(), tmp_path, artifacts)
        assert [f.suffix for f in (artifacts / "archive" / "sweep").iterdir()] == [".svg"]

    def test_draw_the_same_whatever_the_order_of_the_points(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        write_sweep(bench.run(), tmp_path, tmp_path / "artifacts")
        first = (tmp_path / "sweep.svg").read_text(encoding="utf-8")
        bench.settings = replace(bench.settings, sweep_concurrencies=(20, 1, 5))
        write_sweep(bench.run(), tmp_path, tmp_path / "artifacts")
        assert (tmp_path / "sweep.svg").read_text(encoding="utf-8") == first

    def test_have_no_plot_where_no_point_has_figures(self, bench: Bench, tmp_path: Path) -> None:
        write_sweep(bench.run(), tmp_path, tmp_path / "artifacts")
        for concurrency in (1, 5, 20):
            bench.errors[concurrency] = EngineError("AIPerf", "ended with status 1", "see the log")
        files = write_sweep(bench.run(fresh=True), tmp_path, tmp_path / "artifacts")
        assert [file.suffix for file in files] == [".tsv", ".md"]
        assert not (tmp_path / "sweep.svg").exists()


def environment(folder: Path, url: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    places = {"ARTIFACTS_DIR": str(folder / "artifacts"), "ENV_FILE": str(folder / ".env")}
    load = {"OUTPUT_TOKENS_MEAN": "10", "SWEEP_CONCURRENCIES": "1,4,2", "TOKENIZER": "builtin"}
    (folder / ".env").touch()
    return {**kept, **places, **load, "MODEL": "sim", "AIPERF_URL": url}


@pytest.mark.engine
def test_a_sweep_interrupted_in_its_second_cell_is_resumed(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "run_profile.py"), "sweep"]
    with simulator("--model", "sim", "--ttft-ms", "50", "--itl-ms", "5") as server:
        env = environment(tmp_path, server.url)
        process = subprocess.Popen(
            command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True
        )
        deadline_s = time.monotonic() + 60
        second = tmp_path / "artifacts" / "sweep_4_ISL100_OSL10_CON4.partial"
        while time.monotonic() < deadline_s and not (second / "run.json").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=120)
        assert process.returncode == 130, talk
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "[1/3] CON=1: reused, measured 20" in done.stderr
    assert "[2/3] CON=4\n" in done.stderr
    assert "[3/3] CON=2 (about " in done.stderr
    rows = table(tmp_path)
    assert [(row["concurrency"], row["requests"]) for row in rows] == [
        ("1", "3"), ("4", "12"), ("2", "6"),
    ]  # fmt: skip
    assert all(row["ttft_p95_ms"] and row["measured"] for row in rows)
    assert (tmp_path / "sweep.svg").read_text(encoding="utf-8").startswith("<?xml")
    keys = {read_manifest(Path(row["folder"]))["cell_key"] for row in rows}
    assert len(keys) == 3
