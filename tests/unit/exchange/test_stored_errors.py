"""Words of a request in an error: the client gets them, and no log, record or metric has them."""

import base64
import json
import re
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize
from urllib.parse import quote

import msgspec
import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.forwarding import count_tokens, forward_resource
from anthropic_proxy.engine.messages.models.client_json import read_json
from anthropic_proxy.engine.upstream.contract import FetchedPage
from anthropic_proxy.engine.wires.failures.quoted_prompts import RequestWords
from anthropic_proxy.errors import InvalidRequest, ProxyError
from anthropic_proxy.plugins import Client
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.pdf import document, write_pdf
from tests.support.pictures import BLIND, IMAGES, chat_reply, paint, show
from tests.support.replies import CHAT, MESSAGES, Reply
from tests.support.routes import CONFIG_FILE

Json = dict[str, Any]
OPENAI = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat"}
CLAUDE = {"ANTHROPIC_API_KEY": "sk-ant-test-0123456789"}
WORDS = "Paul's diagnosis is diabetes"
SENTENCE = f"{WORDS}, and nobody at work may know about it before the summer."
USER: Json = {"role": "user", "content": SENTENCE}
ACCENTS = "Gr\u00fc\u00dfe an Bj\u00f6rn \u2013 it\u2019s his \U0001f382 / birthday"
CHINESE = "\u5f20\u4f1f\u60a3\u6709\u7cd6\u5c3f\u75c5\u800c\u4e14\u6ca1\u6709\u4eba\u77e5\u9053"
CARD = "4111 1111 1111 1111"
SMALL = f"Paul Meier, paul@meier.example, {CARD}; the maximum value is all; allowed number. diabetes"
RUSSIAN = "Пароль Иванова Секретный Договор"
URL = "https://intranet.corp.example/hr/salaries/2026?person=Meyer"
FILE = "/home/alice/projects/nightfall/plan.md"
ACCOUNT = "DE89370400440532013000"
PROMPT = f"{SENTENCE} {ACCENTS} {CHINESE} {SMALL} {RUSSIAN} {URL} {FILE} {ACCOUNT} Müller-Lüdenscheid"


def escape_in_capitals(body: Json) -> str:
    return re.sub(r"\\u[0-9a-f]{4}", lambda match: rf"\u{match[0][2:].upper()}", json.dumps(body))


def escape_without_need(body: Json) -> str:
    text = json.dumps(body, ensure_ascii=False).replace("/", r"\/")
    return text.replace("'", r"\u0027").replace("\u2019", r"\u2019").replace("an Bj", r"\u0061n Bj")


SPELLINGS: Mapping[str, Callable[[Json], str]] = {
    "UTF-8": lambda body: json.dumps(body, ensure_ascii=False),
    "escapes": json.dumps,
    "escapes in capitals": escape_in_capitals,
    "escapes that nobody needs": escape_without_need,
    "without spaces": lambda body: json.dumps(body, separators=(",", ":")),
}


NO_DOMAIN = "is not a domain; use one such as example.com or example.com/blog, without https://, with at most one *, "
NO_DOMAIN += "in its path"


def own(**fields: Any) -> Json:
    return {"messages": [USER], **fields}


def with_blocks(*blocks: Json) -> Json:
    return own(messages=[{"role": "user", "content": [*blocks]}])


