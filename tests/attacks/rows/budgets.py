"""Budgets and limits of keys against requests at the same time, disconnects, fallbacks, tool loops and odd numbers."""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

from tests.attacks.buyer import KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import UpstreamCall, respond
from tests.faults.client import Answer, Asking
from tests.support.fakes.searxng import result
from tests.support.waiting import WAIT_SECONDS, wait_for

_PRICES = """
[prices."openai/gpt-4.1"]
input = 1
output = 5
[prices."groq/dear"]
input = 100
output = 500
[prices."groq/free"]
input = 0
output = 0
"""
_SETTINGS = {
    **KEY_SETTINGS,
    "MODEL_SONNET": "openai/gpt-4.1",
    "FALLBACK_SONNET": "groq/dear",
    "MODEL_HAIKU": "openai/gpt-4.1",
}
_MODEL = "openai/gpt-4.1"
_OUTPUT = 1_000
_COST = _OUTPUT * 5e-6
"""Dollars of the output of one reply."""


def _day(amount: float, **fields: Any) -> list[dict[str, Any]]:
    return [{"amount": amount, "unit": "usd", "period": "day", **fields}]


def _reply(prompt: int = 0, completion: int = _OUTPUT, calls: list[Any] | None = None) -> bytes:
    message = {"role": "assistant", "content": "" if calls else "well", **({"tool_calls": calls} if calls else {})}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return respond(json.dumps({"id": "1", "model": "m", "choices": [choice], "usage": usage}).encode())


def _stream(prompt: int = 0, completion: int = _OUTPUT, calls: list[Any] | None = None) -> bytes:
    delta = {"content": "well"} if not calls else {"tool_calls": [{"index": 0, **call} for call in calls]}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    finish = "tool_calls" if calls else "stop"
    frames: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
        {"choices": [], "usage": usage},
    ]
    data = b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames) + b"data: [DONE]\n\n"
    return respond(data, "text/event-stream")


def _answer(call: UpstreamCall, **fields: Any) -> bytes:
    return _stream(**fields) if call.streaming else _reply(**fields)


_TOGETHER: Mapping[str, Mapping[str, Any]] = {
    "whole": {},
    "streamed": {"stream": True},
    "by an alias": {"model": "claude-sonnet-4-5"},
    "by two names of the model": {"model": "claude-haiku-4-5"},
    "with a small limit": {"max_tokens": 1},
    "with thinking": {"thinking": {"type": "disabled"}},
    "with a tool": {"tools": [{"name": "a", "input_schema": {"type": "object"}}]},
}


def _spend_together(attack: Attack, attempts: Attempts) -> None:
    """30 requests at the same time with room for two: what the provider bills is at most two replies more."""
    for name, fields in _TOGETHER.items():
        buyer = Buyer(attack, name.replace(" ", "-"), budgets=_day(2 * _COST))
        gate = Event()
        attack.upstream.calls.clear()

        def wait(call: UpstreamCall, gate: Event = gate) -> bytes:
            gate.wait(WAIT_SECONDS)
            return _answer(call)

        attack.upstream.reply = wait
        body = {**ordinary(_MODEL), "max_tokens": _OUTPUT, **fields}
        with ThreadPoolExecutor(30) as pool:
            running = [pool.submit(buyer.post, body) for _ in range(30)]
            # each is refused, or has reached the provider
            wait_for(
                lambda running=running: _count_ended(running) + len(attack.upstream.calls), lambda count: count >= 30
            )
            gate.set()
            statuses = [each.result().status_code for each in running]
        billed = len(attack.upstream.calls) * _COST
        # an estimate that the provider exceeds, as with the small limit, is exceeded by the requests that ran
        most = 30 * _COST if fields.get("max_tokens") == 1 else 3 * _COST
        attempts.check(f"30 together, {name}", billed <= most + 1e-9, (billed, statuses))
        counted = buyer.wait_for_settled(billed)
        attempts.check(f"30 together, {name}: counted", counted >= billed - 1e-9, (counted, billed))
        attack.upstream.calls.clear()
        answer = buyer.post(body)
        is_over = answer.status_code == 429 and not attack.upstream.calls
        attempts.check(f"30 together, {name}: then refused", is_over or counted < 2 * _COST, answer.text)


def _count_ended(requests: Iterable[Future[Any]]) -> int:
    return sum(request.done() for request in requests)


