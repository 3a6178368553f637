"""Run folders: a folder under its name is a finished run, and nothing finished is ever overwritten.

Work happens in ``<name>.partial``. Publishing moves an earlier run of that name to
``archive/<name>/<UTC start>`` and then renames. A ``.partial`` left by a run that failed, was
interrupted or killed is moved there too, with ``.partial`` in its name, when the next run starts.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import DataError, UsageError

SCHEMA_VERSION = 1
ARCHIVE = "archive"
PARTIAL = ".partial"
MANIFEST = "run.json"
EXPORTS = ("profile_export.jsonl", "profile_export_aiperf.json", "profile_export.json")


def now_utc() -> str:
    """Return the time as manifests hold it: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def working_folder(
    artifacts: Path, name: str, on_leftover: Callable[[Path], None] = lambda _: None
) -> Iterator[Path]:
    """Yield an empty ``<name>.partial``, held by this process alone until the block ends.

    ``on_leftover`` gets the archive's place of a ``.partial`` that an earlier run left. Raises
    UsageError when the place cannot be written or another run into this name is under way.
    """
    partial = artifacts / f"{name}{PARTIAL}"
    with lock(artifacts, name, "wait for it, or change CONCURRENCY or ARTIFACTS_DIR"):
        if partial.exists():
            on_leftover(_move_aside(partial, name))
        partial.mkdir()
        yield partial


def publish(partial: Path) -> Path:
    """Make a finished ``.partial`` the run of its name and return the new path."""
    final = final_name(partial)
    if final.exists():
        _move_aside(final, final.name)
    return partial.rename(final)


def final_name(partial: Path) -> Path:
    """Return the path that a ``.partial`` is published under."""
    return partial.with_name(partial.name.removesuffix(PARTIAL))


def latest(artifacts: Path) -> Path:
    """Return the run that ended last; unfinished and archived ones do not count.

    Raises DataError when there is none.
    """
    runs = [folder for folder in _children(artifacts) if _is_run(folder)]
    if not runs:
        remedy = "run `make demo` or `make profile`"
        raise DataError(str(artifacts), "holds no finished run", remedy)
    return max(runs, key=lambda run: (_ended(run), run.name))


def read_manifest(folder: Path) -> dict[str, object]:
    """Return run.json as written; empty for a folder without one, which plain AIPerf wrote.

    Raises DataError when it is not a JSON object.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "remove it or run again") from None
    if not isinstance(manifest, dict):
        raise DataError(str(path), "is not a JSON object", "remove it or run again")
    return manifest


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: UTF-8, Unix line ends, renamed into place."""
    content = text.encode("utf-8")
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        what = f"cannot be written ({error.strerror})"
        raise UsageError(str(path), what, "check the folder's rights and free space") from None


def write_manifest(folder: Path, manifest: dict[str, object]) -> None:
    """Write run.json."""
    document = {"schema_version": SCHEMA_VERSION, **manifest}
    write_text(folder / MANIFEST, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def lock(artifacts: Path, name: str, remedy: str) -> Iterator[None]:
    """Hold ``artifacts/.locks/<name>``; the system lets go of it however the process ends.

    Raises UsageError with this remedy where another process holds it.
    """
    shelf = artifacts / ARCHIVE
    if shelf.exists() and not shelf.is_dir():  # told now, not when a finished run is to move there
        raise UsageError(str(shelf), "is no folder", "move it away: earlier results are kept there")
    try:
        (artifacts / ".locks").mkdir(parents=True, exist_ok=True)
        handle = (artifacts / ".locks" / name).open("w")
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise UsageError(str(artifacts), what, "make it writable or set ARTIFACTS_DIR") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(name, "another run into this folder is under way", remedy) from None
        yield


def shelve(file: Path, artifacts: Path) -> None:
    """Move a file that is about to be written anew, if it is there, to the archive."""
    if not file.exists():
        return
    shelf = artifacts / ARCHIVE / file.stem
    shelf.mkdir(parents=True, exist_ok=True)
    shutil.move(file, _free(shelf, _stamp(file.stat().st_mtime), file.suffix))


def _move_aside(folder: Path, name: str) -> Path:
    shelf = folder.parent / ARCHIVE / name
    shelf.mkdir(parents=True, exist_ok=True)
    suffix = PARTIAL if folder.name.endswith(PARTIAL) else ""
    return folder.rename(_free(shelf, _started(folder), suffix))


def _free(shelf: Path, time: str, suffix: str) -> Path:
    """Return a path there that is not taken: two runs may have started in one second."""
    stem = time.replace(":", "-")
    number = 1
    while (place := shelf / f"{stem}{f'-{number}' if number > 1 else ''}{suffix}").exists():
        number += 1
    return place


def _children(artifacts: Path) -> list[Path]:
    if not artifacts.is_dir():
        return []
    return [child for child in artifacts.iterdir() if child.is_dir()]


def _is_run(folder: Path) -> bool:
    if folder.name == ARCHIVE or folder.name.endswith(PARTIAL):
        return False
    return any((folder / name).is_file() for name in (MANIFEST, *EXPORTS))


def _started(folder: Path) -> str:
    started = _readable_manifest(folder).get("started")
    return started if isinstance(started, str) and started else _stamp(folder.stat().st_mtime)


def _ended(folder: Path) -> str:
    ended = _readable_manifest(folder).get("ended")
    if isinstance(ended, str) and ended:
        return ended
    files = [folder / name for name in EXPORTS if (folder / name).is_file()]
    return _stamp(max((f.stat().st_mtime for f in files), default=0.0))


def _readable_manifest(folder: Path) -> dict[str, object]:
    """Return run.json, or nothing where it is broken: moving a folder must not fail on that."""
    try:
        return read_manifest(folder)
    except DataError:
        return {}


def _stamp(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
