"""Settings: ``.env`` and the environment become one frozen value. No other room reads either.

The class `Settings` is the one table: each field carries its kind, default and sentence.
``.env.example``, ``make help-env``, the README's table and the validation are all made from it.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from dotenv.parser import Binding, parse_stream

from harness.address import OPENAI_BASE, base_url
from harness.errors import ConfigError, UsageError
from harness.kinds import (
    Address,
    Choice,
    ExtraInputs,
    Flag,
    Json,
    Kind,
    Listed,
    ModelName,
    Number,
    Text,
    Whole,
)

T = TypeVar("T")

_POSITIVE_NUMBERS = Listed(Whole(1), "whole numbers, 1 or more")
SECRET = "***"
_SHOWN_CHARS = 100
_LONG_NAME = 7  # letters
#: Keys of `.env` that are handed on to AIPerf and its libraries as they are.
HANDED_ON = (
    "AIPERF_",
    "HF_",
    "TRANSFORMERS_",
    "TIKTOKEN_",
    "SSL_CERT_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)
#: Settings of the place where a run is started, which say nothing of what is measured.
TODAYS = ("ALLOW_ENV_KEY", "ARTIFACTS_DIR", "UI_TYPE")
_SERVER_KEYS = ("AIPERF_URL", "MORE_URLS")
#: Names that verbs take on make's command line; they are no settings, and no typing errors either.
VERB_ARGUMENTS = (
    "DRY_RUN",
    "DEBUG",
    "FRESH",
    "RUN",
    "OUTPUT_DIR",
    "ENV_FILE",
    "PORT",
    "PYTHON",
    "ARGS",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the settings table."""

    key: str
    kind: Kind[object]
    default: str  # as a person would write it; empty for None
    shown: str  # what tables say where the default depends on something else
    group: str
    meaning: str
    secret: bool
    required: bool


def _key(
    group: str,
    kind: Kind[T],
    meaning: str,
    *,
    default: str = "",
    shown: str = "",
    secret: bool = False,
    required: bool = False,
) -> T:
    """Declare one setting: a row of the table, see Entry."""
    value = kind.parse(default) if default else _unset(kind)
    row = {"kind": kind, "default": default, "shown": shown, "group": group, "meaning": meaning}
    metadata = row | {"secret": secret, "required": required}
    declared: T = field(default=value, metadata=metadata, repr=not secret)  # type: ignore[assignment]
    return declared


