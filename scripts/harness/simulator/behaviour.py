"""What the simulated endpoint does: delays, lengths and faults, as values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random

#: Advancing by the golden ratio spreads points more evenly than any other step: Weyl's sequence.
_GOLDEN = (math.sqrt(5) - 1) / 2

_DRAWS: Mapping[str, Callable[[Random, float, float], float]] = {
    "constant": lambda _, ms, __: ms,
    "normal": lambda rng, mean_ms, deviation_ms: rng.gauss(mean_ms, deviation_ms),
    "lognormal": lambda rng, median_ms, sigma: median_ms * math.exp(rng.gauss(0, sigma)),
    "exponential": lambda rng, mean_ms, _: rng.expovariate(1 / mean_ms) if mean_ms else 0.0,
}


@dataclass(frozen=True, slots=True)
class Delay:
    """A delay in ms: constant, or drawn anew each time.

    ``centre_ms`` is the mean, of a lognormal the median. ``spread`` is a normal's standard
    deviation (ms) or a lognormal's sigma (of the logarithm). Negative draws count as 0.
    """

    centre_ms: float
    shape: str = "constant"
    spread: float = 0.0

    def draw_ms(self, rng: Random) -> float:
        """Return one delay."""
        return max(0.0, _DRAWS[self.shape](rng, self.centre_ms, self.spread))


def parse_delay(text: str) -> Delay:
    """Read ``20``, ``constant:20``, ``normal:20,5``, ``lognormal:20,0.3`` or ``exponential:20``.

    ValueError for anything else, saying which forms are known.
    """
    shape, colon, rest = text.partition(":")
    if not colon:
        shape, rest = "constant", text
    try:
        numbers = [float(part) for part in rest.split(",")]
    except ValueError:
        numbers = []
    n_expected = 2 if shape in ("normal", "lognormal") else 1
    sound = all(math.isfinite(number) and number >= 0 for number in numbers)
    if shape not in _DRAWS or len(numbers) != n_expected or not sound:
        raise ValueError("milliseconds, normal:MEAN,SD, lognormal:MEDIAN,SIGMA or exponential:MEAN")
    return Delay(numbers[0], shape, *numbers[1:])


class Fault(StrEnum):
    """What goes wrong with one request."""

    NONE = "none"
    FAIL = "fail"
    RATE_LIMIT = "rate-limit"
    HANG = "hang"
    DROP = "drop"
    BROKEN_JSON = "broken-json"
    EMPTY_DELTA = "empty-delta"
    ERROR_EVENT = "error-event"


@dataclass(frozen=True, slots=True)
class Faults:
    """Everything that can be wrong with the endpoint; by default nothing is.

    The shares (0 to 1, at most 1 together) pick single requests, evenly spread: of any n requests
    in a row, share × n have the fault, give or take a few. The other fields hold for all requests.
    """

    fail_share: float = 0.0  # answered with fail_status
    fail_status: int = 500
    rate_limit_share: float = 0.0  # 429 with Retry-After
    retry_after_s: int = 1
    hang_share: float = 0.0  # never answered
    drop_share: float = 0.0  # connection cut in mid-stream
    broken_json_share: float = 0.0  # one event in mid-stream is no JSON
    empty_delta_share: float = 0.0  # a stream of events without text
    error_event_share: float = 0.0  # a stream that ends in an event with an error, as vLLM's do
    after_requests: int = 0  # the shares begin after so many chat requests
    fail_above: int | None = None  # requests fail that meet more than so many in flight
    crawl_after_tokens: int | None = None  # from this token on, each one takes crawl_ms
    crawl_ms: float = 1000.0
    not_streaming: bool = False  # stream requests get one JSON body
    empty_stream: bool = False  # a stream that ends before any token
    deaf: bool = False  # connections are taken, nothing is ever answered
    revoke_after: int | None = None  # the key is refused after so many chat requests
    die_after: int | None = None  # the process is killed by the chat request after so many
    close_idle_ms: float | None = None  # connections are closed so long after each answer
    only_max_tokens: bool = False  # 400 on max_completion_tokens
    reject_extra: bool = False  # 400 on ignore_eos and min_tokens
    unknown_model_404: bool = False

    def shares(self) -> tuple[tuple[Fault, float], ...]:
        """Return each fault of single requests with its share."""
        return (
            (Fault.FAIL, self.fail_share),
            (Fault.RATE_LIMIT, self.rate_limit_share),
            (Fault.HANG, self.hang_share),
            (Fault.DROP, self.drop_share),
            (Fault.BROKEN_JSON, self.broken_json_share),
            (Fault.EMPTY_DELTA, self.empty_delta_share),
            (Fault.ERROR_EVENT, self.error_event_share),
        )

    def of(self, ordinal: int, seed: int) -> Fault:
        """Return what goes wrong with chat request number ``ordinal`` (from 0)."""
        if ordinal < self.after_requests:
            return Fault.NONE
        point = (Random(seed).random() + ordinal * _GOLDEN) % 1.0
        for fault, share in self.shares():
            if point < share:
                return fault
            point -= share
        return Fault.NONE


@dataclass(frozen=True, slots=True)
class Model:
    """A served model; ``root`` is the name it was loaded from, where that differs."""

    name: str
    root: str | None = None


@dataclass(frozen=True, slots=True)
class Behaviour:
    """All that the endpoint does. Token n (from 0) is due ttft + n × itl after the start."""

    models: tuple[Model, ...] = (Model("simulated"),)
    ttft: Delay = Delay(20.0)
    itl: Delay = Delay(5.0)
    seed: int = 0
    output_tokens: int | None = None  # the answer's natural length; None = as asked, else 50
    stop_after: int | None = None  # answers end here, whatever was asked
    burst: bool = False  # all tokens at once, as separate events in one write
    service_slots: int | None = None  # requests in service at once; others queue in order
    usage: bool = True  # reports usage when asked to
    cached_share: float | None = None  # of the prompt, reported as cached_tokens
    reasoning_tokens: int = 0  # the first tokens are reasoning
    reasoning_only: bool = False  # all tokens are reasoning
    context_tokens: int | None = None  # told as max_model_len
    echo_key: bool = False  # the 401 body repeats the key that was sent
    faults: Faults = Faults()
