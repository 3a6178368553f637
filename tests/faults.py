"""Every fault that we know of: how it is made to happen, what it says, and what it leaves.

`tests/test_faults.py` makes each of them happen; docs/faults.md is written from the same table by
`PYTHONPATH=scripts python -m tests.faults`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import simulator

ROOT = Path(__file__).parent.parent
NAME = "ISL100_OSL5_CON2"
KEY = "lab-key-0123456789"
_LOAD = {
    "CONCURRENCY": "2",
    "REQUEST_COUNT": "6",
    "OUTPUT_TOKENS_MEAN": "5",
    "WARMUP_REQUESTS": "0",
}
_LONG = {"REQUEST_COUNT": "400", "OUTPUT_TOKENS_MEAN": "5"}
_SLOW = ("--ttft-ms", "100", "--itl-ms", "20")
_WAIT_S = 60.0
_LONGEST_S = 200.0
#: No file may be longer than 3 KB: what a full disk looks like to a program.
_FULL = ("bash", "-c", 'ulimit -f 3; exec "$@"', "-")
_END_S = 20.0
_SAID = "said.txt"
_MARK = "earlier.txt"  # in the result of an earlier run of the same name


@dataclass(frozen=True, slots=True)
class Running:
    """A verb under way: its process and its folder."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def partial(self) -> Path:
        """Return the folder that AIPerf writes to."""
        return self.folder / "artifacts" / f"{NAME}.partial"

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so, or the verb has ended, or for a minute."""
        deadline_s = time.monotonic() + _WAIT_S
        while not is_so() and self.process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.02)


def _signal_after(wait_s: float, number: signal.Signals) -> Callable[[Running], None]:
    def act(running: Running) -> None:
        time.sleep(wait_s)
        running.process.send_signal(number)

    return act


def _when_it_says(word: str, number: signal.Signals) -> Callable[[Running], None]:
    """Return what signals the verb once it, or AIPerf, says a word."""

    def act(running: Running) -> None:
        logs = (running.folder / _SAID, running.partial / "aiperf_console.log")
        running.wait_until(lambda: any(log.exists() and word in _text(log) for log in logs))
        running.process.send_signal(number)

    return act


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _when_rows_stand(
    number: signal.Signals, *, of_aiperf: bool = False
) -> Callable[[Running], None]:
    """Return what signals the verb, or AIPerf, once rows stand in the export."""

    def act(running: Running) -> None:
        rows = running.partial / "profile_export.jsonl"
        running.wait_until(lambda: rows.exists() and rows.stat().st_size > 0)
        if not of_aiperf:
            running.process.send_signal(number)
            return
        for process in _children(running.process.pid):
            os.kill(process, number)

    return act


def _children(process: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = (line.split() for line in listed.stdout.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == process]


@contextmanager
def _lock_held(folder: Path) -> Iterator[None]:
    locks = folder / "artifacts" / ".locks"
    locks.mkdir(parents=True)
    with (locks / NAME).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _archive_is_a_file(folder: Path) -> Iterator[None]:
    (folder / "artifacts" / "archive").write_text("")
    yield


@contextmanager
def _leftover(folder: Path) -> Iterator[None]:
    partial = folder / "artifacts" / f"{NAME}.partial"
    partial.mkdir()
    (partial / "profile_export.jsonl").write_text('{"cut of')
    yield


@contextmanager
def _prompt_file(folder: Path) -> Iterator[None]:
    (folder / "prompts.jsonl").write_text('{"prompt": "Hello"}\n')
    yield


@contextmanager
def _tokenizer(folder: Path) -> Iterator[None]:
    (folder / "tok").mkdir()
    (folder / "tok" / "tokenizer.json").write_text("{}")
    yield


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and what must come of it.

    ``says`` stands in what the verb prints, with … for any text, URL for the server's address and
    NAME for the run's. ``server`` are the simulator's options, None where nothing listens, ``key``
    the one that it asks for. ``settings`` may name {url}, {https} and {folder}. ``prepare`` is
    entered before the verb starts, ``wrapper`` stands before its command, ``act`` is called while
    it runs.
    """

    name: str
    says: str
    exit_code: int
    left: str
    server: tuple[str, ...] | None = ()
    key: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], AbstractContextManager[None]] | None = None
    act: Callable[[Running], None] | None = None
    wrapper: tuple[str, ...] = ()
    mode: str = "profile"


