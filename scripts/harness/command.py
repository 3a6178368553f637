"""Settings and plan become AIPerf's argv and environment. The only room that knows its flags.

Neither holds the key: `harness.launch` adds it inside the process that runs AIPerf.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from harness.plan import Plan
from harness.settings import Settings
from harness.tokenizer import TokenizerChoice

# ZMQ socket paths lie under TMPDIR and must fit into a Unix socket address: 104 bytes on macOS.
_LONGEST_TMPDIR = 49
_LOGIN = re.compile(r"((?:^|\s)(?:[\w+.-]+://)?)\S*@")  # up to the last @: passwords hold some
_SECRET_NAME = re.compile("(^|_)(TOKEN|KEY|SECRET|PASSWORD)S?(_|$)")


def build_argv(
    settings: Settings, plan: Plan, tokenizer: TokenizerChoice, url: str, folder: Path
) -> list[str]:
    """Return the arguments after ``aiperf``, with files of the run to be written to ``folder``."""
    argv = ["profile", "-m", settings.model]
    for one in (url, *settings.more_urls):  # AIPerf sends to them in turn
        argv += ["--url", one]
    argv += ["--endpoint-type", "chat", "--streaming", "--ui-type", settings.ui_type or "none"]
    argv += _load(settings, plan)
    argv += _prompts(settings, plan)
    argv += ["--tokenizer", tokenizer.name]
    if tokenizer.server_counts:
        argv += ["--use-server-token-count"]
    if settings.use_legacy_max_tokens:
        argv += ["--use-legacy-max-tokens"]
    if goodput := _goodput(settings):
        argv += ["--goodput", goodput]
    if settings.extra_inputs:
        argv += ["--extra-inputs", json.dumps(settings.extra_inputs, ensure_ascii=False)]
    if settings.connection_reuse != "pooled":
        argv += ["--connection-reuse-strategy", settings.connection_reuse]
    if settings.reset_kv_cache:
        argv += ["--reset-kv-cache"]
    return [*argv, "--random-seed", str(plan.seed), "--artifact-dir", str(folder)]


def build_search_argv(
    settings: Settings, plan: Plan, tokenizer: TokenizerChoice, url: str, folder: Path
) -> list[str]:
    """Return the arguments of AIPerf's own search for the highest concurrency within the SLOs.

    ``plan`` has the length of a probe (s) and the highest concurrency. AIPerf takes no error rate
    of 0 or 100 %: such a one is left out.
    """
    argv = build_argv(settings, replace(plan, concurrency=None), tokenizer, url, folder)
    argv += ["--search-recipe", "max-concurrency-under-sla"]
    argv += ["--concurrency-max", str(plan.concurrency)]
    share = (settings.slo_error_rate_pct or 0) / 100
    limits = {
        "--ttft-sla-ms": settings.slo_ttft_p95_ms,
        "--itl-sla-ms": settings.slo_itl_p95_ms,
        "--e2e-sla-ms": settings.slo_latency_p99_ms,
        "--error-rate-sla": share if 0 < share < 1 else None,
    }
    for flag, limit in limits.items():
        if limit is not None:
            argv += [flag, f"{limit:.15g}"]
    return argv


def build_environment(settings: Settings, tokenizer: TokenizerChoice) -> dict[str, str]:
    """Return the variables to export to AIPerf.

    The service time-outs are written as AIPerf reads them (AIPERF_SERVICE_…) and once more with a
    double underscore, which older set-ups were told to use.
    """
    timeouts = {
        "REGISTRATION_TIMEOUT": settings.aiperf_service_registration_timeout,
        "REGISTRATION_INTERVAL": settings.aiperf_service_registration_interval,
        "REGISTRATION_MAX_ATTEMPTS": settings.aiperf_service_registration_max_attempts,
        "START_TIMEOUT": settings.aiperf_service_start_timeout,
    }
    exported = {f"AIPERF_SERVICE_{name}": str(value) for name, value in timeouts.items()}
    exported |= {f"AIPERF_SERVICE__{name}": str(value) for name, value in timeouts.items()}
    exported |= dict(settings.handed_on) | dict(tokenizer.environment)
    return {k: v for k, v in exported.items() if k not in tokenizer.dropped}


def child_environment(
    environ: Mapping[str, str], exported: Mapping[str, str], dropped: tuple[str, ...]
) -> dict[str, str]:
    """Return the whole environment of AIPerf's process: never the key, and a TMPDIR that fits."""
    kept = {k: v for k, v in environ.items() if k != "OPENAI_API_KEY"}
    if len(kept.get("TMPDIR", "")) > _LONGEST_TMPDIR:
        kept["TMPDIR"] = "/tmp"
    return {k: v for k, v in (kept | dict(exported)).items() if k not in dropped}


