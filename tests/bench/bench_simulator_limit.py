"""What the simulator sustains on this machine, shared with the client that drives it.

    python tests/bench/bench_simulator_limit.py

Two processes drive it with bare sockets, which cost far less than any real client. Rates are of the
truth log, from the first arrival to the last token.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from harness.cli import run_verb
from harness.errors import Exit
from harness.simulator.truth import Truth
from harness.stats import quantile
from harness.table import Column, Table, number, to_text
from tests.servers import Simulator, simulator

ROOT = Path(__file__).resolve().parents[2]

_N_PROCESSES = 2
_LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Load:
    """So many streams at once, each asking for so many answers of so many tokens."""

    title: str
    ttft_ms: int
    itl_ms: int
    n_streams: int
    n_answers: int
    n_tokens: int


_LOADS = (
    Load("as fast as it can, long answers", 0, 0, 20, 40, 200),
    Load("as fast as it can, one token each", 0, 0, 20, 400, 1),
    Load("100 streams at 10 ms", 100, 10, 100, 4, 100),
    Load("200 streams at 10 ms", 100, 10, 200, 4, 100),
    Load("400 streams at 10 ms", 100, 10, 400, 4, 100),
)
_HEADINGS = ("answers/s", "chunks/s", "server CPU %", "TTFT p50 ms", "ITL p50 ms", "ITL p99 ms")


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Measure and print."""
    columns = (Column("load", "left"), *(Column(heading) for heading in _HEADINGS))
    out.write(to_text(Table(columns, tuple(_measure(load) for load in _LOADS))))
    return Exit.DONE


def _measure(load: Load) -> tuple[str, ...]:
    with simulator("--ttft-ms", str(load.ttft_ms), "--itl-ms", str(load.itl_ms)) as server:
        before_s = _cpu_s(server)
        _drive(server.url, load)
        truths = server.truths(load.n_streams * load.n_answers)
        return (load.title, *_figures(truths, _cpu_s(server) - before_s))


def _drive(url: str, load: Load) -> None:
    context = multiprocessing.get_context("spawn")
    drivers = [context.Process(target=_driver, args=(url, load)) for _ in range(_N_PROCESSES)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()


def _driver(url: str, load: Load) -> None:
    asyncio.run(_streams(url, load))


async def _streams(url: str, load: Load) -> None:
    await asyncio.gather(*(_stream(url, load) for _ in range(load.n_streams // _N_PROCESSES)))


async def _stream(url: str, load: Load) -> None:
    host = urlsplit(url)
    reader, writer = await asyncio.open_connection(host.hostname, host.port)
    for _ in range(load.n_answers):
        writer.write(_request(load.n_tokens))
        end = b""
        while not end.endswith(_LAST_CHUNK):
            piece = await reader.read(65536)
            if not piece:
                raise ConnectionError("the simulator hung up")
            end = (end + piece)[-len(_LAST_CHUNK) :]
    writer.close()


def _request(n_tokens: int) -> bytes:
    body = json.dumps({"model": "m", "messages": [], "max_tokens": n_tokens, "stream": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def _figures(truths: Sequence[Truth], cpu_s: float) -> tuple[str, ...]:
    last_ns = max(truth.last_token_ns or 0 for truth in truths)
    lasted_s = (last_ns - min(truth.arrival_ns for truth in truths)) / 1e9
    ttfts_ms = sorted(truth.ttft_ms for truth in truths if truth.ttft_ms is not None)
    itls_ms = sorted(truth.itl_ms for truth in truths if truth.itl_ms is not None)
    return (
        number(len(truths) / lasted_s, 0),
        number(sum(truth.tokens for truth in truths) / lasted_s, 0),
        number(cpu_s / lasted_s * 100, 0),
        number(quantile(ttfts_ms, 0.5), 1),
        number(quantile(itls_ms, 0.5), 3),
        number(quantile(itls_ms, 0.99), 3),
    )


def _cpu_s(server: Simulator) -> float:
    """Return the CPU time the simulator has used; 0 where there is no /proc."""
    try:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    run_verb(main)
