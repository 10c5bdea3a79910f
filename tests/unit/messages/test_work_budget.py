"""The limits on the work that the schemas of one request may cause."""

import pytest

from anthropic_proxy.engine.messages.work_budget import (
    CountedWork,
    WorkBudget,
    WorkLimitExceeded,
    WorkPostponed,
    count_json_nodes,
)
from anthropic_proxy.errors import InvalidRequest


def test_steps_above_the_limit_are_refused_by_the_name_of_the_field() -> None:
    budget = WorkBudget("tools.Read.input_schema", max_steps=1_000)
    budget.count_steps(1_000)
    with pytest.raises(WorkLimitExceeded) as refused:
        budget.count_steps()
    assert refused.value.message == (
        "tools.Read.input_schema: it needs more than 1,000 steps to convert; that is the limit. "
        "Refer to fewer definitions from each other, or list fewer alternatives."
    )
    assert isinstance(refused.value, InvalidRequest)


def test_nodes_above_the_limit_are_refused_before_they_are_written() -> None:
    budget = WorkBudget("tools.Read.input_schema", max_nodes=10_000)
    with pytest.raises(WorkLimitExceeded) as refused:
        budget.count_nodes(10_001)
    assert refused.value.message == (
        "tools.Read.input_schema: it has more than 10,000 nodes when its references are written out; that is "
        "the limit. Refer to fewer definitions from each other, or list fewer alternatives."
    )


def test_depth_above_the_limit_is_refused() -> None:
    budget = WorkBudget("tools.Read.input_schema", max_depth=200)
    budget.require_allowed_depth(200)
    with pytest.raises(WorkLimitExceeded) as refused:
        budget.require_allowed_depth(201)
    assert refused.value.message == (
        "tools.Read.input_schema: it nests schemas more than 200 levels deep when its references are written "
        "out; that is the limit."
    )


def test_the_error_names_the_current_field() -> None:
    budget = WorkBudget("tools", max_steps=3)
    with budget.error_field("tools.a.input_schema"):
        budget.count_steps(2)
    assert budget.field == "tools"
    with (
        pytest.raises(WorkLimitExceeded, match=r"^tools\.b\.input_schema: "),
        budget.error_field("tools.b.input_schema"),
    ):
        budget.count_steps(2)


def test_remembered_work_counts_for_the_limit_but_is_not_postponed() -> None:
    first, again = WorkBudget("tools"), WorkBudget("tools", max_steps=50, max_steps_here=5)
    first.count_steps(20)
    first.count_nodes(40)
    assert first.counted_work == CountedWork(31, 40)
    again.count_cached_work(first.counted_work)
    assert again.counted_work == first.counted_work
    again.count_steps(5)
    with pytest.raises(WorkPostponed):
        again.count_steps()
    with pytest.raises(WorkLimitExceeded):
        again.count_cached_work(first.counted_work)


def test_decoding_costs_a_step_for_64_bytes() -> None:
    budget = WorkBudget("tools")
    budget.count_decoding_steps(b"[" + b"1," * 200 + b"1]")
    assert budget.counted_work == CountedWork(1 + 403 // 64, 0)


@pytest.mark.parametrize(
    ("value", "nodes"),
    [(1, 1), ("a", 1), ("a" * 640, 11), ([], 1), ([1, 2, [3]], 5), ({"a": 1, "b": {"c": [True]}}, 8)],
)
def test_nodes_are_keys_values_and_pieces_of_text(value: object, nodes: int) -> None:
    assert count_json_nodes(value) == nodes


def test_counting_nodes_does_not_recurse() -> None:
    value: object = []
    for _ in range(10_000):
        value = [value]
    assert count_json_nodes(value) == 10_001
