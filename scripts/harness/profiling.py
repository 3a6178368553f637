"""One run from plan to published folder: AIPerf is run, checked, summed up and recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness import calibration, endpoint, provenance, slo, tokenizer
from harness.cells import KEY, cell_key
from harness.command import (
    as_exported,
    as_typed,
    build_argv,
    build_environment,
    build_search_argv,
    child_environment,
)
from harness.console import has_begun, reason_in
from harness.endpoint import Access, EndpointFacts, Server
from harness.engine import EngineExit, Stopping, StopRules, run_engine
from harness.errors import (
    DataError,
    EndpointError,
    EngineError,
    HarnessError,
    StoppedError,
    TimeLimitError,
)
from harness.metrics import GOODPUT
from harness.plan import Plan, describe, reuse_note
from harness.probes import NEW_LIMIT, OLD_LIMIT, Limit, Question, brief
from harness.records import ROWS, Records, read_run
from harness.render import about_line, write_summary
from harness.runs import (
    final_name,
    now_utc,
    publish,
    read_manifest,
    working_folder,
    write_manifest,
    write_text,
)
from harness.settings import Settings, redacted
from harness.streams import broken_streams
from harness.summary import Summary, summarize
from harness.terms import asked_of, limits_of
from harness.texts import one_line, scrub, scrub_files
from harness.time_limit import run_time_limit_s
from harness.tokenizer import TokenizerChoice
from harness.verdict import Level, Verdict, judge

Talk = Callable[[str], None]
#: Settings, plan, tokenizer, server and folder become AIPerf's arguments.
Build = Callable[[Settings, Plan, TokenizerChoice, str, Path], list[str]]
_UNTOUCHED = "an earlier result of this name is untouched"
CONSOLE_LOG = "aiperf_console.log"
LOOK_TIMEOUT_S = 5.0
_BRIEF_TIMEOUT_S = 30.0
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Target:
    """The server as it showed itself before the run, and the tokenizer chosen for its model.

    ``legacy_max_tokens``: it takes the output length as max_tokens only. ``notes`` say what was
    changed against the settings for it.
    """

    base: str
    access: Access
    facts: EndpointFacts
    tokenizer: TokenizerChoice
    legacy_max_tokens: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run, published in ``folder``."""

    folder: Path
    summary: Summary
    verdict: Verdict
    slos: tuple[slo.Result, ...] = ()

    @property
    def is_good(self) -> bool:
        """Tell whether the run is not INVALID and meets every objective."""
        return self.verdict.level is not Level.INVALID and not slo.missed(self.slos)


def look_at(settings: Settings, environ: Mapping[str, str]) -> Target:
    """Ask the server for its models and one short answer, and choose the tokenizer.

    Raises EndpointError when the server cannot be reached, refuses the key or the request (a model
    that it does not serve), or does not stream. One that is busy is left to the run.
    """
    base, key = settings.base, settings.openai_api_key
    access = endpoint.access(base, {**settings.handed_on, **environ})
    facts = endpoint.look(base, key, LOOK_TIMEOUT_S, access)
    roots = {model.id: model.root for model in facts.models or ()}
    asked: Limit = OLD_LIMIT if settings.use_legacy_max_tokens else NEW_LIMIT
    question = Question(settings.model, limit=asked, extra=settings.extra_inputs)
    timeout_s = min(settings.request_timeout_seconds, _BRIEF_TIMEOUT_S)
    answer = brief(Server(base, key, access), question, timeout_s)
    for url in settings.more_urls:
        how = endpoint.access(url, {**settings.handed_on, **environ})
        _look_at_another(Server(url, key, how), question, timeout_s)
    resolve = tokenizer.hugging_face({**settings.handed_on, **environ})
    files = tokenizer.offline_files()
    counts = answer is not None and answer.usage is not None
    choice = tokenizer.choose(settings, roots, resolve, lambda: counts, files)
    understood = (answer.limit if answer else None) or asked
    notes = () if understood == asked else (f"the server takes no {asked}: {understood} is sent",)
    return Target(base, access, facts, choice, understood == OLD_LIMIT, notes)


def _look_at_another(server: Server, question: Question, timeout_s: float) -> None:
    """Check a server that shares the load: it must answer, and with the same model."""
    facts = endpoint.look(server.base, server.key, LOOK_TIMEOUT_S, server.how)
    served = [model.id for model in facts.models or ()]
    if served and question.model not in served:
        what = f"does not serve {question.model} but {', '.join(served[:_MOST_NAMED])}"
        raise EndpointError(server.base, what, "take it out of MORE_URLS, or start it with MODEL")
    brief(server, question, timeout_s)


