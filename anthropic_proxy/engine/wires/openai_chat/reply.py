"""Structs of Chat Completions replies, and the conversion of replies that do not fit them.

The structs have only the fields that the decoder reads. Values of unexpected JSON types are converted or omitted, such
as a number as text (`convert_unusual_values`). Some fields are kept as raw JSON and decoded only where they are used;
one of them, `extra_content`, has Gemini's thought signature: opaque state of the reasoning, which later requests send
back.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.messages.models.raw_json import ABSENT, is_present
from anthropic_proxy.engine.wires.failures import is_error_stated
from anthropic_proxy.engine.wires.json_repair import parse_token_count
from anthropic_proxy.engine.wires.stated_costs import StatedCost


class FunctionCall(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Struct, gc=False):
    """Entry of `tool_calls`: a complete tool call, or a fragment of a tool call in a stream."""

    index: int | None = None
    """Index of the call in the reply. None: the server omits indexes."""
    id: str | None = None
    """Id of the tool call. None: a later fragment of the call, or a server without ids."""
    function: FunctionCall | None = None
    name: str | None = None
    """Name and arguments without `function` around them: Workers AI (AI-Worker-Proxy pull 10)."""
    arguments: str | None = None
    extra_content: Raw = ABSENT
    """Vendor field with a thought signature of Gemini, as JSON."""

    @property
    def is_empty(self) -> bool:
        if self.function is None and (self.name or self.arguments):
            self.function = FunctionCall(self.name, self.arguments)
        function = self.function
        has_call = self.id or (function is not None and (function.name or function.arguments))
        return not (has_call or is_present(self.extra_content))


class ChoiceDelta(Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    """Reasoning of the model, under the field name of DeepSeek and others."""
    reasoning: str | None = None
    """Reasoning of the model, under the field name of Groq and OpenRouter."""
    reasoning_details: Raw = ABSENT
    """Reasoning of the model as a JSON list of objects (OpenRouter)."""
    refusal: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    function_call: FunctionCall | None = None
    """The only tool call, or a fragment of it, from a server that answers in OpenAI's deprecated format of calls."""
    extra_content: Raw = ABSENT
    """Vendor field with a thought signature of Gemini, as JSON."""
    executed_tools: Raw = ABSENT
    annotations: Raw = ABSENT
    images: Raw = ABSENT
    """Generated images, as a JSON list of image parts (OpenRouter, "Image generation"; Vercel)."""

    @property
    def is_empty(self) -> bool:
        """True if the message has no text, no reasoning, no refusal, no tool call and no image."""
        content = self.content or self.reasoning_content or self.reasoning or self.refusal or self.calls
        return not content and not is_present(self.reasoning_details) and not is_present(self.images)

    @property
    def calls(self) -> list[ToolCallDelta] | None:
        """Tool calls: `tool_calls`, or `function_call` if there are none. Some servers send a call in both fields."""
        return self.nonempty_tool_calls or self.deprecated_calls

    @property
    def nonempty_tool_calls(self) -> list[ToolCallDelta]:
        """Entries of `tool_calls` that are not empty. Some servers send an entry with empty values in each chunk."""
        return [call for call in self.tool_calls or () if not call.is_empty]

    @property
    def deprecated_calls(self) -> list[ToolCallDelta] | None:
        """The call in `function_call`. None: no call. Some servers send the field with empty values in each chunk."""
        function = self.function_call
        is_call = function is not None and (function.name or function.arguments)
        return [ToolCallDelta(index=0, function=function)] if is_call else None


class ServerToolCounts(Struct, gc=False):
    web_search_requests: int | None = None


