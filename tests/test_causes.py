"""Errors and refusals become cause and hint, and the key is in none of them."""

from __future__ import annotations

import errno
import json
import socket
import ssl
from urllib.error import URLError
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.causes import explain_exception, explain_status, other_limit
from harness.errors import EndpointError, Exit
from harness.texts import one_line, said_in, scrub

BASE = "http://lab:8000"
KEY = 'k#y$"`/+é&<\\1'


def refused(status: int, body: str = "", **more: object) -> EndpointError:
    told: dict[str, object] = {"base": BASE, "key_sent": True, "model": "m-1"}
    return explain_status(status, body, **{**told, **more})  # type: ignore[arg-type]


def openai_error(message: str, code: str) -> str:
    return json.dumps({"error": {"message": message, "type": "x", "code": code}})


@pytest.mark.parametrize(
    "text",
    [
        f"wrong: {KEY}",
        f"wrong: {quote(KEY, safe='')}",
        json.dumps({"error": KEY}),
        json.dumps({"error": KEY}, ensure_ascii=False),
        f"Illegal header value {KEY.encode()!r}",
        f"Authorization: Bearer {KEY}",
    ],
)
def test_a_key_is_taken_out_in_every_form_in_which_servers_repeat_it(text: str) -> None:
    cleaned = scrub(text, KEY)
    assert "***" in cleaned
    assert not any(form in cleaned for form in (KEY, "k#y$", "k%23y", "\\u00e9", "\\xc3\\xa9"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Incorrect API key provided: sk-abc***xyz.", "Incorrect API key provided: sk-***"),
        ("key sk-proj-0123456789abcdefXYZ is wrong", "key sk-*** is wrong"),
        ("sent 'bearer abcdef'", "sent 'bearer ***'"),
        ("a task-oriented, risk-free sk-learn", "a task-oriented, risk-free sk-learn"),
    ],
)
def test_what_looks_like_a_key_is_taken_out_though_it_is_not_known(
    text: str, expected: str
) -> None:
    assert scrub(text, None) == expected


def test_a_key_that_the_server_shortened_by_stars_is_taken_out() -> None:
    text = "Incorrect key: my-se****-key; ***bold*** stays"
    assert scrub(text, "my-secret-key") == "Incorrect key: ***; ***bold*** stays"


def test_a_very_short_key_does_not_eat_the_words_around_it() -> None:
    assert scrub("a bad key: a", "a") == "*** bad key: ***"


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6), st.text())
@example("******", "")
def test_no_text_gives_the_key_away(key: str, around: str) -> None:
    assert key.strip("*") == "" or key not in scrub(f"{around}{key}{around}", key)


def test_a_server_cannot_write_control_characters_on_the_terminal() -> None:
    assert one_line("a\x1b[31m\r\nb\tc", 99) == "a [31m b c"
    assert one_line("abcdef", 3) == "abc…"


def certificate_error(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "something else"
    return error


def wrapped(inner: BaseException) -> BaseException:
    """Return the error as HTTP clients hand it on: as the cause of one of their own."""
    outer = RuntimeError("Connection error.")
    outer.__cause__ = RuntimeError("connect")
    outer.__cause__.__context__ = inner
    return outer


def named(name: str) -> Exception:
    """Return an error of a class that httpx names so."""
    error: Exception = type(name, (Exception,), {})()
    return error


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (socket.gaierror(-2, "x"), "the name lab is not known", "DNS"),
        (ConnectionRefusedError(111, "x"), "nothing listens on port 8000", "start the server"),
        (OSError(errno.EHOSTUNREACH, "x"), "no route to lab", "network"),
        (certificate_error(10), "has expired", "renewed"),
        (certificate_error(18), "self-signed", "SSL_CERT_FILE"),
        (certificate_error(62), "not made out to lab", "name"),
        (certificate_error(99), "something else", "SSL_CERT_FILE"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "does not speak it", "http://"),
        (ssl.SSLError(1, "[SSL: TLSV1_ALERT]"), "TLS: ", "TLS port"),
        (TimeoutError("_ssl.c:983: The handshake operation timed out"), "handshake", "http://"),
        (TimeoutError(), "no answer within 5 s", "log"),
        (named("ConnectTimeout"), "no connection within 5 s", "firewall"),
        (named("RemoteProtocolError"), "closed the connection", "log"),
        (ConnectionResetError(104, "x"), "closed the connection", "https://"),
    ],
)
def test_each_error_of_the_connection_has_a_cause_and_a_hint(
    error: BaseException, what: str, remedy: str
) -> None:
    for met in (error, wrapped(error)):
        told = explain_exception(met, BASE, waited_s=5.0)
        assert what in told.what
        assert remedy in told.remedy
        assert (told.where, told.exit_code) == (BASE, Exit.ENDPOINT)


def test_the_reason_inside_of_urllibs_error_is_found() -> None:
    assert "not known" in explain_exception(URLError(socket.gaierror(-2, "x")), BASE).what
    assert "no connection" in explain_exception(URLError(TimeoutError("timed out")), BASE).what


