"""Histories: a request has the same result whether its first messages are decoded and encoded again or not."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from anthropic_proxy.engine.histories import MAX_CONVERSATIONS, MAX_KEPT_BYTES, Histories
from anthropic_proxy.engine.messages.models import CleanMessages, MessagesRequest, decode_request_or_envelope
from anthropic_proxy.engine.messages.tokens import collect_token_facts
from anthropic_proxy.errors import ClientError
from tests.support.paths import GOLDEN
from tests.support.sessions import (
    PDF,
    PICTURE,
    EncodingStyle,
    Session,
    SessionStep,
    encoding_styles,
    session_steps,
    sessions,
)

HEADERS = {"x-claude-code-session-id": "one"}


def to_json(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def read(histories: Histories, body: bytes, client: str = "ann") -> tuple[MessagesRequest, int]:
    """Return the request, and the number of its messages that were known."""
    conversation = histories.find(client, HEADERS, body)
    if conversation is None:
        return decode_request_or_envelope(body), 0
    request = decode_request_or_envelope(body, known=conversation.known)
    histories.learn(conversation, body, request)
    messages = request.messages
    known = messages.known if isinstance(messages, CleanMessages) else None
    return request, 0 if known is None else len(known)


def comparable(request: MessagesRequest) -> Any:
    messages = request.messages
    fields = structs.asdict(request)
    fields["decode_error"] = str(request.decode_error)
    facts: object = None
    if isinstance(messages, CleanMessages):
        facts = dict(messages.names), messages.has_media, [*messages.late_system]
    return (
        fields,
        facts,
        [(message.role, message.content, message.clear_at, bytes(message.output_config)) for message in messages],
    )


def outcome(histories: Histories | None, body: bytes) -> tuple[Any, int]:
    """Return the request or the error, and the number of known messages. None: without histories."""
    try:
        request, known = (decode_request_or_envelope(body), 0) if histories is None else read(histories, body)
    except ClientError as error:
        return (type(error), str(error)), 0
    return comparable(request), known


def require_same(histories: Histories, body: bytes) -> int:
    """Require the result without histories, or the same error. Return the number of known messages."""
    found, known = outcome(histories, body)
    assert found == outcome(None, body)[0]
    return known


def turn(number: int, size: int = 40) -> list[dict[str, Any]]:
    call = {"type": "tool_use", "id": f"toolu_{number}", "name": "Read", "input": {"path": f"{number}" * size}}
    result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": f"{number}ä" * size}
    reply = [{"type": "text", "text": f"Reply {number}"}, call]
    return [{"role": "assistant", "content": reply}, {"role": "user", "content": [result]}]


def talk(turns: int, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Begin. " * 20}, *(one for number in range(turns) for one in turn(number))]
    return {"model": "claude-sonnet-4-5", "messages": messages, "system": "Be brief.", "max_tokens": 9, **fields}


def prepared() -> Histories:
    """Return histories that know 7 of the 11 messages of `talk(5)`, which were learned in two pieces."""
    histories = Histories(min_bytes=10)
    for turns in (3, 3, 5):
        read(histories, to_json(talk(turns)))
    return histories


STEPS = session_steps()
WIRES = sorted({step.wire for step in STEPS})


def require_same_calls(step: SessionStep, talk: Session, style: EncodingStyle, *, times: int = 1) -> None:
    """Require that each request of a session, sent some `times`, is sent as it is without histories."""
    histories = Histories(min_bytes=1)
    signed = talk.signed(step.signature())
    for end in sorted([*talk.ends()] * times):
        body = signed.request(end, style)
        expected = step.encode_body(body)
        plain, (request, _) = step.scenario.request, read(histories, to_json(body))
        assert comparable(request) == comparable(plain)
        for apart in (False, True):
            facts = collect_token_facts(request, finds_reasoning=apart)
            assert facts == collect_token_facts(plain, finds_reasoning=apart)
        step.scenario.request = request
        sent = step.scenario.target.wire.encode_request(step.scenario.call())
        assert (sent.body, sent.notes, dict(sent.headers)) == (expected.body, expected.notes, dict(expected.headers))


def require_same_sequence(step: SessionStep, bodies: Iterable[dict[str, Any]]) -> list[int]:
    """Require that each request is sent as it is without histories. Return the number of known messages of each."""
    histories = Histories(min_bytes=1)
    found = []
    for body in bodies:
        expected = step.encode_body(body)
        step.scenario.request, known = read(histories, to_json(body))
        sent = step.scenario.target.wire.encode_request(step.scenario.call())
        assert (sent.body, sent.notes, dict(sent.headers)) == (expected.body, expected.notes, dict(expected.headers))
        found.append(known)
    return found


def long_session(form: str) -> Session:
    """A session with everything after which an encoder is in another state. `form`: of the ids of calls."""
    messages: list[dict[str, Any]] = []
    late = {"role": "system", "content": [{"type": "text", "text": "Late."}]}
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "px1.own"}
    for number in range(9):
        question = [{"type": "text", "text": f"Question {number}"}, *([PICTURE, PDF] if number == 1 else [])]
        messages += [{"role": "user", "content": question}, *([late] if number % 4 == 1 else [])]
        for step in range(number % 4):
            call = {"type": "tool_use", "id": form.format(10 * number + step), "name": "Read", "input": {"q": step}}
            contents = ["plain", [PICTURE], [{"type": "text", "text": "listed"}, PDF], ""]
            result = {"type": "tool_result", "tool_use_id": call["id"], "content": contents[(number + step) % 4]}
            if step == 1:
                result["is_error"] = True
            messages.append({"role": "assistant", "content": [*([thought] if step == 0 else []), call]})
            messages += [{"role": "user", "content": [result]}, *([late] if (number + step) % 2 else [])]
        text = {"type": "text", "text": f"Answer {number}"}
        messages.append({"role": "assistant", "content": [thought] if number in (2, 4, 8) else [text]})
        if number in (3, 5):
            messages.append({"role": "assistant", "content": [text]})
    return Session(["Be brief."], messages)


@pytest.mark.parametrize("place", range(len(STEPS)), ids=[step.name for step in STEPS])
@pytest.mark.sample(3)
def test_each_turn_of_a_long_session_is_sent_as_it_is_without_histories(place: int) -> None:
    form = "call_{:060d}" if place % 2 else "toolu_{:04d}"
    plain = place // 2 % 2 == 1
    require_same_calls(STEPS[place], long_session(form), EncodingStyle(marks=not plain, plain=plain))


def test_models_of_several_providers_share_the_history_of_a_session() -> None:
    chosen = [next(step for step in STEPS if step.wire == wire) for wire in WIRES] + STEPS[::40]
    talk = long_session("toolu_{:04d}")
    histories = Histories(min_bytes=1)
    for end in talk.ends():
        for step in chosen:
            body = talk.request(end, EncodingStyle())
            expected = step.encode_body(body)
            step.scenario.request, _ = read(histories, to_json(body))
            assert step.scenario.target.wire.encode_request(step.scenario.call()).body == expected.body, step.name


@pytest.mark.parametrize("wire", WIRES)
@given(data=st.data(), talk=sessions(), style=encoding_styles)
def test_each_turn_of_any_session_is_sent_as_it_is_without_histories(
    wire: str, data: st.DataObject, talk: Session, style: EncodingStyle
) -> None:
    step = data.draw(st.sampled_from([step for step in STEPS if step.wire == wire]))
    require_same_calls(step, talk, style, times=2)


def ask(replies: Sequence[dict[str, Any]], **first: Any) -> dict[str, Any]:
    """Return a request with a question before each of the replies, and one behind them."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"Question {'?' * 600}"} | first]
    for number, block in enumerate(replies):
        messages.append({"role": "assistant", "content": [block]})
        messages.append({"role": "user", "content": [{"type": "text", "text": f"Question {number}"}]})
    return {"model": "claude-sonnet-4-5", "messages": messages, "max_tokens": 4_000}


