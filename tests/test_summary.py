"""Summary: AIPerf's own figures are the oracle; what a reader must know stands beside them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.metrics import (
    ERROR_RATE,
    INTER_TOKEN_LATENCY,
    LATENCIES,
    OUTPUT_TOKEN_THROUGHPUT,
    OUTPUT_TOKEN_THROUGHPUT_PER_USER,
    RATES,
    REQUEST_THROUGHPUT,
    TTFT,
)
from harness.records import read_run
from harness.render import about_line, summary_md, summary_text, summary_tsv
from harness.summary import Summary, summarize
from harness.verdict import Asked, Verdict, judge
from tests.exports import (
    AGGREGATE,
    GOLDEN,
    LIMITS,
    PHASES,
    ROWS,
    Line,
    cancelled,
    failed,
    used,
    warmup,
    write_aggregate,
    write_rows,
)

WITH_AGGREGATE = sorted(path.parent.name for path in GOLDEN.glob(f"*/{AGGREGATE}"))
WITH_PHASES = sorted(path.parent.name for path in GOLDEN.glob(f"*/{PHASES}"))


def summary_of(folder: Path, lines: Sequence[Line]) -> Summary:
    return summarize(read_run(write_rows(folder, lines)))


def judged(summary: Summary) -> Verdict:
    return judge(summary, LIMITS, Asked())


def test_the_oracle_covers_every_kind_of_run() -> None:
    assert {"clean", "warmup", "failed", "cancelled", "burst"} <= set(WITH_AGGREGATE)
    assert {"warmup", "failed", "cancelled"} <= set(WITH_PHASES)


@pytest.mark.parametrize("name", WITH_AGGREGATE)
def test_latencies_equal_aiperfs_own(name: str) -> None:
    theirs = json.loads((GOLDEN / name / AGGREGATE).read_text())
    summary = summarize(read_run(GOLDEN / name))
    for metric in LATENCIES:
        ours, of_aiperf = summary.latency(metric), theirs[metric.tag]
        for figure in ("p50", "p95", "p99", "avg"):
            value = getattr(ours, f"{figure}_ms")
            assert value == pytest.approx(of_aiperf[figure], abs=1e-6), (metric.tag, figure)
        assert ours.n == of_aiperf["count"]


def without_aggregate(name: str, folder: Path) -> Summary:
    """Sum up a golden run's rows and phases: AIPerf's own figures are out of reach."""
    for file in (ROWS, PHASES):
        if (GOLDEN / name / file).exists():
            shutil.copy(GOLDEN / name / file, folder)
    return summarize(read_run(folder))


@pytest.mark.parametrize("name", WITH_AGGREGATE)
def test_the_speed_of_one_user_equals_aiperfs_own(name: str, tmp_path: Path) -> None:
    theirs = json.loads((GOLDEN / name / AGGREGATE).read_text())
    speed = without_aggregate(name, tmp_path).rate(OUTPUT_TOKEN_THROUGHPUT_PER_USER)
    expected = theirs.get(OUTPUT_TOKEN_THROUGHPUT_PER_USER.tag, {}).get("p50")
    assert speed == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", WITH_PHASES)
def test_throughputs_from_rows_and_phases_equal_aiperfs_own(name: str, tmp_path: Path) -> None:
    """A run that was cut short has no end of its phase: its last row's end, to AIPerf's 256 ns."""
    theirs = json.loads((GOLDEN / name / AGGREGATE).read_text())
    ours = without_aggregate(name, tmp_path)
    for metric in (OUTPUT_TOKEN_THROUGHPUT, REQUEST_THROUGHPUT):
        expected = theirs[metric.tag]["avg"]
        tolerance = 1e-6 * (expected if name == "cancelled" else 1)
        assert ours.rate(metric) == pytest.approx(expected, rel=0, abs=tolerance), metric.tag
    assert any("computed from the rows" in note for note in ours.notes)


@pytest.mark.parametrize("name", WITH_AGGREGATE)
def test_throughputs_of_a_whole_run_are_aiperfs_own(name: str) -> None:
    theirs = json.loads((GOLDEN / name / AGGREGATE).read_text())
    summary = summarize(read_run(GOLDEN / name))
    for metric in (OUTPUT_TOKEN_THROUGHPUT, REQUEST_THROUGHPUT):
        assert summary.rate(metric) == theirs[metric.tag]["avg"], metric.tag


def test_the_error_rate_equals_aiperfs_own() -> None:
    theirs = json.loads((GOLDEN / "failed" / AGGREGATE).read_text())
    rate = summarize(read_run(GOLDEN / "failed")).rate(ERROR_RATE)
    assert rate == pytest.approx(theirs["request_error_rate"]["avg"])
    assert rate


@pytest.mark.parametrize("name", sorted(set(WITH_AGGREGATE) - set(WITH_PHASES)))
def test_throughputs_from_the_rows_alone_come_close_to_aiperfs(name: str, tmp_path: Path) -> None:
    """Without a list of phases the window is the rows' own, first start to last end: shorter."""
    theirs = json.loads((GOLDEN / name / AGGREGATE).read_text())
    without = without_aggregate(name, tmp_path)
    for metric in (OUTPUT_TOKEN_THROUGHPUT, REQUEST_THROUGHPUT):
        assert without.rate(metric) == pytest.approx(theirs[metric.tag]["avg"], rel=0.25)


