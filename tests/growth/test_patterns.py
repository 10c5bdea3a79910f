"""The regular expressions of the package take steps in proportion to a text, or read only its beginning."""

import pytest

from anthropic_proxy.engine.patterns import LaterPattern, compile_anchored, compile_later, list_patterns
from tests.growth.backtracking import Matcher
from tests.growth.patterns import find_all_growth, find_growth, import_all, make_texts, repeat


def test_each_pattern_takes_steps_in_proportion_to_its_text() -> None:
    assert find_all_growth() == {}


@pytest.mark.parametrize(
    ("form", "defect"),
    [
        (r"(a+)+$", "the steps for ('', 'a', '\\x00') have no end"),
        (r"\s*x?\s*\.", "the steps for (' ', ' ', '') have no end"),
        (r"a longer stem\s*x?\s*\.", "the steps for ('a longer stem', ' ', '') grow 4.0 times"),
        (r"(?:[a-z]\w*\.)+[A-Z]", "the steps for ('a', 'aa.', '') grow 4.0 times"),
        (r"'(?:[^'\\]|\\.)*'", """the steps for ('', "'\\\\", '') grow 4.0 times"""),
    ],
)
def test_a_steep_pattern_is_found(form: str, defect: str) -> None:
    assert find_growth(LaterPattern(form, 0, 0, is_anchored=False)) == defect


def test_a_part_with_a_bound_may_be_tried_at_each_character() -> None:
    assert find_growth(LaterPattern(r"a[^b]{0,200}b", 0, 0, is_anchored=False)) == ""
    assert find_growth(LaterPattern(r"a[^b]*b", 0, 4_000, is_anchored=False)) == ""
    assert find_growth(LaterPattern(r"a[^b]*b", 0, 4_001, is_anchored=False)) == (
        "a bound of 4001 characters is too high"
    )


def test_steps_are_counted_for_what_re_finds() -> None:
    import_all()
    for pattern in list_patterns():
        matcher = Matcher(pattern)
        for shape in make_texts(pattern)[::8]:
            text = repeat(shape, 8, pattern.pattern)
            found = [match.span() for match in matcher.reduced.finditer(text)]
            assert matcher.find_all(text) == found, (pattern.pattern, text)


@pytest.mark.parametrize("form", [r"\s*</function>", r"\s*export\s"])
def test_a_pattern_is_measured_as_it_is_read(form: str) -> None:
    assert find_growth(LaterPattern(form, 0, 0, is_anchored=True)) == ""
    assert find_growth(LaterPattern(form, 0, 0, is_anchored=False))


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
