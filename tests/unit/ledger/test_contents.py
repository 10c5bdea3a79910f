"""Texts of requests until they are stored: limits of memory, one transaction with the row, retries, retention."""

import json
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from anthropic_proxy.console.ledger.contents import StoredContent, build_content_rows, join_deltas, outline_json
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.receipt_queue import ABANDONED_SECONDS, BufferedContent, ContentBuffer
from anthropic_proxy.console.ledger.request_queries import find_session_titles, read_contents
from anthropic_proxy.console.ledger.retention import Retention
from anthropic_proxy.gateway.settings import Settings
from tests.support.ledger import NOON, count_rows, new_receipt, reading, running_ledger
from tests.support.secret_canaries import new_canary


class Buffer:
    """A buffer of 100 bytes, 40 for each text, with a clock and the number of its warnings."""

    def __init__(self) -> None:
        self.now = 0.0
        self.warnings = 0
        self.contents = ContentBuffer(self._count, max_content_bytes=40, max_bytes=100, clock=lambda: self.now)

    def _count(self) -> None:
        self.warnings += 1

    def begin(self, request_id: str, size: int) -> None:
        self.contents.record(request_id, "client request", b"q" * size)

    def reply(self, request_id: str, size: int) -> None:
        self.contents.record(request_id, "client response", b"r" * size)


def test_a_text_is_cut_and_its_size_is_kept() -> None:
    buffer = Buffer()
    buffer.begin("a", 1000)
    for _ in range(10):
        buffer.reply("a", 7)
    assert buffer.contents.total_bytes == 80
    content = buffer.contents.pop("a")
    assert content is not None
    assert (content.request, content.request_size) == (b"q" * 40, 1000)
    assert (content.reply, content.reply_size) == (b"r" * 40, 70)
    assert buffer.contents.pop("a") is None
    assert buffer.contents.total_bytes == 0


def test_an_abandoned_request_leaves_no_bytes_in_the_count() -> None:
    buffer = Buffer()
    buffer.begin("a", 40)
    buffer.begin("b", 40)
    buffer.now = ABANDONED_SECONDS + 1
    buffer.reply("a", 30)
    assert (buffer.contents.pop("a"), buffer.contents.total_bytes) == (None, 40)
    assert buffer.contents.pop("b") is not None
    assert buffer.contents.total_bytes == 0


def test_a_full_buffer_accepts_no_further_texts_until_others_are_stored() -> None:
    buffer = Buffer()
    for name in "abc":
        buffer.begin(name, 30)
    buffer.begin("d", 30)
    buffer.reply("d", 5)
    assert (buffer.contents.pop("d"), buffer.warnings, buffer.contents.total_bytes) == (None, 1, 90)
    buffer.reply("a", 11)  # its request is given up too: half of a request would mislead
    assert (buffer.contents.pop("a"), buffer.warnings, buffer.contents.total_bytes) == (None, 2, 60)
    buffer.begin("e", 40)
    assert buffer.contents.total_bytes == 100
    buffer.now = ABANDONED_SECONDS + 1
    buffer.begin("f", 30)
    assert (buffer.contents.pop("b"), buffer.warnings) == (None, 2)
    for name in "cef":
        assert buffer.contents.pop(name) is not None
    assert buffer.contents.total_bytes == 0


def test_only_the_last_request_to_a_provider_is_kept_and_counted() -> None:
    buffer = Buffer()
    buffer.begin("a", 30)
    for size in (40, 20):
        buffer.contents.record("a", "upstream request", b"u" * size)
    assert buffer.contents.total_bytes == 50
    buffer.contents.record("b", "upstream request", b"u")  # its request found no memory
    content = buffer.contents.pop("a")
    assert content is not None
    assert (content.upstream, buffer.contents.total_bytes) == (b"u" * 20, 0)


