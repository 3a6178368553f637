"""Checks a prompt file before the run: AIPerf would ignore an unknown key without a word."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class PromptFile:
    """What a prompt file holds.

    Requests are turns: a conversation of several is sent one after the other. ``is_timed``: each
    conversation has the time at which it begins.
    """

    n_lines: int
    n_requests: int
    n_conversations: int
    is_timed: bool

    @property
    def has_conversations(self) -> bool:
        """Whether any conversation has more than one turn."""
        return self.n_requests > self.n_conversations


def told(prompts: PromptFile) -> str:
    """Say what the file holds, such as ``6 in 3 conversations, with timestamps``."""
    parts = [f"{prompts.n_requests}"]
    if prompts.has_conversations:
        parts[0] += f" in {prompts.n_conversations} conversations"
    if prompts.is_timed:
        parts.append("with timestamps")
    return ", ".join(parts)


def check_prompts(path: Path, kind: str) -> PromptFile:
    """Return what ``path`` holds, checked as AIPerf's data set type ``kind``.

    A random_pool may be a folder of files. Raises ConfigError with one line a problem (at most
    ten): not JSON at line N, a key that AIPerf would silently ignore, a value of the wrong type;
    UsageError for a file that is missing, empty or in another form as a whole.
    """
    if kind == "random_pool" and path.is_dir():
        n = sum(_check_file(file, kind).n_lines for file in _files_of(path))
        return PromptFile(n, n, n, is_timed=False)
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


def _check_file(path: Path, kind: str) -> PromptFile:
    tally = _Tally(kind)
    problems: list[UsageError] = []
    for where, line in _lines(path):
        problems += [UsageError(where, what, remedy) for what, remedy in tally.add(where, line)]
        if len(problems) >= _MOST_TOLD:
            break
    if problems:
        raise _array(path) or ConfigError(problems)
    if not tally.n_lines:
        raise UsageError(str(path), "is empty", "write one JSON object a line (prompts/README.md)")
    if tally.n_timed and tally.untimed:
        what = 'has no "timestamp", while the first lines of other conversations have one'
        raise UsageError(tally.untimed, what, "give it one, or take all of them out")
    n_conversations = len(tally.sessions) + tally.n_alone
    return PromptFile(tally.n_lines, tally.n_requests, n_conversations, bool(tally.n_timed))


@dataclass(slots=True)
class _Tally:
    """Checks and counts lines as they are read."""

    kind: str
    n_lines: int = 0
    n_requests: int = 0
    n_alone: int = 0  # conversations without a session_id
    n_timed: int = 0  # conversations whose first turn has a timestamp
    untimed: str = ""  # where the first conversation without one begins
    sessions: set[str] = field(default_factory=set)

    def add(self, where: str, line: str) -> Iterator[tuple[str, str]]:
        """Count one line and yield (what, remedy) for each problem of it."""
        self.n_lines += 1
        try:
            row = read_json(line)
        except ValueError as error:
            yield f"is not JSON ({error})", "write one JSON object a line"
            return
        if not isinstance(row, dict):
            yield "is not a JSON object", 'write {"text": "…"}'
            return
        problems = list(_wrong(row, self.kind))
        yield from problems or self._count(where, row)

    def _count(self, where: str, row: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
        session = row.get("session_id")
        begins = session is None or session not in self.sessions
        if isinstance(session, str):
            self.sessions.add(session)
        else:
            self.n_alone += 1
        if self.kind == "multi_turn":
            turns = row["turns"]
            assert isinstance(turns, list)
            yield from self._count_turns(turns, begins=begins)
        else:
            self.n_requests += 1
            if begins:
                yield from _ignored_delay(row)
                self._note_time(where, row)

    def _count_turns(self, turns: list[Json], *, begins: bool) -> Iterator[tuple[str, str]]:
        objects = [turn for turn in turns if isinstance(turn, dict)]
        # AIPerf sends a leading system turn along with each of the others, not by itself
        roles = [turn.get("role") for turn in objects[:2]]
        self.n_requests += len(objects) - (begins and roles[:1] == ["system"] != roles[1:])
        if any(turn.get("timestamp") is not None for turn in objects):
            remedy = "write single_turn lines that share a session_id"
            yield 'holds a "timestamp" in a turn, which AIPerf does not follow', remedy
        if begins:
            yield from _ignored_delay(objects[0])

    def _note_time(self, where: str, row: Mapping[str, Json]) -> None:
        if row.get("timestamp") is not None:
            self.n_timed += 1
        elif not self.untimed:
            self.untimed = where


def _ignored_delay(first: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """AIPerf waits between the turns of a conversation, never before the first."""
    if first.get("delay"):
        what = 'holds a "delay" before a conversation\'s first turn, which AIPerf would ignore'
        yield what, 'use "timestamp" (prompts/README.md), or remove it'


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


def _wrong(row: Mapping[str, Json], kind: str) -> Iterator[tuple[str, str]]:
    """Yield (what, remedy) for each problem of one line."""
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
