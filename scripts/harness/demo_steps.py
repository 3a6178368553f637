"""The demo's parts: its own environment, the model server beside it, and the verbs it runs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dotenv import dotenv_values

from harness import settings as configuration
from harness.errors import EngineError
from harness.plan import make_plan

SCRIPTS = Path(__file__).resolve().parents[1]
ROOT = SCRIPTS.parent
SERVER_KEYS = ("MODEL", "AIPERF_URL", "TOKENIZER", "CONNECTION_REUSE")
_START_S = 120.0  # the first time the tokenizer is written, and busy machines load slowly
_STOP_S = 10.0
_PATIENCE_S = 15.0
_N_ASKED = 4
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_MAKES_OWN = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL")
_KEPT = ("DEBUG", "PYTHON")


@dataclass(frozen=True, slots=True)
class Load:
    """What the demo asks of the model; small enough for two cores. Lengths are in tokens."""

    n_users: int = 2
    n_requests: int = 20
    input_tokens: int = 32
    output_tokens: int = 32

    def settings(self) -> dict[str, str]:
        """Return the load as settings."""
        return {
            "CONCURRENCY": str(self.n_users),
            "REQUEST_COUNT": str(self.n_requests),
            "INPUT_TOKENS_MEAN": str(self.input_tokens),
            "INPUT_TOKENS_STDDEV": str(self.input_tokens // 5),
            "OUTPUT_TOKENS_MEAN": str(self.output_tokens),
            "EXTRA_INPUTS": "ignore_eos:true",
        }


@dataclass(frozen=True, slots=True)
class Step:
    """One verb to run; ``about_s`` is what it takes on two cores that have nothing else to do.

    ``output``: whether what it prints is the demo's data, part of its talk, or not shown.
    """

    title: str
    about_s: int
    output: Literal["data", "talk", "hidden"]
    command: tuple[str, ...]


def steps() -> tuple[Step, Step, Step]:
    """Return the demo's verbs in order: smoke, warm-up, profile."""
    smoke = (sys.executable, str(SCRIPTS / "smoke_stream.py"))
    measure = ("bash", str(SCRIPTS / "run_aiperf_profile.sh"))
    return (
        Step("smoke: one streamed request", 3, "talk", smoke),
        Step("warm-up: a small run of AIPerf", 15, "hidden", (*measure, "warmup")),
        Step("profile: the run that counts", 30, "data", (*measure, "profile")),
    )


def own_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without anything that would change what the demo does.

    No setting, key or verb argument of the person's is left in it, none from make's command line,
    no proxy, and no ``.env`` is read: ENV_FILE names an empty file.
    """
    dropped = {
        *(entry.key for entry in configuration.table()),
        *configuration.VERB_ARGUMENTS,
        *_MAKES_OWN,
        *_PROXIES,
        *(name.lower() for name in _PROXIES),
    } - set(_KEPT)
    kept = {
        name: value
        for name, value in environ.items()
        if name not in dropped and not name.startswith(configuration.HANDED_ON)
    }
    # run_aiperf_profile.sh takes python3 from PATH where there is no venv/, as in the container.
    path = os.pathsep.join(filter(None, (str(Path(sys.executable).parent), kept.get("PATH"))))
    return kept | {"ENV_FILE": os.devnull, "PATH": path}


def left_aside(environ: Mapping[str, str]) -> list[str]:
    """Return the settings in the environment that the demo does not follow."""
    return [entry.key for entry in configuration.table() if environ.get(entry.key)]


def run_folder(environ: Mapping[str, str]) -> Path:
    """Return where the profile of these settings is published."""
    settings = configuration.from_environment(environ)
    return Path(settings.artifacts_dir, make_plan(settings, "profile").name)


@contextmanager
def demo_server(environ: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Run serve_demo.py on a free port; yield the settings that point at it.

    It is stopped when the block ends, and stops by itself when this process is gone, killed or not.
    Raises EngineError if it does not start.
    """
    serve = (sys.executable, str(SCRIPTS / "serve_demo.py"), "--port", "0", "--until-eof")
    with beside(serve, environ) as child:
        yield _announced(child)


@contextmanager
def beside(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a server that ends with its standard input, which is held here alone, and stop it."""
    child = subprocess.Popen(
        command,
        env=dict(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        process_group=0,  # a terminal's Ctrl-C must not take it from under a running step
    )
    try:
        yield child
    finally:
        _stop(child)


def run_step(step: Step, environ: Mapping[str, str]) -> int:
    """Run a verb to its end and return its exit status (negative: the signal that ended it).

    An interrupt is passed on to the verb and raised again when that has ended.
    """
    child = subprocess.Popen(
        step.command,
        cwd=ROOT,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout={"data": None, "talk": 2, "hidden": subprocess.DEVNULL}[step.output],
        process_group=0,  # so that it hears of a Ctrl-C through us alone
    )
    try:
        return child.wait()
    except BaseException:
        _end(child)
        raise


def _announced(child: subprocess.Popen[str]) -> dict[str, str]:
    """Read the server's ``.env`` lines; it prints them once it listens."""
    assert child.stdout is not None
    limit = threading.Timer(_START_S, child.kill)
    limit.start()
    try:
        settings: dict[str, str] = {}
        while line := child.stdout.readline():
            read = dotenv_values(stream=io.StringIO(line), interpolate=False)
            settings |= {key: value for key, value in read.items() if value is not None}
            if settings.keys() >= set(SERVER_KEYS):
                return settings
    finally:
        limit.cancel()
    what = f"ended before it listened (exit status {child.wait()})"
    raise EngineError("demo server", what, "see above and .cache/demo/server.log")


def _stop(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    try:
        with suppress(BrokenPipeError):
            child.stdin.close()
        child.wait(_STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask a verb to stop and wait for it.

    It is asked again by each further interrupt and after `_PATIENCE_S` (AIPerf can hang when it is
    stopped while it configures itself; the verb kills it when asked twice), and killed at last.
    """
    for _ in range(_N_ASKED):
        with suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
            child.terminate()  # not SIGINT: a verb that is still being loaded would show a trace
            child.wait(_PATIENCE_S)
            return
    child.kill()
    child.wait()
