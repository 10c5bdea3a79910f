"""Google's models as users reach them: a real proxy process before the strict stand-in, by both of Google's doors."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import pytest

from anthropic_proxy.cli.lint_stream import check_bytes
from tests.support.fakes.gemini.server import KEY, PROJECT, STAND_IN, new_gemini
from tests.support.fakes.gemini.signatures import Signatures
from tests.support.fakes.google_tokens import TokenServers, new_token_servers, write_service_account
from tests.support.fakes.openai_chat.samples import pdf, png
from tests.support.fakes.server import Running, serving
from tests.support.sdk import open_sdk
from tests.support.server_process import Proxy, running_proxy

MESSAGES = "/v1/messages"
MODELS = {"BIG_MODEL": "gemini-3.6-flash", "SMALL_MODEL": "gemini-2.5-flash", "MODEL_OPUS": "gemini-3.8-flash"}
SONNET, HAIKU = "claude-sonnet-4-6", "claude-haiku-4-5"
ADD = {
    "name": "add",
    "description": "Adds two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
WEATHER = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
READ = {
    "name": "Read",
    "input_schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"file_path": {"type": "string", "pattern": "^/", "minLength": 1}},
        "required": ["file_path"],
    },
}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
PICTURE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(31, 17)).decode()},
}
DOCUMENT = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(pdf()).decode()},
}


class GoogleAccess(NamedTuple):
    """One way to Google, with the settings that lead there."""

    name: str
    upstream: Running
    signatures: Signatures
    settings: dict[str, str]

    def last_body(self) -> Any:
        return self.upstream.journal.exchanges[-1].body


@pytest.fixture(scope="module", params=["google", "vertex"])
def access(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoogleAccess]:
    servers = TokenServers()
    application = new_gemini(accepts_token=servers.accepts)
    with serving(application) as upstream, serving(new_token_servers(servers)) as tokens:
        settings = {"PREFERRED_PROVIDER": request.param, **MODELS}
        if request.param == "google":
            settings |= {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": f"{upstream.url}/v1beta"}
        else:
            file = write_service_account(tmp_path_factory.mktemp("credentials"), tokens.url)
            settings |= {"VERTEX_PROJECT": PROJECT, "VERTEX_BASE_URL": f"{upstream.url}/v1"}
            settings |= {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
        yield GoogleAccess(request.param, upstream, application[STAND_IN].signatures, settings)
        assert upstream.journal.violations() == []
        assert tokens.journal.violations() == []


@contextmanager
def proxy_before(access: GoogleAccess, directory: Path, **settings: str) -> Iterator[Proxy]:
    with running_proxy(directory, {**access.settings, **settings}) as running:
        yield running
        assert "Traceback" not in running.log
        assert "ya29." not in running.log
        assert KEY not in running.log


@pytest.fixture(scope="module")
def proxy(access: GoogleAccess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with proxy_before(access, tmp_path_factory.mktemp("gemini")) as running:
        yield running


def ask(client: Proxy, prompt: Any, *, stream: bool = False, **fields: Any) -> anthropic.types.Message:
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    fields = {"model": SONNET, "max_tokens": 1_000, "messages": messages, **fields}
    with open_sdk(api_key="of-no-use", base_url=client.url, max_retries=0) as sdk:
        if not stream:
            return sdk.messages.create(**fields)
        with sdk.messages.stream(**fields) as events:
            return events.get_final_message()


def converse(
    ask_next: Callable[[list[Any]], anthropic.types.Message], prompt: str, run: Callable[[Any], Any]
) -> tuple[str, list[Any]]:
    """Hold a conversation with tools to its end; return the last text and all messages."""
    messages: list[Any] = [{"role": "user", "content": prompt}]
    for _ in range(8):
        reply = ask_next(messages)
        messages.append({"role": "assistant", "content": [block.model_dump() for block in reply.content]})
        calls = [block for block in reply.content if block.type == "tool_use"]
        if not calls:
            assert reply.stop_reason == "end_turn"
            return text_of(reply), messages
        assert reply.stop_reason == "tool_use"
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": run(call)} for call in calls]
        messages.append({"role": "user", "content": results})
    raise AssertionError("the conversation does not end")


def text_of(reply: anthropic.types.Message) -> str:
    return "".join(block.text for block in reply.content if block.type == "text")


def server_tool_kinds(reply: anthropic.types.Message) -> list[str]:
    return [block.type for block in reply.content]


def add(call: Any) -> str:
    return str(call.input["a"] + call.input["b"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [SONNET, HAIKU])
def test_text(proxy: Proxy, model: str, stream: bool) -> None:
    reply = ask(proxy, "Count to 40", model=model, stream=stream)
    assert text_of(reply) == " ".join(str(number) for number in range(1, 41))
    assert (reply.stop_reason, reply.model) == ("end_turn", model)
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens > 40


@pytest.mark.parametrize("model", ["gemini-2.5-pro-preview-03-25", "gemini-2.0-flash", "gemini-4-argon"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_with_tools_on_older_and_newer_models(proxy: Proxy, model: str, stream: bool) -> None:
    """The first two are the contract's defaults."""
    final_text, _ = converse(
        lambda messages: ask(
            proxy,
            messages,
            model=model,
            tools=[ADD, READ],
            stream=stream,
            max_tokens=4_000,
            extra_body={"temperature": 0.3},
        ),
        "Add 2, 3 and 4",
        add,
    )
    assert final_text == "The sum is 9."


