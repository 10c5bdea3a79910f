"""Requests at servers that refuse a part of them in unknown words, or in words that name another field."""

import asyncio
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

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


_OPPOSITES = {"key_a": "temperature", "key_b": "stream_options"}
_ABUSE: Mapping[str, Callable[[Random, str, Any], bool]] = {
    "at random": lambda chosen, key, body: chosen.random() < 0.5,
    "seldom at random": lambda chosen, key, body: chosen.random() < 0.1,
    "for one key": lambda chosen, key, body: key == "key_a",
    "for one key at random": lambda chosen, key, body: key == "key_a" and chosen.random() < 0.7,
    "opposite for two keys": lambda chosen, key, body: _OPPOSITES.get(key, "no such field") in body,
    "a flood by one key": lambda chosen, key, body: key == "key_a",
}


@pytest.mark.parametrize("name", _ABUSE)
@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 40), marks=pytest.mark.merge)], ids=str)
def test_refusals_without_a_part_as_reason_teach_nothing_for_others_and_rates_hold(name: str, seeds: range) -> None:
    for seed in seeds:
        asyncio.run(_abuse(_ABUSE[name], Random(f"{name} {seed}"), flood=10 if name == "a flood by one key" else 1))


async def _abuse(refuses: Callable[[Random, str, Any], bool], chosen: Random, *, flood: int) -> None:
    """`flood`: number of requests of the first key for each one of the others."""
    vendor = VENDORS["chat"]
    key = ""
    server = Server(lambda body: refuses(chosen, key, body))
    proxy = ProxyHarness(server, **vendor.settings)
    counts = dict[str, int]()
    for number in range(30):
        for place, key in enumerate((*["key_a"] * flood, "key_b", "key_c")):
            before = len(server.requests)
            await post(proxy, vendor, f"hello {number} {place}", key)
            counts[key] = counts.get(key, 0) + len(server.requests) - before
    for key, count in counts.items():
        sent = 30 * flood if key == "key_a" else 30
        assert count <= sent + REPAIRS.saved + 60 * REPAIRS.per_second
    usual = Server(lambda body: False)
    await post(ProxyHarness(usual, **vendor.settings), vendor, "other")
    server.refuses = lambda body: False
    server.requests.clear()
    await post(proxy, vendor, "other", "key_other")
    assert server.requests == usual.requests
