"""OpenAI's rules on messages beyond their types: the content each role may send, and in which order tools answer."""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.wire import IMAGE_BEGINNINGS, ContractViolation

MAX_ID = 40
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)


def too_long(where: str, value: str, limit: int) -> Iterator[ContractViolation]:
    if len(value) > limit:
        text = (
            f"Invalid '{where}': string too long. Expected a string with maximum length {limit}, "
            f"but got a string with length {len(value)} instead."
        )
        yield ContractViolation("too_long", text, where, "string_above_max_length")


def empty(rule: str, where: str) -> ContractViolation:
    text = f"Invalid '{where}': empty array. Expected an array with minimum length 1, but got an empty array instead."
    return ContractViolation(rule, text, where, "empty_array")


def decode_data_url(url: str) -> tuple[str, bytes] | None:
    """Return media type and bytes of a base64 data URL; None where it is none or not base64."""
    found = _DATA_URL.fullmatch(url)
    if found is None:
        return None
    try:
        return found[1], base64.b64decode(found[2], validate=True)
    except binascii.Error:
        return None


def is_image(media_type: str, data: bytes) -> bool:
    """Tell whether data begin as a file of this media type."""
    return media_type in IMAGE_BEGINNINGS and data.startswith(IMAGE_BEGINNINGS[media_type])


def _check_image(url: str, where: str, *, pictures: bool) -> Iterator[ContractViolation]:
    if not pictures:
        text = "Invalid content type. image_url is only supported by certain models."
        yield ContractViolation("image_model", text, where, "invalid_value")
    if url.startswith(("https://", "http://")):
        return
    decoded = decode_data_url(url)
    if decoded is None:
        text = f"Invalid '{where}'. Expected a base64-encoded data URL with an image MIME type, or a valid URL."
        yield ContractViolation(
            "image_url", text, where, "invalid_base64" if url.startswith("data:") else "invalid_image_url"
        )
        return
    media_type, data = decoded
    if not is_image(media_type, data):
        text = (
            "You uploaded an unsupported image. Please make sure your image has of one the following formats: "
            "['png', 'jpeg', 'gif', 'webp']."
        )
        yield ContractViolation("image_format", text, where, "invalid_image_format")


def _check_file(file: dict[str, Any], where: str) -> Iterator[ContractViolation]:
    if "file_id" in file:
        return
    for key in ("filename", "file_data"):
        if key not in file:
            name = f"{where}.{key}"
            yield ContractViolation(
                "file", f"Missing required parameter: '{name}'.", name, "missing_required_parameter"
            )
    decoded = decode_data_url(file.get("file_data", "data:application/pdf;base64,JVBERi0="))
    if decoded is None or decoded[0] != "application/pdf" or not decoded[1].startswith(b"%PDF-"):
        text = (
            f"Invalid '{where}.file_data'. Expected a base64-encoded data URL with an application/pdf MIME type "
            "(e.g. 'data:application/pdf;base64,aGVsbG8=')."
        )
        yield ContractViolation("file", text, f"{where}.file_data", "invalid_value")


def _check_content(message: dict[str, Any], where: str, *, pictures: bool) -> Iterator[ContractViolation]:
    role, content = message["role"], message.get("content")
    has_other_content = message.get("tool_calls") or message.get("function_call") or message.get("refusal")
    if content is None:
        if role != "assistant" or not has_other_content:
            text = f"Invalid value for 'content': expected a string, got null. ({where})"
            yield ContractViolation("content_empty", text, f"{where}.content")
        return
    if isinstance(content, str):
        return
    if not content:
        yield empty("content_empty", f"{where}.content")
    for position, part in enumerate(content):
        place = f"{where}.content[{position}]"
        if part["type"] == "image_url":
            yield from _check_image(part["image_url"]["url"], f"{place}.image_url.url", pictures=pictures)
        elif part["type"] == "file":
            yield from _check_file(part["file"], f"{place}.file")


