"""An earlier run again: what is recalled, what outranks it, and what is told to differ."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.endpoint import Access, EndpointFacts, ServedModel
from harness.errors import ConfigError, DataError
from harness.plan import make_plan
from harness.profiling import Target
from harness.rerun import (
    Earlier,
    differences,
    differences_of_server,
    plan_again,
    recall,
    settings_again,
)
from harness.runs import write_manifest
from harness.settings import Settings, redacted
from harness.tokenizer import TokenizerChoice
from tests.servers import simulator

ROOT = Path(__file__).parent.parent
RICH = Settings(
    model="a b",
    aiperf_url="http://lab:8000",
    more_urls=("http://lab:8001", "http://lab:8002"),
    connection_reuse="never",
    concurrency=4,
    request_count=9,
    input_tokens_stddev=0,
    extra_inputs={"stop": ["$(x)", "、"], "ignore_eos": True, "n": 1},
    max_error_rate=2.5,
    sweep_concurrencies=(1, 2),
    slo_ttft_p95_ms=0.125,
    use_legacy_max_tokens=True,
)


def earlier_run(folder: Path, settings: Settings, **changes: Any) -> Earlier:
    folder.mkdir(exist_ok=True)
    manifest: dict[str, object] = {
        "started": "2026-01-02T03:04:05Z",
        "plan": dataclasses.asdict(make_plan(settings, "profile")),
        "settings": redacted(settings),
        "tokenizer": {"name": "builtin", "source": "fallback"},
        "endpoint": {"url": settings.base, "models": [{"id": "m", "root": None}], "version": "1"},
        "versions": {"python": "3.12.1", "harness_commit": "0" * 40},
    }
    write_manifest(folder, manifest | changes)
    return recall(folder)


def again(folder: Path, earlier: Earlier, env_file: str = "", **environ: str) -> Settings:
    (folder / ".env").write_text(env_file)
    return settings_again(earlier, {"ENV_FILE": str(folder / ".env"), **environ})


def test_every_kind_of_setting_comes_back_as_it_was(tmp_path: Path) -> None:
    earlier = earlier_run(tmp_path / "run", RICH)
    assert redacted(again(tmp_path, earlier)) == redacted(RICH)
    assert plan_again(earlier, again(tmp_path, earlier), None) == earlier.plan


def test_what_is_typed_outranks_the_run_and_makes_another_plan_with_its_seed(
    tmp_path: Path,
) -> None:
    earlier = earlier_run(tmp_path / "run", RICH)
    settings = again(tmp_path, earlier, CONCURRENCY="2", AIPERF_URL="http://new")
    plan = plan_again(earlier, settings, None)
    assert (plan.concurrency, plan.n_requests, plan.seed) == (2, 9, earlier.plan.seed)
    told = {each.what: (each.then, each.today) for each in differences(earlier, settings)}
    assert told["CONCURRENCY"] == ("4", "2")
    assert told["AIPERF_URL"] == ("http://lab:8000", "http://new")
    assert told["harness commit"][0] == "000000000000"
    assert "EXTRA_INPUTS" not in told


def test_the_env_file_is_left_aside_and_that_is_said(tmp_path: Path) -> None:
    earlier = earlier_run(tmp_path / "run", RICH)
    file = "MODEL=other\nCONCURRENCY=4\nAIPERF_URL=lab:8000/v1\nARTIFACTS_DIR=elsewhere\n"
    settings = again(tmp_path, earlier, file)
    assert (settings.model, settings.artifacts_dir) == ("a b", "elsewhere")
    (notice,) = settings.notices
    assert notice.startswith(".env is not followed in MODEL: ")


@pytest.mark.parametrize(
    ("file", "sent"),
    [
        ("AIPERF_URL=lab:8000\nMORE_URLS=lab:8002,lab:8001\nOPENAI_API_KEY=k\n", "k"),
        ("AIPERF_URL=lab:8000\nOPENAI_API_KEY=k\n", None),  # the others are not its servers
        ("AIPERF_URL=http://other\nOPENAI_API_KEY=k\n", None),
        ("OPENAI_API_KEY=k\n", None),  # of the OpenAI API
    ],
)
def test_a_key_is_sent_only_to_the_servers_that_its_file_names(
    tmp_path: Path, file: str, sent: str | None
) -> None:
    earlier = earlier_run(tmp_path / "run", dataclasses.replace(RICH, openai_api_key="then"))
    settings = again(tmp_path, earlier, file)
    assert settings.openai_api_key == sent
    assert any("is not sent" in notice for notice in settings.notices) == (sent is None)
    told = [each.what for each in differences(earlier, settings)]
    assert ("OPENAI_API_KEY" in told) == (sent is None)


def test_a_run_json_cannot_make_a_paid_key_go_to_its_server(tmp_path: Path) -> None:
    recorded = dataclasses.replace(RICH, openai_api_key="then", allow_env_key=True)
    earlier = earlier_run(tmp_path / "run", recorded)
    assert again(tmp_path, earlier, OPENAI_API_KEY="sk-paid").openai_api_key is None


@pytest.mark.parametrize(
    ("file", "shell"),
    [
        ("AIPERF_URL=http://other\nALLOW_ENV_KEY=1\n", "sk-paid"),
        ("AIPERF_URL=http://other\nOPENAI_API_KEY=\n", "paid"),
    ],
)
def test_leave_to_send_a_key_is_for_the_servers_of_its_file(
    tmp_path: Path, file: str, shell: str
) -> None:
    earlier = earlier_run(tmp_path / "run", RICH)
    assert again(tmp_path, earlier, file, OPENAI_API_KEY=shell).openai_api_key is None


def test_a_run_of_the_openai_api_needs_todays_key(tmp_path: Path) -> None:
    recorded = Settings(model="m", openai_api_key="then")
    earlier = earlier_run(tmp_path / "run", recorded)
    with pytest.raises(ConfigError, match="is needed for the OpenAI API"):
        again(tmp_path, earlier)
    assert again(tmp_path, earlier, OPENAI_API_KEY="sk-now").openai_api_key == "sk-now"


def test_an_open_loop_gets_no_ceiling_unless_one_is_typed(tmp_path: Path) -> None:
    recorded = Settings(model="m", aiperf_url="http://lab", request_rate=5.0)
    earlier = earlier_run(tmp_path / "run", recorded)
    assert plan_again(earlier, again(tmp_path, earlier), None).concurrency is None
    limited = again(tmp_path, earlier, CONCURRENCY="10")
    assert plan_again(earlier, limited, None).name == "ISL100_OSL200_RATE5_CON10"


def test_a_changed_prompt_file_is_told(tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"text": "a"}\n')
    recorded = dataclasses.replace(RICH, input_file=str(prompts))
    earlier = earlier_run(tmp_path / "run", recorded, prompts_hash="sha256:00")
    told = {each.what: each for each in differences(earlier, again(tmp_path, earlier))}
    assert told["prompts"].then == "sha256:00"
    assert told["prompts"].today.startswith("sha256:")


def test_what_the_server_says_otherwise_is_told(tmp_path: Path) -> None:
    earlier = earlier_run(tmp_path / "run", RICH)
    choice = TokenizerChoice("builtin", "fallback", "why", exact=False, server_counts=True)
    facts = EndpointFacts((ServedModel("m"), ServedModel("n")), "2", None)
    found = differences_of_server(earlier, Target("http://lab:8000", Access(), facts, choice))
    told = {each.what: (each.then, each.today) for each in found}
    assert told == {"server's version": ("1", "2"), "models served": ("m", "m,n")}


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        (None, "is not there: nothing says how this run was made"),
        ({"schema_version": 0}, "is of schema 0, and 1 is needed"),
        ({"schema_version": 1, "started": "x"}, "does not tell the whole run"),
    ],
)
def test_what_cannot_be_run_again_is_told_in_one_line(
    tmp_path: Path, manifest: object, told: str
) -> None:
    if manifest is not None:
        (tmp_path / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError) as caught:
        recall(tmp_path)
    assert told in str(caught.value)


def run(folder: Path, verb: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a verb in an environment in which nothing of the machine's own settings counts."""
    (folder / ".env").touch()
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    here = {"ARTIFACTS_DIR": str(folder / "artifacts"), "ENV_FILE": str(folder / ".env")}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / verb), *words],
        cwd=folder,
        env={**kept, **here, **environ},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.engine
