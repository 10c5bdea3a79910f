"""Messages → `contents`: roles, parts, calls with their results, and the signatures that go with them."""

from typing import Any

from msgspec import Raw

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.types import (
    Block,
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    blocks_of,
    text_raw,
)
from anthropic_proxy.wire.carry import decode_carry
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.gemini.media import inline_part, media_part
from anthropic_proxy.wire.standing_notes import CONTINUED, FORGOTTEN, REMINDED

Part = dict[str, Any]

_PLACEHOLDERS = {
    "text": "skip_thought_signature_validator",
    "base64": "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I=",
}
"""Stands for a signature that the history does not have ("Thought signatures", section FAQ, 2026-11)."""
_CONTINUE = "Continue exactly from the end of your last message."
_NOTHING = Raw(b'""')


class Contents:
    """The conversation as it grows; `add` each message in order, then `finish`."""

    def __init__(self, call: Call, notes: list[Note]) -> None:
        self._call = call
        self._notes = notes
        self._contents: list[dict[str, Any]] = []
        self._answers = False
        """Whether the last content holds results: nothing else may join it."""
        self._waiting: list[Part] = []
        """What came between calls and their results; it is said after them."""
        self._forgets = False
        """Whether reasoning of an earlier reply is left out."""
        self._names: dict[str, str] = {}
        self._placeholder = _PLACEHOLDERS[call.dialect.placeholder]

    def add(self, place: int, message: Message) -> None:
        """Say one message, the `place`-th of the request."""
        if message.role == "assistant":
            self._add_reply(message.blocks)
        elif message.role == "system":
            parts = [{"text": _wrapped(block.text)} for block in message.blocks if isinstance(block, TextBlock)]
            self._notes.append(REMINDED)
            if self._has_open_calls():
                self._waiting += parts
            else:
                self._put("user", parts)
        else:
            self._add_user(place, message.blocks)

    def finish(self) -> list[dict[str, Any]]:
        """Return the contents: the first is the user's, and so is the last."""
        self._put("user", self._waiting)
        contents = self._contents
        if self._forgets:
            self._notes.append(FORGOTTEN)
        if contents and contents[0]["role"] == "model":
            contents.insert(0, {"role": "user", "parts": [{"text": "."}]})
        if contents and contents[-1]["role"] == "model":
            self._notes.append(CONTINUED)
            contents.append({"role": "user", "parts": [{"text": _CONTINUE}]})
        return contents

    def _put(self, role: str, parts: list[Part], *, answers: bool = False) -> None:
        if not parts:
            return
        last = self._contents[-1] if self._contents else None
        if last is not None and last["role"] == role and not answers and not self._answers:
            last["parts"] += parts
        else:
            self._contents.append({"role": role, "parts": parts})
        self._answers = answers

    def _has_open_calls(self) -> bool:
        last = self._contents[-1] if self._contents else None
        return last is not None and last["role"] == "model" and any("functionCall" in part for part in last["parts"])

    def _add_reply(self, blocks: list[Block]) -> None:
        parts: list[Part] = []
        signature = ""
        is_first_call = self._call.dialect.needs_signatures
        for block in blocks:
            if isinstance(block, ThinkingBlock):
                signature = self._signature_in(block)
                continue
            part: Part
            if isinstance(block, ToolUseBlock):
                self._names[block.id] = block.name
                part = {"functionCall": self._identity(block.id) | {"name": block.name, "args": block.input}}
                signature = signature or (self._placeholder if is_first_call else "")
                is_first_call = False
            elif isinstance(block, TextBlock):
                part = {"text": block.text}
            else:
                continue
            if signature:
                part["thoughtSignature"] = signature
                signature = ""
            parts.append(part)
        self._put("model", parts)

    def _signature_in(self, block: ThinkingBlock) -> str:
        """Return the signature that a thinking block carries for the part after it; "": none that this model takes."""
        carry = decode_carry(self._call.dialect.carry_tag, block.signature)
        wrote, reads = carry.model if carry else "", self._call.model
        if carry is None or not (
            carry.call_signature and self._call.dialect.replays_signatures and wrote in (None, reads)
        ):
            self._forgets = True
            return ""
        return carry.call_signature

    def _add_user(self, place: int, blocks: list[Block]) -> None:
        results: list[Part] = []
        beside: list[Part] = []
        others: list[Part] = []
        for block in blocks:
            if isinstance(block, ToolResultBlock):
                results.append(self._encode_result(place, block, beside))
            else:
                others += self._encode_block(place, block)
        self._put("user", results + beside, answers=True)
        self._put("user", [*self._waiting, *others])
        self._waiting = []

    def _encode_result(self, place: int, block: ToolResultBlock, beside: list[Part]) -> Part:
        """Say one result; pictures that cannot stand in it are added to `beside`.

        The text stays text even where it is JSON: the wire's numbers are doubles, which would change long ones.
        """
        texts: list[Raw] = []
        media: list[Part] = []
        for inner in blocks_of(block.content):
            for part in self._encode_block(place, inner):
                if "text" in part:
                    texts.append(part["text"] if isinstance(part["text"], Raw) else text_raw(part["text"]))
                else:
                    media.append(part)
        output = texts[0] if len(texts) == 1 else _joined(texts)
        response: Part = {
            **self._identity(block.tool_use_id),
            "name": self._names.get(block.tool_use_id, "unknown"),
            "response": {"error" if block.is_error else "output": output},
        }
        if self._call.dialect.results_hold_media:
            inline = [part for part in media if inline_part(part)]
            if inline:
                response["parts"] = inline
            beside += [part for part in media if not inline_part(part)]
        else:
            beside += media
        return {"functionResponse": response}

    def _identity(self, identifier: str) -> dict[str, Any]:
        return {"id": identifier} if self._call.dialect.says_call_ids else {}

    def _encode_block(self, place: int, block: Block) -> list[Part]:
        if isinstance(block, TextBlock):
            return [{"text": block.text}]
        if isinstance(block, ImageBlock | DocumentBlock):
            return [media_part(self._call, block, self._notes)]
        return []


def _wrapped(text: Raw) -> Raw:
    return Raw(rb'"<system-reminder>\n' + bytes(text)[1:-1] + rb'\n</system-reminder>"')


def _joined(texts: list[Raw]) -> Raw:
    return Raw(b'"' + rb"\n".join(bytes(text)[1:-1] for text in texts) + b'"') if texts else _NOTHING
