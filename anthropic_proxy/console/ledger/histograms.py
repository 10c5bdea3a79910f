"""Histograms: numbers of durations in buckets, whose limits grow by 10 % from one to the next.

Histograms of several hours can be added up, which percentiles cannot. The error of a percentile is at most 5 %.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from sys import byteorder

import msgspec

MIN_MICROSECONDS = 1_000
"""Upper limit of the first bucket: one millisecond."""
MAX_BUCKET = 140
"""Number of the last bucket. It contains all durations above 600 seconds."""
_GROWTH = 1.1
_LIMITS = [int(MIN_MICROSECONDS * _GROWTH**bucket) for bucket in range(MAX_BUCKET)]
"""Upper limit in microseconds of each bucket but the last."""
_SHORT_MAPS = bytes(range(0x80, 0x90))
"""First bytes of MessagePack maps with at most 15 entries."""
_LONG_MAP = b"\xde"
"""First byte of a longer MessagePack map."""
_LENGTH_BYTES = 2
"""Length of the number of its entries, which follows."""

Histogram = dict[int, int]
encode_histogram = msgspec.msgpack.Encoder().encode
decode_histogram = msgspec.msgpack.Decoder(Histogram).decode
_find_bucket = partial(bisect_left, _LIMITS)


def count_buckets(durations: Iterable[int]) -> Histogram:
    """`durations`: microseconds."""
    return Counter(map(_find_bucket, durations))


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
    pairs = b"".join((first, *(part[_LENGTH_BYTES:] for part in long))).translate(None, _SHORT_MAPS)
    if not pairs.isascii():  # some numbers need several bytes
        short: list[bytes] = []
        for data in map(bytes.fromhex, encoded.split()):
            content = data[1 + _LENGTH_BYTES :] if data.startswith(_LONG_MAP) else data[1:]
            if content.isascii():
                short.append(content)
            else:
                add_histogram(total, decode_histogram(data))
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