OWN: Mapping[str, tuple[Json, str, str]] = {
    "a role": (
        own(messages=[{"role": SENTENCE, "content": "a"}]),
        f"messages.0.role: Input should be 'user', 'assistant' or 'system', got \"{SENTENCE[:58]}…",
        f"messages.0.role: Input should be 'user', 'assistant' or 'system', got a string of {len(SENTENCE) + 2} bytes",
    ),
    "a content": (
        own(messages=[{"role": "user", "content": {"a": WORDS}}]),
        f'messages.0.content: Input should be a string or a list of blocks, got {{"a": "{WORDS}"}}',
        f"messages.0.content: Input should be a string or a list of blocks, got an object of {len(WORDS) + 9} bytes",
    ),
    "a text": (
        with_blocks({"type": "text", "text": [WORDS]}),
        f'messages.0.content.0.text: Input should be a string, got ["{WORDS}"]',
        f"messages.0.content.0.text: Input should be a string, got a list of {len(WORDS) + 4} bytes",
    ),
    "a field of the body": (
        own(temperature=WORDS),
        f'temperature: Input should be a number, got "{WORDS}"',
        f"temperature: Input should be a number, got a string of {len(WORDS) + 2} bytes",
    ),
    "a number": (
        own(stop_sequences=4716052381),
        "stop_sequences: Input should be a list, got 4716052381",
        "stop_sequences: Input should be a list, got a number of 10 bytes",
    ),
    "a constant": (
        own(stop_sequences=True),
        "stop_sequences: Input should be a list, got true",
        "stop_sequences: Input should be a list, got true",
    ),
    "an edit": (
        own(context_management={"edits": [{"type": "clear_tool_uses_20250919", "keep": WORDS}]}),
        f'context_management.edits.0.keep: Input should be an object, got "{WORDS}"',
        f"context_management.edits.0.keep: Input should be an object, got a string of {len(WORDS) + 2} bytes",
    ),
    "the field compaction": (
        own(compaction={"type": WORDS}),
        f"compaction.type: Input should be 'summarize', got \"{WORDS}\"",
        f"compaction.type: Input should be 'summarize', got a string of {len(WORDS) + 2} bytes",
    ),
    "a media type": (
        with_blocks({"type": "image", "source": {"type": "base64", "media_type": "audio/my-secret", "data": "AAAA"}}),
        "messages.0.content.0.source.media_type: audio/my-secret is not supported; use a JPEG, PNG, GIF or WebP image, "
        "a PDF or text",
        "messages.0.content.0.source.media_type: (a text of 15 characters) is not supported; use a JPEG, PNG, GIF or "
        "WebP image, a PDF or text",
    ),
    "a forced tool": (
        own(tools=[{"name": "Read", "input_schema": {"type": "object"}}], tool_choice={"type": "tool", "name": WORDS}),
        f"tool_choice.name: no tool named {WORDS!r} is offered; there are: Read",
        f"tool_choice.name: no tool named (a text of {len(WORDS) + 2} characters) is offered; there are: Read",
    ),
    "domains": (
        own(tools=[{"type": "web_search_20250305", "name": "web_search", "allowed_domains": [WORDS]}]),
        f"tools.web_search.allowed_domains: {WORDS!r} {NO_DOMAIN}",
        f"tools.web_search.allowed_domains: (a text of {len(f'{WORDS!r} {NO_DOMAIN}')} characters)",
    ),
}


async def send(
    body: Json,
    settings: Mapping[str, str],
    upstream: Any = None,
    path: str = "/v1/messages",
    spell: Callable[[Json], str] = json.dumps,
) -> tuple[ProxyError, ProxyHarness]:
    built = ProxyHarness(upstream or (lambda *_: FakeResponse(500)), **settings)
    data = spell({"model": "claude-sonnet-4-5", "max_tokens": 500, **body}).encode()
    incoming = new_client_request(data, {}, path=path, client=Client(credential_forwardable=True))
    sink = RecordingSink()
    sink.receipt = incoming.receipt
    try:
        if path == "/v1/messages":
            await Exchange(built.services, incoming, sink).run()
        elif path.endswith("count_tokens"):
            await count_tokens(built.services, incoming, sink.wait_disconnected)
        else:
            await forward_resource(built.services, incoming, "POST", sink)
    except ProxyError as error:
        sink.error = error
    assert sink.error is not None
    return sink.error, built


@pytest.mark.parametrize("case", OWN)
async def test_an_error_of_the_proxy_stores_type_and_length_of_a_value(case: str) -> None:
    body, shown, stored = OWN[case]
    error, built = await send(body, OPENAI)
    assert error.message == shown
    (receipt,) = built.receipts
    assert receipt.error == stored
    assert WORDS not in built.log.getvalue()
    assert WORDS not in repr(receipt)


async def test_an_error_about_a_request_of_a_batch_keeps_its_quote(tmp_path: Path) -> None:
    route = '[[routes]]\nname = "a"\ntargets = ["anthropic/claude-opus-4-5"]\n[routes.when]\nmodel = "x"\n'
    (tmp_path / CONFIG_FILE).write_text(route)
    params = {"model": "claude-sonnet-4-5", "stream": WORDS, "messages": [USER]}
    requests = [{"custom_id": "a", "params": params}]
    settings = {**CLAUDE, "env_file": str(tmp_path / ".env")}
    error, _ = await send({"requests": requests}, settings, path="/v1/messages/batches")
    assert error.message == f'requests.0.params.stream: Input should be true or false, got "{WORDS}"'
    got = f"a string of {len(WORDS) + 2} bytes"
    assert error.stored_message == f"requests.0.params.stream: Input should be true or false, got {got}"


