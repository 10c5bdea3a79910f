"""Servers of the operator that answer with redirects: nothing is sent to the address that they name."""

import json
from typing import Any

from tests.attacks.buyer import KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.rows.fetches import counting
from tests.attacks.upstream import Reply, UpstreamCall, reply_text, respond
from tests.faults.client import Answer
from tests.support.replies import Reply as Content
from tests.support.waiting import wait_for

_CHAT, _RELAYED = "openai/gpt-4.1", "claude-haiku-4-5"
_STATUSES = (301, 302, 303, 307, 308)
_USUAL = reply_text("All is well.")


def _redirect(status: int, address: str) -> bytes:
    lines = f'location: {address}\r\nrefresh: 0; url={address}\r\nalt-svc: h2=":{address.rpartition(":")[2]}"\r\n'
    return respond(b"{}", head=lines.encode(), status=status)


def _search(call: UpstreamCall) -> bytes:
    """Return a reply that calls the search of the proxy."""
    has_result = any(message.get("role") == "tool" for message in call.body.get("messages", ()))
    names = [tool["function"]["name"] for tool in call.body.get("tools", ())]
    calls = [] if has_result or not names else [("call_1", names[0], [json.dumps({"query": "x"})])]
    return respond(call.protocol.replies.whole(Content(texts=() if calls else ["well"], calls=calls)))


def _only(part: str, status: int, address: str, otherwise: Reply) -> Reply:
    """Return replies of which those to a path with `part` are redirects."""
    return lambda call: _redirect(status, address) if part in call.path else otherwise(call)


def _move(attack: Attack) -> list[Answer]:
    attempts = Attempts()
    buyer = Buyer(attack, budgets=[{"amount": 0.05, "unit": "usd", "period": "day"}])
    unlimited = Buyer(attack, "unlimited")
    question = {key: value for key, value in ordinary(_RELAYED).items() if key != "max_tokens"}
    searching = {**ordinary(_CHAT), "tools": [{"type": "web_search_20250305", "name": "web_search"}]}
    ways: dict[str, tuple[str, Reply, Any, str]] = {
        "a provider": ("chat/completions", _USUAL, ordinary(_CHAT), "/v1/messages"),
        "a relay": ("/v1/messages", _USUAL, ordinary(_RELAYED), "/v1/messages"),
        "a stream of a relay": ("/v1/messages", _USUAL, {**ordinary(_RELAYED), "stream": True}, "/v1/messages"),
        "a token count": ("count_tokens", _USUAL, question, "/v1/messages/count_tokens"),
        "a search": ("/search", _search, searching, "/v1/messages"),
        "a collector": ("/v1/traces", _USUAL, ordinary(_CHAT), "/v1/messages"),
        "a webhook": ("/webhook", _USUAL, ordinary(_CHAT), "/v1/messages"),
        "a SIEM": ("/siem", _USUAL, ordinary(_CHAT), "/v1/messages"),
    }
    once = ("a webhook", "a SIEM")
    with counting() as (port, seen):
        for status in _STATUSES:
            for name, (part, otherwise, body, path) in ways.items():
                attack.upstream.calls.clear()
                attack.upstream.reply = _only(part, status, f"http://127.0.0.1:{port}", otherwise)
                is_first = status == _STATUSES[0]
                if name == "a SIEM" and is_first:
                    Buyer(attack, "another")  # a new entry of the audit log
                client = buyer if name == "a webhook" and is_first else unlimited
                answer = client.post(body, path)
                if name not in once or is_first:
                    reached = wait_for(lambda part=part: [one for one in attack.upstream.calls if part in one.path])
                    attempts.check(f"{name}, {status}: reached", bool(reached))
                attempts.check(f"{name}, {status}", not seen and str(port) not in str(answer.headers), seen)
    return attempts.finish(attack)


_CONFIGURATION = """
[alerts]
url = "{upstream}/webhook"
thresholds = [1]

[siem.main]
url = "{upstream}/siem"
events = ["audit"]

[prices."openai/*"]
input = 1000
output = 1000

[prices."anthropic/*"]
input = 1000
output = 1000
"""
REDIRECTS: tuple[Row, ...] = (
    Row(
        name="redirects of servers of the operator",
        run=_move,
        settings={
            **KEY_SETTINGS,
            "PREFERRED_PROVIDER": "anthropic",
            "SEARCH_URL": "{upstream}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "{upstream}",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-collector-key=attack-collector-1",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        },
        configuration=_CONFIGURATION,
    ),
)
