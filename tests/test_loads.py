"""Loads other than users who wait: rates, durations, several servers, timestamps, conversations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers import simulator

ROOT = Path(__file__).parent.parent
KEY = "lab-secret-0123456789"
QUICK = ("--model", "sim", "--ttft-ms", "10", "--itl-ms", "2")


def profile(folder: Path, url: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a profile in an environment in which nothing of the machine's own settings counts."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    (folder / ".env").touch()
    here = {"ARTIFACTS_DIR": str(folder / "artifacts"), "ENV_FILE": str(folder / ".env")}
    load = {"OUTPUT_TOKENS_MEAN": "5", "MODEL": "sim", "AIPERF_URL": url, "WARMUP_REQUESTS": "0"}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/run_profile.py"), "profile"],
        cwd=folder,
        env={**kept, **here, **load, **changes},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def plan_of(folder: Path, name: str) -> Any:
    return json.loads((folder / "artifacts" / name / "run.json").read_text(encoding="utf-8"))[
        "plan"
    ]


@pytest.mark.engine
def test_a_rate_for_a_time_over_two_servers_with_one_key(tmp_path: Path) -> None:
    load = {"REQUEST_RATE": "10", "ARRIVAL_PATTERN": "constant", "BENCHMARK_DURATION": "2"}
    with simulator(*QUICK, key=KEY) as one, simulator(*QUICK, "--echo-key", key=KEY) as two:
        done = profile(tmp_path, one.url, MORE_URLS=two.url, OPENAI_API_KEY=KEY, **load)
        assert done.returncode in (0, 1), done.stderr
        truths = one.truths(), two.truths()
    # Of each server's requests one was the look before the run.
    n_one, n_two = (len(rows) - 1 for rows in truths)
    assert abs(n_one - n_two) <= 1
    assert 4 <= n_one + n_two <= 21
    assert {row.status for rows in truths for row in rows} == {200}
    assert f"sim at {one.url}, {two.url} · 10 requests/s (constant) · 2 s · " in done.stdout
    plan = plan_of(tmp_path, "ISL100_OSL5_RATE10-constant_2S_URLS2")
    assert (plan["concurrency"], plan["n_requests"]) == (None, None)
    files = [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in done.stdout + done.stderr


@pytest.mark.engine
def test_timestamps_are_followed_and_every_line_is_sent_once(tmp_path: Path) -> None:
    prompts = tmp_path / "trace.jsonl"
    prompts.write_text(
        '{"text": "a", "timestamp": 5000, "output_length": 3}\n'
        '{"text": "b", "timestamp": 6500, "session_id": "x"}\n'
        '{"text": "c", "timestamp": 7500}\n'
        '{"text": "d", "session_id": "x", "delay": 100}\n'
    )
    with simulator(*QUICK) as server:
        done = profile(tmp_path, server.url, INPUT_FILE=str(prompts))
        assert done.returncode == 0, done.stderr
        sent = sorted(row.arrival_ns for row in server.truths())[1:]  # after the look
    assert "Prompts: 4 in 3 conversations, with timestamps in " in done.stderr
    assert "4 requests, at their timestamps" in done.stderr
    assert len(sent) == 4
    assert (sent[-1] - sent[0]) / 1e9 > 1.5  # of 2.5 s; unfollowed they take 0.1 s
    assert plan_of(tmp_path, "FILE-trace_OSL5_TIMED")["follows_timestamps"]


@pytest.mark.engine
def test_conversations_are_played_to_their_end(tmp_path: Path) -> None:
    prompts = tmp_path / "talks.jsonl"
    prompts.write_text(
        '{"turns": [{"role": "system", "text": "s"}, {"text": "a"}, {"text": "b"}]}\n'
        '{"turns": [{"text": "c"}, {"text": "d", "delay": 50}, {"text": "e"}, {"text": "f"}]}\n'
    )
    changes = {"CUSTOM_DATASET_TYPE": "multi_turn", "CONCURRENCY": "2"}
    with simulator(*QUICK) as server:
        done = profile(tmp_path, server.url, INPUT_FILE=str(prompts), **changes)
        assert done.returncode == 0, done.stderr
    assert "Prompts: 6 in 2 conversations in " in done.stderr
    assert "6 conversations, 2 at a time" in done.stderr
    rows = (tmp_path / "artifacts/FILE-talks_OSL5_CON2/profile_export.jsonl").read_text()
    turns = [json.loads(row)["metadata"]["turn_index"] for row in rows.splitlines()]
    # Each of the two is played three times: two turns and four.
    assert sorted(turns) == [0] * 6 + [1] * 6 + [2] * 3 + [3] * 3
