"""Command `init`: questions in a terminal and in a pipe, options, and the lines of the settings files."""

import re
import stat
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from anthropic_proxy.cli import init
from anthropic_proxy.cli.importing.plan import ImportPlan, prepare_files
from anthropic_proxy.cli.init import list_candidates, list_env_lines
from anthropic_proxy.cli.output import Output
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings, load_settings
from tests.support.command_line import run_command
from tests.support.fakes import ollama, openai_chat
from tests.support.fakes.server import Running, serving, serving_strictly
from tests.support.terminal import Screen, answer_questions

FIRST = "Number or name [openai]: "
KEY = "OPENAI_API_KEY (empty: another provider) (not shown): "
BIG, SMALL = "Number or name [gpt-4.1]: ", "Number or name [gpt-4.1-mini]: "
CONFIRM = "Write them? [Y/n] "
ACCEPTED = re.compile(r"  ✓ accepted, (\d+) models, \d+\.\d s")
WRONG_KEY = "sk-wrong-0123456789abcdef"
REJECTED = (
    '  ✕ openai rejected the key (401). It says: "Incorrect API key provided: sk-…cdef. You can find your API key at '
    'https://platform.openai.com/account/api-keys."'
)
MODELS = ["BIG_MODEL=openai/gpt-4.1", "SMALL_MODEL=openai/gpt-4.1-mini"]
CANDIDATES = [one.name for one in list_candidates(Settings(), None)]
"""Names of all providers and vendors that the command offers without a detected key."""


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


def answer(directory: Path, settings: dict[str, str], *answers: tuple[str, str]) -> Screen:
    return answer_questions("init", answers=answers, directory=directory, settings=settings)


def test_a_key_of_the_environment_is_found_and_is_not_written(tmp_path: Path, openai: Running) -> None:
    settings = {**address(openai), "OPENAI_API_KEY": openai_chat.KEY}
    screen = answer(tmp_path, settings, (FIRST, "\r"), (BIG, "\r"), (SMALL, "gpt-4o-mini\r"), (CONFIRM, "\r"))
    assert screen.status == 0
    assert screen.lines[:3] == [
        "  Which provider has the models?",
        "    1  OpenAI                      found: OPENAI_API_KEY in the environment",
        "    2  Google Gemini               aistudio.google.com",
    ]
    new = ["PREFERRED_PROVIDER=openai", "BIG_MODEL=openai/gpt-4.1", "SMALL_MODEL=openai/gpt-4o-mini"]
    assert screen.lines[-7:] == [
        f"  New lines of {tmp_path}/.env:",
        *(f"    {line}" for line in new),
        "  Write them? [Y/n] ",
        f"  ✓ Added 3 lines to {tmp_path}/.env.",
        "  Next:  anthropic-proxy code",
    ]
    assert sum(ACCEPTED.fullmatch(line) is not None for line in screen.lines) == 1
    assert (tmp_path / ".env").read_text().splitlines() == new


def test_the_models_have_window_and_price(tmp_path: Path, openai: Running) -> None:
    settings = {**address(openai), "OPENAI_API_KEY": openai_chat.KEY}
    (tmp_path / "anthropic-proxy.toml").write_text('[prices]\n"openai/gpt-4.1" = { input = 2, output = 8 }\n')
    screen = answer(tmp_path, settings, (FIRST, "\r"), (BIG, "\x03"))
    assert screen.status == 130
    rows = [line for line in screen.lines if line.endswith(" per M") or "another model" in line]
    assert rows == [
        "    4  gpt-4.1            1,047,576 tokens    $2.00 in   $8.00 out per M",
        f"  {rows[1].split()[0]:>3}  another model      which is not in the list",
    ]
    assert "  Big model, for sonnet, opus and fable" in screen.lines


