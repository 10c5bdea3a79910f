"""The regular expressions of the package take time in proportion to a text, or read only its beginning."""

import pytest

from anthropic_proxy.engine.patterns import LaterPattern, compile_later
from tests.growth.patterns import MORE_SIZES, SIZES, find_all_growth, find_growth


@pytest.mark.parametrize("sizes", [SIZES, pytest.param(MORE_SIZES, marks=pytest.mark.slow)])
def test_each_pattern_takes_time_in_proportion_to_its_text(sizes: tuple[int, ...]) -> None:
    assert find_all_growth(sizes) == {}


@pytest.mark.parametrize("form", [r"(a+)+$", r"\s*x?\s*\.", r"(?:[a-z]\w*\.)+[A-Z]", r"'(?:[^'\\]|\\.)*'"])
def test_a_steep_pattern_is_found(form: str) -> None:
    assert find_growth(LaterPattern(form, 0, 0), frozenset(("search",)), MORE_SIZES)


def test_a_pattern_with_a_bound_reads_the_beginning() -> None:
    bounded = compile_later(r"b+", most=4)
    assert bounded.search("aaabb") is not None
    assert bounded.search("aaaabb") is None
    assert bounded.match("bbbbbb")[0] == "bbbb"  # type: ignore[index]
    assert bounded.fullmatch("bbbb") is not None
    assert bounded.fullmatch("bbbbb") is None
    assert bounded.sub("-", "abababab") == "a-a-abab"
    assert bounded.findall("babbabb") == ["b", "bb"]
