from collections import defaultdict
from datetime import date

import msgspec
import pytest
from anthropic.types import ModelInfo

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog, build_catalog
from anthropic_proxy.engine.routing.model_listing import find_model, list_models
from anthropic_proxy.engine.routing.router import (
    RoutingQuery,
    build_route,
    choose_models,
    find_preferred_provider,
    find_tier,
    list_tier_mappings,
    should_query_ollama,
)
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.errors import InvalidRequest, UnknownModel
from anthropic_proxy.gateway.settings import load_settings

ALL_KEYS = {row.key_variable: f"{row.name}-key" for row in PROVIDERS if row.key_variable}


def load(**environ):
    return load_settings(environ, PROVIDERS, env_file=None)


def choice_for(asked, settings, catalogue=None):
    catalogue = catalogue or Catalog()
    return choose_models(asked, find_preferred_provider(settings, catalogue), settings, catalogue)[0]


def goes_to(asked, settings, catalogue=None):
    return choice_for(asked, settings, catalogue).prefixed_id


@pytest.mark.parametrize("asked", ["openai/gpt-5.5", "openai/GPT-5.5", "OpenAI/Gpt-5.5"])
def test_the_case_of_a_model_s_name_changes_nothing_but_the_name(asked):
    target = build_route(RoutingQuery(asked), load(OPENAI_API_KEY="sk"), Catalog()).targets[0]
    usual = build_route(RoutingQuery("openai/gpt-5.5"), load(OPENAI_API_KEY="sk"), Catalog()).targets[0]
    assert target.model == asked.split("/")[1]
    assert (target.wire, target.dialect) == (usual.wire, usual.dialect)


