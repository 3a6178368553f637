"""Measure with AIPerf: the Python half of run_aiperf_profile.sh.

Usage: run_profile.py MODE    MODE: warmup, profile, sweep, or sweep_<concurrency>
Environment: the settings of .env.example; DRY_RUN=1 prints the command and runs nothing.
Prints the table on standard output, everything else on standard error.
Exit: 0 done, 1 INVALID or a failed point of a sweep, 2 usage, 3 endpoint or AIPerf, 4 data, 130.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from harness import settings as configuration
from harness.cli import run_verb, talker
from harness.errors import Exit, UsageError
from harness.plan import Plan, make_plan, parse_mode
from harness.profiling import Talk, Target, look_at, measure, preview
from harness.prompts import PromptFile, check_prompts, told
from harness.render import about_line, summary_text
from harness.settings import Settings
from harness.sweep import run_sweep, sweep_text, write_sweep
from harness.verdict import Level


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Measure in the mode that ``argv`` names."""
    if list(argv) in (["-h"], ["--help"]):
        out.write(__doc__ or "")
        return Exit.DONE
    if len(argv) != 1:
        remedy = "use warmup, profile, sweep or sweep_<concurrency>"
        raise UsageError("MODE", f"{len(argv)} words given, 1 expected", remedy)

    talk = talker(err)
    settings = _settings(talk, terminal=err.isatty())
    plans = _plans(settings, argv[0], _prompts(settings, talk))
    if configuration.is_on(os.environ, "DRY_RUN"):
        out.write("\n".join(preview(settings, plan, os.environ) for plan in plans))
        return Exit.DONE
    target = look_at(settings, os.environ)
    talk(f"Tokenizer: {target.tokenizer.name}: {target.tokenizer.why}")
    for note in target.notes:
        talk(f"note: {note}")
    if argv[0] == "sweep":
        return _sweep(settings, plans, target, talk, out)
    return _single(settings, plans[0], target, talk, out)


def _settings(talk: Talk, *, terminal: bool) -> Settings:
    settings = configuration.from_environment(os.environ)
    for notice in settings.notices:
        talk(f"note: {notice}")
    return replace(settings, ui_type=settings.ui_type or ("simple" if terminal else "none"))


def _prompts(settings: Settings, talk: Talk) -> PromptFile | None:
    if not settings.input_file:
        return None
    prompts = check_prompts(Path(settings.input_file), settings.custom_dataset_type)
    talk(f"Prompts: {told(prompts)} in {settings.input_file}")
    return prompts


def _plans(settings: Settings, word: str, prompts: PromptFile | None) -> list[Plan]:
    if word == "sweep":
        points = settings.sweep_concurrencies
        return [make_plan(settings, "sweep", point, prompts) for point in points]
    mode, point = parse_mode(word)
    return [make_plan(settings, mode, point, prompts)]


def _single(settings: Settings, plan: Plan, target: Target, talk: Talk, out: TextIO) -> int:
    outcome = measure(settings, plan, target, os.environ, talk)
    out.write(summary_text(outcome.summary, outcome.verdict, about_line(outcome.folder)))
    talk(f"Files: {outcome.folder}/ (summary.tsv to paste, summary.md, run.json)")
    return Exit.LIMIT if outcome.verdict.level is Level.INVALID else Exit.DONE


def _sweep(
    settings: Settings, plans: Sequence[Plan], target: Target, talk: Talk, out: TextIO
) -> int:
    folder = Path(os.environ.get("OUTPUT_DIR") or ".")
    folder.mkdir(parents=True, exist_ok=True)
    sweep = run_sweep(settings, plans, target, os.environ, talk)
    out.write(sweep_text(sweep))
    write_sweep(sweep, folder, Path(settings.artifacts_dir))
    talk(f"Files: {folder / 'sweep_summary.tsv'}, {folder / 'sweep_summary.md'}")
    if sweep.interrupted:
        raise sweep.interrupted
    return Exit.LIMIT if sweep.n_bad else Exit.DONE


if __name__ == "__main__":
    run_verb(main)
