"""A table in one test hides no case behind another one."""

import pytest

from tests.support.tables import in_one_test


@in_one_test
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize(("number", "product"), [(2, 2), (3, 6), (0, 0), (4, 4)])
def check_products(number: int, product: int, factor: int) -> None:
    assert number * factor == product, f"{number} times {factor}"


@in_one_test
@pytest.mark.parametrize("text", ["a", "1"])
def check_refusals(text: str) -> None:
    with pytest.raises(ValueError, match="invalid"):
        int(text)


@in_one_test
@pytest.mark.parametrize("number", range(50))
def check_nothing(number: int) -> None:
    assert number < 0


@in_one_test
@pytest.mark.parametrize("number", [1, 2])
def check_skipped(number: int) -> None:
    if number > 1:
        pytest.skip("no case of this platform")


def test_each_case_that_fails_is_reported_with_its_values() -> None:
    with pytest.raises(pytest.fail.Exception) as caught:
        check_products()
    text = str(caught.value)
    assert text.startswith("3 of 8 cases fail.")
    shown = [(number, product, factor) for number, product, factor in ((3, 6, 1), (2, 2, 2), (4, 4, 2))]
    for number, product, factor in shown:
        assert f"  factor = {factor}\n" in text
        assert f"  number = {number}\n  product = {product}\n" in text
        assert f"AssertionError: {number} times {factor}" in text


def test_an_exception_that_does_not_come_is_a_failure() -> None:
    with pytest.raises(pytest.fail.Exception, match="1 of 2 cases fail"):
        check_refusals()


def test_none_of_many_failures_is_left_out() -> None:
    with pytest.raises(pytest.fail.Exception) as caught:
        check_nothing()
    assert all(f"  number = {number}\n" in str(caught.value) for number in range(50))


def test_a_case_cannot_be_skipped() -> None:
    with pytest.raises(AssertionError, match="a case cannot be skipped: the others would be skipped with it"):
        check_skipped()


def test_a_function_whose_cases_nobody_would_await_is_rejected() -> None:
    @pytest.mark.parametrize("number", [1])
    async def check_later(number: int) -> None:
        assert number < 0

    with pytest.raises(AssertionError, match="nobody would await its cases"):
        in_one_test(check_later)


def test_a_row_with_marks_is_rejected() -> None:
    @pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.skip)])
    def check_marked(number: int) -> None:
        assert number

    with pytest.raises(AssertionError, match="a row cannot have marks: they would not be applied"):
        in_one_test(check_marked)
