"""Lines and events of a stream that are no part of the reply: an error, or nothing. Each is the same for all network
reads.
"""

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from msgspec import Struct

from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import UpstreamProtocolError
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.replies import CHAT, GEMINI, OLLAMA, RESPONSES, Reply, ReplyForm

SETTINGS = {
    "OPENAI_API_KEY": "sk-one-0123456789",
    "GROQ_API_KEY": "gsk_two0123456789",
    "GEMINI_API_KEY": "AIza-one-0123456789",
    "OLLAMA_API_BASE": "http://127.0.0.1:9",
}
WIRES: dict[str, tuple[str, ReplyForm]] = {
    "chat": ("groq/llama-3.3-70b-versatile", CHAT),
    "responses": ("openai/gpt-5.5", RESPONSES),
    "gemini": ("gemini/gemini-3.6-flash", GEMINI),
    "ollama": ("ollama/llama3", OLLAMA),
}
NAMES = {"chat": "groq", "responses": "openai", "gemini": "gemini", "ollama": "ollama"}
FULL = {"code": 400, "message": "request (6009 tokens) exceeds the available context size (4096 tokens)"}
LOST = {"code": 500, "message": "the GPU is lost"}
TOO_LONG = "prompt is too long: 6009 tokens > 4096 maximum"
PAGE = b"<!DOCTYPE html>\n\n<html>\n<head><title>503 Service Unavailable</title></head>\n</html>\n"


class Fault(Struct, frozen=True):
    """What a server writes, and the message of the error. `name`: of the wire."""

    lines: bytes
    message: str
    """Message of the error, behind the name of the provider. "": nothing of the kind."""
    status: int = 500
    calls: int = 1
    """Number of calls if it stands in place of a reply."""


def encode(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, indent=indent).encode()


