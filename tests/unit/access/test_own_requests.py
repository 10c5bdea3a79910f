"""Where the texts of a request go if the proxy sends requests because of it: checks, and questions of the client."""

import asyncio
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.wires.bound_requests import ServerName
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.gateway.http_calls import HttpCalls
from anthropic_proxy.gateway.inspectors import open_inspectors
from anthropic_proxy.gateway.settings.key_rules import Rules
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.own_requests import (
    CLASSIFIER,
    CONTEXT,
    FETCH,
    IMAGE_URL,
    PAGE_URL,
    SEARCH,
    SECRET,
    World,
    verdicts_of,
)
from tests.support.tool_loop import call, reply, text
from tests.support.virtual_keys import Keys

VERDICT = {"call_0": "not_flagged"}
CLAUDE_CODE = {"x-claude-code-session-id": "s-1", "user-agent": "claude-cli/2.1.332 (external, cli)"}


def route(conditions: str, *targets: str, name: str = "secret", more: str = "") -> str:
    listed = ", ".join(f'"{target}"' for target in targets)
    return f'[[routes]]\nname = "{name}"\nwhen = {{ {conditions} }}\ntargets = [{listed}]\n{more}\n'


@pytest.mark.parametrize("settings", [{}, {"AUTO_MODE_MODEL": "cloud/judge"}])
async def test_the_texts_of_a_key_for_some_providers_stay_with_these(
    tmp_path: Path, keys: Keys, settings: dict[str, str]
) -> None:
    world = World(tmp_path, keys, **settings)
    client = await world.new_client(providers=("inhouse",))
    sink = await world.post(client, model="inhouse/qwen3")
    assert verdicts_of(sink) == {}
    assert world.places == [("message", "inhouse/qwen3")]
    (check,) = sink.receipt.checks
    assert (check.verdict, check.kind) == ("unavailable", "not allowed")
    assert check.reason == "the rules of the request allow no model that could check it"


async def test_a_key_is_checked_by_the_model_of_the_setting_if_it_may_use_that(tmp_path: Path, keys: Keys) -> None:
    world = World(tmp_path, keys, AUTO_MODE_MODEL="inhouse/guard")
    client = await world.new_client(providers=("inhouse",))
    assert verdicts_of(await world.post(client, model="inhouse/qwen3")) == VERDICT
    assert world.places == [("message", "inhouse/qwen3"), ("check", "inhouse/guard")]


async def test_a_key_that_may_not_use_the_model_of_the_setting_is_checked_by_the_mapped_one(
    tmp_path: Path, keys: Keys
) -> None:
    world = World(tmp_path, keys, AUTO_MODE_MODEL="inhouse/guard")
    client = await world.new_client(models=("claude-*",), providers=("cloud",))
    assert verdicts_of(await world.post(client)) == VERDICT
    assert world.places == [("message", "cloud/big"), ("check", "cloud/big")]


CONDITIONS: list[tuple[str, dict[str, Any]]] = [
    ('header = { "x-data" = "secret" }', {"headers": {"x-data": "secret"}}),
    ('tier = "opus"', {}),
    ('model = "claude-opus-*"', {}),
    ('request = "main"', {"headers": CLAUDE_CODE}),
    ('request = ["main", "subagent"]', {"headers": {**CLAUDE_CODE, "x-claude-code-agent-id": "a"}}),
    ("subagent = true", {"headers": {"x-claude-code-agent-id": "a"}}),
    ('time = "00:00-24:00"', {}),
    ('project = "secret"', {"headers": {"x-project": "secret"}}),
    ("images = false", {}),
    ("input_below = 1000", {}),
    ('key = "ci *"', {}),
]


@pytest.mark.parametrize("settings", [{}, {"AUTO_MODE_MODEL": "cloud/judge"}])
@pytest.mark.parametrize(("conditions", "given"), CONDITIONS)
async def test_the_texts_of_a_route_stay_at_its_targets(
    tmp_path: Path, keys: Keys, conditions: str, given: dict[str, Any], settings: dict[str, str]
) -> None:
    world = World(tmp_path, keys, route(conditions, "inhouse/qwen3"), **settings)
    sink = await world.post(await world.new_client(), **given)
    assert verdicts_of(sink) == VERDICT
    assert world.places == [("message", "inhouse/qwen3"), ("check", "inhouse/qwen3")]
    check, _ = world.proxy.receipts
    assert (check.parent, check.kind, check.route) == ("req_parent", "auto_mode_check", "secret")


