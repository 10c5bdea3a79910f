"""Headers and body fields that a table `[providers.NAME]` adds to the calls to its provider.

Order for headers: the API of the provider, then the table, then the API key. For the body: the request, then the table.
"""

from collections.abc import Mapping

import msgspec
from msgspec import structs

from anthropic_proxy.engine.options import CallOptions
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.batches import find_params
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.bound_requests import BoundRequest, Transport
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest, UpstreamResponse
from anthropic_proxy.secrets import Secret


def extend_request(
    options: CallOptions,
    request: UpstreamRequest,
    *,
    client_headers: Mapping[str, str] | None = None,
    with_body: bool = False,
) -> UpstreamRequest:
    """Return the request with the headers of `options`, and with its body fields if `with_body` is True.

    `client_headers`: headers of the client request, names in lower case. None: no client request causes the call.
    """
    headers = {**request.headers, **options.headers}
    for name, secret in options.secret_headers.items():
        headers[name] = secret.reveal()
    if client_headers is not None:
        for name, source in options.copied_headers.items():
            value = client_headers.get(source)
            if value is not None and value.isascii() and value.isprintable():  # else no header can contain it
                headers[name] = value
    body = merge_body(request.body, options.body) if with_body and options.body else request.body
    return structs.replace(request, headers=headers, body=body)


def extend_transport(send: Transport, options: CallOptions | None) -> Transport:
    """Return a transport for calls that no client request causes, such as the query for a list of models."""
    if options is None:
        return send

    async def send_extended(bound: BoundRequest) -> UpstreamResponse:
        return await send(structs.replace(bound, request=extend_request(options, bound.request)))

    return send_extended


def merge_body(body: bytes, fields: Mapping[str, object]) -> bytes:
    """Return the JSON object `body` with other `fields`. Tables are merged, unless their `type` differs; other values
    are replaced.

    All other bytes stay as they are. Raises `InvalidRequest` for a body that is no JSON object.
    """
    return json_spans.edit(body, lambda text: _find_merge_edits(text, 0, len(text), fields))


def merge_batch(body: bytes, fields: Mapping[str, object]) -> bytes:
    """Return the body that creates a batch, with other `fields` in each of its requests. See `merge_body`."""

    def find_edits(text: bytes) -> list[Edit]:
        return [
            edit
            for _, _, params in find_params(text)
            for edit in _find_merge_edits(text, params.value, params.end, fields)
        ]

    return json_spans.edit(body, find_edits)


def _find_merge_edits(text: bytes, start: int, end: int, fields: Mapping[str, object]) -> list[Edit]:
    members = json_spans.find_members(text, start, end)
    edits: list[Edit] = []
    for member in members:
        if member.key not in fields:
            continue
        value = fields[member.key]
        is_object = text[member.value] == ord("{")
        if isinstance(value, Mapping) and is_object and not _has_other_type(text, member, value):
            edits += _find_merge_edits(text, member.value, member.end, value)
        else:
            edits.append(Edit(member.value, member.end, _encode(value)))
    present = {member.key for member in members}
    added = [_encode(name) + b":" + _encode(value) for name, value in fields.items() if name not in present]
    if added:
        place = members[-1].end if members else text.index(b"{", start) + 1
        edits.append(Edit(place, place, b",".join((*([b""] if members else []), *added))))
    return edits


def _has_other_type(text: bytes, member: JsonSpan, fields: Mapping[str, object]) -> bool:
    """Return True if both objects have a `type`, and not the same: fields of one type are invalid in another."""
    for inner in json_spans.find_members(text, member.value, member.end) if "type" in fields else ():
        if inner.key == "type":
            return text[inner.value : inner.end] != _encode(fields["type"])
    return False


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=Secret.reveal)
