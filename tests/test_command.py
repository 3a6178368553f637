"""AIPerf's argv and environment, held against AIPerf's own parser and settings."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.command import as_exported, as_typed, build_argv, build_environment, child_environment
from harness.plan import make_plan
from harness.prompts import PromptFile
from harness.settings import Settings
from harness.tokenizer import TokenizerChoice

CHOICE = TokenizerChoice("builtin", "fallback", "why", exact=False, server_counts=False)
URL = "http://lab:8000"


def argv_of(tokenizer: TokenizerChoice = CHOICE, **changes: Any) -> list[str]:
    settings = Settings(model=changes.pop("model", "m"), aiperf_url=URL, **changes)
    plan = make_plan(settings, "profile")
    return build_argv(settings, plan, tokenizer, URL, Path("artifacts", plan.name))


def value_after(flag: str, argv: list[str]) -> str:
    return argv[argv.index(flag) + 1]


def test_the_command_of_a_plain_profile() -> None:
    typed = as_typed(argv_of(random_seed=7))
    assert typed == (
        "aiperf profile \\\n  -m m \\\n  --url http://lab:8000 \\\n  --endpoint-type chat \\\n"
        "  --streaming \\\n  --ui-type none \\\n  --concurrency 10 \\\n  --request-count 30 \\\n"
        "  --warmup-request-count 10 \\\n  --request-timeout-seconds 300 \\\n"
        "  --output-tokens-mean 200 \\\n  --synthetic-input-tokens-mean 100 \\\n"
        "  --synthetic-input-tokens-stddev 20 \\\n  --num-dataset-entries 40 \\\n"
        "  --tokenizer builtin \\\n  --random-seed 7 \\\n"
        "  --artifact-dir artifacts/ISL100_OSL200_CON10"
    )


def test_no_warm_up_means_no_flag_since_aiperf_rejects_zero() -> None:
    assert "--warmup-request-count" not in argv_of(warmup_requests=0)


def test_a_prompt_file_replaces_the_synthetic_lengths() -> None:
    argv = argv_of(input_file="prompts/日本語.jsonl", custom_dataset_type="multi_turn")
    assert value_after("--input-file", argv) == "prompts/日本語.jsonl"
    assert value_after("--custom-dataset-type", argv) == "multi_turn"
    assert not [word for word in argv if word.startswith("--synthetic")]


def test_an_open_loop_has_no_ceiling_unless_it_is_set() -> None:
    argv = argv_of(request_rate=0.5, arrival_pattern="gamma", benchmark_duration=30.0)
    assert value_after("--request-rate", argv) == "0.5"
    assert value_after("--arrival-pattern", argv) == "gamma"
    assert value_after("--benchmark-duration", argv) == "30"
    assert value_after("--benchmark-grace-period", argv) == "300"  # none under way is cut
    assert not {"--concurrency", "--request-count"} & set(argv)
    limited = argv_of(request_rate=0.5, concurrency=20, concurrency_is_set=True)
    assert value_after("--concurrency", limited) == "20"


def test_more_servers_are_more_urls() -> None:
    argv = argv_of(more_urls=("http://b:1", "http://c:1"))
    urls = [argv[i + 1] for i, word in enumerate(argv) if word == "--url"]
    assert urls == [URL, "http://b:1", "http://c:1"]


@pytest.mark.parametrize(
    ("kind", "is_timed", "flags"),
    [
        ("single_turn", True, {"--fixed-schedule"}),
        ("single_turn", False, set()),
        ("mooncake_trace", True, {"--fixed-schedule"}),
        ("mooncake_trace", False, {"--no-fixed-schedule"}),
    ],
)
def test_whether_timestamps_are_followed_is_always_said(
    kind: str, is_timed: bool, flags: set[str]
) -> None:
    settings = Settings(model="m", aiperf_url=URL, input_file="t.jsonl", custom_dataset_type=kind)
    plan = make_plan(settings, "profile", prompts=PromptFile(9, 9, 9, is_timed))
    argv = build_argv(settings, plan, CHOICE, URL, Path("x"))
    assert {word for word in argv if "fixed-schedule" in word} == flags


def test_hostile_values_are_single_words() -> None:
    fields = {"stop": "$(touch /tmp/x)", "n": 1}
    argv = argv_of(model="a b;c", extra_inputs=fields)
    assert value_after("-m", argv) == "a b;c"
    assert json.loads(value_after("--extra-inputs", argv)) == fields
    assert shlex.split(as_typed(argv).replace("\\\n", " "))[1:] == argv


def test_settings_that_are_off_add_no_flag() -> None:
    for flag in (
        "--connection-reuse-strategy",
        "--use-server-token-count",
        "--use-legacy-max-tokens",
        "--reset-kv-cache",
    ):
        assert flag not in argv_of()
    argv = argv_of(
        TokenizerChoice("t", "fallback", "why", exact=False, server_counts=True),
        connection_reuse="never",
        use_legacy_max_tokens=True,
        reset_kv_cache=True,
    )
    assert value_after("--connection-reuse-strategy", argv) == "never"
    assert "--use-server-token-count" in argv
    assert "--use-legacy-max-tokens" in argv
    assert "--reset-kv-cache" in argv


def test_the_key_is_in_neither_argv_nor_environment() -> None:
    settings = Settings(model="m", aiperf_url=URL, openai_api_key="sesame")
    plan = make_plan(settings, "profile")
    exported = build_environment(settings, CHOICE)
    child = child_environment({"OPENAI_API_KEY": "sesame", "PATH": "/bin"}, exported, ())
    assert "sesame" not in str(build_argv(settings, plan, CHOICE, URL, Path("x")))
    assert "sesame" not in str(child)
    assert child["PATH"] == "/bin"


def test_a_long_tmpdir_is_replaced_since_sockets_would_not_fit() -> None:
    long = "/var/folders/" + "x" * 40
    assert child_environment({"TMPDIR": long}, {}, ())["TMPDIR"] == "/tmp"
    assert child_environment({"TMPDIR": "/tmp/y"}, {}, ())["TMPDIR"] == "/tmp/y"


def test_switches_that_a_local_tokenizer_cannot_bear_are_dropped() -> None:
    child = child_environment({"HF_HUB_OFFLINE": "1"}, {}, ("HF_HUB_OFFLINE",))
    assert "HF_HUB_OFFLINE" not in child


@pytest.mark.engine
def test_aiperfs_own_settings_have_the_time_outs() -> None:
    settings = Settings(
        model="m",
        aiperf_url=URL,
        aiperf_service_registration_timeout=111.0,
        aiperf_service_registration_interval=3.0,
        aiperf_service_registration_max_attempts=44,
        aiperf_service_start_timeout=55.0,
    )
    code = (
        "from aiperf.common.environment import Environment as E; s = E.SERVICE; "
        "print(s.REGISTRATION_TIMEOUT, s.REGISTRATION_INTERVAL, s.REGISTRATION_MAX_ATTEMPTS, "
        "s.START_TIMEOUT)"
    )
    environment = child_environment(os.environ, build_environment(settings, CHOICE), ())
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["111.0", "3.0", "44", "55.0"]
    assert environment["AIPERF_SERVICE__REGISTRATION_TIMEOUT"] == "111.0"


@pytest.mark.engine
def test_aiperf_accepts_every_flag_as_it_is_meant() -> None:
    argv = argv_of(
        TokenizerChoice("builtin", "fallback", "why", exact=False, server_counts=True),
        model="a b",
        extra_inputs={"stop": "$(x), y", "min_tokens": 50},
        connection_reuse="never",
        use_legacy_max_tokens=True,
        reset_kv_cache=True,
        random_seed=7,
    )
    code = (
        "import sys, json; from aiperf.cli_commands.profile import app\n"
        "_, bound, _ = app.parse_args(sys.argv[1:], exit_on_error=False)\n"
        "from aiperf.config.flags.resolver import resolve_config\n"
        "config = resolve_config(bound.arguments['cli_config'], None)\n"
        "print(config.model_dump_json())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text = done.stdout[done.stdout.index("{") :]
    for part in ('"a b"', '"$(x), y"', '"min_tokens":50', '"never"'):
        assert part in text, part


def test_exported_secrets_are_hidden_and_other_values_are_not() -> None:
    lines = as_exported(
        {
            "HF_TOKEN": "hf_abc",
            "AIPERF_API_KEY": "k",
            "TIKTOKEN_CACHE_DIR": "/data/bpe",
            "HTTPS_PROXY": "http://me:pw@proxy:3128",
            "HTTP_PROXY": "me:p@/w@proxy:3128",
        }
    ).splitlines()
    assert lines == [
        "export HF_TOKEN='***'",
        "export AIPERF_API_KEY='***'",
        "export TIKTOKEN_CACHE_DIR=/data/bpe",
        "export HTTPS_PROXY='http://***@proxy:3128'",
        "export HTTP_PROXY='***@proxy:3128'",
    ]
