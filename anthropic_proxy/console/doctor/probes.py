"""Probes: the requests with which the doctor tests features of a server, and its deviations from the API.

A probe has a check of its result. If the check fails, the request may be repeated with other values of dialect fields.
"""

import base64
import json
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from anthropic_proxy.console.doctor.probe_runner import ProbeResult
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.tool_call_repair import OPENED_THINKING_TAGS

Check = Callable[[ProbeResult], str]
"""Function that returns the problem of an accepted probe's result as text. "": the result is as expected."""
_END_TAG = compile_later(r"</(?:think|thinking|thought|seed:think)>|\[/THINK\]")
"""Pattern of a tag that ends reasoning. If the tag is in the reply text for the client, a dialect field is wrong."""

_COLOR_WORDS: Mapping[str, re.Pattern[str]] = {
    "yellow": compile_later(r"\b(?:yellow|gold)\b"),
    "purple": compile_later(r"\b(?:purple|violet|magenta|plum)\b"),
    "green": compile_later(r"\bgreen\b"),
    "black": compile_later(r"\bblack\b"),
    "": compile_later(r"\b(?:red|blue|orange|brown|white|gr[ae]y|pink|cyan|teal|turquoise|beige)\b"),
}
"""Name of a color in the picture of a probe → pattern of words for this color. Key "": pattern of colors that no
picture has."""


def _accept(result: ProbeResult) -> str:
    return ""


def check_streamed_text(result: ProbeResult) -> str:
    """The reply must not be empty, and its text must not contain reasoning with a tag such as `</think>`."""
    if tag := _END_TAG.search(result.text):
        return f"the text contains reasoning, which ends with {tag[0]}"
    return "" if result.text or result.thinking else "the reply is empty"


def check_tool_call(result: ProbeResult) -> str:
    return "" if result.calls else "the model called no tool"


def check_truncation(result: ProbeResult) -> str:
    return "" if result.stop_reason == "max_tokens" else "the server ignored the output limit"


def check_stop_sequence(result: ProbeResult) -> str:
    return "" if result.stop_reason == "stop_sequence" else f"the stop reason is {result.stop_reason}"


def check_schema(result: ProbeResult) -> str:
    try:
        value = json.loads(result.text)
    except ValueError:
        return "the reply is not JSON"
    return "" if isinstance(value, dict) and {"city", "country"} <= value.keys() else "the reply ignores the schema"


def check_image_accepted(result: ProbeResult) -> str:
    """The server must not reject the image, and the proxy must send it."""
    if "images none" in result.adaptations:
        return "the server rejects images"
    dropped = [note.reason for note in result.notes if "image" in note.field and note.handling == "dropped"]
    return dropped[0] if dropped else ""


def check_image_media_types(result: ProbeResult) -> str:
    return "the server rejects a type of the images" if "images none" in result.adaptations else ""


def new_color_check(colors: Sequence[str]) -> Check:
    """Return a check that the reply names all `colors` of a picture and no other color."""

    def check(result: ProbeResult) -> str:
        text = result.text.lower()
        named = {color for color, words in _COLOR_WORDS.items() if words.search(text)}
        return "" if named == set(colors) else "accepts the picture, but the reply does not name its colors"

    return check


_SIZE = 64
_SAMPLES: Mapping[str, bytes] = {
    "yellow": b"\xff\xff\x00",
    "purple": b"\x80\x00\x80",
    "green": b"\x00\x90\x00",
    "black": b"\x00\x00\x00",
}
"""Name of a color → its RGB value as three bytes."""
USER_COLORS = ("yellow", "purple")
"""Colors of the picture in the user message of a probe."""
TOOL_COLORS = ("green", "black")
"""Colors of the picture in the tool result of a probe. They differ from `USER_COLORS`, so that a reply shows which of
the two pictures the model received."""


