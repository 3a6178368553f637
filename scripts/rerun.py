"""Run an earlier run again, and say what differs today.

    python scripts/rerun.py [RUN_DIR]

RUN_DIR is a run folder of the harness; by default the latest under artifacts/. Its settings, seed
and prompts are those of its run.json, outranked by what is set in the environment
(`make rerun CONCURRENCY=20`); of .env only the key counts, and the variables for AIPerf. The
earlier run moves to the archive, as always. Standard output gets the run's table, then both runs'
medians side by side; standard error everything else. DRY_RUN=1 shows the command and runs nothing.
Exit: 0 done, 1 the result is INVALID, 2 usage, 3 endpoint or AIPerf, 4 no run to repeat, 130.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from harness.cli import Arguments, run_verb, talker
from harness.errors import DataError, Exit, HarnessError, UsageError
from harness.profiling import Talk, Target, look_at, measure, preview, read_outcome
from harness.prompts import PromptFile, check_prompts
from harness.render import about_line, summary_text
from harness.rerun import (
    Difference,
    Earlier,
    both_runs,
    difference_table,
    differences,
    differences_of_server,
    plan_again,
    recall,
    settings_again,
)
from harness.runs import latest
from harness.settings import Settings, artifacts_folder, is_on
from harness.summary import Summary
from harness.table import to_text

_SAME_PROMPTS = (
    "the same seed makes the same prompts: where the server still holds them in its prefix cache, "
    "set RESET_KV_CACHE=1 or another RANDOM_SEED"
)


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Repeat the run that ``argv`` names, or the latest."""
    folder = _parser().parse_args(argv).run_dir or latest(artifacts_folder(os.environ))
    if not folder.is_dir():
        raise UsageError(str(folder), "is no folder", "name a run folder, such as artifacts/<run>")
    talk = talker(err)
    earlier = recall(folder)
    settings = _settings(earlier, talk, terminal=err.isatty())
    plan = plan_again(earlier, settings, _prompts(settings))
    talk(f"Again: {folder}, of {earlier.started}")
    if is_on(os.environ, "DRY_RUN"):
        _tell(list(differences(earlier, settings)), talk)
        out.write(preview(settings, plan, os.environ))
        return Exit.DONE
    target = _target(earlier, settings, talk)
    if plan.n_prompts and plan.seed == earlier.plan.seed and not settings.reset_kv_cache:
        talk(f"note: {_SAME_PROMPTS}")
    then = _summary(settings, folder, talk)  # read first: the run takes its place
    outcome = measure(settings, plan, target, os.environ, talk)
    about = about_line(outcome.folder)
    out.write(summary_text(outcome.summary, outcome.verdict, about, outcome.slos))
    if then:
        out.write(f"\n{to_text(both_runs(then, outcome.summary))}")
        out.write("one run each: that they differ is shown by repeated runs only\n")
    talk(f"Files: {outcome.folder}/ (summary.tsv to paste, summary.md, run.json)")
    return Exit.DONE if outcome.is_good else Exit.LIMIT


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(
        prog="rerun.py",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", nargs="?", type=Path, metavar="RUN_DIR")
    return parser


def _settings(earlier: Earlier, talk: Talk, *, terminal: bool) -> Settings:
    settings = settings_again(earlier, os.environ)
    for notice in settings.notices:
        talk(f"note: {notice}")
    return replace(settings, ui_type=settings.ui_type or ("simple" if terminal else "none"))


def _target(earlier: Earlier, settings: Settings, talk: Talk) -> Target:
    """Look at the server, and tell what differs, also where it does not answer."""
    found = list(differences(earlier, settings))
    try:
        target = look_at(settings, os.environ)
    except HarnessError:
        if found:
            _tell(found, talk)
        raise
    _tell([*found, *differences_of_server(earlier, target)], talk)
    for note in target.notes:
        talk(f"note: {note}")
    return target


def _prompts(settings: Settings) -> PromptFile | None:
    path = settings.input_file
    return check_prompts(Path(path), settings.custom_dataset_type) if path else None


def _tell(found: list[Difference], talk: Talk) -> None:
    talk(
        to_text(difference_table(found)).rstrip() if found else "Nothing that is recorded differs."
    )


def _summary(settings: Settings, folder: Path, talk: Talk) -> Summary | None:
    try:
        return read_outcome(settings, folder).summary
    except DataError as error:
        talk(f"note: {error}; there will be no figures beside the new ones")
        return None


if __name__ == "__main__":
    run_verb(main)
