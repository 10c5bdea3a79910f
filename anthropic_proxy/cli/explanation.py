"""Output of the command `explain` for a client request that was processed up to the call to the provider (dry run).

The changed fields come from two sources: the fidelity notes of the translation, and a comparison of the client request
with the upstream request. The comparison finds what the translation does not note.
"""

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.cli.client_models import explain_tool_search
from anthropic_proxy.cli.output import Output
from anthropic_proxy.console import formats
from anthropic_proxy.engine.exchange.dry_run import ACCESS_TOKEN, CLIENT_CREDENTIAL, COUNT_TOKENS_PATH, DryRun
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.preparation.prepare import NO_KNOWN_EFFORTS, TASK_BUDGET
from anthropic_proxy.engine.routing.router import Target
from anthropic_proxy.engine.routing.rules import RouteCheck
from anthropic_proxy.engine.upstream.http.url import join_url
from anthropic_proxy.engine.wires.contract import Credential
from anthropic_proxy.engine.wires.shared_notes import FOREIGN_THINKING_DROPPED, NO_EFFORT, NO_SERVICE_TIER
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.secrets import Secret, redact_secrets

MAX_VALUE_CHARACTERS = 20
"""Maximum length of a field value in the output. A longer value is omitted."""
_ARROW = re.compile(r"(?P<before>\S+) → (?P<after>[^\s,;]+)(?:[,;] (?P<reason>.+))?")
_NUMBER = re.compile(r"\d{4,}")
_UNSENT_NOTES = {
    FOREIGN_THINKING_DROPPED: "this backend did not produce it, or does not accept it",
    NO_EFFORT: NO_EFFORT.reason,
    NO_SERVICE_TIER: NO_SERVICE_TIER.reason.removeprefix("not sent; "),
    **{
        FidelityNote("approximated", field, NO_KNOWN_EFFORTS): NO_KNOWN_EFFORTS.removesuffix(", so none is sent")
        for field in ("thinking", "output_config.effort")
    },
    TASK_BUDGET: "the provider is not known to have it",
}
"""Fidelity note → reason for the user. These notes have the handling `approximated`, but their field is not sent to the
provider."""


class Change(Struct, frozen=True):
    """Change of one field of the client request, or a note about a field that is kept."""

    field: str
    """Path of the field: `max_tokens`, `tools.NAME`. In messages the block type replaces the index."""
    handling: str
    """Handling of the field: kept, approximated, emulated or dropped, as in `FidelityNote`. `dropped`: the field is not
    sent."""
    before: str
    """Value in the client request. "": too long to be shown."""
    after: str
    """Value sent to the provider. "": the value is too long to be shown, or the field is not sent."""
    reason: str

    @property
    def effect(self) -> str:
        """Effect of the change as text: `64,000 → 32,000`, `40 → not sent`, `6, emulated by the proxy`."""
        if self.after:
            return f"{self.before} → {self.after}"
        if self.handling == "dropped":
            return f"{self.before} → not sent" if self.before else "not sent"
        effect = "emulated by the proxy" if self.handling == "emulated" else self.handling
        return f"{self.before}, {effect}" if self.before else effect


def list_changes(
    body: Mapping[str, Any],
    notes: Sequence[FidelityNote],
    renamed_tools: Mapping[str, str],
    unnoted: Sequence[FidelityNote] = (),
) -> list[Change]:
    """Return the changes that the proxy makes to the client request `body`.

    `unnoted`: changes found by the comparison; those of a field with a note are left out. `renamed_tools`: name of a
    tool → its name in the upstream request.
    """
    others = [row for row in unnoted if not any(f"{row.field}.".startswith(f"{note.field}.") for note in notes)]
    changes = [_describe_note(note, body) for note in [*notes, *others]]
    for name, alias in renamed_tools.items():
        effect = (name, alias) if len(name) == len(alias) else (f"{len(name)}", f"{len(alias)} characters")
        changes.append(Change(f"tools.{name}.name", "approximated", *effect, "the original name is in the reply"))
    return changes


