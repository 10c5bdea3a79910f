"""Output at start-up, compared with the screens to the character."""

import io
import json
import sys
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy import __version__
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import build_catalog
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.startup_summary import log_startup_summary
from anthropic_proxy.gateway.telemetry.log import Log
from tests.support.harness import ProxyHarness
from tests.support.provider_lists import list_unset_names
from tests.support.startup_summary import ADDRESS, BEFORE, NOW, startup_lines

KEYS = {
    "openai": {"OPENAI_API_KEY": "sk-proj-0123456789ab4f2a"},
    "google": {"GEMINI_API_KEY": "AIza0123456789ab4f2a"},
    "vertex": {"VERTEX_PROJECT": "mine"},
    "groq": {"GROQ_API_KEY": "gsk_0123456789ab4f2a"},
    "moonshot": {"MOONSHOT_API_KEY": "sk-0123456789ab4f2a"},
    "xai": {"XAI_API_KEY": "xai-0123456789ab4f2a"},
}
UNSET = list_unset_names("openai", "ollama", "anthropic")


def test_one_key_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("\nOPENAI_API_KEY=sk-0123456789ab4f2a\n\nBIG_MODEL=gpt-4.1\n", encoding="utf-8")
    settings = load_settings({}, PROVIDERS, env_file=".env")
    proxy = ProxyHarness(lambda *_: pytest.fail("start-up calls nobody"))
    services = structs.replace(proxy.services, settings=settings, catalog=build_catalog(["a", "b", "c"]))
    log_startup_summary(services, ADDRESS, NOW)
    assert proxy.log.getvalue().splitlines() == [
        f"anthropic-proxy {__version__}   http://127.0.0.1:8082",
        f"  settings: {tmp_path}/.env",
        "",
        "  haiku           → openai/gpt-4.1-mini       SMALL_MODEL, default",
        "  sonnet, opus …  → openai/gpt-4.1            BIG_MODEL, .env line 4",
        f"  ready: openai (…4f2a, .env), ollama (3 models)         not set: {' '.join(UNSET)}",
        "",
        "  Use it:  anthropic-proxy code",
        "      or:  ANTHROPIC_BASE_URL=http://127.0.0.1:8082 ANTHROPIC_AUTH_TOKEN=local claude",
    ]


def test_nothing_set() -> None:
    lines = startup_lines()
    assert lines[2] == (
        "  ! No provider is configured, so the demo replies: it streams and calls tools, but has no model."
    )
    assert lines[4:] == [
        "  Next:  anthropic-proxy init                   asks two questions and writes the settings",
        "         OLLAMA_API_BASE=http://host:11434      if Ollama runs on another host (none at localhost)",
        '         anthropic-proxy ask "hello"            sends one request to the demo',
    ]


@pytest.mark.parametrize(
    ("settings", "tiers"),
    [
        ({}, ["haiku", "sonnet, opus …"]),
        ({"MIDDLE_MODEL": "o3"}, ["haiku", "sonnet", "opus, fable"]),
        ({"MODEL_OPUS": "o3"}, ["haiku", "sonnet, fable", "opus"]),
    ],
)
def test_the_arrows_stand_in_one_column(settings: dict[str, str], tiers: list[str]) -> None:
    rows = [line for line in startup_lines(**KEYS["openai"], **settings) if "→" in line]
    assert [row.partition("→")[0].strip() for row in rows] == tiers
    assert {row.index("→") for row in rows} == {18}
    assert all(row[17] == " " for row in rows)


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"PREFERRED_PROVIDER": "groq"}, ["GROQ_API_KEY"]),
        ({"PREFERRED_PROVIDER": "openai"}, ["OPENAI_API_KEY"]),
        ({"PREFERRED_PROVIDER": "openai", "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}, []),
        ({"PREFERRED_PROVIDER": "anthropic"}, []),
        ({"PREFERRED_PROVIDER": "anthropic", "PROXY_API_KEY": "p"}, ["ANTHROPIC_API_KEY"]),
        ({**KEYS["openai"], "MODEL_SONNET": "groq/x"}, ["GROQ_API_KEY"]),
        ({**KEYS["openai"], "SMALL_MODEL": "groq/x", "BIG_MODEL": "xai/y"}, ["GROQ_API_KEY", "XAI_API_KEY"]),
        (
            {**KEYS["openai"], "FALLBACK_OPUS": "groq/x, openai/gpt-5.5, moonshot/y"},
            ["GROQ_API_KEY", "MOONSHOT_API_KEY"],
        ),
        ({**KEYS["openai"], **KEYS["groq"], "FALLBACK_OPUS": "groq/x"}, []),
    ],
)
def test_a_missing_key_of_the_chosen_provider_is_reported_once(settings: dict[str, str], missing: list[str]) -> None:
    lines = [line for line in startup_lines(**settings) if line.startswith("  ✕ ")]
    assert [line.partition(": ")[2] for line in lines] == [
        f"{variable} is not set. Set it in .env or in the environment and start the proxy again."
        for variable in missing
    ]


