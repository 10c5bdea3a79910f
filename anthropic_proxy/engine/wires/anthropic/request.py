"""Encoder of the relay wire: the bytes of the client request with the few edits that the provider requires.

Theory of operation. The edits replace `model`, and remove content that the provider would reject or must not receive,
such as signatures of other providers and the client's `metadata`. An edit is a range of the body with its new text
(`json_spans.Edit`). All edits of a step refer to the same body and are applied together, so they need no order. Every
byte outside of them stays as it is: prompt caches and signatures of the provider remain valid. Decoding costs much for
a long conversation, so a search for bytes finds out first whether there is anything to edit.

The Batches API is relayed in the same way: the end of the module edits the requests that create a batch, and the
responses that describe batches.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from itertools import groupby
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.fidelity import FidelityNote, Handling, note_replacement
from anthropic_proxy.engine.messages.models import require_bounded_members
from anthropic_proxy.engine.messages.models.decode import decode_blocks
from anthropic_proxy.engine.messages.models.raw_json import replace_lone_surrogates
from anthropic_proxy.engine.messages.preparation.cleaning import to_upstream_blocks
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.contract import Call, UpstreamRequest
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS
from anthropic_proxy.engine.wires.thinking import SIGNATURE_PREFIX
from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature

_TRACE_HEADERS = ("traceparent", "tracestate")
_NOT_FORWARDED_HEADERS = frozenset(
    (
        *("host", "content-length", "cookie", "accept-encoding", "expect"),
        *("x-api-key", "api-key", "authorization", "proxy-authorization"),
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *_TRACE_HEADERS,
        "x-project",
    )
)
"""Client headers that are not sent upstream: hop-by-hop headers, credentials, and headers that the proxy sets itself.
`x-project` names a project for the proxy's record of costs."""
_VERSION_HEADER, _VERSION = "anthropic-version", "2023-06-01"
"""API version that is added if the client request has none (source: the API reference, "Versions", read 2026-11)."""
_NEEDED_EVERYWHERE = frozenset((_VERSION_HEADER, "accept", "content-type"))
_BETA_HEADER, _ALL_BETAS = "anthropic-beta", ("*",)
_VERSION_FIELD, _BETA_FIELD = "anthropic_version", "anthropic_beta"
"""Fields of the body in the API of clouds."""
_MESSAGES_PATH, _COUNT_PATH = "/v1/messages", "/v1/messages/count_tokens"
_CLIENT_DATA = frozenset(("metadata", "safeguards"))

_OF_TOOLS = "tools."
_BETA_NAME = compile_later(r"[A-Za-z0-9_-]{1,100}")
ACCEPTED = "accepted"
"""First word of an adaptation: the server has accepted the betas that follow."""
MAX_LEARNED_BETAS = 64
"""Maximum number of betas that are remembered because of one request."""
_DATE_LENGTH = len("2025-05-14")
"""Length of the date at the end of the name of a beta."""
_DATE_OF_BETA = compile_later(r"20\d\d-[01]\d-[0-3]\d")
_FIELDS_OF_BETAS: Mapping[str, tuple[Handling, tuple[str, ...]]] = {
    "context_management": ("approximated", ("context-management-", "compact-")),
    "diagnostics": ("approximated", ("cache-diagnosis-",)),
    "fallbacks": ("approximated", ("server-side-fallback-",)),
    "mcp_servers": ("dropped", ("mcp-client-",)),
    "speed": ("approximated", ("fast-mode-",)),
}
"""Field of the body → what its loss is, and the beginnings of the betas that it requires: a server rejects it without
them. Source: code.claude.com/docs/en/llm-gateway-protocol, "Feature pass-through", read 2026-11-25."""
_MAX_LISTED_BETAS, _MAX_BETA_LENGTH = 10, 60
"""Maximum number of removed betas in a note, and of the characters of each. A client chooses both."""

_MARK = f'"{SIGNATURE_PREFIX}'.encode()
_SEARCHED = b'"web_search_'
"""Beginning of a block type that occurs in web search results and citations of them. A message without it has no such
blocks."""
_THINKING = b'thinking"'
"""End of the types of thinking blocks. A request without it has no signature that a provider could reject."""
_OF_SERVER_TOOLS = (b'_tool_result"', b'r_tool_use"', b'p_tool_use"')
"""Ends of the types of blocks with calls and results of server tools: `server_tool_use`, `mcp_tool_use` …"""
_DATE = compile_later(r"_\d{8}")
_SEALED = re.compile(rb'"encrypted_(?:content|index)"\s*:\s*"(?!px1\.)[^"]')
_BILLING = "x-anthropic-billing-header:"
_THINKING_TYPES = ("thinking", "redacted_thinking")
_FIELDS_OF_THINKING = ("thinking", "context_management")
_NO_THINKING = b'{"type":"disabled"}'
_CLEAR_THINKING = "clear_thinking_"
"""Beginning of the type of an edit in `context_management`, which the API rejects without thinking (source:
anthropics/claude-code issues 11231 and 11971)."""
_EMPTY = b'[{"type":"text","text":"\xe2\x80\xa6"}]'
"""Content that replaces a message's content if all of it was removed. Providers reject empty content."""