def _limit_together(attack: Attack, attempts: Attempts) -> None:
    attack.upstream.reply = _answer
    for name, rules, most in (
        ("requests_per_minute", {"requests_per_minute": 3}, 3),
        ("tokens_per_minute", {"tokens_per_minute": 2_100}, 2),
        ("budget in tokens", {"budgets": [{"amount": 2_100, "unit": "tokens", "period": "day"}]}, 3),
        ("budget for a model", {"budgets": _day(2 * _COST, models="openai/gpt-4.1")}, 3),
        ("budget for a pattern", {"budgets": _day(2 * _COST, models="gpt-*")}, 3),
    ):
        buyer = Buyer(attack, name.replace(" ", "-"), **rules)
        attack.upstream.calls.clear()
        with ThreadPoolExecutor(12) as pool:
            bodies = [{**ordinary(_MODEL), "max_tokens": _OUTPUT, "stream": bool(number % 2)} for number in range(12)]
            statuses = [answer.status_code for answer in pool.map(buyer.post, bodies)]
        attempts.check(
            f"12 together, {name}", len(attack.upstream.calls) <= most, (len(attack.upstream.calls), statuses)
        )
    buyer, gate = Buyer(attack, "concurrency", concurrency=2), Event()
    attack.upstream.calls.clear()

    def hold(call: UpstreamCall) -> bytes:
        gate.wait(WAIT_SECONDS)
        return _answer(call)

    attack.upstream.reply = hold
    with ThreadPoolExecutor(10) as pool:
        running = [pool.submit(buyer.post, ordinary(_MODEL)) for _ in range(10)]
        wait_for(lambda: _count_ended(running), lambda count: count >= 8)
        attempts.check("10 together, concurrency", len(attack.upstream.calls) <= 2, len(attack.upstream.calls))
        gate.set()


def _leave(attack: Attack, attempts: Attempts) -> None:
    """Whoever disconnects pays for what the provider has done."""
    text = "word " * 4_000
    least = 4_000 * 1e-6 * 0.7
    frame = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"word " * 2_000)
    begun = respond(frame + b" " * 1_000, "text/event-stream")[:-1_000]
    for name, reply, streams, waits_for, expected in (
        ("before the first byte", None, False, b"", least),
        ("before the first byte of a stream", None, True, b"", least),
        ("after the first event", begun, True, b"content_block_delta", least + 1_000 * 5e-6),
        ("in a whole reply", begun, False, b"", least),
    ):
        buyer, reached = Buyer(attack, name.replace(" ", "-"), budgets=_day(100)), Event()

        def serve(call: UpstreamCall, reply: bytes | None = reply, reached: Event = reached) -> bytes:
            reached.set()
            if reply is None:
                Event().wait(1.0)
                return _answer(call)
            return reply

        attack.upstream.reply = serve
        data = json.dumps({**ordinary(_MODEL, text), "max_tokens": _OUTPUT, "stream": streams}).encode()
        client = Asking(attack.port)
        head = b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nx-api-key: %b\r\ncontent-length: %d\r\n\r\n"
        client.send(head % (buyer.key.encode(), len(data)), data)
        assert reached.wait(WAIT_SECONDS)
        if waits_for:
            client.read_until(waits_for)
        client.reset()
        counted = buyer.wait_for_settled(expected)
        attempts.check(f"left {name}", counted >= expected, (counted, expected))


def _fall_back(attack: Attack, attempts: Attempts) -> None:
    """A fallback has its own price and its own admission."""

    def fail_first(call: UpstreamCall) -> bytes:
        if call.body.get("model") == "gpt-4.1":
            return respond(b'{"error":{"message":"down"}}', status=500)
        return _answer(call)

    for name, rules, most in (
        ("a price of its own", {"budgets": _day(100)}, 4),
        ("room for less than one", {"budgets": _day(0.4)}, 1),
        ("a provider that is not allowed", {"budgets": _day(100), "providers": ["openai"]}, 0),
        ("a model that is not allowed", {"budgets": _day(100), "models": ["openai/gpt-4.1"]}, 0),
        ("a pattern of the first provider", {"budgets": _day(100), "models": ["openai/*"]}, 0),
        ("a budget for the fallback", {"budgets": _day(0.4, models="groq/*")}, 1),
        ("a budget for the fallback by its name", {"budgets": _day(0.4, models="dear")}, 1),
    ):
        for streams in (False, True):
            buyer = Buyer(attack, f"{name.replace(' ', '-')}-{streams}", **rules)
            attack.upstream.reply = fail_first
            attack.upstream.calls.clear()
            body = {**ordinary("claude-sonnet-4-5"), "max_tokens": _OUTPUT, "stream": streams}
            with ThreadPoolExecutor(4) as pool:
                statuses = [answer.status_code for answer in pool.map(buyer.post, [body] * 4)]
            served = sum(call.body.get("model") == "dear" for call in attack.upstream.calls)
            attempts.check(f"fallback, {name}, {streams}", served <= most, (served, statuses))
            counted, least = buyer.wait_for_settled(served * _OUTPUT * 500e-6), served * _OUTPUT * 500e-6
            attempts.check(f"fallback, {name}, {streams}: counted", counted >= least - 1e-9, (counted, served))


