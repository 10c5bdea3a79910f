"""Simulation of servers that refuse a part of each request, in words that the proxy does not know.

A seed draws a wire, a request, and a rule: the server refuses a field, a value, or two fields together, which the SDK
of its provider declares. Its words are random, or name another field. The same client has several conversations with
the server. `python -m tests.support.refusals [SEEDS] [WIRE]` prints the figures of each wire.
"""

import asyncio
import json
import random
import string
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from anthropic.types.message_create_params import MessageCreateParamsBase
from google.genai.types import GenerateContentConfig
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.hooks import PLAIN_FORM, Client
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.pdf import document, write_pdf

CONVERSATIONS = 18
"""The search for two parts that are refused only together takes up to 17."""
_TURNS = 3
Path = tuple[str, ...]
_TEXT = "Yes."
_REPLIES: Mapping[str, Any] = {
    "chat/completions": {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}]
    },
    "responses": {
        "id": "r",
        "object": "response",
        "status": "completed",
        "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": _TEXT}]}],
    },
    "generateContent": {
        "candidates": [{"content": {"parts": [{"text": _TEXT}], "role": "model"}, "index": 0, "finishReason": "STOP"}]
    },
    "api/chat": {"model": "m", "message": {"role": "assistant", "content": _TEXT}, "done": True, "done_reason": "stop"},
    "messages": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": _TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 1},
    },
}
"""End of the path of a request → reply."""
_OLLAMA_MODEL = {
    "capabilities": ["completion", "tools", "thinking"],
    "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40_960},
}
_KEY = "sk-test-0123456789"


@dataclass(frozen=True)
class SimulatedWire:
    settings: Mapping[str, str]
    model: str
    plain: Sequence[Path]
    """What may be left out of a request, by decision 0016. A path stands for all that begins with it."""
    has_betas: bool = False
    has_plain_schemas: bool = True
    """False: the wire sends the schemas of tools in their plainest form anyway."""


_SCHEMA_WORDS = (
    "description",  # which the proxy adds for keywords that it leaves out
    "additionalProperties",
    "minLength",
    "pattern",
    "format",
    "maximum",
    "default",
    "$schema",
    "strict",
)
WIRES: Mapping[str, SimulatedWire] = {
    "chat": SimulatedWire(
        {"OPENAI_API_KEY": _KEY, "OPENAI_WIRE": "chat"},
        "openai/gpt-4.1",
        [
            *((name,) for name in ("temperature", "top_p", "stream_options", "prompt_cache_key", "safety_identifier")),
            *((name,) for name in ("user", "parallel_tool_calls", "reasoning_effort")),
        ],
    ),
    "responses": SimulatedWire(
        {"OPENAI_API_KEY": _KEY, "OPENAI_WIRE": "responses"},
        "openai/gpt-5.2",
        [
            *((name,) for name in ("temperature", "top_p", "prompt_cache_key", "safety_identifier", "user")),
            *((name,) for name in ("parallel_tool_calls", "truncation", "reasoning")),
        ],
    ),
    "gemini": SimulatedWire(
        {"GEMINI_API_KEY": "test-0123456789"},
        "gemini/gemini-2.5-flash",
        [
            *(("generationConfig", name) for name in ("temperature", "topP", "topK", "thinkingConfig")),
            ("tools", "functionDeclarations", "parametersJsonSchema"),
        ],
    ),
    "cloud": SimulatedWire(
        {"ANTHROPIC_FOUNDRY_API_KEY": "test-0123456789", "FOUNDRY_BASE_URL": "http://127.0.0.1:8000/anthropic"},
        "foundry/claude-opus-4-6",
        [
            *((name,) for name in ("temperature", "top_p", "top_k", "thinking")),
            ("output_config", "effort"),
            *(("tools", name) for name in ("strict", "cache_control")),
            ("system", "cache_control"),
        ],
        has_betas=True,
    ),
    "ollama": SimulatedWire(
        {},
        "ollama/qwen3",
        [("think",), *(("options", name) for name in ("temperature", "top_p", "top_k"))],
        has_plain_schemas=False,
    ),
    "messages": SimulatedWire(
        {"OPENAI_API_KEY": _KEY, "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1", "OPENAI_WIRE": "messages"},
        "openai/own-model",
        [
            *((name,) for name in ("temperature", "top_p", "top_k", "metadata")),
            ("output_config", "effort"),
            *(("tools", name) for name in ("strict", "cache_control", "defer_loading")),
            ("system", "cache_control"),
        ],
        has_betas=True,
    ),
}
_FORM_BETAS = (
    *("effort-2025-11-24", "interleaved-thinking-2025-05-14", "context-management-2025-06-27"),
    *("prompt-caching-scope-2026-01-05", "thinking-display-updates-2026-08-18"),
)
_KEPT_BETAS = ("mcp-client-2025-11-20", "structured-outputs-2025-11-13", "web-search-2025-03-05")
_DOCUMENT = document(write_pdf("A deed"))
_DATA, _THOUGHT = "aGVsbG8gcGljdHVyZQ==", "A thought of an earlier turn."
_ESSENTIAL = ("model", "messages", "input", "contents", "instructions", "systemInstruction", "tools", "tool_choice")
_LEFT_OUT_TOGETHER = (
    {"temperature", "top_p", "top_k", "topP", "topK"},
    {"include", "reasoning"},
    {"parametersJsonSchema", "parameters"},
)
_OTHER_NAMES = ({"reasoning", "effort", "reasoning_effort"},)
"""Names of one field in several APIs."""
_UNTOUCHED = ("stop", "max_tokens", "max_completion_tokens", "max_output_tokens", "store", "stop_sequences")


