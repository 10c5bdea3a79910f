"""`python -m bench.microbenchmarks`: the cost of single parts of a proxy, as tables in Markdown.

The design is based on these figures (docs/contributing/performance.md). Missing packages are left
out: `pip install orjson starlette granian hypercorn httpx aiohttp pycurl`.
"""

import asyncio
import json
import re
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

import msgspec
from msgspec import Raw, Struct

from bench.bodies import make_messages
from bench.replies import Wanted
from bench.wires import CHAT

BODY = json.dumps(make_messages(120_000, "m", stream=True), separators=(",", ":"), ensure_ascii=False).encode()
_EVENT = CHAT.parts(Wanted("text", 10))[5].removeprefix(b"data: ").strip()
_BURST = b"".join(CHAT.parts(Wanted("text", 64)))
_ROUNDS = 25
_PIECE = 1 << 16

Rows = dict[str, Sequence[float]]
"""Measured part → its microseconds."""


class TextBlock(Struct, tag="text", tag_field="type"):
    """Text that is read."""

    text: str
    cache_control: Raw = Raw(b"")


class UseBlock(Struct, tag="tool_use", tag_field="type"):
    """A call of a tool; its arguments only move."""

    id: str
    name: str
    input: Raw


class ResultBlock(Struct, tag="tool_result", tag_field="type"):
    """The result of a tool; only moves."""

    tool_use_id: str
    content: Raw


class Message(Struct):
    """A message with texts that are read."""

    role: str
    content: str | list[TextBlock | UseBlock | ResultBlock]


class Request(Struct):
    """A request with texts that are read."""

    model: str
    messages: list[Message]
    system: list[TextBlock]
    tools: Raw


class RawTextBlock(Struct, tag="text", tag_field="type"):
    """Text that only moves."""

    text: Raw
    cache_control: Raw = Raw(b"")


class RawMessage(Struct):
    """A message with texts that only move."""

    role: str
    content: str | list[RawTextBlock | UseBlock | ResultBlock]


class RawRequest(Struct):
    """A request with texts that only move."""

    model: str
    messages: list[RawMessage]
    system: list[RawTextBlock]
    tools: Raw


class UndecidedMessage(Struct):
    """A message with blocks that are decoded one by one."""

    role: str
    content: Raw


class UndecidedRequest(Struct):
    """A request with blocks that are decoded one by one."""

    model: str
    messages: list[UndecidedMessage]
    system: list[RawTextBlock]
    tools: Raw


class _Kind(Struct):
    type: str


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta


class Chunk(Struct):
    """A chunk of Chat Completions, as far as it is needed."""

    choices: list[_Choice]


def micros(call: Callable[[], object]) -> float:
    """Return the fastest of some rounds: nothing makes a computation faster than it is."""
    number = max(1, round(0.02 / max(min(timeit.repeat(call, number=1, repeat=3)), 1e-7)))
    return 1e6 * min(timeit.repeat(call, number=number, repeat=_ROUNDS)) / number


def measure_json() -> Rows:
    """In and out: a request of 120 KB."""
    found: Rows = {"json, dicts": _both(json.loads, json.dumps)}
    with suppress(ImportError):
        orjson = import_module("orjson")
        found["orjson, dicts"] = _both(orjson.loads, orjson.dumps)
    found["msgspec, dicts"] = _both(msgspec.json.decode, msgspec.json.Encoder().encode)
    for title, kind in (
        ("msgspec, typed, text as `str`", Request),
        ("msgspec, typed, text as `Raw`", RawRequest),
    ):
        found[title] = _both(msgspec.json.Decoder(kind).decode, msgspec.json.Encoder().encode)
    return found


def _both(decode: Callable[[bytes], Any], encode: Callable[[Any], object]) -> tuple[float, float]:
    value = decode(BODY)
    return micros(partial(decode, BODY)), micros(partial(encode, value))


def measure_reading() -> Rows:
    """Functions that read a request of 120 KB, and the fields that they search."""
    kinds = {"text": RawTextBlock, "tool_use": UseBlock, "tool_result": ResultBlock}
    decoders = {name: msgspec.json.Decoder(kind) for name, kind in kinds.items()}
    kind_of, items_of = msgspec.json.Decoder(_Kind), msgspec.json.Decoder(list[Raw])
    whole = msgspec.json.Decoder(UndecidedRequest)
    surrogate = re.compile(rb"\\u[dD][89a-fA-F]")

    def one_by_one() -> None:
        for message in whole.decode(BODY).messages:
            if bytes(message.content)[:1] == b"[":
                for item in items_of.decode(message.content):
                    decoders[kind_of.decode(item).type].decode(item)

    def in_pieces() -> None:
        view = memoryview(BODY)
        for place in range(0, len(BODY), _PIECE):
            str(view[place : place + _PIECE], "utf-8")

    tools = msgspec.json.decode(BODY)["tools"]
    return {
        "blocks as a union, in one pass": [micros(partial(msgspec.json.Decoder(RawRequest).decode, BODY))],
        "blocks one by one, by their type": [micros(one_by_one)],
        "a search for lone surrogates": [micros(partial(surrogate.search, BODY))],
        "the check of UTF-8, whole": [micros(partial(str, BODY, "utf-8"))],
        "the check of UTF-8, in pieces of 64 KB": [micros(in_pieces)],
        "20 tools decoded, copied and encoded once more": [
            micros(lambda: [json.dumps(_copy(tool)) for tool in msgspec.json.decode(msgspec.json.encode(tools))])
        ],
        "the same 20 tools found in a cache by their bytes": [micros(_find_kept(msgspec.json.encode(tools)))],
    }