def list_unchanged_fields(body: Mapping[str, Any], changes: Sequence[Change]) -> list[str]:
    """Return the fields of the client request `body` that are sent unchanged, such as `messages.text` or `tools.NAME`.

    `changes` is the result of `list_changes`. The field `model` is left out.
    """
    fields = list(list_fields(body))
    changed: set[str] = set()
    for path in (change.field for change in changes if change.handling != "kept"):
        found = [field for field in fields if f"{path}.".startswith(f"{field}.") or f"{field}.".startswith(f"{path}.")]
        if not found and path.startswith("tools."):  # a property of all tools
            found = [field for field in fields if field.startswith("tools.")]
        changed.update(found)
    return [field for field in fields if field not in changed]


def _describe_note(note: FidelityNote, body: Mapping[str, Any]) -> Change:
    if note in _UNSENT_NOTES:
        return Change(note.field, "dropped", _find_value(note.field, body), "", _UNSENT_NOTES[note])
    if found := _ARROW.fullmatch(note.reason):
        before, after = (_NUMBER.sub(lambda digits: f"{int(digits[0]):,}", found[name]) for name in ("before", "after"))
        return Change(note.field, note.handling, before, after, found["reason"] or "")
    reason = note.reason.removeprefix("not sent; ") if note.handling == "dropped" else note.reason
    return Change(note.field, note.handling, _find_value(note.field, body), "", reason)


def _find_value(path: str, body: Mapping[str, Any]) -> str:
    value: Any = body
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    text = str(len(value)) if isinstance(value, list) else "" if isinstance(value, dict) else str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else ""


MAX_SHOWN_CHECKS = 5
"""Maximum number of non-matching routes in the summary. The command `routes explain` shows all of them."""
LABEL_COLUMNS = 11
_MAX_FIELD_COLUMNS, _MAX_FIELD_END = 32, 12
SIGNS = {"kept": ("✓", "ok"), "approximated": ("~", "warn"), "emulated": ("~", "warn"), "dropped": ("✕", "error")}
"""Handling of a request field (kept, approximated, …) → sign before the row, and its color role."""
_TRANSPORTS = {"demo": "the built-in demo, in this process", "litellm": "the Python library LiteLLM, in this process"}
_SECRET_HEADERS = ("authorization", "proxy-authorization")
"""Names of headers that may contain a secret from a URL, in addition to the header with the credential."""


def mask_credential(credential: Credential | None) -> Credential | None:
    """Return `credential` with its secret masked except for the last four characters.

    A placeholder is returned unchanged. It replaces a secret that a dry run does not have, such as an access token.
    """
    if credential is None or credential.value in (CLIENT_CREDENTIAL, ACCESS_TOKEN):
        return credential
    scheme = credential.value.removesuffix(credential.secret)
    return structs.replace(credential, value=f"{scheme}{Secret(credential.secret)}")


