"""What a model was asked, in words that belong to no protocol, read from a request of any of the backends."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from messages_conformance.backends.messages.editing import edit_context
from messages_conformance.backends.shapes import without_nulls


@dataclass
class View:
    """A request to a model. Ids of calls are no part of it, because a server may rename them."""

    model: str = ""
    stream: bool = False
    system: str = ""
    """Texts of the system and the developer, joined."""
    texts: list[str] = field(default_factory=list)
    """Texts of the user and the model, in their order, each as `user: …` or `assistant: …`."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """Calls of tools in the history: `name`, `arguments`."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """Their results: `name` of the tool that was called, `text`, `is_error` where the protocol has a place for it."""
    images: list[str] = field(default_factory=list)
    """Base64 data, or addresses."""
    documents: list[str] = field(default_factory=list)
    """Base64 data of PDFs."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """`name`, `description`, `schema`."""
    tool_choice: str = ""
    """`auto`, `any`, `none`, or the name of a tool. "": not said."""
    one_call: bool = False
    """The reply may have one call only."""
    thinking: Any = None
    """What the request says about thinking and effort, in the words of the protocol."""
    max_tokens: int | None = None
    temperature: float | None = None
    stop_sequences: list[str] = field(default_factory=list)
    signatures: list[str] = field(default_factory=list)
    """Of the thinking in the history, as the model's server has sent them."""
    output_schema: dict[str, Any] = field(default_factory=dict)
    """JSON schema of the reply."""
    body: str = ""
    """The whole request as JSON."""

    def as_table(self) -> dict[str, Any]:
        """Return all fields, with `pairs`: the results as `NAME: TEXT`; `everything`: all texts of the history, and the
        documents; `callable`: names of the tools that the model may call; `definitions`: the tools as JSON.
        """
        pairs = [f"{result['name']}: {result['text']}" for result in self.results]
        everything = "\n".join(
            [self.system, *self.texts, *(result["text"] for result in self.results), *self.documents]
        )
        names = [] if self.tool_choice == "none" else [tool["name"] for tool in self.tools]
        definitions = json.dumps(self.tools, ensure_ascii=False)
        further = {"pairs": pairs, "everything": everything, "callable": names, "definitions": definitions}
        return {**asdict(self), **further}


_FREE = frozenset({"input", "args", "arguments"})
"""Objects of the user: a null in them is a value."""


class _Reader:
    def __init__(self) -> None:
        self.view = View()
        self._names: dict[str, str] = {}
        """Id of a call → name of its tool."""
        self._system: list[str] = []

    def add_system(self, text: str) -> None:
        self._system.append(text)
        self.view.system = "\n".join(self._system)

    def add_text(self, role: str, text: str) -> None:
        if role in ("system", "developer"):
            self.add_system(text)
        elif text:
            self.view.texts.append(f"{'assistant' if role in ('assistant', 'model') else 'user'}: {text}")

    def add_call(self, identifier: str, name: str, arguments: Any) -> None:
        self._names[identifier] = name
        value = _parse(arguments) if isinstance(arguments, str) else arguments
        self.view.calls.append({"name": name, "arguments": value})

    def add_result(self, identifier: str, name: str, text: str, *, is_error: bool = False) -> None:
        name = name or self._names.get(identifier, "")
        self.view.results.append({"name": name, "text": text, "is_error": is_error})

    def add_tool(self, name: Any, description: Any, schema: Any) -> None:
        self.view.tools.append({"name": name, "description": description or "", "schema": schema or {}})


def read_view(protocol: str, path: str, body: Mapping[str, Any]) -> View:
    """Return what a request says to the model. `path`: the one of the request, which names the model at Gemini."""
    reader = _Reader()
    reader.view.body = json.dumps(body, ensure_ascii=False)
    _READERS[protocol](reader, path, without_nulls(body, _FREE))
    return reader.view


def _read_openai(reader: _Reader, _path: str, body: Mapping[str, Any]) -> None:
    view = reader.view
    _read_common(view, body, "max_completion_tokens", "max_tokens")
    view.stop_sequences = _as_list(body.get("stop"))
    view.thinking = _pick(body, "reasoning_effort", "reasoning", "enable_thinking", "chat_template_kwargs", "thinking")
    view.one_call = body.get("parallel_tool_calls") is False
    view.output_schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema") or {}
    for message in _as_list(body.get("messages")):
        role = message.get("role", "")
        if role == "tool":
            reader.add_result(message.get("tool_call_id", ""), "", _join(message.get("content")))
            _read_media(view, message.get("content"))
            continue
        reader.add_text(role, _join(message.get("content")))
        _read_media(view, message.get("content"))
        for call in _as_list(message.get("tool_calls")):
            function = call.get("function", {})
            reader.add_call(call.get("id", ""), function.get("name", ""), function.get("arguments", "{}"))
    for tool in _as_list(body.get("tools")):
        function = tool.get("function", {})
        reader.add_tool(function.get("name"), function.get("description"), function.get("parameters"))
    view.tool_choice = _read_openai_choice(body.get("tool_choice"))


