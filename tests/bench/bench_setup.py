"""How long `make setup` takes on an empty folder, against a bare `uv pip install`.

Usage: bench_setup.py [PAIRS]    default 5; pairs alternate, so that a busy machine hits both alike
Needs uv on PATH and the packages in its cache (the first, unmeasured pair fetches them).
Exit: 0 when the median of the ratios is at most 2, else 1; 2 without uv.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
AIM = 2.0


def main() -> int:
    """Measure, print one line a pair and the median ratio."""
    uv = shutil.which("uv")
    if uv is None:
        print("error: uv: not on PATH; install it to compare with it", file=sys.stderr)
        return 2
    n_pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    python = subprocess.check_output(["bash", ROOT / "scripts/find_python.sh"], text=True).strip()
    ratios = [pair(uv, python, index) for index in range(n_pairs + 1)][1:]
    median = statistics.median(ratios)
    print(f"make setup / bare uv pip install: median {median:.2f} of {n_pairs} (aim: {AIM:g})")
    return 0 if median <= AIM else 1


def pair(uv: str, python: str, index: int) -> float:
    """Return set-up time over bare time of one pair; the order alternates."""
    order = (setup_s, bare_s) if index % 2 else (bare_s, setup_s)
    taken = {measure.__name__: measure(uv, python) for measure in order}
    ratio = taken["setup_s"] / taken["bare_s"]
    note = "  (not counted)" if index == 0 else ""
    print(f"setup {taken['setup_s']:.2f} s  bare {taken['bare_s']:.2f} s  ratio {ratio:.2f}{note}")
    return ratio


def setup_s(uv: str, python: str) -> float:
    """Time `make setup` in a folder that holds only what set-up reads (seconds)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scripts").mkdir()
        for file in (ROOT / "Makefile", *ROOT.glob("requirements*.txt")):
            shutil.copy(file, folder)
        for script in ("setup.sh", "find_python.sh"):
            shutil.copy(ROOT / "scripts" / script, folder / "scripts")
        return timed(["make", "setup"], folder)


def bare_s(uv: str, python: str) -> float:
    """Time `uv pip install -r requirements.txt` into a venv just made (seconds)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([uv, "venv", "-q", "--python", python, "venv"], cwd=folder, check=True)
        requirements = str(ROOT / "requirements.txt")
        install = [uv, "pip", "install", "-q", "--python", "venv/bin/python", "-r", requirements]
        return timed(install, folder)


def timed(command: list[str], folder: Path) -> float:
    """Return the seconds that ``command`` takes in ``folder``."""
    own = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON")  # of the make that runs this
    environment = {key: value for key, value in os.environ.items() if key not in own}
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
