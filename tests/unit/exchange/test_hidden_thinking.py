"""A client that has not asked for thinking gets none, and its calls carry what their provider needs back."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import anthropic.types
import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.forwarding import count_tokens
from anthropic_proxy.engine.hooks import ValueStore
from anthropic_proxy.engine.ids import new_id
from anthropic_proxy.engine.kept_states import MAX_FOUND, KeptStates
from anthropic_proxy.engine.memory_values import MAX_KEPT_BYTES, MAX_KEYS, MemoryValues
from anthropic_proxy.engine.messages.call_states import CallState, HiddenThought, decode_state_id, encode_state_id
from anthropic_proxy.engine.messages.models.tools import KEPT_ID_PREFIX
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.plugins import Client, InspectedTexts, InspectorScope, Redaction, StoreUnavailable
from tests.support.event_grammar import check_bytes
from tests.support.fake_upstream import frame
from tests.support.fakes.prefix_cache import CachePolicy, Script, wire_of
from tests.support.fakes.thinking_model import WORDS, ThinkingProvider, list_states
from tests.support.golden_runner import fold_events
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, Room, new_client_request
from tests.support.replies import CHAT, GEMINI, OLLAMA, RESPONSES, Reply
from tests.support.stores import Clock, open_store
from tests.support.virtual_time import in_virtual_time

WIRES: dict[str, dict[str, str]] = {
    "gemini": {"GEMINI_API_KEY": "k", "PREFERRED_PROVIDER": "google", "BIG_MODEL": "gemini/gemini-3.8-flash"},
    "responses": {"OPENAI_API_KEY": "k", "OPENAI_WIRE": "responses", "BIG_MODEL": "openai/gpt-5.6"},
    "deepseek": {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "https://api.deepseek.com", "BIG_MODEL": "deepseek-v4-pro"},
    "kimi": {"MOONSHOT_API_KEY": "k", "PREFERRED_PROVIDER": "moonshot", "BIG_MODEL": "moonshot/kimi-k3"},
    "ollama": {"PREFERRED_PROVIDER": "ollama", "BIG_MODEL": "ollama/gpt-oss:20b", "SMALL_MODEL": "ollama/gpt-oss:20b"},
}
HIDING: dict[str, dict[str, Any]] = {
    "absent": {},
    "disabled": {"thinking": {"type": "disabled"}},
    "omitted": {"thinking": {"type": "enabled", "budget_tokens": 2_000, "display": "omitted"}},
    "adaptive, omitted": {"thinking": {"type": "adaptive", "display": "omitted"}},
}
SHOWING = {"thinking": {"type": "adaptive"}}
TOOL = {"name": "Read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}
SSE = {"content-type": "text/event-stream"}
TURNS = 20
SCRIPT: Script = [*[("Read", {"path": f"file {number}"}) for number in range(TURNS)], WORDS]


def read_message(sink: RecordingSink, *, stream: bool) -> dict[str, Any]:
    assert sink.error is None, sink.error
    if not stream:
        return sink.body
    assert check_bytes(sink.stream) == []
    return fold_events(sink.stream)


async def ask(proxy: ProxyHarness, messages: Sequence[Any], *, stream: bool, **fields: Any) -> dict[str, Any]:
    fields = {"tools": [TOOL], **fields}
    sink = await proxy.post(messages=messages, stream=stream, model="claude-sonnet-4-6", compact=True, **fields)
    return read_message(sink, stream=stream)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("fields", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize("wire", WIRES)
async def test_the_first_block_is_the_text(wire: str, fields: dict[str, Any], stream: bool) -> None:
    """The example of `docs/start/sdks.md`, decoded as its SDK does."""
    proxy = ProxyHarness(ThinkingProvider([WORDS]), **WIRES[wire])
    reply = await ask(proxy, [{"role": "user", "content": "hello"}], stream=stream, tools=[], **fields)
    message = anthropic.types.Message.model_validate(reply)
    assert message.content[0].text == WORDS  # type: ignore[union-attr]  # what the page shows
    assert [block.type for block in message.content] == ["text"]
    assert message.usage.output_tokens == 20


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("wire", WIRES)
async def test_who_asks_for_thinking_gets_it(wire: str, stream: bool) -> None:
    proxy = ProxyHarness(ThinkingProvider([WORDS]), **WIRES[wire])
    reply = await ask(proxy, [{"role": "user", "content": "hello"}], stream=stream, tools=[], **SHOWING)
    assert [block["type"] for block in reply["content"]] == ["thinking", "text"]


@pytest.mark.parametrize("fields", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize("wire", WIRES)
async def test_a_forced_call_is_the_first_block(wire: str, fields: dict[str, Any]) -> None:
    proxy = ProxyHarness(ThinkingProvider(SCRIPT), **WIRES[wire])
    choice = {"type": "tool", "name": "Read"}
    reply = await ask(proxy, [{"role": "user", "content": "read"}], stream=False, tool_choice=choice, **fields)
    assert [block["type"] for block in reply["content"]] == ["tool_use"]


class Conversation:
    """20 turns of tools, each at the next of several proxies with one store, or at one proxy for some of them."""

    def __init__(self, wire: str, store: Any, *, state_characters: int, stream: bool, **fields: Any) -> None:
        unit: Literal["blocks"] = "blocks"
        self.provider = ThinkingProvider(SCRIPT, CachePolicy(unit), state_characters=state_characters)
        self._settings = WIRES[wire]
        self._store = store
        self._stream = stream
        self._fields = fields
        self.ids: list[str] = []

    def start_proxy(self) -> ProxyHarness:
        proxy = ProxyHarness(self.provider, **self._settings)
        proxy.services = structs.replace(proxy.services, store=self._store, new_id=new_id)
        return proxy

    async def run(self) -> list[tuple[int, int]]:
        """Return the tokens and the cached tokens of each request."""
        first, second = self.start_proxy(), self.start_proxy()
        messages: list[dict[str, Any]] = [{"role": "user", "content": "read all files"}]
        for number in range(TURNS):
            if number == TURNS // 2:
                first = self.start_proxy()  # after a restart
            proxy = first if number % 4 < 2 else second
            reply = await ask(proxy, messages, stream=self._stream, **self._fields)
            call = reply["content"][-1]
            self.ids.append(call["id"])
            result = {"type": "tool_result", "tool_use_id": call["id"], "content": f"content {number}"}
            messages += [{"role": "assistant", "content": reply["content"]}, {"role": "user", "content": [result]}]
        reply = await ask(second, messages, stream=self._stream, **self._fields)
        assert reply["content"][-1]["text"] == WORDS
        return [(call.tokens, call.cached) for call in self.provider.calls]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("state_characters", [200, 1_500, 20_000])
@pytest.mark.parametrize("wire", WIRES)
async def test_turns_of_tools_through_a_restart_and_a_second_instance(
    wire: str, state_characters: int, stream: bool
) -> None:
    async with open_store("workers", Clock()) as store:
        hidden = Conversation(wire, store, state_characters=state_characters, stream=stream)
        counts = await hidden.run()
        shown = Conversation(wire, store, state_characters=state_characters, stream=stream, **SHOWING)
        assert await shown.run() == counts
    assert hidden.provider.refusals == []
    assert all(cached for _, cached in counts[1:])


async def begin(proxy: ProxyHarness, *, stream: bool = False, **fields: Any) -> tuple[list[dict[str, Any]], str]:
    """Return a conversation up to the result of its first call, and the id of the call."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "read all files"}]
    reply = await ask(proxy, messages, stream=stream, **fields)
    (call,) = reply["content"]
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "x"}
    return [*messages, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}], call["id"]