def _check_calls(message: dict[str, Any], where: str) -> Iterator[ContractViolation]:
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not calls:
        yield empty("calls_empty", f"{where}.tool_calls")
    seen: set[str] = set()
    for position, call in enumerate(calls):
        place = f"{where}.tool_calls[{position}]"
        if not call["id"]:
            text = f"Invalid '{place}.id': empty string. Expected a string with minimum length 1."
            yield ContractViolation("id", text, f"{place}.id", "string_below_min_length")
        yield from too_long(f"{place}.id", call["id"], MAX_ID)
        if call["id"] in seen:
            yield ContractViolation(
                "id_twice", f"Duplicate value for 'id' of '{call['id']}' in {place}.", f"{place}.id"
            )
        seen.add(call["id"])
        if "function" in call:
            yield from check_name(call["function"]["name"], f"{place}.function.name")
            yield from _check_arguments(call["function"]["arguments"], f"{place}.function.arguments")


def _check_arguments(arguments: str, where: str) -> Iterator[ContractViolation]:
    """Stricter than OpenAI, which accepts any text here: most compatible servers reject text that is no JSON object."""
    try:
        good = isinstance(json.loads(arguments), dict)
    except ValueError:
        good = False
    if not good:
        yield ContractViolation(
            "arguments", f"Invalid '{where}': expected the JSON text of an object.", where, "invalid_value"
        )


def check_name(name: str, where: str) -> Iterator[ContractViolation]:
    """Yield the violations in a function's name."""
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", name):
        text = (
            f"Invalid '{where}': string does not match pattern. "
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
        )
        yield ContractViolation("tool_name", text, where, "invalid_value")
    yield from too_long(where, name, 64)


def _unanswered(waiting: list[str], position: int) -> Iterator[ContractViolation]:
    if waiting:
        text = (
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(waiting)}"
        )
        yield ContractViolation("tool_order", text, f"messages.[{position}].role")


def _check_order(messages: list[dict[str, Any]]) -> Iterator[ContractViolation]:
    """Each assistant message with calls is followed at once by one tool message a call, and by no other."""
    waiting: list[str] = []
    answered: set[str] = set()
    for position, message in enumerate(messages):
        if message["role"] != "tool":
            yield from _unanswered(waiting, position)
            waiting = [call["id"] for call in message.get("tool_calls") or ()]
            answered = set()
            continue
        identity, where = message["tool_call_id"], f"messages.[{position}].role"
        yield from too_long(f"messages[{position}].tool_call_id", identity, MAX_ID)
        if identity in waiting:
            waiting.remove(identity)
            answered.add(identity)
        elif identity in answered:
            text = f"Duplicate value for 'tool_call_id' of '{identity}' in message[{position}]."
            yield ContractViolation("tool_answer_twice", text, where)
        elif answered or waiting:
            text = f"Invalid parameter: 'tool_call_id' of '{identity}' not found in 'tool_calls' of previous message."
            yield ContractViolation("tool_unknown_id", text, f"messages.[{position}].tool_call_id")
        else:
            text = (
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                "'tool_calls'."
            )
            yield ContractViolation("tool_without_call", text, where)
    yield from _unanswered(waiting, len(messages))


def check_messages(messages: list[dict[str, Any]], *, pictures: bool = True) -> Iterator[ContractViolation]:
    """Yield every rule on messages that these break; their types were checked before.

    `pictures`: True if the model takes images.
    """
    if not messages:
        yield empty("messages_empty", "messages")
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        if not re.fullmatch(r"[^\s<|\\/>]+", message.get("name", "x")):
            text = f"Invalid '{where}.name': string does not match pattern. Expected '^[^\\s<|\\\\/>]+$'."
            yield ContractViolation("message_name", text, f"{where}.name", "invalid_value")
        yield from _check_content(message, where, pictures=pictures)
        yield from _check_calls(message, where)
    yield from _check_order(messages)
