"""Checks of this machine, and of the settings, before anything is asked of a server."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import provenance
from harness import settings as configuration
from harness.command import child_environment
from harness.doctor import Check, State
from harness.errors import ConfigError, UsageError
from harness.plan import Plan, describe, make_plan
from harness.prompts import PromptFile, check_prompts, told
from harness.settings import Settings

_PYTHONS = ((3, 11), (3, 14))  # from, up to but not including
_ENGINES_OWN_FILES = 256  # AIPerf refuses to start below
_ENGINE_RAISES_TO = 8192  # AIPerf raises the soft limit itself
_GIB = 2**30
_LEAST_FREE_BYTES = 100 * 2**20
_SCARCE_BYTES = 1 * _GIB
#: What AIPerf's exports take: measured at 3.4 KB a request of 100 tokens, prompts included.
_REQUEST_BYTES = 3000
_OUTPUT_TOKEN_BYTES = 25
_INPUT_TOKEN_BYTES = 12
_PORTS_LINUX = Path("/proc/sys/net/ipv4/ip_local_port_range")
_PORTS_MACOS = ("sysctl", "-n", "net.inet.ip.portrange.first", "net.inet.ip.portrange.last")
_QUICK_S = 2.0
_SCARCE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Intent:
    """What a person means to run; None where the settings, or the plan, are wrong."""

    settings: Settings | None
    plan: Plan | None


def settings_checks(environ: Mapping[str, str]) -> tuple[Intent, list[Check]]:
    """Read settings and prompt file; return what they say, and one check for each problem."""
    try:
        settings = configuration.from_environment(environ)
    except UsageError as error:
        return Intent(None, None), _problems("settings", error)
    try:
        prompts = _prompts(settings)
    except UsageError as error:
        return Intent(settings, None), _problems("prompts", error)
    checks = [Check("settings", "note", State.CAUTION, notice) for notice in settings.notices]
    if prompts:
        what = f"{told(prompts)} in {settings.input_file}"
        checks.insert(0, Check("settings", "prompts", State.OK, what))
    try:
        plan = make_plan(settings, "profile", prompts=prompts)
    except UsageError as error:
        return Intent(settings, None), [*_problems("load", error), *checks]
    load = Check("settings", "load", State.OK, f"{settings.model}: {describe(plan)}")
    return Intent(settings, plan), [load, *checks]


def machine_checks(intent: Intent, environ: Mapping[str, str]) -> list[Check]:
    """Check Python, AIPerf, disk, open files, TMPDIR and ports for what is meant to be run."""
    return [
        check_python(sys.version_info[:2]),
        check_engine(provenance.version_of("aiperf"), _pinned("aiperf")),
        check_disk(*_disk(intent), _needed_bytes(intent)),
        check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE), _most_in_flight(intent)),
        check_tmpdir(environ),
        check_ports(port_range(), _most_in_flight(intent), _n_connections(intent)),
    ]


def require_room(settings: Settings, plan: Plan, environ: Mapping[str, str]) -> None:
    """Raise UsageError where this machine cannot hold a run: the first of the quick checks.

    How many requests an open loop has in flight depends on the server: it is not held to that.
    """
    intent = Intent(settings, plan)
    checks = [check_disk(*_disk(intent), _needed_bytes(intent)), check_tmpdir(environ)]
    if plan.concurrency:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        checks.append(check_open_files(limits, plan.concurrency))
        checks.append(check_ports(port_range(), plan.concurrency, 0))
    for check in checks:
        if check.state is State.FAILED:
            raise UsageError(check.name, check.found, check.remedy)


def check_python(version: tuple[int, int]) -> Check:
    """Check this Python against those that AIPerf runs on."""
    found = ".".join(map(str, sys.version_info[:3])) + f" ({sys.executable})"
    if _PYTHONS[0] <= version < _PYTHONS[1]:
        return Check("machine", "Python", State.OK, found)
    remedy = "PYTHON=/path/to/python3.12 make setup (3.11 to 3.13)"
    return Check("machine", "Python", State.FAILED, found, remedy)


def check_engine(version: str | None, pinned: str | None) -> Check:
    """Check AIPerf's version against the one that the harness is written for."""
    if version is None:
        return Check("machine", "AIPerf", State.FAILED, "not installed", "make setup")
    if pinned and version != pinned:
        found = f"{version}, and the harness is written for {pinned}"
        return Check("machine", "AIPerf", State.CAUTION, found, "make clean setup")
    return Check("machine", "AIPerf", State.OK, version)


def check_disk(folder: Path, free_bytes: int, is_writable: bool, needed_bytes: int) -> Check:
    """Check the place of the results."""
    if not is_writable:
        remedy = "make it writable, or set ARTIFACTS_DIR to a folder that is"
        return Check("machine", "disk", State.FAILED, f"{folder} cannot be written to", remedy)
    found = f"{free_bytes / _GIB:.1f} GiB free in {folder}"
    remedy = "free some, or set ARTIFACTS_DIR to a folder on another disk"
    if free_bytes < needed_bytes + _LEAST_FREE_BYTES:
        found += f", about {needed_bytes / _GIB:.2f} GiB are needed"
        return Check("machine", "disk", State.FAILED, found, remedy)
    if free_bytes < needed_bytes + _SCARCE_BYTES:
        return Check("machine", "disk", State.CAUTION, found, remedy)
    return Check("machine", "disk", State.OK, found)


