"""Sums of usage: histograms, of which the sum of encoded ones equals the sum of the decoded ones."""

from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.console.ledger.sums import MAX_BUCKET, encode_histogram, sum_encoded_histograms

_HISTOGRAMS = st.dictionaries(st.integers(0, MAX_BUCKET), st.integers(1, 300) | st.integers(1, 2**40), max_size=40)


@given(histograms=st.lists(_HISTOGRAMS, max_size=8))
def test_the_sum_has_the_counts_of_all_histograms(histograms: list[dict[int, int]]) -> None:
    buckets = {bucket for one in histograms for bucket in one}
    expected = {bucket: sum(one.get(bucket, 0) for one in histograms) for bucket in buckets}
    assert sum_encoded_histograms(" ".join(encode_histogram(one).hex() for one in histograms)) == expected
