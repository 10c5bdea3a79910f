"""Faults of a relay that somebody wrote who had not seen the checks, and the checks that have to find them."""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

from tests.conformance.faults import (
    as_count,
    as_doubles,
    begins_with_text,
    counts_by_call,
    drop,
    first,
    in_block,
    in_blocks,
    in_calls,
    in_contents,
    in_deltas,
    in_end,
    in_inputs,
    in_tools,
    in_uses,
    limit_kind,
    misreads,
    mixes_up,
    of_blocks,
    only_first,
    shorten,
    shorten_texts,
    shows_key,
    sort_results,
    sorts_keys,
    without_blocks,
    without_empty,
    without_equal_calls,
    without_later_calls,
    without_repetitions,
    zeroes_input,
)
from tests.support.conformance_server import (
    Call,
    Event,
    Fault,
    Reply,
    asks,
    change,
    each,
    error,
    header,
    refuses,
    replies,
)

MIB = 1_048_576


class Loss(NamedTuple):
    fault: Fault
    found_by: tuple[str, ...]


def in_all_texts(edit: Any, names: tuple[str, ...] = ("system", "messages")) -> Fault:
    """A server that sends other texts to the model."""

    def change_all(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: change_all(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [change_all(inner, key) for inner in value]
        return edit(value) if isinstance(value, str) and key in ("text", "content", "system", "data") else value

    return asks(lambda body: body.update({name: change_all(body[name], name) for name in names if name in body}))


def cut_depth(value: Any, depth: int) -> Any:
    if not depth:
        return {}
    if isinstance(value, dict):
        return {name: cut_depth(inner, depth - 1) for name, inner in value.items()}
    return [cut_depth(inner, depth) for inner in value] if isinstance(value, list) else value


def in_schemas(edit: Any) -> Fault:
    return in_tools(lambda tool: tool.update(input_schema=edit(tool.get("input_schema"))))


def cut_enums(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: inner[:100] if name == "enum" else cut_enums(inner) for name, inner in value.items()}
    return value


def without_nulls(value: Any) -> Any:
    return {name: inner for name, inner in value.items() if inner is not None}


def as_words(value: Any) -> Any:
    return {name: str(inner).lower() if isinstance(inner, bool) else inner for name, inner in value.items()}


def cut_long_lines(events: Iterator[Event], _: Call) -> Iterator[Event]:
    """End a stream in good order at an event of more than 64 KiB."""
    for event in events:
        if len(json.dumps(event)) > 65_536:
            return
        yield event


def skip_long_lines(events: Iterator[Event], _: Call) -> Iterator[Event]:
    return (event for event in events if len(json.dumps(event)) <= 65_536)


def give_all_calls_one_index(events: Iterator[Event], _: Call) -> Iterator[Event]:
    calls = list[int]()
    for event in events:
        assert isinstance(event, dict)
        if event.get("content_block", {}).get("type") == "tool_use":
            calls.append(event["index"])
        yield {**event, "index": calls[0]} if event.get("index") in calls else event


def end_the_message_before_its_last_block(events: Iterator[Event], _: Call) -> Iterator[Event]:
    held: Event | None = None
    for event in events:
        assert isinstance(event, dict)
        if held and event["type"] == "message_delta":
            yield event
            yield held
            held = None
            continue
        if held:
            yield held
            held = None
        if event["type"] == "content_block_stop":
            held = event
        else:
            yield event


def end_calls_behind_texts_as_turns(events: Iterator[Event], _: Call) -> Iterator[Event]:
    kinds = set[str]()
    for event in events:
        assert isinstance(event, dict)
        kinds.add(event.get("content_block", {}).get("type", ""))
        if event["type"] == "message_delta" and {"text", "tool_use"} <= kinds:
            yield {**event, "delta": {**event["delta"], "stop_reason": "end_turn"}}
        else:
            yield event


def end_well_behind_errors(events: Iterator[Event], _: Call) -> Iterator[Event]:
    for event in events:
        assert isinstance(event, dict)
        if event["type"] == "error":
            ending = {"stop_reason": "end_turn", "stop_sequence": None}
            yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 1}}
            yield {"type": "message_stop"}
            return
        yield event


def move_system(body: dict[str, Any]) -> None:
    """Put the system prompt before the first text of the user."""
    system = body.pop("system", None)
    if system and "messages" in body:
        blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system
        message = body["messages"][0]
        content = message["content"]
        rest = [{"type": "text", "text": content}] if isinstance(content, str) else content
        body["messages"][0] = {**message, "content": [*blocks, *rest]}


def drop_prefill(body: dict[str, Any]) -> None:
    if len(body.get("messages", ())) > 1 and body["messages"][-1]["role"] == "assistant":
        body["messages"].pop()


