"""Command `init`: lists in a terminal, and the files that it writes. `golden_commands/init` has its questions."""

import os
import re
import stat
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from anthropic_proxy.cli.importing.files import prepare_files
from anthropic_proxy.cli.importing.plan import ImportPlan
from anthropic_proxy.cli.init.answers import ChosenProvider
from anthropic_proxy.cli.init.candidates import MOST_USED, list_candidates
from anthropic_proxy.cli.init.models import (
    describe_facts,
    find_default_models,
    find_offered_models,
    find_small_model,
    list_successors,
    sort_models,
)
from anthropic_proxy.cli.models import ModelFacts, ModelPrice
from anthropic_proxy.cli.output import Output
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings, load_settings
from tests.support.command_line import run_command
from tests.support.fakes import openai_chat
from tests.support.fakes.server import Running, serving, serving_strictly
from tests.support.paths import ROOT
from tests.support.scripted_answers import new_scripted_server
from tests.support.secret_canaries import new_canary
from tests.support.terminal import Screen, answer_questions

CANDIDATES = [one.name for one in list_candidates(Settings(), {})]
"""Names of all providers and vendors that the command offers without a detected key."""
MORE = f"{len(CANDIDATES) - len(MOST_USED)} more"
"""Last line of the list of providers."""


@pytest.fixture
def openai() -> Iterator[Running]:
    with serving_strictly(openai_chat.new_openai()) as running:
        yield running


def address(running: Running) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"{running.url}/v1", "OLLAMA_API_BASE": "http://127.0.0.1:9"}


def answer(directory: Path, settings: dict[str, str], *answers: tuple[str, str]) -> Screen:
    return answer_questions("init", answers=answers, directory=directory, settings=settings)


TERMINAL = {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>78])")


@pytest.mark.merge
def test_the_first_start_says_at_once_that_it_takes_time(tmp_path: Path) -> None:
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path / "compiled")}
    words, cancel = ("init", "--provider", "openai"), ("OPENAI_API_KEY (empty: another provider)", "\x03")
    for expected in (["  The first start takes some seconds."], []):
        screen = answer_questions(*words, answers=[cancel], directory=tmp_path, settings=compiled)
        shown = [line for line in screen.lines if "first start" in line]
        assert shown == expected
        assert not shown or screen.lines[0] == shown[0]


def test_a_server_without_a_key_answers_and_needs_no_prices(tmp_path: Path) -> None:
    (tmp_path / "genai_prices.py").touch()  # the package with the prices is not installed
    without_prices = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "MY_KEY": openai_chat.KEY}

    def run(*words: str) -> str:
        ended = run_command("init", "--yes", *words, directory=tmp_path, settings=without_prices)
        assert (ended.returncode, ended.stderr) == (0, "")
        return str(ended.stdout)

    models = '200 {"data": [{"id": "qwen3-coder", "object": "model", "max_model_len": 65536}]}'
    with serving(new_scripted_server([{"if": "@/v1/models", "then": models}])) as server:
        free = run("--provider", "other", "--base-url", f"{server.url}/v1")
    place = server.url.removeprefix("http://")
    assert re.match(rf"  ✓ {place} answers, 1 model, [\d.]+ m?s\n", free)
    assert free.endswith("  Then:  anthropic-proxy add dashboard    for charts\n")
    (tmp_path / ".env").unlink()
    paid = run("--provider", "openai", "--skip-test", "--key-from-env", "MY_KEY")
    assert paid.endswith("  Then:  anthropic-proxy add dashboard prices    for costs and charts\n")


