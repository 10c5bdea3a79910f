"""Proxies in a row: one whose provider is a proxy, and addresses of providers that lead back."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.attacks.buyer import KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import reply_text
from tests.faults.client import Answer
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS

_RELAYED = "claude-haiku-4-5"
_FAR_KEY = "sk-ant-company-0123456789"
_PASSED = {
    "": False,
    "other," * 50: False,
    ", ".join(["anthropic-proxy"] * 4): False,
    ", ".join(["not-anthropic-proxy", "anthropic-proxy-2", "a;b=anthropic-proxy"] * 9): False,
    ", ".join(["anthropic-proxy"] * 5): True,
    ",".join(["anthropic-proxy;a=1"] * 9): True,
    "Anthropic-Proxy," * 9: True,
    "anthropic-proxy, ANTHROPIC-PROXY ;v=2,\tAnthropic-proxy,other,,anthropic-Proxy, anthropic-proxy": True,
    ", ".join(["anthropic-proxy"] * 3_000): True,
}
"""Values of `CDN-Loop` of a client, and whether such a request has passed too many proxies."""


@contextmanager
def _before(url: str, key: str, **settings: str) -> Iterator[Proxy]:
    """Yield a proxy whose provider is the proxy at `url`. `{port}` in it: that of the new proxy."""
    own = {"ANTHROPIC_UPSTREAM_URL": url, "ANTHROPIC_API_KEY": key, "PREFERRED_PROVIDER": "anthropic"}
    with tempfile.TemporaryDirectory() as folder, running_proxy(Path(folder), {**own, **settings}) as proxy:
        yield proxy


def _list_requests() -> Iterator[tuple[str, str, Any]]:
    body = ordinary(_RELAYED)
    question = {key: value for key, value in body.items() if key != "max_tokens"}
    yield "whole", "/v1/messages", body
    yield "stream", "/v1/messages", {**body, "stream": True}
    yield "token count", "/v1/messages/count_tokens", question
    yield "batch", "/v1/messages/batches", {"requests": [{"custom_id": "a", "params": body}]}


def _return(attack: Attack) -> list[Answer]:
    """A request that comes back to the proxy ends after some rounds, and opens no sockets meanwhile."""
    attempts = Attempts()
    with _before("http://127.0.0.1:{port}", _FAR_KEY) as proxy:
        for name, path, body in _list_requests():
            answer = _post(proxy, path, body)
            is_held = answer[0] in (200, 508) and (path.endswith("count_tokens") or answer[0] == 508)
            attempts.check(f"to itself, {name}", is_held, answer)
        sockets = len([*Path(f"/proc/{proxy.process.pid}/fd").iterdir()])
        attempts.check("sockets", sockets < 100, sockets)
    return attempts.finish(attack)


def _claim(attack: Attack) -> list[Answer]:
    """The header of a request says whether it has passed too many proxies of this kind, in each spelling."""
    attempts = Attempts()
    attack.upstream.reply = reply_text("All is well.")
    for value, is_refused in _PASSED.items():
        calls = len(attack.upstream.calls)
        status, text = _post(attack.proxy, "/v1/messages", ordinary(_RELAYED), {"cdn-loop": value})
        sent = len(attack.upstream.calls) - calls
        is_held = (status, sent) in (((508, 0), (431, 0)) if is_refused else ((200, 1),))
        attempts.check(f"{value[:50]!r}", is_held, (status, sent, text))
    return attempts.finish(attack)


def _post(proxy: Proxy, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, str]:
    found: list[tuple[int, str]] = []

    def post() -> None:
        answer = proxy.client().post(path, json=body, headers=headers)
        found.append((answer.status_code, answer.text))

    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    thread.join(WAIT_SECONDS / 3)
    return found[0] if found else (0, "no answer")


def _chain(attack: Attack) -> list[Answer]:
    """People of the first proxy learn nothing of the key of the company at the second, and spend on it."""
    attempts = Attempts()
    attack.upstream.reply = reply_text("All is well.")
    far = Buyer(attack, "company", budgets=[{"amount": 50, "unit": "usd", "period": "day"}])
    settings = {**KEY_SETTINGS, "DATABASE_URL": "sqlite:///near.sqlite3"}
    with _before(attack.proxy.url, far.key, **settings) as proxy:
        near = Attack(proxy, attack.upstream)
        ann, bob = Buyer(near, "ann"), Buyer(near, "bob")
        for name, path, body in _list_requests():
            if name == "batch":
                continue
            for person in (ann, bob):
                answer = person.post(body, path)
                shown = str(answer.headers) + answer.text
                attempts.check(f"{name}, served", answer.status_code == 200, (answer.status_code, answer.text))
                attempts.check(f"{name}, no key", far.key not in shown and "company" not in shown, shown)
                limits = [key for key in answer.headers if key.startswith("anthropic-ratelimit")]
                attempts.check(f"{name}, no limits of the company", not limits, limits)
        spent = far.wait_for_settled(1e-9)
        attempts.check("the second proxy counts", spent > 0, spent)
        far.admin.post(f"/admin/keys/{far.id}/revoke", json={})
        answer = ann.post(ordinary(_RELAYED))
        is_held = answer.status_code >= 400 and far.key not in answer.text
        attempts.check("a revoked key of the company", is_held, (answer.status_code, answer.text))
        attempts.check("no key of the company in the log", far.key not in proxy.log)
    return attempts.finish(attack)


_PRICES = """
[prices."anthropic/*"]
input = 1000
output = 1000
"""
CHAINS: tuple[Row, ...] = (
    Row(name="chains: an address that leads back", run=_return),
    Row(
        name="chains: requests that name passed proxies",
        run=_claim,
        settings={"PREFERRED_PROVIDER": "anthropic"},
    ),
    Row(
        name="chains: a proxy whose provider is a proxy",
        run=_chain,
        settings={**KEY_SETTINGS, "PREFERRED_PROVIDER": "anthropic"},
        configuration=_PRICES,
    ),
)
