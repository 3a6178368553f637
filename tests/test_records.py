"""Records: every row is accounted for, units are AIPerf's, and nothing is guessed in silence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DataError, UsageError
from harness.export import rows as export_rows
from harness.records import Counts, read_run
from tests.exports import (
    AGGREGATE,
    GOLDEN,
    ROWS,
    Line,
    cancelled,
    failed,
    used,
    warmup,
    write_aggregate,
    write_phases,
    write_rows,
)

TTFT = "time_to_first_token"
LATENCY = "request_latency"
CUT_OFF = json.dumps(used())[:-20]
KINDS: dict[str, list[Line]] = {
    "used": [used(), used(1, 2, "sec"), used(5, 10, None)],
    "warmup": [warmup(), failed(phase="warmup")],
    "failed": [failed(), failed(None), {"metadata": {}, "metrics": {}}],
    "cancelled": [cancelled(), failed(499)],
    "malformed": [CUT_OFF, b'{"metrics": "\xff\xfe"}', "null", "7", "[]", "{}", '{"metrics": 1}',
                  json.dumps(used()).replace("20.0", "NaN"), json.dumps(used(unit="days")),
                  json.dumps(used()) * 2],
}  # fmt: skip
MIXED = st.lists(
    st.sampled_from([(kind, n) for kind, lines in KINDS.items() for n in range(len(lines))])
)


@settings(deadline=None)
@given(MIXED)
def test_every_row_is_accounted_for(picked: list[tuple[str, int]]) -> None:
    lines: list[Line] = [KINDS[kind][n] for kind, n in picked]
    lines.append(used())  # one usable row at least
    kinds = [kind for kind, _ in picked] + ["used"]
    with TemporaryDirectory() as folder:
        records = read_run(write_rows(Path(folder), lines))
    assert records.counts.n_read == len(lines)
    for kind in KINDS:
        assert getattr(records.counts, f"n_{kind}") == kinds.count(kind), kind
    assert sum(group.n for group in records.errors) == records.n_failed
    assert len(records.columns[TTFT]) == len(records.started_ns) == records.n_used


def test_a_long_export_is_read_the_same_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[Line] = [
        failed(),
        CUT_OFF,
        "",
        *[used(ttft_ms=i) for i in range(1, 60)],
        warmup(),
        "null",
    ]
    whole = read_run(write_rows(tmp_path, lines))
    monkeypatch.setattr(export_rows, "_BLOCK_BYTES", 700)
    in_blocks = read_run(tmp_path)
    assert repr(in_blocks) == repr(whole)  # NaN is not equal to itself
    assert whole.malformed == (
        f"{ROWS}:2: Input data was truncated",
        f"{ROWS}:64: Expected `object`, got `null`",
    )


def test_a_last_line_that_was_cut_off_is_named_and_the_others_count(tmp_path: Path) -> None:
    folder = write_rows(tmp_path, [used(), used()])
    with (folder / ROWS).open("ab") as file:
        file.write(CUT_OFF.encode())
    records = read_run(folder)
    assert (records.n_used, records.counts.n_malformed) == (2, 1)
    assert records.malformed == (f"{ROWS}:3: Input data was truncated",)


def test_only_the_first_malformed_rows_are_named_but_all_are_counted(tmp_path: Path) -> None:
    records = read_run(write_rows(tmp_path, [used(), *["null"] * 25]))
    assert (records.counts.n_malformed, len(records.malformed)) == (25, 10)


def test_deeply_nested_lines_are_malformed_not_fatal(tmp_path: Path) -> None:
    bomb = '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    assert read_run(write_rows(tmp_path, [bomb, used()])).counts.n_malformed == 1


def test_windows_line_ends_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    text = json.dumps(used())
    records = read_run(write_rows(tmp_path, [text + "\r", "", "   ", text + "\r", "\r"]))
    assert (records.counts.n_read, records.n_used) == (2, 2)


@pytest.mark.parametrize(
    ("value", "unit", "ms"),
    [
        (20.5, "ms", 20.5),
        (20.5, "milliseconds", 20.5),
        (2_050_000, "ns", 2.05),
        (2_050, "us", 2.05),
        (0.5, "sec", 500.0),
        (3, "s", 3000.0),
        (0.006, "ms", 0.006),  # real on a server that sends in bursts: no rule may touch it
        (2e9, "ms", 2e9),
    ],
)
def test_units_come_from_the_export(tmp_path: Path, value: float, unit: str, ms: float) -> None:
    records = read_run(write_rows(tmp_path, [used(value, value, unit)]))
    assert records.columns[TTFT][0] == pytest.approx(ms)
    assert not records.guessed


@pytest.mark.parametrize(
    ("value", "ms"),
    [(2_000_000_000, 2000.0), (1e9, 1e9), (0.5, 500.0), (1, 1.0), (20.5, 20.5), (0, 0.0)],
)
def test_only_values_without_a_unit_are_guessed_and_the_records_say_so(
    tmp_path: Path, value: float, ms: float
) -> None:
    records = read_run(write_rows(tmp_path, [used(value, value, None)]))
    assert records.columns[TTFT][0] == pytest.approx(ms)
    assert TTFT in records.guessed


def test_an_unknown_unit_is_never_guessed(tmp_path: Path) -> None:
    records = read_run(write_rows(tmp_path, [used(), used(unit="fortnights")]))
    assert records.counts.n_malformed == 1
    assert "fortnights" in records.malformed[0]


def test_a_metric_that_a_row_lacks_is_absent_not_zero(tmp_path: Path) -> None:
    row = used()
    row["metrics"] = {LATENCY: {"value": 5.0, "unit": "ms"}, TTFT: {"value": None, "unit": "ms"}}
    records = read_run(write_rows(tmp_path, [row]))
    assert records.columns[LATENCY][0] == 5.0
    assert math.isnan(records.columns[TTFT][0])


def test_errors_that_differ_in_numbers_only_are_one_group(tmp_path: Path) -> None:
    lines = [used(), failed(500, "no slot 17 for req-8f3a2b9c"), failed(503, "no slot 17"),
             *[failed(500, f"no slot {n} for req-{n:08x}") for n in range(5)]]  # fmt: skip
    groups = read_run(write_rows(tmp_path, lines)).errors
    assert [(group.code, group.n) for group in groups] == [(500, 6), (503, 1)]
    assert groups[0].text == "HTTP 500 Server Error: no slot 17 for req-8f3a2b9c"


def test_a_server_with_a_new_error_each_time_does_not_fill_the_memory(tmp_path: Path) -> None:
    words = ["".join(chr(97 + (n >> s) % 16) for s in (0, 4, 8)) for n in range(400)]
    records = read_run(write_rows(tmp_path, [failed(500, f"error {word}") for word in words]))
    assert len(records.errors) <= 51
    assert sum(group.n for group in records.errors) == 400


def test_a_request_that_ran_out_of_time_says_so(tmp_path: Path) -> None:
    error = {"type": "TimeoutError", "message": "TimeoutError()", "cause": "CancelledError()"}
    row = failed(None) | {"error": error}  # as AIPerf 0.13.0 writes it
    (group,) = read_run(write_rows(tmp_path, [row, row])).errors
    told = "no answer within the time limit (REQUEST_TIMEOUT_SECONDS)"
    assert (group.n, group.message, group.text) == (2, told, f"TimeoutError: {told}")


def test_an_error_body_tells_its_message(tmp_path: Path) -> None:
    body = '{\n  "error": {"message": "out of memory", "type": "server_error"}\n}'
    (group,) = read_run(write_rows(tmp_path, [failed(500, body)])).errors
    assert group.text == "HTTP 500 Server Error: out of memory"


def test_secrets_in_error_messages_are_taken_out(tmp_path: Path) -> None:
    folder = write_rows(tmp_path, [failed(401, "bad key sk-0123456789abcdef0123, said secret7")])
    (masked,) = read_run(folder).errors
    (scrubbed,) = read_run(folder, lambda text: text.replace("secret7", "***")).errors
    assert "0123456789abcdef" not in masked.message
    assert "secret7" not in scrubbed.message


def test_warm_up_errors_are_kept_apart(tmp_path: Path) -> None:
    records = read_run(write_rows(tmp_path, [failed(phase="warmup"), warmup(), used()]))
    assert (records.counts.n_warmup, records.n_failed, records.errors) == (2, 0, ())
    assert [group.n for group in records.warmup_errors] == [1]


def test_a_legacy_array_of_bare_numbers_is_read_by_magnitude(tmp_path: Path) -> None:
    items = [
        {TTFT: 2_000_000_000, LATENCY: 3_000_000_000},
        {"metrics": {TTFT: 0.5, LATENCY: 700}},
        {"error": "boom"},
        17,
    ]
    (tmp_path / "profile_export.json").write_text(json.dumps(items))
    records = read_run(tmp_path)
    assert records.columns[TTFT].tolist() == pytest.approx([2000.0, 500.0])
    assert (records.counts.n_read, records.n_used, records.counts.n_malformed) == (4, 2, 2)
    assert records.malformed[1].startswith("profile_export.json: item 4: ")
    assert records.incomplete == ""


def test_a_bare_number_among_rows_with_units_is_read_too(tmp_path: Path) -> None:
    records = read_run(write_rows(tmp_path, [used(), {"metrics": {TTFT: 7, LATENCY: 9}}]))
    assert records.columns[TTFT].tolist() == [20.0, 7.0]


def test_an_aggregate_alone_gives_aiperfs_own_percentiles(tmp_path: Path) -> None:
    text = (GOLDEN / "failed" / AGGREGATE).read_text()
    (tmp_path / AGGREGATE).write_text(text)
    theirs = json.loads(text)
    records = read_run(tmp_path)
    assert records.facts
    assert records.source == AGGREGATE
    assert records.n_used == theirs["request_count"]["avg"]
    assert records.n_failed == theirs["error_request_count"]["avg"] > 0
    assert records.facts.spreads[TTFT].p95_ms == theirs[TTFT]["p95"]
    assert sum(group.n for group in records.errors) == records.n_failed


def test_counts_in_which_a_row_is_lost_or_counted_twice_cannot_be_made() -> None:
    Counts(n_read=15, n_used=1, n_warmup=2, n_failed=3, n_cancelled=4, n_malformed=5)
    for n_read in (14, 16):
        with pytest.raises(ValueError, match="lost or counted twice"):
            Counts(n_read, n_used=1, n_warmup=2, n_failed=3, n_cancelled=4, n_malformed=5)


@pytest.mark.parametrize("source", ["aggregate", "phases"])
def test_rows_that_were_counted_by_aiperf_but_cannot_be_read_leave_the_run_incomplete(
    tmp_path: Path, source: str
) -> None:
    write_rows(tmp_path, [used(), used(), *["null"] * 22])
    if source == "aggregate":
        write_aggregate(tmp_path, n_used=24)
    else:
        write_phases(tmp_path, n_requests=24)
    records = read_run(tmp_path)
    assert (records.n_used, records.counts.n_malformed) == (2, 22)
    assert "22 of 24" in records.incomplete
    assert "rows are unreadable" in records.incomplete


def test_an_unreadable_row_of_the_warm_up_leaves_the_run_complete(tmp_path: Path) -> None:
    write_rows(tmp_path, ["null", used()])
    write_aggregate(tmp_path, n_used=1)
    records = read_run(tmp_path)
    assert (records.counts.n_malformed, records.incomplete) == (1, "")


def test_an_aggregate_of_fewer_requests_than_rows_is_of_another_run(tmp_path: Path) -> None:
    write_rows(tmp_path, [used(), used(), "null"])
    write_aggregate(tmp_path, n_used=1)
    assert read_run(tmp_path).facts is None


def test_an_aggregate_of_an_earlier_run_is_not_used(tmp_path: Path) -> None:
    write_rows(tmp_path, [used(), failed()])
    write_aggregate(tmp_path, n_used=16)
    records = read_run(tmp_path)
    assert records.facts is None
    assert "another run" in records.notes[0]
    assert "missing" in records.incomplete


def test_requests_that_the_client_gave_up_count_as_failed_in_aiperfs_aggregate() -> None:
    records = read_run(GOLDEN / "given_up")
    assert records.facts is not None
    assert (records.n_failed, records.facts.n_failed) == (0, records.counts.n_cancelled)
    assert records.counts.n_cancelled > 0


def test_a_broken_aggregate_does_not_stop_the_rows_from_being_read(tmp_path: Path) -> None:
    write_rows(tmp_path, [used()])
    (tmp_path / AGGREGATE).write_text('{"request_count": {"av')
    records = read_run(tmp_path)
    assert records.n_used == 1
    assert AGGREGATE in records.notes[0]


def test_rows_without_the_aggregate_are_not_taken_for_a_complete_run(tmp_path: Path) -> None:
    assert AGGREGATE in read_run(write_rows(tmp_path, [used()])).incomplete


def test_a_run_in_which_every_request_failed_is_readable() -> None:
    records = read_run(GOLDEN / "all_failed")
    assert (records.n_used, records.n_failed, records.incomplete) == (0, 6, "")


def test_an_incomplete_run_says_why(tmp_path: Path) -> None:
    write_rows(tmp_path, [used()])
    write_aggregate(tmp_path, 1, is_complete=False, incomplete_reason="records stalled")
    assert read_run(tmp_path).incomplete == "records stalled"


def test_a_cancelled_run_is_known_as_one() -> None:
    assert read_run(GOLDEN / "cancelled").was_cancelled


def test_without_an_aggregate_the_measured_phase_is_aiperfs_list_of_phases(tmp_path: Path) -> None:
    write_rows(tmp_path, [used()])
    write_phases(tmp_path, n_requests=1, length_s=2.5)
    records = read_run(tmp_path)
    assert (records.window_s, records.incomplete) == (2.5, "")


def test_without_both_the_measured_phase_is_the_rows_own(tmp_path: Path) -> None:
    records = read_run(write_rows(tmp_path, [used(latency_ms=50), used(latency_ms=250)]))
    assert records.window_s == pytest.approx(0.25)


def test_a_folder_without_a_result_tells_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "inputs.json").write_text("{}")
    (tmp_path / "logs").mkdir()
    write_rows(tmp_path, ["null"])
    with pytest.raises(DataError) as caught:
        read_run(tmp_path)
    assert "found: inputs.json, logs/, profile_export.jsonl" in caught.value.what
    assert f"{ROWS}:1: " in caught.value.what


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found: nothing"):
        read_run(tmp_path)


def test_a_file_or_a_missing_folder_is_a_wrong_argument(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        read_run(tmp_path / "file")
    with pytest.raises(UsageError, match="does not exist"):
        read_run(tmp_path / "none")


def test_rows_that_cannot_be_opened_are_a_data_error(tmp_path: Path) -> None:
    (tmp_path / ROWS).mkdir()  # a folder in its place: root may open any file
    with pytest.raises(DataError, match="cannot be read"):
        read_run(tmp_path)