def _read_responses(reader: _Reader, _path: str, body: Mapping[str, Any]) -> None:
    view = reader.view
    _read_common(view, body, "max_output_tokens")
    view.thinking = _pick(body, "reasoning")
    view.one_call = body.get("parallel_tool_calls") is False
    view.output_schema = ((body.get("text") or {}).get("format") or {}).get("schema") or {}
    if body.get("instructions"):
        reader.add_system(body["instructions"])
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else _as_list(given)
    for item in items:
        match item.get("type", "message"):
            case "function_call":
                reader.add_call(item.get("call_id", ""), item.get("name", ""), item.get("arguments", "{}"))
            case "function_call_output":
                reader.add_result(item.get("call_id", ""), "", _join(item.get("output")))
                _read_media(view, item.get("output"))
            case "reasoning" if item.get("encrypted_content"):
                view.signatures.append(item["encrypted_content"])
            case "message":
                reader.add_text(item.get("role", ""), _join(item.get("content")))
                _read_media(view, item.get("content"))
            case _:
                pass
    for tool in _as_list(body.get("tools")):
        reader.add_tool(tool.get("name"), tool.get("description"), tool.get("parameters"))
    view.tool_choice = _read_openai_choice(body.get("tool_choice"))


def _read_gemini(reader: _Reader, path: str, body: Mapping[str, Any]) -> None:
    view = reader.view
    config = body.get("generationConfig") or {}
    view.model = path.rpartition("/models/")[2].partition(":")[0]
    view.stream = "streamGenerateContent" in path
    view.max_tokens = config.get("maxOutputTokens")
    view.temperature = config.get("temperature")
    view.stop_sequences = _as_list(config.get("stopSequences"))
    view.thinking = _pick(config, "thinkingConfig")
    view.output_schema = config.get("responseJsonSchema") or config.get("responseSchema") or {}
    for part in _as_list((body.get("systemInstruction") or {}).get("parts")):
        reader.add_system(part.get("text", ""))
    for content in _as_list(body.get("contents")):
        for part in _as_list(content.get("parts")):
            if part.get("thoughtSignature"):
                view.signatures.append(part["thoughtSignature"])
            if "functionCall" in part:
                call = part["functionCall"]
                reader.add_call(call.get("id", ""), call.get("name", ""), call.get("args") or {})
            elif "functionResponse" in part:
                result = part["functionResponse"]
                response = result.get("response") or {}
                name = result.get("name", "")
                reader.add_result(result.get("id", ""), name, _join(response), is_error="error" in response)
            elif "text" in part and not part.get("thought"):
                reader.add_text(content.get("role", "user"), part["text"])
            inline = part.get("inlineData") or {}
            if data := inline.get("data"):
                is_image = str(inline.get("mimeType")).startswith("image/")
                (view.images if is_image else view.documents).append(data)
    for tool in _as_list(body.get("tools")):
        for function in _as_list(tool.get("functionDeclarations")):
            schema = function.get("parametersJsonSchema") or function.get("parameters")
            reader.add_tool(function.get("name"), function.get("description"), schema)
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    allowed = _as_list(calling.get("allowedFunctionNames"))
    modes = {"AUTO": "auto", "VALIDATED": "auto", "ANY": "any", "NONE": "none"}
    view.tool_choice = allowed[0] if len(allowed) == 1 else modes.get(calling.get("mode", ""), "")


def _read_ollama(reader: _Reader, _path: str, body: Mapping[str, Any]) -> None:
    view = reader.view
    options = body.get("options") or {}
    view.model = body.get("model", "")
    view.stream = body.get("stream", True)
    view.max_tokens = options.get("num_predict")
    view.temperature = options.get("temperature")
    view.stop_sequences = _as_list(options.get("stop"))
    view.thinking = _pick(body, "think")
    view.output_schema = body["format"] if isinstance(body.get("format"), dict) else {}
    for message in _as_list(body.get("messages")):
        view.images += _as_list(message.get("images"))
        if message.get("role") == "tool":
            name = message.get("tool_name") or message.get("name") or ""
            reader.add_result(message.get("tool_call_id", ""), name, message.get("content", ""))
            continue
        reader.add_text(message.get("role", ""), message.get("content", ""))
        for call in _as_list(message.get("tool_calls")):
            function = call.get("function", {})
            reader.add_call(call.get("id", ""), function.get("name", ""), function.get("arguments", {}))
    for tool in _as_list(body.get("tools")):
        function = tool.get("function", {})
        reader.add_tool(function.get("name"), function.get("description"), function.get("parameters"))


