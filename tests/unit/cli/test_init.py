"""Command `init`: questions in a terminal, options without one, and the lines of `.env`."""

import re
import stat
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from anthropic_proxy.cli import init
from anthropic_proxy.cli.init import list_env_lines
from anthropic_proxy.cli.output import Output
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.settings.env_writer import append_variables
from tests.support.command_line import run_command
from tests.support.fakes import ollama, openai_chat
from tests.support.fakes.server import Running, serving, serving_strictly
from tests.support.provider_lists import OFFERED_PREFIXES
from tests.support.terminal import answer_questions

PROVIDER, KEY, CONFIRM = "Number or name [1]: ", "OPENAI_API_KEY (not shown): ", "Write them? [Y/n] "
ACCEPTED = re.compile(r"  ✓ accepted, (\d+) models, \d+\.\d s")
WRONG_KEY = "sk-wrong-0123456789abcdef"


@pytest.fixture
def openai() -> Iterator[Running]:
    with serving_strictly(openai_chat.new_openai()) as running:
        yield running


def list_model_lines() -> list[str]:
    """Return the lines for the default models of openai: their successors from the day of their retirement on."""
    lines = list_env_lines(PROVIDERS.find("openai"), {})
    return [f"{name}={value}" for name, value in lines.items() if name != "PREFERRED_PROVIDER"]


def address(running: Running) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"{running.url}/v1", "OLLAMA_API_BASE": "http://127.0.0.1:9"}


def test_a_key_of_the_environment_is_found_and_only_the_provider_is_written(tmp_path: Path, openai: Running) -> None:
    settings = {**address(openai), "OPENAI_API_KEY": openai_chat.KEY}
    answers = [(PROVIDER, "\r"), (CONFIRM, "\r")]
    screen = answer_questions("init", answers=answers, directory=tmp_path, settings=settings)
    assert screen.status == 0
    assert screen.lines[:2] == [
        "  Which provider has the model?",
        "    1  openai     found: OPENAI_API_KEY in the environment",
    ]
    new = ["PREFERRED_PROVIDER=openai", *list_model_lines()]
    result, *others = screen.lines[-5 - len(new) :]
    assert ACCEPTED.fullmatch(result)
    assert others == [
        f"  New lines of {tmp_path}/.env:",
        *(f"    {line}" for line in new),
        "  Write them? [Y/n] ",
        f"  ✓ Added {len(new)} line{'s' if len(new) > 1 else ''} to {tmp_path}/.env.",
        "  Next:  anthropic-proxy code",
    ]
    assert (tmp_path / ".env").read_text().splitlines() == new


def test_an_entered_key_is_tested_not_shown_and_written_for_the_owner_alone(tmp_path: Path, openai: Running) -> None:
    answers = [(PROVIDER, "openai\r"), (KEY, f"{WRONG_KEY}\r"), (KEY, f"{openai_chat.KEY}\r"), (CONFIRM, "y\r")]
    screen = answer_questions("init", answers=answers, directory=tmp_path, settings=address(openai))
    assert screen.status == 0
    assert "  ✕ openai rejected the key (401)." in screen.lines
    assert f"    OPENAI_API_KEY=…{openai_chat.KEY[-4:]}" in screen.lines
    assert WRONG_KEY not in screen.text
    assert openai_chat.KEY not in screen.text
    file = tmp_path / ".env"
    new = ["PREFERRED_PROVIDER=openai", f"OPENAI_API_KEY={openai_chat.KEY}", *list_model_lines()]
    assert file.read_text().splitlines() == new
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(("keys", "status"), [("n\r", 1), ("\x03", 130), ("\x04", 130)])
def test_nothing_is_written_without_confirmation(keys: str, status: int, tmp_path: Path, openai: Running) -> None:
    settings = {**address(openai), "OPENAI_API_KEY": openai_chat.KEY}
    screen = answer_questions(
        "init", answers=[(PROVIDER, "\r"), (CONFIRM, keys)], directory=tmp_path, settings=settings
    )
    assert screen.status == status
    assert screen.lines[-1].endswith("Nothing was written.")
    assert not (tmp_path / ".env").exists()


def test_a_running_ollama_is_found(tmp_path: Path) -> None:
    with serving_strictly(ollama.new_ollama()) as local:
        settings = {"OLLAMA_API_BASE": local.url}
        screen = answer_questions(
            "init", answers=[(PROVIDER, "\r"), (CONFIRM, "\r")], directory=tmp_path, settings=settings
        )
    assert re.fullmatch(rf"    1  ollama     found: \d+ models at {local.url}", screen.lines[1])
    assert (tmp_path / ".env").read_text() == "PREFERRED_PROVIDER=ollama\n"


