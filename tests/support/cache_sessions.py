"""A session of ten turns, in which tool searches load tools three times, with a provider that has a prefix cache.

`tests/e2e/cache_sessions.py` plays such a session with the real Claude Code. `python -m tests.support.cache_sessions`
prints the table of the decision about loaded tools.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

from genai_prices import Usage, calc_price

from anthropic_proxy.engine.hooks import PrefixChange
from tests.support.fakes.prefix_cache import NO_RULES, CachedCall, CachePolicy, CachingProvider, Script
from tests.support.harness import ProxyHarness

LOADS = {2: ("Monitor",), 5: ("mcp__tracker__find_issue", "mcp__tracker__comment"), 8: ("WebFetch",)}
"""Turn → tools that it loads and then calls."""
TURNS = 10
_TOOL_SEARCH = "advanced-tool-use-2025-11-20"
_OUTPUT_TOKENS = 20
PRICED_AT = datetime(2026, 11, 24, 20, tzinfo=UTC)
"""Time of the prices, because DeepSeek's depend on the hour."""


@dataclass(frozen=True)
class Row:
    """A provider and model of the table. `price`: provider and model of the price list. None: a server at home."""

    title: str
    settings: dict[str, str]
    wire: str
    address: str = ""
    """Address of the provider, by which the proxy knows it. "": a server at home."""
    path: str = ""
    """Path of the API of a server at home, or of a relay."""
    address_variable: str = ""
    """Setting with the address, for a relay. "": the provider has a table."""
    price: tuple[str, str] | None = None
    cache: CachePolicy = NO_RULES

    @property
    def model(self) -> str:
        return self.settings["BIG_MODEL"].partition("/")[2]


