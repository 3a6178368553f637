"""A Summary and its Verdict as people paste and read them: files and terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from harness.metrics import Metric
from harness.records import Facts
from harness.runs import read_manifest, write_text
from harness.slo import Result
from harness.summary import Latency, Summary
from harness.table import Column, Table, number, to_md, to_text, to_tsv
from harness.verdict import Verdict

TSV = "summary.tsv"
MD = "summary.md"

_TSV_DIGITS = 2
_SLO_HEADINGS = ("Objective", "Measured", "Limit", "Result")
_STATISTICS = ("p50", "p95", "p99", "avg")
_THIN = "*"
_TINY_MS = 0.1
_MOST_DIGITS = 9


def write_summary(
    summary: Summary, verdict: Verdict, about: str, folder: Path, slos: Sequence[Result] = ()
) -> None:
    """Write summary.tsv and summary.md into ``folder``, each whole or not at all.

    Raises UsageError where they cannot be written.
    """
    write_text(folder / TSV, summary_tsv(summary, verdict, slos))
    write_text(folder / MD, summary_md(summary, verdict, about, slos))


def summary_tsv(summary: Summary, verdict: Verdict, slos: Sequence[Result] = ()) -> str:
    """Return summary.tsv: both tables with two decimals, objectives, verdict, reasons."""
    headings = ["metric", *(f"{name}_ms" for name in _STATISTICS), "count", "errors"]
    latencies = Table(
        tuple(Column(heading) for heading in headings),
        tuple(
            (row.metric.title, *_cells(row, _TSV_DIGITS), *_counts(row, summary))
            for row in summary.latencies
        ),
    )
    rates = tuple(
        (rate.metric.title, number(rate.value, _TSV_DIGITS), rate.metric.unit)
        for rate in (*summary.rates, *summary.reasoning)
    )
    rates += tuple(_first_output_rows(summary))
    objectives = tuple((f"SLO {r.slo.name}", r.word, r.slo.told_limit) for r in slos)
    remarks = (*objectives, ("Verdict", str(verdict.level), ""), *_note_rows(summary, verdict))
    columns = tuple(Column(heading) for heading in ("metric", "value", "unit"))
    return to_tsv(latencies) + "\n" + to_tsv(Table(columns, (*rates, *remarks)))


def summary_md(summary: Summary, verdict: Verdict, about: str, slos: Sequence[Result] = ()) -> str:
    """Return summary.md: verdict and reasons, the run in one line, tables, errors, definitions."""
    blocks = [
        f"# {verdict.level}",
        _bullets(verdict.texts),
        about,
        to_md(_latency_table(summary)),
        to_md(_rate_table(summary, ("Metric", "Value", "Unit"))),
        to_md(_slo_table(slos, _SLO_HEADINGS)) if slos else "",
        f"{_accounting(summary)}.",
        _bullets([remark.replace("*", "\\*") for remark in _remarks(summary)]),
        _error_section(summary),
        "## What the figures mean",
        _bullets([f"**{m.title}**: {m.definition}" for m in _shown(summary)]),
    ]
    return "\n\n".join(block.rstrip("\n") for block in blocks if block) + "\n"


def summary_text(
    summary: Summary, verdict: Verdict, about: str, slos: Sequence[Result] = ()
) -> str:
    """Return the summary for a terminal: verdict, run, tables, what to know about them."""
    errors = [f"{group.n} × {group.text}" for group in summary.errors]
    return "".join(
        (
            f"{verdict.level}  {about}\n",
            _indented(verdict.texts),
            "\n",
            to_text(_latency_table(summary)),
            to_text(_rate_table(summary, ("", "", ""))),  # no headings: an empty line
            to_text(_slo_table(slos, ("", "", "", ""))) if slos else "",
            f"\n{_accounting(summary)}\n",
            _indented(errors),
            "".join(f"{remark}\n" for remark in _remarks(summary)),
        )
    )


def about_line(folder: Path, facts: Facts | None = None) -> str:
    """Return in one line what was run: from run.json, else from AIPerf's ``facts``, else its name.

    Raises DataError if run.json cannot be read.
    """
    manifest = read_manifest(folder)
    if manifest:
        parts = _about_manifest(_manifest(manifest))
    else:
        parts = _about_facts(facts) if facts else iter(())
    return " · ".join(parts) or folder.resolve().name


class _Plan(msgspec.Struct):
    """The load, as `harness.plan.Plan` describes it."""

    concurrency: int | None = None
    n_requests: int | None = None
    n_conversations: int | None = None
    duration_s: float | None = None
    request_rate: float | None = None
    arrival_pattern: str | None = None
    follows_timestamps: bool = False


class _Endpoint(msgspec.Struct):
    url: str = ""
    more_urls: list[str] = msgspec.field(default_factory=list)


class _Machine(msgspec.Struct):
    cpu: str | None = None
    n_cpus: int | None = None


class _Manifest(msgspec.Struct):
    """The part of run.json that tells a reader what was run."""

    name: str = ""
    model: str = ""
    started: str = ""
    plan: _Plan = msgspec.field(default_factory=_Plan)
    endpoint: _Endpoint = msgspec.field(default_factory=_Endpoint)
    machine: _Machine = msgspec.field(default_factory=_Machine)


def _manifest(document: dict[str, object]) -> _Manifest:
    try:
        return msgspec.convert(document, _Manifest)
    except msgspec.ValidationError:  # of another schema: the figures do not depend on it
        return _Manifest()


def _about_manifest(manifest: _Manifest) -> Iterator[str]:
    urls = (manifest.endpoint.url, *manifest.endpoint.more_urls)
    yield from _about(manifest.model, ", ".join(urls), manifest.plan)
    if manifest.name:
        yield manifest.name
    if manifest.machine.cpu:
        cpus = f", {manifest.machine.n_cpus} CPUs" if manifest.machine.n_cpus else ""
        yield f"from {manifest.machine.cpu}{cpus}"
    if manifest.started:
        yield manifest.started


def _about_facts(facts: Facts) -> Iterator[str]:
    yield from _about(facts.model, facts.url, _Plan(facts.concurrency, facts.n_requests))
    if facts.aiperf_version:
        yield f"AIPerf {facts.aiperf_version}"


def _about(model: str, url: str, plan: _Plan) -> Iterator[str]:
    if model or url:
        yield " at ".join(part for part in (model, url) if part)
    yield from _about_load(plan)


def _about_load(plan: _Plan) -> Iterator[str]:
    if plan.request_rate is not None:
        yield f"{plan.request_rate:g} requests/s ({plan.arrival_pattern})"
    if plan.follows_timestamps:
        yield "at their timestamps"
    if plan.concurrency is not None:
        yield f"concurrency {plan.concurrency}"
    if plan.n_requests is not None:
        yield f"{plan.n_requests} requests"
    if plan.n_conversations is not None:
        yield f"{plan.n_conversations} conversations"
    if plan.duration_s is not None:
        yield f"{plan.duration_s:g} s"


def _cells(row: Latency, digits: int) -> list[str]:
    return [number(figure, digits) for figure in row.spread.figures_ms]


def _digits(row: Latency) -> int:
    """Return the decimals for people: enough that the tiny figures of a burst do not read as 0."""
    tiny = [figure for figure in row.spread.figures_ms if figure and 0 < figure < _TINY_MS]
    if not tiny:
        return row.metric.digits
    two_significant = 1 - math.floor(math.log10(min(tiny)))
    return min(max(row.metric.digits + 2, two_significant), _MOST_DIGITS)


def _counts(row: Latency, summary: Summary) -> tuple[str, str]:
    return str(row.spread.n), str(summary.n_failed)


def _first_output_rows(summary: Summary) -> Iterator[tuple[str, str, str]]:
    """Yield the first output token's figures; the first block has its three rows, no more."""
    if row := summary.first_output:
        for name, figure in zip(_STATISTICS[:2], row.spread.figures_ms, strict=False):
            yield f"{row.metric.title} {name}", number(figure, _TSV_DIGITS), row.metric.unit


