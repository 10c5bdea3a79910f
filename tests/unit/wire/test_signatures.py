"""Provider state returns unchanged through the client, and foreign text is not decoded as provider state."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.wire.thinking import MAX_SIGNATURE_BYTES, ReasoningState, decode_signature, encode_signature

TEXTS = st.none() | st.text()
CARRIES = st.builds(
    ReasoningState,
    model=TEXTS,
    item_id=TEXTS,
    encrypted=TEXTS,
    call_signature=TEXTS,
    call_index=st.integers(0, 200),
    replay=st.sampled_from([0, 1]),
)


def sign(text: str, tag: str = "ds") -> str:
    return f"px1.{tag}." + base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@given(CARRIES)
def test_what_is_carried_comes_back(carry: ReasoningState) -> None:
    signature = encode_signature("kimi", carry)
    assert signature.startswith("px1.kimi.")
    assert signature.isascii()
    assert "=" not in signature
    assert decode_signature("kimi", signature) == carry


def test_nothing_to_carry_is_still_a_signature() -> None:
    assert encode_signature("oll", ReasoningState()) == "px1.oll.e30"
    assert decode_signature("oll", "px1.oll.e30") == ReasoningState()


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "px1.ds.",
        "px1.ka.e30",
        "px1.dsx.e30",
        "px1.ds.e3",
        "px1.ds.!!!!",
        "px1.ds.é30",
        "EqQBCkYIARgCIkDanthropic",
        sign("[]"),
        sign("null"),
        sign('"text"'),
        sign('{"r":2}'),
        sign('{"r":true}'),
        sign('{"m":1}'),
        sign('{"e":["x"]}'),
        sign('{"n":"0"}'),
        sign('{"s":'),
    ],
)
def test_what_is_foreign_or_damaged_is_no_carry(signature: str) -> None:
    assert decode_signature("ds", signature) is None


def test_unknown_keys_are_ignored() -> None:
    assert decode_signature("ds", sign('{"r":1,"zz":{"a":1}}')) == ReasoningState(replay=1)


def test_a_carry_beyond_64_kib_leaves_the_encrypted_part_out() -> None:
    signature = encode_signature("oai", ReasoningState(item_id="rs_1", encrypted="x" * MAX_SIGNATURE_BYTES))
    assert decode_signature("oai", signature) == ReasoningState(item_id="rs_1")
    fits = ReasoningState(item_id="rs_1", encrypted="x" * (MAX_SIGNATURE_BYTES // 2))
    assert decode_signature("oai", encode_signature("oai", fits)) == fits
