"""The plot of a sweep as SVG: throughput against p95 TTFT and against p95 latency.

Text stays text in it, so that whoever opens it draws a model's Japanese name with a font of theirs;
this machine may have none.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.labels import Box, Pixel, freest, place
from harness.table import display_width

if TYPE_CHECKING:  # matplotlib takes half a second to load: nobody pays for it but who draws
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_INCHES = (11.0, 5.0)
_LOG_FROM = 20.0  # largest figure by smallest: beyond that a linear axis squeezes the small ones
_WIDE = 200.0  # beyond that 2 and 5 between the tens collide
_TITLE_COLUMNS = 100
_FOOT_COLUMNS = 150
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_LIMIT_COLOUR = "#B00020"
_GREY = "#666666"
_INK = "#222222"
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans JP", "Hiragino Sans", "Yu Gothic", "Meiryo")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sweep",
    "text.parse_math": False,  # a $ in a name is a $
    "font.sans-serif": list(_FONTS),
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
}
_INVALID = "INVALID"
_MARKS = {"VALID": "o", "SUSPECT": "o", _INVALID: "X"}
_LABEL_SIZE = 9.0  # points
_PER_ROW = 6


@dataclass(frozen=True, slots=True)
class Dot:
    """One point: ``label`` is its load, ``group`` its lengths where a sweep has several."""

    label: str
    group: str
    tokens_per_s: float
    ttft_p95_ms: float
    latency_p95_ms: float
    latency_p99_ms: float | None
    level: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The SLOs that can be drawn (ms), None where none is set."""

    ttft_p95_ms: float | None
    latency_p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Plot:
    """What is drawn; ``lacking`` names the points that have no figures."""

    title: str
    dots: tuple[Dot, ...]
    lacking: tuple[str, ...]
    limits: Limits

    @property
    def identifier(self) -> str:
        """Return what tells this plot from any other; it stands in the file."""
        return "sha256:" + hashlib.sha256(repr(self).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Panel:
    """One half of the plot: its dots' x (ms), the figure up to which a whisker goes, the limit."""

    axes: Axes
    title: str
    xs_ms: tuple[float, ...]
    whiskers_ms: tuple[float | None, ...]
    limit_ms: float | None
    limit_name: str


def is_drawn(plot: Plot, file: Path) -> bool:
    """Tell whether ``file`` is this very plot, so that it need not be drawn again."""
    try:
        return plot.identifier in file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def draw(plot: Plot) -> str:
    """Return the plot as SVG. There must be a dot at least."""
    # Of fonts that are not here and caches that cannot be written a person need not hear.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib  # noqa: PLC0415 - see TYPE_CHECKING
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()  # not the style of whoever runs this
        matplotlib.rcParams.update(_STYLE)  # type: ignore[arg-type]  # its type spells every key
        figure = Figure(figsize=_INCHES)
        canvas = FigureCanvasAgg(figure)
        _fill(figure, canvas, plot)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=_metadata(plot))
    return out.getvalue()


def _metadata(plot: Plot) -> dict[str, str | None]:
    return {"Title": plot.title, "Identifier": plot.identifier, "Date": None}


def _fill(figure: Figure, canvas: FigureCanvasAgg, plot: Plot) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    panels = _panels(left, right, plot)
    for panel in panels:
        _draw_panel(panel, plot.dots)
    left.set_ylabel("Output token throughput (tokens/s)")
    left.set_ylim(0, 1.12 * max(dot.tokens_per_s for dot in plot.dots))
    right.tick_params(labelleft=True)
    _caption(figure, 0.985, _cut(plot.title, _TITLE_COLUMNS), _INK, 12)
    _caption(figure, 0.925, _reading(plot), _GREY, 9)
    _caption(figure, 0.05, _foot(plot), _LIMIT_COLOUR, 9)
    n_rows = _legend(figure, plot)
    bottom = 0.05 * bool(plot.lacking) + 0.055 * n_rows
    figure.tight_layout(rect=(0, bottom, 1, 0.89), w_pad=2.5)
    canvas.draw()  # type: ignore[no-untyped-call]  # only now is known where things are
    for panel in panels:
        _label(panel, canvas, plot.dots)


def _caption(figure: Figure, y: float, text: str, colour: str, size: float) -> None:
    figure.text(0.01, y, text, color=colour, size=size, va="top")