def _shown(summary: Summary) -> list[Metric]:
    rates = (*summary.rates, *summary.reasoning)
    return [*(row.metric for row in summary.all_latencies), *(rate.metric for rate in rates)]


def _note_rows(summary: Summary, verdict: Verdict) -> Iterator[tuple[str, str, str]]:
    for text in (*verdict.texts, *summary.notes, summary.thin_note):
        if text:
            yield "Note", text, ""


def _latency_table(summary: Summary) -> Table:
    """Return the latencies rounded for people; a p95 or p99 of few requests carries a mark."""
    headings = (*(f"{name} ms" for name in _STATISTICS), "count", "errors")
    # Where one figure is marked those below and above get a blank: figures stay aligned.
    latencies = summary.all_latencies
    blank_95 = " " if any(row.is_p95_thin for row in latencies) else ""
    blank_99 = " " if any(row.is_p99_thin for row in latencies) else ""
    rows = []
    for row in latencies:
        p50, p95, p99, avg = _cells(row, _digits(row))
        p95 += _THIN if row.is_p95_thin else blank_95
        p99 += _THIN if row.is_p99_thin else blank_99
        rows.append((row.metric.title, p50, p95, p99, avg, *_counts(row, summary)))
    return Table((Column("", "left"), *(Column(heading) for heading in headings)), tuple(rows))


