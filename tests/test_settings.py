"""Settings: precedence, values as written, every problem told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError, UsageError
from harness.settings import Settings, from_environment, is_on, load, redacted, table

LAB = "AIPERF_URL=http://lab:8000\n"


def settings_of(folder: Path, text: str | bytes, **environ: str) -> Settings:
    file = folder / ".env"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(file, environ)


def problems_of(folder: Path, text: str | bytes, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings_of(folder, text, **environ)
    return caught.value.lines()


def test_a_key_that_goes_to_a_server_typed_only_now_is_told(tmp_path: Path) -> None:
    text = "MODEL=m\nOPENAI_API_KEY=sk-paid\n"
    (notice,) = settings_of(tmp_path, text, AIPERF_URL="http://lab").notices
    assert "is sent to a server that .env does not name" in notice
    assert settings_of(tmp_path, text + LAB, AIPERF_URL="lab:8000").notices == ()


def test_a_model_and_a_server_are_enough(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "MODEL=m\n" + LAB)
    assert (settings.model, settings.aiperf_url) == ("m", "http://lab:8000")
    assert (settings.concurrency, settings.request_count, settings.warmup_requests) == (
        10,
        None,
        None,
    )


def test_the_environment_outranks_the_file_which_outranks_the_default(tmp_path: Path) -> None:
    text = "MODEL=file\nCONCURRENCY=7\nOUTPUT_TOKENS_MEAN=9\n" + LAB
    settings = settings_of(tmp_path, text, CONCURRENCY="20", MODEL="shell")
    assert settings.model == "shell"
    assert settings.concurrency == 20
    assert settings.output_tokens_mean == 9
    assert settings.input_tokens_mean == 100


def test_an_empty_value_means_not_set(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "MODEL=m\nCONCURRENCY=\n" + LAB, OUTPUT_TOKENS_MEAN="")
    assert settings.concurrency == 10
    assert settings.output_tokens_mean == 200


@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "meta-llama/Llama-3.1-8B-Instruct",
        "日本語モデル",
        "$(touch /tmp/x)",
        "`touch /tmp/x`",
        "a;b|c&d",
        "x#y",
        "$HOME/${PATH}",
        """it's "quoted" inside""",
        "back\\slash",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_value_arrives_as_written(tmp_path: Path, value: str, end: str, mark: bytes) -> None:
    text = mark + f"AIPERF_URL=http://lab:1{end or chr(10)}MODEL={value}{end}".encode()
    assert settings_of(tmp_path, text).model == value


def test_extra_inputs_may_hold_what_a_shell_would_run(tmp_path: Path) -> None:
    text = 'MODEL=m\nEXTRA_INPUTS={"stop":"$(touch /tmp/x)","min_tokens":50}\n' + LAB
    assert settings_of(tmp_path, text).extra_inputs == {"stop": "$(touch /tmp/x)", "min_tokens": 50}


def test_extra_inputs_as_pairs_are_typed_like_json(tmp_path: Path) -> None:
    text = "MODEL=m\nEXTRA_INPUTS=min_tokens:50, ignore_eos:true,mode:fast\n" + LAB
    fields = settings_of(tmp_path, text).extra_inputs
    assert fields == {"min_tokens": 50, "ignore_eos": True, "mode": "fast"}


def test_all_problems_are_told_together(tmp_path: Path) -> None:
    text = "CONCURRENCY=zero\nINPUT_TOKENS_MEAN=0\nCONCURENCY=4\nMAX_ERROR_RATE=101\nnonsense\n"
    lines = problems_of(tmp_path, text)
    for part in (
        "CONCURRENCY: 'zero' is not valid; set a whole number, 1 or more",
        "INPUT_TOKENS_MEAN: '0'",
        "CONCURENCY is no setting; did you mean CONCURRENCY?",
        "MAX_ERROR_RATE: '101' is not valid; set a number from 0 to 100",
        ".env:5: is not KEY=value",
    ):
        assert any(part in line for line in lines), (part, lines)
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("BENCHMARK_DURATION=5\nREQUEST_COUNT=50", "BENCHMARK_DURATION: says when to stop, and so"),
        ("ARRIVAL_PATTERN=gamma", "ARRIVAL_PATTERN: spreads nothing without REQUEST_RATE"),
        ("MORE_URLS=http://b,https://api.openai.com", "MORE_URLS: cannot go with the OpenAI API"),
        ("MORE_URLS=b:1,http://lab:8000/v1", "MORE_URLS: names AIPERF_URL (http://lab:8000) once"),
        ("MORE_URLS=http://me:pw@b", "MORE_URLS: holds a user name or password"),
    ],
)
def test_settings_that_contradict_each_other_are_told(tmp_path: Path, text: str, told: str) -> None:
    (line,) = problems_of(tmp_path, f"MODEL=m\n{text}\n{LAB}")
    assert line.startswith(told)
    assert "pw" not in line


