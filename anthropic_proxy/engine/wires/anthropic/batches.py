"""Bodies of the Batches API: requests that create a batch, and responses that describe batches."""

import re
from collections.abc import Callable
from functools import partial

import msgspec

from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit
from anthropic_proxy.engine.wires.anthropic.request import Removals, find_message_edits
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS
from anthropic_proxy.errors import InvalidRequest

_RESULTS_URL = re.compile(rb'"https?://[^/"]+(/v1/messages/batches/[\w-]+/results)"')


def encode_batch(body: bytes, dialect: Dialect, resolve_model: Callable[[str, str, bytes], str]) -> bytes:
    """Return the body with the model of each request replaced, and without content that the provider would reject.

    Raises `msgspec.DecodeError` for invalid JSON, and `InvalidRequest` for a list or object of too many members.
    """
    try:
        return json_spans.apply_edits(body, _find_edits(body, dialect, resolve_model))
    except json_spans.RepeatedKeyError:
        body = json_spans.merge_repeated_keys(body)
        return json_spans.apply_edits(body, _find_edits(body, dialect, resolve_model))


def _find_edits(body: bytes, dialect: Dialect, resolve_model: Callable[[str, str, bytes], str]) -> list[Edit]:
    edits: list[Edit] = []
    for requests in json_spans.find_members(body):
        if requests.key != "requests" or body[requests.value] != ord("["):
            continue
        for index, request in enumerate(json_spans.find_elements(body, requests.value, requests.end)):
            if body[request.value] != ord("{"):
                continue
            for member in json_spans.find_members(body, request.value, request.end):
                if member.key == "params" and body[member.value] == ord("{"):
                    resolve = partial(resolve_model, f"requests.{index}.params")
                    edits += _find_edits_of_params(body, member, dialect, resolve)
    return edits


def _find_edits_of_params(
    body: bytes, params: json_spans.JsonSpan, dialect: Dialect, resolve_model: Callable[[str, bytes], str]
) -> list[Edit]:
    edits: list[Edit] = []
    for member in json_spans.find_members(body, params.value, params.end):
        if member.key == "model" and body[member.value] == ord('"'):
            name = msgspec.json.decode(body[member.value : member.end], type=str)
            if (model := resolve_model(name, body[params.value : params.end])) != name:
                edits.append(Edit(member.value, member.end, msgspec.json.encode(model)))
        elif member.key == "messages" and body[member.value] == ord("["):
            edits += find_message_edits(body, member, Removals(dialect))
    return edits


def remove_results_host(body: bytes) -> bytes:
    """Return batches with only the path of each `results_url`, to which the SDKs add the proxy's address."""
    try:
        members = json_spans.find_members(body)
        objects = [members]
        for member in members:
            if member.key == "data" and body[member.value] == ord("["):
                elements = json_spans.find_elements(body, member.value, member.end)
                objects += [
                    json_spans.find_members(body, each.value, each.end)
                    for each in elements
                    if body[each.value] == ord("{")
                ]
    except (*DECODE_ERRORS, json_spans.RepeatedKeyError, InvalidRequest):
        return body
    edits = [
        Edit(member.value, member.end, b'"%b"' % found[1])
        for members in objects
        for member in members
        if member.key == "results_url" and (found := _RESULTS_URL.fullmatch(body, member.value, member.end))
    ]
    return json_spans.apply_edits(body, edits)
