"""One fault of a server for each check of the suite."""

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

from tests.support.conformance import MESSAGE
from tests.support.conformance_server import (
    PROVIDER_KEY,
    Call,
    Event,
    Fault,
    Reply,
    accepts,
    asks,
    change,
    each,
    error,
    header,
    refuses,
    replies,
    write_event,
)


def has(text: str, path: str = "/v1/messages") -> Fault:
    """A server that refuses requests whose JSON has a text."""
    return refuses(lambda call: call.path.partition("?")[0] == path and text in call.text)


def in_deltas(field: str, edit: Any) -> Fault:
    def change_delta(event: dict[str, Any]) -> Event:
        delta = event["delta"]
        return {**event, "delta": {**delta, field: edit(delta[field])}} if field in delta else event

    return each("content_block_delta", change_delta)


def in_block(kind: str, edit: Any) -> Fault:
    """A server whose streamed blocks of a type begin otherwise."""

    def change_block(event: dict[str, Any]) -> Event:
        block = event["content_block"]
        return {**event, "content_block": edit(block)} if block["type"] == kind else event

    return each("content_block_start", change_block)


def in_end(edit: Any) -> Fault:
    return each("message_delta", edit)


def with_delta(**fields: Any) -> Fault:
    return in_end(lambda event: {**event, "delta": {**event["delta"], **fields}})


def with_usage(**fields: Any) -> Fault:
    return in_end(lambda event: {**event, "usage": {**event["usage"], **fields}})


def stop(reason: str, wrong: str, *, streams: bool) -> Fault:
    """A server that names another stop reason in place of one."""
    if streams:
        return in_end(
            lambda event: (
                {**event, "delta": {**event["delta"], "stop_reason": wrong}}
                if event["delta"]["stop_reason"] == reason
                else event
            )
        )
    return change("stop_reason", lambda value: wrong if value == reason else value)


def of_blocks(edit: Any) -> Fault:
    """A server with other content in replies that are not streamed."""
    return change("content", lambda blocks: edit(list(blocks)))


def in_calls(edit: Any) -> Fault:
    return of_blocks(lambda blocks: [edit(block) if block["type"] == "tool_use" else block for block in blocks])


def at_end_together(events: Iterator[Event], _: Call) -> Iterator[Event]:
    yield from list(events)


def holds_calls(events: Iterator[Event], _: Call) -> Iterator[Event]:
    """Hold the events of the first block until the second one begins."""
    held = list[Event]()
    for event in events:
        held.append(event)
        if isinstance(event, dict) and (event["type"] == "message_stop" or event.get("index") == 1):
            yield from held
            held.clear()
    yield from held


def ends_well(events: Iterator[Event], _: Call) -> Iterator[Event]:
    """End a stream that breaks as if it were complete."""
    try:
        yield from events
    except OSError:
        yield {"type": "content_block_stop", "index": 0}
        ending = {"stop_reason": "end_turn", "stop_sequence": None}
        yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 1}}
        yield {"type": "message_stop"}


def completes(events: Iterator[Event], _: Call) -> Iterator[Event]:
    """End a stream that ends too early as if it were complete."""
    last = ""
    for event in events:
        last = event["type"] if isinstance(event, dict) else ""
        yield event
    if last != "message_stop":
        yield from ends_well(_broken(), _)


def _broken() -> Iterator[Event]:
    yield from ()
    raise ConnectionResetError


def hides_errors_without_blocks(events: Iterator[Event], call: Call) -> Iterator[Event]:
    """End a stream that begins with an error as if it were complete."""
    kinds = set[str]()
    for event in events:
        kind = event["type"] if isinstance(event, dict) else ""
        if kind == "error" and "content_block_start" not in kinds:
            yield from ends_well(_broken(), call)
            return
        kinds.add(kind)
        yield event


def mixes_blocks(events: Iterator[Event], _: Call) -> Iterator[Event]:
    """Send the end of each block after the begin of the next one."""
    ended = None
    for event in events:
        if isinstance(event, dict) and event["type"] == "content_block_stop":
            ended = event
            continue
        if ended and isinstance(event, dict):
            yield from [event, ended] if event["type"] == "content_block_start" else [ended, event]
            ended = None
        else:
            yield event


def numbers_no_blocks(events: Iterator[Event], _: Call) -> Iterator[Event]:
    for event in events:
        yield {**event, "index": 0} if isinstance(event, dict) and "index" in event else event


def reorders(edit: Callable[[list[list[dict[str, Any]]]], list[list[dict[str, Any]]]]) -> Fault:
    """A server whose streams have their blocks in another order."""

    def stream(events: Iterator[Event], _: Call) -> Iterator[Event]:
        whole = [event for event in events if isinstance(event, dict) and event["type"] != "ping"]
        blocks: dict[int, list[dict[str, Any]]] = {}
        for event in whole:
            if "index" in event:
                blocks.setdefault(event["index"], []).append(event)
        rest = [event for event in whole if "index" not in event]
        yield rest[0]
        for number, block in enumerate(edit(list(blocks.values()))):
            yield from ({**event, "index": number} for event in block)
        yield from rest[1:]

    return Fault(stream=stream)


def fails_without_blocks(events: Iterator[Event], _: Call) -> Iterator[Event]:
    """End a stream without blocks with an error."""
    kinds = set[str]()
    for event in events:
        kinds.add(event["type"] if isinstance(event, dict) else "")
        if "message_delta" in kinds and "content_block_start" not in kinds:
            yield {"type": "error", "error": {"type": "api_error", "message": "The reply is empty."}}
            return
        yield event


def only(events: Iterable[Event], kinds: tuple[str, ...]) -> Iterator[Event]:
    return (event for event in events if isinstance(event, dict) and event["type"] not in kinds)


def without(*kinds: str) -> Fault:
    return Fault(stream=lambda events, _: only(events, kinds))


def streams_of(words: str, fault: Fault) -> Fault:
    """A fault that concerns streams of requests with these words only."""

    def stream(events: Iterator[Event], call: Call) -> Iterable[Event]:
        return fault.stream(events, call) if words in call.text else events

    return replace(fault, stream=stream)


def counted(edit: Any) -> Fault:
    """A server with other counts of tokens."""
    return replies(
        lambda reply, call: "count_tokens" in call.path and reply.status == 200,
        lambda reply: replace(reply, body=edit(reply.body)),
    )


def listed(edit: Any, path: str = "/v1/models") -> Fault:
    """A server with another list of models."""
    return replies(
        lambda reply, call: call.path.partition("?")[0] == path and call.method == "GET" and reply.status == 200,
        lambda reply: replace(reply, body=edit(reply.body)),
    )


def errs(status: int, edit: Any) -> Fault:
    """A server with another reply in place of errors of a status."""
    return replies(lambda reply, _: reply.status == status, edit)


def retype(kind: str, status: int = 0) -> Any:
    def edit(reply: Reply) -> Reply:
        body = {"type": "error", "error": {**reply.body["error"], "type": kind}}
        return replace(reply, status=status or reply.status, body=body)

    return edit


def asked_for(words: str, edit: Any) -> Fault:
    """A server that asks the model something else, if the request has these words."""
    return asks(lambda body: edit(body) if words in json.dumps(body) else None)


