"""make demo: its own environment, its steps, and that its server is gone however it ends."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import demo
from harness import demo_steps
from harness import settings as configuration
from harness.demo_server import MODEL
from harness.demo_steps import Load, Step, left_aside, own_environment, run_folder
from harness.errors import EngineError
from tests.servers import REPOSITORY

DEMO = REPOSITORY / "scripts" / "demo.py"
#: What a person's shell may hold; each would change or break the demo if it followed it.
HOSTILE = {
    "MODEL": "gpt-x",
    "AIPERF_URL": "http://127.0.0.1:9",
    "OPENAI_API_KEY": "sk-a-paid-key",
    "CONCURRENCY": "many",
    "INPUT_FILE": "missing.jsonl",
    "TOKENIZER": "nobody/nothing",
    "MAX_ERROR_RATE": "0",
    "ENV_FILE": "/missing/.env",
    "DRY_RUN": "1",
    "PORT": "1",
    "MAKEFLAGS": " -- CONCURENCY=4",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "HF_HUB_OFFLINE": "0",
    "AIPERF_HTTP_TRUST_ENV": "true",
}
_WAIT_S = 120.0


@pytest.fixture
def without_llama(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which xllamacpp cannot be loaded, so that the simulator serves."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "xllamacpp.py").write_text("raise ImportError('no wheel')\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def command(folder: Path) -> list[str]:
    small = ["--requests", "6", "--output-tokens", "8", "--artifacts", str(folder / "artifacts")]
    return [sys.executable, str(DEMO), *small]


def run(folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder), env=environ, capture_output=True, text=True, timeout=300, check=False
    )


@contextmanager
def started(folder: Path, environ: dict[str, str], until: str) -> Iterator[tuple[int, str]]:
    """Run the demo as a terminal does, in a group of its own; yield its process when it says so.

    The second value is the URL of its server.
    """
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(folder), env=environ, stdout=file, stderr=file, start_new_session=True
        )
    try:
        told = wait_for(log, until, process)
        yield process.pid, re.findall(r"http://[\d.:]+\d", told)[0]
        process.wait(_WAIT_S)
    finally:
        process.kill()
        process.wait()


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes]) -> str:
    deadline_s = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        told = log.read_text(encoding="utf-8")
        if text in told:
            return told
        time.sleep(0.05)
    raise AssertionError(f"never said {text!r}: {log.read_text(encoding='utf-8')}")


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/health", timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def is_gone(url: str) -> bool:
    """Tell whether nothing answers there any more, within a bounded while."""
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        if not answers(url):
            return True
        time.sleep(0.05)
    return False


def urls(text: str) -> set[str]:
    return set(re.findall(r"http://127\.0\.0\.1:\d+", text))


class TestEnvironment:
    def test_holds_nothing_that_a_person_set(self) -> None:
        own = own_environment({**HOSTILE, "HOME": "/home/me", "DEBUG": "1"})
        left = {key: own[key] for key in {*HOSTILE, "HOME", "DEBUG"} & own.keys()}
        assert left == {"HOME": "/home/me", "DEBUG": "1", "ENV_FILE": os.devnull}

    def test_lets_the_shell_verb_find_this_python(self) -> None:
        here = str(Path(sys.executable).parent)
        assert own_environment({"PATH": "/bin"})["PATH"] == os.pathsep.join([here, "/bin"])
        assert own_environment({})["PATH"] == here

    def test_with_its_load_is_a_valid_configuration(self) -> None:
        server = {"MODEL": "m", "AIPERF_URL": "http://127.0.0.1:1", "TOKENIZER": "builtin"}
        own = own_environment(HOSTILE) | Load().settings() | server
        settings = configuration.from_environment(own)
        assert (settings.model, settings.openai_api_key, settings.notices) == ("m", None, ())
        assert str(run_folder(own)) == "artifacts/ISL32_OSL32_CON2"

    def test_names_the_settings_it_leaves_aside(self) -> None:
        found = left_aside({"MODEL": "m", "CONCURRENCY": "", "HOME": "/", "TOKENIZER": "t"})
        assert found == ["MODEL", "TOKENIZER"]


class TestSteps:
    @pytest.fixture(autouse=True)
    def _here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let main() run in this process, with a server that costs nothing."""
        self.stopped: list[bool] = []
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        monkeypatch.setattr(demo, "demo_server", self._server)
        self.monkeypatch = monkeypatch

    @contextmanager
    def _server(self, _: dict[str, str]) -> Iterator[dict[str, str]]:
        try:
            yield {"MODEL": MODEL, "AIPERF_URL": "http://127.0.0.1:9"}
        finally:
            self.stopped.append(True)

    def run(self, *codes: str) -> tuple[int, str, str]:
        made = tuple(Step(code, 1, "hidden", (sys.executable, "-c", code)) for code in codes)
        self.monkeypatch.setattr(demo, "steps", lambda: made)
        out, err = io.StringIO(), io.StringIO()
        status = demo.main([], out, err)
        assert self.stopped == [True]
        return status, out.getvalue(), err.getvalue()

    def test_end_with_what_was_measured_where_it_is_and_what_comes_next(self) -> None:
        status, out, err = self.run("pass", "pass")
        assert status == 0
        assert f"Measured  {MODEL}, by llama.cpp on this machine's CPU" in out
        assert "artifacts/ISL32_OSL32_CON2/" in out
        assert "make smoke, make profile" in out
        assert "[3/4] pass" in err

    def test_after_one_that_fails_are_not_run(self) -> None:
        status, out, err = self.run("raise SystemExit(3)", "raise SystemExit(4)")
        assert (status, out) == (3, "")
        assert "[2/4]" in err
        assert "[3/4]" not in err

    def test_with_an_invalid_result_still_say_where_it_is(self) -> None:
        status, out, _ = self.run("pass", "raise SystemExit(1)")
        assert status == 1
        assert "artifacts/ISL32_OSL32_CON2/" in out

    def test_that_a_signal_ends_count_as_failed(self) -> None:
        status, _, _ = self.run("import os; os.kill(os.getpid(), 9)")
        assert status == 3

    def test_get_the_server_s_settings(self) -> None:
        code = f"import os; raise SystemExit(os.environ['MODEL'] != {MODEL!r})"
        assert self.run(code)[0] == 0


