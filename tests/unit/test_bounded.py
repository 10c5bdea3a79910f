"""`BoundedDict`: what it keeps of more entries than it may have."""

from anthropic_proxy.engine.bounded import BoundedDict


def test_the_oldest_entry_makes_room_for_a_new_one() -> None:
    kept = BoundedDict[str, int](2)
    kept["a"], kept["b"], kept["a"], kept["c"] = 1, 2, 3, 4
    assert kept == {"b": 2, "c": 4}


def test_an_entry_that_is_replaced_drops_no_other() -> None:
    kept = BoundedDict[str, int](2)
    kept["a"], kept["b"], kept["a"] = 1, 2, 3
    assert kept == {"a": 3, "b": 2}
