"""A session with stored texts in a ledger: tool calls, results, thinking, an image, a sub-agent, a lost cache."""

import base64
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from anthropic_proxy.console.ledger.receipt_queue import ContentBuffer, ReceiptQueue
from anthropic_proxy.console.ledger.writer import LedgerWriter
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.plugins import BlockMark, CallCheck, Client, PrefixChange, Receipt
from tests.support.waiting import WAIT_SECONDS

SESSION = "5b1f0e6c-7a55-4f0c-9e1a-1f2c3d4e5f60"
TITLE = "Checkout test on Mondays"
_TITLE_REQUEST = f"req_conversation{80:08d}"
_SYSTEM = "You are a coding agent. Follow the rules of the project. " * 40
_TEST = """import datetime

from shop.discounts import discount


def test_discount_of_a_regular_customer():
    today = datetime.date.today()
    assert discount("regular", today) == 0.1
"""
_FIX = """def test_discount_of_a_regular_customer():
    tuesday = datetime.date(2026, 11, 24)
    assert discount("regular", tuesday) == 0.1
"""
_SUMMARY = """The test used the date of today, and `discount()` begins on Tuesday. It now uses a fixed Tuesday:

```python
tuesday = datetime.date(2026, 11, 24)
assert discount("regular", tuesday) == 0.1
```

All 42 tests pass. The button in your picture has the price of a Monday, which is correct."""


def _draw_png(width: int = 96, height: int = 54) -> str:
    rows = b"".join(
        b"\0" + bytes(value for x in range(width) for value in (40 + x, 90 + y * 2, 190)) for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    image = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + image).decode()


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _call(number: int, name: str, **arguments: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": arguments}


def _result(number: int, text: str, **fields: object) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": text, **fields}


_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _draw_png()}}
_PROMPT = "Why does the checkout test fail on Mondays? Please fix it and explain the cause."
_STEPS: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]], tuple[int, int, int, float]], ...] = (
    (
        [_text("<system-reminder>\nThe project has a file CLAUDE.md.\n</system-reminder>"), _text(_PROMPT)],
        [
            {"type": "thinking", "thinking": "The test may depend on the weekday. I read it first.", "signature": "s"},
            _text("I read the test, and search for its cause."),
            _call(1, "Read", file_path="/home/ada/checkout-api/tests/test_checkout.py"),
            _call(2, "Task", description="Find the callers of discount()", prompt="Search for calls of discount()."),
        ],
        (18_420, 0, 412, 6.1),
    ),
    (
        [_result(1, _TEST), _result(2, "discount() is called in shop/cart.py and in 2 tests.")],
        [
            _text("The test uses the date of today. I run it with the date of a Monday."),
            _call(3, "Bash", command="faketime '2026-11-23' python -m pytest tests/test_checkout.py -q"),
        ],
        (1_306, 18_400, 168, 3.2),
    ),
    (
        [_result(3, "E       assert 0.0 == 0.1\n1 failed in 0.31s", is_error=True)],
        [
            {
                "type": "thinking",
                "thinking": "On Mondays the discount is 0. So the test needs a date.",
                "signature": "s",
            },
            _call(4, "Edit", file_path="/home/ada/checkout-api/tests/test_checkout.py", new_string=_FIX),
        ],
        (20_118, 0, 296, 7.9),
    ),
    (
        [_result(4, "The file has been updated."), _text("Is the price in this picture right?"), _IMAGE],
        [_text(_SUMMARY)],
        (1_804, 20_096, 341, 4.4),
    ),
)
"""New content of each request, its reply, and input tokens, tokens read from the cache, output tokens, seconds."""