@pytest.mark.parametrize(
    ("rule", "preferred", "asked", "expected"),
    [
        (0, "openai", "claude-openai/gpt-5.5", "openai/gpt-5.5"),
        (0, "openai", "claude-gemini/gemini-2.0-flash", "gemini/gemini-2.0-flash"),
        (0, "openai", "claude-groq/openai/gpt-oss-120b", "groq/openai/gpt-oss-120b"),
        (0, "openai", "claude-openai/gpt-5.5[1m]", "openai/gpt-5.5"),
        (0, "openai", "claude-ollama/qwen3-coder:30b", "ollama/qwen3-coder:30b"),
        (0, "openai", "claude-unheard/of", "openai/claude-unheard/of"),
        (1, "openai", "openai/anything-at-all", "openai/anything-at-all"),
        (1, "openai", "gemini/gemini-9", "gemini/gemini-9"),
        (1, "openai", "vertex_ai/gemini-9", "vertex_ai/gemini-9"),
        (1, "openai", "google/gemini-9", "gemini/gemini-9"),
        (1, "openai", "Google/gemini-9", "gemini/gemini-9"),
        (1, "openai", "vertex/gemini-9", "vertex_ai/gemini-9"),
        (0, "openai", "claude-google/gemini-9", "gemini/gemini-9"),
        (1, "openai", "ollama/mistral:7b", "ollama/mistral:7b"),
        (1, "openai", "groq/llama-9", "groq/llama-9"),
        (1, "openai", "moonshot/kimi-9", "moonshot/kimi-9"),
        (1, "openai", "xai/grok-9", "xai/grok-9"),
        (1, "openai", "anthropic/claude-2.1", "anthropic/claude-2.1"),
        (1, "openai", "OpenAI/gpt-4o", "openai/gpt-4o"),
        (1, "openai", "openai/claude-sonnet-4-6", "openai/claude-sonnet-4-6"),
        (1, "openai", "openai/openai/gpt-4o", "openai/openai/gpt-4o"),
        (1, "groq", "openai/gpt-oss-120b", "groq/openai/gpt-oss-120b"),
        (1, "groq", "groq/openai/gpt-oss-120b", "groq/openai/gpt-oss-120b"),
        (1, "openai", "openai/gpt-oss-120b", "openai/gpt-oss-120b"),
        (2, "openai", "claude-3-5-haiku-20241022", "openai/gpt-4.1-mini"),
        (2, "openai", "CLAUDE-Sonnet-4-6", "openai/gpt-4.1"),
        (2, "openai", "claude-opus-4-1-20250805", "openai/gpt-4.1"),
        (2, "openai", "claude-fable-5-2", "openai/gpt-4.1"),
        (2, "openai", "claude-mythos-5", "openai/gpt-4.1"),
        (2, "google", "anthropic/claude-mythos-preview[1m]", "gemini/gemini-2.5-pro-preview-03-25"),
        (2, "anthropic", "claude-mythos-5", "anthropic/claude-mythos-5"),
        (2, "openai", "anthropic/claude-sonnet-4-6", "openai/gpt-4.1"),
        (2, "openai", "Anthropic/claude-haiku-4-5", "openai/gpt-4.1-mini"),
        (2, "openai", "claude-sonnet-4-6[1m]", "openai/gpt-4.1"),
        (2, "openai", "claude-sonnet-4-6[1M]", "openai/gpt-4.1"),
        (2, "openai", "sonnet", "openai/gpt-4.1"),
        (2, "openai", "claude-3-7-sonnet-latest", "openai/gpt-4.1"),
        (2, "anthropic", "anthropic/claude-opus-5-5[1m]", "anthropic/claude-opus-5-5"),
        (2, "demo", "claude-opus-5-5", "demo/demo"),
        (4, "groq", "gpt-4o", "openai/gpt-4o"),
        (4, "groq", "meta-llama/llama-4-scout-17b-16e-instruct", "groq/meta-llama/llama-4-scout-17b-16e-instruct"),
        (4, "openai", "meta-llama/llama-4-scout-17b-16e-instruct", "groq/meta-llama/llama-4-scout-17b-16e-instruct"),
        (4, "openai", "gemini-2.0-flash", "gemini/gemini-2.0-flash"),
        (4, "vertex", "gemini-2.0-flash", "vertex_ai/gemini-2.0-flash"),
        (4, "google", "gemini-2.5-flash-preview-04-17", "vertex_ai/gemini-2.5-flash-preview-04-17"),
        (4, "openai", "llama3:8b", "ollama/llama3:8b"),
        (4, "openai", "octopus-v2", "openai/octopus-v2"),
        (4, "xai", "mistralai/devstral", "xai/mistralai/devstral"),
        (4, "groq", "unheard-of", "groq/unheard-of"),
        (4, "google", "unheard-of", "gemini/unheard-of"),
    ],
)
def test_the_rules_for_what_clients_ask_for(rule, preferred, asked, expected):
    assert goes_to(asked, load(PREFERRED_PROVIDER=preferred, **ALL_KEYS)) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"PREFERRED_PROVIDER": "openai", "BIG_MODEL": "groq/llama-9"}, "groq/llama-9"),
        ({"PREFERRED_PROVIDER": "openai", "BIG_MODEL": "anthropic/claude-sonnet-4-6"}, "anthropic/claude-sonnet-4-6"),
        ({"PREFERRED_PROVIDER": "openai", "BIG_MODEL": "claude-sonnet-4-6"}, "anthropic/claude-sonnet-4-6"),
        ({"PREFERRED_PROVIDER": "openai", "BIG_MODEL": "grok-3"}, "xai/grok-3"),
        ({"PREFERRED_PROVIDER": "openai", "BIG_MODEL": "unheard-of"}, "openai/unheard-of"),
        ({"PREFERRED_PROVIDER": "groq", "BIG_MODEL": "unheard-of", "OPENAI_API_KEY": "o"}, "groq/unheard-of"),
        ({"PREFERRED_PROVIDER": "groq", "BIG_MODEL": "openai/gpt-oss-120b"}, "groq/openai/gpt-oss-120b"),
        ({"PREFERRED_PROVIDER": "google", "BIG_MODEL": "unheard-of", "OPENAI_API_KEY": "o"}, "openai/unheard-of"),
        ({"PREFERRED_PROVIDER": "google", "BIG_MODEL": "unheard-of"}, "gemini/unheard-of"),
        ({"PREFERRED_PROVIDER": "google", "BIG_MODEL": "gemini-9", "OPENAI_API_KEY": "o"}, "gemini/gemini-9"),
        ({"PREFERRED_PROVIDER": "google", "BIG_MODEL": "gemma-9", "OPENAI_API_KEY": "o"}, "gemini/gemma-9"),
        ({"PREFERRED_PROVIDER": "google", "BIG_MODEL": "gpt-4o"}, "openai/gpt-4o"),
        ({"PREFERRED_PROVIDER": "ollama", "BIG_MODEL": "unheard-of", "OPENAI_API_KEY": "o"}, "openai/unheard-of"),
        ({"PREFERRED_PROVIDER": "ollama", "BIG_MODEL": "unheard-of"}, "ollama/unheard-of"),
        ({"PREFERRED_PROVIDER": "ollama", "BIG_MODEL": "mistral", "OPENAI_API_KEY": "o"}, "ollama/mistral"),
        ({"PREFERRED_PROVIDER": "vertex", "BIG_MODEL": "unheard-of", "OPENAI_API_KEY": "o"}, "vertex_ai/unheard-of"),
        ({"PREFERRED_PROVIDER": "google", "USE_VERTEX_AUTH": "1"}, "vertex_ai/gemini-2.5-pro-preview-03-25"),
        ({"PREFERRED_PROVIDER": "google", "USE_VERTEX_AUTH": "1", "BIG_MODEL": "gemini/g"}, "vertex_ai/g"),
        (
            {"PREFERRED_PROVIDER": "openai", "USE_VERTEX_AUTH": "1", "BIG_MODEL": "gemini-2.0-flash"},
            "vertex_ai/gemini-2.0-flash",
        ),
        ({"PREFERRED_PROVIDER": "google", "USE_VERTEX_AUTH": "1", "BIG_MODEL": "gpt-4o"}, "openai/gpt-4o"),
        ({"PREFERRED_PROVIDER": "openai", "OPENAI_KNOWN_MODELS": "my-tune", "BIG_MODEL": "my-tune"}, "openai/my-tune"),
        ({"PREFERRED_PROVIDER": "xai", "GROQ_KNOWN_MODELS": "my-tune", "BIG_MODEL": "my-tune"}, "groq/my-tune"),
        ({"PREFERRED_PROVIDER": "openai", "MIDDLE_MODEL": "gpt-4o"}, "openai/gpt-4o"),
        ({"PREFERRED_PROVIDER": "openai", "MIDDLE_MODEL": "gpt-4o", "MODEL_SONNET": "o3"}, "openai/o3"),
        ({"PREFERRED_PROVIDER": "anthropic", "MIDDLE_MODEL": "gpt-4o"}, "anthropic/claude-sonnet-4-6"),
        ({"PREFERRED_PROVIDER": "anthropic", "MODEL_SONNET": "gpt-4o"}, "openai/gpt-4o"),
    ],
)
def test_the_rules_for_models_in_settings(environ, expected):
    assert goes_to("claude-sonnet-4-6", load(**environ)) == expected


