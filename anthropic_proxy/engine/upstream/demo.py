"""Demo: a built-in provider without a model, for trying the proxy without a key.

Its replies follow fixed rules: a text about the demo, a tool call for a few simple requests, or a repeated tool result.
They have the format of Chat Completions (OpenAI's API reference, 2026-11). No connection is opened.
"""

import asyncio
import contextlib
import posixpath
import re
import secrets
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from anthropic_proxy.engine.messages.deltas import CHARACTERS_PER_TOKEN
from anthropic_proxy.engine.messages.models.tools import MAX_TOOL_NAME_LENGTH
from anthropic_proxy.engine.messages.work_budget import (
    CHARACTERS_PER_NODE,
    WorkBudget,
    WorkLimitExceeded,
    count_json_nodes,
)
from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.engine.patterns import AnchoredPattern, compile_anchored, compile_later
from anthropic_proxy.engine.platforms.program import name_program
from anthropic_proxy.engine.wires.bound_requests import BoundRequest, Transport
from anthropic_proxy.engine.wires.upstream_http import UpstreamResponse

CHUNK_INTERVAL_SECONDS = 0.01
"""Pause before each chunk of a streamed demo reply, so that users see the reply arrive in fragments."""


class DemoResponse:
    """Response of the demo, which is produced while it is read. `chunk_interval_seconds` is the pause before each
    chunk.
    """

    body_received = False
    """Always False: whether the body has ended is not known before `read` returns the end."""

    def __init__(
        self, status: int, content_type: str, chunks: Iterable[bytes], chunk_interval_seconds: float = 0.0
    ) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": content_type}
        self._chunks = iter(chunks)
        self._chunk_interval_seconds = chunk_interval_seconds

    async def read(self) -> bytes:
        chunk = next(self._chunks, b"")
        if chunk and self._chunk_interval_seconds:
            await asyncio.sleep(self._chunk_interval_seconds)
        return chunk

    async def close(self, *, wait_for_end: bool = False) -> None:
        self._chunks = iter(())


def new_demo_transport(
    setup_variables: Sequence[str], options: EngineOptions, *, chunk_interval_seconds: float = 0.0
) -> Transport:
    """Texts mention `setup_variables`, which configure a real provider."""
    command = name_program("anthropic-proxy init")
    after = "which applies at once" if options.session_command else "and reload the proxy"
    advice = Advice(
        f"For a real model, run {command}, or put {setup_variables[0]}=… into {options.variables_file}, {after}.",
        setup_variables[1:],
    )

    async def send(bound: BoundRequest) -> UpstreamResponse:
        request = bound.request
        if request.path.partition("?")[0] != "/chat/completions":
            return _refuse(404, f"Unknown request URL: {request.method} {request.path}.")
        try:
            demo_request = decode_request(request.body)
            demo_reply = build_reply(demo_request, advice)
        except msgspec.DecodeError:
            return _refuse(400, "We could not parse the JSON body of your request.")
        except WorkLimitExceeded as error:
            return _refuse(400, error.message)
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": demo_request.model}
        chunks = encode_reply(demo_reply, demo_request, head, f"call_{secrets.token_hex(12)}")
        if demo_request.stream:
            return DemoResponse(200, "text/event-stream; charset=utf-8", chunks, chunk_interval_seconds)
        return DemoResponse(200, "application/json", chunks)

    return send


def _refuse(status: int, message: str) -> DemoResponse:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return DemoResponse(status, "application/json", [msgspec.json.encode({"error": error})])


_DIRECTORY = compile_later(
    r"working directory(?: is)?:?[ \t]*[`\"']?(/[^\n`\"'<]*|[A-Za-z]:\\[^\n`\"'<]*)", re.IGNORECASE
)
_REMINDER_TAGS = ("system-reminder", "local-command-caveat", "local-command-stdout", "local-command-stderr")
"""Tags around sections that Claude Code adds to the text of the user."""


class OfferedTool(Struct, frozen=True):
    name: str
    input_schema: Mapping[str, Any]


class ToolCall(Struct, frozen=True):
    """A tool call with decoded arguments: one in the conversation, or one that the demo makes."""

    name: str
    arguments: Any


