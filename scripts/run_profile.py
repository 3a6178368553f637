"""Measure with AIPerf: the Python half of run_aiperf_profile.sh.

Usage: run_profile.py MODE    MODE: warmup, profile, sweep, or sweep_<concurrency>
Environment: the settings of .env.example; DRY_RUN=1 prints the command and runs nothing;
FRESH=1 measures every point of a sweep anew, also those measured before with the same settings.
Prints the table on standard output, everything else on standard error.
Exit: 0 done, 1 INVALID, a missed SLO or a failed point of a sweep, 2 usage, 3 endpoint or AIPerf,
4 data, 130 interrupted.
"""

from __future__ import annotations

import harness  # noqa: F401 - first: from here on Ctrl-C shows no trace of the other imports

# isort: split
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from harness import settings as configuration
from harness.cells import Cell, sweep_cells
from harness.cli import run_verb, talker
from harness.doctor_machine import require_room
from harness.errors import Exit, UsageError
from harness.plan import make_plan, parse_mode
from harness.profiling import Talk, Target, look_at, measure, preview
from harness.prompts import PromptFile, check_prompts, told
from harness.render import about_line, summary_text
from harness.settings import Settings
from harness.sweep import run_sweep, sweep_text, write_sweep


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Measure in the mode that ``argv`` names."""
    if list(argv) in (["-h"], ["--help"]):
        out.write(__doc__ or "")
        return Exit.DONE
    if len(argv) != 1:
        remedy = "use warmup, profile, sweep or sweep_<concurrency>"
        raise UsageError("MODE", f"{len(argv)} words given, 1 expected", remedy)

    talk = talker(err)
    settings = read_settings(talk, terminal=err.isatty())
    cells = _cells(settings, argv[0], read_prompts(settings, talk))
    if configuration.is_on(os.environ, "DRY_RUN"):
        out.write("\n".join(preview(c.settings, c.plan, os.environ) for c in cells))
        return Exit.DONE
    for cell in cells:
        require_room(cell.settings, cell.plan, os.environ)
    target = look_at(settings, os.environ)
    talk(f"Tokenizer: {target.tokenizer.name}: {target.tokenizer.why}")
    for note in target.notes:
        talk(f"note: {note}")
    if argv[0] == "sweep":
        return _sweep(settings, cells, target, talk, out)
    return _single(cells[0], target, talk, out)


def read_settings(talk: Talk, *, terminal: bool) -> Settings:
    """Return the settings, and tell what is to be known of them."""
    settings = configuration.from_environment(os.environ)
    for notice in settings.notices:
        talk(f"note: {notice}")
    return replace(settings, ui_type=settings.ui_type or ("simple" if terminal else "none"))


def read_prompts(settings: Settings, talk: Talk) -> PromptFile | None:
    """Check the prompt file, if one is set, and tell what is in it."""
    if not settings.input_file:
        return None
    prompts = check_prompts(Path(settings.input_file), settings.custom_dataset_type)
    talk(f"Prompts: {told(prompts)} in {settings.input_file}")
    return prompts


def _cells(settings: Settings, word: str, prompts: PromptFile | None) -> tuple[Cell, ...]:
    if word == "sweep":
        return sweep_cells(settings, prompts)
    mode, point = parse_mode(word)
    return (Cell(settings, make_plan(settings, mode, point, prompts)),)


def _single(cell: Cell, target: Target, talk: Talk, out: TextIO) -> int:
    outcome = measure(cell.settings, cell.plan, target, os.environ, talk)
    about = about_line(outcome.folder)
    out.write(summary_text(outcome.summary, outcome.verdict, about, outcome.slos))
    talk(f"Files: {outcome.folder}/ (summary.tsv to paste, summary.md, run.json)")
    return Exit.DONE if outcome.is_good else Exit.LIMIT


def _sweep(
    settings: Settings, cells: Sequence[Cell], target: Target, talk: Talk, out: TextIO
) -> int:
    folder = Path(os.environ.get("OUTPUT_DIR") or ".")
    folder.mkdir(parents=True, exist_ok=True)
    fresh = configuration.is_on(os.environ, "FRESH")
    sweep = run_sweep(cells, target, os.environ, talk, fresh=fresh)
    out.write(sweep_text(sweep))
    files = write_sweep(sweep, folder, Path(settings.artifacts_dir))
    talk(f"Files: {', '.join(str(file) for file in files)}")
    if sweep.n_reused:
        n = f"{sweep.n_reused} of {len(sweep.points)} points"
        talk(f"note: {n} were measured before; FRESH=1 measures all anew")
    if sweep.interrupted:
        talk("note: the same sweep again measures what is missing")
        raise sweep.interrupted
    return Exit.LIMIT if sweep.n_bad else Exit.DONE


if __name__ == "__main__":
    run_verb(main)
