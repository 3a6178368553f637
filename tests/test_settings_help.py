"""The settings table is written out in three places from one source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.settings import load, table
from harness.settings_help import env_example, markdown, plain

ROOT = Path(__file__).parent.parent


def test_the_committed_example_is_the_generated_one() -> None:
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == env_example()


def test_the_readmes_hold_the_generated_table() -> None:
    assert markdown() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_in_every_form() -> None:
    for entry in table():
        for text in (env_example(), markdown(), plain()):
            assert entry.key in text


def test_the_example_as_it_stands_is_a_valid_configuration(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(env_example(), encoding="utf-8")
    settings = load(file, {"AIPERF_URL": "http://lab:1"})
    assert settings.concurrency == 10


def test_the_example_with_every_line_switched_on_changes_no_default(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    lines = env_example().splitlines()
    switched_on = [line.removeprefix("#") if "=" in line.split(" ")[0] else "" for line in lines]
    file.write_text("\n".join(switched_on), encoding="utf-8")
    url = {"AIPERF_URL": "http://lab:1"}
    empty = tmp_path / "empty.env"
    empty.write_text("MODEL=SmolLM2-135M-Instruct\n", encoding="utf-8")
    usual = replace(load(empty, url), concurrency_is_set=True)  # which it is there
    assert load(file, url) == usual
