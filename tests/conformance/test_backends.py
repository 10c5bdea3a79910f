"""The scripted upstreams: official SDKs read their replies, wrong requests are refused, and incidents happen."""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import anthropic
import openai
import pytest
import typing_extensions
from anthropic.types.beta import message_count_tokens_params as count_params
from anthropic.types.beta import message_create_params as message_params
from google import genai
from google.genai import types
from ollama import Client
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import input_token_count_params
from openai.types.responses import response_create_params as response_params

from messages_conformance.backends import PROTOCOLS, start_backend
from messages_conformance.backends.gemini.shapes import REQUEST as GEMINI
from messages_conformance.backends.messages.editing import edit_context
from messages_conformance.backends.messages.shapes import COUNT, REQUEST
from messages_conformance.backends.openai import shapes
from messages_conformance.backends.server import ScriptedUpstream
from messages_conformance.rows import SuiteError
from tests.support.api_fields import read_places
from tests.support.tables import in_one_test
from tests.support.tls import NO_AUTHORITIES
from tests.support.waiting import WAIT_SECONDS

PROMPT = "Hello. [trial t1]"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FULL: dict[str, Any] = {
    "parts": [
        {"thinking": ["Two ", "cities."], "signature": "c2lnbmVk"},
        {"text": "I ask for both, “wie gewünscht” ✓."},
        {"call": {"name": "get_weather", "arguments": {"city": "Paris"}, "id": "call_a"}},
        {"call": {"name": "get_weather", "pieces": ['{"ci', 'ty": "Oslo"}'], "id": "call_b"}},
    ],
    "usage": {"input": 100, "output": 20, "cached": 60, "thinking": 5},
}
TEXT = "I ask for both, “wie gewünscht” ✓."
CALLS = [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Oslo"})]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, ScriptedUpstream]]:
    started = {protocol: start_backend(protocol, "127.0.0.1", 0) for protocol in PROTOCOLS}
    yield started  # type: ignore[misc]
    for upstream in started.values():
        upstream.close()


Seen = dict[str, Any]
"""What an SDK says about a reply: text, thinking, calls, finish, input, output and cached."""


def ask_openai(url: str, stream: bool) -> Seen:
    client = openai.OpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=0, http_client=openai.DefaultHttpxClient(verify=NO_AUTHORITIES)
    )
    tool: Any = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
    asked: dict[str, Any] = {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": PROMPT}],
        "tools": [tool],
        "max_completion_tokens": 100,
    }
    if stream:
        with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as events:
            thinking = "".join(
                event.chunk.choices[0].delta.model_extra.get("reasoning_content", "")
                for event in events
                if event.type == "chunk" and event.chunk.choices
            )
            reply = events.get_final_completion()
    else:
        reply = client.chat.completions.create(**asked)
        thinking = reply.choices[0].message.model_extra["reasoning_content"]
    [choice] = reply.choices
    return {
        "text": choice.message.content,
        "thinking": thinking,
        "calls": [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls],
        "finish": choice.finish_reason,
        "tokens": (
            reply.usage.prompt_tokens,
            reply.usage.completion_tokens,
            reply.usage.prompt_tokens_details.cached_tokens,
        ),
    }


