"""Verdict: what makes a run INVALID, each reason with its figure, its limit and what to do."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.records import read_run
from harness.summary import summarize
from harness.verdict import Asked, Level, Verdict, judge
from tests.exports import (
    AGGREGATE,
    GOLDEN,
    LIMITS,
    Line,
    cancelled,
    failed,
    used,
    write_aggregate,
    write_rows,
)


def verdict_of(folder: Path, max_error_rate_pct: float = 1) -> Verdict:
    limits = replace(LIMITS, max_error_rate_pct=max_error_rate_pct)
    return judge(summarize(read_run(folder)), limits, Asked())


def run_with(folder: Path, n_used: int, n_failed: int) -> Path:
    write_rows(folder, [used()] * n_used + [failed()] * n_failed)
    write_aggregate(folder, n_used, n_failed)
    return folder


@pytest.mark.parametrize("name", ["clean", "warmup", "burst"])
def test_a_clean_run_is_valid_without_reasons(name: str) -> None:
    assert verdict_of(GOLDEN / name) == Verdict(Level.VALID, ())


@pytest.mark.parametrize(
    ("n_failed", "limit_pct", "level"),
    [(1, 1, Level.VALID), (2, 1, Level.INVALID), (0, 0, Level.VALID), (1, 0, Level.INVALID),
     (60, 60, Level.VALID), (99, 100, Level.VALID)],
)  # fmt: skip
def test_the_error_rate_may_reach_its_limit_but_not_exceed_it(
    tmp_path: Path, n_failed: int, limit_pct: float, level: Level
) -> None:
    assert verdict_of(run_with(tmp_path, 100 - n_failed, n_failed), limit_pct).level is level


def test_a_reason_names_figure_limit_and_what_to_do(tmp_path: Path) -> None:
    (text,) = verdict_of(run_with(tmp_path, 16, 24)).texts
    assert text == (
        "60.00 % of requests failed, 24 of 40 (limit: MAX_ERROR_RATE 1 %); "
        "see the errors and the server's log"
    )


def test_a_cancelled_run_is_invalid_for_one_reason() -> None:
    verdict = verdict_of(GOLDEN / "cancelled")
    assert verdict.level is Level.INVALID
    (text,) = verdict.texts
    assert "was cancelled" in text


def test_an_incomplete_run_is_invalid_and_says_why(tmp_path: Path) -> None:
    write_rows(tmp_path, [used()])
    write_aggregate(tmp_path, 1, is_complete=False, incomplete_reason="records stalled")
    verdict = verdict_of(tmp_path)
    assert verdict.level is Level.INVALID
    assert "records stalled" in verdict.texts[0]


def test_figures_of_the_few_rows_that_can_be_read_do_not_pass_for_the_runs(tmp_path: Path) -> None:
    write_rows(tmp_path, [used()] * 2 + ["null"] * 22)
    write_aggregate(tmp_path, n_used=24)
    verdict = verdict_of(tmp_path)
    assert verdict.level is Level.INVALID
    assert verdict.texts == (
        "the run is not complete: 22 of 24 successful rows are unreadable; run it again",
    )


def test_a_run_without_a_success_is_invalid_whatever_the_limit() -> None:
    verdict = verdict_of(GOLDEN / "all_failed", max_error_rate_pct=100)
    assert verdict.level is Level.INVALID
    assert [reason.figure for reason in verdict.reasons] == ["no request succeeded"]


def test_requests_that_the_client_gave_up_as_planned_did_not_fail(tmp_path: Path) -> None:
    write_rows(tmp_path, [used(), cancelled()])
    write_aggregate(tmp_path, 1, 1)
    assert verdict_of(tmp_path).level is Level.VALID


def test_every_reason_is_told(tmp_path: Path) -> None:
    write_rows(tmp_path, [used(), failed()])
    write_aggregate(tmp_path, 1, 1, was_cancelled=True, is_complete=False)
    assert len(verdict_of(tmp_path).reasons) == 2


NOT_STREAMED = (
    "the server does not stream: TTFT equals latency in all 24 answers; "
    "switch streaming on in the server or the proxy before it"
)


def whole(latency_ms: float = 60.0, n_tokens: int = 10) -> Line:
    """Return a row of an answer that came in one piece."""
    text = json.dumps(used(latency_ms, latency_ms))
    return text.replace('"value": 10,', f'"value": {n_tokens},')


def test_a_ttft_that_is_the_latency_in_every_answer_is_none(tmp_path: Path) -> None:
    assert verdict_of(GOLDEN / "one_piece").level is Level.INVALID
    assert verdict_of(GOLDEN / "one_piece").texts == (NOT_STREAMED,)
    shutil.copy(GOLDEN / "one_piece" / AGGREGATE, tmp_path)  # without the rows
    assert verdict_of(tmp_path).texts == (NOT_STREAMED,)


def test_the_aggregate_of_a_streamed_run_alone_is_valid(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "burst" / AGGREGATE, tmp_path)
    assert verdict_of(tmp_path).level is Level.VALID


@pytest.mark.parametrize(
    ("rows", "level"),
    [
        ([whole(60.1), whole(7.3)], Level.INVALID),
        ([whole(60.1), used(60.1, 60.1 + 1e-12)], Level.INVALID),
        ([whole(), whole(), whole(n_tokens=1), failed()], Level.INVALID),
        ([whole()], Level.VALID),
        ([whole(n_tokens=1), whole(n_tokens=1)], Level.VALID),
        ([whole(), whole(), whole(), used(59.99, 60)], Level.VALID),
    ],
)
def test_only_several_answers_of_several_tokens_show_that_nothing_streams(
    tmp_path: Path, rows: list[Line], level: Level
) -> None:
    n_failed = rows.count(failed())
    write_rows(tmp_path, rows)
    write_aggregate(tmp_path, len(rows) - n_failed, n_failed)
    assert verdict_of(tmp_path, max_error_rate_pct=50).level is level