def test_a_terminal_has_lists_to_choose_from(tmp_path: Path, openai: Running) -> None:
    """Arrow keys move, letters search, and only the chosen word stays on the screen."""
    settings = {**address(openai), **TERMINAL}
    answers = [
        ("Which provider has the models?", "openai\r"),
        ("OPENAI_API_KEY (empty: another provider)", f"{openai_chat.KEY}\r"),
        ("Use these models?", "n\r"),
        ("Big model, for sonnet, opus and fable", "\x1b[B\r"),
        ("Small model, for haiku", "\r"),
        ("Write them?", "y\r"),
    ]
    screen = answer(tmp_path, settings, *answers)
    text = _ESCAPES.sub("", screen.text)
    assert screen.status == 0
    assert openai_chat.KEY not in text
    assert [line.strip() for line in text.splitlines()][-2:] == [
        "Next:  anthropic-proxy code    in the folder of your project",
        "Or:    anthropic-proxy code --model openai/gpt-5.4    for another model",
    ]
    for chosen in ("models? OpenAI", "fable gpt-5.5", "haiku gpt-4.1-mini"):
        assert any(line.rstrip().endswith(chosen) for line in text.splitlines()), chosen
    assert (tmp_path / ".env").read_text().splitlines() == [
        "PREFERRED_PROVIDER=openai",
        f"OPENAI_BASE_URL={openai.url}/v1",
        f"OPENAI_API_KEY={openai_chat.KEY}",
        "BIG_MODEL=openai/gpt-5.5",
        "SMALL_MODEL=openai/gpt-4.1-mini",
    ]


def test_a_retired_default_model_is_replaced() -> None:
    google = PROVIDERS.find("google")
    assert list_successors(google, date(2025, 1, 1)) == {}
    assert list_successors(google, date(2026, 11, 20)) == {
        "BIG_MODEL": "gemini/gemini-3.1-pro-preview",
        "SMALL_MODEL": "gemini/gemini-3.1-flash-lite",
    }


TODAY = date(2026, 11, 26)


def describe(name: str, price: float | None = None, retires_on: str = "", *, window: int | None = None) -> ModelFacts:
    """`price`: of output; input costs a quarter of it."""
    amounts = None if price is None else ModelPrice(price / 4, 0, price, 0, 0, price, source="test")
    day = date.fromisoformat(retires_on) if retires_on else None
    return ModelFacts(f"openai/{name}", max_input=window, price=amounts, retires_on=day)


def listing(*models: ModelFacts) -> ChosenProvider:
    return ChosenProvider(PROVIDERS.find("openai"), Settings(), {}, models=models)


def test_a_retired_model_is_not_offered_and_a_retirement_within_180_days_is_marked() -> None:
    backend = listing(describe("a", retires_on="2026-10-23"), describe("b", retires_on="2027-01-14"), describe("c"))
    offered = {
        day: {
            name: describe_facts(facts, date.fromisoformat(day)).strip()
            for name, facts in find_offered_models(backend, date.fromisoformat(day)).items()
        }
        for day in ("2026-04-25", "2026-09-12", "2026-10-23", "2027-01-14")
    }
    assert offered == {
        "2026-04-25": {"a": "", "b": "", "c": ""},
        "2026-09-12": {"a": "retires 2026-10-23", "b": "retires 2027-01-14", "c": ""},
        "2026-10-23": {"b": "retires 2027-01-14", "c": ""},
        "2027-01-14": {"c": ""},
    }


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (describe("a", 8, window=1_047_576), " 1.0 M context   $2.00 in   $8.00 out"),
        (describe("a", 8, "2027-01-14", window=400_000), " 400 k context   $2.00 in   $8.00 out  retires 2027-01-14"),
        (describe("a", 0, window=65_536), "65.5 k context  free of charge"),
        (describe("a", 8), "       unknown   $2.00 in   $8.00 out"),
        (describe("a"), ""),
        (describe("a", window=8_192), " 8,192 context  too small for Claude Code"),
    ],
)
def test_each_number_of_a_model_has_its_noun(facts: ModelFacts, text: str) -> None:
    assert describe_facts(facts, TODAY) == text


SOON, LATER = "2027-01-14", "2028-01-01"