def _legend(figure: Figure, plot: Plot) -> int:
    """Explain colours and marks, where there are several; return how many rows that takes."""
    groups, levels = _groups(plot.dots), {dot.level for dot in plot.dots}
    keys = [_mark("VALID", _colour(groups, group), label=group) for group in groups]
    keys = keys if len(groups) > 1 else []
    if levels != {"VALID"}:
        keys += [_mark(level, _GREY, label=level) for level in _MARKS if level in levels]
    if keys:
        y = 0.05 if plot.lacking else 0.0
        figure.legend(handles=keys, loc="lower left", ncols=_PER_ROW, bbox_to_anchor=(0.0, y))
    return math.ceil(len(keys) / _PER_ROW)


def _groups(dots: Sequence[Dot]) -> list[str]:
    return list(dict.fromkeys(dot.group for dot in dots))


def _colour(groups: Sequence[str], group: str) -> str:
    return _PALETTE[groups.index(group) % len(_PALETTE)]


def _panels(left: Axes, right: Axes, plot: Plot) -> tuple[_Panel, _Panel]:
    """Return both halves. A limit of p99 needs the p99 beside it: then a whisker goes up to it."""
    dots, limits = plot.dots, plot.limits
    p99s = tuple(dot.latency_p99_ms if limits.latency_p99_ms else None for dot in dots)
    ttft = tuple(dot.ttft_p95_ms for dot in dots)
    latency = tuple(dot.latency_p95_ms for dot in dots)
    title = "p95 request latency (ms" + ("; whiskers: up to p99)" if any(p99s) else ")")
    none = (None,) * len(dots)
    return (
        _Panel(left, "p95 TTFT (ms)", ttft, none, limits.ttft_p95_ms, "SLO p95"),
        _Panel(right, title, latency, p99s, limits.latency_p99_ms, "SLO p99"),
    )


def _draw_panel(panel: _Panel, dots: Sequence[Dot]) -> None:
    axes, groups = panel.axes, _groups(dots)
    axes.set_xlabel(panel.title)
    axes.set_axisbelow(True)
    for group in groups:
        _draw_line(panel, [(x, d) for x, _, d in _of(panel, dots) if d.group == group], groups)
    for x_ms, whisker_ms, dot in _of(panel, dots):
        colour = _colour(groups, dot.group)
        if whisker_ms:
            _whisker(axes, x_ms, whisker_ms, dot.tokens_per_s, colour)
        axes.add_line(_mark(dot.level, colour, (x_ms, dot.tokens_per_s)))
    if panel.limit_ms is not None:
        axes.axvline(panel.limit_ms, color=_LIMIT_COLOUR, linestyle="--", linewidth=1.2)
    _scale(panel)


def _draw_line(panel: _Panel, members: Sequence[tuple[float, Dot]], groups: Sequence[str]) -> None:
    """Join the points of one group, but for the INVALID: a line says that they belong together."""
    joined = [(x_ms, dot.tokens_per_s) for x_ms, dot in members if dot.level != _INVALID]
    xs = [x for x, _ in joined]
    ys = [y for _, y in joined]
    panel.axes.plot(xs, ys, color=_colour(groups, members[0][1].group), alpha=0.45)


def _of(panel: _Panel, dots: Sequence[Dot]) -> Iterator[tuple[float, float | None, Dot]]:
    return zip(panel.xs_ms, panel.whiskers_ms, dots, strict=True)


def _whisker(axes: Axes, from_ms: float, to_ms: float, y: float, colour: str) -> None:
    axes.plot((from_ms, to_ms), (y, y), color=colour, linewidth=1)
    axes.plot(to_ms, y, color=colour, marker="|", markersize=8)


def _mark(
    level: str, colour: str, at: tuple[float, float] | None = None, label: str = ""
) -> Line2D:
    """Return a point, or its like for the legend: VALID full, SUSPECT hollow, INVALID a cross."""
    from matplotlib.lines import Line2D  # noqa: PLC0415 - as in draw

    edge = _LIMIT_COLOUR if level == _INVALID else colour
    return Line2D(
        [at[0]] if at else [],
        [at[1]] if at else [],
        label=label,
        linestyle="none",
        marker=_MARKS.get(level, "s"),
        markersize=8,
        markerfacecolor="white" if level == "SUSPECT" else edge,
        markeredgecolor=edge,
        markeredgewidth=1.5,
        zorder=3,
    )