STATED = {
    "field": Fault(b"error: " + encode(LOST) + b"\n\n", "the GPU is lost"),
    "field of several lines": Fault(b"error: " + encode(FULL, 1) + b"\n\n", TOO_LONG, 400),
    "field with an error object": Fault(b"Error:" + encode({"error": FULL}) + b"\r\n\r\n", TOO_LONG, 400),
    "field with a text": Fault(b"error: model crashed\n\n", "model crashed"),
    "field without a value": Fault(b"error\n\n", "the server reported an error without a text"),
    "JSON": Fault(encode({"error": LOST}) + b"\n\n", "the GPU is lost"),
    "JSON of several lines": Fault(b" \r\n" + encode({"error": FULL}, 2) + b"\r\n\r\n", TOO_LONG, 400),
    "JSON behind the size of a chunk": Fault(b"2f\r\n" + encode({"error": LOST}) + b"\r\n\r\n", "the GPU is lost"),
    "JSON in a list": Fault(encode([{"error": LOST}]) + b"\n\n", "the GPU is lost"),
    "JSON of xAI": Fault(encode({"code": "internal", "error": "worker lost"}) + b"\n\n", "worker lost"),
    "page": Fault(PAGE, "503 Service Unavailable", 503, 2),
    "page without a title": Fault(b"<html><body>\n<p>Worker lost</p>\n</body></html>\n", "Worker lost", 500, 2),
    "XML": Fault(b'<?xml version="1.0"?>\n<Error><Message>Slow</Message></Error>\n\n', "Slow", 500, 2),
}
"""Faults that are an error wherever they stand before the stop reason."""
INSIDE = {"JSON without a text": Fault(encode({"error": {"code": 503}}) + b"\n\n", '{"error": {"code": 503}}')}
"""The same behind other events. A body that begins so is not streamed."""
AS_EVENTS = {
    "event without data": Fault(b"event: error\n\n", "the server reported an error without a text"),
    "event with an empty text": Fault(b"event:error\ndata:\n\n", "the server reported an error without a text"),
    "event with a text": Fault(b"event: error\ndata: model crashed\n\n", "model crashed"),
    "event with the lines of a text": Fault(b"event: Error\r\ndata: GPU\r\ndata: lost\r\n\r\n", "GPU lost"),
    "event with an error": Fault(b"event: error\ndata: " + encode({"error": FULL}) + b"\n\n", TOO_LONG, 400),
    "event with the fields of an error": Fault(b"event: error\nid: 1\ndata: " + encode(FULL) + b"\n\n", TOO_LONG, 400),
    "event with a foreign line": Fault(b"event: error\nmodel crashed\n\n", "model crashed"),
}
"""The same of servers with SSE."""
AT_THE_END = {
    "text": Fault(b"upstream connect error\n\n", "upstream connect error", 500, 2),
    "text with a size": Fault(b"request (6009 tokens) exceeds\nthe context size (4096 tokens)", TOO_LONG, 400),
    "text behind another line": Fault(b"hi\n\nworker lost\n\n", "hi worker lost", 500, 2),
    "text behind a keep-alive": Fault(b"ping\n\nworker lost\n\n", "worker lost", 500, 2),
    "text in brackets": Fault(b"\n[INFO] worker lost\n\n", "[INFO] worker lost", 500, 2),
}
"""Faults that are an error if the reply ends without a stop reason."""
INSIDE_AT_THE_END = {
    "JSON without an error": Fault(b'\n{"progress": 0.5}\n\n', '{"progress": 0.5}'),
    "JSON of FastAPI": Fault(b'\n{"detail": "worker lost"}\n\n', "worker lost"),
    "JSON with an empty error": Fault(b'\n{"error": "", "message": "worker lost"}\n\n', "worker lost"),
}
DATA_AT_THE_END = {
    "data with a text": Fault(b"data: upstream connect error\n\n", "upstream connect error"),
    "data with a JSON text": Fault(b'event: status\ndata: "worker lost"\n\n', "worker lost"),
    "data with the lines of a text": Fault(b"data: GPU\ndata: lost\n\n", "GPU lost"),
    "data of FastAPI": Fault(b'data: {"detail": "worker lost"}\n\n', "worker lost"),
    "data with a text behind keep-alives": Fault(
        b'event: ping\ndata: 7\n\ndata: ping\n\ndata: {"message": "worker lost"}\n\n', "worker lost"
    ),
}
DATA_STATED = {
    "data with a page": Fault(
        b"data: <html><title>503 Service Unavailable</title></html>\n\n", "503 Service Unavailable"
    ),
    "data with the field": Fault(b"data: error: worker lost\n\n", "worker lost"),
    "data without success": Fault(b'data: {"success": false, "msg": "worker lost"}\n\n', "worker lost"),
    "data with a status": Fault(b'data: {"status": 500, "detail": "worker lost"}\n\n', "worker lost"),
    "data of vLLM": Fault(b'data: {"object": "error", "message": "worker lost"}\n\n', "worker lost"),
    "data of MiniMax": Fault(
        b'data: {"base_resp": {"status_code": 1000, "status_msg": "worker lost"}}\n\n', "worker lost"
    ),
}
SKIPPED = b"ping\n\n1f\r\n\xef\xbb\xbf\nstatus: busy\n\n[INFO] slot 3\n\n\tnull\n\n"
"""Six lines that state nothing."""
KEEP_ALIVES = {
    **dict.fromkeys((b"ping", b"PONG", b'"heartbeat"', b"queued", b"null", b"7", b"true", b'"waiting"'), 1),
    **dict.fromkeys((b'{"detail": "waiting in queue"}', b'{"message": "alive"}', b'{"msg": "ok", "code": 0}'), 1),
    b'{"message": "alive", "error": null, "success": true, "status": 200}': 1,
    **dict.fromkeys((b'{"type": "ping"}', b"{}", b"[]", b'{"status": "processing"}', b'{"error": ""}'), 0),
}
"""Data of events that keep a connection open → how many of them are counted: those with a text or without fields."""


def divide(wire: str) -> tuple[bytes, bytes]:
    """Return a stream up to its first text, and the rest."""
    records = WIRES[wire][1].stream(Reply(texts=["Well", " done"]))
    place = next(place for place, record in enumerate(records) if b"Well" in record)
    return b"".join(records[: place + 1]), b"".join(records[place + 1 :])


