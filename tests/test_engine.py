"""The engine's process: started without the key in sight, stopped politely, then not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness import engine
from harness.engine import EngineExit, Stopping, StopRules, run_engine

# Stands in for AIPerf: says what it was given, then behaves as the test wants.
_PREAMBLE = """\
import os, signal, sys, time
lifeline = os.fdopen(int(sys.argv[1]))
key = lifeline.readline().rstrip()
print('argv', sys.argv[2:], 'key', len(key), flush=True)
"""


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[EngineExit, str]]:
    def run(
        code: str,
        key: str | None = None,
        meanwhile: Callable[[], None] = lambda: None,
        tell: Callable[[Stopping], None] = lambda _: None,
        has_results: bool = True,
        time_limit_s: float | None = None,
        at_the_end: Callable[[], None] = lambda: None,
    ) -> Any:
        stand_in = tmp_path / "stand_in.py"
        stand_in.write_text(_PREAMBLE + code)
        monkeypatch.setattr(engine, "LAUNCHER", stand_in)
        log = tmp_path / "log"
        with ExitStack() as ending:
            ended = run_engine(
                ["profile", "-m", "a b"],
                dict(os.environ),
                key,
                log,
                ui="none",
                meanwhile=meanwhile,
                rules=StopRules(tell, lambda: has_results, ending, time_limit_s),
            )
            at_the_end()
        return ended, log.read_text()

    return run


def when_it_says(word: str, log: Path, *signals: signal.Signals) -> None:
    """Send signals to this process, one after the other, once the stand-in has written a word."""

    def send() -> None:
        for number, name in enumerate(signals, 1):
            deadline_s = time.monotonic() + 20
            while time.monotonic() < deadline_s and log.read_text().count(word) < number:
                time.sleep(0.02)
            os.kill(os.getpid(), name)

    threading.Thread(target=send, daemon=True).start()


def test_the_key_comes_through_a_pipe_and_argv_is_untouched(play: Any) -> None:
    ended, log = play("", key="sesame")
    assert ended == EngineExit(0, interrupted=False)
    assert log == "argv ['profile', '-m', 'a b'] key 6\n"


def test_without_a_key_none_is_passed(play: Any) -> None:
    assert "key 0" in play("")[1]


def test_its_exit_status_and_output_are_kept(play: Any) -> None:
    ended, log = play("print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert ended.status == 7
    assert "out" in log
    assert "err" in log


def test_what_can_be_done_meanwhile_is_done_while_it_runs(play: Any) -> None:
    done = []
    play("time.sleep(0.2)", meanwhile=lambda: done.append(True))
    assert done == [True]


@pytest.mark.parametrize("request_to_stop", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_reaches_it_as_one_sigint(
    play: Any, tmp_path: Path, request_to_stop: signal.Signals
) -> None:
    code = (
        "signal.signal(signal.SIGINT, lambda *_: (print('stopping'), sys.exit(0)))\n"
        "print('ready', flush=True); time.sleep(30)"
    )
    (tmp_path / "log").write_text("")
    when_it_says("ready", tmp_path / "log", request_to_stop)
    ended, log = play(code)
    assert ended == EngineExit(0, interrupted=True)
    assert log.count("stopping") == 1


def test_a_second_request_kills_one_that_does_not_listen(
    play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SAME_REQUEST_S", 0.0)
    code = (
        "signal.signal(signal.SIGINT, lambda *_: print('ready again', flush=True))\n"
        "print('ready', flush=True)\nfor _ in range(300): time.sleep(0.1)"
    )
    (tmp_path / "log").write_text("")
    when_it_says("ready", tmp_path / "log", signal.SIGINT, signal.SIGINT)
    ended, _ = play(code)
    assert ended == EngineExit(-signal.SIGKILL, interrupted=True)


def test_a_request_that_comes_twice_at_once_is_one(
    play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SAME_REQUEST_S", 30.0)
    code = (
        "signal.signal(signal.SIGINT, lambda *_: (print('ready again', flush=True),"
        " time.sleep(1), sys.exit(0)))\nprint('ready', flush=True); time.sleep(60)"
    )
    (tmp_path / "log").write_text("")
    when_it_says("ready", tmp_path / "log", signal.SIGINT, signal.SIGTERM)
    ended, log = play(code)
    assert ended == EngineExit(0, interrupted=True)
    assert log.count("again") == 1


DEAF = (
    "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "print('ready', flush=True)\nfor _ in range(300): time.sleep(0.1)"
)


@pytest.mark.parametrize(
    ("has_results", "patience"), [(True, "PATIENCE_S"), (False, "EARLY_PATIENCE_S")]
)
def test_one_that_does_not_end_is_killed_after_a_while(
    play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_results: bool, patience: str
) -> None:
    monkeypatch.setattr(engine, patience, 0.2)
    (tmp_path / "log").write_text("")
    when_it_says("ready", tmp_path / "log", signal.SIGINT)
    ended, _ = play(DEAF, has_results=has_results)
    assert ended == EngineExit(-signal.SIGKILL, interrupted=True)


def test_a_request_to_stop_is_told_once(play: Any, tmp_path: Path) -> None:
    told: list[Stopping] = []
    (tmp_path / "log").write_text("")
    when_it_says("ready", tmp_path / "log", signal.SIGTERM)
    ended, _ = play("print('ready', flush=True); time.sleep(30)", tell=told.append)
    assert told == [Stopping(out_of_time=False, patience_s=engine.PATIENCE_S)]
    assert ended.interrupted


POLITE = "signal.signal(signal.SIGINT, lambda *_: (print('stopping'), sys.exit(0)))\ntime.sleep(60)"


def test_at_the_time_limit_it_is_asked_to_stop(play: Any) -> None:
    told: list[Stopping] = []
    ended, log = play(POLITE, tell=told.append, time_limit_s=1.0)
    assert ended == EngineExit(0, interrupted=False, time_limit_s=1.0)
    assert log.count("stopping") == 1
    assert [stopping.out_of_time for stopping in told] == [True]


def test_one_that_does_not_listen_at_the_time_limit_is_killed(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PATIENCE_S", 0.2)
    ended, _ = play(DEAF, time_limit_s=1.0)
    assert ended == EngineExit(-signal.SIGKILL, interrupted=False, time_limit_s=1.0)


def test_one_that_ends_in_time_is_left_alone(play: Any) -> None:
    ended, _ = play("", time_limit_s=600.0)
    assert ended == EngineExit(0, interrupted=False)
    assert not ended.was_stopped


def test_it_is_killed_when_what_is_done_meanwhile_fails(play: Any) -> None:
    started_s = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        play("time.sleep(60)", meanwhile=lambda: 1 / 0)
    assert time.monotonic() - started_s < 30


def test_it_ends_when_the_harness_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; sys.path.insert(0, 'scripts')\n"
        "from harness import launch\n"
        "import threading\n"
        "lifeline = int(sys.argv[1]); os.read(lifeline, 1)\n"
        "threading.Thread(target=launch._end_with, args=(lifeline,), daemon=True).start()\n"
        "time.sleep(60)"
    )
    reader, writer = os.pipe()
    os.write(writer, b"\n")
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(reader)], pass_fds=(reader,), process_group=0
    )
    os.close(reader)
    assert child.poll() is None
    os.close(writer)
    assert child.wait(timeout=30) == -signal.SIGKILL


def test_nothing_that_it_started_stays_behind(play: Any) -> None:
    code = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('child', child.pid, flush=True)"
    )
    _, log = play(code)
    child = int(log.split()[-1])
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s and _is_running(child):
        time.sleep(0.05)
    assert not _is_running(child)


def test_handlers_of_signals_are_put_back(play: Any) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    play("")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_from_its_end_on_a_request_to_stop_waits_for_what_is_still_to_be_done(play: Any) -> None:
    done = []

    def record() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        done.append("recorded")

    with pytest.raises(KeyboardInterrupt):
        play("", at_the_end=record)
    assert done == ["recorded"]


def test_a_request_between_its_end_and_the_old_handlers_is_not_lost(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_back, done = signal.signal, []

    def interrupted_here(number: int, handler: Any) -> Any:
        before = put_back(number, handler)
        if handler is signal.default_int_handler:
            os.kill(os.getpid(), signal.SIGINT)
        return before

    monkeypatch.setattr(signal, "signal", interrupted_here)
    with pytest.raises(KeyboardInterrupt):
        play("", at_the_end=lambda: done.append("recorded"))
    assert done == ["recorded"]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
