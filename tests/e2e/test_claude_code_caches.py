"""Prompt caches in a session of the real Claude Code that loads tools three times."""

from pathlib import Path

import pytest

from tests.e2e.cache_sessions import documented_figures, figures_of, measure, run_session
from tests.support.cache_sessions import RELAYS, ROWS, Row


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_ten_turns_with_three_loads_stay_in_the_cache(row: Row, tmp_path: Path) -> None:
    """If only the last lines fail: `python -m tests.e2e.cache_sessions --write`."""
    listed, placed = measure(row, tmp_path)
    assert placed.cached_share >= 0.95
    assert placed.read_again < listed.read_again / 2
    if row.price:
        assert placed.dollars(row.price) < listed.dollars(row.price)
    measured, documented = figures_of(row, listed, placed), documented_figures()[row.title]
    tokens, *shares = measured[:3]
    assert tokens == pytest.approx(documented[0], rel=0.01)
    assert shares == pytest.approx(documented[1:3], abs=0.2)
    assert measured[3:] == pytest.approx(documented[3:], rel=0.05, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("row", RELAYS, ids=lambda row: row.title)
def test_ten_turns_with_three_loads_stay_in_the_cache_of_claude(row: Row, tmp_path: Path) -> None:
    placed = run_session(row, tmp_path)
    assert placed.cached_share >= 0.95
    tokens, share, read_again, dollars = figures_of(row, None, placed)
    documented = documented_figures()[row.title]
    assert tokens == pytest.approx(documented[0], rel=0.01)
    assert share == pytest.approx(documented[1], abs=0.2)
    assert [read_again, dollars] == pytest.approx(documented[2:], rel=0.05, abs=0.01)
