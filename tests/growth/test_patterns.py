"""The regular expressions of the package take time in proportion to a text, or read only its beginning."""

import time

import pytest

from anthropic_proxy.engine.patterns import LaterPattern, compile_anchored, compile_later
from tests.growth.patterns import MORE_SIZES, SIZES, find_all_growth, find_growth


@pytest.mark.parametrize("sizes", [SIZES, pytest.param(MORE_SIZES, marks=pytest.mark.slow)])
def test_each_pattern_takes_time_in_proportion_to_its_text(sizes: tuple[int, ...]) -> None:
    assert find_all_growth(sizes) == {}


@pytest.mark.parametrize(
    "form", [r"(a+)+$", r"\s*x?\s*\.", r"a longer stem\s*x?\s*\.", r"(?:[a-z]\w*\.)+[A-Z]", r"'(?:[^'\\]|\\.)*'"]
)
def test_a_steep_pattern_is_found(form: str) -> None:
    assert find_growth(LaterPattern(form, 0, 0, is_anchored=False), MORE_SIZES)


class SlowingClock:
    """The processor time of a machine that becomes slower when the clock has been read for some times."""

    def __init__(self, reads: int) -> None:
        self._reads = reads
        self._before = time.thread_time()
        self._sum = 0.0

    def __call__(self) -> float:
        now = time.thread_time()
        self._reads -= 1
        self._sum += (now - self._before) * (4.0 if self._reads < 0 else 1.0)
        self._before = now
        return self._sum


@pytest.mark.parametrize("reads", [0, 12, *range(20, 40, 2), 100])
def test_a_machine_that_becomes_slower_is_no_growth(reads: int) -> None:
    """The clock is read ten times for the unit, and twice for each text."""
    plain = LaterPattern(r"<(?:[a-z]<)*", 0, 0, is_anchored=False)
    assert find_growth(plain, MORE_SIZES, SlowingClock(reads)) == ""
    assert find_growth(LaterPattern(r"\s*x?\s*\.", 0, 0, is_anchored=False), SIZES, SlowingClock(reads))


@pytest.mark.parametrize("form", [r"\s*</function>", r"\s*export\s"])
def test_a_pattern_is_measured_as_it_is_read(form: str) -> None:
    assert find_growth(LaterPattern(form, 0, 0, is_anchored=True), MORE_SIZES) == ""
    assert find_growth(LaterPattern(form, 0, 0, is_anchored=False), MORE_SIZES)


def test_an_anchored_pattern_cannot_be_searched() -> None:
    anchored = compile_anchored(r"\s*x", most=4)
    assert anchored.match("a x", 1) is not None
    assert anchored.fullmatch("   x") is not None
    assert anchored.fullmatch("    x") is None
    with pytest.raises(AttributeError, match=r"^An anchored pattern has no method search; make it by compile_later\.$"):
        anchored.search("a x")  # type: ignore[attr-defined]


def test_a_pattern_with_a_bound_reads_the_beginning() -> None:
    bounded = compile_later(r"b+", most=4)
    assert bounded.search("aaabb") is not None
    assert bounded.search("aaaabb") is None
    assert bounded.match("bbbbbb")[0] == "bbbb"  # type: ignore[index]
    assert bounded.fullmatch("bbbb") is not None
    assert bounded.fullmatch("bbbbb") is None
    assert bounded.sub("-", "abababab") == "a-a-abab"
    assert bounded.findall("babbabb") == ["b", "bb"]