def _unset(kind: Kind[object]) -> object:
    return () if isinstance(kind, Listed) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the person asked for, checked; None or () is "not set". Units are in the meanings."""

    model: str = _key("Endpoint", ModelName(), "Model name as the server knows it.", required=True)
    aiperf_url: str | None = _key(
        "Endpoint",
        Address(),
        "Server to measure, with or without /v1; empty = the OpenAI API.",
    )
    openai_api_key: str | None = _key(
        "Endpoint",
        Text("a key"),
        "API key; required for the OpenAI API, sent to other servers only if it stands in .env.",
        secret=True,
    )
    allow_env_key: bool = _key(
        "Endpoint",
        Flag(),
        "1 = also send an sk-… key that stands only in the environment to a server not OpenAI's.",
        default="0",
    )
    connection_reuse: str = _key(
        "Endpoint",
        Choice(("pooled", "never", "sticky-user-sessions")),
        "never = a new connection a request, for servers that close idle ones (llama.cpp).",
        default="pooled",
    )
    request_timeout_seconds: float = _key(
        "Endpoint",
        Number(0, above=True),
        "A request that takes longer counts as failed (seconds).",
        default="300",
    )
    concurrency: int = _key(
        "Load", Whole(1), "Requests in flight at once: simulated users.", default="10"
    )
    request_count: int | None = _key(
        "Load",
        Whole(1),
        "Measured requests; at least CONCURRENCY.",
        shown="3 × CONCURRENCY, or 30 s of REQUEST_RATE",
    )
    warmup_requests: int | None = _key(
        "Load",
        Whole(0),
        "Requests before measuring, kept out of the figures; 0 = none.",
        shown="CONCURRENCY, or 3 s of REQUEST_RATE",
    )
    input_tokens_mean: int = _key(
        "Load", Whole(1), "Mean prompt length (ISL, tokens) of synthetic prompts.", default="100"
    )
    input_tokens_stddev: int = _key(
        "Load", Whole(0), "Standard deviation of that length (tokens).", default="20"
    )
    output_tokens_mean: int = _key(
        "Load",
        Whole(1),
        "Output length asked for (OSL, tokens); a server may stop earlier.",
        default="200",
    )
    input_file: str | None = _key(
        "Load",
        Text("a path"),
        "Prompt file instead of synthetic prompts (see prompts/README.md).",
    )
    custom_dataset_type: str = _key(
        "Load",
        Choice(("single_turn", "multi_turn", "random_pool", "mooncake_trace")),
        "What INPUT_FILE holds.",
        default="single_turn",
    )
    extra_inputs: Mapping[str, Json] | None = _key(
        "Load",
        ExtraInputs(),
        "Fields added to each request: min_tokens:50,ignore_eos:true or one JSON object.",
    )
    random_seed: int | None = _key(
        "Load",
        Whole(0),
        "Seed of prompts and sampling; without it each run draws its own and records it.",
        shown="drawn anew",
    )
    request_rate: float | None = _key(
        "Load",
        Number(0, above=True),
        "Requests to send a second, whether or not earlier ones are answered.",
    )
    arrival_pattern: str = _key(
        "Load",
        Choice(("poisson", "constant", "gamma")),
        "How the requests of REQUEST_RATE are spread over time.",
        default="poisson",
    )
    benchmark_duration: float | None = _key(
        "Load",
        Number(0, above=True),
        "Measure for so long (seconds) instead of counting requests.",
    )
    more_urls: tuple[str, ...] = _key(
        "Load",
        Listed(Address(), "addresses"),
        "Further servers of the same model: requests go to AIPERF_URL and these in turn.",
    )
    sweep_concurrencies: tuple[int, ...] = _key(
        "Sweep",
        _POSITIVE_NUMBERS,
        "Concurrencies of make sweep.",
        default="1,5,10,20,50",
    )
    sweep_input_tokens: tuple[int, ...] = _key(
        "Sweep",
        _POSITIVE_NUMBERS,
        "Prompt lengths of make sweep, each at every concurrency; empty = INPUT_TOKENS_MEAN only.",
    )
    sweep_output_tokens: tuple[int, ...] = _key(
        "Sweep",
        _POSITIVE_NUMBERS,
        "Output lengths of make sweep, likewise; empty = OUTPUT_TOKENS_MEAN only.",
    )
    sweep_request_rates: tuple[float, ...] = _key(
        "Sweep",
        Listed(Number(0, above=True), "numbers above 0"),
        "Request rates of make sweep (a second), in place of concurrencies.",
    )
    reset_kv_cache: bool = _key(
        "Sweep",
        Flag(),
        "1 = AIPerf asks the server to empty its prefix cache before each run (vLLM, SGLang).",
        default="0",
    )
    tokenizer: str | None = _key(
        "Tokens",
        Text("a Hugging Face name, a folder, a tiktoken encoding, or builtin"),
        "Tokenizer that makes prompts and counts tokens.",
        shown="chosen",
    )
    use_server_token_count: str = _key(
        "Tokens",
        Choice(("auto", "1", "0")),
        "Count tokens by the server's usage; auto = only when the tokenizer is a stand-in.",
        default="auto",
    )
    use_legacy_max_tokens: bool = _key(
        "Tokens",
        Flag(),
        "1 = ask for the output length as max_tokens, for servers without max_completion_tokens.",
        default="0",
    )
    max_error_rate: float = _key(
        "Limits",
        Number(0, 100),
        "A run with a larger share of failed requests is INVALID (%).",
        default="1",
    )
    max_length_miss: float = _key(
        "Limits",
        Number(0, 100),
        "Share of answers that may be more than 10 % off the length asked for, else SUSPECT (%).",
        default="10",
    )
    max_count_miss: float = _key(
        "Limits",
        Number(0, 100),
        "Largest difference of the client's and the server's token counts, else SUSPECT (%).",
        default="5",
    )
    max_queue: float = _key(
        "Limits",
        Number(0),
        "Longest wait inside the client (p95) as a share of p95 TTFT, else SUSPECT (%).",
        default="10",
    )
    min_concurrency: float = _key(
        "Limits",
        Number(0, 100),
        "Least share of CONCURRENCY in flight, or of REQUEST_RATE sent, else SUSPECT (%).",
        default="80",
    )
    max_cached: float = _key(
        "Limits",
        Number(0, 100),
        "Share of prompt tokens that may come from the server's prefix cache, else SUSPECT (%).",
        default="1",
    )
    max_drift: float = _key(
        "Limits",
        Number(0),
        "Largest change of median latency from a run's first third to its last, else SUSPECT (%).",
        default="25",
    )
    run_time_limit: float | None = _key(
        "Limits",
        Number(0, above=True),
        "A run that takes longer is stopped and keeps what it has (seconds).",
        shown="from the requests and REQUEST_TIMEOUT_SECONDS",
    )
    slo_ttft_p95_ms: float | None = _key(
        "SLO", Number(0, above=True), "Longest p95 time to first token (ms)."
    )
    slo_itl_p95_ms: float | None = _key(
        "SLO", Number(0, above=True), "Longest p95 inter-token latency (ms)."
    )
    slo_latency_p99_ms: float | None = _key(
        "SLO", Number(0, above=True), "Longest p99 request latency (ms)."
    )
    slo_error_rate_pct: float | None = _key(
        "SLO", Number(0, 100), "Largest share of failed requests (%)."
    )
    capacity_engine: str = _key(
        "SLO",
        Choice(("harness", "aiperf")),
        "What searches in make capacity: the harness, or AIPerf's own recipe (minutes a probe).",
        default="harness",
    )
    capacity_limit: int = _key(
        "SLO", Whole(1), "Most concurrent users that make capacity tries.", default="256"
    )
    ui_type: str | None = _key(
        "Display",
        Choice(("simple", "dashboard", "none")),
        "How AIPerf shows progress.",
        shown="simple on a terminal, else none",
    )
    artifacts_dir: str = _key(
        "Display", Text("a folder"), "Where run folders are written.", default="artifacts"
    )
    aiperf_service_registration_timeout: float = _key(
        "AIPerf services",
        Number(0, above=True),
        "Time AIPerf's own processes get to register (seconds); slow on macOS and busy machines.",
        default="120.0",
    )
    aiperf_service_registration_interval: float = _key(
        "AIPerf services",
        Number(0, above=True),
        "Pause between two registration attempts (seconds); read by AIPerf 0.4 only.",
        default="2.0",
    )
    aiperf_service_registration_max_attempts: int = _key(
        "AIPerf services",
        Whole(1),
        "Registration attempts; read by AIPerf 0.4 only.",
        default="20",
    )
    aiperf_service_start_timeout: float = _key(
        "AIPerf services",
        Number(0, above=True),
        "Time AIPerf's own processes get to start (seconds).",
        default="60.0",
    )
    handed_on: Mapping[str, str] = field(default_factory=dict, repr=False)
    notices: tuple[str, ...] = ()
    #: Whether a person set CONCURRENCY: a default must not limit an open loop.
    concurrency_is_set: bool = False

    @property
    def base(self) -> str:
        """The server's address in its one form, without /v1."""
        return self.aiperf_url or OPENAI_BASE

    @property
    def is_openai(self) -> bool:
        """Whether the OpenAI API itself is measured."""
        return self.base == OPENAI_BASE


