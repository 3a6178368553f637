"""A quick look at an OpenAI-compatible server: what one user sees, how many users it serves.

    python scripts/quick.py        needs no .env; AIPERF_URL, MODEL and SLO_… are followed where set

Without AIPERF_URL it looks for a server on this machine: Ollama (port 11434), vLLM (8000),
llama.cpp (8080), LM Studio (1234), SGLang (30000). Takes about a minute: AIPerf's runs at 1, 2, 4,
… users, with short answers, until the objectives (first token within 1000 ms and 100 ms a token,
both p95, unless SLO_… are set) are missed or the time is over. Its runs are in artifacts/quick.
Three lines go to standard output, everything else to standard error.
Exit: 0 done, 1 not even one user is served within the objectives, 2 usage or configuration,
3 no server, or it or AIPerf failed, 130 interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

from harness import settings as configuration
from harness.cli import run_verb, talker
from harness.errors import Exit, UsageError
from harness.profiling import look_at, preview
from harness.quick import (
    PLACES,
    look_around,
    quick_plan,
    quick_settings,
    quick_text,
)


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Find a server and look at it."""
    if list(argv) in (["-h"], ["--help"]):
        out.write(__doc__ or "")
        return Exit.DONE
    if argv:
        raise UsageError("quick", f"{argv[0]!r} is not known", "name a server as AIPERF_URL=…")
    talk = talker(err)
    settings = quick_settings(os.environ, PLACES, talk)
    if configuration.is_on(os.environ, "DRY_RUN"):
        out.write(preview(settings, quick_plan(settings, 1), os.environ))
        return Exit.DONE
    target = look_at(settings, os.environ)
    are_default = not any(key.startswith("SLO_") for key in configuration.given(os.environ))
    look = look_around(settings, target, os.environ, talk, are_default=are_default)
    out.write(quick_text(look))
    talk(f"Files: {settings.artifacts_dir}/")
    return Exit.DONE if look.edge.met else Exit.LIMIT


if __name__ == "__main__":
    run_verb(main)