class DemoRequest(Struct, kw_only=True):
    model: str
    tools: Sequence[OfferedTool]
    tool_choice: str
    """Choice of the client: `auto`, `none`, `required`, or one tool as `tool:<name>`."""
    max_reply_tokens: int | None
    """Maximum size of the demo reply in tokens. None: no limit."""
    stream: bool
    includes_usage: bool
    """True if a stream ends with a chunk of token counts."""
    requires_json: bool
    reply_schema: Any
    """JSON Schema of the reply, decoded. None: no schema."""
    last_user_text: str = ""
    """Last text of the user, without sections that the client adds."""
    working_directory: str = ""
    """Working directory of the client, as the client's messages state it. "": not stated."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    """Tool calls of the model since its last message without a tool call, in order."""
    tool_results: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of tool name and result text, for the calls of the last assistant message. Empty: no results."""
    tool_names: dict[str, str] = field(default_factory=dict)
    """Tool call id → tool name, for the calls of the last assistant message."""
    input_characters: int = 0
    """Number of characters of all messages and tools, from which the input tokens are estimated."""


def decode_request(body: bytes) -> DemoRequest:
    """Raises `msgspec.DecodeError` if the body is not a JSON object."""
    fields = msgspec.json.decode(body, type=dict[str, Any])
    functions = [entry["function"] for entry in fields.get("tools") or () if "function" in entry]
    choice = fields.get("tool_choice") or "auto"
    named = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    form = fields.get("response_format") or {}
    request = DemoRequest(
        model=fields.get("model") or "demo",
        tools=[OfferedTool(function["name"], function.get("parameters") or {}) for function in functions],
        tool_choice=f"tool:{named}" if named else str(choice),
        max_reply_tokens=fields.get("max_completion_tokens") or fields.get("max_tokens"),
        stream=bool(fields.get("stream")),
        includes_usage=bool((fields.get("stream_options") or {}).get("include_usage")),
        requires_json=form.get("type") in {"json_schema", "json_object"},
        reply_schema=(form.get("json_schema") or {}).get("schema"),
        input_characters=len(msgspec.json.encode(fields.get("tools"))),
    )
    for message in fields.get("messages") or ():
        _read_message(message, request)
    return request


def _read_message(message: dict[str, Any], request: DemoRequest) -> None:
    role = message.get("role")
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(block["text"] for block in content if block.get("type") == "text")
    request.input_characters += len(content)
    if role == "assistant":
        request.tool_results = []
        request.tool_names = {}
        calls = message.get("tool_calls") or ()
        if not calls:
            request.tool_calls = []
        for call in calls:
            function = call.get("function") or {}
            name = str(function.get("name"))
            arguments = str(function.get("arguments") or "{}")
            with contextlib.suppress(msgspec.DecodeError):
                request.tool_calls.append(ToolCall(name, msgspec.json.decode(arguments)))
            request.tool_names[str(call.get("id"))] = name
            request.input_characters += len(arguments)
    elif role == "tool":
        request.tool_results.append((request.tool_names.get(str(message.get("tool_call_id")), "The tool"), content))
    else:
        for directory in _DIRECTORY.findall(content):
            request.working_directory = directory.strip().rstrip(".,")
        if role == "user":
            request.last_user_text = remove_tagged_sections(content).strip() or request.last_user_text


def remove_tagged_sections(text: str) -> str:
    """A tag without an end tag is kept."""
    for tag in _REMINDER_TAGS:
        first, *others = text.split(f"<{tag}>")
        kept = [first]
        for other in others:
            _, closed, remainder = other.partition(f"</{tag}>")
            kept.append(remainder if closed else f"<{tag}>{other}")
        text = "".join(kept)
    return text


MAX_REPEATED_TOOL_RESULTS = 8
MAX_TOOL_RESULT_CHARACTERS = 1_500
_ERROR_MARK = "[tool error]"
_FINAL_TOOL = "StructuredOutput"
"""Claude Code requests structured output with this tool, and treats a reply that does not call it as an error."""


class Advice(Struct, frozen=True):
    """How to use a real model."""

    text: str
    other_variables: Sequence[str]
    """Further variables that configure a provider."""


class DemoReply(Struct, frozen=True):
    text: str = ""
    tool_call: ToolCall | None = None


