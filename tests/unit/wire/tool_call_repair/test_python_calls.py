"""Tool calls written as Python with backslashes: no warning is shown, and the filters of other threads stay."""

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from anthropic_proxy.wire.tool_call_repair import OfferedTools
from anthropic_proxy.wire.tool_call_repair.formats import read_python_calls
from tests.support.tool_call_forms import new_call

TEXT = r'[Run(command="grep \d+ file", description="C:\windows")]'


@pytest.fixture
def parsed() -> Iterator[list[object]]:
    """Yield a list with the list of warning filters at the time of each parse."""
    found: list[object] = []
    is_open = True

    def note(event: str, values: tuple[Any, ...]) -> None:
        if is_open and event == "compile":
            found.append(warnings.filters)

    sys.addaudithook(note)  # there is no function that removes it
    yield found
    is_open = False


@pytest.mark.parametrize("action", ["always", "error"])
def test_backslashes_cause_no_warning_and_the_filters_of_other_threads_stay(action: Any, parsed: list[object]) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter(action)
        filters = warnings.filters
        for _ in range(2):
            calls = read_python_calls(TEXT, OfferedTools(new_call()))
            assert calls is not None
            assert [call.arguments for call in calls] == [r'{"command":"grep \\d+ file","description":"C:\\windows"}']
        assert [found is filters for found in parsed] == [True, True]
        assert warnings.filters is filters
        assert len(filters) == len(set(filters))
    assert shown == []
