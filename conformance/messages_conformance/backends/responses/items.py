"""OpenAI's rules for input items beyond their types: their order, and items that must be sent back unchanged."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from messages_conformance.backends.openai.messages import check_name, decode_data_url, empty, is_image, too_long
from messages_conformance.backends.wire import ContractViolation

MAX_CALL_ID = 64
_CALLS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}
_PREFIXES = {"function_call": "fc", "reasoning": "rs", "message": "msg", "custom_tool_call": "ctc"}


class Abilities(Protocol):
    """What the rules on items must know of a model."""

    @property
    def pictures(self) -> bool: ...
    @property
    def reasons(self) -> bool: ...


def kind_of(item: dict[str, Any]) -> str:
    """Return an item's type; messages need not give theirs."""
    return str(item.get("type") or "message")


def _is_by_model(item: dict[str, Any]) -> bool:
    kind = kind_of(item)
    return kind in (*_CALLS, "web_search_call") or (kind == "message" and item.get("role") == "assistant")


def _check_image(url: str, where: str, *, pictures: bool) -> Iterator[ContractViolation]:
    if not pictures:
        text = f"Invalid content type. This model does not support image inputs. ({where})"
        yield ContractViolation("image_model", text, where, "invalid_value")
    if url.startswith(("https://", "http://")):
        return
    decoded = decode_data_url(url)
    if decoded is None:
        text = f"Invalid '{where}'. Expected a valid URL, but got a value with an invalid format."
        yield ContractViolation("image_url", text, where, "invalid_value")
        return
    media_type, data = decoded
    if not is_image(media_type, data):
        text = "The image data you provided does not represent a valid image. Please check your input and try again."
        yield ContractViolation("image_format", text, where, "invalid_image")


def _check_file(part: dict[str, Any], where: str) -> Iterator[ContractViolation]:
    given = [name for name in ("file_data", "file_url", "file_id") if part.get(name) is not None]
    if len(given) != 1:
        yield ContractViolation(
            "file_one", f"Exactly one of file_id, file_url and file_data must be given. ({where})", where
        )
    if "file_data" not in part:
        return
    decoded = decode_data_url(part["file_data"])
    if decoded is None or decoded[0] != "application/pdf" or not decoded[1].startswith(b"%PDF-"):
        text = (
            f"Invalid '{where}.file_data'. Expected a base64-encoded data URL with an application/pdf MIME type "
            "(e.g. 'data:application/pdf;base64,aGVsbG8=')."
        )
        yield ContractViolation("file_data", text, f"{where}.file_data", "invalid_value")
    if not part.get("filename"):
        name = f"{where}.filename"
        yield ContractViolation(
            "file_name", f"Missing required parameter: '{name}'.", name, "missing_required_parameter"
        )


def _check_parts(content: Any, where: str, *, pictures: bool) -> Iterator[ContractViolation]:
    if isinstance(content, str):
        return
    if content is None:
        yield ContractViolation(
            "missing", f"Missing required parameter: '{where}'.", where, "missing_required_parameter"
        )
        return
    if not content:
        yield empty("content_empty", where)
    for position, part in enumerate(content):
        place = f"{where}[{position}]"
        if part["type"] == "input_image" and part.get("image_url"):
            yield from _check_image(part["image_url"], f"{place}.image_url", pictures=pictures)
        elif part["type"] == "input_file":
            yield from _check_file(part, place)


def _check_call_id(item: dict[str, Any], where: str) -> Iterator[ContractViolation]:
    call_id = item.get("call_id")
    if not call_id:
        text = f"Invalid '{where}.call_id': empty string. Expected a string with minimum length 1."
        yield ContractViolation("call_id", text, f"{where}.call_id", "string_below_min_length")
        return
    yield from too_long(f"{where}.call_id", call_id, MAX_CALL_ID)


def _check_call(item: dict[str, Any], where: str) -> Iterator[ContractViolation]:
    yield from _check_call_id(item, where)
    yield from check_name(item["name"], f"{where}.name")
    try:  # stricter than OpenAI itself, which takes any text here: most others with its API refuse what is no object
        good = isinstance(json.loads(item["arguments"]), dict)
    except ValueError:
        good = False
    if not good:
        name = f"{where}.arguments"
        yield ContractViolation(
            "arguments", f"Invalid '{name}': expected the JSON text of an object.", name, "invalid_value"
        )