def test_every_tier_shows_its_own_fallbacks() -> None:
    lines = startup_lines(**KEYS["openai"], **KEYS["groq"], FALLBACK_OPUS="groq/x")
    place = next(number for number, line in enumerate(lines) if line.startswith("  opus "))
    assert lines[place + 1].split() == ["then", "groq/x"]


@pytest.mark.parametrize("provider", ["google", "vertex", "groq", "moonshot", "xai"])
def test_a_retired_default_model_is_reported_with_the_line_to_set(provider: str) -> None:
    row = next(row for row in PROVIDERS if row.name == provider)
    retired = [line for line in startup_lines(**KEYS[provider]) if " retired " in line]
    assert len(retired) == 2
    for line, model, variable in zip(
        retired, (row.default_small_model, row.default_big_model), ("SMALL_MODEL", "BIG_MODEL"), strict=True
    ):
        assert model is not None
        successor = row.retired_models[model].successor
        assert line.startswith(f"  ! {row.title} retired {model} on ")
        assert line.endswith(f". Its successor:  {variable}={row.prefix}/{successor}")
        assert "retired" not in "".join(startup_lines(**KEYS[provider], SMALL_MODEL=successor, BIG_MODEL=successor))


def test_a_model_is_served_until_its_last_day() -> None:
    day = date(2027, 1, 14)
    assert "retired" not in "".join(startup_lines(NOW, **KEYS["openai"]))
    assert "retired" not in "".join(startup_lines(BEFORE, **KEYS["groq"]))
    assert any(line.endswith("SMALL_MODEL=openai/gpt-6-luna") for line in startup_lines(day, **KEYS["openai"]))


def test_the_setting_that_names_a_retired_model_is_the_one_to_change() -> None:
    lines = startup_lines(**KEYS["openai"], MODEL_OPUS="groq/llama-3.3-70b-versatile")
    (retired,) = [line for line in lines if " retired " in line]
    assert retired.endswith("on 16 August 2026. Its successor:  MODEL_OPUS=groq/openai/gpt-oss-120b")


def test_another_server_may_go_on_with_what_openai_retired() -> None:
    day = date(2027, 1, 14)
    assert "retired" not in "".join(
        startup_lines(day, OPENAI_BASE_URL="http://127.0.0.1:8000/v1", PREFERRED_PROVIDER="openai")
    )


DEEPSEEK = {"OPENAI_API_KEY": "sk-0123456789ab4f2a", "OPENAI_BASE_URL": "https://api.deepseek.com"}
MOONSHOT = {"MOONSHOT_API_KEY": "sk-0123456789ab4f2a"}


def lines_about_retired(**settings: str) -> list[str]:
    return [line.strip() for line in startup_lines(**settings) if "retired" in line]


