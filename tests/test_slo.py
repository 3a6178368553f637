"""Objectives: read from the settings, held against a summary, shown and handed to AIPerf."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.command import build_argv
from harness.metrics import ERROR_RATE, INTER_TOKEN_LATENCY, TTFT
from harness.plan import make_plan
from harness.records import read_run
from harness.render import summary_md, summary_text, summary_tsv
from harness.settings import Settings
from harness.slo import Result, Slo, cell, check, missed, objectives, stored
from harness.summary import Summary, summarize
from harness.tokenizer import TokenizerChoice
from harness.verdict import Level, Verdict
from tests.exports import failed, used, write_aggregate, write_rows

VALID = Verdict(Level.VALID, ())
BARE = Settings(model="m")
ALL = replace(
    BARE,
    slo_ttft_p95_ms=200.0,
    slo_itl_p95_ms=50.0,
    slo_latency_p99_ms=900.0,
    slo_error_rate_pct=2.0,
)
TTFT_SLO = Slo("SLO_TTFT_P95_MS", TTFT, "p95", 200.0)
CHOICE = TokenizerChoice("builtin", "fallback", "why", exact=False, server_counts=False)


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    """Sum up 19 requests with a TTFT of 20 ms, one failed request, and a goodput of 3."""
    folder = write_rows(tmp_path / "run", [*[used()] * 19, failed()])
    write_aggregate(folder, 19, 1, goodput={"unit": "requests/sec", "avg": 3.0})
    return summarize(read_run(folder))


def goodput_in(settings: Settings) -> list[str]:
    argv = build_argv(settings, make_plan(settings, "profile"), CHOICE, "http://h", Path("run"))
    return argv[argv.index("--goodput") : argv.index("--goodput") + 2]


def test_only_what_is_set_is_an_objective() -> None:
    assert objectives(BARE) == ()
    assert objectives(replace(BARE, slo_ttft_p95_ms=200.0)) == (TTFT_SLO,)
    assert [(one.name, one.limit) for one in objectives(ALL)] == [
        ("TTFT p95", 200.0),
        ("ITL p95", 50.0),
        ("latency p99", 900.0),
        ("errors", 2.0),
    ]


def test_an_error_rate_of_zero_is_an_objective_too() -> None:
    assert len(objectives(replace(BARE, slo_error_rate_pct=0.0))) == 1


def test_a_runs_own_objective_outranks_that_of_the_settings() -> None:
    found = objectives(ALL, {"SLO_TTFT_P95_MS": 70, "SLO_ITL_P95_MS": None})
    assert [one.limit for one in found] == [70.0, 50.0, 900.0, 2.0]


def test_each_objective_is_held_against_its_own_figure(summary: Summary) -> None:
    figures = [result.figure for result in check(summary, objectives(ALL))]
    assert figures == [20.0, pytest.approx(40 / 9), 60.0, 5.0]
    assert [result.passed for result in check(summary, objectives(ALL))] == [True] * 3 + [False]


@pytest.mark.parametrize(
    ("figure", "passed"), [(199.9, True), (200.0, True), (200.01, False), (None, False)]
)
def test_the_limit_itself_passes_and_no_figure_does_not(figure: float | None, passed: bool) -> None:
    assert Result(TTFT_SLO, figure).passed is passed


@pytest.mark.parametrize(
    ("figure", "told"),
    [
        (240.4, "p95 TTFT is 240 ms against 200"),
        (200.04, "p95 TTFT is 200.04 ms against 200"),
        (None, "p95 TTFT is not measured against 200"),
    ],
)
def test_a_miss_never_reads_like_the_limit(figure: float | None, told: str) -> None:
    assert Result(TTFT_SLO, figure).text == told


def test_short_names_stand_in_sentences() -> None:
    assert (
        Result(Slo("k", INTER_TOKEN_LATENCY, "p95", 10), 12.345).text
        == "p95 ITL is 12.35 ms against 10"
    )
    assert Result(Slo("k", ERROR_RATE, "rate", 1), 5.0).text == "errors are 5.00 % against 1"


def test_a_cell_names_what_failed(summary: Summary) -> None:
    assert cell(()) == ""
    assert cell(check(summary, (TTFT_SLO,))) == "pass"
    assert cell(check(summary, objectives(ALL))) == "fail: errors"
    assert [result.slo.name for result in missed(check(summary, objectives(ALL)))] == ["errors"]


def test_run_json_keeps_figure_and_limit(summary: Summary) -> None:
    assert stored(check(summary, (TTFT_SLO,))) == [
        {"key": "SLO_TTFT_P95_MS", "figure": 20.0, "limit": 200.0, "passed": True}
    ]


def test_the_table_to_paste_has_a_row_an_objective_before_the_verdict(summary: Summary) -> None:
    lines = summary_tsv(summary, VALID, check(summary, objectives(ALL))).splitlines()
    at = lines.index("Verdict\tVALID\t")
    assert lines[at - 5 : at] == [
        "Goodput\t3.00\treq/s",
        "SLO TTFT p95\tpass\t≤ 200 ms",
        "SLO ITL p95\tpass\t≤ 50 ms",
        "SLO latency p99\tpass\t≤ 900 ms",
        "SLO errors\tfail\t≤ 2 %",
    ]


def test_people_see_figure_limit_and_result(summary: Summary) -> None:
    results = check(summary, (TTFT_SLO,))
    assert "\nSLO TTFT p95  20.0 ms  ≤ 200 ms  pass\n" in summary_text(summary, VALID, "", results)
    assert "| SLO TTFT p95 | 20.0 ms | ≤ 200 ms | pass |" in summary_md(summary, VALID, "", results)


def test_without_objectives_no_table_speaks_of_them(summary: Summary) -> None:
    shown = summary_tsv(summary, VALID) + summary_text(summary, VALID, "")
    assert "SLO" not in shown + summary_md(summary, VALID, "")


def test_aiperf_gets_what_holds_for_a_single_request() -> None:
    told = "time_to_first_token:200 inter_token_latency:50 request_latency:900"
    assert goodput_in(ALL) == ["--goodput", told]


def test_an_error_rate_alone_gives_no_goodput() -> None:
    with pytest.raises(ValueError, match="--goodput"):
        goodput_in(replace(BARE, slo_error_rate_pct=1.0))