def test_the_openai_key_is_never_sent_to_more_urls(tmp_path: Path) -> None:
    (line,) = problems_of(tmp_path, "MODEL=m\nMORE_URLS=http://b\nOPENAI_API_KEY=sk-1\n")
    assert line.startswith("MORE_URLS: cannot go with the OpenAI API")


def test_it_is_known_whether_a_person_set_the_concurrency(tmp_path: Path) -> None:
    assert not settings_of(tmp_path, "MODEL=m\n" + LAB).concurrency_is_set
    assert settings_of(tmp_path, "MODEL=m\n" + LAB, CONCURRENCY="10").concurrency_is_set


def test_a_missing_model_is_told_with_the_other_problems(tmp_path: Path) -> None:
    lines = problems_of(tmp_path, "CONCURRENCY=0\n")
    assert [line.split(":")[0] for line in lines] == ["CONCURRENCY", "MODEL"]


@pytest.mark.parametrize("text", ["MODEL m\n", "MODEL=日本".encode("shift_jis"), b"M\0O\0"])
def test_a_model_that_may_stand_in_what_cannot_be_read_is_not_called_missing(
    tmp_path: Path, text: str | bytes
) -> None:
    (line,) = problems_of(tmp_path, text)
    assert line.startswith(".env")


def test_a_file_that_cannot_be_opened_is_the_only_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {})
    assert len(caught.value.lines()) == 1


def test_a_misspelt_variable_on_makes_command_line_is_told(tmp_path: Path) -> None:
    lines = problems_of(tmp_path, "MODEL=m\n" + LAB, MAKEFLAGS=" -- CONCURENCY=20 RUN=x")
    assert lines == [
        "make: CONCURENCY is no setting; did you mean CONCURRENCY? Rename or remove it"
    ]


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("MODLE", "MODEL"),
        ("model", "MODEL"),
        ("CONCURENCY", "CONCURRENCY"),
        ("AIPERF_ULR", "AIPERF_URL"),
        ("OUTPUT_TOKEN_MEAN", "OUTPUT_TOKENS_MEAN"),
        ("TOKENISER", "TOKENIZER"),
        ("OPENAI_APIKEY", "OPENAI_API_KEY"),
        ("DRYRUN", "DRY_RUN"),
        ("PROT", "PORT"),
    ],
)
def test_a_slip_is_told_once_with_the_key_that_was_meant(
    tmp_path: Path, slip: str, meant: str
) -> None:
    model = "" if meant == "MODEL" else "MODEL=m\n"
    lines = problems_of(tmp_path, f"{model}{slip}=x\n{LAB}")
    assert lines == [f".env: {slip} is no setting; did you mean {meant}? Rename or remove it"]


@pytest.mark.parametrize(
    "name",
    ["MODE", "MODES", "MODELS", "MODELS_DIR", "MODEL_NAME", "MODULE", "NODE", "HF_TOKEN", "PATH_TO",
     "PATH", "HOST", "PORTS", "POST", "SORT", "REPORT", "RUNS", "NUR", "DATABASE", "PYTHONPATH",
     "OPENAI_API_BASE", "OPENAI_BASE_URL", "AIPERF_HTTP_TRUST_ENV", "AIPERF_SERVICE_HEALTH_PORT"],
)  # fmt: skip
def test_a_name_of_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    assert settings_of(tmp_path, f"MODEL=m\n{name}=x\n{LAB}").model == "m"


def test_a_key_with_two_values_is_told_with_both_lines(tmp_path: Path) -> None:
    text = "# mine\nMODEL=m\n\n\nOPENAI_API_KEY=one\nOPENAI_API_KEY=two\n" + LAB
    assert problems_of(tmp_path, text) == [
        ".env: OPENAI_API_KEY has different values in lines 5 and 6; keep one of them"
    ]


