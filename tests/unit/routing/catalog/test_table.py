"""Facts about models: each has a source and a date, and applies to the right models."""

import re
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog, _read_row, load_model_rows
from anthropic_proxy.engine.providers.registry import ModelRule, Provider, RetiredModel, ServerOverride, WireConfig
from anthropic_proxy.engine.providers.servers import find_server_override
from anthropic_proxy.engine.providers.vendors import VENDORS
from anthropic_proxy.engine.routing.router import RoutingQuery, Target, build_route, switch_wire
from anthropic_proxy.engine.wires import openai_responses
from anthropic_proxy.gateway.settings import load_settings

SERVERS = [server for row in PROVIDERS for server in row.servers]
OWNERS: list[Provider | ServerOverride] = [*PROVIDERS, *SERVERS]
WIRE_CONFIGS = [wire_config for owner in OWNERS for wire_config in owner.wires.values()]
RETIRED = [(model, end) for owner in OWNERS for model, end in owner.retired_models.items()]
ROWS = [(table, row) for table, rows in load_model_rows().items() for row in rows]
DATE = re.compile(r"20\d\d-(0[1-9]|1[0-2])(-([0-2]\d|3[01]))?")


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{table}-{row.id_prefixes[:1]}" for table, row in ROWS])
def test_every_row_has_a_source_and_a_date(table: str, row: Any) -> None:
    assert row.source, table
    assert DATE.fullmatch(row.read_date), f"{table} {row.id_prefixes}: {row.read_date!r} is no date"


@pytest.mark.parametrize("missing", ["source", "read"])
def test_a_row_without_a_source_or_a_date_cannot_be_loaded(missing: str) -> None:
    given = {"starts": ["x"], "context_window": 1, "source": "example.org", "read": "2026-11"}
    with pytest.raises(msgspec.ValidationError, match=missing):
        _read_row({name: value for name, value in given.items() if name != missing}, known=True)


@pytest.mark.parametrize("wire_config", WIRE_CONFIGS, ids=range(len(WIRE_CONFIGS)))
def test_every_rule_for_models_has_a_source_and_a_date(wire_config: WireConfig) -> None:
    for rule in wire_config.model_rules:
        assert isinstance(rule, ModelRule)
        assert rule.source, rule.pattern
        assert DATE.fullmatch(rule.read_date), f"{rule.pattern}: {rule.read_date!r} is no date"


@pytest.mark.parametrize("vendor", VENDORS, ids=[vendor.name for vendor in VENDORS])
def test_every_vendor_has_a_source_and_a_date_and_is_selected_by_its_address(vendor: ServerOverride) -> None:
    assert vendor.source
    assert DATE.fullmatch(vendor.read_date)
    assert vendor.title
    assert vendor.key_variable
    assert vendor.docs_url.startswith("https://")
    settings = load_settings({"OPENAI_BASE_URL": vendor.base_url}, PROVIDERS, env_file=None)
    assert find_server_override(PROVIDERS.find("openai"), settings) is vendor


@pytest.mark.parametrize(("model", "end"), RETIRED, ids=[model for model, _ in RETIRED])
def test_every_end_of_a_model_has_a_source_and_a_date(model: str, end: RetiredModel) -> None:
    assert end.source, model
    assert DATE.fullmatch(end.read_date)
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", end.retired_on)


@pytest.mark.parametrize(
    ("table", "model", "other"),
    [
        ("deepseek", "deepseek-v4.1-flash", "deepseek-v4"),
        ("deepseek", "deepseek-v4.2-pro", "deepseek-v4"),
        ("openai", "gpt-5.7", "gpt-5"),
        ("openai", "gpt-5.10-mini", "gpt-5.1"),
        ("openai", "gpt-4.2", "gpt-4"),
        ("openai", "o10", "o1"),
        ("xai", "grok-4.8", "grok-4"),
        ("xai", "grok-4.35", "grok-4.3"),
        ("xai", "grok-31", "grok-3"),
        ("moonshot", "kimi-k2.8", "kimi-k2"),
        ("moonshot", "kimi-k3.2-pro", "kimi-k3"),
        ("zai", "glm-5.4", "glm-5"),
        ("zai", "glm-5.3v", "glm-5.3"),
        ("zai", "glm-4.65", "glm-4.6"),
        ("anthropic", "claude-opus-4-9", "claude-opus-4"),
        ("anthropic", "claude-sonnet-4-7", "claude-sonnet-4"),
        ("anthropic", "claude-3-9-sonnet", "claude-3"),
        ("mistral", "mistral-large-41", "mistral-large-4"),
        ("google", "gemini-4.1-neon", "gemini-4"),
        ("google", "gemma-3.5-9b", "gemma-3"),
    ],
)
def test_a_row_does_not_hold_for_another_version(table: str, model: str, other: str) -> None:
    catalogue = Catalog()
    assert catalogue.cached_capabilities(table, other).known
    assert catalogue.cached_capabilities(table, model) != catalogue.cached_capabilities(table, other)


