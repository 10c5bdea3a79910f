"""Reports about budgets of a server with several workers: once each, whatever a webhook or a restart does."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for
from tests.support.webhook import running_webhook

ADMIN = "admin-key-of-this-proxy-1"
SECRET = b"a secret of the company, 32 bytes"


def write_settings(directory: Path, url: str) -> dict[str, str]:
    text = f'[alerts]\nurl = "{url}"\nsecret = {{ env = "ALERTS_SECRET" }}\n'
    (directory / "anthropic-proxy.toml").write_text(text, encoding="utf-8")
    return {
        "VIRTUAL_KEYS": "true",
        "ADMIN_API_KEY": ADMIN,
        "ALERTS_SECRET": f"whsec_{base64.b64encode(SECRET).decode()}",
        "SERVE_DEMO": "true",
        "WORKERS": "2",
        "DATABASE_URL": f"sqlite:///{directory / 'ledger.sqlite3'}",
    }


def create_key(proxy: Proxy, **fields: object) -> str:
    response = proxy.client().post("/admin/keys", json=fields, headers={"x-api-key": ADMIN})
    assert response.status_code == 200, response.text
    return str(response.json()["key"])


def ask(proxy: Proxy, key: str, times: int) -> list[int]:
    body = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
    statuses = []
    for _ in range(times):
        with proxy.client() as client:  # a connection of its own, so that both workers serve requests
            statuses.append(client.post("/v1/messages", json=body, headers={"x-api-key": key}).status_code)
    return statuses


def test_each_report_arrives_once_whatever_the_webhook_answers(tmp_path: Path) -> None:
    with running_webhook(500, 302) as webhook:
        settings = write_settings(tmp_path, webhook.url)
        with running_proxy(tmp_path, settings) as proxy:
            budgets = [{"amount": 50, "unit": "tokens", "period": "total", "soft": True}]
            key = create_key(proxy, name="ci", owner="Ann", budgets=budgets)
            assert ask(proxy, key, 20) == [200] * 20
            wait_for(lambda: len(webhook.accepted), lambda number: number >= 2)
            assert ask(proxy, key, 4) == [200] * 4
            proxy.stop()
            log = proxy.log
        with running_proxy(tmp_path, settings) as proxy:
            assert ask(proxy, key, 4) == [200] * 4
            second = create_key(proxy, name="other", budgets=budgets)
            assert ask(proxy, second, 12) == [200] * 12
            wait_for(lambda: len(webhook.accepted), lambda number: number >= 4)
            proxy.stop()
            log += proxy.log
    # a refused report is sent again after a later one, if that one is due before
    assert sorted((one["name"], one["threshold"]) for one in webhook.accepted) == [
        ("ci", 80),
        ("ci", 100),
        ("other", 80),
        ("other", 100),
    ]
    assert len({one["id"] for one in webhook.received}) == 4
    assert len(webhook.received) == 6
    for report in webhook.accepted:
        assert log.count(str(report["text"])) == 1
    assert "has not accepted a report about a budget: status 500. It is sent again, first in 5 s." in log
    assert "secret-path" not in log
    headers, body = webhook.headers[-1], json.dumps(webhook.received[-1], separators=(",", ":"), ensure_ascii=False)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body}".encode()
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_a_silent_webhook_delays_no_request_and_no_stop(tmp_path: Path) -> None:
    with running_webhook() as webhook:
        webhook.answers.clear()
        settings = write_settings(tmp_path, webhook.url)
        with running_proxy(tmp_path, settings) as proxy:
            key = create_key(proxy, name="ci", budgets=[{"amount": 60, "unit": "tokens", "period": "day"}])
            ask(proxy, key, 20)
            wait_for(lambda: len(webhook.received), lambda number: number >= 1)
            assert ask(proxy, key, 1) == [429]
            assert proxy.stop() == 0
    assert webhook.received[0]["text"].startswith("The key 'ci' has used 80 % of its budget: ")