def test_use_vertex_auth_sends_a_request_s_own_prefix_to_vertex():
    assert (
        goes_to("gemini/gemini-2.0-flash", load(USE_VERTEX_AUTH="true", OPENAI_API_KEY="o"))
        == "vertex_ai/gemini-2.0-flash"
    )
    assert goes_to("gemini-2.0-flash", load(USE_VERTEX_AUTH="true", OPENAI_API_KEY="o")) == "vertex_ai/gemini-2.0-flash"


def test_a_prefix_stays_where_vertex_is_only_preferred():
    assert goes_to("gemini/gemini-2.0-flash", load(PREFERRED_PROVIDER="vertex")) == "gemini/gemini-2.0-flash"


def test_what_ollama_has_is_its_own_even_with_an_openai_key():
    settings = load(PREFERRED_PROVIDER="ollama", OPENAI_API_KEY="o", BIG_MODEL="qwen3-coder", SMALL_MODEL="qwen3:4b")
    catalogue = build_catalog(["qwen3-coder:latest", "qwen3:4b"])
    assert goes_to("claude-sonnet-4-6", settings, catalogue) == "ollama/qwen3-coder"
    assert goes_to("claude-haiku-4-5", settings, catalogue) == "ollama/qwen3:4b"
    assert goes_to("qwen3:4b", settings, catalogue) == "ollama/qwen3:4b"


def test_start_up_asks_ollama_where_the_answer_matters():
    assert should_query_ollama(load())
    assert should_query_ollama(load(PREFERRED_PROVIDER="ollama", OPENAI_API_KEY="o"))
    assert not should_query_ollama(load(OPENAI_API_KEY="o"))


@pytest.mark.parametrize("asked", ["", "  ", "[1m]", "openai/", "claude-openai/", "x" * 513])
def test_an_id_that_names_no_model_is_refused(asked):
    with pytest.raises(InvalidRequest, match=r"^model: "):
        build_route(RoutingQuery(asked), load(OPENAI_API_KEY="o"), Catalog())


@pytest.mark.parametrize(
    ("name", "tier"),
    [
        ("claude-sonnet-4-6", "sonnet"),
        ("CLAUDE-3-OPUS", "opus"),
        ("claude_haiku", "haiku"),
        ("claude3sonnet4", "sonnet"),
        ("anthropic.claude-fable-5-v1:0", "fable"),
        ("octopus-v2", None),
        ("fabled", None),
        ("claude-mythos-preview", "fable"),
        ("mythosaurus", None),
        ("gpt-4.1", None),
    ],
)
def test_a_tier_is_a_word_of_its_own(name, tier):
    assert find_tier(name) == tier