class _Block(Struct):
    type: str = ""
    id: str | None = None
    tool_use_id: str | None = None
    name: str | None = None
    signature: str | None = None
    data: str | None = None
    text: str | None = None
    content: Raw = Raw()
    citations: Raw = Raw()


class _Messages(Struct):
    messages: list[dict[str, Raw]] = []


class _Role(Struct):
    role: Raw = Raw()


class _Betas(Struct):
    anthropic_beta: list[str] = []


class Removals(Struct, frozen=True):
    dialect: Dialect
    provider: str = ""
    refused_signatures: Collection[bytes] = frozenset()
    """Digests of thinking signatures that the provider has rejected, and of calls whose replies must not think."""
    notes: list[FidelityNote] = []
    """Gets a note on each type of block that is sent as text."""


_SYSTEM, _USER, _NO_CONTENT = Raw(b'"system"'), Raw(b'"user"'), Raw(b'""')
_USER_ROLES = (_SYSTEM, _USER)
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_messages = msgspec.json.Decoder(_Messages).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_role = msgspec.json.Decoder(_Role).decode
_decode_betas = msgspec.json.Decoder(_Betas).decode
_decode_block = msgspec.json.Decoder(_Block).decode


def encode_request(call: Call[Dialect]) -> UpstreamRequest:
    headers, dialect = call.client_headers, call.dialect
    betas = select_betas(call)
    notes = [*betas.notes]
    field_notes: list[FidelityNote] = []
    added: dict[str, Any] = {}
    if dialect.version_in_body:
        added[_VERSION_FIELD] = _select_version(call, notes)
    if dialect.sends_betas_in_body and betas.sent:
        added[_BETA_FIELD] = betas.sent
    body = call.client_body
    if body:
        body = json_spans.edit(body, lambda text: _find_edits(text, call, added, betas.lost_fields, field_notes))
        if not dialect.accepts_system_messages:
            body = json_spans.edit(body, _find_reminder_edits)
    is_traced = "traceparent" in headers and dialect.forwards_client_headers
    if dialect.forwards_client_headers:
        sent_headers = {name: value for name, value in headers.items() if name not in _NOT_FORWARDED_HEADERS}
    else:
        sent_headers = {name: value for name, value in headers.items() if name in _NEEDED_EVERYWHERE}
    for name in headers.get("connection", "").split(","):
        sent_headers.pop(name.strip().lower(), None)
    if dialect.version_in_body:
        sent_headers.pop(_VERSION_HEADER, None)
    else:
        sent_headers.setdefault(_VERSION_HEADER, _VERSION)
    if betas.sent:
        sent_headers[_BETA_HEADER] = ",".join(betas.sent)
    elif _filters_betas(dialect):
        sent_headers.pop(_BETA_HEADER, None)
    if call.client_body:
        sent_headers.setdefault("content-type", "application/json")
    return UpstreamRequest(
        path=_build_path(call),
        body=body,
        headers=sent_headers,
        trace_headers={name: headers[name] for name in _TRACE_HEADERS if name in headers} if is_traced else {},
        method="POST" if call.client_body else "GET",
        notes=[*notes, *field_notes],
        proves=" ".join((ACCEPTED, *betas.tested)) if betas.tested else "",
    )


def _build_path(call: Call[Dialect]) -> str:
    """Return path and query of the request at the provider.

    Raises `InvalidRequest` for a model that cannot be part of a path.
    """
    dialect = call.dialect
    if dialect.count_path and call.client_path == _COUNT_PATH:
        return dialect.count_path
    if not _has_model_in_path(call):
        return f"{call.client_path}?{call.client_query}" if call.client_query else call.client_path
    if call.model.partition(";")[0] in ("", ".", ".."):
        raise InvalidRequest(f'model: "{call.model}" is not a model id.', code="model-name")
    path = dialect.stream_path if call.streams_upstream else dialect.message_path
    return path.replace("{model}", quote(call.model, safe=":@"))


def _has_model_in_path(call: Call[Dialect]) -> bool:
    return bool(call.dialect.message_path) and call.client_path == _MESSAGES_PATH


def _filters_betas(dialect: Dialect) -> bool:
    return dialect.betas != _ALL_BETAS or bool(dialect.removed_betas) or dialect.drops_rejected_fields


class SelectedBetas(Struct, frozen=True):
    sent: list[str] = []
    """Betas for the server. Empty if `_filters_betas` is False: the header of the client is forwarded."""
    tested: list[str] = []
    """The betas in `sent` that may be the cause of an earlier rejection."""
    is_search: bool = False
    """True if betas are left out that the server may accept."""
    lost_fields: Mapping[str, Handling] = {}
    """Fields of the body that require a beta which is left out."""
    notes: Sequence[FidelityNote] = ()