class Explanation:
    """Explanation of one client request that was processed without the call to the provider.

    `head` contains the upstream request line and headers, if there is an HTTP request.
    """

    def __init__(self, settings: Settings, body: Mapping[str, Any], result: DryRun, head: bytes) -> None:
        self._settings = settings
        self._body = body
        self._result = result
        self._output = Output()
        masked = mask_credential(result.recorded.credential) if result.recorded is not None else None
        sent, used = result.recorded, self._used_target()
        self._headers: list[tuple[str, str]] = []
        if head:
            pairs = [line.partition(": ") for line in head.decode("utf-8", "replace").split("\r\n")[1:] if line]
            shown = masked.value if masked is not None else None
            for name, _, value in pairs:
                is_secret = name in _SECRET_HEADERS and value != shown
                self._headers.append((name, f"{value.partition(' ')[0]} …" if is_secret else value))
        elif sent is not None:
            self._headers = list(sent.request.headers.items())
        found: Sequence[FidelityNote] = ()
        if used is not None and sent is not None:
            found = find_body_changes(body, sent.request.body, result.renamed_tools, is_relayed=used.is_relayed)
        self._changes = list_changes(body, result.receipt.notes, result.renamed_tools, found)

    @property
    def error(self) -> ProxyError | None:
        """Error with which the proxy would reject the request. None: it would accept the request."""
        return self._result.error

    @property
    def has_upstream_request(self) -> bool:
        """True if the proxy would send a request to a provider. False: it rejects the request, or replies by itself."""
        return self._result.recorded is not None

    def write_summary(self, upstream_request_command: str) -> None:
        """`upstream_request_command`: command that prints the upstream request, if there is one."""
        self._write_route()
        result, output = self._result, self._output
        if result.error is not None:
            return
        for skipped in result.skipped:
            self._write_labeled("not run", f"{skipped}. A real request runs it first and contains its result.")
        if result.estimated_tokens is not None:
            self._write_labeled("reply", f"{result.estimated_tokens:,} input tokens, estimated by the proxy")
            return
        tools, target = self._body.get("tools"), self._used_target()
        window = target.capabilities.context_window if target is not None else 0
        if isinstance(tools, list) and window and (rule := explain_tool_search(tools, window)):
            self._write_labeled("tools", rule)
        output.write_line()
        count = len(list_unchanged_fields(self._body, self._changes))
        output.write_line(f"  {output.paint('✓', 'ok')} {formats.plural(count, 'field')} unchanged")
        rows = [self._shorten(change) for change in self._changes]
        fields = max((len(change.field) for change in rows), default=0)
        effects = max((len(change.effect) for change in rows), default=0)
        for change in rows:
            sign, role = SIGNS[change.handling]
            line = f"  {output.paint(sign, role)} {change.field:<{fields}}  {change.effect:<{effects}}"
            used = 6 + fields + effects
            if output.width is None or used + 2 + len(change.reason) <= output.width:
                output.write_line(f"{line}  {change.reason}".rstrip())
                continue
            output.write_line(line.rstrip())
            for reason in textwrap.wrap(change.reason, max(output.width - 6, 30)):
                output.write_line(f"      {output.paint(reason, 'quiet')}")
        if result.recorded is not None:
            output.write_line(f"\n  Full upstream request:  {output.paint(upstream_request_command, 'type')}")

    def write_upstream_request(self) -> None:
        """Write method and URL, headers, and the exact bytes of the body."""
        sent = self._result.recorded
        assert sent is not None
        lines = [self._request_line(), *(f"{name}: {value}" for name, value in self._headers), "", ""]
        sys.stdout.flush()
        sys.stdout.buffer.write("\n".join(lines).encode("utf-8", "backslashreplace") + sent.request.body)
        sys.stdout.buffer.write(b"\n" if sys.stdout.isatty() else b"")
        sys.stdout.buffer.flush()

    def write_json(self) -> None:
        result, receipt, sent, error = self._result, self._result.receipt, self._result.recorded, self._result.error
        targets = result.route.targets if result.route is not None else ()
        self._output.write_json(
            {
                "path": receipt.path,
                "requested_model": self._body.get("model"),
                "target": f"{receipt.prefix}/{receipt.model}" if receipt.model else None,
                "rule": result.route.reason if result.route is not None else None,
                "checks": encode_checks(result.checks),
                "route": [
                    {"target": f"{row.provider.prefix}/{row.model}", "setting": row.model_setting} for row in targets
                ],
                "notices": list(result.route.notes) if result.route is not None else [],
                "unchanged": list_unchanged_fields(self._body, self._changes),
                "changes": self._changes,
                "skipped": result.skipped,
                "estimated_tokens": result.estimated_tokens,
                "upstream": None
                if sent is None
                else {
                    "transport": sent.transport,
                    "method": sent.request.method,
                    "url": self._url() if sent.transport == "http" else None,
                    "headers": dict(self._headers),
                    "body": sent.request.body.decode("utf-8", "replace"),
                },
                "error": None
                if error is None
                else {"status": error.status, "type": error.error_type, "message": error.message},
            }
        )

    def _used_target(self) -> Target | None:
        """Return the target (model at a provider) of the request, else the first target of its route.

        None: the request has no route.
        """
        targets = self._result.route.targets if self._result.route is not None else ()
        return next(
            (row for row in targets if row.model == self._result.receipt.model), targets[0] if targets else None
        )

    def _write_route(self) -> None:
        result, output, route = self._result, self._output, self._result.route
        requested = escape_unprintable(str(self._body.get("model", "–")))
        used = self._used_target()
        if route is None or used is None:
            output.write_line(f"  {output.paint(requested, 'title')}")
            return
        targets = route.targets
        target = escape_unprintable(f"{used.provider.prefix}/{used.model}")
        output.write_line(f"  {output.paint(requested, 'title')} → {output.paint(target, 'type')}")
        self._write_labeled("rule", route.reason)
        for label, text in describe_checks(result.checks, MAX_SHOWN_CHECKS):
            self._write_labeled(label, text)
        for note in route.notes:
            if route.reason not in note:
                self._write_labeled("notice", note)
        if result.recorded is not None:
            for number, row in enumerate(targets, start=1 - targets.index(used)):
                name = f"{row.provider.prefix}/{row.model}"
                if number < 1:
                    self._write_labeled("skipped", f"{name} cannot serve this request")
                elif number == 1:
                    self._write_labeled("attempt 1", self._request_line())
                else:
                    setting = f" ({row.model_setting})" if row.model_setting else ""
                    self._write_labeled(f"attempt {number}", f"{name}, if attempt {number - 1} fails{setting}")
        if result.receipt.path == COUNT_TOKENS_PATH:
            self._write_labeled("request", f"{COUNT_TOKENS_PATH}, because max_tokens and stream are missing")
        elif result.recorded is None and result.error is None:
            self._write_labeled("reply", "the proxy replies by itself; nothing is sent")

    def _write_labeled(self, label: str, text: str) -> None:
        self._output.write_labeled(label, text, LABEL_COLUMNS)

    def _shorten(self, change: Change) -> Change:
        """Return `change` with escaped texts. On a terminal, the middle of a long field name is omitted."""
        escaped = Change(*(escape_unprintable(text) for text in structs.astuple(change)))
        if self._output.width is None or len(escaped.field) <= _MAX_FIELD_COLUMNS:
            return escaped
        end = escaped.field[-_MAX_FIELD_END:]
        return structs.replace(escaped, field=f"{escaped.field[: _MAX_FIELD_COLUMNS - _MAX_FIELD_END - 1]}…{end}")

    def _request_line(self) -> str:
        """Return method and URL of the upstream request.

        Without HTTP, for example with LiteLLM, return a description of the transport.
        """
        sent = self._result.recorded
        assert sent is not None
        return _TRANSPORTS.get(sent.transport) or f"{sent.request.method} {self._url()}"

    def _url(self) -> str:
        """Return the URL without user name and password."""
        sent = self._result.recorded
        assert sent is not None

        scheme, _, remainder = join_url(sent.base_url, sent.request.path).partition("://")
        host, slash, path = remainder.partition("/")
        url = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
        return redact_secrets(url, self._settings.reveal_all_secrets())


