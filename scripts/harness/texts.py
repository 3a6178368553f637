"""Texts from outside: freed of the key, put on one line, read out of the bodies of errors."""

from __future__ import annotations

import html
import json
import mmap
import re
from pathlib import Path
from urllib.parse import quote, quote_plus

_SAID_CHARS = 240
_SHORT_KEY_CHARS = 6
_STARRED = re.compile(r"([\w.-]{0,80})(?:\*{2,}|…|\.{3,})([\w.-]{0,80})")
_LOOKS_LIKE_KEY = re.compile(r"(?<![A-Za-z0-9])sk-(?:[\w-]*(?:\*{2,}|…|\.{3})[\w*.…-]*|[\w-]{16,})")
_BEARER = re.compile(r"\b(Bearer)(\s+|%20)[^\s\"'<>,;]+", re.IGNORECASE)


def scrub(text: str, key: str | None) -> str:
    """Return the text without the key: as it is, encoded, shortened by stars, or after Bearer.

    Other ``sk-…`` keys go as well. Scrub before cutting a text: a piece of a key is not recognised.
    """
    if key:
        for form in _forms(key):
            text = re.sub(_pattern(form), "***", text)
        text = _STARRED.sub(lambda found: _unless_of(key, found), text)
    return _BEARER.sub(r"\1 ***", _LOOKS_LIKE_KEY.sub("sk-***", text))


def scrub_files(folder: Path, key: str) -> list[Path]:
    """Take the key out of every file under ``folder``; return the files that held it.

    AIPerf stores what a server answers word for word, and a careless one repeats the key. The mask
    is plain letters, so JSON stays JSON. OSError if a file cannot be read or written.
    """
    patterns = [_pattern(form) for form in _forms(key)]
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return [path for path in files if _scrub_file(path, key, patterns)]


def one_line(text: str, most: int = _SAID_CHARS) -> str:
    """Return the text on one line: no control characters, at most ``most`` characters and …."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    plain = " ".join(plain.split())
    return plain if len(plain) <= most else plain[:most].rstrip() + "…"


def said_in(body: str) -> tuple[str, str]:
    """Return the message and the error code in an answer's body; empty where there is none."""
    try:
        found = json.loads(body)
    except ValueError:
        return _page_text(body), ""
    if isinstance(found, dict) and isinstance(found.get("error"), dict | str):
        found = found["error"]
    if not isinstance(found, dict):
        return str(found), ""
    said = next((found[k] for k in ("message", "detail", "msg") if found.get(k)), body)
    code = found.get("code") or found.get("type") or ""
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False), str(code)


def _forms(key: str) -> list[str]:
    """Return the ways in which a server may repeat a key, longest first."""
    json_forms = json.dumps(key)[1:-1], json.dumps(key, ensure_ascii=False)[1:-1]
    slashed = json_forms[0].replace("/", "\\/")
    python_forms = repr(key)[1:-1], repr(key.encode())[2:-1]
    url_forms = quote(key), quote(key, safe=""), quote_plus(key)
    forms = {key, *json_forms, slashed, *python_forms, *url_forms, html.escape(key)}
    return sorted(forms, key=len, reverse=True)


def _unless_of(key: str, found: re.Match[str]) -> str:
    pieces = (piece.strip(".") for piece in found.groups())
    return "***" if any(piece and piece in key for piece in pieces) else found.group()


def _page_text(body: str) -> str:
    """Return the words of an HTML page (its title, if it has one), or the text as it is."""
    title = re.search(r"<title[^>]*>(.*?)</title>", body, re.IGNORECASE | re.DOTALL)
    if title:
        return html.unescape(title.group(1))
    return re.sub(r"<[^>]{1,200}>", " ", body) if body.lstrip().startswith("<") else body


def _pattern(form: str) -> str:
    # a key such as "test" or "a" is taken out where it stands alone, not inside of words
    bound = r"(?<!\w){}(?!\w)" if len(form) < _SHORT_KEY_CHARS else "{}"
    return bound.format(re.escape(form))


def _scrub_file(path: Path, key: str, patterns: list[str]) -> bool:
    if not _holds(path, key):
        return False
    draft = path.with_name(f".{path.name}.tmp")
    every = re.compile("|".join(patterns).encode())
    with path.open("rb") as old, draft.open("wb") as new:
        for line in old:
            new.write(every.sub(b"***", line))
    draft.replace(path)
    return True


def _holds(path: Path, key: str) -> bool:
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(form.encode()) >= 0 for form in _forms(key))
