"""Evidence: what rows say of waits, requests in flight, drift and lengths, start and end apart."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.evidence import Evidence, weigh
from harness.records import read_run
from tests.exports import GOLDEN, Json, closed_loop, timed, used, write_load, write_rows


def evidence_of(
    folder: Path, rows: list[Json], concurrency: int | None, kind: str = "concurrency"
) -> Evidence:
    return weigh(read_run(write_load(folder, rows, concurrency, kind)))


def test_requests_in_flight_are_those_between_first_wave_and_drain(tmp_path: Path) -> None:
    """Ten users, answers of very different length, no pause: the ends pull AIPerf's mean down."""
    rng = random.Random(1)
    rows = closed_loop([rng.lognormvariate(5, 0.8) for _ in range(30)], 10, pause_ms=0)
    assert evidence_of(tmp_path, rows, 10).in_flight == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize(("pause_ms", "in_flight"), [(25, 8.0), (100, 5.0), (300, 2.5)])
def test_a_client_that_pauses_after_each_answer_has_fewer_in_flight(
    tmp_path: Path, pause_ms: float, in_flight: float
) -> None:
    rng = random.Random(2)
    latencies_ms = [100 * rng.uniform(0.7, 1.3) for _ in range(400)]
    found = evidence_of(tmp_path, closed_loop(latencies_ms, 10, pause_ms), 10).in_flight
    assert found == pytest.approx(in_flight, rel=0.05)


def test_the_wait_of_the_first_wave_is_not_counted(tmp_path: Path) -> None:
    first = [timed(number, 100, queued_ms=500) for number in range(4)]
    later = [timed(104 + number, 100, queued_ms=2 + number) for number in range(21)]
    found = evidence_of(tmp_path, first + later, 4)
    assert found.queued_p95_ms == pytest.approx(21)


def test_of_few_requests_one_that_a_busy_machine_held_up_does_not_speak_for_all(
    tmp_path: Path,
) -> None:
    first = [timed(number, 100) for number in range(4)]
    later = [timed(104 + number, 100, queued_ms=500) for number in range(20)]
    for rows, waited_ms in (([*first, *later[1:]], None), ([*first, *later], 500)):
        found = evidence_of(tmp_path, rows, 4)
        assert found.queued_p95_ms == waited_ms
        assert (found.in_flight is None) is (waited_ms is None)


def test_an_open_loop_of_few_requests_has_no_rate_yet(tmp_path: Path) -> None:
    rows = [timed(number * 50, 100) for number in range(20)]
    assert evidence_of(tmp_path / "a", rows, None, kind="poisson").sent_per_s is not None
    assert evidence_of(tmp_path / "b", rows[1:], None, kind="poisson").sent_per_s is None


def test_rows_without_the_time_of_their_decision_tell_no_wait(tmp_path: Path) -> None:
    rows = closed_loop([100.0] * 8, 2)
    for row in rows:
        del row["metadata"]["credit_issued_ns"]  # type: ignore[attr-defined]
    assert evidence_of(tmp_path, rows, 2).queued_p95_ms is None


def test_a_run_of_a_single_wave_shows_neither_client_nor_server(tmp_path: Path) -> None:
    found = evidence_of(tmp_path, closed_loop([100.0] * 19, 10), 10)
    assert (found.in_flight, found.queued_p95_ms, found.drift) == (None, None, None)


def test_rows_without_aiperfs_aggregate_show_lengths_only(tmp_path: Path) -> None:
    rows = closed_loop([100.0] * 100, 2)
    found = weigh(read_run(write_rows(tmp_path, rows)))
    assert (found.in_flight, found.drift, dict(found.tokens)) == (None, None, {})


def test_a_slowing_server_drifts_beyond_chance(tmp_path: Path) -> None:
    rng = random.Random(3)
    latencies_ms = [100 * (1 + number / 100) * rng.lognormvariate(0, 0.1) for number in range(100)]
    drift = evidence_of(tmp_path, closed_loop(latencies_ms, 4), 4).drift
    assert drift is not None
    assert drift.is_beyond_chance
    assert 25 < drift.pct < 100


def test_chance_is_not_taken_for_drift(tmp_path: Path) -> None:
    """Of 200 runs of 60 steady requests, as scattered as real servers', fewer than 1 % are."""
    rng = random.Random(4)
    n_drifting = 0
    for number in range(200):
        latencies_ms = [rng.lognormvariate(5, 0.6) for _ in range(64)]
        drift = evidence_of(tmp_path / str(number), closed_loop(latencies_ms, 2), 2).drift
        assert drift is not None
        n_drifting += drift.is_beyond_chance
    assert n_drifting < 2


def test_the_first_wave_and_the_drain_are_no_drift(tmp_path: Path) -> None:
    """Users who all begin at once wait for each other; those who end last are alone."""
    latencies_ms = [300.0] * 10 + [100.0] * 40 + [50.0] * 10
    drift = evidence_of(tmp_path, closed_loop(latencies_ms, 10), 10).drift
    assert drift is not None
    assert drift.pct == pytest.approx(0)


def test_thirds_of_fewer_than_ten_requests_tell_nothing(tmp_path: Path) -> None:
    latencies_ms = [100.0] * 15 + [900.0] * 10
    assert evidence_of(tmp_path, closed_loop(latencies_ms, 2), 2).drift is None


def test_an_open_loop_has_a_rate_and_no_concurrency(tmp_path: Path) -> None:
    rows = [timed(number * 50, 400) for number in range(40)]
    found = evidence_of(tmp_path, rows, 5, kind="poisson")
    assert found.in_flight is None
    assert found.sent_per_s == pytest.approx(20)


def test_an_overloaded_open_loop_drifts_from_its_first_request(tmp_path: Path) -> None:
    rows = [timed(number * 50, 100 + 30 * number) for number in range(45)]
    drift = evidence_of(tmp_path, rows, None, kind="constant").drift
    assert drift is not None
    assert drift.is_beyond_chance
    assert drift.pct > 100


@pytest.mark.parametrize(
    ("off_pct", "n_lengths", "n_off"),
    [([0, 0, 0], 3, 0), ([10, -10, 0], 3, 0), ([10.1, -50, 0], 3, 2), ([None, -50, 0], 2, 1)],
)
def test_answers_more_than_a_tenth_off_are_counted(
    tmp_path: Path, off_pct: list[float | None], n_lengths: int, n_off: int
) -> None:
    rows = [used() for _ in off_pct]
    for row, pct in zip(rows, off_pct, strict=True):
        if pct is not None:
            mark = {"osl_mismatch_diff_pct": {"value": pct, "unit": "%"}}
            row["metrics"] |= mark  # type: ignore[operator]
    found = evidence_of(tmp_path, rows, 1)
    assert (found.n_lengths, found.n_lengths_off) == (n_lengths, n_off)


def test_tokens_are_aiperfs_own() -> None:
    tokens = weigh(read_run(GOLDEN / "clean")).tokens
    assert tokens["output_sequence_length"].mean == 10
    assert tokens["usage_prompt_tokens"].n_tokens == pytest.approx(557)
    assert "usage_prompt_cache_read_tokens" not in tokens


def test_no_rows_are_no_evidence() -> None:
    assert weigh(read_run(GOLDEN / "all_failed")) == Evidence()
