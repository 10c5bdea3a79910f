"""Headers and body fields that a table `[providers.NAME]` adds to the calls to its provider.

Order for headers: the API of the provider, then the table, then the API key. For the body: the request, then the table.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, structs

from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.options import CallOptions
from anthropic_proxy.engine.wires.contract import Credential, Transport, UpstreamRequest, UpstreamResponse
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

    async def send_extended(base_url: str, request: UpstreamRequest, credential: Credential | None) -> UpstreamResponse:
        return await send(base_url, extend_request(options, request), credential)

    return send_extended


def merge_body(body: bytes, fields: Mapping[str, object]) -> bytes:
    """Return the JSON object `body` with other `fields`. Tables are merged, other values replaced.

    Fields of the body that `fields` does not name keep their bytes. A body that is no object is returned unchanged:
    the relay leaves it to the provider to reject it.
    """
    try:
        merged = decode_json(body, dict[str, Raw])
    except InvalidJson:
        return body
    for name, value in fields.items():
        present = merged.get(name)
        if isinstance(value, Mapping) and present is not None and bytes(present).startswith(b"{"):
            merged[name] = _encode(_merge(decode_json(bytes(present)), value))
        else:
            merged[name] = _encode(value)
    return msgspec.json.encode(merged)


def _encode(value: object) -> Raw:
    return Raw(msgspec.json.encode(value, enc_hook=Secret.reveal))


def _merge(present: dict[str, Any], fields: Mapping[str, object]) -> dict[str, Any]:
    for name, value in fields.items():
        inner = present.get(name)
        is_nested = isinstance(inner, dict) and isinstance(value, Mapping)
        present[name] = _merge(inner, value) if is_nested else value  # type: ignore[arg-type]
    return present
