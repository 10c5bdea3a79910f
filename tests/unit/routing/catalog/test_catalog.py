import asyncio
from collections.abc import Callable, Sequence

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog, ModelCapabilities
from tests.support.interleaving import interleave

LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@pytest.mark.parametrize(
    ("provider", "model", "window", "max_output", "vision", "pdf"),
    [
        ("openai", "gpt-4.1", 1_047_576, 32_768, True, True),
        ("openai", "gpt-4o-2024-08-06", 128_000, 16_384, True, True),
        ("openai", "chatgpt-4o-latest", 128_000, 16_384, True, False),
        ("openai", "o3-mini", 200_000, 100_000, False, False),
        ("openai", "gpt-5.4", 1_050_000, 128_000, True, True),
        ("openai", "ft:gpt-4o-mini:mine::id", 128_000, 16_384, True, True),
        ("google", "models/gemini-2.5-pro-preview-03-25", 1_048_576, 65_536, True, True),
        ("google", "gemma-4-31b", 262_144, 32_768, True, False),
        ("xai", "grok-4.7", 500_000, 65_536, True, False),
        ("moonshot", "kimi-k3.1-pro", 1_048_576, 131_072, True, False),
        ("openai", "gpt-4-1106-preview", 128_000, 4_096, False, False),
        ("deepseek", "deepseek-v4-pro", 1_000_000, 393_216, False, False),
        ("groq", "openai/gpt-oss-120b", 131_072, 65_536, False, False),
        ("groq", "qwen/qwen3.8-27b", 131_072, 16_384, True, False),
        ("anthropic", "claude-haiku-5-5", 1_000_000, 128_000, True, True),
        ("anthropic", "claude-sonnet-4-5-20250929", 200_000, 64_000, True, True),
    ],
)
def test_known_models_have_their_numbers(provider, model, window, max_output, vision, pdf):
    facts = Catalog().cached_capabilities(provider, model)
    assert (facts.context_window, facts.max_output, facts.accepts_images, facts.accepts_pdf, facts.known) == (
        window,
        max_output,
        vision,
        pdf,
        True,
    )


@pytest.mark.parametrize(
    ("provider", "model", "efforts", "default"),
    [
        ("openai", "gpt-4.1", "", None),
        ("openai", "gpt-5", "minimal low medium high", "medium"),
        ("openai", "gpt-5.1", "none low medium high", "none"),
        ("openai", "gpt-5.3-codex", "low medium high xhigh", None),
        ("openai", "gpt-6-astra", "low medium high xhigh max", None),
        ("google", "gemini-4-argon", "low medium high", "medium"),
        ("google", "gemini-3.5-flash-lite", "minimal low medium high", "minimal"),
        ("google", "gemini-3.1-pro-preview", "low medium high", "high"),
        ("google", "gemini-2.5-flash-lite", "none low medium high", "none"),
        ("xai", "grok-4.6", "low medium high xhigh", None),
        ("xai", "grok-4.20", "", None),
        ("moonshot", "kimi-k3", "low medium high xhigh max", "max"),
        ("groq", "openai/gpt-oss-20b", "low medium high", "medium"),
    ],
)
def test_known_models_have_their_levels_of_effort(provider, model, efforts, default):
    facts = Catalog().cached_capabilities(provider, model)
    assert (facts.efforts, facts.default_effort) == (tuple(efforts.split()), default)


@pytest.mark.parametrize("provider", [*(row.name for row in PROVIDERS), "unheard-of"])
def test_an_unknown_model_gets_the_fallback_and_is_marked_as_unknown(provider):
    facts = Catalog().cached_capabilities(provider, "unheard-of")
    assert not facts.known
    if provider not in {"google", "vertex", "anthropic", "litellm"}:
        assert facts == ModelCapabilities(context_window=128_000, max_output=8_192)


@pytest.mark.parametrize("row", PROVIDERS, ids=lambda row: row.name)
def test_every_known_model_is_in_the_table_and_makes_sense(row):
    catalogue = Catalog()
    for model in row.known_models:
        if model in row.non_chat_models or row.transport == "demo" or row.name == "ollama":
            continue
        facts = catalogue.cached_capabilities(row.name, model)
        assert facts.known, model
        assert 0 < facts.max_output <= facts.context_window
        assert [level for level in LEVELS if level in facts.efforts] == list(facts.efforts)
        assert facts.default_effort is None or facts.default_effort in facts.efforts


def test_names_in_any_case_and_found_again_are_the_same():
    catalogue = Catalog()
    assert catalogue.cached_capabilities("openai", "GPT-4.1") == catalogue.cached_capabilities("openai", "gpt-4.1")
    assert catalogue.cached_capabilities("openai", "gpt-4.1") is catalogue.cached_capabilities("openai", "gpt-4.1")


class _Ollama:
    """Model list of a provider that reports a context window of 8192 tokens."""

    async def list_models(self) -> Sequence[str] | None:
        return None

    async def query_capabilities(self, model: str) -> ModelCapabilities | None:
        return ModelCapabilities(context_window=8192)

    def provisional_capabilities(self, model: str, capabilities: ModelCapabilities) -> ModelCapabilities:
        return ModelCapabilities(context_window=4096)


def test_the_capabilities_that_a_server_reports_are_not_replaced_by_the_table() -> None:
    def build() -> tuple[Callable[[], int], Callable[[], None]]:
        catalog = Catalog(sources={"ollama": _Ollama()})

        def read() -> int:
            catalog.cached_capabilities("ollama", "qwen3")
            return 0

        def report() -> None:
            asyncio.run(_fetch(catalog))
            catalogs.append(catalog)

        return read, report

    catalogs: list[Catalog] = []
    assert len(interleave(build)) > 10
    windows = [catalog.cached_capabilities("ollama", "qwen3").context_window for catalog in catalogs]
    assert set(windows) == {8192}


async def _fetch(catalog: Catalog) -> None:
    await catalog.fetch_capabilities("ollama", "qwen3")
    await catalog.close()