def rename(messages: Sequence[dict[str, Any]], old: str, new: str) -> list[dict[str, Any]]:
    return json.loads(json.dumps(messages).replace(json.dumps(old), json.dumps(new)))  # type: ignore[no-any-return]


class Lenient(ThinkingProvider):
    """A provider that keeps the requests and needs nothing back."""

    def __init__(self) -> None:
        super().__init__(SCRIPT)
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if wire_of(request.path):
            body = json.loads(request.body)
            self.bodies.append(body)
            self.states |= dict(list_states(wire_of(request.path), body))  # type: ignore[arg-type]
        return super().__call__(base_url, request, credential)


LONG = "q" * 3_000
DEEP = '{"zz":' + "[" * 100_000 + "]" * 100_000 + "}"
DAMAGED: dict[str, Callable[[str], str]] = {
    "cut": lambda call_id: call_id[:-7],
    "longer": lambda call_id: call_id + "AAAA",
    "other letters": lambda call_id: call_id[:-9] + "-" * 9,
    "without a state": lambda call_id: call_id[:10],
    "not base64": lambda call_id: call_id[:10] + "é!",
    "very long": lambda call_id: call_id[:10] + LONG,
    "zeros": lambda call_id: call_id[:10] + "A" * 40,
    "of another call": lambda _: encode_state_id(CallState("call_77", [])),
    "with an id of another form": lambda _: encode_state_id(CallState("not an id", [])),
    "with a deep state": lambda _: encode_state_id(CallState("call_1", [HiddenThought(0, "gem", DEEP)])),
    "with a long id": lambda _: encode_state_id(CallState(LONG, [])),
    "without an id": lambda _: encode_state_id(CallState("", [])),
}


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("wire", ["gemini", "responses"])
async def test_an_id_that_the_client_has_changed_has_no_state_and_no_effect(
    wire: str, change: Callable[[str], str]
) -> None:
    provider = Lenient()
    proxy = ProxyHarness(provider, **WIRES[wire])
    messages, call_id = await begin(proxy)
    reply = await ask(proxy, rename(messages, call_id, change(call_id)), stream=False)
    assert reply["content"][0]["type"] == "tool_use"
    ((_, state),) = list_states(wire, provider.bodies[-1])
    assert state == ("skip_thought_signature_validator" if wire == "gemini" else None)