#: What a fault may leave of the run, as docs/faults.md says it.
NOTHING = "nothing: no run was started"
VALID = "the run, VALID"
SUSPECT = "the run, SUSPECT"
INVALID = "the run, INVALID"
ROWS = "`.partial` with its rows, summary INVALID"
NO_ROWS = "`.partial` without rows, run.json INVALID"
UNJUDGED = "`.partial` without a verdict; the next run says so and archives it"

_LATER = ("--after-requests", "1")  # the request before the run is spared
_KEPT = "; what it has is kept in artifacts/NAME.partial; …"
_UNTOUCHED = "; an earlier result of this name is untouched"

BEFORE = (
    Fault(
        "two settings are wrong",
        "error: CONCURRENCY: 'zero' is not valid; set a whole number, 1 or more\n"
        "error: MAX_ERROR_RATE: '200' is not valid; set a number from 0 to 100",
        2,
        NOTHING,
        server=None,
        settings={"CONCURRENCY": "zero", "MAX_ERROR_RATE": "200"},
    ),
    Fault(
        "a prompt file of another form",
        'error: prompts.jsonl:1: AIPerf would ignore "prompt"; did you mean "text"?',
        2,
        NOTHING,
        server=None,
        prepare=_prompt_file,
        settings={"INPUT_FILE": "{folder}/prompts.jsonl"},
    ),
    Fault(
        "no server listens",
        "error: http://127.0.0.1:9: connection refused: nothing listens on port 9; …",
        3,
        NOTHING,
        server=None,
    ),
    Fault(
        "the server's name is unknown",
        "error: http://no-such-host.invalid: the name no-such-host.invalid …; …",
        3,
        NOTHING,
        server=None,
        settings={"AIPERF_URL": "http://no-such-host.invalid"},
    ),
    Fault(
        "https:// to a server without TLS",
        "error: https://…: TLS: port … does not speak it; write http:// instead of https:// in "
        "AIPERF_URL",
        3,
        NOTHING,
        settings={"AIPERF_URL": "{https}"},
    ),
    Fault(
        "a wrong path in AIPERF_URL",
        "error: URL/api: HTTP 404 Not Found (no /v1/… under URL/api): …; check host, port and path "
        "of AIPERF_URL; …",
        3,
        NOTHING,
        settings={"AIPERF_URL": "{url}/api"},
    ),
    Fault(
        "the server takes connections and never answers",
        "error: URL: time-out: no answer from /v1/models within 5 s; …",
        3,
        NOTHING,
        server=("--deaf",),
    ),
    Fault(
        "a wrong key",
        "error: URL: HTTP 401 Unauthorized (the key that was sent is refused): …; set "
        "OPENAI_API_KEY in .env to a key that this server accepts",
        3,
        NOTHING,
        key=KEY,
        settings={"OPENAI_API_KEY": "another-key"},
    ),
    Fault(
        "a model that is not served",
        "error: URL: HTTP 404 Not Found (the model simm is not served here): …; did you mean "
        "sim? …",
        3,
        NOTHING,
        server=("--unknown-model-404",),
        settings={"MODEL": "simm"},
    ),
    Fault(
        "the server does not stream",
        "error: URL: does not stream: it answered with one JSON body; switch streaming on in the "
        "server, or in the proxy before it",
        3,
        NOTHING,
        server=("--not-streaming",),
    ),
    Fault(
        "ARTIFACTS_DIR cannot be written",
        "error: disk: /dev/null cannot be written to; make it writable, or set ARTIFACTS_DIR to a "
        "folder that is",
        2,
        NOTHING,
        settings={"ARTIFACTS_DIR": "/dev/null/artifacts"},
    ),
    Fault(
        "a file stands where artifacts/archive should be",
        "error: artifacts/archive: is no folder; move it away: earlier results are kept there",
        2,
        NOTHING,
        prepare=_archive_is_a_file,
    ),
    Fault(
        "OUTPUT_DIR of a sweep cannot be written",
        "error: /dev/null/tables: Not a directory; check the path, its rights and free space",
        2,
        NOTHING,
        mode="sweep",
        settings={"OUTPUT_DIR": "/dev/null/tables"},
    ),
    Fault(
        "two runs at once into one name",
        "error: NAME: another run into this folder is under way; wait for it, or change "
        "CONCURRENCY or ARTIFACTS_DIR",
        2,
        NOTHING,
        prepare=_lock_held,
    ),
)

