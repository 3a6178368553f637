"""Which tokenizer makes the prompts and counts the tokens, and why. Nothing waits on a download.

AIPerf loads the tokenizer itself; this room only picks a name that AIPerf can load, in seconds,
with or without a network.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness import endpoint
from harness.errors import UsageError
from harness.settings import Settings

Source = Literal["TOKENIZER", "OpenAI", "model", "root", "fallback"]

BUILTIN = "builtin"
#: Names that AIPerf hands to tiktoken, and the file each needs in TIKTOKEN_CACHE_DIR.
_O200K = "fb374d419588a4632f3f557e76b4b70aebbca790"
_CL100K = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
_P50K = "ec7223a39ce59f226a68acc30dc1af2788490e15"
TIKTOKEN_FILES = {BUILTIN: _O200K, "o200k_base": _O200K, "cl100k_base": _CL100K, "p50k_base": _P50K}
TIKTOKEN_NAMES = (*TIKTOKEN_FILES, "o200k_harmony", "p50k_edit", "r50k_base")
_OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_HUB_TIMEOUT_S = 3.0

#: Whether a Hugging Face name can be loaded: from the "cache", from the "hub", or None.
Resolver = Callable[[str], Literal["cache", "hub"] | None]


@dataclass(frozen=True, slots=True)
class TokenizerChoice:
    """What AIPerf is told.

    ``exact`` is False for a stand-in, whose counts are approximate unless ``server_counts``.
    ``environment`` and ``dropped`` are the variables that loading it needs set, or unset.
    """

    name: str
    source: Source
    why: str
    exact: bool
    server_counts: bool
    environment: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


def choose(
    settings: Settings,
    roots: Mapping[str, str | None],
    resolve: Resolver,
    reports_usage: Callable[[], bool],
    data_folder: Path | None,
) -> TokenizerChoice:
    """Choose: TOKENIZER, else OpenAI's encoding, else the model, else its root, else a stand-in.

    ``roots`` maps the model names that the server lists to the ``root`` it names for each;
    ``reports_usage`` asks the server whether it counts tokens, and is called for a stand-in only;
    ``data_folder`` holds the offline BPE files. Raises UsageError for a TOKENIZER that cannot be
    loaded, or when there is nothing to fall back on.
    """
    named = _named(settings, resolve) or _derived(settings, roots, resolve)
    if named is None:
        named = _fallback(settings, reports_usage)
    if named.name in TIKTOKEN_NAMES:
        return _with_bpe_files(named, data_folder)
    return named


def offline_files() -> Path | None:
    """Return the folder with tiktoken's BPE files that the litellm wheel carries, if installed."""
    spec = importlib.util.find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0], "litellm_core_utils", "tokenizers")
    return folder if (folder / _O200K).is_file() else None


def hugging_face(variables: Mapping[str, str]) -> Resolver:
    """Return a resolver that looks into the local cache, then asks the hub for at most 3 s."""

    def resolve(name: str) -> Literal["cache", "hub"] | None:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII):
            return None
        if _is_cached(name, variables):
            return "cache"
        offline = any(variables.get(switch) for switch in _OFFLINE_SWITCHES)
        return "hub" if not offline and _on_hub(name, variables) else None

    return resolve


def _named(settings: Settings, resolve: Resolver) -> TokenizerChoice | None:
    """Return what TOKENIZER names."""
    name = settings.tokenizer
    if not name:
        return None
    counts = settings.use_server_token_count == "1"
    if name in TIKTOKEN_NAMES:
        return TokenizerChoice(name, "TOKENIZER", "set by TOKENIZER", True, counts)
    if Path(name).expanduser().is_dir():
        folder = str(Path(name).expanduser())
        # transformers refuses a local folder when either switch is set, to whatever value
        return TokenizerChoice(
            folder, "TOKENIZER", "set by TOKENIZER", True, counts, dropped=_OFFLINE_SWITCHES
        )
    return _from_hub(name, "TOKENIZER", "set by TOKENIZER", counts, resolve) or _unresolved(name)