async def test_a_state_that_the_client_has_made_reaches_the_provider_as_in_a_signature() -> None:
    provider = Lenient()
    proxy = ProxyHarness(provider, **WIRES["gemini"])
    messages, call_id = await begin(proxy)
    state = decode_state_id(call_id)
    assert state is not None
    (thought,) = state.thoughts
    changed = structs.replace(thought, skipped=-(10**6), state='{"s":"bWluZQ=="}')
    other = encode_state_id(CallState("call_1", [changed]))
    await ask(proxy, rename(messages, call_id, other), stream=False)
    assert [*list_states("gemini", provider.bodies[-1])] == [("call_1", "bWluZQ==")]


@pytest.mark.parametrize("wire", ["deepseek", "kimi"])
async def test_a_kept_state_belongs_to_the_client_that_got_the_call(wire: str) -> None:
    provider = Lenient()
    proxy = ProxyHarness(provider, **WIRES[wire])
    store = MemoryValues()
    proxy.services = structs.replace(proxy.services, store=store)
    messages, _ = await begin(proxy, client=Client(name="anna"))
    for client, expected in ((Client(name="ben"), " "), (Client(name="anna"), provider.states["call_1"])):
        await ask(proxy, messages, stream=False, client=client)
        ((_, state),) = list_states("chat", provider.bodies[-1])
        assert state == expected


class AwayStore:
    """A store of several processes, which is away."""

    async def get(self, key: str) -> str | None:
        raise StoreUnavailable

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        raise StoreUnavailable

    async def put_if_absent(self, key: str, value: str, lifetime_seconds: float) -> str:
        raise StoreUnavailable

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        raise StoreUnavailable

    async def delete(self, key: str) -> None:
        raise StoreUnavailable


LOSSES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "the owner has too many": ({"kept_states": KeptStates(max_owner_bytes=100)}, ["content.tool_use"]),
    "the store is away": ({"store": AwayStore()}, ["content.tool_use"]),
    "the memory is full later": ({"store": MemoryValues(max_bulk_bytes=100)}, []),
}


