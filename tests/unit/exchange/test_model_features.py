"""Limits and features of models for plugins: from the built-in table, from the doctor, and from errors of providers."""

import asyncio
from datetime import date
from pathlib import Path

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import LearnedModel
from anthropic_proxy.gateway.plugin_gateway import describe_models
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.plugins import ModelFeatures

LEARNED = LearnedModel(
    server="openai api.openai.com",
    model="gpt-4.1",
    observed_on=date(2026, 11, 20),
    evidence="probe",
    accepts_images=False,
)


async def _describe(*names: str, client: str, adaptations: tuple[str, ...]) -> dict[str, ModelFeatures]:
    environ = {"OPENAI_API_KEY": "sk-test-0000000000000000", "SEARCH_URL": "http://127.0.0.1:9/search"}
    services = await open_services(load_settings(environ, PROVIDERS, env_file=None))
    services.catalog.replace_learned_models({(LEARNED.server, LEARNED.model): LEARNED})
    for name in adaptations:
        services.observations.store_adaptation("openai api.openai.com", "gpt-4.1", name, "key_a")
    return {one.model: one for one in await describe_models(services, names, client)}


def describe(*names: str, client: str = "key_a", adaptations: tuple[str, ...] = ()) -> dict[str, ModelFeatures]:
    return asyncio.run(_describe(*names, client=client, adaptations=adaptations))


def test_facts_of_the_doctor_and_errors_name_their_source() -> None:
    found = describe("openai/gpt-4.1", "openai/gpt-4.1-mini", adaptations=("limit 4096", "drop top_p"))
    model, other = found["openai/gpt-4.1"], found["openai/gpt-4.1-mini"]
    assert (model.images, model.max_output, model.source) == (False, 4_096, "built-in table")
    assert model.other_sources == {"images": "doctor, 20 Nov 2026", "max_output": "error of the provider"}
    assert model.adaptations == ("limit 4096", "drop top_p")
    assert (other.images, other.context_window, other.other_sources) == (True, 1_047_576, {})


def test_what_errors_have_taught_about_a_model_is_shown_to_the_same_client_only() -> None:
    model = describe("openai/gpt-4.1", client="key_b", adaptations=("limit 4096", "drop top_p"))["openai/gpt-4.1"]
    assert (model.max_output, model.adaptations) == (32_768, ())


CONFIGURED = """
[providers.mine]
base_url = "http://192.168.7.7/v1"
[providers.mine.models.fixed]
context_window = 50000
"""


def test_the_source_of_a_limit_is_who_states_it(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(CONFIGURED)

    async def run() -> list[tuple[object, ...]]:
        settings = load_settings({}, PROVIDERS, env_file=tmp_path / ".env")
        services = await open_services(settings)
        server = "mine 192.168.7.7"
        learned = LearnedModel(
            server=server, model="seen", observed_on=date(2026, 11, 20), evidence="probe", context_window=1_000_000
        )
        services.catalog.replace_learned_models({(server, "seen"): learned})
        services.catalog.add_published_model(
            LearnedModel(
                server=server, model="other", observed_on=date(2026, 11, 20), evidence="a list", context_window=2_000
            )
        )
        found = await describe_models(services, ["mine/seen", "mine/other", "mine/fixed", "mine/new"], "key_a")
        return [(one.context_window, one.max_output, one.source, one.other_sources) for one in found]

    assert asyncio.run(run()) == [
        (1_000_000, None, "assumed", {"context_window": "doctor, 20 Nov 2026"}),
        (2_000, None, "assumed", {"context_window": "a list"}),
        (50_000, None, "assumed", {"context_window": "[providers.mine]"}),
        (None, None, "assumed", {}),
    ]


def test_unknown_models_are_assumed_and_server_tools_have_a_place() -> None:
    found = describe("openai/of-next-year", "openai/gpt-4.1", "groq/whisper-large-v3")
    assert list(found) == ["openai/of-next-year", "openai/gpt-4.1"]
    assert (found["openai/of-next-year"].source, found["openai/of-next-year"].context_window) == ("assumed", None)
    assert (found["openai/gpt-4.1"].web_search, found["openai/gpt-4.1"].web_fetch) == ("provider", "none")


def test_a_cloud_of_claude_lacks_tools_that_anthropic_runs() -> None:
    environ = {
        "ANTHROPIC_API_KEY": "sk-ant-test-0000000000",
        "AWS_BEARER_TOKEN_BEDROCK": "test-0000000000",
        "AWS_REGION": "us-east-1",
    }

    async def describe_places() -> dict[str, tuple[str, str]]:
        services = await open_services(load_settings(environ, PROVIDERS, env_file=None))
        names = ("anthropic/claude-opus-5-5", "bedrock/anthropic.claude-opus-5-5")
        return {one.model: (one.web_search, one.web_fetch) for one in await describe_models(services, names, "key_a")}

    assert asyncio.run(describe_places()) == {
        "anthropic/claude-opus-5-5": ("provider", "provider"),
        "bedrock/anthropic.claude-opus-5-5": ("none", "none"),
    }
