"""How long a run may take before something must be wrong."""

from __future__ import annotations

import math

from harness.plan import Plan
from harness.settings import Settings

DATA_SET_S = 300.0  # AIPerf's own limit for making or reading the prompts
GRACE_S = 30.0  # for AIPerf to give up what is under way even after its time-out, and to end


def run_time_limit_s(settings: Settings, plan: Plan) -> float | None:
    """Return after how many seconds AIPerf is stopped: RUN_TIME_LIMIT, else what it can need.

    That is the time-outs of its start, then, for warm-up and measurement alike, the time that
    REQUEST_RATE takes to send the requests and REQUEST_TIMEOUT_SECONDS for each round of them that
    is sent together; BENCHMARK_DURATION and one such round where that is set.
    None where only the prompt file knows: conversations pause, timestamps wait.
    """
    if settings.run_time_limit is not None:
        return settings.run_time_limit
    measuring_s = _measuring_s(settings, plan)
    if measuring_s is None:
        return None
    registering_s = settings.aiperf_service_registration_timeout
    start_s = registering_s + settings.aiperf_service_start_timeout + DATA_SET_S
    return start_s + _phase_s(settings, plan, plan.n_warmup) + measuring_s


def _measuring_s(settings: Settings, plan: Plan) -> float | None:
    if plan.follows_timestamps or settings.custom_dataset_type == "multi_turn":
        return None
    if plan.duration_s is not None:  # AIPerf's own grace period is one time-out, see `command`
        return plan.duration_s + settings.request_timeout_seconds + GRACE_S
    if plan.n_requests is None:
        return None
    return _phase_s(settings, plan, plan.n_requests)


def _phase_s(settings: Settings, plan: Plan, n_requests: int) -> float:
    """Return how long it takes to send these requests, if each one takes as long as it may."""
    at_once = plan.concurrency or max(1, n_requests)
    return (
        _sending_s(plan, n_requests)
        + math.ceil(n_requests / at_once) * settings.request_timeout_seconds
    )


def _sending_s(plan: Plan, n_requests: int) -> float:
    if plan.request_rate is None:
        return 0.0
    late = 0.0 if plan.arrival_pattern == "constant" else 5 * math.sqrt(n_requests)  # chance
    return (n_requests + late) / plan.request_rate
