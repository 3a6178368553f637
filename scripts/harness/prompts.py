"""Checks a prompt file before the run: AIPerf would ignore an unknown key without a word."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from harness.errors import ConfigError, UsageError
from harness.kinds import SET_BY_HARNESS, Json, read_json

_MEDIA = frozenset(["text", "texts", "image", "images", "audio", "audios", "video", "videos"])
_TURN = _MEDIA | frozenset(
    ["delay", "extra", "image_uuids", "output_length", "role", "session_id", "timestamp"]
)
#: The keys that AIPerf 0.13.0 reads, by CUSTOM_DATASET_TYPE; a test compares them with its models.
KNOWN: Mapping[str, frozenset[str]] = {
    "single_turn": _TURN | {"type"},
    "multi_turn": frozenset(("type", "session_id", "turns")),
    "random_pool": _MEDIA | {"type"},
    "mooncake_trace": frozenset(
        [
            "type",
            "delay",
            "extra",
            "hash_ids",
            "input_length",
            "messages",
            "output_length",
            "payload",
            "session_id",
            "text_input",
            "timestamp",
            "tools",
        ]
    ),
}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "text": (str,),
    "role": (str,),
    "session_id": (str,),
    "output_length": (int,),
    "timestamp": (int, float),
    "delay": (int, float),
    "extra": (dict,),
}
_MOONCAKE_PROMPTS = ("input_length", "text_input", "messages", "payload")
_MEANT = {"prompt": "text", "content": "text", "max_tokens": "output_length"}
_MOST_TOLD = 10
_BOM = "\ufeff"


def check_prompts(path: Path, kind: str) -> int:
    """Return how many prompts ``path`` holds, checked as AIPerf's data set type ``kind``.

    A random_pool may be a folder of files. Raises ConfigError with one line a problem (at most
    ten): not JSON at line N, a key that AIPerf would silently ignore, a value of the wrong type;
    UsageError for a file that is missing, empty or in another form as a whole.
    """
    if kind == "random_pool" and path.is_dir():
        return sum(_check_file(file, kind) for file in _files_of(path))
    return _check_file(path, kind)


def _files_of(folder: Path) -> list[Path]:
    """Return the files that AIPerf reads as pools: those directly in the folder."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise _unreadable(folder, error) from None
    if not files:
        remedy = "put files of one JSON object a line there (prompts/README.md)"
        raise UsageError(str(folder), "holds no prompt file", remedy)
    return files


def _check_file(path: Path, kind: str) -> int:
    n_prompts = 0
    problems: list[UsageError] = []
    for where, line in _lines(path):
        n_prompts += 1
        problems += [UsageError(where, what, remedy) for what, remedy in _wrong(line, kind)]
        if len(problems) >= _MOST_TOLD:
            break
    if problems:
        raise _array(path) or ConfigError(problems)
    if not n_prompts:
        raise UsageError(str(path), "is empty", "write one JSON object a line (prompts/README.md)")
    return n_prompts


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (file:line, text) for each line that is not blank."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if number == 1 and line.startswith(_BOM):
                    what = "starts with a byte order mark (BOM), which AIPerf cannot read"
                    raise UsageError(str(path), what, "save it as UTF-8 without BOM")
                if line.strip():
                    yield f"{path}:{number}", line
    except UnicodeDecodeError:
        raise UsageError(str(path), "is not UTF-8", "save it as UTF-8") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> UsageError:
    remedy = "check INPUT_FILE; see prompts/README.md for examples"
    return UsageError(str(path), f"cannot be read ({error.strerror})", remedy)


def _array(path: Path) -> UsageError | None:
    """Return what to say of a file that is one JSON array, which a line each would hide."""
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    try:
        is_array = text.startswith("[") and isinstance(read_json(text), list)
    except ValueError:
        return None
    remedy = "write one object a line"
    return UsageError(str(path), "is one JSON array", remedy) if is_array else None


def _wrong(line: str, kind: str) -> Iterator[tuple[str, str]]:
    """Yield (what, remedy) for each problem of one line."""
    try:
        row = read_json(line)
    except ValueError as error:
        yield f"is not JSON ({error})", "write one JSON object a line"
        return
    if not isinstance(row, dict):
        yield "is not a JSON object", 'write {"text": "…"}'
        return
    yield from _unknown(row, KNOWN[kind])
    yield from _wrong_values(row)
    if kind == "multi_turn":
        yield from _wrong_turns(row)
    elif kind == "mooncake_trace":
        yield from _no_prompt(row, _MOONCAKE_PROMPTS)
    else:
        yield from _no_prompt(row, _MEDIA)


def _wrong_turns(row: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns:
        yield 'holds no "turns"', 'write {"turns": [{"text": "…"}, …]}'
        return
    for turn in turns:
        if not isinstance(turn, dict):
            yield "holds a turn that is no object", 'write each turn as {"text": "…"}'
            continue
        yield from _unknown(turn, KNOWN["single_turn"])
        yield from _wrong_values(turn)
        yield from _no_prompt(turn, _MEDIA)


def _no_prompt(row: Mapping[str, Json], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    if not any(row.get(name) for name in names):
        yield "holds no prompt", "give one of " + ", ".join(sorted(names))


def _wrong_values(row: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    for name, types in _TYPES.items():
        value = row.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, types)):
            yield f'"{name}" is {json.dumps(value, ensure_ascii=False)}', f"give {_named(types)}"
    length = row.get("output_length")
    if isinstance(length, int) and length < 1:
        yield f'"output_length" is {length}', "give 1 or more"
    extra = row.get("extra")
    for name in sorted(SET_BY_HARNESS.intersection(extra if isinstance(extra, dict) else ())):
        yield f'"extra" holds "{name}", which the harness sets', "remove it"


def _unknown(row: Mapping[str, Json], known: frozenset[str]) -> Iterator[tuple[str, str]]:
    for name in sorted(set(row) - known):
        near = difflib.get_close_matches(name, known, n=1)
        meant = _MEANT.get(name) or (near[0] if near else None)
        remedy = f'did you mean "{meant}"?' if meant in known else "remove it (prompts/README.md)"
        yield f'AIPerf would ignore "{name}"', remedy


def _named(types: tuple[type, ...]) -> str:
    if str in types:
        return "text"
    return "an object" if dict in types else "a number"
