"""The model that lists, the menu of Claude Code and the start message name is the one that replies."""

import asyncio
import json
from pathlib import Path

import pytest

from anthropic_proxy.engine.engine import build_engine
from anthropic_proxy.engine.exchange.dry_run import DryRunClient, run_dry
from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.model_listing import find_model, list_models, list_tier_mappings
from tests.support.routes import load_routes

ROUTES = """
[[routes]]
name = "titles"
when = { background = true }
targets = ["groq/llama-3.1-8b-instant"]

[[routes]]
name = "long"
when = { input_above = 60000 }
targets = ["gemini/gemini-2.5-pro"]

[[routes]]
name = "think"
when = { thinking = true, tier = ["opus", "sonnet"] }
targets = ["xai/grok-4", "default"]

[[routes]]
name = "old"
when = { model = "claude-haiku-5-5" }
targets = ["openai/gpt-4.1-nano"]

[[routes]]
name = "fable"
when = { tier = "fable" }
targets = ["openai/gpt-5.5", "openai/gpt-5"]
balance = "weighted"
weights = [3, 1]
"""
CLAUDE_CODE = DryRunClient(headers={"user-agent": "claude-cli/2.1.330 (external, cli)"})
BASH = {"name": "Bash", "description": "Run", "input_schema": {"type": "object"}}


def find_reply(options: EngineOptions, model: str, *, thinks: bool) -> str:
    """Return the first model to which the proxy sends a request of a conversation."""
    body = {
        "model": model,
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [BASH],
        "thinking": {"type": "adaptive"} if thinks else {"type": "disabled"},
    }
    result = asyncio.run(run_dry(build_engine(options), json.dumps(body).encode(), sender=CLAUDE_CODE))
    assert result.plan is not None
    return result.plan.targets[0].prefixed_id


@pytest.mark.parametrize("routes", ["", ROUTES])
def test_the_list_names_the_model_that_replies_to_a_conversation(tmp_path: Path, routes: str) -> None:
    options = load_routes(tmp_path, routes)
    entries = [one for one in list_models(options, Catalog()) if one.id.startswith("claude-") and "/" not in one.id]
    assert len(entries) > 4
    for entry in (*entries, find_model("claude-opus-4-1", options, Catalog())):
        shown = (entry.target or f"openai/{entry.id}").split(" or ")
        assert find_reply(options, entry.id, thinks=True) in shown, entry
        otherwise = entry.otherwise or entry.target or f"openai/{entry.id}"
        assert find_reply(options, entry.id, thinks=False) in otherwise.split(" or "), entry


def test_a_tier_has_the_model_of_its_route_and_the_one_without_thinking(tmp_path: Path) -> None:
    options = load_routes(tmp_path, ROUTES)
    big = ("openai/gpt-4.1", "BIG_MODEL, default")
    think = ("xai/grok-4", "route think: tier opus or sonnet, thinking")
    assert {row.tier: list(row.replies) for row in list_tier_mappings(options, Catalog())} == {
        "haiku": [("openai/gpt-4.1-mini", "SMALL_MODEL, default")],
        "sonnet": [think, big],
        "opus": [think, big],
        "fable": [("openai/gpt-5.5 or openai/gpt-5", "route fable: tier fable")],
    }
    opus, haiku = (find_model(name, options, Catalog()) for name in ("claude-opus-5-5", "claude-haiku-5-5"))
    assert (opus.display_name, opus.route, opus.otherwise, opus.other_routes) == (
        "Claude Opus 5.5 → xai/grok-4 by route think",
        "think",
        "openai/gpt-4.1",
        ["long"],
    )
    assert (haiku.target, haiku.route, haiku.otherwise) == ("openai/gpt-4.1-nano", "old", None)


def test_a_model_by_its_own_name_has_its_own_limits(tmp_path: Path) -> None:
    options = load_routes(tmp_path, '[[routes]]\nname = "all"\ntargets = ["openai/o3"]\n')
    entries = [find_model(name, options, Catalog()) for name in ("claude-opus-5-5", "openai/gpt-4.1")]
    assert [(entry.target, entry.max_input_tokens) for entry in entries] == [
        ("openai/o3", 200_000),
        ("openai/gpt-4.1", 1_047_576),
    ]


@pytest.mark.parametrize(
    ("when", "target", "others"),
    [
        ('request = "main"', "openai/o3", []),
        ('request = ["subagent", "auxiliary"]', "openai/gpt-4.1", []),
        ('request = "compaction"', "openai/gpt-4.1", ["r"]),
        ('agent = "*"', "openai/gpt-4.1", []),
    ],
)
def test_a_conversation_has_requests_of_the_kinds_main_and_compaction(
    when: str, target: str, others: list[str], tmp_path: Path
) -> None:
    options = load_routes(tmp_path, f'[[routes]]\nname = "r"\nwhen = {{ {when} }}\ntargets = ["openai/o3"]\n')
    entry = find_model("claude-opus-5-5", options, Catalog())
    assert (entry.target or "openai/gpt-4.1", entry.other_routes or []) == (target, others)
    assert entry.otherwise == ("openai/gpt-4.1" if target == "openai/o3" else None)


def test_a_provider_without_a_model_is_named_by_its_prefix(tmp_path: Path) -> None:
    server = '[providers.my]\nbase_url = "http://127.0.0.1:9/v1"\n'
    options = load_routes(tmp_path, server, PREFERRED_PROVIDER="my", BIG_MODEL="big")
    shown = {row.tier: row.replies[0][0] for row in list_tier_mappings(options, Catalog())}
    assert shown == {"haiku": "my/", "sonnet": "my/big", "opus": "my/big", "fable": "my/big"}


@pytest.mark.parametrize(
    ("threshold", "largest"),
    [(60_000, 1_048_576), (190_000, 1_048_576), (190_001, 200_000)],
)
def test_a_route_for_long_inputs_replaces_the_limit_of_the_model(tmp_path: Path, threshold: int, largest: int) -> None:
    routes = f"""
[[routes]]
name = "long"
when = {{ tier = ["opus", "haiku"], input_above = {threshold} }}
targets = ["gemini/gemini-2.5-pro"]

[[routes]]
name = "all"
targets = ["openai/o3"]
"""
    options, catalog = load_routes(tmp_path, routes), Catalog()
    found = {name: find_model(name, options, catalog).max_input_tokens for name in ("claude-opus-5-5", "openai/o3")}
    assert found == {"claude-opus-5-5": largest, "openai/o3": 200_000}
    assert find_model("claude-sonnet-5-5", options, catalog).max_input_tokens == 200_000


@pytest.mark.parametrize("condition", ["thinking = true", "images = true", "input_below = 100000", 'model = "*"'])
def test_a_route_with_another_condition_replaces_no_limit(tmp_path: Path, condition: str) -> None:
    routes = f"""
[[routes]]
name = "long"
when = {{ tier = "opus", input_above = 60000, {condition} }}
targets = ["gemini/gemini-2.5-pro"]

[[routes]]
name = "all"
targets = ["openai/o3"]
"""
    assert find_model("claude-opus-5-5", load_routes(tmp_path, routes), Catalog()).max_input_tokens == 200_000
