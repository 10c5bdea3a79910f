"""Stability of the upstream request's prefix: it stays the same from turn to turn, to the byte.

Providers bill what they have seen before at a fraction, and a model on one's own machine need not read it again.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.prompt_cache import SESSION, text
from tests.support.sessions import Spelling, Stage, Talk, spellings, split, stages, talks

STAGES = stages()
RELAYS = [stage for stage in STAGES if stage.wire == "anthropic"]
SPEAKERS = [stage for stage in STAGES if stage.wire != "anthropic"]
WIRES = sorted({stage.wire for stage in SPEAKERS})


def assert_grows(stage: Stage, talk: Talk, spelling_of: Callable[[], Spelling]) -> None:
    """Hold that each request begins with the whole of the one before, and that nothing beside the messages changes."""
    said = [stage.say(talk.signed(stage.signature()).request(end, spelling_of())) for end in talk.ends()]
    for before, after in itertools.pairwise(said):
        old, old_fields = split(before.body)
        new, new_fields = split(after.body)
        assert new[: len(old)] == old
        assert (new_fields, after.path, dict(after.headers)) == (old_fields, before.path, dict(before.headers))


@pytest.mark.parametrize("stage", SPEAKERS, ids=lambda stage: stage.name)
def test_a_session_only_grows(stage: Stage) -> None:
    various = itertools.cycle([Spelling("0a1"), Spelling("f32", plain=True), Spelling("77b", marks=False, turned=True)])
    assert_grows(stage, SESSION, lambda: next(various))


@pytest.mark.parametrize("wire", WIRES)
@given(data=st.data(), talk=talks())
def test_every_conversation_only_grows(wire: str, data: st.DataObject, talk: Talk) -> None:
    stage = data.draw(st.sampled_from([stage for stage in SPEAKERS if stage.wire == wire]))
    assert_grows(stage, talk, lambda: data.draw(spellings))


@given(stage=st.sampled_from(RELAYS), talk=talks())
def test_what_is_relayed_stays_what_the_client_wrote(stage: Stage, talk: Talk) -> None:
    assert_grows(stage, talk, lambda: Spelling(marks=False))


@pytest.mark.parametrize("stage", SPEAKERS, ids=lambda stage: stage.name)
def test_what_must_be_added_is_added_at_the_end(stage: Stage) -> None:
    """A begun reply that no server goes on from, and a call that cannot be forced, are asked for in a last text."""
    talk = SESSION.signed(stage.signature())
    for end in talk.ends():
        body = talk.request(end, Spelling())
        plain, _ = split(stage.say(body).body)
        begun = {"role": "assistant", "content": "It is"}
        prefilled, _ = split(stage.say(body | {"messages": [*body["messages"], begun]}).body)
        assert prefilled[: len(plain)] == plain
        forced, _ = split(stage.say(body | {"tool_choice": {"type": "tool", "name": "Read"}}).body)
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


def key_of(stage: Stage, body: dict[str, Any]) -> Any:
    said = stage.say(body)
    fields = split(said.body)[1]
    header = getattr(stage.dialect, "session_header", "")
    return said.headers[header] if header else fields.get("prompt_cache_key") or fields.get("session_id")


@pytest.mark.parametrize("stage", SPEAKERS, ids=lambda stage: stage.name)
def test_a_session_has_one_key_and_no_other_session_has_it(stage: Stage) -> None:
    ends = SESSION.ends()
    bodies = [SESSION.request(end, Spelling(nonce=str(end), plain=bool(end % 2))) for end in ends]
    anonymous = [{name: value for name, value in body.items() if name != "metadata"} for body in bodies]
    of_another = Talk(SESSION.system, [{"role": "user", "content": [text("Something else.")]}])
    key = key_of(stage, bodies[0])
    if key is None:
        assert not getattr(stage.dialect, "sends_user_id", False)
        return
    assert {key_of(stage, body) for body in bodies} == {key}
    assert key_of(stage, with_user(bodies[0], "two")) != key
    assert len({key_of(stage, body) for body in anonymous}) == 1
    other = {name: value for name, value in of_another.request(1, Spelling()).items() if name != "metadata"}
    assert key_of(stage, other) != key_of(stage, anonymous[0])
