"""Encoder of a prepared client request as a request of Google's `generateContent`.

The body has the conversation (`contents`), the tools, and `generationConfig` with limits, sampling and thinking. Gemini
accepts less freedom than the Messages API: a conversation begins and ends with a user message, the results of tool
calls follow the calls at once and have a message of their own, and a thought signature belongs to the part after it.
"""

import functools
import posixpath
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, structs

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import (
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    decode_nested_content,
    is_string_or_absent,
    json_string,
    name_url,
)
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.preparation.cleaning import call_as_text
from anthropic_proxy.engine.messages.server_tools import NOTHING_LISTED
from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.gemini.dialect import Dialect
from anthropic_proxy.engine.wires.gemini.schema import encode_reply_schema
from anthropic_proxy.engine.wires.gemini.tools import encode_tools
from anthropic_proxy.engine.wires.json_schema import REPLY_SCHEMA_PATH
from anthropic_proxy.engine.wires.message_encoder import CONTINUE_TEXT, EMPTY_JSON_STRING, join_json_strings
from anthropic_proxy.engine.wires.past_media import omit_past_media
from anthropic_proxy.engine.wires.shared_notes import (
    FOREIGN_THINKING_DROPPED,
    NO_EFFORT,
    NO_SAMPLING,
    NO_SERVICE_TIER,
    PREFILL_AS_TEXT,
    SCHEMA_AS_TEXT,
    SYSTEM_AS_REMINDER,
    media_as_text_note,
    renamed_effort_note,
)
from anthropic_proxy.engine.wires.thinking import SIGNATURE_PLACEHOLDERS, decode_signature
from anthropic_proxy.engine.wires.upstream_http import JSON_HEADERS, UpstreamRequest, select_fields

_encode = msgspec.json.Encoder().encode
_ANSWER_IN_JSON = "Answer with nothing but one JSON value that fits this JSON Schema:\n"


def encode_request(call: TranslatedCall[Dialect]) -> UpstreamRequest:
    notes: list[FidelityNote] = []
    if call.dialect.omits_past_media:
        call = omit_past_media(call, notes)
    request, dialect = call.request, call.dialect
    budget = WorkBudget("tools", max_steps_here=call.max_schema_steps, tool_names=call.client_tool_names)
    toolbox = encode_tools(call, notes, budget)
    thinking = _encode_thinking(call, notes)
    config: dict[str, Any] = {"maxOutputTokens": request.max_tokens}
    if dialect.sends_sampling:
        sampling = {"temperature": request.temperature, "topP": request.top_p, "topK": request.top_k}
        config |= {name: value for name, value in sampling.items() if value is not None}
    else:
        asked = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
        notes += [NO_SAMPLING[name] for name, value in asked.items() if value is not None]
    if thinking:
        config["thinkingConfig"] = thinking
    instruction: list[TextBlock] = []  # the reply schema, if it is sent as text
    if request.output_schema:
        if toolbox.tools and not dialect.accepts_schema_with_functions:
            notes.append(SCHEMA_AS_TEXT)
            schema = msgspec.json.format(bytes(request.output_schema), indent=-1).decode()
            instruction.append(TextBlock(json_string(_ANSWER_IN_JSON + schema)))
        else:
            lowered = dialect.schema_form == "lowered"
            config["responseMimeType"] = "application/json"
            with budget.error_field(REPLY_SCHEMA_PATH):
                budget.count_decoding_steps(request.output_schema)
                encoded = encode_reply_schema(decode_values(request.output_schema), budget, as_openapi=lowered)
            config["responseSchema" if lowered else "responseJsonSchema"] = encoded
    contents = _Contents(call, notes)
    for message in request.messages:
        contents.add_message(message)
    body: dict[str, Any] = {"contents": contents.finish(toolbox.user_instruction)}
    if system := [*request.system, *instruction]:
        body["systemInstruction"] = {"parts": [{"text": join_json_strings([block.text for block in system])}]}
    if toolbox.tools:
        body["tools"] = toolbox.tools
    if request.service_tier == "standard_only":
        notes.append(NO_SERVICE_TIER)
    if toolbox.tool_config:
        body["toolConfig"] = toolbox.tool_config
    body["generationConfig"] = config
    if call.continuation_token:
        body["continuationToken"] = call.continuation_token
    return UpstreamRequest(
        path=_path_of(call.model, call.streams_upstream),
        body=_encode(body),
        headers=JSON_HEADERS,
        notes=notes,
        enforces_schema="responseJsonSchema" in config,
    )


_COUNTED_FIELDS = frozenset(("contents", "systemInstruction", "tools", "generationConfig"))
"""Fields of Vertex AI's `countTokens` (`CountTokensConfig` of the official SDK google-genai 3.3)."""


