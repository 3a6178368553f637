"""One streamed request, told in words: what a person reads, and the exit code."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import smoke_stream
from harness.cli import guarded
from harness.endpoint import DIRECT, Server
from harness.errors import EndpointError, Exit
from harness.probes import held_back
from harness.smoke import Piece, Question, adapted, hear
from tests.canned import JSON, Canned, canned, closed_port, silent, stream
from tests.servers import simulator

CHAT = "/v1/chat/completions"
SCRIPT = Path(__file__).parent.parent / "scripts" / "smoke_stream.py"
KEY = 'p#w$"`/+secret'
QUESTION = Question("m", "Hi", 50, 5.0)
SERVER = Server("http://lab", None, DIRECT)


@dataclass(frozen=True, slots=True)
class Said:
    """What the verb printed, and its exit code."""

    code: int
    out: str
    err: str


Smoke = Callable[..., Said]


@pytest.fixture
def smoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Smoke:
    """Run the verb in an empty folder, with only the settings that the test gives."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "EXTRA_INPUTS", "ENV_FILE", "MAKEFLAGS", "DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def run(url: str, *argv: str, **settings: str) -> Said:
        for name, value in {"MODEL": "simulated", "AIPERF_URL": url, **settings}.items():
            monkeypatch.setenv(name, value)
        out, err = io.StringIO(), io.StringIO()
        code = guarded(smoke_stream.main, argv, out, err)
        return Said(code, out.getvalue(), err.getvalue())

    return run


def event(content: str = "", **more: object) -> str:
    choice = {"index": 0, "delta": {"content": content}}
    return json.dumps({"model": "named-by-server", "choices": [choice], **more})


def told(said: Said, *words: str) -> None:
    """Assert that the endpoint is said to have failed, in one line that holds these words."""
    assert said.code == Exit.ENDPOINT
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert [word for word in words if word not in line] == [], line


def test_a_healthy_server_is_told_in_words(smoke: Smoke) -> None:
    with simulator() as server:
        said = smoke(server.url + "/v1")
        (truth,) = server.truths(at_least=1)
    assert said.code == Exit.DONE
    assert "✓ First token received (TTFT OK)\n" in said.out
    for words in ("TTFT ", " ms", "Tokens    50 (the server's usage)", "characters", "tokens/s"):
        assert words in said.out
    assert "Model     simulated" in said.out
    assert "the time of day and one more way" in said.out
    assert said.err == f"Asking simulated at {server.url} …\n"
    assert truth.tokens == 50


def test_tokens_are_counted_where_the_server_does_not(smoke: Smoke) -> None:
    with simulator("--no-usage") as server:
        said = smoke(server.url, "--max-tokens", "7")
    assert "Tokens    7 (counted by chunks)" in said.out
    assert "reports no usage" in said.err


def test_a_japanese_prompt_arrives_as_written(smoke: Smoke) -> None:
    answer = stream(event("海は"), event("広い。"), '{"usage": {"completion_tokens": 9}}')
    with canned({CHAT: [answer]}) as server:
        said = smoke(server.url, "--prompt", "海について「一言」で")
        (seen,) = server.seen
    sent = json.loads(seen.body)
    assert sent["messages"] == [{"role": "user", "content": "海について「一言」で"}]
    assert (sent["max_tokens"], sent["stream"]) == (50, True)
    assert "Answer    海は広い。" in said.out
    assert "Length    5 characters" in said.out
    assert "Model     named-by-server" in said.out


def test_extra_inputs_are_sent_along(smoke: Smoke) -> None:
    with canned({CHAT: [stream(event("a"))]}) as server:
        smoke(server.url, EXTRA_INPUTS="min_tokens:5")
        (seen,) = server.seen
    assert json.loads(seen.body)["min_tokens"] == 5