@pytest.mark.parametrize(("changes", "noted"), LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("wire", ["deepseek", "kimi"])
async def test_without_the_state_a_call_is_sent_as_that_of_another_provider(
    wire: str, stream: bool, changes: dict[str, Any], noted: list[str]
) -> None:
    provider = Lenient()
    proxy = ProxyHarness(provider, **WIRES[wire])
    proxy.services = structs.replace(proxy.services, **changes)
    messages, _ = await begin(proxy, stream=stream)
    fields = [note.field for note in proxy.receipts[-1].notes]
    assert [field for field in fields if field == "content.tool_use"] == noted
    reply = await ask(proxy, messages, stream=False)
    assert reply["content"][0]["type"] == "tool_use"
    ((_, state),) = list_states("chat", provider.bodies[-1])
    assert state == " "


async def find_numbers(kept: KeptStates, store: ValueStore, owner: str, count: int) -> list[int]:
    """Return which states of `keep_numbered` are known."""
    found = await kept.find(store, owner, [f"{KEPT_ID_PREFIX}{number}" for number in range(count)])
    return [int(call_id.removeprefix(KEPT_ID_PREFIX)) for call_id in found]


async def keep_numbered(kept: KeptStates, store: ValueStore, owner: str, number: int, characters: int) -> bool:
    state = json.dumps(["call_1", [[0, "t", "x" * characters, ""]]])
    return await kept.keep(store, owner, {f"{KEPT_ID_PREFIX}{number}": state})


@pytest.mark.parametrize("wire", ["deepseek", "kimi", "gemini"])
async def test_states_that_come_back_need_memory_before_they_are_read(wire: str) -> None:
    provider = Lenient()
    provider.state_characters = 60_000
    proxy = ProxyHarness(provider, **WIRES[wire])
    messages, call_id = await begin(proxy)
    repeated = [*messages, *messages[1:]]
    invented = rename(messages, call_id, f"{call_id[:-4]}77777")  # brings nothing back
    for sent, room in ((messages, 200_000), (repeated, 200_000), (messages, 50_000), (invented, 50_000)):
        body = {"model": "claude-sonnet-4-6", "max_tokens": 99, "messages": sent, "tools": [TOOL]}
        memory, sink, calls = Room(room), RecordingSink(), len(provider.bodies)
        incoming = structs.replace(new_client_request(json.dumps(body).encode()), memory=memory)
        await Exchange(proxy.services, incoming, sink).run()
        is_refused = room < 60_000
        assert (sink.error is not None, len(provider.bodies) - calls) == (is_refused, 0 if is_refused else 1)
        (counted,) = memory.counted
        assert counted == 0x77777 if sent is invented else 60_000 < counted < 100_000


@pytest.mark.parametrize("kind", ["memory", "workers"])
async def test_what_an_owner_stores_within_a_day_is_bounded_and_only_what_is_kept_counts(kind: str) -> None:
    kept = KeptStates(max_owner_bytes=25_000)
    async with open_store(kind, Clock()) as store:
        large = [await keep_numbered(kept, store, "ann", number, 5_000) for number in range(10)]
        assert large == [True] * 4 + [False] * 6
        assert not await keep_numbered(kept, store, "ann", 10, 200_000)
        assert await keep_numbered(kept, store, "ann", 11, 10)
        assert await find_numbers(kept, store, "ann", 12) == [0, 1, 2, 3, 11]
        assert all([await keep_numbered(kept, store, "bob", number, 10) for number in range(40)])
        assert await find_numbers(kept, store, "bob", 40) == [*range(40)]


@pytest.mark.parametrize("kind", ["memory", "workers"])
async def test_states_of_many_owners_replace_nothing_else_and_are_bounded(kind: str) -> None:
    """Each owner is another process after a restart, so that nothing is found in the memory of the workers."""
    count, owners = 60, [f"owner {number}" for number in range(6)]
    async with open_store(kind, Clock()) as store:
        for number in range(MAX_KEYS - 10):
            await store.put(f"session/{number}", "target", 86_400.0)
        for owner in owners:
            kept = KeptStates()
            for number in range(count):
                assert await keep_numbered(kept, store, owner, number, 250_000)
        found = {owner: await find_numbers(KeptStates(), store, owner, count) for owner in owners}
        assert await store.get("session/0") == "target"
    sizes = 250_000 * sum(map(len, found.values()))
    assert MAX_KEPT_BYTES * 0.9 < sizes <= MAX_KEPT_BYTES
    assert found[owners[0]] == []
    assert found[owners[-1]] == [*range(count)]


async def test_only_the_newest_calls_are_looked_for_and_once() -> None:
    asked: list[str] = []

    class EmptyStore(AwayStore):
        async def get(self, key: str) -> str | None:
            asked.append(key)
            return None

    kept = KeptStates()
    ids = [f"{KEPT_ID_PREFIX}{number}" for number in range(3 * MAX_FOUND)]
    for _ in range(2):
        assert await kept.find(EmptyStore(), "anna", ids) == {}
    assert len(asked) == MAX_FOUND


async def test_a_count_of_the_provider_has_the_thinking() -> None:
    provider = Lenient()
    proxy = ProxyHarness(provider, **WIRES["responses"])
    messages, _ = await begin(proxy)
    counted: list[dict[str, Any]] = []

    def count(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        counted.append(json.loads(request.body))
        return FakeResponse(200, b'{"object":"response.input_tokens","input_tokens":4711}')

    counting = ProxyHarness(count, **WIRES["responses"])
    fields = {"model": "claude-sonnet-4-6", "tools": [TOOL], "messages": messages}
    body = json.dumps(fields, separators=(",", ":")).encode()
    incoming = new_client_request(body, path="/v1/messages/count_tokens")
    reply = await count_tokens(counting.services, incoming, RecordingSink().wait_disconnected)
    assert json.loads(reply.body) == {"input_tokens": 4711}
    await ask(proxy, messages, stream=False)
    assert counted[0]["input"] == provider.bodies[-1]["input"]


SECRET = "K-4711-secret"


class Reader:
    """An inspector that redacts a secret, and keeps what it has read."""

    scope = InspectorScope(name="reader", replies=True)

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []

    async def inspect(self, texts: InspectedTexts) -> list[Redaction]:
        self.read += [(passage.kind, passage.text) for passage in texts.passages]
        places = [(place, passage.text.find(SECRET)) for place, passage in enumerate(texts.passages)]
        return [Redaction(place, at, at + len(SECRET), "test key") for place, at in places if at >= 0]

    def find_open_end(self, text: str) -> int:
        return len(text)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_hidden_thinking_goes_back_as_the_provider_has_written_it(stream: bool) -> None:
    """It may have a placeholder in place of a redacted text, and the provider never gets the text."""

    class Quoting(Lenient):
        def reply(self, wire: str, body: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
            reply = super().reply(wire, body, headers)
            thought = f"The user says: {body['messages'][-1]['content']}" if len(self.calls) == 1 else "Next."
            reply["choices"][0]["message"]["reasoning_content"] = thought
            self.states[f"call_{len(self.calls)}"] = thought
            return reply

    provider, reader = Quoting(), Reader()
    proxy = ProxyHarness(provider, **WIRES["deepseek"])
    proxy.services = structs.replace(proxy.services, inspectors=[reader])
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"My key is {SECRET}."}]
    reply = await ask(proxy, messages, stream=stream)
    (call,) = reply["content"]
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "x"}
    messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    reply = await ask(proxy, messages, stream=stream)
    assert reply["content"][0]["type"] == "tool_use"
    assert provider.refusals == []
    assert SECRET not in json.dumps(provider.bodies)
    ((_, state),) = list_states("chat", provider.bodies[-1])
    assert state is not None
    assert state.startswith("The user says: My key is REDACTED_TEST_KEY_")
    assert "thinking" not in [kind for kind, _ in reader.read]