def test_the_address_of_another_ollama_is_asked_for(tmp_path: Path) -> None:
    with serving_strictly(ollama.new_ollama()) as local:
        answers = [
            (PROVIDER, "ollama\r"),
            ("its address: ", "somewhere\r"),
            ("its address: ", f"{local.url.removeprefix('http://')}\r"),
        ]
        screen = answer_questions(
            "init", answers=[*answers, (CONFIRM, "\r")], directory=tmp_path, settings={"HTTP_PROXY": ""}
        )
    assert "  ✕ This is no address of a server, such as http://localhost:8000/v1." in screen.lines
    assert (tmp_path / ".env").read_text() == f"PREFERRED_PROVIDER=ollama\nOLLAMA_API_BASE={local.url}\n"


def test_existing_lines_stay_and_differences_are_reported(tmp_path: Path, openai: Running) -> None:
    before = "# mine\nPREFERRED_PROVIDER=groq\nOPENAI_API_KEY=your-openai-key"
    (tmp_path / ".env").write_text(before)
    (tmp_path / ".env").chmod(0o600)
    words = ("init", "--provider", "openai", "--key-from-env", "OWN_KEY", "--yes")
    settings = {**address(openai), "OWN_KEY": openai_chat.KEY}
    ended = run_command(*words, directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stderr) == (
        0,
        "  ! .env line 2 sets PREFERRED_PROVIDER=groq, which stays. "
        "For openai, change it to  PREFERRED_PROVIDER=openai\n",
    )
    after = "".join(f"{line}\n" for line in (before, f"OPENAI_API_KEY={openai_chat.KEY}", *list_model_lines()))
    assert (tmp_path / ".env").read_text() == after
    again = run_command(*words, directory=tmp_path, settings=settings)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, f"  {tmp_path}/.env needs no new line.")
    assert (tmp_path / ".env").read_text() == after


def test_without_a_terminal_a_rejected_key_writes_nothing(tmp_path: Path, openai: Running) -> None:
    words = ("init", "--provider", "openai", "--key-from-env", "OWN_KEY", "--yes")
    ended = run_command(*words, directory=tmp_path, settings={**address(openai), "OWN_KEY": WRONG_KEY})
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "  ✕ openai rejected the key (401).\n")
    assert not (tmp_path / ".env").exists()


def test_a_rejected_key_of_the_settings_is_named(tmp_path: Path, openai: Running) -> None:
    settings = {**address(openai), "OPENAI_API_KEY": WRONG_KEY}
    ended = run_command("init", "--provider", "openai", "--yes", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        1,
        "",
        "  ✕ openai rejected the key (401).\n"
        "  The key is …cdef, OPENAI_API_KEY in the environment. Replace it there.\n",
    )


def test_without_a_terminal_settings_that_cannot_be_tested_need_an_option(tmp_path: Path) -> None:
    words = ("init", "--provider", "openai", "--key-from-env", "OWN_KEY", "--yes")
    settings = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OWN_KEY": openai_chat.KEY}
    ended = run_command(*words, directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        1,
        "",
        "  ✕ openai: no server responds at http://127.0.0.1:9 (connection refused).\n"
        "  The settings were not tested. To write them without a test, add --skip-test.\n",
    )