@dataclass
class Figures:
    """Sums over seeds."""

    seeds: int = 0
    repairable: int = 0
    """Seeds whose server refuses what may be left out."""
    failed_before: int = 0
    """Requests that fail if nothing is repaired."""
    failed: int = 0
    """Requests that fail although what the server refuses may be left out."""
    repaired_honest: int = 0
    """Requests with a reply although the server refuses what must not be left out."""
    other_words: int = 0
    """Errors that are not the first words of the server."""
    innocent: int = 0
    """Parts that later conversations lack although the server accepts them."""
    lost_by_words: int = 0
    """The same, in seeds whose words name another field."""
    lost_content: int = 0
    """Turns without a picture, a document or thinking of an earlier turn, which no server of the simulation refuses."""
    by_words: int = 0
    """Requests with a reply after changes that the words of a refusal suggest, and no other ones. Words about another
    field never name one that is left out together with the refused one: they would be right."""
    late: int = 0
    """Seeds whose server begins to refuse inside of a conversation."""
    changed_prefixes: int = 0
    """Turns whose tools or system texts differ from those of the turn before, so that its cached prompt is lost."""
    lost_tokens: int = 0
    """Estimated tokens of these prompts."""
    further_calls: list[int] = field(default_factory=list)
    """Of each repairable seed: calls beyond one for each request."""
    notes: list[str] = field(default_factory=list)

    def add(self, other: "Figures") -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


def run_seed(wire_name: str, seed: int) -> Figures:
    return asyncio.run(_Simulation(wire_name, seed).run())