_NESTED_FIELDS = {
    "thinking": {"type", "budget_tokens", "display"},
    "tool_choice": {"type", "name", "disable_parallel_tool_use"},
    "output_config": {"effort", "format", "task_budget"},
    "output_format": {"type", "schema"},
}
"""Translated field of the Messages API → its translated members."""
_NUMBERS = ("max_tokens", "temperature", "top_p", "top_k")
_OTHER_FIELDS = {"model", "messages", "system", "tools", "mcp_servers", "stop_sequences"}
_CONTENT = {"messages", "contents", "input", "tools", "system", "instructions", "systemInstruction"}
"""Fields of an upstream request that contain the conversation and tools, not settings."""
_USER_FIELDS = ("safety_identifier", "user")
_TOOL_FIELDS = {"name", "description", "input_schema", "type", "cache_control"}
_SCHEMA_FIELDS = ("parameters", "parametersJsonSchema", "input_schema")


def find_body_changes(
    body: Mapping[str, Any], upstream_body: bytes, renamed_tools: Mapping[str, str], *, is_relayed: bool
) -> list[FidelityNote]:
    """Return the differences between the client request `body` and `upstream_body`, as fidelity notes.

    `is_relayed` is True if the provider also has the Messages API, so that both bodies have the same format.
    """
    try:
        upstream = json.loads(upstream_body)
    except ValueError:
        return []
    if not isinstance(upstream, dict):
        return []
    found = _compare_same_format(body, upstream) if is_relayed else _compare_formats(body, upstream, renamed_tools)
    return list(dict.fromkeys(found))


def _compare_same_format(body: Mapping[str, Any], sent: Mapping[str, Any]) -> Iterator[FidelityNote]:
    before, after = list_fields(body), list_fields(sent)
    for field, values in before.items():
        if field not in after:
            if field != "stream":  # some providers have another address for streams
                yield FidelityNote("dropped", field, "the proxy removes it for this provider")
        elif values != after[field]:
            yield FidelityNote("approximated", field, "the proxy changes it for this provider")