def refuse(text: str) -> Any:
    def answer(*_: Any) -> FakeResponse:
        return FakeResponse(400, json.dumps({"error": {"message": text, "type": "invalid_request_error"}}).encode())

    return answer


PROVIDER: Mapping[str, tuple[str, str]] = {
    "a printed value": (
        f"[{{'type': 'string_type', 'loc': ('body', 'x'), 'msg': 'Input should be valid', 'input': \"{SENTENCE}\"}}]",
        "[{'type': 'string_type', 'loc': ('body', 'x'), 'msg': 'Input should be valid', 'input': "
        f'"({len(SENTENCE)} characters of the request)"}}]',
    ),
    "words without marks": (
        f"The filter has found this: {SENTENCE} Write something else.",
        f"The filter has found this: ({len(SENTENCE)} characters of the request) Write something else.",
    ),
    "letters that are not ASCII": (
        f"The filter has found '{ACCENTS}' in it.",
        f"The filter has found '({len(ACCENTS)} characters of the request)' in it.",
    ),
    "a text as JSON": (
        f"input_value={json.dumps(ACCENTS)}",
        f'input_value="({len(json.dumps(ACCENTS)) - 2} characters of the request)"',
    ),
    "a language without spaces": (
        f"内容包含{CHINESE}请修改",
        f"内容包含({len(CHINESE)} characters of the request)请修改",
    ),
    "a number": (
        f"found {CARD} in the request",
        f"found ({len(CARD)} characters of the request) in the request",
    ),
    "a name of two words": (
        "The prompt contains Paul Meier, which is not allowed.",
        "The prompt contains (10 characters of the request), which is not allowed.",
    ),
    "an address": (
        "blocked: paul@meier.example is personal data",
        "blocked: (18 characters of the request) is personal data",
    ),
    "one word between marks": (
        "'diabetes' is a blocked term",
        "'(8 characters of the request)' is a blocked term",
    ),
    "a value that pydantic shortens": (
        f"[type=int_parsing, input_value='{URL[:24]}...{URL[-23:]}', input_type=str]",
        "[type=int_parsing, input_value='(24 characters of the request)...(23 characters of the request)', "
        "input_type=str]",
    ),
    "an object that pydantic shortens": (
        f"input_value={{'role': 'user', 'text': ...{FILE[-22:]}'}}, input_type=dict",
        "input_value={'role': 'user', 'text': ...(22 characters of the request)'}, input_type=dict",
    ),
    "the ends of a path": (
        f"Invalid value: {FILE[1:20]}...{FILE[-15:]} is bad",
        "Invalid value: (19 characters of the request)...(15 characters of the request) is bad",
    ),
    "the beginning of a word": (
        f"cannot read {FILE[:13]}\u2026 of it",
        "cannot read /(12 characters of the request)\u2026 of it",
    ),
    "stars": (
        f"cannot read {FILE[1:11]}****{FILE[-12:]}",
        "cannot read (10 characters of the request)****(12 characters of the request)",
    ),
    "a passage at any place": (
        f"aa is bad: {SENTENCE[11:40]}",
        "aa is bad: (29 characters of the request)",
    ),
    "escapes of HTML": (
        f"<p>invalid character in &quot;{ACCOUNT}&quot; and &#39;dia&#98;etes&#x27;</p>",
        "<p>invalid character in &quot;(22 characters of the request)&quot; and &#39;(12 characters of the request)"
        "&#x27;</p>",
    ),
    "escapes of a URL": (
        f"cannot fetch {quote(URL, safe='')}",
        f"cannot fetch ({len(quote(URL, safe=''))} characters of the request)",
    ),
    "escapes of Python": (
        f"got {'Müller-Lüdenscheid'!a} and {'Müller-Lüdenscheid'.encode()!r}",
        "got '(24 characters of the request)' and b'(32 characters of the request)'",
    ),
    "accents apart": (
        f"got {normalize('NFD', 'Müller-Lüdenscheid')} here",
        "got (20 characters of the request) here",
    ),
    "lower case of any letters": (
        f"forbidden words: {RUSSIAN.lower()}",
        f"forbidden words: ({len(RUSSIAN)} characters of the request)",
    ),
    "upper case of any letters": (
        f"forbidden words: {RUSSIAN.upper()}",
        f"forbidden words: ({len(RUSSIAN)} characters of the request)",
    ),
    "usual words": (
        "max_tokens: the maximum value is 64000, which is the maximum allowed number of tokens for the tool Read",
        "max_tokens: the maximum value is 64000, which is the maximum allowed number of tokens for the tool Read",
    ),
    "the name of the model": (
        "The model 'claude-sonnet-4-5-20250929' does not accept 'temperature' above 'one point zero'.",
        "The model 'claude-sonnet-4-5-20250929' does not accept 'temperature' above 'one point zero'.",
    ),
}


