"""Google's models as users reach them: a real proxy process before the strict stand-in, by both of Google's doors."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import pytest

from tests.support.fakes.gemini.server import KEY, PROJECT, STAND_IN, new_gemini
from tests.support.fakes.gemini.signatures import Signatures
from tests.support.fakes.google_tokens import TokenServers, new_token_servers, write_service_account
from tests.support.fakes.openai_chat.samples import png
from tests.support.fakes.server import Running, serving
from tests.support.sdk import open_sdk
from tests.support.server_process import Proxy, running_forked_proxy

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
    with running_forked_proxy(directory, {**access.settings, **settings}) as running:
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


def test_a_count_is_google_s_own(proxy: Proxy, access: GoogleAccess) -> None:
    asked = {"model": SONNET, "system": "Be brief.", "tools": [ADD], "messages": [{"role": "user", "content": "Hi"}]}
    counted = proxy.client().post(f"{MESSAGES}/count_tokens", json=asked).json()
    assert access.upstream.journal.exchanges[-1].path.endswith("/models/gemini-3.6-flash:countTokens")
    usage = proxy.client().post(MESSAGES, json={**asked, "max_tokens": 1_000}).json()["usage"]
    assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


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


@pytest.mark.parametrize("stream", [False, True])
def test_a_search_of_the_model_beside_calls_comes_back_in_the_next_turn(
    proxy: Proxy, access: GoogleAccess, stream: bool
) -> None:
    """The stand-in rejects a turn whose search is missing or changed. Only AI Studio shows searches beside calls."""
    kept = len(access.signatures.own_parts)
    final_text, messages = converse(
        lambda messages: ask(proxy, messages, tools=[ADD, SEARCH], stream=stream, max_tokens=4_000),
        "Add 2, 3 and 4",
        add,
    )
    assert final_text == "The sum is 9."
    given = access.signatures.own_parts[kept:]
    sent = [part for content in access.last_body()["contents"] for part in content["parts"]]
    assert [part for part in sent if "toolCall" in part or "toolResponse" in part] == given
    steps = len(messages) // 2 - 1
    assert [next(iter(part)) for part in given] == ["toolCall", "toolResponse"] * steps * (access.name == "google")
    assert "nothing found" not in str(sent)
    shown = [block["type"] for block in messages[1]["content"] if block["type"] != "thinking"]
    searched = ["server_tool_use", "web_search_tool_result"] * (access.name == "google")
    assert [kind for kind in shown if kind != "tool_use"] == searched


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


@pytest.mark.parametrize(
    ("choice", "called"),
    [({"type": "any"}, ["add"]), ({"type": "tool", "name": "Read"}, ["Read"]), ({"type": "none"}, [])],
)
def test_the_choice_of_a_tool_is_kept(proxy: Proxy, choice: dict[str, str], called: list[str]) -> None:
    reply = ask(proxy, "Say exactly: x", tools=[ADD, READ], tool_choice=choice)
    assert [block.name for block in reply.content if block.type == "tool_use"] == called


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["unavailable times=1", "reset times=1", "malformed times=1", "gateway times=1"])
def test_a_failure_that_heals_at_once_is_tried_again(
    proxy: Proxy, access: GoogleAccess, fault: str, stream: bool
) -> None:
    prompt = f"Say exactly: healed [fault:{fault} after={1 + stream}]"
    assert text_of(ask(proxy, prompt, stream=stream)).startswith("healed")