def test_an_error_of_no_known_kind_is_named_without_the_key() -> None:
    told = explain_exception(KeyError(f"Bearer {KEY}"), BASE, KEY)
    assert "KeyError" in told.what
    assert KEY not in told.what


def test_errors_that_lead_to_each_other_end() -> None:
    first, second = RuntimeError("1"), RuntimeError("2")
    first.__cause__, second.__cause__ = second, first
    assert "RuntimeError" in explain_exception(first, BASE).what


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_told_apart_from_one_that_was_not_sent(status: int) -> None:
    sent, unsent = refused(status), refused(status, key_sent=False)
    for told in (sent, unsent):
        assert str(status) in told.what
        assert "OPENAI_API_KEY" in told.remedy
    assert "was sent" in sent.what
    assert "no key was sent" in unsent.what


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, openai_error("The model `m-1` does not exist", "model_not_found")),
        (404, '{"error": {"message": "model \'m-1\' not found, try pulling it first"}}'),
        (400, openai_error("Invalid model name passed in model=m-1", "400")),
        (404, '{"detail": "Not Found"}'),
    ],
)
def test_an_unknown_model_is_told_with_those_that_are_served(status: int, body: str) -> None:
    told = refused(status, body, served=("big", "org/M-1"))
    assert "the model m-1 is not served here" in told.what
    assert told.remedy == "did you mean org/M-1? Set MODEL to one of: org/M-1, big"


def test_a_long_list_of_models_is_cut_but_keeps_the_nearest() -> None:
    served = (*(f"model-{n}" for n in range(40)), "gpt-5-mini")
    told = refused(404, served=served, model="gpt5-mini")
    assert "did you mean gpt-5-mini?" in told.remedy
    assert told.remedy.endswith("model-6 and 33 more")


@pytest.mark.parametrize("served", [(), ("m-1",)])
def test_a_wrong_path_is_not_taken_for_an_unknown_model(served: tuple[str, ...]) -> None:
    told = refused(404, "<html><title>404 Not Found</title>nginx</html>", served=served)
    assert "no /v1/chat/completions under http://lab:8000" in told.what
    assert "path of AIPERF_URL" in told.remedy


def test_a_refused_length_is_not_taken_for_an_unknown_model() -> None:
    body = openai_error("This model's maximum context length is 8 tokens", "context_length")
    told = refused(400, body, served=("other",))
    assert told.what == ("HTTP 400 Bad Request: This model's maximum context length is 8 tokens")


def test_a_rate_limit_says_how_long_to_wait() -> None:
    told = refused(429, "{}", headers={"retry-after": "7"})
    assert "Retry-After: 7 s" in told.what
    assert told.remedy == "try again after 7 s"


def test_an_account_without_credit_is_no_rate_limit() -> None:
    body = openai_error("You exceeded your current quota", "insufficient_quota")
    assert "credit" in refused(429, body, headers={"retry-after": "7"}).remedy


@pytest.mark.parametrize(
    ("status", "body", "remedy"),
    [
        (405, "", "path of AIPERF_URL"),
        (413, "", "length"),
        (422, '{"detail": [{"loc": ["body"], "msg": "bad"}]}', "EXTRA_INPUTS"),
        (400, "The plain HTTP request was sent to HTTPS port", "https://"),
        (500, "", "its log"),
        (503, '{"error": {"message": "Loading model"}}', "loading"),
        (599, "", "its log"),
        (204, "", "AIPERF_URL"),
    ],
)
def test_each_status_has_its_own_hint(status: int, body: str, remedy: str) -> None:
    told = refused(status, body)
    assert f"HTTP {status}" in told.what
    assert remedy in told.remedy


def test_a_redirect_names_where_it_leads() -> None:
    told = refused(308, headers={"location": "https://lab/v1/"})
    assert "https://lab/v1/" in told.what


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "m", "code": 1}}', "m"),
        ('{"error": "m"}', "m"),
        ('{"detail": "m"}', "m"),
        ('{"message": "m"}', "m"),
        ('"m"', "m"),
        ("m", "m"),
        ("<html><head><title>m</title>", "m"),
        ("", ""),
    ],
)
def test_the_servers_own_words_are_found_in_any_form(body: str, message: str) -> None:
    assert said_in(body)[0] == message


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, "Unsupported parameter: 'max_tokens' … Use 'max_completion_tokens' instead", True),
        (422, '[{"type": "extra_forbidden", "loc": ["body", "max_tokens"]}]', True),
        (400, "max_tokens is too large: 50", False),
        (400, "Unsupported parameter: 'max_completion_tokens'", False),
        (500, "Unsupported parameter: 'max_tokens'", False),
    ],
)
def test_only_a_refused_limit_is_asked_for_under_its_other_name(
    status: int, body: str, expected: bool
) -> None:
    found = other_limit("max_tokens", status, body)
    assert found == ("max_completion_tokens" if expected else None)