def _compare_formats(
    body: Mapping[str, Any], sent: Mapping[str, Any], renamed_tools: Mapping[str, str]
) -> Iterator[FidelityNote]:
    settings = {name: value for name, value in sent.items() if name not in _CONTENT}
    leaves = (leaf for _, leaf in _leaves(settings))
    numbers = [leaf for leaf in leaves if isinstance(leaf, int | float) and not isinstance(leaf, bool)]
    for name, value in body.items():
        if name == "metadata" and isinstance(value, dict):
            user_field = next((field for field in _USER_FIELDS if field in sent), "")
            for key in value:
                if key == "user_id" and user_field:
                    yield FidelityNote("approximated", "metadata.user_id", f"a hash of it is sent as {user_field}")
                else:
                    yield _untranslated(f"metadata.{key}")
        elif name == "service_tier":
            found = sent.get("service_tier")
            if found is None:
                yield FidelityNote("dropped", "service_tier", "without it the backend's default tier answers")
            elif found != str(value):
                yield FidelityNote("approximated", "service_tier", f"{value} → {found}")
        elif name == "stream":
            if sent.get("stream", value) != value:
                change = f"{json.dumps(value)} → {json.dumps(sent['stream'])}"
                yield FidelityNote("approximated", "stream", change)
        elif name in _NUMBERS:
            if value not in numbers:
                yield FidelityNote("dropped", name, "the upstream request does not contain the value")
        elif name in _NESTED_FIELDS and isinstance(value, dict):
            for key in value.keys() - _NESTED_FIELDS[name]:
                yield _untranslated(f"{name}.{key}")
        elif name not in _OTHER_FIELDS and sent.get(name) != value:
            yield _untranslated(name)
    if body.get("thinking") and not any("reason" in key or "think" in key for key in _keys(settings)):
        yield FidelityNote("dropped", "thinking", "the upstream request contains no setting for reasoning")
    yield from _compare_tools(body, sent, renamed_tools)
    yield from _compare_cache_marks(body, sent)
    yield from _compare_texts(body, sent)


def _untranslated(field: str) -> FidelityNote:
    return FidelityNote("dropped", field, "the proxy has no translation of it for this provider")


def _compare_tools(
    body: Mapping[str, Any], sent: Mapping[str, Any], renamed_tools: Mapping[str, str]
) -> Iterator[FidelityNote]:
    entries = sent.get("tools") or []
    functions = {row["name"]: row for row in _objects(entries) if isinstance(row.get("name"), str)}
    has_other = any(not any("name" in row for row in _objects(entry)) for entry in entries)
    for tool in body.get("tools") or ():
        if not isinstance(tool, dict):
            continue
        name = str(tool.get("name", tool.get("type", "")))
        function = functions.get(renamed_tools.get(name, name))
        if tool.get("type", "custom") == "custom":
            yield from _compare_function(f"tools.{name}", tool, function)
        elif function is not None:
            reason = "sent as a function, with a description and schema of the proxy"
            yield FidelityNote("emulated", f"tools.{name}", reason)
        elif has_other:
            yield FidelityNote("approximated", f"tools.{name}", "replaced by the provider's own tool")
            if "max_uses" in tool and sent.get("max_tool_calls") == tool["max_uses"]:
                yield FidelityNote("approximated", f"tools.{name}.max_uses", "sent as max_tool_calls")
        else:
            yield _untranslated(f"tools.{name}")


def _compare_function(
    field: str, tool: Mapping[str, Any], function: Mapping[str, Any] | None
) -> Iterator[FidelityNote]:
    if function is None:
        yield FidelityNote("dropped", field, "the upstream request contains no tool of this name")
        return
    if function.get("description", "") != tool.get("description", ""):
        yield FidelityNote("approximated", f"{field}.description", "the proxy changes it for this provider")
    schema = next((function[name] for name in _SCHEMA_FIELDS if name in function), None)
    if _meaning(schema) != _meaning(tool.get("input_schema")):
        yield FidelityNote("approximated", f"{field}.input_schema", "the proxy changes it for this provider")
    for key in tool.keys() - _TOOL_FIELDS:
        if function.get(key) != tool[key]:
            yield _untranslated(f"{field}.{key}")


def _compare_cache_marks(body: Mapping[str, Any], sent: Mapping[str, Any]) -> Iterator[FidelityNote]:
    is_sent = any(key == "cache_control" for key in _keys(sent))
    for field, values in list_fields(body).items():
        if field.partition(".")[0] in ("system", "tools", "messages") and "cache_control" in set(_keys(values)):
            if is_sent:
                reason = "the proxy sets the cache marks of this provider"
                yield FidelityNote("approximated", f"{field}.cache_control", reason)
            else:
                yield _untranslated(f"{field}.cache_control")


