"""Valid streams of translated APIs, and the same with one event or key removed, doubled, swapped or misspelled."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st
from msgspec import Struct

from anthropic_proxy.engine.exchange.client_side import encode_events
from anthropic_proxy.engine.messages.writer import MessageWriter
from anthropic_proxy.engine.wires import gemini, ollama, openai_chat, openai_responses
from anthropic_proxy.errors import ProxyError
from tests.support.decoding import functions, new_call
from tests.support.stream_mutations import Doubled, encode

Json = dict[str, Any]
WIRES: dict[str, Any] = {
    "openai_responses": openai_responses,
    "openai_chat": openai_chat,
    "gemini": gemini,
    "ollama": ollama,
}
Path = tuple[str | int, ...]


class Content(Struct, frozen=True):
    """A part of a reply in pieces. `kind`: `text`, `thinking` or the name of a tool."""

    kind: str
    pieces: tuple[str, ...]

    @property
    def whole(self) -> str:
        return "".join(self.pieces)

    @property
    def is_call(self) -> bool:
        return self.kind in TOOLS


TEXTS = (("Grüße", ", ", "Ada.\n"), ("One",), ("a", "b\u2028", "\U0001f600 c"))
ARGUMENTS = (('{"file', '_path": ', '"ä.py"}'), ("{}",), ('{"n": 1, ', '"s": "x y', ' z", "t": ', "[1, 2]}"))
TOOLS = ("Read", "Write_File")


def build_responses(contents: list[Content], *, numbered: bool, end: str) -> list[Json]:
    events: list[Json] = []
    output: list[Json] = []

    def add(kind: str, **fields: Any) -> None:
        number = {"sequence_number": len(events)} if numbered else {}
        events.append({"type": f"response.{kind}", **number, **fields})

    add("created", response={"id": "resp_1", "status": "in_progress", "output": []})
    add("in_progress", response={"id": "resp_1", "status": "in_progress", "output": []})
    for index, content in enumerate(contents):
        at = {"output_index": index, "item_id": f"item_{index}"}
        if content.kind == "text":
            begun: Json = {"type": "message", "id": f"item_{index}", "status": "in_progress", "role": "assistant"}
            part = {"type": "output_text", "text": content.whole, "annotations": []}
            whole = {**begun, "status": "completed", "content": [part]}
            add("output_item.added", output_index=index, item={**begun, "content": []})
            add("content_part.added", **at, content_index=0, part={**part, "text": ""})
            for piece in content.pieces:
                add("output_text.delta", **at, content_index=0, delta=piece, logprobs=[])
            add("output_text.done", **at, content_index=0, text=content.whole, logprobs=[])
            add("content_part.done", **at, content_index=0, part=part)
        elif content.kind == "thinking":
            begun = {"type": "reasoning", "id": f"item_{index}"}
            part = {"type": "summary_text", "text": content.whole}
            whole = {**begun, "summary": [part]}
            add("output_item.added", output_index=index, item={**begun, "summary": []})
            add("reasoning_summary_part.added", **at, summary_index=0, part={**part, "text": ""})
            for piece in content.pieces:
                add("reasoning_summary_text.delta", **at, summary_index=0, delta=piece)
            add("reasoning_summary_text.done", **at, summary_index=0, text=content.whole)
            add("reasoning_summary_part.done", **at, summary_index=0, part=part)
        else:
            begun = {"type": "function_call", "id": f"item_{index}", "call_id": f"call_{index}", "name": content.kind}
            whole = {**begun, "arguments": content.whole, "status": "completed"}
            add("output_item.added", output_index=index, item={**begun, "arguments": "", "status": "in_progress"})
            for piece in content.pieces:
                add("function_call_arguments.delta", **at, delta=piece)
            add("function_call_arguments.done", **at, arguments=content.whole)
        add("output_item.done", output_index=index, item=whole)
        output.append(whole)
    usage = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
    details = {"incomplete_details": {"reason": "max_output_tokens"}} if end == "incomplete" else {}
    add(end, response={"id": "resp_1", "status": end, "output": output, "usage": usage, **details})
    return events


def build_chat(contents: list[Content], *, numbered: bool, end: str) -> list[Json]:
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    calls = 0
    for content in contents:
        if content.kind in ("text", "thinking"):
            field = "content" if content.kind == "text" else "reasoning_content"
            deltas += [{field: piece} for piece in content.pieces]
            continue
        call = {"index": calls, "id": f"call_{calls}", "type": "function"}
        pieces = content.pieces if len(content.pieces) == 1 else ("", *content.pieces)
        function = {"name": content.kind, "arguments": pieces[0]}
        deltas.append({"tool_calls": [{**call, "function": function}]})
        deltas += [{"tool_calls": [{"index": calls, "function": {"arguments": piece}}]} for piece in pieces[1:]]
        calls += 1
    reason = "length" if end == "incomplete" else "tool_calls" if calls else "stop"
    common = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [{**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**common, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    if numbered:
        chunks.append({**common, "choices": [], "usage": usage})
    else:
        chunks[-1]["usage"] = usage
    return [*chunks, {"type": "[DONE]"}]


def build_gemini(contents: list[Content], *, numbered: bool, end: str) -> list[Json]:
    parts: list[Json] = []
    for content in contents:
        if content.kind == "text":
            parts += [{"text": piece} for piece in content.pieces]
        elif content.kind == "thinking":
            parts += [{"text": piece, "thought": True} for piece in content.pieces]
        else:
            identifier = {"id": f"call_{len(parts)}"} if numbered else {}
            call = {"name": content.kind, "args": json.loads(content.whole), **identifier}
            parts.append({"functionCall": call, "thoughtSignature": "c2ln"})
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}
    frames = [
        {"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}], "usageMetadata": usage}
        for part in parts
    ]
    frames[-1]["candidates"][0]["finishReason"] = "MAX_TOKENS" if end == "incomplete" else "STOP"  # type: ignore[index]
    return frames


def build_ollama(contents: list[Content], *, numbered: bool, end: str) -> list[Json]:
    messages: list[Json] = []
    for content in contents:
        if content.kind in ("text", "thinking"):
            field = "content" if content.kind == "text" else "thinking"
            messages += [{"content": "", field: piece} for piece in content.pieces]
        else:
            call: Json = {"function": {"name": content.kind, "arguments": json.loads(content.whole)}}
            call |= {"id": f"call_{len(messages)}"} if numbered else {}
            messages.append({"content": "", "tool_calls": [call]})
    lines: list[Json] = [
        {
            "model": "m",
            "created_at": f"2026-11-28T12:00:00.{at:09}Z",
            "message": {"role": "assistant", **m},
            "done": False,
        }
        for at, m in enumerate(messages)
    ]
    reason = "length" if end == "incomplete" else "stop"
    counts = {"prompt_eval_count": 7, "eval_count": 5}
    empty = {"role": "assistant", "content": ""}
    return [*lines, {"model": "m", "message": empty, "done": True, "done_reason": reason, **counts}]


def change_final_object(wire: str, frames: list[Json], contents: list[Content], how: str) -> list[Json]:
    """Return the frames of a server whose final object is not as usual. `how`: `as usual`, or one of `FINAL_OBJECTS`.

    That of Chat Completions is a `message` with all content, which most servers do not send.
    """
    if how == "as usual" or wire not in FINAL_OBJECTS:
        return frames
    if wire == "openai_chat":
        message: Json = {"content": "".join(content.whole for content in contents if content.kind == "text")}
        message["reasoning_content"] = "".join(content.whole for content in contents if content.kind == "thinking")
        calls = [content for content in contents if content.is_call]
        ids = [{} if how == "without ids" else {"id": f"call_{at}"} for at in range(len(calls))]
        message["tool_calls"] = [
            {"type": "function", **named, "function": {"name": call.kind, "arguments": call.whole}}
            for named, call in zip(ids, calls, strict=True)
        ]
        if how == "reversed":
            message["tool_calls"].reverse()
        end = next(at for at, frame in enumerate(frames) if frame["choices"][0]["finish_reason"])
        ending = {**frames[end], "choices": [{**frames[end]["choices"][0], "message": message}]}
        return [*frames[:end], ending, *frames[end + 1 :]]
    response = frames[-1]["response"]
    output = [{**item} for item in response["output"]]
    for item in output:
        match how:
            case "without ids":
                item.pop("id")
                item.pop("call_id", None)
            case "other ids":
                item["id"] = f"other_{item['id']}"
    if how == "reversed":
        output.reverse()
    if how == "without reasoning":
        output = [item for item in output if item["type"] != "reasoning"]
    return [*frames[:-1], {**frames[-1], "response": {**response, "output": output}}]


FINAL_OBJECTS = {
    "openai_responses": ("without ids", "other ids", "reversed", "without reasoning"),
    "openai_chat": ("with ids", "without ids", "reversed"),
}
BUILDERS = {
    "openai_responses": build_responses,
    "openai_chat": build_chat,
    "gemini": build_gemini,
    "ollama": build_ollama,
}


def list_paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the place of each key at any depth."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield (*path, key)
            yield from list_paths(member, (*path, key))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from list_paths(member, (*path, index))


def change_key(value: Any, path: Path, how: str) -> Any:
    first, *rest = path
    if rest:
        changed = list(value) if isinstance(value, list) else dict(value)
        changed[first] = change_key(value[first], tuple(rest), how)
        return changed
    changed = dict(value)
    if how == "remove":
        del changed[first]
    elif how == "double":
        changed[first] = Doubled(changed[first])
    else:
        name = str(first)
        changed = {f"{name[:1]}{name[2:]}x" if key == first else key: member for key, member in value.items()}
    return changed


class ReplyMutation(Struct):
    """What was done to a stream. `form`: the change, and the kind of event and key. `end`: how the reply ended."""

    wire: str
    contents: list[Content]
    valid: list[Json]
    sent: list[Json]
    form: str
    end: str


def describe(wire: str, frame: Json) -> str:
    """Return what kind of frame it is."""
    if wire == "openai_responses":
        return str(frame["type"]) + ("/" + frame["item"]["type"] if "item" in frame else "")
    return ",".join(sorted({str(path[-1]) for path in list_paths(frame)} & _TELLING))


_TELLING = {"content", "reasoning_content", "tool_calls", "finish_reason", "usage", "name", "arguments", "thinking"} | {
    *("text", "thought", "functionCall", "finishReason", "done_reason", "type")
}


@st.composite
def reply_mutations(draw: st.DrawFn, wire: str) -> ReplyMutation:
    contents = []
    for kind in draw(st.lists(st.sampled_from(["text", "thinking", "call", "call"]), min_size=1, max_size=4)):
        if kind == "call":
            contents.append(Content(draw(st.sampled_from(TOOLS)), draw(st.sampled_from(ARGUMENTS))))
        elif not contents or contents[-1].kind != kind:
            # OpenAI repeats whole messages, so a message that says the same is left out
            new = [pieces for pieces in TEXTS if Content(kind, pieces) not in contents]
            contents.append(Content(kind, draw(st.sampled_from(new))))
    end = draw(st.sampled_from(["completed", "completed", "completed", "incomplete"]))
    valid = BUILDERS[wire](contents, numbered=draw(st.booleans()), end=end)
    final = draw(st.sampled_from(["as usual", *FINAL_OBJECTS.get(wire, ())]))
    valid = change_final_object(wire, valid, contents, final)
    sent = list(valid)
    place = draw(st.integers(0, len(sent) - 1))
    how = draw(st.sampled_from(["remove", "double", "swap", "key", "key", "key"]))
    form = f"final object {final}, {how} {describe(wire, sent[place])}"
    if how == "remove":
        del sent[place]
    elif how == "double":
        sent.insert(place, sent[place])
    elif how == "swap":
        other = min(place + 1, len(sent) - 1)
        form += f" with {describe(wire, sent[other])}"
        sent[place], sent[other] = sent[other], sent[place]
    else:
        path = draw(st.sampled_from([*list_paths(sent[place])]))
        kind = draw(st.sampled_from(["remove", "double", "misspell"]))
        form += f": {kind} {'.'.join(map(str, path))}"
        sent[place] = change_key(sent[place], path, kind)
    return ReplyMutation(wire, contents, valid, sent, form, end)


class Stated(Struct):
    """What the events of a stream state, event by event. `calls`: name and arguments."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, Any]] = []