def divide_at_random(body: bytes) -> list[list[bytes]]:
    """Return the ways in which a network may divide a body: not at all, by byte, and in 50 pieces."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    edges = sorted(random.Random(seed).choices(range(len(body) + 1), k=50))
    pieces = [body[start:end] for start, end in pairwise([0, *edges, len(body)])]
    return [[body], [bytes([byte]) for byte in body], [piece for piece in pieces if piece]]


class Result(Struct, frozen=True):
    status: int
    text: str
    stop: str | None
    error: str | None
    calls: int


async def ask(wire: str, *chunks: bytes | Exception, stream: bool = True) -> Result:
    calls = 0

    def answer(_: str, request: UpstreamRequest, __: Any) -> FakeResponse:
        nonlocal calls
        calls += request.path not in ("/api/show", "/api/tags")
        return FakeResponse(200, *chunks)

    proxy = ProxyHarness(answer, **SETTINGS)
    sink = await proxy.post(model=WIRES[wire][0], stream=stream)
    if sink.error is not None:
        return Result(sink.error.status, "", None, sink.error.message, calls)
    if not stream:
        text = "".join(block["text"] for block in sink.body["content"])
        return Result(200, text, sink.body["stop_reason"], None, calls)
    events = [json.loads(line[6:]) for line in sink.stream.splitlines() if line.startswith(b"data: ")]
    deltas = [event["delta"] for event in events if "delta" in event]
    text = "".join(delta.get("text", "") for delta in deltas)
    stop = next((delta["stop_reason"] for delta in deltas if "stop_reason" in delta), None)
    error = next((event["error"]["message"] for event in events if event["type"] == "error"), None)
    return Result(200, text, stop, error, calls)


def say(wire: str, message: str) -> str:
    return message if message == TOO_LONG else f"{NAMES[wire]}: {message}"


def expect_cut(wire: str, fault: Fault) -> Result:
    """Return the reply that a fault ends after its first text."""
    if fault.message == TOO_LONG:  # input and output together fill the window
        return Result(200, "Well", "model_context_window_exceeded", None, 1)
    return Result(200, "Well", None, say(wire, fault.message), 1)


def list_faults(wire: str, *tables: dict[str, Fault]) -> dict[str, Fault]:
    """Return the faults of the tables that a server of the wire can have."""
    found = {name: fault for table in tables for name, fault in table.items()}
    events = {**AS_EVENTS, **DATA_STATED, **DATA_AT_THE_END}
    others = {**events, **INSIDE, **INSIDE_AT_THE_END} if wire == "ollama" else {}
    return {name: fault for name, fault in found.items() if name not in others}


@pytest.mark.parametrize("wire", WIRES)
async def test_a_stated_error_ends_the_reply_wherever_it_stands(wire: str) -> None:
    begun, rest = divide(wire)
    for name, fault in list_faults(wire, STATED, INSIDE, AS_EVENTS, DATA_STATED).items():
        for end in (b"", b"data: [DONE]\n\n", b"" if fault.message == TOO_LONG else rest):
            body = begun + fault.lines + end
            for chunks in [[body]] if end else divide_at_random(body):
                result = await ask(wire, *chunks)
                assert result == expect_cut(wire, fault), (name, end)


@pytest.mark.parametrize("wire", WIRES)
async def test_an_error_in_place_of_a_reply_is_that_of_the_call(wire: str) -> None:
    """Behind a comment or white space, and without either; then the client streams or does not."""
    for name, fault in list_faults(wire, STATED, AS_EVENTS, AT_THE_END).items():
        for before in (b"", b" \n", b"\xef\xbb\xbf", b"\n" if wire == "ollama" else b": hi\n\n"):
            body = before + fault.lines
            for chunks in [[body]] if before == b" \n" else divide_at_random(body)[1:]:
                result = await ask(wire, *chunks)
                assert result == Result(fault.status, "", None, say(wire, fault.message), fault.calls), (name, before)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_text_is_the_error_of_a_reply_without_a_stop_reason(wire: str) -> None:
    begun, _ = divide(wire)
    for name, fault in list_faults(wire, AT_THE_END, INSIDE_AT_THE_END, DATA_AT_THE_END).items():
        for end in (b"",) if wire == "ollama" else (b"", b"\ndata: [DONE]\n\n"):
            body = begun + fault.lines + end
            for chunks in [[body]] if end else divide_at_random(body):
                result = await ask(wire, *chunks)
                assert result == expect_cut(wire, fault), (name, end)


@pytest.mark.parametrize("wire", WIRES)
async def test_an_error_in_a_reply_that_was_to_be_whole(wire: str) -> None:
    for name, fault in list_faults(wire, STATED, AS_EVENTS, AT_THE_END).items():
        for end in (b"", b"data: [DONE]\n\n") if wire != "ollama" else (b"",):
            result = await ask(wire, fault.lines, end, stream=False)
            assert result == Result(fault.status, "", None, say(wire, fault.message), fault.calls), (name, end)


@pytest.mark.parametrize("wire", WIRES)
async def test_after_the_stop_reason_nothing_is_an_error(wire: str) -> None:
    begun, rest = divide(wire)
    for name, fault in list_faults(wire, STATED, INSIDE, AS_EVENTS, AT_THE_END, DATA_STATED, DATA_AT_THE_END).items():
        for chunks in divide_at_random(begun + rest.removesuffix(b"data: [DONE]\n\n") + fault.lines):
            assert await ask(wire, *chunks) == Result(200, "Well done", "end_turn", None, 1), name


@pytest.mark.parametrize("wire", WIRES)
async def test_lines_without_meaning_are_skipped_and_counted(wire: str) -> None:
    begun, rest = divide(wire)
    first, _, more = begun.partition(b"\n" if wire == "ollama" else b"\n\n")
    first += begun[len(first) : len(begun) - len(more)]
    for chunks in divide_at_random(b"ping\n\n" + first + SKIPPED + more + rest):
        proxy = ProxyHarness(lambda *_, chunks=chunks: FakeResponse(200, *chunks), **SETTINGS)
        sink = await proxy.post(model=WIRES[wire][0], stream=True)
        assert b'"stop_reason":"end_turn"' in sink.stream
        notes = [note.reason for note in proxy.receipts[-1].notes if note.field == "reply"]
        assert notes == ["7 lines outside of the reply skipped"]


@pytest.mark.parametrize("wire", WIRES)
async def test_events_that_keep_the_connection_open_end_no_reply(wire: str) -> None:
    begun, rest = divide(wire)
    names = [b""] if wire == "ollama" else [b"", b"event: status\n", b"event:message\n"]
    events = [(name, data, count) for data, count in KEEP_ALIVES.items() for name in names]
    if wire != "ollama":  # what such an event says is not read
        events += [(b"event: Ping\n", data, 0) for data in (*KEEP_ALIVES, b"{", b'{"error": "none"}')]
    for name, data, count in events:
        event = data + b"\n" if wire == "ollama" else b"%bdata: %b\n\n" % (name, data)
        for before, after in ((begun + event, rest), (event + begun, rest), (begun, event + rest)):
            proxy = ProxyHarness(lambda *_, body=before + after: FakeResponse(200, body), **SETTINGS)
            sink = await proxy.post(model=WIRES[wire][0], stream=True)
            assert b'"text":"Well"' in sink.stream, event
            assert b'"stop_reason":"end_turn"' in sink.stream, event
            notes = [note.reason for note in proxy.receipts[-1].notes if note.field == "reply"]
            is_counted = count or (data == b"[]" and wire == "ollama")  # there, it is no line of a reply
            assert notes == ["a line outside of the reply skipped"] * is_counted, event


@pytest.mark.parametrize("mark", [b"[DONE] ", b" [DONE]", b"\t[DONE]\t", b'"[DONE]"', b"[done]"])
@pytest.mark.parametrize("wire", ["chat", "responses", "gemini"])
async def test_each_form_of_the_end_mark_is_one(wire: str, mark: bytes) -> None:
    begun, rest = divide(wire)
    end = b"data: %b\n\n" % mark
    assert await ask(wire, begun + rest.removesuffix(b"data: [DONE]\n\n") + end) == Result(
        200, "Well done", "end_turn", None, 1
    )
    known = await ask(wire, begun + b"data: [DONE]\n\n")  # an end of the reply at Chat Completions only
    assert await ask(wire, begun + end) == known


NO_ERROR: list[Any] = [None, "", {}, [], False, 0, {"message": "", "type": "", "code": None}]


@pytest.mark.parametrize("value", NO_ERROR, ids=repr)
@pytest.mark.parametrize("wire", WIRES)
async def test_a_field_error_without_an_error_is_none(wire: str, value: Any) -> None:
    """A server that writes each field of its structs, in a stream and in a whole reply."""
    begun, rest = divide(wire)
    members = b'{"error":%b,' % encode(value)
    for start in (b'data: {"', b'\n{"', b'"response":{"'):
        begun, rest = ((b"\n" + part).replace(start, start[:-2] + members + b'"')[1:] for part in (begun, rest))
    assert members in begun
    assert await ask(wire, begun + rest) == Result(200, "Well done", "end_turn", None, 1)
    whole = WIRES[wire][1].whole(Reply(texts=["Well", " done"]))
    expected = await ask(wire, whole, stream=False)
    assert expected.status == 200
    assert await ask(wire, whole.replace(b"{", members, 1), stream=False) == expected


@pytest.mark.parametrize("wire", WIRES)
async def test_a_reply_in_the_other_form_is_read(wire: str) -> None:
    """A stream where a whole reply was asked, and a whole reply, also in several lines, where a stream was asked."""
    begun, rest = divide(wire)
    stream = begun + rest
    for body in (stream, stream.replace(b"\n", b"\r\n"), b"\n" + stream, b"ping\n\n" + stream):
        assert await ask(wire, body, stream=False) == Result(200, "Well done", "end_turn", None, 1), body
    whole = json.loads(WIRES[wire][1].whole(Reply(texts=["Well done"])))
    for indent in (None, 0, 1, 4, "\t"):
        body = json.dumps(whole, indent=indent).encode()
        for text in (body, b" \n" + body + b"\n", b"\xef\xbb\xbf" + body, body.replace(b"\n", b"\r\n")):
            for chunks in divide_at_random(text):
                assert await ask(wire, *chunks) == Result(200, "Well done", "end_turn", None, 1), text
            assert await ask(wire, text, stream=False) == Result(200, "Well done", "end_turn", None, 1), text


@pytest.mark.parametrize("wire", WIRES)
async def test_a_text_is_the_error_of_a_reply_that_breaks_off(wire: str) -> None:
    begun, _ = divide(wire)
    broken = UpstreamProtocolError("the connection was closed")
    assert (await ask(wire, begun, broken)).error == say(wire, "the connection was closed")
    assert (await ask(wire, begun, b"error: worker lost", broken)).error == say(wire, "worker lost")
    assert (await ask(wire, begun, b"worker lost\n", broken)).error == say(wire, "worker lost")
    assert (await ask(wire, begun, b'data: {"' if wire != "ollama" else b'{"', broken)).error == say(
        wire, "the connection was closed"
    )


@pytest.mark.parametrize("wire", WIRES)
async def test_a_stream_that_is_cut_at_any_byte_has_no_text_of_an_error(wire: str) -> None:
    begun, rest = divide(wire)
    following = rest[: rest.find(b"\n", len(rest) // 4)]
    for length in range(len(following)):
        result = await ask(wire, begun + following[:length])
        if result.stop is None:
            assert result.error in (
                f"{NAMES[wire]} ended its answer before it was complete.",
                f"{NAMES[wire]}: the stream ended before the reply was complete",
                f"{NAMES[wire]} sent invalid JSON.",
                f"{NAMES[wire]} sent an invalid line.",
                "gemini: a frame of the reply cannot be decoded: Input data was truncated",
            ), following[:length]


async def test_a_bare_end_mark_is_no_text_of_an_error() -> None:
    begun, _ = divide("chat")
    result = await ask("chat", begun, b"[DONE]\n\n")
    assert result.error == "groq ended its answer before it was complete."
