"""Provider state survives the trip through the client, and nothing else is taken for it."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.wire.carry import MAX_CARRY_BYTES, Carry, decode_carry, encode_carry

TEXTS = st.none() | st.text()
CARRIES = st.builds(
    Carry,
    model=TEXTS,
    item=TEXTS,
    encrypted=TEXTS,
    call_signature=TEXTS,
    position=st.integers(0, 200),
    replay=st.sampled_from([0, 1]),
)


def sign(text: str, tag: str = "ds") -> str:
    return f"px1.{tag}." + base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@given(CARRIES)
def test_what_is_carried_comes_back(carry: Carry) -> None:
    signature = encode_carry("kimi", carry)
    assert signature.startswith("px1.kimi.")
    assert signature.isascii()
    assert "=" not in signature
    assert decode_carry("kimi", signature) == carry


def test_nothing_to_carry_is_still_a_signature() -> None:
    assert encode_carry("oll", Carry()) == "px1.oll.e30"
    assert decode_carry("oll", "px1.oll.e30") == Carry()


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
    assert decode_carry("ds", signature) is None


def test_unknown_keys_are_ignored() -> None:
    assert decode_carry("ds", sign('{"r":1,"zz":{"a":1}}')) == Carry(replay=1)


def test_a_carry_beyond_64_kib_leaves_the_encrypted_part_out() -> None:
    signature = encode_carry("oai", Carry(item="rs_1", encrypted="x" * MAX_CARRY_BYTES))
    assert decode_carry("oai", signature) == Carry(item="rs_1")
    fits = Carry(item="rs_1", encrypted="x" * (MAX_CARRY_BYTES // 2))
    assert decode_carry("oai", encode_carry("oai", fits)) == fits