def as_exported(exported: Mapping[str, str]) -> str:
    """Write the variables as a person would export them; tokens and passwords are hidden."""
    lines = []
    for name, value in exported.items():
        shown = "***" if _SECRET_NAME.search(name) else _LOGIN.sub(r"\1***@", value)
        lines.append(f"export {name}={shlex.quote(shown)}\n")
    return "".join(lines)


def as_typed(argv: list[str]) -> str:
    """Write the command as a person would type it, one flag a line, quoted for the shell."""
    lines = [f"aiperf {shlex.quote(argv[0])}"]
    for word in argv[1:]:
        if word.startswith("-"):
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join(lines)


def _goodput(settings: Settings) -> str:
    """Return the objectives that hold for a request by itself, as AIPerf's goodput counts them."""
    limits = {
        "time_to_first_token": settings.slo_ttft_p95_ms,
        "inter_token_latency": settings.slo_itl_p95_ms,
        "request_latency": settings.slo_latency_p99_ms,
    }
    return " ".join(f"{tag}:{ms:.15g}" for tag, ms in limits.items() if ms is not None)


def _load(settings: Settings, plan: Plan) -> list[str]:
    flags = {
        "--request-rate": plan.request_rate,
        "--arrival-pattern": plan.arrival_pattern,
        "--concurrency": plan.concurrency,
        "--request-count": plan.n_requests,
        "--num-conversations": plan.n_conversations,
        "--benchmark-duration": plan.duration_s,
        # Requests under way at the end are waited for: to cut the slow ones would flatter.
        "--benchmark-grace-period": plan.duration_s and settings.request_timeout_seconds,
        "--warmup-request-count": plan.n_warmup or None,  # AIPerf rejects 0
        "--request-timeout-seconds": settings.request_timeout_seconds,
    }
    argv = []
    for flag, value in flags.items():
        if value is not None:
            argv += [flag, f"{value:.15g}" if isinstance(value, float) else str(value)]
    return argv


def _prompts(settings: Settings, plan: Plan) -> list[str]:
    argv = ["--output-tokens-mean", str(settings.output_tokens_mean)]
    if settings.input_file:
        kind = settings.custom_dataset_type
        argv += ["--input-file", settings.input_file, "--custom-dataset-type", kind]
        return [*argv, *_schedule(plan, kind)]
    return [
        *argv,
        *("--synthetic-input-tokens-mean", str(settings.input_tokens_mean)),
        *("--synthetic-input-tokens-stddev", str(settings.input_tokens_stddev)),
        # One prompt a request, warm-up included: a prompt sent twice would hit the prefix cache.
        *("--num-dataset-entries", str(plan.n_prompts)),
    ]


def _schedule(plan: Plan, kind: str) -> list[str]:
    """AIPerf follows the timestamps of a trace unasked, and those of other types only if asked."""
    if plan.follows_timestamps:
        return ["--fixed-schedule"]
    return ["--no-fixed-schedule"] if kind == "mooncake_trace" else []
