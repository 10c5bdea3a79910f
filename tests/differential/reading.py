"""A body of any of the three wires → its content, in one form without irrelevant differences."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

_SNAKE = re.compile(r"_([a-z])")
_OPAQUE = {"parameters", "parametersJsonSchema", "parameters_json_schema", "args", "response", "responseSchema"}
"""Keys with values in the client's own words: nothing in them is respelled."""


@dataclass(frozen=True)
class Item:
    """One part of the conversation."""

    role: str
    kind: str
    """`text`, `thinking`, `picture`, `call`, `result`, `other`."""
    content: str
    id: str = ""
    """Of a call, or of the call that a result answers."""
    signature: str = ""


@dataclass
class RequestContent:
    """The content of a request."""

    system: str = ""
    system_role: str = ""
    items: list[Item] = field(default_factory=list)
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name → definition, in order."""
    fields: dict[str, str] = field(default_factory=dict)
    """Every other field with its path → its value as JSON."""


def read(wire: str, body: dict[str, Any]) -> RequestContent:
    return {"openai_chat": _read_chat, "gemini": _read_gemini, "ollama": _read_ollama}[wire](body)


def _read_chat(body: dict[str, Any]) -> RequestContent:
    body = {name: value for name, value in body.items() if name != "extra_body"} | body.get("extra_body", {})
    found = RequestContent()
    names: dict[str, str] = {}
    for message in body["messages"]:
        role = message["role"]
        if role in ("system", "developer") and not found.items:
            found.system, found.system_role = _joined(found.system, _text(message["content"])), role
        elif role == "tool":
            call = message["tool_call_id"]
            found.items.append(Item("tool", "result", f"{names.get(call, '?')}: {_text(message['content'])}", call))
        else:
            _read_chat_message(found, message, names)
    for tool in body.get("tools", ()):
        function = tool.get("function", tool)
        found.tools[function.get("name", tool.get("type"))] = function
    for name in ("max_tokens", "max_completion_tokens"):
        if name in body:
            body["output limit"], body["name of the output limit"] = body.pop(name), name
    _flatten(found.fields, "", {name: value for name, value in body.items() if name not in ("messages", "tools")})
    return found


def _read_chat_message(found: RequestContent, message: dict[str, Any], names: dict[str, str]) -> None:
    role = message["role"]
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if thinking is None and message.get("thinking_blocks"):
        thinking = "\n".join(block.get("thinking", "") for block in message["thinking_blocks"])
    if thinking:
        found.items.append(Item(role, "thinking", thinking))
    for name in ("reasoning_details", "thinking_blocks"):
        if message.get(name):
            found.items.append(Item(role, "signed", f"{name}: {as_json(message[name])}"))
    _read_parts(found, role, message.get("content"))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        names[call["id"]] = function["name"]
        signature = as_json(call["extra_content"]) if call.get("extra_content") else ""
        content = f"{function['name']} {as_json(_loaded(function['arguments']))}"
        found.items.append(Item(role, "call", content, call["id"], signature))
    known = {"role", "content", "tool_calls", "reasoning_content", "reasoning", "reasoning_details", "thinking_blocks"}
    for name in sorted(set(message) - known):
        if message[name] is not None:
            found.items.append(Item(role, "other", f"{name}: {as_json(message[name])}"))


def _read_parts(found: RequestContent, role: str, content: Any) -> None:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    for part in parts:
        kind = part.get("type")
        if kind == "text":
            _add_text(found, role, part["text"])
        elif kind == "image_url":
            found.items.append(Item(role, "picture", _digest(part["image_url"]["url"])))
        elif kind == "thinking" and isinstance(part["thinking"], list):  # Mistral
            found.items.append(Item(role, "thinking", _text(part["thinking"])))
        else:
            found.items.append(Item(role, "file", _digest(as_json(part.get("file", part)))))


def _read_gemini(body: dict[str, Any]) -> RequestContent:
    body = _camel(body)
    found = RequestContent(system=_text(body.get("systemInstruction", {}).get("parts")))
    for content in body["contents"]:
        for part in content["parts"]:
            _read_gemini_part(found, content.get("role", ""), part)
    other_fields = {
        name: value for name, value in body.items() if name not in ("contents", "systemInstruction", "tools")
    }
    for tool in body.get("tools", ()):
        for function in tool.get("functionDeclarations", ()):
            found.tools[function["name"]] = function
        others = {name: value for name, value in tool.items() if name != "functionDeclarations"}
        _flatten(found.fields, "tools.", others)
    _flatten(found.fields, "", other_fields)
    return found


def _read_gemini_part(found: RequestContent, role: str, part: dict[str, Any]) -> None:
    signature = part.get("thoughtSignature", "")
    if "functionCall" in part:
        call = part["functionCall"]
        content = f"{call['name']} {as_json(call.get('args') or {})}"
        found.items.append(Item(role, "call", content, call.get("id", ""), signature))
    elif "functionResponse" in part:
        result = part["functionResponse"]
        content = f"{result['name']}: {as_json(result['response'])}"
        found.items.append(Item(role, "result", content, result.get("id", "")))
        for inner in result.get("parts", ()):
            _read_gemini_part(found, role, inner)
    elif "inlineData" in part or "fileData" in part:
        data = part.get("inlineData") or part["fileData"]
        found.items.append(
            Item(role, "picture", f"{data.get('mimeType')} {_digest(data.get('data') or as_json(data))}")
        )
    elif part.get("thought"):
        found.items.append(Item(role, "thinking", part.get("text", ""), signature=signature))
    else:
        _add_text(found, role, part.get("text", ""), signature)


def _read_ollama(body: dict[str, Any]) -> RequestContent:
    found = RequestContent()
    for message in body["messages"]:
        role = message["role"]
        if role == "system" and not found.items:
            found.system = _joined(found.system, message["content"])
            continue
        if role == "tool":
            name = message.get("tool_name", "?")
            found.items.append(Item(role, "result", f"{name}: {message['content']}", message.get("tool_call_id", "")))
        else:
            if message.get("thinking"):
                found.items.append(Item(role, "thinking", message["thinking"]))
            _read_parts(found, role, message.get("content"))
        for picture in message.get("images") or ():
            found.items.append(Item(role, "picture", _digest(picture)))
        for call in message.get("tool_calls") or ():
            function = call["function"]
            content = f"{function['name']} {as_json(function['arguments'])}"
            found.items.append(Item(role, "call", content, call.get("id", "")))
    for tool in body.get("tools", ()):
        function = tool.get("function", tool)  # LiteLLM sends Anthropic's own tools as they came
        found.tools[function["name"]] = function
    _flatten(found.fields, "", {name: value for name, value in body.items() if name not in ("messages", "tools")})
    return found


def _add_text(found: RequestContent, role: str, text: str, signature: str = "") -> None:
    last = found.items[-1] if found.items else None
    if last is not None and (last.role, last.kind) == (role, "text") and not signature:
        found.items[-1] = Item(role, "text", _joined(last.content, text), signature=last.signature)
    elif text or signature:
        found.items.append(Item(role, "text", text, signature=signature))


def _joined(first: str, second: str) -> str:
    return f"{first}\n\n{second}" if first else second


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts = [part["text"] if "text" in part else f"[{part.get('type')}]" for part in content or ()]
    return "\n\n".join(texts)


def _flatten(fields: dict[str, str], start: str, value: dict[str, Any]) -> None:
    for name, inner in value.items():
        if inner is None or inner in ({}, []):
            continue
        path = f"{start}{name}"
        nested = isinstance(inner, dict) and name not in ("schema", "responseJsonSchema", "responseSchema", "format")
        if nested:
            _flatten(fields, f"{path}.", inner)
        else:
            fields[path] = as_json(inner)


def _camel(value: Any) -> Any:
    """Return a Gemini body with keys as its API spells them: it takes both, LiteLLM mixes them."""
    if isinstance(value, list):
        return [_camel(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {_spelled(name): inner if name in _OPAQUE else _camel(inner) for name, inner in value.items()}


def _spelled(name: str) -> str:
    return _SNAKE.sub(lambda match: match[1].upper(), name)


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _digest(text: str) -> str:
    if text.startswith("http") or len(text) < 40:
        return text
    data = text.partition("base64,")[2] or text
    return (
        f"{text.partition(';')[0] if text.startswith('data:') else ''}#{hashlib.sha256(data.encode()).hexdigest()[:8]}"
    )
