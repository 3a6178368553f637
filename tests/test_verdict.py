"""Verdict: what makes a run INVALID or SUSPECT, each reason with figure, limit and remedy."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.records import read_run
from harness.summary import summarize
from harness.verdict import Asked, Level, Limits, Reason, Verdict, judge
from tests.exports import (
    AGGREGATE,
    GOLDEN,
    LIMITS,
    Json,
    Line,
    cancelled,
    closed_loop,
    failed,
    timed,
    used,
    write_aggregate,
    write_load,
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


def suspicions(
    folder: Path,
    rows: list[Json],
    asked: Asked,
    *,
    kind: str = "concurrency",
    limits: Limits = LIMITS,
    **tokens: Any,
) -> list[str]:
    """Return the reasons for which a run is SUSPECT, none if it is VALID."""
    write_load(folder, rows, asked.concurrency, kind, **tokens)
    verdict = judge(summarize(read_run(folder)), limits, asked)
    assert verdict.level is (Level.SUSPECT if verdict.reasons else Level.VALID)
    return list(verdict.texts)


def steady(n_requests: int = 60, latency_ms: float = 200.0) -> list[Json]:
    return closed_loop([latency_ms] * n_requests, 4)


FOUR = Asked(concurrency=4, output_tokens=200)


def counted(n_tokens: float, n_requests: int = 60) -> Json:
    return {"unit": "tokens", "avg": n_tokens, "count": n_requests}


def off(rows: list[Json], n_off: int) -> list[Json]:
    for number, row in enumerate(rows):
        pct = -30.0 if number < n_off else 0.0
        row["metrics"] |= {"osl_mismatch_diff_pct": {"value": pct}}  # type: ignore[operator]
    return rows


def test_a_healthy_run_is_not_suspect(tmp_path: Path) -> None:
    assert suspicions(tmp_path, off(steady(), 6), FOUR) == []


def test_three_requests_a_user_are_enough_and_fewer_are_not(tmp_path: Path) -> None:
    assert suspicions(tmp_path, steady(12), FOUR) == []
    assert suspicions(tmp_path, steady(11), FOUR) == [
        "11 requests at concurrency 4 (limit: 3 × CONCURRENCY = 12); "
        "set REQUEST_COUNT to 12 or more, or measure longer"
    ]


def test_answers_off_the_length_asked_for_come_with_the_way_to_force_it(tmp_path: Path) -> None:
    (text,) = suspicions(tmp_path / "a", off(steady(), 7), FOUR)
    assert text == (
        "7 of 60 answers (12 %) are more than 10 % off the length asked for "
        "(limit: MAX_LENGTH_MISS 10 %); set EXTRA_INPUTS=ignore_eos:true or min_tokens:200, if the "
        "server takes one of them, or raise the limit if answers of natural length are what you "
        "measure"
    )
    (text,) = suspicions(tmp_path / "b", off(steady(), 7), replace(FOUR, forces_length=True))
    assert "the server does not follow EXTRA_INPUTS" in text


def test_a_stand_ins_counts_are_suspect_and_say_nothing_of_lengths(tmp_path: Path) -> None:
    (text,) = suspicions(tmp_path, off(steady(), 60), replace(FOUR, stand_in="builtin"))
    assert text.startswith("token counts are approximate: builtin is not the model's tokenizer; ")


@pytest.mark.parametrize(
    ("client", "server", "is_told"),
    [(50, 50, False), (49, 50, False), (48, 50, False), (40, 50, True), (60, 50, True),
     (10, 11, False)],  # the last: a server that counts the token which ends an answer
)  # fmt: skip
def test_output_tokens_that_the_server_counts_otherwise_are_suspect(
    tmp_path: Path, client: float, server: float, is_told: bool
) -> None:
    counts: dict[str, Any] = {
        "output_sequence_length": counted(client),
        "usage_completion_tokens": counted(server),
    }
    texts = suspicions(tmp_path, steady(), FOUR, **counts)
    assert len(texts) == is_told
    if is_told:
        figure = f"{client:.1f} output tokens a request by the client, {server:.1f} by the server"
        assert figure in texts[0]
        assert "MAX_COUNT_MISS 5 %" in texts[0]


@pytest.mark.parametrize(
    ("client", "server", "is_told"),
    [(100, 130, False), (20, 90, False), (100, 97, False), (100, 80, True), (500, 800, True)],
)
def test_a_chat_templates_own_prompt_tokens_are_no_difference(
    tmp_path: Path, client: float, server: float, is_told: bool
) -> None:
    counts: dict[str, Any] = {
        "input_sequence_length": counted(client),
        "usage_prompt_tokens": counted(server),
    }
    assert len(suspicions(tmp_path, steady(), FOUR, **counts)) == is_told


@pytest.mark.parametrize(
    ("cached", "told"), [(0, ""), (30, ""), (31.2, ""), (95, "50.0 %"), (130, "76.9 %")]
)
def test_prompts_from_the_prefix_cache_are_suspect_the_templates_own_apart(
    tmp_path: Path, cached: float, told: str
) -> None:
    """Prompts of 100 tokens in a template of 30."""
    counts: dict[str, Any] = {
        "input_sequence_length": counted(100),
        "usage_prompt_tokens": counted(130),
        "usage_prompt_cache_read_tokens": counted(cached),
    }
    texts = suspicions(tmp_path / "plain", steady(), FOUR, **counts)
    assert [text.partition(" of prompt")[0] for text in texts] == [told] * bool(told)
    varied = replace(FOUR, is_uniform=False)  # conversations repeat themselves
    assert suspicions(tmp_path / "varied", steady(), varied, **counts) == []


@pytest.mark.parametrize(("cached", "n_reasons"), [(64, 0), (170, 1)])
def test_where_the_server_counts_a_templates_worth_may_come_from_its_cache(
    tmp_path: Path, cached: float, n_reasons: int
) -> None:
    counts: dict[str, Any] = {
        "input_sequence_length": counted(170),
        "usage_prompt_tokens": counted(170),
        "usage_prompt_cache_read_tokens": counted(cached),
    }
    asked = replace(FOUR, server_counts=True)
    assert len(suspicions(tmp_path, steady(), asked, **counts)) == n_reasons


def test_a_client_that_keeps_requests_waiting_is_told(tmp_path: Path) -> None:
    rows = [timed(number * 50, 200, queued_ms=number) for number in range(40)]
    (text,) = suspicions(tmp_path, rows, FOUR)
    assert text.startswith(
        "client-bound: requests waited 37 ms (p95) inside the client before they were sent, "
        "186 % of p95 TTFT (limit: MAX_QUEUE 10 %); "
    )


def test_waits_that_any_machine_makes_are_no_reason(tmp_path: Path) -> None:
    rows = [timed(number * 50, 200, queued_ms=19) for number in range(40)]
    assert suspicions(tmp_path, rows, FOUR) == []


def test_a_client_that_does_not_reach_the_concurrency_is_told(tmp_path: Path) -> None:
    (text,) = suspicions(tmp_path, closed_loop([100.0] * 80, 4, pause_ms=100), FOUR)
    assert text.startswith("client-bound: 2.")
    assert "requests in flight on average, of 4 asked for (5" in text
    assert "MIN_CONCURRENCY 80 %" in text


def test_pauses_that_any_machine_makes_are_no_reason(tmp_path: Path) -> None:
    """A server that answers in 20 ms leaves few requests in flight, however fast the client."""
    assert suspicions(tmp_path, closed_loop([20.0] * 80, 4, pause_ms=15), FOUR) == []


@pytest.mark.parametrize(("per_s", "is_told"), [(20, False), (24, False), (40, True)])
def test_a_rate_that_was_not_reached_is_told(tmp_path: Path, per_s: float, is_told: bool) -> None:
    rows = [timed(number * 50, 100) for number in range(60)]
    texts = suspicions(tmp_path, rows, Asked(request_rate=per_s), kind="poisson")
    assert len(texts) == is_told
    if is_told:
        assert "20.0 requests a second were sent, of 40 asked for (50 %)" in texts[0]


def test_poisson_arrivals_of_a_short_run_are_no_reason(tmp_path: Path) -> None:
    rows = [timed(number * 50, 100) for number in range(20)]
    assert suspicions(tmp_path, rows, Asked(request_rate=30), kind="poisson") == []


def test_a_run_that_never_became_steady_is_told(tmp_path: Path) -> None:
    rows = closed_loop([100 + 2.0 * number for number in range(100)], 4)
    (text,) = suspicions(tmp_path / "a", rows, FOUR)
    assert text.startswith("the run never became steady: median latency went from ")
    assert "MAX_DRIFT 25 %" in text
    assert suspicions(tmp_path / "b", rows, replace(FOUR, is_uniform=False)) == []
    assert suspicions(tmp_path / "c", rows, FOUR, limits=replace(LIMITS, max_drift_pct=400)) == []


def test_reasons_from_outside_make_a_run_suspect(tmp_path: Path) -> None:
    run = write_load(tmp_path, steady(), 4)
    outside = Reason("client-bound: near this machine's limit", "80 % of it", "use another")
    verdict = judge(summarize(read_run(run)), LIMITS, FOUR, [outside])
    assert verdict == Verdict(Level.SUSPECT, (outside,))


def test_the_gravest_reason_decides_and_comes_first(tmp_path: Path) -> None:
    rows = off(steady(), 60)
    write_rows(tmp_path, [*rows, *[failed()] * 20])
    write_aggregate(tmp_path, 60, 20)
    verdict = judge(summarize(read_run(tmp_path)), LIMITS, FOUR)
    assert [reason.level for reason in verdict.reasons] == [Level.INVALID, Level.SUSPECT]
    assert verdict.level is Level.INVALID


def test_where_nothing_succeeded_nothing_else_is_judged() -> None:
    outside = Reason("client-bound", "", "")
    verdict = judge(summarize(read_run(GOLDEN / "all_failed")), LIMITS, FOUR, [outside])
    assert [reason.figure for reason in verdict.reasons] == ["no request succeeded"]