def test_a_model_that_a_server_in_openai_s_place_has_retired() -> None:
    line = "! DeepSeek retired deepseek-chat on 24 July 2026. Its successor:  BIG_MODEL=openai/deepseek-flash"
    assert lines_about_retired(**DEEPSEEK, BIG_MODEL="deepseek-chat", SMALL_MODEL="deepseek-flash") == [line]
    elsewhere = {**DEEPSEEK, "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}
    assert lines_about_retired(**elsewhere, BIG_MODEL="deepseek-chat", SMALL_MODEL="gpt-4") == []


def test_the_end_of_the_k2_series_is_announced_from_its_day_on() -> None:
    kimi = {**MOONSHOT, "BIG_MODEL": "kimi-k2.6", "SMALL_MODEL": "kimi-k3"}
    assert lines_about_retired(**kimi) == []
    line = "  ! Moonshot retired kimi-k2.6 on 31 December 2026. Its successor:  BIG_MODEL=moonshot/kimi-k3"
    assert line in startup_lines(date(2027, 1, 1), **kimi)


def test_every_successor_is_known_and_served() -> None:
    for row in PROVIDERS:
        for model, retired in row.retired_models.items():
            assert retired.successor in row.known_models, f"{row.name}/{model} → {retired.successor}"
            assert retired.successor not in row.retired_models, f"{row.name}/{model} → {retired.successor}"
            assert date.fromisoformat(retired.retired_on)


def signs(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines if line.startswith(("  ✕ ", "  ! ")) and " retired " not in line]


def ready(lines: list[str]) -> str:
    (line,) = [line for line in lines if line.startswith("  ready: ")]
    return line.removeprefix("  ready: ").partition("   ")[0]


def credentials_file(folder: Path, **content: str) -> str:
    file = folder / "credentials.json"
    file.write_text(json.dumps({"type": "service_account", **content}))
    return str(file)


def test_vertex_is_ready_with_its_package_a_file_and_a_project(tmp_path: Path) -> None:
    file = credentials_file(tmp_path, project_id="from-the-file")
    given = {"PREFERRED_PROVIDER": "vertex", "GOOGLE_APPLICATION_CREDENTIALS": file}
    for settings, project in ((given, "from-the-file"), ({**given, "VERTEX_PROJECT": "p"}, "p")):
        lines = startup_lines(**settings)
        assert ready(lines) == f"vertex ({project})"
        assert signs(lines) == []


def test_vertex_is_not_ready_without_its_file(tmp_path: Path) -> None:
    given = {"PREFERRED_PROVIDER": "vertex", "VERTEX_PROJECT": "p"}
    missing = str(tmp_path / "nofile.json")
    bad = tmp_path / "bad.json"
    bad.write_text("no json")
    for file, reason in ((missing, "no such file"), (str(tmp_path), "it is a folder"), (str(bad), "it is not JSON")):
        lines = startup_lines(**given, GOOGLE_APPLICATION_CREDENTIALS=file)
        assert ready(lines) == "none"
        assert signs(lines) == [f"✕ GOOGLE_APPLICATION_CREDENTIALS (environment) cannot be used: {file}: {reason}."]


def test_vertex_is_not_ready_without_a_project(tmp_path: Path) -> None:
    lines = startup_lines(PREFERRED_PROVIDER="vertex", GOOGLE_APPLICATION_CREDENTIALS=credentials_file(tmp_path))
    assert ready(lines) == "none"
    assert signs(lines) == ["✕ Vertex AI has no project: set VERTEX_PROJECT in .env or in the environment."]


def test_vertex_without_any_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert signs(startup_lines(PREFERRED_PROVIDER="vertex", VERTEX_PROJECT="p")) == [
        "✕ Vertex AI has no credentials file: set GOOGLE_APPLICATION_CREDENTIALS, or log in with  gcloud auth "
        "application-default login  (on Google Cloud the metadata server may supply them)"
    ]


def test_a_problem_of_an_unused_provider_is_advice(tmp_path: Path) -> None:
    lines = startup_lines(**KEYS["openai"], GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "no"), VERTEX_PROJECT="p")
    assert ready(lines) == "openai (…4f2a, environment)"
    assert [line[0] for line in signs(lines)] == ["!"]


def test_litellm_is_named_with_what_it_lacks() -> None:
    lines = startup_lines(PREFERRED_PROVIDER="litellm", BIG_MODEL="mistral/m", SMALL_MODEL="mistral/s")
    if find_spec("litellm") is None:
        assert (ready(lines), signs(lines)) == (
            "none",
            ["✕ LiteLLM is not installed:  anthropic-proxy add litellm"],
        )
    else:
        assert signs(lines) == ["✕ mistral has no key: LiteLLM reads it from a variable MISTRAL_…, and none is set."]


def test_web_fetch_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signs(startup_lines(**KEYS["openai"], FETCH_URLS="true")) == []
    hidden: Any = None
    monkeypatch.setitem(sys.modules, "lxml", hidden)
    assert signs(startup_lines(**KEYS["openai"], FETCH_URLS="true")) == [
        "✕ FETCH_URLS needs lxml to read HTML pages, which is not installed:  anthropic-proxy add fetch"
    ]
    assert signs(startup_lines(**KEYS["openai"])) == []


def test_ollama_that_did_not_answer_is_not_ready() -> None:
    lines = startup_lines(PREFERRED_PROVIDER="ollama", OLLAMA_API_BASE="http://10.0.0.9:11434")
    assert ready(lines) == "none"
    assert signs(lines) == [
        "✕ Ollama did not answer at http://10.0.0.9:11434. Start it with  ollama serve  or set its address."
    ]


