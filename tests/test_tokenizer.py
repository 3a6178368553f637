"""Tokenizer: the choice, its reason, and that nothing waits for a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from harness.errors import UsageError
from harness.settings import Settings
from harness.tokenizer import TIKTOKEN_FILES, TokenizerChoice, choose, hugging_face, offline_files

Place = Literal["cache", "hub"] | None


def known(*names: str, place: Place = "hub") -> Callable[[str], Place]:
    return lambda name: place if name in names else None


NOTHING = known()


def no_usage() -> bool:
    raise AssertionError("the server was asked for usage although a tokenizer was found")


def choice(
    resolve: Callable[[str], Place] = NOTHING,
    roots: Mapping[str, str | None] | None = None,
    usage: Callable[[], bool] = no_usage,
    data: Path | None = None,
    **changes: Any,
) -> TokenizerChoice:
    changes = {"model": "m", "aiperf_url": "http://lab", **changes}
    return choose(Settings(**changes), roots or {}, resolve, usage, data)


def test_what_tokenizer_names_comes_first() -> None:
    made = choice(known("org/own", "m"), tokenizer="org/own")
    assert (made.name, made.source, made.exact) == ("org/own", "TOKENIZER", True)


def test_a_local_folder_is_used_without_the_offline_switches(tmp_path: Path) -> None:
    made = choice(tokenizer=str(tmp_path))
    assert made.name == str(tmp_path)
    assert "HF_HUB_OFFLINE" in made.dropped


def test_a_tokenizer_that_cannot_be_loaded_is_refused() -> None:
    with pytest.raises(UsageError, match="TOKENIZER: 'org/none'"):
        choice(tokenizer="org/none")


def test_openai_models_have_their_own_encoding() -> None:
    made = choice(model="gpt-4o-mini", aiperf_url=None)
    assert (made.name, made.source, made.exact) == ("o200k_base", "OpenAI", True)
    assert choice(model="gpt-4", aiperf_url=None).name == "cl100k_base"


def test_an_openai_model_unknown_to_tiktoken_gets_gpt2() -> None:
    made = choice(known("gpt2"), model="brand-new", aiperf_url=None)
    assert (made.name, made.exact) == ("gpt2", False)


def test_a_custom_servers_model_is_its_own_tokenizer_where_it_resolves() -> None:
    assert choice(known("m")).source == "model"


def test_a_cached_tokenizer_asks_no_network() -> None:
    assert choice(known("m", place="cache")).environment == {"HF_HUB_OFFLINE": "1"}


def test_a_served_alias_resolves_through_its_root() -> None:
    made = choice(known("org/base"), roots={"m": "org/base"})
    assert (made.name, made.source) == ("org/base", "root")
    assert "org/base" in made.why


def test_the_fallback_lets_the_server_count_where_it_does() -> None:
    made = choice(usage=lambda: True)
    assert (made.name, made.exact, made.server_counts) == ("builtin", False, True)
    assert "counted by the server" in made.why


def test_the_fallback_is_approximate_where_the_server_does_not_count() -> None:
    made = choice(usage=lambda: False)
    assert not made.server_counts
    assert "approximate" in made.why


def test_server_counts_can_be_forced_or_forbidden() -> None:
    assert choice(known("m"), use_server_token_count="1").server_counts
    assert not choice(use_server_token_count="0").server_counts


def test_bpe_files_on_disk_are_used() -> None:
    folder = offline_files()
    assert folder is not None, "the litellm wheel of requirements-data.txt is not installed"
    made = choice(usage=lambda: False, data=folder)
    assert made.environment == {"TIKTOKEN_CACHE_DIR": str(folder)}
    assert all((folder / file).is_file() for file in TIKTOKEN_FILES.values())


def test_the_hubs_cache_is_read_where_hf_home_says(tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--org--model"
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    resolve = hugging_face({"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert resolve("org/model") is None
    (snapshot / "tokenizer.json").write_text("{}")
    assert resolve("org/model") == "cache"


@pytest.mark.parametrize("name", ["a b", "../etc", "x/y/z", "日本語", "a;b", ""])
def test_what_is_no_hub_name_is_not_looked_up(name: str) -> None:
    hub = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": "/nonexistent"}
    assert hugging_face(hub)(name) is None


def test_a_hub_that_cannot_be_reached_costs_seconds_at_most(tmp_path: Path) -> None:
    hub = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path)}
    started_s = time.monotonic()
    assert hugging_face(hub)("org/model") is None
    assert time.monotonic() - started_s < 10