@pytest.mark.parametrize(
    ("table", "model", "row"),
    [
        ("openai", "gpt-5-2025-08-07", "gpt-5"),
        ("openai", "gpt-4.1-mini-2025-04-14", "gpt-4.1"),
        ("openai", "gpt-5.1-codex-max", "gpt-5.3-codex"),
        ("openai", "o4-mini-2025-04-16", "o4-mini"),
        ("openai", "gpt-4-0613", "gpt-4"),
        ("google", "gemini-2.0-flash-001", "gemini-2.0-flash"),
        ("google", "gemma-4-31b-it", "gemma-4"),
        ("google", "gemini-4-carbon-cyber-permissive", "gemini-4-carbon"),
        ("xai", "grok-4-0709", "grok-4"),
        ("xai", "grok-4.20-0309-reasoning", "grok-4.20"),
        ("moonshot", "kimi-k2-0711-preview", "kimi-k2"),
        ("anthropic", "claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("anthropic", "claude-sonnet-4@20250514", "claude-sonnet-4"),
        ("anthropic", "claude-opus-5-5-20261001", "claude-opus-5"),
        ("anthropic", "claude-mythos-preview", "claude-mythos-5"),
        ("zai", "glm-5.3-flash", "glm-5.3"),
        ("zai", "glm-5-turbo", "glm-5"),
        ("zai", "glm-5v-turbo", "glm-5v"),
        ("mistral", "mistral-large-4", "mistral-large-4-0"),
        ("deepseek", "deepseek-v4-flash-vision-exp", "deepseek-flash"),
    ],
)
def test_a_row_holds_for_dates_sizes_and_variants(table: str, model: str, row: str) -> None:
    catalogue = Catalog()
    assert catalogue.cached_capabilities(table, model).known
    assert catalogue.cached_capabilities(table, model) == catalogue.cached_capabilities(table, row)


@pytest.mark.parametrize(
    ("table", "model", "newest"),
    [
        ("openai", "gpt-5.9", "gpt-5.6"),
        ("openai", "gpt-5.9-mini", "gpt-5.4-mini"),
        ("openai", "gpt-5.6-codex", "gpt-5.6"),
        ("openai", "gpt-6.3", "gpt-6.1-sol"),
        ("openai", "gpt-6.3-luna", "gpt-6.1-sol"),
        ("openai", "gpt-6.3-sol", "gpt-6.2-sol"),
        ("openai", "gpt-7", "gpt-6.1-sol"),
        ("openai", "gpt-7-astra", "gpt-6-astra"),
        ("openai", "gpt-10.1-mini", "gpt-6.2-astra"),
        ("openai", "o5", "o3"),
        ("google", "gemini-5-hydrogen", "gemini-4-hydrogen"),
        ("google", "gemini-4.1-carbon", "gemini-4-carbon"),
        ("google", "gemini-3.9-flash", "gemini-3.8-flash"),
        ("google", "gemini-3.9-pro-preview", "gemini-3.1-pro"),
        ("xai", "grok-4.8", "grok-4.7"),
        ("xai", "grok-5-fast", "grok-4.7"),
        ("moonshot", "kimi-k4", "kimi-k3.1-pro"),
        ("moonshot", "kimi-k2.8", "kimi-k2.6"),
        ("zai", "glm-5.4-air", "glm-5.3"),
        ("zai", "glm-6", "glm-5.3"),
        ("zai", "glm-6v", "glm-5v"),
        ("mistral", "mistral-large-5", "mistral-large-4"),
        ("mistral", "mistral-medium-3-6", "mistral-medium-3-5"),
        ("mistral", "mistral-small-2701", "mistral-small-2603"),
        ("deepseek", "deepseek-v5-pro", "deepseek-flash"),
        ("groq", "qwen/qwen3.9-27b", "qwen/qwen3.8-27b"),
        ("anthropic", "claude-opus-6", "claude-opus-5"),
        ("anthropic", "claude-opus-4-9", "claude-opus-4-8"),
        ("anthropic", "claude-mythos-6-1", "claude-mythos-5"),
        ("anthropic", "claude-haiku-12-1", "claude-haiku-5-5"),
        ("google", "gemini-10-hydrogen", "gemini-4-hydrogen"),
        ("google", "gemini-4.2-argon", "gemini-4-argon"),
        ("xai", "grok-11", "grok-4.7"),
        ("moonshot", "kimi-k10", "kimi-k3.1"),
    ],
)
def test_a_later_version_has_the_abilities_of_the_latest_that_is_known(table: str, model: str, newest: str) -> None:
    catalogue = Catalog()
    found, known = catalogue.cached_capabilities(table, model), catalogue.cached_capabilities(table, newest)
    assert (found.efforts, found.accepts_images, found.accepts_pdf) == (
        known.efforts,
        known.accepts_images,
        known.accepts_pdf,
    )
    assert found.efforts


@pytest.mark.parametrize(
    ("table", "model"),
    [
        ("mistral", "mistral-large-2411"),
        ("mistral", "mistral-medium-2505"),
        ("mistral", "mistral-medium-3-1"),
        ("google", "gemini-3.1-ultra"),
        ("openai", "gpt-4.3"),
        ("anthropic", "claude-2.1"),
    ],
)
def test_an_earlier_version_or_another_variant_inherits_nothing(table: str, model: str) -> None:
    facts = Catalog().cached_capabilities(table, model)
    assert (facts.known, facts.efforts) == (False, ())


@pytest.mark.parametrize("model", ["gpt-6-astra", "gpt-6.1-sol", "gpt-6.2-astra", "gpt-6.2-sol"])
def test_a_model_that_always_reasons_has_its_limits_and_no_effort_none(model: str) -> None:
    facts = Catalog().cached_capabilities("openai", model)
    assert (facts.context_window, facts.max_output) == (1_050_000, 128_000)
    assert facts.efforts == ("low", "medium", "high", "xhigh", "max")


@pytest.mark.parametrize("model", ["gpt-6-luna", "gpt-6-sol", "gpt-6.1-terra", "gpt-6.1-terra-2026-10-01"])
def test_a_model_of_the_generation_before_keeps_its_effort_none(model: str) -> None:
    facts = Catalog().cached_capabilities("openai", model)
    assert (facts.known, facts.efforts[0]) == (True, "none")


ADDRESSES = {
    "deepseek": "https://api.deepseek.com",
    "zai": "https://api.z.ai/api/paas/v4",
    "plan": "https://api.z.ai/api/coding/paas/v4",
    "mistral": "https://api.mistral.ai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "moonshot": "https://api.moonshot.ai/v1",
    "groq": "https://api.groq.com/openai/v1",
    "xai": "https://api.x.ai/v1",
    "local": "http://127.0.0.1:8000/v1",
}


def aim(server: str, model: str) -> Target:
    environ = {"OPENAI_BASE_URL": ADDRESSES[server]} if server in ADDRESSES else {}
    prefix = "openai" if environ else server
    settings = load_settings({"VERTEX_PROJECT": "p", **environ}, PROVIDERS, env_file=None)
    return build_route(RoutingQuery(f"{prefix}/{model}"), settings, Catalog()).targets[0]


@pytest.mark.parametrize(
    ("server", "model", "fields"),
    [
        ("zai", "glm-5.1", {"effort_form": "thinking", "reasoning_mode": "unless_off"}),
        (
            "zai",
            "glm-5.2",
            {"effort_form": "thinking_and_effort", "reasoning_mode": "unless_off", "sends_tool_stream": True},
        ),
        ("zai", "glm-5.3-flash", {"effort_form": "thinking_and_effort", "reasoning_mode": "always"}),
        (
            "plan",
            "glm-5.3",
            {"effort_form": "thinking_and_effort", "reasoning_mode": "always", "sends_tool_stream": True},
        ),
        ("zai", "glm-5.9", {"reasoning_mode": "always"}),
        ("zai", "glm-6", {"reasoning_mode": "always"}),
        ("zai", "glm-10", {"reasoning_mode": "always"}),
        ("mistral", "mistral-medium-3-5", {"effort_form": "reasoning_effort", "replayed_thinking_field": "content"}),
        ("mistral", "mistral-large-5-0", {"effort_form": "reasoning_effort", "replayed_thinking_field": "content"}),
        ("mistral", "mistral-large-2512", {"effort_form": "omit", "replayed_thinking_field": ""}),
        ("openrouter", "anthropic/claude-opus-6", {"sends_cache_marks": True, "sends_top_k": True}),
        ("openrouter", "qwen/qwen4-coder", {"sends_cache_marks": True, "session_field": "session_id"}),
        ("openrouter", "google/gemini-4-hydrogen", {"sends_cache_marks": False, "session_field": "session_id"}),
        ("local", "qwen3-coder", {"sends_top_k": True, "sends_cache_marks": False, "session_field": ""}),
        ("groq", "qwen/qwen3.9-27b", {"effort_form": "reasoning_effort", "effort_names": ()}),
        ("moonshot", "kimi-k4", {"effort_form": "reasoning_effort", "accepts_forced_tool": "any"}),
        ("moonshot", "kimi-k10", {"effort_form": "reasoning_effort", "accepts_forced_tool": "any"}),
        ("moonshot", "kimi-k2.6", {"accepts_forced_tool": "not_thinking"}),
        ("xai", "grok-5", {"effort_form": "reasoning_effort", "reasoning_mode": "always"}),
        ("xai", "grok-11", {"effort_form": "reasoning_effort", "reasoning_mode": "always"}),
        ("xai", "grok-4.20", {"effort_form": "omit"}),
        ("xai", "grok-4-fast", {"effort_form": "omit"}),
        ("xai", "grok-4.20-0309-non-reasoning", {"effort_form": "omit"}),
        ("gemini", "gemini-4.1-neon", {"accepts_continuation": True, "always_stream": True}),
        ("vertex_ai", "gemini-5-carbon", {"accepts_continuation": True, "always_stream": True}),
        ("gemini", "gemini-10-hydrogen", {"accepts_continuation": True, "always_stream": True}),
        ("gemini", "gemini-3.9-flash", {"accepts_continuation": False}),
        ("ollama", "glm-5.3:cloud", {"think_form": "level", "sends_num_ctx": False}),
        ("ollama", "gpt-oss:120b", {"think_form": "only_level"}),
    ],
)
def test_rules_hold_for_models_and_their_successors(server: str, model: str, fields: dict[str, Any]) -> None:
    dialect = aim(server, model).dialect
    assert {name: getattr(dialect, name) for name in fields} == fields


@pytest.mark.parametrize(
    "model", ["gpt-6.1-terra", "gpt-6.2-astra", "gpt-6.2-sol", "gpt-6.3-luna", "gpt-7", "gpt-10.1"]
)
def test_a_later_model_of_openai_has_the_rules_of_the_newest(model: str) -> None:
    by_default = aim("openai", model)
    assert by_default.wire is openai_responses.WIRE
    over_chat = switch_wire(by_default, "chat", load_settings({}, PROVIDERS, env_file=None))
    newest = aim("openai", "gpt-6.1-sol")
    assert by_default.dialect == newest.dialect
    assert over_chat.dialect.accepts_tools is False  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", ["gpt-6-luna", "gpt-6-sol"])
def test_a_model_of_the_generation_before_takes_tools_over_chat_at_the_effort_none(model: str) -> None:
    over_chat = switch_wire(aim("openai", model), "chat", load_settings({}, PROVIDERS, env_file=None))
    assert over_chat.dialect.accepts_tools is True  # type: ignore[attr-defined]
    assert over_chat.dialect.forced_effort_with_tools == "none"  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", ["anthropic/claude-opus-4.8", "openai/o3-mini", "x/y"])
def test_a_server_that_reads_pdfs_itself_does_so_for_every_model(model: str) -> None:
    assert aim("openrouter", model).capabilities.accepts_pdf
    assert not aim("local", model.rpartition("/")[2]).capabilities.accepts_pdf


def test_models_of_another_provider_s_server_have_the_facts_of_that_provider() -> None:
    for server, model in (("moonshot", "kimi-k3"), ("groq", "openai/gpt-oss-20b"), ("xai", "grok-4.7")):
        assert aim(server, model).capabilities == Catalog().cached_capabilities(server, model)
