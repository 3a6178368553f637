"""A quick look: a server found on this machine, what one user sees of it, how many it serves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import endpoint, slo
from harness import settings as configuration
from harness.capacity import Edge, Probe, find_edge, users
from harness.connections import keeping
from harness.endpoint import EndpointFacts, Server
from harness.errors import EndpointError, EngineError, TimeLimitError
from harness.metrics import OUTPUT_TOKEN_THROUGHPUT_PER_USER, TTFT
from harness.plan import Plan, make_plan
from harness.probes import Question, brief
from harness.profiling import Talk, Target
from harness.settings import Settings
from harness.sweep import run_cell
from harness.table import number
from harness.verdict import Level

BUDGET_S = 60.0  # no level is begun that would not end within it
_MOST_S = 80.0  # what is under way then is stopped
_LEAST_LEVEL_S = 15.0
_LOOK_TIMEOUT_S = 0.5
_ASK_TIMEOUT_S = 10.0
_PAUSE_S = 0.5
_GROWTH = 1.5  # a level of twice the users takes longer than the last, but for its fixed part
_N_REQUESTS = 10
_N_CAVEATS = 2
DEFAULT_SLOS = {"SLO_TTFT_P95_MS": "1000", "SLO_ITL_P95_MS": "100"}
_LOAD = {
    "INPUT_TOKENS_MEAN": "64",
    "INPUT_TOKENS_STDDEV": "0",
    "OUTPUT_TOKENS_MEAN": "32",
    "REQUEST_COUNT": str(_N_REQUESTS),
}
#: Settings of a run that would make it another than a quick look.
_LEFT_ASIDE = (
    *("INPUT_FILE", "REQUEST_RATE", "BENCHMARK_DURATION", "MORE_URLS", "WARMUP_REQUESTS"),
    *("RANDOM_SEED", "CUSTOM_DATASET_TYPE", "RUN_TIME_LIMIT", "CONCURRENCY", "RESET_KV_CACHE"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kind of server listens unless it is told otherwise."""

    kind: str
    url: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A server that answered, and what it says of itself."""

    place: Place
    facts: EndpointFacts


@dataclass(frozen=True, slots=True)
class Look:
    """What a quick look found; ``out_of_time`` tells that the edge was not reached."""

    settings: Settings
    edge: Edge
    probes: tuple[Probe, ...]
    out_of_time: bool
    are_default: bool


class _TimeIsUpError(Exception):
    """No further level fits into the time, or the last one did not."""


PLACES = tuple(
    Place(kind, f"http://127.0.0.1:{port}")
    for kind, port in (
        ("Ollama", 11434),
        ("vLLM", 8000),
        ("llama.cpp", 8080),
        ("LM Studio", 1234),
        ("SGLang", 30000),
    )
)


def find_servers(places: Sequence[Place]) -> tuple[Seen, ...]:
    """Ask every place for its models, all at once: those that answered with a list, in order."""

    def ask(place: Place) -> Seen | None:
        try:
            facts = endpoint.look(place.url, None, _LOOK_TIMEOUT_S)
        except EndpointError:
            return None
        return Seen(place, facts) if facts.models else None

    with ThreadPoolExecutor(len(places)) as pool:
        return tuple(seen for seen in pool.map(ask, places) if seen)


def choose_server(seen: Sequence[Seen], places: Sequence[Place], talk: Talk) -> Seen:
    """Return the first server found, and tell of the others. Raises EndpointError without any."""
    if not seen:
        tried = ", ".join(f"{place.kind} at {place.url}" for place in places)
        what = f"no server with models answers on this machine (tried {tried})"
        remedy = "start one, or name yours: make quick AIPERF_URL=http://host:port"
        raise EndpointError("quick", what, remedy)
    first, *others = seen
    talk(f"Server: {first.place.url}, where {first.place.kind} usually listens")
    for other in others:
        talk(f"note: {other.place.url} answers too; make quick AIPERF_URL={other.place.url}")
    return first


def choose_model(facts: EndpointFacts, talk: Talk) -> str:
    """Return the first model that is not by its name for embeddings, and tell which.

    Raises EndpointError where the server lists none.
    """
    names = [model.id for model in facts.models or ()]
    if not names:
        remedy = "name it: make quick MODEL=name"
        raise EndpointError("quick", "the server lists no model", remedy)
    chosen = next((name for name in names if "embed" not in name.lower()), names[0])
    others = f" (of {len(names)}; make quick MODEL=name takes another)" if len(names) > 1 else ""
    talk(f"Model: {chosen}{others}")
    return chosen


def quick_settings(environ: Mapping[str, str], places: Sequence[Place], talk: Talk) -> Settings:
    """Return the settings of a quick look: its own small load, and the server that was found.

    Server, model, key and objectives are those of ``.env`` and the environment, where they are
    set. A server that nobody named gets no key, and ``.env``'s model only if it serves that. Raises
    ConfigError, or EndpointError where there is no server.
    """
    given = configuration.given(environ)
    url = given.get("AIPERF_URL")
    seen = None if url else choose_server(find_servers(places), places, talk)
    model = _named_model(given, environ, seen)
    own = dict.fromkeys(_LEFT_ASIDE, "") | _LOAD
    if model != given.get("MODEL"):
        talk(f"note: {given['MODEL']} of .env is not served there, and its TOKENIZER is not used")
        own |= {"TOKENIZER": environ.get("TOKENIZER", "")}
    own |= {"AIPERF_URL": url or (seen.place.url if seen else ""), "MODEL": model or "unknown"}
    if not any(key.startswith("SLO_") for key in given):
        own |= DEFAULT_SLOS
    settings = configuration.from_environment({**environ, **own})
    settings = replace(settings, openai_api_key=None) if seen else settings
    for notice in settings.notices:
        talk(f"note: {notice}")
    access = endpoint.access(settings.base, {**settings.handed_on, **environ})
    server = Server(settings.base, settings.openai_api_key, access)
    facts = seen.facts if seen else endpoint.look(server.base, server.key, how=access)
    settings = replace(settings, model=model or choose_model(facts, talk), ui_type="none")
    settings = replace(settings, artifacts_dir=str(Path(settings.artifacts_dir, "quick")))
    return _fitted(settings, server, facts, talk, keeps_reuse="CONNECTION_REUSE" in given)


def quick_plan(settings: Settings, n_users: int) -> Plan:
    """Return the load of one level."""
    return make_plan(settings, "sweep", n_users)


def look_around(
    settings: Settings,
    target: Target,
    environ: Mapping[str, str],
    talk: Talk,
    clock: Callable[[], float] = time.monotonic,
    *,
    are_default: bool,
) -> Look:
    """Measure level after level until the edge is found or the time is over.

    Raises EngineError where not even one user could be measured, StoppedError on Ctrl-C.
    """
    levels = _Levels(settings, target, environ, talk, clock)
    try:
        edge, out_of_time = find_edge(levels.meets, settings.capacity_limit), False
    except _TimeIsUpError:
        edge, out_of_time = edge_so_far(levels.probes), True
    if levels.probes[0].point.outcome is None:
        what = f"one user alone could not be measured: {levels.probes[0].point.problem}"
        raise EngineError("quick", what, "try `make smoke`, or `make profile` for a slow server")
    return Look(settings, edge, tuple(levels.probes), out_of_time, are_default)


def edge_so_far(probes: Iterable[Probe]) -> Edge:
    """Return what the levels say that there was time for."""
    missed = min((p.n_users for p in probes if not p.met), default=None)
    met = max((p.n_users for p in probes if p.met), default=0)
    return Edge(met, missed)


def quick_text(look: Look) -> str:
    """Return the three lines: one user, many users, what the figures are worth."""
    return "".join(f"{line}\n" for line in (_one_user(look), _many_users(look), _caveats(look)))


@dataclass(slots=True)
class _Levels:
    """The levels measured so far, and the time that they took."""

    settings: Settings
    target: Target
    environ: Mapping[str, str]
    talk: Talk
    clock: Callable[[], float]
    probes: list[Probe] = field(default_factory=list)
    began_s: float = field(init=False)
    last_s: float = 0.0

    def __post_init__(self) -> None:
        self.began_s = self.clock()

    def meets(self, n_users: int) -> bool:
        begun_s = self.clock() - self.began_s
        if self.probes and begun_s + _GROWTH * self.last_s > BUDGET_S:
            raise _TimeIsUpError
        limit_s = max(_MOST_S - begun_s, _LEAST_LEVEL_S)
        bounded = replace(self.settings, run_time_limit=limit_s)
        plan = quick_plan(bounded, n_users)
        point = run_cell(bounded, plan, self.target, self.environ, self.talk, fresh=True)
        if self.probes and isinstance(point.error, TimeLimitError):
            raise _TimeIsUpError  # of this look's own time: that says nothing of the objectives
        self.probes.append(Probe(n_users, 1, point))
        self.last_s = self.clock() - self.began_s - begun_s
        return self.probes[-1].met


def _named_model(
    given: Mapping[str, str], environ: Mapping[str, str], seen: Seen | None
) -> str | None:
    """Return the model that was named for this server; ``.env``'s may be another server's."""
    model = given.get("MODEL")
    if seen is None or environ.get("MODEL"):
        return model
    served = [one.id for one in seen.facts.models or ()]
    return model if model in served else None


def _fitted(
    settings: Settings, server: Server, facts: EndpointFacts, talk: Talk, *, keeps_reuse: bool
) -> Settings:
    """Return the settings as this server needs them: fresh connections, answers of full length."""
    if not keeps_reuse and _drops(server, settings.model, facts):
        talk("note: this server closes idle connections: each request opens its own")
        settings = replace(settings, connection_reuse="never")
    if settings.extra_inputs or settings.is_openai:
        return settings
    extra = {"ignore_eos": True}
    try:
        takes_it = brief(server, Question(settings.model, extra=extra), _ASK_TIMEOUT_S) is not None
    except EndpointError:  # the request without it, made later, tells whether that is the cause
        takes_it = False
    return replace(settings, extra_inputs=extra) if takes_it else settings


def _drops(server: Server, model: str, facts: EndpointFacts) -> bool:
    if "llama.cpp" in (facts.server or "").lower():
        return True
    kept = keeping(server, Question(model), _PAUSE_S, _ASK_TIMEOUT_S)
    return kept is not None and kept.end == "dropped"


def _one_user(look: Look) -> str:
    outcome = look.probes[0].point.outcome
    assert outcome is not None
    ttft = number(outcome.summary.latency(TTFT).p50_ms, 0) or "?"
    speed = number(outcome.summary.rate(OUTPUT_TOKEN_THROUGHPUT_PER_USER), 0) or "?"
    where = f"{look.settings.model} at {look.settings.base}"
    return f"One user: the first token after {ttft} ms, then {speed} tokens/s (medians; {where})"


def _many_users(look: Look) -> str:
    slos = slo.objectives(look.settings)
    limits = ", ".join(f"{one.name} {one.told_limit}" for one in slos)
    within = f"within {limits}" + (" (the defaults)" if look.are_default else "")
    met, missed = look.edge.met, look.edge.missed
    why = next((f"at {missed} {p.why_not}" for p in look.probes if p.n_users == missed), "")
    if not met:
        return f"Users: not even one {within}; {why}"
    if missed is None:
        stop = "there was no time for more" if look.out_of_time else "CAPACITY_LIMIT allows no more"
        return f"Users: at least {met} at once {within}; {stop}"
    least = "at least " if look.out_of_time and missed - met > 1 else ""
    return f"Users: {least}{met} at once {within}; {why}"


def _caveats(look: Look) -> str:
    counts = [p.point.plan.n_requests or 0 for p in look.probes]
    requests = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    settings = look.settings
    lengths = f"{settings.input_tokens_mean} tokens in, {settings.output_tokens_mean} out"
    parts = [f"a quick look: {requests} requests a level, {lengths}, nothing repeated"]
    parts += _doubts(look.probes)
    keys = " ".join(f"{one.key}={one.limit:g}" for one in slo.objectives(settings))
    return f"Caveats: {'; '.join(parts)}. To be sure: make capacity {keys}"


def _doubts(probes: Iterable[Probe]) -> list[str]:
    """Return why runs whose figures count are not beyond doubt, the first few of them."""
    found: dict[str, str] = {}
    for probe in probes:
        outcome = probe.point.outcome
        if outcome is None or outcome.verdict.level is Level.INVALID:
            continue
        for reason in outcome.verdict.reasons:
            found.setdefault(reason.remedy, f"{users(probe.n_users)}: {reason.figure}")
    more = f"and {len(found) - _N_CAVEATS} more, see summary.md" if len(found) > _N_CAVEATS else ""
    return [*list(found.values())[:_N_CAVEATS], *([more] if more else [])]