@pytest.mark.parametrize(
    ("environ", "asked", "why"),
    [
        (
            {"OPENAI_API_KEY": "o", "BIG_MODEL": "gpt-4.1"},
            "claude-sonnet-4-6",
            "sonnet is BIG_MODEL (environment), and a name without a prefix gets that of its list: openai",
        ),
        ({"OPENAI_API_KEY": "o"}, "claude-haiku-4-5", "haiku is SMALL_MODEL (default of openai)"),
        ({"OPENAI_API_KEY": "o"}, "groq/x", "the request names its provider: groq"),
        ({"GROQ_API_KEY": "g"}, "openai/gpt-oss-20b", "openai/gpt-oss-20b is in the model list of groq"),
        ({"OPENAI_API_KEY": "o"}, "mine", "an unlisted name is sent to the preferred provider: openai"),
        (
            {"OPENAI_API_KEY": "o", "PREFERRED_PROVIDER": "google", "MODEL_OPUS": "mine"},
            "claude-opus-5-5",
            "opus is MODEL_OPUS (environment), and neither google nor a model list has it, so it is sent to "
            "openai, whose key is set",
        ),
    ],
)
def test_the_reason_is_a_sentence(environ, asked, why):
    assert build_route(RoutingQuery(asked), load(**environ), Catalog()).reason == why


def test_the_reason_names_file_and_line(tmp_path):
    path = tmp_path / ".env"
    path.write_text("# mine\n\nOPENAI_API_KEY=o\nBIG_MODEL=gpt-4o\n")
    settings = load_settings({}, PROVIDERS, env_file=str(path))
    assert f"BIG_MODEL ({path} line 4)" in build_route(RoutingQuery("claude-sonnet-4-6"), settings, Catalog()).reason
    assert list_tier_mappings(settings, Catalog())[1].reason == f"BIG_MODEL, {path} line 4"


def test_what_the_user_may_not_expect_is_noted_for_the_log():
    settings = load(OPENAI_API_KEY="o", PREFERRED_PROVIDER="google", BIG_MODEL="mine")
    (note,) = build_route(RoutingQuery("claude-sonnet-4-6"), settings, Catalog()).notes
    assert note.startswith("mine: neither google nor a model list has it")
    (note,) = build_route(RoutingQuery("mine"), load(OPENAI_API_KEY="o"), Catalog()).notes
    assert note == "mine: an unlisted name is sent to the preferred provider: openai"
    assert not build_route(RoutingQuery("claude-sonnet-4-6"), load(OPENAI_API_KEY="o"), Catalog()).notes


def names(route):
    return [f"{target.provider.prefix}/{target.model}" for target in route.targets]


def test_fallbacks_of_a_tier_follow_each_once():
    settings = load(
        **ALL_KEYS, FALLBACK_SONNET="groq/llama-3.3-70b-versatile, gpt-4.1, xai/grok-3, groq/llama-3.3-70b-versatile"
    )
    route = build_route(RoutingQuery("claude-sonnet-4-6"), settings, Catalog())
    assert names(route) == ["openai/gpt-4.1", "groq/llama-3.3-70b-versatile", "xai/grok-3"]
    assert names(build_route(RoutingQuery("claude-haiku-4-5"), settings, Catalog())) == ["openai/gpt-4.1-mini"]
    assert names(build_route(RoutingQuery("openai/gpt-4.1"), settings, Catalog())) == ["openai/gpt-4.1"]
    assert list_tier_mappings(settings, Catalog())[1].fallbacks == ("groq/llama-3.3-70b-versatile", "xai/grok-3")


def test_a_target_that_cannot_chat_is_passed_over_where_another_is_configured():
    settings = load(OPENAI_API_KEY="o", BIG_MODEL="groq/whisper-large-v3", FALLBACK_SONNET="groq/llama-9")
    route = build_route(RoutingQuery("claude-sonnet-4-6"), settings, Catalog())
    assert names(route) == ["groq/llama-9"]
    assert "does not support chat" in route.notes[0]


