"""The README's blocks run as they stand, in a fresh copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import simulator

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# A load that takes seconds; and what keeps the person's own settings out of it.
SMALL = {"CONCURRENCY": "1", "OUTPUT_TOKENS_MEAN": "5"}
ELSEWHERE = {
    "make demo": "tests/test_demo.py",
    "make test": "this very run",
    "make check": ".ci/run",
    "docker": "no engine is at hand; see Tried on",
}


def blocks(text: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


def lines() -> list[str]:
    commands = [line for block in blocks(README) for line in block.splitlines()]
    return [line for line in commands if not line.startswith(tuple(ELSEWHERE))]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copy what git would clone, the uncommitted included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    return tmp_path


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "USER") if name in os.environ}
    index = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "UV_", "SSL_"))}
    # this very Python: the copy's set-up must not look for another
    environment = {**kept, **index, **SMALL, "PYTHON": str(Path(sys.executable).resolve())}
    return subprocess.run(
        ["bash", "-euc", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.engine
def test_every_block_runs(copy: Path) -> None:
    with simulator("--model", "SmolLM2-135M-Instruct") as server:
        for line in lines():
            done = run(line, copy)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            if line == "cp .env.example .env":
                settings = copy / ".env"
                text = settings.read_text(encoding="utf-8")
                address = f"AIPERF_URL={server.url}\n"
                settings.write_text(text.replace("AIPERF_URL=\n", address), encoding="utf-8")
    assert (copy / "summary.tsv").read_text().startswith("metric\tp50_ms")


def test_two_commands_set_up_and_run_the_main_job() -> None:
    assert blocks(README)[0] == "make setup\nmake demo\n"


def test_both_languages_show_the_same_commands() -> None:
    japanese = (ROOT / "README.ja.md").read_text(encoding="utf-8")
    assert blocks(japanese) == blocks(README)


@pytest.mark.parametrize("name", ["README.md", "README.ja.md", "prompts/README.md"])
def test_links_lead_to_files(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    missing = [target for target in targets if not (ROOT / name).parent.joinpath(target).exists()]
    assert missing == []