def drop_ttl(value: Any) -> Any:
    if isinstance(value, list):
        return [drop_ttl(inner) for inner in value]
    if isinstance(value, dict):
        return {name: drop_ttl(inner) for name, inner in value.items() if name != "ttl"}
    return value


def regroup(content: list[Any]) -> list[Any]:
    kinds = ("thinking", "redacted_thinking", "text", "tool_use")
    return sorted(content, key=lambda x: kinds.index(x["type"]) if x["type"] in kinds else 9)


def in_tool_choice(edit: Any) -> Fault:
    return asks(lambda body: edit(body["tool_choice"]) if "tool_choice" in body else None)


def is_count_of_more(name: str, most: int) -> Any:
    return lambda call: isinstance(call.body, dict) and len(call.body.get(name, ())) > most


def serve_the_first_key(headers: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key != name}


def with_other_usage(usage: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in usage.items() if "cache" not in name}


NUMBERS = count()
LOSSES: Mapping[str, Loss] = {
    # size
    "bodies above 1 MiB refused": Loss(
        refuses(lambda c: len(c.text) > MIB), ("requests.two-megabytes", "documents.large", "requests.twenty-megabytes")
    ),
    "bodies above 8 MiB refused by a page": Loss(
        Fault(call=lambda c: Reply(413, b"<html></html>") if len(c.text) > 8 * MIB else c),
        ("requests.twenty-megabytes",),
    ),
    "results cut at 30,000 characters": Loss(
        in_blocks("tool_result", lambda x: shorten_texts(x, 30_000)), ("tools-in.long-result",)
    ),
    "texts cut at 100,000 characters": Loss(
        in_all_texts(lambda x: x[:100_000]), ("requests.long-text", "requests.long-system", "tools-in.long-result")
    ),
    "descriptions cut at 1,024 characters": Loss(
        in_tools(lambda x: x.update(description=x.get("description", "")[:1024])), ("tools-in.long-description",)
    ),
    "names of tools cut at 64 characters": Loss(
        in_tools(lambda x: x.update(name=x["name"][:64])), ("tools-out.long-names", "tools-out.long-names-stream")
    ),
    "ids of calls cut at 64 characters": Loss(
        in_blocks("tool_use", lambda x: {**x, "id": x["id"][:64]}), ("tools-in.long-id",)
    ),
    "ids of the reply cut at 64 characters": Loss(
        in_block("tool_use", lambda x: {**x, "id": x["id"][:64]}), ("tools-out.long-ids-stream",)
    ),
    "images above 1 MiB left out": Loss(
        in_contents("image", lambda x: [y for y in x if y["type"] != "image" or len(y["source"]["data"]) <= MIB]),
        ("requests.two-megabytes", "requests.twenty-megabytes"),
    ),
    "documents cut at 1 MiB": Loss(
        in_blocks("document", lambda x: {**x, "source": shorten_texts(x["source"], MIB)}), ("documents.large",)
    ),
    "max_tokens above 8,192 lowered": Loss(
        asks(lambda body: body.update(max_tokens=min(body["max_tokens"], 8_192)) if "max_tokens" in body else None),
        ("requests.max-tokens",),
    ),
    "streams end at a line above 64 KiB": Loss(Fault(stream=cut_long_lines), ("stream.long",)),
    "lines above 64 KiB left out": Loss(Fault(stream=skip_long_lines), ("stream.long",)),
    "arguments cut at 65,536 characters": Loss(
        in_inputs(lambda x: shorten_texts(x, 65_000), streams=True), ("tools-out.long-input-stream",)
    ),
    "texts of replies cut at 65,536 characters": Loss(
        change("content.0", lambda x: shorten_texts(x, 65_536)), ("message.long", "thinking.long")
    ),
    "deltas behind the 1,000th left out": Loss(only_first(1_000, "text_delta"), ("stream.many-deltas",)),
    "replies decoded in parts of 4,096 bytes": Loss(
        change("content.0", lambda x: {**x, "text": misreads(x["text"])} if len(str(x)) > 10_000 else x),
        ("message.many-characters",),
    ),
    "characters in two halves at the ends of deltas": Loss(
        in_deltas("text", lambda x: x.replace("😀", "\ufffd\ufffd")), ("stream.many-characters",)
    ),
    # number
    "128 tools kept": Loss(shorten("tools", 128, 128, first), ("tools-in.more-than-128-tools", "counts.many-tools")),
    "more than 128 tools refused": Loss(refuses(is_count_of_more("tools", 128)), ("tools-in.more-than-128-tools",)),
    "100 messages kept": Loss(
        shorten("messages", 100, 99), ("requests.long-history", "requests.many-messages", "counts.long-history")
    ),
    "20 messages kept": Loss(
        shorten("messages", 20, 19), ("requests.long-history", "requests.many-messages", "tools-in.long-history")
    ),
    "eight calls of a reply kept": Loss(of_blocks(lambda x: x[:8]), ("tools-out.many-calls",)),
    "calls of a stream with one index": Loss(Fault(stream=give_all_calls_one_index), ("tools-out.parallel-stream",)),
    "ten results kept": Loss(limit_kind("tool_result", 10), ("tools-in.many-results",)),
    "20 images kept": Loss(limit_kind("image", 20), ("images.many",)),
    "four stop sequences kept": Loss(shorten("stop_sequences", 4, 4, first), ("stops.many-sequences",)),
    "the first block of the system kept": Loss(
        shorten("system", 1, 1, first), ("requests.system-blocks", "requests.many-system-blocks")
    ),
    "ten levels of schemas kept": Loss(in_schemas(lambda x: cut_depth(x, 20)), ("tools-in.deep-schema",)),
    "100 values of an enumeration kept": Loss(in_schemas(cut_enums), ("tools-in.many-values",)),
    "replies exchanged at load": Loss(Fault(reply=mixes_up), ("time.own-replies",)),
    "deltas of another client": Loss(
        in_deltas("text", lambda x: re.sub("number 1[0-9]", "number 3", x)), ("time.own-streams",)
    ),
    # loss
    "numbers as doubles": Loss(in_uses(as_doubles), ("tools-in.numbers",)),
    "numbers of replies as doubles": Loss(in_inputs(as_doubles, streams=False), ("tools-out.numbers",)),
    "numbers of streams as doubles": Loss(in_inputs(as_doubles, streams=True), ("tools-out.numbers-stream",)),
    "truth values as words": Loss(in_inputs(as_words, streams=False), ("tools-out.arguments", "tools-out.odd-values")),
    "nulls of arguments left out": Loss(in_uses(without_nulls), ("tools-in.odd-values",)),
    "nulls of replies left out": Loss(in_inputs(without_nulls, streams=False), ("tools-out.odd-values",)),
    "nulls of streams left out": Loss(in_inputs(without_nulls, streams=True), ("tools-out.odd-values-stream",)),
    "empty arguments left out": Loss(in_uses(without_empty), ("tools-in.odd-values",)),
    "empty arguments of streams left out": Loss(
        in_inputs(without_empty, streams=True), ("tools-out.odd-values-stream",)
    ),
    "keys sorted": Loss(asks(sorts_keys), ("tools-in.order-of-keys",)),
    "texts in normal form C": Loss(in_all_texts(lambda x: unicodedata.normalize("NFC", x)), ("requests.normal-forms",)),
    "controls left out": Loss(in_all_texts(lambda x: re.sub("[\x00-\x08\x0b-\x1f]", "", x)), ("requests.escapes",)),
    "line ends of one kind": Loss(in_all_texts(lambda x: x.replace("\r\n", "\n")), ("requests.line-ends",)),
    "texts without white space at their ends": Loss(
        in_all_texts(str.strip), ("requests.white-space", "tools-in.result-white-space")
    ),
    "white deltas left out": Loss(in_deltas("text", lambda x: x if x.strip() else ""), ("stream.white-space",)),
    "repeated deltas left out": Loss(Fault(stream=without_repetitions), ("stream.repeated-deltas",)),
    "is_error left out": Loss(
        in_blocks("tool_result", lambda x: {k: v for k, v in x.items() if k != "is_error"}), ("tools-in.is-error",)
    ),
    "tool_choice any as auto": Loss(
        in_tool_choice(lambda x: x.update(type="auto") if x["type"] == "any" else None),
        ("tools-in.any-reaches", "tools-out.any"),
    ),
    "tool_choice none left out": Loss(
        asks(lambda body: body.pop("tool_choice") if (body.get("tool_choice") or {}).get("type") == "none" else None),
        ("tools-out.none",),
    ),
    "disable_parallel_tool_use left out": Loss(
        in_tool_choice(lambda x: x.pop("disable_parallel_tool_use", None)),
        ("tools-out.one-call", "tools-out.one-call-reaches"),
    ),
    "the time of cache marks left out": Loss(
        asks(lambda body: body.update(drop_ttl({k: v for k, v in body.items() if k in ("system", "messages")}))),
        ("requests.cache-control-reaches",),
    ),
    "cache marks of tools left out": Loss(in_tools(lambda x: x.pop("cache_control", None)), ("tools-in.fields-reach",)),
    "a temperature of 0 left out": Loss(
        asks(lambda body: body.pop("temperature", None) if not body.get("temperature") else None),
        ("requests.temperature-zero",),
    ),
    "top_k left out": Loss(asks(drop("top_k")), ("requests.top-k-reaches",)),
    "metadata left out": Loss(asks(drop("metadata")), ("requests.metadata-reaches",)),
    "betas left out": Loss(
        Fault(call=lambda c: replace(c, headers=serve_the_first_key(dict(c.headers), "anthropic-beta"))),
        ("requests.betas-reach",),
    ),
    "texts before results": Loss(
        in_contents("tool_result", lambda x: sorted(x, key=lambda y: y["type"] == "tool_result")),
        ("tools-in.text-behind-results", "tools-in.order-of-results"),
    ),
    "results sorted": Loss(in_contents("tool_result", sort_results), ("tools-in.order-of-results",)),
    "blocks of the assistant regrouped": Loss(in_contents("thinking", regroup), ("requests.order-of-blocks",)),
    "redacted thinking left out": Loss(without_blocks("redacted_thinking"), ("thinking.redacted-returns",)),
    "images of results left out": Loss(without_blocks("image", "a map"), ("tools-in.result-image",)),
    "system in the text of the user": Loss(
        asks(move_system), ("requests.system-text", "requests.system-blocks", "requests.long-system")
    ),
    "a prefill left out": Loss(asks(drop_prefill), ("requests.prefill",)),
    "stop_sequence null": Loss(change("stop_sequence", None), ("stops.sequence", "stops.many-sequences")),
    "a text and a call end the turn": Loss(
        Fault(stream=end_calls_behind_texts_as_turns), ("tools-out.text-then-call-stream",)
    ),
    "counts of caches left out": Loss(change("usage", with_other_usage), ("usage.cached", "usage.written")),
    "counts of caches of streams left out": Loss(
        in_end(lambda x: {**x, "usage": {**with_other_usage(x["usage"]), "cache_read_input_tokens": 0}}),
        ("usage.cached-stream", "usage.written-stream"),
    ),
    "input_tokens of streams zero": Loss(each("message_start", zeroes_input), ("usage.stream-start",)),
    "signatures of streams left out": Loss(
        each("content_block_delta", lambda x: [] if "signature" in x["delta"] else x), ("thinking.stream-signature",)
    ),
    "citations left out": Loss(
        of_blocks(lambda x: [{k: v for k, v in y.items() if k != "citations"} for y in x]), ("citations.location",)
    ),
    "equal calls merged": Loss(of_blocks(without_equal_calls), ("tools-out.equal-calls",)),
    "equal calls of streams merged": Loss(Fault(stream=without_later_calls), ("tools-out.equal-calls-stream",)),
    "an empty text before a call": Loss(Fault(stream=begins_with_text), ("tools-out.call-first-stream",)),
    "the end of the message before that of its block": Loss(
        Fault(stream=end_the_message_before_its_last_block), ("stream.order", "tools-out.stream")
    ),
    "request-id left out": Loss(
        header("request-id", None), ("message.request-id", "stream.request-id", "errors.request-id")
    ),
    "retry-after left out": Loss(
        Fault(head=lambda headers, _: serve_the_first_key(headers, "retry-after")),
        ("errors.retry-after", "errors.retry-after-of-stream"),
    ),
    "the key in errors": Loss(
        replies(lambda r, _: r.status >= 400, shows_key), ("errors.key-refused", "errors.key-failed")
    ),
    "errors of streams swallowed": Loss(
        Fault(stream=end_well_behind_errors), ("errors.in-stream", "errors.in-stream-once", "errors.first-event")
    ),
    "errors with the status 200": Loss(
        replies(lambda r, _: r.status >= 400, lambda r: replace(r, status=200)), ("errors.rate-limit", "errors.form")
    ),
    "each request twice": Loss(Fault(asks_twice=True), ("requests.once",)),
    "a count by a call": Loss(Fault(call=counts_by_call, reply=as_count), ("counts.no-call",)),
    "a second reply behind a broken one": Loss(
        each(
            "error", lambda _: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "!"}}
        ),
        ("errors.in-stream-once",),
    ),
    "the model of replies with another name": Loss(
        change("model", lambda model: f"anthropic/{model}"), ("message.known-model",)
    ),
    "ids of replies renamed": Loss(in_calls(lambda x: {**x, "id": f"call_{x['id']}"}), ("tools-in.id-returns",)),
    "ids of replies renamed alike": Loss(in_calls(lambda x: {**x, "id": "call_1"}), ("tools-out.parallel-ids",)),
    "requests refused at load": Loss(
        Fault(call=lambda c: error("rate_limit_error", 429) if next(NUMBERS) % 40 > 32 else c), ("time.forty-at-once",)
    ),
}
"""What the relay does → the fault, and checks that are about it."""
