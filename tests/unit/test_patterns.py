"""Patterns that are made of texts of strangers need no memory after their use."""

from anthropic_proxy.engine.patterns import compile_later, list_patterns


def test_long_patterns_are_not_kept() -> None:
    before = len(list_patterns())
    for number in range(5):
        assert compile_later(f"{'a' * 10_000}|{number}").fullmatch(str(number))
    assert len(list_patterns()) == before