_CALL = {"id": "call_1", "type": "function", "function": {"name": "web_search", "arguments": '{"query":"x"}'}}


def _loop(attack: Attack, attempts: Attempts) -> None:
    """A model that never ends to search: the number of its calls is bounded, and each is paid."""

    searches: list[str] = []
    found = json.dumps({"query": "x", "results": [result("https://a.test/")], "answers": [], "suggestions": []})

    def search_again(call: UpstreamCall) -> bytes:
        if call.path.startswith("/search"):
            searches.append(call.path)
            return respond(found.encode())
        names = [tool["function"]["name"] for tool in call.body.get("tools", ())]
        asked = [{**_CALL, "function": {**_CALL["function"], "name": names[0]}}] if names else None  # type: ignore[dict-item]
        return _answer(call, calls=asked)

    for name, tool, most in (
        ("no max_uses", {}, 30),
        ("max_uses of 1", {"max_uses": 1}, 4),
        ("a large max_uses", {"max_uses": 1_000_000}, 60),
        ("max_uses of 0", {"max_uses": 0}, 4),
    ):
        for amount in (100.0, 3 * _COST):
            buyer = Buyer(attack, f"{name.replace(' ', '-')}-{amount}", budgets=_day(amount))
            attack.upstream.reply = search_again
            attack.upstream.calls.clear()
            searches.clear()
            search = {"type": "web_search_20250305", "name": "web_search", **tool}
            answer = buyer.post({**ordinary(_MODEL), "max_tokens": _OUTPUT, "tools": [search]})
            calls = len(attack.upstream.calls) - len(searches)
            bound = most if amount > 1 else 5
            attempts.check(
                f"loop, {name}, ${amount:g}", calls <= bound, (calls, answer.status_code, answer.text[-200:])
            )
            counted = buyer.wait_for_settled(calls * _COST)
            attempts.check(f"loop, {name}, ${amount:g}: counted", counted >= calls * _COST - 1e-9, (counted, calls))


_NUMBERS: Mapping[str, Any] = {
    "negative": -1_000_000,
    "zero": 0,
    "one": 1,
    "a fraction": 0.5,
    "10^18": 10**18,
    "2^63": 2**63,
    "10^400": 10**400,
    "a text": "1",
    "true": True,
    "null": None,
    "a list": [1],
}


def _state_numbers(attack: Attack, attempts: Attempts) -> None:
    """`max_tokens` of any form lowers nothing that is counted."""
    attack.upstream.reply = _answer
    buyer = Buyer(attack, "numbers", budgets=_day(1_000))
    for name, number in _NUMBERS.items():
        for field in ("max_tokens", "max_completion_tokens"):
            before = buyer.wait_for_settled()
            attack.upstream.calls.clear()
            answer = buyer.post({**ordinary(_MODEL), field: number})
            calls = len(attack.upstream.calls)
            counted = buyer.wait_for_settled(before + calls * _COST) - before
            is_right = answer.status_code < 500 and counted >= calls * _COST - 1e-9
            attempts.check(f"{field}, {name}", is_right, (answer.status_code, counted, calls, answer.text[:200]))


def _run(*parts: Callable[[Attack, Attempts], None]) -> Callable[[Attack], list[Answer]]:
    def run(attack: Attack) -> list[Answer]:
        attempts = Attempts()
        for part in parts:
            part(attack, attempts)
        return attempts.finish(attack)

    return run


BUDGETS: tuple[Row, ...] = (
    Row(
        name="budgets: requests at the same time",
        run=_run(_spend_together, _limit_together),
        settings=_SETTINGS,
        configuration=_PRICES,
    ),
    Row(
        name="budgets: disconnects, fallbacks, numbers",
        run=_run(_leave, _fall_back, _loop, _state_numbers),
        settings={**_SETTINGS, "SEARCH_URL": "{upstream}"},
        configuration=_PRICES,
    ),
)
