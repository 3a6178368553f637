"""The container: its verbs, what it says when nothing is mounted, and the files that build it."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
SERVICE = yaml.safe_load((ROOT / "docker/docker-compose.yml").read_text())["services"]
#: Shows words and the variables that matter, and who runs: the verb must replace the shell.
SHOW = """#!/bin/sh
for word in "$@"; do echo "<$word>"; done
echo "CONCURRENCY=$CONCURRENCY OUTPUT_DIR=$OUTPUT_DIR MAKEFLAGS=$MAKEFLAGS pid=$$"
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Make /app as the image has it, with a Python that shows its words."""
    app = tmp_path / "app"
    for folder in ("docker", "scripts", "artifacts", "venv/bin"):
        (app / folder).mkdir(parents=True)
    shutil.copy(ROOT / "docker/entrypoint.sh", app / "docker")
    (app / "venv/bin/python").write_text(SHOW)
    (app / "venv/bin/python").chmod(0o755)
    (app / "scripts/run_aiperf_profile.sh").write_text(SHOW)
    (app / ".env").write_text("MODEL=m\n")
    return app


def command(app: Path, *words: str) -> list[str]:
    return ["bash", str(app / "docker/entrypoint.sh"), *words]


def enter(app: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(app, *words),
        cwd="/",
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("verb", "word"),
    [
        ("help-env", "<scripts/help_env.py>"),
        ("calibrate", "<scripts/calibrate.py>"),
        ("demo", "<scripts/demo.py>"),
        ("simulate", "<scripts/simulate_endpoint.py>"),
        ("doctor", "<scripts/doctor.py>"),
        ("smoke", "<scripts/smoke_stream.py>"),
        ("warmup", "<warmup>"),
        ("profile", "<profile>"),
        ("sweep", "<sweep>"),
        ("capacity", "<scripts/capacity.py>"),
        ("rerun", "<scripts/rerun.py>"),
        ("summary", "<scripts/summarize_export.py>"),
    ],
)
def test_each_verb_runs_its_script(app: Path, verb: str, word: str) -> None:
    done = enter(app, verb)
    assert done.returncode == 0, done.stderr
    assert word in done.stdout


def test_help_names_every_verb_and_so_does_no_word_at_all(app: Path) -> None:
    shown = enter(app, "help").stdout
    verbs = re.search(r"^readonly VERBS='(.*)'$", (ROOT / "docker/entrypoint.sh").read_text(), re.M)
    assert verbs
    for verb in verbs[1].split():
        assert re.search(rf"^  {verb} +\S", shown, re.MULTILINE), verb
    assert enter(app).stdout == shown


def test_the_verbs_are_the_makefiles(app: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for verb in re.findall(r"^  ([a-z-]+) {2,}", enter(app, "help").stdout, re.MULTILINE):
        assert re.search(rf"^{verb}:.*##", makefile, re.MULTILINE), verb


def test_an_unknown_verb_is_named_with_those_there_are(app: Path) -> None:
    done = enter(app, "profil")
    assert done.returncode == 2
    assert done.stderr.startswith("error: profil: no such verb; use one of help")


@pytest.mark.parametrize("verb", ["doctor", "smoke", "warmup", "profile", "sweep", "capacity"])
def test_without_env_file_one_line_says_how_to_mount_it(app: Path, verb: str) -> None:
    (app / ".env").unlink()
    done = enter(app, verb)
    assert done.returncode == 2
    mount = 'mount it with -v "$PWD/.env:/app/.env:ro"'
    assert done.stderr == f"error: .env: not found in the container; {mount}\n"


def test_the_folder_that_docker_makes_of_a_missing_env_file_is_seen_through(app: Path) -> None:
    (app / ".env").unlink()
    (app / ".env").mkdir()
    done = enter(app, "profile")
    assert done.returncode == 2
    assert done.stderr.startswith("error: .env: not found in the container, only a folder")
    assert "rmdir .env" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_in_the_environment_does_without_env_file(app: Path) -> None:
    (app / ".env").unlink()
    assert enter(app, "profile", MODEL="m").returncode == 0
    assert enter(app, "profile", "MODEL=m").returncode == 0


@pytest.mark.parametrize(
    "verb", ["help", "help-env", "calibrate", "demo", "simulate", "rerun", "summary"]
)
def test_a_verb_that_measures_no_server_of_ones_own_needs_no_env_file(app: Path, verb: str) -> None:
    (app / ".env").unlink()
    assert enter(app, verb).returncode == 0


def test_artifacts_that_are_not_there_are_told_before_anything_runs(app: Path) -> None:
    (app / "artifacts").rmdir()
    done = enter(app, "profile")
    assert done.returncode == 2
    assert done.stderr.startswith("error: artifacts: not writable by user ")


def test_settings_are_typed_as_for_make_and_their_names_can_be_checked(app: Path) -> None:
    done = enter(app, "profile", "CONCURRENCY=20", 'EXTRA_INPUTS={"a": "$(touch x)"}')
    assert "CONCURRENCY=20" in done.stdout
    assert "MAKEFLAGS=-- CONCURRENCY= EXTRA_INPUTS= " in done.stdout


def test_a_stray_word_is_refused(app: Path) -> None:
    done = enter(app, "profile", "--concurrency", "20")
    assert done.returncode == 2
    assert "--concurrency is no KEY=value" in done.stderr


@pytest.mark.parametrize("verb", ["calibrate", "demo", "doctor", "simulate", "smoke", "summary"])
def test_a_verb_takes_arguments(app: Path, verb: str) -> None:
    assert "<--one>\n<two words>\n" in enter(app, verb, "--one", "two words").stdout
    assert verb in enter(app, "help").stdout.splitlines()[0]


def test_a_summary_lands_in_the_mounted_folder_and_takes_a_run_with_spaces(app: Path) -> None:
    done = enter(app, "summary", "RUN=artifacts/a run")
    assert "<artifacts/a run>\n<--output-dir>\n<artifacts>" in done.stdout


def test_the_limit_of_a_summary_reaches_it_as_from_make(app: Path) -> None:
    (app / "venv/bin/python").write_text('#!/bin/sh\necho "$MAX_ERROR_RATE: $*"\n')
    done = enter(app, "summary", "MAX_ERROR_RATE=5")
    assert done.stdout == "5: scripts/summarize_export.py --output-dir artifacts\n"


def test_the_stop_signal_reaches_the_verb_itself(app: Path) -> None:
    script = 'trap "echo caught; exit 130" INT\necho ready\nn=0\n'
    script += "while [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done\n"
    (app / "venv/bin/python").write_text("#!/bin/sh\n" + script)
    process = subprocess.Popen(command(app, "smoke"), stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "caught\n"
    assert process.returncode == 130


# --- the files --------------------------------------------------------------------------------


def test_the_image_is_python_3_12_slim_and_runs_as_a_plain_user() -> None:
    assert "ARG PYTHON_IMAGE=python:3.12-slim" in DOCKERFILE
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users[-1].split(":")[0] not in ("0", "root")
    assert "STOPSIGNAL SIGINT" in DOCKERFILE


def test_any_user_may_write_results_and_the_demos_cache() -> None:
    assert "RUN mkdir -p artifacts .cache && chmod 1777 artifacts .cache\n" in DOCKERFILE
    cache = (ROOT / "scripts/serve_demo.py").read_text()
    assert 'parents[1] / ".cache"' in cache


def test_everything_that_is_copied_into_the_image_is_there_and_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in lines if line.startswith("!")]
    for copied in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE):
        for source in copied.split():
            assert (ROOT / source).exists(), source
            prefixes = [source, *(str(parent) for parent in Path(source).parents)]
            assert any(fnmatch.fnmatch(p, pattern) for p in prefixes for pattern in let_in), source


def test_neither_key_nor_results_reach_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert not any(fnmatch.fnmatch(".env", rule[1:]) for rule in rules if rule.startswith("!"))
    assert not any("artifacts" in rule for rule in rules if rule.startswith("!"))


def test_the_compose_service_mounts_signals_and_reaches_the_host_as_promised() -> None:
    service = SERVICE["aiperf-client"]
    assert service["volumes"] == [
        "../.env:/app/.env:ro",
        "../artifacts:/app/artifacts",
        "../prompts:/app/prompts:ro",
    ]
    assert service["user"] == "${UID:-1000}:${GID:-1000}"
    assert (service["init"], service["stop_signal"]) == (True, "SIGINT")
    assert service["extra_hosts"] == ["host.docker.internal:host-gateway"]


def test_the_compose_file_points_at_files_that_exist() -> None:
    build = SERVICE["aiperf-client"]["build"]
    context = (ROOT / "docker" / build["context"]).resolve()
    assert context == ROOT.resolve()
    assert (context / build["dockerfile"]).is_file()