def test_a_burst_keeps_its_tiny_inter_token_latency() -> None:
    itl = summarize(read_run(GOLDEN / "burst")).latency(INTER_TOKEN_LATENCY)
    assert itl.p50_ms is not None
    assert 0 < itl.p50_ms < 0.1


@pytest.mark.parametrize(
    ("itl_ms", "shown"), [(0.004, "0.0040"), (0.0000123, "0.000012"), (0.0, "0.00"), (4, "4.00")]
)
def test_an_inter_token_latency_of_a_burst_does_not_read_as_0(
    tmp_path: Path, itl_ms: float, shown: str
) -> None:
    row = used()
    row["metrics"] = {"inter_token_latency": {"value": itl_ms, "unit": "ms"},
                      "request_latency": {"value": 5.0, "unit": "ms"}}  # fmt: skip
    summary = summary_of(tmp_path, [row])
    for text in (summary_text, summary_md):
        (line,) = [
            x for x in text(summary, judged(summary), "").splitlines()
            if x.lstrip("| ").startswith(INTER_TOKEN_LATENCY.title)
        ]  # fmt: skip
        assert line.replace("|", " ").split()[2] == shown
    assert f"Inter-Token Latency\t{itl_ms:.2f}\t" in summary_tsv(summary, judged(summary))


def test_failed_warm_up_and_cancelled_rows_have_no_part_in_the_figures(tmp_path: Path) -> None:
    alone = summary_of(tmp_path / "a", [used(10, 100), used(30, 300)])
    lines = [used(10, 100), warmup(), failed(), cancelled(), used(30, 300)]
    mixed = summary_of(tmp_path / "b", lines)
    assert mixed.latencies == alone.latencies
    assert mixed.rate(REQUEST_THROUGHPUT) == alone.rate(REQUEST_THROUGHPUT)
    assert mixed.rate(ERROR_RATE) == pytest.approx(100 / 3)


def test_absent_figures_are_none_and_empty_never_zero(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, [failed()])
    assert summary.latency(TTFT).p50_ms is None
    assert summary.rate(OUTPUT_TOKEN_THROUGHPUT) is None
    tsv = summary_tsv(summary, judged(summary))
    assert "TTFT\t\t\t\t\t0\t1\n" in tsv
    assert "Output Token Throughput\t\ttokens/s\n" in tsv


def test_a_metric_that_no_row_has_is_absent_although_requests_succeeded(tmp_path: Path) -> None:
    row = used()
    row["metrics"] = {"request_latency": {"value": 5.0, "unit": "ms"}}  # as without streaming
    summary = summary_of(tmp_path, [row])
    assert (summary.latency(TTFT).avg_ms, summary.latency(TTFT).n) == (None, 0)
    assert summary.n_used == 1


def test_a_p99_of_fewer_than_100_requests_is_marked(tmp_path: Path) -> None:
    few = summary_of(tmp_path / "few", [used()] * 99)
    many = summary_of(tmp_path / "many", [used()] * 100)
    assert "p99 of 99 requests is" in few.thin_note
    assert many.thin_note == ""
    assert "20.0*" in summary_text(few, judged(few), "")
    assert "20.0*" in summary_md(few, judged(few), "")
    assert "*" not in summary_text(many, judged(many), "")
    assert "\t20.00\t20.00\t20.00\t20.00\t" in summary_tsv(few, judged(few))
    assert f"Note\t{few.thin_note}\t\n" in summary_tsv(few, judged(few))