async def test_a_route_names_the_model_of_its_checks(tmp_path: Path, keys: Keys) -> None:
    named = route('tier = "opus"', "inhouse/qwen3", more='auto_mode_model = "cloud/judge"')
    world = World(tmp_path, keys, named, AUTO_MODE_MODEL="cloud/small")
    assert verdicts_of(await world.post(await world.new_client())) == VERDICT
    assert world.places == [("message", "inhouse/qwen3"), ("check", "cloud/judge")]
    world.sent.clear()
    world.calls = world.calls or [*World(tmp_path, keys).calls]
    client = await world.new_client(providers=("inhouse",))
    assert verdicts_of(await world.post(client)) == {}
    assert world.places == [("message", "inhouse/qwen3")]


@pytest.mark.parametrize(
    ("targets", "model", "checker"),
    [
        (("inhouse/qwen3", "inhouse/guard"), "inhouse/guard", "inhouse/guard"),
        (("inhouse/qwen3",), "inhouse/guard", "inhouse/qwen3"),
        (("inhouse/qwen3",), "inhouse/qwen3-large", "inhouse/qwen3"),
        (("inhouse/qwen3",), "claude-opus-5-5", "inhouse/qwen3"),
        (("opus",), "cloud/big", "cloud/big"),
        (("opus",), "claude-opus-5-5", "cloud/big"),
        (("opus",), "cloud/judge", "cloud/big"),
        (("default",), "cloud/judge", "cloud/big"),
        (("sonnet", "inhouse/guard"), "inhouse/guard", "inhouse/guard"),
    ],
)
async def test_the_model_of_the_setting_checks_the_requests_of_a_route_if_it_is_a_target(
    tmp_path: Path, keys: Keys, targets: tuple[str, ...], model: str, checker: str
) -> None:
    world = World(tmp_path, keys, route('tier = "opus"', *targets), AUTO_MODE_MODEL=model)
    assert verdicts_of(await world.post(await world.new_client())) == VERDICT
    assert [place for purpose, place in world.places if purpose == "check"] == [checker]


@pytest.mark.parametrize("model", ["cloud/judge", "inhouse/guard"])
async def test_a_model_that_must_agree_is_a_target_of_the_route(tmp_path: Path, keys: Keys, model: str) -> None:
    for targets, is_judged in ((("inhouse/qwen3",), False), (("inhouse/qwen3", model), True)):
        confirmed = f'[auto_mode]\nconfirm_with = "{model}"\n'
        world = World(tmp_path, keys, route('tier = "opus"', *targets) + confirmed)
        assert verdicts_of(await world.post(await world.new_client())) == (VERDICT if is_judged else {})


async def test_a_route_of_checks_decides_for_the_routes_behind_it(tmp_path: Path, keys: Keys) -> None:
    checks = route('request = "auto_mode_check"', "cloud/judge", name="checks")
    secret = route('tier = "opus"', "inhouse/qwen3")
    for routes, checker in ((checks + secret, "cloud/judge"), (secret + checks, "inhouse/qwen3")):
        world = World(tmp_path, keys, routes)
        assert verdicts_of(await world.post(await world.new_client())) == VERDICT
        assert world.places == [("message", "inhouse/qwen3"), ("check", checker)]
        sonnet = World(tmp_path, keys, routes)
        assert verdicts_of(await sonnet.post(await sonnet.new_client(), model="claude-sonnet-5-5")) == VERDICT
        assert sonnet.places == [("message", "cloud/big"), ("check", "cloud/judge")]


