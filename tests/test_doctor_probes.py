"""Short requests: what their answers show, and when they are sent again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from harness.connections import Keeping, keeping
from harness.endpoint import Server
from harness.errors import EndpointError
from harness.probes import NEW_LIMIT, OLD_LIMIT, Answer, Limit, Question, ask, brief
from tests.canned import (
    EVENTS,
    JSON,
    Canned,
    canned,
    dripping,
    hanging_up,
    silent,
    stream,
)
from tests.servers import simulator

CHAT = "/v1/chat/completions"
M = Question("m")


def briefly(url: str, question: Question = M, timeout_s: float = 20.0) -> Answer | None:
    return brief(Server(url, None), question, timeout_s)


def counts(url: str, question: Question = M, timeout_s: float = 20.0) -> bool:
    answer = briefly(url, question, timeout_s)
    return answer is not None and answer.usage is not None


@pytest.mark.parametrize(("options", "expected"), [((), True), (("--no-usage",), False)])
def test_usage_is_seen_where_the_server_reports_it(
    options: tuple[str, ...], expected: bool
) -> None:
    with simulator(*options) as server:
        assert counts(server.url, Question("simulated")) is expected
        (truth,) = server.truths(at_least=1)
    assert truth.tokens == 2


@pytest.mark.parametrize(
    ("first", "understood"),
    [(NEW_LIMIT, OLD_LIMIT), (OLD_LIMIT, NEW_LIMIT), (OLD_LIMIT, OLD_LIMIT)],
)
def test_a_server_that_knows_one_name_of_the_limit_is_asked_with_it(
    first: Limit, understood: Limit
) -> None:
    other = OLD_LIMIT if understood == NEW_LIMIT else NEW_LIMIT
    said = json.dumps({"error": {"message": f"Unsupported parameter: '{other}'"}})
    usage = stream('{"usage": null}', '{"usage": {"completion_tokens": 2}}')
    with canned({CHAT: [Canned(400, said, JSON, to=f'"{other}"'), usage]}) as server:
        answer = briefly(server.url, Question("m", limit=first))
    assert answer is not None
    assert (answer.limit, answer.usage) == (understood, {"completion_tokens": 2})


WORDS = ['{"choices": [{"delta": {"content": "w"}}]}'] * 40


def test_a_limit_that_is_passed_over_in_silence_is_asked_for_by_its_other_name() -> None:
    short = stream(*WORDS[:2])
    with canned({CHAT: [Canned(200, short.body, EVENTS, to='"max_tokens"'), stream(*WORDS)]}) as s:
        answer = briefly(s.url)
    assert answer is not None
    assert (answer.limit, len(answer.arrivals_s)) == (OLD_LIMIT, 2)


def test_a_server_may_follow_no_limit_at_all() -> None:
    with canned({CHAT: [stream(*WORDS)]}) as server:
        answer = briefly(server.url)
    assert answer is not None
    assert answer.limit is None


def test_the_fields_of_a_run_go_along_but_not_its_lengths() -> None:
    extra = {"min_tokens": 200, "max_tokens": 300, "ignore_eos": True}
    with canned({CHAT: [stream(*WORDS[:1])]}) as server:
        briefly(server.url, Question("m", extra=extra))
        sent = json.loads(server.seen[0].body)
    assert (sent["min_tokens"], sent["max_completion_tokens"], sent["ignore_eos"]) == (2, 2, True)
    assert "max_tokens" not in sent


def test_one_json_body_is_no_stream() -> None:
    with (
        simulator("--not-streaming") as server,
        pytest.raises(EndpointError, match="does not stream: it answered with one JSON body"),
    ):
        briefly(server.url, Question("simulated"))


def test_a_page_is_no_stream() -> None:
    page = Canned(200, "<html>Welcome</html>", {"Content-Type": "text/html"})
    with canned({CHAT: [page]}) as server, pytest.raises(EndpointError, match="text/html instead"):
        briefly(server.url)


def heard(*events: str) -> Answer:
    with canned({CHAT: [stream(*events)]}) as server:
        return ask(Server(server.url, None), M, 5.0)


@pytest.mark.parametrize(
    ("event", "reasons"),
    [
        ('{"choices": [{"delta": {"reasoning_content": "hm"}}]}', True),
        ('{"choices": [{"delta": {"reasoning": "hm"}}]}', True),
        ('{"choices": [{"delta": {"content": "<think>"}}]}', True),
        ('{"usage": {"completion_tokens_details": {"reasoning_tokens": 2}}}', True),
        ('{"usage": {"completion_tokens_details": {"reasoning_tokens": 0}}}', False),
        ('{"choices": [{"delta": {"content": "hm", "reasoning": null}}]}', False),
        ('{"choices": [{"delta": null}]}', False),
    ],
)
def test_a_reasoning_model_is_known_by_what_it_sends(event: str, reasons: bool) -> None:
    assert heard(event).reasons is reasons


def test_an_error_in_mid_stream_is_heard() -> None:
    assert heard('{"error": {"message": "out of memory"}}').error == "out of memory"


def test_the_pieces_of_an_answer_have_the_times_at_which_they_came() -> None:
    with simulator("--ttft-ms", "100", "--itl-ms", "50") as server:
        answer = ask(Server(server.url, None), Question("simulated", 4), 20.0)
    assert len(answer.arrivals_s) == 4
    assert answer.arrivals_s[0] >= 0.1
    assert answer.arrivals_s[-1] - answer.arrivals_s[0] >= 0.1


@pytest.mark.parametrize(("options", "end"), [((), "kept"), (("--close-idle", "0"), "dropped")])
def test_a_connection_that_is_dropped_is_told_from_one_that_is_kept(
    options: tuple[str, ...], end: str
) -> None:
    with simulator(*options) as server:
        found = keeping(Server(server.url, None), Question("simulated"), 0.2, 20.0)
    assert found is not None
    assert found.end == end


def test_an_announced_end_of_a_connection_loses_no_request() -> None:
    with canned({CHAT: [stream("{}")]}) as server:  # HTTP/1.0
        assert keeping(Server(server.url, None), M, 0.2, 5.0) == Keeping("announced")


def test_a_refused_request_tells_nothing_of_connections() -> None:
    with canned({}) as server:
        assert keeping(Server(server.url, None), M, 0.2, 5.0) is None
    with silent() as url:
        assert keeping(Server(url, None), M, 0.2, 0.3) is None


def test_a_server_that_refuses_stream_options_reports_no_usage() -> None:
    said = '{"error": "unknown field stream_options"}'
    refusal = Canned(400, said, JSON, to='"stream_options"')
    with canned({CHAT: [refusal, stream(*WORDS[:2])]}) as server:
        answer = briefly(server.url)
    assert answer is not None
    assert (answer.counts_refused, answer.usage, len(answer.arrivals_s)) == (True, None, 2)


def test_events_that_are_no_json_hold_no_usage() -> None:
    with canned({CHAT: [Canned(200, 'data: {"us\n\ndata: 3\n\n: note\n\n', EVENTS)]}) as server:
        assert not counts(server.url, timeout_s=5.0)


class OneAfterTheOther(list[Canned]):
    """Answers of which each is given once."""

    def __iter__(self) -> Iterator[Canned]:
        while self:
            yield self.pop(0)


AT_ONCE = {"Retry-After": "0"}
USAGE = stream('{"usage": {"completion_tokens": 2}}')


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    busy = Canned(status, headers=AT_ONCE)
    with canned({CHAT: OneAfterTheOther([busy, busy, busy, USAGE])}) as server:
        assert counts(server.url, timeout_s=20.0)


@pytest.mark.parametrize("status", [429, 502])
def test_a_server_that_stays_busy_does_not_say_and_the_run_goes_on(status: int) -> None:
    with canned({CHAT: [Canned(status, headers=AT_ONCE)]}) as server:
        assert not counts(server.url, timeout_s=20.0)
        assert len(server.seen) == 4


def clock(sleep: Callable[..., object]) -> SimpleNamespace:
    """Return a stand-in for the module ``time`` as one room sees it: other threads sleep on."""
    return SimpleNamespace(monotonic=time.monotonic, sleep=sleep)


def test_a_busy_server_is_given_the_pause_that_it_asks_for_up_to_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses_s: list[float] = []
    monkeypatch.setattr("harness.probes.time", clock(pauses_s.append))
    waits = [Canned(429, headers={"Retry-After": wait}) for wait in ("1", "600")]
    dated = Canned(503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    with canned({CHAT: OneAfterTheOther([*waits, dated, USAGE])}) as server:
        assert counts(server.url, timeout_s=20.0)
    assert pauses_s == [1.0, 2.0, 0.8]


def test_no_pause_outlasts_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.probes.time", clock(pytest.fail))
    with canned({CHAT: [Canned(429, headers={"Retry-After": "2"})]}) as server:
        assert not counts(server.url, timeout_s=1.5)
        assert len(server.seen) == 1


def test_a_server_that_breaks_off_or_never_answers_does_not_say() -> None:
    with hanging_up() as url:
        assert not counts(url, timeout_s=5.0)
    for unanswered in (silent(), dripping()):
        with unanswered as url:
            assert not counts(url, timeout_s=0.3)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_told_at_once(status: int) -> None:
    with canned({CHAT: [Canned(status, headers=AT_ONCE)]}) as server:
        with pytest.raises(EndpointError, match=f"HTTP {status}"):
            counts(server.url, timeout_s=5.0)
        assert [seen.path for seen in server.seen].count(CHAT) == 1


def test_a_model_that_is_not_served_is_told_with_those_that_are() -> None:
    with (
        simulator("--unknown-model-404", "--model", "llama-3") as server,
        pytest.raises(EndpointError, match="did you mean llama-3"),
    ):
        briefly(server.url, Question("Llama3"))
