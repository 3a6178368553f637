"""The plot of a sweep, and where its labels stand."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.labels import Box, freest, place
from harness.plot import Dot, Limits, Plot, draw, is_drawn

ROOT = Path(__file__).parent.parent
NO_LIMITS = Limits(None, None)


def dot(label: str, tokens_per_s: float, ttft_ms: float, level: str = "VALID") -> Dot:
    latency_ms = ttft_ms + 500
    return Dot(label, "", tokens_per_s, ttft_ms, latency_ms, latency_ms + 50, level)


def plot(
    *dots: Dot,
    title: str = "m at http://lab",
    lacking: tuple[str, ...] = (),
    limits: Limits = NO_LIMITS,
) -> Plot:
    return Plot(title, dots, lacking, limits)


def texts(svg: str) -> list[str]:
    return [
        e.text or "" for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


SMALL = (dot("1", 100, 50), dot("5", 450, 60), dot("20", 900, 300))


class TestThePlot:
    """One SVG with both halves."""

    def test_labels_each_point_in_both_halves(self) -> None:
        written = texts(draw(plot(*SMALL)))
        assert "p95 TTFT (ms)" in written
        assert "p95 request latency (ms)" in written
        assert written.count("5") == 2

    def test_draws_the_limits_that_are_set_and_p99_beside_a_limit_of_p99(self) -> None:
        written = texts(draw(plot(*SMALL, limits=Limits(200, 1000))))
        assert "SLO p95 ≤ 200 ms" in written
        assert "SLO p99 ≤ 1000 ms" in written
        assert "p95 request latency (ms; whiskers: up to p99)" in written
        assert not [text for text in texts(draw(plot(*SMALL))) if "SLO" in text]

    def test_marks_invalid_points_and_names_those_without_figures(self) -> None:
        bad = dot("50", 950, 900, "INVALID")
        written = texts(draw(plot(*SMALL, bad, lacking=("CON=100 FAILED",))))
        assert written.count("50 INVALID") == 2
        assert "No figures: CON=100 FAILED" in written
        assert "INVALID" in written  # in the legend

    def test_explains_colours_only_where_there_are_several(self) -> None:
        both = [Dot("1", group, 10, 5, 9, None, "VALID") for group in ("ISL=50", "ISL=500")]
        assert {"ISL=50", "ISL=500"} <= set(texts(draw(plot(*both))))
        assert "ISL=50" not in texts(draw(plot(both[0])))

    @pytest.mark.parametrize("title", ["エルイザ/日本語-8B at http://lab", "a_$b$ <&> at 'x'"])
    def test_writes_any_name_as_text(self, title: str) -> None:
        assert title in texts(draw(plot(*SMALL, title=title)))

    def test_one_point_alone_and_equal_points_are_drawn(self) -> None:
        assert "1" in texts(draw(plot(SMALL[0])))
        assert texts(draw(plot(*[dot(str(n), 100, 50) for n in range(1, 9)]))).count("8") >= 2
        assert "0" in texts(draw(plot(dot("1", 0, 0))))

    def test_figures_far_apart_stand_on_a_logarithmic_axis(self) -> None:
        written = texts(draw(plot(dot("1", 100, 10), dot("50", 200, 9000))))
        assert {"10", "100", "1000"} <= set(written)

    def test_is_the_same_file_each_time_and_known_again(self, tmp_path: Path) -> None:
        file = tmp_path / "sweep.svg"
        assert not is_drawn(plot(*SMALL), file)
        file.write_text(draw(plot(*SMALL)), encoding="utf-8")
        assert draw(plot(*SMALL)) == file.read_text(encoding="utf-8")
        assert is_drawn(plot(*SMALL), file)
        assert not is_drawn(plot(*SMALL, limits=Limits(200, None)), file)

    def test_says_nothing_where_its_cache_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        script = (
            "import sys; sys.path.insert(0, 'scripts')\n"
            "from harness.plot import *\n"
            "dot = Dot('1', '', 10.0, 5.0, 9.0, None, 'VALID')\n"
            "print(draw(Plot('日本語', (dot,), (), Limits(None, None)))[:5])\n"
        )
        environ = {"PATH": "/usr/bin:/bin", "MPLCONFIGDIR": str(tmp_path / "file" / "x")}
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.stdout, done.stderr) == ("<?xml\n", "")

    def test_is_loaded_by_none_but_who_draws(self) -> None:
        script = (
            "import sys; sys.path.insert(0, 'scripts')\n"
            "import run_profile; print('matplotlib' in sys.modules)"
        )
        told = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
        assert told == "False\n"


FRAME = Box(0, 0, 1000, 600)


class TestLabels:
    """Where labels stand."""

    @given(
        st.lists(
            st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=12, unique=True
        )
    )
    def test_cover_neither_each_other_nor_a_point(self, places: list[tuple[int, int]]) -> None:
        points = [(x * 100.0, y * 100.0) for x, y in places]
        boxes = place(points, [(30.0, 12.0)] * len(points), FRAME)
        assert all(a.overlap(b) == 0 for a, b in combinations(boxes, 2))
        assert not [p for p in points if any(box.holds(p) for box in boxes)]
        assert all(box.overlap(FRAME) == pytest.approx(360) for box in boxes)

    def test_of_points_side_by_side_part(self) -> None:
        points = [(500.0, 300.0), (504.0, 302.0), (508.0, 300.0)]
        boxes = place(points, [(20.0, 12.0)] * 3, FRAME)
        assert all(a.overlap(b) == 0 for a, b in combinations(boxes, 2))

    def test_keep_off_lines_and_what_is_taken(self) -> None:
        line = ((500.0, 300.0), (600.0, 300.0))
        box = place([(500.0, 300.0)], [(30.0, 12.0)], FRAME, lines=[line])[0]
        assert not any(box.holds((x, 300.0)) for x in range(500, 601))
        right = Box(505, 200, 700, 400)
        assert place([(500.0, 300.0)], [(30.0, 12.0)], FRAME, [right])[0].overlap(right) == 0

    def test_stay_inside_at_an_edge(self) -> None:
        box = place([(995.0, 595.0)], [(30.0, 12.0)], FRAME)[0]
        assert (box.x1 <= 1000, box.y1 <= 600) == (True, True)

    def test_the_first_free_place_is_taken(self) -> None:
        boxes = [Box(0, 0, 50, 20), Box(100, 0, 150, 20)]
        assert freest(boxes, FRAME, []) is boxes[0]
        assert freest(boxes, FRAME, [(25.0, 10.0)]) is boxes[1]