def test_litellm_has_no_models_of_its_own_for_the_tiers():
    settings = load(PREFERRED_PROVIDER="litellm", SMALL_MODEL="command-r")
    with pytest.raises(InvalidRequest) as caught:
        build_route(RoutingQuery("claude-sonnet-4-6"), settings, Catalog())
    assert caught.value.message.startswith("litellm has no default models. Set BIG_MODEL")
    assert names(build_route(RoutingQuery("claude-haiku-4-5"), settings, Catalog())) == ["litellm/command-r"]
    assert [bool(row.problems) for row in list_tier_mappings(settings, Catalog())[:2]] == [False, True]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("litellm/mistral/mistral-large-latest", "mistral/mistral-large-latest"),
        ("LiteLLM/anything-at-all", "anything-at-all"),
        ("litellm/openai/gpt-4.1", "openai/gpt-4.1"),
        ("mistral/mistral-large-latest", "mistral/mistral-large-latest"),
        ("Mistral/Mistral-Large", "mistral/Mistral-Large"),
        ("claude-mistral/codestral-2", "mistral/codestral-2"),
        ("claude-litellm/zai/glm-5", "zai/glm-5"),
        ("bedrock/amazon.nova-pro-v1:0", "bedrock/amazon.nova-pro-v1:0"),
        ("bedrock/converse/us.anthropic.claude-opus-5", "bedrock/converse/us.anthropic.claude-opus-5"),
        ("litellm/bedrock/us.anthropic.claude-opus-5", "bedrock/us.anthropic.claude-opus-5"),
        ("openrouter/anthropic/claude-opus-4.5", "openrouter/anthropic/claude-opus-4.5"),
        ("azure/my-deployment", "azure/my-deployment"),
        ("deepseek/deepseek-chat", "deepseek/deepseek-chat"),
        ("together_ai/meta-llama/Llama-9", "together_ai/meta-llama/Llama-9"),
        ("fireworks_ai/accounts/fireworks/models/kimi-k2", "fireworks_ai/accounts/fireworks/models/kimi-k2"),
        ("cohere/command-r", "cohere/command-r"),
    ],
)
def test_litellm_gets_its_own_providers_with_their_prefix_and_anything_under_its_name(asked, expected):
    choice = choice_for(asked, load(**ALL_KEYS))
    assert (choice.provider.name, choice.model) == ("litellm", expected)
    if not asked.startswith("claude-"):
        assert choice_for("claude-sonnet-4-6", load(BIG_MODEL=asked)).model == expected


@pytest.mark.parametrize("asked", ["mistral/", "litellm/"])
def test_a_foreign_prefix_alone_names_no_model(asked):
    with pytest.raises(InvalidRequest, match="names a provider but no model"):
        build_route(RoutingQuery(asked), load(**ALL_KEYS), Catalog())


@pytest.mark.parametrize(
    "model",
    [
        "anthropic.claude-sonnet-4-6",
        "us.anthropic.claude-opus-4-6-v1",
        "global.anthropic.claude-opus-5-5",
        "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc",
    ],
)
def test_claude_at_bedrock_is_not_litellm_s(model):
    choice = choice_for(f"Bedrock/{model}", load(**ALL_KEYS))
    assert (choice.provider.name, choice.model) == ("bedrock", model)


def test_a_name_in_the_list_of_the_preferred_provider_is_not_litellm_s():
    settings = load(PREFERRED_PROVIDER="openai", OPENAI_KNOWN_MODELS="deepseek/deepseek-chat", OPENAI_API_KEY="o")
    assert goes_to("deepseek/deepseek-chat", settings) == "openai/deepseek/deepseek-chat"
    assert goes_to("openai/deepseek/deepseek-r1", settings) == "openai/deepseek/deepseek-r1"


def test_addresses_of_pictures_never_reach_litellm():
    (target,) = build_route(RoutingQuery("litellm/bedrock/us.anthropic.claude-opus-4"), load(), Catalog()).targets
    assert target.provider.transport == "litellm"
    assert isinstance(target.dialect, openai_chat.Dialect)
    assert not target.dialect.accepts_image_urls
    assert target.dialect.replays_reasoning_details


@pytest.mark.parametrize("model", ["whisper-large-v3", "whisper-large-v3-turbo", "distil-whisper-large-v3-en"])
@pytest.mark.parametrize("prefix", ["", "groq/", "claude-groq/"])
def test_audio_models_are_refused_for_chat(model, prefix):
    with pytest.raises(InvalidRequest) as caught:
        build_route(RoutingQuery(prefix + model), load(GROQ_API_KEY="g"), Catalog())
    assert caught.value.message == (
        f"groq/{model} transcribes audio and does not support chat. One that does is groq/openai/gpt-oss-120b. "
        "Chat models of groq:  anthropic-proxy models groq"
    )
    assert goes_to("groq/openai/gpt-oss-120b", load(GROQ_API_KEY="g")) == "groq/openai/gpt-oss-120b"


