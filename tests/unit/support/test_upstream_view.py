"""Round trips of encoded messages: every block that a wire can carry is decoded again, in its place."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.wires.anthropic import Dialect
from tests.support.prompt_cache import SESSION, text
from tests.support.sessions import TOOLS, EncodingStyle, Session, SessionStep, encoding_styles, session_steps, sessions
from tests.support.upstream_view import decode_seen, expect

STEPS = session_steps()
RELAYS = [step for step in STEPS if isinstance(step.dialect, Dialect) and step.dialect.accepts_system_messages]
"""Servers of the Messages API that receive all messages. The others receive system messages as reminders."""
SPEAKERS = [step for step in STEPS if step.wire != "anthropic"]


def ended(session: Session) -> Session:
    if session.messages[-1]["role"] != "assistant":
        return session
    return Session(session.system, [*session.messages, {"role": "user", "content": [text("Go on.")]}])


def assert_kept(step: SessionStep, session: Session, style: EncodingStyle) -> None:
    signed = ended(session).signed(step.signature())
    upstream_request = step.encode_body(signed.request(len(signed.messages), style))
    assert decode_seen(step, upstream_request) == expect(step, signed)


@pytest.mark.parametrize("step", SPEAKERS, ids=lambda step: step.name)
def test_a_session_comes_back(step: SessionStep) -> None:
    assert_kept(step, SESSION, EncodingStyle())


@pytest.mark.parametrize("wire", sorted({step.wire for step in SPEAKERS}))
@given(data=st.data(), session=sessions(), style=encoding_styles)
def test_every_conversation_comes_back(wire: str, data: st.DataObject, session: Session, style: EncodingStyle) -> None:
    assert_kept(data.draw(st.sampled_from([step for step in SPEAKERS if step.wire == wire])), session, style)


@given(step=st.sampled_from(RELAYS), session=sessions(), style=encoding_styles)
def test_what_is_relayed_lacks_our_own_thoughts_alone(
    step: SessionStep, session: Session, style: EncodingStyle
) -> None:
    signed = ended(session).signed(step.signature())
    body = signed.request(len(signed.messages), style)
    upstream_body = json.loads(step.encode_body(body).body)
    assert upstream_body["tools"] == TOOLS_MARKED[style.marks]
    assert upstream_body["messages"] == [without_thoughts(message) for message in body["messages"]]


TOOLS_MARKED = {False: TOOLS, True: [*TOOLS[:-1], TOOLS[-1] | {"cache_control": {"type": "ephemeral"}}]}


def without_thoughts(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return message
    return message | {"content": [block for block in message["content"] if block["type"] != "thinking"]}