def test_short_keys_show_nothing() -> None:
    assert ready(startup_lines(OPENAI_API_KEY="sk-short-key-12")) == "openai (…, environment)"
    assert ready(startup_lines(OPENAI_API_KEY="sk-0123456789abc")) == "openai (…9abc, environment)"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1", "BIG_MODEL": "qwen3", "SMALL_MODEL": "qwen3"},
            [
                "! OPENAI_BASE_URL is set, but no request is sent there. Add PREFERRED_PROVIDER=openai",
                "! BIG_MODEL and SMALL_MODEL are set, but no provider is configured, so the demo replies.",
            ],
        ),
        (
            {"GROQ_BASE_URL": "http://127.0.0.1:8000/v1"},
            ["! GROQ_BASE_URL is set, but no request is sent there. Add PREFERRED_PROVIDER=groq"],
        ),
        (
            {**KEYS["openai"], "XAI_BASE_URL": "http://127.0.0.1:8000/v1"},
            ["! XAI_BASE_URL is set, but no request is sent there. Add PREFERRED_PROVIDER=xai"],
        ),
        ({**KEYS["openai"], **KEYS["xai"], "XAI_BASE_URL": "http://127.0.0.1:8000/v1"}, []),
        ({**KEYS["openai"], "OLLAMA_API_BASE": "http://127.0.0.1:8000"}, []),
        (
            {"PREFERRED_PROVIDER": "anthropic", "BIG_MODEL": "gpt-4.1"},
            ["! BIG_MODEL is set, but anthropic serves the requested models themselves."],
        ),
    ],
)
def test_settings_without_effect_are_named(settings: dict[str, str], expected: list[str]) -> None:
    assert [line for line in signs(startup_lines(**settings)) if "No provider is configured" not in line] == expected


def test_the_command_for_claude_code_hints_at_the_key_of_the_proxy() -> None:
    lines = startup_lines(**KEYS["openai"], PROXY_API_KEY="a-key-of-the-proxy")
    assert lines[-1] == (
        "      or:  ANTHROPIC_BASE_URL=http://127.0.0.1:8082 ANTHROPIC_AUTH_TOKEN='one of PROXY_API_KEY' claude"
    )


@pytest.mark.parametrize(
    ("columns", "key", "shown"),
    [
        (130, "", ["      or:  ANTHROPIC_BASE_URL=http://127.0.0.1:8082 ANTHROPIC_AUTH_TOKEN=local claude"]),
        (80, "", ["      or:", "ANTHROPIC_BASE_URL=http://127.0.0.1:8082 ANTHROPIC_AUTH_TOKEN=local claude"]),
        (
            80,
            "a-key-of-the-proxy",
            [
                "      or:",
                "ANTHROPIC_BASE_URL=http://127.0.0.1:8082 \\",
                "ANTHROPIC_AUTH_TOKEN='one of PROXY_API_KEY' claude",
            ],
        ),
    ],
)
def test_the_command_for_claude_code_fits_the_terminal(columns: int, key: str, shown: list[str]) -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("start-up calls nobody"), **KEYS["openai"], PROXY_API_KEY=key)
    stream = io.StringIO()
    log_startup_summary(structs.replace(proxy.services, log=Log(stream, columns=columns)), ADDRESS, BEFORE)
    assert stream.getvalue().splitlines()[-len(shown) :] == shown


def test_many_providers_fit_a_narrow_terminal() -> None:
    settings = {name: value for keys in KEYS.values() for name, value in keys.items() if name != "VERTEX_PROJECT"}
    proxy = ProxyHarness(lambda *_: pytest.fail("start-up calls nobody"), **settings)
    stream = io.StringIO()
    log_startup_summary(structs.replace(proxy.services, log=Log(stream, columns=60)), ADDRESS, BEFORE)
    lines = stream.getvalue().splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("  ready: "))
    assert lines[place : place + 3] == [
        "  ready: openai (…4f2a, environment),",
        "         gemini (…4f2a, environment),",
        "         groq (…4f2a, environment),",
    ]
    assert [line for line in lines if len(line) > 60 and "→" not in line] == []


def test_the_first_steps_fit_a_narrow_terminal() -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("start-up calls nobody"))
    stream = io.StringIO()
    log_startup_summary(structs.replace(proxy.services, log=Log(stream, columns=60)), ADDRESS, BEFORE)
    assert stream.getvalue().splitlines()[-6:] == [
        *("  Next:  anthropic-proxy init", "           asks two questions and writes the settings"),
        *("         OLLAMA_API_BASE=http://host:11434", "           if Ollama runs on another host"),
        *('         anthropic-proxy ask "hello"', "           sends one request to the demo"),
    ]


@pytest.mark.parametrize("columns", [60, 80, 130])
def test_only_the_mapping_is_wider_than_the_terminal(columns: int) -> None:
    settings = {**KEYS["openai"], "VERTEX_PROJECT": "p", "BIG_MODEL": "groq/llama-3.3-70b-versatile"}
    proxy = ProxyHarness(lambda *_: pytest.fail("start-up calls nobody"), **settings)
    stream = io.StringIO()
    services = structs.replace(proxy.services, log=Log(stream, columns=columns))
    log_startup_summary(services, ADDRESS, BEFORE)
    lines = stream.getvalue().splitlines()
    wide = [line for line in lines if len(line) > columns and "→" not in line]
    assert wide == []
    assert " ".join(" ".join(lines).split()).count("GROQ_API_KEY is not set. Set it in .env or in the environment") == 1