def test_nothing_of_the_environments_openai_account_reaches_another_server(
    smoke: Smoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "private")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-private")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: private\nX-Own: private")
    with canned({CHAT: [stream(event("a"))]}) as server:
        said = smoke(server.url)
        (seen,) = server.seen
    assert "private" not in f"{seen} {said}"
    assert seen.headers["authorization"] == "Bearer dummy"
    assert "note: OPENAI_API_KEY of the environment is not sent" in said.err


def test_the_key_of_the_env_file_is_sent(smoke: Smoke) -> None:
    Path(".env").write_text(f"OPENAI_API_KEY='{KEY}'\n")
    with simulator(key=KEY) as server:
        assert smoke(server.url).code == Exit.DONE


def test_a_refused_key_is_told_and_never_shown(smoke: Smoke) -> None:
    Path(".env").write_text(f"OPENAI_API_KEY='{KEY}'\n")
    with simulator("--echo-key", key="another") as server:
        said = smoke(server.url)
    told(said, "HTTP 401", "the key that was sent is refused", "OPENAI_API_KEY")
    assert "secret" not in said.err


def test_a_key_in_the_answer_itself_is_not_shown(smoke: Smoke) -> None:
    Path(".env").write_text(f"OPENAI_API_KEY='{KEY}'\n")
    with canned({CHAT: [stream(event(f"your key is {KEY}"))]}) as server:
        said = smoke(server.url)
    assert "your key is ***" in said.out


def test_debug_shows_no_key_either(smoke: Smoke) -> None:
    with simulator("--echo-key", key="another") as server:
        command = [sys.executable, str(SCRIPT)]
        environ = {"MODEL": "m", "AIPERF_URL": server.url, "OPENAI_API_KEY": KEY, "DEBUG": "1"}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr
    assert "HTTP 401" in done.stderr
    assert "secret" not in done.stderr + done.stdout


def test_a_server_that_wants_a_key_and_gets_none_says_so(smoke: Smoke) -> None:
    with simulator(key="right") as server:
        told(smoke(server.url), "HTTP 401", "no key was sent", "set OPENAI_API_KEY in .env")


def test_a_dead_port_is_told(smoke: Smoke) -> None:
    told(smoke(f"http://127.0.0.1:{closed_port()}"), "connection refused", "start the server")


def test_an_unknown_name_is_told(smoke: Smoke) -> None:
    told(smoke("http://nowhere.invalid"), "the name nowhere.invalid is not known", "DNS")


def test_https_to_a_plain_port_is_told(smoke: Smoke) -> None:
    with simulator() as server:
        told(smoke(server.url.replace("http:", "https:")), "TLS", "http:// instead of https://")


def test_a_server_that_says_nothing_is_told(smoke: Smoke) -> None:
    with silent() as url:
        told(smoke(url, "--timeout", "0.4"), "time-out: no answer within 0.4 s", "loading")


def test_a_stream_that_crawls_is_given_up(smoke: Smoke) -> None:
    with simulator("--itl-ms", "200") as server:
        said = smoke(server.url, "--timeout", "2")
    told(said, "of the answer: time-out: no answer within 2 s")


def test_a_wrong_path_is_told(smoke: Smoke) -> None:
    with simulator() as server:
        told(smoke(server.url + "/api"), "HTTP 404", "no /v1/chat/completions under", "path")


def test_a_model_that_is_not_served_is_told_with_those_that_are(smoke: Smoke) -> None:
    with simulator("--unknown-model-404", "--model", "llama-3", "--model", "qwen") as server:
        said = smoke(server.url, MODEL="Llama3")
    told(said, "the model Llama3 is not served here", "did you mean llama-3?", "llama-3, qwen")


def test_a_rate_limit_is_told_with_the_time_to_wait(smoke: Smoke) -> None:
    with simulator("--rate-limit-share", "1", "--retry-after-s", "7") as server:
        said = smoke(server.url)
        n_requests = len(server.truths(at_least=1))
    told(said, "HTTP 429", "Retry-After: 7 s", "try again after 7 s")
    assert n_requests == 1