def preview(
    settings: Settings, plan: Plan, environ: Mapping[str, str], build: Build = build_argv
) -> str:
    """Return what would be exported and run, as a person would type it. Asks the server nothing."""
    resolve = tokenizer.hugging_face({**settings.handed_on, **environ})
    choice = tokenizer.choose(settings, {}, resolve, lambda: True, tokenizer.offline_files())
    folder = Path(settings.artifacts_dir, plan.name)
    argv = build(settings, plan, choice, settings.base, folder)
    script = as_exported(build_environment(settings, choice)) + as_typed(argv) + "\n"
    if settings.openai_api_key:
        script += "# The API key is added inside the process: it is on no command line.\n"
    return script + f"# Tokenizer: {choice.why}; a run asks the server as well\n"


def measure(
    settings: Settings, plan: Plan, target: Target, environ: Mapping[str, str], talk: Talk
) -> Outcome:
    """Run AIPerf as planned and publish the result under its name.

    A run that was interrupted, or in which AIPerf or every request failed, stays ``.partial`` with
    what it has, and StoppedError, EngineError or EndpointError says so.
    """
    with working_folder(
        Path(settings.artifacts_dir), plan.name, lambda place: _tell_leftover(settings, place, talk)
    ) as partial:
        talk(_announcement(settings, plan, target))
        if note := reuse_note(plan):
            talk(f"note: {note}")
        run = _prepare(settings, plan, target, partial)
        with _ran(run, environ, talk) as ended:
            return _conclude(settings, target, ended, partial, talk)


def _conclude(
    settings: Settings, target: Target, ended: EngineExit, partial: Path, talk: Talk
) -> Outcome:
    """Sum up what AIPerf left, and publish it if the run came to its end."""
    try:
        records = read_run(partial, _scrubber(settings))
    except DataError:
        if ended.status or ended.was_stopped:  # no summary will say so
            reason = f"no request was measured: {_ending(ended)}"
            _record_verdict(partial, Level.INVALID, [reason])
        raise _failed(settings, ended, partial, has_rows=False) from None
    if not records.incomplete and (ended.status or ended.was_stopped):
        records = replace(records, incomplete=_ending(ended))
    summary = summarize(records)
    _calibrate(settings, summary, partial, talk)
    summary = _noted(summary, partial)
    verdict = _judged(settings, summary, partial)
    slos = slo.check(summary, slo.objectives(settings))
    _record_verdict(partial, verdict.level, verdict.texts)
    if slos:
        write_manifest(partial, read_manifest(partial) | {"slo": slo.stored(slos)})
    write_summary(summary, verdict, about_line(partial), partial, slos)
    if not records.n_used and records.errors and not ended.was_stopped:
        raise _all_failed(records, settings, target, partial)
    if ended.status or ended.was_stopped:
        raise _failed(settings, ended, partial, has_rows=True)
    return Outcome(publish(partial), summary, verdict, slos)


def search(
    settings: Settings, plan: Plan, target: Target, environ: Mapping[str, str], talk: Talk
) -> Path:
    """Let AIPerf itself search for the capacity; return the folder of its files.

    Raises as `measure` does.
    """
    with working_folder(
        Path(settings.artifacts_dir), plan.name, lambda place: _tell_leftover(settings, place, talk)
    ) as partial:
        talk(f"AIPerf searches for up to {plan.concurrency} users at {target.base}: Ctrl-C ends it")
        run = _prepare(settings, plan, target, partial, build_search_argv)
        with _ran(run, environ, talk) as ended:
            if ended.status or ended.was_stopped:
                _record_verdict(partial, Level.INVALID, [_ending(ended)])
                raise _failed(settings, ended, partial, has_rows=any(partial.glob("search_*")))
            return publish(partial)


def read_outcome(settings: Settings, folder: Path) -> Outcome:
    """Return a finished run, judged by today's limits and objectives.

    Raises DataError where it cannot be read.
    """
    summary = _noted(summarize(read_run(folder, _scrubber(settings))), folder)
    summary = _without_foreign_goodput(settings, summary, folder)
    slos = slo.check(summary, slo.objectives(settings))
    return Outcome(folder, summary, _judged(settings, summary, folder), slos)


def key_of(settings: Settings, plan: Plan, target: Target, environ: Mapping[str, str]) -> str:
    """Return the key of this run, see `harness.cells`."""
    asked = replace(settings, use_legacy_max_tokens=target.legacy_max_tokens)
    version = provenance.version_of("aiperf")
    prompts = _prompts_hash(settings)
    return cell_key(asked, plan, target.tokenizer, target.facts, prompts, version, environ)


