"""The body of a new batch: its models are mapped, and its work and memory are limited."""

import json
import tracemalloc
from typing import Any

import pytest

from anthropic_proxy.engine.messages.fidelity import NoteCheck
from anthropic_proxy.engine.wires import anthropic
from anthropic_proxy.engine.wires.anthropic.batches import encode_batch
from anthropic_proxy.engine.wires.calls import ModelLimits, RelayCall
from anthropic_proxy.errors import InvalidRequest
from tests.support.messages import exactly

TOO_MANY_MEMBERS = "The request body contains more than 250,000 list elements and object members."
KEYS = b",".join(b'"k%d":1' % number for number in range(260_000))
REQUEST = b'{"custom_id":"a","params":{"model":"claude-opus-5-5","max_tokens":5,"messages":[{"role":"user"}]}}'


def mapped(body: bytes, dialect: anthropic.Dialect = anthropic.Dialect(), limits: ModelLimits | None = None) -> bytes:  # noqa: B008  # frozen
    def build_call(path: str, model: str, params: bytes) -> tuple[RelayCall[anthropic.Dialect], NoteCheck]:
        call = RelayCall(
            model=f"{model}-mapped",
            dialect=dialect,
            streams_upstream=False,
            provider_prefix="anthropic",
            path="/v1/messages/batches",
            is_renamed=True,
            limits=limits,
        )
        return call, lambda notes: None

    return encode_batch(body, build_call)[0]


@pytest.mark.parametrize(
    ("form", "members"),
    [
        pytest.param(b'{"requests":[],%b}', KEYS, id="batch"),
        pytest.param(b'{"requests":[{"custom_id":"a",%b}]}', KEYS, id="request", marks=pytest.mark.slow),
        pytest.param(b'{"requests":[{"custom_id":"a","params":{%b}}]}', KEYS, id="params", marks=pytest.mark.slow),
        pytest.param(
            b'{"requests":[{"params":{"model":"m","messages":[{"x":"px1.",%b}]}}]}',
            KEYS,
            id="message",
            marks=pytest.mark.slow,
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


@pytest.mark.parametrize(
    "body",
    [
        b'{"requests":5}',
        b'{"requests":{"params":{"model":"m"}}}',
        b'{"requests":[5,{"params":[5]}]}',
        b'{"others":[{"params":{"model":"m"}}],"requests":[]}',
    ],
)
def test_only_requests_of_the_list_are_mapped_and_the_provider_judges_other_bodies(body: bytes) -> None:
    assert mapped(body) == body


def test_half_of_a_surrogate_pair_stays_as_it_is() -> None:
    body = b'{"requests":[{"custom_id":"a","params":{"model":"m","messages":[{"role":"user","content":"\\ud83d"}]}}]}'
    assert mapped(body) == body.replace(b'"m"', b'"m-mapped"')


def test_tool_calls_that_another_provider_began_go_on_without_manual_thinking() -> None:
    clears, cuts = {"type": "clear_thinking_20251015"}, {"type": "clear_tool_uses_20250919"}
    foreign = {"type": "thinking", "thinking": "hm", "signature": "px1.file-ds.eyJyIjoxfQ"}
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    question, result = {"role": "user", "content": "go"}, {"type": "tool_result", "tool_use_id": "toolu_1"}
    loop = [question, {"role": "assistant", "content": [foreign, call]}, {"role": "user", "content": [result]}]
    manual, disabled = {"type": "enabled", "budget_tokens": 2_000}, {"type": "disabled"}

    def encode(**params: Any) -> Any:
        requests = [{"custom_id": "a", "params": {"model": "m", **params}}]
        return json.loads(mapped(json.dumps({"requests": requests}).encode()))["requests"][0]["params"]

    sent = encode(thinking=manual, messages=loop, context_management={"edits": [clears, cuts]})
    assert sent["thinking"] == disabled
    assert sent["context_management"] == {"edits": [cuts]}
    assert sent["messages"][1]["content"] == [call]
    assert "context_management" not in encode(thinking=manual, messages=loop, context_management={"edits": [clears]})
    assert encode(thinking=manual, messages=[question])["thinking"] == manual


def test_each_request_is_fitted_to_the_model_that_a_setting_has_chosen() -> None:
    params = {"model": "m", "max_tokens": 128_000, "thinking": {"type": "adaptive"}, "messages": [{"role": "user"}]}
    body = json.dumps({"requests": [{"custom_id": "a", "params": params}, {"custom_id": "b", "params": {"model": 5}}]})
    sent = mapped(body.encode(), anthropic.Dialect(thinking_forms=("disabled",)), ModelLimits(64_000, ()))
    fitted = {"model": "m-mapped", "max_tokens": 64_000, "messages": [{"role": "user"}]}
    assert [one["params"] for one in json.loads(sent)["requests"]] == [fitted, {"model": 5}]
