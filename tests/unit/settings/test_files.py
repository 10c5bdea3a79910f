"""Settings files of any content and kind give one line that names the file and the reason, and end soon.

If one variable of `.env` gets another value, comments, line ends and all other lines stay.
"""

import os
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.settings.config_file import find_key_lines
from anthropic_proxy.gateway.settings.files import format_env_line
from anthropic_proxy.gateway.settings.sources import Sources
from tests.support.command_line import OPENAI, run_command

PIPE = pytest.param("pipe", marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="platform: no named pipes"))
ENDLESS = pytest.mark.skipif(not Path("/dev/zero").exists(), reason="platform: it has no /dev/zero")
NESTED = "anthropic-proxy.toml nests tables or lists deeper than 50 levels."
PROVIDER = '[providers.vllm]\nbase_url = "http://localhost:8000/v1"\n'


def load(folder: Path, env: str = "", config: str = "") -> Settings:
    (folder / ".env").write_text(env)
    (folder / "anthropic-proxy.toml").write_text(config)
    environ = {"HOME": "/home/ann"}
    return load_settings(environ, PROVIDERS, env_file=str(folder / ".env"), resolves_keys=True)


def refusal(folder: Path, env: str = "", config: str = "") -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(folder, env, config)
    assert len(caught.value.messages) == 1
    return caught.value.messages[0].replace(f"{folder}{os.sep}", "")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("a=" + "[" * 100_000, NESTED),
        ("a=" + "[" * 51 + "]" * 51, NESTED),
        ("a=" + "{a=" * 100_000, NESTED),
        (".".join("a" * 100_000) + "=1", NESTED),
        ("[" + " . ".join(["'a b'"] * 100_000) + "]", NESTED),
        ("a=" + "1" * 5_000, "anthropic-proxy.toml is not valid TOML: a number has too many digits."),
        ("a=1" * 2_000_000, "anthropic-proxy.toml cannot be read: it has more than 4,194,304 bytes."),
    ],
    ids=["lists", "51 lists", "tables", "dotted key", "dotted header", "digits", "size"],
)
def test_a_configuration_file_that_cannot_be_decoded_is_an_error(tmp_path: Path, config: str, message: str) -> None:
    assert refusal(tmp_path, config=config) == message


def test_an_address_with_many_dots_is_no_nesting(tmp_path: Path) -> None:
    address = "http://" + ".".join(["a"] * 60) + "/v1"
    assert load(tmp_path, config=PROVIDER.replace("http://localhost:8000/v1", address)).configured_providers


def test_the_lines_of_a_file_are_found_by_work_in_proportion_to_its_length() -> None:
    assert find_key_lines("a = 1\nb = [\n" + '"m",\n' * 40_000 + "]\nc = 1\n") == {("a",): 1, ("b",): 2, ("c",): 40_004}
    for line in (" " * 100_000, "a." * 50_000, "a . " * 25_000, '"a\\"' * 20_000, "[" * 100_000, "[a" + " " * 100_000):
        assert find_key_lines(line) == {}


def test_the_line_of_each_form_of_a_key_is_found() -> None:
    text = """\
# a comment = 1
[ providers . "My \\"Server\\"" ]
  base_url='http://a'
'quoted key' = 1
dialect . "sends_top_k" = false
headers = { x-team = "a", y = "b" }
[[routes]] # the first
name = "a"
targets = [
  "a=b",
]
[[routes]]
when.tier = "opus"
"""
    server = ("providers", 'My "Server"')
    assert find_key_lines(text) == {
        ("providers",): 2,
        server: 2,
        (*server, "base_url"): 3,
        (*server, "quoted key"): 4,
        (*server, "dialect"): 5,
        (*server, "dialect", "sends_top_k"): 5,
        (*server, "headers"): 6,
        ("routes",): 7,
        ("routes[0]",): 7,
        ("routes[0]", "name"): 8,
        ("routes[0]", "targets"): 9,
        ("routes[1]",): 12,
        ("routes[1]", "when"): 13,
        ("routes[1]", "when", "tier"): 13,
    }


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            "A=0123456789\n" + "A=${A}${A}\n" * 30,
            ".env, line 17: the values have more than 1,048,576 characters with the variables that they refer to.",
        ),
        (
            f"A={'x' * 60_000}\n" + "B=${A}\n" * 100,
            ".env, line 18: the values have more than 1,048,576 characters with the variables that they refer to.",
        ),
        ("A=1\n" * 100_000, ".env cannot be read: it has more than 262,144 bytes."),
        (
            "\nOPENAI_API_KEY=${COMPANY_KEY:-sk-0}\nBIG_MODEL=gpt-4o\n\nCOMPANY_KEY=sk-1\nCOMPANY_KEY=sk-2\n",
            ".env, line 2: OPENAI_API_KEY refers to ${COMPANY_KEY}, which only line 5 sets. A line can refer to lines "
            "above it: move COMPANY_KEY there.",
        ),
    ],
    ids=["doubling", "repeated", "size", "later line"],
)
def test_references_that_cannot_be_resolved_and_an_env_file_that_grows_are_errors(
    tmp_path: Path, env: str, message: str
) -> None:
    assert refusal(tmp_path, env=env) == message