@pytest.mark.parametrize("settings", [OPENAI, CLAUDE], ids=["translated", "relayed"])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("case", PROVIDER)
async def test_an_error_of_a_provider_stores_no_words_of_the_request(
    case: str, spelling: str, settings: Mapping[str, str]
) -> None:
    text, stored = PROVIDER[case]
    tools = [{"name": "Read", "description": "Read the tool Read", "input_schema": {"type": "object"}}]
    body = {"model": "claude-sonnet-4-5-20250929", "messages": [{"role": "user", "content": PROMPT}], "tools": tools}
    error, built = await send(body, settings, refuse(text), spell=SPELLINGS[spelling])
    assert text in error.message
    (receipt,) = built.receipts
    assert stored in receipt.error
    assert all(stored in attempt.error for attempt in receipt.attempts)
    assert WORDS not in built.log.getvalue()
    assert WORDS not in repr(receipt)


@pytest.mark.parametrize("settings", [OPENAI, CLAUDE], ids=["translated", "relayed"])
async def test_the_middle_of_a_large_request_is_compared(settings: Mapping[str, str]) -> None:
    filler = "lorem ipsum " * 140_000
    body = own(messages=[{"role": "user", "content": f"{filler}{PROMPT}{filler}"}])
    error, built = await send(body, settings, refuse(f"found {SENTENCE} {CARD}"))
    assert SENTENCE in error.message
    (receipt,) = built.receipts
    assert receipt.error.endswith(f"found ({len(SENTENCE)} characters of the request) (19 characters of the request)")
    assert WORDS not in built.log.getvalue()
    assert WORDS not in repr(receipt)


def in_base64(codec: str) -> Json:
    data = base64.b64encode(f"Ein Auszug für alle. {SENTENCE}".encode(codec)).decode()
    return {"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": data}}


READ: Mapping[str, tuple[Mapping[str, str], Json]] = {
    "a PDF": ({"GROQ_API_KEY": "gsk_0123456789abcdef", "BIG_MODEL": BLIND}, document(write_pdf(SENTENCE))),
    "a text in base64, translated": (OPENAI, in_base64("utf-8")),
    "a text in base64, relayed": (CLAUDE, in_base64("utf-8")),
    "a text in UTF-16, translated": (OPENAI, in_base64("utf-16")),
    "a text in UTF-16, relayed": (CLAUDE, in_base64("utf-16")),
    "a text of eight bits, relayed": (CLAUDE, in_base64("cp1252")),
}


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("case", READ)
async def test_an_error_of_a_provider_stores_no_words_that_the_proxy_has_decoded(case: str, is_stream: bool) -> None:
    settings, block = READ[case]
    body = own(messages=[{"role": "user", "content": [block]}], stream=is_stream)
    error, built = await send(body, settings, refuse(f"The filter has found this: {SENTENCE}"))
    assert SENTENCE in error.message
    (receipt,) = built.receipts
    assert receipt.error.endswith(f"The filter has found this: ({len(SENTENCE)} characters of the request)")
    assert WORDS not in built.log.getvalue()
    assert WORDS not in repr(receipt)