def ask_responses(url: str, stream: bool) -> Seen:
    client = openai.OpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=0, http_client=openai.DefaultHttpxClient(verify=NO_AUTHORITIES)
    )
    asked: dict[str, Any] = {
        "model": "gpt-x",
        "input": PROMPT,
        "tools": [{"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}],
        "include": ["reasoning.encrypted_content"],
    }
    if stream:
        with client.responses.stream(**asked) as events:
            reply: Any = events.get_final_response()
    else:
        reply = client.responses.create(**asked)
    [reasoning] = [item for item in reply.output if item.type == "reasoning"]
    assert reasoning.encrypted_content == "c2lnbmVk"
    calls = [item for item in reply.output if item.type == "function_call"]
    return {
        "text": reply.output_text,
        "thinking": reasoning.summary[0].text,
        "calls": [(call.name, json.loads(call.arguments)) for call in calls],
        "finish": reply.status,
        "tokens": (
            reply.usage.input_tokens,
            reply.usage.output_tokens,
            reply.usage.input_tokens_details.cached_tokens,
        ),
    }


def ask_gemini(url: str, stream: bool) -> Seen:
    options = types.HttpOptions(base_url=url, client_args={"verify": NO_AUTHORITIES})
    client = genai.Client(api_key="k", http_options=options)
    function = types.FunctionDeclaration(name="get_weather", parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[function])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    asked: dict[str, Any] = {"model": "gemini-x", "contents": PROMPT, "config": config}
    if stream:
        chunks = list(client.models.generate_content_stream(**asked))
    else:
        chunks = [client.models.generate_content(**asked)]
    candidates = [candidate for chunk in chunks for candidate in chunk.candidates or ()]
    parts = [part for candidate in candidates if candidate.content for part in candidate.content.parts or ()]
    calls = [part for part in parts if part.function_call]
    assert [part.thought_signature for part in calls] == [b"signed", None]
    usage = chunks[-1].usage_metadata
    assert usage is not None
    assert candidates[-1].finish_reason is not None
    return {
        "text": "".join(part.text for part in parts if part.text and not part.thought),
        "thinking": "".join(part.text for part in parts if part.text and part.thought),
        "calls": [(part.function_call.name, part.function_call.args) for part in calls if part.function_call],
        "finish": candidates[-1].finish_reason.value,
        "tokens": (
            usage.prompt_token_count,
            (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
            usage.cached_content_token_count,
        ),
    }


def ask_ollama(url: str, stream: bool) -> Seen:
    tool = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": SCHEMA}}
    asked: dict[str, Any] = {
        "model": "qwen3",
        "messages": [{"role": "user", "content": PROMPT}],
        "tools": [tool],
    }
    client = Client(url)
    chunks = list(client.chat(**asked, stream=True)) if stream else [client.chat(**asked)]
    messages = [chunk.message for chunk in chunks]
    calls = [call.function for message in messages for call in message.tool_calls or ()]
    return {
        "text": "".join(message.content or "" for message in messages),
        "thinking": "".join(message.thinking or "" for message in messages),
        "calls": [(call.name, dict(call.arguments)) for call in calls],
        "finish": chunks[-1].done_reason,
        "tokens": (chunks[-1].prompt_eval_count, chunks[-1].eval_count, 60),
    }


def ask_messages(url: str, stream: bool) -> Seen:
    client = anthropic.Anthropic(
        base_url=url, api_key="k", max_retries=0, http_client=anthropic.DefaultHttpxClient(verify=NO_AUTHORITIES)
    )
    asked: dict[str, Any] = {
        "model": "claude-x",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": PROMPT}],
        "tools": [{"name": "get_weather", "input_schema": SCHEMA}],
    }
    if stream:
        with client.messages.stream(**asked) as events:
            reply = events.get_final_message()
    else:
        reply = client.messages.create(**asked)
    thinking, text, *calls = reply.content
    assert thinking.type == "thinking"
    assert text.type == "text"
    assert thinking.signature == "c2lnbmVk"
    usage = reply.usage
    return {
        "text": text.text,
        "thinking": thinking.thinking,
        "calls": [(call.name, call.input) for call in calls if call.type == "tool_use"],
        "finish": reply.stop_reason,
        "tokens": (
            usage.input_tokens + (usage.cache_read_input_tokens or 0),
            usage.output_tokens,
            usage.cache_read_input_tokens,
        ),
    }


ASKS: dict[str, tuple[Callable[[str, bool], Seen], str]] = {
    "openai": (ask_openai, "tool_calls"),
    "responses": (ask_responses, "completed"),
    "gemini": (ask_gemini, "STOP"),
    "ollama": (ask_ollama, "stop"),
    "messages": (ask_messages, "tool_use"),
}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_official_sdk_reads_a_reply(upstreams: dict[str, ScriptedUpstream], protocol: str, stream: bool) -> None:
    upstream = upstreams[protocol]
    ask, finish = ASKS[protocol]
    upstream.expect("t1", [FULL])
    seen = ask(upstream.url, stream)
    [request] = upstream.take_requests("t1")
    assert (request.refusal, request.left) == ("", None)
    assert seen == {
        "text": TEXT,
        "thinking": "Two cities.",
        "calls": CALLS,
        "finish": finish,
        "tokens": (100, 20, 60),
    }


MINIMAL: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": (
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "stream_options": {"include_usage": True}},
    ),
    "responses": ("/v1/responses", {"model": "m", "input": PROMPT}),
    "gemini": (
        "/v1beta/models/m:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]},
    ),
    "ollama": ("/api/chat", {"model": "m", "messages": [{"role": "user", "content": PROMPT}]}),
    "messages": ("/v1/messages", {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": PROMPT}]}),
}
HEADERS = {"authorization": "Bearer k", "x-api-key": "k", "anthropic-version": "2023-06-01"}


@contextmanager
def posting(upstream: Any, path: str, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(urlsplit(upstream.url).netloc, timeout=WAIT_SECONDS)
    with closing(connection):
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **HEADERS})
        yield connection.getresponse()


def post(upstream: Any, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    with posting(upstream, path, body) as response:
        try:
            return response.status, response.read()
        except http.client.IncompleteRead as error:
            return -response.status, error.partial
        except ConnectionError:
            return -response.status, b""


def ask_streamed(protocol: str) -> tuple[str, dict[str, Any]]:
    path, body = MINIMAL[protocol]
    return path, body if protocol == "gemini" else {**body, "stream": True}


def ask_whole(protocol: str) -> tuple[str, dict[str, Any]]:
    path, body = MINIMAL[protocol]
    body = {name: value for name, value in body.items() if name != "stream_options"}
    return path.replace("streamGenerate", "generate"), body if protocol == "gemini" else {**body, "stream": False}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_incidents(upstreams: dict[str, ScriptedUpstream], protocol: str) -> None:
    """Each incident in a stream, and in a reply that is not streamed."""
    upstream = upstreams[protocol]
    begun = {"text": ["Well", {"pause": 0.01, "alive": 0.004}, " said"]}
    ends = {
        "openai": b"[DONE]",
        "responses": b"response.completed",
        "ollama": b'"done":true',
        "messages": b"message_stop",
    }
    end = ends.get(protocol, b"finishReason")

    def run(part: dict[str, Any], ask: Callable[[str], tuple[str, dict[str, Any]]]) -> tuple[int, bytes]:
        upstream.expect("t1", [{"parts": [begun, part]}])
        return post(upstream, *ask(protocol))

    status, body = run({"text": "."}, ask_streamed)
    assert (status, b"Well" in body, end in body) == (200, True, True)
    for cut in ("broken", "orderly"):
        status, body = run({"cut": cut}, ask_streamed)
        assert (abs(status), status > 0, end in body) == (200, cut == "orderly", False)
        status, body = run({"cut": cut}, ask_whole)
        assert status == -200
    status, body = run({"error": {"kind": "server", "message": "It broke."}}, ask_streamed)
    assert (status, b"Well" in body, b"It broke." in body, end in body) == (200, True, True, False)
    status, body = run({"error": {"kind": "overloaded", "message": "Too busy."}}, ask_whole)
    assert (status, b"Too busy." in body) == (529 if protocol == "messages" else 503, True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_that_leaves_is_noticed_in_a_pause(upstreams: dict[str, ScriptedUpstream], protocol: str) -> None:
    upstream = upstreams[protocol]
    upstream.expect("t1", [{"parts": [{"text": ["Well", {"pause": 60}]}]}])
    with posting(upstream, *ask_streamed(protocol)) as response:
        assert b"Well" in iter_until(response, b"Well")
        response.close()
    [request] = upstream.take_requests("t1")
    assert request.left is not None


def iter_until(response: http.client.HTTPResponse, wanted: bytes) -> bytes:
    read = b""
    while wanted not in read:
        read += response.read1()
    return read


FORMS: dict[str, Callable[[Any], Any]] = {
    "openai": lambda body: (body["error"]["message"], body["error"]["code"]),
    "responses": lambda body: (body["error"]["message"], body["error"]["code"]),
    "gemini": lambda body: (body["error"]["message"], body["error"]["status"]),
    "ollama": lambda body: (body["error"], None),
    "messages": lambda body: (body["error"]["message"], body["error"]["type"]),
}
ALONE = {"type": "tool_result", "tool_use_id": "a", "content": "x"}


@in_one_test
@pytest.mark.parametrize(
    ("protocol", "change", "refusal"),
    [
        ("openai", {"thinking": {}}, ("Unrecognized request argument supplied: thinking", None)),
        (
            "openai",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]}]},
            ("Unknown parameter: 'messages[0].content[0].cache_control'.", "unknown_parameter"),
        ),
        (
            "openai",
            {"messages": [{"role": "tool", "tool_call_id": "a", "content": "x"}]},
            (
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                "'tool_calls'.",
                None,
            ),
        ),
        (
            "openai",
            {"max_tokens": "9"},
            ("Invalid type for 'max_tokens': expected an integer, but got a string instead.", "invalid_type"),
        ),
        (
            "openai",
            {"tool_choice": "any", "tools": []},
            ("Invalid value: 'any'. Supported values are: 'none', 'auto', 'required'.", "invalid_value"),
        ),
        ("responses", {"max_tokens": 9}, ("Unrecognized request argument supplied: max_tokens", None)),
        (
            "responses",
            {"input": [{"type": "function_call_output", "call_id": "a", "output": "x"}]},
            ("No tool call found for function call output with call_id a.", None),
        ),
        (
            "responses",
            {"input": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
            (
                "Invalid value: 'text'. Supported values are: 'input_text', 'input_image', 'input_file', "
                "'output_text', 'refusal'.",
                "invalid_value",
            ),
        ),
        (
            "gemini",
            {"max_tokens": 9},
            ('Invalid JSON payload received. Unknown name "maxTokens": Cannot find field.', "INVALID_ARGUMENT"),
        ),
        (
            "gemini",
            {"contents": [{"role": "model", "parts": [{"text": "a"}]}]},
            ("Please ensure that multiturn requests start with a user turn.", "INVALID_ARGUMENT"),
        ),
        (
            "ollama",
            {"messages": "a"},
            ("json: cannot unmarshal string into Go struct field ChatRequest.messages of type []Message", None),
        ),
        (
            "messages",
            {"n": 1},
            ("n: Extra inputs are not permitted", "invalid_request_error"),
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": [ALONE]}]},
            (
                "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: a. Each `tool_result` "
                "block must have a corresponding `tool_use` block in the previous message.",
                "invalid_request_error",
            ),
        ),
    ],
)
def test_what_the_provider_rejects_is_refused(protocol: str, change: dict[str, Any], refusal: Any) -> None:
    with closing(start_backend(protocol, "127.0.0.1", 0)) as upstream:
        path, body = ask_whole(protocol)
        status, reply = post(upstream, path, {**body, **change})
    assert (status, FORMS[protocol](json.loads(reply))) == (400, refusal)


