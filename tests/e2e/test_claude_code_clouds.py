"""Claude Code through the proxy to Claude at Amazon Bedrock, Vertex AI and Microsoft Foundry: a task with thinking."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.claude import do_the_task
from tests.support.fakes.clouds import (
    BEDROCK_MODEL,
    BETAS,
    CLAUDE_CODE_BETAS,
    FOUNDRY_MODEL,
    LOCATION,
    PROJECT,
    REGION,
    VERTEX_MODEL,
    Cloud,
    Kind,
    new_cloud,
)
from tests.support.fakes.google_tokens import TokenServers, new_token_servers, write_service_account
from tests.support.fakes.server import Running, serving
from tests.support.server_process import Proxy

ACCESS_KEY, SECRET_KEY, KEY = "AKIAFAKEFAKEFAKE0001", "the-secret-key-of-aws", "the-key-of-foundry"


@pytest.fixture(params=["bedrock", "vertex", "foundry"])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
def cloud(kind: Kind) -> Cloud:
    betas = (*BETAS[kind], *CLAUDE_CODE_BETAS[kind], "thinking-display-updates-2026-08-18")
    return Cloud(kind, betas=betas, aws_keys={ACCESS_KEY: (SECRET_KEY, None)}, keys={KEY})


@pytest.fixture
def upstream(cloud: Cloud) -> Iterator[Running]:
    with serving(new_cloud(cloud)) as running:
        yield running
        assert running.journal.violations() == []


@pytest.fixture
def settings(kind: Kind, cloud: Cloud, upstream: Running, server: Path) -> Iterator[dict[str, str]]:
    servers = TokenServers()
    with serving(new_token_servers(servers)) as tokens:
        if kind == "bedrock":
            model = f"bedrock/{BEDROCK_MODEL}"
            settings = {"AWS_REGION": REGION, "BEDROCK_BASE_URL": upstream.url}
            settings |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        elif kind == "vertex":
            accepted: Any = servers.issued
            cloud.keys, model = accepted, f"vertex_ai/{VERTEX_MODEL}"
            settings = {"VERTEX_BASE_URL": upstream.url, "VERTEX_PROJECT": PROJECT, "VERTEX_LOCATION": LOCATION}
            settings["GOOGLE_APPLICATION_CREDENTIALS"] = str(write_service_account(server, tokens.url))
        else:
            model = f"foundry/{FOUNDRY_MODEL}"
            settings = {"FOUNDRY_BASE_URL": f"{upstream.url}/anthropic", "ANTHROPIC_FOUNDRY_API_KEY": KEY}
        yield settings | {"PREFERRED_PROVIDER": kind, "BIG_MODEL": model, "SMALL_MODEL": model}


def test_a_task_of_several_turns_with_what_was_thought(
    claude: Path, proxy: Proxy, upstream: Running, work: Path
) -> None:
    assert "No provider is chosen" not in proxy.log
    do_the_task(claude, proxy.url, work)
    asked = [exchange for exchange in upstream.journal.exchanges if exchange.status == 200]
    blocks = [
        block
        for message in asked[-1].body["messages"]
        for block in message["content"]
        if isinstance(block, dict) and block["type"] == "thinking"
    ]
    assert len(blocks) == 3
    assert all(block["signature"] for block in blocks)
    assert not any("x-anthropic-billing-header" in str(exchange.body) for exchange in asked)