def test_a_key_given_twice_alike_and_a_strangers_key_are_left_alone(tmp_path: Path) -> None:
    assert settings_of(tmp_path, "MODEL=m\nMODEL=m\nOTHER=1\nOTHER=2\n" + LAB).model == "m"


def test_a_bad_line_after_blank_ones_is_named_by_its_own_number(tmp_path: Path) -> None:
    (line,) = problems_of(tmp_path, "MODEL=m\r\n\r\n\r\nnonsense\r\n")
    assert line.startswith(".env:4: ")


@pytest.mark.parametrize("key", ["CONCURRENCY", "RANDOM_SEED", "SWEEP_CONCURRENCIES"])
def test_absurdly_many_digits_are_told_in_one_short_line(tmp_path: Path, key: str) -> None:
    (line,) = problems_of(tmp_path, f"MODEL=m\n{key}={'9' * 5000}\n{LAB}")
    assert line.startswith(f"{key}: '999")
    assert "whole number" in line
    assert len(line) < 250


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("MODEL=a,b", "a comma would make it two"),
        ("MODEL=-x", "does not start with -"),
        ('MODEL="a\tb"', "without control characters"),
        ("MODEL=a\u200bb", "without invisible characters"),
        ("MODEL=m\nTOKENIZER=a\x1bb", "TOKENIZER: 'a\\x1bb' is not valid; set a Hugging Face"),
    ],
)
def test_a_text_that_would_not_arrive_as_it_looks_is_told(
    tmp_path: Path, line: str, told: str
) -> None:
    (problem,) = problems_of(tmp_path, f"{line}\n{LAB}")
    assert told in problem


def test_a_path_may_hold_any_space_that_can_be_typed(tmp_path: Path) -> None:
    text = "MODEL=m\nINPUT_FILE=質問　集 1.jsonl\n" + LAB
    assert settings_of(tmp_path, text).input_file == "質問　集 1.jsonl"


@pytest.mark.parametrize(
    "written", ["stream:false, model:x,top_k:1", '{"model": "x", "stream": false, "top_k": 1}']
)
def test_extra_inputs_must_not_change_what_the_harness_sets(tmp_path: Path, written: str) -> None:
    assert problems_of(tmp_path, f"MODEL=m\nEXTRA_INPUTS={written}\n{LAB}") == [
        f'EXTRA_INPUTS: "{name}" is set by the harness; remove it' for name in ("model", "stream")
    ]


def test_extra_inputs_hold_no_number_that_json_lacks(tmp_path: Path) -> None:
    (line,) = problems_of(tmp_path, 'MODEL=m\nEXTRA_INPUTS={"top_p": NaN}\n' + LAB)
    assert "NaN is no JSON value" in line


def test_unknown_keys_that_resemble_nothing_are_left_alone(tmp_path: Path) -> None:
    assert settings_of(tmp_path, "MODEL=m\nDATABASE=x\n" + LAB).model == "m"


@pytest.mark.parametrize("number", ["1.5", "-1", "1_000", "\uff11\uff10", "0x10", "nan", "1e3"])
def test_a_whole_number_is_written_in_plain_digits(tmp_path: Path, number: str) -> None:
    assert "CONCURRENCY" in problems_of(tmp_path, f"MODEL=m\nCONCURRENCY={number}\n" + LAB)[0]


@pytest.mark.parametrize("points", ["1,1", "", "1,,2", "0", "a", "1;2"])
def test_sweep_points_are_different_positive_numbers(tmp_path: Path, points: str) -> None:
    text = f"MODEL=m\nSWEEP_CONCURRENCIES={points}\n" + LAB
    if points:
        assert "SWEEP_CONCURRENCIES" in problems_of(tmp_path, text)[0]
    else:
        assert settings_of(tmp_path, text).sweep_concurrencies == (1, 5, 10, 20, 50)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "MODEL=日本".encode("shift_jis"))[0].startswith(
        ".env: is not UTF-8"
    )