def write_sample_conversation(file: Path) -> None:
    """Add the session to the ledger, with its latest request a minute ago."""
    environ = {"DATABASE_URL": f"sqlite:///{file}", "LEDGER_CONTENT": "true"}
    settings = load_settings(environ, PROVIDERS, env_file=None)
    contents, titles = ContentBuffer(lambda: None), ContentBuffer(lambda: None)
    queue = ReceiptQueue(
        lambda queue: LedgerWriter(queue, lambda: settings, sys.stderr.write).run(),
        batch_seconds=0.0,
        contents=contents,
        titles=titles,
    )
    for receipt, body, reply in (*_build_requests(time.time() - 180), *_build_checked_requests(time.time() - 400)):
        for buffer in (contents, titles) if receipt.request_id == _TITLE_REQUEST else (contents,):
            buffer.record(receipt.request_id, "client request", msgspec.json.encode(body))
            encoded_reply = msgspec.json.encode({"type": "message", "content": reply})
            buffer.record(receipt.request_id, "client response", encoded_reply)
        queue.record(receipt)
    lost = queue.stop(WAIT_SECONDS)
    assert not lost, queue.state.problem


def _build_requests(start: float) -> Iterator[tuple[Receipt, dict[str, Any], list[dict[str, Any]]]]:
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in ("Read", "Bash", "Edit", "Task")]
    messages: list[dict[str, Any]] = []
    at = start
    for number, (content, reply, (tokens, cached, output, seconds)) in enumerate(_STEPS, 1):
        messages.append({"role": "user", "content": content})
        body = {"model": "claude-sonnet-4-6", "max_tokens": 32_000, "system": _SYSTEM, "tools": tools}
        receipt = _build_receipt(number, at, (tokens, cached, output, seconds), reply)
        receipt.tool_results = sum(block["type"] == "tool_result" for block in content)
        if number == 3:
            receipt.prefix_change = PrefixChange("system", "system text", 0.9, tokens=18_100)
        yield (
            receipt,
            {**body, "messages": [*messages]},
            reply,
        )
        messages.append({"role": "assistant", "content": reply})
        if number == 1:
            title = [_text(f'{{"title": "{TITLE}"}}')]
            receipt = _build_receipt(80, at, (310, 0, 12, 0.6), title)
            receipt.tool_count, receipt.model, receipt.requested_model = 0, "gpt-4.1-mini", "claude-haiku-4-5"
            asked = [{"role": "user", "content": f"<session>\n{_PROMPT}\n</session>"}]
            yield receipt, {"model": "claude-haiku-4-5", "max_tokens": 512, "messages": asked}, title
        at += seconds + 12
        if number == 1:
            searched = [_text("discount() is called in shop/cart.py and in 2 tests.")]
            receipt = _build_receipt(90, at - 10, (3_120, 2_048, 96, 2.6), searched)
            receipt.agent, receipt.model, receipt.requested_model = "explore-1", "gpt-4.1-mini", "claude-haiku-4-5"
            asked = [{"role": "user", "content": "Search for calls of discount()."}]
            yield receipt, {"model": "claude-haiku-4-5", "max_tokens": 4_096, "messages": asked}, searched


_HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[2J" + "long " * 60
CHECKED_SESSION = "9c0a4b7e-1111-4f0c-9e1a-1f2c3d4e5f60"
CHECKED_REQUEST = f"req_conversation{201:08d}"
_CHECKS = (
    CallCheck("toolu_1", "Read", "harmless", rule="reads inside the directories: Read", kind="rule"),
    CallCheck(*("toolu_2", "Bash", "not_flagged"), rule="Building and testing", request=f"req_conversation{301:08d}"),
    CallCheck(
        *("toolu_3", "Bash", "flagged", "Deletes the folder of uploads, which the user did not name."),
        rule="Deleting",
        request=f"req_conversation{302:08d}",
    ),
    CallCheck(
        *("toolu_4", f"mcp__{_HOSTILE}", "flagged", _HOSTILE), rule=_HOSTILE, request=f"req_conversation{303:08d}"
    ),
    CallCheck(
        *("toolu_5", "WebFetch", "unavailable", "the two checking models disagree"),
        request=f"req_conversation{304:08d}",
        confirmation=f"req_conversation{305:08d}",
        kind="disagreement",
    ),
    CallCheck(*("toolu_6", "Bash", "unavailable", "timeout"), request=f"req_conversation{306:08d}", kind="timeout"),
)


def _build_checked_requests(start: float) -> Iterator[tuple[Receipt, dict[str, Any], list[dict[str, Any]]]]:
    """Yield a session in auto mode: calls with each verdict, and their checks."""
    calls = [
        _call(1, "Read", file_path="/home/ada/checkout-api/README.md"),
        _call(2, "Bash", command="python -m pytest -q"),
        _call(3, "Bash", command="rm -rf /srv/checkout/uploads"),
        _call(4, f"mcp__{_HOSTILE}", text=_HOSTILE),
        _call(5, "WebFetch", url="https://example.com/a"),
        _call(6, "Bash", command="make deploy"),
    ]
    asked = [{"role": "user", "content": "Free some space on the server, then run the tests."}]
    body = {"model": "claude-sonnet-4-6", "max_tokens": 32_000, "tools": [{"name": "Bash"}]}
    receipt = _build_receipt(201, start, (24_000, 0, 210, 4.0), calls)
    receipt.checks, receipt.session = [*_CHECKS], CHECKED_SESSION
    receipt.kind, receipt.prompt_id = "main", "3ed044f4-42ce-40ae-bb59-8a9559c7b8cc"
    yield receipt, {**body, "messages": asked}, calls
    for number, check in ((301, 1), (302, 2), (303, 3), (304, 4), (305, 4), (306, 5)):
        one = _build_receipt(number, start + 3, (2_310, 2_048, 44, 0.8), [_text("{}")])
        one.kind, one.parent, one.checks = "auto_mode_check", CHECKED_REQUEST, [_CHECKS[check]]
        one.session = CHECKED_SESSION
        one.model, one.requested_model, one.tool_count = "gpt-4.1-mini", "claude-sonnet-5-5", 0
        yield one, {**body, "messages": asked}, [_text("{}")]
    results = [_result(number, "well", is_error=number > 2) for number in range(1, 7)]
    messages = [*asked, {"role": "assistant", "content": calls}, {"role": "user", "content": results}]
    last = [_text("I did not delete the uploads, because the check flagged it.")]
    receipt = _build_receipt(202, start + 9, (1_200, 24_000, 80, 2.0), last)
    receipt.tool_results, receipt.session = 6, CHECKED_SESSION
    receipt.tool_times = [("Read", 0.022), ("Bash", 1.099), (f"mcp__{_HOSTILE}", 2.5)]
    yield receipt, {**body, "messages": messages}, last


def _build_receipt(
    number: int, at: float, amounts: tuple[int, int, int, float], reply: list[dict[str, Any]]
) -> Receipt:
    tokens, cached, output, seconds = amounts
    kinds = {"text": "text", "thinking": "thinking", "tool_use": "tool call"}
    blocks: list[BlockMark] = [
        (kinds[block["type"]], block.get("name", ""), at + seconds * (index + 1) / (len(reply) + 1), index * 120)
        for index, block in enumerate(reply)
    ]
    return Receipt(
        request_id=f"req_conversation{number:08d}",
        client=Client(),
        started_at=at,
        requested_model="claude-sonnet-4-6",
        provider="openai",
        prefix="openai",
        model="gpt-4.1",
        route_reason="sonnet is BIG_MODEL (.env line 4)",
        stream=True,
        tool_count=4,
        message_count=2 * number - 1,
        input_tokens=tokens,
        cache_read_tokens=cached,
        output_tokens=output,
        first_token_seconds=seconds * 0.2,
        duration_seconds=seconds,
        status=200,
        outcome="tool_use" if reply[-1]["type"] == "tool_use" else "end_turn",
        user_agent="claude-cli/2.1.330 (external, cli)",
        session=SESSION,
        project="checkout-api",
        blocks=[*blocks, ("", "", at + seconds, len(reply) * 120)],
    )
