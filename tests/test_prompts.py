"""Prompt files: what AIPerf would misread without a word is told before the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError, UsageError
from harness.prompts import KNOWN, PromptFile, check_prompts

PROMPTS = Path(__file__).parent.parent / "prompts"


def file_of(folder: Path, text: str | bytes) -> Path:
    path = folder / "prompts.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems_of(path: Path, kind: str = "single_turn") -> list[str]:
    with pytest.raises(UsageError) as caught:
        check_prompts(path, kind)
    return caught.value.lines()


def test_japanese_prompts_are_ordinary_input(tmp_path: Path) -> None:
    text = '{"text": "富士山の高さは？", "output_length": 50}\n{"text": "東京の人口は？"}\n'
    assert check_prompts(file_of(tmp_path, text), "single_turn").n_requests == 2


def test_a_byte_order_mark_is_told_once_since_aiperf_cannot_read_it(tmp_path: Path) -> None:
    (line,) = problems_of(file_of(tmp_path, '\ufeff{"text": "a"}\n{bad\n'))
    assert "byte order mark" in line
    assert "without BOM" in line


def test_a_missing_file_is_told() -> None:
    assert "cannot be read (No such file" in problems_of(Path("none.jsonl"))[0]


@pytest.mark.parametrize("text", ["", "\n\n", "  \n"])
def test_an_empty_file_is_told(tmp_path: Path, text: str) -> None:
    assert "is empty" in problems_of(file_of(tmp_path, text))[0]


def test_a_file_in_another_encoding_is_told(tmp_path: Path) -> None:
    text = '{"text": "日本"}'.encode("shift_jis")
    assert "is not UTF-8" in problems_of(file_of(tmp_path, text))[0]


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    lines = problems_of(file_of(tmp_path, '{"text": "a"}\n{bad\n[1]\n"x"\n'))
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in lines] == ["2", "3", "4"]
    assert "is not JSON" in lines[0]


@pytest.mark.parametrize(
    "text", ['[{"text": "a"}, {"text": "b"}]', '\n[\n{"text": "a"},\n{"text": "b"}\n]\n']
)
def test_a_file_that_is_one_array_is_told_once(tmp_path: Path, text: str) -> None:
    (line,) = problems_of(file_of(tmp_path, text))
    assert line.endswith("is one JSON array; write one object a line")


def test_arrays_a_line_are_told_by_line(tmp_path: Path) -> None:
    lines = problems_of(file_of(tmp_path, "[1]\n[2]\n"))
    assert [line.split(": ")[1] for line in lines] == ['is not a JSON object; write {"text"'] * 2


@pytest.mark.parametrize("value", ["NaN", "-Infinity", '"\\ud83d"', "[" * 100_000])
def test_what_only_python_takes_for_json_is_told(tmp_path: Path, value: str) -> None:
    (line,) = problems_of(file_of(tmp_path, f'{{"text": "a", "extra": {{"x": {value}}}}}'))
    assert "is not JSON" in line


def test_a_whole_surrogate_pair_is_json(tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"text": "\\ud83d\\ude00"}')
    assert check_prompts(path, "single_turn").n_lines == 1


def test_a_random_pool_may_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    assert "holds no prompt file" in problems_of(tmp_path, "random_pool")[0]
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "c"}\n')
    assert check_prompts(tmp_path, "random_pool").n_requests == 3
    (tmp_path / "c.jsonl").write_text("")
    assert "c.jsonl: is empty" in problems_of(tmp_path, "random_pool")[0]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "a", "extra": {"stream": false}}', '"extra" holds "stream"'),
        ('{"text": "a", "max_tokens": 5}', '"max_tokens"; did you mean "output_length"?'),
        ('{"text": "a", "prompt": "b"}', '"prompt"; did you mean "text"?'),
        ('{"text": "a", "output_lenght": 5}', 'did you mean "output_length"?'),
        ('{"text": "a", "zzz": 5}', 'ignore "zzz"; remove it'),
        ('{"output_length": 5}', "holds no prompt"),
        ('{"text": ""}', "holds no prompt"),
        ('{"text": "a", "output_length": 0}', '"output_length" is 0; give 1 or more'),
        ('{"text": "a", "output_length": "5"}', '"output_length" is "5"; give a number'),
        ('{"text": "a", "output_length": true}', '"output_length" is true'),
        ('{"text": 5}', '"text" is 5; give text'),
        ('{"messages": [{"role": "user", "content": "a"}]}', 'ignore "messages"'),
    ],
)
def test_a_key_or_value_that_aiperf_would_misread_is_told(
    tmp_path: Path, line: str, told: str
) -> None:
    assert any(told in problem for problem in problems_of(file_of(tmp_path, line)))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "a"}', 'holds no "turns"'),
        ('{"turns": []}', 'holds no "turns"'),
        ('{"turns": ["a"]}', "a turn that is no object"),
        ('{"turns": [{"text": "a", "max_tokens": 5}]}', '"max_tokens"'),
        ('{"turns": [{"text": "a"}], "id": 5}', '"id"'),
    ],
)
def test_conversations_are_checked_turn_by_turn(tmp_path: Path, line: str, told: str) -> None:
    problems = problems_of(file_of(tmp_path, line), "multi_turn")
    assert any(told in problem for problem in problems)


def test_turns_are_requests_and_a_leading_system_turn_is_none(tmp_path: Path) -> None:
    text = (
        '{"session_id": "a", "turns": [{"role": "system", "text": "s"}, {"text": "a"}]}\n'
        '{"turns": [{"text": "b"}, {"text": "c"}, {"text": "d"}]}\n'
        '{"session_id": "a", "turns": [{"text": "e"}]}\n'
    )
    assert check_prompts(file_of(tmp_path, text), "multi_turn") == PromptFile(3, 5, 2, False)


def test_lines_that_share_a_session_are_one_conversation(tmp_path: Path) -> None:
    text = (
        '{"text": "a", "session_id": "x", "timestamp": 0}\n'
        '{"text": "b", "timestamp": 5}\n'
        '{"text": "c", "session_id": "x", "delay": 9}\n'
    )
    assert check_prompts(file_of(tmp_path, text), "single_turn") == PromptFile(3, 3, 2, True)


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ('{"text": "a", "delay": 5}', "single_turn", "first turn, which AIPerf would ignore"),
        ('{"turns": [{"text": "a", "delay": 5}]}', "multi_turn", "first turn, which AIPerf"),
        ('{"turns": [{"text": "a", "timestamp": 5}]}', "multi_turn", "share a session_id"),
        (
            '{"text": "a", "timestamp": 5}\n{"text": "b"}',
            "single_turn",
            'jsonl:2: has no "timestamp"',
        ),
    ],
)
def test_times_that_aiperf_would_not_keep_are_told(
    tmp_path: Path, text: str, kind: str, told: str
) -> None:
    (line,) = problems_of(file_of(tmp_path, text), kind)
    assert told in line


def test_at_most_ten_problems_are_told(tmp_path: Path) -> None:
    assert len(problems_of(file_of(tmp_path, "bad\n" * 100))) == 10


def test_the_examples_are_valid() -> None:
    assert check_prompts(PROMPTS / "trace.jsonl.example", "single_turn").n_lines > 1
    assert check_prompts(PROMPTS / "conversations.jsonl.example", "multi_turn").has_conversations


@pytest.mark.engine
def test_the_known_keys_are_those_of_aiperfs_own_models() -> None:
    from aiperf.dataset.loader.models import MooncakeTrace, MultiTurn, RandomPool, SingleTurn

    models = {
        "single_turn": SingleTurn,
        "multi_turn": MultiTurn,
        "random_pool": RandomPool,
        "mooncake_trace": MooncakeTrace,
    }
    assert {kind: frozenset(model.model_fields) for kind, model in models.items()} == KNOWN


def test_errors_come_as_one_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        check_prompts(file_of(tmp_path, "{bad\n"), "single_turn")