@pytest.mark.parametrize("place", range(len(STEPS)), ids=[step.name for step in STEPS])
@pytest.mark.sample(3)
def test_a_reply_that_is_replaced_by_one_that_only_thinks_changes_nothing_else(place: int) -> None:
    said = [{"type": "text", "text": f"Answer {number}"} for number in range(5)]
    thought = {"type": "thinking", "thinking": "Hm.", "signature": STEPS[place].signature()}
    bodies = [*[ask(said[:2])] * 3, *(ask([thought, *said[1:end]]) for end in (3, 3, 4, 5))]
    assert require_same_sequence(STEPS[place], bodies) == [0, 0, 1, 1, 3, 3, 5]


def test_a_system_message_that_begins_a_session_gets_the_mark_of_the_cache() -> None:
    (step, *_) = [step for step in STEPS if getattr(step.dialect, "sends_cache_marks", False)]
    dialect = structs.replace(step.dialect, mid_conversation_system="keep")
    marked = SessionStep(GOLDEN / step.name)
    marked.scenario.target = structs.replace(marked.scenario.target, dialect=dialect)
    said = [{"type": "text", "text": f"Answer {number}", "cache_control": {"type": "ephemeral"}} for number in range(5)]
    bodies = [ask(said[:end], role="system") for end in range(1, 6)]
    for body in bodies:
        body["messages"].insert(1, {"role": "user", "content": "Question"})
    assert require_same_sequence(marked, bodies) == [0, 0, 2, 4, 6]