def _copy(value: Any) -> Any:
    """Return a schema without an unwanted keyword, as a lowering does."""
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items() if key != "$schema"}
    return [_copy(part) for part in value] if isinstance(value, list) else value


def _find_kept(tools: bytes) -> Callable[[], object]:
    kept, view = {tools: b"encoded"}, memoryview(BODY)
    start = BODY.index(tools[:200])
    return lambda: kept.get(bytes(view[start : start + len(tools)]))


def measure_events() -> Rows:
    """An event, read and written; and 64 of them cut out of a read."""
    chunk = msgspec.json.Decoder(Chunk)
    template = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"text":%b}}\n\n'
    encode = msgspec.json.Encoder().encode

    def as_dicts() -> str:
        text = json.loads(_EVENT)["choices"][0]["delta"]["content"]
        delta = {"type": "text_delta", "text": text}
        return f"data: {json.dumps({'type': 'content_block_delta', 'index': 0, 'delta': delta})}\n\n"

    def as_types() -> bytes:
        return template % (0, encode(chunk.decode(_EVENT).choices[0].delta.content))

    return {
        "read and written with json and dicts": [micros(as_dicts)],
        "decoded into a type, written by a template": [micros(as_types)],
        "cut out of a read at `\\n\\n`": [micros(partial(_BURST.split, b"\n\n")) / 64],
        "cut out of a read at `\\n`": [micros(partial(_BURST.split, b"\n")) / 64],
    }


async def measure_waiting() -> Rows:
    """One read of a stream: a future that the next turn of the loop completes."""
    loop = asyncio.get_running_loop()

    def arriving() -> "asyncio.Future[None]":
        future: asyncio.Future[None] = loop.create_future()
        loop.call_soon(future.set_result, None)
        return future

    async def bare() -> None:
        await arriving()

    async def waited_for() -> None:
        await asyncio.wait_for(arriving(), 60)

    async def timed() -> None:
        async with asyncio.timeout(60):
            await arriving()

    found: Rows = {}
    for title, read in (
        ("as it is", bare),
        ("within `asyncio.wait_for`", waited_for),
        ("within `asyncio.timeout`", timed),
    ):
        rounds = []
        for _ in range(_ROUNDS):
            begun = time.process_time()
            for _ in range(2_000):
                await read()
            rounds.append((time.process_time() - begun) / 2_000)
        found[f"a read {title}"] = [1e6 * statistics.median(rounds)]
    return found


def check_traps() -> Mapping[str, bool]:
    """Return which of the library's limits are there."""
    return {
        "`Raw` in a union with anything takes no value": not _accepts(b"[1]", Raw | None),
        "bad UTF-8 passes inside `Raw`": _accepts(b'{"type":"text","text":"\xff"}', RawTextBlock),
    }


def _accepts(statement: bytes, kind: Any) -> bool:
    try:
        msgspec.json.decode(statement, type=kind)
    except msgspec.DecodeError:
        return False
    return True


def write_table(title: str, units: Sequence[str], rows: Rows) -> str:
    """Return a table in Markdown."""
    lines = [f"| {title} | {' | '.join(units)} |", f"| --- |{' --- |' * len(units)}"]
    lines += [f"| {name} | {' | '.join(f'{value:.3g}' for value in values)} |" for name, values in rows.items()]
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    from bench import http_microbenchmarks  # noqa: PLC0415  # it imports this module

    tables = [
        ("JSON of a request of 120 KB", ("µs in", "µs out"), measure_json()),
        ("reading a request of 120 KB", ("µs",), measure_reading()),
        ("an event", ("µs",), measure_events()),
        ("a read of a stream", ("µs",), asyncio.run(measure_waiting())),
    ]
    for table in tables:
        print(write_table(*table), end="\n\n")
    print(
        "\n".join(f"- {statement}: {'yes' if holds else 'no'}" for statement, holds in check_traps().items()),
        end="\n\n",
    )
    for table in http_microbenchmarks.measure():
        print(write_table(*table), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