def check_open_files(limits: tuple[int, int], n_connections: int) -> Check:
    """Check the limit of open files: each request in flight holds a connection."""
    soft, hard = (sys.maxsize if limit == resource.RLIM_INFINITY else limit for limit in limits)
    limit = max(soft, min(_ENGINE_RAISES_TO, hard))
    needed = n_connections + _ENGINES_OWN_FILES
    found = "no limit" if limit == sys.maxsize else f"{limit} at most"
    if limit >= needed:
        return Check("machine", "open files", State.OK, f"{found}, {needed} needed")
    remedy = f"ulimit -n {needed}"
    remedy += "" if hard >= needed else " (as an administrator: the hard limit is lower)"
    return Check("machine", "open files", State.FAILED, f"{found}, {needed} needed", remedy)


def check_tmpdir(environ: Mapping[str, str]) -> Check:
    """Check TMPDIR, in which AIPerf's processes have their sockets."""
    folder = environ.get("TMPDIR") or tempfile.gettempdir()
    used = child_environment({"TMPDIR": folder}, {}, ())["TMPDIR"]
    if not os.access(used, os.W_OK | os.X_OK):
        found = f"{used} cannot be written to"
        return Check("machine", "TMPDIR", State.FAILED, found, "set TMPDIR to a folder that can")
    if used != folder:
        found = f"{len(folder)} characters are too many for AIPerf's sockets; {used} is used"
        return Check("machine", "TMPDIR", State.OK, found)
    return Check("machine", "TMPDIR", State.OK, folder)


def check_ports(ports: tuple[int, int] | None, n_in_flight: int, n_opened: int) -> Check:
    """Check the ports for outgoing connections; a closed one rests for a minute."""
    if ports is None:
        return Check("machine", "ports", State.UNKNOWN, "the range is not told here")
    n_ports = ports[1] - ports[0] + 1
    found = f"{ports[0]}-{ports[1]} for outgoing connections"
    remedy = "widen it: sysctl net.ipv4.ip_local_port_range='10240 65535'"
    if n_ports < n_in_flight:
        found += f", fewer than the {n_in_flight} requests in flight"
        return Check("machine", "ports", State.FAILED, found, remedy)
    if n_opened > _SCARCE_SHARE * n_ports:
        found += f"; CONNECTION_REUSE=never opens {n_opened}"
        return Check("machine", "ports", State.CAUTION, found, remedy)
    return Check("machine", "ports", State.OK, found)


def port_range() -> tuple[int, int] | None:
    """Return the first and the last port for outgoing connections; None where it is not told."""
    try:
        if _PORTS_LINUX.is_file():
            text = _PORTS_LINUX.read_text(encoding="ascii")
        else:
            text = subprocess.run(
                _PORTS_MACOS, capture_output=True, text=True, timeout=_QUICK_S, check=True
            ).stdout
        first, last = map(int, text.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return first, last


def _problems(name: str, error: UsageError) -> list[Check]:
    problems = error.problems if isinstance(error, ConfigError) else (error,)
    return [
        Check("settings", name, State.FAILED, f"{problem.where}: {problem.what}", problem.remedy)
        for problem in problems
    ]


def _prompts(settings: Settings) -> PromptFile | None:
    if not settings.input_file:
        return None
    return check_prompts(Path(settings.input_file), settings.custom_dataset_type)


def _pinned(package: str) -> str | None:
    """Return the version that requirements.txt asks for."""
    try:
        text = (provenance.HARNESS / "requirements.txt").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"^{package}==(\S+)", text, re.MULTILINE)
    return found[1] if found else None


def _disk(intent: Intent) -> tuple[Path, int, bool]:
    """Return the folder in which results are written, or would be made; its free bytes."""
    wanted = Path(intent.settings.artifacts_dir if intent.settings else "artifacts").absolute()
    folder = next(place for place in (wanted, *wanted.parents) if place.exists())
    is_writable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    return folder, shutil.disk_usage(folder).free, is_writable


def _needed_bytes(intent: Intent) -> int:
    settings, plan = intent.settings, intent.plan
    if settings is None or plan is None:
        return 0
    each = _REQUEST_BYTES + _OUTPUT_TOKEN_BYTES * settings.output_tokens_mean
    each += _INPUT_TOKEN_BYTES * settings.input_tokens_mean
    return each * ((plan.n_requests or 0) + plan.n_warmup)


def _most_in_flight(intent: Intent) -> int:
    """Return how many requests may be under way at once: in an open loop all of them."""
    return (intent.plan.concurrency or intent.plan.n_requests or 0) if intent.plan else 0


def _n_connections(intent: Intent) -> int:
    """Return how many connections a run opens where none is used again."""
    settings, plan = intent.settings, intent.plan
    if settings is None or plan is None or settings.connection_reuse != "never":
        return 0
    return (plan.n_requests or 0) + plan.n_warmup