STOPPED = (
    Fault(
        "Ctrl-C in the first tenths of a second, while Python imports",
        "interrupted",
        130,
        NOTHING,
        server=None,
        settings={"PYTHONPROFILEIMPORTTIME": "1"},  # says what it imports, to act upon
        act=_when_it_says("harness.errors", signal.SIGINT),
    ),
    Fault(
        "SIGTERM while the server is being asked",
        "interrupted",
        130,
        NOTHING,
        server=("--deaf",),
        act=_signal_after(2.0, signal.SIGTERM),
    ),
    Fault(
        "Ctrl-C while AIPerf configures itself",
        f"error: AIPerf: interrupted before any request was measured{_UNTOUCHED}",
        130,
        NO_ROWS,
        act=_when_it_says("CONFIGURING", signal.SIGINT),
    ),
    Fault(
        "Ctrl-C in warm-up",
        f"error: AIPerf: interrupted{_KEPT}",
        130,
        ROWS,
        server=_SLOW,
        settings={"WARMUP_REQUESTS": "400"},
        act=_when_rows_stand(signal.SIGINT),
    ),
    Fault(
        "SIGTERM while it measures",
        f"error: AIPerf: interrupted{_KEPT}",
        130,
        ROWS,
        server=_SLOW,
        settings=_LONG,
        act=_when_rows_stand(signal.SIGTERM),
    ),
    Fault(
        "Ctrl-C while AIPerf exports",
        f"error: AIPerf: interrupted{_KEPT}",
        130,
        ROWS,
        act=_when_it_says("Processing records results", signal.SIGINT),
    ),
    Fault(
        "RUN_TIME_LIMIT is over",
        f"error: AIPerf: stopped after 15 s (RUN_TIME_LIMIT){_KEPT}",
        3,
        ROWS,
        server=("--hang-share", "0.2", *_LATER),
        settings={**_LONG, "RUN_TIME_LIMIT": "15"},
    ),
    Fault(
        "the harness is killed (kill -9)",
        "",
        -signal.SIGKILL,
        UNJUDGED,
        server=_SLOW,
        settings=_LONG,
        act=_when_rows_stand(signal.SIGKILL),
    ),
    Fault(
        "a run after one that was killed",
        "note: an unfinished run of this name was there; it is kept in artifacts/archive/NAME/…",
        0,
        VALID,
        prepare=_leftover,
    ),
    Fault(
        "AIPerf is killed, as by a system without memory",
        "error: AIPerf: was killed by signal 9…" + _KEPT.replace("; …", "; see …"),
        3,
        ROWS,
        server=_SLOW,
        settings=_LONG,
        act=_when_rows_stand(signal.SIGKILL, of_aiperf=True),
    ),
    Fault(
        "AIPerf cannot load the tokenizer folder",
        "error: AIPerf: ended with status 1: Failed to load tokenizer 'tok'; see …",
        3,
        NO_ROWS,
        prepare=_tokenizer,
        settings={"TOKENIZER": "{folder}/tok"},
    ),
    Fault(
        "the disk is full",
        "error: artifacts/NAME.partial/run.json: cannot be written (…); check the folder's rights "
        "and free space",
        2,
        UNJUDGED,
        wrapper=_FULL,
    ),
)

