"""Runs one AIPerf process to its end, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

LAUNCHER = Path(__file__).resolve().parents[1] / "launch_aiperf.py"
PATIENCE_S = 60.0  # AIPerf hangs for good when it is stopped while it configures itself
_REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class EngineExit:
    """How AIPerf ended: its exit status (negative: the signal), and whether a person stopped it."""

    status: int
    interrupted: bool


def run_engine(
    argv: Sequence[str],
    environment: Mapping[str, str],
    key: str | None,
    log: Path,
    *,
    ui: str,
    meanwhile: Callable[[], None],
    on_stop: Callable[[], None],
) -> EngineExit:
    """Run AIPerf with ``argv`` and wait for it.

    What it prints goes to ``log``, except for the progress bars of ``ui`` simple and the whole
    screen of dashboard. ``meanwhile`` is called once while it starts; if that raises, AIPerf is
    killed. SIGINT, SIGTERM and SIGHUP ask AIPerf to stop with what it has, and call ``on_stop``; a
    second one kills it, as does a minute of waiting. If this process is killed, AIPerf ends too.
    """
    whole_screen = ui == "dashboard"
    stop = _Stop(on_stop, terminal_tells=whole_screen)
    with stop.installed(), _Lifeline(key) as lifeline:
        with log.open("wb") as console:
            child = subprocess.Popen(
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
        try:
            stop.watch(child)
            meanwhile()
            status = child.wait()
        finally:
            stop.over()
            _kill(child, whole_group=not whole_screen)
            child.wait()
    return EngineExit(status, stop.n_asked > 0)


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

    def __init__(self, on_stop: Callable[[], None], *, terminal_tells: bool) -> None:
        self.on_stop = on_stop
        self.terminal_tells = terminal_tells  # a Ctrl-C has reached AIPerf already
        self.child: subprocess.Popen[bytes] | None = None
        self.timer: threading.Timer | None = None
        self.n_asked = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        # A signal that is ignored already stays so: nohup ignores SIGHUP.
        numbers = [n for n in _REQUESTS if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        """Pass requests on to this process from now on, and one that came before."""
        self.child = child
        if self.n_asked:
            self._be_polite(child, told=False)

    def over(self) -> None:
        """Pass nothing on any more."""
        self.child = None
        if self.timer:
            self.timer.cancel()

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.n_asked += 1
        child = self.child
        if child is None:
            return
        if self.n_asked > 1:
            self._kill(child)
        else:
            self._be_polite(child, told=self.terminal_tells and number == signal.SIGINT)

    def _be_polite(self, child: subprocess.Popen[bytes], *, told: bool) -> None:
        self.on_stop()
        if not told:
            child.send_signal(signal.SIGINT)
        self.timer = threading.Timer(PATIENCE_S, self._kill, [child])
        self.timer.daemon = True
        self.timer.start()

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        _kill(child, whole_group=not self.terminal_tells)


def _kill(child: subprocess.Popen[bytes], *, whole_group: bool) -> None:
    """Kill AIPerf, if it still runs, and what a crashed one left behind in its group."""
    with suppress(ProcessLookupError, PermissionError):
        if whole_group:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