def drop(*names: str) -> Any:
    def edit(body: dict[str, Any]) -> None:
        for name in names:
            body.pop(name, None)

    return edit


def replace_words(old: str, new: str = "") -> Fault:
    """A server that sends other words to the model."""

    def edit(body: dict[str, Any]) -> None:
        changed = json.loads(json.dumps(body, ensure_ascii=False).replace(old, new))
        body.clear()
        body.update(changed)

    return asks(edit)


def swap_results(body: dict[str, Any]) -> None:
    for message in body.get("messages", ()):
        results = [x for x in message["content"] if isinstance(x, dict) and x.get("type") == "tool_result"]
        if len(results) == 2:
            first, second = results
            first["tool_use_id"], second["tool_use_id"] = second["tool_use_id"], first["tool_use_id"]


def drop_blocks(kind: str) -> Fault:
    """A server that leaves out blocks of a type, also of results."""

    def clean(value: Any) -> Any:
        if isinstance(value, list):
            return [clean(x) for x in value if not (isinstance(x, dict) and x.get("type") == kind)]
        return {name: clean(inner) for name, inner in value.items()} if isinstance(value, dict) else value

    def edit(body: dict[str, Any]) -> None:
        if "messages" in body:
            body["messages"] = clean(body["messages"])

    return asks(edit)


def is_refusal_of(text: str) -> Any:
    return lambda reply, _: reply.status >= 400 and text in json.dumps(reply.body)


def without_blocks(kind: str, words: str = "") -> Fault:
    """A server that sends no block of a type to the model, if the request has these words."""
    clean = drop_blocks(kind)

    def edit(body: dict[str, Any]) -> None:
        if words in json.dumps(body):
            clean.call(Call("", "", {}, body))

    return asks(edit)


def only_last_text(body: dict[str, Any]) -> None:
    for message in body.get("messages", ()):
        if isinstance(message["content"], list) and len(message["content"]) == 2:
            message["content"] = message["content"][-1:]


def drop_turn(number: int, turns: int) -> Fault:
    """A server that leaves out a message of conversations with so many messages."""
    return asks(lambda body: body["messages"].pop(number) if len(body.get("messages", ())) == turns else None)


def ends_with_system(call: Call) -> bool:
    messages = call.body.get("messages") if isinstance(call.body, dict) else None
    return isinstance(messages, list) and bool(messages) and messages[-1].get("role") == "system"


def drop_system_messages(body: dict[str, Any]) -> None:
    body["messages"] = [
        message
        for message in body.get("messages", ())
        if not (message["role"] == "system" and isinstance(message["content"], list))
    ]


def reads_accept(call: Call) -> Call:
    """Send no stream if only JSON is accepted."""
    if call.headers.get("accept") == "application/json" and "anthropic-beta" not in call.headers and call.body:
        return replace(call, body={**call.body, "stream": False})
    return call


def answers_slowly(call: Call) -> Call:
    """Answer later than Claude Code waits for the list of models."""
    if call.path == "/v1/models?limit=1000":
        threading.Event().wait(3.2)
    return call


def texts_as_error(reply: Reply) -> Reply:
    return replace(reply, body={"error": reply.body["error"]["message"]})


def edits(change_edit: Any) -> Fault:
    """A server that makes other edits of the context."""

    def edit(body: dict[str, Any]) -> None:
        given = (body.get("context_management") or {}).get("edits")
        for one in given if isinstance(given, list) else ():
            change_edit(one)

    return asks(edit)


def applied(edit: Any) -> Any:
    """Return the change of what a message says about its edits."""
    return lambda value: {"applied_edits": edit(value["applied_edits"])} if value else value


