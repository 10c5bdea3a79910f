"""Generated conversations as clients hold them, and the requests that carry them: each repeats all before it."""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import Raw

from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.wires.thinking import ReasoningState, digest_base_url, encode_signature
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from tests.support.fakes.openai_chat.samples import png
from tests.support.golden_runner import GoldenCase, find_cases
from tests.support.paths import GOLDEN

_PNG = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(3, 2)).decode()}
PICTURE: dict[str, Any] = {"type": "image", "source": _PNG}
_PDF = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(b"%PDF-1.4 one page").decode()}
PDF: dict[str, Any] = {"type": "document", "source": _PDF, "title": "deed.pdf"}
_SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "additionalProperties": True}
TOOLS: list[dict[str, Any]] = [
    {"name": "Read", "description": "Give the text of a file.", "input_schema": _SCHEMA},
    {"name": "mcp__files__look up", "description": "Find a file.", "input_schema": _SCHEMA},
    {"name": "Later", "description": "Loaded on demand.", "input_schema": _SCHEMA, "defer_loading": True},
    {"name": "2nd.tool", "input_schema": {"type": "object", "properties": {}}},
]


@dataclass(frozen=True)
class EncodingStyle:
    """Differences between two requests of one client with the same meaning."""

    nonce: str = "0a1"
    """Of the line that bills."""
    marks: bool = True
    """True if the ends of tools, system prompt and messages carry `cache_control`."""
    plain: bool = False
    """True if a message of one text is a string."""
    turned: bool = False
    """True if the results of one step come in the opposite order."""


@dataclass(frozen=True)
class Session:
    """A whole conversation. Thinking has `px1.own` as its signature until `signed` gives it the backend's own."""

    system: list[str]
    messages: list[dict[str, Any]]

    def ends(self) -> list[int]:
        """Return the lengths at which a client asks: wherever the assistant is next."""
        last = len(self.messages)
        is_reply = [message["role"] == "assistant" for message in self.messages] + [True]
        return [end for end in range(1, last + 1) if is_reply[end] and not is_reply[end - 1]]

    def signed(self, signature: str) -> "Session":
        def sign(block: dict[str, Any]) -> dict[str, Any]:
            return block | {"signature": signature} if block["type"] == "thinking" else block

        signed_messages = [message | {"content": list(map(sign, message["content"]))} for message in self.messages]
        return replace(self, messages=signed_messages)

    def request(self, end: int, style: EncodingStyle) -> dict[str, Any]:
        """Return the body that asks after the first `end` messages."""
        billing = f"x-anthropic-billing-header: cc_version=2.1.328.{style.nonce}; cc_entrypoint=sdk-cli;"
        texts: list[Any] = [{"type": "text", "text": text} for text in self.system]
        messages = [_spelled(message, style) for message in self.messages[:end]]
        tools = [dict(tool) for tool in TOOLS]
        if style.marks:
            for blocks in (texts, tools, messages[-1]["content"]):
                if blocks and isinstance(blocks, list):
                    blocks[-1] = blocks[-1] | {"cache_control": {"type": "ephemeral"}}
        body: dict[str, Any] = {"model": "claude-sonnet-4-5", "max_tokens": 4_000, "tools": tools, "messages": messages}
        body["system"] = [{"type": "text", "text": billing}, *texts]
        return body | {"metadata": {"user_id": json.dumps({"device_id": "d", "session_id": "one"})}}


def _spelled(message: dict[str, Any], style: EncodingStyle) -> dict[str, Any]:
    content = list(message["content"])
    if style.turned:
        results = [block for block in content if block["type"] == "tool_result"]
        content = results[::-1] + content[len(results) :]
    if style.plain and [block["type"] for block in content] == ["text"]:
        return {"role": message["role"], "content": content[0]["text"]}
    return {"role": message["role"], "content": content}


texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
text_blocks = texts.map(lambda text: {"type": "text", "text": text})
media = st.sampled_from([PICTURE, PDF])
encoding_styles = st.builds(
    EncodingStyle, st.text("0123456789abcdef", min_size=3, max_size=3), st.booleans(), st.booleans(), st.booleans()
)
_contents = texts | st.lists(text_blocks | media, max_size=3)
_names = st.sampled_from([tool["name"] for tool in TOOLS])
_arguments = st.dictionaries(st.sampled_from(["path", "line", "q"]), texts | st.integers(-9, 9) | st.none(), max_size=2)