def test_a_p95_of_fewer_than_20_requests_is_marked_too_with_one_remark(tmp_path: Path) -> None:
    few = summary_of(tmp_path / "few", [used()] * 19)
    enough = summary_of(tmp_path / "enough", [used()] * 20)
    assert few.thin_note.startswith("p95 and p99 of 19 requests are little more than the slowest")
    assert enough.thin_note.startswith("p99 of 20 requests is")
    (line,) = [x for x in summary_text(few, judged(few), "").splitlines() if x.startswith("TTFT")]
    assert line.split()[1:4] == ["20.0", "20.0*", "20.0*"]
    (line,) = [
        x for x in summary_text(enough, judged(enough), "").splitlines() if x.startswith("TTFT")
    ]
    assert line.split()[1:4] == ["20.0", "20.0", "20.0*"]


def reasoned(folder: Path, n_answer: float, first_output_ms: float | None) -> Summary:
    """Sum up two requests whose model reasoned first, and said something in one or in both."""
    write_rows(folder, [used(), used()])
    ttft = {"unit": "ms", "avg": 20.0, "p50": 20.0, "p95": 20.0, "p99": 20.0, "count": 2}
    later = dict.fromkeys(("avg", "p50", "p95", "p99"), first_output_ms)
    more: dict[str, Any] = {} if first_output_ms is None else {
        "time_to_first_output_token": ttft | later,
        "output_token_count": {"unit": "tokens", "avg": n_answer, "count": 1},
    }  # fmt: skip
    reasoning = {"unit": "tokens", "avg": 6.0, "count": 2}
    write_aggregate(folder, 2, time_to_first_token=ttft, reasoning_token_count=reasoning, **more)
    return summarize(read_run(folder))


def test_the_first_token_after_reasoning_stands_beside_ttft(tmp_path: Path) -> None:
    summary = reasoned(tmp_path, 4.0, first_output_ms=44.5)
    for text in (summary_text, summary_md):
        lines = [x.lstrip("| ") for x in text(summary, judged(summary), "").splitlines()]
        titles = [x for x in lines if x.startswith(("TTFT", "Time to First Output", "Request Lat"))]
        assert [x.partition("  ")[0].partition(" |")[0] for x in titles] == [
            "TTFT", "Time to First Output Token", "Request Latency"
        ]  # fmt: skip
    first, second = summary_tsv(summary, judged(summary)).split("\n\n")
    assert len(first.splitlines()) == 4
    rows = second.splitlines()
    verdict = rows.index("Verdict\tVALID\t")
    assert rows[verdict - 2 : verdict] == [
        "Time to First Output Token p50\t44.50\tms",
        "Time to First Output Token p95\t44.50\tms",
    ]


def test_tokens_of_reasoning_are_counted_apart(tmp_path: Path) -> None:
    """Both are means over all successful requests, the one that only reasoned included."""
    summary = reasoned(tmp_path, 4.0, first_output_ms=44.5)
    second = summary_tsv(summary, judged(summary)).split("\n\n")[1].splitlines()
    assert second[5:7] == [
        "Reasoning Tokens\t6.00\ttokens/request",
        "Output Tokens without Reasoning\t2.00\ttokens/request",
    ]
    assert "**Reasoning Tokens**: " in summary_md(summary, judged(summary), "")


def test_a_model_that_only_reasons_has_no_first_output_token(tmp_path: Path) -> None:
    summary = reasoned(tmp_path, 0.0, first_output_ms=None)
    assert summary.first_output is None
    assert [rate.value for rate in summary.reasoning] == [6.0, 0.0]


def test_a_model_that_does_not_reason_has_neither() -> None:
    summary = summarize(read_run(GOLDEN / "clean"))
    assert (summary.first_output, summary.reasoning) == (None, ())


def test_guessed_units_are_told(tmp_path: Path) -> None:
    (note,) = [note for note in summary_of(tmp_path, [used(unit=None)]).notes if "guessed" in note]
    assert "TTFT, Request Latency, Inter-Token Latency" in note


def test_malformed_rows_are_told_by_file_and_line(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, [used(), *["null"] * 12])
    (note,) = [note for note in summary.notes if "left out" in note]
    assert "profile_export.jsonl:2: Expected `object`, got `null`" in note
    assert note.endswith("and 2 more")


