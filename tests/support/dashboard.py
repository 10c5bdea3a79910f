"""Real requests through a running proxy, as data for the pages of the dashboard."""

from pathlib import Path

import httpx2 as httpx

from tests.support.server_process import Proxy
from tests.support.waiting import wait_for

HOSTILE = '<img src=x onerror="document.title=1">'
"""Name of a model, project or session, or part of an error, that would run if a page did not escape it."""
HOSTILE_SESSION = f"session-{HOSTILE}"
SESSION = "0f6c2a1e-dashboard-session"


def ledger_settings(directory: Path, **settings: str) -> dict[str, str]:
    """Return the settings of a proxy that stores requests in this directory; the demo replies."""
    return {"DATABASE_URL": f"sqlite:///{directory / 'ledger.sqlite3'}", "LOG_LEVEL": "error", **settings}


def send_requests(proxy: Proxy, count: int = 6, **headers: str) -> list[str]:
    """Send requests with different outcomes, wait until the ledger contains them, and return their request ids."""
    client, ids = proxy.client(headers=headers), []
    for index in range(count):
        kind = index % 3
        body = {
            "model": ("claude-sonnet-4-5", "claude-haiku-4-5", HOSTILE)[kind],
            "max_tokens": (500, 20, 500)[kind],  # 16 or fewer are a test of the model
            "messages": [] if kind == 2 else [{"role": "user", "content": f"hello {index}"}],
            "top_k": 40,
        }
        own = {"x-project": ("checkout-api", "docs-site", HOSTILE)[kind], "x-claude-code-session-id": SESSION}
        ids.append(client.post("/v1/messages", json=body, headers=own).headers["request-id"])
    for request_id in ids:
        wait_for_request(client, request_id)
    return ids


def send_hostile_request(proxy: Proxy) -> str:
    """Send a request with `HOSTILE` in each text that a client chooses and in what an error is about; return its id."""
    headers = {"x-project": HOSTILE, "x-claude-code-session-id": HOSTILE_SESSION, "x-claude-code-agent-id": HOSTILE}
    headers |= {"user-agent": f"{HOSTILE}/1.0"}
    body = {
        "model": f"no-such-provider/{HOSTILE}",
        "max_tokens": 5,
        "messages": [{"role": HOSTILE, "content": HOSTILE}],
    }
    client = proxy.client()
    request_id: str = client.post("/v1/messages", json=body, headers=headers).headers["request-id"]
    wait_for_request(client, request_id)
    return request_id


def wait_for_request(client: httpx.Client, request_id: str) -> None:
    wait_for(lambda: client.get(f"/dashboard/requests/{request_id}"), lambda page: page.status_code == 200)
