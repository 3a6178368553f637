"""Each fault of docs/faults.md is made to happen, and says and leaves what its row says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.faults import (
    FAULTS,
    INVALID,
    ROOT,
    SUSPECT,
    VALID,
    Fault,
    Outcome,
    document,
    happen,
    matches,
)

_AT_ONCE = 3  # they wait more than they work
_PUBLISHED = (VALID, SUSPECT, INVALID)


@pytest.fixture(scope="module")
def outcome_of(request: pytest.FixtureRequest) -> Iterator[Callable[[Fault], Outcome]]:
    """Yield what returns a fault's outcome; those of this session happen a few at a time."""
    calls = (getattr(item, "callspec", None) for item in request.session.items)
    params = (call.params.get("fault") for call in calls if call)
    chosen = {fault.name for fault in params if isinstance(fault, Fault)}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        futures: dict[str, Future[Outcome]] = {}
        for fault in FAULTS:
            if fault.name in chosen:
                futures[fault.name] = pool.submit(happen, fault)
        try:
            yield lambda fault: futures[fault.name].result()
        finally:
            pool.shutdown(cancel_futures=True)


@pytest.mark.engine
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_says_and_leaves_what_its_row_says(
    outcome_of: Callable[[Fault], Outcome], fault: Fault
) -> None:
    outcome = outcome_of(fault)
    assert matches(fault.says, outcome.said), outcome.said
    assert outcome.exit_code == fault.exit_code, outcome.said
    assert outcome.left == fault.left, outcome.said
    assert outcome.earlier == ("archived" if fault.left in _PUBLISHED else "untouched")
    assert outcome.n_behind == 0
    assert "Traceback" not in outcome.said


def test_the_document_has_these_rows() -> None:
    assert (ROOT / "docs" / "faults.md").read_text(encoding="utf-8") == document()


def test_there_are_faults_enough_and_each_has_a_name_of_its_own() -> None:
    names = {fault.name for fault in FAULTS}
    assert len(names) == len(FAULTS) >= 20


@pytest.mark.parametrize(
    ("says", "is_there"),
    [
        ("a b", True),
        ("a … d", True),
        ("a…c d", True),
        ("b a", False),
        ("a.b", False),
        ("a … e", False),
    ],
)
def test_words_match_as_written_and_dots_are_any_text(says: str, is_there: bool) -> None:
    assert matches(says, "x a\n  b c d y") is is_there
