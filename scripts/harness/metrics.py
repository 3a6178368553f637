"""The one metric table: AIPerf's tag, the title people read, unit, digits, which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as AIPerf exports it and as people read it.

    ``digits`` are the decimals shown to people; summary.tsv always has two.
    """

    tag: str
    title: str
    unit: str
    digits: int
    better: Better
    definition: str


TTFT = Metric(
    "time_to_first_token", "TTFT", "ms", 1, "lower",
    "time to first token: from sending the request (opening the connection included) to the first "
    "streamed token, reasoning tokens included",
)  # fmt: skip
REQUEST_LATENCY = Metric(
    "request_latency", "Request Latency", "ms", 1, "lower",
    "from sending the request to its last streamed token",
)  # fmt: skip
INTER_TOKEN_LATENCY = Metric(
    "inter_token_latency", "Inter-Token Latency", "ms", 2, "lower",
    "mean time between tokens of one request: (request latency − TTFT) / (output tokens − 1)",
)  # fmt: skip
OUTPUT_TOKEN_THROUGHPUT = Metric(
    "output_token_throughput", "Output Token Throughput", "tokens/s", 1, "higher",
    "output tokens of all successful requests, divided by the length of the measured phase",
)  # fmt: skip
OUTPUT_TOKEN_THROUGHPUT_PER_USER = Metric(
    "output_token_throughput_per_user", "Output Token Throughput per User", "tokens/s", 1, "higher",
    "median over requests of 1 / inter-token latency: the speed one user sees",
)  # fmt: skip
REQUEST_THROUGHPUT = Metric(
    "request_throughput", "Request Throughput", "req/s", 2, "higher",
    "successful requests, divided by the length of the measured phase",
)  # fmt: skip
ERROR_RATE = Metric(
    "request_error_rate", "Error Rate", "%", 2, "lower",
    "failed requests as a share of failed and successful ones",
)  # fmt: skip

TIME_TO_FIRST_OUTPUT_TOKEN = Metric(
    "time_to_first_output_token", "Time to First Output Token", "ms", 1, "lower",
    "from sending the request to the first token of the answer itself, after any reasoning",
)  # fmt: skip
REASONING_TOKENS = Metric(
    "reasoning_token_count", "Reasoning Tokens", "tokens/request", 1, "lower",
    "mean over successful requests of the tokens of reasoning; they are output tokens too",
)  # fmt: skip
ANSWER_TOKENS = Metric(
    "output_token_count", "Output Tokens without Reasoning", "tokens/request", 1, "higher",
    "mean over successful requests of the tokens of the answer itself",
)  # fmt: skip

LATENCIES = (TTFT, REQUEST_LATENCY, INTER_TOKEN_LATENCY)
RATES = (
    OUTPUT_TOKEN_THROUGHPUT,
    OUTPUT_TOKEN_THROUGHPUT_PER_USER,
    REQUEST_THROUGHPUT,
    ERROR_RATE,
)
GOODPUT = Metric(
    "goodput", "Goodput", "req/s", 2, "higher",
    "requests that meet every objective set for latencies, each by itself, divided by the length "
    "of the measured phase",
)  # fmt: skip
#: Shown for models that reason only.
REASONING = (REASONING_TOKENS, ANSWER_TOKENS)