def test_a_stream_keeps_the_grammar_of_the_api(proxy: Proxy) -> None:
    for prompt in ("Count to 40", "How is the weather in Oslo and Rome?"):
        body = {"model": SONNET, "max_tokens": 900, "stream": True, "tools": [WEATHER]}
        body["messages"] = [{"role": "user", "content": prompt}]
        answer = proxy.client().post(MESSAGES, json=body)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert check_bytes(answer.content) == []


@pytest.mark.parametrize("stream", [pytest.param(False, marks=pytest.mark.slow), True])
def test_thoughts_go_round_through_a_restart_of_the_proxy(access: GoogleAccess, tmp_path: Path, stream: bool) -> None:
    """Only the client's history contains the signatures: each turn is served by a new proxy."""
    given, returned = len(access.signatures.given), len(access.signatures.returned)

    def ask_a_new_proxy(messages: list[Any]) -> anthropic.types.Message:
        thinking = {"type": "enabled", "budget_tokens": 2_000}
        with proxy_before(access, tmp_path) as proxy:
            return ask(proxy, messages, tools=[ADD], thinking=thinking, max_tokens=4_000, stream=stream)

    final_text, messages = converse(ask_a_new_proxy, "Add 2, 3 and 4", add)
    assert final_text == "The sum is 9."
    thoughts = [block for block in messages[1]["content"] if block["type"] == "thinking"]
    assert "I see what is asked for." in thoughts[0]["thinking"]
    of_calls = [base64.b64encode(raw).decode() for raw in list(access.signatures.given)[given:][:2]]
    assert access.signatures.returned[returned:] == [of_calls[0], of_calls[0], of_calls[1]]


def test_a_history_of_another_provider_goes_on_here(proxy: Proxy, access: GoogleAccess) -> None:
    call = {"type": "tool_use", "id": "toolu_01A09q90qw90lq917835lq9", "name": "add", "input": {"a": 2, "b": 3}}
    thought = {"type": "thinking", "thinking": "Two and three.", "signature": "EqQBCgIYAhIkODJmNDY="}
    history = [
        {"role": "user", "content": "Add 2, 3 and 4"},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "I add."}, call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call["id"], "content": "5"}]},
    ]
    reply = ask(proxy, history, tools=[ADD])
    assert [block.input for block in reply.content if block.type == "tool_use"] == [{"a": 5, "b": 4}]
    signatures = [part.get("thoughtSignature") for part in access.last_body()["contents"][1]["parts"]]
    assert signatures == [None, "skip_thought_signature_validator"]