def _without_foreign_goodput(settings: Settings, summary: Summary, folder: Path) -> Summary:
    """Leave goodput out where AIPerf counted it by other objectives than today's."""
    if _objectives(read_manifest(folder).get("settings")) == _objectives(redacted(settings)):
        return summary
    rates = tuple(rate for rate in summary.rates if rate.metric is not GOODPUT)
    return replace(summary, rates=rates)


def _objectives(settings: object) -> dict[str, object]:
    items = settings.items() if isinstance(settings, dict) else ()
    return {key: value for key, value in items if key.startswith("SLO_") and value is not None}


def _judged(settings: Settings, summary: Summary, folder: Path) -> Verdict:
    manifest, limits = read_manifest(folder), limits_of(settings)
    broken = broken_streams(folder, summary, limits, manifest)
    more = calibration.finding_of(manifest).reasons
    return judge(summary, limits, asked_of(manifest), (*broken, *more))


def _calibrate(settings: Settings, summary: Summary, partial: Path, talk: Talk) -> None:
    """Hold the run against this machine's calibration, if there is one; run.json keeps the rest."""
    manifest = read_manifest(partial)
    if known := calibration.load(Path(settings.artifacts_dir), talk):
        found = calibration.against(known, summary, asked_of(manifest).concurrency)
        write_manifest(partial, manifest | {calibration.FOLDER: found.stored()})


def _noted(summary: Summary, folder: Path) -> Summary:
    return calibration.noted(summary, calibration.finding_of(read_manifest(folder)))


def _announcement(settings: Settings, plan: Plan, target: Target) -> str:
    servers = ", ".join((target.base, *settings.more_urls))
    return f"{settings.model} at {servers}: {describe(plan)}"


