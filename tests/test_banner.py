"""What start-up says, to the character where people's screens are drawn."""

from datetime import date
from pathlib import Path

import pytest
from msgspec import structs

from anthropic_proxy import __version__
from anthropic_proxy.banner import write_banner
from anthropic_proxy.routing.catalogue import load_catalogue
from anthropic_proxy.routing.providers import PROVIDERS
from anthropic_proxy.settings import load_settings
from tests.house import Town

ADDRESS = "http://127.0.0.1:8082"
BEFORE, NOW = date(2025, 6, 1), date(2026, 11, 20)
KEYS = {
    "openai": {"OPENAI_API_KEY": "sk-proj-0123456789ab4f2a"},
    "google": {"GEMINI_API_KEY": "AIza0123456789ab4f2a"},
    "vertex": {"VERTEX_PROJECT": "mine"},
    "groq": {"GROQ_API_KEY": "gsk_0123456789ab4f2a"},
    "moonshot": {"MOONSHOT_API_KEY": "sk-0123456789ab4f2a"},
    "xai": {"XAI_API_KEY": "xai-0123456789ab4f2a"},
}
UNSET = [row.stem.lower() for row in PROVIDERS if row.choosable and row.name not in ("openai", "ollama", "anthropic")]


def say(today: date = NOW, address: str | None = ADDRESS, **settings: str) -> list[str]:
    town = Town(lambda *_: pytest.fail("start-up calls nobody"), **settings)
    write_banner(town.house, address, today)
    return town.log.getvalue().splitlines()


def test_one_key_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("\nOPENAI_API_KEY=sk-0123456789ab4f2a\n\nBIG_MODEL=gpt-4.1\n", encoding="utf-8")
    settings = load_settings({}, PROVIDERS)
    town = Town(lambda *_: pytest.fail("start-up calls nobody"))
    house = structs.replace(town.house, settings=settings, catalogue=load_catalogue(["a", "b", "c"]))
    write_banner(house, ADDRESS, NOW)
    assert town.log.getvalue().splitlines() == [
        f"anthropic-proxy {__version__}   http://127.0.0.1:8082",
        "",
        "  haiku           → openai/gpt-4.1-mini       SMALL_MODEL, default",
        "  sonnet, opus …  → openai/gpt-4.1            BIG_MODEL, .env line 4",
        f"  ready: openai (sk-…4f2a, .env), ollama (3 models)         not set: {' '.join(UNSET)}",
        "",
        "  Use it:  ANTHROPIC_BASE_URL=http://127.0.0.1:8082 claude",
    ]


def test_nothing_set() -> None:
    lines = say()
    assert lines[2] == (
        "  ! No provider is configured, so the demo answers: it streams and calls tools, but knows nothing."
    )
    assert [line[:8] for line in lines[4:]] == ["  Next: ", " " * 8, " " * 8]


@pytest.mark.parametrize(
    ("settings", "tiers"),
    [
        ({}, ["haiku", "sonnet, opus …"]),
        ({"MIDDLE_MODEL": "o3"}, ["haiku", "sonnet", "opus, fable"]),
        ({"MODEL_OPUS": "o3"}, ["haiku", "sonnet, fable", "opus"]),
    ],
)
def test_the_arrows_stand_in_one_column(settings: dict[str, str], tiers: list[str]) -> None:
    rows = [line for line in say(**KEYS["openai"], **settings) if "→" in line]
    assert [row.partition("→")[0].strip() for row in rows] == tiers
    assert {row.index("→") for row in rows} == {18}
    assert all(row[17] == " " for row in rows)


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"PREFERRED_PROVIDER": "groq"}, ["GROQ_API_KEY"]),
        ({"PREFERRED_PROVIDER": "openai"}, ["OPENAI_API_KEY"]),
        ({"PREFERRED_PROVIDER": "openai", "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}, []),
        ({"PREFERRED_PROVIDER": "ollama"}, []),
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
def test_a_key_that_is_missing_for_what_is_chosen_is_told_once(settings: dict[str, str], missing: list[str]) -> None:
    lines = [line for line in say(**settings) if line.startswith("  ✕ ")]
    assert [line.partition(": ")[2] for line in lines] == [
        f"{variable} is not set. Set it in .env or in the environment and start the proxy again."
        for variable in missing
    ]


def test_every_tier_shows_its_own_fallbacks() -> None:
    lines = say(**KEYS["openai"], **KEYS["groq"], FALLBACK_OPUS="groq/x")
    place = next(number for number, line in enumerate(lines) if line.startswith("  opus "))
    assert lines[place + 1].split() == ["then", "groq/x"]


@pytest.mark.parametrize("provider", ["google", "vertex", "groq", "moonshot", "xai"])
def test_a_default_that_the_provider_retired_is_told_with_the_line_to_set(provider: str) -> None:
    row = next(row for row in PROVIDERS if row.name == provider)
    told = [line for line in say(**KEYS[provider]) if " retired " in line]
    assert len(told) == 2
    for line, model, variable in zip(told, (row.small_model, row.big_model), ("SMALL_MODEL", "BIG_MODEL"), strict=True):
        assert model is not None
        successor = row.retired_models[model].successor
        assert line.startswith(f"  ! {row.title} retired {model} on ")
        assert line.endswith(f". Its successor:  {variable}={row.prefix}/{successor}")
        assert "retired" not in "".join(say(**KEYS[provider], SMALL_MODEL=successor, BIG_MODEL=successor))


def test_a_model_is_served_until_its_last_day() -> None:
    day = date(2027, 1, 14)
    assert "retired" not in "".join(say(NOW, **KEYS["openai"]))
    assert "retired" not in "".join(say(BEFORE, **KEYS["groq"]))
    assert any(line.endswith("SMALL_MODEL=openai/gpt-6-luna") for line in say(day, **KEYS["openai"]))


def test_the_setting_that_names_a_retired_model_is_the_one_to_change() -> None:
    lines = say(**KEYS["openai"], MODEL_OPUS="groq/llama-3.3-70b-versatile")
    (told,) = [line for line in lines if " retired " in line]
    assert told.endswith("on 16 August 2026. Its successor:  MODEL_OPUS=groq/openai/gpt-oss-120b")


def test_another_server_may_go_on_with_what_openai_retired() -> None:
    day = date(2027, 1, 14)
    assert "retired" not in "".join(say(day, OPENAI_BASE_URL="http://127.0.0.1:8000/v1", PREFERRED_PROVIDER="openai"))


def test_every_successor_is_known_and_served() -> None:
    for row in PROVIDERS:
        for model, retired in row.retired_models.items():
            assert retired.successor in row.known_models, f"{row.name}/{model} → {retired.successor}"
            assert retired.successor not in row.retired_models, f"{row.name}/{model} → {retired.successor}"
            assert date.fromisoformat(retired.since)


def test_the_documentation_says_what_start_up_says() -> None:
    text = (Path(__file__).parents[1] / "docs" / "compatibility.md").read_text("utf-8")
    section = text.partition("## Default models that are gone")[2].partition("\n## ")[0]
    for row in PROVIDERS:
        for model in filter(None, (row.small_model, row.big_model)):
            if retired := row.retired_models.get(model):
                assert model in section
                assert retired.successor in section
                day = date.fromisoformat(retired.since)
                assert f"{day.day} {day:%B %Y}" in section