DURING = (
    Fault(
        "the server hangs on every request",
        "error: URL: all 6 requests failed: no answer within the time limit "
        "(REQUEST_TIMEOUT_SECONDS); …",
        3,
        ROWS,
        server=("--hang-share", "1", *_LATER),
        settings={"REQUEST_TIMEOUT_SECONDS": "1"},
    ),
    Fault(
        "the server hangs on some requests",
        "INVALID …% of requests failed, …no answer within the time limit (REQUEST_TIMEOUT_SECONDS)",
        1,
        INVALID,
        server=("--hang-share", "0.5", *_LATER),
        settings={"REQUEST_TIMEOUT_SECONDS": "2"},
    ),
    Fault(
        "the server slows to a crawl",
        "error: AIPerf: stopped after 8 s (RUN_TIME_LIMIT) before any request was measured; see "
        "what the server was doing, or raise RUN_TIME_LIMIT",
        3,
        NO_ROWS,
        server=("--crawl-after", "2", "--crawl-ms", "60000"),
        settings={"RUN_TIME_LIMIT": "8"},
    ),
    Fault(
        "the server drops streams in the middle",
        "INVALID …% of requests failed, …ClientPayloadError",
        1,
        INVALID,
        server=("--drop-share", "0.5", *_LATER),
    ),
    Fault(
        "the server sends an event of broken JSON in each stream",
        "INVALID …the server sent events that are no JSON, which AIPerf leaves out of answers that "
        "it counts as good (…",
        1,
        INVALID,
        server=("--broken-json-share", "1", *_LATER),
    ),
    Fault(
        "streams end in an error event (status 200)",
        "INVALID …6 of 6 answers end without usage: they broke off, or ended in an error event, "
        "which AIPerf counts as good (…",
        1,
        INVALID,
        server=("--error-event-share", "1", *_LATER),
    ),
    Fault(
        "events without text",
        "error: URL: all 6 requests failed: …No responses with actual content…",
        3,
        ROWS,
        server=("--empty-delta-share", "1", *_LATER),
    ),
    Fault(
        "429 with Retry-After, on every request",
        "error: URL: all 6 requests failed: HTTP 429 Too Many Requests: Rate limit reached; wait a "
        "while, or ask for a higher limit (…",
        3,
        ROWS,
        server=("--rate-limit-share", "1", *_LATER),
    ),
    Fault(
        "503 above 1 request in flight",
        "…HTTP 503 Service Unavailable: Too many requests in flight…",
        3,
        ROWS,
        server=("--fail-above", "1", "--ttft-ms", "200"),
    ),
    Fault(
        "the server dies in the middle",
        "INVALID …% of requests failed, …",
        1,
        INVALID,
        server=("--die-after", "4"),
    ),
    Fault(
        "the key is revoked in the middle",
        "INVALID …% of requests failed, …HTTP 401 Unauthorized: …",
        1,
        INVALID,
        server=("--revoke-after", "4"),
        key=KEY,
        settings={"OPENAI_API_KEY": KEY},
    ),
    Fault(
        "answers are shorter than asked for",
        "SUSPECT …answers (100 %) are more than 10 % off the length asked for (limit: "
        "MAX_LENGTH_MISS 10 %); …",
        0,
        SUSPECT,
        server=("--stop-after", "2"),
    ),
)