def test_an_entered_key_is_tested_not_shown_and_written_for_the_owner_alone(tmp_path: Path, openai: Running) -> None:
    answers = [(FIRST, "openai\r"), (KEY, f"{WRONG_KEY}\r"), (KEY, f"{openai_chat.KEY}\r")]
    screen = answer(tmp_path, address(openai), *answers, (BIG, "\r"), (SMALL, "\r"), (CONFIRM, "y\r"))
    assert screen.status == 0
    assert "  Create a key:  https://platform.openai.com/api-keys" in screen.lines
    assert REJECTED in screen.lines
    assert f"    OPENAI_API_KEY=…{openai_chat.KEY[-4:]}" in screen.lines
    assert WRONG_KEY not in screen.text
    assert openai_chat.KEY not in screen.text
    file = tmp_path / ".env"
    new = ["PREFERRED_PROVIDER=openai", f"OPENAI_API_KEY={openai_chat.KEY}", *MODELS]
    assert file.read_text().splitlines() == new
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_another_provider_can_be_chosen_instead_of_a_key(tmp_path: Path, openai: Running) -> None:
    with serving_strictly(ollama.new_ollama()) as local:
        settings = {**address(openai), "OLLAMA_API_BASE": local.url}
        first = "Number or name [ollama]: "
        answers = [(first, "opnai\r"), (first, "openai\r"), (KEY, "\r"), (first, "\r")]
        screen = answer(
            tmp_path, settings, *answers, ("[llama3:latest]: ", "\r"), ("[llama3.2:latest]: ", "\r"), (CONFIRM, "\r")
        )
    assert screen.status == 0
    assert '  ✕ "opnai" is not in the list. Did you mean:  openai' in screen.lines


@pytest.mark.parametrize(("keys", "status"), [("n\r", 1), ("\x03", 130), ("\x04", 130)])
def test_nothing_is_written_without_confirmation(keys: str, status: int, tmp_path: Path, openai: Running) -> None:
    settings = {**address(openai), "OPENAI_API_KEY": openai_chat.KEY}
    screen = answer(tmp_path, settings, (FIRST, "\r"), (BIG, "\r"), (SMALL, "\r"), (CONFIRM, keys))
    assert screen.status == status
    assert screen.lines[-1].endswith("Nothing was written.")
    assert not (tmp_path / ".env").exists()


def test_a_running_ollama_is_found_with_its_largest_and_its_smallest_model(tmp_path: Path) -> None:
    with serving_strictly(ollama.new_ollama()) as local:
        answers = [("[ollama]: ", "\r"), ("[llama3:latest]: ", "\r"), ("[llama3.2:latest]: ", "\r"), (CONFIRM, "\r")]
        screen = answer(tmp_path, {"OLLAMA_API_BASE": local.url}, *answers)
    assert re.fullmatch(rf"    1  Ollama +found: \d+ models at {local.url}", screen.lines[1])
    assert (tmp_path / ".env").read_text() == (
        "PREFERRED_PROVIDER=ollama\nBIG_MODEL=ollama/llama3:latest\nSMALL_MODEL=ollama/llama3.2:latest\n"
    )


def test_the_address_of_another_ollama_is_asked_for(tmp_path: Path) -> None:
    question = "OLLAMA_API_BASE, its address (empty: another provider): "
    with serving_strictly(ollama.new_ollama()) as local:
        answers = [(FIRST, "ollama\r"), (question, "somewhere\r"), (question, f"{local.url.removeprefix('http://')}\r")]
        answers += [("[llama3:latest]: ", "\r"), ("[llama3.2:latest]: ", "\r"), (CONFIRM, "\r")]
        screen = answer(tmp_path, {"HTTP_PROXY": ""}, *answers)
    assert "  ✕ This is no address of a server, such as http://localhost:8000/v1." in screen.lines
    assert (tmp_path / ".env").read_text().splitlines()[:2] == [
        "PREFERRED_PROVIDER=ollama",
        f"OLLAMA_API_BASE={local.url}",
    ]


