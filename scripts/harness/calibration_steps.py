"""Calibrating this machine: AIPerf against a simulator of its own, at rising concurrency."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness import stats
from harness.calibration import FOLDER, Added, Calibration, Delays, Rung, conclude, limit_at
from harness.demo_steps import SCRIPTS, beside
from harness.errors import EndpointError, EngineError
from harness.export.timings import Timing, read_timings
from harness.metrics import OUTPUT_TOKEN_THROUGHPUT, REQUEST_THROUGHPUT
from harness.plan import make_plan
from harness.profiling import Outcome, Talk, look_at, measure
from harness.records import ROWS
from harness.settings import Settings
from harness.simulator.truth import Truth, read_truth

TRUTH_LOG = "truth.jsonl"
_MODEL = "simulated"
_START_S = 60.0  # busy machines import slowly
_LOGGED_S = 5.0  # an answer can be read a moment before the server has logged it
_REQUEST_TIMEOUT_S = 60.0
_ENGINE_S = 7  # what a run takes beside its load, on two cores
_N_WAVES = 6
_LEAST_REQUESTS = 30
_GOOD_P99 = 100
_MOST_WAVES = 10
_LOOPBACK = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

Matched = tuple[Timing, Truth]


def n_requests(concurrency: int) -> int:
    """Return how many requests a level measures: 6 a user, 30 at least, and 100 where few will do.

    With fewer a user, the second in which all begin at once would weigh too much.
    """
    few = min(_GOOD_P99, _MOST_WAVES * concurrency)
    return max(_N_WAVES * concurrency, _LEAST_REQUESTS, few)


def about_s(levels: Sequence[int], delays: Delays) -> int:
    """Return how long these levels take on two cores, in seconds."""
    return round(sum(_ENGINE_S + n_requests(c) / c * delays.latency_s for c in levels))


def calibrate(
    levels: Sequence[int], delays: Delays, own: Settings, environ: Mapping[str, str], talk: Talk
) -> Calibration:
    """Measure each level in turn, up to the first at which the client is the limit.

    Of ``own`` settings only where files go and AIPerf's time-outs count. Each level is an ordinary
    run, kept with its truth log. Raises StoppedError when interrupted, EndpointError or EngineError
    where not even the first level can be run.
    """
    rungs: list[Rung] = []
    for number, concurrency in enumerate(levels, 1):
        wait_s = about_s([concurrency], delays)
        talk(f"[{number}/{len(levels)}] concurrency {concurrency} (about {wait_s} s)")
        try:
            rung = _rung(concurrency, delays, own, environ, talk)
        except (EndpointError, EngineError) as error:
            if not rungs:
                raise
            talk(f"note: {error}")
            return conclude(rungs, delays, limit_at(concurrency, error.what, rungs))
        rungs.append(rung)
        talk(f"      {_told(rung)}")
        if rung.excess:
            break
    return conclude(rungs, delays)


def _told(rung: Rung) -> str:
    achieved = f"{rung.achieved:.0%} of the possible requests per second"
    return f"{achieved}, TTFT +{rung.ttft.p50_ms:.1f} ms at p50, +{rung.ttft.p99_ms:.1f} ms at p99"


def _rung(
    concurrency: int, delays: Delays, own: Settings, environ: Mapping[str, str], talk: Talk
) -> Rung:
    direct = {**environ, **_LOOPBACK}
    with _simulator(delays, direct) as server:
        settings = _settings(concurrency, delays, own, server.url)
        plan = make_plan(settings, "profile")
        outcome = measure(settings, plan, look_at(settings, direct), direct, talk)
        timings = read_timings(outcome.folder / ROWS)
        matched = _matched(timings, server.truth)
        shutil.copyfile(server.truth, outcome.folder / TRUTH_LOG)
    if not matched:
        raise EngineError("AIPerf", "none of its requests is in the truth log", "run it again")
    return _compared(concurrency, delays, matched, outcome)


def _settings(concurrency: int, delays: Delays, own: Settings, url: str) -> Settings:
    """Return the settings of a level: none of a person's load, only what their machine needs."""
    usual = Settings(model=_MODEL)
    return replace(
        usual,
        aiperf_url=url,
        concurrency=concurrency,
        request_count=n_requests(concurrency),
        output_tokens_mean=delays.n_tokens,
        request_timeout_seconds=_REQUEST_TIMEOUT_S,
        tokenizer="builtin",
        use_server_token_count="1",
        ui_type="none",
        artifacts_dir=str(Path(own.artifacts_dir, FOLDER)),
        aiperf_service_registration_timeout=own.aiperf_service_registration_timeout,
        aiperf_service_start_timeout=own.aiperf_service_start_timeout,
    )


@dataclass(frozen=True, slots=True)
class _Simulator:
    url: str
    truth: Path


@contextmanager
def _simulator(delays: Delays, environ: Mapping[str, str]) -> Iterator[_Simulator]:
    """Run the simulator on a free port; it ends with this process, even if that is killed."""
    with tempfile.TemporaryDirectory(prefix="calibration-") as folder:
        truth = Path(folder, TRUTH_LOG)
        options = ("--ttft-ms", f"{delays.ttft_ms:g}", "--itl-ms", f"{delays.itl_ms:g}")
        script = (sys.executable, str(SCRIPTS / "simulate_endpoint.py"))
        command = (*script, "--until-eof", "--truth-log", str(truth), "--model", _MODEL, *options)
        with beside(command, environ) as child:
            yield _Simulator(_url(child), truth)


def _url(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    limit = threading.Timer(_START_S, child.kill)
    limit.start()
    try:
        line = child.stdout.readline()
    finally:
        limit.cancel()
    if not line.startswith("listening on "):
        raise EngineError("simulator", "did not start", "try `make simulate`, which says why")
    return line.split()[-1]


def _matched(timings: Sequence[Timing], log: Path) -> list[Matched]:
    """Return each request with its truth, waiting a while for those not logged yet."""
    deadline_s = time.monotonic() + _LOGGED_S
    while True:
        truths = {truth.request_id: truth for truth in read_truth(log)}
        found = [(each, truths[each.request_id]) for each in timings if each.request_id in truths]
        if len(found) == len(timings) or time.monotonic() > deadline_s:
            return [pair for pair in found if pair[1].itl_ms is not None]
        time.sleep(0.05)


def _compared(
    concurrency: int, delays: Delays, matched: Sequence[Matched], outcome: Outcome
) -> Rung:
    summary = outcome.summary
    requests_per_s = summary.rate(REQUEST_THROUGHPUT) or 0.0
    return Rung(
        concurrency=concurrency,
        n_used=summary.n_used,
        n_failed=summary.n_failed,
        true_ttft_p50_ms=_median(truth.ttft_ms for _, truth in matched),
        true_itl_p50_ms=_median(truth.itl_ms for _, truth in matched),
        ttft=_added((own.ttft_ms, truth.ttft_ms) for own, truth in matched),
        itl=_added((own.itl_ms, truth.itl_ms) for own, truth in matched),
        requests_per_s=requests_per_s,
        chunks_per_s=summary.rate(OUTPUT_TOKEN_THROUGHPUT) or 0.0,
        possible_requests_per_s=concurrency / delays.latency_s,
        run=outcome.folder.name,
    )


def _median(values: Iterator[float | None]) -> float:
    return stats.quantile(sorted(value for value in values if value is not None), 0.5)


def _added(pairs: Iterator[tuple[float, float | None]]) -> Added:
    differences = sorted(measured - true for measured, true in pairs if true is not None)
    return Added(stats.quantile(differences, 0.5), stats.quantile(differences, 0.99))
