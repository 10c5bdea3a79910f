"""Round trips of encoded messages: every block that a wire can carry is decoded again, in its place.

The fake servers decode the conversation of an upstream request. `expect` is the table of losses: the content that each
wire cannot carry.
"""

import base64
import json
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.preparation import PreparedRequest
from anthropic_proxy.engine.wires import anthropic, gemini, openai_chat, openai_responses
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from tests.support.fakes.gemini.reading import read_conversation as read_gemini
from tests.support.fakes.ollama.reading import read_conversation as read_ollama
from tests.support.fakes.openai_chat.reading import read_conversation as read_chat
from tests.support.fakes.openai_responses.reading import read_conversation as read_responses
from tests.support.fakes.scripted_model import Conversation, Media, Result, Turn
from tests.support.prompt_cache import SESSION, text
from tests.support.sessions import TOOLS, EncodingStyle, Session, SessionStep, encoding_styles, session_steps, sessions

STEPS = session_steps()
RELAYS = [
    step
    for step in STEPS
    if isinstance(step.dialect, anthropic.Dialect)
    and step.dialect.accepts_system_messages
    and not step.dialect.requires_thinking_with_calls
]
"""Servers of the Messages API that receive all messages as they are. The others receive system messages as reminders,
or thinking with each call."""
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
    expected = [without_thoughts(message) for message in body["messages"]]
    fitted = dict(zip(list_call_ids(expected), list_call_ids(upstream_body["messages"]), strict=True))
    assert len({*fitted.values()}) == len(fitted)
    assert {old: new for old, new in fitted.items() if _CLAUDE_ID.fullmatch(old) and old != new} == {}
    limits = step.scenario.call().limits
    unread = frozenset() if limits is None else limits.unread
    assert upstream_body["messages"] == replace_media(replace_call_ids(expected, fitted), unread)