def in_blocks(kind: str, edit: Any) -> Fault:
    """A server that sends other blocks of a type to the model."""

    def change_all(value: Any) -> Any:
        if isinstance(value, list):
            return [change_all(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        inner = {name: change_all(part) for name, part in value.items()}
        return edit(inner) if inner.get("type") == kind else inner

    def change_body(body: dict[str, Any]) -> None:
        if "messages" in body:
            body["messages"] = change_all(body["messages"])

    return asks(change_body)


def reverses_images(body: dict[str, Any]) -> None:
    for message in body.get("messages", ()):
        content = message["content"]
        if isinstance(content, list) and [block["type"] for block in content].count("image") == 2:
            content[0], content[1] = content[1], content[0]


def is_count(call: Call) -> bool:
    return "count_tokens" in call.path


def answers(has_it: Any, reply: Reply) -> Fault:
    return Fault(call=lambda call: reply if has_it(call) else call)


def shorten(name: str, most: int, limit: int, keep: Any = lambda values, limit: values[-limit:]) -> Fault:
    """A server that leaves parts out of a list of the request that has more than `most`."""

    def edit(body: dict[str, Any]) -> None:
        values = body.get(name)
        if isinstance(values, list) and len(values) > most:
            body[name] = keep(values, limit)

    return asks(edit)


def first(values: list[Any], limit: int) -> list[Any]:
    return values[:limit]


def in_contents(kind: str, edit: Any) -> Fault:
    """A server that sends other contents of messages which have a block of a type."""

    def change_all(body: dict[str, Any]) -> None:
        for message in body.get("messages", ()):
            content = message.get("content") if isinstance(message, dict) else None
            if isinstance(content, list) and any(isinstance(x, dict) and x.get("type") == kind for x in content):
                message["content"] = edit(content)

    return asks(change_all)


def limit_kind(kind: str, limit: int) -> Fault:
    """A server that sends only the first blocks of a type of each message."""

    def cut(content: list[Any]) -> list[Any]:
        numbers = count()
        return [x for x in content if x.get("type") != kind or next(numbers) < limit]

    return in_contents(kind, cut)


def in_uses(edit: Any) -> Fault:
    """A server that sends other inputs of calls to the model."""
    return in_blocks("tool_use", lambda x: {**x, "input": edit(x["input"])})


def in_inputs(edit: Any, *, streams: bool) -> Fault:
    """A server whose calls have other inputs, as a whole or in one piece of a stream."""
    if not streams:
        return in_calls(lambda x: {**x, "input": edit(x["input"])})

    def stream(events: Iterator[Event], _: Call) -> Iterator[Event]:
        pieces = list[str]()
        for event in events:
            assert isinstance(event, dict)
            if "partial_json" in event.get("delta", ()):
                pieces.append(event["delta"]["partial_json"])
                continue
            if event["type"] == "content_block_stop" and pieces:
                text = json.dumps(edit(json.loads("".join(pieces) or "{}")))
                delta = {"type": "input_json_delta", "partial_json": text}
                yield {"type": "content_block_delta", "index": event["index"], "delta": delta}
                pieces.clear()
            yield event

    return Fault(stream=stream)


def in_tools(edit: Any) -> Fault:
    """A server that sends other tools to the model."""

    def change_all(body: dict[str, Any]) -> None:
        for tool in body.get("tools") or ():
            edit(tool)

    return asks(change_all)


def shorten_texts(value: Any, limit: int = 60_000) -> Any:
    if isinstance(value, dict):
        return {name: shorten_texts(inner, limit) for name, inner in value.items()}
    if isinstance(value, list):
        return [shorten_texts(inner, limit) for inner in value]
    return value[:limit] if isinstance(value, str) else value


def as_doubles(value: Any) -> Any:
    return {name: int(float(x)) if isinstance(x, int) else x for name, x in value.items()}


def without_empty(value: Any) -> Any:
    return {name: x for name, x in value.items() if x not in ("", [], {})}


def without_depth(value: Any, depth: int = 10) -> Any:
    if isinstance(value, dict):
        return {name: without_depth(inner, depth - 1) for name, inner in value.items()} if depth else {}
    return value


def merges_equal_calls(body: dict[str, Any]) -> None:
    """Send the first of equal calls of a message only, with its result."""
    dropped = set[str]()
    for message in body.get("messages", ()):
        content = message["content"]
        seen = set[str]()
        for block in [x for x in content if isinstance(x, dict)]:
            text = json.dumps([block.get("name"), block.get("input")])
            if block["type"] == "tool_use" and text in seen:
                dropped.add(block["id"])
            seen.add(text)
        if isinstance(content, list):
            message["content"] = [x for x in content if not {x.get("id"), x.get("tool_use_id")} & dropped]


def shows_key(reply: Reply) -> Reply:
    message = f"{reply.body['error']['message']} The key was {PROVIDER_KEY}."
    return replace(reply, body={**reply.body, "error": {**reply.body["error"], "message": message}})


def only_first(number: int, kind: str) -> Fault:
    """A server that leaves out the later deltas of a type of a stream."""

    def stream(events: Iterator[Event], _: Call) -> Iterator[Event]:
        numbers = count()
        for event in events:
            assert isinstance(event, dict)
            if event.get("delta", {}).get("type") != kind or next(numbers) < number:
                yield event

    return Fault(stream=stream)


def without_late_blocks(events: Iterator[Event], _: Call) -> Iterator[Event]:
    return (event for event in events if isinstance(event, dict) and event.get("index", 0) < 20)


def misreads(text: str) -> str:
    """Return a text whose bytes were decoded in two parts."""
    raw = text.encode()
    place = next(number for number in range(4096, len(raw)) if raw[number] & 0xC0 == 0x80)
    return raw[:place].decode("utf-8", "replace") + raw[place:].decode("utf-8", "replace")


def without_repetitions(events: Iterator[Event], _: Call) -> Iterator[Event]:
    last: Event = {}
    for event in events:
        if event != last or (isinstance(event, dict) and event["type"] != "content_block_delta"):
            yield event
        last = event


def sort_results(content: list[Any]) -> list[Any]:
    return sorted(content, key=lambda x: (x["type"] != "tool_result", x.get("tool_use_id", "")))


def sorts_keys(body: dict[str, Any]) -> None:
    changed = json.loads(
        json.dumps({name: body[name] for name in ("tools", "messages") if name in body}, sort_keys=True)
    )
    body.update(changed)


def without_equal_calls(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [x for number, x in enumerate(blocks) if x.get("input") not in [y.get("input", 0) for y in blocks[:number]]]


def without_later_calls(events: Iterator[Event], call: Call) -> Iterator[Event]:
    return (event for event in events if isinstance(event, dict) and event.get("index", 0) < 1)


def begins_with_text(events: Iterator[Event], _: Call) -> Iterator[Event]:
    """Send an empty text before a reply that begins with a call."""
    shift = 0
    for event in events:
        assert isinstance(event, dict)
        if (
            event["type"] == "content_block_start"
            and event["index"] == 0
            and event["content_block"]["type"] == "tool_use"
        ):
            yield {**event, "content_block": {"type": "text", "text": ""}}
            yield {"type": "content_block_stop", "index": 0}
            shift = 1
        yield {**event, "index": event["index"] + shift} if "index" in event else event


def zeroes_input(event: dict[str, Any]) -> Event:
    message = event["message"]
    return {**event, "message": {**message, "usage": {**message["usage"], "input_tokens": 0}}}


_EARLIER: list[Reply] = []


def mixes_up(reply: Reply, call: Call) -> Reply:
    """Answer with the reply to an earlier request."""
    if "Repeat: number" not in call.text:
        return reply
    _EARLIER.append(reply)
    return _EARLIER[-2] if len(_EARLIER) % 8 == 0 else reply


def counts_by_call(call: Call) -> Call:
    """Ask the model in place of a count."""
    return replace(call, path="/v1/messages", body={**call.body, "max_tokens": 1}) if is_count(call) else call


def as_count(reply: Reply, call: Call) -> Reply:
    return Reply(200, {"input_tokens": 12}) if is_count(call) and reply.status == 200 else reply


OK = Reply(200, MESSAGE)
INVALID = error("invalid_request_error", 400)
NO_MESSAGES = "messages: Field required"
NUMBERS = count()

FAULTS: Mapping[str, Fault] = {
    # message
    "message.type": change("role", "model"),
    "message.content-type": replies(
        lambda r, c: r.status == 200 and c.method == "POST",
        lambda r: replace(r, headers={**r.headers, "content-type": "text/plain"}),
    ),
    "message.schema": change("usage", None, drop=True),
    "message.id": change("id", ""),
    "message.unique-id": change("id", "msg_1"),
    "message.model": change("model", ""),
    "message.known-model": change("model", "other/m"),
    "message.content": of_blocks(
        lambda blocks: [{**x, "type": "output_text"} if x["type"] == "text" else x for x in blocks]
    ),
    "message.text": change(
        "content.0", lambda x: {**x, "text": x["text"].encode("ascii", "ignore").decode()} if "text" in x else x
    ),
    "message.no-stop-sequence": change("stop_sequence", "hello"),
    "message.stop-reason": change("stop_reason", None),
    "message.request-id": header("request-id", None, streams=False),
    "message.unique-request-id": header("request-id", "req_1"),
    "message.long": change("content.0", lambda x: {**x, "text": x["text"][:1_000_000]} if "text" in x else x),
    "message.empty": replies(
        lambda r, c: isinstance(r.body, dict) and r.body.get("content") == [], lambda r: error("api_error", 502)
    ),
    "message.white-space": change(
        "content.0", lambda x: {**x, "text": x["text"].strip()} if "Hello. " in str(x) else x
    ),
    "message.many-characters": change(
        "content.0", lambda x: {**x, "text": misreads(x["text"])} if len(str(x)) > 10_000 else x
    ),
    "message.characters": change(
        "content.0", lambda x: {**x, "text": x["text"].replace("\u2028", "\n")} if "text" in x else x
    ),
    # stream
    "stream.grammar": in_deltas("type", lambda kind: "output_delta" if kind == "text_delta" else kind),
    "stream.content-type": header("content-type", "application/x-ndjson", streams=True),
    "stream.frames": Fault(stream=lambda events, _: (f"data: {json.dumps(x)}\n\n".encode() for x in events)),
    "stream.known-events": each("message_start", lambda x: [x, {"type": "trace"}]),
    "stream.order": each("message_start", lambda x: [{"type": "content_block_stop", "index": 0}, x]),
    "stream.message-start": each(
        "message_start", lambda x: {**x, "message": {**x["message"], "stop_reason": "end_turn"}}
    ),
    "stream.one-block-at-a-time": Fault(stream=mixes_blocks),
    "stream.indexes": Fault(stream=numbers_no_blocks),
    "stream.block-starts": in_block("text", lambda x: {"type": "text"}),
    "stream.deltas": in_deltas("text", lambda _: 5),
    "stream.stop-reason": stop("end_turn", "stop", streams=True),
    "stream.usage": each(
        "message_start", lambda x: {**x, "message": {k: v for k, v in x["message"].items() if k != "usage"}}
    ),
    "stream.end": without("message_stop"),
    "stream.no-done": each("message_stop", lambda x: [x, b"data: [DONE]\n\n"]),
    "stream.request-id": header("request-id", None, streams=True),
    "stream.text": in_deltas("text", lambda x: x.encode("ascii", "ignore").decode()),
    "stream.schema": each(
        "message_start", lambda x: {**x, "message": {k: v for k, v in x["message"].items() if k != "role"}}
    ),
    "stream.id": each("message_start", lambda x: {**x, "message": {**x["message"], "id": ""}}),
    "stream.same-as-whole": in_deltas("text", lambda x: x.replace("two", "2")),
    "stream.no-stop-sequence": with_delta(stop_sequence="hello"),
    "stream.long": in_deltas("text", lambda x: x[:65_536]),
    "stream.several-texts": reorders(lambda blocks: blocks[::-1]),
    "stream.empty": Fault(stream=fails_without_blocks),
    "stream.white-space": in_deltas("text", lambda x: x if x.strip() else ""),
    "stream.characters": in_deltas("text", lambda x: x.replace("\u2028", "\n")),
    "stream.many-characters": in_deltas("text", lambda x: x.replace("Grüße 700", "Gr??e 700")),
    "stream.repeated-deltas": Fault(stream=without_repetitions),
    "stream.many-deltas": only_first(4_000, "text_delta"),
    # time
    "time.text": Fault(stream=at_end_together, pings=False),
    "time.thinking": streams_of("budget_tokens", Fault(stream=at_end_together)),
    "time.text-before-call": Fault(stream=holds_calls),
    "time.alive": Fault(pings=False),
    "time.client-gone": Fault(lets_clients_go=False),
    "time.cut": Fault(stream=ends_well),
    "time.cut-orderly": Fault(stream=completes),
    "time.cut-call": Fault(stream=ends_well),
    "time.cut-whole": errs(502, lambda r: Reply(200, MESSAGE) if "unreadable" in json.dumps(r.body) else r),
    "time.at-once": Fault(is_serial=True),
    "time.own-replies": Fault(reply=mixes_up),
    "time.own-streams": in_deltas("text", lambda x: re.sub("number [0-9]+", "number 7", x)),
    "time.forty-at-once": Fault(call=lambda c: error("rate_limit_error", 429) if next(NUMBERS) % 40 > 32 else c),
    # tools-out
    "tools-out.stop-reason": stop("tool_use", "end_turn", streams=False),
    "tools-out.block": in_calls(lambda x: {**x, "name": f"functions.{x['name']}"}),
    "tools-out.id": in_calls(lambda x: {**x, "id": None}),
    "tools-out.input": in_calls(lambda x: {**x, "input": json.dumps(x["input"])}),
    "tools-out.any": answers(lambda c: '"any"' in c.text and '"disable_parallel' not in c.text, OK),
    "tools-out.none": answers(
        lambda c: '"none"' in c.text,
        Reply(200, {**MESSAGE, "content": [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}]}),
    ),
    "tools-out.one-call": asks(lambda body: body.get("tool_choice", {}).pop("disable_parallel_tool_use", None)),
    "tools-out.stream": in_block("tool_use", lambda x: {**x, "name": ""}),
    "tools-out.stream-stop-reason": stop("tool_use", "end_turn", streams=True),
    "tools-out.stream-input": in_deltas("partial_json", lambda x: x.replace("}", "")),
    "tools-out.text-then-call": of_blocks(lambda blocks: sorted(blocks, key=lambda x: x["type"], reverse=True)),
    "tools-out.text-then-call-stream": reorders(
        lambda blocks: sorted(blocks, key=lambda x: x[0]["content_block"]["type"], reverse=True)
    ),
    "tools-out.parallel": of_blocks(lambda blocks: blocks[::-1]),
    "tools-out.parallel-stream": reorders(lambda blocks: blocks[::-1]),
    "tools-out.parallel-ids": in_calls(lambda x: {**x, "id": "toolu_1"}),
    "tools-out.mixed-pieces": Fault(stream=mixes_blocks),
    "tools-out.no-arguments": in_calls(lambda x: {**x, "input": x["input"] or None}),
    "tools-out.no-arguments-stream": in_deltas("partial_json", lambda x: x.replace("{}", "null")),
    "tools-out.empty-arguments": in_calls(lambda x: {**x, "input": x["input"] or ""}),
    "tools-out.empty-arguments-stream": in_deltas("partial_json", lambda x: x or "null"),
    "tools-out.many-calls-stream": in_deltas("partial_json", lambda x: x.replace('"E"', '"D"')),
    "tools-out.arguments": in_calls(lambda x: {**x, "input": {k: str(v) for k, v in x["input"].items()}}),
    "tools-out.arguments-stream": in_deltas("partial_json", lambda x: x.replace("0.25", "0.3").replace("3", "4")),
    "tools-out.odd-id": in_calls(lambda x: {**x, "id": x["id"].replace("functions_", "functions.")}),
    "tools-out.equal-ids": in_block("tool_use", lambda x: {**x, "id": "call_same"}),
    "tools-out.wrong-end": replies(
        lambda r, c: "get_weather" in c.text and "tool_choice" not in c.text,
        lambda r: replace(r, body={**r.body, "stop_reason": "end_turn"}),
    ),
    "tools-out.mixed-calls-of-one-tool": in_deltas("partial_json", lambda x: x.replace("Rome", "Paris")),
    "tools-out.equal-calls": of_blocks(without_equal_calls),
    "tools-out.equal-calls-stream": streams_of("get_weather", Fault(stream=without_later_calls)),
    "tools-out.long-ids": in_calls(lambda x: {**x, "id": x["id"][:64]}),
    "tools-out.long-ids-stream": in_block("tool_use", lambda x: {**x, "id": x["id"][:64]}),
    "tools-out.call-first-stream": Fault(stream=begins_with_text),
    "tools-out.numbers": in_inputs(as_doubles, streams=False),
    "tools-out.numbers-stream": in_inputs(as_doubles, streams=True),
    "tools-out.odd-values": in_inputs(without_empty, streams=False),
    "tools-out.odd-values-stream": in_inputs(without_empty, streams=True),
    "tools-out.long-input": in_inputs(shorten_texts, streams=False),
    "tools-out.long-input-stream": in_inputs(shorten_texts, streams=True),
    "tools-out.deep-input": in_inputs(without_depth, streams=False),
    "tools-out.deep-input-stream": in_inputs(without_depth, streams=True),
    "tools-out.many-calls": of_blocks(lambda blocks: blocks[:8]),
    "tools-out.many-calls-in-stream": Fault(stream=without_late_blocks),
    "tools-out.long-names": in_calls(lambda x: {**x, "name": x["name"][:64]}),
    "tools-out.long-names-stream": in_block("tool_use", lambda x: {**x, "name": x["name"][:64]}),
    "tools-out.one-call-reaches": asked_for(
        '"auto"', lambda body: body["tool_choice"].pop("disable_parallel_tool_use")
    ),
    # tools-in
    "tools-in.accepted": has('"tool_result"'),
    "tools-in.result": replace_words("18 degrees"),
    "tools-in.result-blocks": replace_words("18 degrees,"),
    "tools-in.result-empty": refuses(lambda c: '"tool_use_id": "toolu_1"}' in c.text),
    "tools-in.result-error": replace_words("no such city: Atlantis", "error"),
    "tools-in.results-by-id": asks(swap_results),
    "tools-in.result-image": without_blocks("image", "a map"),
    "tools-in.text-behind-results": replace_words("Go on."),
    "tools-in.round-trip": refuses(lambda c: "18 degrees" in c.text and not c.body.get("stream")),
    "tools-in.round-trip-stream": refuses(lambda c: "18 degrees" in c.text and c.body.get("stream")),
    "tools-in.definition": replace_words("Name of the city"),
    "tools-in.no-description": refuses(
        lambda c: any("description" not in x and "input_schema" in x for x in _tools(c))
    ),
    "tools-in.empty-schema": refuses(lambda c: any(x.get("input_schema") == {"type": "object"} for x in _tools(c))),
    "tools-in.type-custom": has('"type": "custom"'),
    "tools-in.strict": has('"strict"'),
    "tools-in.cache-control": refuses(lambda c: any("cache_control" in x for x in _tools(c))),
    "tools-in.long-name": refuses(lambda c: any(len(x.get("name", "")) > 64 for x in _tools(c))),
    "tools-in.nested-schema": has('"anyOf"'),
    "tools-in.references": has("#/$defs/trip"),
    "tools-in.recursive-schema": has('"$ref": "#"'),
    "tools-in.several-types": has('["integer", "null"]'),
    "tools-in.enumerations": has('"const": 7'),
    "tools-in.alternatives": has('"oneOf"'),
    "tools-in.other-keywords": has('"prefixItems"'),
    "tools-in.kept-schema": replace_words('["walk", "ride"]', '["walk"]'),
    "tools-in.examples": has('"input_examples"'),
    "tools-in.two-rounds": replace_words("25 degrees"),
    "tools-in.forced-tool": asks(drop("tool_choice")),
    "tools-in.is-error": in_blocks("tool_result", lambda x: {k: v for k, v in x.items() if k != "is_error"}),
    "tools-in.id-returns": in_blocks("tool_use", lambda x: {**x, "id": x["id"].replace("4711", "4712")}),
    "tools-in.order-of-results": in_contents("tool_result", sort_results),
    "tools-in.order-of-keys": asks(sorts_keys),
    "tools-in.numbers": in_uses(as_doubles),
    "tools-in.odd-values": in_uses(without_empty),
    "tools-in.long-input": in_uses(shorten_texts),
    "tools-in.long-result": in_blocks("tool_result", shorten_texts),
    "tools-in.result-white-space": replace_words("    1\\t  def f", "1\\t  def f"),
    "tools-in.many-results": limit_kind("tool_result", 10),
    "tools-in.equal-calls": asks(merges_equal_calls),
    "tools-in.long-history": shorten("messages", 80, 3),
    "tools-in.long-id": refuses(lambda c: "toolu_abcd" * 7 in c.text),
    "tools-in.many-tools": asks(
        lambda body: body.get("tools", []).pop() if len(body.get("tools", ())) == 120 else None
    ),
    "tools-in.more-than-128-tools": refuses(lambda c: isinstance(c.body, dict) and len(c.body.get("tools", ())) > 128),
    "tools-in.long-description": in_tools(lambda x: x.update(description=x.get("description", "")[:1024])),
    "tools-in.deep-schema": replace_words("The innermost value", "A value"),
    "tools-in.many-values": replace_words('"kind 299"', '"other"'),
    "tools-in.any-reaches": asked_for('"any"', lambda body: body["tool_choice"].update(type="auto")),
    "tools-in.fields-reach": in_tools(lambda x: x.pop("strict", None)),
    # thinking
    "thinking.enabled": has('"enabled"'),
    "thinking.adaptive": refuses(lambda c: c.path == "/v1/messages" and '{"type": "adaptive"}' in c.text),
    "thinking.disabled": refuses(lambda c: c.path == "/v1/messages" and '"disabled"' in c.text),
    "thinking.display": has('"display": "summarized"'),
    "thinking.first": of_blocks(lambda blocks: sorted(blocks, key=lambda x: x["type"] == "thinking")),
    "thinking.text": of_blocks(
        lambda blocks: [{**x, "thinking": ""} if x["type"] == "thinking" else x for x in blocks]
    ),
    "thinking.signature": of_blocks(lambda blocks: [{k: v for k, v in x.items() if k != "signature"} for x in blocks]),
    "thinking.stream": in_deltas("thinking", lambda _: ""),
    "thinking.stream-signature": each("content_block_delta", lambda x: [] if "signature" in x["delta"] else x),
    "thinking.tokens": change("usage", lambda x: {**x, "output_tokens_details": {"thinking_tokens": 9999}}),
    "thinking.round-trip": refuses(
        lambda c: '"type": "thinking"' in c.text and "18 degrees" in c.text and not c.body.get("stream")
    ),
    "thinking.round-trip-stream": refuses(
        lambda c: '"type": "thinking"' in c.text and "18 degrees" in c.text and c.body.get("stream")
    ),
    "thinking.small-budget": accepts("greater than or equal to 1024"),
    "thinking.small-limit": accepts("must be greater than `thinking.budget_tokens`"),
    "thinking.signature-returns": replace_words("c2lnbmF0dXJl", "eA=="),
    "thinking.redacted-returns": without_blocks("redacted_thinking"),
    "thinking.long": change("content.0", shorten_texts),
    "thinking.long-stream": only_first(1_000, "thinking_delta"),
    "thinking.text-and-call": of_blocks(lambda blocks: blocks[:1] + blocks[:0:-1]),
    "thinking.text-and-call-stream": reorders(lambda blocks: blocks[:1] + blocks[:0:-1]),
    # stops
    "stops.max-tokens": stop("max_tokens", "end_turn", streams=False),
    "stops.max-tokens-stream": stop("max_tokens", "end_turn", streams=True),
    "stops.end-turn": stop("end_turn", "max_tokens", streams=False),
    "stops.end-turn-stream": stop("end_turn", "max_tokens", streams=True),
    "stops.sequence": stop("stop_sequence", "end_turn", streams=False),
    "stops.sequence-text": change(
        "content.0", lambda x: {**x, "text": x["text"] + "four"} if x.get("text", "").endswith("three ") else x
    ),
    "stops.sequence-stream": stop("stop_sequence", "end_turn", streams=True),
    "stops.sequence-stream-text": in_deltas("text", lambda x: x.replace("three ", "three fo")),
    "stops.sequence-unused": stop("end_turn", "stop_sequence", streams=False),
    "stops.sequence-reaches": asks(drop("stop_sequences")),
    "stops.context-window": stop("model_context_window_exceeded", "end_turn", streams=False),
    "stops.context-window-stream": stop("model_context_window_exceeded", "end_turn", streams=True),
    "stops.sequence-false-start": in_deltas("text", lambda x: x.replace("fou", "")),
    "stops.cut-call": streams_of("get_weather", stop("max_tokens", "tool_use", streams=True)),
    "stops.long-sequence": asks(
        lambda body: body.update(shorten_texts({"stop_sequences": body.get("stop_sequences", [])}, 64))
    ),
    "stops.many-sequences": shorten("stop_sequences", 4, 4, first),
    "stops.refusal": stop("refusal", "end_turn", streams=False),
    "stops.refusal-stream": stop("refusal", "end_turn", streams=True),
    "stops.no-tokens": refuses(lambda c: isinstance(c.body, dict) and c.body.get("max_tokens") == 0),
    # usage
    "usage.counts": change("usage.output_tokens", 0),
    "usage.stream-counts": with_usage(output_tokens=0),
    "usage.input": change("usage.input_tokens", 99),
    "usage.output": change("usage.output_tokens", 19),
    "usage.stream-output": with_usage(output_tokens=19),
    "usage.stream-input": with_usage(input_tokens=99),
    "usage.cached": change("usage.cache_read_input_tokens", 0),
    "usage.cached-apart": change(
        "usage", lambda x: {**x, "input_tokens": x["input_tokens"] + x.get("cache_read_input_tokens", 0)}
    ),
    "usage.cached-stream": with_usage(cache_read_input_tokens=0),
    "usage.all-cached": change("usage", lambda x: {**x, "input_tokens": x["input_tokens"] or 1}),
    "usage.written": change("usage", lambda x: {**x, "cache_creation_input_tokens": 0}),
    "usage.written-stream": with_usage(cache_creation_input_tokens=0),
    "usage.service-tier": change("usage", lambda x: {**x, "service_tier": "default"} if "service_tier" in x else x),
    "usage.stream-start": each("message_start", zeroes_input),
    "usage.thinking": change("usage.output_tokens", lambda x: 10 if x == 50 else x),
    "usage.unknown": change("usage", lambda x: None if len(x) == 2 else x),
    "usage.unknown-stream": in_end(lambda x: {k: v for k, v in x.items() if k != "usage" or len(v) > 1}),
    # errors
    "errors.invalid-json": answers(lambda c: isinstance(c.body, bytes), OK),
    "errors.no-object": answers(lambda c: isinstance(c.body, list), OK),
    "errors.no-messages": accepts(NO_MESSAGES),
    "errors.no-max-tokens": accepts("max_tokens: Field required"),
    "errors.no-model": accepts("model: Field required"),
    "errors.no-message": accepts("at least one message"),
    "errors.max-tokens-text": accepts("max_tokens: Input should be a valid integer"),
    "errors.max-tokens-negative": accepts("max_tokens: Input should be greater"),
    "errors.messages-text": accepts("messages: Input should be a valid list"),
    "errors.role": accepts("messages.0.role"),
    "errors.content-number": accepts("messages.0.content: Input"),
    "errors.block-without-type": accepts("type: Field required"),
    "errors.text-without-text": accepts("text: Field required"),
    "errors.result-without-id": accepts("tool_use_id: Field required"),
    "errors.tool-without-name": accepts("name: Field required"),
    "errors.tool-without-schema": accepts("input_schema: Field required"),
    "errors.tool-choice": accepts("tool_choice"),
    "errors.thinking-type": accepts("thinking"),
    "errors.tools-twice": accepts("Tool names must be unique"),
    "errors.no-result": accepts("without `tool_result`"),
    "errors.form": errs(400, texts_as_error),
    "errors.content-type": errs(400, lambda r: replace(r, headers={"content-type": "text/plain"})),
    "errors.request-id": errs(400, lambda r: replace(r, headers={"request-id": ""})),
    "errors.request-id-body": errs(400, lambda r: replace(r, body={**r.body, "request_id": None})),
    "errors.path": errs(404, retype("invalid_request_error")),
    "errors.method": errs(405, lambda r: Reply(405, b"Method Not Allowed")),
    "errors.no-key": answers(
        lambda c: c.path == "/v1/messages" and not c.headers.get("x-api-key") and "authorization" not in c.headers, OK
    ),
    "errors.wrong-key": errs(401, lambda r: replace(r, status=403)),
    "errors.unknown-model": replies(lambda r, c: r.status == 404 and c.path == "/v1/messages", lambda r: OK),
    "errors.stream-refused": replies(
        lambda r, c: r.status == 400 and c.body and c.body.get("stream") if isinstance(c.body, dict) else False,
        lambda r: Reply(200, write_event(r.body), {"content-type": "text/event-stream"}),
    ),
    "errors.rate-limit": errs(429, retype("api_error", 500)),
    "errors.retry-after": errs(429, lambda r: replace(r, headers={})),
    "errors.overloaded": errs(529, retype("invalid_request_error", 400)),
    "errors.server": errs(500, retype("invalid_request_error", 400)),
    "errors.gateway": errs(502, lambda r: Reply(502, b"<html>Bad Gateway</html>", {"content-type": "text/html"})),
    "errors.provider-refuses": replies(is_refusal_of("messages: Invalid value"), retype("api_error", 500)),
    "errors.permission": errs(403, retype("api_error", 500)),
    "errors.too-large": errs(413, retype("invalid_request_error", 400)),
    "errors.message": replies(is_refusal_of("weekdays"), lambda r: INVALID),
    "errors.in-stream": each("error", lambda x: [x, {"type": "message_stop"}]),
    "errors.in-stream-bare": each("error", lambda x: [] if "memory" in x["error"]["message"] else x),
    "errors.first-event": Fault(stream=hides_errors_without_blocks),
    "errors.model-not-found": replies(is_refusal_of("model: scripted"), retype("api_error", 500)),
    "errors.in-stream-once": each(
        "error",
        lambda x: {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Two."},
        },
    ),
    "errors.in-stream-type": each("error", lambda x: {**x, "error": {"type": "bad", "message": ""}}),
    "errors.unique-request-id": Fault(head=lambda headers, _: {**headers, "request-id": "req_1"}),
    "errors.provider-request-id": errs(500, lambda r: replace(r, headers={"request-id": ""})),
    "errors.retry-after-of-stream": replies(
        lambda r, c: r.status == 429 and c.body.get("stream"), lambda r: replace(r, headers={})
    ),
    "errors.key-refused": replies(is_refusal_of("messages: Invalid value"), shows_key),
    "errors.key-failed": errs(500, shows_key),
    "errors.key-rejected": errs(401, shows_key),
    "errors.key-in-stream": each(
        "error", lambda x: {**x, "error": {**x["error"], "message": f"The key is {PROVIDER_KEY}."}}
    ),
    # requests
    "requests.system-text": asked_for('"system": "', drop("system")),
    "requests.system-blocks": asked_for('"system": [', lambda body: body["system"].pop()),
    "requests.user-text": replace_words("שלום"),
    "requests.blocks": asks(only_last_text),
    "requests.turns": drop_turn(1, 3),
    "requests.turns-of-one-role": drop_turn(0, 2),
    "requests.bearer": refuses(lambda c: "authorization" in c.headers and c.path == "/v1/messages"),
    "requests.beta-query": refuses(lambda c: c.path == "/v1/messages?beta=true"),
    "requests.sdk-headers": refuses(lambda c: "x-stainless-lang" in c.headers),
    "requests.charset": refuses(lambda c: "charset" in c.headers.get("content-type", "")),
    "requests.stream-false": refuses(lambda c: isinstance(c.body, dict) and c.body.get("stream") is False),
    "requests.nulls": has('"inference_geo": null'),
    "requests.metadata": has('"metadata"'),
    "requests.service-tier": has('"service_tier"'),
    "requests.cache-control": has('"ttl"'),
    "requests.cache-control-of-request": refuses(lambda c: isinstance(c.body, dict) and c.body.get("cache_control")),
    "requests.effort": has('"effort": "low"'),
    "requests.json-schema": change(
        "content.0", lambda x: {**x, "text": f"```json\n{x['text']}\n```"} if "city" in x.get("text", "") else x
    ),
    "requests.json-schema-stream": streams_of("json_schema", in_deltas("text", lambda x: x.replace("{", "```{"))),
    "requests.json-schema-reaches": asks(drop("output_config")),
    "requests.max-tokens": asks(lambda body: body.update(max_tokens=1) if "max_tokens" in body else None),
    "requests.service-tier-standard": has("standard_only"),
    "requests.image": without_blocks("image"),
    "requests.image-accepted": has('"image/png"'),
    "requests.document-text": without_blocks("document", "text/plain"),
    "requests.document-content": without_blocks("document", '"type": "content"'),
    "requests.search-result": without_blocks("search_result"),
    "requests.image-url": has('"type": "url"'),
    "requests.document-pdf": has('"application/pdf"'),
    "requests.once": Fault(asks_twice=True),
    "requests.temperature": asks(drop("temperature")),
    "requests.prefill": answers(lambda c: "Name a bird" in c.text, error("api_error", 500)),
    "requests.long-history": shorten("messages", 100, 21),
    "requests.many-messages": shorten("messages", 1000, 999),
    "requests.repeated-turns": shorten("messages", 12, 3),
    "requests.long-text": in_blocks("text", lambda x: {**x, "text": x["text"][:100_000]} if "text" in x else x),
    "requests.long-system": asks(lambda body: body.update(shorten_texts({"system": body.get("system", "")}, 100_000))),
    "requests.many-blocks": in_contents("text", lambda content: content if len(content) < 100 else content[-100:]),
    "requests.many-system-blocks": shorten("system", 20, 20, first),
    "requests.white-space": in_blocks("text", lambda x: {**x, "text": x["text"].strip()} if "def f" in str(x) else x),
    "requests.escapes": replace_words("\u2028", "\n"),
    "requests.two-megabytes": refuses(lambda c: len(c.text) > 1_000_000),
    "requests.twenty-megabytes": refuses(lambda c: len(c.text) > 8_000_000),
    "requests.normal-forms": replace_words("\u212b", "\u00e5"),
    "requests.line-ends": replace_words("a\\r\\nb", "a\\nb"),
    "requests.temperature-zero": asks(
        lambda body: body.pop("temperature", None) if body.get("temperature") == 0 else None
    ),
    "requests.top-k-reaches": asks(lambda body: body.pop("top_k", None) if "top_p" not in body else None),
    "requests.betas-reach": Fault(
        call=lambda c: replace(c, headers={k: v for k, v in c.headers.items() if k != "anthropic-beta"})
    ),
    "requests.order-of-blocks": in_contents(
        "thinking", lambda content: sorted(content, key=lambda x: x["type"] != "thinking")
    ),
    "requests.long-user-id": refuses(lambda c: "abcdefgh" * 32 in c.text),
    "requests.thinking-reaches": asks(drop("thinking")),
    "requests.effort-reaches": asks(lambda body: body.get("output_config", {}).pop("effort", None)),
    "requests.cache-control-reaches": asked_for('"ttl"', lambda body: body["system"][0]["cache_control"].pop("ttl")),
    "requests.metadata-reaches": asks(drop("metadata")),
    "requests.service-tier-reaches": asks(drop("service_tier")),
    # context-editing
    "context-editing.applied-edits": change(
        "context_management", applied(lambda x: [{**y, "cleared_input_tokens": 0} for y in x])
    ),
    "context-editing.applied-edits-stream": in_end(lambda x: {k: v for k, v in x.items() if k != "context_management"}),
    "context-editing.nothing-to-clear": change(
        "context_management", lambda x: x and (x if x["applied_edits"] else None)
    ),
    "context-editing.results": edits(
        lambda x: (
            x["keep"].update(value=3)
            if "keep" in x
            and "clear_tool_inputs" not in x
            and x["type"].startswith("clear_tool")
            and isinstance(x["keep"]["value"], int)
            else None
        )
    ),
    "context-editing.inputs": edits(drop("clear_tool_inputs")),
    "context-editing.excluded-tools": edits(drop("exclude_tools")),
    "context-editing.clear-at-least": edits(drop("clear_at_least")),
    "context-editing.token-trigger": edits(
        lambda x: (
            x["trigger"].update(type="input_tokens", value=20) if x.get("trigger", {}).get("value") == 90_000 else None
        )
    ),
    "context-editing.count": counted(lambda x: {"input_tokens": x["input_tokens"]}),
    "context-editing.thinking": edits(
        lambda x: x.update(keep="all") if x["type"] == "clear_thinking_20251015" else None
    ),
    "context-editing.edits-text": accepts("edits: Input"),
    "context-editing.amount-text": accepts("keep.value: Input"),
    # compaction
    "compaction.block": of_blocks(
        lambda blocks: [*blocks, {"type": "text", "text": "Done."}] if blocks[0]["type"] == "compaction" else blocks
    ),
    "compaction.stream": each(
        "content_block_start",
        lambda x: (
            {**x, "content_block": {**x["content_block"], "content": None}}
            if x["content_block"]["type"] == "compaction"
            else x
        ),
    ),
    "compaction.signature": of_blocks(
        lambda blocks: [{k: v for k, v in x.items() if k != "signature"} for x in blocks]
    ),
    "compaction.usage": change("usage.output_tokens", lambda x: x or 70),
    "compaction.whole-conversation": asks(
        lambda body: (
            body.update(messages=body["messages"][-1:]) if "compaction" in body and "max_tokens" in body else None
        )
    ),
    "compaction.count": refuses(lambda c: is_count(c) and "summarize" in c.text),
    "compaction.alone": accepts("cannot be combined"),
    "compaction.type": accepts("'summarize'"),
    "compaction.returned": in_blocks("compaction", lambda x: {**x, "content": x.get("content") and "Nothing."}),
    "compaction.returned-empty": in_blocks("compaction", lambda x: {**x, "content": x.get("content") or "Nothing."}),
    "compaction.below-trigger": has('"compact_20260112"'),
    # citations
    "citations.document": replace_words("Storks eat frogs."),
    "citations.context": in_blocks("document", lambda x: {k: v for k, v in x.items() if k != "context"}),
    "citations.content-blocks": replace_words("Cranes"),
    "citations.search-result": without_blocks("search_result"),
    "citations.location": of_blocks(lambda blocks: [{k: v for k, v in x.items() if k != "citations"} for x in blocks]),
    "citations.stream": in_deltas("type", lambda kind: "quotation_delta" if kind == "citations_delta" else kind),
    "citations.quotation": of_blocks(
        lambda blocks: [
            {**x, "citations": [{**y, "start_char_index": 0} for y in x["citations"]]} if x.get("citations") else x
            for x in blocks
        ]
    ),
    "citations.history": has("They prefer frogs."),
    "citations.all-or-none": accepts("all or none"),
    "citations.no-format": accepts("citations are not supported"),
    # documents
    "documents.pdf": refuses(lambda c: "JVBERi0xLjcK" in c.text and "tool_result" not in c.text and not is_count(c)),
    "documents.pdf-in-result": without_blocks("document", "tool_result"),
    "documents.count": counted(lambda _: {"input_tokens": 12}),
    "documents.pdf-damaged": accepts("was not valid"),
    "documents.pdf-password": accepts("password protected"),
    # images
    "images.order": asks(reverses_images),
    "images.earlier-turn": asks(
        lambda body: body.update(messages=body["messages"][1:]) if len(body.get("messages", ())) == 3 else None
    ),
    "images.count": counted(lambda _: {"input_tokens": 12}),
    "images.no-base64": accepts("Invalid base64 data"),
    "images.media-type": accepts("does not appear to be one"),
    "images.many": limit_kind("image", 10),
    "documents.large": in_blocks("document", lambda x: {**x, "source": shorten_texts(x["source"], 1_048_576)}),
    "documents.long-text": in_blocks("document", shorten_texts),
    # counts
    "counts.form": counted(lambda x: {"tokens": x["input_tokens"]}),
    "counts.positive": counted(lambda x: {"input_tokens": 0}),
    "counts.text": counted(lambda x: {"input_tokens": 12}),
    "counts.system": asks(lambda body: body.pop("system", None) if "max_tokens" not in body else None),
    "counts.tools": asks(lambda body: body.pop("tools", None) if "max_tokens" not in body else None),
    "counts.no-messages": replies(
        lambda r, c: "count_tokens" in c.path and r.status == 400, lambda r: Reply(200, {"input_tokens": 1})
    ),
    "counts.history": has('"tool_result"', "/v1/messages/count_tokens"),
    "counts.same": counted(lambda x: {"input_tokens": x["input_tokens"] + next(NUMBERS)}),
    "counts.no-call": Fault(call=counts_by_call, reply=as_count),
    "counts.long-history": asks(
        lambda body: body.update(messages=body["messages"][-81:]) if "messages" in body else None
    ),
    "counts.long-text": asks(
        lambda body: body.update(messages=shorten_texts(body["messages"])) if "max_tokens" not in body else None
    ),
    "counts.many-tools": shorten("tools", 128, 128),
    # models
    "models.list": listed(lambda x: {**x, "data": [{**y, "type": "file"} for y in x["data"]]}),
    "models.ends": listed(lambda x: {**x, "last_id": "other"}),
    "models.unique": listed(lambda x: {**x, "data": x["data"] * 2}),
    "models.limit": listed(
        lambda x: {**x, "data": x["data"] + [{**x["data"][0], "id": "second"}], "last_id": "second"}
    ),
    "models.has-more": listed(lambda x: {**x, "has_more": True}),
    "models.one": listed(lambda x: {"id": x["id"]}, "/v1/models/m"),
    "models.unknown": replies(
        lambda r, c: r.status == 404 and c.path.startswith("/v1/models/"), lambda r: replace(r, status=400)
    ),
    "models.content-type": replies(
        lambda r, c: c.path == "/v1/models", lambda r: replace(r, headers={"content-type": "text/html"})
    ),
    "models.of-list": listed(lambda x: {**x, "id": "other"}, "/v1/models/scripted"),
    # versions
    "versions.2023-06-01": refuses(lambda c: c.headers.get("anthropic-version") == "2023-06-01"),
    "versions.2026-10-21": refuses(lambda c: c.headers.get("anthropic-version") == "2026-10-21"),
    "versions.2026-10-21-stream": refuses(
        lambda c: c.headers.get("anthropic-version") == "2026-10-21" and c.body.get("stream")
    ),
    "versions.temperature": refuses(
        lambda c: c.headers.get("anthropic-version") == "2023-06-01" and "temperature" in c.body
    ),
    "versions.no-temperature": accepts("temperature: Extra"),
    "versions.no-top-p": accepts("top_p: Extra"),
    "versions.no-top-k": accepts("top_k: Extra"),
    "versions.no-assistant-document": accepts("'document' is not allowed"),
    "versions.no-user-citations": accepts("citations: Extra"),
    "versions.missing": accepts("anthropic-version: header"),
    "versions.unknown": accepts("anthropic-version: is not"),
    # claude-code
    "claude-code.system-message": refuses(ends_with_system),
    "claude-code.system-message-blocks": asks(drop_system_messages),
    "claude-code.headers": refuses(lambda c: "x-claude-code-session-id" in c.headers),
    "claude-code.main-call": has('"context_management"'),
    "claude-code.effort": has('"effort": "max"'),
    "claude-code.display-updates": has('"display": "updates"'),
    "claude-code.whole-budget": has('"budget_tokens": 7999'),
    "claude-code.schema-keywords": has('"propertyNames"'),
    "claude-code.deferred-tools": has("DeferredToolPlaceholder"),
    "claude-code.tool-references": has('"tool_reference"'),
    "claude-code.unparsed-input": has("__unparsedToolInput"),
    "claude-code.empty-signature": has('"signature": ""'),
    "claude-code.mixed-result": has("page 1"),
    "claude-code.web-search": has("web_search_20250305"),
    "claude-code.title": has('"title": {"type": "string"}'),
    "claude-code.quota": answers(lambda c: "quota" in c.text, Reply(200, {})),
    "claude-code.safeguards": has('"safeguards"'),
    "claude-code.accept-json": Fault(call=reads_accept),
    "claude-code.fallback": has('"max_tokens": 64000'),
    "claude-code.counts-at-once": answers(
        lambda c: "count_tokens?beta" in c.path and next(NUMBERS) % 25 > 10, error("rate_limit_error", 429)
    ),
    "claude-code.model-discovery": Fault(call=answers_slowly),
    "claude-code.model-names": listed(lambda x: {**x, "data": [{**y, "display_name": ""} for y in x["data"]]}),
    "claude-code.head": Fault(reply=lambda r, c: replace(r, status=405) if c.method == "HEAD" else r),
    "claude-code.prompt-too-long": replies(is_refusal_of("prompt is too long"), lambda r: INVALID),
    "claude-code.prompt-too-long-numbers": replies(
        is_refusal_of("prompt is too long"), lambda r: error("invalid_request_error", 400, "prompt is too long")
    ),
    "claude-code.error-before-stream": replies(
        lambda r, c: r.status == 429 and isinstance(c.body, dict) and c.body.get("stream"),
        lambda r: Reply(200, write_event(r.body), {"content-type": "text/event-stream"}),
    ),
    "claude-code.no-retry-of-keys": errs(401, lambda r: replace(r, headers={})),
    "claude-code.no-retry-of-quota": errs(402, retype("rate_limit_error", 429)),
    "claude-code.one-message-delta": in_end(lambda x: [x, x]),
    "claude-code.ids-not-repeated": in_block("tool_use", lambda x: {**x, "id": "toolu_1"}),
}


def _tools(call: Call) -> list[dict[str, Any]]:
    tools = call.body.get("tools") if isinstance(call.body, dict) and call.path == "/v1/messages" else None
    return tools or []