def test_tokens_of_a_responses_input_are_counted(upstreams: dict[str, ScriptedUpstream]) -> None:
    client = openai.OpenAI(
        base_url=f"{upstreams['responses'].url}/v1",
        api_key="k",
        max_retries=0,
        http_client=openai.DefaultHttpxClient(verify=NO_AUTHORITIES),
    )
    counts = [client.responses.input_tokens.count(model="gpt-x", input=text).input_tokens for text in ("a", "a" * 99)]
    assert 0 < counts[0] < counts[1]
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.input_tokens.count(model="gpt-x", input="a", extra_body={"stop": ["a"]})
    assert raised.value.body == {
        "message": "Unrecognized request argument supplied: stop",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


def test_a_field_that_is_accepted_is_not_refused() -> None:
    path, body = ask_whole("openai")
    with closing(start_backend("openai", "127.0.0.1", 0, ["chat_template_kwargs"])) as upstream:
        accepted, _ = post(upstream, path, {**body, "chat_template_kwargs": {"thinking": False}})
        refused, _ = post(upstream, path, {**body, "other": 1})
    assert (accepted, refused) == (200, 400)


def test_each_trial_gets_its_replies_in_order(upstreams: dict[str, ScriptedUpstream]) -> None:
    """The last token of a request decides; the last reply answers all further calls; a refused call gets none."""
    upstream = upstreams["messages"]
    upstream.expect("t1", [{"parts": [{"text": "first"}]}, {"error": {"kind": "overloaded"}}])
    upstream.expect("t2", [{"parts": [{"text": "other"}]}])
    path, body = ask_whole("messages")

    def ask(text: str, **fields: Any) -> tuple[int, Any]:
        status, reply = post(upstream, path, {**body, "messages": [{"role": "user", "content": text}], **fields})
        read = json.loads(reply)
        return status, read["content"][0]["text"] if status == 200 else read["error"]["message"]

    asked = [
        ask("a [trial t1]", n=1),
        ask("a [trial t2] [trial t1]"),
        ask("a [trial t1]"),
        ask("a [trial t1]"),
        ask("a [trial t1] [trial t2]"),
        ask("a"),
    ]
    assert asked == [
        (400, "n: Extra inputs are not permitted"),
        (200, "first"),
        (529, "Overloaded"),
        (529, "Overloaded"),
        (200, "other"),
        (200, "All is well."),
    ]
    assert [request.refusal for request in upstream.take_requests("t1")] == [asked[0][1], "", "", ""]
    assert [request.header("X-API-Key") for request in upstream.take_requests("t2")] == ["k"]


@in_one_test
@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            {"part": []},
            "reply 1: reply has no field part; allowed: awaits, delay, error, mixes_calls, names_tier, parts, stop, "
            "stop_sequence, usage",
        ),
        (
            {"stop": "end"},
            "reply 1: stop is 'end'; allowed: end_turn, tool_use, max_tokens, stop_sequence, refusal, context_window, "
            "pause_turn",
        ),
        ({"parts": [{"cut": True}]}, "reply 1: cut is True; allowed: broken, orderly"),
        (
            {"parts": [{"text": [{"wait": 1}]}]},
            "reply 1: a part has one of text, thinking, call, pause, cut, error; this one has wait",
        ),
        ({"parts": [{"call": {}}]}, "reply 1: a call has a name or a tool, and arguments or pieces"),
    ],
)
def test_a_wrong_script_is_a_fault_of_the_suite(reply: dict[str, Any], message: str) -> None:
    with closing(start_backend("openai", "127.0.0.1", 0)) as upstream, pytest.raises(SuiteError) as raised:
        upstream.expect("t1", [reply])
    assert str(raised.value) == message


