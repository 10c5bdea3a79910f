"""Outlines of requests: hostile bodies have none, and never an error, which would cost the row of the request."""

import pytest

from anthropic_proxy.ledger.contents import outline_json


@pytest.mark.parametrize("depth", [1, 100, 300, 350, 500, 900, 1_500, 100_000])
def test_a_deeply_nested_body_has_an_outline_or_none(depth: int) -> None:
    for start, end in ((b'{"a":', b"}"), (b"[", b"]")):
        body = b'{"metadata":' + start * depth + b"1" + end * depth + b"}"
        outline = outline_json(body)
        assert outline == "" or outline.startswith('{\n  "metadata": ')
        assert outline or depth > 100


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b"\xff", b'"text"'])
def test_a_body_without_an_object_has_no_outline(body: bytes) -> None:
    assert outline_json(body) == ""
