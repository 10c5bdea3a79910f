"""Edits for the Batches API: the requests that create a batch, and the responses that describe batches."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from anthropic_proxy.engine.messages.fidelity import FidelityNote, NoteCheck
from anthropic_proxy.engine.messages.models.client_json import read_with_source
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.slices import give_way_between
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.anthropic.request import edit_body
from anthropic_proxy.engine.wires.calls import RelayCall
from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature

RESOURCE_ID = r"[\w.:@-]*\w"
"""Pattern of an id in the URL path of a model, batch, file or skill, with `re.ASCII`."""
_RESOURCE_ID = compile_anchored(RESOURCE_ID, re.ASCII)
_QUOTE = ord('"')
_MAX_NAME = 100
"""Maximum number of bytes of a `custom_id` in an error. Anthropic accepts 64 characters."""


def encode_batch(
    body: bytes, build_call: Callable[[str, str, bytes], tuple[RelayCall[Any], NoteCheck]]
) -> tuple[bytes, list[FidelityNote]]:
    """Return the body with each request edited as if it were sent alone, and the first note on each changed field.

    `build_call` returns the call of one request, whose own body is not read, and the check of the notes on it. The
    arguments are the path of `params`, for errors, the model and the JSON text of `params`.
    Raises `InvalidRequest` for invalid JSON, and for a list or object of too many members, and `UnsupportedFeature` if
    the notes on a request are refused.
    """

    def find(text: bytes) -> tuple[bytes, list[tuple[int, JsonSpan, JsonSpan, str | None]]]:
        found = give_way_between(find_params(text))
        return text, [(index, request, params, _find_model(text, params)) for index, request, params in found]

    (text, requests), source = read_with_source(body, find)
    notes = dict[str, FidelityNote]()
    edits: list[Edit] = []
    for index, request, params, model in give_way_between(requests):
        if model is None:  # the provider explains what is wrong
            continue
        path = f"requests.{index}.params"
        call, check_notes = build_call(path, model, text[params.value : params.end])
        given = source[params.value : params.end]
        edited, found = edit_body(given, call, {}, {})
        try:
            check_notes(found)
        except UnsupportedFeature as error:
            of_request = json_spans.find_members(text, request.value, request.end)
            if (name := next((each for each in of_request if each.key == "custom_id"), None)) is not None:
                shown = text[name.value : name.end][:_MAX_NAME].decode(errors="replace")
                path = f"{path} (custom_id {shown})"
            raise UnsupportedFeature(f"{path}: {error.message}", code=error.code, quotes=error.quotes) from None
        for note in found:
            notes.setdefault(note.field, note)
        if edited != given:
            edits.append(Edit(params.value, params.end, edited))
    return json_spans.apply_edits(source, edits), [*notes.values()]


def _find_model(text: bytes, params: JsonSpan) -> str | None:
    members = json_spans.find_members(text, params.value, params.end)
    model = next((each for each in members if each.key == "model" and text[each.value] == _QUOTE), None)
    return None if model is None else msgspec.json.decode(text[model.value : model.end], type=str)


def find_params(body: bytes) -> Iterator[tuple[int, JsonSpan, JsonSpan]]:
    """Yield the index and the place of each request of a batch, and the member with its parameters."""
    for index, request in enumerate(json_spans.find_listed(body, "requests")):
        if body[request.value] == ord("{"):
            for member in json_spans.find_members(body, request.value, request.end):
                if member.key == "params" and body[member.value] == ord("{"):
                    yield index, request, member


def remove_results_host(body: bytes) -> bytes:
    """Return batches whose `results_url` is the path at the proxy, to which the SDKs add its address.

    Each server has the results at this path. Another one, such as a link to a store, would lead past the proxy.
    """
    with suppress(InvalidRequest):  # a reply that is no JSON is forwarded
        return json_spans.edit(body, _find_results_edits)
    return body


def _find_results_edits(body: bytes) -> list[Edit]:
    batches = [each for each in json_spans.find_listed(body, "data") if body[each.value] == ord("{")]
    objects = [json_spans.find_members(body)]
    objects += (json_spans.find_members(body, each.value, each.end) for each in batches)
    edits: list[Edit] = []
    for members in objects:
        texts = {each.key: each for each in members if body[each.value] == _QUOTE}
        name = texts.get("id")
        batch_id = "" if name is None else msgspec.json.decode(body[name.value : name.end], type=str)
        if "results_url" in texts and _RESOURCE_ID.fullmatch(batch_id):
            path = b'"/v1/messages/batches/%b/results"' % batch_id.encode()
            edits.append(Edit(texts["results_url"].value, texts["results_url"].end, path))
    return edits