def _check_id(item: dict[str, Any], where: str) -> Iterator[ContractViolation]:
    prefix, identity = _PREFIXES.get(kind_of(item)), item.get("id")
    if identity is not None and prefix is not None and not re.match(rf"{prefix}_\w", identity):
        text = f"Invalid '{where}.id': '{identity}'. Expected an ID that begins with '{prefix}'."
        yield ContractViolation("item_id", text, f"{where}.id", "invalid_value")


def _check_reasoning(
    item: dict[str, Any], where: str, model: Abilities, issued: Mapping[str, str] | None, *, is_followed: bool
) -> Iterator[ContractViolation]:
    identity = item.get("id", "")
    if not model.reasons:
        text = (
            "Reasoning input items can only be provided to a reasoning or computer use model. Remove reasoning items."
        )
        yield ContractViolation("reasoning_model", text, "input")
    if not item.get("encrypted_content"):
        text = (
            f"Item with id '{identity}' not found. Items are not persisted when `store` is set to false. "
            "Try again with `store` set to true, or remove this item from your input."
        )
        yield ContractViolation("reasoning_not_stored", text, "input")
        return
    if issued is not None and issued.get(identity) != item["encrypted_content"]:
        shown = item["encrypted_content"][:4]
        text = (
            f"The encrypted content {shown}... could not be verified. Reason: Encrypted content could not be decrypted."
        )
        yield ContractViolation("reasoning_foreign", text, f"{where}.encrypted_content", "invalid_encrypted_content")
    if not is_followed:
        text = f"Item '{identity}' of type 'reasoning' was provided without its required following item."
        yield ContractViolation("reasoning_alone", text, "input")


def _follows(following: dict[str, Any] | None, *, stored: bool) -> bool:
    """Return True if reasoning must precede an item: a server that stores its replies identifies the item by its id."""
    return following is not None and _is_by_model(following) and not (stored and "id" not in following)


def _check_order(items: list[dict[str, Any]]) -> Iterator[ContractViolation]:
    """Yield the violations of the order: every call has one later result, before any message of another role."""
    waiting: dict[str, str] = {}
    seen: set[str] = set()
    for position, item in enumerate(items):
        kind, call_id = kind_of(item), item.get("call_id") or ""
        if kind in _CALLS:
            if call_id in seen:
                yield ContractViolation(
                    "call_twice", f"Duplicate item found with call_id {call_id}.", f"input[{position}].call_id"
                )
            seen.add(call_id)
            waiting[call_id] = _CALLS[kind]
        elif kind in _CALLS.values():
            if waiting.pop(call_id, None) != kind:
                text = f"No tool call found for function call output with call_id {call_id}."
                yield ContractViolation("output_without_call", text, "input")
        elif waiting and kind == "message" and item.get("role") != "assistant":
            yield from _unanswered(waiting)
            waiting.clear()
    yield from _unanswered(waiting)


def _unanswered(waiting: Mapping[str, str]) -> Iterator[ContractViolation]:
    for call_id in waiting:
        yield ContractViolation("call_without_output", f"No tool output found for function call {call_id}.", "input")


def check_items(
    items: list[dict[str, Any]], model: Abilities, issued: Mapping[str, str] | None, *, stored: bool
) -> Iterator[ContractViolation]:
    """Yield every violation in these items. `issued`: reasoning that this server sent, by id; None: any is taken."""
    if not items:
        yield empty("input_empty", "input")
    for position, item in enumerate(items):
        where, kind = f"input[{position}]", kind_of(item)
        yield from _check_id(item, where)
        if kind == "message":
            yield from _check_parts(item.get("content"), f"{where}.content", pictures=model.pictures)
        elif kind == "function_call":
            yield from _check_call(item, where)
        elif kind == "function_call_output":
            yield from _check_call_id(item, where)
            yield from _check_parts(item.get("output"), f"{where}.output", pictures=model.pictures)
        elif kind == "reasoning":
            following = items[position + 1] if position + 1 < len(items) else None
            yield from _check_reasoning(item, where, model, issued, is_followed=_follows(following, stored=stored))
    yield from _check_order(items)
