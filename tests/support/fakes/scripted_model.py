"""A scripted model's input and output in terms that belong to no wire, and its choice of a tool for a job.

A wire's stand-in reads its request into a `Conversation`, `plans.decide` gives a `Reply`, and the wire sends it.
"""

import json
import re
import shlex
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

_COLORS = {b"\xff\xff\x00": "yellow", b"\x80\x00\x80": "purple", b"\x00\x90\x00": "green", b"\x00\x00\x00": "black"}


@dataclass(frozen=True)
class Tool:
    """One offered tool with the JSON Schema of its arguments."""

    name: str
    schema: dict[str, Any]


@dataclass(frozen=True)
class Media:
    """A picture or a document that the model was shown, as bytes or by its address."""

    media_type: str
    data: bytes = b""
    url: str = ""

    @property
    def is_picture(self) -> bool:
        return not self.media_type.startswith(("application/", "text/"))

    @property
    def size(self) -> tuple[int, int] | None:
        """Return width and height from the bytes of a PNG; None where it is none."""
        if not self.data.startswith(b"\x89PNG"):
            return None
        return int.from_bytes(self.data[16:20]), int.from_bytes(self.data[20:24])

    @property
    def colors(self) -> list[str]:
        start = self.data.find(b"IDAT")
        if start < 0 or self.size is None:
            return []
        line = zlib.decompressobj().decompress(self.data[start + 4 :])[1 : 1 + 3 * self.size[0]]
        return list(dict.fromkeys(_COLORS[line[place : place + 3]] for place in range(0, len(line), 3)))


@dataclass(frozen=True)
class Call:
    """A tool to call. `arguments`: value to send as JSON."""

    name: str
    arguments: Any
    id: str = ""


class _Content:
    """Content of one turn: texts, and the images between them, in order."""

    content: list[str | Media]

    @property
    def text(self) -> str:
        return "\n".join(part for part in self.content if isinstance(part, str))

    @property
    def pictures(self) -> list[Media]:
        return [part for part in self.content if isinstance(part, Media) and part.is_picture]

    @property
    def documents(self) -> list[Media]:
        return [part for part in self.content if isinstance(part, Media) and not part.is_picture]


@dataclass
class Result(_Content):
    """Result of one call."""

    call: Call
    content: list[str | Media] = field(default_factory=list)
    failed: bool = False
    """True if the wire itself marks the tool as failed."""


@dataclass
class Turn(_Content):
    """One message: `role` is system, user or assistant; an assistant's calls carry their results, in call order."""

    role: str
    content: list[str | Media] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    """The model's own reasoning: its text, or its state as encrypted by the provider."""


@dataclass
class Conversation:
    """Everything that a request contains, independent of the wire that carries it."""

    model: str
    turns: list[Turn]
    tools: dict[str, Tool] = field(default_factory=dict)
    schema: dict[str, Any] | None = None
    """The schema that the answer must have, where one is asked for."""
    choice: str = "auto"
    """auto, none, required, or the name of the tool that must be called."""
    parallel: bool = True
    searches: bool = False
    """True if the provider searches the web itself."""

    @property
    def system(self) -> str:
        return "\n".join(turn.text for turn in self.turns if turn.role == "system")


@dataclass(frozen=True)
class Reply:
    """Output of the model: text, then calls. `finish` is stop, length or filter where it is not implied."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    finish: str = ""
    refusal: str = ""
    query: str = ""
    """Query of the provider's own search, made before the text."""


class Unable(Exception):
    """No offered tool can do the job; the text names the job."""


_NUMBERED = re.compile(r"^\s*\d+(?:→|\t)", re.MULTILINE)
_REMINDER = re.compile(r"\s*<system-reminder>.*?</system-reminder>\s*", re.DOTALL)


def spoken(text: str) -> str:
    return _REMINDER.sub("\n", text).strip("\n")


def plain(text: str) -> str:
    """Return a tool's result without the additions of clients: line numbers, reminders."""
    text = spoken(text)
    lines = text.split("\n")
    if lines and all(_NUMBERED.match(line) for line in lines if line):
        text = _NUMBERED.sub("", text)
    return text


def schema_in_words(system: str) -> dict[str, Any] | None:
    _, found, text = system.partition("JSON Schema:\n")
    return json.JSONDecoder().raw_decode(text)[0] if found else None


def sample(schema: Any, name: str = "value") -> Any:
    """Return a small value that the schema allows."""
    if not isinstance(schema, dict):
        return name
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return sample(schema[key][0], name)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties", {})
        return {key: sample(properties.get(key), key) for key in schema.get("required", properties)}
    if kind == "array":
        return [sample(schema.get("items", {}), name)]
    number = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    return {"string": name, "integer": number, "number": number, "boolean": True, "null": None}.get(kind, name)


