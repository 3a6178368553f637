"""Cells of a sweep, their keys, and which earlier run can stand for a new one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cells import cell_key, finished, sweep_cells
from harness.endpoint import DIRECT, EndpointFacts, ServedModel
from harness.errors import UsageError
from harness.plan import make_plan
from harness.profiling import Target, key_of
from harness.settings import Settings
from harness.sweep import reusable
from harness.tokenizer import TokenizerChoice
from tests.exports import failed, used, write_aggregate, write_rows

TOKENIZER = TokenizerChoice("builtin", "fallback", "why", exact=False, server_counts=True)
FACTS = EndpointFacts((ServedModel("m", "org/m", 4096),), "1.0", "uvicorn")
TARGET = Target("http://lab", DIRECT, FACTS, TOKENIZER)
KEY = "sha256:1"
NAME = "sweep_1_ISL100_OSL200_CON1"


def settings(**changes: Any) -> Settings:
    return Settings(model="m", aiperf_url="http://lab", **changes)


def key(
    asked: Settings,
    tokenizer: TokenizerChoice = TOKENIZER,
    facts: EndpointFacts = FACTS,
    prompts: str | None = None,
    aiperf: str = "0.13.0",
    **environ: str,
) -> str:
    plan = make_plan(asked, "sweep", 5)
    return cell_key(asked, plan, tokenizer, facts, prompts, aiperf, environ)


class TestTheKey:
    """What can move a figure is in it, and nothing else."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"ui_type": "simple"},
            {"artifacts_dir": "elsewhere"},
            {"openai_api_key": "sk-1"},
            {"max_error_rate": 5.0},
            {"slo_ttft_p95_ms": 200.0},
            {"sweep_concurrencies": (5,)},
            {"aiperf_service_start_timeout": 90.0},
        ],
    )
    def test_stays_where_no_figure_can_move(self, changes: dict[str, Any]) -> None:
        assert key(settings(**changes)) == key(settings())

    @pytest.mark.parametrize(
        "changes",
        [
            {"output_tokens_mean": 10},
            {"input_tokens_stddev": 0},
            {"aiperf_url": "http://other"},
            {"request_timeout_seconds": 9.0},
            {"extra_inputs": {"ignore_eos": True}},
            {"connection_reuse": "never"},
            {"random_seed": 7},
            {"warmup_requests": 0},
            {"request_count": 100},
            {"reset_kv_cache": True},
            {"handed_on": {"AIPERF_HTTP_TRUST_ENV": "1"}},
        ],
    )
    def test_is_another_with_another_setting(self, changes: dict[str, Any]) -> None:
        assert key(replace(settings(), **changes)) != key(settings())

    def test_is_another_with_another_version_of_aiperf(self) -> None:
        assert key(settings(), aiperf="0.14.0") != key(settings())

    def test_is_another_once_the_server_or_the_model_is_another(self) -> None:
        newer = replace(FACTS, version="1.1")
        longer = replace(FACTS, models=(ServedModel("m", "org/m", 8192),))
        beside = replace(FACTS, models=(*(FACTS.models or ()), ServedModel("n")))
        assert len({key(settings(), facts=f) for f in (FACTS, newer, longer)}) == 3
        assert key(settings(), facts=beside) == key(settings())

    def test_is_another_with_another_tokenizer(self) -> None:
        assert key(settings(), replace(TOKENIZER, name="gpt2")) != key(settings())
        assert key(settings(), replace(TOKENIZER, why="another way")) == key(settings())

    def test_is_of_the_prompts_not_of_where_they_are(self) -> None:
        here, there = settings(input_file="a/p.jsonl"), settings(input_file="b/p.jsonl")
        assert key(here, prompts="sha256:a") == key(there, prompts="sha256:a")
        assert key(here, prompts="sha256:b") != key(here, prompts="sha256:a")

    def test_counts_aiperfs_own_variables_wherever_they_stand(self) -> None:
        in_file = settings(handed_on={"AIPERF_HTTP_TRUST_ENV": "1"})
        assert key(in_file) == key(settings(), AIPERF_HTTP_TRUST_ENV="1")
        assert key(settings(), AIPERF_SERVICE_START_TIMEOUT="9", HOME="/x") == key(settings())

    def test_does_not_depend_on_a_seed_that_nobody_set(self) -> None:
        assert key(settings()) == key(settings())
        assert make_plan(settings(), "sweep", 5).seed != make_plan(settings(), "sweep", 5).seed