@st.composite
def steps(draw: st.DrawFn, ids: Any) -> list[dict[str, Any]]:
    """Give a reply that calls tools and the message with their results, perhaps a system message after it."""
    blocks = [{"type": "thinking", "thinking": draw(texts), "signature": "px1.own"}] if draw(st.booleans()) else []
    blocks += draw(st.lists(text_blocks, max_size=2))
    calls = draw(st.lists(st.tuples(_names, _arguments), min_size=1, max_size=3))
    uses = [{"type": "tool_use", "id": next(ids), "name": name, "input": given} for name, given in calls]
    results: list[dict[str, Any]] = []
    for use in draw(st.permutations(uses)):
        results.append({"type": "tool_result", "tool_use_id": use["id"], "content": draw(_contents)})
        if draw(st.integers(0, 4)) == 0:
            results[-1]["is_error"] = True
    after = draw(st.lists(text_blocks, max_size=1))
    exchanged_messages = [{"role": "assistant", "content": blocks + uses}, {"role": "user", "content": results + after}]
    return exchanged_messages + draw(late_systems)


_system_texts = st.lists(text_blocks, max_size=2)  # one without any changes nothing but the effort
late_systems = st.lists(_system_texts.map(lambda blocks: {"role": "system", "content": blocks}), max_size=1)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """Give a conversation that ends where the client asks, or with a reply."""
    forms = st.sampled_from(["toolu_{:04d}", "functions.Read:{}", "call_{:060d}"])
    form = draw(forms)
    ids = (form.format(number) for number in range(1_000))
    messages: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 3))):
        content = draw(st.lists(text_blocks | media, min_size=1, max_size=3))
        messages += [{"role": "user", "content": content}, *draw(late_systems)]
        for _ in range(draw(st.integers(0, 2))):
            messages += draw(steps(ids))
        thought = [{"type": "thinking", "thinking": draw(texts), "signature": "px1.own"}]
        ending = draw(st.lists(text_blocks, min_size=1, max_size=2))
        messages.append({"role": "assistant", "content": (thought if draw(st.booleans()) else []) + ending})
    return Session(draw(st.lists(texts, max_size=2)), messages)


class SessionStep:
    """One target of the golden scenarios, with its dialect and model facts; encodes other requests too."""

    def __init__(self, folder: Path) -> None:
        self.scenario = GoldenCase(folder)
        self.wire = folder.parent.parent.name
        self.name = str(folder.relative_to(GOLDEN))
        self.dialect = self.scenario.target.dialect

    def signature(self) -> str:
        tag = getattr(self.dialect, "signature_tag", "own")
        address = digest_base_url(self.scenario.target.base_url)
        carry = ReasoningState(
            item_id="rs_1", encrypted='[{"data":"gAAA"}]', call_signature="EpE=", server_digest=address, replay=1
        )
        return encode_signature(tag, carry)

    def encode_body(self, body: dict[str, Any]) -> UpstreamRequest:
        self.scenario.posted = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        self.scenario.request = decode_request(self.scenario.posted)
        return self.scenario.target.wire.encode_request(self.scenario.call())


@cache
def session_steps() -> list[SessionStep]:
    """Return one stage for each way in which some provider's model speaks some wire; not those that take no tools."""
    found: dict[Any, SessionStep] = {}
    for folder in find_cases():
        step = SessionStep(folder)
        facts = step.scenario.target.capabilities
        if facts.tools and getattr(step.dialect, "accepts_tools", True):
            found.setdefault((step.wire, step.dialect, facts.accepts_images, facts.accepts_pdf, facts.known), step)
    return list(found.values())


_MARK = rb',"cache_control":{"type":"ephemeral"}'
_MARKED_ALONE = re.compile(rb'\[{"type":"text","text":("(?:[^"\\]|\\.)*"),"cache_control":{"type":"ephemeral"}}\]')


def split(body: bytes) -> tuple[list[bytes], dict[str, bytes]]:
    """Return the messages of an upstream body and its other fields, each as the bytes that it is.

    Cache marks are left out: they move with the end of a conversation, and are not cached themselves.
    """
    body = _MARKED_ALONE.sub(rb"\1", body).replace(_MARK, b"")
    fields = msgspec.json.decode(body, type=dict[str, Raw])
    name = next(name for name in ("messages", "input", "contents") if name in fields)
    messages: Sequence[Raw] = msgspec.json.decode(fields.pop(name), type=list[Raw])
    return [bytes(one) for one in messages], {name: bytes(value) for name, value in fields.items()}
