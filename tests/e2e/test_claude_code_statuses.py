"""What Claude Code and the SDKs do with an error behind the proxy: one call of the provider for each turn, and no order
of the client's own. The table in docs/guide/reliability.md has what they do with other statuses.
"""

from collections.abc import Iterator
from pathlib import Path

import anthropic
import pytest

from tests.e2e.claude import find_claude, run_claude
from tests.e2e.company import EVERYBODY, new_machine
from tests.e2e.terminal import terminal
from tests.support.refused_proxies import REFUSALS, RefusingProvider, refuse, refusing, serving_refusals

VERSION = "2.1.332"
"""The version whose reactions were measured."""
ORDERS = ("/login", "Failed to authenticate", "selected model", "server-side issue", "esend your message")
"""What Claude Code writes beside the text of other statuses, in place of it, or into the input line."""


@pytest.fixture(scope="module")
def claude() -> Path:
    return find_claude(VERSION)


@pytest.fixture(params=REFUSALS)
def provider(request: pytest.FixtureRequest, server: Path) -> Iterator[RefusingProvider]:
    with refusing(request.param, server) as provider:
        yield provider
        assert "Traceback" not in provider.proxy.log


def test_a_turn_is_one_call(
    claude: Path, provider: RefusingProvider, work: Path, request: pytest.FixtureRequest
) -> None:
    refusal = REFUSALS[request.node.callspec.params["provider"]]
    run = run_claude(claude, provider.proxy.url, work, "Say exactly: hi")
    assert run.text.startswith(f"API Error: {refusal.status} {refusal.text}"), run.text
    assert [order for order in ORDERS if order in run.text] == []
    assert (provider.count_requests(), provider.count_calls()) == (1, refusal.calls)
    client = anthropic.Anthropic(base_url=provider.proxy.url, api_key="local")
    for requests, stream in enumerate((False, True), 2):
        with pytest.raises(anthropic.APIStatusError) as raised:
            client.messages.create(
                model="claude-opus-5-5", max_tokens=9, messages=[{"role": "user", "content": "hi"}], stream=stream
            )
        assert (raised.value.status_code, raised.value.type) == (refusal.status, refusal.error_type)
        assert raised.value.body["error"]["message"].startswith(refusal.text)  # type: ignore[index]
        assert (provider.count_requests(), provider.count_calls()) == (requests, requests * refusal.calls)


@pytest.mark.parametrize("name", ["key", "access", "model", "page 403"])
def test_a_turn_on_the_screen_is_one_call(claude: Path, server: Path, work: Path, name: str) -> None:
    """On the screen, auto mode sends some refused requests once more."""
    with refusing(name, server) as provider:
        with terminal(claude, provider.proxy.url, work) as screen:
            screen.type("Say exactly: hi")
            screen.wait_for_answer(f"API Error: {REFUSALS[name].status} {REFUSALS[name].text[:40]}")
            screen.type("Say exactly: again")  # when this is answered, the first turn sends nothing more
            screen.wait_for_answer(f"API Error: {REFUSALS[name].status} {REFUSALS[name].text[:40]}")
            assert [order for order in ORDERS if order in screen.text] == []
        assert provider.count_calls() == 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_person_who_signed_in_reads_whom_to_tell(claude: Path, tmp_path: Path, status: int) -> None:
    with (
        serving_refusals(refuse(status, "No.", "no")) as (provider, settings),
        new_machine(claude, tmp_path, settings, EVERYBODY) as machine,
    ):
        machine.sign_in()
        with terminal(claude, machine.proxy.url, machine.work, home=machine.home) as screen:
            before = len(provider.journal.exchanges)
            for _ in range(2):
                screen.type("Say exactly: hi")
                screen.wait_for_answer("It is a key of the proxy: tell its administrator.")
            assert "Please run /login" not in screen.text
        calls = [one for one in provider.journal.exchanges[before:] if one.path.endswith("/responses")]
    assert len(calls) == 2