@pytest.mark.parametrize("relays", [True, False], ids=["relayed", "translated"])
async def test_an_error_of_a_provider_stores_no_words_of_a_description(tmp_path: Path, relays: bool) -> None:
    told = f"The filter has found this: {SENTENCE}"

    def answer(base_url: str, *_: Any) -> FakeResponse:
        return chat_reply(SENTENCE) if "moonshot" in base_url else refuse(told)()

    relay = '[providers.msgs]\nbase_url = "http://msgs.test"\nwire = "messages"\n'
    relay += '[providers.msgs.models]\n"text" = { accepts_images = false }\n'
    (tmp_path / CONFIG_FILE).write_text(IMAGES + relay)
    keys = {"MOONSHOT_API_KEY": "sk-0123456789abcdef", "GROQ_API_KEY": "gsk_0123456789abcdef"}
    body = own(messages=[{"role": "user", "content": [show(paint("red"))]}])
    settings = {**keys, "BIG_MODEL": "msgs/text" if relays else BLIND, "env_file": str(tmp_path / ".env")}
    error, built = await send(body, settings, answer)
    assert SENTENCE in error.message
    receipt = built.receipts[-1]
    assert receipt.error.endswith(f"The filter has found this: ({len(SENTENCE)} characters of the request)")
    assert WORDS not in built.log.getvalue()
    assert WORDS not in repr(built.receipts)


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
async def test_an_error_of_a_provider_stores_no_words_of_a_fetched_page(is_stream: bool) -> None:
    url = "https://files.test/a"
    replies = iter([Reply(calls=[("call_1", "web_fetch", [json.dumps({"url": url})])])])

    def answer(*_: Any) -> FakeResponse:
        reply = next(replies, None)
        return refuse(f"found: {SENTENCE}")() if reply is None else FakeResponse(200, CHAT.whole(reply))

    async def fetch(_origin: object, url: str, **_: Any) -> FetchedPage:
        return FetchedPage(url=url, media_type="text/html", text=SENTENCE)

    built = ProxyHarness(answer, **OPENAI)
    built.services = structs.replace(built.services, web_fetch=fetch)
    await built.post(f"Read {url}", stream=is_stream, tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}])
    (receipt,) = built.receipts
    assert receipt.error == f"openai: found: ({len(SENTENCE)} characters of the request)"
    assert WORDS not in built.log.getvalue()
    assert WORDS not in repr(receipt)


@pytest.mark.parametrize("settings", [OPENAI, CLAUDE], ids=["translated", "relayed"])
async def test_an_error_after_the_beginning_of_a_reply_stores_its_length(settings: Mapping[str, str]) -> None:
    told = f"The filter has found this: {SENTENCE}"
    if settings is OPENAI:
        wire, fault = CHAT, f"data: {json.dumps({'error': {'message': told, 'type': 'server_error'}})}\n\n"
    else:
        event = {"type": "error", "error": {"type": "api_error", "message": told}}
        wire, fault = MESSAGES, f"event: error\ndata: {json.dumps(event)}\n\n"
    first = [frame for frame in wire.stream(Reply(texts=["a"])) if b"stop" not in frame and b"[DONE]" not in frame]

    def answer(*_: Any) -> FakeResponse:
        return FakeResponse(200, *first, fault.encode(), headers={"content-type": "text/event-stream"})

    built = ProxyHarness(answer, **settings)
    sink = await built.post(SENTENCE, stream=True)
    assert WORDS in sink.stream.decode()
    (receipt,) = built.receipts
    assert "api_error" in receipt.error
    assert "(a text of " in receipt.error
    assert WORDS not in repr(receipt)
    assert WORDS not in built.log.getvalue()


GEMINI = {"GEMINI_API_KEY": "AIza-test-0123456789", "PREFERRED_PROVIDER": "google", "BIG_MODEL": "gemini-2.5-pro"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "integer"}}


def ending(reason: str, words: str) -> bytes:
    candidate = {"content": {"role": "model"}, "finishReason": reason, "finishMessage": words}
    return json.dumps({"candidates": [candidate], "usageMetadata": {"promptTokenCount": 3}}).encode()


def whole(**values: Any) -> bytes:
    return CHAT.whole(Reply(texts=[json.dumps(values)]))


