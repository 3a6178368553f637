"""Serve a streaming OpenAI-compatible chat endpoint with known delays, until Ctrl-C.

    python scripts/simulate_endpoint.py [--port N] [--ttft-ms 20] [--itl-ms normal:5,1] …

Prints ``listening on http://127.0.0.1:PORT`` once it does. ``--help`` lists the options, faults
included. Exit codes: 0 stopped by SIGINT or SIGTERM, 2 wrong option, port or file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

from harness.cli import run_verb
from harness.demo_server import stop_at_end_of_input
from harness.errors import Exit
from harness.simulator.options import parse_options
from harness.simulator.server import serve


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:  # noqa: ARG001 - all verbs alike
    """Run the endpoint."""
    behaviour, service = parse_options(argv, os.environ)
    if service.until_eof:
        stop_at_end_of_input()

    def ready(url: str) -> None:
        out.write(f"listening on {url}\n")
        out.flush()

    serve(behaviour, service, ready)
    return Exit.DONE


if __name__ == "__main__":
    run_verb(main)