class TokenDetails(Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    """Tokens written to the cache, under the name of DashScope (vercel/ai packages/alibaba, 2026-11-23)."""
    cache_creation_tokens: int | None = None
    """The same of LiteLLM."""
    reasoning_tokens: int | None = None


class ChatUsage(Struct, gc=False):
    """Token counts (`usage`). Some servers send cache reads as `cached_tokens` or `prompt_cache_hit_tokens`, Mistral
    also as `num_cached_tokens` or in `prompt_token_details` (vercel/ai packages/mistral, 2026-11-23), LiteLLM and
    TrueFoundry under Anthropic's names (their pages about prompt caching, 2026-11-30)."""

    prompt_tokens: int | None = None
    """Input tokens, cached input included."""
    completion_tokens: int | None = None
    """Output tokens. Most servers include reasoning."""
    total_tokens: int | None = None
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None
    cached_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    num_cached_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    prompt_token_details: TokenDetails | None = None
    server_tool_use_details: ServerToolCounts | None = None


class Choice(Struct, gc=False):
    delta: ChoiceDelta | None = None
    message: ChoiceDelta | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    """The reason in the words of the provider behind OpenRouter or LiteLLM, such as `max_output_tokens`."""
    usage: ChatUsage | None = None
    """Token counts of the reply. Moonshot's streams have them here and not in `Chunk.usage`."""
    error: None = None
    """Error that ended the reply: OpenRouter's `NonStreamingChoice` and `StreamingChoice`. `convert_unusual_values`
    puts it into `Chunk.error`, so that usual chunks are not asked for it."""

    def choose_message_or_delta(self) -> ChoiceDelta | None:
        """Return `message`, or `delta` if `message` is missing or empty: Perplexity sends both (recorded 2026)."""
        if self.message is None or (self.delta is not None and self.message.is_empty):
            return self.delta
        return self.message

    def append(self, other: "Choice") -> None:
        """Add the content of `other`, which is a part of the same message."""
        piece, more = self.choose_message_or_delta(), other.choose_message_or_delta()
        self.finish_reason = self.finish_reason or other.finish_reason
        if piece is None or more is None:
            self.message = piece or more
            return
        for name in ("content", *_TEXT_FIELDS):
            setattr(piece, name, (getattr(piece, name) or "") + (getattr(more, name) or "") or None)
        piece.tool_calls = [*(piece.calls or ()), *(more.calls or ())]


class GroqExtension(Struct, gc=False):
    usage: ChatUsage | None = None
    error: None = None
    """Reason of a reply that ended early (console.groq.com/docs/api-reference), as in `Choice`."""


class Chunk(Struct, gc=False):
    choices: list[Choice] | None = None
    usage: ChatUsage | None = None
    x_groq: GroqExtension | None = None
    error: Raw = ABSENT


class Bill(Struct, gc=False):
    service_tier: str | None = None
    usage: StatedCost | None = None


def _fields_of(kind: type[Struct], field_type: object) -> tuple[str, ...]:
    return tuple(field.name for field in structs.fields(kind) if field.type == field_type)


_TEXT_FIELDS = tuple(name for name in _fields_of(ChoiceDelta, str | None) if name != "content")
REASONING_FIELDS = tuple(name for name in _TEXT_FIELDS if name != "refusal")
"""Fields of `ChoiceDelta` with reasoning as text, one for each field name that servers use."""
_RAW_FIELDS = _fields_of(ChoiceDelta, Raw)
_CALL_RAW_FIELDS = _fields_of(ToolCallDelta, Raw)
_COUNTED = frozenset(field.name for field in structs.fields(ChatUsage) if field.type != int | None)
decode_chunk = msgspec.json.Decoder(Chunk).decode
decode_bill = msgspec.json.Decoder(Bill).decode


def convert_unusual_values(content: Any) -> Any:
    """Return a chunk's decoded JSON with values of unexpected types converted. Unknown fields may be omitted."""
    if not isinstance(content, dict):
        return content
    usual: dict[str, Any] = {"usage": _usual_counts(content.get("usage"))}
    choices, groq = content.get("choices"), content.get("x_groq")
    places = (content, *(choices if isinstance(choices, list) else ()), groq)
    stated = (place for place in places if isinstance(place, dict) and is_error_stated(place.get("error")))
    usual |= _raw_fields(next(stated, {}), ("error",))
    if isinstance(choices, list):
        usual["choices"] = []
        for choice in (one for one in choices if isinstance(one, dict)):
            found = {"usage": _usual_counts(choice.get("usage"))}
            found |= {name: _usual_piece(choice.get(name)) for name in ("delta", "message")}
            reasons = ("finish_reason", "native_finish_reason")
            found |= {name: choice[name] for name in reasons if isinstance(choice.get(name), str)}
            usual["choices"].append(found)
    if isinstance(groq, dict):
        usual["x_groq"] = {"usage": _usual_counts(groq.get("usage"))}
    return usual


def _raw_fields(fields: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: Raw(msgspec.json.encode(fields[name])) for name in names if fields.get(name) is not None}


def _usual_piece(piece: Any) -> dict[str, Any] | None:
    if not isinstance(piece, dict):
        return None
    usual = _raw_fields(piece, _RAW_FIELDS)
    usual |= {name: piece[name] for name in _TEXT_FIELDS if isinstance(piece.get(name), str)}
    content = piece.get("content")
    parts = content if isinstance(content, list) else [content]
    if all(isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("type"), str)) for part in parts):
        # Mistral: a list of parts, reasoning among them
        usual["content"] = "".join(_text_of(part) for part in parts if not _is_thinking(part))
        usual.setdefault("reasoning_content", "".join(_text_of(part) for part in parts if _is_thinking(part)))
    elif content is not None:  # Cloudflare Workers AI with a schema: the value itself (recorded 2026)
        usual["content"] = msgspec.json.encode(content).decode()
    calls = piece.get("tool_calls")
    if isinstance(calls, dict):  # a stream of TGI (its pull 2954)
        calls = [calls]
    if isinstance(calls, list):
        usual["tool_calls"] = []
        for call in (one for one in calls if isinstance(one, dict)):
            found = _raw_fields(call, _CALL_RAW_FIELDS)
            index, call_id, function = call.get("index"), call.get("id"), call.get("function")
            if isinstance(index, int | str) and str(index).isdecimal():
                found["index"] = int(index)
            if isinstance(call_id, str | int):
                found["id"] = str(call_id)
            if isinstance(function, dict) or isinstance(call.get("name"), str):
                found["function"] = _usual_function(function if isinstance(function, dict) else call)
            usual["tool_calls"].append(found)
    if isinstance(piece.get("function_call"), dict):
        usual["function_call"] = _usual_function(piece["function_call"])
    return usual


def _usual_function(function: dict[str, Any]) -> dict[str, Any]:
    called, arguments = function.get("name"), function.get("arguments")
    if arguments == {} and not called:  # an empty call, like `""`
        arguments = None
    elif arguments is not None and not isinstance(arguments, str):  # some servers send the object itself
        arguments = msgspec.json.encode(arguments).decode()
    return {"name": called if isinstance(called, str) else None, "arguments": arguments}


def _usual_counts(counts: Any) -> dict[str, Any] | None:
    if not isinstance(counts, dict):
        return None
    return {
        name: _usual_counts(value) if name in _COUNTED else parse_token_count(value) for name, value in counts.items()
    }


def _is_thinking(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "thinking"


def _text_of(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    inner = part.get("thinking") if _is_thinking(part) else part.get("text")
    if isinstance(inner, list):
        return "".join(map(_text_of, inner))
    return inner if isinstance(inner, str) else ""