def test_pictures_and_documents_are_shown(proxy: Proxy, access: GoogleAccess) -> None:
    blocks = [PICTURE, DOCUMENT, {"type": "text", "text": "Describe the pictures"}]
    assert "image/png 31 by 17" in text_of(ask(proxy, [{"role": "user", "content": blocks}]))
    parts = access.last_body()["contents"][0]["parts"]
    assert [part["inlineData"]["mimeType"] for part in parts[:2]] == ["image/png", "application/pdf"]


@pytest.mark.parametrize("model", [SONNET, HAIKU])
def test_a_tool_can_show_a_picture(proxy: Proxy, model: str) -> None:
    final_text, _ = converse(
        lambda messages: ask(proxy, messages, tools=[READ], model=model),
        "Look at the picture /tmp/a.png",
        lambda call: [{"type": "text", "text": call.input["file_path"]}, PICTURE],
    )
    assert final_text == "The picture is image/png, 31 by 17 pixels."


@pytest.mark.parametrize("stream", [False, True])
def test_a_search_of_the_web_comes_with_its_sources(proxy: Proxy, stream: bool) -> None:
    reply = ask(proxy, "Search the web for Oslo", tools=[SEARCH], stream=stream)
    assert server_tool_kinds(reply) == ["thinking", "server_tool_use", "web_search_tool_result", "text"]
    cited = next(block for block in reply.content if block.type == "text")
    assert cited.text == "It is said that Oslo is well. More is not known."
    assert [citation.title for citation in cited.citations or ()] == ["example.org", "example.net"]
    assert reply.usage.server_tool_use is not None
    assert reply.usage.server_tool_use.web_search_requests == 2


def test_a_search_may_stand_beside_tools(proxy: Proxy, access: GoogleAccess) -> None:
    assert "Oslo is well" in text_of(ask(proxy, "Search the web for Oslo", tools=[SEARCH, ADD]))
    assert ("toolConfig" in access.last_body()) is (access.name == "google")
    ask(proxy, "Say exactly: x", tools=[SEARCH, ADD], model=HAIKU)
    assert [list(tool) for tool in access.last_body()["tools"]] == [["functionDeclarations"]]


@pytest.mark.parametrize(
    ("effort", "sonnet", "haiku", "opus"),
    [
        ("low", "low", 2_048, "low"),
        ("high", "high", 24_576, "high"),
        ("max", "high", 24_576, "high"),
        (None, "minimal", 0, "low"),
    ],
)
def test_an_effort_is_encoded_as_each_model_expects_it(
    proxy: Proxy, access: GoogleAccess, effort: str | None, sonnet: str, haiku: int, opus: str
) -> None:
    fields: Any = {"output_config": {"effort": effort}} if effort else {"thinking": {"type": "disabled"}}
    thinking_configs = {}
    for model in (SONNET, HAIKU, "claude-opus-4-6"):
        reply = ask(proxy, "Say exactly: x", model=model, **fields)
        thinking_configs[model] = access.last_body()["generationConfig"]["thinkingConfig"]
        assert (server_tool_kinds(reply)[0] == "thinking") is bool(effort)
    assert thinking_configs[SONNET]["thinkingLevel"] == sonnet
    assert thinking_configs[HAIKU]["thinkingBudget"] == haiku
    assert thinking_configs["claude-opus-4-6"]["thinkingLevel"] == opus


@pytest.mark.parametrize(
    ("choice", "called"),
    [({"type": "any"}, ["add"]), ({"type": "tool", "name": "Read"}, ["Read"]), ({"type": "none"}, [])],
)
def test_the_choice_of_a_tool_is_kept(proxy: Proxy, choice: dict[str, str], called: list[str]) -> None:
    reply = ask(proxy, "Say exactly: x", tools=[ADD, READ], tool_choice=choice)
    assert [block.name for block in reply.content if block.type == "tool_use"] == called