CALLED = f"Malformed function call: print(default_api.Write(text='{SENTENCE}'))"
NO_SCHEMA = "openai returned no valid reply for the schema in output_config.format in two attempts:"
IN_REPLIES: Mapping[str, tuple[Mapping[str, str], bytes, str, str]] = {
    "a value against the schema": (
        OPENAI,
        whole(a=WORDS),
        f"{NO_SCHEMA} $.a: \"{WORDS}\" is not of type 'integer'.",
        f"{NO_SCHEMA} (60 characters of the reply).",
    ),
    "a key against the schema": (
        OPENAI,
        whole(**{WORDS: "x"}),
        f"{NO_SCHEMA} $['Paul\\'s diagnosis is diabetes']: 'x' is not of type 'integer'.",
        f"{NO_SCHEMA} (64 characters of the reply).",
    ),
    "no JSON": (
        OPENAI,
        CHAT.whole(Reply(texts=[SENTENCE])),
        f"{NO_SCHEMA} it is no JSON.",
        f"{NO_SCHEMA} it is no JSON.",
    ),
    "a call that the provider could not read": (
        GEMINI,
        ending("MALFORMED_FUNCTION_CALL", CALLED),
        f"gemini: {CALLED} (MALFORMED_FUNCTION_CALL)",
        f"gemini: ({len(CALLED)} characters of the reply) (MALFORMED_FUNCTION_CALL)",
    ),
    "another end of a reply": (
        GEMINI,
        ending("OTHER", SENTENCE),
        f"gemini: {SENTENCE} (OTHER)",
        f"gemini: ({len(SENTENCE)} characters of the reply) (OTHER)",
    ),
}


@pytest.mark.parametrize("case", IN_REPLIES)
async def test_an_error_about_a_reply_stores_no_words_of_it(case: str) -> None:
    settings, answer, shown, stored = IN_REPLIES[case]
    body = own(messages=[{"role": "user", "content": "go"}])
    if settings is OPENAI:
        body["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
        settings = {**settings, "OPENAI_BASE_URL": "https://api.deepseek.com", "BIG_MODEL": "openai/deepseek-chat"}
    error, built = await send(body, settings, lambda *_: FakeResponse(200, answer))
    assert error.message == shown
    (receipt,) = built.receipts
    assert receipt.error == stored
    assert WORDS not in built.log.getvalue()
    assert WORDS not in repr(receipt)


@pytest.mark.parametrize("escape", [b"\\u00e9", b"\\ud83d", b"\\ud83d\\ude00", b"\\u00e9\\n", b"\\/"])
def test_a_comparison_with_many_escapes_takes_little_memory(escape: bytes) -> None:
    body = b'{"text":"%b"}' % (escape * (1_000_000 // len(escape)))
    tracemalloc.start()
    try:
        assert RequestWords(body).find_quotes("The input is bad.") == []
        assert tracemalloc.get_traced_memory()[1] < 6 * len(body)
    finally:
        tracemalloc.stop()


def test_a_value_that_a_reader_refuses_is_a_quote() -> None:
    class Question(msgspec.Struct):
        kind: Literal["a", "b"]

    with pytest.raises(InvalidRequest) as caught:
        read_json(json.dumps({"kind": WORDS}).encode(), msgspec.json.Decoder(Question).decode)
    name = f"(a text of {len(WORDS) + 2} characters)"
    assert WORDS in caught.value.message
    assert caught.value.stored_message == f"kind: Invalid enum value {name}, got a string of {len(WORDS) + 2} bytes"


@pytest.mark.parametrize("verdict", ["flagged", "not_flagged"])
async def test_the_rule_of_a_check_is_stored_only_for_a_flagged_call(verdict: str) -> None:
    told = {"rule": WORDS, "verdict": verdict, "explanation": "It deletes data." if verdict == "flagged" else ""}
    call = Reply(calls=[("call_1", "Bash", ['{"command":"rm -rf x"}'])])

    def answer(_: str, request: Any, __: Any) -> FakeResponse:
        is_check = b"safety check of a coding agent" in request.body
        reply = Reply(texts=[json.dumps(told)]) if is_check else call
        return FakeResponse(200, CHAT.whole(reply), headers={"content-type": "application/json"})

    built = ProxyHarness(answer, **OPENAI)
    tools = [{"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}]
    safeguards = [{"type": "dangerous_tool_use", "classifier_context": {}}]
    sink = await built.post("go", tools=tools, safeguards=safeguards)
    assert sink.error is None
    (check,) = built.receipts[-1].checks
    assert (check.verdict, check.rule) == (verdict, WORDS if verdict == "flagged" else "")