def test_the_request_to_a_provider_is_stored_without_its_texts() -> None:
    messages = [{"role": "user", "content": f"question {number}"} for number in range(50)]
    calls = [{"id": "call_1", "type": "function", "function": {"name": "Read", "arguments": '{"path": "secret"}'}}]
    body = {
        "model": "gpt-4.1",
        "stream": True,
        "max_completion_tokens": 32000,
        "messages": [*messages, {"role": "assistant", "content": None, "tool_calls": calls}],
        "tools": [{"type": "function", "function": {"name": "Read"}}] * 22,
        "user": "a name with spaces",
    }
    (row,) = build_content_rows("req_1", 0, BufferedContent(0.0, upstream=json.dumps(body).encode()), [])
    lines = zlib.decompress(row["data"]).decode().splitlines()
    assert (row["kind"], len(lines)) == ("sent", 50)
    assert lines[:6] == [
        "{",
        '  "model": "gpt-4.1",',
        '  "stream": true,',
        '  "max_completion_tokens": 32000,',
        '  "messages": [',
        '    {"role": "user", "content": [text, 10 characters]},',
    ]
    assert lines[10:12] == ["    [11 more],", '    {"role": "user", "content": [text, 11 characters]},']
    assert lines[-5:] == [
        '    {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function", '
        '"function": {"name": "Read", "arguments": [text, 18 characters]}}]},',
        "  ],",
        '  "tools": [22 tools],',
        '  "user": [text, 18 characters]',
        "}",
    ]
    assert build_content_rows("req_1", 0, BufferedContent(0.0, upstream=b"no JSON"), []) == []


async def test_texts_are_stored_with_their_row_and_only_once(database: Settings) -> None:
    buffer = Buffer()
    with running_ledger(database, contents=buffer.contents) as ledger:
        for number in (1, 2):
            receipt = new_receipt(number)
            buffer.begin(receipt.request_id, 3)
            buffer.reply(receipt.request_id, 50)
            await ledger.record(receipt)
        await ledger.record(new_receipt(1))  # as after a commit without a reply
        ledger.wait_written(3)
    assert count_rows(database) == 2
    with reading(database) as engine, engine.connect() as connection:
        expected = [StoredContent("request", 3, b"qqq"), StoredContent("reply", 50, b"r" * 40)]
        assert read_contents(connection, receipt.request_id) == expected
        assert read_contents(connection, "req_other") == []


async def test_the_latest_title_of_a_session_stays_if_an_earlier_one_is_stored_later(database: Settings) -> None:
    """As by another instance, or from a file with waiting requests."""
    for number, title in ((2, "Later"), (1, "Earlier"), (3, "Latest")):
        titles = ContentBuffer(lambda: None, max_bytes=1_000)
        with running_ledger(database, titles=titles) as ledger:
            receipt = new_receipt(number, session="one")
            titles.record(receipt.request_id, "client request", b"{}")
            text = json.dumps({"title": title})
            titles.record(receipt.request_id, "client response", json.dumps({"content": [{"text": text}]}).encode())
            await ledger.record(receipt)
            ledger.wait_written(1)
        with reading(database) as engine, engine.connect() as connection:
            expected = "Later" if number == 1 else title
            assert find_session_titles(connection, ["one"]) == {"one": expected}


async def test_texts_are_deleted_before_their_requests(database: Settings) -> None:
    contents = ContentBuffer(lambda: None)
    with running_ledger(database, contents=contents) as ledger:
        for day in range(10):
            receipt = new_receipt(day, started_at=NOON - day * 86_400)
            contents.record(receipt.request_id, "client request", b"q")
            contents.record(receipt.request_id, "client response", b"r")
            await ledger.record(receipt)
        ledger.wait_written(10)
    writer = open_for_writing(database)
    Retention(database, clock=lambda: NOON + 1).delete_expired(writer)
    writer.close()
    with reading(database) as engine, engine.connect() as connection:
        kept = [len(read_contents(connection, new_receipt(day).request_id)) for day in range(10)]
    assert kept == [2, 2, 2, 2, 2, 2, 2, 0, 0, 0]
    assert count_rows(database) == 10


