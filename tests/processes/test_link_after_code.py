"""What the command `code` prints at the end of a conversation: the page of its session on the dashboard."""

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from msgspec import structs

from anthropic_proxy.cli.code import describe_page
from anthropic_proxy.cli.local_proxy import LocalProxy
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with running_proxy(tmp_path, {"SERVE_DEMO": "true"}) as running:
        # the modules of its first page may need longer than a command waits
        assert running.client().get("/dashboard").status_code == 200
        yield running


def ask(proxy: Proxy, session: str, project: str, count: int) -> None:
    body = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
    headers = {"x-claude-code-session-id": session, "x-project": project}
    client = proxy.client()
    assert client.post("/v1/messages", json=body, headers=headers).status_code == 200
    wait_for(lambda: len(client.get("/api/requests/recent").json()["finished"]), lambda found: found >= count)


def test_a_conversation_ends_with_the_link_of_its_session(tmp_path: Path, proxy: Proxy) -> None:
    port = urlsplit(proxy.url).port
    assert port is not None
    own = LocalProxy("127.0.0.1", port, "", "local")
    ask(proxy, "before", "shop", 1)
    started_at = time.time()
    assert describe_page(own, "shop", started_at) == ""
    ask(proxy, "one", "shop", 2)
    ask(proxy, "elsewhere", "bank", 3)
    assert describe_page(own, "shop", started_at) == f"This session:  {proxy.url}/dashboard/session?session=one"
    started = structs.replace(own, log_file=tmp_path / "proxy.log")  # by the command, so that it has ended
    assert describe_page(started, "shop", started_at) == (
        "The dashboard has this session while a proxy runs. To keep one:  anthropic-proxy service install"
    )
    ask(proxy, "two", "shop", 4)
    assert describe_page(own, "shop", started_at) == f"Sessions:  {proxy.url}/dashboard/sessions"
