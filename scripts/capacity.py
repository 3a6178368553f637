"""Find the highest concurrency that meets the objectives (SLO_TTFT_P95_MS, …).

    python scripts/capacity.py        as set in .env and the environment; DRY_RUN=1 runs nothing

Doubles the users from 1 up to CAPACITY_LIMIT until an objective is missed, halves the gap, and runs
both sides of the edge once more. Each probe is kept as capacity_<users>_…: one measured before with
the same settings is not measured again, so that an interrupted search goes on where it was (FRESH=1
measures all anew). CAPACITY_ENGINE=aiperf leaves the search to AIPerf's own recipe: some minutes a
probe.
The probes and the result go to standard output, everything else to standard error; capacity_summary
.tsv and .md and capacity.svg are written here, or into OUTPUT_DIR.
Exit: 0 done, 1 not even one user is served within the objectives, 2 usage or configuration,
3 endpoint or AIPerf failed, 4 data, 130 interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from harness import settings as configuration
from harness.capacity import (
    capacity_text,
    cell_plan,
    find_capacity,
    require_objectives,
    search_plan,
    search_settings,
    searched,
    write_capacity,
)
from harness.cli import run_verb, talker
from harness.command import build_search_argv
from harness.errors import Exit, StoppedError, UsageError
from harness.profiling import Talk, Target, look_at, preview, search
from harness.prompts import PromptFile
from harness.settings import Settings
from run_profile import read_prompts, read_settings


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Find the capacity, by the harness or by AIPerf."""
    if list(argv) in (["-h"], ["--help"]):
        out.write(__doc__ or "")
        return Exit.DONE
    if argv:
        raise UsageError("capacity", f"{argv[0]!r} is not known", "write settings as KEY=value")
    talk = talker(err)
    settings = read_settings(talk, terminal=err.isatty())
    require_objectives(settings)
    prompts = read_prompts(settings, talk)
    if settings.capacity_engine == "aiperf":
        return _by_aiperf(search_settings(settings), prompts, talk, out)
    first = cell_plan(settings, 1, 1, prompts)
    if configuration.is_on(os.environ, "DRY_RUN"):
        out.write(preview(settings, first, os.environ))
        return Exit.DONE
    return _by_harness(settings, prompts, _target(settings, talk), talk, out)


def _target(settings: Settings, talk: Talk) -> Target:
    target = look_at(settings, os.environ)
    talk(f"Tokenizer: {target.tokenizer.name}: {target.tokenizer.why}")
    for note in target.notes:
        talk(f"note: {note}")
    return target


def _by_harness(
    settings: Settings, prompts: PromptFile | None, target: Target, talk: Talk, out: TextIO
) -> int:
    folder = Path(os.environ.get("OUTPUT_DIR") or ".")
    folder.mkdir(parents=True, exist_ok=True)
    fresh = configuration.is_on(os.environ, "FRESH")
    try:
        found = find_capacity(settings, target, os.environ, prompts, talk, fresh=fresh)
    except StoppedError:
        talk("note: the probes so far are kept; the same search again goes on from them")
        raise
    out.write(capacity_text(found))
    files = write_capacity(found, folder, Path(settings.artifacts_dir))
    talk(f"Files: {', '.join(str(file) for file in files)}")
    return Exit.DONE if found.edge.met else Exit.LIMIT


def _by_aiperf(settings: Settings, prompts: PromptFile | None, talk: Talk, out: TextIO) -> int:
    plan = search_plan(settings, prompts)
    if configuration.is_on(os.environ, "DRY_RUN"):
        out.write(preview(settings, plan, os.environ, build_search_argv))
        return Exit.DONE
    folder = search(settings, plan, _target(settings, talk), os.environ, talk)
    n_users, sentence = searched(folder)
    out.write(f"{sentence}\n")
    talk(f"Files: {folder}/ (search_history.json, a folder a probe)")
    return Exit.DONE if n_users else Exit.LIMIT


if __name__ == "__main__":
    run_verb(main)