def build_picture(colors: Sequence[str]) -> bytes:
    """Return a PNG of 64 x 64 pixels with one vertical stripe of each color, all of the same width."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\x00" + b"".join(_SAMPLES[color] * (_SIZE // len(colors)) for color in colors)) * _SIZE
    header = struct.pack(">IIBBBBB", _SIZE, _SIZE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def build_gif() -> bytes:
    """Return a black GIF of 64 x 64 pixels."""
    pixels = (b"\x80" + bytes(64)) * _SIZE + b"\x81"  # a clear code before each row keeps all codes at 8 bits
    blocks = [pixels[start : start + 255] for start in range(0, len(pixels), 255)]
    data = b"".join(bytes([len(block)]) + block for block in blocks)
    screen = struct.pack("<HHBBB", _SIZE, _SIZE, 0xF6, 0, 0) + bytes(128 * 3)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, _SIZE, _SIZE, 0) + b"\x07" + data + b"\x00;"


def build_webp() -> bytes:
    """Return a WebP of 64 x 64 pixels in one color."""
    size = (_SIZE - 1) | (_SIZE - 1) << 14 | 1 << 28
    content = b"\x2f" + struct.pack("<I", size) + bytes.fromhex("071011118888fe07")
    chunk = b"WEBPVP8L" + struct.pack("<I", len(content)) + content + b"\x00" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(chunk)) + chunk


MAX_TOKENS = 1_024
"""Value of `max_tokens` in probes. Reasoning models use a share of it before the reply."""
LOW_MAX_TOKENS = 16
"""Value of `max_tokens` in the probe of the output limit: the lowest value that all providers accept."""
EXCESSIVE_MAX_TOKENS = 10_000_000
"""Value of `max_tokens` above the limit of every model. The provider's error states the real limit."""
WEATHER_TOOL: Mapping[str, Any] = {
    "name": "get_weather",
    "description": "Return the current weather of one city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
"""Definition of a client tool that probes offer."""
_ORDER: Mapping[str, Any] = {
    "name": "place_order",
    "description": "Place an order.",
    "input_schema": {
        "type": "object",
        "properties": {
            "item": {"$ref": "#/$defs/item"},
            "count": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
        },
        "required": ["item"],
        "additionalProperties": False,
        "$defs": {"item": {"type": "string", "enum": ["tea", "coffee"]}},
    },
}
_STRICT: Mapping[str, Any] = {
    **WEATHER_TOOL,
    "strict": True,
    "input_schema": {**WEATHER_TOOL["input_schema"], "additionalProperties": False},
}
_READ: Mapping[str, Any] = {
    "name": "Read",
    "description": "Return the content of a file.",
    "input_schema": {"type": "object", "properties": {"file_path": {"type": "string"}}, "required": ["file_path"]},
}
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    "required": ["city", "country"],
    "additionalProperties": False,
}
_BOTH_CITIES = "What is the weather in Oslo and Rome? Call get_weather once for each city, both at the same time."
_NAME_COLORS: Mapping[str, Any] = {"type": "text", "text": "Name the colors of the picture. Write only their names."}
_CALL_ID = "toolu_01Doctor0000000000000001"


class Probe(Struct, frozen=True):
    """Test request of the doctor for one feature, with a check of the result."""

    name: str
    """Name in the report: `images`."""
    body: Mapping[str, Any]
    """Request of the Messages API, without `model`."""
    check: Check = _accept
    """By default, the reply may have any content."""
    proof: Check | None = None
    """Check that passes only if the feature works. If only this check fails, the server accepts the request without
    effect. None: `check` is enough."""
    candidates: Sequence[Mapping[str, object]] = ()
    """Changes of dialect fields to try if the check fails, in this order."""
    requires: str = ""
    """Name of another probe that must succeed before. If its feature is unsupported, this probe is skipped. "":
    none."""
    is_feature: bool = False
    """True if every backend gets the probe. False: only a server with an unknown dialect."""
    missing_effect: str = ""
    """Short text for the table if the server accepts the request without the expected effect: `no call`."""
    tests_effect: bool = False
    """True if the candidates are also tried if the server accepted the request without the expected effect."""

    def find_problem(self, result: ProbeResult) -> str:
        """Return why the probe failed. "": the result is as expected."""
        return self.check(result) if result.error is None else result.error.message


def _embed(media_type: str, data: bytes) -> Mapping[str, Any]:
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()},
    }


