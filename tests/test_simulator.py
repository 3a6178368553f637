"""The simulated endpoint: what it answers, when, and what it says it did."""

from __future__ import annotations

import httpx

from tests.servers import simulator


def test_a_stream_has_as_many_tokens_as_were_asked_for() -> None:
    with simulator("--ttft-ms", "1", "--itl-ms", "0") as server:
        body = {"model": "m", "messages": [], "max_tokens": 7, "stream": True}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
        assert answer.text.count('"content"') == 7
        assert answer.text.endswith("data: [DONE]\n\n")
        assert [truth.tokens for truth in server.truths(1)] == [7]
