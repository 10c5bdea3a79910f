"""Scripted replies in Gemini's format: as one body, or in the pieces of a stream.

The shapes are those of recorded traffic of both doors (2025 and 2026): every piece repeats the usage so far, calls come
whole, the signature stands at the first call or at an empty text at the end.
"""

import json
import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.fakes.gemini.models import Model
from tests.support.fakes.gemini.signatures import Signatures
from tests.support.fakes.scripted_model import Call, Reply

Part = dict[str, Any]

_LETTERS = string.ascii_letters + string.digits
_PIECE = re.compile(r"\s*\S{1,6}|\s+")
_PIECES_AT_ONCE = 6
_THOUGHT_TOKENS = 64
_THOUGHTS = (
    "**Reading the request**\n\nI see what is asked for.\n\n\n",
    "**Choosing a step**\n\nI know what to do.\n\n\n",
)


def new_id(length: int, chance: random.Random) -> str:
    return "".join(chance.choice(_LETTERS) for _ in range(length))


@dataclass
class GeneratedReply:
    """A reply in parts, each with its tokens, within the request's limit."""

    parts: list[tuple[Part, int]]
    finish: str
    message: str = ""
    thoughts: int = 0
    grounding: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.parts)


def ground(text: str, query: str) -> dict[str, Any]:
    """Return the metadata of the search that an answer rests on: its first sentence does."""
    first = text[: text.find(".") + 1]
    pages = [
        {"web": {"uri": "https://vertexaisearch.cloud.google.com/grounding-api-redirect/AUZI", "title": "example.org"}},
        {"web": {"uri": "https://vertexaisearch.cloud.google.com/grounding-api-redirect/BUZI", "title": "example.net"}},
    ]
    segment = {"startIndex": 0, "endIndex": len(first.encode()), "text": first}
    return {
        "webSearchQueries": [query, f"{query} today"],
        "searchEntryPoint": {"renderedContent": "<div>what must be shown</div>"},
        "groundingChunks": pages,
        "groundingSupports": [{"segment": segment, "groundingChunkIndices": [0, 1]}],
    }


class Speaker:
    """The writer of one model's replies to one request."""

    def __init__(self, body: dict[str, Any], name: str, model: Model, signatures: Signatures, chance: random.Random):
        self._name = name
        self._model = model
        self._signatures = signatures
        self._chance = chance
        config = body.get("generationConfig") or {}
        thinking = config.get("thinkingConfig") or {}
        level = str(thinking.get("thinkingLevel") or model.default_level).lower()
        self._thinks = (
            model.thinks and thinking.get("thinkingBudget") != 0 and not (model.levels and level == "minimal")
        )
        self._shows = bool(thinking.get("includeThoughts"))
        self._combines = bool((body.get("toolConfig") or {}).get("includeServerSideToolInvocations"))
        self._left = config.get("maxOutputTokens") or model.output
        self._stops = config.get("stopSequences") or []

    def generate(self, reply: Reply) -> GeneratedReply:
        """Return the reply in parts; where the limit is reached it ends there, with MAX_TOKENS."""
        thoughts = min(_THOUGHT_TOKENS, self._left) if self._thinks else 0
        self._left -= thoughts
        parts: list[tuple[Part, int]] = []
        if thoughts and self._shows:
            parts += [({"text": text, "thought": True}, 0) for text in _THOUGHTS]
        parts += self._text(reply.text)
        signed = self._model.signs or self._thinks
        for number, call in enumerate(reply.calls):
            if self._left > 0:
                parts.append(self._call(call, signed=signed and number == 0))
        if reply.calls and self._combines:
            parts = self._search(parts)
        if self._model.signs and not reply.calls:
            parts.append(({"text": "", "thoughtSignature": self._signatures.give(self._name)}, 0))
        cut = "MAX_TOKENS" if self._left < 0 else ""
        message = "Model generated function call(s)." if reply.calls and not cut else ""
        return GeneratedReply(parts, cut or reply.finish or "STOP", message, thoughts)

    def _search(self, parts: list[tuple[Part, int]]) -> list[tuple[Part, int]]:
        """Return calls with a search of the model beside them. Its result is only in the signature (recorded 2026)."""
        queries = {"queries": ["rules of addition"]}
        search = {"toolType": "GOOGLE_SEARCH_WEB", "id": new_id(8, self._chance)}
        shown = {"response": {"search_suggestions": "<b>rules</b>"}}
        begin = {"toolCall": search | {"args": queries}, "thoughtSignature": self._signatures.give(self._name)}
        end = {"toolResponse": search | shown, "thoughtSignature": self._signatures.give(self._name)}
        own: list[Part] = [begin, end]
        calls = [part["functionCall"]["id"] for part, _ in parts if "functionCall" in part]
        self._signatures.own_parts += own
        self._signatures.beside |= dict.fromkeys(calls, own)
        unsigned = [
            ({"functionCall": part["functionCall"]} if "functionCall" in part else part, n) for part, n in parts
        ]
        return [(begin, 0), *unsigned, (end, 0)]

    def _text(self, text: str) -> list[tuple[Part, int]]:
        ends = [text.index(one) for one in self._stops if one in text]
        pieces = _PIECE.findall(text[: min(ends)] if ends else text)
        kept = pieces[: max(self._left, 0)]
        self._left -= len(pieces)
        steps = range(0, len(kept), _PIECES_AT_ONCE)
        groups = [kept[start : start + _PIECES_AT_ONCE] for start in steps]
        return [({"text": "".join(group)}, len(group)) for group in groups]

    def _call(self, call: Call, *, signed: bool) -> tuple[Part, int]:
        tokens = 3 + len(_PIECE.findall(json.dumps(call.arguments)))
        self._left -= tokens
        arguments = call.arguments if isinstance(call.arguments, dict) else {}
        called: dict[str, Any] = {"name": call.name, "args": arguments}
        if self._model.signs:
            called["id"] = new_id(8, self._chance)
        part: Part = {"functionCall": called}
        if signed:
            part["thoughtSignature"] = self._signatures.give(self._name, call.name)
        return part, tokens