def test_a_warm_up_that_failed_is_told(tmp_path: Path) -> None:
    lines = [failed(429, "slow down", phase="warmup"), warmup(), used()]
    assert any(
        note.startswith("1 of 2 warm-up requests failed: HTTP 429 Server Error: slow down")
        for note in summary_of(tmp_path, lines).notes
    )


def test_the_tsv_has_exactly_the_promised_form() -> None:
    summary = summarize(read_run(GOLDEN / "failed"))
    verdict = judged(summary)
    first, second = summary_tsv(summary, verdict).split("\n\n")
    rows = [line.split("\t") for line in first.split("\n")]
    assert rows[0] == ["metric", "p50_ms", "p95_ms", "p99_ms", "avg_ms", "count", "errors"]
    assert [row[0] for row in rows[1:]] == ["TTFT", "Request Latency", "Inter-Token Latency"]
    for row in rows[1:]:
        assert all(math.isfinite(float(cell)) for cell in row[1:])
        assert [len(cell.partition(".")[2]) for cell in row[1:]] == [2, 2, 2, 2, 0, 0]
    lines = [line.split("\t") for line in second.rstrip("\n").split("\n")]
    assert lines[0] == ["metric", "value", "unit"]
    assert [(line[0], line[2]) for line in lines[1:5]] == [(m.title, m.unit) for m in RATES]
    assert lines[5] == ["Verdict", "INVALID", ""]
    notes = (*verdict.texts, *summary.notes, summary.thin_note)
    assert lines[6:] == [["Note", note, ""] for note in notes]


def test_the_markdown_has_the_verdict_first_and_every_definition() -> None:
    summary = summarize(read_run(GOLDEN / "failed"))
    text = summary_md(summary, judged(summary), "the run in one line")
    parts = ["# INVALID", "requests failed", "the run in one line", "| TTFT |", "| Error Rate |"]
    places = [text.index(part) for part in [*parts, "## Errors", "## What the figures mean"]]
    assert places == sorted(places)
    for metric in (*LATENCIES, *RATES):
        assert f"**{metric.title}**: {metric.definition}" in text


def test_what_a_server_said_cannot_break_the_markdown(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, [failed(500, "`x` | <b>bold</b>\n# heading")])
    (line,) = [x for x in summary_md(summary, judged(summary), "").splitlines() if "bold" in x]
    assert line == "| 1 | `HTTP 500 Server Error: 'x' \\| <b>bold</b> # heading` |"


def test_the_run_is_told_from_its_manifest(tmp_path: Path) -> None:
    manifest = {
        "name": "ISL100_OSL200_CON4",
        "model": "速い-model",
        "endpoint": {"url": "http://127.0.0.1:8080", "version": None},
        "plan": {"concurrency": 4, "n_requests": 12, "seed": 7},
        "machine": {"cpu": "Example CPU", "n_cpus": 2, "gpus": []},
        "started": "2026-11-21T03:22:14Z",
    }
    (tmp_path / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert about_line(tmp_path) == (
        "速い-model at http://127.0.0.1:8080 · concurrency 4 · 12 requests · ISL100_OSL200_CON4"
        " · from Example CPU, 2 CPUs · 2026-11-21T03:22:14Z"
    )


@pytest.mark.parametrize("manifest", ["{}", '{"model": 7}', '{"plan": null}'])
def test_a_manifest_that_tells_nothing_leaves_the_folders_name(
    tmp_path: Path, manifest: str
) -> None:
    (tmp_path / "run.json").write_text(manifest)
    assert about_line(tmp_path) == tmp_path.name


def test_a_run_of_plain_aiperf_is_told_from_its_aggregate() -> None:
    line = about_line(GOLDEN / "clean", read_run(GOLDEN / "clean").facts)
    assert line.startswith("simulated at http://127.0.0.1:")
    assert "concurrency 4 · 24 requests · AIPerf 0." in line


def test_the_aggregate_of_an_unknown_load_still_gives_figures(tmp_path: Path) -> None:
    stat = {"unit": "sec", "avg": 0.5, "p50": 0.25, "count": 3.0}
    write_aggregate(tmp_path, 3, request_latency=stat, input_config={"phases": "?"})
    latency = summarize(read_run(tmp_path)).latency(LATENCIES[1])
    assert (latency.p50_ms, latency.p95_ms, latency.avg_ms, latency.n) == (250.0, None, 500.0, 3)
