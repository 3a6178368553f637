"""Serve the embedded model, SmolLM2-135M-Instruct, until Ctrl-C.

    python scripts/serve_demo.py [--port 8080] [--until-eof]

Prints the lines for .env on standard output once the server listens, all else on standard error.
Where llama.cpp cannot be used, the simulator is served instead, and that is said.
--until-eof stops it also when its standard input ends.
Exit: 0 stopped by Ctrl-C or SIGTERM, 2 wrong option or port taken, 3 llama.cpp does not start,
4 the model's file cannot be used.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from harness.cli import Arguments, argument, run_verb
from harness.demo_server import (
    HOST,
    MODEL,
    N_SLOTS,
    NoModel,
    check_port,
    env_lines,
    find_model,
    n_threads,
    native_output_to,
    start_model,
    stop_at_end_of_input,
    usable_cpus,
    wait_for_stop,
)
from harness.errors import Exit
from harness.gguf_tokenizer import ensure_tokenizer
from harness.kinds import Port

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "demo"
_PORT = "8080"


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Serve the model, or the simulator in its place."""
    options = _options(argv)
    if options.until_eof:
        stop_at_end_of_input()
    found = find_model()
    if isinstance(found, NoModel):
        return _serve_simulator(options, found.why, out, err)
    return _serve_model(options, found, out, err)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Arguments(prog="serve_demo.py", allow_abbrev=False, description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    port = os.environ.get("PORT") or _PORT
    parser.add_argument("--port", type=argument(Port()), default=port)
    parser.add_argument("--until-eof", action="store_true")
    return parser.parse_args(argv)


def _serve_model(options: argparse.Namespace, gguf: Path, out: TextIO, err: TextIO) -> NoReturn:
    folder, log = CACHE / "tokenizer", CACHE / "server.log"
    check_port(options.port)
    threads = n_threads(usable_cpus())
    _say(err, f"Loading {MODEL} into llama.cpp, on the CPU, {threads} of {usable_cpus()} cores …")
    if ensure_tokenizer(gguf, folder):
        _say(err, f"Its exact tokenizer is now in {folder}")
    with native_output_to(log) as terminal:
        server = start_model(gguf, options.port)
        settings = {"MODEL": MODEL, "AIPERF_URL": server.url, "TOKENIZER": str(folder)}
        # It closes idle connections without a word; a pooled one then loses its request.
        out.write(env_lines(settings | {"CONNECTION_REUSE": "never"}))
        out.flush()
        if not options.until_eof:
            _say(terminal, _advice(f"{N_SLOTS} requests at a time; its log: {log}"))
        wait_for_stop()
    if not options.until_eof:
        _say(err, "stopped")
    os._exit(Exit.DONE)  # see ModelServer: it would wait for requests under way


def _serve_simulator(options: argparse.Namespace, why: str, out: TextIO, err: TextIO) -> int:
    from harness.simulator.behaviour import Behaviour  # noqa: PLC0415 - not needed with the model
    from harness.simulator.server import Service, serve  # noqa: PLC0415

    _say(err, f"note: no embedded model here: {why}; the simulator takes its place")
    behaviour = Behaviour()

    def ready(url: str) -> None:
        settings = {"MODEL": behaviour.models[0].name, "AIPERF_URL": url, "TOKENIZER": "builtin"}
        out.write(env_lines(settings | {"CONNECTION_REUSE": "pooled"}))
        out.flush()
        if not options.until_eof:
            _say(err, _advice("its delays are set, not measured"))

    check_port(options.port)
    serve(behaviour, Service(HOST, options.port, None, None), ready)
    return Exit.DONE


def _advice(about: str) -> str:
    return f"Serving ({about}).\nPut these lines into .env, then: make smoke. Ctrl-C stops it."


def _say(err: TextIO, line: str) -> None:
    err.write(line + "\n")
    err.flush()


if __name__ == "__main__":
    run_verb(main)
