"""The nesting of JSON text is found without decoding it, also where most lists have none inside."""

from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.messages.models.raw_json import MAX_JSON_DEPTH, is_json_text_too_deep


def find_depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(find_depth, value.values() if isinstance(value, dict) else value), default=0)


@pytest.mark.parametrize("depth", [MAX_JSON_DEPTH - 1, MAX_JSON_DEPTH, MAX_JSON_DEPTH + 1, MAX_JSON_DEPTH + 2])
@pytest.mark.parametrize("leaf", ["", "{}", "[]", "[1]", "[],{}", '{"a":[]}', '"[]"'])
@pytest.mark.parametrize("before", ["", "[]," * 30_000, '{"k[":"]\\"{"},' * 8_000, "[[],[[]]]," * 100])
def test_the_depth_is_that_of_the_decoded_text(depth: int, leaf: str, before: str) -> None:
    text = f"[{before}{'[' * (depth - 1)}{leaf}{']' * (depth - 1)}]".encode()
    assert is_json_text_too_deep(text) == (find_depth(msgspec.json.decode(text)) > MAX_JSON_DEPTH)
