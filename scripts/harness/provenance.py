"""Where a run was taken: versions, machine, state of the harness. Absent facts are None."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

HARNESS = Path(__file__).resolve().parents[2]
_QUICK_S = 5.0
_NAMED = ("aiperf", "transformers", "tiktoken", "openai")


def versions() -> dict[str, object]:
    """Return the versions of what shapes a figure: Python, packages, the harness's commit."""
    packages: dict[str, object] = {name: version_of(name) for name in _NAMED}
    commit = _output(["git", "-C", str(HARNESS), "rev-parse", "HEAD"])
    changes = _output(["git", "-C", str(HARNESS), "status", "--porcelain", "-uno"])
    state: dict[str, object] = {
        "harness_commit": commit,
        "harness_dirty": None if changes is None else bool(changes),
    }
    return {"python": platform.python_version(), **packages, **state}


def machine() -> dict[str, object]:
    """Return what the client runs on: system, CPU, cores, memory (GiB), GPUs, host name."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpus = _output(query)
    return {
        "os": platform.platform(),
        "cpu": cpu_name(),
        "n_cpus": os.cpu_count(),
        "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus.splitlines() if gpus else [],
        "host": platform.node(),
    }


def cpu_name() -> str:
    """Return the processor's name as Linux or macOS tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()


def content_hash(path: Path) -> str:
    """Return ``sha256:…`` of a file's bytes, or of the names and hashes of a folder's files."""
    if path.is_dir():
        files = [
            f"{f.relative_to(path)} {content_hash(f)}\n"
            for f in sorted(path.rglob("*"))
            if f.is_file()
        ]
        return "sha256:" + hashlib.sha256("".join(files).encode()).hexdigest()
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def version_of(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(command: Sequence[str]) -> str | None:
    """Return what a small command prints; None where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_QUICK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
