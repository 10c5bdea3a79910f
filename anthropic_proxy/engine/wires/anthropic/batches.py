"""Edits for the Batches API: the requests that create a batch, and the responses that describe batches."""

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial

import msgspec

from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.conversation import (
    FIELDS_OF_THINKING,
    Removals,
    find_disabling_edits,
    find_message_edits,
    find_unthinking_loop,
)
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.errors import InvalidRequest

_RESULTS_URL = re.compile(rb'"https?://[^/"]+(/v1/messages/batches/[\w-]+/results)"')


def encode_batch(
    body: bytes,
    dialect: Dialect,
    resolve_model: Callable[[str, str, bytes], str],
    *,
    provider: str = "",
    refused_signatures: Collection[bytes] = frozenset(),
) -> bytes:
    """Return the body with the model of each request replaced, and without content that the provider would reject.

    Raises `InvalidRequest` for invalid JSON, and for a list or object of too many members.
    """
    removals = Removals(dialect, provider, refused_signatures)
    return json_spans.edit(body, lambda text: _find_batch_edits(text, removals, resolve_model))


def _find_batch_edits(body: bytes, removals: Removals, resolve_model: Callable[[str, str, bytes], str]) -> list[Edit]:
    edits: list[Edit] = []
    for index, params in find_params(body):
        edits += _find_edits_of_params(body, params, removals, partial(resolve_model, f"requests.{index}.params"))
    return edits


def find_params(body: bytes) -> Iterator[tuple[int, JsonSpan]]:
    """Yield the index of each request of a batch, and the member with its parameters."""
    for requests in json_spans.find_members(body):
        if requests.key != "requests" or body[requests.value] != ord("["):
            continue
        for index, request in enumerate(json_spans.find_elements(body, requests.value, requests.end)):
            if body[request.value] != ord("{"):
                continue
            for member in json_spans.find_members(body, request.value, request.end):
                if member.key == "params" and body[member.value] == ord("{"):
                    yield index, member


def _find_edits_of_params(
    body: bytes, params: JsonSpan, removals: Removals, resolve_model: Callable[[str, bytes], str]
) -> list[Edit]:
    edits: list[Edit] = []
    members = json_spans.find_members(body, params.value, params.end)
    kept = [True] * len(members)
    unthinking_loop = find_unthinking_loop(body, members, removals)
    for position, member in enumerate(members):
        if member.key == "model" and body[member.value] == ord('"'):
            name = msgspec.json.decode(body[member.value : member.end], type=str)
            if (model := resolve_model(name, body[params.value : params.end])) != name:
                edits.append(Edit(member.value, member.end, msgspec.json.encode(model)))
        elif member.key == "messages" and body[member.value] == ord("["):
            edits += find_message_edits(body, member, removals, unthinking_loop)
        elif member.key in FIELDS_OF_THINKING and unthinking_loop is not None:
            disabling = find_disabling_edits(body, member)
            kept[position] = disabling is not None
            edits += disabling or ()
    return edits + json_spans.build_removal_edits(members, kept)


def remove_results_host(body: bytes) -> bytes:
    """Return batches with only the path of each `results_url`, to which the SDKs add the proxy's address."""
    with suppress(InvalidRequest):  # a reply that is no JSON is forwarded
        return json_spans.edit(body, _find_results_edits)
    return body


def _find_results_edits(body: bytes) -> list[Edit]:
    members = json_spans.find_members(body)
    objects = [members]
    for member in members:
        if member.key == "data" and body[member.value] == ord("["):
            elements = json_spans.find_elements(body, member.value, member.end)
            objects += [
                json_spans.find_members(body, each.value, each.end) for each in elements if body[each.value] == ord("{")
            ]
    return [
        Edit(member.value, member.end, b'"%b"' % found[1])
        for members in objects
        for member in members
        if member.key == "results_url" and (found := _RESULTS_URL.fullmatch(body, member.value, member.end))
    ]