@pytest.mark.parametrize(
    ("models", "proposed"),
    [
        ([describe("gpt-4.1", 8), describe("gpt-4.1-mini", 1.6), describe("gpt-5.2", 14)], ("gpt-4.1", "gpt-4.1-mini")),
        (
            [describe("gpt-4.1", 8, LATER), describe("gpt-4.1-mini", 1.6, SOON), describe("gpt-6-luna", 0.5)],
            ("gpt-4.1", "gpt-6-luna"),
        ),
        (  # its successor is much smaller than the big model
            [
                *(describe("gpt-4.1", 8, SOON), describe("gpt-4.1-mini", 1.6, SOON), describe("gpt-5.1", 10, SOON)),
                *(describe("gpt-5.5", 30), describe("gpt-6-luna", 0.5), describe("gpt-6.1-sol", 10)),
                *(describe("gpt-6-sol", 10), describe("no-known-model", 8), describe("o3", 8, SOON)),
            ],
            ("gpt-6.1-sol", "gpt-6-luna"),
        ),
        (  # the successor is not listed
            [describe("gpt-4.1", 8, SOON), describe("gpt-4.1-mini", 1.6, SOON), describe("gpt-5.2", 14)],
            ("gpt-5.2", "gpt-5.2"),
        ),
        ([describe("gpt-4.1", 8, SOON), describe("gpt-4.1-mini", 1, SOON)], ("gpt-4.1", "gpt-4.1-mini")),  # none stays
    ],
)
def test_a_model_that_retires_soon_is_not_proposed(models: list[ModelFacts], proposed: tuple[str, str]) -> None:
    backend = listing(*models)
    assert find_default_models(backend, find_offered_models(backend, TODAY), TODAY) == proposed


def test_retiring_models_and_dated_copies_are_last_in_the_list() -> None:
    models = [
        *(describe("gpt-4.1", 8, SOON), describe("gpt-5.2-2025-12-11", 14), describe("o3", 8, SOON)),
        *(describe("gpt-5.5", 30), describe("gpt-5.2", 14), describe("gpt-9-0101", 10)),
    ]
    backend = listing(*models)
    ordered = sort_models(backend, find_offered_models(backend, TODAY), "gpt-5.5", TODAY)
    assert [*ordered] == ["gpt-5.5", "gpt-5.2", "gpt-9-0101", "gpt-5.2-2025-12-11", "o3", "gpt-4.1"]


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


def test_a_list_begins_with_the_most_used_providers_and_searches_all(tmp_path: Path, openai: Running) -> None:
    """The last line shows all. For a text that is similar to no option, Enter chooses the entry for all others."""
    answers = [
        (MORE, "zzz"),
        ("no match: Enter takes Another server", "\r"),
        ("Its address", "\r"),
        (MORE, "another\r"),
        ("Its address", "\r"),
        (MORE, "\x1b[A\r"),  # from the first line up: the last one
        ("llama.cpp", "mistral\r"),
        ("MISTRAL_API_KEY (empty: another provider)", "\x03"),
    ]
    screen = answer(tmp_path, {**address(openai), **TERMINAL}, *answers)
    first = _ESCAPES.sub("", screen.text).partition(MORE)[0].splitlines()
    assert [line.strip(" ❯") for line in first if line.strip()] == [
        "? Which provider has the models? (arrow keys, or type to search)",
        *("OpenAI", "Google Gemini", "Anthropic", "OpenRouter", "DeepSeek", "Ollama"),
        "Another server             any OpenAI-compatible address",
    ]
    assert "Cancelled. Nothing was written." in screen.text


def test_after_a_typing_error_a_list_shows_what_is_similar_and_enter_chooses_nothing(
    tmp_path: Path, openai: Running
) -> None:
    answers = [
        (MORE, "opneai\r\x1b[B\r"),  # the first Enter has no effect
        ("OPENAI_API_KEY (empty: another provider)", "\r"),
        (MORE, "gemini\x15no google\x17\x17mistral\r"),
        ("MISTRAL_API_KEY (empty: another provider)", "\x03"),
    ]
    screen = answer(tmp_path, {**address(openai), **TERMINAL}, *answers)
    assert "Cancelled. Nothing was written." in screen.text


def test_a_typed_address_or_model_is_an_answer_to_a_list(tmp_path: Path, openai: Running) -> None:
    place = openai.url.removeprefix("http://")
    answers = [
        (MORE, f"{place}/v1\r"),
        ("LOCAL_API_KEY (empty: it needs none)", f"{openai_chat.KEY}\r"),
        ("Big model, for sonnet, opus and fable", "gpt-9\r"),
        ("gpt-9 is not one of the 22 listed models", "\x1b[A\r"),  # from the first line up: use it nevertheless
        ("Small model, for haiku", "gpt-4.1-mini\r"),
        ("Write them?", "y\r"),
    ]
    screen = answer(tmp_path, {"OLLAMA_API_BASE": "http://127.0.0.1:9", **TERMINAL}, *answers)
    assert screen.status == 0, screen.text
    lines = [line.rstrip() for line in _ESCAPES.sub("", screen.text).replace("\r", "").splitlines()]
    assert any(line.endswith(f"? Which provider has the models? {place}/v1") for line in lines)
    assert "  Its name here:  local" in lines
    assert any(line.startswith(f"  ✓ accepted by {place}, 22 models, ") for line in lines)
    assert (tmp_path / ".env").read_text().splitlines() == [
        "PREFERRED_PROVIDER=local",
        f"LOCAL_API_KEY={openai_chat.KEY}",
        "BIG_MODEL=local/gpt-9",
        "SMALL_MODEL=local/gpt-4.1-mini",
    ]


