from collections import defaultdict

import msgspec
from anthropic.types import ModelInfo

from anthropic_proxy.engine.messages.models.context_edits import EDITS, Compact
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.model_listing import list_models
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.gateway.settings import load_settings

KEYS = {row.key_variable: f"{row.name}-key" for row in PROVIDERS if row.key_variable}


def test_no_two_providers_share_a_signature_tag() -> None:
    """Thinking is returned to every provider with the tag of its signature."""
    users = defaultdict(set)
    for row in PROVIDERS:
        for config in row.wires.values():
            if tag := getattr(config.dialect, "signature_tag", ""):
                users[tag].add(row.name)
    assert {tag: names for tag, names in users.items() if len(names) > 1} == {}


def test_every_listed_model_is_served_once_under_a_name_of_claude_with_the_fields_of_the_sdk() -> None:
    settings = load_settings(KEYS, PROVIDERS, env_file=None)
    entries = list_models(settings, Catalog())
    assert len({entry.id for entry in entries}) == len(entries) > 100
    for entry in entries:
        assert "claude" in entry.id
        assert build_plan(RoutingQuery(entry.id), settings, Catalog()).targets
        info = ModelInfo.model_validate(msgspec.to_builtins(entry), strict=False)
        assert (info.capabilities is None) == entry.id.startswith("claude-anthropic/"), entry.id
        if entry.capabilities is not None:
            is_relayed = build_plan(RoutingQuery(entry.id), settings, Catalog()).is_relayed
            support = {"supported": True}
            assert entry.capabilities["citations"] == {"supported": not is_relayed}, entry.id
            edits = dict.fromkeys(EDITS, support) | {Compact.type: {"supported": not is_relayed}}
            assert entry.capabilities["context_management"] == support | edits, entry.id