def encode_count(call: TranslatedCall[Dialect], path: str) -> UpstreamRequest:
    """Encode a request to `countTokens`. AI Studio counts system text and tools only inside `generateContentRequest`
    (ai.google.dev/api/tokens, read 2026-11), Vertex AI has the fields themselves.
    """
    name = call.model.removeprefix("models/")
    path = path.replace("{model}", quote(name, safe=""))
    request = encode_request(call)
    if not call.dialect.counts_whole_request:
        return select_fields(request, path, _COUNTED_FIELDS)
    whole = {"model": f"models/{name}", **msgspec.json.decode(request.body, type=dict[str, Raw])}
    return structs.replace(request, path=path, body=_encode({"generateContentRequest": whole}))


@functools.lru_cache(maxsize=256)
def _path_of(model: str, stream: bool) -> str:
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"/models/{quote(model.removeprefix('models/'), safe='')}:{method}"


def _encode_thinking(call: TranslatedCall[Dialect], notes: list[FidelityNote]) -> dict[str, Any]:
    request, dialect = call.request, call.dialect
    effort = dict(dialect.effort_names).get(request.effort, request.effort)
    if dialect.thinking == "none":
        if effort not in ("default", "none"):
            notes.append(NO_EFFORT)
        return {}
    if effort != request.effort:
        notes.append(renamed_effort_note(request.effort, effort))
    config: dict[str, Any] = {}
    if request.returns_thinking and effort != "none":
        config["includeThoughts"] = True
    match dialect.thinking:
        case "level":
            if effort not in ("default", "none"):
                config["thinkingLevel"] = effort
        case "budget":
            if effort == "none":
                config["thinkingBudget"] = 0
            elif request.budget_tokens is not None:
                budget = max(request.budget_tokens, dialect.min_budget_tokens)
                config["thinkingBudget"] = min(budget, dialect.max_budget_tokens)
            elif effort != "default":
                config["thinkingBudget"] = dict(dialect.thinking_budgets)[effort]
    return config


_ANYTHING = Raw(b'"."')
_MEDIA = (ImageBlock, DocumentBlock)


class _TextPart(Struct, gc=False, rename="camel"):
    text: Raw
    thought_signature: str | UnsetType = UNSET


class _FunctionCall(Struct, gc=False):
    id: str | UnsetType
    name: str
    args: Raw


class _CallPart(Struct, gc=False, rename="camel"):
    function_call: _FunctionCall
    thought_signature: str | UnsetType = UNSET


class _FunctionResponse(Struct, gc=False):
    id: str | UnsetType
    name: str
    response: dict[str, Raw]
    parts: list[dict[str, Any]] | UnsetType = UNSET


class _ResultPart(Struct, gc=False, rename="camel"):
    function_response: _FunctionResponse


