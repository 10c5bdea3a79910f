"""Requests at servers that refuse a part of them in unknown words, or in words that name another field."""

import asyncio
from collections.abc import Callable, Mapping
from random import Random

import pytest

from anthropic_proxy.engine.routing.health import REPAIRS
from tests.support.harness import ProxyHarness
from tests.support.refusals import WIRES, Figures, run_seed
from tests.unit.exchange.test_plain_form import VENDORS, Server, post


@pytest.mark.parametrize("seeds", [range(5), pytest.param(range(5, 100), marks=pytest.mark.merge)], ids=str)
@pytest.mark.parametrize("wire", WIRES)
def test_what_may_be_left_out_is_found_and_nothing_else_is_left_out(wire: str, seeds: range) -> None:
    figures = Figures()
    for seed in seeds:
        figures.add(run_seed(wire, seed))
    assert (figures.notes, figures.by_words, figures.lost_content) == ([], 0, 0)
    assert figures.repairable > 0
    assert max(figures.further_calls) <= 12  # two parts that are refused only together take most


_ABUSE: Mapping[str, Callable[[Random, str], bool]] = {
    "at random": lambda chosen, key: chosen.random() < 0.5,
    "seldom at random": lambda chosen, key: chosen.random() < 0.1,
    "for one key": lambda chosen, key: key == "key_a",
    "for one key at random": lambda chosen, key: key == "key_a" and chosen.random() < 0.7,
}


@pytest.mark.parametrize("name", _ABUSE)
@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 40), marks=pytest.mark.merge)], ids=str)
def test_refusals_without_a_part_as_reason_teach_nothing_for_others_and_rates_hold(name: str, seeds: range) -> None:
    for seed in seeds:
        asyncio.run(_abuse(_ABUSE[name], Random(f"{name} {seed}")))


async def _abuse(refuses: Callable[[Random, str], bool], chosen: Random) -> None:
    vendor = VENDORS["chat"]
    key = ""
    server = Server(lambda body: refuses(chosen, key))
    proxy = ProxyHarness(server, **vendor.settings)
    counts = dict[str, int]()
    for number in range(30):
        for key in ("key_a", "key_b", "key_c"):
            before = len(server.requests)
            await post(proxy, vendor, f"hello {number}", key)
            counts[key] = counts.get(key, 0) + len(server.requests) - before
    assert max(counts.values()) <= 30 + REPAIRS.saved + 60 * REPAIRS.per_second
    usual = Server(lambda body: False)
    await post(ProxyHarness(usual, **vendor.settings), vendor, "other")
    server.refuses = lambda body: False
    server.requests.clear()
    await post(proxy, vendor, "other", "key_other")
    assert server.requests == usual.requests
