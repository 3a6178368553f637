"""The simulated endpoint: what it answers, when, what goes wrong, and what it says it did."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from statistics import fmean

import httpx
import pytest
import tiktoken

from harness.errors import DataError, UsageError
from harness.simulator.behaviour import Behaviour, Delay, Fault, Faults, Model, parse_delay
from harness.simulator.options import parse_options
from harness.simulator.script import (
    Ask,
    Message,
    Script,
    StreamOptions,
    answer_length,
    due_s,
    parse_ask,
    prompt_tokens,
    refusal,
    stream_script,
    whole_body,
    write_answer,
)
from harness.simulator.truth import read_truth
from harness.tokenizer import offline_files
from tests.servers import REPOSITORY, Simulator, simulator

QUICK = ("--ttft-ms", "1", "--itl-ms", "0")
USUAL = Behaviour()
HELLO = [{"role": "user", "content": "hello"}]


def ask(**fields: object) -> Ask:
    return parse_ask(json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


def script(request: Ask, behaviour: Behaviour = USUAL, fault: Fault = Fault.NONE) -> Script:
    return stream_script(request, write_answer(request, behaviour, 0, 0), behaviour, fault)


def said(events: tuple[bytes, ...] | bytes) -> list[dict[str, object]]:
    """Return the delta of each event; the events must be JSON."""
    lines = events.split(b"\n\n") if isinstance(events, bytes) else events
    chunks = [json.loads(line.removeprefix(b"data: ")) for line in lines if b"choices" in line]
    return [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]


def post(server: Simulator, timeout_s: float = 30, **fields: object) -> httpx.Response:
    body = {"model": "m", "messages": HELLO, "max_tokens": 6, "stream": True, **fields}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=timeout_s)


# Delays


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("20", Delay(20)),
        ("constant:0.5", Delay(0.5)),
        ("normal:20,5", Delay(20, "normal", 5)),
        ("lognormal:20,0.3", Delay(20, "lognormal", 0.3)),
        ("exponential:20", Delay(20, "exponential")),
    ],
)
def test_a_delay_is_read_as_written(text: str, delay: Delay) -> None:
    assert parse_delay(text) == delay


@pytest.mark.parametrize(
    "text", ["", "-1", "nan", "inf", "normal:20", "20,5", "uniform:1,2", "5ms"]
)
def test_a_delay_of_no_known_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="normal:MEAN,SD"):
        parse_delay(text)


@pytest.mark.parametrize("text", ["normal:20,5", "lognormal:20,0.3", "exponential:20"])
def test_draws_lie_around_the_centre_and_are_never_negative(text: str) -> None:
    rng = Random(7)
    draws = sorted(parse_delay(text).draw_ms(rng) for _ in range(4000))
    assert draws[0] >= 0
    centre = draws[2000] if text.startswith("lognormal") else fmean(draws)
    assert centre == pytest.approx(20, rel=0.05)


def test_a_normal_draw_below_zero_counts_as_zero() -> None:
    rng = Random(1)
    assert min(Delay(0, "normal", 5).draw_ms(rng) for _ in range(100)) == 0


def test_constant_delays_make_an_even_schedule() -> None:
    behaviour = Behaviour(ttft=Delay(100), itl=Delay(10))
    assert due_s(4, behaviour, Random(0)) == pytest.approx([0.100, 0.110, 0.120, 0.130])


def test_in_a_burst_all_tokens_are_due_at_once() -> None:
    behaviour = Behaviour(ttft=Delay(100), itl=Delay(10), burst=True)
    assert due_s(3, behaviour, Random(0)) == (0.1, 0.1, 0.1)


def test_a_crawl_begins_after_its_token() -> None:
    faults = Faults(crawl_after_tokens=2, crawl_ms=1000)
    behaviour = Behaviour(ttft=Delay(0), itl=Delay(10), faults=faults)
    assert due_s(4, behaviour, Random(0)) == pytest.approx([0, 0.010, 1.010, 2.010])


def test_the_same_seed_gives_the_same_schedule_and_another_one_another() -> None:
    one, two = (Behaviour(seed=seed, itl=Delay(10, "normal", 2)) for seed in (1, 2))
    schedules = [write_answer(ask(), each, 5, 0).due_s for each in (one, one, two)]
    assert schedules[0] == schedules[1] != schedules[2]


# Lengths and counts


@pytest.mark.parametrize(
    ("request_fields", "behaviour", "expected"),
    [
        ({}, Behaviour(), (50, "stop")),
        ({"max_tokens": 7}, Behaviour(), (7, "length")),
        ({"max_completion_tokens": 8, "max_tokens": 7}, Behaviour(), (8, "length")),
        ({"max_tokens": 9}, Behaviour(output_tokens=5), (5, "stop")),
        ({"max_tokens": 9}, Behaviour(output_tokens=20), (9, "length")),
        ({"max_tokens": 9, "ignore_eos": True}, Behaviour(output_tokens=5), (9, "length")),
        ({"max_tokens": 9, "min_tokens": 7}, Behaviour(output_tokens=5), (7, "stop")),
        ({"max_tokens": 9, "min_tokens": 70}, Behaviour(output_tokens=5), (9, "length")),
        ({"max_tokens": 9, "ignore_eos": True}, Behaviour(stop_after=3), (3, "stop")),
    ],
)
def test_the_answer_is_as_long_as_the_request_and_the_model_have_it(
    request_fields: dict[str, object], behaviour: Behaviour, expected: tuple[int, str]
) -> None:
    assert answer_length(ask(**request_fields), behaviour) == expected


def test_a_prompt_counts_a_quarter_of_its_bytes_over_all_messages() -> None:
    parts: list[object] = [{"type": "text", "text": "東京"}, {"type": "image_url", "image_url": {}}]
    messages = [{"role": "system", "content": "abcd"}, {"role": "user", "content": parts}]
    assert prompt_tokens(ask(messages=messages)) == 3  # (4 + 6) / 4, rounded up
    assert prompt_tokens(Ask("m", [Message()])) == 0


@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])
def test_a_tokenizer_finds_as_many_tokens_as_were_written(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(offline_files()))
    deltas = said(script(ask(max_tokens=200)).events)
    text = "".join(str(delta["content"]) for delta in deltas)
    assert len(tiktoken.get_encoding(encoding).encode(text)) == len(deltas) == 200


def test_usage_comes_when_asked_for_and_only_then() -> None:
    asked = ask(max_tokens=4, stream_options={"include_usage": True})
    assert b'"completion_tokens":4' in script(asked).tail
    assert b"usage" not in script(ask(max_tokens=4)).tail
    assert b"usage" not in script(asked, Behaviour(usage=False)).tail


def test_cached_and_reasoning_tokens_are_counted_apart() -> None:
    behaviour = Behaviour(cached_share=0.5, reasoning_tokens=3)
    request = Ask("m", [Message("x" * 40)], max_tokens=4, stream_options=StreamOptions(True))
    tail = script(request, behaviour).tail
    assert b'"prompt_tokens_details":{"cached_tokens":5}' in tail
    assert b'"completion_tokens_details":{"reasoning_tokens":3}' in tail


def test_reasoning_comes_first_and_in_its_own_field() -> None:
    deltas = said(script(ask(max_tokens=3), Behaviour(reasoning_tokens=2)).events)
    assert [set(delta) - {"role"} for delta in deltas] == [
        {"reasoning_content"},
        {"reasoning_content"},
        {"content"},
    ]
    only = said(script(ask(max_tokens=3), Behaviour(reasoning_only=True)).events)
    assert not any("content" in delta for delta in only)


def test_a_whole_body_says_the_same_as_the_stream() -> None:
    behaviour = Behaviour(reasoning_tokens=2)
    answer = write_answer(ask(max_tokens=5), behaviour, 0, 0)
    message = json.loads(whole_body(answer, behaviour, Fault.NONE))["choices"][0]["message"]
    deltas = said(script(ask(max_tokens=5), behaviour).events)
    for field in ("content", "reasoning_content"):
        assert message[field] == "".join(str(delta.get(field, "")) for delta in deltas)


# Faults


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_share_of_requests_fails_evenly_spread(seed: int) -> None:
    faults = Faults(fail_share=0.6, hang_share=0.1)
    for start in (0, 1000):
        kinds = [faults.of(ordinal, seed) for ordinal in range(start, start + 40)]
        assert abs(kinds.count(Fault.FAIL) - 24) <= 2
        assert abs(kinds.count(Fault.HANG) - 4) <= 2


def test_a_share_of_all_spares_none_and_begins_when_told() -> None:
    faults = Faults(drop_share=1.0, after_requests=3)
    kinds = [faults.of(ordinal, seed=4) for ordinal in range(50)]
    assert kinds == [Fault.NONE] * 3 + [Fault.DROP] * 47


def test_a_dropped_stream_ends_in_the_middle_without_its_tail() -> None:
    dropped = script(ask(max_tokens=6), fault=Fault.DROP)
    assert (len(dropped.events), dropped.cut) == (3, True)


def test_one_event_of_a_broken_stream_is_no_json() -> None:
    whole = script(ask(max_tokens=6)).events
    broken = script(ask(max_tokens=6), fault=Fault.BROKEN_JSON).events
    changed = [event for event, sound in zip(broken, whole, strict=True) if event != sound]
    assert len(changed) == 1
    with pytest.raises(json.JSONDecodeError):
        json.loads(changed[0].removeprefix(b"data: "))


def test_empty_deltas_say_nothing() -> None:
    deltas = said(script(ask(max_tokens=3), fault=Fault.EMPTY_DELTA).events)
    assert [delta["content"] for delta in deltas] == ["", "", ""]


def test_an_empty_stream_has_only_its_end() -> None:
    empty = script(ask(), Behaviour(faults=Faults(empty_stream=True)))
    assert (empty.events, empty.tail) == ((), b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("faults", "fields", "status"),
    [
        (Faults(only_max_tokens=True), {"max_completion_tokens": 5}, 400),
        (Faults(only_max_tokens=True), {"max_tokens": 5}, None),
        (Faults(reject_extra=True), {"ignore_eos": True}, 400),
        (Faults(reject_extra=True), {"min_tokens": 5}, 400),
        (Faults(reject_extra=True), {}, None),
        (Faults(unknown_model_404=True), {}, 404),
        (Faults(unknown_model_404=True), {"model": "served"}, None),
        (Faults(), {"max_completion_tokens": 5, "ignore_eos": True, "min_tokens": 5}, None),
    ],
)
def test_a_request_is_refused_for_what_the_server_does_not_know(
    faults: Faults, fields: dict[str, object], status: int | None
) -> None:
    refused = refusal(ask(**fields), Behaviour(models=(Model("served"),), faults=faults))
    assert (refused.status if refused else None) == status


# The command line


def test_no_options_mean_the_usual_behaviour() -> None:
    behaviour, service = parse_options([], {})
    assert behaviour == Behaviour()
    assert (service.host, service.port, service.key) == ("127.0.0.1", 0, None)


def test_options_reach_the_behaviour() -> None:
    argv = ["--model", "a=org/A", "--model", "b", "--itl-ms", "normal:5,1", "--service-slots", "8"]
    argv += ["--fail-share", "0.25", "--crawl-after", "3", "--close-idle", "--no-usage"]
    behaviour, _ = parse_options(argv, {})
    assert behaviour == Behaviour(
        models=(Model("a", "org/A"), Model("b")),
        itl=Delay(5, "normal", 1),
        service_slots=8,
        usage=False,
        faults=Faults(fail_share=0.25, crawl_after_tokens=3, close_idle_ms=5.0),
    )


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--itl-ms", "5ms"], "--itl-ms: '5ms' is not milliseconds"),
        (["--fail-share", "2"], "a number from 0 to 1"),
        (["--fail-share", "0.6", "--drop-share", "0.6"], "add up to more than 1"),
        (["--require-key-env", "NO_SUCH"], "NO_SUCH is not set"),
        (["--port", "70000"], "a port, 0 to 65535"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_wrong_option_is_named_with_what_it_should_be(argv: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse_options(argv, {})


# The truth log


def test_a_cut_off_last_line_is_left_out_and_a_strange_file_refused(tmp_path: Path) -> None:
    line = '{"request_id":null,"ordinal":0,"arrival_ns":5,"n_in_flight":1}\n'
    log = tmp_path / "truth.jsonl"
    log.write_text(line + line[:20])
    assert [truth.arrival_ns for truth in read_truth(log)] == [5]
    log.write_text("nonsense\n")
    with pytest.raises(DataError, match="is no truth log"):
        read_truth(log)
    with pytest.raises(DataError, match="No such file"):
        read_truth(tmp_path / "missing")


# The running server


@pytest.fixture(scope="module")
def plain() -> Iterator[Simulator]:
    with simulator("--model", "a=org/A", "--context-tokens", "4096", *QUICK) as server:
        yield server


def test_a_stream_has_as_many_tokens_as_were_asked_for_and_the_log_says_so(
    plain: Simulator,
) -> None:
    n_before = len(plain.truths())
    sent = {"model": "m", "messages": HELLO, "max_tokens": 7, "stream": True}
    url, headers = f"{plain.url}/v1/chat/completions", {"X-Request-ID": "abc"}
    answer = httpx.post(url, json=sent, headers=headers)
    assert answer.headers["content-type"] == "text/event-stream"
    assert len(said(answer.content)) == 8  # the last one tells the finish_reason
    assert answer.text.endswith("data: [DONE]\n\n")
    truth = plain.truths(n_before + 1)[-1]
    assert (truth.request_id, truth.tokens, truth.status, truth.prompt_tokens) == ("abc", 7, 200, 2)


def test_without_stream_the_answer_is_one_body(plain: Simulator) -> None:
    answer = post(plain, stream=False)
    assert answer.json()["usage"]["completion_tokens"] == 6
    assert answer.json()["choices"][0]["message"]["content"] == " the time of day and one"


def test_it_lists_its_models_and_tells_its_health_and_version(plain: Simulator) -> None:
    (card,) = httpx.get(f"{plain.url}/v1/models").json()["data"]
    assert (card["id"], card["root"], card["max_model_len"]) == ("a", "org/A", 4096)
    assert httpx.get(f"{plain.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{plain.url}/version").json() == {"version": "simulator"}


@pytest.mark.parametrize("body", [b"", b"{", b'{"model": "m"}', b'{"model": "m", "messages": 1}'])
def test_a_body_that_is_no_chat_request_gets_400(plain: Simulator, body: bytes) -> None:
    answer = httpx.post(f"{plain.url}/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_body"


def test_no_token_is_written_before_it_is_due() -> None:
    with simulator("--ttft-ms", "60", "--itl-ms", "20") as server:
        post(server)
        (truth,) = server.truths(1)
    assert truth.ttft_ms is not None
    assert truth.itl_ms is not None
    assert truth.ttft_ms >= 59  # the event loop's timers count whole milliseconds
    assert truth.ttft_ms + 5 * truth.itl_ms >= 159


def test_a_required_key_is_asked_for_but_not_to_tell_its_health() -> None:
    with simulator("--echo-key", *QUICK, key="sk-right") as server:
        for path in ("models", "chat/completions"):
            method = "GET" if path == "models" else "POST"
            wrong = {"Authorization": "Bearer sk-wrong"}
            answer = httpx.request(method, f"{server.url}/v1/{path}", headers=wrong)
            assert answer.status_code == 401
            assert "sk-wrong" in answer.json()["error"]["message"]
        right = {"Authorization": "Bearer sk-right"}
        assert httpx.get(f"{server.url}/v1/models", headers=right).status_code == 200
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert "sk-right" not in " ".join(map(str, server.process.args))  # type: ignore[arg-type]


def test_a_burst_is_written_at_one_moment() -> None:
    with simulator("--burst", "--itl-ms", "50") as server:
        assert len(said(post(server).content)) == 7
        (truth,) = server.truths(1)
    assert (truth.tokens, truth.itl_ms) == (6, 0)


def test_no_more_requests_are_in_service_than_there_are_slots_and_the_queue_keeps_order() -> None:
    with simulator("--service-slots", "2", "--ttft-ms", "30", "--output-tokens", "1") as server:
        connections = [_send_whole(server) for _ in range(6)]
        truths = sorted(server.truths(6), key=lambda truth: truth.ordinal)
        for connection in connections:
            connection.close()
    starts = [truth.start_ns for truth in truths if truth.start_ns]
    assert max(truth.n_in_service or 0 for truth in truths) == 2
    assert starts == sorted(starts)
    assert len(starts) == 6


def _send_whole(server: Simulator) -> socket.socket:
    """Send a request in one piece, so that its body arrives with its head; read no answer."""
    url = httpx.URL(server.url)
    body = json.dumps({"model": "m", "messages": HELLO}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection((url.host, url.port or 0), timeout=10)
    connection.sendall(head.encode() + body)
    return connection


def test_requests_that_meet_too_many_others_fail() -> None:
    with simulator("--fail-above", "2", "--ttft-ms", "500") as server:
        assert post(server).status_code == 200
        with ThreadPoolExecutor(6) as pool:
            statuses = [each.status_code for each in pool.map(lambda _: post(server), range(6))]
        assert statuses.count(503) >= 4


def test_a_stream_can_end_in_an_error_event_without_a_status() -> None:
    broken = script(ask(max_tokens=6), fault=Fault.ERROR_EVENT)
    assert broken.tail == b"data: [DONE]\n\n"
    assert len(broken.events) == 4
    assert json.loads(broken.events[-1].removeprefix(b"data: "))["error"]["code"] == 500


def test_a_revoked_key_is_refused_from_then_on() -> None:
    with simulator("--revoke-after", "2", *QUICK) as server:
        assert [post(server).status_code for _ in range(4)] == [200, 200, 401, 401]
        assert httpx.get(f"{server.url}/v1/models").status_code == 401


def test_it_can_be_killed_by_a_request() -> None:
    with simulator("--die-after", "1", *QUICK) as server:
        assert post(server).status_code == 200
        with pytest.raises(httpx.TransportError):
            post(server)
        assert server.process.wait(30) == -signal.SIGKILL


def test_a_deaf_one_takes_connections_and_answers_nothing() -> None:
    with simulator("--deaf") as server, pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{server.url}/health", timeout=1.0)


def test_failing_shares_answer_with_their_status() -> None:
    shares = ("--fail-share", "0.5", "--fail-status", "502", "--rate-limit-share", "0.5")
    with simulator(*shares, "--retry-after-s", "3", *QUICK) as server:
        answers = [post(server) for _ in range(8)]
        assert {answer.status_code for answer in answers} == {502, 429}
        waits = {each.headers["retry-after"] for each in answers if each.status_code == 429}
        assert waits == {"3"}
        assert {truth.fault for truth in server.truths(8)} == {"fail", "rate-limit"}


def test_a_request_that_hangs_is_logged_when_the_client_gives_up() -> None:
    with simulator("--hang-share", "1") as server:
        with pytest.raises(httpx.ReadTimeout):
            post(server, timeout_s=0.2)
        (truth,) = server.truths(1)
    assert (truth.status, truth.fault, truth.tokens) == (499, "hang", 0)


def test_a_dropped_stream_is_cut_without_its_end_and_without_a_trace() -> None:
    with simulator("--drop-share", "1", *QUICK) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            post(server)
        (truth,) = server.truths(1)
        assert truth.tokens == 3
        assert server.log.read_text() == f"listening on {server.url}\n"


def test_a_server_that_does_not_stream_sends_one_body() -> None:
    with simulator("--not-streaming", *QUICK) as server:
        answer = post(server)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["object"] == "chat.completion"


def test_idle_connections_are_closed_unannounced() -> None:
    body = json.dumps({"model": "m", "messages": HELLO, "stream": True})
    with simulator("--close-idle", *QUICK) as server:
        connection = http.client.HTTPConnection("127.0.0.1", httpx.URL(server.url).port, timeout=10)
        connection.request("POST", "/v1/chat/completions", body)
        answer = connection.getresponse()
        answer.read()
        assert answer.getheader("Connection") is None
        assert not answer.will_close
        assert connection.sock.recv(1) == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_mid_stream_is_clean_and_logged(number: signal.Signals) -> None:
    body = {"model": "m", "messages": HELLO, "stream": True}
    with simulator("--itl-ms", "60000") as server:
        url = f"{server.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=30) as answer:
            pieces = answer.iter_raw()
            assert b"the" in next(pieces)
            server.process.send_signal(number)
            with pytest.raises(httpx.RemoteProtocolError):
                next(pieces)
        assert server.process.wait(10) == 0
        assert server.log.read_text() == f"listening on {server.url}\n"
        assert [(truth.status, truth.tokens) for truth in server.truths(1)] == [(499, 1)]


def test_a_killed_server_has_logged_what_it_finished() -> None:
    with simulator(*QUICK) as server:
        post(server)
        assert len(server.truths(1)) == 1
        server.process.kill()
        server.process.wait(10)
        assert len(server.truths()) == 1


def test_a_port_in_use_is_one_line_and_exit_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        verb = [sys.executable, str(REPOSITORY / "scripts/simulate_endpoint.py"), "--port", port]
        done = subprocess.run(verb, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: 127.0.0.1:{port}: ")
    assert done.stderr.count("\n") == 1