def test_variables_refer_to_the_environment_first_and_to_earlier_lines(tmp_path: Path) -> None:
    settings = load(tmp_path, env="HOME=/ignored\nA=gpt\nBIG_MODEL=${A}-4o\nSEARCH_URL=http://host${HOME}/${NONE:-x}\n")
    assert (settings.big_model, settings.search_url) == ("gpt-4o", "http://host/home/ann/x")


@ENDLESS
@pytest.mark.parametrize("name", [".env", "anthropic-proxy.toml"])
@pytest.mark.parametrize("kind", ["endless", PIPE])
def test_a_settings_file_that_is_no_regular_file_is_an_error(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ConfigurationError) as caught:
        load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
    assert caught.value.messages == (f"{tmp_path / name} cannot be read: it is no regular file.",)


@ENDLESS
@pytest.mark.parametrize("kind", ["endless", PIPE, "large"])
def test_a_key_file_without_a_bound_gives_no_key(tmp_path: Path, kind: str) -> None:
    key = tmp_path / "key"
    if kind == "pipe":
        os.mkfifo(key)
    elif kind == "large":
        key.write_text("k" * 70_000)
    else:
        key.symlink_to("/dev/zero")
    settings = load(tmp_path, config=PROVIDER + 'api_key = { file = "key" }\n')
    reason = "it has more than 65,536 bytes" if kind == "large" else "it is no regular file"
    assert f"cannot be read: {reason}." in settings.key_problems["vllm"]


@ENDLESS
@pytest.mark.parametrize("variable", ["TLS_CERT_FILE", "TLS_KEY_FILE"])
def test_a_tls_file_without_an_end_is_an_error(tmp_path: Path, variable: str) -> None:
    (tmp_path / "tls.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    files = {"TLS_CERT_FILE": "tls.pem", "TLS_KEY_FILE": "tls.pem", variable: "/dev/zero"}
    ended = run_command("serve", "--port", "0", directory=tmp_path, settings={**OPENAI, **files})
    content = "private key" if variable == "TLS_KEY_FILE" else "certificate"
    assert f'{variable} is "/dev/zero": it is no regular file. Use the path of a PEM file with the {content}.' in (
        ended.stderr.replace("\n", " ")
    )


@given(st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("${}'\"\\ #=\n\t%")), min_size=1, max_size=20))
def test_a_written_value_is_read_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    try:
        line = format_env_line("BIG_MODEL", value)
    except ConfigurationError:
        assume("${" not in value)
        assert not value.isprintable()
        return
    assume(value.strip())  # an empty value is none
    file = tmp_path_factory.getbasetemp() / "round-trip.env"
    file.write_text(f"SECRET=sk-0123\n{line}\n", "utf-8")
    assert Sources({}, str(file)).file["BIG_MODEL"].text == value.strip()  # as in the environment


def test_a_reference_in_a_value_of_a_stranger_is_not_written() -> None:
    with pytest.raises(ConfigurationError) as caught:
        format_env_line("BIG_MODEL", "local/${ANTHROPIC_API_KEY}")
    assert caught.value.messages == (
        "BIG_MODEL cannot be written to .env: a value there has no ${…} and no control characters, and "
        "this one is 'local/${ANTHROPIC_API_KEY}'. Set BIG_MODEL in the environment.",
    )


@pytest.mark.parametrize("start", ["OPENAI_API_KEY=sk-test-0123456789\n", ""])
def test_lines_of_utf_16_are_not_ignored(tmp_path: Path, start: str) -> None:
    """PowerShell 5.1 appends them by `>>`: without an error, the proxy would serve without its key."""
    file = tmp_path / ".env"
    file.write_bytes(start.encode() + "PROXY_API_KEY=secret\r\n".encode("utf-16-le"))
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"HOME": str(tmp_path)}, PROVIDERS, env_file=str(file), resolves_keys=True)
    place = len(start) + 1
    assert [text.replace("~", str(tmp_path)) for text in caught.value.messages] == [
        f"{file} is not UTF-8 text: byte {place} is invalid. Save it as UTF-8."
    ]