def test_an_audio_model_in_a_setting_is_a_problem_that_the_mapping_shows():
    settings = load(GROQ_API_KEY="g", SMALL_MODEL="whisper-large-v3")
    haiku, sonnet, *_ = list_tier_mappings(settings, Catalog())
    (problem,) = haiku.problems
    assert "does not support chat" in problem
    assert sonnet.problems == ()


@pytest.mark.parametrize("row", [row for row in PROVIDERS if row.wires], ids=lambda row: row.name)
def test_a_target_has_all_that_a_call_needs(row):
    model = "anthropic.some-model" if row.prefix_patterns else "some-model"
    (target,) = build_route(RoutingQuery(f"{row.prefix}/{model}"), load(), Catalog()).targets
    assert target.provider is row
    assert target.model == model
    assert target.base_url.startswith(row.base_url) or row.regional_urls
    assert isinstance(target.dialect, target.wire.dialect_type)


def test_an_address_of_the_user_s_wins():
    settings = load(GROQ_BASE_URL="http://gateway.example.org/groq/")
    (target,) = build_route(RoutingQuery("groq/x"), settings, Catalog()).targets
    assert target.base_url == "http://gateway.example.org/groq"


@pytest.mark.parametrize(
    ("location", "host"),
    [
        (None, "us-central1-aiplatform.googleapis.com"),
        ("europe-west4", "europe-west4-aiplatform.googleapis.com"),
        ("global", "aiplatform.googleapis.com"),
        ("us", "aiplatform.us.rep.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_vertex_is_called_at_its_location(location, host):
    settings = load(VERTEX_PROJECT="my-project", **({"VERTEX_LOCATION": location} if location else {}))
    (target,) = build_route(RoutingQuery("vertex_ai/gemini-2.5-pro"), settings, Catalog()).targets
    place = f"/projects/my-project/locations/{location or 'us-central1'}/publishers/google"
    assert target.base_url == f"https://{host}/v1{place}"


@pytest.mark.parametrize(
    ("variable", "given", "address"),
    [
        ("VERTEX_BASE_URL", "http://localhost:9000", "http://localhost:9000/v1/projects/p/locations/global"),
        ("VERTEX_BASE_URL", "http://gate/v1beta1/", "http://gate/v1beta1/projects/p/locations/global"),
        ("VERTEX_BASE_URL", "http://gate/v1/projects/other/locations/eu", "http://gate/v1/projects/other/locations/eu"),
        ("GEMINI_BASE_URL", "http://localhost:9000", "http://localhost:9000/v1beta"),
        ("GEMINI_BASE_URL", "http://gate/google/v1", "http://gate/google/v1"),
        ("OPENAI_BASE_URL", "http://localhost:8000", "http://localhost:8000"),
    ],
)
def test_an_address_of_the_user_s_gets_what_google_s_have(variable, given, address):
    prefix = {"VERTEX": "vertex_ai", "GEMINI": "gemini", "OPENAI": "openai"}[variable.split("_")[0]]
    settings = load(VERTEX_PROJECT="p", VERTEX_LOCATION="global", **{variable: given})
    (target,) = build_route(RoutingQuery(f"{prefix}/some-model"), settings, Catalog()).targets
    assert target.base_url.removesuffix("/publishers/google") == address


def test_models_of_vertex_are_listed_where_it_is_set_up():
    def listed(**environ):
        return [entry.id for entry in list_models(load(**environ), Catalog()) if "vertex_ai/" in entry.id]

    assert listed(OPENAI_API_KEY="o") == []
    assert "claude-vertex_ai/gemini-2.5-pro" in listed(OPENAI_API_KEY="o", VERTEX_PROJECT="p")
    assert "claude-vertex_ai/gemini-2.5-pro" in listed(PREFERRED_PROVIDER="vertex")


def test_no_two_providers_share_a_signature_tag():
    """Thinking is returned to every provider with the tag of its signature."""
    users = defaultdict(set)
    for row in PROVIDERS:
        for config in row.wires.values():
            if tag := getattr(config.dialect, "signature_tag", ""):
                users[tag].add(row.name)
    assert {tag: names for tag, names in users.items() if len(names) > 1} == {}


def test_the_list_of_models_has_claude_s_ids_first_and_aliases_that_route():
    settings = load(OPENAI_API_KEY="o", GROQ_API_KEY="g", GROQ_KNOWN_MODELS="mine")
    entries = list_models(settings, Catalog())
    ids = [entry.id for entry in entries]
    assert ids[:4] == ["claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5", "claude-fable-5-2"]
    assert len(set(ids)) == len(ids)
    assert all("claude" in name for name in ids)
    assert "claude-groq/openai/gpt-oss-120b" in ids
    assert "claude-groq/mine" in ids
    assert not [name for name in ids if "whisper" in name or "xai/" in name or "gemini/" in name]
    assert all(build_route(RoutingQuery(name), settings, Catalog()).targets for name in ids)
    sonnet = entries[1]
    assert (sonnet.display_name, sonnet.max_input_tokens) == ("Claude Sonnet 5.5 → openai/gpt-4.1", 1_047_576)


def test_the_list_of_models_of_anthropic_is_its_own():
    entries = list_models(load(ANTHROPIC_API_KEY="a"), Catalog())
    assert (entries[1].display_name, entries[1].max_input_tokens) == ("Claude Sonnet 5.5", 1_000_000)


@pytest.mark.parametrize(
    ("model", "today", "expected"),
    [
        ("openai/gpt-4.1", "2027-01-13", ("deprecated", "2026-10-14T00:00:00Z", "2027-01-14T00:00:00Z")),
        ("openai/gpt-4.1", "2027-01-14", ("retired", "2026-10-14T00:00:00Z", "2027-01-14T00:00:00Z")),
        ("openai/gpt-5.6-sol", "2027-01-14", ("active", None, None)),
        ("openai/o1-mini", "2026-11-23", ("retired", None, "2025-10-27T00:00:00Z")),
        ("openai/gpt-5.4-nano", "2026-11-23", ("deprecated", None, "2027-04-01T00:00:00Z")),
        ("openai/gpt-5.3-codex", "2027-04-01", ("active", None, None)),  # no page of OpenAI names an end
        ("gemini/gemini-2.5-pro", "2026-11-23", ("deprecated", None, "2026-12-01T00:00:00Z")),
    ],
)
def test_the_list_of_models_states_when_a_model_retires(
    model: str, today: str, expected: tuple[str, str | None, str | None]
) -> None:
    settings, day = load(OPENAI_API_KEY="o", GEMINI_API_KEY="g"), date.fromisoformat(today)
    listed = {entry.id: entry for entry in list_models(settings, Catalog(), day)}[f"claude-{model}"]
    for entry in (
        listed,
        find_model(f"claude-{model}", settings, Catalog(), day),
        find_model(model, settings, Catalog(), day),
    ):
        assert (entry.lifecycle, entry.deprecated_at, entry.retires_at) == expected


@pytest.mark.parametrize("big", [None, "gpt-4.1"])
def test_a_claude_id_is_retired_with_the_model_that_a_setting_names_but_not_with_a_default(big: str | None) -> None:
    settings = load(OPENAI_API_KEY="o", **({"BIG_MODEL": big} if big else {}))
    for entry in (
        next(entry for entry in list_models(settings, Catalog(), date(2027, 2, 1)) if entry.id == "claude-opus-5-5"),
        find_model("claude-opus-9", settings, Catalog(), date(2027, 2, 1)),
    ):
        assert entry.lifecycle == ("retired" if big else "active")


def test_every_listed_model_has_the_fields_of_the_sdk() -> None:
    settings = load(OPENAI_API_KEY="o", GEMINI_API_KEY="g", XAI_API_KEY="x", GROQ_API_KEY="q", MOONSHOT_API_KEY="m")
    for entry in list_models(settings, Catalog()):
        info = ModelInfo.model_validate(msgspec.to_builtins(entry), strict=False)
        assert info.capabilities is not None, entry.id


def test_the_features_of_a_model_are_those_of_its_row() -> None:
    settings = load(OPENAI_API_KEY="o")
    features = find_model("openai/gpt-5.4", settings, Catalog()).capabilities
    yes, no = {"supported": True}, {"supported": False}
    levels = {"low": yes, "medium": yes, "high": yes, "xhigh": yes, "max": no}
    assert features["effort"] == {"supported": True, **levels}
    assert (features["image_input"], features["pdf_input"], features["batch"]) == (yes, yes, no)
    assert features["server_tools"] == {"supported": True, "code_execution": yes, "web_search": yes}
    small = find_model("openai/gpt-3.5-turbo", settings, Catalog()).capabilities
    assert small["server_tools"] == {"supported": False, "code_execution": no, "web_search": no}
    assert (small["thinking"]["supported"], small["image_input"]) == (False, no)


def test_anthropic_s_models_have_no_features_of_this_proxy() -> None:
    assert find_model("claude-opus-5-5", load(ANTHROPIC_API_KEY="a"), Catalog()).capabilities is None


SEARCH = frozenset(("web_search",))


@pytest.mark.parametrize(
    ("model", "environ", "wire"),
    [
        ("openai/gpt-4.1", {}, "openai_responses"),
        ("openai/gpt-4.1", {"OPENAI_WIRE": "chat"}, "openai_chat"),
        ("openai/gpt-4.1", {"OPENAI_BASE_URL": "http://localhost:8000/v1"}, "openai_chat"),
        ("xai/grok-4.3", {}, "openai_responses"),
        ("xai/grok-3", {}, "openai_chat"),
        ("groq/openai/gpt-oss-120b", {}, "openai_chat"),
        ("gemini/gemini-3.6-flash", {}, "gemini"),
    ],
)
def test_a_search_is_asked_for_in_the_language_in_which_the_provider_searches(
    model: str, environ: dict[str, str], wire: str
) -> None:
    keys = dict.fromkeys(("OPENAI_API_KEY", "XAI_API_KEY", "GROQ_API_KEY", "GEMINI_API_KEY"), "sk-0123456789abcdef")
    settings = load_settings(keys | environ, PROVIDERS, env_file=None)
    (target,) = build_route(RoutingQuery(model, SEARCH), settings, Catalog()).targets
    assert type(target.wire).__module__.rpartition(".")[2] == wire


@pytest.mark.parametrize("asked", ["demo/demo", "demo/x", "DEMO/x", "claude-demo/demo", "demo", "demo/x[1m]"])
@pytest.mark.parametrize("home", ["openai", "groq", "vertex", "anthropic", "ollama"])
def test_the_demo_is_not_served_beside_a_configured_provider(asked, home):
    settings = load(PREFERRED_PROVIDER=home)
    model = asked.removeprefix("claude-").removesuffix("[1m]").rpartition("/")[2]
    expected = f"model: demo/{model} is not served: the preferred provider is {home}. SERVE_DEMO=true serves both."
    for find in (
        lambda: build_route(RoutingQuery(asked), settings, Catalog()),
        lambda: find_model(asked, settings, Catalog()),
    ):
        with pytest.raises(UnknownModel) as caught:
            find()
        assert caught.value.message == expected
    assert not [entry.id for entry in list_models(settings, Catalog()) if "demo" in entry.id]


def test_serve_demo_serves_and_lists_the_demo_beside_a_provider():
    settings = load(OPENAI_API_KEY="o", SERVE_DEMO="true")
    assert names(build_route(RoutingQuery("demo/x"), settings, Catalog())) == ["demo/x"]
    assert names(build_route(RoutingQuery("claude-demo/demo"), settings, Catalog())) == ["demo/demo"]
    assert "claude-demo/demo" in [entry.id for entry in list_models(settings, Catalog())]
    assert names(build_route(RoutingQuery("claude-sonnet-4-6"), settings, Catalog())) == ["openai/gpt-4.1"]


@pytest.mark.parametrize("environ", [{}, {"PREFERRED_PROVIDER": "demo"}])
def test_the_demo_is_served_where_it_is_the_backend(environ):
    assert names(build_route(RoutingQuery("demo/x"), load(**environ), Catalog())) == ["demo/x"]


def test_the_demo_in_a_setting_is_an_error_of_the_setting():
    settings = load(OPENAI_API_KEY="o", BIG_MODEL="demo/demo", FALLBACK_HAIKU="demo/demo")
    refused = "demo/demo is not served: the preferred provider is openai. SERVE_DEMO=true serves both."
    expected = f"BIG_MODEL, environment: {refused}"
    with pytest.raises(InvalidRequest) as caught:
        build_route(RoutingQuery("claude-sonnet-4-6"), settings, Catalog())
    assert caught.value.message == expected
    assert list_tier_mappings(settings, Catalog())[1].problems == (expected,)
    route = build_route(RoutingQuery("claude-haiku-4-5"), settings, Catalog())
    assert names(route) == ["openai/gpt-4.1-mini"]
    assert route.notes == [f"FALLBACK_HAIKU, environment: {refused}"]


@pytest.mark.parametrize(("prefix", "goes"), [("google", "gemini/g"), ("vertex", "vertex_ai/g")])
@pytest.mark.parametrize("variable", ["BIG_MODEL", "MODEL_SONNET", "FALLBACK_SONNET"])
def test_the_names_of_preferred_provider_are_prefixes_in_settings(prefix, goes, variable):
    settings = load(OPENAI_API_KEY="o", GEMINI_API_KEY="g", VERTEX_PROJECT="p", **{variable: f"{prefix}/g"})
    targets = build_route(RoutingQuery("claude-sonnet-4-6"), settings, Catalog()).targets
    assert f"{targets[-1].provider.prefix}/{targets[-1].model}" == goes
    assert targets[-1].model_setting == f"{variable}, environment"