def _tell_leftover(settings: Settings, place: Path, talk: Talk) -> None:
    _scrub(settings, place)  # a run that was killed has not been
    talk(f"note: an unfinished run of this name was there; it is kept in {place}")


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of AIPerf, ready to start. ``manifest`` is filled while it runs."""

    settings: Settings
    plan: Plan
    target: Target
    partial: Path
    argv: list[str]
    exported: Mapping[str, str]
    manifest: dict[str, object]
    time_limit_s: float | None


def _prepare(
    settings: Settings, plan: Plan, target: Target, partial: Path, build: Build = build_argv
) -> _Run:
    """Return what is to be run, and leave it as command.txt in ``partial``."""
    asked = replace(settings, use_legacy_max_tokens=target.legacy_max_tokens)
    argv = build(asked, plan, target.tokenizer, target.base, partial)
    exported = build_environment(settings, target.tokenizer)
    write_text(partial / "command.txt", as_exported(exported) + as_typed(argv) + "\n")
    manifest = _manifest(settings, plan, target) | {"argv": argv, "started": now_utc()}
    # AIPerf's own search makes as many runs as it likes
    is_one_run = build is build_argv
    time_limit_s = run_time_limit_s(settings, plan) if is_one_run else settings.run_time_limit
    return _Run(settings, plan, target, partial, argv, exported, manifest, time_limit_s)


@contextmanager
def _ran(run: _Run, environ: Mapping[str, str], talk: Talk) -> Iterator[EngineExit]:
    """Run AIPerf and yield how it ended, with its console log and run.json in place.

    From AIPerf's end until the block's, requests to stop wait: that is seconds at most, and neither
    is a key left in the files nor what was measured lost. Then StoppedError says so.
    """
    try:
        with ExitStack() as ending:
            try:
                ended = _engine(run, environ, talk, ending)
            finally:
                _scrub(run.settings, run.partial)
            if run.settings.ui_type == "simple":
                talk("")  # AIPerf's last progress bar ends without a line end
            write_manifest(
                run.partial, run.manifest | {"ended": now_utc(), "aiperf_exit": ended.status}
            )
            yield ended
    except KeyboardInterrupt:
        raise _stopped_at_the_end(run.partial) from None


def _engine(run: _Run, environ: Mapping[str, str], talk: Talk, ending: ExitStack) -> EngineExit:
    def say_stopping(stopping: Stopping) -> None:
        why = f"{run.time_limit_s:g} s are over" if stopping.out_of_time else "stopping"
        kill = f"once more, or {stopping.patience_s:g} s, and it is killed"
        talk(f"\n{why}: AIPerf writes what it has ({kill})")

    return run_engine(
        run.argv,
        child_environment(environ, run.exported, run.target.tokenizer.dropped),
        run.settings.openai_api_key,
        run.partial / CONSOLE_LOG,
        ui=run.settings.ui_type or "none",
        # in the seconds in which AIPerf starts, so that it costs none
        meanwhile=lambda: _record_origin(run, environ),
        rules=StopRules(say_stopping, lambda: _has_results(run.partial), ending, run.time_limit_s),
    )


def _record_origin(run: _Run, environ: Mapping[str, str]) -> None:
    run.manifest.update(versions=provenance.versions(), machine=provenance.machine())
    run.manifest[KEY] = key_of(run.settings, run.plan, run.target, environ)
    write_manifest(run.partial, run.manifest)


def _manifest(settings: Settings, plan: Plan, target: Target) -> dict[str, object]:
    """Return what is known before the run; the rest is added as it becomes known."""
    return {
        "name": plan.name,
        "mode": plan.mode,
        "model": settings.model,
        "settings": redacted(settings),
        "plan": dataclasses.asdict(plan),
        "tokenizer": dataclasses.asdict(target.tokenizer),
        "endpoint": {
            "url": target.base,
            "more_urls": list(settings.more_urls),
            **dataclasses.asdict(target.facts),
        },
        "prompts_hash": _prompts_hash(settings),
    }


def _prompts_hash(settings: Settings) -> str | None:
    prompts = settings.input_file
    return provenance.content_hash(Path(prompts)) if prompts else None


def _scrubber(settings: Settings) -> Callable[[str], str]:
    return lambda text: scrub(text, settings.openai_api_key)


def _scrub(settings: Settings, folder: Path) -> None:
    if settings.openai_api_key:
        scrub_files(folder, settings.openai_api_key)


def _has_results(partial: Path) -> bool:
    if has_begun(partial / CONSOLE_LOG):
        return True
    try:
        return (partial / ROWS).stat().st_size > 0
    except OSError:
        return False


def _record_verdict(partial: Path, level: Level, reasons: Sequence[str]) -> None:
    facts: dict[str, object] = {"level": level, "reasons": list(reasons)}
    write_manifest(partial, read_manifest(partial) | {"verdict": facts})


def _ending(ended: EngineExit) -> str:
    """Say in a few words how a run ended that did not come to its end."""
    if ended.interrupted:
        return "interrupted"
    if ended.time_limit_s is not None:
        return f"stopped after {ended.time_limit_s:g} s (RUN_TIME_LIMIT)"
    if ended.status < 0:
        return f"AIPerf was killed by signal {-ended.status}"
    return f"AIPerf ended with status {ended.status}"


def _failed(
    settings: Settings, ended: EngineExit, partial: Path, *, has_rows: bool
) -> HarnessError:
    kept = f"what it has is kept in {partial}"
    left = f"; {kept}" if has_rows else " before any request was measured"
    if ended.interrupted:
        return StoppedError("AIPerf", f"interrupted{left}", _UNTOUCHED)
    if ended.time_limit_s is not None:
        remedy = "see what the server was doing, or raise RUN_TIME_LIMIT"
        return TimeLimitError("AIPerf", f"{_ending(ended)}{left}", remedy)
    log = partial / CONSOLE_LOG
    reason = one_line(scrub(reason_in(log), settings.openai_api_key))
    what = _ending(ended).removeprefix("AIPerf ") + (f": {reason}" if reason else "")
    return EngineError("AIPerf", what + (left if has_rows else ""), f"see {log}")


def _stopped_at_the_end(partial: Path) -> StoppedError:
    if partial.exists():
        return StoppedError("run", f"interrupted; what it has is kept in {partial}", _UNTOUCHED)
    what = f"interrupted when it had ended; it is kept in {final_name(partial)}"
    return StoppedError("run", what, "its result stands")


def _all_failed(
    records: Records, settings: Settings, target: Target, partial: Path
) -> HarnessError:
    """Tell why no request succeeded, by the error that most of them met."""
    most = max(records.errors, key=lambda group: group.n)
    served = tuple(model.id for model in target.facts.models or ())
    if most.code:
        cause = endpoint.explain_status(
            most.code,
            most.message,
            base=target.base,
            model=settings.model,
            key_sent=bool(settings.openai_api_key),
            served=served,
        )
        what, remedy = cause.what, cause.remedy
    else:
        what = most.message
        remedy = "see the server's log; `make smoke` sends one request and says how it is answered"
    what = f"all {records.n_failed} requests failed: {what}"
    return EndpointError(target.base, what, f"{remedy} (details in {partial})")
