"""Terms: what a run asked for and what it is held to, from run.json and the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import msgspec

from harness.records import Facts
from harness.settings import Settings
from harness.verdict import Asked, Limits

#: The settings that are limits of the verdict.
LIMIT_KEYS = tuple(f.name.removesuffix("_pct").upper() for f in fields(Limits))
_VARIED = ("multi_turn", "mooncake_trace")
_FORCING = ("ignore_eos", "min_tokens")


class _Plan(msgspec.Struct):
    concurrency: int | None = None
    request_rate: float | None = None
    n_conversations: int | None = None
    follows_timestamps: bool = False

    @property
    def is_open(self) -> bool:
        return self.request_rate is not None or self.follows_timestamps


class _Tokenizer(msgspec.Struct):
    name: str = ""
    exact: bool = True
    server_counts: bool = False


class _Settings(msgspec.Struct, rename="upper"):
    input_file: str | None = None
    custom_dataset_type: str = "single_turn"
    output_tokens_mean: int | None = None
    extra_inputs: dict[str, object] | None = None


class _Manifest(msgspec.Struct):
    plan: _Plan = msgspec.field(default_factory=_Plan)
    tokenizer: _Tokenizer = msgspec.field(default_factory=_Tokenizer)
    settings: _Settings = msgspec.field(default_factory=_Settings)


def limits_of(settings: Settings, outranking: Mapping[str, object] | None = None) -> Limits:
    """Return the limits of the settings, or those that ``outranking`` has by the settings' keys."""
    given = outranking or {}
    chosen = {key: given.get(key) for key in LIMIT_KEYS}
    return Limits(
        *(
            float(value) if isinstance(value, int | float) else getattr(settings, key.lower())
            for key, value in chosen.items()
        )
    )


def asked_of(manifest: Mapping[str, object], facts: Facts | None = None) -> Asked:
    """Return what a run asked for: from run.json, else what AIPerf's ``facts`` say of it.

    A run.json of another schema tells nothing; the figures do not depend on it.
    """
    if not manifest:
        return _asked_of_facts(facts)
    try:
        told = msgspec.convert(manifest, _Manifest)
    except msgspec.ValidationError:
        return _asked_of_facts(facts)
    if not told.plan.concurrency and not told.plan.is_open:
        return _asked_of_facts(facts)
    is_stand_in = not (told.tokenizer.exact or told.tokenizer.server_counts)
    return Asked(
        concurrency=None if told.plan.is_open else told.plan.concurrency,
        request_rate=told.plan.request_rate,
        output_tokens=told.settings.output_tokens_mean,
        forces_length=any((told.settings.extra_inputs or {}).get(key) for key in _FORCING),
        stand_in=told.tokenizer.name if is_stand_in else "",
        server_counts=told.tokenizer.server_counts,
        is_uniform=_is_uniform(told),
    )


def _is_uniform(told: _Manifest) -> bool:
    """Tell whether every request is drawn alike: no conversations, no trace."""
    if told.plan.n_conversations or told.plan.follows_timestamps:
        return False
    return not told.settings.input_file or told.settings.custom_dataset_type not in _VARIED


def _asked_of_facts(facts: Facts | None) -> Asked:
    is_closed = facts is not None and not facts.is_open_loop
    return Asked(concurrency=facts.concurrency if facts and is_closed else None)