def replace_media(value: Any, kinds: Container[str]) -> Any:
    """Put the sentence for the model in place of the media that it does not read."""
    if isinstance(value, list):
        return [replace_media(inner, kinds) for inner in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if kind not in kinds or (kind == "document" and value["source"]["type"] in ("text", "content")):
        return {name: inner if name == "input" else replace_media(inner, kinds) for name, inner in value.items()}
    sentence = {"type": "text", "text": f"[{kind} omitted: this model does not accept it. Say so if it is needed.]"}
    return {**sentence, **{name: inner for name, inner in value.items() if name == "cache_control"}}


_CLAUDE_ID = re.compile("[a-zA-Z0-9_-]+")
"""Ids of calls that Claude accepts."""


def list_call_ids(messages: Sequence[dict[str, Any]]) -> list[str]:
    """Return the ids of calls and of their results, in order."""
    blocks = [block for message in messages if type(message["content"]) is list for block in message["content"]]
    return [block.get("tool_use_id") or block["id"] for block in blocks if {"tool_use_id", "id"} & block.keys()]


def replace_call_ids(value: Any, new_ids: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [replace_call_ids(inner, new_ids) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        name: new_ids[inner] if name in ("id", "tool_use_id") else replace_call_ids(inner, new_ids)
        for name, inner in value.items()
    }


TOOLS_MARKED = {False: TOOLS, True: [*TOOLS[:-1], TOOLS[-1] | {"cache_control": {"type": "ephemeral"}}]}


def without_thoughts(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return message
    return message | {"content": [block for block in message["content"] if block["type"] != "thinking"]}


# The conversation in an upstream request.

READERS: dict[str, Callable[[dict[str, Any]], Conversation]] = {
    "openai_chat": read_chat,
    "openai_responses": read_responses,
    "gemini": lambda body: read_gemini(body, "any"),
    "ollama": read_ollama,
}
GeneratedReply = list[str | Media]

_FAILED = re.compile(r"\[tool error\](?: |\n\n|$)")
_POINTER = r"\[(?:image|document): see the next user message\]"
_ELSEWHERE = re.compile(rf"^(?:{_POINTER}(?:\n\n|$))+|\n\n{_POINTER}")
_LABEL = re.compile(r"From the result of tool call ([^\n]+):")
_BRIDGE = "Understood."
_DUMMY = "skip_thought_signature_validator"


@dataclass
class SeenCall:
    """One call and its result."""

    name: str
    arguments: Any
    text: str = ""
    media: list[Media] = field(default_factory=list)
    failed: bool = False


@dataclass
class SeenText:
    """Content that one side sent in one turn."""

    role: str
    content: GeneratedReply = field(default_factory=list)
    calls: list[SeenCall] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)


def joined(content: GeneratedReply) -> GeneratedReply:
    """Return the content with neighbouring texts joined: where one block ends and the next begins is lost."""
    parts: GeneratedReply = []
    for is_text, group in groupby(content, key=lambda part: isinstance(part, str)):
        some = list(group)
        parts += ["\n\n".join(part for part in some if isinstance(part, str))] if is_text else some
    return parts


def _gathered(spoken: Iterator[SeenText]) -> list[SeenText]:
    """Return turns in which the same side does not speak twice."""
    turns: list[SeenText] = []
    for one in spoken:
        if turns and turns[-1].role == one.role != "assistant":
            turns[-1].content += one.content
        elif one.content or one.calls:
            turns.append(one)
    for turn in turns:
        turn.content = joined(turn.content)
    return turns


# What is found.


def decode_seen(step: SessionStep, request: UpstreamRequest) -> list[SeenText]:
    """Return the conversation in an upstream request."""
    conversation = READERS[step.wire](json.loads(request.body))
    aliases = step.scenario.call().client_tool_names
    spoken = [_spoken(turn, aliases) for turn in conversation.turns]
    moves_media = isinstance(step.dialect, openai_responses.Dialect) and not step.dialect.accepts_media_in_results
    if step.wire == "openai_chat" or moves_media:
        _bring_back(conversation.turns, spoken)
    if getattr(step.dialect, "requires_message_after_results", False):
        spoken = [one for one in spoken if one.content != [_BRIDGE]]
    return _gathered(iter(spoken))


def _spoken(turn: Turn, aliases: Any) -> SeenText:
    calls = [_called(result, aliases) for result in turn.results]
    return SeenText(turn.role, list(turn.content), calls, list(turn.thoughts))


def _called(result: Result, aliases: Any) -> SeenCall:
    text = "\n\n".join(part for part in result.content if isinstance(part, str))
    mark = None if result.failed else _FAILED.match(text)
    text = _ELSEWHERE.sub("", text[mark.end() :] if mark is not None else text)
    media = [part for part in result.content if isinstance(part, Media)]
    name = aliases.get(result.call.name, result.call.name)
    return SeenCall(name, result.call.arguments, text, media, result.failed or mark is not None)


def _bring_back(turns: list[Turn], spoken: list[SeenText]) -> None:
    """Put pictures and documents that follow in a user message back into the results that they are of."""
    results = {result.call.id: (turn, place) for turn in turns for place, result in enumerate(turn.results)}
    of_turn = dict(zip(map(id, turns), spoken, strict=True))
    for one in spoken:
        kept: GeneratedReply = []
        owner: SeenCall | None = None
        for part in one.content:
            label = _LABEL.fullmatch(part) if isinstance(part, str) and one.role == "user" else None
            if label is not None:
                turn, place = results[label[1]]
                owner = of_turn[id(turn)].calls[place]
            elif owner is not None and isinstance(part, Media):
                owner.media.append(part)
            else:
                owner = None
                kept.append(part)
        one.content = kept


# What should be found.


def expect(step: SessionStep, session: Session) -> list[SeenText]:
    turns = _gathered(_Expectation(step).turns(session))
    if step.wire == "ollama":  # a message has one text, and pictures beside it
        for turn in turns:
            turn.content = joined(sorted(turn.content, key=lambda part: isinstance(part, Media)))
    return turns


class _Expectation:
    def __init__(self, step: SessionStep) -> None:
        self._wire = step.wire
        self._dialect = step.dialect
        call = step.scenario.call()
        prepared = call.request
        self._client_names = {name: client_name for client_name, name in call.client_tool_names.items()}
        pictures = "image/png" in getattr(step.dialect, "image_types", ("image/png",))
        self._accepts = {
            "image": pictures and prepared.accepts_images,
            "document": prepared.accepts_pdf and self._wire != "ollama",
        }
        self._reminds = (
            self._wire in ("gemini", "ollama") or getattr(step.dialect, "mid_conversation_system", "keep") != "keep"
        )

    def turns(self, session: Session) -> Iterator[SeenText]:
        if session.system:
            yield SeenText("system", list(session.system))
        last = SeenText("assistant")
        for message in session.messages:
            content = [
                self._part(block) for block in message["content"] if block["type"] in ("text", "image", "document")
            ]
            if message["role"] == "system":
                yield self._late(content) if content else SeenText("system")
            elif message["role"] == "user":
                yield from self._answered(message["content"], last)
                yield SeenText("user", content)
            else:
                last = self._replied(message["content"], content)
                yield last

    def _late(self, content: GeneratedReply) -> SeenText:
        if not self._reminds:
            return SeenText("system", content)
        texts = [part for part in content if isinstance(part, str)]
        reminders = texts if self._wire == "gemini" else ["\n\n".join(texts)]
        return SeenText("user", [f"<system-reminder>\n{text}\n</system-reminder>" for text in reminders])

    def _part(self, block: dict[str, Any]) -> str | Media:
        if block["type"] == "text":
            return str(block["text"])
        source = block["source"]
        if self._accepts[block["type"]]:
            return Media(source["media_type"], base64.b64decode(source["data"]))
        return f"[{block['type']} omitted: {block.get('title') or source['media_type']}]"

    def _answered(self, content: list[dict[str, Any]], reply: SeenText) -> Iterator[SeenText]:
        """Fill in the results of a reply's calls. Yield the blocks that cannot be sent there."""
        results = {block["tool_use_id"]: block for block in content if block["type"] == "tool_result"}
        beside: GeneratedReply = []
        for called, identifier in zip(reply.calls, self._ids, strict=True) if results else ():
            block = results[identifier]
            inner = block["content"]
            parts = [inner] if isinstance(inner, str) else [self._part(part) for part in inner]
            separator = "\n" if self._wire == "gemini" else "\n\n"
            called.text = separator.join(part for part in parts if isinstance(part, str))
            called.failed = bool(block.get("is_error"))
            media = [part for part in parts if isinstance(part, Media)]
            if self._wire == "ollama" and media:
                name = self._client_names.get(called.name, called.name)
                beside += [f"From the result of tool call {identifier}, {name}:", *media]
            elif isinstance(self._dialect, gemini.Dialect) and not self._dialect.accepts_media_in_results:
                beside += media
            else:
                called.media = media
        yield SeenText("user", beside)

    def _replied(self, content: list[dict[str, Any]], visible: GeneratedReply) -> SeenText:
        uses = [block for block in content if block["type"] == "tool_use"]
        self._ids = [use["id"] for use in uses]
        calls = [SeenCall(use["name"], use["input"]) for use in uses]
        thoughts = [block["thinking"] for block in content if block["type"] == "thinking"]
        return SeenText("assistant", visible, calls, self._remembered("".join(thoughts), bool(visible), bool(calls)))

    def _remembered(self, thought: str, has_content: bool, calls: bool) -> list[str]:
        """Return the parts of a thought that are sent back.

        `SessionStep.signature` signs it in the form of every wire.
        """
        dialect = self._dialect
        if self._wire == "ollama":
            return [thought] if thought else []
        if isinstance(dialect, openai_responses.Dialect):
            return ['[{"data":"gAAA"}]'] if thought and dialect.can_reason and dialect.replays_thinking else []
        if isinstance(dialect, gemini.Dialect):
            sealed = ["EpE="] if thought and dialect.replays_signatures else []
            needs_dummy = calls and dialect.requires_signatures and (has_content or not sealed)
            return sealed + ([_DUMMY] if needs_dummy else [])
        assert isinstance(dialect, openai_chat.Dialect)
        must = dialect.thinking_replay_scope == "every" or (dialect.thinking_replay_scope == "calls" and calls)
        lost = " " if must and dialect.is_thinking(PreparedRequest(system=[], messages=[])) else ""
        text = [thought or lost] if dialect.replayed_thinking_field and (thought or lost) else []
        details = ["gAAA"] if dialect.replays_reasoning_details and thought else []
        signed = ["EpE="] if thought and calls else []
        if calls and dialect.placeholder_signature and (dialect.replays_reasoning_details or not signed):
            details.append(_DUMMY)
        return text + details + signed
