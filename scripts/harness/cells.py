"""Cells: one cell is one run of a sweep. Its key tells whether it was measured before."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.command import build_argv
from harness.endpoint import EndpointFacts
from harness.errors import DataError, UsageError
from harness.plan import Plan, make_plan
from harness.prompts import PromptFile
from harness.runs import ARCHIVE, PARTIAL, read_manifest
from harness.settings import Settings
from harness.tokenizer import TokenizerChoice

KEY = "cell_key"
_NOT_MEASURED = ("AIPERF_SERVICE_", "AIPERF_URL")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep: its plan, and the sweep's settings with this cell's own in place."""

    settings: Settings
    plan: Plan

    @property
    def label(self) -> str:
        """Return what tells it from the others of its sweep, such as ``ISL=100 CON=5``."""
        words = [f"ISL={self.settings.input_tokens_mean}"] * bool(self.settings.sweep_input_tokens)
        if self.settings.sweep_output_tokens:
            words.append(f"OSL={self.settings.output_tokens_mean}")
        rate = self.plan.request_rate
        words.append(f"CON={self.plan.concurrency}" if rate is None else f"RATE={rate:g}")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Finished:
    """An earlier run with the same key; ``measured`` is when it ended (ISO 8601, UTC)."""

    folder: Path
    measured: str


def sweep_cells(settings: Settings, prompts: PromptFile | None = None) -> tuple[Cell, ...]:
    """Return the cells of ``make sweep``: each prompt length × output length × load.

    Loads are the request rates if any are set, else the concurrencies. Raises UsageError where
    settings contradict each other.
    """
    if settings.input_file and settings.sweep_input_tokens:
        what = "has no effect on the prompts of INPUT_FILE"
        raise UsageError("SWEEP_INPUT_TOKENS", what, "unset one of them")
    cells: list[Cell] = []
    for n_input in settings.sweep_input_tokens or (settings.input_tokens_mean,):
        for n_output in settings.sweep_output_tokens or (settings.output_tokens_mean,):
            sized = replace(settings, input_tokens_mean=n_input, output_tokens_mean=n_output)
            cells += _loads(sized, prompts)
    return tuple(cells)


def cell_key(
    settings: Settings,
    plan: Plan,
    tokenizer: TokenizerChoice,
    facts: EndpointFacts,
    prompts_hash: str | None,
    aiperf_version: str | None,
    environ: Mapping[str, str],
) -> str:
    """Return ``sha256:…`` of all that can move a figure of this run.

    That is what AIPerf is told (its arguments and its own variables; not how it shows progress,
    where it writes, or a seed that nobody set), the prompt file's content, AIPerf's version, and
    what the server said of its version and of the model. Limits of the verdict are not in it: a run
    is judged anew whenever it is read.
    """
    told = {
        "argv": _argv(settings, plan, tokenizer),
        "variables": _variables({**settings.handed_on, **environ}),
        "prompts": prompts_hash,
        "aiperf": aiperf_version,
        "server": facts.version,
        "model": _served(settings.model, facts),
    }
    text = json.dumps(told, sort_keys=True, ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def finished(artifacts: Path, name: str, key: str) -> Finished | None:
    """Return the newest run of that name and key that came to its end; None where there is none.

    Looked for under its name, then in the archive. A later attempt that did not end must be done
    again, whatever lies behind it. Whether the run is good enough is not asked: it is judged by
    today's limits where it is read.
    """
    attempt = _of_key(artifacts / f"{name}{PARTIAL}", key)
    for folder in _newest_first(artifacts, name):
        manifest = _of_key(folder, key)
        measured = _text(manifest, "ended")
        if not measured:
            continue
        is_redone = _text(attempt, "started") >= measured
        is_judged = isinstance(manifest.get("verdict"), dict)
        return Finished(folder, measured) if is_judged and not is_redone else None
    return None


def _loads(settings: Settings, prompts: PromptFile | None) -> list[Cell]:
    if settings.sweep_request_rates:
        rated = [replace(settings, request_rate=per_s) for per_s in settings.sweep_request_rates]
        return [_cell(each, None, prompts) for each in rated]
    return [_cell(settings, point, prompts) for point in settings.sweep_concurrencies]


def _cell(settings: Settings, point: int | None, prompts: PromptFile | None) -> Cell:
    """Return a cell; a seed that is set becomes another one in each cell.

    The same prompts in every cell would measure the server's prefix cache (vllm#54227). A plan's
    own seed tells concurrencies apart, but no other axis.
    """
    plan = make_plan(settings, "sweep", point, prompts)
    axes = settings.sweep_input_tokens, settings.sweep_output_tokens, settings.sweep_request_rates
    if settings.random_seed is not None and any(axes):
        plan = replace(plan, seed=settings.random_seed + zlib.crc32(plan.name.encode()))
    return Cell(settings, plan)


def _argv(settings: Settings, plan: Plan, tokenizer: TokenizerChoice) -> list[str]:
    """Return AIPerf's arguments without those that only say where things are, or what is wanted.

    An objective changes what AIPerf counts as goodput, not what it measures.
    """
    prompts = "prompts" if settings.input_file else None
    plain = replace(
        settings,
        ui_type=None,
        input_file=prompts,
        slo_ttft_p95_ms=None,
        slo_itl_p95_ms=None,
        slo_latency_p99_ms=None,
    )
    seedless = plan if settings.random_seed is not None else replace(plan, seed=0)
    return build_argv(plain, seedless, tokenizer, settings.base, Path())


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return AIPerf's own variables; those of its services' start-up move no figure."""
    return {
        name: value
        for name, value in environ.items()
        if name.startswith("AIPERF_") and not name.startswith(_NOT_MEASURED)
    }


def _served(model: str, facts: EndpointFacts) -> list[object]:
    return [[m.root, m.max_model_len] for m in facts.models or () if m.id == model]


def _newest_first(artifacts: Path, name: str) -> list[Path]:
    shelf = artifacts / ARCHIVE / name
    kept = sorted(shelf.iterdir(), reverse=True) if shelf.is_dir() else []
    return [artifacts / name, *(folder for folder in kept if folder.suffix != PARTIAL)]


def _of_key(folder: Path, key: str) -> Mapping[str, object]:
    """Return run.json of a run with that key; empty for any other, and for a broken one."""
    try:
        manifest = read_manifest(folder)
    except DataError:
        return {}
    return manifest if manifest.get(KEY) == key else {}


def _text(manifest: Mapping[str, object], name: str) -> str:
    value = manifest.get(name)
    return value if isinstance(value, str) else ""
