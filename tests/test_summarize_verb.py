"""`make summary`: the table on stdout, talk on stderr, two files, exit codes."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import summarize_export
from harness.cli import guarded
from tests.exports import GOLDEN, closed_loop, failed, used, write_load, write_phases, write_rows

SCRIPT = Path(summarize_export.__file__)
RUNS = sorted(path.parent.name for path in GOLDEN.glob("*/profile_export.jsonl"))


def call(*argv: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = guarded(summarize_export.main, argv, out, err)
    return code, out.getvalue(), err.getvalue()


RUN = {
    "plan": {"concurrency": 4},
    "tokenizer": {"exact": True},
    "settings": {"MAX_DRIFT": 25.0, "MAX_ERROR_RATE": 1.0, "EXTRA_INPUTS": {"ignore_eos": True}},
}


def drifting(folder: Path, run: dict[str, object] | None = None) -> Path:
    """Write a run whose latency grows by about 80 %."""
    rows = closed_loop([100 + 2.0 * number for number in range(100)], 4)
    write_load(folder, rows, 4)
    if run is not None:
        (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_a_suspect_run_says_why_in_table_and_files() -> None:
    drifting(Path("run"), RUN)
    code, out, _ = call("run")
    assert (code, out.split()[0]) == (0, "SUSPECT")
    reason = "the run never became steady"
    notes = [x for x in Path("summary.tsv").read_text().splitlines() if x.startswith("Note\t")]
    assert notes[0].startswith(f"Note\t{reason}")
    assert Path("summary.md").read_text().startswith(f"# SUSPECT\n\n- {reason}")
    assert reason in out.splitlines()[1]


def test_a_run_is_judged_by_its_own_limits_unless_others_are_typed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = drifting(Path("run"), RUN)
    Path(".env").write_text("MODEL=m\nAIPERF_URL=http://127.0.0.1:1\nMAX_DRIFT=400\n")
    assert call(str(run))[1].startswith("SUSPECT ")
    monkeypatch.setenv("MAX_DRIFT", "400")  # as `make summary MAX_DRIFT=400`
    assert call(str(run))[1].startswith("VALID ")
    monkeypatch.delenv("MAX_DRIFT")
    run = drifting(Path("other"), RUN | {"settings": {"MAX_DRIFT": 300}})
    assert call(str(run))[1].startswith("VALID ")


def test_a_folder_of_plain_aiperf_is_judged_by_what_it_holds() -> None:
    code, out, _ = call(str(drifting(Path("run"))))
    assert (code, out.split()[0]) == (0, "SUSPECT")


def test_what_the_run_asked_for_is_read_from_its_manifest() -> None:
    run = drifting(Path("run"), RUN | {"tokenizer": {"exact": False, "name": "builtin"}})
    assert "builtin is not the model's tokenizer" in call(str(run))[1]
    run = drifting(Path("other"), RUN | {"plan": {"concurrency": 40}})
    assert "100 requests at concurrency 40" in call(str(run))[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, without the settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "ENV_FILE",
        "MODEL",
        "MAX_ERROR_RATE",
        "MAX_DRIFT",
        "ARTIFACTS_DIR",
        "OPENAI_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)


def run_in(folder: Path, name: str = "clean", ended: str = "") -> Path:
    shutil.copytree(GOLDEN / name, folder)
    if ended:
        (folder / "run.json").write_text(json.dumps({"ended": ended, "name": folder.name}))
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_table_and_files_are_the_golden_ones(name: str) -> None:
    code, out, err = call(str(GOLDEN / name))
    assert code == 0  # also for an INVALID run: it has been reported
    assert out == (GOLDEN / name / "stdout.txt").read_text(encoding="utf-8")
    for file in ("summary.tsv", "summary.md"):
        assert Path(file).read_bytes() == (GOLDEN / name / file).read_bytes()
    assert err == f"summary of {GOLDEN / name}\nwritten: summary.tsv (to paste), summary.md\n"


def test_the_script_keeps_stdout_for_the_table() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(GOLDEN / "failed"), "--output-dir", "."],
        capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == (GOLDEN / "failed" / "stdout.txt").read_bytes()
    assert done.stderr.decode().startswith("summary of ")


def test_without_a_folder_the_latest_run_is_taken() -> None:
    run_in(Path("artifacts/old"), "failed", ended="2026-01-01T00:00:00Z")
    run_in(Path("artifacts/new"), "clean", ended="2026-01-02T00:00:00Z")
    run_in(Path("artifacts/newer.partial"), "failed", ended="2026-01-03T00:00:00Z")
    run_in(Path("artifacts/archive/x/2026"), "failed", ended="2026-01-04T00:00:00Z")
    code, out, err = call()
    assert (code, err.splitlines()[0]) == (0, "summary of artifacts/new")
    assert out.startswith("VALID ")


def test_the_artifacts_folder_of_the_settings_is_looked_at() -> None:
    Path(".env").write_text("MODEL=m\nAIPERF_URL=http://127.0.0.1:1\nARTIFACTS_DIR=elsewhere\n")
    run_in(Path("elsewhere/run"))
    assert call()[2].startswith("summary of elsewhere/run\n")


def test_no_run_at_all_is_exit_4() -> None:
    code, out, err = call()
    assert (code, out) == (4, "")
    assert err.startswith("error: artifacts: ")


def test_nothing_usable_is_exit_4_and_names_what_was_found() -> None:
    Path("run").mkdir()
    Path("run/notes.txt").touch()
    code, out, err = call("run")
    assert (code, out) == (4, "")
    assert "notes.txt" in err.splitlines()[-1]
    assert not Path("summary.tsv").exists()


def test_a_broken_aggregate_does_not_keep_the_rows_from_being_reported() -> None:
    run_in(Path("run"))
    Path("run/profile_export_aiperf.json").write_text("{")
    code, out, _ = call("run")
    assert (code, out.splitlines()[0]) == (0, "INVALID  run")


def test_the_aggregate_of_another_run_does_not_describe_this_one() -> None:
    run_in(Path("run"), "warmup")
    shutil.copy(GOLDEN / "clean" / "profile_export_aiperf.json", "run")
    out = call("run")[1]
    assert "simulated at" not in out
    assert "is of another run" in out


@pytest.mark.parametrize(
    "argv", [["nowhere"], ["a", "b"], ["--max-error-rate", "101"], ["--output", "x"]]
)
def test_a_wrong_argument_is_exit_2_in_one_line(argv: list[str]) -> None:
    code, out, err = call(*argv)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: ")


def test_an_output_folder_that_is_none_is_exit_2(tmp_path: Path) -> None:
    assert call(str(GOLDEN / "clean"), "--output-dir", "no/such/folder")[0] == 2


def test_the_files_go_where_they_are_wanted_and_replace_older_ones() -> None:
    Path("here").mkdir()
    Path("here/summary.tsv").write_text("old")
    call(str(GOLDEN / "clean"), "--output-dir", "here")
    assert sorted(path.name for path in Path("here").iterdir()) == ["summary.md", "summary.tsv"]
    assert Path("here/summary.tsv").read_text().startswith("metric\tp50_ms\t")


def test_the_limit_is_the_runs_own_unless_another_is_given() -> None:
    folder = write_rows(Path("run"), [used(), failed()])
    write_phases(folder, n_requests=2)
    assert call("run")[1].startswith("INVALID ")
    assert call("run", "--max-error-rate", "50")[1].startswith("VALID ")
    (folder / "run.json").write_text(json.dumps({"settings": {"MAX_ERROR_RATE": 50}}))
    assert call("run")[1].startswith("VALID ")
    assert call("run", "--max-error-rate", "0")[1].startswith("INVALID ")


def test_the_limit_of_the_environment_outranks_the_runs_own_and_that_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_rows(Path("run"), [used(), failed()])
    write_phases(folder, n_requests=2)
    Path(".env").write_text("MODEL=m\nAIPERF_URL=http://127.0.0.1:1\nMAX_ERROR_RATE=60\n")
    assert call("run")[1].startswith("VALID ")
    (folder / "run.json").write_text(json.dumps({"settings": {"MAX_ERROR_RATE": 10}}))
    assert "limit: MAX_ERROR_RATE 10 %" in call("run")[1]
    monkeypatch.setenv("MAX_ERROR_RATE", "20")
    assert "limit: MAX_ERROR_RATE 20 %" in call("run")[1]
    assert "limit: MAX_ERROR_RATE 30 %" in call("run", "--max-error-rate", "30")[1]
    monkeypatch.setenv("MAX_ERROR_RATE", "")
    assert "limit: MAX_ERROR_RATE 10 %" in call("run")[1]
    monkeypatch.setenv("MAX_ERROR_RATE", "much")
    code, out, err = call("run")
    assert (code, out) == (2, "")
    assert "'much' is not a number from 0 to 100" in err


@pytest.mark.parametrize(
    "env_file",
    ["", "MODEL=m\n", "ARTIFACTS_DIR=artifacts\n", "OPENAI_API_KEY=\nMODEL=gpt-4o\n"],
)
def test_a_summary_needs_neither_model_nor_server_nor_key(env_file: str) -> None:
    Path(".env").write_text(env_file)
    assert "note:" not in call(str(GOLDEN / "clean"))[2]


def test_without_a_model_the_other_settings_hold(tmp_path: Path) -> None:
    Path(".env").write_text("ARTIFACTS_DIR=elsewhere\nOPENAI_API_KEY=verysecret7\n")
    write_rows(tmp_path / "elsewhere" / "run", [failed(401, "wrong key verysecret7")])
    code, out, err = call()
    assert (code, err.splitlines()[0]) == (0, "summary of elsewhere/run")
    assert "wrong key ***" in out


def test_settings_that_are_wrong_are_told_before_defaults_take_their_place() -> None:
    Path(".env").write_text("MODEL=m\nARTIFACT_DIR=elsewhere\nMAX_ERROR_RATE=101\n")
    code, _, err = call(str(GOLDEN / "clean"))
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert code == 0
    assert len(notes) == 2
    assert notes[0].startswith("note: .env: ARTIFACT_DIR is no setting; did you mean ARTIFACTS_DIR")
    assert notes[1].startswith("note: MAX_ERROR_RATE: '101' is not valid")
    assert all(note.endswith("; defaults are used") for note in notes)


def test_a_settings_file_that_is_named_and_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV_FILE", "lab.env")
    code, _, err = call(str(GOLDEN / "clean"))
    assert code == 0
    assert err.startswith("note: ENV_FILE: lab.env does not exist; ")


def test_the_key_of_the_settings_is_in_no_table() -> None:
    Path(".env").write_text("MODEL=m\nAIPERF_URL=http://127.0.0.1:1\nOPENAI_API_KEY=verysecret7\n")
    write_rows(Path("run"), [failed(401, "wrong key verysecret7")])
    _, out, err = call("run")
    written = Path("summary.tsv").read_text() + Path("summary.md").read_text()
    assert "wrong key" in out
    assert "verysecret7" not in out + err + written