@in_one_test
@pytest.mark.parametrize(
    ("schema", "hint", "beside"),
    [
        (shapes.CHAT, chat_params.CompletionCreateParamsBase, {"stream"}),
        (shapes.RESPONSES, response_params.ResponseCreateParamsBase, {"stream"}),
        (shapes.RESPONSES_COUNT, input_token_count_params.InputTokenCountParams, set()),
        (
            REQUEST,
            message_params.MessageCreateParamsBase,
            {"stream", "temperature", "top_k", "top_p", "stop_sequences", "safeguards"},
        ),
        (COUNT, count_params.MessageCountTokensParams, set()),
    ],
    ids=["chat", "responses", "count of responses", "messages", "count of messages"],
)
def test_a_request_has_the_fields_of_the_sdk(schema: Any, hint: Any, beside: set[str]) -> None:
    in_headers = {"betas", "user_profile_id", "workspace_id"}
    assert set(schema["properties"]) == set(typing_extensions.get_type_hints(hint)) - in_headers | beside


@in_one_test
@pytest.mark.parametrize(
    "place", ["cache_control", "context_management.edits", "messages", "metadata", "thinking", "tool_choice"]
)
def test_parts_of_a_request_to_messages_have_the_fields_of_the_sdk(place: str) -> None:
    schema = REQUEST
    for name in place.split("."):
        schema = schema["properties"][name]
    assert fields_of(schema.get("items", schema)) == set(read_places()[place])


