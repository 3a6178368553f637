"""An earlier run, recalled from its run.json: the same again, and what differs today."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from harness import provenance
from harness import settings as configuration
from harness.errors import DataError
from harness.metrics import LATENCIES, RATES
from harness.plan import Mode, Plan, make_plan
from harness.profiling import Target
from harness.prompts import PromptFile
from harness.runs import MANIFEST, SCHEMA_VERSION, read_manifest
from harness.settings import TODAYS, Settings
from harness.summary import Summary
from harness.table import Column, Table, number

_UNSET = "none"
_LONGEST_CELL = 60
_COMMIT_CHARS = 12


@dataclass(frozen=True, slots=True)
class _Model:
    id: str


@dataclass(frozen=True, slots=True)
class _Endpoint:
    models: tuple[_Model, ...] | None = None
    version: str | None = None
    server: str | None = None


@dataclass(frozen=True, slots=True)
class _Tokenizer:
    name: str


@dataclass(frozen=True, slots=True)
class Earlier:
    """What run.json keeps of a run; ``settings`` are by key, redacted, None for those not set."""

    started: str
    plan: Plan
    settings: dict[str, object]
    tokenizer: _Tokenizer
    endpoint: _Endpoint
    prompts_hash: str | None = None
    versions: dict[str, object] = field(default_factory=dict)
    machine: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not today what it was then."""

    what: str
    then: str
    today: str


def recall(folder: Path) -> Earlier:
    """Read an earlier run. Raises DataError where its run.json does not tell all that is needed."""
    where = str(folder / MANIFEST)
    remedy = "name a run of this harness, such as artifacts/<run>"
    manifest = read_manifest(folder)
    if not manifest:
        what = "is empty" if (folder / MANIFEST).exists() else "is not there"
        raise DataError(where, f"{what}: nothing says how this run was made", remedy)
    schema = manifest.get("schema_version")
    if schema != SCHEMA_VERSION:
        found = "names no schema" if schema is None else f"is of schema {schema}"
        what = f"{found}, and {SCHEMA_VERSION} is needed to run it again"
        raise DataError(where, what, "run it anew with make profile")
    try:
        return msgspec.convert(manifest, Earlier)
    except msgspec.ValidationError as error:
        raise DataError(where, f"does not tell the whole run ({error})", remedy) from None


def settings_again(earlier: Earlier, environ: Mapping[str, str]) -> Settings:
    """Return the run's settings, outranked by what ``environ`` sets; the key is today's.

    Raises ConfigError with every problem found.
    """
    return configuration.from_environment(environ, _recorded(earlier))


def plan_again(earlier: Earlier, settings: Settings, prompts: PromptFile | None) -> Plan:
    """Return the run's own plan, seed included, or where its load was changed the new one.

    Raises UsageError where the changed settings contradict each other.
    """
    then, today = earlier.settings, configuration.redacted(settings)
    load = [entry.key for entry in configuration.table() if entry.group == "Load"]
    is_same = all(today[key] == then[key] for key in load if key in then)
    has_new_ceiling = settings.concurrency_is_set and earlier.plan.concurrency is None
    if is_same and not has_new_ceiling and not _has_other_prompts(earlier, settings):
        return earlier.plan
    if settings.random_seed is None:
        settings = replace(settings, random_seed=earlier.plan.seed)
    if not settings.concurrency_is_set and earlier.plan.concurrency is not None:
        settings = replace(settings, concurrency=earlier.plan.concurrency)
    # A changed cell of a sweep is none of that sweep's any more.
    mode: Mode = "warmup" if earlier.plan.mode == "warmup" else "profile"
    return make_plan(settings, mode, prompts=prompts)


def differences(earlier: Earlier, settings: Settings) -> Iterator[Difference]:
    """Yield what differs on this side: settings, prompts, versions, machine."""
    today = configuration.redacted(settings)
    for key, then in earlier.settings.items():
        if key not in TODAYS:
            yield from _difference(key, then, today.get(key))
    yield from _difference("prompts", earlier.prompts_hash, _hash_of(settings))
    yield from _each(earlier.versions, provenance.versions())
    yield from _each(earlier.machine, provenance.machine())


def differences_of_server(earlier: Earlier, target: Target) -> Iterator[Difference]:
    """Yield what differs on the other side: what the server says of itself, and the tokenizer."""
    then, today = earlier.endpoint, target.facts
    yield from _difference("server", then.server, today.server)
    yield from _difference("server's version", then.version, today.version)
    yield from _difference("models served", _ids(then.models), _ids(today.models))
    yield from _difference("tokenizer", earlier.tokenizer.name, target.tokenizer.name)


def difference_table(found: list[Difference]) -> Table:
    """Return the differences as people read them."""
    columns = tuple(Column(heading, "left") for heading in ("differs", "then", "today"))
    return Table(columns, tuple((each.what, each.then, each.today) for each in found))


def both_runs(then: Summary, today: Summary) -> Table:
    """Return the medians and rates of both runs side by side; one run each proves no difference."""
    columns = (Column("both runs", "left"), Column("then"), Column("today"), Column("", "left"))
    medians = [
        (f"{m.title} p50", *(number(s.latency(m).p50_ms, m.digits) for s in (then, today)), m.unit)
        for m in LATENCIES
    ]
    rates = [
        (m.title, *(number(s.rate(m), m.digits) for s in (then, today)), m.unit) for m in RATES
    ]
    return Table(columns, (*medians, *rates))


def _recorded(earlier: Earlier) -> dict[str, str]:
    """Return the settings as a person would write them, without what only was a default."""
    known = {entry.key for entry in configuration.table()}
    kept = {k: v for k, v in earlier.settings.items() if k in known and v is not None and v != []}
    if earlier.plan.concurrency is None:  # nobody set it, or an open loop would have a ceiling
        kept.pop("CONCURRENCY", None)
    return {key: _written(value) for key, value in kept.items()}


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, list):
        return ",".join(_written(each) for each in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _has_other_prompts(earlier: Earlier, settings: Settings) -> bool:
    if settings.input_file is None:
        return earlier.plan.n_prompts is None
    return _hash_of(settings) != earlier.prompts_hash


def _hash_of(settings: Settings) -> str | None:
    path = settings.input_file
    return provenance.content_hash(Path(path)) if path else None


def _each(then: Mapping[str, object], today: Mapping[str, object]) -> Iterator[Difference]:
    for name, value in then.items():
        yield from _difference(name.replace("_", " "), value, today.get(name))


def _difference(what: str, then: object, today: object) -> Iterator[Difference]:
    if then != today:
        yield Difference(what, _shown(then), _shown(today))


def _shown(value: object) -> str:
    if value is None or value == []:
        return _UNSET
    text = _written(value)
    if len(text) == 40 and text.isalnum():  # a commit
        text = text[:_COMMIT_CHARS]
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"


def _ids(models: object) -> list[str] | None:
    if not isinstance(models, tuple):
        return None
    return [model.id for model in models]