def build_reply(request: DemoRequest, advice: Advice) -> DemoReply:
    """Raises `WorkLimitExceeded` if a JSON Schema of the request requires values that are too large."""
    call = None if request.tool_choice == "none" else find_requested_call(request)
    if request.tool_choice not in {"auto", "none"}:
        allowed = [tool for tool in request.tools if request.tool_choice in {"required", f"tool:{tool.name}"}]
        if call is None or all(tool.name != call.name for tool in allowed):
            call = next((build_tool_call(tool, {}) for tool in allowed), None)
        return DemoReply(tool_call=call) if call else DemoReply(_introduce(request, advice))
    if call is not None and call not in request.tool_calls:
        return DemoReply(f"The demonstration calls {call.name}.", call)
    final = next((tool for tool in request.tools if tool.name == _FINAL_TOOL), None)
    if final and request.tool_choice == "auto" and all(made.name != _FINAL_TOOL for made in request.tool_calls):
        return DemoReply(tool_call=build_tool_call(final, {}))
    if request.requires_json:
        schema = {"type": "object"} if request.reply_schema is None else request.reply_schema
        return DemoReply(msgspec.json.encode(build_default_value("output_config.format.schema", schema)).decode())
    if request.tool_results:
        texts = []
        for name, result in request.tool_results[:MAX_REPEATED_TOOL_RESULTS]:
            text = remove_tagged_sections(result.removeprefix(_ERROR_MARK)).strip()
            if len(text) > MAX_TOOL_RESULT_CHARACTERS:
                text = f"{text[:MAX_TOOL_RESULT_CHARACTERS].rstrip()} … ({len(text):,} characters in total)"
            outcome = "failed" if result.startswith(_ERROR_MARK) else "returned"
            texts.append(f"{name} {outcome}:\n\n{text or '(no text)'}")
        texts.append(f"(The demonstration repeats tool results. {advice.text})")
        return DemoReply("\n\n".join(texts))
    return DemoReply(_introduce(request, advice))


def _introduce(request: DemoRequest, advice: Advice) -> str:
    texts = [
        "This is the built-in demonstration of anthropic-proxy. It is not a language model and knows nothing.",
        f"{advice.text} Other variables for this: {', '.join(advice.other_variables) or 'see .env.example'}.",
    ]
    if request.tools:
        texts.append(
            "It calls your tools for a few plain requests only: list the files here · read a.txt · run `echo hi` · "
            "What's the weather in Paris?"
        )
    text = "\n\n".join(texts)
    # A client that compacts its history looks for these tags.
    return f"<summary>{text}</summary>" if "<summary>" in request.last_user_text else text


_TOKEN = compile_later(r"\s*\w{1,6}|\s*[^\w\s]{1,4}|\s+")
MAX_STREAM_FRAGMENTS = 300
"""Maximum number of fragments of a text or of arguments, so that a long reply does not stream for minutes."""


def encode_reply(
    reply: DemoReply, request: DemoRequest, shared_fields: Mapping[str, Any], call_id: str
) -> Iterator[bytes]:
    """The events of a stream, or one JSON object. Every chunk contains `shared_fields`."""
    limit = 1 << 30 if request.max_reply_tokens is None else request.max_reply_tokens
    texts, spent, cut = _split(reply.text, limit)
    call: dict[str, Any] | None = None
    arguments: list[str] = []
    if reply.tool_call is not None and not cut and spent < limit:
        # The name of a call counts as one token.
        arguments, used, cut = _split(msgspec.json.encode(reply.tool_call.arguments).decode(), limit - spent - 1)
        spent += 1 + used
        call = {"id": call_id, "type": "function", "function": {"name": reply.tool_call.name, "arguments": ""}}
    prompt = request.input_characters // CHARACTERS_PER_TOKEN + 8
    usage = {"prompt_tokens": prompt, "completion_tokens": spent, "total_tokens": prompt + spent}
    reason = "tool_calls" if call else "stop"
    if cut or (reply.tool_call and not call):
        reason = "length"
    if request.stream:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "" if texts else None, "refusal": None}]
        deltas += [{"content": text} for text in texts]
        if call:
            deltas.append({"tool_calls": [{"index": 0, **call}]})
            deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in arguments]
        return _encode_events(shared_fields, deltas, reason, usage if request.includes_usage else None)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None, "refusal": None}
    if call:
        call["function"]["arguments"] = "".join(arguments)
        message["tool_calls"] = [call]
    choice = {"index": 0, "message": message, "finish_reason": reason}
    body = {**shared_fields, "object": "chat.completion", "choices": [choice], "usage": usage}
    return iter([msgspec.json.encode(body)])