def test_the_latest_run_again_shows_both_and_a_server_that_is_gone_is_told(
    tmp_path: Path,
) -> None:
    load = {"OUTPUT_TOKENS_MEAN": "5", "CONCURRENCY": "2", "REQUEST_COUNT": "6"}
    with simulator("--model", "sim", "--ttft-ms", "10", "--itl-ms", "2") as server:
        first = run(
            tmp_path, "run_profile.py", "profile", MODEL="sim", AIPERF_URL=server.url, **load
        )
        assert first.returncode == 0, first.stderr
        done = run(tmp_path, "rerun.py")
        assert done.returncode == 0, done.stderr
        assert "Nothing that is recorded differs." in done.stderr
        assert "the same seed makes the same prompts" in done.stderr
        assert "both runs" in done.stdout
    (archived,) = (tmp_path / "artifacts/archive/ISL100_OSL5_CON2").iterdir()
    plans = [
        json.loads((folder / "run.json").read_text())["plan"]
        for folder in (archived, tmp_path / "artifacts/ISL100_OSL5_CON2")
    ]
    assert plans[0] == plans[1]
    gone = run(tmp_path, "rerun.py", OUTPUT_TOKENS_MEAN="7")
    assert gone.returncode == 3
    assert "OUTPUT_TOKENS_MEAN  5     7" in gone.stderr
    assert "connection refused" in gone.stderr
    assert "set AIPERF_URL" in gone.stderr