def test_existing_lines_change_if_the_user_agrees(tmp_path: Path, openai: Running) -> None:
    before = "# mine\nPREFERRED_PROVIDER=groq  # fast\nOPENAI_API_KEY=your-openai-key\nBIG_MODEL=groq/a\n"
    (tmp_path / ".env").write_text(before)
    change = "Change these lines? [Y/n] "
    answers = [(FIRST, "openai\r"), (KEY, f"{openai_chat.KEY}\r"), (BIG, "\r"), (SMALL, "\r")]
    screen = answer(tmp_path, address(openai), *answers, (change, "\r"), (CONFIRM, "\r"))
    assert screen.status == 0
    place = f"{tmp_path}/.env"
    assert screen.lines[-12:] == [
        "  ! .env line 2: PREFERRED_PROVIDER=groq → openai",
        "  ! .env line 4: BIG_MODEL=groq/a → openai/gpt-4.1",
        f"  {change}",
        f"  New and changed lines of {place}:",
        "    PREFERRED_PROVIDER=openai",
        f"    OPENAI_API_KEY=…{openai_chat.KEY[-4:]}",
        "    BIG_MODEL=openai/gpt-4.1",
        "    SMALL_MODEL=openai/gpt-4.1-mini",
        f"  {CONFIRM}",
        f"  ! Other users could read {place}. Now only its owner can, because it contains a key.",
        f"  ✓ Wrote 4 lines to {place}.",
        "  Next:  anthropic-proxy code",
    ]


def test_existing_lines_stay_without_a_question_and_differences_are_reported(tmp_path: Path, openai: Running) -> None:
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


def test_options_name_the_models(tmp_path: Path, openai: Running) -> None:
    words = ("--provider", "openai", "--key-from-env", "OWN_KEY", "--big-model", "gpt-5.5", "--yes")
    settings = {**address(openai), "OWN_KEY": openai_chat.KEY}
    ended = run_command("init", *words, "--small-model", "openai/gpt-5-nano", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / ".env").read_text().splitlines()[2:] == [
        "BIG_MODEL=openai/gpt-5.5",
        "SMALL_MODEL=openai/gpt-5-nano",
    ]


def test_without_a_terminal_a_rejected_key_writes_nothing(tmp_path: Path, openai: Running) -> None:
    words = ("init", "--provider", "openai", "--key-from-env", "OWN_KEY", "--yes")
    ended = run_command(*words, directory=tmp_path, settings={**address(openai), "OWN_KEY": WRONG_KEY})
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"{REJECTED}\n")
    assert not (tmp_path / ".env").exists()


def test_a_rejected_key_of_the_settings_is_named(tmp_path: Path, openai: Running) -> None:
    settings = {**address(openai), "OPENAI_API_KEY": WRONG_KEY}
    ended = run_command("init", "--provider", "openai", "--yes", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        1,
        "",
        f"{REJECTED}\n  The key is …cdef, OPENAI_API_KEY in the environment. Replace it there.\n",
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
    keep = "Keep the settings without a test? [y/N] "
    answers = [(FIRST, "openai\r"), (KEY, f"{openai_chat.KEY}\r")]
    answers += [(keep, "y\r"), (BIG, "\r"), (SMALL, "\r"), (CONFIRM, "\r")] if kept else [(keep, "\r"), (KEY, "\x03")]
    settings = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OLLAMA_API_BASE": "http://127.0.0.1:9"}
    screen = answer(tmp_path, settings, *answers)
    assert screen.status == (0 if kept else 130)
    assert (tmp_path / ".env").exists() is kept


NO_TERMINAL = (
    "There is no terminal for questions. Use options:  "
    "anthropic-proxy init --provider openai --key-from-env OPENAI_API_KEY --yes"
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), NO_TERMINAL),
        (("--yes",), NO_TERMINAL),
        (
            ("--provider", "opnai"),
            f'There is no provider "opnai". The providers are: {", ".join(CANDIDATES)}. '
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
        (("--provider", "Together", "--yes"), "Together needs questions: run  anthropic-proxy init  in a terminal."),
    ],
)
def test_a_missing_value_is_named(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    ended = run_command("init", *words, directory=tmp_path, settings={"OLLAMA_API_BASE": "http://127.0.0.1:9"})
    assert (ended.returncode, ended.stderr) == (2, f"✕ {message}\n")


def test_answers_come_from_a_pipe(tmp_path: Path, openai: Running) -> None:
    answers = f"openai\n{openai_chat.KEY}\ngpt-5.5\n\ny\n"
    ended = run_command("init", directory=tmp_path, settings=address(openai), stdin=answers)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert openai_chat.KEY not in ended.stdout
    assert f"  {FIRST}openai" in ended.stdout.splitlines()
    assert (tmp_path / ".env").read_text().splitlines() == [
        "PREFERRED_PROVIDER=openai",
        f"OPENAI_API_KEY={openai_chat.KEY}",
        "BIG_MODEL=openai/gpt-5.5",
        "SMALL_MODEL=openai/gpt-4.1-mini",
    ]


_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>78])")


