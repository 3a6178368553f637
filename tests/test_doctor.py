"""make doctor: its lines, its JSON, its exit codes, and what each check makes of what it finds."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.connections import Keeping
from harness.doctor import Check, State, as_json, as_text, exit_code, verdict_line
from harness.doctor_endpoint import (
    NAMES,
    check_clock,
    check_connections,
    check_context,
    check_lengths,
    check_limit,
    check_stream,
    check_tokenizer,
)
from harness.doctor_machine import (
    check_disk,
    check_engine,
    check_open_files,
    check_ports,
    check_python,
    check_tmpdir,
)
from harness.endpoint import Reply, Server
from harness.errors import Exit
from harness.probes import Answer
from harness.settings import Settings
from harness.tokenizer import TokenizerChoice
from tests.canned import JSON, Canned, canned, closed_port, hanging_up, self_signed
from tests.servers import simulator

ROOT = Path(__file__).parent.parent
SETTINGS = Settings(model="m")
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
HEARD = Answer(Reply(200, "", EVENTS), "max_completion_tokens", False, (0.1, 0.2), {}, False, "")


def doctor(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the verb in an empty folder, in which nothing of the machine's own settings counts."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/doctor.py"), *words],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def told(folder: Path, url: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """Return the exit status and the checks by name, as --json tells them."""
    named = {"MODEL": "simulated", "AIPERF_URL": url, **environment}
    done = doctor(folder, "--json", **named)
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def states(checks: Mapping[str, Any], state: str) -> list[str]:
    return [name for name in NAMES if name in checks and checks[name]["state"] == state]


# --- the verb ---------------------------------------------------------------------------------


def test_a_healthy_server_passes_every_check(tmp_path: Path) -> None:
    with simulator("--context-tokens", "4096") as server:
        done = doctor(tmp_path, MODEL="simulated", AIPERF_URL=server.url)
        n_tokens = sum(truth.tokens for truth in server.truths())
    assert done.returncode == 0, done.stdout
    assert [line[2] for line in done.stdout.splitlines() if line.startswith("  ")] == ["✓"] * 23
    assert done.stderr.endswith("All is well.\n")
    assert n_tokens < 32


@pytest.mark.parametrize(
    ("options", "failing", "remedy"),
    [
        (("--unknown-model-404", "--model", "Simulated-2"), "model", "did you mean Simulated-2?"),
        (("--not-streaming",), "stream", "switch streaming on"),
        (("--empty-stream",), "stream", "chat template"),
        (("--close-idle", "0"), "connections", "set CONNECTION_REUSE=never"),
        (("--context-tokens", "250"), "context", "lower INPUT_TOKENS_MEAN"),
        (("--fail-share", "1"), "stream", "see its log"),
        (("--rate-limit-share", "1", "--retry-after-s", "0"), "stream", "try again after 0 s"),
    ],
)
def test_a_fault_of_the_endpoint_fails_one_check_with_its_remedy_and_exit_3(
    tmp_path: Path, options: tuple[str, ...], failing: str, remedy: str
) -> None:
    with simulator(*options) as server:
        code, checks = told(tmp_path, server.url)
    assert code == Exit.ENDPOINT
    assert states(checks, "failed") == [failing]
    assert remedy in checks[failing]["remedy"]


@pytest.mark.parametrize(
    ("options", "check", "found"),
    [
        (("--no-usage",), "usage", "not sent"),
        (("--reject-extra",), "exact length", "ignore_eos and min_tokens are refused"),
        (("--model", "other"), "model", "answers to simulated, but lists other"),
        (("--burst",), "stream", "all 16 pieces came at once"),
    ],
)
def test_what_asks_for_care_is_no_failure(
    tmp_path: Path, options: tuple[str, ...], check: str, found: str
) -> None:
    with simulator(*options) as server:
        code, checks = told(tmp_path, server.url)
    assert code == Exit.DONE
    assert check in states(checks, "caution")
    assert found in checks[check]["found"]


def test_a_server_of_the_old_limit_and_a_reasoning_model_are_told(tmp_path: Path) -> None:
    with simulator("--only-max-tokens", "--reasoning-tokens", "3") as server:
        code, checks = told(tmp_path, server.url)
    assert code == Exit.DONE
    assert checks["output limit"]["found"].startswith("max_tokens only")
    assert checks["reasoning"]["found"].startswith("yes")


def test_the_setting_that_cures_dropped_connections_does(tmp_path: Path) -> None:
    with simulator("--close-idle", "0") as server:
        code, checks = told(tmp_path, server.url, CONNECTION_REUSE="never")
    assert (code, checks["connections"]["state"]) == (0, "ok")


def test_a_wrong_key_is_told_and_not_shown_and_nothing_after_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OPENAI_API_KEY=wrong-key-0123456789\n")
    with simulator("--echo-key", key="right") as server:
        done = doctor(tmp_path, MODEL="simulated", AIPERF_URL=server.url)
    assert done.returncode == Exit.ENDPOINT
    assert "✗ key" in done.stdout
    assert "HTTP 401" in done.stdout
    assert "– not asked: path, model, stream, " in done.stdout
    assert "wrong-key" not in done.stdout + done.stderr


def test_a_path_that_is_none_is_told(tmp_path: Path) -> None:
    with simulator() as server:
        code, checks = told(tmp_path, f"{server.url}/lab")
    assert (code, states(checks, "failed")) == (Exit.ENDPOINT, ["path"])
    assert "AIPERF_URL" in checks["path"]["remedy"]


@pytest.mark.parametrize(
    ("url", "failing"),
    [
        (f"http://127.0.0.1:{closed_port()}", "TCP"),
        ("http://nowhere.invalid:8000", "name"),
    ],
)
def test_what_rests_on_a_failed_check_is_not_asked(tmp_path: Path, url: str, failing: str) -> None:
    code, checks = told(tmp_path, url)
    after = NAMES[NAMES.index(failing) + 1 :]
    assert (code, states(checks, "failed")) == (Exit.ENDPOINT, [failing])
    assert states(checks, "unknown") == list(after)
    assert all(checks[name]["found"] == "" for name in after)


def test_https_to_a_port_of_plain_http_fails_at_tls(tmp_path: Path) -> None:
    with simulator() as server:
        code, checks = told(tmp_path, server.url.replace("http:", "https:"))
    assert (code, states(checks, "failed")) == (Exit.ENDPOINT, ["TLS"])
    assert "http://" in checks["TLS"]["remedy"]


def test_a_self_signed_certificate_is_named_until_it_is_trusted(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    with canned({}, certificate) as server:
        code, checks = told(tmp_path, server.url)
        trusted = told(tmp_path, server.url, SSL_CERT_FILE=str(certificate))[1]
    assert (code, states(checks, "failed")) == (Exit.ENDPOINT, ["TLS"])
    assert checks["TLS"]["found"] == "the certificate is self-signed"
    assert trusted["TLS"]["state"] == "ok"
    assert states(trusted, "failed") == ["path"]


def test_a_server_that_hangs_up_is_told(tmp_path: Path) -> None:
    with hanging_up() as url:
        code, checks = told(tmp_path, url)
    assert (code, states(checks, "failed")) == (Exit.ENDPOINT, ["stream"])
    assert "closed the connection" in checks["stream"]["found"]


def test_a_list_of_models_that_is_refused_fails_as_it_stops_a_run(tmp_path: Path) -> None:
    events = Canned(200, 'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', EVENTS)
    refused = Canned(401, '{"error": {"message": "no"}}', JSON)
    with canned({"/v1/models": [refused], "/v1/chat/completions": [events]}) as server:
        code, checks = told(tmp_path, server.url)
    assert (code, states(checks, "failed")) == (Exit.ENDPOINT, ["key"])


def test_every_server_of_several_is_looked_at(tmp_path: Path) -> None:
    with simulator() as server:
        other = f"http://127.0.0.1:{closed_port()}"
        done = doctor(tmp_path, MODEL="simulated", AIPERF_URL=server.url, MORE_URLS=other)
    assert done.returncode == Exit.ENDPOINT
    assert "✓ stream" in done.stdout
    assert "✗ TCP" in done.stdout


def test_wrong_settings_are_told_together_with_exit_2_and_no_server_is_asked(
    tmp_path: Path,
) -> None:
    with simulator() as server:
        done = doctor(tmp_path, CONCURRENCY="0", AIPERF_URL=server.url)
        assert server.truths() == []
    assert done.returncode == Exit.USAGE
    assert done.stdout.count("✗ settings") == 2
    assert "✓ Python" in done.stdout
    assert "– not asked: URL, name, " in done.stdout


def test_a_bad_prompt_file_and_an_unloadable_tokenizer_are_settings_that_fail(
    tmp_path: Path,
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    with simulator() as server:
        asked = {"INPUT_FILE": "p.jsonl", "TOKENIZER": "no/such-tokenizer", "HF_HUB_OFFLINE": "1"}
        code, checks = told(tmp_path, server.url, **asked)
    assert code == Exit.USAGE
    assert checks["prompts"]["state"] == "failed"
    assert "p.jsonl" in checks["prompts"]["found"]
    assert (checks["tokenizer"]["state"], checks["tokenizer"]["group"]) == ("failed", "settings")


# --- its lines --------------------------------------------------------------------------------

CHECKS = (
    Check("machine", "Python", State.OK, "3.12"),
    Check("endpoint", "model", State.CAUTION, "answers to モデル", "did you mean 富士?"),
    Check("endpoint", "接続", State.FAILED, "dropped", "set it"),
    Check("endpoint", "clock", State.UNKNOWN, ""),
)


def test_marks_names_and_remedies_line_up_with_japanese_among_them() -> None:
    assert as_text(CHECKS) == (
        "This machine\n"
        "  ✓ Python  3.12\n"
        "\n"
        "Endpoint\n"
        "  ! model   answers to モデル\n"
        "            → did you mean 富士?\n"
        "  ✗ 接続    dropped\n"
        "            → set it\n"
        "  – not asked: clock\n"
    )


def test_json_is_one_object_with_every_check() -> None:
    found = json.loads(as_json(CHECKS))
    assert [check["state"] for check in found["checks"]] == ["ok", "caution", "failed", "unknown"]
    assert found["checks"][1]["remedy"] == "did you mean 富士?"
    assert found["exit"] == 3


@pytest.mark.parametrize(
    ("groups", "code"),
    [((), 0), (("endpoint",), 3), (("machine",), 2), (("settings", "endpoint"), 2)],
)
def test_the_exit_code_is_that_of_the_first_thing_to_mend(groups: Sequence[Any], code: int) -> None:
    cautions = [replace(check, state=State.CAUTION) for check in CHECKS]
    checks = [*cautions, *(Check(group, "x", State.FAILED, "f") for group in groups)]
    assert exit_code(checks) == code


def test_the_last_line_counts() -> None:
    assert verdict_line(CHECKS) == "1 failed, 1 caution."
    assert verdict_line([*CHECKS, CHECKS[1]]) == "1 failed, 2 cautions."


# --- single checks ----------------------------------------------------------------------------

INFINITE = resource.RLIM_INFINITY
Made = Callable[[], Check]


@pytest.mark.parametrize(
    ("made", "state"),
    [
        (lambda: check_python((3, 11)), "ok"),
        (lambda: check_python((3, 14)), "failed"),
        (lambda: check_engine("0.13.0", "0.13.0"), "ok"),
        (lambda: check_engine("0.12.0", "0.13.0"), "caution"),
        (lambda: check_engine(None, "0.13.0"), "failed"),
        (lambda: check_disk(Path("/"), 2**40, True, 0), "ok"),
        (lambda: check_disk(Path("/"), 2**29, True, 0), "caution"),
        (lambda: check_disk(Path("/"), 2**40, True, 2**40), "failed"),
        (lambda: check_disk(Path("/"), 2**40, False, 0), "failed"),
        (lambda: check_open_files((1024, 1024), 768), "ok"),
        (lambda: check_open_files((1024, 1024), 769), "failed"),
        (lambda: check_open_files((256, INFINITE), 1000), "ok"),  # AIPerf raises it to 8192
        (lambda: check_open_files((256, INFINITE), 8000), "failed"),
        (lambda: check_open_files((INFINITE, INFINITE), 10**6), "ok"),
        (lambda: check_tmpdir({"TMPDIR": "/tmp"}), "ok"),
        (lambda: check_tmpdir({"TMPDIR": "/" + "x" * 80}), "ok"),  # /tmp is used in its place
        (lambda: check_tmpdir({"TMPDIR": "/nowhere"}), "failed"),
        (lambda: check_ports((32768, 60999), 10, 0), "ok"),
        (lambda: check_ports((60000, 60009), 11, 0), "failed"),
        (lambda: check_ports((32768, 60999), 10, 28000), "caution"),
        (lambda: check_ports(None, 10, 0), "unknown"),
        (lambda: check_clock("Wed, 21 Oct 2026 07:28:00 GMT", 1792567680.3, 1792567680.9), "ok"),
        (lambda: check_clock("Wed, 21 Oct 2026 07:28:00 GMT", 1792567690, 1792567691), "caution"),
        (lambda: check_clock("Wed, 21 Oct 2026 07:28:00 GMT", 1792567670, 1792567671), "caution"),
        (lambda: check_clock("soon", 0, 1), "unknown"),
        (lambda: check_clock(None, 0, 1), "unknown"),
        (lambda: check_context(None, SETTINGS), "unknown"),
        (lambda: check_context(340, SETTINGS), "ok"),  # 100 + 2 × 20 + 200
        (lambda: check_context(339, SETTINGS), "caution"),
        (lambda: check_context(299, SETTINGS), "failed"),
        (lambda: check_context(299, replace(SETTINGS, input_file="p")), "ok"),
        (lambda: check_lengths({"ignore_eos": False, "min_tokens": True}), "ok"),
        (lambda: check_lengths({"ignore_eos": False, "min_tokens": None}), "unknown"),
        (lambda: check_limit(replace(HEARD, limit=None), SETTINGS), "caution"),
        (lambda: check_tokenizer(TokenizerChoice("b", "fallback", "", False, False)), "caution"),
        (lambda: check_tokenizer(TokenizerChoice("b", "fallback", "", False, True)), "ok"),
        (lambda: check_connections(None, "pooled"), "unknown"),
        (lambda: check_connections(Keeping("announced"), "pooled"), "ok"),
        (lambda: check_connections(Keeping("dropped", 0.0), "pooled"), "failed"),
        (lambda: check_connections(Keeping("dropped", 0.4), "pooled"), "caution"),
        (lambda: check_connections(Keeping("dropped", 0.4), "never"), "ok"),
    ],
)
def test_a_check_ends_as_its_figures_say(made: Made, state: str) -> None:
    check = made()
    assert check.state == state
    assert check.found
    assert bool(check.remedy) is (state in ("caution", "failed"))


AT_ONCE_S = tuple(1.0 + i / 1e4 for i in range(16))


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (HEARD, "ok"),
        (replace(HEARD, arrivals_s=(0.1,)), "unknown"),
        (replace(HEARD, arrivals_s=(0.1, 0.1001, 0.1002)), "unknown"),
        (replace(HEARD, arrivals_s=AT_ONCE_S), "failed"),
        (replace(HEARD, arrivals_s=tuple(at - 0.95 for at in AT_ONCE_S)), "caution"),
        (replace(HEARD, arrivals_s=()), "failed"),
        (replace(HEARD, arrivals_s=(), reasons=True), "caution"),
        (replace(HEARD, error="out of memory"), "failed"),
        (replace(HEARD, reply=Reply(200, "{}", JSON)), "failed"),
    ],
)
def test_a_stream_is_judged_by_when_its_pieces_came(answer: Answer, state: str) -> None:
    assert check_stream(answer, Server("http://lab", None)).state == state