def test_only_models_of_the_api_of_the_chosen_ones_are_named_for_an_own_address(
    tmp_path: Path, openai: Running
) -> None:
    answers = [
        (MORE, "openai\r"),
        ("OPENAI_API_KEY (empty: another provider)", f"{openai_chat.KEY}\r"),
        ("Use these models?", "y\r"),
        ("Write them?", "y\r"),
    ]
    screen = answer(tmp_path, {**address(openai), **TERMINAL}, *answers)
    assert "Or:    anthropic-proxy code --model openai/gpt-4o    for another model" in _ESCAPES.sub("", screen.text), (
        screen.text
    )


def test_no_word_of_a_question_is_divided_in_a_narrow_terminal(tmp_path: Path, openai: Running) -> None:
    answers = [
        ("(arrow keys, or type to search)", "zzz"),
        ("Another server", "\x15openai\r"),
        ("(empty: another provider)", "\x03"),
    ]
    settings = {**address(openai), **TERMINAL}
    screen = answer_questions("init", answers=answers, directory=tmp_path, settings=settings, columns=40)
    lines = [line.rstrip() for line in _ESCAPES.sub("", screen.text).replace("\r", "").splitlines()]
    assert lines[:2] == ["? Which provider has the models?", "  (arrow keys, or type to search)"]
    asked = lines.index("? API key, saved as OPENAI_API_KEY")
    assert lines[asked + 1].startswith("  (empty: another provider)")


def test_every_provider_and_vendor_has_a_page_for_keys() -> None:
    without = {one.name for one in list_candidates(Settings(), {}) if not one.keys_url.startswith("https://")}
    clouds = {"vertex_ai", "vertex_ai_claude", "bedrock", "foundry", "azure"}
    assert without == {*clouds, "ollama", "vllm", "llama_cpp", "lm_studio", "other"}
    assert {"openrouter", "deepseek", "mistral", "zai", "together", "fireworks"} <= {*CANDIDATES}


@pytest.mark.parametrize(
    ("big", "listed", "small"),
    [
        ("gpt-4.1", "gpt-3.5-turbo gpt-4.1 gpt-4.1-mini gpt-4.1-nano", "gpt-4.1-mini"),
        ("anthropic/claude-sonnet", "anthropic/claude-haiku google/gemini-flash", "anthropic/claude-haiku"),
        ("mistral-large", "mistral-large mistral-small", "mistral-small"),
        ("gpt-4.1-mini", "gpt-4.1-mini gpt-4.1-nano", "gpt-4.1-mini"),
        ("deepseek-chat", "deepseek-chat deepseek-reasoner", ""),
        ("qwen", "gemini-flash minimax qwen", ""),
        ("qwen", "", ""),
    ],
)
def test_the_small_model_of_a_family_is_proposed(big: str, listed: str, small: str) -> None:
    assert find_small_model(big, listed.split()) == small


def test_the_other_name_of_a_key_is_found_and_stored_as_the_one_that_the_proxy_reads(tmp_path: Path) -> None:
    key = {"GOOGLE_API_KEY": new_canary("AIza-"), "OLLAMA_API_BASE": "http://127.0.0.1:9"}
    screen = answer(tmp_path, key, ("Number or name", "\x03"))
    assert "Google Gemini   found: GOOGLE_API_KEY in the environment" in screen.text
    models = ("--big-model", "gemini-3-pro", "--small-model", "gemini-3-flash")
    words = ("init", "--provider", "gemini", *models, "--yes", "--skip-test")
    done = run_command(*words, directory=tmp_path, settings=key)
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"GEMINI_API_KEY={key['GOOGLE_API_KEY']}" in (tmp_path / ".env").read_text("utf-8")
