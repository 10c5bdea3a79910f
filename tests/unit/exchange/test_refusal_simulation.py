"""Requests at servers that refuse a part of them in unknown words, or in words that name another field."""

import pytest

from tests.support.refusals import WIRES, Figures, run_seed


@pytest.mark.parametrize("seeds", [range(5), pytest.param(range(5, 100), marks=pytest.mark.merge)], ids=str)
@pytest.mark.parametrize("wire", WIRES)
def test_what_may_be_left_out_is_found_and_nothing_else_is_left_out(wire: str, seeds: range) -> None:
    figures = Figures()
    for seed in seeds:
        figures.add(run_seed(wire, seed))
    assert figures.notes == []
    assert figures.repairable > 0
    assert max(figures.further_calls) <= 8
