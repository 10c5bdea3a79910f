"""Recorded requests of several wires, restated as ours, with the input tokens that their provider counted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNSEEN = ("thoughtSignature", "encrypted_content", '"mode": "pro"')
"""Signs of input that a provider counted and that is not in the request's text."""
RECORDED = Path(__file__).parents[2] / "shared" / "recorded"


def counted_requests() -> Iterator[tuple[str, dict[str, Any], int]]:
    """Give name, Messages body and counted input of each recording that holds a request and its usage."""
    for path in sorted(RECORDED.glob("*/*.json")):
        recording = json.loads(path.read_bytes())
        if any(mark in json.dumps(recording) for mark in UNSEEN):
            continue
        name = f"{path.parent.name}/{path.name}"
        if name.endswith(".request.json"):
            stream = path.with_name(path.name.replace(".request.json", ".sse"))
            found = (recording["body"], _last_count(_frames(stream))) if stream.exists() else None
        elif isinstance(recording, dict) and isinstance(recording.get("request"), dict):
            found = (recording["request"], _last_count([recording.get("response")]))
        else:
            continue
        if found and found[1] and (body := _as_messages(found[0])):
            yield name, body, found[1]


def _frames(path: Path) -> list[Any]:
    lines = path.read_text().splitlines()
    data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    return [json.loads(text) for text in data if text.startswith("{")]


def _last_count(frames: list[Any]) -> int:
    count = 0
    for frame in frames:
        if not isinstance(frame, dict):
            continue
        holders = (frame, frame.get("response") or {}, frame.get("message") or {}, frame.get("x_groq") or {})
        for holder in holders:
            usage = (holder.get("usage") or holder.get("usageMetadata")) if isinstance(holder, dict) else None
            for key in ("prompt_tokens", "input_tokens", "promptTokenCount"):
                count = (usage or {}).get(key) or count
    return count


def _as_messages(body: dict[str, Any]) -> dict[str, Any] | None:
    if "contents" in body:
        return _from_gemini(body)
    if "input" in body:
        return _from_responses(body)
    if "system" in body or any("input_schema" in tool for tool in body.get("tools") or []):
        return body
    return _from_chat(body) if "messages" in body else None


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    tool = tool.get("function", tool)
    schema = tool.get("parameters") or tool.get("parameters_json_schema") or tool.get("parametersJsonSchema") or {}
    return {
        "name": tool.get("name", tool.get("type", "")),
        "description": tool.get("description"),
        "input_schema": schema,
    }


def _call(identifier: str, name: str, arguments: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": identifier, "name": name, "input": json.loads(arguments or "{}")}


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = part.get("image_url")
    if url:
        url = url["url"] if isinstance(url, dict) else url
        if url.startswith("data:"):
            media, _, data = url.removeprefix("data:").partition(";base64,")
            return {"type": "image", "source": {"type": "base64", "media_type": media, "data": data}}
        return {"type": "image", "source": {"type": "url", "url": url}}
    if "text" in part:
        return {"type": "text", "text": part["text"]}
    return {"type": "document", "source": {"type": "url", "url": "file"}}


def _content(content: Any) -> list[dict[str, Any]]:
    return [_part(part) for part in ([content] if isinstance(content, str) else content or [])]


def _from_chat(body: dict[str, Any]) -> dict[str, Any]:
    messages = []
    for message in body["messages"]:
        if message["role"] == "tool":
            result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"]}
            messages.append({"role": "user", "content": [result]})
            continue
        calls = [
            _call(call.get("id") or "", call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or []
        ]
        role = {"developer": "system"}.get(message["role"], message["role"])
        messages.append({"role": role, "content": [*_content(message.get("content")), *calls]})
    return {"messages": messages, "tools": [_tool(tool) for tool in body.get("tools") or []]}


def _from_responses(body: dict[str, Any]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    items = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call":
            messages.append({"role": "assistant", "content": [_call(item["call_id"], item["name"], item["arguments"])]})
        elif kind == "function_call_output":
            output = item["output"] if isinstance(item["output"], str) else _content(item["output"])
            result = {"type": "tool_result", "tool_use_id": item["call_id"], "content": output}
            messages.append({"role": "user", "content": [result]})
        elif kind == "message":
            role = {"developer": "system"}.get(item["role"], item["role"])
            messages.append({"role": role, "content": _content(item["content"])})
    tools = [_tool(tool) for tool in body.get("tools") or []]
    return {"system": body.get("instructions") or "", "messages": messages, "tools": tools}


def _from_gemini(body: dict[str, Any]) -> dict[str, Any]:
    messages = []
    for content in body["contents"]:
        blocks = []
        for part in content["parts"]:
            if call := part.get("functionCall") or part.get("function_call"):
                blocks.append(_call("x", call["name"], json.dumps(call.get("args") or {})))
            elif answer := part.get("functionResponse") or part.get("function_response"):
                text = json.dumps(answer["response"])
                blocks.append({"type": "tool_result", "tool_use_id": "x", "content": text})
            elif "text" in part:
                blocks.append({"type": "text", "text": part["text"]})
            else:
                blocks.append({"type": "image", "source": {"type": "base64", "data": ""}})
        messages.append({"role": "assistant" if content.get("role") == "model" else "user", "content": blocks})
    system = body.get("systemInstruction") or body.get("system_instruction") or {"parts": []}
    declared = body.get("tools") or []
    groups = declared if isinstance(declared, list) else [declared]
    names = ("functionDeclarations", "function_declarations")
    tools = [_tool(tool) for group in groups for name in names for tool in group.get(name) or []]
    return {"system": "\n".join(part["text"] for part in system["parts"]), "messages": messages, "tools": tools}