def _show(colors: Sequence[str]) -> Mapping[str, Any]:
    return _embed("image/png", build_picture(colors))


def build_request(text: str, *, stream: bool = True, **fields: Any) -> dict[str, Any]:
    """`fields`: further fields of the request."""
    return {"max_tokens": MAX_TOKENS, "stream": stream, "messages": [{"role": "user", "content": text}], **fields}


def build_tool_results_request(
    question: str, reply: Sequence[Mapping[str, Any]], *, after: str = "", **fields: Any
) -> dict[str, Any]:
    """Return a request in which the client sends the results of the tool calls in a reply.

    `question` is the first user message of the conversation. `after` is a text that follows the results.
    """
    results: list[Mapping[str, Any]] = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "sunny, 20 degrees"}
        for block in reply
        if block["type"] == "tool_use"
    ]
    if after:
        results.append({"type": "text", "text": after})
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": [*reply]},
        {"role": "user", "content": results},
    ]
    return {"max_tokens": MAX_TOKENS, "stream": True, "messages": messages, "tools": [WEATHER_TOOL], **fields}


_CALL = ({"type": "tool_use", "id": _CALL_ID, "name": "get_weather", "input": {"city": "Oslo"}},)
_OSLO = "What is the weather in Oslo?"
_OTHER_TYPES = (_embed("image/gif", build_gif()), _embed("image/webp", build_webp()))
_READ_CALL = {"type": "tool_use", "id": _CALL_ID, "name": "Read", "input": {"file_path": "x.png"}}
_READ_RESULT = {"type": "tool_result", "tool_use_id": _CALL_ID, "content": [_show(TOOL_COLORS)]}
_IMAGE_RESULT: Sequence[Mapping[str, Any]] = (
    {"role": "user", "content": "Read the file x.png and name its colors."},
    {"role": "assistant", "content": [_READ_CALL]},
    {"role": "user", "content": [_READ_RESULT]},
)
_LATE_SYSTEM: Sequence[Mapping[str, Any]] = (
    {"role": "user", "content": "Say exactly: one"},
    {"role": "assistant", "content": "one"},
    {"role": "system", "content": "Use lower case."},
    {"role": "user", "content": "Say exactly: two"},
)
THINKING_BODY: Mapping[str, Any] = build_request(
    _BOTH_CITIES, tools=[WEATHER_TOOL], output_config={"effort": "high"}, thinking={"type": "adaptive"}
)
"""Request with client tools, thinking and the effort `high`, for the probes of reasoning."""
LIMITS_BODY: Mapping[str, Any] = build_request("Say exactly: ready", stream=False, max_tokens=EXCESSIVE_MAX_TOKENS)
"""Request with an output limit that no model accepts."""

_LIMIT_FIELDS = ({"output_limit_field": "max_tokens"}, {"output_limit_field": "max_completion_tokens"})
_STREAM_CHANGES = (
    {"sends_include_usage": False},
    {"system_role": "system"},
    *({"thinking_tags": tags} for tags in (OPENED_THINKING_TAGS, (*OPENED_THINKING_TAGS, "unopened"))),
)
_INLINED = {"inlines_references": True}
_SCHEMA_CHANGES = ({"schema_rules": _INLINED}, {"schema_rules": {**_INLINED, "allows_basics_only": True}})
_RESULT_CHANGES = (
    {"omits_null_content": True},
    {"call_id_form": "nine"},
    {"call_id_form": "counted"},
    {"omits_null_content": True, "call_id_form": "nine"},
)
_IMAGE_CHANGES = tuple(
    {"image_types": ("image/jpeg", "image/png", *more)} for more in (["image/gif"], ["image/webp"], [])
)
_FORCED_CHANGES = ({"accepts_forced_tool": "any"}, {"accepts_forced_tool": "never"})
_REPLY_SCHEMA_CHANGES = ({"reply_schema_form": "json_object"}, {"reply_schema_form": "ask"})
_READY = "Say exactly: ready"
_FORCED = {"type": "tool", "name": "get_weather"}
_SINGLE = {"type": "auto", "disable_parallel_tool_use": True}
_CAPITAL = "Which city is the capital of France?"
_SCHEMA_OUTPUT = {"format": {"type": "json_schema", "schema": _SCHEMA}}