def table() -> tuple[Entry, ...]:
    """Return the settings table, in the order of `Settings`."""
    return tuple(_entry(f) for f in fields(Settings) if f.metadata)


def from_environment(
    environ: Mapping[str, str], recorded: Mapping[str, str] | None = None
) -> Settings:
    """Read the settings of a verb: those of ``ENV_FILE``, or ``.env`` here, and of ``environ``.

    ``recorded`` as in `load`. Raises ConfigError with every problem found; a file that ENV_FILE
    names must exist.
    """
    return load(_env_file(environ), environ, recorded)


def artifacts_folder(environ: Mapping[str, str]) -> Path:
    """Return where runs are kept, whatever else is wrong with the settings."""
    in_file, _ = _read_env_file(_env_file(environ))
    default = {entry.key: entry.default for entry in table()}["ARTIFACTS_DIR"]
    return Path(_texts(in_file, environ).get("ARTIFACTS_DIR", default))


def given(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the text of each setting that ``.env`` or the environment sets, whatever it is."""
    in_file, _ = _read_env_file(_env_file(environ))
    return _texts(in_file, environ)


def _env_file(environ: Mapping[str, str]) -> Path:
    named = environ.get("ENV_FILE")
    if named and not Path(named).exists():
        raise UsageError("ENV_FILE", f"{named} does not exist", "check the path")
    return Path(named or ".env")


def is_on(environ: Mapping[str, str], name: str) -> bool:
    """Tell whether a switch such as DRY_RUN is on. Raises UsageError for neither yes nor no."""
    text = environ.get(name, "").strip()
    try:
        return bool(text) and Flag().parse(text)
    except ValueError as expected:
        raise UsageError(name, f"{text!r} is not valid", f"set {expected}") from None


def load(
    env_file: Path, environ: Mapping[str, str], recorded: Mapping[str, str] | None = None
) -> Settings:
    """Read ``env_file`` (it may be missing) and the environment into Settings.

    The environment outranks the file, except for OPENAI_API_KEY, where the file outranks it even
    when empty. ``recorded`` are the settings of an earlier run as text; they stand in for the
    file's, of which only what is today's remains, see `_recalled`. Raises ConfigError with every
    problem found.
    """
    in_file, problems = _read_env_file(env_file)
    told: tuple[str, ...] = ()
    is_whole = not problems  # else a missing key may stand in what could not be read
    slips = [*_slips(in_file, env_file.name), *_slips(_make_arguments(environ), "make")]
    problems += [problem for _, problem in slips]
    if recorded is not None:
        in_file, told = _recalled(in_file, recorded, environ, env_file.name)
    texts = _texts(in_file, environ)
    values, wrong = _parse(texts)
    problems += wrong
    if not wrong:
        problems += _contradictions(values)
    if is_whole:
        problems += _missing({*texts, *(meant for meant, _ in slips)})
    if not problems:
        key, notices, problems = _key_to_send(values, in_file, environ)
        values |= {"openai_api_key": key, "notices": told + notices}
    if problems:
        raise ConfigError(problems)
    handed_on = {
        k: v
        for k, v in in_file.items()
        if k.startswith(HANDED_ON) and k not in _KEYS and k not in environ
    }
    is_set = "concurrency" in values
    return Settings(**values, handed_on=handed_on, concurrency_is_set=is_set)


def redacted(settings: Settings) -> dict[str, object]:
    """Return key -> value for storing: secrets hidden, unset keys None."""
    return {entry.key: _shown(settings, entry) for entry in table()}


def _shown(settings: Settings, entry: Entry) -> object:
    value = getattr(settings, entry.key.lower())
    if entry.secret:
        return SECRET if value else None
    return list(value) if isinstance(value, tuple) else value


def _entry(declared: Field[Any]) -> Entry:
    if declared.default is MISSING:
        raise TypeError(f"setting {declared.name} was declared without _key()")
    return Entry(key=declared.name.upper(), **declared.metadata)


_KEYS = frozenset(entry.key for entry in table())


def _read_env_file(path: Path) -> tuple[dict[str, str], list[UsageError]]:
    """Read KEY=value lines with python-dotenv's own parser: nothing is expanded or run."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        return {}, [UsageError(path.name, str(error.strerror), "make it a readable file")]
    except UnicodeDecodeError:
        return {}, [UsageError(path.name, "is not UTF-8", "save it as UTF-8")]
    if "\0" in text:
        return {}, [UsageError(path.name, "holds NUL characters", "save it as UTF-8")]
    lines: dict[str, list[tuple[int, str]]] = {}
    problems: list[UsageError] = []
    for line in parse_stream(io.StringIO(text)):
        if line.error or (line.key and line.value is None):
            where = f"{path.name}:{_number(line)}"
            problems.append(UsageError(where, "is not KEY=value", "mend or remove the line"))
        elif line.key:
            lines.setdefault(line.key, []).append((_number(line), line.value or ""))
    problems += _contested(lines, path.name)
    return {key: found[-1][1] for key, found in lines.items()}, problems


def _number(line: Binding) -> int:
    """Return the line's number; python-dotenv counts from the blank lines before it."""
    text = line.original.string
    blank = text[: len(text) - len(text.lstrip())]
    return line.original.line + len(re.findall(r"\r\n|\n|\r", blank))


def _contested(lines: Mapping[str, list[tuple[int, str]]], file: str) -> Iterator[UsageError]:
    """Find keys of ours that are given more than once, with different values."""
    for key, found in lines.items():
        if len({value for _, value in found}) > 1 and (key in _KEYS or key.startswith(HANDED_ON)):
            *first, last = (str(number) for number, _ in found)
            what = f"{key} has different values in lines {', '.join(first)} and {last}"
            yield UsageError(file, what, "keep one of them")


def _texts(in_file: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each key that is set; an empty one outranks too, and means not set."""
    merged = {**in_file, **{k: environ[k] for k in _KEYS if k in environ}}
    return {k: merged[k].strip() for k in _KEYS if merged.get(k, "").strip()}


def _parse(texts: Mapping[str, str]) -> tuple[dict[str, Any], list[UsageError]]:
    values: dict[str, Any] = {}
    problems: list[UsageError] = []
    for entry in table():
        text = texts.get(entry.key)
        if text is None:
            continue
        try:
            values[entry.key.lower()] = entry.kind.parse(text)
        except ConfigError as several:
            problems += several.problems
        except UsageError as problem:  # of any address, told as AIPERF_URL's
            problems.append(UsageError(entry.key, problem.what, problem.remedy))
        except ValueError as expected:
            shown = SECRET if entry.secret else _shortened(text)
            problems.append(UsageError(entry.key, f"{shown} is not valid", f"set {expected}"))
    return values, problems


def _recalled(
    in_file: Mapping[str, str], recorded: Mapping[str, str], environ: Mapping[str, str], file: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return an earlier run's settings in place of the file's, and what to say of that.

    Of the file remain the variables for AIPerf, the settings of today's screen and disk, and the
    key with leave to send one, but these only where no server is measured that the file does not
    name. That no key is to be sent remains in any case.
    """
    kept = {k: v for k, v in in_file.items() if k.startswith(HANDED_ON) and k not in _KEYS}
    kept |= {k: in_file[k] for k in TODAYS if k in in_file}
    asked = {**recorded, **{k: environ[k] for k in _SERVER_KEYS if k in environ}}
    key = in_file.get("OPENAI_API_KEY")
    notices = []
    are_named = _servers(asked) <= _servers(in_file)
    if not are_named:
        kept.pop("ALLOW_ENV_KEY", None)
    if key is not None and (are_named or (not key and not _is_typed("OPENAI_API_KEY", environ))):
        kept["OPENAI_API_KEY"] = key
    elif key and recorded.get("OPENAI_API_KEY"):
        remedy = "type OPENAI_API_KEY=… to send one"
        notices.append(f"OPENAI_API_KEY of {file} is another server's and is not sent; {remedy}")
    aside = [k for k in in_file if k in _KEYS and _differs(k, in_file[k], recorded.get(k, ""))]
    aside = [k for k in aside if k not in (*TODAYS, "OPENAI_API_KEY", *environ)]
    if aside:
        notices.append(f"{file} is not followed in {', '.join(aside)}: the run's own are used")
    usual = {k: v for k, v in recorded.items() if k not in (*TODAYS, "OPENAI_API_KEY")}
    return usual | kept, tuple(notices)


def _is_typed(name: str, environ: Mapping[str, str]) -> bool:
    return name in _make_arguments(environ)


def _servers(texts: Mapping[str, str]) -> set[str]:
    """Return the servers that texts of settings name, in one form where they are valid."""
    named = [texts.get("AIPERF_URL", "").strip() or OPENAI_BASE]
    named += filter(None, (part.strip() for part in texts.get("MORE_URLS", "").split(",")))
    found = set()
    for text in named:
        try:
            found.add(base_url(text))
        except UsageError:
            found.add(text)
    return found


def _differs(key: str, one: str, other: str) -> bool:
    kind = {entry.key: entry.kind for entry in table()}[key]
    try:
        return kind.parse(one.strip()) != kind.parse(other.strip())
    except (UsageError, ValueError):
        return one.strip() != other.strip()


def _contradictions(values: Mapping[str, Any]) -> Iterator[UsageError]:
    """Find settings that make sense by themselves, and not together."""
    if {"benchmark_duration", "request_count"} <= values.keys():
        what = "says when to stop, and so does REQUEST_COUNT"
        yield UsageError("BENCHMARK_DURATION", what, "unset one (REQUEST_COUNT= does)")
    is_paced = {"request_rate", "sweep_request_rates"} & values.keys()
    if values.get("arrival_pattern", "poisson") != "poisson" and not is_paced:
        remedy = "set REQUEST_RATE, or unset it"
        yield UsageError("ARRIVAL_PATTERN", "spreads nothing without REQUEST_RATE", remedy)
    more = values.get("more_urls", ())
    first = values.get("aiperf_url", OPENAI_BASE)
    if more and OPENAI_BASE in (first, *more):
        what = "cannot go with the OpenAI API: its key would be sent to all of them"
        yield UsageError("MORE_URLS", what, "measure one or the other")
    elif first in more:
        yield UsageError("MORE_URLS", f"names AIPERF_URL ({first}) once more", "leave it out")


def _shortened(text: str) -> str:
    cut = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
    return repr(cut)


def _missing(present: set[str]) -> Iterator[UsageError]:
    for entry in table():
        if entry.required and entry.key not in present:
            remedy = f"copy .env.example to .env and set {entry.key} there"
            yield UsageError(entry.key, "is not set", f"{remedy}, or try `make demo` first")


def _key_to_send(
    values: Mapping[str, Any], in_file: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[str | None, tuple[str, ...], list[UsageError]]:
    """Decide which key, if any, may be sent to the server.

    A paid key that merely stands in the shell must not land on the lab server next door.
    """
    to_openai = Settings(**values).is_openai
    own = "OPENAI_API_KEY" in in_file
    key = in_file["OPENAI_API_KEY"] if own else environ.get("OPENAI_API_KEY", "")
    key = key.strip()
    if to_openai and not key:
        remedy = "set it in .env, or set AIPERF_URL to measure another server"
        return None, (), [UsageError("OPENAI_API_KEY", "is needed for the OpenAI API", remedy)]
    if not key.isascii() or not key.isprintable() or " " in key:
        remedy = "copy the key again"
        what = "holds characters that no HTTP header can carry"
        return None, (), [UsageError("OPENAI_API_KEY", what, remedy)]
    if key.startswith("sk-") and not (own or to_openai or values.get("allow_env_key")):
        notice = (
            "OPENAI_API_KEY of the environment is not sent to this server; "
            "put it into .env or set ALLOW_ENV_KEY=1 to send it"
        )
        return None, (notice,), []
    asked = {**in_file, **{k: environ[k] for k in _SERVER_KEYS if k in environ}}
    if key and own and not _servers(asked) <= _servers(in_file):
        notice = "OPENAI_API_KEY of .env is sent to a server that .env does not name"
        return key, (f"{notice}; OPENAI_API_KEY= there, or another ENV_FILE, sends none",), []
    return key or None, (), []


def _make_arguments(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the names of make's command-line variables: make lists them in MAKEFLAGS after --."""
    _, _, variables = environ.get("MAKEFLAGS", "").partition("-- ")
    yield from re.findall(r"(?:^|(?<=\s))([A-Z][A-Z0-9_]*)=", variables)


def _slips(names: Iterable[str], where: str) -> Iterator[tuple[str, UsageError]]:
    """Yield each setting of which a name is a slip, with what to say."""
    for name in names:
        if meant := _meant(name):
            remedy = f"did you mean {meant}? Rename or remove it"
            yield meant, UsageError(where, f"{name} is no setting", remedy)


def _meant(name: str) -> str | None:
    """Return the setting of which ``name`` is a slip, None for one of ours and for a stranger.

    A short name has too many honest neighbours (MODE, MODELS): there only swapped letters count.
    """
    known = _KEYS | set(VERB_ARGUMENTS)
    if name in known:
        return None
    written = name.upper()
    swapped = [key for key in known if len(key) > 3 and _is_swapped(written, key)]
    # AIPerf's own variables resemble ours: only a slip of a letter or two is told
    cutoff = 0.95 if name.startswith("AIPERF_") else 0.85
    long = [key for key in known if len(key) >= _LONG_NAME]
    near = swapped or difflib.get_close_matches(written, long, n=1, cutoff=cutoff)
    return near[0] if near else None


def _is_swapped(written: str, key: str) -> bool:
    """Tell whether two letters side by side changed places, or none but capitals differ."""
    differing = [i for i, (a, b) in enumerate(zip(written, key, strict=False)) if a != b]
    is_pair = len(differing) == 2 and differing[1] == differing[0] + 1
    return sorted(written) == sorted(key) and (is_pair or not differing)