async def test_texts_wait_for_a_database_that_fails(sqlite: Settings) -> None:
    buffer, receipt = Buffer(), new_receipt(2)
    assert sqlite.data_directory is not None
    file = sqlite.data_directory / "ledger.sqlite3"
    with running_ledger(sqlite, contents=buffer.contents) as ledger:
        await ledger.record(new_receipt(1))
        ledger.wait_written(1)
        with closing(sqlite3.connect(file, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            buffer.begin(receipt.request_id, 3)
            await ledger.record(receipt)
            ledger.wait_until(lambda: ledger.queue.state.condition == "locked" and buffer.contents.total_bytes == 0)
            holder.execute("ROLLBACK")
        ledger.wait_written(2)
    with closing(sqlite3.connect(file)) as database:
        rows = database.execute("SELECT request_id, kind, data FROM contents").fetchall()
    assert [(name, kind, zlib.decompress(data)) for name, kind, data in rows] == [
        (receipt.request_id, "request", b"qqq")
    ]


async def test_a_dropped_request_releases_its_texts(tmp_path: Path) -> None:
    buffer = Buffer()
    unwritable = Settings(data_directory=tmp_path / "file" / "data")
    (tmp_path / "file").touch()
    with running_ledger(unwritable, contents=buffer.contents, max_rows=1, stop_seconds=2) as ledger:
        await ledger.record(new_receipt(1))
        buffer.begin(new_receipt(2).request_id, 3)
        await ledger.record(new_receipt(2))
        assert (ledger.queue.state.dropped_rows, buffer.contents.total_bytes) == (1, 0)


def delta(index: int, kind: str, field: str, text: str) -> bytes:
    """Return the frame of a delta."""
    values = (index, kind.encode(), field.encode(), text.encode())
    data = b'{"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":"%b"}}' % values
    return b"event: content_block_delta\ndata: " + data


@pytest.mark.parametrize(
    ("kind", "field"),
    [("text_delta", "text"), ("thinking_delta", "thinking"), ("input_json_delta", "partial_json")],
)
def test_a_key_that_is_streamed_in_small_pieces_is_redacted(kind: str, field: str) -> None:
    key = new_canary("team-")
    pieces = [delta(0, kind, field, key[start : start + 4]) for start in range(0, len(key), 4)]
    content = BufferedContent(0.0, reply=bytearray(b"\n\n".join(pieces)), reply_size=1)
    (row,) = build_content_rows("req_1", 0, content, [key])
    assert zlib.decompress(row["data"]) == delta(0, kind, field, f"…{key[-4:]}")


def test_deltas_are_joined_only_within_a_block() -> None:
    stop, ping = b'event: content_block_stop\ndata: {"index":0}', b'event: ping\ndata: {"type":"ping"}'
    frames = [
        *(delta(0, "text_delta", "text", "a"), ping, delta(0, "text_delta", "text", "é")),
        *(delta(1, "text_delta", "text", "b"), stop, delta(1, "text_delta", "text", "c")),
        *(delta(2, "thinking_delta", "thinking", "d"), delta(2, "signature_delta", "signature", "e")),
        *(b"event: content_block_delta\ndata: {broken", b"event: content_block_delta\ndata: {}", b""),
    ]
    joined = [delta(0, "text_delta", "text", "aé"), *frames[3:]]
    assert join_deltas(b"\n\n".join(frames)) == b"\n\n".join(joined)
    assert join_deltas(b'{"type":"message"}') == b'{"type":"message"}'


@pytest.mark.parametrize("depth", [1, 100, 300, 350, 500, 900, 1_500, 100_000])
def test_a_deeply_nested_body_has_an_outline_or_none(depth: int) -> None:
    for start, end in ((b'{"a":', b"}"), (b"[", b"]")):
        body = b'{"metadata":' + start * depth + b"1" + end * depth + b"}"
        outline = outline_json(body)
        assert outline == "" or outline.startswith('{\n  "metadata": ')
        assert outline or depth > 100


def test_an_odd_body_has_an_outline() -> None:
    body = b'\xef\xbb\xbf{"model":"m","max_tokens":1,"max_tokens":1e999,"system":"half \\ud83d"}'
    assert outline_json(body) == '{\n  "model": "m",\n  "max_tokens": 1e999,\n  "system": [text, 6 characters]\n}'


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b"\xff", b'"text"'])
def test_a_body_without_an_object_has_no_outline(body: bytes) -> None:
    assert outline_json(body) == ""
