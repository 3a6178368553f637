"""Run folders: nothing finished is ever overwritten, mixed or taken for what it is not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.errors import DataError, UsageError
from harness.runs import (
    latest,
    publish,
    read_manifest,
    working_folder,
    write_manifest,
    write_text,
)


def finish(artifacts: Path, name: str, mark: str, started: str = "2026-01-01T00:00:00Z") -> Path:
    with working_folder(artifacts, name) as partial:
        (partial / "mark").write_text(mark)
        write_manifest(partial, {"started": started, "ended": started})
        return publish(partial)


def test_work_is_partial_until_it_is_published(tmp_path: Path) -> None:
    with working_folder(tmp_path, "RUN") as partial:
        assert partial.name == "RUN.partial"
        assert not (tmp_path / "RUN").exists()
        publish(partial)
    assert (tmp_path / "RUN").is_dir()
    assert not partial.exists()


def test_a_second_run_moves_the_first_into_the_archive(tmp_path: Path) -> None:
    finish(tmp_path, "RUN", "first", "2026-01-01T00:00:00Z")
    finish(tmp_path, "RUN", "second", "2026-01-02T00:00:00Z")
    assert (tmp_path / "RUN" / "mark").read_text() == "second"
    archived = tmp_path / "archive" / "RUN" / "2026-01-01T00-00-00Z" / "mark"
    assert archived.read_text() == "first"


def test_runs_of_the_same_second_are_all_kept(tmp_path: Path) -> None:
    for mark in "abcd":
        finish(tmp_path, "RUN", mark)
    archive = tmp_path / "archive" / "RUN"
    marks = sorted((folder / "mark").read_text() for folder in archive.iterdir())
    assert marks == ["a", "b", "c"]
    assert (tmp_path / "RUN" / "mark").read_text() == "d"


def test_what_an_unfinished_run_left_is_moved_aside_and_never_published(tmp_path: Path) -> None:
    with working_folder(tmp_path, "RUN") as partial:
        (partial / "mark").write_text("half")
    with working_folder(tmp_path, "RUN") as partial:
        assert list(partial.iterdir()) == []
    kept = list((tmp_path / "archive" / "RUN").iterdir())
    assert [folder.suffix for folder in kept] == [".partial"]
    assert (kept[0] / "mark").read_text() == "half"


def test_an_error_in_the_middle_leaves_the_earlier_result_alone(tmp_path: Path) -> None:
    finish(tmp_path, "RUN", "first")
    with pytest.raises(RuntimeError), working_folder(tmp_path, "RUN"):
        raise RuntimeError
    assert (tmp_path / "RUN" / "mark").read_text() == "first"


def test_two_runs_into_one_name_at_once_are_refused(tmp_path: Path) -> None:
    with working_folder(tmp_path, "RUN"):
        with pytest.raises(UsageError, match="under way"), working_folder(tmp_path, "RUN"):
            pass
        with working_folder(tmp_path, "OTHER"):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written"), working_folder(tmp_path, "RUN"):
        pass


def test_a_file_in_the_place_of_artifacts_is_told(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("")
    with (
        pytest.raises(UsageError, match="cannot be written"),
        working_folder(tmp_path / "artifacts", "RUN"),
    ):
        pass


def test_a_file_in_the_place_of_the_archive_is_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("")
    with pytest.raises(UsageError, match="archive: is no folder"), working_folder(tmp_path, "RUN"):
        pass
    assert not (tmp_path / "RUN.partial").exists()


class TestLatest:
    def test_is_the_run_that_ended_last(self, tmp_path: Path) -> None:
        finish(tmp_path, "OLD", "", "2026-01-01T00:00:00Z")
        finish(tmp_path, "NEW", "", "2026-01-03T00:00:00Z")
        finish(tmp_path, "MIDDLE", "", "2026-01-02T00:00:00Z")
        assert latest(tmp_path).name == "NEW"

    def test_is_never_unfinished_or_archived(self, tmp_path: Path) -> None:
        finish(tmp_path, "RUN", "", "2026-01-01T00:00:00Z")
        finish(tmp_path, "RUN", "", "2026-01-02T00:00:00Z")
        with working_folder(tmp_path, "HALF") as partial:
            write_manifest(partial, {"ended": "2027-01-01T00:00:00Z"})
        assert latest(tmp_path).name == "RUN"

    def test_reads_the_export_of_plain_aiperf_too(self, tmp_path: Path) -> None:
        finish(tmp_path, "OURS", "", "2020-01-01T00:00:00Z")
        plain = tmp_path / "plain"
        plain.mkdir()
        (plain / "profile_export.jsonl").write_text("{}\n")
        assert latest(tmp_path) == plain

    def test_of_nothing_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="make demo"):
            latest(tmp_path / "none")


def test_a_broken_manifest_is_told_and_does_not_stop_archiving(tmp_path: Path) -> None:
    finish(tmp_path, "RUN", "first")
    (tmp_path / "RUN" / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json"):
        read_manifest(tmp_path / "RUN")
    finish(tmp_path, "RUN", "second")
    assert (tmp_path / "RUN" / "mark").read_text() == "second"


def test_a_manifest_says_its_schema_and_keeps_japanese_readable(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"model": "日本語"})
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    assert "日本語" in text
    assert json.loads(text)["schema_version"] == 1


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "summary.tsv"
    write_text(target, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "new \udcff")
    assert target.read_text() == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["summary.tsv"]