async def test_a_model_that_must_agree_is_one_that_the_rules_allow(tmp_path: Path, keys: Keys) -> None:
    confirmed = '[auto_mode]\nconfirm_with = "cloud/judge"\n'
    world = World(tmp_path, keys, route('tier = "opus"', "inhouse/qwen3") + confirmed)
    sink = await world.post(await world.new_client())
    assert verdicts_of(sink) == {}
    assert world.hosts_of() == {"inhouse"}
    assert sink.receipt.checks[0].kind == "not allowed"


async def test_a_key_gets_no_better_model_for_a_question_in_the_form_of_the_classifier(
    tmp_path: Path, keys: Keys
) -> None:
    world = World(tmp_path, keys, AUTO_MODE_MODEL="cloud/judge")
    fields = {"model": "claude-haiku-4-5", "tools": [], "safeguards": [], **CLASSIFIER}
    await world.post(await world.new_client(models=("claude-haiku-*",)), **fields)
    await world.post(await world.new_client(models=("claude-haiku-*", "cloud/judge")), **fields)
    await world.post(await world.new_client(), **fields)
    assert world.places == [("message", "cloud/small"), ("message", "cloud/judge"), ("message", "cloud/judge")]


async def test_a_question_of_the_classifier_stays_at_the_targets_of_its_route(tmp_path: Path, keys: Keys) -> None:
    fields = {"tools": [], "safeguards": [], **CLASSIFIER}
    for targets, expected in (
        (("inhouse/qwen3",), "inhouse/qwen3"),
        (("inhouse/qwen3", "inhouse/guard"), "inhouse/guard"),
    ):
        world = World(tmp_path, keys, route('tier = "opus"', *targets), AUTO_MODE_MODEL="inhouse/guard")
        await world.post(await world.new_client(), **fields)
        assert world.places == [("message", expected)]


SEARCHES = [
    ((), "searxng", True),
    ((), "brave", True),
    (("inhouse",), "searxng", True),
    (("inhouse",), "brave", False),
    (("inhouse",), "tavily", False),
    (("inhouse",), "exa", False),
    (("inhouse", "brave"), "brave", True),
    (("inhouse", "brave"), "exa", False),
]


@pytest.mark.parametrize(("providers", "service", "is_sent"), SEARCHES)
async def test_a_public_search_service_gets_no_query_of_a_key_that_does_not_name_it(
    tmp_path: Path, keys: Keys, providers: tuple[str, ...], service: ServerName, is_sent: bool
) -> None:
    world = World(tmp_path, keys)
    world.add_search(service)
    world.calls = [call("web_search", query=SECRET)]
    sink = await world.post(await world.new_client(providers=providers), model="inhouse/qwen3", tools=[SEARCH])
    assert world.hosts_of() == ({"inhouse", service} if is_sent else {"inhouse"})
    (result,) = [block for block in sink.body["content"] if block["type"] == "web_search_tool_result"]
    assert result["content"] == (
        [] if is_sent else {"type": "web_search_tool_result_error", "error_code": "unavailable"}
    )
    reasons = [note.reason for note in sink.receipt.notes if note.field == "tools.web_search"]
    forbidden = "and the rules of the request exclude the search service, so each search fails"
    assert any(forbidden in reason for reason in reasons) is not is_sent


@pytest.mark.parametrize("providers", [(), ("inhouse",), ("inhouse", "web")])
async def test_pages_and_files_are_fetched_only_for_keys_that_may_leave_their_providers(
    tmp_path: Path, keys: Keys, providers: tuple[str, ...]
) -> None:
    world = World(tmp_path, keys)
    world.add_fetch()
    client = await world.new_client(providers=providers)
    world.calls = [call("web_fetch", url=PAGE_URL)]
    content = [{"type": "text", "text": PAGE_URL}, {"type": "image", "source": {"type": "url", "url": IMAGE_URL}}]
    sink = await world.post(
        client, model="inhouse/qwen3", tools=[FETCH], messages=[{"role": "user", "content": content}]
    )
    assert sink.error is None
    fetched = [one for one in world.sent if one.host == "page"]
    assert len(fetched) == (2 if providers != ("inhouse",) else 0)