_KEYED = CachePolicy(block=128, minimum=1_024, keys=("prompt_cache_key",))
"""OpenAI: developers.openai.com/api/docs/guides/prompt-caching.md, read 2026-11-25. Moonshot documents the key only
(platform.kimi.ai, vendor's OpenAPI), and is given the same blocks."""
_MARKED = CachePolicy(
    "marks", minimum=1_024, keys=("prompt_cache_key",), marks="prompt_cache_breakpoint", marks_end=True
)
"""gpt-5.6 and later: the latest message, and explicit breakpoints (`PromptCacheOptions` of openai 3.54)."""
_XAI = CachePolicy(block=128, keys=("x-grok-conv-id",))
"""docs.x.ai, Maximizing cache hits, read 2026-11: the header selects the machine."""
_GEMINI = CachePolicy(block=128, minimum=4_096)
"""ai.google.dev/gemini-api/docs/caching, read 2026-11-25: from 4,096 tokens on for 3.6 Flash."""
_WHOLE = CachePolicy("requests")
"""DeepSeek: api-docs.deepseek.com/guides/kv_cache/, read 2026-11-25: only a whole earlier request is found again."""
_DASHSCOPE = CachePolicy("marks", minimum=1_024, marks="cache_control")
"""alibabacloud.com/help, Context cache (explicit), read 2026-11-23."""
_OPENAI, _DEEPSEEK = "http://api.openai.com/v1", "api.deepseek.com/v1"
_QWEN = "dashscope-intl.aliyuncs.com/compatible-mode/v1"
_LOCAL = {"OPENAI_BASE_URL": "http://127.0.0.1:8080/v1"}
ROWS = (
    *(
        Row(
            f"OpenAI, Responses, {model}",
            {"BIG_MODEL": f"openai/{model}"},
            "responses",
            _OPENAI,
            price=("openai", model),
            cache=cache,
        )
        for model, cache in (("gpt-5.6-sol", _MARKED), ("gpt-5.1", _KEYED))
    ),
    Row(
        "OpenAI, Chat, gpt-4.1",
        {"BIG_MODEL": "openai/gpt-4.1", "OPENAI_WIRE": "chat"},
        "chat",
        _OPENAI,
        price=("openai", "gpt-4.1"),
        cache=_KEYED,
    ),
    Row(
        "Gemini, gemini-3.6-flash",
        {"BIG_MODEL": "gemini/gemini-3.6-flash"},
        "gemini",
        "http://generativelanguage.googleapis.com/v1beta",
        price=("google", "gemini-3.6-flash"),
        cache=_GEMINI,
    ),
    Row(
        "DeepSeek, deepseek-flash",
        {"BIG_MODEL": "openai/deepseek-flash", "OPENAI_BASE_URL": f"https://{_DEEPSEEK}"},
        "chat",
        f"http://{_DEEPSEEK}",
        price=("deepseek", "deepseek-flash"),
        cache=_WHOLE,
    ),
    Row(
        "Moonshot, kimi-k2.6",
        {"BIG_MODEL": "moonshot/kimi-k2.6"},
        "chat",
        "http://api.moonshot.ai/v1",
        price=("moonshotai", "kimi-k2.6"),
        cache=_KEYED,
    ),
    Row(
        "xAI, Chat, grok-4.3",
        {"BIG_MODEL": "xai/grok-4.3"},
        "chat",
        "http://api.x.ai/v1",
        price=("x-ai", "grok-4.3"),
        cache=_XAI,
    ),
    Row(
        "xAI, Responses, grok-4.3",
        {"BIG_MODEL": "xai/grok-4.3", "XAI_WIRE": "responses"},
        "responses",
        "http://api.x.ai/v1",
        price=("x-ai", "grok-4.3"),
        cache=_XAI,
    ),
    Row(
        "DashScope, qwen3.8-max",
        {"BIG_MODEL": "openai/qwen3.8-max", "OPENAI_BASE_URL": f"https://{_QWEN}"},
        "chat",
        f"http://{_QWEN}",
        cache=_DASHSCOPE,
    ),
    Row("llama.cpp, vLLM: Chat", {"BIG_MODEL": "openai/qwen3-coder", **_LOCAL}, "chat", path="/v1"),
    Row("Ollama, qwen3", {"BIG_MODEL": "ollama/qwen3:32b", "OLLAMA_BASE_URL": "http://127.0.0.1:11434"}, "ollama"),
)
_CLAUDE = CachePolicy("marks", minimum=4_096, marks="cache_control")
"""platform.claude.com/docs/en/build-with-claude/prompt-caching, read 2026-11-25: tools, system text, then blocks; at
most four marks, and each looks for an earlier one in the 20 blocks before it; 4,096 tokens for Opus 4.5 and 4.6."""
RELAYS = (
    Row(
        "Anthropic, claude-opus-4-6",
        {"PREFERRED_PROVIDER": "anthropic", "BIG_MODEL": "anthropic/claude-opus-4-6", "ANTHROPIC_API_KEY": "key"},
        "messages",
        address_variable="ANTHROPIC_UPSTREAM_URL",
        price=("anthropic", "claude-opus-4-6"),
        cache=_CLAUDE,
    ),
    Row(
        "Microsoft Foundry, claude-opus-4-6",
        {"BIG_MODEL": "foundry/claude-opus-4-6", "ANTHROPIC_FOUNDRY_RESOURCE": "mine"}
        | {"ANTHROPIC_FOUNDRY_API_KEY": "key"},
        "messages",
        path="/anthropic",
        address_variable="FOUNDRY_BASE_URL",
        price=("anthropic", "claude-opus-4-6"),
        cache=_CLAUDE,
    ),
    Row(
        "Bedrock, Messages API, claude-opus-4-6",
        {"BIG_MODEL": "bedrock/anthropic.claude-opus-4-6", "AWS_REGION": "us-east-1"}
        | {"AWS_BEARER_TOKEN_BEDROCK": "key", "BEDROCK_BASE_URL": "http://bedrock-mantle.us-east-1.api.aws/anthropic"},
        "messages",
        path="/anthropic",
        address_variable="BEDROCK_BASE_URL",
        price=("anthropic", "claude-opus-4-6"),
        cache=_CLAUDE,
    ),
)
"""Servers with the Messages API: requests are forwarded, with the client's own marks and deferred tools."""
_KEYS = {f"{name}_API_KEY": "key" for name in ("OPENAI", "GEMINI", "MOONSHOT", "XAI")}


@dataclass(frozen=True)
class Figures:
    """Sums of one session from its second turn on, and the price of the whole session."""

    calls: list[CachedCall]
    first_turn: int
    """Number of calls of the first turn."""
    changes: list[PrefixChange]
    """Changes of the beginning of the prompt that the proxy has found."""

    @property
    def input_tokens(self) -> int:
        """Input of the whole session."""
        return sum(call.tokens for call in self.calls)

    @property
    def cached_share(self) -> float:
        later = self.calls[self.first_turn :]
        return sum(call.cached for call in later) / sum(call.tokens for call in later)

    @property
    def read_again(self) -> int:
        """Tokens from the second turn on that were not cached."""
        return sum(call.tokens - call.cached for call in self.calls[self.first_turn :])

    def dollars(self, price: tuple[str, str]) -> float:
        total = 0.0
        for call in self.calls:
            written = {"cache_write_tokens": call.tokens - call.cached} if _bills_writes(price) else {}
            usage = Usage(
                input_tokens=call.tokens, cache_read_tokens=call.cached, output_tokens=_OUTPUT_TOKENS, **written
            )
            total += float(
                calc_price(usage, price[1], provider_id=price[0], genai_request_timestamp=PRICED_AT).total_price
            )
        return total


