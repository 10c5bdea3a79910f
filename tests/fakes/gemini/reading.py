"""Reads a generateContent request as a conversation."""

import base64
import json
from typing import Any

from tests.fakes.agent import Call, Conversation, Picture, Result, Tool, Turn
from tests.fakes.gemini.contents import calls_of, responses_of
from tests.fakes.gemini.rules import declarations_of


def _picture(blob: dict[str, Any]) -> Picture:
    kind = blob.get("mimeType", "")
    data = base64.b64decode(blob.get("data", ""))
    size = (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) if kind == "image/png" else None
    return Picture(kind, size)


def _pictures(parts: list[dict[str, Any]]) -> list[Picture]:
    inline = [_picture(part["inlineData"]) for part in parts if "inlineData" in part]
    return inline + [Picture(part["fileData"].get("mimeType", "url"), None) for part in parts if "fileData" in part]


def _said(response: dict[str, Any]) -> str:
    for name in ("output", "error"):
        if name in response:
            value = response[name]
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(response, ensure_ascii=False)


def _turns(body: dict[str, Any]) -> list[Turn]:
    instruction = body.get("systemInstruction") or {}
    system = "\n".join(part.get("text", "") for part in instruction.get("parts") or ())
    turns = [Turn("system", system)] if system else []
    open_results: list[Result] = []
    for content in body["contents"]:
        parts = content.get("parts") or []
        text = "\n".join(part["text"] for part in parts if part.get("text") and not part.get("thought"))
        if content["role"] == "model":
            open_results = [Result(Call(call["name"], call.get("args") or {}), "") for call in calls_of(content)]
            turns.append(Turn("assistant", text, [], open_results))
            continue
        for result, response in zip(open_results, responses_of(content), strict=False):
            result.text = _said(response.get("response") or {})
            result.pictures = _pictures(response.get("parts") or [])
        pictures = _pictures(parts)
        if text or pictures:
            turns.append(Turn("user", text, pictures))
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
    """Return what a valid request says."""
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
    )