def fields_of(schema: Any) -> set[str]:
    """Return the fields of an object, of all its kinds."""
    kinds = [kind["then"] for kind in schema.get("allOf", ())]
    return {*schema["properties"], *(name for kind in kinds for name in kind["properties"])}


def test_a_request_of_auto_mode_is_accepted(upstreams: dict[str, ScriptedUpstream]) -> None:
    path, body = ask_whole("messages")
    checked = {"type": "dangerous_tool_use", "classifier_context": {"v": 1, "permission_mode": "auto"}}
    messages = [{"role": "user", "content": "Hello."}]
    status, _ = post(upstreams["messages"], path, {**body, "messages": messages, "safeguards": [checked]})
    assert status == 200


def test_parts_of_a_request_to_gemini_have_the_fields_of_the_sdk() -> None:
    """Fields of Vertex AI alone are left out."""
    other_api = {
        types.Part: set[str](),
        types.Content: set(),
        types.FunctionDeclaration: set(),
        types.GenerationConfig: {"audioTimestamp", "modelSelectionConfig", "routingConfig", "enableAffectiveDialog"},
    }
    properties = GEMINI["properties"]
    parts = properties["contents"]["items"]["properties"]["parts"]["items"]
    function = properties["tools"]["items"]["properties"]["functionDeclarations"]["items"]
    known = {
        types.Part: parts,
        types.Content: properties["contents"]["items"],
        types.FunctionDeclaration: function,
        types.GenerationConfig: properties["generationConfig"],
    }
    for model, schema in known.items():
        names = {field.alias or name for name, field in model.model_fields.items()}
        assert set(schema["properties"]) - {"imageConfig"} == names - other_api[model], model


def test_thinking_before_a_summary_counts_towards_no_edit() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmVk"}
    old, summary, new = ({"type": kind, "text": "", "content": "All."} for kind in ("text", "compaction", "text"))
    question = {"role": "user", "content": [{"type": "text", "text": "And then?"}]}
    messages = [
        question,
        {"role": "assistant", "content": [thought, old]},
        question,
        {"role": "assistant", "content": [thought, summary, thought, new]},
        question,
    ]
    edit = {"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 1}}
    body, applied = edit_context({"messages": messages, "context_management": {"edits": [edit]}})
    assert body["messages"] == [{"role": "assistant", "content": [summary, thought, new]}, question]
    assert applied == []