def select_betas(call: Call[Dialect]) -> SelectedBetas:
    """Choose the betas that the server accepts, of the header and of the body.

    If a server refuses a request without naming the beta (Amazon Bedrock), one or more of its betas are the cause.
    They are found by later requests that have such a set whole: these have the accepted betas and half of the smallest
    set. If that is accepted, the other half has the cause, else this one, until a set has one beta: the cause. Then
    all others are sent again. For n betas, each cause costs 1 + log2(n) refused requests at most.
    """
    dialect = call.dialect
    if not _filters_betas(dialect):
        return SelectedBetas()
    names = dict(dialect.renamed_betas)
    given = call.client_headers.get(_BETA_HEADER, "").split(",")
    found = dict[str, str]()  # name at the server → of the client
    refused = list[str]()
    for beta in filter(None, (part.strip() for part in (*given, *_read_body_betas(call.client_body)))):
        name = names.get(beta, beta)
        accepts = _BETA_NAME.fullmatch(name) and (_matches(name, dialect.betas) or is_later(name, dialect))
        if accepts and not _matches(name, dialect.removed_betas) and (name,) not in dialect.suspected_betas:
            found.setdefault(name, beta)
        else:
            refused.append(beta)
    sent = [*found]
    suspects = [names for names in dialect.suspected_betas if names and found.keys() >= {*names}]
    if suspects:
        smallest = min(suspects, key=len)
        by_date = sorted(smallest, key=lambda name: (name[-_DATE_LENGTH:], name))
        kept = {*dialect.accepted_betas, *by_date[: len(by_date) // 2]}
        if all(is_later(name, dialect) for name in smallest):  # so the listed ones are not the cause
            kept |= {name for name in found if not is_later(name, dialect)}.difference(*suspects)
        sent = [name for name in found if name in kept]
    held_back = [beta for name, beta in found.items() if name not in sent]
    lost = {
        field: handling
        for field, (handling, beginnings) in _FIELDS_OF_BETAS.items()
        if any(beta.startswith(beginnings) for beta in (*refused, *held_back))
        and not any(beta.startswith(beginnings) for beta in sent)
    }
    reasons = [f"{call.provider} does not accept {_list(refused)}"] if refused else []
    if held_back:
        reasons.append(f"{call.provider} refuses one of {_list(held_back)} or of those that are sent")
    notes = [FidelityNote("approximated", _BETA_HEADER, "; ".join(reasons))] if reasons else []
    tested = [name for name in sent if any(name in names for names in dialect.suspected_betas)]
    return SelectedBetas(sent, tested, bool(held_back), lost, notes)


def is_later(name: str, dialect: Dialect) -> bool:
    """Return True for a beta that is newer than the list of the server's betas."""
    date = name[-_DATE_LENGTH:]
    return (
        bool(dialect.betas_listed_on) and date > dialect.betas_listed_on and _DATE_OF_BETA.fullmatch(date) is not None
    )


def _list(betas: Sequence[str]) -> str:
    more = f" and {len(betas) - _MAX_LISTED_BETAS} more" if len(betas) > _MAX_LISTED_BETAS else ""
    return ", ".join(beta[:_MAX_BETA_LENGTH] for beta in betas[:_MAX_LISTED_BETAS]) + more


def _read_body_betas(body: bytes) -> list[str]:
    """Return the betas in the body, where clients of Amazon Bedrock put them. Texts that name no beta are left out."""
    if not _holds(body, _BETA_FIELD.encode()):
        return []
    try:
        require_bounded_members(body)
        betas = _decode_betas(replace_lone_surrogates(body)[0]).anthropic_beta
        return [name for name in betas if _BETA_NAME.fullmatch(name)]
    except (*DECODE_ERRORS, InvalidRequest):
        return []


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _select_version(call: Call[Dialect], notes: list[FidelityNote]) -> str:
    """Return the API version for the body. A note is added if it is another one than the client's."""
    requested = call.client_headers.get(_VERSION_HEADER, _VERSION)
    own = call.dialect.version_in_body
    if requested == _VERSION:
        return own
    if call.dialect.accepts_newer_versions:
        return requested
    notes.append(note_replacement(_VERSION_HEADER, requested, own, ", the model's version"))
    return own


def has_system_messages(body: bytes) -> bool:
    return json_spans.edit(body, _find_reminder_edits) != body


def find_sent_signatures(call: Call[Dialect]) -> dict[str, bytes]:
    """Return the path of each thinking block in the encoded request, as in errors, and the digest of its signature."""
    found = dict[str, bytes]()
    try:
        body, _ = replace_lone_surrogates(encode_request(call).body)
        require_bounded_members(body)
        for index, message in enumerate(_decode_messages(body).messages):
            content = message.get("content", _NO_CONTENT)
            for place, raw in enumerate(_decode_list(content) if bytes(content).startswith(b"[") else ()):
                if (block := _read(bytes(raw))).type in _THINKING_TYPES:
                    found[f"messages.{index}.content.{place}"] = _digest(call.provider, _signature_of(block))
    except (*DECODE_ERRORS, InvalidRequest):
        return {}
    return found


def find_open_loop(call: Call[Dialect]) -> tuple[bytes, ...]:
    """Return the digest of the first call in the open tool loop of the client's request. Empty: there is none."""
    body, _ = replace_lone_surrogates(call.client_body)
    try:
        for member in json_spans.find_members(body):
            if member.key == "messages" and body[member.value] == ord("["):
                return _digest_of_loop(call.provider, _find_first_reply(body, member)[1])
    except (*DECODE_ERRORS, json_spans.RepeatedKeyError, InvalidRequest):
        pass
    return ()


def _digest_of_loop(provider: str, blocks: Sequence[_Block]) -> tuple[bytes, ...]:
    return tuple(_digest(provider, block.id) for block in blocks if block.type == "tool_use" and block.id)[:1]


def _signature_of(block: _Block) -> str:
    return {"thinking": block.signature, "redacted_thinking": block.data}.get(block.type) or ""


def _digest(provider: str, signature: str) -> bytes:
    return hashlib.blake2b(f"{provider} {signature}".encode(errors="replace"), digest_size=16).digest()


def _find_reminder_edits(body: bytes) -> list[Edit]:
    edits: list[Edit] = []
    for member in json_spans.find_members(body):
        if member.key != "messages" or body[member.value] != ord("["):
            continue
        messages = json_spans.find_elements(body, member.value, member.end)
        kept: list[bool] = []
        found = [(_read_role(body[message.start : message.end]), message) for message in messages]
        for is_turn, group in groupby(found, lambda pair: pair[0] in _USER_ROLES):
            roles, spans = zip(*group, strict=True)
            placed: list[dict[str, Any]] | None = None
            if is_turn and _SYSTEM in roles:
                require_bounded_members(body[spans[0].start : spans[-1].end])
                placed = _place_reminders([_decode_fields(body[span.start : span.end]) for span in spans])
            kept += [placed != []] * len(spans)
            if placed:
                edits.append(Edit(spans[0].start, spans[-1].end, msgspec.json.encode(placed)[1:-1]))
        edits += json_spans.build_removal_edits(messages, kept)
    return edits


def _read_role(message: bytes) -> Raw:
    return _decode_role(message).role if message.startswith(b"{") else _NO_CONTENT


def _place_reminders(turn: list[dict[str, Raw]]) -> list[dict[str, Any]]:
    """Move system messages of one turn behind its tool results, which the API requires to come first."""
    contents = [_read_blocks(message.get("content", _NO_CONTENT)) for message in turn]
    result_counts = [_count_up_to_last_result(blocks) for blocks in contents]
    last = max((place for place, count in enumerate(result_counts) if count), default=0)
    placed: list[dict[str, Any]] = []
    waiting: list[Any] = []
    for place, (message, blocks) in enumerate(zip(turn, contents, strict=True)):
        if message.get("role") == _SYSTEM:
            reminders = [_as_reminder(block) for block in blocks]
            if placed and place > last:
                content = placed[-1]["content"] = _read_blocks(placed[-1].get("content", _NO_CONTENT))
                content += reminders
            else:
                waiting += reminders
        elif waiting and place >= last:
            count = result_counts[place]
            placed.append({**message, "content": [*blocks[:count], *waiting, *blocks[count:]]})
            waiting = []
        else:
            placed.append(dict(message))
    return [*placed, {"role": _USER, "content": waiting}] if waiting else placed


def _count_up_to_last_result(blocks: list[Any]) -> int:
    found = [isinstance(block, Raw) and _read(bytes(block)).type == "tool_result" for block in blocks]
    return len(found) - found[::-1].index(True) if True in found else 0


def _read_blocks(content: Any) -> list[Any]:
    """Return the content of a message as a list of blocks. A text becomes a text block."""
    if isinstance(content, list):
        return content
    if bytes(content).startswith(b"["):
        return msgspec.json.decode(content, type=list[Raw])
    return [{"type": "text", "text": content}]


def _as_reminder(block: Any) -> Any:
    fields = block if isinstance(block, dict) else msgspec.json.decode(block, type=dict[str, Raw])
    if "text" not in fields:
        return block
    text = msgspec.json.decode(fields["text"])
    return {**fields, "text": f"<system-reminder>\n{text}\n</system-reminder>"}


def _find_edits(
    body: bytes,
    call: Call[Dialect],
    added: Mapping[str, Any],
    lost: Mapping[str, Handling],
    notes: list[FidelityNote],
) -> list[Edit]:
    """Return the edits of a body that the provider requires.

    `added`: fields that are added, or replace fields of the client. `lost`: fields whose beta is not sent.

    `notes` becomes the notes on the removed fields.
    """
    notes.clear()
    dialect = call.dialect
    filters_betas = _filters_betas(call.dialect)
    marked = call.has_proxy_signatures and (
        _holds(body, _MARK) or (dialect.verifies_signatures and _holds(body, _SEARCHED))
    )
    reads = marked or not dialect.sends_past_thinking or (bool(call.refused_signatures) and _holds(body, _THINKING))
    reads = reads or not dialect.thinks or _holds_missing_tools(body, dialect)
    edits_fields = added or dialect.message_path or dialect.dropped_fields or not dialect.sends_stream_field
    edits_fields = edits_fields or filters_betas or dialect.missing_tools
    if not (call.is_renamed or reads or edits_fields or not dialect.forwards_metadata):
        return []
    removed = set(dialect.dropped_fields)
    moved = {*added, *(("model",) if _has_model_in_path(call) else ())}
    if not dialect.sends_stream_field:
        moved.add("stream")
    if filters_betas:
        moved.add(_BETA_FIELD)
    members = json_spans.find_members(body)
    edits: list[Edit] = []
    kept = [True] * len(members)
    removals = Removals(dialect, call.provider, call.refused_signatures, notes)
    unthinking_loop = _find_unthinking_loop(body, members, removals) if reads else None
    gone = _find_missing_tools(body, members, dialect)
    disables_thinking = unthinking_loop is not None or not dialect.thinks
    for position, member in enumerate(members):
        if member.key in moved:
            kept[position] = False
        elif member.key in removed:
            kept[position] = False
            notes.append(FidelityNote("dropped", member.key, f"{call.provider} does not accept it"))
        elif member.key in lost:
            kept[position] = False
            notes.append(FidelityNote(lost[member.key], member.key, "the beta that it requires is not sent"))
        elif member.key in _FIELDS_OF_THINKING and disables_thinking:
            disabling = _find_disabling_edits(body, member)
            kept[position] = disabling is not None
            edits += disabling or ()
            if member.key == "thinking":
                reason = f"{call.provider} requires thinking of its own at the beginning of the tool calls"
                notes.append(FidelityNote("approximated", member.key, reason))
        elif member.key == "tools" and body[member.value] == ord("["):
            edits += _find_tool_edits(body, member, call, gone, notes)
        elif member.key == "tool_choice" and gone is not None and gone.names:
            kept[position] = gone.leaves_tools
            _require_free_choice(body[member.value : member.end], gone, call.provider)
        elif member.key == "model" and call.is_renamed:
            edits.append(Edit(member.value, member.end, msgspec.json.encode(call.model)))
        elif member.key == "messages" and reads and body[member.value] == ord("["):
            edits += find_message_edits(body, member, removals, unthinking_loop)
        elif member.key in _CLIENT_DATA and not dialect.forwards_metadata:
            kept[position] = False
        elif member.key == "system" and not dialect.forwards_metadata:
            edits += _find_billing_edits(body, member)
    if added and members:
        text = msgspec.json.encode(added)[1:-1] + (b"," if any(kept) else b"")
        edits.insert(0, Edit(members[0].start, members[0].start, text))
    return edits + json_spans.build_removal_edits(members, kept)


class _MissingTools(Struct):
    """Tools of a request that the server does not run."""

    names: dict[str, str]
    """Name → type."""
    leaves_tools: bool
    """False: the request has no other tools."""


def _find_missing_tools(body: bytes, members: Sequence[JsonSpan], dialect: Dialect) -> _MissingTools | None:
    """None: the server runs all server tools, or the request has no tools."""
    tools = next((member for member in members if member.key == "tools" and body[member.value] == ord("[")), None)
    if tools is None or not dialect.missing_tools:
        return None
    spans = json_spans.find_elements(body, tools.value, tools.end)
    blocks = [_read(body[span.start : span.end]) for span in spans]
    names = {block.name or block.type: block.type for block in blocks if _is_missing(block.type, dialect)}
    return _MissingTools(names, leaves_tools=any(not _is_missing(block.type, dialect) for block in blocks))


def _is_missing(tool_type: str, dialect: Dialect) -> bool:
    return any(tool_type.startswith(f"{kind}_") for kind in dialect.missing_tools)


def _require_free_choice(tool_choice: bytes, missing: _MissingTools, provider: str) -> None:
    """Raise `UnsupportedFeature` if the tool choice forces a tool that the server does not run."""
    choice = _read(tool_choice)
    if choice.type == "any" and not missing.leaves_tools:
        name, kind = next(iter(missing.names.items()))
    elif choice.type == "tool" and choice.name in missing.names:
        name, kind = choice.name, missing.names[choice.name]
    else:
        return
    raise UnsupportedFeature(
        f"tool_choice: '{choice.type}' forces {name!r} ({kind}), which {provider} is not known to run",
        code="forced-tool",
    )


def _find_tool_edits(
    body: bytes,
    tools: JsonSpan,
    call: Call[Dialect],
    missing: _MissingTools | None,
    notes: list[FidelityNote],
) -> list[Edit]:
    dialect, provider = call.dialect, call.provider
    names = {name.removeprefix(_OF_TOOLS) for name in dialect.dropped_fields if name.startswith(_OF_TOOLS)}
    edits: list[Edit] = []
    found: set[str] = set()
    if not names and missing is None and not dialect.tool_versions:
        return edits
    spans = json_spans.find_elements(body, tools.value, tools.end)
    kept = [True] * len(spans)
    for position, tool in enumerate(spans):
        if body[tool.value] != ord("{"):
            continue
        block = _read(body[tool.value : tool.end])
        if _is_missing(block.type, dialect):
            kept[position] = False
            reason = f"{provider} is not known to run {block.type}"
            notes.append(FidelityNote("dropped", f"{_OF_TOOLS}{block.name or block.type}", reason))
            continue
        members = json_spans.find_members(body, tool.value, tool.end)
        edits += json_spans.build_removal_edits(members, [member.key not in names for member in members])
        found |= names & {member.key for member in members}
        version = next((one for one in dialect.tool_versions if _is_other_version(block.type, one)), None)
        if version is not None:
            edits += [Edit(one.value, one.end, msgspec.json.encode(version)) for one in members if one.key == "type"]
            notes.append(
                note_replacement(f"{_OF_TOOLS}{block.name}", block.type, version, f", the version of {provider}")
            )
    notes += [FidelityNote("dropped", _OF_TOOLS + name, f"{provider} does not accept it") for name in sorted(found)]
    return edits + json_spans.build_removal_edits(spans, kept)


def _is_other_version(tool_type: str, version: str) -> bool:
    return tool_type != version and _DATE.sub("", tool_type) == _DATE.sub("", version)


def _holds_missing_tools(body: bytes, dialect: Dialect) -> bool:
    return bool(dialect.missing_tools) and any(_holds(body, mark) for mark in _OF_SERVER_TOOLS)


def _holds(body: bytes, mark: bytes) -> bool:
    return body.rfind(mark) >= 0  # from its end a long text is searched at a quarter of what `in` costs


def find_message_edits(
    body: bytes, messages: JsonSpan, removals: Removals, unthinking_loop: JsonSpan | None = None
) -> list[Edit]:
    """Return the edits that remove content which the provider would reject from a JSON list of messages.

    `unthinking_loop`: the message from which on all thinking is removed. None: there is none.
    """
    edits: list[Edit] = []
    dialect = removals.dialect
    for message in json_spans.find_elements(body, messages.value, messages.end):
        in_loop = unthinking_loop is not None and message.start >= unthinking_loop.start
        keeps_thinking = dialect.sends_past_thinking and not in_loop
        text = body[message.value : message.end]
        searched = dialect.verifies_signatures and _SEARCHED in text
        thinks = not keeps_thinking or (bool(removals.refused_signatures) and _THINKING in text)
        runs_tools = _holds_missing_tools(text, dialect)
        if not (searched or thinks or runs_tools or _MARK in text) or not text.startswith(b"{"):
            continue
        for member in json_spans.find_members(body, message.value, message.end):
            if member.key == "content" and body[member.value] == ord("["):
                edits += _find_content_edits(body, member, removals, keeps_thinking=keeps_thinking)
    return edits


class _Open(Struct):
    """One message at the end of a conversation."""

    role: str = ""
    content: Raw = _NO_CONTENT


_decode_open = msgspec.json.Decoder(_Open).decode


def _find_unthinking_loop(body: bytes, members: Sequence[JsonSpan], removals: Removals) -> JsonSpan | None:
    """Return the first reply in the open tool loop, if the loop must be sent without thinking. None: it stays.

    The server may have demanded this earlier in the loop.

    With manual thinking (`enabled`), the replies since the last user message that is no result must begin with
    thinking, unchanged. If another provider has begun the loop, there is none that the server accepts. Adaptive
    thinking has no such rule (source: platform.claude.com/docs, "Extended thinking with tool use"; anomalyco/opencode
    issue 3077; Kilo-Org/kilocode issue 5219).
    """
    fields = {member.key: member for member in members}
    thinking, messages = fields.get("thinking"), fields.get("messages")
    if thinking is None or messages is None or body[messages.value] != ord("["):
        return None
    dialect, refused = removals.dialect, removals.refused_signatures
    is_manual = dialect.verifies_signatures and _read(body[thinking.value : thinking.end]).type == "enabled"
    if dialect.thinks and not is_manual and not refused:
        return None
    first, blocks = _find_first_reply(body, messages)
    if not dialect.thinks or any(digest in refused for digest in _digest_of_loop(removals.provider, blocks)):
        return first
    keeps_thinking = dialect.sends_past_thinking
    kept = [block for block in blocks if not _is_refused(block, set(), removals, keeps_thinking=keeps_thinking)]
    begins_with_thinking = bool(kept) and kept[0].type in _THINKING_TYPES
    return first if is_manual and not begins_with_thinking else None


def _find_first_reply(body: bytes, messages: JsonSpan) -> tuple[JsonSpan | None, list[_Block]]:
    """Return the first reply in the open tool loop, and its blocks. None: no loop is open."""
    first: JsonSpan | None = None
    blocks: list[_Block] = []
    has_results = False
    for message in reversed(json_spans.find_elements(body, messages.value, messages.end)):
        try:
            read = _decode_open(body[message.value : message.end])
        except msgspec.ValidationError:
            break
        content = bytes(read.content)
        found = [_read(bytes(block)) for block in _decode_list(content)] if content.startswith(b"[") else []
        if read.role == "assistant" and has_results:
            first, blocks = message, found
        elif read.role == "user" and any(block.type == "tool_result" for block in found):
            has_results = True
        elif read.role != "system":
            break
    return first, blocks


def _find_disabling_edits(body: bytes, member: JsonSpan) -> list[Edit] | None:
    """Return the edits of `thinking` or `context_management` that turn thinking off. None: the field is removed."""
    if member.key == "thinking":
        return [Edit(member.value, member.end, _NO_THINKING)]
    parts = _find_context_edits(body, member)
    stays = [not _read(body[part.value : part.end]).type.startswith(_CLEAR_THINKING) for part in parts]
    return json_spans.build_removal_edits(parts, stays) if any(stays) or not parts else None


def _find_context_edits(body: bytes, context_management: JsonSpan) -> list[JsonSpan]:
    if body[context_management.value] != ord("{"):
        return []
    for inner in json_spans.find_members(body, context_management.value, context_management.end):
        if inner.key == "edits" and body[inner.value] == ord("["):
            return json_spans.find_elements(body, inner.value, inner.end)
    return []


def _find_content_edits(body: bytes, content: JsonSpan, removals: Removals, *, keeps_thinking: bool) -> list[Edit]:
    dialect = removals.dialect
    parts = json_spans.find_elements(body, content.value, content.end)
    blocks = [_read(body[part.value : part.end]) for part in parts]
    dropped: set[str | None] = set()
    if dialect.verifies_signatures:
        # web searches that another provider ran: their results have no `encrypted_content`
        results = [block for block in blocks if block.type == "web_search_tool_result"]
        dropped = {block.tool_use_id for block in results if _is_unsealed(bytes(block.content))} - {None}
    kept = [not _is_refused(block, dropped, removals, keeps_thinking=keeps_thinking) for block in blocks]
    edits: list[Edit] = []
    for position, (part, block) in enumerate(zip(parts, blocks, strict=True)):
        if kept[position] and _is_of_missing_tool(block, dialect):
            text = _as_text(body[part.start : part.end])
            kept[position] = bool(text)
            edits += [Edit(part.start, part.end, text)] if text else []
            note = FidelityNote("approximated", f"messages.{block.type}", "sent as text")
            if note not in removals.notes:
                removals.notes.append(note)
    if not any(kept) and parts:
        return [Edit(content.value, content.end, _EMPTY)]
    edits += json_spans.build_removal_edits(parts, kept)
    lacks_search = "web_search" in dialect.missing_tools
    if dialect.verifies_signatures:
        for part, block, keeps in zip(parts, blocks, kept, strict=True):
            cited = bytes(block.citations)
            if keeps and block.type == "text" and (_is_unsealed(cited) or (lacks_search and _SEARCHED in cited)):
                members = json_spans.find_members(body, part.value, part.end)
                edits += json_spans.build_removal_edits(members, [member.key != "citations" for member in members])
    return edits


def _is_of_missing_tool(block: _Block, dialect: Dialect) -> bool:
    if not dialect.missing_tools or block.type in ("tool_use", "tool_result"):
        return False
    name = block.name or "" if block.type == "server_tool_use" else block.type
    for end in ("_tool_use", "_tool_result"):
        name = name.removesuffix(end)
    is_call = block.type.endswith(("_tool_use", "_tool_result"))
    return is_call and any(name == kind or name.endswith(f"_{kind}") for kind in dialect.missing_tools)


def _as_text(block: bytes) -> bytes:
    """Return the text blocks in place of a block, as for providers with another API. b"": nothing is sent."""
    given = decode_blocks(Raw(b"[%b]" % block), "messages.content")
    return msgspec.json.encode([text for one in given for text in to_upstream_blocks(one)])[1:-1]


def _read(text: bytes) -> _Block:
    try:
        return _decode_block(text)
    except msgspec.ValidationError:
        return _Block()


def _is_refused(block: _Block, dropped: set[str | None], removals: Removals, *, keeps_thinking: bool) -> bool:
    if block.type in _THINKING_TYPES:
        signature = _signature_of(block)
        if not keeps_thinking or signature.startswith(SIGNATURE_PREFIX):
            return True
        refused = removals.refused_signatures
        return bool(refused) and _digest(removals.provider, signature) in refused
    if block.type == "web_search_tool_result":
        return block.tool_use_id in dropped
    return block.type == "server_tool_use" and block.id in dropped


def _is_unsealed(found: bytes) -> bool:
    return _SEARCHED in found and found.startswith(b"[") and _SEALED.search(found) is None


def _find_billing_edits(body: bytes, system: JsonSpan) -> list[Edit]:
    """Return the edits that remove the billing line of Claude Code from the system prompt."""
    text = body[system.value : system.end]
    if _BILLING.encode() not in text:
        return []
    if text.startswith(b"["):
        parts = json_spans.find_elements(body, system.value, system.end)
        texts = [_read(body[part.value : part.end]).text for part in parts]
        return json_spans.build_removal_edits(
            parts, [value is None or not value.startswith(_BILLING) for value in texts]
        )
    value = msgspec.json.decode(text)
    if not isinstance(value, str) or not value.startswith(_BILLING):
        return []
    return [Edit(system.value, system.end, msgspec.json.encode(value.partition("\n")[2]))]


_RESULTS_URL = re.compile(rb'"https?://[^/"]+(/v1/messages/batches/[\w-]+/results)"')


def encode_batch(
    body: bytes,
    dialect: Dialect,
    resolve_model: Callable[[str, str, bytes], str],
    *,
    provider: str = "",
    refused_signatures: Collection[bytes] = frozenset(),
) -> bytes:
    """Return the body with the model of each request replaced, and without content that the provider would reject.

    Raises `InvalidRequest` for invalid JSON, and for a list or object of too many members.
    """
    removals = Removals(dialect, provider, refused_signatures)
    return json_spans.edit(body, lambda text: _find_batch_edits(text, removals, resolve_model))


def _find_batch_edits(body: bytes, removals: Removals, resolve_model: Callable[[str, str, bytes], str]) -> list[Edit]:
    edits: list[Edit] = []
    for requests in json_spans.find_members(body):
        if requests.key != "requests" or body[requests.value] != ord("["):
            continue
        for index, request in enumerate(json_spans.find_elements(body, requests.value, requests.end)):
            if body[request.value] != ord("{"):
                continue
            for member in json_spans.find_members(body, request.value, request.end):
                if member.key == "params" and body[member.value] == ord("{"):
                    resolve = partial(resolve_model, f"requests.{index}.params")
                    edits += _find_edits_of_params(body, member, removals, resolve)
    return edits


def _find_edits_of_params(
    body: bytes, params: json_spans.JsonSpan, removals: Removals, resolve_model: Callable[[str, bytes], str]
) -> list[Edit]:
    edits: list[Edit] = []
    members = json_spans.find_members(body, params.value, params.end)
    kept = [True] * len(members)
    unthinking_loop = _find_unthinking_loop(body, members, removals)
    for position, member in enumerate(members):
        if member.key == "model" and body[member.value] == ord('"'):
            name = msgspec.json.decode(body[member.value : member.end], type=str)
            if (model := resolve_model(name, body[params.value : params.end])) != name:
                edits.append(Edit(member.value, member.end, msgspec.json.encode(model)))
        elif member.key == "messages" and body[member.value] == ord("["):
            edits += find_message_edits(body, member, removals, unthinking_loop)
        elif member.key in _FIELDS_OF_THINKING and unthinking_loop is not None:
            disabling = _find_disabling_edits(body, member)
            kept[position] = disabling is not None
            edits += disabling or ()
    return edits + json_spans.build_removal_edits(members, kept)


def remove_results_host(body: bytes) -> bytes:
    """Return batches with only the path of each `results_url`, to which the SDKs add the proxy's address."""
    with suppress(InvalidRequest):  # a reply that is no JSON is forwarded
        return json_spans.edit(body, _find_results_edits)
    return body


def _find_results_edits(body: bytes) -> list[Edit]:
    members = json_spans.find_members(body)
    objects = [members]
    for member in members:
        if member.key == "data" and body[member.value] == ord("["):
            elements = json_spans.find_elements(body, member.value, member.end)
            objects += [
                json_spans.find_members(body, each.value, each.end) for each in elements if body[each.value] == ord("{")
            ]
    return [
        Edit(member.value, member.end, b'"%b"' % found[1])
        for members in objects
        for member in members
        if member.key == "results_url" and (found := _RESULTS_URL.fullmatch(body, member.value, member.end))
    ]
