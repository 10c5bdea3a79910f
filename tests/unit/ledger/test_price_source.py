"""The price list of a data directory: one object in each process, which all threads share."""

from collections.abc import Callable
from pathlib import Path

from anthropic_proxy.ledger.price_updates import PriceSource, find_price_source
from tests.support.interleaving import interleave


def test_two_threads_find_the_same_price_list_at_the_first_call(tmp_path: Path) -> None:
    def build() -> tuple[Callable[[], PriceSource], Callable[[], None]]:
        directory = tmp_path / str(len(others))
        return lambda: find_price_source(directory), lambda: others.append(find_price_source(directory))

    others: list[PriceSource] = []
    found = interleave(build)
    assert len(found) > 10
    assert [id(source) for source in found] == [id(source) for source in others]
