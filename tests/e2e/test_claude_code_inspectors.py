"""Claude Code behind inspectors: it works with texts that the provider never gets, and shows why a text is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.claude import run_claude
from tests.support.fakes.server import Running
from tests.support.server_process import Proxy, reserve_closed_port, running_proxy
from tests.support.waiting import wait_for

KEY = "sk-live-0a1b2c3d4e5f6g7h8i9j"
CONFIG = """
[[inspectors]]
name = "secrets"
type = "patterns"
detect = ["keys"]

[[inspectors]]
name = "law"
type = "patterns"
patterns = { project = 'project orion' }
action = "refuse"
reason = "Rule 7: do not name this project."
"""


@pytest.fixture
def proxy(settings: dict[str, str], server: Path) -> Iterator[Proxy]:
    (server / "anthropic-proxy.toml").write_text(CONFIG, "utf-8")
    with running_proxy(server, settings) as running:
        yield running


def test_a_key_that_the_provider_never_gets_is_in_the_answer(
    claude: Path, openai: Running, proxy: Proxy, work: Path
) -> None:
    run = run_claude(claude, proxy.url, work, f"Say exactly: use {KEY} now")
    assert run.text == f"use {KEY} now", run.stderr
    bodies = [str(exchange.body) for exchange in openai.journal.exchanges]
    assert any("REDACTED_KEY_" in body for body in bodies)
    assert not any(KEY in body for body in bodies)


def test_a_refused_text_is_explained_and_sent_once(claude: Path, openai: Running, proxy: Proxy, work: Path) -> None:
    run = run_claude(claude, proxy.url, work, "Say exactly: project orion")
    assert run.text == "API Error: 400 Rule 7: do not name this project. Found: project."
    assert not any("orion" in str(exchange.body) for exchange in openai.journal.exchanges)
    refused = "✕ Rule 7: do not name this project. Found: project."
    wait_for(lambda: refused in proxy.log)
    assert proxy.log.count(refused) == 1


def test_a_failure_of_an_inspector_is_told_at_once(
    claude: Path, openai: Running, settings: dict[str, str], server: Path, work: Path
) -> None:
    guard = f'[[inspectors]]\nname = "dlp"\ntype = "guardrail"\nbase_url = "http://127.0.0.1:{reserve_closed_port()}"\n'
    (server / "anthropic-proxy.toml").write_text(guard, "utf-8")
    with running_proxy(server, settings) as proxy:
        run = run_claude(claude, proxy.url, work, "Say exactly: hello")
        assert run.text.startswith(
            "API Error: 503 The inspector dlp of this proxy, which must read each request, is not available."
        )
        wait_for(lambda: "✕ The inspector dlp of this proxy" in proxy.log)
        assert proxy.log.count("✕ The inspector dlp of this proxy") == 1
    assert openai.journal.exchanges == []
