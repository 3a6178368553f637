"""Where the labels of a plot stand, so that they cover neither each other nor what they name.

Lengths are pixels, y grows upwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Pixel = tuple[float, float]

#: Sides of a point, best first.
_SIDES = ((1, 0), (1, -1), (0, -1), (-1, 0), (0, 1), (1, 1), (-1, -1), (-1, 1))
_GAPS = (9.0, 15.0, 23.0, 33.0, 45.0)
_MARK = 7.0  # half a point's size
_AIR = 2.0
_STEP = 4.0
_ON_LINE = 25.0  # what a crossed pixel of a line costs, as an area
_FURTHER = 6.0  # what each step away from the point costs
_OUTSIDE = 1e6
_DIAGONAL = 0.8


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle: its left lower corner and its right upper one."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: Box) -> float:
        """Return the area that both cover."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(width, 0.0) * max(height, 0.0)

    def holds(self, pixel: Pixel) -> bool:
        """Tell whether a pixel lies in it."""
        return self.x0 <= pixel[0] <= self.x1 and self.y0 <= pixel[1] <= self.y1


def place(
    points: Sequence[Pixel],
    sizes: Sequence[Pixel],
    frame: Box,
    taken: Sequence[Box] = (),
    lines: Sequence[tuple[Pixel, Pixel]] = (),
) -> list[Box]:
    """Return a box for each label, given the width and height of each, beside its point.

    Boxes stay in ``frame`` and off the points, ``taken`` and each other, and if possible off the
    lines; where there is no room they cover as little as can be.
    """
    occupied = [*taken, *(_around(point) for point in points)]
    inked = [pixel for line in lines for pixel in _pixels(*line)]
    boxes: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        choices = enumerate(_choices(point, size))
        costs = [(_cost(box, frame, occupied, inked) + _FURTHER * n, n, box) for n, box in choices]
        boxes.append(min(costs, key=lambda cost: cost[:2])[2])
        occupied.append(boxes[-1])
    return boxes


def freest(boxes: Sequence[Box], frame: Box, points: Sequence[Pixel]) -> Box:
    """Return the first of the boxes that lies in ``frame`` and covers no point, or the best."""
    occupied = [_around(point) for point in points]
    return min(boxes, key=lambda box: _cost(box, frame, occupied, ()))


def _choices(point: Pixel, size: Pixel) -> Iterator[Box]:
    for gap in _GAPS:
        for right, up in _SIDES:
            reach = gap * (1.0 if 0 in (right, up) else _DIAGONAL)
            x0 = point[0] + right * reach - size[0] * (1 - right) / 2
            y0 = point[1] + up * reach - size[1] * (1 - up) / 2
            yield Box(x0, y0, x0 + size[0], y0 + size[1])


def _cost(box: Box, frame: Box, occupied: Sequence[Box], inked: Sequence[Pixel]) -> float:
    covered = sum(box.overlap(other) for other in occupied)
    airy = Box(box.x0 - _AIR, box.y0 - _AIR, box.x1 + _AIR, box.y1 + _AIR)
    crossed = sum(airy.holds(pixel) for pixel in inked)
    area = (box.x1 - box.x0) * (box.y1 - box.y0)
    is_inside = box.overlap(frame) > area - 1
    return 10 * covered + _ON_LINE * crossed + (0.0 if is_inside else _OUTSIDE)


def _around(point: Pixel) -> Box:
    x, y = point
    return Box(x - _MARK, y - _MARK, x + _MARK, y + _MARK)


def _pixels(start: Pixel, end: Pixel) -> Iterator[Pixel]:
    """Yield pixels of a line, a few apart."""
    n_steps = max(math.ceil(math.dist(start, end) / _STEP), 1)
    for n in range(n_steps + 1):
        share = n / n_steps
        yield (
            start[0] + share * (end[0] - start[0]),
            start[1] + share * (end[1] - start[1]),
        )