def test_all_but_the_latest_two_steps_are_known() -> None:
    histories = Histories(min_bytes=10)
    assert [require_same(histories, to_json(talk(turns))) for turns in (1, 2, 3, 4, 5, 6)] == [0, 0, 1, 3, 5, 7]


def test_marks_of_the_cache_move_with_the_latest_turns() -> None:
    histories = Histories(min_bytes=10)
    known = []
    for turns in range(1, 7):
        body = talk(turns)
        for message in body["messages"][-1:-4:-2]:
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            message["content"] = [*blocks[:-1], blocks[-1] | {"cache_control": {"type": "ephemeral"}}]
        known.append(require_same(histories, to_json(body)))
    assert known == [0, 0, 0, 3, 5, 7]


def test_other_fields_may_change_from_request_to_request() -> None:
    histories = prepared()
    for fields in ({"max_tokens": 10}, {"system": "Ü"}, {"top_k": 5}, {"stream": True, "tools": []}, {}):
        assert require_same(histories, to_json(talk(5, **fields))) == 7
    swapped = {"max_tokens": 10, "system": [{"type": "text", "text": "x"}], **talk(5)}
    assert require_same(histories, to_json(swapped)) == 7


def test_an_edited_message_is_noticed() -> None:
    histories = prepared()
    body = talk(6)
    body["messages"][2]["content"][0]["content"] = "edited"
    assert [require_same(histories, to_json(body)) for _ in range(3)] == [0, 0, 9]


def test_no_client_meets_the_history_of_another() -> None:
    histories = prepared()
    body = to_json(talk(5))
    assert [read(histories, body, client)[1] for client in ("bob", "ann")] == [0, 7]


def nested() -> bytes:
    """The known messages are those of a field inside another one."""
    body = talk(5)
    return to_json({"metadata": {"user_id": "u", "messages": body["messages"]}, **body, "messages": turn(7)[1:]})


def twice(first: int, second: int) -> bytes:
    """Two fields `messages`, of which the last one counts."""
    body = to_json(talk(first))
    return body[:-1] + b',"messages":' + to_json(talk(second)["messages"]) + b"}"


def changed(old: bytes, new: bytes, place: int = -1) -> bytes:
    """One place of the body is another one: the last one, or that after the offset `place`."""
    body = to_json(talk(5))
    begin = body.rfind(old) if place < 0 else body.find(old, place)
    return body[:begin] + new + body[begin + len(old) :]


def reply(number: int) -> bytes:
    """Beginning of a reply. The third one stands behind the known messages."""
    return to_json(turn(number)[0]).partition(b'"},')[0]


