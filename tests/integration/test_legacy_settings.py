"""Behaviour that users of the five earlier proxies rely on: the variables in their `.env` and the targets of models."""

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import build_catalog
from anthropic_proxy.engine.routing.router import (
    RoutingQuery,
    build_route,
    choose_models,
    choose_preferred_provider_name,
    find_preferred_provider,
    list_tier_mappings,
)
from anthropic_proxy.errors import UnsupportedFeature
from anthropic_proxy.gateway.settings import list_variables, load_settings

HAIKU, SONNET, OPUS, FABLE = "claude-haiku-4-5", "claude-sonnet-4-6", "claude-opus-5-5", "claude-fable-5-2"


def load(environ, text="", folder=None):
    if folder is None:
        return load_settings(environ, PROVIDERS, env_file=None)
    (folder / ".env").write_text(text, encoding="utf-8")
    return load_settings(environ, PROVIDERS, env_file=str(folder / ".env"))


def goes_to(asked, settings, pulled=None):
    """Return the target of a request, as people write it; the same whether its wire is in this version or not."""
    catalogue = build_catalog(pulled)
    (choice, *_) = choose_models(asked, find_preferred_provider(settings, catalogue), settings, catalogue)
    try:
        target = build_route(RoutingQuery(asked), settings, catalogue).targets[0]
    except UnsupportedFeature:
        assert not choice.provider.wires
    else:
        assert f"{target.provider.prefix}/{target.model}" == choice.prefixed_id
    return choice.prefixed_id


DEFAULTS = {
    "openai": ("openai/gpt-4.1-mini", "openai/gpt-4.1"),
    "google": ("gemini/gemini-2.0-flash", "gemini/gemini-2.5-pro-preview-03-25"),
    "vertex": ("vertex_ai/gemini-2.0-flash", "vertex_ai/gemini-2.5-pro-preview-03-25"),
    "groq": ("groq/llama-3.1-8b-instant", "groq/llama-3.3-70b-versatile"),
    "moonshot": ("moonshot/kimi-k2-base", "moonshot/kimi-k2-instruct"),
    "xai": ("xai/grok-3-mini-beta", "xai/grok-3"),
    "ollama": ("ollama/llama3:8b", "ollama/llama3"),
}


@pytest.mark.parametrize("provider", DEFAULTS)
def test_the_mapping_table(provider):
    settings = load({"PREFERRED_PROVIDER": provider})
    small, big = DEFAULTS[provider]
    assert [goes_to(asked, settings) for asked in (HAIKU, SONNET, OPUS, FABLE)] == [small, big, big, big]
    assert [row.target for row in list_tier_mappings(settings, build_catalog())] == [small, big, big, big]


@pytest.mark.parametrize("asked", [HAIKU, SONNET, OPUS, FABLE, "claude-3-5-sonnet-20241022"])
def test_the_mapping_table_s_column_of_anthropic_leaves_ids_untouched(asked):
    settings = load({"PREFERRED_PROVIDER": "anthropic", "BIG_MODEL": "gpt-4o", "SMALL_MODEL": "gpt-4o-mini"})
    assert goes_to(asked, settings) == f"anthropic/{asked}"


@pytest.mark.parametrize(
    ("pulled", "small", "big"),
    [
        (["llama3:latest", "llama3:8b", "mistral:latest"], "llama3:8b", "llama3"),
        (["qwen3-coder:30b", "llama3:latest", "phi3:mini"], "phi3:mini", "llama3"),
        (["qwen3-coder:30b", "qwen3:4b"], "qwen3:4b", "qwen3-coder:30b"),
        (["only:1b"], "only:1b", "only:1b"),
    ],
)
def test_ollama_without_models_set_uses_the_pulled_models(pulled, small, big):
    settings = load({"PREFERRED_PROVIDER": "ollama"})
    assert goes_to(HAIKU, settings, pulled) == f"ollama/{small}"
    assert goes_to(SONNET, settings, pulled) == f"ollama/{big}"


