"""Runs one AIPerf process to its end, whatever ends it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from harness.interrupts import held_back

LAUNCHER = Path(__file__).resolve().parents[1] / "launch_aiperf.py"
PATIENCE_S = 60.0  # to write what it has
#: It hangs for good where it is stopped while it configures itself, and has nothing to write then.
EARLY_PATIENCE_S = 5.0
SAME_REQUEST_S = 0.5  # `timeout -s INT` signals its child, and then the group that this is in
_REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class EngineExit:
    """How AIPerf ended: its exit status (negative: the signal), and whether it was stopped.

    ``interrupted`` by a person or the system; ``time_limit_s`` is the limit that it ran into.
    """

    status: int
    interrupted: bool
    time_limit_s: float | None = None

    @property
    def was_stopped(self) -> bool:
        """Whether it was asked to end before it was done."""
        return self.interrupted or self.time_limit_s is not None


@dataclass(frozen=True, slots=True)
class Stopping:
    """That AIPerf has been asked to stop: why, and how long it has before it is killed."""

    out_of_time: bool
    patience_s: float


@dataclass(frozen=True, slots=True)
class StopRules:
    """When AIPerf is stopped, who is told of it, and whether it has results worth waiting for.

    ``time_limit_s`` None is no limit. Signal handlers call both callbacks: they must not wait. From
    AIPerf's end until ``ending`` is closed, signals are held back.
    """

    tell: Callable[[Stopping], None]
    has_results: Callable[[], bool]
    ending: ExitStack
    time_limit_s: float | None = None


def run_engine(
    argv: Sequence[str],
    environment: Mapping[str, str],
    key: str | None,
    log: Path,
    *,
    ui: str,
    meanwhile: Callable[[], None],
    rules: StopRules,
) -> EngineExit:
    """Run AIPerf with ``argv`` and wait for it.

    What it prints goes to ``log``, except for the progress bars of ``ui`` simple and the whole
    screen of dashboard. ``meanwhile`` is called once while it starts; if that raises, AIPerf is
    killed. SIGINT, SIGTERM, SIGHUP and the time limit ask AIPerf to stop with what it has. A signal
    after that kills it, as does a minute of waiting, or seconds where it has no results yet. If
    this process is killed, AIPerf ends too.
    """
    whole_screen = ui == "dashboard"
    stop = _Stop(rules, terminal_tells=whole_screen)
    with stop.installed(), _Lifeline(key) as lifeline:
        child = _start(argv, environment, lifeline, log, ui)
        try:
            stop.watch(child)
            meanwhile()
            status = child.wait()
        finally:
            stop.over()
            _kill(child, whole_group=not whole_screen)
            child.wait()
    ran_into_s = rules.time_limit_s if stop.out_of_time else None
    return EngineExit(status, stop.n_asked > 0, ran_into_s)


def _start(
    argv: Sequence[str], environment: Mapping[str, str], lifeline: _Lifeline, log: Path, ui: str
) -> subprocess.Popen[bytes]:
    whole_screen = ui == "dashboard"
    with log.open("wb") as console:
        return subprocess.Popen(
            [sys.executable, str(LAUNCHER), str(lifeline.reader), *argv],
            env=dict(environment),
            stdin=None if whole_screen else subprocess.DEVNULL,
            stdout=None if whole_screen else console,
            stderr=subprocess.STDOUT if ui == "none" else None,
            pass_fds=(lifeline.reader,),
            # A group of its own: a terminal's Ctrl-C reaches it through us alone, hence once.
            # Only a whole-screen program must stay in the group that may read the terminal.
            process_group=None if whole_screen else 0,
        )


class _Lifeline:
    """A pipe to AIPerf's process: its first line is the key, and its end means that we are gone."""

    def __init__(self, key: str | None) -> None:
        self.reader, self._writer = os.pipe()
        os.write(self._writer, f"{key or ''}\n".encode())  # a pipe holds 4 KiB: this does not wait

    def __enter__(self) -> _Lifeline:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reader)
        os.close(self._writer)


class _Stop:
    """Passes a request to stop on to AIPerf: politely once, then not.

    Its handlers run in the middle of ``Popen.wait``, so they must not wait themselves.
    """

    def __init__(self, rules: StopRules, *, terminal_tells: bool) -> None:
        self.rules = rules
        self.terminal_tells = terminal_tells  # a Ctrl-C has reached AIPerf already
        self.child: subprocess.Popen[bytes] | None = None
        self.timers: list[threading.Timer] = []
        self.n_asked = 0
        self.asked_s = -math.inf  # monotonic, when the last request came that counted
        self.out_of_time = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        # A signal that is ignored already stays so: nohup ignores SIGHUP.
        numbers = [n for n in _REQUESTS if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._ask) for number in numbers}
        try:
            yield
        finally:
            self.rules.ending.enter_context(held_back(before))

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        """Pass requests on to this process from now on, and one that came before."""
        self.child = child
        if self.n_asked:
            self._be_polite(child, told=False)
        elif self.rules.time_limit_s is not None:
            self._later(self.rules.time_limit_s, self._end_of_time, child)

    def over(self) -> None:
        """Pass nothing on any more."""
        self.child = None
        for timer in self.timers:
            timer.cancel()
            timer.join()  # a signal that is held back here would go to another thread

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if now_s - self.asked_s < SAME_REQUEST_S:
            return
        self.n_asked, self.asked_s = self.n_asked + 1, now_s
        child = self.child
        if child is None:
            return
        if self.n_asked > 1 or self.out_of_time:
            self._kill(child)
        else:
            self._be_polite(child, told=self.terminal_tells and number == signal.SIGINT)

    def _end_of_time(self, child: subprocess.Popen[bytes]) -> None:
        if self.child and not self.n_asked:
            self.out_of_time = True
            self._be_polite(child, told=False)

    def _be_polite(self, child: subprocess.Popen[bytes], *, told: bool) -> None:
        patience_s = PATIENCE_S if self.rules.has_results() else EARLY_PATIENCE_S
        self.rules.tell(Stopping(self.out_of_time, patience_s))
        if not told:
            child.send_signal(signal.SIGINT)
        self._later(patience_s, self._kill, child)

    def _later(
        self,
        wait_s: float,
        act: Callable[[subprocess.Popen[bytes]], None],
        child: subprocess.Popen[bytes],
    ) -> None:
        timer = threading.Timer(min(wait_s, threading.TIMEOUT_MAX), act, [child])
        timer.daemon = True
        timer.start()
        self.timers.append(timer)

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        _kill(child, whole_group=not self.terminal_tells)


def _kill(child: subprocess.Popen[bytes], *, whole_group: bool) -> None:
    """Kill AIPerf, if it still runs, and what a crashed one left behind in its group."""
    with suppress(ProcessLookupError, PermissionError):
        if whole_group:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
