"""Round trips of encoded messages: every block that a wire can carry is read back, in its place, and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.prompt_cache import SESSION, text
from tests.support.sessions import TOOLS, Spelling, Stage, Talk, spellings, stages, talks
from tests.support.upstream_view import expect, reread

STAGES = stages()
RELAYS = [stage for stage in STAGES if stage.wire == "anthropic"]
SPEAKERS = [stage for stage in STAGES if stage.wire != "anthropic"]


def ended(talk: Talk) -> Talk:
    """Return a conversation that ends with the person."""
    if talk.messages[-1]["role"] != "assistant":
        return talk
    return Talk(talk.system, [*talk.messages, {"role": "user", "content": [text("Go on.")]}])


def assert_kept(stage: Stage, talk: Talk, spelling: Spelling) -> None:
    signed = ended(talk).signed(stage.signature())
    said = stage.say(signed.request(len(signed.messages), spelling))
    assert reread(stage, said) == expect(stage, signed)


@pytest.mark.parametrize("stage", SPEAKERS, ids=lambda stage: stage.name)
def test_a_session_comes_back(stage: Stage) -> None:
    assert_kept(stage, SESSION, Spelling())


@pytest.mark.parametrize("wire", sorted({stage.wire for stage in SPEAKERS}))
@given(data=st.data(), talk=talks(), spelling=spellings)
def test_every_conversation_comes_back(wire: str, data: st.DataObject, talk: Talk, spelling: Spelling) -> None:
    assert_kept(data.draw(st.sampled_from([stage for stage in SPEAKERS if stage.wire == wire])), talk, spelling)


@given(stage=st.sampled_from(RELAYS), talk=talks(), spelling=spellings)
def test_what_is_relayed_lacks_our_own_thoughts_alone(stage: Stage, talk: Talk, spelling: Spelling) -> None:
    signed = ended(talk).signed(stage.signature())
    body = signed.request(len(signed.messages), spelling)
    said = json.loads(stage.say(body).body)
    assert said["tools"] == TOOLS_MARKED[spelling.marks]
    assert said["messages"] == [without_thoughts(message) for message in body["messages"]]


TOOLS_MARKED = {False: TOOLS, True: [*TOOLS[:-1], TOOLS[-1] | {"cache_control": {"type": "ephemeral"}}]}


def without_thoughts(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return message
    return message | {"content": [block for block in message["content"] if block["type"] != "thinking"]}