def _scale(panel: _Panel) -> None:
    """Let the axis hold all figures and the limit, logarithmic where they lie far apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator  # noqa: PLC0415 - as in draw

    shown = [*panel.xs_ms, *(w for w in panel.whiskers_ms if w)]
    shown += [panel.limit_ms] if panel.limit_ms else []
    low, high = min(shown), max(shown)
    if low > 0 and high / low > _LOG_FROM:
        panel.axes.set_xscale("log")
        panel.axes.xaxis.set_major_locator(
            LogLocator(subs=(1.0,) if high / low > _WIDE else (1.0, 2.0, 5.0))
        )
        panel.axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        panel.axes.set_xlim(low / 1.5, high * 1.6)
    else:
        panel.axes.set_xlim(0, 1.12 * high)
    panel.axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _label(panel: _Panel, canvas: FigureCanvasAgg, dots: Sequence[Dot]) -> None:
    """Write the limit, and each point's load where it covers nothing."""
    axes = panel.axes
    frame = Box(*axes.get_window_extent().extents)
    points = [_pixel(axes, x_ms, dot.tokens_per_s) for x_ms, _, dot in _of(panel, dots)]
    texts = [dot.label + (" INVALID" if dot.level == _INVALID else "") for dot in dots]
    sizes = [_size(canvas, text) for text in texts]
    taken = [_write_limit(panel, canvas, frame, points)] if panel.limit_ms is not None else []
    boxes = place(points, sizes, frame, taken, _lines(panel, dots))
    groups = _groups(dots)
    for text, box, dot in zip(texts, boxes, dots, strict=True):
        _write(axes, box, text, _colour(groups, dot.group) if len(groups) > 1 else _INK)


def _write_limit(
    panel: _Panel, canvas: FigureCanvasAgg, frame: Box, points: Sequence[Pixel]
) -> Box:
    """Write what the limit's line means beside its foot or its top, where there is room."""
    text = f"{panel.limit_name} ≤ {panel.limit_ms:g} ms"
    width, height = _size(canvas, text)
    x, _ = _pixel(panel.axes, panel.limit_ms or 0.0, 0)
    places = [
        Box(x0, y0, x0 + width, y0 + height)
        for y0 in (frame.y0 + 4, frame.y1 - 4 - height)
        for x0 in (x + 4, x - 4 - width)
    ]
    box = freest(places, frame, points)
    _write(panel.axes, box, text, _LIMIT_COLOUR)
    return box


def _lines(panel: _Panel, dots: Sequence[Dot]) -> list[tuple[Pixel, Pixel]]:
    """Return what is drawn between the points, and the whiskers and the limit."""
    axes = panel.axes
    low, high = axes.get_ylim()
    lines = []
    last: dict[str, Pixel] = {}
    for x_ms, whisker_ms, dot in _of(panel, dots):
        here = _pixel(axes, x_ms, dot.tokens_per_s)
        if whisker_ms:
            lines.append((here, _pixel(axes, whisker_ms, dot.tokens_per_s)))
        if dot.level != _INVALID:
            lines += [(last[dot.group], here)] if dot.group in last else []
            last[dot.group] = here
    if panel.limit_ms is not None:
        lines.append((_pixel(axes, panel.limit_ms, low), _pixel(axes, panel.limit_ms, high)))
    return lines


def _pixel(axes: Axes, x: float, y: float) -> Pixel:
    across, up = axes.transData.transform((x, y))
    return float(across), float(up)


def _size(canvas: FigureCanvasAgg, text: str) -> Pixel:
    from matplotlib.font_manager import FontProperties  # noqa: PLC0415 - as in draw

    font = FontProperties(size=_LABEL_SIZE)
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    width, _, _ = renderer.get_text_width_height_descent(text, font, ismath=False)
    _, line_height, _ = renderer.get_text_width_height_descent("lp", font, ismath=False)
    return float(width), float(line_height)


def _write(axes: Axes, box: Box, text: str, colour: str) -> None:
    figure = axes.figure
    x, y = figure.transFigure.inverted().transform((box.x0, box.y0))
    figure.text(x, y, text, color=colour, size=_LABEL_SIZE, va="bottom")


def _reading(plot: Plot) -> str:
    load = "request rate" if plot.dots[0].label.endswith("/s") else "concurrency"
    return f"Each point is labelled with its {load}. Up and to the left is better."


def _foot(plot: Plot) -> str:
    """Name the points that have no figures, and so are not drawn."""
    return _cut(f"No figures: {', '.join(plot.lacking)}", _FOOT_COLUMNS) if plot.lacking else ""


def _cut(text: str, columns: int) -> str:
    """Shorten a text that would run out of the picture; wide characters count twice."""
    if display_width(text) <= columns:
        return text
    while display_width(text) >= columns:
        text = text[:-1]
    return text + "…"
