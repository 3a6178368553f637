"""Ctrl-C: quiet while a verb imports, an exception while it works, held back at its very end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from harness.interrupts import held_back, quiet_imports, raise_on_request

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in REQUESTS]
    yield
    for number, handler in zip(REQUESTS, before, strict=True):
        signal.signal(number, handler)


def test_a_program_that_is_no_verb_keeps_its_handlers() -> None:
    before = [signal.getsignal(number) for number in REQUESTS]
    quiet_imports()
    assert [signal.getsignal(number) for number in REQUESTS] == before


@pytest.mark.parametrize("number", REQUESTS)
def test_a_verb_leaves_with_130_and_without_a_trace(number: signal.Signals) -> None:
    code = (
        "import os, sys; sys.path.insert(0, 'scripts'); sys.argv = ['scripts/run_profile.py']\n"
        f"import harness\nos.kill(os.getpid(), {number:d})\nprint('still there')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("number", REQUESTS)
def test_a_request_to_end_is_an_exception_unless_it_is_ignored(number: signal.Signals) -> None:
    raise_on_request()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    signal.signal(number, signal.SIG_IGN)
    raise_on_request()
    os.kill(os.getpid(), number)


def test_a_request_that_is_held_back_comes_when_the_block_has_ended() -> None:
    raise_on_request()
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("all of the block")
    assert done == ["all of the block"]


def test_it_is_held_back_where_another_thread_gets_it_too() -> None:
    raise_on_request()
    done, over = [], threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt), held_back():
            signal.pthread_kill(other.ident or 0, signal.SIGINT)
            time.sleep(0.2)  # until that thread has it
            done.append("all of the block")
    finally:
        over.set()
        other.join()
    assert done == ["all of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
