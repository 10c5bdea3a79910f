"""Gemini's rules on `contents`: roles, the order of calls and responses, pictures and documents."""

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.wire import ContractViolation

_DATA = (
    *("text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult"),
    *("toolCall", "toolResponse"),
)
_BEGINNINGS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/webp": b"RIFF",
    "application/pdf": b"%PDF-",
}
_MEDIA = {*_BEGINNINGS, "image/heic", "image/heif", "text/plain"}
_CALL_PLACE = (
    "Please ensure that function call turn comes immediately after a user turn or after a function response turn."
)
_RESPONSE_PLACE = "Please ensure that function response turn comes immediately after a function call turn."
_RESPONSE_COUNT = (
    "Please ensure that the number of function response parts is equal to the number of function call parts "
    "of the function call turn."
)

Content = dict[str, Any]


def calls_of(content: Content) -> list[dict[str, Any]]:
    return [part["functionCall"] for part in content.get("parts", ()) if "functionCall" in part]


def responses_of(content: Content) -> list[dict[str, Any]]:
    return [part["functionResponse"] for part in content.get("parts", ()) if "functionResponse" in part]


def check_contents(contents: list[Content], *, media_in_results: bool = True) -> Iterator[ContractViolation]:
    """Yield every rule that the conversation breaks. `media_in_results`: True if results may have images."""
    if not contents:
        yield ContractViolation("contents", "* GenerateContentRequest.contents: contents is not specified\n")
        return
    for number, content in enumerate(contents):
        if content.get("role") not in ("user", "model"):
            yield ContractViolation("role", "Please use a valid role: user, model.")
        yield from _check_parts(content.get("parts") or [], f"contents[{number}]", media_in_results=media_in_results)
    if contents[0].get("role") != "user":
        yield ContractViolation("first", "Please ensure that multiturn requests start with a user turn.")
    if contents[-1].get("role") == "model":
        yield ContractViolation(
            "last", "Please ensure that multiturn requests end with a user role or a function response."
        )
    yield from _check_order(contents)


def _check_parts(parts: list[dict[str, Any]], path: str, *, media_in_results: bool) -> Iterator[ContractViolation]:
    where = f"* GenerateContentRequest.{path}.parts"
    if not parts:
        yield ContractViolation("parts", f"{where}: contents.parts must not be empty.\n")
    for number, part in enumerate(parts):
        data = [name for name in _DATA if part.get(name) is not None]
        if not data:
            text = f"{where}[{number}].data: required oneof field 'data' must have one initialized field\n"
            yield ContractViolation("part_data", text)
        elif len(data) > 1:
            text = f"Invalid value at '{path}.parts[{number}]' (oneof), oneof field 'data' is already set."
            yield ContractViolation("part_data", text)
        if part.get("text") == "" and "thoughtSignature" not in part:
            yield ContractViolation("empty_text", "Unable to submit request because it has an empty text parameter.")
        if "inlineData" in part:
            yield from _check_media(part["inlineData"])
        response = part.get("functionResponse") or {}
        if response.get("parts") and not media_in_results:
            yield ContractViolation(
                "result_media", f"{where}[{number}].function_response.parts: not supported by this model.\n"
            )
        for inner in response.get("parts") or ():
            yield from _check_media(inner.get("inlineData") or {})
        for named in (part.get("functionCall"), part.get("functionResponse")):
            if named is not None and not named.get("name"):
                yield ContractViolation("call_name", f"{where}[{number}]: [name] must not be empty.\n")


def _check_media(blob: dict[str, Any]) -> Iterator[ContractViolation]:
    kind = blob.get("mimeType", "")
    if kind not in _MEDIA:
        yield ContractViolation("mime", f"Unsupported MIME type: {kind}")
        return
    try:
        data = base64.b64decode(blob.get("data", ""), validate=True)
    except binascii.Error:
        data = b""
    if not data.startswith(_BEGINNINGS.get(kind, b"")) or not data:
        broken = "The document has no pages." if kind == "application/pdf" else "Unable to process input image."
        yield ContractViolation("media", broken)


def _check_order(contents: list[Content]) -> Iterator[ContractViolation]:
    open_calls: list[dict[str, Any]] = []
    for before, content in zip([None, *contents], contents, strict=False):
        calls, responses = calls_of(content), responses_of(content)
        if calls and (content.get("role") != "model" or before is None or before.get("role") != "user"):
            yield ContractViolation("call_place", _CALL_PLACE)
        if responses and (content.get("role") != "user" or not open_calls):
            yield ContractViolation("response_place", _RESPONSE_PLACE)
        elif len(responses) != len(open_calls):
            yield ContractViolation("response_count", _RESPONSE_COUNT)
        elif responses:
            yield from _check_responses(content, responses, open_calls)
        open_calls = calls
    if open_calls:
        yield ContractViolation("response_count", _RESPONSE_COUNT)


def _check_responses(
    content: Content, responses: list[dict[str, Any]], calls: list[dict[str, Any]]
) -> Iterator[ContractViolation]:
    for call, response in zip(calls, responses, strict=True):
        if (call["name"], call.get("id")) != (response.get("name"), response.get("id")):
            mismatch = f"{response.get('name')} {response.get('id')} answers {call['name']} {call.get('id')}"
            yield ContractViolation(
                "response_order", f"Please ensure that function responses are in the order of calls: {mismatch}."
            )
    # The real server takes text beside responses for the model's own ("Function calling", 2026-11).
    kinds = [name for part in content["parts"] for name in part if name in _DATA]
    if "text" in kinds or kinds[: len(responses)] != ["functionResponse"] * len(responses):
        yield ContractViolation("response_alone", "Please ensure that function responses stand first and without text.")