def test_a_failing_server_is_told(smoke: Smoke) -> None:
    with simulator("--fail-share", "1", "--fail-status", "500") as server:
        told(smoke(server.url), "HTTP 500", "Simulated failure", "log")


def test_a_refused_request_is_told_in_the_servers_words(smoke: Smoke) -> None:
    with simulator("--reject-extra") as server:
        said = smoke(server.url, EXTRA_INPUTS="ignore_eos:true")
    told(said, "HTTP 400", "Unsupported parameter: 'ignore_eos'", "EXTRA_INPUTS")


def test_a_server_that_answers_with_one_body_does_not_stream(smoke: Smoke) -> None:
    with simulator("--not-streaming") as server:
        told(smoke(server.url), "does not stream: it answered with one JSON body", "streaming")


def test_a_server_that_holds_its_answer_back_does_not_stream(smoke: Smoke) -> None:
    with simulator("--burst", "--ttft-ms", "3000") as server:
        said = smoke(server.url, "--max-tokens", "150")
    told(said, "does not stream: all 150 pieces came at once, after", "buffering")


def test_an_empty_stream_is_told(smoke: Smoke) -> None:
    with simulator("--empty-stream") as server:
        told(smoke(server.url), "the stream ended without a token")


def test_a_stream_without_text_is_told(smoke: Smoke) -> None:
    with simulator("--empty-delta-share", "1") as server:
        told(smoke(server.url), "the stream ended without a token", "none with text")


def test_reasoning_counts_as_a_first_token_and_is_remarked(smoke: Smoke) -> None:
    with simulator("--reasoning-only") as server:
        said = smoke(server.url)
    assert said.code == Exit.DONE
    assert "✓ First token received" in said.out
    assert "Reasoning the time of day" in said.out
    assert "all 50 tokens went into reasoning" in said.err
    assert "raise --max-tokens" in said.err


def test_broken_json_in_the_stream_is_told(smoke: Smoke) -> None:
    with simulator("--broken-json-share", "1") as server:
        told(smoke(server.url), "after 25 pieces of the answer", "not JSON")


def test_a_stream_that_breaks_off_is_told(smoke: Smoke) -> None:
    with simulator("--drop-share", "1") as server:
        told(smoke(server.url), "after 25 pieces of the answer: the server closed the connection")


def test_an_error_in_the_stream_is_told_without_the_key(smoke: Smoke) -> None:
    Path(".env").write_text(f"OPENAI_API_KEY='{KEY}'\n")
    error = json.dumps({"error": {"message": f"out of memory for {KEY}"}})
    with canned({CHAT: [stream(event("a"), error)]}) as server:
        said = smoke(server.url)
    told(said, "reports an error in the stream: out of memory for ***")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Canned(200, "<html>Welcome</html>", {"Content-Type": "text/html"}), "text/html"),
        (Canned(200, '{"error": {"message": "no slot"}}', JSON), "no slot"),
        (Canned(200, "{", {**JSON, "Content-Length": "9"}), "closed the connection"),
        (Canned(200, "", JSON), "application/json instead of text/event-stream"),
        (Canned(307, "", {"Location": "https://elsewhere/v1"}), "https://elsewhere/v1"),
        (Canned(400, '{"error": "max_tokens too large"}', JSON), "max_tokens too large"),
    ],
)
def test_answers_that_are_no_stream_are_told_apart(
    smoke: Smoke, answer: Canned, words: str
) -> None:
    with canned({CHAT: [answer]}) as server:
        told(smoke(server.url), words)


def test_strange_events_do_not_stop_the_request(smoke: Smoke) -> None:
    strange = ('{"choices": null}', '{"choices": [{"delta": null}]}', "[1]", '"x"', "{}", "null")
    with canned(
        {CHAT: [stream(*strange, event("a"), '{"usage": {"completion_tokens": "3"}}')]}
    ) as s:
        said = smoke(s.url)
    assert said.code == Exit.DONE, said.err
    assert "Tokens    1 (counted by chunks)" in said.out