async def test_a_route_can_forbid_searches_and_fetches(tmp_path: Path, keys: Keys) -> None:
    world = World(tmp_path, keys, route('tier = "opus"', "inhouse/qwen3", more="web = false"))
    world.add_search("searxng")
    world.add_fetch()
    world.calls = [call("web_search", query=SECRET), call("web_fetch", 1, url=PAGE_URL)]
    content = [{"type": "text", "text": PAGE_URL}, {"type": "image", "source": {"type": "url", "url": IMAGE_URL}}]
    sink = await world.post(
        await world.new_client(), tools=[SEARCH, FETCH], messages=[{"role": "user", "content": content}]
    )
    assert sink.error is None
    assert {one.host for one in world.sent} == {"inhouse"}


# Rules of the request itself, and of the operator


async def test_a_check_is_of_the_region_and_the_tier_of_its_request(tmp_path: Path, keys: Keys) -> None:
    world = World(tmp_path, keys, AUTO_MODE_MODEL="claude/claude-judge")
    fields = {"model": "claude/claude-opus-5-5", "inference_geo": "us", "service_tier": "standard_only"}
    assert verdicts_of(await world.post(await world.new_client(), **fields)) == VERDICT
    message, check = world.sent
    assert (message.model, check.model) == ("claude-opus-5-5", "claude-judge")
    assert [(one.body["inference_geo"], one.body["service_tier"]) for one in world.sent] == [
        ("us", "standard_only")
    ] * 2


@pytest.mark.parametrize("region", ["us", "eu"])
async def test_a_request_that_pins_its_region_has_no_check_elsewhere(tmp_path: Path, keys: Keys, region: str) -> None:
    world = World(tmp_path, keys, AUTO_MODE_MODEL="cloud/judge")
    sink = await world.post(await world.new_client(), model="claude/claude-opus-5-5", inference_geo=region)
    assert verdicts_of(sink) == {}
    assert world.hosts_of() == {"claude"}
    assert sink.receipt.checks[0].reason == "the checking model would lose a part of the check, which its rules forbid"


@pytest.mark.parametrize("fields", [{"inference_geo": "global"}, {"inference_geo": None}, {"service_tier": "auto"}])
async def test_a_request_without_a_region_is_checked_anywhere(
    tmp_path: Path, keys: Keys, fields: dict[str, Any]
) -> None:
    world = World(tmp_path, keys, AUTO_MODE_MODEL="cloud/judge")
    sink = await world.post(await world.new_client(), model="claude/claude-opus-5-5", **fields)
    assert verdicts_of(sink) == VERDICT


async def test_a_check_has_what_its_provider_adds_and_the_headers_of_the_api(tmp_path: Path, keys: Keys) -> None:
    copied = '[providers.cloud.headers]\nx-tenant = { client = "x-company" }\n[providers.cloud.body]\nstore = false\n'
    headers = {"x-company": "acme", "anthropic-workspace": "w1", "anthropic-beta": "b", "x-other": "1"}
    world = World(tmp_path, keys, copied, AUTO_MODE_MODEL="cloud/judge")
    assert verdicts_of(await world.post(await world.new_client(), headers)) == VERDICT
    assert [one.headers.get("x-tenant") for one in world.sent] == ["acme", "acme"]
    assert [one.body["store"] for one in world.sent] == [False, False]
    anthropic = {"ANTHROPIC_API_KEY": "sk-ant-0123456789", "AUTO_MODE_MODEL": "anthropic/claude-opus-5-5"}
    relayed = World(tmp_path, keys, MODEL_OPUS="anthropic/claude-opus-5-5", **anthropic)
    assert verdicts_of(await relayed.post(await relayed.new_client(), headers)) == VERDICT
    check = relayed.sent[-1].headers
    assert {name: check.get(name) for name in headers} == {**dict.fromkeys(headers), "anthropic-workspace": "w1"}


