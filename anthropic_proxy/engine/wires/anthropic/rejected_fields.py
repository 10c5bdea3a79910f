"""Fields of a request that the server rejects: their names in error messages, and the edits that leave them out.

The name of a field is its path without the positions of list elements: `output_config.format`, `tools.strict`. The role
of a message and the type of a content block are in the name, because others may have the field, too:
`messages.assistant.content.thinking.cache_control`. So a client that puts a block where the API does not allow it takes
the block from no other client. A name that ends with a type means the elements of this type:
`context_management.edits.clear_thinking_20251015`. In messages such a block becomes text.

Example. A server answers `tools.0.custom.strict: Extra inputs are not permitted` to a request with these tools:

    [{"name": "Read", "input_schema": {}, "strict": true}, {"name": "Edit", "input_schema": {}}]

`find_rejected_field` follows the path in the body that was sent, and returns `tools.strict`: the position is left out,
and so is `custom`, the type of the tool. The name is added to `Dialect.dropped_fields`, for the repetition of this
request and for all later ones. `find_field_edits` cuts the field from each tool of a request that has it:

    [{"name": "Read", "input_schema": {}}, {"name": "Edit", "input_schema": {}}]
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.fidelity import FidelityNote, Handling
from anthropic_proxy.engine.messages.models.client_json import decode_values, read_json
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.conversation import EMPTY_TEXT, as_text, read_block
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.errors import InvalidRequest

_REFUSED = compile_anchored(
    r"(?P<path>[\w$]+(?:\.[\w$]+)*): (?:Extra inputs are not permitted|Input tag '(?P<tag>[\w$-]+)' found)"
    r"|(?:Malformed input request: )?#(?P<place>[/\w$]*): extraneous key \[(?P<key>[\w$-]+)\] is not permitted"
)
"""Pattern of errors about fields: Anthropic's server and its copies at clouds, `tools.0.custom.strict: Extra inputs are
not permitted` (anthropics/claude-code issue 11678) and `messages.2.content.0.tool_result.content.0: Input tag
'tool_reference' found using 'type' does not match …`; Amazon's own check, `#: extraneous key [speed] is not permitted`
(BerriAI/litellm issue 7416). It is matched at the start of a message only: the rest may quote text of the client."""
_REFUSED_BY_OTHERS = compile_anchored(
    r"(?:json: |invalid json payload received\. |failed to (?:parse|decode|deserialize)\b[^:\n]{0,80}: |the )?(?:"
    r"(?:unsupported|unknown|unrecognized|unexpected) (?:request )?(?:parameter|field|argument|property|key|name)s?"
    r"(?: supplied)?:? ?['\"`]?(?P<unknown>\w+)"
    r"|(?:parameter |field |property )?['\"`]?(?P<named>\w+)['\"`]?(?: parameter| field)?:? (?:is |are )?"
    r"(?:not (?:supported|permitted|allowed|recognized)|unsupported|unknown|unrecognized)\b"
    r"|additional properties are not allowed \(['\"](?P<additional>\w+)['\"])",
    re.ASCII | re.IGNORECASE,
)
"""Pattern of errors of servers that are no copies of Anthropic's: OpenAI `Unknown parameter: 'x'` and `Unrecognized
request argument supplied: x`; Go `json: unknown field "x"`; serde ``unknown field `x`, expected one of …``; Google
`Unknown name "x"`; jsonschema; Groq `property 'x' is unsupported` (2026-11). It is matched at the start of a message.
"""
_OF_NEWER_CLIENTS = frozenset(("context_management", "diagnostics", "fallbacks", "safeguards", "service_tier", "speed"))
"""Fields that such servers may not know yet, and without which a reply has the same meaning and form."""
_REQUIRED = frozenset(
    (
        *("inference_geo", "max_tokens", "messages", "model", "stop_sequences", "stream", "system"),
        *("thread", "tool_choice", "tools"),
    )
)
"""Fields that no request leaves out, even if the server rejects them: without them, the reply has another meaning or
form."""
_CONTENT = frozenset(
    (
        *("content", "data", "description", "file_id", "id", "input", "input_schema", "is_error", "media_type", "name"),
        *("role", "schema", "signature", "source", "text", "thinking", "tool_name", "tool_use_id", "type", "url"),
    )
)
"""Inner fields that are never left out: what the conversation and the tools consist of."""
_CITATIONS = "citations"
"""Inner field that says where the words of a reply come from. What a server rejects in it is no content."""
_RESTRICTIONS = frozenset(
    (
        *("allowed_domains", "allowed_tools", "blocked_domains", "configs", "default_config"),
        *("disable_parallel_tool_use", "enabled", "max_content_tokens", "max_uses", "tool_configuration"),
    )
)
"""Inner fields that are never left out, with all that is in them: they limit what the model or a tool may do."""
_FREE = frozenset(("input", "input_schema", "schema"))
"""Fields with keys of the client's own."""
_ROLES = frozenset(("user", "assistant", "system"))
_OF_EACH_SERVER = frozenset(("text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"))
"""Types of blocks that are not sent as text."""
_REMOVABLE_ELEMENTS = "context_management.edits."
_NEEDS_THINKING = compile_later(r"\b([a-z_]{1,60}_\d{8})\b[^\n]{0,60}\bthinking\b", re.IGNORECASE)
"""Pattern of errors about an edit that requires thinking, in a request without it."""
_LACKS = (
    r"(?:(?:not|never|n't|cannot) (?:be )?(?:support|available|accept|allow|enabl|permit|recogni|implement|valid|used)"
    r"|unsupported|unavailable|unknown|unrecogni[sz]ed|unexpected|invalid|disallowed|only (?:be )?(?:supported|avail))"
)
_EFFORT = r"(?<!when )(?<!with )(?<!while )(?<!if )\beffort\b"
_THINKING = r"(?<!when )(?<!with )(?<!while )(?<!if )\b(?:adaptive|thinking)\b(?![._]budget| blocks?\b)"
_FEATURES = tuple(
    (compile_later(rf"{words}[^\n]{{0,60}}\b{_LACKS}|\b{_LACKS}[^\n]{{0,60}}?{words}", re.IGNORECASE), field)
    for words, field in ((_EFFORT, "output_config.effort"), (_THINKING, "thinking"))
)
"""Pairs: an error about a feature that a model does not have, the field that asks for it (anthropics/claude-code issues
30795 and 59129, ericc-ch/copilot-api issue 286)."""
_MAX_NAME = 200
SUMMARY = "compaction"
"""Field of a request for nothing but a summary. Without it, the proxy has the summary written."""
SAFEGUARDS = "safeguards"
"""Field of auto mode. Without it, the proxy checks the tool calls of the reply itself."""
SCHEMA_FIELDS = frozenset(("output_config", "output_config.format"))
"""Fields without which the system prompt asks for a reply by the client's schema."""
_SCHEMA_INSTRUCTION = "Reply with one JSON value only, without a code fence, that fits this JSON Schema:\n"


class _Form(Struct):
    schema: Raw = Raw()


class _OutputConfig(Struct):
    format: _Form | None = None


_decode_output_config = msgspec.json.Decoder(_OutputConfig).decode


def names_rejected_field(message: str) -> bool:
    return _REFUSED.match(message) is not None or _find_newer_field(message) is not None


def _find_newer_field(message: str) -> str | None:
    """Return the field of newer clients that an error of another server rejects. None: it rejects none."""
    match = _REFUSED_BY_OTHERS.match(message)
    name = next(filter(None, match.groups()), "").lower() if match is not None else ""
    return name if name in _OF_NEWER_CLIENTS else None


def find_rejected_field(body: bytes, message: str) -> str | None:
    """Return the name of the field of an encoded request that an error message rejects. None: it names no field that
    the request has and that can be left out.
    """
    match, newer = _REFUSED.match(message), _find_newer_field(message)
    feature = _find_refused_feature(message, body)
    if match is None and newer is None and not feature:
        return None
    try:
        request = read_json(body, decode_values)
    except InvalidRequest:
        return None
    if not isinstance(request, dict):
        return None
    if match is None and newer in request:
        return newer
    if match is not None and match["path"] == "thinking" and match["tag"] is not None:
        feature, match = "thinking", None  # its type
    if match is None:
        return feature if _has_field(request, feature) else None
    path = match["path"].split(".") if match["path"] else [*match["place"].split("/"), match["key"]]
    name = _find_name(request, [*filter(None, path), *filter(None, (match["tag"],))])
    if name is not None and name.startswith(f"{SAFEGUARDS}."):
        return SAFEGUARDS  # the proxy answers it, but not a part of it
    return name if name is not None and _is_removable(name, is_element=match["tag"] is not None) else None


def _find_refused_feature(message: str, body: bytes) -> str:
    """Return the field with a feature that an error rejects by its name. "": it names none, or quotes the request."""
    if (named := _NEEDS_THINKING.search(message)) is not None:
        from anthropic_proxy.engine.messages.models.context_edits import requires_thinking  # noqa: PLC0415  # few errors

        if requires_thinking(named[1]):
            return f"{_REMOVABLE_ELEMENTS}{named[1]}"
    found = ((pattern.search(message), field) for pattern, field in _FEATURES)
    match, field = next((pair for pair in found if pair[0] is not None), (None, ""))
    return field if match is not None and match[0].lower().encode() not in body.lower() else ""


def _has_field(request: Mapping[str, Any], name: str) -> bool:
    if name == "thinking":
        thinking = request.get(name)
        return isinstance(thinking, dict) and thinking.get("type") != "disabled"
    first, _, inner = name.partition(".")
    value = request.get(first)
    if name.startswith(_REMOVABLE_ELEMENTS):
        edits = value.get("edits") if isinstance(value, dict) else None
        kind = name.removeprefix(_REMOVABLE_ELEMENTS)
        return isinstance(edits, list) and any(isinstance(edit, dict) and edit.get("type") == kind for edit in edits)
    return isinstance(value, dict) and inner in value


def _find_name(request: Any, path: Sequence[str]) -> str | None:
    """Return the name of the field at a path of an error message. None: the request does not have it.

    A path also has the types of the values on its way: `custom`, `ephemeral`, `tool_use`.
    """
    value = request
    name: list[str] = []
    for position, part in enumerate(path, 1):
        is_block = name[-1:] == ["content"]
        if isinstance(value, list):
            if not part.isdecimal() or int(part) >= len(value):
                return None
            value = value[int(part)]
            role = value.get("role") if name == ["messages"] and isinstance(value, dict) else None
            if isinstance(role, str) and role in _ROLES:
                name.append(role)
            continue
        if not isinstance(value, dict):
            return None
        if part in value and (position == len(path) or part != value.get("type")):
            name.append(part)
            value = value[part]
        elif position == len(path):
            return ".".join((*name, part)) if part == value.get("type") else None
        elif is_block:
            if part != value.get("type"):
                return None
            name.append(part)
    return ".".join(name) if name else None


def _is_removable(name: str, *, is_element: bool) -> bool:
    first, *inner = name.split(".")
    if len(name) > _MAX_NAME:
        return False
    if not inner:
        return first not in _REQUIRED
    if is_element:
        in_messages = first == "messages" and inner[-1] not in _OF_EACH_SERVER
        return in_messages or name.startswith(_REMOVABLE_ELEMENTS)
    is_content = inner[-1] in _CONTENT and _CITATIONS not in inner
    return not is_content and _FREE.isdisjoint(inner) and _RESTRICTIONS.isdisjoint(inner)


def find_field_edits(body: bytes, names: Mapping[str, tuple[Handling, str]], notes: list[FidelityNote]) -> list[Edit]:
    """Return the edits that leave out all fields with these names. An object without other fields is left out, too.

    `names`: name → handling and reason for the note on each field that is found, which is added to `notes`.
    """
    removal = _Removal(body)
    places = [(tuple(name.split(".")), name) for name in names]
    held = {leaf for leaf in {place[-1] for place, _ in places} if json_spans.contains(body, _quote(leaf))}
    if held:
        start = body.index(b"{")
        removal.visit(JsonSpan(start, start, len(body)), [each for each in places if each[0][-1] in held])
    notes += [FidelityNote(handling, name, why) for name, (handling, why) in names.items() if name in removal.found]
    return removal.edits


def _quote(name: str) -> bytes:
    return b'"%b"' % name.encode()


_Place = tuple[tuple[str, ...], str]
"""The rest of a name below a value, and the whole name."""


class _Removal:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self.edits: list[Edit] = []
        self.found: set[str] = set()

    def visit(self, span: JsonSpan, places: Sequence[_Place]) -> bool:
        """Add the edits of a value. Return True if nothing is left of it, so that the value itself is to be removed."""
        body = self._body
        places = [each for each in places if body.rfind(_quote(each[0][-1]), span.value, span.end) >= 0]
        if not places:
            return False
        first = body[span.value : span.value + 1]
        if first == b"[":
            spans = json_spans.find_elements(body, span.value, span.end)
            kept = [not self._visit_element(each, places) for each in spans]
        elif first == b"{":
            spans = json_spans.find_members(body, span.value, span.end)
            kept = []
            for member in spans:
                below = [(rest[1:], name) for rest, name in places if rest[0] == member.key]
                whole = {name for rest, name in below if not rest}
                self.found |= whole
                kept.append(not whole and not self.visit(member, [each for each in below if each[0]]))
        else:
            return False
        if spans and not any(kept):
            return True
        self.edits += json_spans.build_removal_edits(spans, kept)
        return False

    def _visit_element(self, element: JsonSpan, places: Sequence[_Place]) -> bool:
        if self._body[element.value] != ord("{"):  # the API has no lists in lists, and each would be searched again
            return False
        text = self._body[element.value : element.end]
        block = read_block(text)
        kind = block.type
        for rest, name in places:
            if rest == (kind,):
                self.found.add(name)
                if not name.startswith("messages."):
                    return True
                self.edits.append(Edit(element.start, element.end, as_text(text) or EMPTY_TEXT))
                return False
        kinds = (kind, block.role)
        return self.visit(element, [(rest[1:] if rest[0] in kinds else rest, name) for rest, name in places])


def find_schema_edits(body: bytes) -> list[Edit]:
    """Return the edits that ask for the client's reply schema in the system prompt, because its field is left out."""
    members = {member.key: member for member in json_spans.find_members(body)}
    given = members.get("output_config")
    if given is None:
        return []
    try:
        form = _decode_output_config(body[given.value : given.end]).format
    except msgspec.ValidationError:
        return []
    if form is None or not bytes(form.schema):
        return []
    text = _SCHEMA_INSTRUCTION + msgspec.json.format(form.schema, indent=-1).decode()
    system = members.get("system")
    if system is None:
        return [Edit(given.start, given.start, b'"system":%b,' % msgspec.json.encode(text))]
    last = system.end - 1
    if body[system.value] == ord('"'):
        return [Edit(last, last, msgspec.json.encode(f"\n\n{text}")[1:-1])]
    if body[system.value] == ord("["):
        block = msgspec.json.encode({"type": "text", "text": text})
        parts = json_spans.find_elements(body, system.value, system.end)
        return [Edit(last, last, (b"," if parts else b"") + block)]
    return [Edit(system.value, system.end, msgspec.json.encode(text))]