FORMS = {"gemini": GEMINI, "responses": RESPONSES, "deepseek": CHAT, "kimi": CHAT, "ollama": OLLAMA}
THOUGHTS = ["The key is ", f"{SECRET}, ", "or so."]
ANSWER = {"type": "text", "text": "".join(THOUGHTS)}


def answer(wire: str, reply: Reply, pieces: str) -> FakeResponse:
    """`pieces`: "whole", "chunks" or "burst", a stream in one chunk."""
    form = FORMS[wire]
    if pieces == "whole":
        return FakeResponse(200, form.whole(reply))
    frames = form.stream(reply)
    headers = {"content-type": "application/x-ndjson"} if wire == "ollama" else SSE
    return FakeResponse(200, *(frames if pieces == "chunks" else [b"".join(frames)]), headers=headers)


@pytest.mark.parametrize("pieces", ["whole", "chunks", "burst"])
@pytest.mark.parametrize(
    ("fields", "reply", "content"),
    [
        ({}, Reply(thoughts=THOUGHTS), [ANSWER]),
        ({"thinking": {"type": "disabled"}}, Reply(thoughts=THOUGHTS), [ANSWER]),
        ({"stop_sequences": [", or"]}, Reply(thoughts=THOUGHTS), [{"type": "text", "text": f"The key is {SECRET}"}]),
        ({}, Reply(thoughts=THOUGHTS, stop="max_tokens"), []),
        ({}, Reply(thoughts=THOUGHTS, texts=[WORDS]), [{"type": "text", "text": WORDS}]),
        ({}, Reply(thoughts=[" \n"]), []),
        (HIDING["omitted"], Reply(thoughts=THOUGHTS), []),
    ],
    ids=["not asked", "disabled", "stop sequence", "limit", "beside a text", "blank", "asked"],
)
@pytest.mark.parametrize("wire", WIRES)
async def test_thinking_that_nobody_asked_for_and_that_is_the_whole_reply_is_its_text(
    wire: str, fields: dict[str, Any], reply: Reply, content: list[Any], pieces: str
) -> None:
    proxy = ProxyHarness(lambda *_: answer(wire, reply, pieces), **WIRES[wire])
    messages = [{"role": "user", "content": "Which key?"}]
    assert (await ask(proxy, messages, stream=pieces != "whole", tools=[], **fields))["content"] == content