def _compare_texts(body: Mapping[str, Any], sent: Mapping[str, Any]) -> Iterator[FidelityNote]:
    arrived = "\0".join(leaf for _, leaf in _leaves(sent) if isinstance(leaf, str))
    fields = list_fields(body)
    for field in ("system", "messages.text"):
        blocks = [each for value in fields.get(field, ()) for each in (value if isinstance(value, list) else [value])]
        texts = (block.get("text") if isinstance(block, dict) else block for block in blocks)
        if any(isinstance(text, str) and text.strip() not in arrived for text in texts):
            yield FidelityNote("approximated", field, "the upstream request contains a changed text")


def _meaning(schema: Any) -> Any:
    """Return a schema without `$schema` and without an empty `properties` or `required`, which restrict nothing."""
    if not isinstance(schema, dict):
        return schema
    ignored: dict[str, Any] = {"properties": {}, "required": []}
    return {key: value for key, value in schema.items() if key != "$schema" and ignored.get(key) != value}


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a list of tools, without the inside of their schemas."""
    if isinstance(value, dict):
        yield value
        for key, member in value.items():
            if key not in _SCHEMA_FIELDS:
                yield from _objects(member)
    elif isinstance(value, list):
        for element in value:
            yield from _objects(element)


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each key with its value, at all depths. Elements of a list have the key ""."""
    stack = [("", value)]
    while stack:
        key, value = stack.pop()
        yield key, value
        if isinstance(value, dict):
            stack += value.items()
        elif isinstance(value, list):
            stack += (("", element) for element in value)


def _keys(value: Any) -> Iterator[str]:
    return (key for key, _ in _leaves(value) if key)


_EXPANDED_LISTS = {"tools": "name", "mcp_servers": "name"}
"""List field → key that names its elements."""


def list_fields(body: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the fields of a request body except `model`: path of the field → its values.

    Content blocks of all messages are grouped by their type: those of the type TYPE are at the path `messages.TYPE`.
    """
    fields: dict[str, list[Any]] = {}
    for field, value in _list_values(body):
        fields.setdefault(field, []).append(value)
    return fields


def _list_values(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in body.items():
        if name == "messages" and isinstance(value, list):
            for message in value:
                content = message.get("content") if isinstance(message, dict) else None
                if isinstance(content, str):
                    yield "messages.text", {"type": "text", "text": content}
                for block in content if isinstance(content, list) else ():
                    if isinstance(block, dict):
                        yield f"messages.{block.get('type', '')}", block
        elif name in _EXPANDED_LISTS and isinstance(value, list):
            key = _EXPANDED_LISTS[name]
            yield from ((f"{name}.{row.get(key, row.get('type', ''))}", row) for row in value if isinstance(row, dict))
        elif isinstance(value, dict) and value:
            yield from ((f"{name}.{key}", member) for key, member in value.items())
        elif name != "model":
            yield name, value


def describe_checks(checks: Sequence[RouteCheck], limit: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield lines about the checked routes, as pairs of label and text, the matching route first.

    With a `limit`, only that many routes without a match are listed, and a line gives the number of the others.
    """
    if not checks:
        return
    matching = checks[-1] if not checks[-1].failed else None
    failed = [check for check in checks if check.failed]
    if matching is not None:
        yield "conditions", "; ".join(matching.met) or "none: the route matches every request"
    else:
        yield "routes", f"none of {len(failed)} matches" if len(failed) > 1 else "the only one does not match"
    shown = failed if limit is None or len(failed) <= limit else failed[-limit:]
    if hidden := len(failed) - len(shown):
        yield "no match", f"{hidden} earlier routes. All of them:  anthropic-proxy routes explain"
    for check in shown:
        yield "no match", f'"{check.route.name}" {check.failed} ({check.route.origin})'


def encode_checks(checks: Sequence[RouteCheck]) -> list[dict[str, object]]:
    """Return the checked routes as objects for JSON, in the order of the configuration file."""
    return [
        {
            "route": check.route.name,
            "origin": check.route.origin,
            "matches": not check.failed,
            "failed": check.failed or None,
            "met": list(check.met),
        }
        for check in checks
    ]
