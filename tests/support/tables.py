"""Tables of many short cases in one test: a test of pytest takes longer than a hundred of them."""

import inspect
import itertools
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest


def in_one_test(check: Callable[..., None]) -> Callable[[], None]:
    """Run all cases of the marks `parametrize` below in one test. It reports each case that fails, in full."""
    assert not inspect.iscoroutinefunction(check), "nobody would await its cases"
    tables = [list(_read_table(mark)) for mark in vars(check).pop("pytestmark")]

    @wraps(check)
    def test() -> None:
        cases = [dict(itertools.chain(*map(dict.items, parts))) for parts in itertools.product(*tables)]
        assert cases
        failures = [text for case in cases if (text := _find_failure(check, case))]
        if failures:
            pytest.fail("\n".join([f"{len(failures)} of {len(cases)} cases fail.", *failures]), pytrace=False)

    vars(test)["__signature__"] = inspect.Signature()  # that of `check` names its parameters, as if they were fixtures
    return test


def _read_table(mark: pytest.Mark) -> Iterator[dict[str, Any]]:
    names, rows = mark.args
    for row in rows:
        assert not isinstance(row, type(pytest.param())), "a row cannot have marks: they would not be applied"
        yield {names: row} if isinstance(names, str) else dict(zip(names, row, strict=True))


def _find_failure(check: Callable[..., None], case: dict[str, Any]) -> str:
    try:
        check(**case)
    except pytest.skip.Exception as error:
        raise AssertionError("a case cannot be skipped: the others would be skipped with it") from error
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  # as pytest does
        values = "".join(f"  {name} = {value!r}\n" for name, value in case.items())
        return f"\nCase:\n{values}{''.join(traceback.format_exception(error))}"
    return ""
