"""The suite against small servers: what it finds, and that its own faults are no failures of the server."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from messages_conformance.generated import generate
from messages_conformance.rows import DRAFT, SETS, Check
from messages_conformance.runner import Outcome, Result, Runner, judge_trial, load_suite
from messages_conformance.trial import Options, Trial, UpstreamRequest, add_token
from tests.support.conformance import MESSAGE, Handle, reply, serve
from tests.support.tables import in_one_test


def find_check(name: str) -> Check:
    return next(check for check in load_suite() if check.id == name)


def run_check(handle: Handle, check: Check) -> Result:
    with serve(handle) as url:
        return Runner(Options(url=url, model="m")).run([check])[0]


def test_a_right_reply_passes() -> None:
    result = run_check(lambda handler, _: reply(handler, json.dumps(MESSAGE).encode()), find_check("message.type"))
    assert (result.outcome, result.reasons) == (Outcome.PASSED, ())


def test_a_reply_that_ends_early_fails() -> None:
    def handle(handler: BaseHTTPRequestHandler, _: Any) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", "1000")
        handler.end_headers()
        handler.wfile.write(json.dumps(MESSAGE).encode())

    result = run_check(handle, find_check("message.type"))
    assert result.outcome is Outcome.FAILED
    assert result.reasons[0] == "the connection was closed in the middle of the reply"


def test_a_server_that_does_not_reply_fails() -> None:
    result = run_check(lambda handler, _: None, find_check("message.type"))
    assert result.outcome is Outcome.FAILED
    assert result.reasons[0].startswith("the connection was closed without a reply")


def test_a_fault_of_the_suite_is_no_failure() -> None:
    check = find_check("message.type")
    check = replace(check, steps=(replace(check.steps[0], do="a step that does not exist"),))
    result = run_check(lambda handler, _: reply(handler, b"{}"), check)
    assert result.outcome is Outcome.FAULT
    assert result.reasons[0].endswith("KeyError: 'a step that does not exist'\n")


def test_a_missing_need_skips() -> None:
    check = replace(find_check("message.type"), needs=("backend",))
    result = Runner(Options(url="http://127.0.0.1:9", model="m")).run_check(check)
    assert (result.outcome, result.reasons) == (Outcome.SKIPPED, ("it needs a scripted upstream (--backend)",))


def test_each_call_of_a_reply_gets_a_result() -> None:
    """Requests that leave a call without its result are refused, so the check would not say what it is about."""
    calls = [{"type": "tool_use", "id": f"toolu_{number}", "name": "n", "input": {}} for number in range(3)]
    message = {**MESSAGE, "content": calls, "stop_reason": "tool_use"}
    check = find_check("message.type")
    further = replace(check.steps[0], do="continue", body=None, arguments={"results": ["12", "13"], "say": "Go on."})
    sent = list[Any]()

    def handle(handler: BaseHTTPRequestHandler, body: Any) -> None:
        sent.append(body)
        reply(handler, json.dumps(message).encode())

    assert run_check(handle, replace(check, steps=(check.steps[0], further))).outcome is Outcome.PASSED
    assert sent[-1]["messages"][1:] == [
        {"role": "assistant", "content": calls},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_0", "content": "12"},
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "13"},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "13"},
                {"type": "text", "text": sent[-1]["messages"][2]["content"][3]["text"]},
            ],
        },
    ]


MUTE = (
    {"path": "content.*.type", "contains": "tool_use"},
    'the model did not do what the check needs: content.*.type of the message does not contain "tool_use": ["text"]',
)


def test_what_a_model_does_not_do_is_no_failure_of_the_server() -> None:
    asked = list[Any]()

    def handle(handler: BaseHTTPRequestHandler, body: Any) -> None:
        asked.append(body)
        reply(handler, json.dumps(MESSAGE).encode())

    needy = replace(find_check("message.type"), given=(MUTE[0],), repeats=3)
    result = run_check(handle, needy)
    assert (result.outcome, result.reasons, len(asked)) == (Outcome.MODEL, (MUTE[1],), 3)


def test_what_a_server_does_is_judged_if_the_model_has_done_its_part() -> None:
    check = replace(find_check("message.type"), given=({"path": "content.*.type", "contains": "text"},), repeats=3)
    wrong = {**MESSAGE, "role": "user"}
    check = replace(check, expect=({"path": "role", "equals": "assistant"},))
    result = run_check(lambda handler, _: reply(handler, json.dumps(wrong).encode()), check)
    assert (result.outcome, result.trials) == (Outcome.FAILED, 1)
    error = b'{"type": "error", "error": {"type": "api_error", "message": "m"}}'
    needy = replace(check, given=(MUTE[0],))
    assert run_check(lambda handler, _: reply(handler, error, status=500), needy).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        ({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}, Outcome.MODEL),
        ({"type": "ping"}, Outcome.FAILED),
    ],
)
def test_a_model_that_writes_on_is_no_fault_of_the_server_and_endless_pings_are(event: Any, outcome: Outcome) -> None:
    begin = {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    left = threading.Event()

    def handle(handler: BaseHTTPRequestHandler, _: Any) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.end_headers()
        for each in (begin, block):
            handler.wfile.write(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode())
        try:
            while not left.wait(0.01):
                handler.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        except OSError:
            return

    with serve(handle) as url:
        result = Runner(Options(url=url, model="m", timeout=2)).run_check(find_check("stream.order"))
        left.set()
    assert result.outcome is outcome
    assert "the reply does not end within 4 seconds" in result.reasons[0]


def test_the_token_stands_in_the_last_text_of_the_user() -> None:
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": {}}]}
    answer = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "12"}]}
    messages = [{"role": "user", "content": "hello"}, call, answer]
    changed = add_token({"messages": messages}, "[trial a]")["messages"]
    assert changed == [*messages[:2], {**answer, "content": [{**answer["content"][0], "content": "12 [trial a]"}]}]
    assert add_token({"messages": messages[:1]}, "[trial a]")["messages"][0]["content"] == "hello [trial a]"


def test_keys_are_checked_only_with_a_key_of_the_server() -> None:
    check = replace(find_check("message.type"), needs=("keys",))
    result = Runner(Options(url="http://127.0.0.1:9", model="m")).run_check(check)
    assert (result.outcome, result.reasons) == (
        Outcome.SKIPPED,
        ("it needs a key that the server checks (MESSAGES_API_KEY)",),
    )


def test_the_sets_are_complete() -> None:
    checks = load_suite()
    for name in SETS:
        assert [check for check in checks if name in check.sets], name
    assert not [check.id for check in checks if len(check.sets) > 1 and DRAFT in check.sets]


@in_one_test
@pytest.mark.parametrize(
    ("value", "generated"),
    [
        ({"repeat": "a{n} ", "times": 3}, "a0 a1 a2 "),
        ({"repeat": "ab", "times": 2}, "abab"),
        (["x", {"repeat": ["a{n}", "b"], "times": 2}], ["x", "a0", "b", "a1", "b"]),
        ([{"repeat": [{"a{n}": ["{n}"]}], "times": 2}], [{"a0": ["0"]}, {"a1": ["1"]}]),
        ({"join": ["a", {"repeat": "b", "times": 2}]}, "abb"),
        ({"a": {"null": True}, "b": [{"null": True}]}, {"a": None, "b": [None]}),
        ({"repeat": "a", "times": 1, "other": 2}, {"repeat": "a", "times": 1, "other": 2}),
        ("{n}", "{n}"),
    ],
)
def test_long_values_are_written_by_their_parts(value: Any, generated: Any) -> None:
    assert generate(value) == generated


def test_a_server_that_asks_no_model_has_not_hidden_its_key() -> None:
    trial = Trial("0", find_check("errors.key-refused"), Options(url="http://127.0.0.1:9", model="m", backend="openai"))
    assert judge_trial(trial) == ["the model got no request"]


@in_one_test
@pytest.mark.parametrize(
    ("header", "text", "shown"),
    [
        ("Bearer sk-1234567", '{"message": "wrong: sk-1234567"}', True),
        ("Bearer sk-1234567", '{"message": "wrong: sk-\\u00312\\u00334567"}', True),
        ("Bearer sk-1234567", '{"message": "wrong: sk-123**67"}', False),
        ("Bearer any", '{"message": "The key is any."}', True),
        ("Bearer any", '{"message": "Authorization: Bearer any"}', True),
        ("Bearer any", '{"message": "It takes any key and many models."}', False),
    ],
)
def test_a_key_in_a_reply_is_seen(header: str, text: str, shown: bool) -> None:
    request = UpstreamRequest("POST", "/v1/chat/completions", (("Authorization", header),), {}, 0.0)
    assert request.shows_key(text) is shown