@pytest.mark.parametrize("stream", [False, True])
def test_limits_and_stop_sequences_end_a_reply(proxy: Proxy, stream: bool) -> None:
    cut = ask(proxy, "Count to 400", max_tokens=100, stream=stream)
    assert cut.stop_reason == "max_tokens"
    assert text_of(cut).startswith("1 2 3 ")
    stopped = ask(proxy, "Say exactly: one END two", stop_sequences=["END"], stream=stream)
    assert (text_of(stopped), stopped.stop_reason, stopped.stop_sequence) == ("one ", "stop_sequence", "END")


def test_a_repeated_beginning_is_counted_as_cached(proxy: Proxy) -> None:
    system = "You are kind. " * 800
    ask(proxy, "Say exactly: x", system=system)
    usage = ask(proxy, "Say exactly: y", system=system).usage
    assert usage.cache_read_input_tokens
    assert usage.cache_read_input_tokens > 2_000
    assert usage.input_tokens < 1_000


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["safety", "blocked"])
def test_what_google_blocks_is_a_refusal(proxy: Proxy, fault: str, stream: bool) -> None:
    reply = ask(proxy, f"Say exactly: x [fault:{fault}]", stream=stream)
    assert reply.stop_reason == "refusal"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "kind", "named"),
    [
        ("forbidden", 403, "permission_error", "permission"),
        ("missing", 400, "invalid_request_error", "is not found"),
        ("rate after=20", 429, "rate_limit_error", "quota"),
        ("location", 400, "invalid_request_error", "location"),
        ("overflow", 400, "invalid_request_error", "prompt is too long: 1052897 tokens > 1048576"),
        ("uncounted", 400, "invalid_request_error", "prompt is too long: 1048577 tokens > 1048576"),
        ("payload", 413, "request_too_large", "payload size"),
        ("server", 500, "api_error", "internal error"),
        ("overloaded", 529, "overloaded_error", "overloaded"),
        ("deadline", 504, "timeout_error", "Deadline"),
        ("error", 529, "overloaded_error", "unavailable"),
    ],
)
def test_a_refusal_becomes_a_status(proxy: Proxy, fault: str, status: int, kind: str, named: str, stream: bool) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask(proxy, f"Say exactly: x [fault:{fault}]", stream=stream)
    assert caught.value.status_code == status
    error = caught.value.body["error"]  # type: ignore[index]
    assert error["type"] == kind
    assert named in error["message"]
    if status == 429:
        assert caught.value.response.headers["retry-after"] == "20"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["unavailable times=1", "reset times=1", "malformed times=1", "gateway times=1"])
def test_a_failure_that_heals_at_once_is_tried_again(
    proxy: Proxy, access: GoogleAccess, fault: str, stream: bool
) -> None:
    prompt = f"Say exactly: healed [fault:{fault} after={1 + stream}]"
    assert text_of(ask(proxy, prompt, stream=stream)).startswith("healed")


@pytest.mark.parametrize("fault", ["cut pieces=4", "torn pieces=4", "error pieces=4"])
def test_a_stream_that_breaks_ends_with_an_error(proxy: Proxy, fault: str) -> None:
    body = {"model": SONNET, "max_tokens": 900, "stream": True}
    body["messages"] = [{"role": "user", "content": f"Count to 90 [fault:{fault}]"}]
    answer = proxy.client().post(MESSAGES, json=body)
    assert answer.status_code == 200
    assert check_bytes(answer.content) == []
    assert answer.text.rstrip().splitlines()[-2] == "event: error"


def test_a_wrong_key_names_the_setting(access: GoogleAccess, tmp_path: Path) -> None:
    if access.name == "vertex":
        return  # tokens in place of keys: test_vertex
    with proxy_before(access, tmp_path, GEMINI_API_KEY="AIza-wrong-0123456789") as proxy:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            ask(proxy, "Say exactly: x")
        assert "GEMINI_API_KEY" in str(caught.value)
        assert "AIza-wrong-0123456789" not in str(caught.value) + proxy.log
        assert caught.value.response.headers["x-should-retry"] == "false"
