"""The body of a new batch: its models are mapped, and its work and memory are limited."""

import tracemalloc

import pytest

from anthropic_proxy.engine.wires import anthropic
from anthropic_proxy.errors import InvalidRequest
from tests.support.messages import exactly

TOO_MANY_MEMBERS = "The request body contains more than 250,000 list elements and object members."
KEYS = b",".join(b'"k%d":1' % number for number in range(260_000))
REQUEST = b'{"custom_id":"a","params":{"model":"claude-opus-5-5","max_tokens":5,"messages":[{"role":"user"}]}}'


def mapped(body: bytes) -> bytes:
    return anthropic.WIRE.encode_batch(body, anthropic.Dialect(), lambda path, model, params: f"{model}-mapped")


@pytest.mark.parametrize(
    ("form", "members"),
    [
        pytest.param(b'{"requests":[],%b}', KEYS, id="batch"),
        pytest.param(b'{"requests":[{"custom_id":"a",%b}]}', KEYS, id="request", marks=pytest.mark.slow),
        pytest.param(b'{"requests":[{"custom_id":"a","params":{%b}}]}', KEYS, id="params", marks=pytest.mark.slow),
        pytest.param(
            b'{"requests":[{"params":{"messages":[{"x":"px1.",%b}]}}]}', KEYS, id="message", marks=pytest.mark.slow
        ),
        pytest.param(
            b'{"requests":[{"params":{"a":1,"a":2,"x":{%b}}}]}', KEYS, id="repeated key", marks=pytest.mark.slow
        ),
        pytest.param(b'{"requests":[%b1]}', b"1," * 600_000, id="numbers"),
        pytest.param(b'{"requests":[%b1]}', b'"",' * 400_000, id="texts"),
        pytest.param(b'{"requests":[%b{}]}', b"{}," * 400_000, id="objects"),
    ],
)
def test_a_batch_of_too_many_members_is_refused_before_it_is_decoded(form: bytes, members: bytes) -> None:
    body = form % members
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match=exactly(TOO_MANY_MEMBERS)):
            mapped(body)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_the_largest_batch_is_no_object_of_too_many_members() -> None:
    """Anthropic accepts 100,000 requests (docs.anthropic.com, "Batch processing", read 2026-11)."""
    body = b'{"requests":[%b]}' % b",".join([REQUEST] * 100_000)
    assert body.count(b",") > 250_000
    assert mapped(body) == body.replace(b"opus-5-5", b"opus-5-5-mapped")


def test_brackets_and_commas_in_texts_are_no_members() -> None:
    text = rb"\\[[,{\"," * 300_000
    body = b'{"requests":[{"custom_id":"%b","params":{"model":"m"}}]}' % text
    assert mapped(body) == body.replace(b'"m"', b'"m-mapped"')
