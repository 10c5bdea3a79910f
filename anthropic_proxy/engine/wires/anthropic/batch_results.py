"""`BatchResults`: what the results of a batch state about tokens, while they are forwarded.

The results are lines of JSON, one for each request of the batch, in any order. A batch can have 100,000 requests, so
their tokens are added up by model, region and tier.
"""

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.messages.deltas import BilledUsage, Iteration
from anthropic_proxy.engine.messages.models.raw_json import ABSENT
from anthropic_proxy.engine.wires.anthropic.stream import MAX_ITERATIONS, read_usage
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is forwarded, but its tokens do not count."""
BATCH_TIER = "batch"
"""Service tier of a result that states none."""
_LONG_TOKENS = 200_000
"""Input tokens above which a model may have another price ("Pricing", "Long context", read 2026-11). Such calls are
added up apart from the others."""
_MAX_GROUPS = 20


class _Message(Struct):
    model: str = ""
    usage: Raw = ABSENT


class _Result(Struct):
    message: _Message | None = None


class _Line(Struct):
    result: _Result | None = None


_decode_line = msgspec.json.Decoder(_Line).decode


class BatchUsage(BilledUsage):
    """The tokens of the requests in one region and tier."""

    model: str = ""
    """Model of the first request, as the provider calls it."""
    requests: int = 0


class BatchResults:
    def __init__(self) -> None:
        self._pending = bytearray()
        self._is_too_long = False
        self._groups = dict[tuple[str, str], BatchUsage]()
        self._calls = dict[tuple[str, str], dict[tuple[str, str, bool], Iteration]]()

    @property
    def pending_bytes(self) -> int:
        return len(self._pending)

    def feed(self, piece: bytes) -> None:
        """Read the next bytes of the results."""
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._add_pending(line)
            if not self._is_too_long:
                self._read_line(bytes(self._pending))
            self._pending.clear()
            self._is_too_long = False
        self._add_pending(rest)

    def finish(self) -> list[BatchUsage]:
        """Return the usage of each region and tier, after the last byte."""
        self.feed(b"\n")
        for key, group in self._groups.items():
            group.iterations = (*self._calls[key].values(),)
        return [*self._groups.values()]

    def _add_pending(self, part: bytes) -> None:
        self._is_too_long = self._is_too_long or len(self._pending) + len(part) > MAX_LINE_BYTES
        if not self._is_too_long:
            self._pending += part

    def _read_line(self, line: bytes) -> None:
        try:
            read = _decode_line(line)
        except DECODE_ERRORS:
            return  # an empty line, or one of a form that no client can read
        message = None if read.result is None else read.result.message
        usage = None if message is None else read_usage(message.usage)
        if message is None or usage is None:
            return  # a request that failed, was cancelled or has expired
        billed = BilledUsage()
        billed.set_usage(usage)
        key = (billed.region, billed.service_tier or BATCH_TIER)
        if key not in self._groups and len(self._groups) >= _MAX_GROUPS:
            key = next(iter(self._groups))
        group = self._groups.setdefault(key, BatchUsage(region=key[0], service_tier=key[1], model=message.model))
        group.requests += 1
        group.billed_searches += billed.billed_searches
        group.add_tokens(billed)
        rest = billed.count_without_iterations()
        calls = self._calls.setdefault(key, {})
        for call in (Iteration(**structs.asdict(rest), kind="message"), *billed.iterations):
            if call.all_tokens:
                _add_call(calls, structs.replace(call, model=call.model or message.model))


def _add_call(calls: dict[tuple[str, str, bool], Iteration], call: Iteration) -> None:
    key = (call.kind, call.model, call.all_input_tokens > _LONG_TOKENS)
    before = calls.get(key)
    if before is None and len(calls) >= MAX_ITERATIONS:
        before = next(iter(calls.values()))
    if before is None:
        calls[key] = call
    else:
        before.add_call(call)