def usage_of(prompt: int, cached: int, output: int, thoughts: int) -> dict[str, Any]:
    """Return the counts so far; zero counts are omitted."""
    counts: dict[str, Any] = {"promptTokenCount": prompt}
    if output:
        counts["candidatesTokenCount"] = output
    counts["totalTokenCount"] = prompt + output + thoughts
    if cached:
        counts["cachedContentTokenCount"] = cached
    counts["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": prompt}]
    return counts | ({"thoughtsTokenCount": thoughts} if thoughts else {})


def _candidate(parts: list[Part], generated: GeneratedReply | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if generated is not None:
        candidate["finishReason"] = generated.finish
        if not parts:
            del candidate["content"]
        if generated.message:
            candidate["finishMessage"] = generated.message
        if generated.grounding:
            candidate["groundingMetadata"] = generated.grounding
    return candidate


def body_of(generated: GeneratedReply, tail: dict[str, Any], prompt: int, cached: int) -> dict[str, Any]:
    """Return the reply that is not streamed: pieces of text are one part."""
    parts: list[Part] = []
    for part, _ in generated.parts:
        last = parts[-1] if parts else {}
        joins = "text" in part and "text" in last and part.get("thought") == last.get("thought")
        if joins:
            parts[-1] = last | part | {"text": last["text"] + part["text"]}
        else:
            parts.append(part)
    usage = usage_of(prompt, cached, generated.tokens, generated.thoughts)
    return {"candidates": [_candidate(parts, generated)], "usageMetadata": usage} | tail


def chunks_of(generated: GeneratedReply, tail: dict[str, Any], prompt: int, cached: int) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a stream. The last one has the finish reason and the results of a search."""
    output = 0
    signed_end = generated.parts and generated.parts[-1][0].get("text") == ""
    for part, tokens in generated.parts[:-1] if signed_end else generated.parts:
        output += tokens
        usage = usage_of(prompt, cached, output, generated.thoughts)
        yield {"candidates": [_candidate([part])], "usageMetadata": usage} | tail
    last = [generated.parts[-1][0]] if signed_end else [] if generated.finish == "SAFETY" else [{"text": ""}]
    usage = usage_of(prompt, cached, output, generated.thoughts)
    yield {"candidates": [_candidate(last, generated)], "usageMetadata": usage} | tail


def frame(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\r\n\r\n"
