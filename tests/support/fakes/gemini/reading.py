"""Reads a generateContent request as a conversation."""

import base64
import json
from typing import Any

from messages_conformance.backends.gemini.contents import calls_of, responses_of
from messages_conformance.backends.gemini.rules import declarations_of, own_tools_of
from tests.support.fakes.scripted_model import Call, Conversation, Media, Result, Tool, Turn


def _read_content(parts: list[dict[str, Any]]) -> list[str | Media]:
    """Return the text and media of parts, without thoughts."""
    pieces: list[str | Media] = []
    for part in parts:
        if part.get("text") and not part.get("thought"):
            pieces.append(part["text"])
        elif blob := part.get("inlineData"):
            pieces.append(Media(blob.get("mimeType", ""), base64.b64decode(blob.get("data", ""))))
        elif file := part.get("fileData"):
            pieces.append(Media(file.get("mimeType", ""), url=file.get("fileUri", "")))
    return pieces


def _answered(response: dict[str, Any]) -> str:
    for name in ("output", "error"):
        if name in response:
            value = response[name]
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(response, ensure_ascii=False)


def _turns(body: dict[str, Any]) -> list[Turn]:
    instruction = body.get("systemInstruction") or {}
    system = "\n".join(part.get("text", "") for part in instruction.get("parts") or ())
    turns = [Turn("system", [system])] if system else []
    open_results: list[Result] = []
    for content in body["contents"]:
        parts = content.get("parts") or []
        if content["role"] == "model":
            calls = [Call(call["name"], call.get("args") or {}, call.get("id", "")) for call in calls_of(content)]
            open_results = [Result(call) for call in calls]
            signatures = [part["thoughtSignature"] for part in parts if "thoughtSignature" in part]
            turns.append(Turn("assistant", _read_content(parts), open_results, signatures))
            continue
        for result, response in zip(open_results, responses_of(content), strict=False):
            result.failed = "error" in (response.get("response") or {})
            result.content = [_answered(response.get("response") or {}), *_read_content(response.get("parts") or [])]
        if content := _read_content(parts):
            turns.append(Turn("user", content))
    return turns


def _lower(schema: Any) -> Any:
    """Return a schema of Gemini's own kind with the type names of JSON Schema."""
    if isinstance(schema, list):
        return [_lower(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: inner.lower() if name == "type" and isinstance(inner, str) else _lower(inner)
        for name, inner in schema.items()
    }


def read_conversation(body: dict[str, Any], model: str) -> Conversation:
    """Return the conversation of a valid request."""
    tools = {}
    for declared in declarations_of(body):
        schema = declared.get("parametersJsonSchema") or _lower(declared.get("parameters")) or {}
        tools[declared["name"]] = Tool(declared["name"], schema)
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    allowed = calling.get("allowedFunctionNames") or []
    modes = {"ANY": allowed[0] if allowed else "required", "NONE": "none"}
    config = body.get("generationConfig") or {}
    return Conversation(
        model=model,
        turns=_turns(body),
        tools=tools,
        schema=config.get("responseJsonSchema") or _lower(config.get("responseSchema")),
        choice=modes.get(calling.get("mode", "AUTO"), "auto"),
        searches="googleSearch" in own_tools_of(body),
    )
