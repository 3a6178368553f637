"""The Makefile: its verbs, its help, and what it hands on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
VERBS: tuple[str, ...] = (
    "setup",
    "demo",
    "serve-demo",
    "simulate",
    "doctor",
    "smoke",
    "quick",
    "warmup",
    "profile",
    "sweep",
    "capacity",
    "rerun",
    "summary",
)
VERBS += ("calibrate",)
VERBS += ("test", "check", "format", "golden", "bench", "clean", "help", "help-env")
#: Makes one argument a line visible, quotes and spaces included.
SHOW = '#!/bin/sh\necho "CONCURRENCY=$CONCURRENCY"\nfor word in "$@"; do echo "<$word>"; done\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project, in a path with spaces, that is set up with a Python that shows its words."""
    project = tmp_path / "my project"
    (project / "scripts").mkdir(parents=True)
    (project / "venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", project)
    for name in ("requirements.txt", "requirements-data.txt", "requirements-demo.txt"):
        shutil.copy(ROOT / name, project)
    for name in ("setup.sh", "find_python.sh", "run_aiperf_profile.sh"):
        (project / "scripts" / name).write_text(SHOW)
        os.utime(project / "scripts" / name, (1, 1))
    for file in project.glob("requirements*.txt"):
        os.utime(file, (1, 1))
    python = project / "venv/bin/python"
    python.write_text(SHOW)
    python.chmod(0o755)
    for stamp in (".stamp", ".stamp-demo"):
        (project / "venv" / stamp).write_text(f"{project.resolve()}\n")
    return project


