"""`list_sent_parts`: the parts of an upstream request that may be left out, or sent in a plainer form.

Each wire lists its parts (`Wire.parts`) by the names of adaptations. What a request depends on is never one: tools,
their results, system text, `max_tokens`, stop sequences, `tool_choice`, and each field that restricts what the server
does with the request, such as `store` and the service tier.
"""

from contextlib import suppress
from operator import attrgetter
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.wires.calls import Call
from anthropic_proxy.engine.wires.contract import Wire
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import UnsupportedFeature


def list_sent_parts(
    wire: Wire[BaseDialect, Any], call: Call[BaseDialect], *, lossless_only: bool = False
) -> tuple[str, ...]:
    """Return the names of the parts of its wire that a request has: without each, another request would be sent.

    Those behind the beginning of the prompt come first.
    """
    sent = wire.encode_request(call)
    parts = [part for part in wire.parts if part.is_lossless or not lossless_only]
    parts.sort(key=attrgetter("changes_prefix"))
    return tuple(part.name for part in parts if _changes_request(wire, call, part.name, sent))


def _changes_request(wire: Wire[BaseDialect, Any], call: Call[BaseDialect], name: str, sent: UpstreamRequest) -> bool:
    dialect = wire.apply_adaptation(call.dialect, name)
    if dialect == call.dialect:
        return False
    with suppress(UnsupportedFeature):  # the request depends on this part
        changed = wire.encode_request(structs.replace(call, dialect=dialect))
        return (changed.body, changed.headers) != (sent.body, sent.headers)
    return False