def test_a_server_that_does_not_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serve_demo.py").write_text("raise SystemExit(4)\n")
    monkeypatch.setattr(demo_steps, "SCRIPTS", tmp_path)
    with pytest.raises(EngineError, match="exit status 4"), demo_steps.demo_server(os.environ):
        pass


def test_a_verb_that_does_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It interrupts this process itself, once it ignores being asked to stop."""
    code = (
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(300)\n"
    )
    monkeypatch.setattr(demo_steps, "_PATIENCE_S", 0.1)
    with pytest.raises(KeyboardInterrupt):
        demo_steps.run_step(Step("stubborn", 1, "hidden", (sys.executable, "-c", code)), os.environ)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("words", [["--requests", "1"], ["--output-tokens", "x"], ["more"]])
def test_a_wrong_argument_is_one_line(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO), *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: demo: .+; see --help\n", done.stderr)


@pytest.mark.engine
def test_without_llama_the_simulator_is_measured_whatever_the_environment_says(
    tmp_path: Path, without_llama: dict[str, str]
) -> None:
    done = run(tmp_path, {**without_llama, **HOSTILE})
    assert done.returncode == 0, done.stderr
    assert "xllamacpp cannot be loaded (no wheel); the simulator takes its place" in done.stderr
    assert "Measured  the simulator" in done.stdout
    assert "not followed: MODEL, AIPERF_URL, OPENAI_API_KEY" in done.stderr
    assert "sk-a-paid-key" not in done.stdout + done.stderr
    (url,) = urls(done.stdout)
    assert not answers(url)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("until", "number", "as_terminal"),
    [
        ("Asking", signal.SIGTERM, False),
        ("requests, 3 at a time", signal.SIGINT, True),
        ("requests, 3 at a time", signal.SIGKILL, False),
    ],
)
def test_its_server_stops_with_it(
    tmp_path: Path,
    without_llama: dict[str, str],
    until: str,
    number: signal.Signals,
    as_terminal: bool,
) -> None:
    with started(tmp_path, without_llama, until) as (process, url):
        assert answers(url)
        (os.killpg if as_terminal else os.kill)(process, number)
        _, status = os.waitpid(process, 0)
    expected = -signal.SIGKILL if number is signal.SIGKILL else 130
    assert os.waitstatus_to_exitcode(status) == expected
    assert is_gone(url)
    assert "Traceback" not in (tmp_path / "log").read_text(encoding="utf-8")


@pytest.mark.engine
@pytest.mark.model
def test_measures_the_model_with_no_failed_request(tmp_path: Path) -> None:
    env_file = REPOSITORY / ".env"
    before = env_file.stat() if env_file.exists() else None
    done = run(tmp_path, dict(os.environ))
    assert done.returncode == 0, done.stderr
    # of six requests of a model that shares two cores, chance may make one SUSPECT
    assert re.match(rf"(VALID|SUSPECT)  {MODEL} at http://127\.0\.0\.1:", done.stdout)
    assert re.search(r"^TTFT( +[\d.]+\*?){3} +[\d.]+ +6 +0$", done.stdout, re.MULTILINE)
    assert re.search(r"^Error Rate +0\.00 +%$", done.stdout, re.MULTILINE)
    assert f"Measured  {MODEL}" in done.stdout
    assert "✓ First token received (TTFT OK)" in done.stderr
    (url,) = urls(done.stdout)
    assert not answers(url)
    assert (env_file.stat() if env_file.exists() else None) == before
