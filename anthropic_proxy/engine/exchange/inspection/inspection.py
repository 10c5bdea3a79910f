"""`Inspection`: one client request and its reply, as the inspectors leave them.

The request is inspected once, as bytes of the client, before anything else sends its texts: the redacted body replaces
the client's, so that relays, translations, further targets, checks of tool calls and records have no other. Each
inspector gets what the one before it left. In the reply, the inspectors read what the provider sent. After them,
placeholders become texts again, but only those of this request.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Raw, structs

from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.final_calls import FinalCall
from anthropic_proxy.engine.exchange.inspection.inspectors import InspectorCalls
from anthropic_proxy.engine.exchange.inspection.relayed import InspectedRelay
from anthropic_proxy.engine.exchange.inspection.reply import InspectedStream
from anthropic_proxy.engine.exchange.inspection.texts import (
    BYTES_OF_TEXT,
    MAX_TEXTS,
    find_few_texts,
    find_texts_of_batch,
    find_texts_of_request,
    find_texts_of_whole_block,
    read_arguments,
    read_body,
)
from anthropic_proxy.engine.exchange.relay import RelayStream
from anthropic_proxy.engine.exchange.relayed_calls import RelayedCalls
from anthropic_proxy.engine.exchange.upstream_stream import DeltaStream
from anthropic_proxy.engine.memory_plan import BODY_FACTOR
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.errors import PolicyBlocked

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.edited_relay import EditedRelay

_MAX_SEARCHED_BYTES = 100_000_000
"""Bytes of a piece of a reply in which values are searched, times the number of values: 30 ms of the event loop. The
same for all pieces together, but there the first `_FREE_VALUES` do not count: their search costs each byte as much."""
_FREE_VALUES = 100
_BYTES_OF_A_SEARCH = 500
"""Bytes that could be searched in the time that each search takes besides."""
_NOT_RECORDED = b": the rest is not recorded, because the reply has too many restored values\n\n"
"""Comment in a stream."""


class Inspection(InspectorCalls):
    _searches = 0
    """Bytes searched so far, times the values beyond `_FREE_VALUES`."""
    _hides_all = False
    """True if the limit is exceeded."""

    async def inspect_body(self, incoming: ClientRequest, *, is_batch: bool = False) -> bytes:
        """Return the body of a request, or of a batch of requests, with the redactions.

        Raises `InvalidRequest` if an inspector refuses it, if it is not JSON or has too many texts,
        `InspectorUnavailable` if one has failed, and `ProxyBusy` without memory for the texts.
        """
        body = incoming.body
        most = min(body.count(b'"') // 2, MAX_TEXTS)
        await incoming.count_made("texts", most * BYTES_OF_TEXT // BODY_FACTOR - len(body))
        find = partial(find_texts_of_batch if is_batch else find_texts_of_request, describes_tools=self.describes_tools)
        run = incoming.background.run_in_thread_if_large
        is_large = len(body) > MAX_REPLY_BYTES_ON_LOOP  # its texts are read one by one
        found = await run(is_large, read_body, body, partial(find_few_texts, find))
        await self.inspect_request(found.texts)
        return await run(is_large, found.encode)

    async def hide_texts(self, calls: Sequence[FinalCall]) -> list[FinalCall]:
        """Return calls whose shown form has nothing that the inspectors of requests redact.

        Raises like `inspect_request`.
        """
        found = [read_arguments(call.shown, call.name) for call in calls]
        await self.inspect_request([text for arguments in found for text in arguments.texts])
        return [
            structs.replace(call, shown=arguments.encode().decode(), hidden={**call.hidden, **self.values})
            for call, arguments in zip(calls, found, strict=True)
        ]

    async def inspect_result(self, result: Raw) -> Raw | None:
        """Return the result of a tool that the proxy has run, as the model may get it. None: an inspector refuses it.

        Others write the texts of results. So a refused one is a failed tool, and ends no reply. Raises
        `InspectorUnavailable` and `WorkerBusy`, which are failures of the request.
        """
        found = read_body(bytes(result), find_texts_of_whole_block)
        try:
            await self.inspect_request(found.texts, is_added=True)
        except PolicyBlocked:
            return None
        return Raw(found.encode())

    def open_reply(self, reply: DeltaStream, *, hides_thinking: bool) -> DeltaStream:
        """`hides_thinking`: the client does not get the thinking."""
        may_redact_more = not reply.has_one_call  # in results of tools
        if not (self.changes_replies or may_redact_more):
            return reply
        return InspectedStream(reply, self, hides_thinking=hides_thinking)

    def open_relay(self, relay: "RelayStream | EditedRelay", calls: RelayedCalls, *, streams: bool) -> InspectedRelay:
        return InspectedRelay(relay, self, calls, streams=streams)

    def hide_values(self, data: bytes) -> bytes:
        """Return a piece of the response with placeholders in place of the values that the client gets.

        A value is never divided between two events, and an event is never divided between two pieces. If the reply has
        so many values that the search for them would hold the event loop, a comment takes the place of the rest of a
        stream, and b"" that of another reply.
        """
        if self._hides_all:
            return b""
        values, size = len(self.spellings), len(data) + _BYTES_OF_A_SEARCH
        self._searches += max(values - _FREE_VALUES, 0) * size
        if max(values * size, self._searches) > _MAX_SEARCHED_BYTES:
            self._hides_all = True
            return _NOT_RECORDED if data.endswith(b"\n\n") else b""
        for *spellings, placeholder in self.spellings:
            for spelled in spellings:
                data = data.replace(spelled, placeholder)
        return data
