"""A run and AIPerf's own search, with a stand-in for AIPerf: what is left however they end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from harness import engine, profiling
from harness.endpoint import DIRECT, EndpointFacts
from harness.errors import EngineError, StoppedError
from harness.plan import Plan, make_plan
from harness.profiling import Target, measure, search
from harness.runs import read_manifest, write_manifest
from harness.settings import Settings
from harness.texts import scrub_files
from harness.tokenizer import TokenizerChoice
from tests.exports import GOLDEN

SECRET = "sk-0123456789-secret"
TOKENIZER = TokenizerChoice("builtin", "fallback", "why", exact=False, server_counts=True)
TARGET = Target("http://lab", DIRECT, EndpointFacts((), None, None), TOKENIZER)

# Leaves what a run leaves, the key in it, as a careless server makes AIPerf do.
_STAND_IN = f"""\
import os, shutil, signal, sys
from pathlib import Path
key = os.fdopen(int(sys.argv[1])).readline().rstrip()
folder = Path(sys.argv[sys.argv.index('--artifact-dir') + 1])
shutil.copytree({str(GOLDEN / "clean")!r}, folder, dirs_exist_ok=True)
(folder / 'inputs.json').write_text(key)
"""
_INTERRUPTED = "os.kill(os.getppid(), signal.SIGINT)\nsignal.pause()\n"


class Bench:
    """One run with the stand-in, which ends as the test wants."""

    def __init__(self, folder: Path) -> None:
        self.artifacts = folder / "artifacts"
        self.stand_in = folder / "stand_in.py"
        self.talk: list[str] = []
        self.settings = Settings(
            model="m",
            aiperf_url="http://lab",
            openai_api_key=SECRET,
            artifacts_dir=str(self.artifacts),
            slo_ttft_p95_ms=500.0,
        )

    @property
    def plan(self) -> Plan:
        return make_plan(self.settings, "profile")

    @property
    def partial(self) -> Path:
        return self.artifacts / f"{self.plan.name}.partial"

    def run(self, act: Any, ending: str = "") -> Any:
        self.stand_in.write_text(_STAND_IN + ending)
        return act(self.settings, self.plan, TARGET, dict(os.environ), self.talk.append)

    def files_with_key(self) -> list[Path]:
        files = [path for path in self.artifacts.rglob("*") if path.is_file()]
        return [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr(engine, "LAUNCHER", made.stand_in)
    return made


def interrupt_once_aiperf_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path, key: str) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return scrub_files(folder, key)

    monkeypatch.setattr(profiling, "scrub_files", interrupted)


@pytest.mark.parametrize("act", [measure, search])
def test_an_interrupt_after_aiperfs_end_costs_no_result_and_leaves_no_key(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, act: Any
) -> None:
    interrupt_once_aiperf_has_ended(monkeypatch)
    with pytest.raises(StoppedError, match="interrupted when it had ended"):
        bench.run(act)
    assert not bench.partial.exists()
    assert read_manifest(bench.artifacts / bench.plan.name)["aiperf_exit"] == 0
    assert bench.files_with_key() == []


def test_a_run_that_was_interrupted_at_its_end_has_its_verdict(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_once_aiperf_has_ended(monkeypatch)
    with pytest.raises(StoppedError):
        bench.run(measure)
    assert "verdict" in read_manifest(bench.artifacts / bench.plan.name)


@pytest.mark.parametrize("act", [measure, search])
@pytest.mark.parametrize(
    ("ending", "error", "reason"),
    [
        (_INTERRUPTED, StoppedError, "interrupted"),
        ("sys.exit(4)", EngineError, "AIPerf ended with status 4"),
    ],
)
def test_one_that_did_not_come_to_its_end_is_invalid_and_holds_no_key(
    bench: Bench, act: Any, ending: str, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error):
        bench.run(act, ending)
    verdict = read_manifest(bench.partial)["verdict"]
    assert isinstance(verdict, dict)
    assert verdict["level"] == "INVALID"
    assert reason in verdict["reasons"][0]
    assert bench.files_with_key() == []


@pytest.mark.parametrize("act", [measure, search])
def test_what_a_killed_one_left_is_told_and_freed_of_the_key(bench: Bench, act: Any) -> None:
    bench.partial.mkdir(parents=True)
    write_manifest(bench.partial, {"started": "2026-01-01T00:00:00Z", "said": SECRET})
    bench.run(act)
    assert any("an unfinished run of this name was there" in line for line in bench.talk)
    assert len(list(bench.artifacts.glob("archive/*/*.partial/run.json"))) == 1
    assert bench.files_with_key() == []