HOSTILE = {
    "nested": nested(),
    "two lists, the first known": twice(5, 1),
    "two lists, the last known": twice(1, 5),
    "two lists, both known": twice(5, 5),
    "no comma behind the known messages": changed(b"," + reply(3), b" " + reply(3)),
    "no comma between known messages": changed(b"," + reply(1), b" " + reply(1)),
    "invalid UTF-8 in a new message": changed("4ä".encode(), b"4\xff"),
    "lone surrogate in a new message": changed(b"Reply 4", b"\\ud800"),
    "new message without a role": changed(b'"role":"user"', b'"rule":"user"'),
    "unknown role": changed(b'"role":"user"', b'"role":"\xc3\xbcser"'),
    "call that was made before": changed(b"toolu_4", b"toolu_1", 900),
    "result without its call": changed(b"toolu_4", b"toolu_9"),
    "cut off": to_json(talk(5))[:-40],
    "more behind the end": to_json(talk(5)) + b"}",
    "a list inside the list": changed(b'},{"role":"assistant"', b'}],[{"role":"assistant"', 900),
    "byte order mark": b"\xef\xbb\xbf" + to_json(talk(5)),
    "empty text in a new message": changed(b'"Reply 4"', b'""'),
    "a tail that repeats the messages": to_json(talk(5))[:-1] + b',"x":[' + to_json(talk(5)["messages"])[1:] + b"}",
    "the last known messages only": to_json({**talk(5), "messages": talk(5)["messages"][:7]}),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_body_with_known_messages_is_judged_like_any_other(body: bytes) -> None:
    for is_frame_known in (False, True):
        histories = prepared()
        if is_frame_known:
            assert require_same(histories, to_json(talk(5))) == 7
        for _ in range(3):
            require_same(histories, body)
        require_same(histories, to_json(talk(5)))


def test_of_two_lists_of_messages_the_last_one_counts_also_if_both_have_the_same_length() -> None:
    body = to_json(talk(5))
    new = len(to_json([*turn(3), *turn(4)]))
    for size in range(new - 100, new + 100):  # the known messages may be replaced by a shorter text
        message = b'{"role":"user","content":"%b"}' % (b"x" * (size - 30))
        require_same(prepared(), body[:-1] + b',"messages":[%b]}' % message)


@given(st.data())
def test_bodies_with_any_damage_are_judged_like_any_other(data: st.DataObject) -> None:
    histories = prepared()
    body = to_json(talk(6))
    begin = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(begin, min(len(body), begin + 40)))
    new = data.draw(st.sampled_from([b"", b"]", b"}", b"[", b'"', b",", b"\xff", b'{"role":"assistant"', b"\\"]))
    damaged = body[:begin] + new + body[end:]
    for _ in range(data.draw(st.integers(1, 3))):
        require_same(histories, to_json(talk(5)))
        require_same(histories, damaged)


def test_histories_are_bounded() -> None:
    histories = Histories(min_bytes=10)
    for number in range(MAX_CONVERSATIONS + 50):
        body = to_json(talk(3, model="m") | {"messages": [{"role": "user", "content": f"{number}" * 200}, *turn(1)]})
        for _ in range(2):
            read(histories, body, f"client {number}")
    first = to_json(talk(4))
    assert [read(histories, first)[1] for _ in range(3)] == [0, 0, 5]
    long_text = {"role": "user", "content": "x" * (MAX_KEPT_BYTES // 2)}
    large = to_json(talk(0) | {"messages": [long_text, *turn(1), *turn(2)]})
    assert [read(histories, large)[1] for _ in range(3)] == [0, 0, 0]
    assert read(histories, first)[1] == 5, "what is too large displaces no other history"


def test_system_prompts_count_for_the_size_of_histories() -> None:
    histories, step = Histories(min_bytes=10, max_kept_bytes=1 << 20), STEPS[0]
    bodies = []
    for number in range(8):
        first = {"role": "user", "content": f"{number}" * 600}
        system = f"🙂 {number} {'words ' * 10_000}"
        bodies.append(to_json(talk(0, system=system) | {"messages": [first, *turn(1), *turn(2)]}))
        for _ in range(4):
            step.scenario.request, _ = read(histories, bodies[-1])
            step.scenario.target.wire.encode_request(step.scenario.call())
    assert [read(histories, body)[1] for body in reversed(bodies)] == [1] + [0] * 7
