"""The inspector that asks a guardrail service: what it sends, and how it reads the answers."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from anthropic_proxy.errors import UpstreamError, UpstreamUnreachable
from anthropic_proxy.gateway.inspectors.guardrail import RETRY_SECONDS, GuardrailInspector
from anthropic_proxy.gateway.settings.fields import InspectorRule
from anthropic_proxy.gateway.settings.file_format import InspectorTable
from anthropic_proxy.plugins import Client, HttpReply, InspectedTexts, Passage, Redaction, Refusal
from anthropic_proxy.secrets import Secret
from tests.support.virtual_time import in_virtual_time


class Service:
    """A guardrail service, in place of the gateway. It answers with the given objects."""

    def __init__(self, *answers: Any) -> None:
        self.answers = [*answers]
        self.sent: list[tuple[str, str, Mapping[str, str], Any]] = []

    async def send_http(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, max_bytes: int, purpose: str
    ) -> HttpReply:
        assert max_bytes > len(body)
        assert purpose == "guardrail"
        self.sent.append((method, url, headers, json.loads(body)))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, HttpReply):
            return answer
        return HttpReply(200, json.dumps(answer).encode())

    @property
    def texts(self) -> list[Any]:
        return [body["texts"] for *_, body in self.sent]


def build(service: Service, **fields: Any) -> GuardrailInspector:
    table = InspectorTable(**{"name": "g", "type": "guardrail", "base_url": "http://g.test/api", **fields})
    rule = InspectorRule(table=table, base_url="http://g.test/api", key=Secret("guard-key"))
    return GuardrailInspector(rule, service)  # type: ignore[arg-type]  # it needs one method


ADA = Client(name="ada", owner="ada@example.org", team="shop")


def texts_of(*texts: str, part: Any = "request", client: Client = ADA, model: str = "m") -> InspectedTexts:
    return InspectedTexts(
        part=part, passages=[Passage(text, "user") for text in texts], client=client, request_id="req_1", model=model
    )


async def test_the_form_of_a_request() -> None:
    service = Service({"action": "NONE"}, {"action": "NONE"})
    inspector = build(service, parameters={"level": 3})
    assert await inspector.inspect(texts_of("one", "two")) == []
    assert await inspector.inspect(texts_of("one", part="reply")) == []
    (method, url, headers, body), (*_, of_reply) = service.sent
    assert (method, url) == ("POST", "http://g.test/api/beta/litellm_basic_guardrail_api")
    assert headers["x-api-key"] == "guard-key"
    assert body == {
        "texts": ["one", "two"],
        "request_data": {
            "user_api_key_alias": "ada",
            "user_api_key_user_id": "ada@example.org",
            "user_api_key_team_alias": "shop",
        },
        "input_type": "request",
        "litellm_call_id": "req_1",
        "model": "m",
        "additional_provider_specific_params": {"level": 3},
    }
    assert of_reply["input_type"] == "response"


async def test_texts_that_have_passed_are_not_sent_again() -> None:
    changed = {"action": "GUARDRAIL_INTERVENED", "texts": ["one", "TWO"]}
    service = Service(changed, changed, {"action": "NONE"}, {"action": "NONE"})
    inspector = build(service)
    found = [Redaction(1, 0, 3, "text", "TWO")]
    assert await inspector.inspect(texts_of("one", "two")) == found
    service.answers[0] = {"action": "GUARDRAIL_INTERVENED", "texts": ["TWO"]}
    assert await inspector.inspect(texts_of("one", "two")) == found
    assert await inspector.inspect(texts_of("one", "three")) == []
    assert await inspector.inspect(texts_of("one", "three")) == []
    assert service.texts == [["one", "two"], ["two"], ["three"]]


async def test_what_may_be_sent_by_one_client_is_asked_again_for_others_and_for_another_model() -> None:
    bob = Client(name="bob", owner="bob@example.org", team="shop")
    service = Service({"action": "NONE"}, *({"action": "BLOCKED", "blocked_reason": "Not for you."},) * 2)
    inspector = build(service)
    assert await inspector.inspect(texts_of("one")) == []
    assert await inspector.inspect(texts_of("one")) == []
    for others in (texts_of("one", client=bob), texts_of("one", model="n")):
        assert await inspector.inspect(others) == Refusal("blocked", "Not for you.")


@pytest.mark.parametrize("mark", ["\0", "', '", "\n", ")", ""])
async def test_a_text_that_continues_the_name_of_a_model_is_asked(mark: str) -> None:
    service = Service({"action": "NONE"}, {"action": "BLOCKED", "blocked_reason": "no"})
    inspector = build(service)
    name, text = f"m{mark}request{mark}user{mark}hidden", f"hidden{mark}request{mark}user{mark}text"
    assert await inspector.inspect(texts_of("text", model=name)) == []
    assert await inspector.inspect(texts_of(text)) == Refusal("blocked", "no")


async def test_all_texts_are_sent_for_a_service_that_judges_conversations() -> None:
    service = Service({"action": "NONE"}, {"action": "NONE"})
    inspector = build(service, sends="all texts")
    for _ in range(2):
        assert await inspector.inspect(texts_of("one", "two")) == []
    assert service.texts == [["one", "two"]] * 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"action": "BLOCKED", "blocked_reason": "Not this."}, "Not this."),
        ({"action": "BLOCKED"}, "The text must not be sent, by a rule of this proxy."),
    ],
)
async def test_a_blocked_text_is_refused_and_asked_again(answer: Any, reason: str) -> None:
    service = Service(answer, answer)
    inspector = build(service)
    for _ in range(2):
        assert await inspector.inspect(texts_of("one")) == Refusal("blocked", reason)
    assert service.texts == [["one"]] * 2


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (HttpReply(307, b""), "the guardrail service answered with status 307"),
        (HttpReply(401, b""), "the guardrail service answered with status 401"),
        (
            HttpReply(200, b"<html>"),
            "the answer of the guardrail service cannot be read: JSON is malformed: invalid character (byte 0)",
        ),
        (
            {"action": "MAYBE"},
            "the answer of the guardrail service cannot be read: Invalid enum value 'MAYBE' - at `$.action`",
        ),
        (
            {"action": "GUARDRAIL_INTERVENED", "texts": []},
            "the answer of the guardrail service does not have one text for each that was sent",
        ),
        (
            {"action": "GUARDRAIL_INTERVENED"},
            "the answer of the guardrail service does not have one text for each that was sent",
        ),
    ],
)
async def test_an_unusable_answer_is_a_failure(answer: Any, problem: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        await build(Service(answer)).inspect(texts_of("one"))
    assert caught.value.message == problem


FAILURES = [HttpReply(status, b"") for status in (429, 500, 502, 503, 504)]


@in_virtual_time
@pytest.mark.parametrize("failure", [*FAILURES, UpstreamUnreachable("refused the connection")], ids=repr)
async def test_a_temporary_failure_of_the_service_is_asked_once_more(failure: HttpReply | UpstreamError) -> None:
    now = asyncio.get_running_loop().time
    start, service = now(), Service(failure, {"action": "NONE"})
    assert await build(service).inspect(texts_of("one")) == []
    assert service.texts == [["one"]] * 2
    assert now() - start >= RETRY_SECONDS
    service = Service(failure, failure)
    with pytest.raises(UpstreamError):
        await build(service).inspect(texts_of("one"))
    assert service.texts == [["one"]] * 2