def test_a_terminal_has_lists_to_choose_from(tmp_path: Path, openai: Running) -> None:
    """Arrow keys move, letters search, and only the chosen word stays on the screen."""
    settings = {**address(openai), "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
    answers = [
        ("Which provider has the models?", "openai\r"),
        ("OPENAI_API_KEY (empty: another provider)", f"{openai_chat.KEY}\r"),
        ("Big model, for sonnet, opus and fable", "\x1b[B\r"),
        ("Small model, for haiku", "\r"),
        ("Write them?", "y"),
    ]
    screen = answer(tmp_path, settings, *answers)
    text = _ESCAPES.sub("", screen.text)
    assert screen.status == 0
    assert openai_chat.KEY not in text
    assert text.rstrip().endswith("Next:  anthropic-proxy code")
    for chosen in ("models? OpenAI", "fable gpt-4.1-mini", "haiku gpt-4.1-mini"):
        assert any(line.rstrip().endswith(chosen) for line in text.splitlines()), chosen
    assert (tmp_path / ".env").read_text().splitlines() == [
        "PREFERRED_PROVIDER=openai",
        f"OPENAI_API_KEY={openai_chat.KEY}",
        "BIG_MODEL=openai/gpt-4.1-mini",
        "SMALL_MODEL=openai/gpt-4.1-mini",
    ]


def test_a_retired_default_model_is_replaced() -> None:
    google = PROVIDERS.find("google")
    assert list_env_lines(google, {}, date(2025, 1, 1)) == {"PREFERRED_PROVIDER": "google"}
    assert list_env_lines(google, {"GEMINI_API_KEY": "k"}, date(2026, 11, 20)) == {
        "PREFERRED_PROVIDER": "google",
        "GEMINI_API_KEY": "k",
        "BIG_MODEL": "gemini/gemini-3.1-pro-preview",
        "SMALL_MODEL": "gemini/gemini-3.1-flash-lite",
    }


def write(file: Path, **variables: str) -> None:
    plan = ImportPlan("init")
    plan.variables = variables
    prepare_files(plan, file.parent).write(Output())


@pytest.mark.parametrize("value", ["plain-1.5/x:y", "with space", "it's", 'a"b', "a#b", " #b", "back\\slash"])
def test_a_written_value_is_read_unchanged(value: str, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    write(file, GOOGLE_APPLICATION_CREDENTIALS=value)
    settings = load_settings({}, PROVIDERS, env_file=str(file))
    assert settings.raw_values["GOOGLE_APPLICATION_CREDENTIALS"].reveal() == value.strip()


def test_a_file_keeps_its_mode_its_line_ends_and_its_link(tmp_path: Path) -> None:
    target, link = tmp_path / "own.env", tmp_path / ".env"
    target.write_bytes(b"HOST=127.0.0.1\r\nPORT=1")
    target.chmod(0o640)
    link.symlink_to(target)
    write(link, BIG_MODEL="o3")
    assert target.read_bytes() == b"HOST=127.0.0.1\r\nPORT=1\r\nBIG_MODEL=o3\r\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} - {".anthropic-proxy.lock"} == {".env", "own.env"}  # of Windows


def test_a_file_that_cannot_be_written_is_an_error_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"/file/\.env cannot be (?:written|read): (?:file exists|not a dir)"):
        write(tmp_path / "file/.env", BIG_MODEL="o3")


def test_a_file_that_another_program_changes_meanwhile_stays(tmp_path: Path) -> None:
    plan = ImportPlan("init")
    plan.variables = {"BIG_MODEL": "o3"}
    files = prepare_files(plan, tmp_path)
    (tmp_path / ".env").write_text("PORT=8083\n")
    with pytest.raises(ConfigurationError) as caught:
        files.write(Output())
    message = f"{tmp_path}/.env was changed by another program in the meantime. Try again."
    assert (caught.value.message, (tmp_path / ".env").read_text()) == (message, "PORT=8083\n")


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


def test_another_compatible_server_becomes_a_table_of_the_configuration_file(tmp_path: Path) -> None:
    where, own_key = (
        "such as localhost:8000 (empty: another provider): ",
        "OWN_API_KEY (empty: needs none) (not shown): ",
    )
    with serving(openai_chat.new_openai()) as running:
        key, place = openai_chat.KEY, running.url.removeprefix("http://")
        answers = [(FIRST, "other\r"), (where, "togehter\r"), (where, f"{place}\r"), (own_key, f"{WRONG_KEY}\r")]
        answers += [(where, f"{place}\r"), (own_key, f"{key}\r"), ("[chatgpt-4o-latest]: ", "gpt-4.1\r")]
        answers += [("[gpt-4.1]: ", "another\r"), ("Name of the model, without own/: ", "gpt-4.l\r"), (CONFIRM, "\r")]
        screen = answer(tmp_path, {"OLLAMA_API_BASE": "http://127.0.0.1:9"}, *answers)
    text = screen.text.replace("\r\n", "\n")
    assert (screen.status, key in text, WRONG_KEY in text) == (0, False, False)
    assert "  ✕ This is no address of a server, such as http://localhost:8000/v1.\n" in text
    assert "  ✕ own rejected the key (401)." in text
    assert text[text.index("  New lines of ") :] == (
        f"  New lines of {tmp_path}/.env:\n    PREFERRED_PROVIDER=own\n    OWN_API_KEY=…{key[-4:]}\n"
        "    BIG_MODEL=own/gpt-4.1\n    SMALL_MODEL=own/gpt-4.l\n"
        f'  New lines of {tmp_path}/anthropic-proxy.toml:\n    [providers.own]\n    base_url = "{running.url}/v1"\n'
        '    api_key = { env = "OWN_API_KEY" }\n    models = ["gpt-4.1", "gpt-4.l"]\n'
        f"  Write them? [Y/n] \n  ✓ Added the lines to {tmp_path}/.env and {tmp_path}/anthropic-proxy.toml.\n"
        "  Next:  anthropic-proxy code\n"
    )
    written = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))
    assert (written.preferred_provider, written.base_urls) == ("own", {"own": f"{running.url}/v1"})
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