async def test_what_an_inspector_redacts_is_redacted_in_the_check_too(tmp_path: Path, keys: Keys) -> None:
    rules = '[[inspectors]]\nname = "names"\ntype = "patterns"\npatterns = { name = "walrus|narwhal" }\n'
    world = World(tmp_path, keys, rules, AUTO_MODE_MODEL="cloud/judge")
    context = {**CONTEXT, "user_identity": f"works on {SECRET} and narwhal"}
    asked = [{"type": "dangerous_tool_use", "classifier_context": context}]
    recorded: list[tuple[str, str]] = []

    class Recorder:
        def record(self, request_id: str, point: str, data: bytes) -> None:
            recorded.append((point, "with the text" if SECRET.encode() in data else "redacted"))

    services = world.proxy.services
    inspectors = open_inspectors(services.settings.inspectors, HttpCalls(lambda: services.http), services.background)
    world.proxy.services = structs.replace(services, inspectors=inspectors, recorders=(Recorder(),))
    assert verdicts_of(await world.post(await world.new_client(), safeguards=asked)) == VERDICT
    assert [purpose for purpose, _ in world.places] == ["message", "check"]
    sent = json.dumps([one.body for one in world.sent])
    assert not re.search("walrus|narwhal", sent)
    assert {found for _, found in recorded} == {"redacted"}


async def test_a_check_takes_the_place_of_its_reply_among_the_calls_to_providers(tmp_path: Path, keys: Keys) -> None:
    world = World(tmp_path, keys, MAX_UPSTREAM_CALLS="1", AUTO_MODE_TIMEOUT="5")
    world.calls = [call("Bash", command="make"), call("Bash", 1, command="make test")]
    sink = await world.post(await world.new_client())
    assert verdicts_of(sink) == {"call_0": "not_flagged", "call_1": "not_flagged"}
    assert [purpose for purpose, _ in world.places] == ["message", "check", "check"]


async def test_a_check_waits_while_its_reply_has_the_only_place(tmp_path: Path, keys: Keys) -> None:
    turns = 0
    for limit, sent in (("2", ["message", "check"]), ("1", ["message"])):
        world = World(tmp_path, keys, MAX_UPSTREAM_CALLS=limit)
        world.gate = asyncio.Event()  # the call is complete, and the reply is not
        reply = asyncio.create_task(world.post(await world.new_client(), stream=True))
        needed, turns = 2 * turns, 0
        while turns < needed or (not needed and len(world.sent) < 2):
            turns += 1
            await asyncio.sleep(0)
        assert [purpose for purpose, _ in world.places] == sent
        world.gate.set()
        assert b'"outcome":"not_flagged"' in (await reply).stream


async def test_the_successor_of_a_retired_model_is_called_only_if_the_key_allows_it(keys: Keys) -> None:
    sent: list[str] = []

    def upstream(_: str, request: UpstreamRequest, __: object) -> FakeResponse:
        sent.append(json.loads(request.body)["model"])
        if sent[-1] == "gpt-4.1":
            gone = {"message": "The model `gpt-4.1` has been deprecated", "code": "model_not_found"}
            return FakeResponse(404, json.dumps({"error": gone}).encode())
        return FakeResponse(200, *reply(text("Well.")))

    after = datetime(2027, 1, 15, 12).timestamp()
    for models, expected in ((("openai/gpt-4.1",), ["gpt-4.1"]), (("openai/*",), ["gpt-4.1", "gpt-6-luna"])):
        sent.clear()
        proxy = ProxyHarness(upstream, OPENAI_API_KEY="sk-test-0123456789", OPENAI_WIRE="chat")
        proxy.services = structs.replace(proxy.services, clock=lambda: after, policies=(keys.policy,))
        key = await keys.create(f"for {len(expected)}", rules=Rules(models=models))
        body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
        client = await keys.policy.identify({"x-api-key": key})
        sink = RecordingSink()
        incoming = new_client_request(json.dumps(body | {"stream": True}).encode(), client=client)
        sink.receipt = incoming.receipt
        await Exchange(proxy.services, incoming, sink).run()
        assert sent == expected
        message = "" if sink.error is None else sink.error.message
        assert message == (
            "The key 'for 1' does not allow the model 'claude-sonnet-4-5' (openai/gpt-6-luna). Allowed: "
            "openai/gpt-4.1. Ask an administrator of the proxy for other models."
            if len(expected) == 1
            else ""
        )
