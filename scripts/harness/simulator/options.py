"""The simulator's command line becomes a Behaviour and a Service."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cli import Arguments, argument
from harness.errors import UsageError
from harness.kinds import Number, Port, Whole
from harness.simulator.behaviour import Behaviour, Delay, Faults, Model, parse_delay
from harness.simulator.server import Service

_DESCRIPTION = "Serve a streaming OpenAI-compatible chat endpoint with known delays, until stopped."
_CLOSE_IDLE_MS = 5.0  # long enough for AIPerf's next request to be on its way
_DELAY = "MS, normal:MEAN,SD, lognormal:MEDIAN,SIGMA or exponential:MEAN"


def parse_options(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[Behaviour, Service]:
    """Read the command line; UsageError names the option that is wrong and the way out."""
    options = _parser().parse_args(argv)
    faults = Faults(**{name: getattr(options, name) for name in Faults.__slots__})
    if sum(share for _, share in faults.shares()) > 1:
        raise UsageError("--…-share", "add up to more than 1", "lower one of them")
    chosen: dict[str, Any] = {name: getattr(options, name, None) for name in Behaviour.__slots__}
    models = tuple(options.models) if options.models else Behaviour().models
    behaviour = Behaviour(**chosen | {"faults": faults, "models": models})
    key = _key(options.require_key_env, environ)
    return behaviour, Service(options.host, options.port, key, options.truth_log, options.until_eof)


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="simulate_endpoint.py", description=_DESCRIPTION, allow_abbrev=False)
    _add_service(parser.add_argument_group("service"))
    _add_answers(parser.add_argument_group("answers"))
    _add_usage(parser.add_argument_group("what it reports"))
    _add_shares(parser.add_argument_group("faults of single requests (shares, 0 to 1)"))
    _add_quirks(parser.add_argument_group("faults of the endpoint"))
    return parser


def _add_service(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=argument(Port()), default=0, help="port; 0 = a free one, printed (0)")
    add(
        "--model",
        dest="models",
        action="append",
        type=_model,
        metavar="NAME[=ROOT]",
        help="served model, may be repeated; ROOT is shown in /v1/models (simulated)",
    )
    add("--require-key-env", metavar="NAME", help="environment variable with the key to require")
    add("--echo-key", action="store_true",
        help="401 and --fail-share bodies repeat the key that was sent")  # fmt: skip
    add("--truth-log", type=Path, metavar="FILE", help="append what was really done, JSONL")
    add("--until-eof", action="store_true", help="stop also when standard input ends")
    add("--seed", type=argument(Whole(0)), default=0, help="of delays and faults (0)")  # fmt: skip


def _add_answers(group: argparse._ArgumentGroup) -> None:
    add, usual = group.add_argument, Behaviour()
    add(
        "--ttft-ms",
        dest="ttft",
        type=_delay,
        default=usual.ttft,
        metavar="DELAY",
        help=f"time to first token: {_DELAY} (20)",
    )
    add(
        "--itl-ms",
        dest="itl",
        type=_delay,
        default=usual.itl,
        metavar="DELAY",
        help="time between tokens, likewise (5)",
    )
    add(
        "--output-tokens",
        type=argument(Whole(1)),
        metavar="N",
        help="natural length of answers; ignore_eos and min_tokens raise it (as asked, else 50)",
    )
    add(
        "--stop-after",
        type=argument(Whole(1)),
        metavar="N",
        help="end answers here, whatever was asked",
    )
    add(
        "--reasoning-tokens",
        type=argument(Whole(0)),
        default=0,
        metavar="N",
        help="the first N tokens are reasoning_content (0)",
    )
    add("--reasoning-only", action="store_true", help="all tokens are reasoning_content")
    add("--burst", action="store_true", help="write all tokens at once, as separate events")
    add("--service-slots", type=argument(Whole(1)), metavar="N",
        help="requests in service at once; others queue in order")  # fmt: skip


def _add_usage(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--no-usage", dest="usage", action="store_false", help="never report usage")
    add(
        "--cached-share",
        type=_share,
        metavar="SHARE",
        help="of the prompt, reported as cached_tokens",
    )
    add("--context-tokens", type=argument(Whole(1)), metavar="N",
        help="max_model_len in /v1/models")  # fmt: skip


def _add_shares(group: argparse._ArgumentGroup) -> None:
    add, usual = group.add_argument, Faults()
    for name, meaning in (
        ("fail", "answered with --fail-status"),
        ("rate-limit", "answered 429 with Retry-After"),
        ("hang", "never answered"),
        ("drop", "connection cut in mid-stream"),
        ("broken-json", "one event in mid-stream is no JSON"),
        ("empty-delta", "a stream of events without text"),
        ("error-event", "a stream that ends in an event with an error"),
    ):
        add(f"--{name}-share", type=_share, default=0.0, metavar="SHARE", help=meaning)
    add("--fail-status", type=argument(Whole(400)), default=usual.fail_status, help="(%(default)s)")
    add(
        "--retry-after-s",
        type=argument(Whole(0)),
        default=usual.retry_after_s,
        help="(%(default)s)",
    )
    add("--after-requests", type=argument(Whole(0)), default=0, metavar="N",
        help="the shares begin after N chat requests (0)")  # fmt: skip


def _add_quirks(group: argparse._ArgumentGroup) -> None:
    add, usual = group.add_argument, Faults()
    add(
        "--fail-above",
        type=argument(Whole(0)),
        metavar="N",
        help="requests that meet more than N in flight fail with 503",
    )
    add(
        "--crawl-after",
        dest="crawl_after_tokens",
        type=argument(Whole(1)),
        metavar="N",
        help="from token N on, each takes --crawl-ms",
    )
    add(
        "--crawl-ms",
        type=argument(Number(0)),
        default=usual.crawl_ms,
        metavar="MS",
        help="(%(default)s)",
    )
    for name, meaning in (
        ("revoke", "401 after N chat requests"),
        ("die", "killed by the chat request after N others"),
    ):
        add(f"--{name}-after", type=argument(Whole(0)), metavar="N", help=meaning)
    add(
        "--close-idle",
        dest="close_idle_ms",
        type=argument(Number(0)),
        nargs="?",
        const=_CLOSE_IDLE_MS,
        metavar="MS",
        help="close connections so long after each answer, unannounced, as llama.cpp does (5)",
    )
    for name, meaning in (
        ("deaf", "connections are taken, nothing is ever answered"),
        ("not-streaming", "stream requests get one JSON body"),
        ("empty-stream", "streams end before any token"),
        ("only-max-tokens", "400 on max_completion_tokens"),
        ("reject-extra", "400 on ignore_eos and min_tokens"),
        ("unknown-model-404", "404 on models that are not served"),
    ):
        add(f"--{name}", action="store_true", help=meaning)  # fmt: skip


def _model(text: str) -> Model:
    name, _, root = text.partition("=")
    return Model(name, root or None)


@dataclass(frozen=True, slots=True)
class _DelayKind:
    """A delay, constant or drawn."""

    def parse(self, text: str) -> Delay:
        return parse_delay(text)

    def expected(self) -> str:
        return _DELAY


def _key(variable: str | None, environ: Mapping[str, str]) -> str | None:
    if variable is None:
        return None
    if not environ.get(variable):
        raise UsageError("--require-key-env", f"{variable} is not set", "set it to the key")
    return environ[variable]


_share = argument(Number(0, 1))
_delay = argument(_DelayKind())