class Toolbox:
    """Finds, among the tools offered, one for the job, by its name and the names of its arguments."""

    def __init__(self, tools: dict[str, Tool]) -> None:
        self.tools = tools

    def find(self, verb: str, **wanted: tuple[str, Any]) -> Call | None:
        """Return a call of the first tool named like `verb` that has an argument for each pattern in `wanted`."""
        for tool in self.tools.values():
            if not re.search(verb, tool.name, re.IGNORECASE):
                continue
            properties = tool.schema.get("properties", {})
            chosen = {}
            for pattern, value in wanted.values():
                for name in properties:
                    if name not in chosen and re.search(pattern, name, re.IGNORECASE):
                        chosen[name] = value
                        break
            if len(chosen) == len(wanted):
                others = {
                    key: sample(properties[key], key) for key in tool.schema.get("required", ()) if key in properties
                }
                return Call(tool.name, others | chosen)
        return None

    def need(self, job: str, *found: Call | None) -> Call:
        for call in found:
            if call is not None:
                return call
        raise Unable(f"No tool to {job} was offered. I was offered: {', '.join(self.tools) or 'none'}.")

    def shell(self, command: str) -> Call | None:
        return self.find(r"bash|shell|terminal|run|exec|command", command=(r"^(command|cmd|script|line)$", command))

    def run(self, command: str) -> Call:
        return self.need("run a command", self.shell(command))

    def read(self, path: str) -> Call:
        found = self.find(r"read|open|view|load|cat", path=(r"path|file|note|name", path))
        return self.need("read a file", found, self.shell(f"cat {shlex.quote(path)}"))

    def write(self, path: str, text: str) -> Call:
        where, what = (r"path|file$|filename|note|name", path), (r"content|text|body|data", text)
        found = self.find(r"write|save|create|store", path=where, text=what)
        return self.need("write a file", found, self.shell(f"printf %s {shlex.quote(text)} > {shlex.quote(path)}"))

    def edit(self, path: str, text: str, old: str, new: str) -> Call:
        """Replace `old` in a file with the content `text`, with an edit tool. Without such a tool, rewrite the file."""
        where, before, after = (r"path|file", path), (r"old", old), (r"new", new)
        found = self.find(r"edit|replace|patch", path=where, old=before, new=after)
        if found is None and self.shell("") is not None:
            code = "import sys; p, a, b = sys.argv[1:]; t = open(p).read(); open(p, 'w').write(t.replace(a, b, 1))"
            found = self.shell(shlex.join(["python3", "-c", code, path, old, new]))
        return found or self.write(path, text.replace(old, new, 1))


_CALLER = "CallLoadedTool"
_LOADED = re.compile(rf"^Tool loaded: (\S+)\. Call it by {_CALLER}\b.*?^JSON Schema of its arguments: ", re.M | re.S)


def with_loaded_tools(conversation: Conversation) -> Conversation:
    """Return the conversation as a model understands it: a tool described in a result is called by the constant tool.

    The constant tool itself is left out, and earlier calls have the names of the tools that they mean.
    """
    if _CALLER not in conversation.tools:
        return conversation
    tools = {name: tool for name, tool in conversation.tools.items() if name != _CALLER}
    turns = []
    for turn in conversation.turns:
        results = []
        for result in turn.results:
            for found in _LOADED.finditer(result.text):
                schema, _ = json.JSONDecoder().raw_decode(result.text, found.end())
                tools[found[1]] = Tool(found[1], schema)
            call = result.call
            if call.name == _CALLER and isinstance(call.arguments, dict) and call.arguments.get("name") in tools:
                call = Call(call.arguments["name"], call.arguments["arguments"], call.id)
            results.append(replace(result, call=call))
        turns.append(replace(turn, results=results))
    return replace(conversation, tools=tools, turns=turns)


def by_constant_tool(reply: Reply, conversation: Conversation) -> Reply:
    """Return a reply to `conversation` with calls of tools that are not in its list as calls of the constant tool."""
    if _CALLER not in conversation.tools:
        return reply
    calls = [
        call
        if call.name in conversation.tools
        else replace(call, name=_CALLER, arguments={"name": call.name, "arguments": call.arguments})
        for call in reply.calls
    ]
    return replace(reply, calls=tuple(calls))


def any_call(conversation: Conversation) -> Call | None:
    tool = conversation.tools.get(conversation.choice) or next(iter(conversation.tools.values()), None)
    return None if tool is None else Call(tool.name, sample(tool.schema | {"type": "object"}))


def as_json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
