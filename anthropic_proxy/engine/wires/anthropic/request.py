"""Encoder of the relay wire: the bytes of the client request with the few edits that the provider requires.

Theory of operation. The edits replace `model`, and remove content that the provider would reject or must not receive,
such as signatures of other providers and the client's `metadata`. An edit is a range of the body with its new text
(`json_spans.Edit`). All edits of a step refer to the same body and are applied together, so they need no order. Every
byte outside of them stays as it is: prompt caches and signatures of the provider remain valid. Decoding costs much for
a long conversation, so a search for bytes finds out first whether there is anything to edit.

This module decides about the headers and the fields of the body, and collects the edits inside of them: `betas.py`,
`conversation.py` (messages), `tools.py`, `rejected_fields.py` (what the server has rejected, at any depth) and
`model_fitting.py` (what another model than the client's does not accept).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.messages.fidelity import FidelityNote, Handling, note_replacement
from anthropic_proxy.engine.messages.models import build_thread_error
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.purpose import AGENT_HEADER, HINT_HEADERS, SESSION_HEADER
from anthropic_proxy.engine.passed_proxies import LOOP_HEADER
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.api_fields import NamedModel
from anthropic_proxy.engine.wires.anthropic.betas import (
    ACCEPTED,
    BETA_FIELD,
    BETA_HEADER,
    filters_betas,
    keeps_conversations,
    select_betas,
)
from anthropic_proxy.engine.wires.anthropic.conversation import (
    FIELDS_OF_THINKING,
    Removals,
    disables_thinking,
    find_disabling_edits,
    find_file_edits,
    find_message_edits,
    find_past_media_edits,
    find_reminder_edits,
    find_unread_media_edits,
    find_unthinking_loop,
    may_need_edits,
    name_model,
    read_block,
)
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.anthropic.model_fitting import find_fitting_edits
from anthropic_proxy.engine.wires.anthropic.rejected_fields import (
    SAFEGUARDS,
    SCHEMA_FIELDS,
    find_field_edits,
    find_schema_edits,
)
from anthropic_proxy.engine.wires.anthropic.tools import (
    MissingTools,
    find_missing_tools,
    find_tool_edits,
    is_missing_tool,
    require_free_choice,
)
from anthropic_proxy.engine.wires.calls import RelayCall
from anthropic_proxy.engine.wires.json_schema import UNRESTRICTED_RULES
from anthropic_proxy.engine.wires.shared_notes import SCHEMA_AS_TEXT
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import InvalidRequest

_TRACE_HEADERS = ("traceparent", "tracestate")
_NOT_FORWARDED_HEADERS = frozenset(
    (
        *("host", "content-length", "cookie", "accept-encoding", "expect"),
        *("x-api-key", "api-key", "authorization", "proxy-authorization"),
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *_TRACE_HEADERS,
        "x-project",
        *HINT_HEADERS,
        *("forwarded", "via", "client-ip", "true-client-ip", "fastly-client-ip", "x-client-ip", "x-cluster-client-ip"),
    )
)
"""Client headers that are not sent upstream: hop-by-hop headers, credentials, headers that the proxy sets itself, and
the address of the client. `x-project` names a project for the proxy's record of costs, and the hints of Claude Code say
what a request is for."""
_PERSON_PREFIXES = (
    *("x-forwarded-", "x-original-", "x-real-", "x-envoy-", "cf-", "x-azure-"),
    *("remote-", "x-remote-", "x-auth-", "x-authenticated-", "x-webauth-", "x-authentik-", "x-pomerium-", "tailscale-"),
    *("x-amzn-", "x-goog-", "x-ms-client-", "x-user", "x-email"),
)
"""Beginnings of headers by which a reverse proxy in front of this one names the address or the account of a person
(the usual names of nginx, Envoy, Cloudflare, oauth2-proxy, Authelia, Authentik, Pomerium, Tailscale, and the
load balancers of AWS, Google and Azure). A provider does not learn them."""
_VERSION_HEADER, _VERSION = "anthropic-version", "2023-06-01"
"""API version that is added if the client request has none (source: the API reference, "Versions", read 2026-11)."""
_NEEDED_HEADERS: Mapping[str, str] = {
    LOOP_HEADER: "proxies that the request has passed",
    "accept": "form of the reply",
    "content-type": "form of the body",
    _VERSION_HEADER: "version of the API",
}
"""Client headers that each server gets, with the reason."""
_FORWARDED_HEADERS: Mapping[str, str] = {
    **_NEEDED_HEADERS,
    "range": "the part of a file that the client asks for",
    "if-range": "the same",
    "user-agent": "program and version of the client",
    "x-app": "part of the program",
    SESSION_HEADER: "session, by which a server finds the cache of its prompts",
    AGENT_HEADER: "sub-agent of the session",
    "x-client-request-id": "id of the request, for questions to the support",
    "idempotency-key": "id by which a server recognizes a repeated request (SDKs)",
}
"""Client headers that Anthropic gets from the people and services of a company (`RelayCall.names_headers`), with the
reason. What is not named here leaves only if a table `[providers.NAME.headers]` names it. Source: Claude Code 2.1.332
and the SDKs `anthropic` 2.10 (Python) and 0.128 (TypeScript), observed 2026-11."""
_FORWARDED_PREFIXES: Mapping[str, str] = {
    "anthropic-": "features of the API, such as betas and the workspace",
    "x-anthropic-": "the same, of the program",
    "x-stainless-": "version, platform and attempt of an SDK",
}
"""Beginnings of further ones."""
_PREFIXES = (*_FORWARDED_PREFIXES,)
_VERSION_FIELD = "anthropic_version"
"""Field of the body in the API of clouds."""
_MESSAGES_PATH, _COUNT_PATH = "/v1/messages", "/v1/messages/count_tokens"
_BETA_MISSING = "the beta that it requires is not sent"
_BILLING = "x-anthropic-billing-header:"


def encode_request(call: RelayCall[Dialect]) -> UpstreamRequest:
    headers, dialect = call.headers, call.dialect
    betas = select_betas(call)
    notes = [*call.notes, *betas.notes]
    added: dict[str, Any] = {}
    if dialect.version_in_body:
        added[_VERSION_FIELD] = _select_version(call, notes)
    if dialect.sends_betas_in_body and betas.sent:
        added[BETA_FIELD] = betas.sent
    body = call.body
    if body:
        body, notes_of_body = edit_body(body, call, added, betas.lost_fields)
        notes += notes_of_body
    is_traced = "traceparent" in headers and dialect.forwards_client_headers and not call.names_headers
    if not dialect.forwards_client_headers:
        sent_headers = {name: value for name, value in headers.items() if name in _NEEDED_HEADERS}
    elif call.names_headers:
        sent_headers = {
            name: value for name, value in headers.items() if name in _FORWARDED_HEADERS or name.startswith(_PREFIXES)
        }
    else:
        sent_headers = {
            name: value
            for name, value in headers.items()
            if name not in _NOT_FORWARDED_HEADERS and not name.startswith(_PERSON_PREFIXES)
        }
    for name in headers.get("connection", "").split(","):
        sent_headers.pop(name.strip().lower(), None)
    if dialect.version_in_body:
        sent_headers.pop(_VERSION_HEADER, None)
    else:
        sent_headers.setdefault(_VERSION_HEADER, _VERSION)
    if betas.sent:
        sent_headers[BETA_HEADER] = ",".join(betas.sent)
    elif filters_betas(dialect):
        sent_headers.pop(BETA_HEADER, None)
    if call.body:
        sent_headers.setdefault("content-type", "application/json")
    return UpstreamRequest(
        path=_build_path(call),
        body=body,
        headers=sent_headers,
        trace_headers={name: headers[name] for name in _TRACE_HEADERS if name in headers} if is_traced else {},
        method="POST" if call.body else "GET",
        notes=notes,
        proves=" ".join((ACCEPTED, *betas.tested)) if betas.tested else "",
    )


def list_sent_models(call: RelayCall[Any], named: Sequence[NamedModel]) -> Sequence[NamedModel]:
    """Return those of the models that a body names whose fields are sent to the server."""
    dialect = call.dialect
    has_fallbacks = "fallbacks" not in dialect.dropped_fields and "fallbacks" not in select_betas(call).lost_fields
    return [
        each for each in named if (has_fallbacks if each.is_fallback else not is_missing_tool(each.tool_type, dialect))
    ]


def edit_body(
    body: bytes, call: RelayCall[Dialect], added: Mapping[str, Any], lost: Mapping[str, Handling]
) -> tuple[bytes, list[FidelityNote]]:
    """Return the body of a request, or the `params` of one in a batch, as the server of `call` accepts it, and notes on
    what was changed.

    `added` and `lost`: see `_find_edits`.
    """
    dialect = call.dialect
    model_notes: list[FidelityNote] = []
    field_notes: list[FidelityNote] = []
    inner_notes: list[FidelityNote] = []
    if call.limits is not None:
        body = json_spans.edit(body, partial(find_fitting_edits, call=call, notes=model_notes))
    if not SCHEMA_FIELDS.isdisjoint(dialect.dropped_fields):
        body = json_spans.edit(body, find_schema_edits)
    body = json_spans.edit(body, partial(_find_edits, call=call, added=added, lost=lost, notes=field_notes))
    inner: dict[str, tuple[Handling, str]] = {}
    for name in dialect.dropped_fields:
        if "." in name:
            inner[name] = "dropped", f"{call.provider_prefix} does not accept it"
        if name == SCHEMA_AS_TEXT.field:
            inner[name] = SCHEMA_AS_TEXT.handling, SCHEMA_AS_TEXT.reason
    for name, handling in lost.items():
        if "." in name:
            inner[name] = handling, _BETA_MISSING
    if inner:
        body = json_spans.edit(body, partial(find_field_edits, names=inner, notes=inner_notes))
    if call.descriptions or (call.limits is not None and call.limits.unread):
        body = json_spans.edit(body, partial(find_unread_media_edits, call=call, notes=inner_notes))
    if dialect.omits_past_media:
        body = json_spans.edit(body, partial(find_past_media_edits, notes=inner_notes))
    if not dialect.accepts_media_urls:
        body = json_spans.edit(body, partial(find_file_edits, call=call))
    if not dialect.accepts_system_messages:
        body = json_spans.edit(body, find_reminder_edits)
    return body, [*model_notes, *inner_notes, *field_notes]


def _build_path(call: RelayCall[Dialect]) -> str:
    """Return path and query of the request at the provider.

    Raises `InvalidRequest` for a model that cannot be part of a path.
    """
    dialect = call.dialect
    if dialect.count_path and call.path == _COUNT_PATH:
        return dialect.count_path
    if not _has_model_in_path(call):
        return f"{call.path}?{call.query}" if call.query else call.path
    if call.model.partition(";")[0] in ("", ".", ".."):
        raise InvalidRequest(f'model: "{call.model}" is not a model id.', code="model-name")
    path = dialect.stream_path if call.streams_upstream else dialect.message_path
    return path.replace("{model}", quote(call.model, safe=":@"))


def _has_model_in_path(call: RelayCall[Dialect]) -> bool:
    return bool(call.dialect.message_path) and call.path == _MESSAGES_PATH


def _select_version(call: RelayCall[Dialect], notes: list[FidelityNote]) -> str:
    """Return the API version for the body. A note is added if it is another one than the client's."""
    requested = call.headers.get(_VERSION_HEADER, _VERSION)
    own = call.dialect.version_in_body
    if requested == _VERSION:
        return own
    if call.dialect.accepts_newer_versions:
        return requested
    notes.append(note_replacement(_VERSION_HEADER, requested, own, ", the model's version"))
    return own