SECTIONS = {
    "Before the run": BEFORE,
    "Stopped, killed, no room": STOPPED,
    "The server during the run": DURING,
}
FAULTS = tuple(fault for faults in SECTIONS.values() for fault in faults)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a fault: exit code, what was printed, what is left of the run and the earlier.

    ``n_behind`` processes still work in its folder.
    """

    exit_code: int
    said: str
    left: str
    earlier: str  # where the earlier result is: "untouched", "archived" or "lost"
    n_behind: int  # processes of the run that are still there


def happen(fault: Fault) -> Outcome:
    """Make a fault happen in a fresh folder that holds an earlier result of the same name."""
    with tempfile.TemporaryDirectory(prefix="fault-") as name, ExitStack() as stack:
        folder = Path(name).resolve()
        earlier = folder / "artifacts" / NAME
        earlier.mkdir(parents=True)
        (earlier / "run.json").write_text('{"started": "2026-01-01T00:00:00Z"}')
        (earlier / _MARK).write_text("")
        server = None
        if fault.server is not None:
            server = stack.enter_context(simulator("--model", "sim", *fault.server, key=fault.key))
        if fault.prepare:
            stack.enter_context(fault.prepare(folder))
        url = server.url if server else "http://127.0.0.1:9"
        said = stack.enter_context((folder / _SAID).open("wb"))
        process = subprocess.Popen(
            [*fault.wrapper, sys.executable, str(ROOT / "scripts" / "run_profile.py"), fault.mode],
            cwd=folder,
            env=_environment(fault, folder, url),
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            if fault.act:
                fault.act(Running(process, folder))
            exit_code = process.wait(_LONGEST_S)
        finally:
            process.kill()
            process.wait()
        told = _told(folder, server.url if server else None)
        return Outcome(exit_code, told, _left(folder), _earlier(folder), _n_behind(folder))


def _told(folder: Path, url: str | None) -> str:
    text = _text(folder / _SAID).replace(f"{folder}/", "").replace(NAME, "NAME")
    return text.replace(url, "URL") if url else text


def _environment(fault: Fault, folder: Path, url: str) -> dict[str, str]:
    (folder / ".env").touch()
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    here = {"ARTIFACTS_DIR": str(folder / "artifacts"), "ENV_FILE": str(folder / ".env")}
    basic = {**here, **_LOAD, "MODEL": "sim", "AIPERF_URL": url, "SWEEP_CONCURRENCIES": "1"}
    places = {"url": url, "https": url.replace("http:", "https:"), "folder": str(folder)}
    return {**kept, **basic, **{k: v.format(**places) for k, v in fault.settings.items()}}


def _left(folder: Path) -> str:
    run, partial = folder / "artifacts" / NAME, folder / "artifacts" / f"{NAME}.partial"
    if partial.is_dir():
        if _level(partial) != "INVALID":
            return UNJUDGED
        return ROWS if (partial / "summary.tsv").exists() else NO_ROWS
    if (run / _MARK).exists():
        return NOTHING
    return {"INVALID": INVALID, "SUSPECT": SUSPECT, "VALID": VALID}.get(_level(run), "lost")


def _level(run: Path) -> str:
    try:
        manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    return str(manifest.get("verdict", {}).get("level", ""))


def _earlier(folder: Path) -> str:
    if (folder / "artifacts" / NAME / _MARK).exists():
        return "untouched"
    archive = folder / "artifacts" / "archive" / NAME
    return "archived" if list(archive.glob(f"*/{_MARK}")) else "lost"


def _n_behind(folder: Path) -> int:
    """Count processes that still work in the folder, giving those that end a moment to do so."""
    deadline_s = time.monotonic() + _END_S
    while (n := sum(_works_in(folder))) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return n


def _works_in(folder: Path) -> Iterator[bool]:
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            yield place.resolve() == folder


def matches(says: str, said: str) -> bool:
    """Tell whether ``says`` stands in what was said; … is any text, a space any white space."""
    parts = (r"\s+".join(map(re.escape, part.split(" "))) for part in says.split("…"))
    return re.search(".*?".join(parts), said, re.DOTALL) is not None


def document() -> str:
    """Return docs/faults.md."""
    text = _HEAD
    for title, faults in SECTIONS.items():
        text += f"\n## {title}\n\n| fault | what you read | exit | what is left |\n"
        text += "| :--- | :--- | ---: | :--- |\n"
        text += "".join(map(_row, faults))
    return text


def _row(fault: Fault) -> str:
    lines = fault.says.replace("|", "\\|").split("\n")
    says = "<br>".join(f"`{line}`" for line in lines) if fault.says else "nothing more"
    code = fault.exit_code if fault.exit_code >= 0 else 128 - fault.exit_code
    return f"| {fault.name} | {says} | {code} | {fault.left} |\n"


_HEAD = """\
# Faults

What goes wrong, what you read then, the exit code, and what is left. `tests/test_faults.py` makes
each of these happen to a run whose name has an earlier result, and holds it to its row; the rows
are written from the same table (`PYTHONPATH=scripts python -m tests.faults`). NAME is the run's
name, URL the server's address, … any text.

**The earlier result is never lost.** Where a new run is finished, VALID or not, the earlier one of
its name is in `artifacts/archive/NAME/`. In every other case it stays where it was, untouched.

**Nothing runs on.** After each of these, kill -9 included, no process of the run is left.

`make` turns every exit code but 0 into 2: use `scripts/run_aiperf_profile.sh` where it matters.
"""


if __name__ == "__main__":
    place = ROOT / "docs" / "faults.md"
    place.parent.mkdir(exist_ok=True)
    place.write_text(document(), encoding="utf-8")
