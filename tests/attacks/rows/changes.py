"""Streams that run while their key, team, budget, price or settings change: they end, and count where they began."""

import json
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.attacks.buyer import KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import UpstreamCall, reply_text
from tests.faults.client import Answer
from tests.support.waiting import WAIT_SECONDS, wait_for

_CHAT, _RELAYED = "openai/gpt-4.1", "claude-haiku-4-5"
_COST = 1.1
"""Dollars of 1,000 input and 100 output tokens."""
_PRICES = """
[prices."openai/*"]
input = 1000
output = 1000

[prices."anthropic/*"]
input = 1000
output = 1000
"""
_INSPECTOR = """
[[inspectors]]
name = "law"
type = "patterns"
patterns = { "word" = 'last' }
reads = ["requests", "replies"]
action = "refuse"
"""


def _budget(dollars: float) -> list[dict[str, Any]]:
    return [{"amount": dollars, "unit": "usd", "period": "day"}]


class _Paused:
    """A reply that waits in the middle of its stream."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.goes_on = threading.Event()

    def build(self, call: UpstreamCall) -> Iterator[bytes]:
        events = _list_events() if call.path.startswith("/v1/messages") else _list_chunks()
        yield b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        first, *rest = events
        yield first
        self.begun.set()
        self.goes_on.wait(WAIT_SECONDS)
        yield from rest


def _list_events() -> list[bytes]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    message |= {"stop_sequence": None, "usage": {"input_tokens": 1_000, "output_tokens": 1}}
    text = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    words = [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "first "}}]
    words += [{**words[0], "delta": {"type": "text_delta", "text": "last"}}]
    ending = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 100}}
    before: list[dict[str, Any]] = [{"type": "message_start", "message": message}, text, words[0]]
    behind: list[dict[str, Any]] = [
        words[1],
        {"type": "content_block_stop", "index": 0},
        ending,
        {"type": "message_stop"},
    ]
    return [b"".join(map(_encode_event, part)) for part in (before, behind)]


def _encode_event(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _list_chunks() -> list[bytes]:
    def encode(choices: list[dict[str, Any]], **fields: Any) -> bytes:
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **fields}
        return b"data: %b\n\n" % json.dumps(chunk).encode()

    usage = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
    return [
        encode([{"index": 0, "delta": {"role": "assistant", "content": "first "}, "finish_reason": None}]),
        encode([{"index": 0, "delta": {"content": "last"}, "finish_reason": "stop"}]),
        encode([], usage=usage) + b"data: [DONE]\n\n",
    ]


class _Company:
    """The proxy as its administrator changes it."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.folder = attack.proxy.log_file.parent
        self.settings = (self.folder / "anthropic-proxy.toml").read_text()

    def reload(self, text: str) -> None:
        before = self.attack.proxy.log.count("Settings reloaded")
        (self.folder / "anthropic-proxy.toml").write_text(text)
        self.attack.proxy.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self.attack.proxy.log.count("Settings reloaded"), lambda number: number > before)

    def stream_during(self, buyer: Buyer, model: str, change: Callable[[], object]) -> str:
        """Return a reply that has begun before a change and ends after it."""
        paused, found = _Paused(), list[str]()
        self.attack.upstream.reply = paused.build

        def post() -> None:
            found.append(buyer.post({**ordinary(model), "stream": True}).text)

        thread = threading.Thread(target=post, daemon=True)
        thread.start()
        assert paused.begun.wait(WAIT_SECONDS)
        change()
        paused.goes_on.set()
        thread.join(WAIT_SECONDS)
        self.attack.upstream.reply = reply_text("All is well.")
        return found[0]

    def list_costs(self, label: str) -> list[tuple[str, int | None]]:
        """Return team and cost of each stored request of a key."""
        with closing(sqlite3.connect(Path(self.folder) / "keys.sqlite3")) as database:
            query = "SELECT team, cost FROM requests WHERE key_label = ?"
            return database.execute(query, [label]).fetchall()


def _change(attack: Attack) -> list[Answer]:
    attempts, company = Attempts(), _Company(attack)
    admin = Buyer(attack, "first").admin
    for team in ("red", "blue"):
        assert admin.post(f"/admin/teams/{team}", json={"budgets": _budget(500)}).status_code == 200
    dear = company.settings.replace("1000", "2000")

    def list_changes(buyer: Buyer) -> Iterator[tuple[str, Callable[[], object], float]]:
        path = f"/admin/keys/{buyer.id}"
        yield "nothing", lambda: None, _COST
        yield "the key is revoked", lambda: admin.post(f"{path}/revoke", json={}), _COST
        yield "the key is replaced", lambda: admin.post(f"{path}/rotate", json={}), _COST
        yield "the team is another", lambda: admin.post(path, json={"team": "blue"}), _COST
        yield "the budget is smaller", lambda: admin.post(path, json={"budgets": _budget(2)}), _COST
        yield "the model is not allowed", lambda: admin.post(path, json={"models": ["other"]}), _COST
        yield "the price is another", lambda: company.reload(dear), 2 * _COST
        yield "an inspector is added", lambda: company.reload(company.settings + _INSPECTOR), _COST

    for model in (_CHAT, _RELAYED):
        for number in range(8):
            label = f"{model.partition('/')[0]}-{number}"
            buyer = Buyer(attack, label, budgets=_budget(50), team="red")
            name, change, cost = [*list_changes(buyer)][number]
            reply = company.stream_during(buyer, model, change)
            attempts.check(f"{name}, {model}: ends", "last" in reply and "end_turn" in reply, reply[-300:])
            rows = wait_for(lambda label=label: company.list_costs(label))
            attempts.check(f"{name}, {model}: stored", rows == [("red", round(cost * 1e9))], rows)
            spent = buyer.wait_for_settled(cost - 1e-6)
            attempts.check(f"{name}, {model}: budget", abs(spent - cost) < 1e-6, spent)
            if (company.folder / "anthropic-proxy.toml").read_text() != company.settings:
                company.reload(company.settings)
    teams = {one["name"]: one["spending"][0]["used"] for one in admin.get("/admin/teams").json()["data"]}
    total = 2 * (7 * _COST + 2 * _COST)
    attempts.check("the teams", abs(teams["red"] - total) < 1e-6 and teams["blue"] == 0, teams)
    return attempts.finish(attack)


CHANGES: tuple[Row, ...] = (
    Row(
        name="changes while a stream runs",
        run=_change,
        settings={**KEY_SETTINGS, "PREFERRED_PROVIDER": "anthropic"},
        configuration=_PRICES,
    ),
)