def make(project: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        ["make", *words],
        cwd=project,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def targets() -> dict[str, str]:
    """Return each rule's prerequisites, without its help text."""
    rules = re.findall(r"^([a-z-]+):([^=\n]*?)(?:##.*)?$", MAKEFILE, re.MULTILINE)
    return dict(rules)


def test_every_verb_is_there_with_a_help_text(project: Path) -> None:
    shown = make(project, "help").stdout
    for verb in VERBS:
        assert re.search(rf"^  make {verb} +\S", shown, re.MULTILINE), verb


def test_help_is_what_make_alone_says_and_is_grouped(project: Path) -> None:
    shown = make(project).stdout
    headings = [line for line in shown.splitlines() if line and not line.startswith(" ")]
    assert headings == ["Help", "Try", "Measure", "Develop"]


def test_help_needs_no_set_up(project: Path) -> None:
    shutil.rmtree(project / "venv")
    assert make(project, "help").returncode == 0
    assert not (project / "venv").exists()


def test_every_verb_but_help_and_clean_rests_on_the_stamp() -> None:
    for verb, prerequisites in targets().items():
        if verb not in ("help", "clean", "stale", "check"):
            assert "$(STAMP)" in prerequisites, verb


def test_every_target_without_a_file_is_phony() -> None:
    phony = " ".join(re.findall(r"^\.PHONY:(.*)$", MAKEFILE, re.MULTILINE)).split()
    assert set(targets()) == set(phony)


def test_nothing_newer_than_make_3_81_is_used() -> None:
    for word in (".ONESHELL", "!=", "$(file ", "::=", "&:", ".SHELLFLAGS", "$(intcmp", "$(let "):
        assert word not in MAKEFILE, word


def test_env_is_never_included() -> None:
    assert not re.search(r"^-?s?include\b", MAKEFILE, re.MULTILINE)


def test_a_run_with_spaces_and_quotes_arrives_as_one_word(project: Path) -> None:
    done = make(project, "summary", """RUN=artifacts/it's "a" run""", "OUTPUT_DIR=out dir")
    assert '<artifacts/it\'s "a" run>' in done.stdout
    assert "<--output-dir>\n<out dir>" in done.stdout


def test_summary_without_words_passes_none(project: Path) -> None:
    assert make(project, "summary").stdout.splitlines()[1:] == ["<scripts/summarize_export.py>"]


@pytest.mark.parametrize(
    ("verb", "script"),
    [
        ("calibrate", "calibrate.py"),
        ("demo", "demo.py"),
        ("serve-demo", "serve_demo.py"),
        ("simulate", "simulate_endpoint.py"),
        ("doctor", "doctor.py"),
        ("smoke", "smoke_stream.py"),
        ("rerun", "rerun.py"),
        ("summary", "summarize_export.py"),
    ],
)
def test_a_verb_takes_arguments_and_help_says_so(project: Path, verb: str, script: str) -> None:
    done = make(project, verb, "ARGS=--one 'two words'")
    assert f"<scripts/{script}>\n<--one>\n<two words>" in done.stdout
    assert re.search(rf"^  Arguments of .*\b{verb}\b.*ARGS=", make(project, "help").stdout, re.M)


@pytest.mark.parametrize("verb", ["help-env", "quick", "warmup", "profile", "sweep", "capacity"])
def test_words_for_a_verb_that_takes_none_reach_it_to_be_refused(project: Path, verb: str) -> None:
    assert make(project, verb, "ARGS=--one").stdout.endswith("<--one>\n")


def test_the_limit_of_a_summary_is_left_to_the_script_to_decide(project: Path) -> None:
    (project / "venv/bin/python").write_text('#!/bin/sh\necho "$MAX_ERROR_RATE: $*"\n')
    done = make(project, "summary", "MAX_ERROR_RATE=5")
    assert done.stdout == "5: scripts/summarize_export.py\n"


def test_what_is_typed_on_the_command_line_reaches_the_verb(project: Path) -> None:
    assert "CONCURRENCY=20\n<profile>" in make(project, "profile", "CONCURRENCY=20").stdout


@pytest.mark.parametrize("verb", ["warmup", "profile", "sweep"])
def test_a_measuring_verb_runs_the_shell_verb(project: Path, verb: str) -> None:
    assert f"<{verb}>" in make(project, verb).stdout


def test_the_stdout_of_a_verb_holds_nothing_of_makes(project: Path) -> None:
    assert make(project, "smoke").stdout == "CONCURRENCY=\n<scripts/smoke_stream.py>\n"


def test_a_python_asked_for_on_the_command_line_sets_up_again(project: Path) -> None:
    assert make(project, "setup").stdout == ""
    assert "CONCURRENCY=" in make(project, "setup", "PYTHON=/usr/bin/python3.12").stdout


def test_a_venv_whose_python_is_gone_is_set_up_again(project: Path) -> None:
    (project / "venv/bin/python").unlink()
    (project / "venv/bin/python").symlink_to("/nowhere")
    assert "CONCURRENCY=" in make(project, "setup").stdout


def test_another_pythons_modules_do_not_leak_in(project: Path) -> None:
    (project / "venv/bin/python").write_text('#!/bin/sh\necho "[$PYTHONPATH$PYTHONHOME]"\n')
    assert make(project, "smoke", PYTHONPATH="/other", PYTHONHOME="/other").stdout == "[]\n"


def test_clean_leaves_results_and_settings(project: Path) -> None:
    for kept in ("artifacts/run/summary.tsv", ".env"):
        (project / kept).parent.mkdir(parents=True, exist_ok=True)
        (project / kept).write_text("mine")
    (project / "tests").mkdir()
    (project / "scripts/__pycache__").mkdir()
    assert make(project, "clean").returncode == 0
    assert (project / "artifacts/run/summary.tsv").read_text() == (project / ".env").read_text()
    assert not (project / "venv").exists()
    assert not (project / "scripts/__pycache__").exists()


# --- CI ---------------------------------------------------------------------------------------


def test_ci_runs_its_one_script_on_linux_and_macos_with_three_pythons() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    assert matrix == {
        "os": ["ubuntu-latest", "macos-latest"],
        "python": ["3.11", "3.12", "3.13"],
    }
    steps = [step.get("run", "") for step in job["steps"]]
    assert steps[-1] == "bash .ci/run"
    assert any("version 3.2" in step for step in steps)


@pytest.fixture
def ci_clone(tmp_path: Path) -> Path:
    """Make a clone whose make only says what MAKE_SAYS holds."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/make").write_text('#!/bin/sh\necho "$MAKE_SAYS"\n[ "$1" != "$FAILS" ]\n')
    (tmp_path / "bin/make").chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("says", "fails", "status"),
    [
        ("12 passed in 3 s", "", 0),
        ("12 passed in 3 s", "test", 1),
        ("12 passed in 3 s", "check", 1),
        ("no tests ran in 0 s", "", 1),
        ("3 skipped, 0 passed", "", 1),
    ],
)
def test_ci_fails_when_a_step_fails_or_no_test_ran(
    ci_clone: Path, says: str, fails: str, status: int
) -> None:
    path = f"{ci_clone / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", ".ci/run"],
        cwd=ci_clone,
        env={"PATH": path, "MAKE_SAYS": says, "FAILS": fails},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == status, done.stderr