@pytest.mark.parametrize("kept", [True, False])
def test_a_key_can_be_kept_if_the_provider_cannot_be_reached(kept: bool, tmp_path: Path) -> None:
    keep = "The settings were not tested. Keep them? [y/N] "
    answers = [(PROVIDER, "openai\r"), (KEY, f"{openai_chat.KEY}\r")]
    answers += [(keep, "y\r"), (CONFIRM, "\r")] if kept else [(keep, "\r"), (KEY, "\x03")]
    settings = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OLLAMA_API_BASE": "http://127.0.0.1:9"}
    screen = answer_questions("init", answers=answers, directory=tmp_path, settings=settings)
    assert screen.status == (0 if kept else 130)
    assert (tmp_path / ".env").exists() is kept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (),
            "There is no terminal for questions. Use options:  "
            "anthropic-proxy init --provider openai --key-from-env OPENAI_API_KEY --yes",
        ),
        (
            ("--provider", "opnai", "--yes"),
            f'There is no provider "opnai". The providers are: {", ".join(OFFERED_PREFIXES)}. '
            "Did you mean:  --provider openai",
        ),
        (
            ("--provider", "gemini", "--yes"),
            "gemini has no key: GEMINI_API_KEY is not set. Set it in the environment, or name its variable with "
            "--key-from-env.",
        ),
        (
            ("--provider", "gemini", "--yes", "--key-from-env", "NO_SUCH_KEY"),
            "--key-from-env is NO_SUCH_KEY, but this variable is not set.",
        ),
    ],
)
def test_a_missing_value_is_named(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    ended = run_command("init", *words, directory=tmp_path, settings={})
    assert (ended.returncode, ended.stderr) == (2, f"✕ {message}\n")


def test_a_retired_default_model_is_replaced() -> None:
    google = PROVIDERS.find("google")
    assert list_env_lines(google, {}, date(2025, 1, 1)) == {"PREFERRED_PROVIDER": "google"}
    assert list_env_lines(google, {"GEMINI_API_KEY": "k"}, date(2026, 11, 20)) == {
        "PREFERRED_PROVIDER": "google",
        "GEMINI_API_KEY": "k",
        "BIG_MODEL": "gemini/gemini-3.1-pro-preview",
        "SMALL_MODEL": "gemini/gemini-3.1-flash-lite",
    }


@pytest.mark.parametrize("value", ["plain-1.5/x:y", "with space", "it's", 'a"b', "a#b", " #b", "back\\slash"])
def test_a_written_value_is_read_unchanged(value: str, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    append_variables(file, {"GOOGLE_APPLICATION_CREDENTIALS": value})
    settings = load_settings({}, PROVIDERS, env_file=str(file))
    assert settings.raw_values["GOOGLE_APPLICATION_CREDENTIALS"].reveal() == value.strip()


def test_a_file_keeps_its_mode_its_line_ends_and_its_link(tmp_path: Path) -> None:
    target, link = tmp_path / "own.env", tmp_path / ".env"
    target.write_bytes(b"HOST=127.0.0.1\r\nPORT=1")
    target.chmod(0o640)
    link.symlink_to(target)
    append_variables(link, {"BIG_MODEL": "o3"})
    assert target.read_bytes() == b"HOST=127.0.0.1\r\nPORT=1\r\nBIG_MODEL=o3\r\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} - {".anthropic-proxy.lock"} == {".env", "own.env"}  # of Windows


def test_a_file_that_cannot_be_written_is_an_error_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"/file/\.env cannot be written: file exists\.$"):
        append_variables(tmp_path / "file/.env", {"BIG_MODEL": "o3"})


def test_a_file_that_others_can_read_is_restricted_when_it_gets_a_key(tmp_path: Path, openai: Running) -> None:
    file = tmp_path / ".env"
    file.write_text("PORT=8083\n")
    file.chmod(0o644)
    words = ("init", "--provider", "openai", "--key-from-env", "OWN_KEY", "--yes")
    settings = {**address(openai), "OWN_KEY": openai_chat.KEY}
    ended = run_command(*words, directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stderr) == (
        0,
        f"  ! Other users could read {file}. Now only its owner can, because it contains a key.\n",
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_settings_that_send_tiers_to_another_provider_are_reported(tmp_path: Path) -> None:
    """The default models of Ollama are not retired at a date, which would change the messages."""
    (tmp_path / ".env").write_text("BIG_MODEL=groq/llama-3.3-70b-versatile\n")
    with serving_strictly(ollama.new_ollama()) as local:
        settings = {"OLLAMA_API_BASE": local.url, "MODEL_HAIKU": "xai/grok-3"}
        ended = run_command("init", "--provider", "ollama", "--yes", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stderr.splitlines()) == (
        0,
        [
            "  ! environment sets MODEL_HAIKU=xai/grok-3, which stays: haiku requests are sent to xai/grok-3. "
            "For ollama, change it to  MODEL_HAIKU=ollama/llama3:8b",
            "  ! .env line 1 sets BIG_MODEL=groq/llama-3.3-70b-versatile, which stays: sonnet, opus, fable requests "
            "are sent to groq/llama-3.3-70b-versatile. For ollama, change it to  BIG_MODEL=ollama/llama3",
        ],
    )


def test_an_unknown_provider_is_named_before_the_missing_terminal(tmp_path: Path) -> None:
    ended = run_command("init", "--provider", "opnai", directory=tmp_path, settings={})
    assert (ended.returncode, ended.stderr) == (
        2,
        f'✕ There is no provider "opnai". The providers are: {", ".join(OFFERED_PREFIXES)}. '
        "Did you mean:  --provider openai\n",
    )


def test_another_compatible_server_becomes_a_table_of_the_configuration_file(tmp_path: Path) -> None:
    with serving(openai_chat.new_openai()) as running:
        key = openai_chat.KEY
        answers = [(PROVIDER, "opnai\r"), (PROVIDER, "other\r"), ("8000/v1: ", "togehter\r")]
        answers += [("8000/v1: ", f"{running.url.removeprefix('http://')}\r")]
        answers += [("empty: none): ", f"{WRONG_KEY}\r"), ("8000/v1: ", f"{running.url}\r")]
        answers += [("empty: none): ", f"{key}\r"), ("number or name [", "gpt-4.l\r"), ("same? [y/N] ", "\r")]
        answers += [("number or name [", "gpt-4.1\r"), (CONFIRM, "\r")]
        screen = answer_questions(
            "init", answers=answers, directory=tmp_path, settings={"OLLAMA_API_BASE": "http://127.0.0.1:9"}
        )
    text = screen.text.replace("\r\n", "\n")
    assert (screen.status, key in text, WRONG_KEY in text) == (0, False, False)
    assert "Did you mean:  openai\n" in " ".join(text.split(" "))
    assert "  ✕ This is no address of a server, such as http://localhost:8000/v1. Did you mean:  together\n" in text
    assert "rejected the key (401)." in text
    assert '  ! The server does not list "gpt-4.l". Did you mean:  gpt-4.1\n' in " ".join(text.split(" "))
    assert text[text.index("  New lines of ") :] == (
        f"  New lines of {tmp_path}/.env:\n    PREFERRED_PROVIDER=own\n    OWN_API_KEY=…{key[-4:]}\n"
        f'  New lines of {tmp_path}/anthropic-proxy.toml:\n    [providers.own]\n    base_url = "{running.url}/v1"\n'
        '    api_key = { env = "OWN_API_KEY" }\n    models = ["gpt-4.1"]\n'
        f"  Write them? [Y/n] \n  ✓ Added the lines to {tmp_path}/.env and {tmp_path}/anthropic-proxy.toml.\n"
        "  Next:  anthropic-proxy code\n"
    )
    written = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
    assert (written.preferred_provider, written.base_urls) == ("own", {"own": f"{running.url}/v1"})
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("answer", "name", "variable", "base_url"),
    [
        ("Hugging Face", "huggingface", "HF_TOKEN", "https://router.huggingface.co/v1"),
        ("kimi_code", "kimi-code", "KIMI_API_KEY", "https://api.kimi.com/coding/v1"),
        (
            "https://dashscope.aliyuncs.com/compatible-mode/v1",
            "dashscope",
            "DASHSCOPE_API_KEY",
            "https://dashscope.aliyuncs.com/compatible-mode/v1",
        ),
        ("https://api.example.com/v1", "example", "EXAMPLE_API_KEY", "https://api.example.com/v1"),
    ],
)
def test_a_vendor_is_chosen_by_name_and_gets_the_variable_of_its_own_tools(
    answer: str, name: str, variable: str, base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([answer, "some-model"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_PROXY_CONFIG", str(tmp_path))
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    monkeypatch.setattr(init, "getpass", lambda _: WRONG_KEY)
    monkeypatch.setattr(init, "check_key", lambda *_: init.KeyTestResult(("some-model",), 0.1))
    found = init.ask_server(Output(), load_settings({}, PROVIDERS, env_file=None))
    assert found is not None
    provider, files = found
    assert (provider.name, provider.base_url) == (name, base_url)
    lines = "".join(addition.added for addition in files.additions)
    assert f"{variable}={WRONG_KEY}\n" in lines
    assert f'api_key = {{ env = "{variable}" }}' in lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:21500", "http://localhost:21500"),
        (" LOCALHOST/v1/ ", "http://LOCALHOST/v1"),
        ("192.168.1.7:8000/v1", "http://192.168.1.7:8000/v1"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("8.8.8.8", "https://8.8.8.8"),
        ("api.example.com/v1", "https://api.example.com/v1"),
        ("http://api.example.com", "http://api.example.com"),
        ("togehter", ""),
        ("", ""),
        ("[::1", ""),
        ("ftp://example.com", ""),
        ("name:password@example.com", ""),
    ],
)
def test_an_address_needs_no_scheme_and_a_remote_one_is_encrypted(text: str, expected: str) -> None:
    assert init.read_address("base_url", text) == expected


def test_a_listed_model_is_chosen_by_number_and_an_unlisted_one_is_confirmed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["2", "3", "n", "other", "y"])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert init.ask_model(Output(), ("small", "large")) == "large"
    assert capsys.readouterr().out == "    1  small\n    2  large\n"
    assert init.ask_model(Output(), ("small", "large")) == "other"
