"""Answers that AIPerf counts as good and that broke off: found in its log, and by their usage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.records import SERVER_OUTPUT, Tokens, read_run
from harness.streams import broken_streams
from harness.summary import Summary, summarize
from harness.verdict import Level, Reason
from tests.exports import GOLDEN, LIMITS

SERVER_COUNTS = {"tokenizer": {"name": "builtin", "server_counts": True}}
LINE = "2026-11-21 - aiperf.common.utils - WARNING - Failed to parse JSON string: '{\"id\"' - …\n"


def clean(n_with_usage: int | None) -> Summary:
    """Return a clean run in which so many answers end with usage, none of them where None."""
    summary = summarize(read_run(GOLDEN / "clean"))
    tokens = {k: v for k, v in summary.evidence.tokens.items() if k != SERVER_OUTPUT}
    if n_with_usage is not None:
        tokens[SERVER_OUTPUT] = Tokens(10.0 * n_with_usage, n_with_usage)
    return replace(summary, evidence=replace(summary.evidence, tokens=tokens))


def found(
    folder: Path, summary: Summary, manifest: dict[str, object] | None = None
) -> tuple[Reason, ...]:
    return broken_streams(folder, summary, LIMITS, manifest or {})


def test_a_clean_run_has_none(tmp_path: Path) -> None:
    summary = clean(n_with_usage=clean(None).n_used)
    assert found(tmp_path, summary, dict(SERVER_COUNTS)) == ()


@pytest.mark.parametrize(("n_without", "level"), [(1, Level.INVALID), (0, None)])
def test_answers_without_the_usage_of_others_broke_off(
    tmp_path: Path, n_without: int, level: Level | None
) -> None:
    n_used = clean(None).n_used
    reasons = found(tmp_path, clean(n_used - n_without))
    assert [reason.level for reason in reasons] == ([level] if level else [])
    if level:
        assert f"1 of {n_used} answers end without usage" in reasons[0].figure


def test_a_server_that_never_sends_usage_breaks_nothing_off(tmp_path: Path) -> None:
    assert found(tmp_path, clean(None)) == ()


def test_where_the_server_was_to_count_every_answer_needs_usage(tmp_path: Path) -> None:
    (reason,) = found(tmp_path, clean(None), dict(SERVER_COUNTS))
    assert reason.level is Level.INVALID


def test_broken_events_are_read_in_aiperfs_log(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "aiperf.log").write_text(LINE * 2)
    (reason,) = found(tmp_path, clean(None))
    assert "events that are no JSON" in reason.figure
    assert "2 lines of logs/aiperf.log" in reason.figure
    assert reason.limit == "MAX_ERROR_RATE 1 %"


def test_one_broken_event_in_many_answers_is_suspect(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "aiperf.log").write_text(LINE * 2)
    summary = clean(None)
    many = replace(summary, counts=replace(summary.counts, n_used=1000, n_read=1000))
    (reason,) = found(tmp_path, many)
    assert reason.level is Level.SUSPECT
