"""Claude Code while its providers fail one after the other: Anthropic, then Amazon Bedrock, then Vertex AI go on."""

from pathlib import Path
from typing import Any

from tests.e2e.claude import do_the_task
from tests.support.fakes.anthropic import KEY, new_anthropic
from tests.support.fakes.anthropic.server import STAND_IN
from tests.support.fakes.clouds import (
    BEDROCK_MODEL,
    BETAS,
    CLAUDE_CODE_BETAS,
    LOCATION,
    PROJECT,
    REGION,
    VERTEX_MODEL,
    Cloud,
    new_cloud,
)
from tests.support.fakes.google_tokens import TokenServers, new_token_servers, write_service_account
from tests.support.fakes.server import serving
from tests.support.server_process import running_proxy

ROUTE = f"""
[[routes]]
name = "claude"
when = {{ model = "*" }}
targets = ["anthropic/claude-sonnet-5-5", "bedrock/{BEDROCK_MODEL}", "vertex_ai/{VERTEX_MODEL}"]
"""


class Revoked(set[str]):
    """A key that is valid for some requests, and then revoked."""

    def __init__(self, uses: int) -> None:
        super().__init__()
        self.uses = uses

    def __contains__(self, key: object) -> bool:
        self.uses -= 1
        return self.uses >= 0 and bool(key)


def test_no_thought_is_lost_when_the_next_provider_goes_on(claude: Path, server: Path, work: Path) -> None:
    """The signature of a thought is valid at Anthropic and in all clouds. The fakes verify it."""
    tokens: Any = TokenServers()
    clouds = {
        kind: Cloud(kind, betas=(*BETAS[kind], *CLAUDE_CODE_BETAS[kind], "thinking-display-updates-2026-08-18"))
        for kind in ("bedrock", "vertex")
    }
    own, first_keys = new_anthropic(KEY), Revoked(2)
    own[STAND_IN].keys, clouds["bedrock"].keys, clouds["vertex"].keys = first_keys, Revoked(1), tokens.issued
    with (
        serving(own) as anthropic,
        serving(new_cloud(clouds["bedrock"])) as bedrock,
        serving(new_cloud(clouds["vertex"])) as vertex,
        serving(new_token_servers(tokens)) as google,
    ):
        (server / "anthropic-proxy.toml").write_text(ROUTE)
        settings = {
            "PREFERRED_PROVIDER": "anthropic",
            "ANTHROPIC_API_KEY": KEY,
            "ANTHROPIC_UPSTREAM_URL": anthropic.url,
            "AWS_REGION": REGION,
            "BEDROCK_BASE_URL": bedrock.url,
            "AWS_BEARER_TOKEN_BEDROCK": "the-key-of-bedrock",
            "VERTEX_BASE_URL": vertex.url,
            "VERTEX_PROJECT": PROJECT,
            "VERTEX_LOCATION": LOCATION,
            "GOOGLE_APPLICATION_CREDENTIALS": str(write_service_account(server, google.url)),
        }
        with running_proxy(server, settings) as proxy:
            do_the_task(claude, proxy.url, work)
            assert "Traceback" not in proxy.log
        answered = [
            [exchange for exchange in running.journal.exchanges if exchange.status == 200]
            for running in (anthropic, bedrock, vertex)
        ]
        assert [len(of_one) for of_one in answered] == [2, 1, 1]
        for running in (anthropic, bedrock, vertex):
            assert running.journal.violations() == []
    thoughts = [
        block
        for message in answered[-1][-1].body["messages"]
        for block in message["content"]
        if isinstance(block, dict) and block["type"] == "thinking"
    ]
    assert [bool(block["signature"]) for block in thoughts] == [True, True, True]
