"""Send one streamed request and tell in words how the server answers it.

Usage: smoke_stream.py [--prompt TEXT] [--max-tokens N] [--timeout SECONDS]
Environment: the settings of .env.example (MODEL, AIPERF_URL, OPENAI_API_KEY, EXTRA_INPUTS …).
Prints the result on standard output, everything else on standard error.
Exit: 0 done, 2 usage or configuration, 3 the endpoint failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import TextIO

from harness import settings as configuration
from harness.cli import Arguments, run_verb
from harness.endpoint import Server, access
from harness.errors import Exit
from harness.settings import Settings
from harness.smoke import Heard, Question, ask
from harness.table import number
from harness.texts import one_line, scrub

_PROMPT = "Write three sentences about the sea."
_MAX_TOKENS = 50
_EXCERPT_CHARS = 160


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Ask once and tell what came."""
    options = _options(argv)
    settings = configuration.from_environment(os.environ)
    server = _server(settings)
    for notice in settings.notices:
        err.write(f"note: {notice}\n")
    err.write(f"Asking {settings.model} at {server.base} …\n")
    err.flush()
    timeout_s = options.timeout or settings.request_timeout_seconds
    heard, notes = ask(
        Question(
            settings.model, options.prompt, options.max_tokens, timeout_s, settings.extra_inputs
        ),
        server,
    )
    for note in [*notes, *_remarks(heard)]:
        err.write(f"note: {note}\n")
    out.write(scrub(_told(heard), server.key))
    return Exit.DONE


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Arguments(
        prog="smoke_stream.py", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--prompt", default=_PROMPT, help="what to ask (%(default)s)")
    parser.add_argument(
        "--max-tokens", type=int, default=_MAX_TOKENS, metavar="N", help="(%(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="(REQUEST_TIMEOUT_SECONDS)"
    )
    options = parser.parse_args(argv)
    if options.max_tokens < 1:
        parser.error("--max-tokens: must be 1 or more")
    if options.timeout is not None and not options.timeout > 0:
        parser.error("--timeout: must be above 0 seconds")
    return options


def _server(settings: Settings) -> Server:
    variables = {**settings.handed_on, **os.environ}
    return Server(settings.base, settings.openai_api_key, access(settings.base, variables))


def _told(heard: Heard) -> str:
    counted = "the server's usage" if heard.counted_by_server else "counted by chunks"
    answer = heard.text or heard.reasoning
    speed = number(heard.speed_tokens_per_s, 1)
    rows = {
        "TTFT": f"{number(heard.ttft_ms, 1)} ms, opening the connection included",
        "Tokens": f"{heard.n_tokens} ({counted})",
        "Length": f"{len(answer)} characters",
        "Speed": f"{speed} tokens/s after the first token" if speed else "",
        "Model": one_line(heard.model),
        "Answer" if heard.text else "Reasoning": one_line(answer, _EXCERPT_CHARS),
    }
    lines = [f"  {label:<10}{text}\n" for label, text in rows.items()]
    return "✓ First token received (TTFT OK)\n" + "".join(lines)


def _remarks(heard: Heard) -> Iterator[str]:
    if not heard.counted_by_server:
        yield "the server reports no usage; a chunk may hold more or less than one token"
    if heard.reasoning:
        yield "TTFT counts the first token of the reasoning"
    if not heard.text:
        spent = f"all {heard.n_tokens} tokens went into reasoning"
        yield f"{spent}, none into an answer: raise --max-tokens to see one"


if __name__ == "__main__":
    run_verb(main)
