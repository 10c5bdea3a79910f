"""Routes of a configuration file, and the facts about a client request that their conditions examine."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from anthropic_proxy.engine.hooks import Client
from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.choices import find_preferred_provider, resolve_model_name_and_tier
from anthropic_proxy.engine.routing.routes import RequestFacts
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings
from tests.support.token_estimate import estimate_request_tokens

NOON = "2026-11-18T12:00+00:00"
"""A Wednesday."""
TEXT_MESSAGES = [{"role": "user", "content": "hello"}]
CLAUDE_CODE = {"x-claude-code-session-id": "s-1", "user-agent": "claude-cli/2.1.328 (external, cli)"}
TOOLS = [{"name": "read", "input_schema": {"type": "object"}}]


def load_routes(folder: Path, text: str, **environ: str) -> Settings:
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    given = {"OPENAI_API_KEY": "sk-test", "GEMINI_API_KEY": "AIza-test", **environ}
    return load_settings(given, PROVIDERS, env_file=str(folder / ".env"))


def new_facts(
    settings: Settings,
    *,
    headers: Mapping[str, str] | None = None,
    key: str = "local",
    team: str = "",
    owner: str = "",
    at: str = NOON,
    request_id: str = "req_1",
    **body: Any,
) -> RequestFacts:
    """Return the facts about a request for `claude-opus-5-5`, if `body` contains no other model."""
    body = {"model": "claude-opus-5-5", "max_tokens": 100, "messages": TEXT_MESSAGES, **body}
    request = decode_request(json.dumps(body).encode())
    model, tier = resolve_model_name_and_tier(request.model, find_preferred_provider(settings, Catalog()), settings)
    return RequestFacts(
        request,
        model=model,
        tier=tier,
        headers=headers or {},
        client=Client(name=key, owner=owner, team=team),
        now=datetime.fromisoformat(at).timestamp(),
        count_tokens=estimate_request_tokens,
        request_id=request_id,
    )