class _Simulation:
    def __init__(self, wire_name: str, seed: int) -> None:
        self.random = random.Random(f"{wire_name} {seed}")
        self.name = f"{wire_name} {seed}"
        self.wire = WIRES[wire_name]
        self.fields = _draw_request(self.random, wire_name)
        self.unknown_betas, self.betas = _draw_betas(self.random) if self.wire.has_betas else ((), ())
        self.media = self.random.choice(("", "image", "document"))
        self.has_thinking = self.random.random() < 0.5
        # the first conversation begins before the server refuses anything
        self.has_history = self.random.random() < 0.5
        self.calls = 0
        self.bodies: list[Any] = []
        self.refuses: Callable[[Any], bool] = lambda body: False
        self.begins_late = self.random.random() < 0.5
        """True if the server begins to refuse in the second turn of the first conversation."""
        self.has_begun = False
        self.words = ""
        self.changes: Sequence[str] = ()
        """Adaptations of the latest request."""

    async def run(self) -> Figures:
        figures = Figures(seeds=1)
        proxy = ProxyHarness(self._answer, **self.wire.settings)
        await self._post(proxy, "with content", [_TEXT], has_content=True)
        marks = [mark for mark in (_DATA, _DOCUMENT["source"]["data"], _THOUGHT) if mark in json.dumps(self.bodies[-1])]
        await self._post(proxy, "hello", [])
        usual = self.bodies[-1]
        path, is_plain = self._draw_rule(usual)
        names_other = self.random.random() < 0.5
        self.words = self._draw_words(names_other=names_other, refused={name for each in path for name in each})
        self.calls = requests = 0
        for number in range(CONVERSATIONS):
            before = ""
            for turn in range(_TURNS):
                self.has_begun = bool(number or turn) or not self.begins_late
                replies = [_TEXT] * (turn + (10 if self.has_history and not number else 0))
                error = (await self._post(proxy, f"conversation {number}", replies, has_content=True)).error
                requests += 1
                if error is None:
                    text = json.dumps(self.bodies[-1]) if turn else ""
                    figures.lost_content += is_plain and not all(mark in text for mark in marks if turn)
                    is_plain_form = any(change.startswith(PLAIN_FORM) for change in self.changes)
                    figures.by_words += bool(self.changes) and not is_plain_form
                    prefix, size = _read_prefix(self.bodies[-1])
                    if turn and prefix != before:
                        figures.changed_prefixes += 1
                        figures.lost_tokens += size // 4
                    before = prefix
                figures.failed_before += is_plain and self.has_begun
                if error is None:
                    figures.repaired_honest += not is_plain and self.has_begun
                elif is_plain:
                    figures.failed += 1
                if error is not None and error.message != f"{self.wire.model.partition('/')[0]}: {self.words}":
                    figures.other_words += 1
                    figures.notes.append(f"{self.name}: {error.message!r}")
        if is_plain:
            figures.repairable = 1
            figures.late = int(self.begins_late)
            figures.further_calls.append(self.calls - requests)
            await self._post(proxy, "later", [])
            refused = _add_dependent({name for refused in path for name in refused})
            all_lost = list_paths(usual) - list_paths(self.bodies[-1])
            innocent = {lost for lost in all_lost if not refused & set(lost)}
            if {*path} <= all_lost and not _is_one_part(path):
                innocent.add(path[1])  # without the other one, the server accepts it
            figures.innocent += len(innocent)
            figures.lost_by_words += len(innocent) if names_other else 0
            if innocent or figures.failed or figures.lost_content:
                figures.notes.append(f"{self.name}: refused {path}, {self.words!r}: lost {sorted(innocent)}")
        elif figures.repaired_honest:
            figures.notes.append(f"{self.name}: refused {path}, {self.words!r}: a reply")
        return figures

    def _draw_rule(self, usual: Any) -> tuple[list[Path], bool]:
        """Set `refuses`. Return the refused paths, and whether one of them may be left out."""
        paths = sorted(path for path in list_paths(usual) if path)
        plain = [path for path in paths if any(path[: len(start)] == start for start in self.wire.plain)]
        words = _SCHEMA_WORDS if self.wire.has_plain_schemas else ()
        plain += [path for path in paths if path[-1] in words and path[0] == "tools" and path not in plain]
        plain += [(f"beta {beta}",) for beta in (*_FORM_BETAS, *self.unknown_betas) if (f"beta {beta}",) in paths]
        untouched = (*_ESSENTIAL, *_UNTOUCHED, *(f"beta {beta}" for beta in _KEPT_BETAS))
        other = [path for path in paths if path not in plain and path[0] in untouched]
        kind = self.random.choice(("field", "field", "value", "pair", "essential"))
        if kind == "essential" or not plain:
            chosen = [self.random.choice(other)]
            self.refuses = lambda body: chosen[0] in list_paths(body)
            return chosen, False
        chosen = [self.random.choice(plain)]
        if kind == "pair":
            chosen.append(self.random.choice([path for path in paths if path != chosen[0]]))
            self.refuses = lambda body: set(chosen) <= list_paths(body)
        elif kind == "value":
            values = list_values(usual, chosen[0])
            self.refuses = lambda body: list_values(body, chosen[0]) == values
        else:
            self.refuses = lambda body: chosen[0] in list_paths(body)
        return chosen, True

    def _draw_words(self, *, names_other: bool, refused: set[str]) -> str:
        if not names_other:
            return " ".join(_draw_word(self.random) for _ in range(self.random.randint(1, 8))) + "."
        together = (names for names in (*_LEFT_OUT_TOGETHER, *_OTHER_NAMES) if names & refused)
        refused = refused.union(*together)
        name = self.random.choice([name for name in list_sdk_fields() if name not in refused])
        return self.random.choice(
            (
                f"Unknown parameter: '{name}'.",
                f"Unsupported value: '{name}' does not support {_draw_word(self.random)} with this model.",
                f"{name}: {_draw_word(self.random)} is not possible here",
                f"Invalid request: field {name} is not permitted",
                f"`{name}` {_draw_word(self.random)} {_draw_word(self.random)}",
            )
        )

    async def _post(
        self, proxy: ProxyHarness, text: str, replies: Sequence[str], *, has_content: bool = False
    ) -> RecordingSink:
        """`has_content`: earlier turns have what the seed has drawn of pictures, documents and thinking."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
        for number, reply in enumerate(replies):
            blocks: list[dict[str, Any]] = [{"type": "text", "text": reply}]
            if has_content and self.has_thinking and not number:
                blocks.insert(0, {"type": "thinking", "thinking": _THOUGHT, "signature": "c2lnbmF0dXJl"})
            messages += [{"role": "assistant", "content": blocks}, {"role": "user", "content": "go on"}]
        if has_content and self.media and replies:
            picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _DATA}}
            shown = [{"type": "text", "text": "Look."}, picture if self.media == "image" else _DOCUMENT]
            messages[2:2] = [{"role": "user", "content": shown}, {"role": "assistant", "content": "I see."}]
        body = {"model": self.wire.model, "max_tokens": 8_000, "messages": messages, **self.fields}
        headers = {"anthropic-beta": ",".join(self.betas)} if self.betas else {}
        sink = RecordingSink()
        client = Client(name="same", key_id="key_a")
        incoming = new_client_request(json.dumps(body).encode(), headers, client=client)
        await Exchange(proxy.services, incoming, sink).run()
        self.changes = incoming.receipt.adaptations
        return sink

    def _answer(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        path = request.path.partition("?")[0]
        reply = next((reply for end, reply in _REPLIES.items() if path.lower().endswith(end.lower())), None)
        if reply is None:
            return FakeResponse(200, json.dumps(_OLLAMA_MODEL).encode())
        betas = filter(None, request.headers.get("anthropic-beta", "").split(","))
        body = {**json.loads(request.body), **{f"beta {beta}": True for beta in betas}}
        self.bodies.append(body)
        self.calls += 1
        if self.has_begun and self.refuses(body):
            return FakeResponse(400, json.dumps({"error": {"message": self.words}}).encode())
        return FakeResponse(200, json.dumps(reply).encode())


def _read_prefix(body: Any) -> tuple[str, int]:
    """Return the beginning of a prompt, and the number of characters of all of it."""
    fields = ("tools", "system", "instructions", "systemInstruction")
    return json.dumps([body.get(name) for name in fields], sort_keys=True), len(json.dumps(body))


def _add_dependent(names: set[str]) -> set[str]:
    """Add the names that are left out together with one of these."""
    for group in _LEFT_OUT_TOGETHER:
        if names & group:
            names |= group
    return names | {"include"}  # which asks for the state of the reasoning


def _is_one_part(paths: Sequence[Path]) -> bool:
    """Return True if the paths can be left out together only."""
    first, *others = paths
    is_inside = any(other[: len(first)] == first or first[: len(other)] == other for other in others)
    if all("cache_control" in path for path in paths):
        return True  # all cache marks are one part
    is_in_one_field = len(first) > 1 and all(path[:1] == first[:1] for path in others)
    return is_inside or is_in_one_field or {*paths[-1]} <= _add_dependent({*first})


def _draw_word(chosen: random.Random) -> str:
    return "".join(chosen.choices(string.ascii_lowercase, k=chosen.randint(3, 9)))


def _draw_request(chosen: random.Random, wire: str) -> dict[str, Any]:
    """Return the fields of the client's requests besides model, limit and messages."""
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    if chosen.random() < 0.5:
        schema |= {"additionalProperties": False, "$schema": "https://json-schema.org/draft/2020-12/schema"}
    limited = {"type": "object", "properties": {"b": {"type": "string", "minLength": 1, "pattern": "^x"}}}
    tools: list[dict[str, Any]] = [{"name": "f", "input_schema": schema}, {"name": "g", "input_schema": limited}]
    if chosen.random() < 0.3 and "additionalProperties" in schema:
        tools[0]["strict"] = True
    if chosen.random() < 0.5:
        tools[-1]["cache_control"] = {"type": "ephemeral"}
    optional: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "metadata": {"user_id": "u"},
        "tools": tools,
        "stop_sequences": ["END"],
        "output_config": {"effort": chosen.choice(("low", "medium", "high"))},
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    }
    if wire != "messages":
        optional["thinking"] = {"type": "enabled", "budget_tokens": 2_000}
    names = [name for name in optional if chosen.random() < 0.7]
    drawn = {name: optional[name] for name in names}
    if "tools" not in drawn:
        drawn.pop("tool_choice", None)
    if "thinking" in drawn:
        drawn.pop("temperature", None)
        drawn.pop("top_p", None)
    return drawn