@pytest.mark.parametrize("pieces", ["whole", "chunks", "burst"])
async def test_thinking_that_becomes_the_text_is_inspected(pieces: str) -> None:
    proxy = ProxyHarness(lambda *_: answer("deepseek", Reply(thoughts=THOUGHTS), pieces), **WIRES["deepseek"])
    proxy.services = structs.replace(proxy.services, inspectors=[Reader()])
    (block,) = (await ask(proxy, [{"role": "user", "content": "Which?"}], stream=pieces != "whole"))["content"]
    assert block["text"] == "The key is [test key], or so."


@in_virtual_time
async def test_a_client_gets_an_empty_text_while_its_provider_thinks_for_minutes() -> None:
    """Bytes of the provider that the client does not get keep no connection alive."""

    class Thinking(FakeResponse):
        async def read(self) -> bytes:
            await asyncio.sleep(60)
            return await super().read()

    thoughts = [frame({"reasoning_content": "Hm."})] * 8
    rest = [frame({"content": WORDS}), frame({}, "stop"), b"data: [DONE]\n\n"]
    proxy = ProxyHarness(lambda *_: Thinking(200, *thoughts, *rest, headers=SSE), **WIRES["deepseek"])
    sink = await proxy.post(stream=True, model="claude-sonnet-4-6")
    assert check_bytes(sink.stream) == []
    events = [json.loads(line[6:]) for line in sink.stream.splitlines() if line.startswith(b"data: ")]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    empty, last = {"type": "text_delta", "text": ""}, {"type": "text_delta", "text": WORDS}
    assert deltas[-1] == last
    assert len(deltas) > 20
    assert all(delta == empty for delta in deltas[:-1])
    assert fold_events(sink.stream)["content"] == [{"type": "text", "text": WORDS}]


async def test_each_of_several_calls_has_its_own_state() -> None:
    class Parallel(Lenient):
        def reply(self, wire: str, body: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
            reply = super().reply(wire, body, headers)
            parts = reply["candidates"][0]["content"]["parts"]
            second = {"name": "Read", "args": {"path": "b"}, "id": "call_b"}
            parts.append({"functionCall": second, "thoughtSignature": "c2Vjb25k"})
            third = {"name": "Read", "args": {"path": "c"}, "id": "call_c"}
            parts += [{"text": "And c."}, {"functionCall": third}]
            self.states |= {"call_b": "c2Vjb25k"}
            return reply

    provider = Parallel()
    proxy = ProxyHarness(provider, **WIRES["gemini"])
    messages: list[dict[str, Any]] = [{"role": "user", "content": "read all files"}]
    reply = await ask(proxy, messages, stream=False)
    content = reply["content"]
    assert [block["type"] for block in content] == ["tool_use", "tool_use", "text", "tool_use"]
    calls = [block for block in content if block["type"] == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call["id"], "content": "x"} for call in calls]
    messages += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]
    await ask(proxy, messages, stream=False)
    expected = [("call_1", provider.states["call_1"]), ("call_b", "c2Vjb25k"), ("call_c", None)]
    assert [*list_states("gemini", provider.bodies[-1])] == expected
