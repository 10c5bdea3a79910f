"""The command `use`: a running session gets another model with its next request, also after a restart."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.command_line import run_command
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

CONFIGURATION = """
[prices."demo/first"]
input = 1000
cache_read = 100
output = 4000

[prices."demo/second"]
input = 2000
output = 8000

[providers.small]
base_url = "http://127.0.0.1:9/v1"
wire = "chat"

[providers.small.models.tiny]
context_window = 10
"""
SESSION = "3f2a91c4-0000-4000-8000-000000000001"
OTHER = "77aa91c4-0000-4000-8000-000000000002"
TOOL = {"name": "Read", "input_schema": {"type": "object", "properties": {}}}
ADMIN = "admin-key-of-this-proxy-1"
LOST = (
    "  The next request reads 83 tokens again, because the cache of demo/first is lost: about $0.17, and $0.008 from "
    "that cache (prices: anthropic-proxy.toml line 7).\n  The window of demo/second is unknown.\n"
    "  ! No list of models has demo/second, so its server may not have it.\n"
)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "anthropic-proxy.toml").write_text(CONFIGURATION, encoding="utf-8")
    return {
        "SERVE_DEMO": "true",
        "MODEL_OPUS": "demo/first",
        "SMALL_MODEL": "demo/tiny",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}",
    }


@pytest.fixture
def proxy(tmp_path: Path, settings: dict[str, str]) -> Iterator[Proxy]:
    with running_proxy(tmp_path, settings) as running:
        yield running


def ask(client: httpx.Client, model: str = "claude-opus-4-6", session: str = SESSION, **headers: str) -> Any:
    """Send a request as Claude Code does, and return the reply."""
    body = {"model": model, "max_tokens": 50, "tools": [TOOL], "messages": [{"role": "user", "content": "hello"}]}
    sent = {"x-claude-code-session-id": session, "x-project": "shop", "user-agent": "claude-cli/2.1.332"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/messages", json=body, headers={**sent, **named}).json()


def find_models(client: httpx.Client, count: int, key: str = "") -> list[str]:
    """Return the models of the last `count` requests, once the proxy has recorded them."""
    found = wait_for(
        lambda: client.get("/api/requests/recent", headers={"x-api-key": key} if key else {}).json()["finished"],
        lambda finished: len([one for one in finished if one["receipt"].get("model")]) >= count,
    )
    return [one["receipt"]["model"] for one in found if one["receipt"].get("model")][-count:]


def wait_stored(client: httpx.Client, count: int, key: str = "") -> None:
    """Wait until the ledger has so many requests: the command knows the sessions from it."""
    headers = {"x-api-key": key} if key else {}
    wait_for(
        lambda: client.get("/api/usage", headers=headers).json()["total"]["requests"], lambda stored: stored == count
    )


def use(proxy: Proxy, directory: Path, *words: str, token: str = "local", status: int = 0) -> str:
    """Return what the command prints. Ages are `N s`."""
    settings = {"ANTHROPIC_BASE_URL": proxy.url, "ANTHROPIC_AUTH_TOKEN": token}
    done = run_command("use", *words, directory=directory, settings=settings)
    printed = done.stdout + done.stderr
    assert done.returncode == status, printed
    return re.sub(r"\d+ s ago", "N s ago", printed.replace(proxy.url, "URL"))


def test_a_running_session_uses_another_model_with_its_next_request(tmp_path: Path, proxy: Proxy) -> None:
    client = proxy.client()
    ask(client)
    wait_stored(client, 1)
    assert use(proxy, tmp_path, "demo/second", "--session", "3f2a") == (
        f"shop 3f2a91c4: demo/first → demo/second, N s ago\n{LOST}"
        "  ✓ 1 session uses demo/second from the next request on. To end this:  anthropic-proxy use default --session "
        "3f2a\n"
    )
    ask(client, "claude-haiku-4-5")
    reply = ask(client)
    assert reply["model"] == "claude-opus-4-6"  # the client goes on with the name that it knows
    ask(client, x_claude_code_agent_id="a1")  # a sub-agent with the model of the conversation
    ask(client, session=OTHER)
    assert find_models(client, 5) == ["first", "tiny", "second", "second", "first"]
    wait_stored(client, 5)
    assert use(proxy, tmp_path, "--all-projects") == (
        "Session\tModel used\tChosen\tTokens\tLast request\n"
        "shop 77aa91c4\tdemo/first\t\t83\tN s ago\n"
        "shop 3f2a91c4\tdemo/second\tdemo/second\t83\tN s ago\n"
    )
    assert use(proxy, tmp_path, "default", "--all-projects") == (
        "  ✓ shop 3f2a91c4 has the model again that its client names: claude-opus-4-6\n"
    )
    assert use(proxy, tmp_path, "--reset", "--all-projects") == "  No session has a chosen model.\n"
    ask(client)
    assert find_models(client, 1) == ["first"]


def test_a_later_choice_in_the_client_counts(tmp_path: Path, proxy: Proxy) -> None:
    client = proxy.client()
    ask(client)
    wait_stored(client, 1)
    use(proxy, tmp_path, "demo/second", "--all-projects")
    ask(client, "demo/third")
    ask(client)
    assert find_models(client, 3) == ["first", "third", "second"]


def test_a_preview_changes_nothing(tmp_path: Path, proxy: Proxy) -> None:
    client = proxy.client()
    ask(client)
    wait_stored(client, 1)
    printed = use(proxy, tmp_path, "demo/second", "--all-projects", "--dry-run")
    assert printed == f"shop 3f2a91c4: demo/first → demo/second, N s ago\n{LOST}  Nothing is changed.\n"
    shown = json.loads(use(proxy, tmp_path, "demo/second", "--all-projects", "--dry-run", "--json"))
    (one,) = shown.pop("sessions")
    del one["last_at"], one["about_cost"], one["about_window"]
    assert one == {
        "session": SESSION,
        "name": "shop 3f2a91c4",
        "project": "shop",
        "requested_model": "claude-opus-4-6",
        "model": "demo/first",
        "tokens": 83,
        "chosen_model": None,
        "next_model": "demo/second",
        "cost": 0.166,
        "cost_from_cache": 0.0083,
        "price_source": "anthropic-proxy.toml line 7",
        "window": None,
        "fits": True,
    }
    assert shown == {"stored": False, "notice": "No list of models has demo/second, so its server may not have it."}
    ask(client)
    assert find_models(client, 2) == ["first", "first"]


def test_a_conversation_that_does_not_fit_is_moved_only_on_purpose(tmp_path: Path, proxy: Proxy) -> None:
    client = proxy.client()
    ask(client)
    wait_stored(client, 1)
    shown = (
        "shop 3f2a91c4: demo/first → small/tiny, N s ago\n  The next request reads 83 tokens again, because the cache "
        "of demo/first is lost: free.\n  ! It does not fit: small/tiny accepts 10 tokens, and the conversation has 83 "
        "tokens. Send /compact in the session first.\n"
    )
    assert use(proxy, tmp_path, "small/tiny", "--all-projects", status=2) == (
        f"{shown}✕ Nothing is changed, because a conversation does not fit. To use the model nevertheless, add --yes.\n"
    )
    body = {"model": "small/tiny", "sessions": [SESSION]}
    refused = client.post("/api/session-models", json=body)
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        400,
        "shop 3f2a91c4: It does not fit: small/tiny accepts 10 tokens, and the conversation has 83 tokens. Send "
        "/compact in the session first. With accept_overflow, it is used nevertheless.",
    )
    use(proxy, tmp_path, "small/tiny", "--all-projects", "--yes")
    assert ask(client)["type"] == "error"


def test_a_choice_outlasts_the_proxy_and_reaches_another_server(
    tmp_path: Path, settings: dict[str, str], proxy: Proxy
) -> None:
    client = proxy.client()
    ask(client)
    wait_stored(client, 1)
    with running_proxy(tmp_path, settings) as second:
        use(proxy, tmp_path, "demo/second", "--all-projects")
        ask(second.client())
        assert find_models(second.client(), 1) == ["second"]
    proxy.stop()
    with running_proxy(tmp_path, settings) as later:
        ask(later.client())  # the first request after the start
        assert find_models(later.client(), 1) == ["second"]


def test_all_workers_of_a_server_know_a_choice(tmp_path: Path, settings: dict[str, str]) -> None:
    with running_proxy(tmp_path, settings, ("-m", "anthropic_proxy", "serve", "--workers", "2")) as proxy:
        ask(proxy.client())
        wait_stored(proxy.client(), 1)
        use(proxy, tmp_path, "demo/second", "--all-projects")
        for _ in range(8):
            ask(proxy.client())  # a connection of its own
        assert find_models(proxy.client(), 9) == ["first", *["second"] * 8]


def test_a_key_chooses_for_its_own_sessions_and_among_its_own_models(tmp_path: Path, settings: dict[str, str]) -> None:
    keyed = {**settings, "VIRTUAL_KEYS": "true", "ADMIN_API_KEY": ADMIN}
    with running_proxy(tmp_path, keyed) as proxy:
        client = proxy.client()

        def create(name: str, **rules: Any) -> str:
            reply = client.post("/admin/keys", json={"name": name, **rules}, headers={"x-api-key": ADMIN})
            return str(reply.json()["key"])

        ann, bob = create("ann", models=["claude-opus-*", "demo/second"]), create("bob")
        ask(client, x_api_key=ann)
        wait_stored(client, 1, ADMIN)
        refused = use(proxy, tmp_path, "demo/third", "--all-projects", token=ann, status=2)
        own_request = ask(client, "demo/third", x_api_key=ann)["error"]["message"]
        assert refused == f"✕ URL: {own_request}\n"
        for words in (["demo/second", "--session", SESSION], ["default", "--session", SESSION]):
            assert use(proxy, tmp_path, *words, token=bob, status=2) == (
                f"✕ URL: None of your sessions has an id that begins with '{SESSION}'. A session is known after its "
                "first reply.\n"
            )
        assert use(proxy, tmp_path, "demo/second", "--all-projects", token=bob, status=2) == (
            "✕ URL: No session of yours has sent a request in the last hour. Name one by its id.\n"
        )
        use(proxy, tmp_path, "demo/second", "--all-projects", token=ann)
        ask(client, x_api_key=ann)
        ask(client, x_api_key=bob)  # the same id, but a session of somebody else
        assert find_models(client, 2, ann)[-1] == "second"
        assert find_models(client, 1, bob) == ["first"]


def test_the_page_of_a_session_shows_what_a_model_means_and_then_chooses_it(proxy: Proxy) -> None:
    client = proxy.client()
    ask(client)
    wait_stored(client, 1)
    path = "/dashboard/session/model"
    assert f'<a href="{path}?session={SESSION}">' in client.get("/dashboard/session", params={"session": SESSION}).text
    form = client.get(path, params={"session": SESSION})
    found = re.search(r'name="token" value="([^"]*)" ?>', form.text)
    assert found is not None, form.text

    def send(action: str, **fields: str) -> str:
        page = client.post(path, data={"token": found[1], "session": SESSION, "action": action, **fields})
        return page.text

    shown = send("preview", model="demo/second")
    assert "The next request reads 83 tokens again, because the cache of demo/first is lost: about $0.17" in shown
    assert "The session uses demo/second with its next request." in send("choose", model="demo/second")
    ask(client)
    assert find_models(client, 2) == ["first", "second"]
    assert "has the model again that its client names" in send("end")
    ask(client)
    assert find_models(client, 1) == ["first"]
    for fields, problem in (
        ({"model": "small/tiny"}, "It does not fit: small/tiny accepts 10 tokens"),
        ({"model": ""}, "model is &#39;&#39;. Use a name such as openai/gpt-5.5."),
    ):
        assert problem in send("choose", **fields)
    other = client.get(path, params={"session": OTHER}).text
    assert "Only the person whose key has sent this session can choose its model." in other
    assert client.post(path, data={"session": SESSION, "action": "end"}).status_code == 403


def test_the_status_line_shows_a_choice(tmp_path: Path, proxy: Proxy) -> None:
    client = proxy.client()
    ask(client)
    wait_stored(client, 1)

    def show(wanted: str) -> str:
        shown = {"session_id": SESSION, "model": {"id": "claude-opus-4-6"}}
        settings = {"ANTHROPIC_BASE_URL": proxy.url, "ANTHROPIC_AUTH_TOKEN": "local"}

        def run() -> str:
            done = run_command("statusline", directory=tmp_path, settings=settings, stdin=json.dumps(shown))
            return done.stdout.partition(" · cost")[0].partition(" · session")[0].strip()

        return wait_for(run, lambda line: line == wanted)

    show("demo/first")
    use(proxy, tmp_path, "demo/second", "--all-projects")
    show("demo/first · next: demo/second")
    ask(client)
    show("demo/second · chosen")
    use(proxy, tmp_path, "default", "--all-projects")
    ask(client)
    show("demo/first")
