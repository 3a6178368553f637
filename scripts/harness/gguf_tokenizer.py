"""The exact tokenizer of a llama.cpp model, written from the vocabulary in its GGUF file, offline.

transformers can read GGUF too, but needs torch for it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness.errors import DataError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")

_STAMP = "source.json"
_LAYOUT = 1  # raise it when what is written changes: folders of older layouts are made anew
_TOKENIZER = "tokenizer.json"
_BYTE_PAIRS = "gpt2"  # llama.cpp's word for byte-level BPE
_SPLITTER = "smollm"
_NORMAL, _CONTROL = 1, 3  # llama.cpp's token types
_REMEDY = "set TOKENIZER to the model's own tokenizer folder"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Byte-level BPE: ``tokens`` by id, the ids among them that are ``control``, and the merges."""

    tokens: tuple[str, ...]
    control: tuple[int, ...]
    merges: tuple[tuple[str, str], ...]
    bos: str
    eos: str
    chat_template: str


def ensure_tokenizer(gguf: Path, folder: Path) -> bool:
    """Make ``folder`` a tokenizer folder for the model in ``gguf``; say whether it was written.

    A folder written from the same file is left as it is. Raises DataError for a file that cannot be
    read or whose tokenizer is of another kind, UsageError where ``folder`` cannot be written.
    """
    source = _stamp(gguf)
    if _is_current(folder, source):
        return False
    vocabulary = read_vocabulary(gguf)
    try:
        _write_folder(vocabulary, source, folder)
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise UsageError(str(folder), what, "check the folder's rights and free space") from None
    return True


def read_vocabulary(gguf: Path) -> Vocabulary:
    """Read the vocabulary; takes seconds.

    Raises DataError for a file that is no GGUF, or whose tokenizer is not one whose rules are known
    here: a tokenizer with nearly the same rules would count wrong without saying so.
    """
    fields = _Fields(gguf)
    for key, known in (("model", _BYTE_PAIRS), ("pre", _SPLITTER)):
        if (found := fields.text(key)) != known:
            what = f"tokenizer.ggml.{key} is {found!r}, and only {known!r} is known here"
            raise DataError(str(gguf), what, _REMEDY)
    tokens, kinds = fields.texts("tokens"), fields.numbers("token_type")
    if len(kinds) != len(tokens) or set(kinds) - {_NORMAL, _CONTROL}:
        what = "has tokens of types other than normal and control"
        raise DataError(str(gguf), what, _REMEDY)
    return Vocabulary(
        tokens,
        tuple(number for number, kind in enumerate(kinds) if kind == _CONTROL),
        tuple(_pair(gguf, merge) for merge in fields.texts("merges")),
        tokens[fields.index("bos_token_id", tokens)],
        tokens[fields.index("eos_token_id", tokens)],
        fields.text("chat_template", within="tokenizer"),
    )


def build_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer that llama.cpp applies for ``smollm``.

    Each digit stands alone, then the splitting rule of GPT-2 (llama.cpp, src/llama-vocab.cpp,
    LLAMA_VOCAB_PRE_TYPE_SMOLLM). Control tokens are recognised in the text. Nothing is added to it.
    """
    from tokenizers import (  # noqa: PLC0415 - slow to import
        AddedToken,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
    )

    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=list(vocabulary.merges)))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    control = (vocabulary.tokens[number] for number in vocabulary.control)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return tokenizer


class _Fields:
    """The ``tokenizer.*`` fields of a GGUF file, each with the type it must have."""

    def __init__(self, gguf: Path) -> None:
        from gguf import GGUFReader  # noqa: PLC0415 - slow to import

        self._gguf = gguf
        try:
            self._fields = GGUFReader(gguf).fields
        except (OSError, ValueError, IndexError, KeyError) as error:
            what = f"cannot be read as GGUF ({error})"
            raise DataError(str(gguf), what, "install the model again") from None

    def text(self, name: str, within: str = "tokenizer.ggml") -> str:
        return self._of(f"{within}.{name}", str)

    def texts(self, name: str) -> tuple[str, ...]:
        return self._list(name, str)

    def numbers(self, name: str) -> tuple[int, ...]:
        return self._list(name, int)

    def index(self, name: str, into: Sequence[str]) -> int:
        number = self._of(f"tokenizer.ggml.{name}", int)
        if not 0 <= number < len(into):
            raise self._missing(f"tokenizer.ggml.{name}")
        return number

    def _list(self, name: str, kind: type[T]) -> tuple[T, ...]:
        key = f"tokenizer.ggml.{name}"
        items: list[object] = self._of(key, list)
        whole = tuple(item for item in items if isinstance(item, kind))
        if not items or len(whole) != len(items):
            raise self._missing(key)
        return whole

    def _of(self, key: str, kind: type[T]) -> T:
        field = self._fields.get(key)
        value = field.contents() if field else None
        if not isinstance(value, kind):
            raise self._missing(key)
        return value

    def _missing(self, key: str) -> DataError:
        return DataError(str(self._gguf), f"{key} is missing or of the wrong type", _REMEDY)


def _pair(gguf: Path, merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not (left and space and right) or " " in right:
        raise DataError(str(gguf), f"the merge {merge!r} is no pair", _REMEDY)
    return left, right


def _stamp(gguf: Path) -> dict[str, object]:
    try:
        facts = gguf.stat()
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise DataError(str(gguf), what, "install the model again") from None
    size, changed = facts.st_size, facts.st_mtime_ns
    return {"layout": _LAYOUT, "file": gguf.name, "bytes": size, "mtime_ns": changed}


def _is_current(folder: Path, source: dict[str, object]) -> bool:
    try:
        stamp: object = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return stamp == source and (folder / _TOKENIZER).is_file()


def _write_folder(vocabulary: Vocabulary, source: dict[str, object], folder: Path) -> None:
    """Write the folder beside its place and rename it: a reader never sees half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        draft = Path(temporary, "new")
        draft.mkdir()
        build_tokenizer(vocabulary).save(str(draft / _TOKENIZER))
        facts = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": vocabulary.bos,
            "eos_token": vocabulary.eos,
            "chat_template": vocabulary.chat_template,
        }
        _write_json(draft / "tokenizer_config.json", facts)
        _write_json(draft / _STAMP, source)
        _put_in_place(draft, folder, Path(temporary, "old"))


def _put_in_place(draft: Path, folder: Path, old: Path) -> None:
    """Rename ``draft`` to ``folder``; what stood there becomes ``old``."""
    with suppress(FileNotFoundError):
        folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:  # someone else put the same there a moment ago
        if not _is_current(folder, json.loads((draft / _STAMP).read_text(encoding="utf-8"))):
            raise


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