def _draw_betas(chosen: random.Random) -> tuple[Sequence[str], Sequence[str]]:
    """Return the betas of a client that the proxy does not know, and all of its betas."""
    names = (f"{_draw_word(chosen)}-{_draw_word(chosen)}" for _ in range(chosen.randint(0, 3)))
    unknown = [f"{name}-2026-12-{chosen.randint(1, 31):02}" for name in names]
    known = [beta for beta in (*_FORM_BETAS, *_KEPT_BETAS) if chosen.random() < 0.4]
    betas = [*known, *unknown]
    chosen.shuffle(betas)
    return unknown, betas


def list_paths(value: Any, start: Path = ()) -> set[Path]:
    """Return the paths of all values in a body. Lists are passed through."""
    if isinstance(value, dict):
        return {path for name, inner in value.items() for path in list_paths(inner, (*start, name))} | {start}
    if isinstance(value, list):
        return {path for inner in value for path in list_paths(inner, start)} | {start}
    return {start}


def list_values(value: Any, path: Path) -> list[str]:
    """Return the values at a path, as JSON."""
    if isinstance(value, list):
        return [found for inner in value for found in list_values(inner, path)]
    if not path:
        return [json.dumps(value, sort_keys=True)]
    return list_values(value[path[0]], path[1:]) if isinstance(value, dict) and path[0] in value else []


@cache
def list_sdk_fields() -> tuple[str, ...]:
    """Return the fields of requests that the SDKs of OpenAI, Anthropic and Google declare."""
    types = (CompletionCreateParamsBase, ResponseCreateParamsBase, MessageCreateParamsBase)
    names = {name for declared in types for name in typing.get_type_hints(declared)}
    return tuple(sorted(names | {*GenerateContentConfig.model_fields}))


def main(seeds: str = "100", *chosen: str) -> None:
    for name in chosen or WIRES:
        figures = Figures()
        for seed in range(int(seeds)):
            figures.add(run_seed(name, seed))
        print("\n".join(figures.notes[:40]))
        print(_describe(name, figures))


def _describe(name: str, figures: Figures) -> str:
    calls = sorted(figures.further_calls)
    parts: Iterator[str] = (
        f"{each.name} {getattr(figures, each.name)}" for each in fields(figures) if each.type is int
    )
    return f"{name}: {', '.join(parts)}; further calls median {calls[len(calls) // 2]}, worst {calls[-1]}"


if __name__ == "__main__":
    main(*sys.argv[1:])