class _BodyEditor(Struct):
    """Finds the edits of one body, field by field."""

    body: bytes
    call: RelayCall[Dialect]
    notes: list[FidelityNote]
    removals: Removals
    reads_messages: bool
    unthinking_loop: JsonSpan | None
    missing: MissingTools | None

    def find_edits(self, field: JsonSpan) -> Sequence[Edit] | None:
        """None: the field is removed."""
        call, dialect, body, missing = self.call, self.call.dialect, self.body, self.missing
        match field.key:
            case "messages" if self.reads_messages and body[field.value] == ord("["):
                edits = find_message_edits(body, field, self.removals, self.unthinking_loop)
                types = sorted(self.removals.types_as_text)
                self.notes += [FidelityNote("approximated", f"messages.{kind}", "sent as text") for kind in types]
                self.notes += self.removals.notes
                return edits
            case "metadata":
                return () if dialect.forwards_metadata else None
            case "model" if call.is_renamed:
                return [Edit(field.value, field.end, msgspec.json.encode(call.model))]
            case "system" if not dialect.forwards_metadata:
                return _find_billing_edits(body, field)
            case "thread" if body[field.value] == ord("{") and not keeps_conversations(dialect):
                raise build_thread_error()  # without the field, the messages would be taken for the whole conversation
            case "tool_choice" if missing is not None and missing.names:
                require_free_choice(body[field.value : field.end], missing, call.provider_prefix)
                return () if missing.leaves_tools else None
            case "tools" if body[field.value] == ord("["):
                return find_tool_edits(body, field, call, missing, self.notes)
            case key if key in FIELDS_OF_THINKING and (self.unthinking_loop is not None or not dialect.thinks):
                if key == "thinking":
                    reason = f"{call.provider_prefix} requires thinking of its own at the beginning of the tool calls"
                    self.notes.append(FidelityNote("approximated", key, reason))
                return find_disabling_edits(body, field)
        return ()