class _OwnPart(Struct, gc=False, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    tool_call: Raw | UnsetType = UNSET
    tool_response: Raw | UnsetType = UNSET
    thought_signature: str | UnsetType = UNSET


_Part = _TextPart | _CallPart | _ResultPart | _OwnPart | dict[str, Any]


class _Content(Struct, gc=False):
    role: str
    parts: list[_Part]


class _OwnCall(Struct, gc=False):
    args: dict[str, Any] = {}


class _CarriedPart(_OwnPart, gc=False, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    calls_before: int = 0
    """Number of the following calls after which the part is sent (`CALLS_BEFORE` in `stream.py`)."""


_decode_own = msgspec.json.Decoder(_CarriedPart).decode
_decode_own_call = msgspec.json.Decoder(_OwnCall).decode
_MAX_QUERIES = 16
"""Maximum number of queries of a reply whose texts are left out."""


def _texts_of_searches(parts: Iterable[_OwnPart]) -> frozenset[bytes]:
    """Return the texts in place of the blocks of searches, as JSON, which are left out beside the parts themselves."""
    queries: list[str] = []
    for part in parts:
        if part.tool_call is not UNSET:
            with suppress(msgspec.DecodeError):
                given = _decode_own_call(part.tool_call).args.get("queries")
                queries += [query for query in given if isinstance(query, str)] if isinstance(given, list) else []
    queries = queries[:_MAX_QUERIES]
    if not queries:
        return frozenset()
    runs = (queries[begin:end] for end in range(1, len(queries) + 1) for begin in range(end))
    texts = {call_as_text("web_search", {"query": ", ".join(run)}) for run in runs}
    return frozenset(bytes(json_string(text)) for text in (*texts, NOTHING_LISTED))


def _take_due(waiting: list[_CarriedPart], calls: int = 1) -> list[_Part]:
    """Remove the parts from `waiting` that follow after so many more calls, and return them."""
    for part in waiting:
        part.calls_before = max(0, part.calls_before - calls)
    due: list[_Part] = [part for part in waiting if not part.calls_before]
    waiting[:] = [part for part in waiting if part.calls_before]
    return due


class _Contents:
    """The encoded conversation. Each message is added in order, then `finish` returns the value of `contents`."""

    def __init__(self, call: TranslatedCall[Dialect], notes: list[FidelityNote]) -> None:
        self._call = call
        self._notes = notes
        self._contents: list[_Content] = []
        self._answers = False
        """True if the last content of the Gemini request has tool results. No other part is added to that content."""
        self._waiting: list[_Part] = []
        """Parts that the client sent between tool calls and their results. They are encoded after the results."""
        self._forgets = False
        """True if reasoning of an earlier reply was omitted, because its signature is unusable."""
        self._names: dict[str, str] = {}
        """Id of a tool call → name of the called tool. Gemini requires the name in each tool result."""
        dialect = call.dialect
        self._sends_ids = dialect.sends_call_ids
        self._replays_parts = dialect.replays_signatures and dialect.search_with_functions == "announced"
        self._placeholder = SIGNATURE_PLACEHOLDERS[dialect.placeholder_encoding] if dialect.requires_signatures else ""
        """Thought signature for the first call of a reply, if the history has none. "": the model requires none."""

    def add_message(self, message: Message) -> None:
        if message.role == "assistant":
            self._add_reply(message)
        elif message.role == "user":
            self._add_user_message(message)
        else:
            self._add_system_message(message)

    def _add_reply(self, message: Message) -> None:
        parts: list[_Part] = []
        signature = ""
        own = self._find_own_parts(message)
        placeholder = "" if own else self._placeholder
        shown = _texts_of_searches(own.values())
        waiting: list[_CarriedPart] = []
        for block in message.content:
            if type(block) is ToolUseBlock:
                self._names[block.id] = block.name
                call = _FunctionCall(block.id if self._sends_ids else UNSET, block.name, block.input)
                parts.append(_CallPart(call, signature or placeholder or UNSET))
                signature = placeholder = ""
                parts += _take_due(waiting)
            elif type(block) is TextBlock:
                if bytes(block.text) not in shown:
                    parts.append(_TextPart(block.text, signature or UNSET))
                    signature = ""
            elif id(block) in own:
                waiting.append(own[id(block)])
                parts += _take_due(waiting, 0)
                signature = ""
            elif type(block) is ThinkingBlock:
                state = decode_signature(self._call.dialect.signature_tag, block.signature)
                is_own = state is not None and state.model in (None, self._call.model)
                signature = (state and state.call_signature) or ""
                if not (is_own and signature and self._call.dialect.replays_signatures):
                    signature = ""
                    self._forgets = True
        self._put("model", parts + _take_due(waiting, sys.maxsize))

    def _add_user_message(self, message: Message) -> None:
        results: list[_Part] = []
        beside: list[dict[str, Any]] = []  # images that Gemini does not accept in a result
        others, self._waiting = self._waiting, []
        for block in message.content:
            if type(block) is ToolResultBlock:
                # JSON is sent as text: Gemini decodes numbers as doubles, and would change long integers
                inline: list[dict[str, Any]] = []
                output = (
                    block.content or EMPTY_JSON_STRING
                    if is_string_or_absent(block.content)
                    else self._read_result(block, inline, beside)
                )
                identity = block.tool_use_id if self._sends_ids else UNSET
                name = self._names.get(block.tool_use_id, "unknown")
                response = _FunctionResponse(identity, name, {"error" if block.is_error else "output": output})
                if inline:
                    response.parts = inline
                results.append(_ResultPart(response))
            elif type(block) is TextBlock:
                others.append(_TextPart(block.text))
            elif isinstance(block, _MEDIA):
                others.append(_encode_media(self._call, block, self._notes))
        results += beside
        self._put("user", results, answers=True)
        self._put("user", others)

    def _add_system_message(self, message: Message) -> None:
        texts = [bytes(block.text)[1:-1] for block in message.blocks if type(block) is TextBlock]
        reminders: list[_Part] = [
            _TextPart(Raw(rb'"<system-reminder>\n' + text + rb'\n</system-reminder>"')) for text in texts
        ]
        self._notes.append(SYSTEM_AS_REMINDER)
        last = self._contents[-1] if self._contents else None
        if last is not None and last.role == "model" and any(type(part) is _CallPart for part in last.parts):
            self._waiting += reminders
        else:
            self._put("user", reminders)

    def _find_own_parts(self, message: Message) -> dict[int, _CarriedPart]:
        """Return the parts about Google's own tools in a reply: `id()` of the thinking block that has it → part."""
        found: dict[int, _CarriedPart] = {}
        for block in message.content:
            if type(block) is not ThinkingBlock or not self._replays_parts:
                continue
            state = decode_signature(self._call.dialect.signature_tag, block.signature)
            if state is not None and state.encrypted and state.model == self._call.model:
                with suppress(msgspec.DecodeError, UnicodeEncodeError):  # it is another state
                    part = _decode_own(state.encrypted)
                    if (part.tool_call is UNSET) != (part.tool_response is UNSET):
                        found[id(block)] = part
        return found

    def finish(self, user_instruction: str) -> list[_Content]:
        """`user_instruction` follows the conversation. "": no text."""
        self._put("user", self._waiting)
        contents = self._contents
        if self._forgets:
            self._notes.append(FOREIGN_THINKING_DROPPED)
        if contents and contents[0].role == "model":
            contents.insert(0, _Content("user", [_TextPart(_ANYTHING)]))
        if contents and contents[-1].role == "model":
            self._notes.append(PREFILL_AS_TEXT)
            contents.append(_Content("user", [_TextPart(CONTINUE_TEXT)]))
        if user_instruction:
            self._put("user", [_TextPart(json_string(user_instruction))])
        return contents

    def _put(self, role: str, parts: list[_Part], *, answers: bool = False) -> None:
        if not parts:
            return
        last = self._contents[-1] if self._contents else None
        if last is not None and last.role == role and not answers and not self._answers:
            last.parts += parts
        else:
            self._contents.append(_Content(role, parts))
        self._answers = answers

    def _read_result(self, block: ToolResultBlock, inline: list[dict[str, Any]], beside: list[dict[str, Any]]) -> Raw:
        """Return the text of a result with a list of blocks. Its images go to `inline`, or `beside` the result."""
        texts: list[Raw] = []
        for inner in decode_nested_content(block.content):
            if isinstance(inner, TextBlock):
                texts.append(inner.text)
            elif isinstance(inner, _MEDIA):
                part = _encode_media(self._call, inner, self._notes)
                if "text" in part:
                    texts.append(json_string(part["text"]))
                elif self._call.dialect.accepts_media_in_results and "inlineData" in part:
                    inline.append(part)
                else:
                    beside.append(part)
        if len(texts) == 1:
            return texts[0]
        return Raw(b'"' + rb"\n".join(bytes(text)[1:-1] for text in texts) + b'"') if texts else EMPTY_JSON_STRING


_PDF = "application/pdf"
_PICTURES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
"""Media types of images that the models accept; GIF is not accepted ("Image understanding", 2026-11)."""
_TYPES = {".jpg": "image/jpeg", ".pdf": _PDF, **{kind.replace("image/", "."): kind for kind in _PICTURES}}
_OWN_PLACES = ("gs://", "https://generativelanguage.googleapis.com/")
"""URL prefixes of Google's own file storage, from which every model reads files."""


def accepts_media_url(dialect: Dialect, block: ImageBlock | DocumentBlock) -> bool:
    if not (dialect.accepts_file_urls or block.source.url.startswith(_OWN_PLACES)):
        return False
    return _media_type(block) in _allowed(block)


def _encode_media(
    call: TranslatedCall[Dialect], block: ImageBlock | DocumentBlock, notes: list[FidelityNote]
) -> dict[str, Any]:
    source = block.source
    kind = "image" if isinstance(block, ImageBlock) else "document"
    media_type = _media_type(block)
    sees = call.request.accepts_images if kind == "image" else call.request.accepts_pdf
    title = block.title if isinstance(block, DocumentBlock) else None
    if source.type == "url":
        if sees and accepts_media_url(call.dialect, block):
            return {"fileData": {"mimeType": media_type, "fileUri": source.url}}
        notes.append(media_as_text_note(kind, "", has_url=True))
        return {"text": f"[{kind}: {name_url(source.url)}]"}
    if sees and source.type == "base64" and media_type in _allowed(block):
        return {"inlineData": {"mimeType": media_type, "data": source.data}}
    notes.append(media_as_text_note(kind, media_type, has_url=False))
    return {"text": f"[{kind} omitted: {title or media_type or source.type}]"}


def _allowed(block: ImageBlock | DocumentBlock) -> tuple[str, ...]:
    return _PICTURES if isinstance(block, ImageBlock) else (_PDF,)


def _media_type(block: ImageBlock | DocumentBlock) -> str:
    source = block.source
    if source.media_type:
        return source.media_type
    by_name = _TYPES.get(posixpath.splitext(urlsplit(source.url).path)[1].lower())
    return by_name or (_PDF if isinstance(block, DocumentBlock) else "")