def _ask(content: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return build_request("", messages=[{"role": "user", "content": content}])


def _feature(name: str, body: Mapping[str, Any], check: Check = _accept, missing: str = "", **fields: Any) -> Probe:
    return Probe(name, body, check, is_feature=True, missing_effect=missing, **fields)


PROBES: Sequence[Probe] = (
    _feature("reply", build_request(_READY, stream=False), candidates=(*_LIMIT_FIELDS, {"always_stream": True})),
    _feature(
        "streaming",
        build_request("Count to 30", system="You are a test."),
        check_streamed_text,
        candidates=_STREAM_CHANGES,
        tests_effect=True,
    ),
    Probe(
        "output limit",
        build_request("Count to 60", stream=False, max_tokens=LOW_MAX_TOKENS),
        check_truncation,
        candidates=_LIMIT_FIELDS,
        tests_effect=True,
    ),
    _feature("tools", build_request(_BOTH_CITIES, tools=[WEATHER_TOOL]), check_tool_call, "no call"),
    Probe(
        "single tool call",
        build_request(_BOTH_CITIES, tools=[WEATHER_TOOL], tool_choice=_SINGLE),
        candidates=({"sends_parallel_tool_calls": False},),
    ),
    Probe(
        "forced tool",
        build_request("Hello", tools=[WEATHER_TOOL], tool_choice=_FORCED),
        check_tool_call,
        candidates=_FORCED_CHANGES,
    ),
    Probe("tool schema", build_request(_READY, tools=[_ORDER]), candidates=_SCHEMA_CHANGES),
    Probe("strict tool", build_request(_READY, tools=[_STRICT]), candidates=({"sends_strict": False},)),
    _feature("tool results", build_tool_results_request(_OSLO, _CALL), candidates=_RESULT_CHANGES),
    Probe(
        "text after tool results",
        build_tool_results_request(_OSLO, _CALL, after="Say exactly: sunny"),
        candidates=({"requires_message_after_results": True},),
    ),
    Probe(
        "late system message",
        build_request("", messages=_LATE_SYSTEM, system="You are a test."),
        candidates=({"mid_conversation_system": "remind"},),
    ),
    Probe("sampling", build_request(_READY, temperature=0.5, top_p=0.9), candidates=({"sampling_support": "never"},)),
    Probe("top_k", build_request(_READY, top_k=40), candidates=({"sends_top_k": False},)),
    _feature("stop sequences", build_request("Count to 9", stop_sequences=["5"]), check_stop_sequence, "ignored"),
    _feature(
        "structured output",
        build_request(_CAPITAL, stream=False, output_config=_SCHEMA_OUTPUT),
        check_schema,
        "ignored",
        candidates=_REPLY_SCHEMA_CHANGES,
        tests_effect=True,
    ),
    Probe(
        "structured output, streamed",
        build_request(_CAPITAL, output_config=_SCHEMA_OUTPUT),
        check_schema,
        candidates=({"reply_schema_exclusive": True},),
        tests_effect=True,
    ),
    _feature(
        "images",
        _ask([_NAME_COLORS, _show(USER_COLORS)]),
        check_image_accepted,
        "text only",
        proof=new_color_check(USER_COLORS),
    ),
    Probe(
        "image types",
        _ask([*_OTHER_TYPES, _NAME_COLORS]),
        check_image_media_types,
        candidates=_IMAGE_CHANGES,
        requires="images",
        tests_effect=True,
    ),
    _feature(
        "images in tool results",
        build_request("", messages=_IMAGE_RESULT, tools=[_READ]),
        check_image_accepted,
        "text only",
        proof=new_color_check(TOOL_COLORS),
    ),
)
"""All probes except thinking and limits, in the order in which they run. Later probes use the dialect found so far."""
TOOLS_PROBE_QUESTION = _BOTH_CITIES
"""User message of the probe `tools` and of `THINKING_BODY`."""