def _split(text: str, limit: int) -> tuple[list[str], int, bool]:
    """Return the fragments of a text, their number of tokens, and True if the text was cut at `limit` tokens."""
    tokens = _TOKEN.findall(text)
    kept = tokens[:limit]
    step = 1 + len(kept) // MAX_STREAM_FRAGMENTS
    fragments = ["".join(kept[place : place + step]) for place in range(0, len(kept), step)]
    return fragments, len(kept), len(kept) < len(tokens)


def _encode_events(
    shared_fields: Mapping[str, Any], deltas: Iterable[dict[str, Any]], reason: str, usage: Mapping[str, int] | None
) -> Iterator[bytes]:
    fields = {**shared_fields, "object": "chat.completion.chunk", **({"usage": None} if usage else {})}
    for delta in deltas:
        yield _encode_event({**fields, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _encode_event({**fields, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if usage:
        yield _encode_event({**fields, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _encode_event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


MAX_DEFAULT_VALUE_NODES = 1_000
"""Maximum size of the default values for one JSON Schema, in nodes. A node is a key, a value or 64 characters."""
MAX_DEFAULT_VALUE_STEPS = 20_000
MAX_SCHEMA_DEPTH = 32
"""Maximum nesting depth of a schema with default values. A deeper schema raises `WorkLimitExceeded`."""
_TEXT = "demo"
_UNION_KEYWORDS = ("anyOf", "oneOf", "allOf")


def build_tool_call(tool: OfferedTool, given: Mapping[str, Any]) -> ToolCall:
    """Other required arguments get default values. Raises `WorkLimitExceeded` if these are too large."""
    value = _Defaults(f"tools.{tool.name}.input_schema", tool.input_schema).fill(tool.input_schema, 0, given)
    return ToolCall(tool.name, {**value, **given} if isinstance(value, dict) else given)


def build_default_value(field: str, schema: Any) -> Any:
    """`field` is the path of the schema for errors. Raises `WorkLimitExceeded`."""
    return _Defaults(field, schema).fill(schema, 0)


class _Defaults:
    """Builder of default values for a JSON Schema (`root`), for required arguments that the user's text does not
    contain. A value has the stated type and is not below a stated minimum. Patterns, formats and other keywords are
    ignored.
    """

    def __init__(self, field: str, root: Any) -> None:
        self._budget = WorkBudget(
            field,
            purpose="fill in",
            max_steps=MAX_DEFAULT_VALUE_STEPS,
            max_nodes=MAX_DEFAULT_VALUE_NODES,
            max_depth=MAX_SCHEMA_DEPTH,
        )
        self._root = root

    def fill(self, schema: Any, depth: int, given: Mapping[str, Any] | None = None) -> Any:
        """`given`: properties that the value does not need to contain."""
        self._budget.require_allowed_depth(depth)
        self._budget.count_nodes(1)
        if not isinstance(schema, Mapping):
            return _TEXT
        if stated := _list_stated(schema):
            self._budget.count_nodes(count_json_nodes(stated[0]))
            return stated[0]
        if isinstance(reference := schema.get("$ref"), str):
            # a JSON pointer into the root schema, such as `#/$defs/place`
            self._budget.count_steps(1 + len(reference))
            target = self._root
            for key in filter(None, reference.removeprefix("#").split("/")):
                name = key.replace("~1", "/").replace("~0", "~")
                target = target.get(name) if isinstance(target, Mapping) else None
            return self.fill(target, depth + 1, given)
        kind = _type_of(schema)
        if kind == "object":
            properties, required = schema.get("properties"), schema.get("required")
            known = properties if isinstance(properties, Mapping) else {}
            filled: dict[str, Any] = {}
            for name in required if isinstance(required, list) else ():
                if isinstance(name, str) and name not in (given or ()) and name not in filled:
                    self._budget.count_nodes(count_json_nodes(name))
                    filled[name] = self.fill(known.get(name), depth + 1)
            return filled
        if kind == "array":
            count = int(_lower_bound(schema.get("minItems")))
            self._budget.count_nodes(count)
            return [self.fill(schema.get("items"), depth + 1) for _ in range(count)]
        if kind == "string":
            length = int(_lower_bound(schema.get("minLength"), len(_TEXT)))
            self._budget.count_nodes(length // CHARACTERS_PER_NODE)
            return _TEXT.ljust(length, ".")[: int(_lower_bound(schema.get("maxLength", length)))]
        if kind in {"integer", "number"}:
            above = schema.get("exclusiveMinimum")
            value = _lower_bound(schema.get("minimum"), above + 1 if isinstance(above, int | float) else 0)
            high = schema.get("maximum", value)
            return high if isinstance(high, int | float) and high < value else value
        if kind:
            return {"boolean": False, "null": None}.get(kind, _TEXT)
        unions = (schema[keyword] for keyword in _UNION_KEYWORDS if isinstance(schema.get(keyword), list))
        union = next(filter(None, unions), None)
        return _TEXT if union is None else self.fill(union[0], depth + 1, given)


def _list_stated(schema: Mapping[str, Any]) -> list[Any]:
    """Return the values that a schema states by `const`, `default` or `enum`."""
    enum = schema.get("enum")
    values = [schema[keyword] for keyword in ("const", "default") if keyword in schema]
    return values + enum if isinstance(enum, list) else values


def _type_of(schema: Mapping[str, Any]) -> str:
    """Return the first type of a schema. Without `type`: the type that other keywords imply. "": none."""
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next(iter(kind), None)
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "required" in schema:
        return "object"
    return "array" if "items" in schema else ""


def _lower_bound(*limits: Any) -> Any:
    """Return the maximum of 0 and the numbers in `limits`, the lower bounds of a schema. Other values are ignored."""
    return max((0, *(limit for limit in limits if isinstance(limit, int | float))))


MAX_PROMPT_CHARACTERS = 300
"""Maximum number of characters of a user text that is compared with the patterns. A longer text gets no tool call."""
_START = (
    r"\s*(?:(?:please|now|then)\s+|(?:can|could|would) you\s+(?:please\s+)?)?"
    r"(?:use\s+(?:the\s+)?(?P<tool>\w+)(?:\s+tool)?\s+(?:to|and)\s+)?"
)
_END = (
    r"(?:,?\s+(?:please|for me|now|today))?"
    r"(?:,?\s+(?:and|then)\s+(?:tell|show|say|summari[sz]e|explain|print|repeat|report)\b[^\n]*)?\s*[.!?]*\s*"
)
_QUOTED = r"`(?P<ticked>[^`\n]+)`|\"(?P<double>[^\"\n]+)\"|'(?P<single>[^'\n]+)'"
_PATH = (
    rf"(?=[`\"'][^`\"'\n]*[./~]|[^\s`\"']*(?:[/~\\]|\.\w*[a-z]))(?!\S*://)"
    rf"(?:{_QUOTED}|(?P<plain>[^\s,;`\"']*[^\s.,;:?!`\"']))|file\s+(?P<named>(?-i:[A-Z])[\w-]+)"
)
_HERE = r"(?:this|the|my)?(?:\s*\b(?:current|working|project))*\s*\b(?:folder|directory|repo|repository|project)"
_FOLDER = (
    rf"(?:the\s+)?(?:(?:folder|directory)\s+)?(?:{_QUOTED}|(?P<plain>[\w./~\\-]*[\w/~]))(?:\s+(?:folder|directory))?"
)


_ToolKind = tuple[AnchoredPattern[str], str, str]


def _tool_call_rule(form: str, *tools: tuple[str, str, str]) -> tuple[AnchoredPattern[str], Sequence[_ToolKind]]:
    """Return a rule: the compiled pattern of a user text, and the kinds of tools that can serve the request.

    A kind has a pattern of the tool name, the possible names of its argument, and a template of the value (see
    `_fill`). The first kind that the client offers is used. Names are compared in lower case, without `_`, `-` and MCP
    prefix.
    """
    kinds = [
        (compile_anchored(name, most=MAX_TOOL_NAME_LENGTH), arguments, template) for name, arguments, template in tools
    ]
    return compile_anchored(f"{_START}(?:{form}){_END}", re.IGNORECASE, most=MAX_PROMPT_CHARACTERS), kinds


_SHELL = (
    r"sh|(?:bash|shell|terminal)(?:command)?|(?:run|execute|exec)(?:bash|shell|terminal)?(?:command|cmd)?",
    "command cmd commandline shellcommand",
)
_LISTER = r"ls|list(?:dir|directory|files|folder|directorycontents)?|readdir"
_READER = r"(?:read|view|open|get|cat|fetch)(?:text)?(?:files?)?(?:contents?)?"
DEMO_TOOL_RULES = (
    _tool_call_rule(  # list the files here
        r"(?:ls|(?:list|show|display)(?:\s+me)?(?:\s+all)?(?:\s+of)?(?:\s+the|\s+my)?\s+files"
        r"|(?:what|which)\s+files\s+(?:are|exist)(?:\s+there)?)"
        rf"(?:(?:\s+that)?(?:\s+are)?\s+here)?(?:\s+(?:in|inside|of|under)\s+(?:{_HERE}|{_FOLDER}))?",
        (_LISTER, "path directory dir folder dirpath directorypath folderpath", "{path}"),
        (*_SHELL, "ls -la {quoted}"),
        (r"glob|globfiles", "pattern globpattern", "{pattern}"),
    ),
    _tool_call_rule(  # read a.txt
        rf"(?:(?:read|cat|view)(?:\s+me)?(?:\s+the)?(?:\s+contents?\s+of)?(?:\s+the)?"
        r"|(?:open|print|show(?:\s+me)?)(?:\s+the)?(?:\s+contents?\s+of(?:\s+the)?|(?=\s+file))"
        rf"|what(?:'s|\s+is)\s+in(?:\s+the)?)(?:\s+file)?\s+(?:{_PATH})(?:\s+file)?",
        (_READER, "filepath path filename file targetfile absolutepath absolutefilepath", "{path}"),
        (*_SHELL, "cat {quoted}"),
    ),
    _tool_call_rule(  # run `echo hi`
        rf"(?:run|execute)(?:\s+(?:the|this))?(?:\s+following)?(?:\s+(?:shell|bash|terminal)?\s*command)?"
        rf"(?:\s*:\s*(?P<plain>[^`\n]+)|\s*:?\s*(?:{_QUOTED}))",
        (*_SHELL, "{text}"),
    ),
    _tool_call_rule(  # What's the weather in Paris?
        r"(?:(?:what|how)(?:'s|\s+is)\s+the\s+|(?:tell|show)\s+me\s+the\s+|get\s+(?:me\s+)?the\s+|the\s+)?(?:current\s+)?weather"
        r"(?:\s+like)?\s+in\s+(?P<plain>(?-i:[A-Z][\w.'’-]*(?:\s+[A-Z][\w.'’-]*){0,3})|\w+)",
        (r"\w*(?:weather|forecast)\w*", "city location place town cityname", "{text}"),
    ),
)
"""Rules of the demo: pattern of a user text → kinds of tools that can serve the request. See `_tool_call_rule`."""


def find_requested_call(request: DemoRequest) -> ToolCall | None:
    """Return the tool call that the user's last text requests. None: no rule of the demo matches the text. Also None if
    the client offers no suitable tool.
    """
    prompt = request.last_user_text
    if not request.tools or len(prompt) > MAX_PROMPT_CHARACTERS:
        return None
    matches = ((form.fullmatch(prompt), tools) for form, tools in DEMO_TOOL_RULES)
    match, kinds = next((found for found in matches if found[0]), (None, ()))
    groups = match.groupdict() if match else {}
    text = next((groups[name] for name in ("ticked", "double", "single", "named", "plain") if groups.get(name)), "")
    wanted = _normalize(groups.get("tool") or "")
    for form, arguments, template in kinds:
        for tool in request.tools:
            name = _normalize(tool.name.rpartition("__")[2])
            argument = wanted in {"", name} and form.fullmatch(name) and _find_argument(tool, arguments.split())
            if argument:
                return build_tool_call(tool, {argument: _fill(template, text, request.working_directory)})
    return None


def _fill(template: str, text: str, directory: str) -> str:
    """Unchanged text, text quoted for a shell, a path below `directory`, or a glob pattern, as `template` requires."""
    path = posixpath.normpath(posixpath.join(directory if directory.startswith("/") else "", text or "."))
    quoted = shlex.quote(text) if text else ""
    pattern = f"{text}/*" if text else "*"
    return template.format(text=text, quoted=quoted, path=text if text[:1] == "~" else path, pattern=pattern).strip()


def _find_argument(tool: OfferedTool, arguments: Sequence[str]) -> str:
    properties = tool.input_schema.get("properties")
    known: dict[str, Any] = properties if isinstance(properties, dict) else {}
    for name, schema in known.items():
        kind = schema.get("type", "string") if isinstance(schema, dict) else "string"
        is_text = kind == "string" or (isinstance(kind, list) and "string" in kind)
        if is_text and _normalize(name) in arguments:
            return name
    return ""


def _normalize(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