def read_events(mutation: ReplyMutation) -> Stated:
    """Return the content that the events of a changed stream state in the fields of the API."""
    sent = [_strip(frame) for frame in mutation.sent]
    return {"openai_responses": _read_responses, "openai_chat": _read_chat, "gemini": _read_gemini}.get(
        mutation.wire, _read_ollama
    )(sent, mutation)


def _strip(value: Any) -> Any:
    """Return a value with each member once."""
    if isinstance(value, Doubled):
        return _strip(value.value)
    if isinstance(value, dict):
        return {name: _strip(member) for name, member in value.items()}
    return [_strip(member) for member in value] if isinstance(value, list) else value


def _read_responses(sent: list[Json], mutation: ReplyMutation) -> Stated:
    """The final objects have everything: only a text whose fragments contradict them is that of the fragments."""
    stated = Stated()
    latest, before = 0, Json()
    numbers: list[int | None] = [None, None]  # those of the last two events
    fragments: dict[int, str] = {}
    for event in sent:
        latest = event.get("output_index", latest)
        is_again = event == before and numbers[-2] not in (None, event.get("sequence_number"))
        numbers += [] if is_again else [event.get("sequence_number")]
        if event.get("type", "").endswith("text.delta") and not is_again:
            fragments[latest] = fragments.get(latest, "") + event.get("delta", "")
        before = event
    for index, content in enumerate(mutation.contents):
        came = fragments.get(index, "")
        whole = content.whole if content.whole.startswith(came) else came
        if content.is_call:
            stated.calls.append((content.kind, json.loads(content.whole)))
        elif content.kind == "text":
            stated.text += whole
        else:
            stated.thinking += whole
    return stated


