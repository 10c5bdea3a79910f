"""Stability of the upstream request's prefix: its bytes are equal in each turn.

Providers bill a repeated prefix at a fraction, and a model on one's own machine need not read it again.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.prompt_cache import SESSION, text
from tests.support.sessions import EncodingStyle, Session, SessionStep, encoding_styles, session_steps, sessions, split

STEPS = session_steps()
RELAYS = [step for step in STEPS if step.wire == "anthropic"]
SPEAKERS = [step for step in STEPS if step.wire != "anthropic"]
WIRES = sorted({step.wire for step in SPEAKERS})


def assert_grows(step: SessionStep, talk: Session, style_of: Callable[[], EncodingStyle]) -> None:
    """Hold that each request begins with the whole of the one before, and that nothing beside the messages changes."""
    requests = [step.encode_body(talk.signed(step.signature()).request(end, style_of())) for end in talk.ends()]
    for before, after in itertools.pairwise(requests):
        old, old_fields = split(before.body)
        new, new_fields = split(after.body)
        assert new[: len(old)] == old
        assert (new_fields, after.path, dict(after.headers)) == (old_fields, before.path, dict(before.headers))


@pytest.mark.parametrize("wire", WIRES)
@given(data=st.data(), talk=sessions())
def test_every_conversation_only_grows(wire: str, data: st.DataObject, talk: Session) -> None:
    step = data.draw(st.sampled_from([step for step in SPEAKERS if step.wire == wire]))
    styles = encoding_styles
    if getattr(step.dialect, "sends_cache_breakpoint", False):  # marks of the client place the system text
        marks = data.draw(st.booleans())
        styles = styles.map(lambda style: dataclasses.replace(style, marks=marks))
    assert_grows(step, talk, lambda: data.draw(styles))


@given(step=st.sampled_from(RELAYS), talk=sessions())
def test_what_is_relayed_stays_what_the_client_wrote(step: SessionStep, talk: Session) -> None:
    assert_grows(step, talk, lambda: EncodingStyle(marks=False))


@pytest.mark.parametrize("step", SPEAKERS, ids=lambda step: step.name)
@pytest.mark.sample(3)
def test_what_must_be_added_is_added_at_the_end(step: SessionStep) -> None:
    """A prefill that no server continues, and a call that cannot be forced, become a request in a last text."""
    talk = SESSION.signed(step.signature())
    for end in talk.ends():
        body = talk.request(end, EncodingStyle())
        plain, _ = split(step.encode_body(body).body)
        begun = {"role": "assistant", "content": "It is"}
        prefilled, _ = split(step.encode_body(body | {"messages": [*body["messages"], begun]}).body)
        assert prefilled[: len(plain)] == plain
        forced, _ = split(step.encode_body(body | {"tool_choice": {"type": "tool", "name": "Read"}}).body)
        assert forced[: len(plain) - 1] == plain[:-1]
        assert begins(forced[len(plain) - 1], plain[-1])


def begins(longer: bytes, shorter: bytes) -> bool:
    """Return whether a message begins with the content of another."""
    if longer == shorter:
        return True
    more, less = json.loads(longer), json.loads(shorter)
    content = less.pop("content")
    added = more.pop("content")
    return bool(more == less and added[: len(content)] == content)


def with_user(body: dict[str, Any], session: str) -> dict[str, Any]:
    return body | {"metadata": {"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": session})}}


def key_of(step: SessionStep, body: dict[str, Any]) -> Any:
    request = step.encode_body(body)
    fields = split(request.body)[1]
    header = getattr(step.dialect, "session_header", "")
    return request.headers[header] if header else fields.get("prompt_cache_key") or fields.get("session_id")


@pytest.mark.parametrize("step", SPEAKERS, ids=lambda step: step.name)
@pytest.mark.sample(3)
def test_a_session_has_one_key_and_no_other_session_has_it(step: SessionStep) -> None:
    ends = SESSION.ends()
    bodies = [SESSION.request(end, EncodingStyle(nonce=str(end), plain=bool(end % 2))) for end in ends]
    anonymous = [{name: value for name, value in body.items() if name != "metadata"} for body in bodies]
    of_another = Session(SESSION.system, [{"role": "user", "content": [text("Something else.")]}])
    key = key_of(step, bodies[0])
    if key is None:
        assert not getattr(step.dialect, "sends_user_id", False)
        return
    assert {key_of(step, body) for body in bodies} == {key}
    assert key_of(step, with_user(bodies[0], "two")) != key
    assert len({key_of(step, body) for body in anonymous}) == 1
    other = {name: value for name, value in of_another.request(1, EncodingStyle()).items() if name != "metadata"}
    assert key_of(step, other) != key_of(step, anonymous[0])
    assert key_of(step, with_user(other, "")) == key_of(step, other)
