"""What the ledger adds up over requests: `UsageSums`, and histograms of durations.

The columns of the tables of sums, and of exports, come from the fields of `UsageSums`.

A histogram counts durations in numbered buckets, whose limits grow by 10 % from one to the next. Histograms of several
hours can be added up, which percentiles cannot. The error of a percentile is at most 5 %.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, log
from sys import byteorder
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

TOKEN_COUNTS = (
    *("input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    *("output_tokens", "thinking_tokens"),
)
TOOL_COUNTS = ("tool_results", "tool_errors", "malformed_replies")


class UsageSums(Struct):
    """Numbers of requests and tokens, and costs, summed over several requests.

    Costs are in nano-dollars (10⁻⁹ US dollars). A cost includes only requests with a known price.
    """

    requests: int = 0
    errors: int = 0
    cancelled: int = 0
    """Number of requests that ended early, because the client disconnected. They have neither succeeded nor failed."""
    input_tokens: int = 0
    """Number of input tokens that were neither read from nor written to a cache."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    """Number of tokens among the cache writes that the provider keeps for one hour, at a higher price."""
    output_tokens: int = 0
    thinking_tokens: int = 0
    tool_results: int = 0
    """Number of results of client tools that requests with a reply returned to the model."""
    tool_errors: int = 0
    """Number of these results with `is_error`: the tool failed."""
    malformed_replies: int = 0
    """Number of replies with a malformed tool call: an unknown name, or arguments that are no JSON object.

    They are counted only if the proxy repairs the tool calls of the server.
    """
    cost: int = 0
    unknown_cost_requests: int = 0
    """Number of requests to models without a known price. Their costs are missing in `cost`."""
    requested_cost: int = 0
    """Cost in nano-dollars of the same tokens at the prices of the models that the clients requested."""
    unknown_requested_cost_requests: int = 0

    @property
    def all_input_tokens(self) -> int:
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    @property
    def all_tokens(self) -> int:
        return self.all_input_tokens + self.output_tokens

    @property
    def cached_input_share(self) -> float | None:
        """0 to 1. None: there are none."""
        return self.cache_read_tokens / self.all_input_tokens if self.all_input_tokens else None

    @property
    def tool_error_share(self) -> float | None:
        """0 to 1. None: there are none."""
        return self.tool_errors / self.tool_results if self.tool_results else None

    @property
    def succeeded(self) -> int:
        return self.requests - self.errors - self.cancelled

    @property
    def known_cost(self) -> int | None:
        """Cost in nano-dollars of the requests with a known price. None: the cost is 0, but some prices are unknown."""
        return known_cost_or_none(self.cost, self.unknown_cost_requests)


SUM_NAMES: Sequence[str] = UsageSums.__struct_fields__
KeyT = TypeVar("KeyT")


def add_up(sums: Iterable[UsageSums]) -> UsageSums:
    return UsageSums(*map(sum, zip(*map(astuple, sums), strict=True)))


def add_up_groups(groups: Iterable[tuple[KeyT, UsageSums]]) -> dict[KeyT, UsageSums]:
    found: dict[KeyT, list[UsageSums]] = {}
    for key, sums in groups:
        found.setdefault(key, []).append(sums)
    return {key: add_up(several) for key, several in found.items()}


def known_cost_or_none(cost: int, unknown_requests: int) -> int | None:
    """Return `cost` in nano-dollars, or None if it is 0 and some requests (`unknown_requests`) have no known price."""
    return None if unknown_requests and not cost else cost


MIN_MICROSECONDS = 1_000
"""Upper limit of the first bucket: one millisecond."""
MAX_BUCKET = 140
"""Number of the last bucket. It contains all durations above 600 seconds."""
_GROWTH = 1.1
_LOG_GROWTH = log(_GROWTH)
_SHORT_MAPS = bytes(range(0x80, 0x90))
"""First bytes of MessagePack maps with at most 15 entries."""
_LONG_MAP, _LENGTH_BYTES = b"\xde", 2
"""First byte of a longer MessagePack map, and length of the number of its entries, which follows."""

Histogram = dict[int, int]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Histogram).decode


def find_bucket(microseconds: int) -> int:
    if microseconds <= MIN_MICROSECONDS:
        return 0
    return min(ceil(log(microseconds / MIN_MICROSECONDS) / _LOG_GROWTH), MAX_BUCKET)


def count_buckets(durations: Iterable[int]) -> Histogram:
    found: Histogram = {}
    for bucket in map(find_bucket, durations):
        found[bucket] = found.get(bucket, 0) + 1
    return found


def encode_histogram(histogram: Mapping[int, int]) -> bytes:
    return _encode(histogram)


def decode_histogram(data: bytes) -> Histogram:
    return _decode(data)


def add_histogram(total: Histogram, added: Mapping[int, int]) -> None:
    for bucket, count in added.items():
        total[bucket] = total.get(bucket, 0) + count


def sum_encoded_histograms(encoded: str) -> Histogram:
    """The text contains the bytes of each histogram (see `encode_histogram`) as hexadecimal digits. A space separates
    two histograms.
    """
    # MessagePack stores each pair of bucket and count in two bytes if all numbers are below 128. Such pairs are counted
    # without decoding, in a tenth of the time.
    total: Histogram = {}
    first, *long = bytes.fromhex(encoded).split(_LONG_MAP)
    pairs = b"".join((first, *(one[_LENGTH_BYTES:] for one in long))).translate(None, _SHORT_MAPS)
    if not pairs.isascii():  # some numbers need several bytes
        short: list[bytes] = []
        for data in map(bytes.fromhex, encoded.split()):
            own = data[1 + _LENGTH_BYTES :] if data.startswith(_LONG_MAP) else data[1:]
            if own.isascii():
                short.append(own)
            else:
                add_histogram(total, _decode(data))
        pairs = b"".join(short)
    for pair, times in Counter(memoryview(pairs).cast("H")).items():
        bucket, count = pair.to_bytes(2, byteorder)
        total[bucket] = total.get(bucket, 0) + count * times
    return total


def find_percentile(histogram: Mapping[int, int], share: float) -> int | None:
    """Microseconds. `share`: 0 to 1. None: the histogram is empty."""
    remaining = share * sum(histogram.values())
    for bucket in sorted(histogram):
        remaining -= histogram[bucket]
        if remaining <= 0:
            return MIN_MICROSECONDS if bucket == 0 else round(MIN_MICROSECONDS * _GROWTH ** (bucket - 0.5))
    return None
