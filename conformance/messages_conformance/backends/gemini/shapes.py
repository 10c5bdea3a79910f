"""The fields of a request to Gemini (API reference, 2026-11), and its texts about those that are wrong."""

import re
from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.shapes import (
    ANY,
    FLAG,
    FREE,
    NUMBER,
    TEXT,
    WHOLE,
    Breach,
    closed,
    find_breaches,
    listed,
)
from messages_conformance.backends.wire import ContractViolation

_BLOB = closed({"mimeType": TEXT, "data": TEXT}, {})
_FILE = closed({"fileUri": TEXT}, {"mimeType": TEXT})
_FUNCTION_CALL = closed({"name": TEXT}, {"id": TEXT, "args": FREE})
_RESPONSE_PART = closed({}, {"inlineData": closed({"mimeType": TEXT, "data": TEXT}, {"displayName": TEXT})})
_FUNCTION_RESPONSE = closed(
    {"name": TEXT, "response": FREE},
    {"id": TEXT, "parts": listed(_RESPONSE_PART), "willContinue": FLAG, "scheduling": TEXT},
)
_PART = closed(
    {},
    {
        "text": TEXT,
        "thought": FLAG,
        "thoughtSignature": TEXT,
        "inlineData": _BLOB,
        "fileData": _FILE,
        "functionCall": _FUNCTION_CALL,
        "functionResponse": _FUNCTION_RESPONSE,
        "executableCode": FREE,
        "codeExecutionResult": FREE,
        "toolCall": FREE,
        "toolResponse": FREE,
        "videoMetadata": FREE,
        "mediaResolution": ANY,
        "partMetadata": FREE,
        "audioTranscription": FREE,
        "speechMetadata": FREE,
        "mediaProcessing": ANY,
    },
)
_CONTENT = closed({}, {"role": TEXT, "parts": listed(_PART)})
_SCHEMA_FIELDS = (
    *("type", "format", "title", "description", "nullable", "enum", "items", "maxItems", "minItems", "properties"),
    *("required", "minProperties", "maxProperties", "minLength", "maxLength", "pattern", "example", "anyOf"),
    *("propertyOrdering", "default", "minimum", "maximum"),
)
_DECLARATION = closed(
    {"name": TEXT},
    {
        "description": TEXT,
        "behavior": TEXT,
        "parameters": {"$ref": "#/$defs/schema"},
        "parametersJsonSchema": ANY,
        "response": FREE,
        "responseJsonSchema": ANY,
    },
)
_TOOL = closed(
    {},
    {
        "functionDeclarations": listed(_DECLARATION),
        "googleSearch": FREE,
        "googleSearchRetrieval": FREE,
        "codeExecution": FREE,
        "computerUse": FREE,
        "urlContext": FREE,
        "fileSearch": FREE,
        "googleMaps": FREE,
        "mcpServers": listed(FREE),
    },
)
_CALLING = closed({}, {"mode": TEXT, "allowedFunctionNames": listed(TEXT), "streamFunctionCallArguments": FLAG})
_TOOL_CONFIG = closed(
    {}, {"functionCallingConfig": _CALLING, "retrievalConfig": FREE, "includeServerSideToolInvocations": FLAG}
)
_THINKING = closed({}, {"includeThoughts": FLAG, "thinkingBudget": WHOLE, "thinkingLevel": TEXT})
_CONFIG = closed(
    {},
    {
        "stopSequences": listed(TEXT),
        "responseMimeType": TEXT,
        "responseSchema": {"$ref": "#/$defs/schema"},
        "responseJsonSchema": ANY,
        "responseModalities": listed(TEXT),
        "candidateCount": WHOLE,
        "maxOutputTokens": WHOLE,
        "temperature": NUMBER,
        "topP": NUMBER,
        "topK": NUMBER,
        "seed": WHOLE,
        "presencePenalty": NUMBER,
        "frequencyPenalty": NUMBER,
        "responseLogprobs": FLAG,
        "logprobs": WHOLE,
        "enableEnhancedCivicAnswers": FLAG,
        "speechConfig": FREE,
        "thinkingConfig": _THINKING,
        "imageConfig": FREE,
        "mediaResolution": TEXT,
        "responseFormat": ANY,
        "translationConfig": FREE,
        "audioTranscriptionConfig": FREE,
    },
)
_SCHEMA = {
    "type": "object",
    "properties": {
        **dict.fromkeys(_SCHEMA_FIELDS, ANY),
        "items": {"$ref": "#/$defs/schema"},
        "properties": {"type": "object", "additionalProperties": {"$ref": "#/$defs/schema"}},
        "anyOf": listed({"$ref": "#/$defs/schema"}),
    },
    "additionalProperties": False,
}
"""Google's own kind of schema, a part of OpenAPI's."""
REQUEST = {
    **closed(  # type: ignore[dict-item]
        {},
        {
            "contents": listed(_CONTENT),
            "systemInstruction": _CONTENT,
            "tools": listed(_TOOL),
            "toolConfig": _TOOL_CONFIG,
            "safetySettings": listed(FREE),
            "generationConfig": _CONFIG,
            "cachedContent": TEXT,
            "serviceTier": TEXT,
            "store": FLAG,
            "model": TEXT,
        },
    ),
    "$defs": {"schema": _SCHEMA},
}
_FREE = ("args", "response", "parametersJsonSchema", "responseJsonSchema", "properties")
_SNAKE = re.compile(r"_([a-z])")


def in_camel_case(value: Any) -> Any:
    """Return a body with the names of fields that JSON has: the server takes those of its own language too."""
    if isinstance(value, list):
        return [in_camel_case(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    renamed = {}
    for name, inner in value.items():
        camel = _SNAKE.sub(lambda match: match[1].upper(), name)
        renamed[camel] = inner if camel in _FREE else in_camel_case(inner)
    return renamed


def _place(path: tuple[str | int, ...]) -> str:
    text = ""
    for step in path:
        snake = step if isinstance(step, int) else re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), step)
        text += f"[{snake}]" if isinstance(step, int) else f".{snake}"
    return text.removeprefix(".")


def _word(breach: Breach) -> ContractViolation:
    where = _place(breach.path)
    match breach.rule:
        case "unknown_field":
            holder = _place(breach.path[:-1])
            place = f" at '{holder}'" if holder else ""
            text = f'Invalid JSON payload received. Unknown name "{breach.path[-1]}"{place}: Cannot find field.'
            return ContractViolation("unknown_field", text)
        case "missing":
            return ContractViolation("missing", f"* GenerateContentRequest.{where}: must not be empty.\n")
        case _:
            return ContractViolation("type", f"Invalid value at '{where}' ({breach.allowed[0]}), {breach.value!r}")


def check_shape(body: Any) -> Iterator[ContractViolation]:
    """Yield the fields that a request must not have, or has with another type."""
    return map(_word, find_breaches(body, REQUEST))
