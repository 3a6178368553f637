"""URL rules, and what the server says of itself."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.endpoint import (
    Access,
    ServedModel,
    access,
    look,
    require_name,
    tls_context,
)
from harness.errors import EndpointError, UsageError
from tests.canned import (
    JSON,
    Canned,
    canned,
    closed_port,
    dripping,
    hanging_up,
    self_signed,
    silent,
)
from tests.servers import simulator

MODELS = "/v1/models"
LIST = Canned(200, json.dumps({"data": [{"id": "m"}]}), JSON)


def test_a_proxy_counts_only_where_aiperf_would_use_it() -> None:
    proxies = {"HTTP_PROXY": "http://p:1", "NO_PROXY": "inside.example"}
    trusting = {**proxies, "AIPERF_HTTP_TRUST_ENV": "1"}
    assert access("http://lab:8000", proxies).proxy is None
    assert access("http://lab:8000", trusting).proxy == "http://p:1"
    assert access("https://lab:8000", trusting).proxy is None
    assert access("http://x.inside.example", trusting).proxy is None


def test_a_request_goes_through_the_proxy() -> None:
    with canned({"http://lab.invalid:8000/v1/models": [LIST]}) as proxy:
        facts = look("http://lab.invalid:8000", None, how=Access(proxy=proxy.url))
    assert facts.models == (ServedModel("m"),)


def test_a_server_says_its_models_and_version() -> None:
    with simulator("--model", "a=org/a", "--model", "b", "--context-tokens", "4096") as server:
        facts = look(server.url, None)
        n_requests = len(server.truths())
    assert facts.models == (ServedModel("a", "org/a", 4096), ServedModel("b", None, 4096))
    assert facts.version == "simulator"
    assert facts.server
    assert n_requests == 0


@pytest.mark.parametrize(
    "answer", [Canned(404), Canned(405), Canned(501), Canned(200, "<html>hi</html>")]
)
def test_a_server_without_a_list_of_models_is_no_error(answer: Canned) -> None:
    with canned({MODELS: [answer]}) as server:
        facts = look(server.url, None)
    assert (facts.models, facts.version) == (None, None)


@pytest.mark.parametrize("data", [None, [], [{"object": "model"}, 3]])
def test_a_server_may_serve_no_model_at_all(data: object) -> None:
    with canned({MODELS: [Canned(200, json.dumps({"data": data}), JSON)]}) as server:
        assert look(server.url, None).models == ()


def test_the_key_is_sent_for_the_list_and_not_for_the_version() -> None:
    with canned({MODELS: [LIST]}) as server:
        look(server.url, "secret")
        sent = {seen.path: seen.headers.get("authorization") for seen in server.seen}
    assert sent == {MODELS: "Bearer secret", "/version": None}


@pytest.mark.parametrize(("key", "words"), [(None, "no key was sent"), ("wrong", "was sent")])
def test_a_refused_key_names_status_and_setting(key: str | None, words: str) -> None:
    with simulator("--echo-key", key="right") as server, pytest.raises(EndpointError) as caught:
        look(server.url, key)
    assert "HTTP 401" in caught.value.what
    assert words in caught.value.what
    assert "OPENAI_API_KEY" in caught.value.remedy
    assert "wrong" not in str(caught.value)


def test_a_key_that_may_chat_but_not_list_models_is_no_error() -> None:
    body = '{"error": {"message": "Missing scopes: api.model.read"}}'
    with canned({MODELS: [Canned(403, body, JSON)]}) as server:
        assert look(server.url, "key").models is None


def test_a_redirect_is_not_followed_with_the_key() -> None:
    with canned({MODELS: [LIST]}) as other:
        moved = Canned(302, headers={"Location": f"{other.url}/v1/models"})
        with canned({MODELS: [moved]}) as server, pytest.raises(EndpointError, match=other.url):
            look(server.url, "secret")
    assert other.seen == []


def test_a_loading_server_is_told_before_the_run() -> None:
    with (
        canned({MODELS: [Canned(503, '{"error": {"message": "Loading model"}}', JSON)]}) as server,
        pytest.raises(EndpointError, match="Loading model"),
    ):
        look(server.url, None)


def test_a_port_without_a_server_is_told() -> None:
    with pytest.raises(EndpointError, match="connection refused"):
        look(f"http://127.0.0.1:{closed_port()}", None)


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(EndpointError, match=r"the name nowhere\.invalid is not known"):
        look("http://nowhere.invalid:8000", None)


def test_a_silent_name_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: time.sleep(5))
    with pytest.raises(EndpointError, match=r"not found out within 0\.1 s"):
        require_name("http://lab:8000", 0.1)


def test_a_server_that_accepts_and_says_nothing_is_told() -> None:
    told = r"no answer from /v1/models within 0\.3 s"
    with silent() as url, pytest.raises(EndpointError, match=told):
        look(url, None, timeout_s=0.3)


def test_a_server_that_hangs_up_is_told() -> None:
    told = "closed the connection when asked for /lab/v1/models"
    with hanging_up() as url, pytest.raises(EndpointError, match=told):
        look(url + "/lab", None)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse what a full queue drops")
def test_an_address_that_swallows_packets_is_told() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):  # the queue of connections that nobody accepts fills up
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(EndpointError, match=r"no connection within 0\.3 s"):
            look(url, None, timeout_s=0.3)


def test_a_server_that_sends_a_byte_now_and_then_is_given_up() -> None:
    told = r"no answer from /v1/models within 0\.3 s"
    with dripping() as url, pytest.raises(EndpointError, match=told):
        look(url, None, timeout_s=0.3)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a self-signed certificate for localhost; the file holds its key as well."""
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_a_self_signed_certificate_is_named(certificate: Path) -> None:
    with (
        canned({MODELS: [LIST]}, certificate) as server,
        pytest.raises(EndpointError, match=r"self-signed.*SSL_CERT_FILE"),
    ):
        look(server.url, None)


def test_a_certificate_of_ones_own_is_trusted_once_named(certificate: Path) -> None:
    named = {"SSL_CERT_FILE": str(certificate)}
    with canned({MODELS: [LIST]}, certificate) as server:
        facts = look(server.url, None, how=access(server.url, named))
        elsewhere = f"https://127.0.0.1:{server.port}"
        with pytest.raises(EndpointError, match=r"not made out to 127\.0\.0\.1"):
            look(elsewhere, None, how=access(server.url, named))
        unchecked = access(elsewhere, {"AIPERF_HTTP_SSL_VERIFY": "false"})
        assert look(elsewhere, None, how=unchecked).models == facts.models
    assert facts.models == (ServedModel("m"),)


def test_a_missing_certificate_file_is_told() -> None:
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        tls_context(Access(ca_file="/nowhere/ca.pem"))


def test_https_to_a_port_of_plain_http_is_told() -> None:
    with (
        simulator() as server,
        pytest.raises(EndpointError, match=r"does not speak it.*http://"),
    ):
        look(server.url.replace("http:", "https:"), None)


def test_http_to_a_tls_port_is_told(certificate: Path) -> None:
    with canned({MODELS: [LIST]}, certificate) as server, pytest.raises(EndpointError) as caught:
        look(server.url.replace("https:", "http:"), None)
    assert "https://" in caught.value.remedy


def test_asking_the_server_loads_no_heavy_package() -> None:
    heavy = "{'openai', 'httpx', 'numpy', 'aiohttp', 'transformers'}"
    code = f"import sys, harness.endpoint; print(sorted({heavy} & set(sys.modules)))"
    scripts = Path(__file__).parent.parent / "scripts"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=scripts, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