class TestKey:
    def test_the_openai_api_needs_one(self, tmp_path: Path) -> None:
        assert "OPENAI_API_KEY: is needed" in problems_of(tmp_path, "MODEL=gpt-4o\n")[0]

    def test_a_lab_server_needs_none(self, tmp_path: Path) -> None:
        assert settings_of(tmp_path, "MODEL=m\n" + LAB).openai_api_key is None

    def test_the_file_outranks_the_environment(self, tmp_path: Path) -> None:
        text = "MODEL=m\nOPENAI_API_KEY=in-file\n" + LAB
        assert settings_of(tmp_path, text, OPENAI_API_KEY="in-shell").openai_api_key == "in-file"

    def test_the_file_outranks_the_environment_even_when_empty(self, tmp_path: Path) -> None:
        text = "MODEL=m\nOPENAI_API_KEY=\n" + LAB
        assert settings_of(tmp_path, text, OPENAI_API_KEY="in-shell").openai_api_key is None

    def test_a_paid_key_of_the_shell_is_not_sent_to_the_lab(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, "MODEL=m\n" + LAB, OPENAI_API_KEY="sk-paid")
        assert settings.openai_api_key is None
        assert len(settings.notices) == 1
        assert "sk-paid" not in settings.notices[0]

    def test_it_is_sent_when_allowed(self, tmp_path: Path) -> None:
        environ = {"OPENAI_API_KEY": "sk-paid", "ALLOW_ENV_KEY": "1"}
        assert settings_of(tmp_path, "MODEL=m\n" + LAB, **environ).openai_api_key == "sk-paid"

    def test_a_lab_key_of_the_shell_is_sent(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, "MODEL=m\n" + LAB, OPENAI_API_KEY="lab-key")
        assert settings.openai_api_key == "lab-key"

    @pytest.mark.parametrize(
        "url", ["", "https://api.openai.com", "api.openai.com/v1", "https://API.OpenAI.com:443/v1"]
    )
    def test_openais_address_is_known_in_every_spelling(self, tmp_path: Path, url: str) -> None:
        settings = settings_of(tmp_path, f"MODEL=m\nAIPERF_URL={url}\n", OPENAI_API_KEY="sk-paid")
        assert settings.is_openai
        assert settings.openai_api_key == "sk-paid"

    @pytest.mark.parametrize(
        "url", ["https://api.openai.com.evil.example", "http://evil.example/api.openai.com"]
    )
    def test_a_look_alike_is_not_openai(self, tmp_path: Path, url: str) -> None:
        settings = settings_of(tmp_path, f"MODEL=m\nAIPERF_URL={url}\n", OPENAI_API_KEY="sk-paid")
        assert settings.openai_api_key is None

    def test_it_may_hold_anything_printable(self, tmp_path: Path) -> None:
        key = """sk-a#b$c"d'e`f;g"""
        assert (
            settings_of(tmp_path, f"MODEL=m\nOPENAI_API_KEY={key}\r\n{LAB}").openai_api_key == key
        )

    def test_one_that_no_header_can_carry_is_refused_unshown(self, tmp_path: Path) -> None:
        line = problems_of(tmp_path, f"MODEL=m\nOPENAI_API_KEY=鍵-secret\n{LAB}")[0]
        assert "OPENAI_API_KEY" in line
        assert "secret" not in line

    def test_it_is_in_no_representation(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, f"MODEL=m\nOPENAI_API_KEY=sesame\n{LAB}")
        assert "sesame" not in repr(settings)
        assert "sesame" not in str(redacted(settings))


def test_variables_for_aiperf_are_handed_on(tmp_path: Path) -> None:
    text = "MODEL=m\nAIPERF_HTTP_TRUST_ENV=1\nHF_HOME=/models\nOTHER=x\n" + LAB
    handed_on = settings_of(tmp_path, text).handed_on
    assert handed_on == {"AIPERF_HTTP_TRUST_ENV": "1", "HF_HOME": "/models"}


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        from_environment({"ENV_FILE": str(tmp_path / "none.env"), "MODEL": "m"})


def test_every_setting_tells_its_meaning_in_a_sentence() -> None:
    for entry in table():
        assert entry.meaning.endswith("."), entry.key
        assert entry.kind.expected()


@pytest.mark.parametrize(("text", "is_it"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_a_switch_is_on_or_off(text: str, is_it: bool) -> None:
    assert is_on({"DRY_RUN": text}, "DRY_RUN") == is_it


def test_a_switch_that_says_neither_is_told() -> None:
    with pytest.raises(UsageError, match="FRESH: 'n' is not valid; set 1 or 0"):
        is_on({"FRESH": "n"}, "FRESH")
