"""Runs whose figures are real and yet not what they seem: real AIPerf against the simulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers import simulator
from tests.test_profile_verb import NAME, manifest, run

SLOW = ("--model", "sim", "--ttft-ms", "60", "--itl-ms", "5")


@pytest.mark.engine
def test_short_answers_from_a_warm_cache_are_suspect_everywhere_and_exit_0(tmp_path: Path) -> None:
    faults = ("--stop-after", "8", "--cached-share", "0.95", "--reasoning-tokens", "3")
    with simulator(*SLOW, *faults) as server:
        done = run(tmp_path, server.url)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "artifacts" / NAME
    told = manifest(folder)["verdict"]
    assert told["level"] == "SUSPECT"
    length, cached = told["reasons"]
    assert length.startswith("6 of 6 answers (100 %) are more than 10 % off")
    assert "min_tokens:10" in length
    assert "from the server's prefix cache" in cached
    texts = (done.stdout, (folder / "summary.md").read_text(), (folder / "summary.tsv").read_text())
    for text in texts:
        assert "SUSPECT" in text
        assert all(reason in text for reason in told["reasons"])
        assert "Time to First Output Token" in text
    tsv = texts[-1]
    assert "Reasoning Tokens\t3.00\ttokens/request\n" in tsv
    assert "Output Tokens without Reasoning\t5.00\ttokens/request\n" in tsv
    figures = {row.split("\t")[0]: row.split("\t")[1] for row in tsv.splitlines() if row}
    waited_ms = float(figures["Time to First Output Token p50"]) - float(figures["TTFT"])
    assert waited_ms > 3 * 5 * 0.8  # three tokens of reasoning came before


@pytest.mark.engine
def test_counts_of_a_stand_in_are_suspect_where_the_server_sends_none(tmp_path: Path) -> None:
    with simulator(*SLOW, "--no-usage") as server:
        done = run(tmp_path, server.url, REQUEST_COUNT="5")
    assert done.returncode == 0, done.stderr
    reasons = manifest(tmp_path / "artifacts" / NAME)["verdict"]["reasons"]
    assert [reason.split(":")[0].split(" (")[0] for reason in reasons] == [
        "token counts are approximate",
        "5 requests at concurrency 2",
    ]
