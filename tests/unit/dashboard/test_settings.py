"""Changes of settings that the dashboard proposes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, cast

import pytest
import trustme

from anthropic_proxy.console.dashboard.page import PageContext
from anthropic_proxy.console.dashboard.query import read_view_query
from anthropic_proxy.console.dashboard.settings import (
    Proposal,
    build_settings_page,
    list_unlisted_models,
    propose_change,
    write_change,
)
from anthropic_proxy.console.ledger.queries import LedgerExtent
from anthropic_proxy.engine.platforms import files
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.settings.files import locked_for_change
from anthropic_proxy.gateway.settings_listing import list_settings
from tests.support.ledger import NOON
from tests.support.waiting import WAIT_SECONDS

KEY = "sk-0123456789abcdefghijklmnop"


def build(text: str = "") -> dict[str, Any]:
    """Return the values of the page with a search."""
    settings = load_settings({"LEDGER_DAYS": "30", "OPENAI_API_KEY": KEY}, PROVIDERS, env_file=None)
    query = read_view_query("/dashboard/settings", {"q": [text]}, NOON)
    connection, facts = cast(Any, None), LedgerExtent(0, None, None)
    context = PageContext(query=query, connection=connection, facts=facts, now=NOON, settings=settings)
    return dict(build_settings_page(context))


def test_each_setting_has_a_group_and_a_sentence() -> None:
    page = build()
    assert [one.name for one in page["set"]] == ["OPENAI_API_KEY", "LEDGER_DAYS"]
    titles = [title for title, _ in page["groups"]]
    assert titles[:3] == ["Provider", "Models", "Addresses and APIs of providers"]
    assert [one.name for _, members in page["groups"] for one in members if not one.help] == []
    assert KEY not in str(page)


def test_settings_are_found_by_name_and_by_words_of_their_meaning() -> None:
    for text, names in (("ledger days", ["LEDGER_DAYS", "LEDGER_CONTENT_DAYS"]), ("haiku. prefix", ["SMALL_MODEL"])):
        page = build(text)
        found = [one.name for _, members in page["groups"] for one in members]
        assert set(names) <= set(found), text
        assert (page["set"], page["is_searched"]) == ([], True)
    assert build("no such words")["verdict"] == "0 settings match."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BIG_MODEL", "${OPENAI_API_KEY}"),
        ("LOG_LEVEL", "-${OPENAI_API_KEY:-x}-"),
        ("GROQ_API_KEY", "x${OPENAI_API_KEY}"),
    ],
)
def test_a_value_cannot_refer_to_another_variable(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(f"OPENAI_API_KEY={KEY}\n", "utf-8")
    settings = load_settings({}, PROVIDERS, env_file=".env")
    with pytest.raises(InvalidRequest) as caught:
        propose_change(settings, Catalog(), name, value)
    assert caught.value.message == (
        f"{name}: a reference such as ${{NAME}} is not allowed here, because pages show its value."
    )


def test_only_one_of_several_simultaneous_changes_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("BIG_MODEL", "SMALL_MODEL", "LOG_LEVEL", "FIDELITY")
    values = ("gpt-5", "gpt-4.1-mini", "debug", "strict")
    barrier = Barrier(len(names), timeout=WAIT_SECONDS)

    def confirm(proposal: Proposal) -> str:
        barrier.wait()
        try:
            write_change(proposal, proposal.before)
        except InvalidRequest as error:
            return error.message
        return ""

    for _ in range(10):
        Path(".env").write_text("PORT=8082\n", "utf-8")
        settings = load_settings({}, PROVIDERS, env_file=".env")
        proposals = [
            propose_change(settings, Catalog(), name, value) for name, value in zip(names, values, strict=True)
        ]
        with ThreadPoolExecutor(len(names)) as threads:
            found = dict(zip(names, threads.map(confirm, proposals), strict=True))
        (written,) = (name for name, message in found.items() if not message)
        value = dict(zip(names, values, strict=True))[written]
        assert Path(".env").read_text("utf-8") == f"PORT=8082\n{written}={value}\n"
        assert {name: message for name, message in found.items() if name != written} == {
            name: f"Another change of .env was written after this preview, so {name} was not written. "
            "Check its value and show the change again."
            for name in names
            if name != written
        }


def test_a_change_does_not_wait_forever_for_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.05)
    proposal = propose_change(load_settings({}, PROVIDERS, env_file=".env"), Catalog(), "BIG_MODEL", "gpt-5")
    with locked_for_change(Path(".env")), pytest.raises(InvalidRequest) as caught:
        write_change(proposal, proposal.before)
    assert caught.value.message == ".env is being changed by another process. Try again. Nothing was changed."
    write_change(proposal, proposal.before)
    assert Path(".env").read_text("utf-8") == "BIG_MODEL=gpt-5\n"


def test_a_model_that_cannot_serve_requests_is_a_warning_of_the_change(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"OPENAI_API_KEY={KEY}\nPREFERRED_PROVIDER=openai\n")
    settings = load_settings({}, PROVIDERS, env_file=str(file))
    assert propose_change(settings, Catalog(), "BIG_MODEL", "gpt-4.1").warnings == []
    (warning,) = propose_change(settings, Catalog(), "BIG_MODEL", "gemini/gemini-3.1-pro-preview").warnings
    assert warning.startswith("gemini has no key: GEMINI_API_KEY is not set.")


def test_a_change_to_a_server_that_was_not_asked_is_no_warning(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"OPENAI_API_KEY={KEY}\n")
    settings = load_settings({}, PROVIDERS, env_file=str(file))
    assert propose_change(settings, Catalog(), "BIG_MODEL", "ollama/qwen3").warnings == []
    assert propose_change(settings, Catalog(), "PREFERRED_PROVIDER", "ollama").warnings == []


@pytest.mark.parametrize(
    ("value", "warnings"),
    [
        ("openai/gpt-5.5", []),
        ("openai/gpt-5.5[1m], ollama/qwen3", []),
        ("openai/gpt-9", ["openai does not list gpt-9. Did you mean:  openai/gpt-5.5"]),
        ("ollama/qwen3,openai/zebra", ["openai does not list zebra."]),
        ("groq/any", []),  # its list is unknown
        ("gpt-9", []),
        ("", []),
    ],
)
def test_a_model_that_its_provider_does_not_list_is_a_warning(value: str, warnings: list[str]) -> None:
    available = ["claude-opus-5-5", "claude-openai/gpt-5.5", "claude-ollama/qwen3:latest"]
    assert list_unlisted_models(value, available) == warnings


def test_a_change_is_checked_in_the_folder_of_its_file(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "anthropic-proxy.toml").write_text('[providers.openai]\nca_file = "ca.pem"\n')
    file = tmp_path / ".env"
    file.write_text("OPENAI_API_KEY=your-key\n")  # causes a warning, which is not new
    settings = load_settings({}, PROVIDERS, env_file=str(file))
    assert propose_change(settings, Catalog(), "LOG_LEVEL", "debug").warnings == []
    with pytest.raises(InvalidRequest) as caught:
        propose_change(settings, Catalog(), "LOG_LEVEL", "no")
    text = 'LOG_LEVEL is "no". Use debug, info, warning or error. Set in .env, line 2. Did you mean:  LOG_LEVEL=info'
    assert caught.value.message == text


def test_defaults_are_those_of_ollama_if_only_its_server_replies() -> None:
    rows = list_settings(load_settings({}, PROVIDERS), Catalog({"ollama": ["qwen3-coder:30b", "llama3.2:latest"]}))
    names = ("PREFERRED_PROVIDER", "BIG_MODEL", "SMALL_MODEL")
    found = [row.default for name in names for row in rows if row.name == name]
    assert found == ["ollama", "ollama/qwen3-coder:30b", "ollama/llama3.2:latest"]