def _rate_table(summary: Summary, headings: tuple[str, str, str]) -> Table:
    name, value, unit = headings
    rows = tuple(
        (rate.metric.title, number(rate.value, rate.metric.digits), rate.metric.unit)
        for rate in (*summary.rates, *summary.reasoning)
    )
    return Table((Column(name, "left"), Column(value), Column(unit, "left")), rows)


def _slo_table(slos: Sequence[Result], headings: tuple[str, str, str, str]) -> Table:
    name, figure, limit, word = headings
    rows = tuple((f"SLO {r.slo.name}", r.told_figure, r.slo.told_limit, r.word) for r in slos)
    columns = (Column(name, "left"), Column(figure), Column(limit, "left"), Column(word, "left"))
    return Table(columns, rows)


def _accounting(summary: Summary) -> str:
    """Say where every row went; parts that are zero are left out."""
    counts = summary.counts
    named = (
        (counts.n_used, "used"),
        (counts.n_warmup, "warm-up"),
        (counts.n_failed, "failed"),
        (counts.n_cancelled, "cancelled"),
        (counts.n_malformed, "not readable"),
    )
    parts = [f"{n} {word}" for n, word in named if n] or ["none used"]
    rows = "row" if counts.n_read == 1 else "rows"
    return f"{counts.n_read} {rows} in {summary.source}: {', '.join(parts)}"


def _remarks(summary: Summary) -> list[str]:
    marked = f"{_THIN} {summary.thin_note}" if summary.thin_note else ""
    return [remark for remark in (marked, *summary.notes) if remark]


def _error_section(summary: Summary) -> str:
    if not summary.errors:
        return ""
    columns = (Column("Requests"), Column("Error", "left"))
    rows = tuple((str(group.n), _code(group.text)) for group in summary.errors)
    return "## Errors\n\n" + to_md(Table(columns, rows))


def _code(text: str) -> str:
    """Return text of a server's, as code: Markdown and HTML in it are shown, not followed."""
    return "`" + text.replace("`", "'") + "`"


def _bullets(lines: Sequence[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _indented(lines: Sequence[str]) -> str:
    return "".join(f"  {line}\n" for line in lines)