class TestTheCells:
    """Every prompt length at every output length at every load."""

    def test_are_the_concurrencies_where_no_axis_is_set(self) -> None:
        cells = sweep_cells(settings(sweep_concurrencies=(1, 5)))
        assert [cell.plan.name for cell in cells] == [
            "sweep_1_ISL100_OSL200_CON1",
            "sweep_5_ISL100_OSL200_CON5",
        ]
        assert [cell.label for cell in cells] == ["CON=1", "CON=5"]

    def test_are_the_product_of_the_axes(self) -> None:
        asked = settings(
            sweep_input_tokens=(50, 500), sweep_output_tokens=(10, 20), sweep_concurrencies=(1, 5)
        )
        cells = sweep_cells(asked)
        assert len({cell.plan.name for cell in cells}) == 8
        assert cells[0].label == "ISL=50 OSL=10 CON=1"
        assert cells[-1].label == "ISL=500 OSL=20 CON=5"
        assert cells[-1].settings.input_tokens_mean == 500
        assert cells[-1].settings.output_tokens_mean == 20

    def test_are_rates_in_place_of_concurrencies(self) -> None:
        cells = sweep_cells(settings(sweep_request_rates=(0.5, 20.0)))
        assert [cell.plan.request_rate for cell in cells] == [0.5, 20.0]
        assert [cell.label for cell in cells] == ["RATE=0.5", "RATE=20"]
        assert len({cell.plan.name for cell in cells}) == 2

    def test_never_share_a_seed_and_keep_theirs(self) -> None:
        asked = settings(
            random_seed=7, sweep_input_tokens=(50, 500), sweep_request_rates=(1.0, 2.0)
        )
        seeds = [cell.plan.seed for cell in sweep_cells(asked)]
        assert len(set(seeds)) == 4
        assert [cell.plan.seed for cell in sweep_cells(asked)] == seeds

    def test_prompt_lengths_are_refused_where_a_file_holds_the_prompts(self) -> None:
        with pytest.raises(UsageError, match="SWEEP_INPUT_TOKENS"):
            sweep_cells(settings(input_file="p.jsonl", sweep_input_tokens=(50,)))


def leave(folder: Path, **changes: Any) -> None:
    """Write run.json as a run leaves it."""
    folder.mkdir(parents=True)
    verdict = {"level": changes.pop("level", "VALID"), "reasons": []}
    times = {"started": "2026-01-01T00:00:00Z", "ended": "2026-01-01T00:01:00Z"}
    document = {"cell_key": KEY, "verdict": verdict, **times, **changes}
    (folder / "run.json").write_text(json.dumps(document), encoding="utf-8")


class TestFinished:
    """Which earlier run can stand for a new one."""

    def test_is_the_run_of_that_name_and_key(self, tmp_path: Path) -> None:
        leave(tmp_path / NAME)
        found = finished(tmp_path, NAME, KEY)
        assert found is not None
        assert (found.folder, found.measured) == (tmp_path / NAME, "2026-01-01T00:01:00Z")

    @pytest.mark.parametrize(
        "changes",
        [{"cell_key": "sha256:2"}, {"ended": None}, {"verdict": None}],
    )
    def test_is_none_where_it_cannot_be_trusted(
        self, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        leave(tmp_path / NAME, **changes)
        assert finished(tmp_path, NAME, KEY) is None

    def test_is_none_where_nothing_was_run_or_run_json_is_broken(self, tmp_path: Path) -> None:
        assert finished(tmp_path, NAME, KEY) is None
        (tmp_path / NAME).mkdir()
        (tmp_path / NAME / "run.json").write_text("{")
        assert finished(tmp_path, NAME, KEY) is None

    @pytest.mark.parametrize("level", ["SUSPECT", "INVALID"])
    def test_is_a_run_of_any_verdict_for_that_is_given_anew(
        self, tmp_path: Path, level: str
    ) -> None:
        leave(tmp_path / NAME, level=level)
        assert finished(tmp_path, NAME, KEY) is not None

    def test_is_looked_for_in_the_archive_newest_first(self, tmp_path: Path) -> None:
        leave(tmp_path / NAME, cell_key="sha256:2")
        shelf = tmp_path / "archive" / NAME
        for day in ("01", "02"):
            leave(shelf / f"2026-01-{day}T00-00-00Z", ended=f"2026-01-{day}T00:01:00Z")
        leave(shelf / "2026-01-03T00-00-00Z.partial", level="INVALID")
        found = finished(tmp_path, NAME, KEY)
        assert found is not None
        assert found.folder.name == "2026-01-02T00-00-00Z"

    def test_is_never_one_behind_the_newest(self, tmp_path: Path) -> None:
        leave(tmp_path / NAME, level="INVALID")
        leave(tmp_path / "archive" / NAME / "2025-01-01T00-00-00Z")
        found = finished(tmp_path, NAME, KEY)
        assert found is not None
        assert found.folder == tmp_path / NAME

    @pytest.mark.parametrize(("started", "stands"), [("2025", True), ("2027", False)])
    def test_is_none_where_a_later_attempt_did_not_end(
        self, tmp_path: Path, started: str, stands: bool
    ) -> None:
        leave(tmp_path / NAME)
        leave(tmp_path / f"{NAME}.partial", started=f"{started}-01-01T00:00:00Z")
        assert (finished(tmp_path, NAME, KEY) is not None) is stands


class TestAnEarlierRunWithFailedRequests:
    """It is judged by the MAX_ERROR_RATE of today, not by that of its own day."""

    @pytest.fixture
    def asked(self, tmp_path: Path) -> Settings:
        """Return the settings of a run that is INVALID by them: 1 of 40 requests failed."""
        made = settings(artifacts_dir=str(tmp_path))
        plan = make_plan(made, "sweep", 5)
        key = key_of(made, plan, TARGET, {})
        folder = tmp_path / plan.name
        leave(folder, cell_key=key, level="INVALID")
        write_rows(folder, [used()] * 39 + [failed()])
        write_aggregate(folder, 39, 1)
        return made

    def test_is_measured_again(self, asked: Settings) -> None:
        assert reusable(asked, make_plan(asked, "sweep", 5), TARGET, {}) is None

    def test_is_reused_once_so_many_may_fail(self, asked: Settings) -> None:
        lenient = replace(asked, max_error_rate=5.0)
        point = reusable(lenient, make_plan(lenient, "sweep", 5), TARGET, {})
        assert point is not None
        assert point.reused
