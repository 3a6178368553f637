"""Runs one AIPerf process to its end, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

LAUNCHER = Path(__file__).resolve().parents[1] / "launch_aiperf.py"
_STOPPING = "\nstopping: AIPerf writes down what it has (once more to kill it)\n"


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
) -> EngineExit:
    """Run AIPerf with ``argv`` and wait for it.

    What it prints goes to ``log``, except for the progress bars of ``ui`` simple and the whole
    screen of dashboard. ``meanwhile`` is called once while it starts. SIGINT and SIGTERM ask AIPerf
    to stop with what it has; a second one kills it.
    """
    whole_screen = ui == "dashboard"
    with log.open("wb") as console, _key_pipe(key) as descriptor:
        child = subprocess.Popen(
            [sys.executable, str(LAUNCHER), str(descriptor), *argv],
            env=dict(environment),
            stdin=None if whole_screen else subprocess.DEVNULL,
            stdout=None if whole_screen else console,
            stderr=subprocess.STDOUT if ui == "none" else None,
            pass_fds=() if descriptor < 0 else (descriptor,),
            # A group of its own: a terminal's Ctrl-C reaches it through us alone, hence once.
            # Only a whole-screen program must stay in the group that may read the terminal.
            process_group=None if whole_screen else 0,
        )
    stop = _Stop(child, passes_on=not whole_screen)
    with stop.installed():
        meanwhile()
        status = child.wait()
    if not whole_screen:
        _kill_group(child.pid)  # nothing of a crashed AIPerf stays behind
    return EngineExit(status, stop.n_asked > 0)


@contextmanager
def _key_pipe(key: str | None) -> Iterator[int]:
    """Yield a descriptor from which the key can be read once; -1 when there is none."""
    if not key:
        yield -1
        return
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as pipe:
        pipe.write(key)  # a pipe holds at least 4 KiB: this does not wait for the reader
    try:
        yield reader
    finally:
        os.close(reader)


class _Stop:
    """Passes a request to stop on to AIPerf: politely once, then not."""

    def __init__(self, child: subprocess.Popen[bytes], *, passes_on: bool) -> None:
        self.child = child
        self.passes_on = passes_on
        self.n_asked = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.n_asked += 1
        if not self.passes_on or self.child.poll() is not None:
            return
        if self.n_asked == 1:
            sys.stderr.write(_STOPPING)
            self.child.send_signal(signal.SIGINT)
        else:
            _kill_group(self.child.pid)


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
