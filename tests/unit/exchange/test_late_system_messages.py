"""The form of system messages inside a conversation is corrected by the cached tokens that a provider reports."""

import json
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.providers.prefix_guard import MAX_CACHE_SECONDS, Prompt, find_lost_tokens
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.support.fakes.prefix_cache import CachingProvider
from tests.support.harness import FakeResponse, ProxyHarness

DEEPSEEK = {"OPENAI_BASE_URL": "https://api.deepseek.com", "BIG_MODEL": "openai/deepseek-v4-pro"}
GROQ = {"OPENAI_BASE_URL": "https://api.groq.com/openai/v1", "BIG_MODEL": "openai/openai/gpt-oss-120b"}
LOCAL = {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1", "BIG_MODEL": "openai/Qwen/Qwen3-Coder"}
MESSAGES = DEEPSEEK | {"OPENAI_WIRE": "messages"}


class Template(CachingProvider):
    """A provider whose template writes some messages in front of all others, so that nothing behind them is cached."""

    moved = '"system"'
    """JSON text that only messages to move contain."""

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        body = json.loads(request.body)
        self.sent.append([[message["role"], json.dumps(message)] for message in body["messages"]])
        body["messages"].sort(key=lambda message: self.moved not in json.dumps(message))
        moved = structs.replace(request, body=json.dumps(body).encode())
        return super().__call__(base_url, moved, credential)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sent: list[list[list[str]]] = []


class Session:
    """A conversation of Claude Code, which adds a system message to some of its turns."""

    def __init__(self, moved: str, settings: dict[str, str]) -> None:
        self.provider = Template(["Yes."] * 40)
        self.provider.moved = moved
        self.proxy = ProxyHarness(self.provider, OPENAI_API_KEY="key", **settings)
        self.messages: list[dict[str, Any]] = []

    async def ask(self, *, late: bool = False) -> str:
        """Return the form of the system messages that were sent."""
        text = "\n".join(f"question {len(self.messages)}, line {number}" for number in range(300))
        self.messages.append({"role": "user", "content": text})
        if late:
            self.messages.append({"role": "system", "content": f"Note {len(self.messages)}."})
        sink = await self.proxy.post(
            headers={"x-claude-code-session-id": "one"},
            model="claude-opus-4-5",
            system="Rules.",
            messages=self.messages,
        )
        assert sink.error is None, sink.error
        self.messages.append({"role": "assistant", "content": "Yes."})
        behind = self.provider.sent[-1][1:]
        return "message" if any(role == "system" for role, _ in behind) else "reminder"

    @property
    def learned(self) -> list[str]:
        return self.proxy.receipts[-1].adaptations

    @property
    def log(self) -> list[str]:
        return [line.partition(" ")[2] for line in self.proxy.log.getvalue().splitlines() if "cached input" in line]


@pytest.mark.parametrize("settings", [GROQ, MESSAGES], ids=["Chat", "Messages"])
async def test_a_provider_that_moves_system_messages_gets_them_as_text_of_the_user(settings: dict[str, str]) -> None:
    session = Session('"role": "system"', settings)
    await session.ask()
    await session.ask()
    before = session.provider.calls[-1].cached
    assert await session.ask(late=True) == "message"
    lost = session.provider.calls[-1].cached
    assert lost < before // 2
    assert session.learned == []
    for _ in range(4):
        assert await session.ask(late=True) == "reminder"
        assert session.learned == ["system reminder"]
    call = session.provider.calls[-1]
    assert call.cached > call.tokens // 2
    (line,) = session.log
    assert line.endswith(
        "system messages inside a conversation are sent as text of the user from now on: after one of them with their "
        f"role, the cached input fell from {before:,} to {lost:,} tokens"
    )


async def test_a_provider_that_loses_its_cache_by_reminders_gets_system_messages_in_place() -> None:
    session = Session("<system-reminder>", DEEPSEEK)
    await session.ask()
    await session.ask()
    before = session.provider.calls[-1].cached
    assert await session.ask(late=True) == "reminder"
    lost = session.provider.calls[-1].cached
    for _ in range(4):
        assert await session.ask(late=True) == "message"
        assert session.learned == ["system message"]
    (line,) = session.log
    assert line.endswith(
        "system messages inside a conversation are sent with their role from now on: after one of them as text of the "
        f"user, the cached input fell from {before:,} to {lost:,} tokens"
    )


async def test_a_provider_that_loses_its_cache_in_both_forms_keeps_reminders() -> None:
    session = Session("Note", DEEPSEEK)
    forms = list[str]()
    for turn in range(24):
        forms.append(await session.ask(late=turn % 4 == 3))
    changes = [form for place, form in enumerate(forms[4:]) if place == 0 or form != forms[place + 3]]
    assert changes == ["message", "reminder"]
    assert session.learned == ["system message", "system reminder"]
    assert len(session.log) == 2


async def test_a_server_that_may_refuse_the_role_gets_reminders_whatever_it_reports() -> None:
    session = Session("<system-reminder>", LOCAL)
    for turn in range(12):
        assert await session.ask(late=turn % 3 == 2) == "reminder"
    assert session.learned == []
    assert session.log == []


async def test_a_conversation_without_a_new_system_message_changes_nothing() -> None:
    session = Session('"role": "system"', GROQ)
    await session.ask(late=True)
    await session.ask()
    session.provider.cache.__init__(session.provider.policy)  # type: ignore[misc] # the provider has forgotten it
    await session.ask()
    assert await session.ask() == "message"
    assert session.learned == []


@pytest.mark.parametrize(
    ("seconds", "before", "now", "lost"),
    [
        (MAX_CACHE_SECONDS, 9_000, 1_000, 8_000),
        (MAX_CACHE_SECONDS + 1, 9_000, 1_000, 0),  # it is forgotten by now
        (1.0, 9_000, 4_500, 4_500),
        (1.0, 9_000, 4_501, 0),  # most of it is still read
        (1.0, 1_524, 500, 1_024),
        (1.0, 1_523, 500, 0),  # less than a provider caches
        (1.0, 0, 1_000, 0),
    ],
)
def test_a_pause_and_a_small_fall_show_nothing(seconds: float, before: int, now: int, lost: int) -> None:
    replaced = Prompt(("one", "", "openai", "m"), b"", cached_tokens=before, system_messages=0)
    prompt = Prompt(("one", "", "openai", "m"), b"", cached_tokens=now, system_messages=1, replaced=replaced)
    prompt.sent_at = seconds
    assert find_lost_tokens(prompt) == lost