def _read_messages(reader: _Reader, _path: str, body: Mapping[str, Any]) -> None:
    view = reader.view
    _read_common(view, body, "max_tokens")
    view.stop_sequences = _as_list(body.get("stop_sequences"))
    output = body.get("output_config") or {}
    view.thinking = {**_pick(body, "thinking"), **_pick(output, "effort")}
    view.output_schema = (output.get("format") or {}).get("schema") or {}
    if system := _join(body.get("system")):
        reader.add_system(system)
    for message in edit_context(body)[0]["messages"]:
        content = message.get("content")
        blocks: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else _as_list(content)
        for block in blocks:
            match block.get("type"):
                case "text":
                    reader.add_text(message.get("role", ""), block.get("text", ""))
                case "thinking":
                    view.signatures.append(block.get("signature", ""))
                case "tool_use":
                    reader.add_call(block.get("id", ""), block.get("name", ""), block.get("input", {}))
                case "tool_result":
                    is_error = block.get("is_error") is True
                    reader.add_result(block.get("tool_use_id", ""), "", _join(block.get("content")), is_error=is_error)
                    _read_media(view, block.get("content"))
                case "compaction":
                    reader.add_text("user", block.get("content") or "")
                case "document":
                    source: dict[str, Any] = block.get("source") or {}
                    about = [block.get("title"), block.get("context"), source.get("data") or source.get("content")]
                    reader.add_text("user", _join(about))
                case "search_result":
                    reader.add_text("user", _join(block.get("content")))
                case _:
                    _read_media(view, [block])
    for tool in _as_list(body.get("tools")):
        reader.add_tool(tool.get("name"), tool.get("description"), tool.get("input_schema"))
    choice = body.get("tool_choice") or {}
    view.tool_choice = choice.get("name") or choice.get("type", "")
    view.one_call = choice.get("disable_parallel_tool_use") is True


_READERS: Mapping[str, Callable[[_Reader, str, Mapping[str, Any]], None]] = {
    "openai": _read_openai,
    "responses": _read_responses,
    "gemini": _read_gemini,
    "ollama": _read_ollama,
    "messages": _read_messages,
}
"""Name of a backend → the reader of its requests."""


def _read_common(view: View, body: Mapping[str, Any], *limits: str) -> None:
    view.model = body.get("model", "")
    view.stream = bool(body.get("stream"))
    view.max_tokens = next((body[name] for name in limits if body.get(name) is not None), None)
    view.temperature = body.get("temperature")


def _pick(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names if name in fields}


def _read_openai_choice(choice: Any) -> str:
    if isinstance(choice, str):
        return {"required": "any"}.get(choice, choice)
    if not isinstance(choice, dict):
        return ""
    allowed = _as_list(choice.get("tools") or (choice.get("allowed_tools") or {}).get("tools"))
    if len(allowed) == 1:
        choice = allowed[0]
    return str(choice.get("name") or (choice.get("function") or {}).get("name") or "")


def _read_media(view: View, content: Any) -> None:
    for block in _as_list(content):
        if not isinstance(block, dict):
            continue
        source = block.get("source")
        source = source if isinstance(source, dict) else {}
        address = block.get("image_url")
        address = address.get("url") if isinstance(address, dict) else address
        file = block.get("file_data") or (block.get("file") or {}).get("file_data")
        if block.get("type") == "document":
            view.documents.append(str(source.get("data")))
        elif data := source.get("data") or source.get("url") or address:
            view.images.append(str(data).rpartition(";base64,")[2])
        elif file:
            view.documents.append(str(file).rpartition(";base64,")[2])


def _join(value: Any) -> str:
    """Return all texts of a content, of any form, in their order."""
    return value if isinstance(value, str) else "\n".join(_find_texts(value))


def _find_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _find_texts(inner)
    elif isinstance(value, dict):
        # the content blocks of four protocols have `text` or `content`; Gemini's result is a free object
        if "type" in value:
            yield from _find_texts(value.get("text", value.get("content")))
        else:
            for inner in value.values():
                yield from _find_texts(inner)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
