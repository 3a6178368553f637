"""Addresses: one form, however they are written."""

from __future__ import annotations

import pytest

from harness.address import base_url
from harness.errors import UsageError


@pytest.mark.parametrize(
    ("written", "base"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("http://localhost:8000/v1", "http://localhost:8000"),
        ("http://localhost:8000//v1//", "http://localhost:8000"),
        ("http://localhost:8000/v1/chat/completions", "http://localhost:8000"),
        ("http://localhost:8000/v1/models/", "http://localhost:8000"),
        ("https://Gateway.example/llm/v1", "https://gateway.example/llm"),
        ("https://gateway.example/v1/team", "https://gateway.example/v1/team"),
        ("HTTP://my_server", "http://my_server"),
        ("192.168.0.7:8080/v1", "http://192.168.0.7:8080"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ("http://例え.jp/v1", "http://xn--r8jz45g.jp"),
        ("http://host/モデル/v1", "http://host/%E3%83%A2%E3%83%87%E3%83%AB"),
        ("api.openai.com", "https://api.openai.com"),
        ("https://api.openai.com/v1", "https://api.openai.com"),
        ("http://API.openai.com:443/v1/", "https://api.openai.com"),
    ],
)
def test_an_address_is_understood_however_it_is_written(written: str, base: str) -> None:
    assert base_url(written) == base
    assert base_url(base) == base


@pytest.mark.parametrize(
    "written",
    [
        "",
        "http://",
        "http:///v1",
        "ftp://host",
        "host name",
        "http://ho\tst",
        "http://host:0",
        "http://host:",
        "http://host:65536",
        "http://host:abc",
        "http://[::1",
        "http://a..b",
        "http://ho$t",
        "http://host?a=1",
        "http://host#v1",
        "http://evil\\@api.openai.com",
        "http://evil?@api.openai.com",
        "http://host/v1/completions",
        f"http://{'x' * 300}例.jp",
    ],
)
def test_what_is_no_address_is_refused_by_name(written: str) -> None:
    with pytest.raises(UsageError) as caught:
        base_url(written)
    assert caught.value.where == "AIPERF_URL"
    assert caught.value.remedy


@pytest.mark.parametrize("written", ["http://me:pass-word@host", "pass-word@host"])
def test_a_password_in_the_address_is_refused_and_not_repeated(written: str) -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
        base_url(written)
    assert "pass-word" not in str(caught.value)
