"""The profile verb as a process: real AIPerf against the simulator, and every way it can end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Simulator, simulator

ROOT = Path(__file__).parent.parent
KEY = """sk-secret#1$x"q'b`;k"""
NAME = "ISL100_OSL10_CON2"
SMALL = {"OUTPUT_TOKENS_MEAN": "10", "CONCURRENCY": "2", "REQUEST_COUNT": "6"}


def command(mode: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "run_profile.py"), mode]


def environment(folder: Path, url: str, **changes: str) -> dict[str, str]:
    """Return an environment in which nothing of the machine's own settings counts."""
    (folder / ".env").touch()
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    here = {"ARTIFACTS_DIR": str(folder / "artifacts"), "ENV_FILE": str(folder / ".env")}
    return {**kept, **here, **SMALL, "MODEL": "sim", "AIPERF_URL": url, **changes}


def run(folder: Path, url: str, mode: str = "profile", **changes: str) -> Any:
    return subprocess.run(
        command(mode),
        cwd=folder,
        env=environment(folder, url, **changes),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def manifest(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    with simulator("--model", "sim", "--ttft-ms", "10", "--itl-ms", "2") as running:
        yield running


class TestDryRun:
    """What would be run, as one would type it; nothing is asked and nothing is run."""

    @pytest.mark.parametrize(
        ("url", "told"),
        [
            ("", "--url https://api.openai.com "),
            ("http://127.0.0.1:9/v1", "--url http://127.0.0.1:9 "),
            ("http://127.0.0.1:9", "--url http://127.0.0.1:9 "),
        ],
    )
    def test_prints_the_command_and_no_key(self, tmp_path: Path, url: str, told: str) -> None:
        done = run(tmp_path, url, DRY_RUN="1", OPENAI_API_KEY="lab-secret", MODEL="gpt-4o")
        assert done.returncode == 0, done.stderr
        assert told in done.stdout
        assert "export AIPERF_SERVICE_REGISTRATION_TIMEOUT=120.0" in done.stdout
        assert "lab-secret" not in done.stdout + done.stderr
        assert not (tmp_path / "artifacts").exists()

    def test_of_a_sweep_shows_every_point(self, tmp_path: Path) -> None:
        points = {"SWEEP_CONCURRENCIES": "1,4", "DRY_RUN": "1"}
        done = run(tmp_path, "http://127.0.0.1:9", "sweep", **points)
        assert done.stdout.count("aiperf profile") == 2
        assert "--concurrency 4 " in done.stdout


@pytest.mark.engine
def test_a_finished_run_is_published_and_the_first_is_archived(
    tmp_path: Path, server: Simulator
) -> None:
    first = run(tmp_path, server.url)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("VALID  sim at ")
    folder = tmp_path / "artifacts" / NAME
    told = manifest(folder)
    assert told["verdict"] == {"level": "VALID", "reasons": []}
    assert told["tokenizer"]["source"] == "fallback"
    assert told["versions"]["aiperf"] == "0.13.0"
    assert told["plan"]["n_warmup"] == 2
    assert (folder / "summary.tsv").read_text().startswith("metric\tp50_ms\tp95_ms")
    assert "--api-key" not in (folder / "command.txt").read_text()
    second = run(tmp_path, server.url)
    assert second.returncode == 0, second.stderr
    archived = list((tmp_path / "artifacts" / "archive" / NAME).iterdir())
    assert [manifest(kept)["started"] for kept in archived] == [told["started"]]
    assert manifest(folder)["started"] > told["started"]
    assert manifest(folder)["plan"]["seed"] != told["plan"]["seed"]


@pytest.mark.engine
def test_japanese_prompts_are_sent_as_they_stand(tmp_path: Path, server: Simulator) -> None:
    prompts = tmp_path / "日本 語.jsonl"
    prompts.write_text('{"text": "富士山の高さは？", "output_length": 7}\n' * 6, encoding="utf-8")
    done = run(tmp_path, server.url, INPUT_FILE=str(prompts), WARMUP_REQUESTS="0")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "artifacts" / "FILE-日本-語_OSL10_CON2"
    sent = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    payload = sent["data"][0]["payloads"][0]
    assert payload["messages"][0]["content"] == "富士山の高さは？"
    assert payload["max_completion_tokens"] == 7
    assert manifest(folder)["prompts_hash"].startswith("sha256:")


class Watch:
    """Looks for a text on every process's argv, ten times a second, while a block runs."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.n_looks = 0
        self.found: list[bytes] = []
        self.found_last = True  # in the last look; nobody has looked yet
        self.ended = threading.Event()

    def __enter__(self) -> Watch:
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.ended.wait(0.1):
            self.n_looks += 1
            n_before = len(self.found)
            for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = cmdline.read_bytes()
                except OSError:
                    continue
                if self.text in words:
                    self.found.append(words)
            self.found_last = len(self.found) > n_before


def files_with(text: str, folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in files if text.encode() in path.read_bytes()]


@pytest.mark.engine
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="argv of other processes is read in /proc")
def test_the_key_is_on_no_argv_in_no_file_and_not_in_the_output(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY}\r\n", encoding="utf-8-sig")
    with simulator("--model", "sim", "--echo-key", key=KEY) as server:
        with Watch(KEY) as watch:
            done = run(tmp_path, server.url)
        assert done.returncode == 0, done.stderr
    assert watch.n_looks > 10
    assert watch.found == []
    assert files_with(KEY, tmp_path) == [str(tmp_path / ".env")]
    assert KEY not in done.stdout + done.stderr


@pytest.mark.engine
def test_a_key_that_the_server_repeats_is_in_no_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY}\n")
    faults = ("--fail-share", "0.6", "--fail-status", "400")
    with simulator("--model", "sim", "--echo-key", *faults, key=KEY) as server:
        done = run(tmp_path, server.url, REQUEST_COUNT="12", USE_SERVER_TOKEN_COUNT="0")
    assert done.returncode == 1, done.stderr
    assert "Simulated failure: ***" in done.stdout
    for shape in (KEY, json.dumps(KEY)[1:-1], repr(KEY)[1:-1]):
        assert files_with(shape, tmp_path / "artifacts") == []
        assert shape not in done.stdout + done.stderr


@pytest.mark.engine
def test_when_it_is_killed_aiperf_ends_and_the_next_run_tells_what_was_left(
    tmp_path: Path,
) -> None:
    with simulator("--model", "sim", "--ttft-ms", "100", "--itl-ms", "20") as server:
        process = subprocess.Popen(
            command("profile"),
            cwd=tmp_path,
            env=environment(tmp_path, server.url, REQUEST_COUNT="500"),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        server.truths(at_least=8)
        process.kill()
        process.wait()
        with Watch("launch_aiperf.py") as watch:
            deadline_s = time.monotonic() + 30
            while time.monotonic() < deadline_s and watch.found_last:
                time.sleep(0.1)
        assert not watch.found_last
        assert not (tmp_path / "artifacts" / NAME).exists()
        done = run(tmp_path, server.url)
    assert done.returncode == 0, done.stderr
    assert "an unfinished run of this name was there" in done.stderr
    assert [p.suffix for p in (tmp_path / "artifacts/archive" / NAME).iterdir()] == [".partial"]


@pytest.mark.engine
def test_when_aiperf_fails_its_own_reason_is_told(tmp_path: Path, server: Simulator) -> None:
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "tokenizer.json").write_text("{}")
    done = run(tmp_path, server.url, TOKENIZER=str(tmp_path / "tok"))
    assert done.returncode == 3, done.stderr
    assert "AIPerf: ended with status 1: " in done.stderr
    assert "tok" in done.stderr.splitlines()[-1].partition("status 1: ")[2]


@pytest.mark.engine
def test_a_wrong_key_is_told_before_aiperf_starts_and_never_shown(tmp_path: Path) -> None:
    with simulator("--model", "sim", "--echo-key", key="right") as server:
        done = run(tmp_path, server.url, OPENAI_API_KEY="wrong-key-0123456789")
    assert done.returncode == 3
    assert "401" in done.stderr
    assert "OPENAI_API_KEY" in done.stderr
    assert "wrong-key-0123456789" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "artifacts").exists()


def test_a_load_that_this_machine_cannot_hold_is_told_before_the_server_is_asked(
    tmp_path: Path,
) -> None:
    for load in ({"CONCURRENCY": "99999999", "REQUEST_COUNT": ""}, {"REQUEST_RATE": "1e12"}):
        done = run(tmp_path, "http://127.0.0.1:9", **{"REQUEST_COUNT": "", **load})
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: disk: ")
        assert "are needed" in done.stderr


def test_a_dead_server_is_told_before_aiperf_starts(tmp_path: Path) -> None:
    started_s = time.monotonic()
    done = run(tmp_path, "http://127.0.0.1:9")
    assert time.monotonic() - started_s < 10
    assert done.returncode == 3
    assert "refused" in done.stderr
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.engine
def test_a_run_with_many_failures_is_invalid_and_says_why(tmp_path: Path) -> None:
    faults = ("--fail-share", "0.6", "--fail-status", "500")
    with simulator("--model", "sim", *faults) as server:
        done = run(tmp_path, server.url, REQUEST_COUNT="30", USE_SERVER_TOKEN_COUNT="0")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("INVALID")
    assert "% of requests failed" in done.stdout
    assert "HTTP 500" in done.stdout
    assert manifest(tmp_path / "artifacts" / NAME)["verdict"]["level"] == "INVALID"


@pytest.mark.engine
def test_when_every_request_fails_the_cause_is_told_and_nothing_is_published(
    tmp_path: Path,
) -> None:
    faults = ("--after-requests", "1", "--fail-share", "1", "--fail-status", "400")
    with simulator("--model", "sim", *faults) as server:  # the first is asked before the run
        done = run(tmp_path, server.url)
    assert done.returncode == 3, done.stderr
    assert "all 6 requests failed: HTTP 400" in done.stderr
    assert not (tmp_path / "artifacts" / NAME).exists()
    assert manifest(tmp_path / "artifacts" / f"{NAME}.partial")["verdict"]["level"] == "INVALID"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("--unknown-model-404", "did you mean Sim?"),
        ("--not-streaming", "does not stream"),
        ("--reject-extra", "Unsupported parameter: 'ignore_eos'"),
    ],
)
def test_what_every_request_would_meet_is_told_before_aiperf_starts(
    tmp_path: Path, fault: str, told: str
) -> None:
    with simulator("--model", "Sim", fault) as server:
        done = run(tmp_path, server.url, TOKENIZER="builtin", EXTRA_INPUTS="ignore_eos:true")
    assert done.returncode == 3
    assert told in done.stderr
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.engine
def test_a_server_of_the_old_limit_is_asked_with_it(tmp_path: Path) -> None:
    with simulator("--model", "sim", "--only-max-tokens") as server:
        done = run(tmp_path, server.url)
    assert done.returncode == 0, done.stderr
    assert "note: the server takes no max_completion_tokens: max_tokens is sent" in done.stderr
    told = (tmp_path / "artifacts" / NAME / "command.txt").read_text()
    assert "--use-legacy-max-tokens" in told


@pytest.mark.engine
@pytest.mark.parametrize("request_to_stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_it_keeps_what_it_has_and_the_earlier_result(
    tmp_path: Path, request_to_stop: signal.Signals
) -> None:
    earlier = tmp_path / "artifacts" / NAME
    earlier.mkdir(parents=True)
    (earlier / "run.json").write_text('{"started": "2026-01-01T00:00:00Z"}')
    with simulator("--model", "sim", "--ttft-ms", "100", "--itl-ms", "20") as server:
        process = subprocess.Popen(
            command("profile"),
            cwd=tmp_path,
            env=environment(tmp_path, server.url, REQUEST_COUNT="200"),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        server.truths(at_least=8)  # warm-up is over, requests are being measured
        process.send_signal(request_to_stop)
        _, talk = process.communicate(timeout=60)
    assert process.returncode == 130, talk
    assert "interrupted" in talk
    assert [path.name for path in earlier.iterdir()] == ["run.json"]
    partial = earlier.with_name(f"{NAME}.partial")
    assert manifest(partial)["verdict"]["level"] == "INVALID"
    assert "Verdict\tINVALID" in (partial / "summary.tsv").read_text()


@pytest.mark.engine
def test_a_sweep_goes_on_past_a_failed_point_and_shows_the_gap(tmp_path: Path) -> None:
    (tmp_path / "sweep_summary.tsv").write_text("of an earlier sweep\n")
    with simulator("--model", "sim", "--fail-above", "3", "--itl-ms", "5") as server:
        points = {"SWEEP_CONCURRENCIES": "1,20,2", "REQUEST_COUNT": "", "CONCURRENCY": ""}
        done = run(tmp_path, server.url, "sweep", **points)
    assert done.returncode == 1, done.stderr
    for words in ("[1/3] CON=1", "[2/3] CON=20", "[3/3] CON=2"):
        assert words in done.stderr
    rows = [line.split("\t") for line in (tmp_path / "sweep_summary.tsv").read_text().splitlines()]
    verdicts = {row[0]: row[rows[0].index("verdict")] for row in rows[1:]}
    assert verdicts["1"] == "VALID"
    assert verdicts["2"] == "VALID"
    assert verdicts["20"] in ("INVALID", "FAILED")
    assert len({len(row) for row in rows}) == 1
    assert "CON=20" in done.stdout
    assert "* p95 of fewer than 20 requests is little more than the slowest" in done.stdout
    assert (tmp_path / "sweep_summary.md").exists()
    earlier = tmp_path / "artifacts" / "archive" / "sweep_summary"
    assert sorted(path.suffix for path in earlier.iterdir()) == [".tsv"]


def test_a_configuration_with_problems_tells_them_all_and_runs_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "ftp://x", CONCURRENCY="zero", OUTPUT_TOKENS_MEAN="-1")
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 3
    assert "AIPERF_URL: ftp:// is not measured" in done.stderr
    assert "CONCURRENCY" in done.stderr
    assert "OUTPUT_TOKENS_MEAN" in done.stderr


def test_a_bad_prompt_file_is_told_before_the_run(tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "a"}\n')
    done = run(tmp_path, "http://127.0.0.1:9", INPUT_FILE=str(prompts))
    assert done.returncode == 2
    assert 'did you mean "text"?' in done.stderr


@pytest.mark.parametrize("words", [[], ["profil"], ["profile", "profile"]])
def test_a_wrong_mode_is_a_usage_error(tmp_path: Path, words: list[str]) -> None:
    done = subprocess.run(
        [*command("x")[:2], *words],
        env=environment(tmp_path, "http://127.0.0.1:9"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "MODE" in done.stderr