def _read_chat(sent: list[Json], mutation: ReplyMutation) -> Stated:
    stated = Stated()
    arguments: dict[int, str] = {}
    names: dict[int, str] = {}
    places: dict[str | None, int] = {}
    is_cut = False
    for chunk in sent:
        for choice in chunk.get("choices", [])[:1]:
            delta = choice.get("delta", {})
            stated.text += delta.get("content", "")
            stated.thinking += delta.get("reasoning_content", "")
            for call in delta.get("tool_calls", []):
                function = call.get("function", {})
                if is_cut and "name" in function:
                    continue  # a server may complete a call behind the reason
                index = call.get("index", places.get(call.get("id"), len(names)) if "id" in call else len(names) - 1)
                places.setdefault(call.get("id"), index)
                if "name" in function:
                    names.setdefault(index, function["name"])
                arguments[index] = arguments.get(index, "") + function.get("arguments", "")
            is_cut |= choice.get("finish_reason") == "length"
    for index, name in names.items():
        text = arguments[index] or "{}"
        if text[: len(text) // 2] == text[len(text) // 2 :]:  # the whole arguments again
            text = text[: len(text) // 2]
        with suppress(ValueError):
            stated.calls.append((name, json.loads(text)))
    if not any(choice.get("message") for chunk in sent for choice in chunk.get("choices", [])):
        return stated
    texts = "".join(content.whole for content in mutation.contents if content.kind == "text")
    thoughts = "".join(content.whole for content in mutation.contents if content.kind == "thinking")
    if not stated.text and thoughts.startswith(stated.thinking):
        stated.thinking = thoughts
    if texts.startswith(stated.text):
        stated.text = texts
    calls = [content for content in mutation.contents if content.is_call]
    stated.calls = [(call.kind, json.loads(call.whole)) for call in calls]
    return stated


def _read_gemini(sent: list[Json], mutation: ReplyMutation) -> Stated:
    stated = Stated()
    ended: list[Json] = []
    known: list[Json] = []
    for frame in sent:
        for candidate in frame.get("candidates", [])[:1]:
            if frame in ended:
                continue
            ended += [frame] if "finishReason" in candidate else []
            for part in candidate.get("content", {}).get("parts", []):
                call = part.get("functionCall", {})
                if part.get("thought"):
                    stated.thinking += part.get("text", "")
                else:
                    stated.text += part.get("text", "")
                if "name" in call and not ("id" in call and call in known):
                    known.append(call)
                    stated.calls.append((call["name"], call.get("args", {})))
    return stated


def _read_ollama(sent: list[Json], mutation: ReplyMutation) -> Stated:
    stated = Stated()
    known: list[Json] = []
    for line in sent:
        message = line.get("message", {})
        stated.text += message.get("content", "")
        stated.thinking += message.get("thinking", "")
        for call in message.get("tool_calls", []):
            function = call.get("function", {})
            if "name" in function and not ("id" in call and call in known):
                known.append(call)
                stated.calls.append((function["name"], function.get("arguments", {})))
        if line.get("done"):
            break
    return stated


class Received(Struct):
    """What the client received. `calls`: name and text of the arguments of each call that ended."""

    events: list[Json]
    text: str
    thinking: str
    calls: list[tuple[str, str]]
    error: ProxyError | None


def play(wire: str, frames: list[Json]) -> Received:
    """Return what a client of the Messages API gets of a stream of a provider."""
    call = new_call(WIRES[wire], tools=functions(*TOOLS), thinking={"type": "adaptive"})
    decoder = WIRES[wire].WIRE.new_decoder(call)
    writer = MessageWriter(message_id="msg_1", model="m", signature=decoder.default_signature)
    events = list(writer.start(1))
    error: ProxyError | None = None
    try:
        for frame in frames:
            data = b"[DONE]" if frame == {"type": "[DONE]"} else encode(frame).encode()
            events += writer.feed(decoder.decode_frame(data))
            if decoder.finished:
                break
        events += writer.feed(decoder.decode_end())
        events += writer.finish()
    except ProxyError as raised:
        error = raised
        events += writer.feed(decoder.flush_pending())
        events += writer.fail(raised)
    lines = encode_events(events).decode().split("\n")
    decoded = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    received = Received(decoded, "", "", [], error)
    blocks: dict[int, tuple[str, list[str]]] = {}
    for event in decoded:
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
            blocks[event["index"]] = event["content_block"]["name"], []
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            received.text += delta.get("text", "")
            received.thinking += delta.get("thinking", "")
            if "partial_json" in delta:
                blocks[event["index"]][1].append(delta["partial_json"])
        elif event["type"] == "content_block_stop" and event["index"] in blocks:
            name, pieces = blocks[event["index"]]
            received.calls.append((name, "".join(pieces) or "{}"))
    return received