def test_a_vendor_has_its_own_address_and_the_variable_of_its_own_tools(tmp_path: Path) -> None:
    answers = ("huggingface", "hf_0123456789abcdef", "y", "some/model", "some/model", "y")
    settings = {"HTTPS_PROXY": "http://127.0.0.1:9", "OLLAMA_API_BASE": "http://127.0.0.1:9"}
    ended = run_command("init", directory=tmp_path, settings=settings, stdin="".join(f"{one}\n" for one in answers))
    assert ended.returncode == 0, ended.stderr
    assert "  Create a key:  https://huggingface.co/settings/tokens" in ended.stdout.splitlines()
    assert (tmp_path / ".env").read_text() == (
        "PREFERRED_PROVIDER=huggingface\nHF_TOKEN=hf_0123456789abcdef\n"
        "BIG_MODEL=huggingface/some/model\nSMALL_MODEL=huggingface/some/model\n"
    )
    assert (tmp_path / "anthropic-proxy.toml").read_text() == (
        '[providers.huggingface]\nbase_url = "https://router.huggingface.co/v1"\napi_key = { env = "HF_TOKEN" }\n'
        'models = ["some/model"]\n'
    )


def test_every_provider_and_vendor_has_a_page_for_keys() -> None:
    without = {one.name for one in list_candidates(Settings(), None) if not one.keys_url.startswith("https://")}
    assert without == {"vertex_ai", "ollama", "other"}
    assert {"openrouter", "deepseek", "mistral", "zai", "together", "fireworks"} <= {*CANDIDATES}


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