def _find_edits(
    body: bytes,
    call: RelayCall[Dialect],
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
    reads = may_need_edits(body, call)
    if not (reads or call.is_renamed or added or _edits_fields(dialect)):
        return []
    moved = {*added, *(("model",) if _has_model_in_path(call) else ())}
    if not dialect.sends_stream_field:
        moved.add("stream")
    if filters_betas(dialect):
        moved.add(BETA_FIELD)
    members = json_spans.find_members(body, most=call.max_schema_steps)
    removals = Removals(
        dialect,
        name_model(call),
        call.refused_thinking,
        has_invalid_calls=call.has_invalid_calls,
        own_tool_names=call.own_tool_names,
        adds_thinking=dialect.requires_thinking_with_calls and not disables_thinking(body, members),
        max_steps=call.max_schema_steps,
    )
    loop = find_unthinking_loop(body, members, removals) if reads else None
    editor = _BodyEditor(body, call, notes, removals, reads, loop, find_missing_tools(body, members, dialect))
    edits: list[Edit] = []
    kept = [True] * len(members)
    for position, member in enumerate(members):
        found: Sequence[Edit] | None = None
        if member.key in moved:
            pass
        elif member.key in dialect.dropped_fields:
            handling: Handling = "emulated" if member.key == SAFEGUARDS else "dropped"  # the proxy answers it
            notes.append(FidelityNote(handling, member.key, f"{call.provider_prefix} does not accept it"))
        elif member.key in lost:
            notes.append(FidelityNote(lost[member.key], member.key, _BETA_MISSING))
        else:
            found = editor.find_edits(member)
        kept[position] = found is not None
        edits += found or ()
    if added and members:
        text = msgspec.json.encode(added)[1:-1] + (b"," if any(kept) else b"")
        edits.insert(0, Edit(members[0].start, members[0].start, text))
    return edits + json_spans.build_removal_edits(members, kept)


def _edits_fields(dialect: Dialect) -> bool:
    """Return True if bodies for a server may need edits beside those of the model and the messages."""
    return bool(
        dialect.message_path
        or dialect.dropped_fields
        or not dialect.sends_stream_field
        or filters_betas(dialect)
        or dialect.missing_tools
        or not dialect.streams_tool_input
        or dialect.schema_rules != UNRESTRICTED_RULES
        or dialect.schema_language != UNRESTRICTED_RULES
        or not dialect.forwards_metadata
    )


def _find_billing_edits(body: bytes, system: JsonSpan) -> list[Edit]:
    """Return the edits that remove the billing line of Claude Code from the system prompt."""
    text = body[system.value : system.end]
    if _BILLING.encode() not in text:
        return []
    if text.startswith(b"["):
        parts = json_spans.find_elements(body, system.value, system.end)
        texts = [read_block(body[part.value : part.end]).text or "" for part in parts]
        return json_spans.build_removal_edits(parts, [not value.startswith(_BILLING) for value in texts])
    value = decode_values(text)
    if not isinstance(value, str) or not value.startswith(_BILLING):
        return []
    return [Edit(system.value, system.end, msgspec.json.encode(value.partition("\n")[2]))]