def _unresolved(name: str) -> TokenizerChoice:
    what = f"{name!r} is no folder, no tiktoken encoding, and neither cached nor on the hub"
    remedy = "check the name and the network, name a local folder, or leave it empty"
    raise UsageError("TOKENIZER", what, remedy)


def _derived(
    settings: Settings, roots: Mapping[str, str | None], resolve: Resolver
) -> TokenizerChoice | None:
    """Return the tokenizer that belongs to the model, if one can be told."""
    counts = settings.use_server_token_count == "1"
    encoding = _openai_encoding(settings.model)
    if settings.is_openai:
        if encoding:
            why = f"the encoding of {settings.model}"
            return TokenizerChoice(encoding, "OpenAI", why, True, counts)
        return _from_hub("gpt2", "OpenAI", "tiktoken does not know the model", counts, resolve)
    if found := _from_hub(settings.model, "model", "the model's own", counts, resolve):
        return found
    root = roots.get(settings.model)
    why = f"the server names {root} as the model's root"
    if root and (found := _from_hub(root, "root", why, counts, resolve)):
        return found
    if encoding:
        why = f"the encoding of OpenAI's {settings.model}"
        return TokenizerChoice(encoding, "model", why, True, counts)
    return None


def _from_hub(
    name: str, source: Source, why: str, counts: bool, resolve: Resolver
) -> TokenizerChoice | None:
    place = resolve(name)
    if place is None:
        return None
    # From the cache: ask the network for nothing, so that nothing can hang on it.
    environment = {"HF_HUB_OFFLINE": "1"} if place == "cache" else {}
    exact = source != "OpenAI"
    return TokenizerChoice(name, source, f"{why} ({place})", exact, counts, environment)


def _fallback(settings: Settings, reports_usage: Callable[[], bool]) -> TokenizerChoice:
    why = f"no tokenizer for {settings.model} in the cache or on the hub"
    if settings.use_server_token_count == "auto":
        counts = reports_usage()
        why += "; tokens are counted by the server" if counts else "; token counts are approximate"
    else:
        counts = settings.use_server_token_count == "1"
    return TokenizerChoice(BUILTIN, "fallback", why, False, counts)


def _with_bpe_files(choice: TokenizerChoice, folder: Path | None) -> TokenizerChoice:
    """Point tiktoken at the files on disk; without them it would download."""
    needed = TIKTOKEN_FILES.get(choice.name)
    if folder is None or needed is None or not (folder / needed).is_file():
        return choice
    return TokenizerChoice(
        choice.name,
        choice.source,
        choice.why,
        choice.exact,
        choice.server_counts,
        {"TIKTOKEN_CACHE_DIR": str(folder)},
    )


def _openai_encoding(model: str) -> str | None:
    from tiktoken.model import encoding_name_for_model  # noqa: PLC0415 - only where it is needed

    try:
        name = encoding_name_for_model(model)
    except KeyError:
        return None
    return name if name in TIKTOKEN_NAMES else None


def _is_cached(name: str, variables: Mapping[str, str]) -> bool:
    """Tell whether the hub's cache holds a tokenizer of that name.

    The layout is the one that huggingface_hub documents ("Understand caching"); importing that
    package to ask it takes half a second of every run.
    """
    user = Path(variables.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    home = Path(variables.get("HF_HOME") or user / "huggingface").expanduser()
    own = variables.get("HF_HUB_CACHE") or variables.get("HUGGINGFACE_HUB_CACHE")
    cache = Path(own or home / "hub").expanduser()
    repo = cache / f"models--{name.replace('/', '--')}"
    try:
        commit = (repo / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return False
    snapshot = repo / "snapshots" / commit
    files = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    return any((snapshot / file).exists() for file in files)


def _on_hub(name: str, variables: Mapping[str, str]) -> bool:
    hub = (variables.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    url = f"{hub}/{name}/resolve/main/tokenizer_config.json"
    access = endpoint.access(
        hub, {**variables, "AIPERF_HTTP_TRUST_ENV": "1"}
    )  # as the hub's client
    return endpoint.exists(url, variables.get("HF_TOKEN"), _HUB_TIMEOUT_S, access)