def _bills_writes(price: tuple[str, str]) -> bool:
    found = calc_price(
        Usage(input_tokens=1), price[1], provider_id=price[0], genai_request_timestamp=PRICED_AT
    ).model_price
    return found.cache_write_mtok is not None


def _tool(name: str, size: int, *, deferred: bool = False) -> dict[str, Any]:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"value": {"type": "string", "description": "What to work on."}},
        "required": ["value"],
        "additionalProperties": False,
    }
    tool: dict[str, Any] = {"name": name, "description": _text(name, size), "input_schema": schema}
    return tool | ({"defer_loading": True} if deferred else {})


@cache
def _text(topic: str, size: int) -> str:
    line = " ".join(f"{topic} {number}" for number in range(size // (len(topic) + 2) + 1))
    return line[:size]


_NAMES = ("Agent", "Bash", "Edit", "Read", "Skill", "ToolSearch", "Write")


Client = Literal[
    "claude_code",
    "compacting",
    "summarizing",
    "summarizing_at_once",
    "adding",
    "declaring",
    "declaring_with_placeholder",
]
"""How a client declares the tools that its searches find: as Claude Code does, also with a compaction or a
cancelled one, as it does without its placeholder, or all of them in each request."""
_LAST_BEFORE_COMPACTION = 4
SUMMARY = "The work so far."
"""Reply to the request for a summary, which a client sends without the newest exchange and then does not use."""


def _tools(loaded: set[str], client: Client) -> list[dict[str, Any]]:
    """Return the tools of a request as Claude Code sorts them: loaded ones between the others."""
    late = {name for names in LOADS.values() for name in names} if client.startswith("declaring") else loaded
    tools = [_tool(name, 3_000) for name in _NAMES]
    tools += [_tool(name, 1_500, deferred=True) for name in late]
    if client not in ("adding", "declaring"):
        tools.append({"name": "DeferredToolPlaceholder", "description": "None.", "input_schema": {"type": "object"}})
        tools[-1]["defer_loading"] = True
    return sorted(tools, key=lambda tool: str(tool["name"]))


def _turn(number: int, client: Client) -> Script:
    steps: Script = [("Read", {"value": f"file {number}"})] * (3 if number == 1 else 1)
    if number in LOADS:
        names = LOADS[number]
        if client == "compacting" and number > _LAST_BEFORE_COMPACTION:  # the model no longer sees earlier searches
            names = (*names, *LOADS[2])
        steps += [("ToolSearch", {"value": "select:" + ",".join(names)})]
        calls: Script = [(name, {"value": f"turn {number}"}) for name in names]
        steps += {"summarizing": [*calls, SUMMARY], "summarizing_at_once": [SUMMARY, *calls]}.get(client, calls)
    return [*steps, f"Turn {number} is done."]


async def run_session(row: Row, client: Client = "claude_code") -> Figures:
    """Play the session through the proxy."""
    turns = [_turn(number, client) for number in range(1, TURNS + 1)]
    provider = CachingProvider([step for turn in turns for step in turn], row.cache)
    proxy = ProxyHarness(provider, **_KEYS | row.settings)
    system = [{"type": "text", "text": _text("rule", 30_000), "cache_control": {"type": "ephemeral"}}]
    user_id = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s"})
    messages: list[dict[str, Any]] = []
    loaded: set[str] = set()
    for number, turn in enumerate(turns, 1):
        if client == "compacting" and number == _LAST_BEFORE_COMPACTION + 1:
            messages = [{"role": "user", "content": [{"type": "text", "text": _text("summary", 30_000)}]}]
            messages.append({"role": "assistant", "content": [{"type": "text", "text": "Turn 4 is done."}]})
        earlier = [*messages]
        messages.append({"role": "user", "content": [{"type": "text", "text": f"Do part {number} of the work."}]})
        for step in turn:
            summarized = [*earlier, {"role": "user", "content": [{"type": "text", "text": "Write a summary."}]}]
            sink = await proxy.post(
                headers={"anthropic-version": "2023-06-01", "anthropic-beta": _TOOL_SEARCH},
                model="claude-opus-4-6",
                system=system,
                tools=_tools(loaded, client),
                messages=_mark_last(summarized if step == SUMMARY else messages),
                metadata={"user_id": user_id},
            )
            assert sink.error is None, sink.error
            content = (sink.body or json.loads(sink.stream))["content"]
            if step == SUMMARY:
                continue
            messages.append({"role": "assistant", "content": content})
            if isinstance(step, str):
                assert [block["text"] for block in content] == [step]
                continue
            (call,) = (block for block in content if block["type"] == "tool_use")
            assert (call["name"], call["input"]) == step
            messages.append({"role": "user", "content": _results(call, number, loaded)})
    changes = [receipt.prefix_change for receipt in proxy.receipts]
    return Figures(provider.calls, len(turns[0]), [change for change in changes if change is not None])


def _mark_last(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with a mark at the end, as Claude Code places it."""
    *earlier, last = messages
    *blocks, block = last["content"]
    return [*earlier, last | {"content": [*blocks, block | {"cache_control": {"type": "ephemeral"}}]}]


def _results(call: dict[str, Any], turn: int, loaded: set[str]) -> list[dict[str, Any]]:
    """Return the result of a call, as Claude Code does: a search of tools returns references, and loads the tools."""
    result = {"type": "tool_result", "tool_use_id": call["id"]}
    if call["name"] != "ToolSearch":
        return [result | {"content": _text(f"line of {call['name']}", 60_000 if turn == 1 else 1_500)}]
    names = call["input"]["value"].removeprefix("select:").split(",")
    loaded.update(names)
    references = [{"type": "tool_reference", "tool_name": name} for name in names]
    return [result | {"content": references}, {"type": "text", "text": "Tools loaded."}]


OTHER_PRICES = {
    "Azure, gpt-5.6-sol": ("azure", "gpt-5.6-sol"),
    "Groq, gpt-oss-120b": ("groq", "openai/gpt-oss-120b"),
    "Z.ai, glm-5.2": ("zai", "glm-5.2"),
    "MiniMax, MiniMax-M3": ("minimax", "MiniMax-M3"),
    "OpenRouter, qwen3-coder": ("openrouter", "qwen/qwen3-coder"),
    "Cerebras, gpt-oss-120b": ("cerebras", "gpt-oss-120b"),
}
"""Further providers → provider and model of the price list. Cerebras bills cached input as any other."""


@dataclass(frozen=True)
class CostModel:
    """A session in which tools are loaded. The defaults are small: in larger sessions the constant tool saves more."""

    context: int = 11_000
    """Tokens of tools and conversation at a load. Claude Code begins with so many."""
    loads: int = 1
    requests: int = 30
    calls: int = 3
    """Calls of loaded tools."""
    definition_tokens: int = 130
    """Size of the constant tool, which every request has."""
    call_tokens: int = 15
    """Output tokens that a call by the constant tool has more."""

    def costs(self, price: tuple[str, str]) -> tuple[float, float]:
        """Return what loads cost in dollars if tools are listed, and with the constant tool."""
        found = calc_price(
            Usage(input_tokens=1), price[1], provider_id=price[0], genai_request_timestamp=PRICED_AT
        ).model_price
        read, output = _per_token(found.input_mtok), _per_token(found.output_mtok)
        cached = read if found.cache_read_mtok is None else _per_token(found.cache_read_mtok)
        written = _per_token(found.cache_write_mtok) or read
        constant = self.definition_tokens * (written + (self.requests - 1) * cached)
        return self.loads * self.context * (written - cached), constant + self.calls * self.call_tokens * output

    def break_even(self, price: tuple[str, str]) -> int | None:
        """Return the context from which on the constant tool is cheaper. None: it never is."""
        listed, constant = self.costs(price)
        return round(self.context * constant / listed) if listed else None


def _per_token(price: Any) -> float:
    """Return the price of the lowest tier in dollars."""
    return float(getattr(price, "base", price) or 0) / 1_000_000


def choice_table() -> str:
    model = CostModel()
    lines = ["| provider | $, tools listed | $, constant tool | break-even in tokens | cheaper |"]
    lines.append("| --- | ---: | ---: | ---: | --- |")
    prices = {row.title: row.price for row in ROWS if row.price} | OTHER_PRICES
    for title, price in prices.items():
        (listed, constant), tokens = model.costs(price), model.break_even(price)
        break_even, cheaper = (f"{tokens:,}" if tokens else "–"), "constant tool" if constant < listed else "listed"
        lines.append(f"| {title} | {listed:.4f} | {constant:.4f} | {break_even} | {cheaper} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(choice_table())