EXAMPLES = {
    "first proxy, OpenAI by default": (
        """
        OPENAI_API_KEY="sk-mine"
        GEMINI_API_KEY="AIza-mine" # for google only
        # PREFERRED_PROVIDER="openai"
        # BIG_MODEL="gpt-4.1"
        # SMALL_MODEL="gpt-4.1-mini"
        """,
        ("openai/gpt-4.1-mini", "openai/gpt-4.1"),
    ),
    "first proxy, Google": (
        """
        GEMINI_API_KEY="AIza-mine"
        OPENAI_API_KEY="sk-mine" # for what Google lacks
        PREFERRED_PROVIDER="google"
        """,
        ("gemini/gemini-2.0-flash", "gemini/gemini-2.5-pro-preview-03-25"),
    ),
    "first proxy, Anthropic itself": (
        """
        ANTHROPIC_API_KEY="sk-ant-mine"
        PREFERRED_PROVIDER="anthropic"
        """,
        (f"anthropic/{HAIKU}", f"anthropic/{SONNET}"),
    ),
    "first proxy, chosen OpenAI models": (
        """
        OPENAI_API_KEY="sk-mine"
        GEMINI_API_KEY="AIza-mine"
        PREFERRED_PROVIDER="openai"
        BIG_MODEL="gpt-4o" # a chosen one
        SMALL_MODEL="gpt-4o-mini" # a chosen one
        """,
        ("openai/gpt-4o-mini", "openai/gpt-4o"),
    ),
    "first proxy, Gemini models named while OpenAI is preferred": (
        """
        OPENAI_API_KEY=sk-mine
        GEMINI_API_KEY=AIza-mine
        BIG_MODEL=gemini-2.5-pro-preview-03-25
        SMALL_MODEL=gemini-2.0-flash
        """,
        ("gemini/gemini-2.0-flash", "gemini/gemini-2.5-pro-preview-03-25"),
    ),
    "first proxy, Application Default Credentials": (
        """
        PREFERRED_PROVIDER="google"
        VERTEX_PROJECT="mine"
        VERTEX_LOCATION="us-central1"
        USE_VERTEX_AUTH=true
        BIG_MODEL="gemini-2.5-pro"
        SMALL_MODEL="gemini-2.5-flash"
        """,
        ("vertex_ai/gemini-2.5-flash", "vertex_ai/gemini-2.5-pro"),
    ),
    "Ollama's proxy": (
        """
        PREFERRED_PROVIDER="ollama"
        OLLAMA_API_BASE="http://localhost:11434" # the default
        OPENAI_API_KEY="sk-mine"
        BIG_MODEL="llama3"
        SMALL_MODEL="llama3:8b"
        """,
        ("ollama/llama3:8b", "ollama/llama3"),
    ),
    "Ollama's proxy, a model that nobody knows": (
        """
        PREFERRED_PROVIDER="ollama"
        OPENAI_API_KEY="sk-mine"
        BIG_MODEL="unheard-of"
        SMALL_MODEL="mistral"
        """,
        ("ollama/mistral", "openai/unheard-of"),
    ),
    "proxy of Vertex and xAI, Vertex": (
        """
        VERTEX_PROJECT_ID="mine"
        VERTEX_LOCATION="us-central1"
        PREFERRED_PROVIDER="vertex"
        BIG_MODEL="gemini-2.5-pro-preview-03-25"
        SMALL_MODEL="gemini-2.0-flash"
        """,
        ("vertex_ai/gemini-2.0-flash", "vertex_ai/gemini-2.5-pro-preview-03-25"),
    ),
    "proxy of Vertex and xAI, xAI": (
        """
        XAI_API_KEY="xai-mine"
        PREFERRED_PROVIDER="xai"
        BIG_MODEL="grok-3"
        SMALL_MODEL="grok-3-mini-beta"
        """,
        ("xai/grok-3-mini-beta", "xai/grok-3"),
    ),
    "proxy of Groq and Moonshot, Groq": (
        """
        GROQ_API_KEY="gsk_mine"
        OPENAI_API_KEY="sk-mine"
        PREFERRED_PROVIDER="groq"
        """,
        ("groq/llama-3.1-8b-instant", "groq/llama-3.3-70b-versatile"),
    ),
    "proxy of Groq and Moonshot, Moonshot": (
        """
        MOONSHOT_API_KEY="sk-moon"
        OPENAI_API_KEY="sk-mine"
        PREFERRED_PROVIDER="moonshot"
        """,
        ("moonshot/kimi-k2-base", "moonshot/kimi-k2-instruct"),
    ),
    "proxy of Gemini and Vertex, Gemini": (
        """
        GEMINI_API_KEY="AIza-mine"
        PREFERRED_PROVIDER="gemini"
        BIG_MODEL="gemini-1.5-pro-latest"
        SMALL_MODEL="gemini-1.5-flash-latest"
        HOST="0.0.0.0"
        PORT="8082"
        LOG_LEVEL="WARNING"
        MAX_RETRIES="2"
        """,
        ("gemini/gemini-1.5-flash-latest", "gemini/gemini-1.5-pro-latest"),
    ),
    "proxy of Gemini and Vertex, Vertex": (
        """
        GEMINI_API_KEY="AIza-mine"
        VERTEX_PROJECT_ID="mine"
        VERTEX_LOCATION="us-central1"
        GOOGLE_APPLICATION_CREDENTIALS="/path/to/account.json"
        PREFERRED_PROVIDER="vertex"
        BIG_MODEL="gemini-1.5-pro-latest"
        SMALL_MODEL="gemini-1.5-flash-latest"
        """,
        ("vertex_ai/gemini-1.5-flash-latest", "vertex_ai/gemini-1.5-pro-latest"),
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_earlier_proxies_map_as_they_promise(name, tmp_path):
    text, (small, big) = EXAMPLES[name]
    settings = load({}, "\n".join(line.strip() for line in text.splitlines()), tmp_path)
    assert goes_to(HAIKU, settings) == small
    assert goes_to(SONNET, settings) == big


VARIABLES = """
    ANTHROPIC_API_KEY OPENAI_API_KEY OPENAI_BASE_URL GEMINI_API_KEY USE_VERTEX_AUTH VERTEX_PROJECT VERTEX_PROJECT_ID
    VERTEX_LOCATION GOOGLE_APPLICATION_CREDENTIALS OLLAMA_API_BASE OLLAMA_CONTEXT_LENGTH GROQ_API_KEY MOONSHOT_API_KEY
    XAI_API_KEY PREFERRED_PROVIDER BIG_MODEL SMALL_MODEL GEMINI_BASE_URL VERTEX_BASE_URL GROQ_BASE_URL MOONSHOT_BASE_URL
    XAI_BASE_URL ANTHROPIC_UPSTREAM_URL OPENAI_WIRE PROXY_API_KEY FALLBACK_HAIKU FALLBACK_SONNET FALLBACK_OPUS
    FALLBACK_FABLE GROQ_WIRE MOONSHOT_WIRE XAI_WIRE OLLAMA_WIRE GEMINI_WIRE VERTEX_WIRE ANTHROPIC_WIRE FIDELITY
    CHECK_WINDOW SEARCH_URL FETCH_URLS MAX_UPSTREAM_CALLS ALLOW_UNAUTHENTICATED ALLOWED_HOSTS UPSTREAM_CONNECT_TIMEOUT
    UPSTREAM_FIRST_BYTE_TIMEOUT UPSTREAM_IDLE_TIMEOUT UPSTREAM_TIMEOUT MIDDLE_MODEL MODEL_OPUS MODEL_SONNET MODEL_HAIKU
    MODEL_FABLE HOST PORT SERVE_DEMO
"""


@pytest.mark.parametrize("variable", VARIABLES.split())
def test_every_variable_of_the_contract_is_read(variable):
    assert variable in list_variables(PROVIDERS)


@pytest.mark.parametrize(
    ("environ", "chosen"),
    [
        ({"ANTHROPIC_API_KEY": "a"}, "anthropic"),
        ({"ANTHROPIC_API_KEY": "a", "XAI_API_KEY": "x"}, "xai"),
        ({"XAI_API_KEY": "x", "MOONSHOT_API_KEY": "m"}, "moonshot"),
        ({"MOONSHOT_API_KEY": "m", "GROQ_API_KEY": "g"}, "groq"),
        ({"GROQ_API_KEY": "g", "VERTEX_PROJECT": "v"}, "vertex"),
        ({"VERTEX_PROJECT_ID": "v", "GEMINI_API_KEY": "g"}, "google"),
        ({"GEMINI_API_KEY": "g", "OPENAI_API_KEY": "o"}, "openai"),
        ({"OPENAI_API_KEY": "your-key", "GROQ_API_KEY": "g"}, "groq"),
        ({"OPENAI_BASE_URL": "http://localhost:8000/v1"}, "demo"),
        ({"OLLAMA_API_BASE": "http://box:11434"}, "demo"),
        ({}, "demo"),
        ({"OPENAI_API_KEY": "o", "PREFERRED_PROVIDER": "groq"}, "groq"),
    ],
)
def test_the_first_provider_that_is_configured_is_preferred(environ, chosen):
    assert choose_preferred_provider_name(load(environ), None) == chosen
    assert choose_preferred_provider_name(load(environ), ["llama3"]) == ("ollama" if chosen == "demo" else chosen)


KNOWN = {
    "openai": """o3-mini o1 o1-mini o1-pro gpt-4.5-preview gpt-4o gpt-4o-audio-preview chatgpt-4o-latest gpt-4o-mini
        gpt-4o-mini-audio-preview gpt-4.1 gpt-4.1-mini""",
    "google": "gemini-2.5-pro-preview-03-25 gemini-2.0-flash",
    "vertex": """gemini-2.5-pro-preview-03-25 gemini-2.5-flash-preview-04-17 gemini-2.0-flash
        gemini-1.5-flash-preview-0514 gemini-1.5-pro-preview-0514""",
    "xai": "grok-3 grok-3-beta grok-3-mini-beta grok-2-vision-latest grok-2 grok-1",
    "ollama": """llama3 llama3:8b llama3:70b llama2 mistral mistral:instruct mixtral mixtral:instruct phi3:mini
        phi3:medium""",
    "groq": """llama-3.3-70b-versatile llama-3.1-8b-instant llama3-70b-8192 llama3-8b-8192 gemma2-9b-it whisper-large-v3
        whisper-large-v3-turbo distil-whisper-large-v3-en llama-guard-3-8b meta-llama/llama-4-scout-17b-16e-instruct
        meta-llama/llama-4-maverick-17b-128e-instruct qwen-qwq-32b qwen-2.5-coder-32b qwen-2.5-32b
        deepseek-r1-distill-qwen-32b deepseek-r1-distill-llama-70b mistral-saba-24b llama-3.2-1b-preview
        llama-3.2-3b-preview llama-3.2-11b-vision-preview llama-3.2-90b-vision-preview llama-3.3-70b-specdec""",
    "moonshot": "kimi-k2-base kimi-k2-instruct",
}


@pytest.mark.parametrize(
    ("provider", "model"), [(name, model) for name, text in KNOWN.items() for model in text.split()]
)
def test_every_known_model_is_reached_without_a_prefix(provider, model):
    row = PROVIDERS.find(provider)
    assert model in row.known_models
    if model in row.non_chat_models:
        return
    assert goes_to(model, load({"PREFERRED_PROVIDER": provider})) == f"{row.prefix}/{model}"
    elsewhere = goes_to(model, load({"PREFERRED_PROVIDER": "moonshot"}))
    shared = provider == "vertex" and model in PROVIDERS.find("google").known_models
    assert elsewhere == f"{'gemini' if shared else row.prefix}/{model}"