def test_a_server_that_wants_the_other_limit_is_asked_again(smoke: Smoke) -> None:
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    refusal = Canned(400, json.dumps({"error": {"message": message}}), JSON, to='"max_tokens"')
    with canned({CHAT: [refusal, stream(event("a"))]}) as server:
        said = smoke(server.url)
        bodies = [json.loads(seen.body) for seen in server.seen]
    assert said.code == Exit.DONE
    assert "asked again with max_completion_tokens" in said.err
    assert [body.get("max_completion_tokens") for body in bodies] == [None, 50]


def test_a_server_that_refuses_both_limits_is_not_asked_for_ever(smoke: Smoke) -> None:
    refusal = Canned(400, '{"error": "unsupported: max_tokens, max_completion_tokens"}', JSON)
    with canned({CHAT: [refusal]}) as server:
        told(smoke(server.url), "HTTP 400", "unsupported")
        n_asked = sum(seen.path == CHAT for seen in server.seen)
    assert n_asked == 2


def test_a_server_that_refuses_to_count_is_asked_without() -> None:
    fields = {"max_tokens": 5, "stream_options": {}}
    change = adapted(fields, 400, '{"error": "Unrecognized field: stream_options"}')
    assert change is not None
    assert change[0] == {"max_tokens": 5}
    assert adapted(change[0], 400, "stream_options") is None


@pytest.mark.parametrize("argv", [["--max-tokens", "0"], ["--timeout", "nan"], ["--colour"]])
def test_a_wrong_option_is_a_usage_error(smoke: Smoke, argv: list[str]) -> None:
    said = smoke("http://lab", *argv)
    assert said.code == Exit.USAGE
    assert said.err.startswith("error: smoke_stream: ")


def test_a_missing_model_is_a_usage_error(smoke: Smoke) -> None:
    said = smoke("http://lab", MODEL="")
    assert said.code == Exit.USAGE
    assert "MODEL" in said.err


def test_one_by_one_is_not_taken_for_held_back() -> None:
    one_by_one = [1.0 + 0.005 * n for n in range(50)]
    at_once = [1.0 + 0.0001 * n for n in range(50)]
    assert not held_back(one_by_one, 0.0)
    assert held_back(at_once, 0.0)
    assert not held_back(at_once, 0.99)  # a fast server: hardly any wait before
    assert not held_back(at_once[:3], 0.0)  # too few to tell


def test_speed_counts_the_tokens_after_the_first() -> None:
    pieces = [Piece(1.0, "a"), Piece(2.0, "b"), Piece(2.1, n_tokens=21)]
    heard = hear(pieces, 0.5, QUESTION, SERVER)
    assert heard.ttft_ms == pytest.approx(500.0)
    assert heard.speed_tokens_per_s == pytest.approx(20.0)


def test_reasoning_that_was_kept_back_does_not_count_as_speed() -> None:
    pieces = [Piece(1.0, "a"), Piece(2.0, "b"), Piece(2.1, n_tokens=21, n_reasoning_tokens=10)]
    assert hear(pieces, 0.5, QUESTION, SERVER).speed_tokens_per_s == pytest.approx(10.0)


def test_a_single_piece_has_no_speed() -> None:
    assert hear([Piece(1.0, "a")], 0.5, QUESTION, SERVER).speed_tokens_per_s is None


def test_reasoning_that_is_kept_back_to_the_end_is_told() -> None:
    pieces = [Piece(1.0), Piece(2.0, n_tokens=50, n_reasoning_tokens=50)]
    with pytest.raises(EndpointError, match=r"50 were spent on reasoning.*raise --max-tokens"):
        hear(pieces, 0.5, QUESTION, SERVER)
