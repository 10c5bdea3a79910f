"""The page `/tour`: one request of Claude Code, its way through the engine, and what it would cost.

The engine really runs; only the provider is replaced by a stored reply. Settings, prices and keys of the user are not
used, so everybody may read the page. It has no script: the provider is chosen by links.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.engine.engine import build_engine
from anthropic_proxy.engine.exchange.dry_run import run_dry
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.engine.platforms.program import name_program
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.wires.bound_requests import BoundRequest
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import build_extra_install_command
from anthropic_proxy.gateway.money import format_cost, format_price
from anthropic_proxy.gateway.prices.price_list import Price, PriceList
from anthropic_proxy.gateway.server.web_page import DOCUMENTATION, render_document, render_section
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.secrets import Secret

_REQUEST: Mapping[str, Any] = {
    "model": "claude-sonnet-5",
    "max_tokens": 32_000,
    "stream": True,
    "top_k": 40,
    "system": [{"type": "text", "text": "You are a coding agent.", "cache_control": {"type": "ephemeral"}}],
    "tools": [
        {
            "name": "Bash",
            "description": "Run a command.",
            "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
        }
    ],
    "messages": [{"role": "user", "content": "List the files here."}],
}
_ADD_PRICES = name_program(build_extra_install_command("prices"))
_SESSION_REQUESTS = 100
"""Number of requests in the session of Claude Code that illustrates the price."""
_SESSION_REQUEST = TokenCounts(input_tokens=3_000, cache_read_tokens=27_000, output_tokens=400)
"""Tokens of each of them: 90 % of the input are read from the cache."""


class _Stop(Struct, frozen=True):
    """A provider that the page can show."""

    name: str
    """Name in the URL, and of the file with the reply."""
    title: str
    provider: str
    model: str
    api: str
    """Name of the API for the reader."""

    @property
    def reply(self) -> bytes:
        """Body of the provider's response: the call of the tool. The form follows its documentation."""
        return (_REPLIES / f"{self.name}.sse").read_bytes()


_REPLIES = Path(__file__).with_name("tour_replies")
_STOPS = (
    _Stop("openai", "OpenAI", "openai", "gpt-4.1", "Chat Completions"),
    _Stop("responses", "OpenAI, reasoning", "openai", "gpt-5.6-sol", "Responses"),
    _Stop("gemini", "Gemini", "google", "gemini-3.1-pro-preview", "generateContent"),
    _Stop("groq", "Groq", "groq", "openai/gpt-oss-120b", "Chat Completions"),
)


class _StoredReply:
    """It is the transport and its response: it answers each call with one stored body."""

    status, body_received = 200, True

    def __init__(self, stop: _Stop) -> None:
        self.headers = {"content-type": "text/event-stream"}
        self._pieces = [stop.reply]

    async def __call__(self, bound: BoundRequest) -> "_StoredReply":
        return self

    async def read(self) -> bytes:
        return self._pieces.pop() if self._pieces else b""

    async def close(self, *, wait_for_end: bool = False) -> None: ...


async def render_tour(name: str) -> str:
    """`name`: a provider of the links on the page; any other one selects the first."""
    stop = next((each for each in _STOPS if each.name == name), _STOPS[0])
    links = [
        f'<li aria-current="page"><b>{each.title}</b></li>'
        if each is stop
        else f'<li><a href="/tour?provider={each.name}">{each.title}</a></li>'
        for each in _STOPS
    ]
    played = await _play(stop)
    price = PriceList(Settings()).find(PROVIDERS.find(stop.provider), stop.model)
    lines = [
        "<main>",
        "<header><h1>One request, its way, and its cost</h1></header>",
        "<p>What happens between Claude Code and a model of another vendor. The engine runs as for a real request; "
        "only the provider is replaced by a stored reply.</p>",
        render_section("Provider", ["<ul>", *links, "</ul>"]),
        *_draw_way(stop, played, price),
        *_describe_way(stop, played),
        render_section("4 Cost", _describe_costs(stop, played, price)),
        render_section("Next", ['<p><a href="/">Use this proxy: command, mapping and health</a></p>', DOCUMENTATION]),
        "</main>",
    ]
    return render_document("\n".join(lines))


class _Played(Struct, frozen=True):
    """What the engine did with the request."""

    target: str
    base_url: str
    upstream: UpstreamRequest
    notes: Sequence[FidelityNote]
    events: str
    """What the client received."""
    call: str
    """The tool call in it: `Bash {"command":"ls"}`."""
    tokens: TokenCounts


async def _play(stop: _Stop) -> _Played:
    target = f"{PROVIDERS.find(stop.provider).prefix}/{stop.model}"
    engine = build_engine(EngineOptions(keys={stop.provider: [Secret("your-key")]}, big_model=target))
    try:
        body = json.dumps(_REQUEST).encode()
        dry = await run_dry(engine, body)
        transports = dict.fromkeys(engine.transports, _StoredReply(stop))
        response = await send_request(structs.replace(engine, transports=transports), body)
        events = b"".join([piece async for piece in response.body]).decode()
    finally:
        await engine.close()
    assert dry.recorded is not None
    decoded = [json.loads(line[6:]) for line in events.split("\n") if line.startswith("data: ")]
    usage = next(event["usage"] for event in decoded if event["type"] == "message_delta")
    starts = [event["content_block"] for event in decoded if event["type"] == "content_block_start"]
    pieces = [event["delta"].get("partial_json", "") for event in decoded if event["type"] == "content_block_delta"]
    return _Played(
        target=target,
        base_url=dry.recorded.base_url,
        upstream=dry.recorded.request,
        notes=dry.receipt.fidelity.notes,
        events=events,
        call=" ".join((*(start["name"] for start in starts if start["type"] == "tool_use"), "".join(pieces))),
        tokens=TokenCounts(
            input_tokens=usage["input_tokens"],
            output_tokens=usage["output_tokens"],
            thinking_tokens=usage["output_tokens_details"]["thinking_tokens"],
        ),
    )


def _draw_way(stop: _Stop, played: _Played, price: Price | None) -> list[str]:
    """Return the way of the request in one row, for a reader with one minute."""
    kept = f"All {len(_REQUEST)} fields have a counterpart."
    if played.notes:
        names = ", ".join(f"{note.field} {note.handling}" for note in played.notes)
        kept = f"{len(_REQUEST)} fields; without an exact counterpart: {names}."
    tokens = played.tokens
    cost = f"unknown. Add prices: {_ADD_PRICES}"
    if price is not None:
        session = _SESSION_REQUESTS * price.calculate_cost(_SESSION_REQUEST)
        cost = f"{format_cost(price.calculate_cost(tokens))}. A session of {_SESSION_REQUESTS} requests: "
        cost += f"{format_cost(session)}."
    steps = [
        ("Claude Code", f"asks {_REQUEST['model']}: “{_REQUEST['messages'][0]['content']}”"),
        ("anthropic-proxy", f"sends it to {played.target}. {kept}"),
        (stop.title, f"replies over {stop.api}: {tokens.input_tokens} tokens in, {tokens.output_tokens} out."),
        ("Claude Code", f"gets the tool call that it knows: {played.call}"),
        ("Cost", cost),
    ]
    rows = [f"<li><b>{escape(title)}</b><span>{escape(text)}</span></li>" for title, text in steps]
    return ['<ol class="way">', *rows, "</ol>"]


def _describe_way(stop: _Stop, played: _Played) -> list[str]:
    changes = [
        f'<tr><th scope="row"><code>{escape(note.field)}</code></th><td>{note.handling}</td>'
        f'<td class="quiet">{escape(note.reason)}</td></tr>'
        for note in played.notes
    ]
    route = "BIG_MODEL replaces sonnet, opus and fable. Routes, fallbacks and prefixes can refine this."
    asked = _block(f"POST /v1/messages\n\n{_list_fields(_REQUEST)}")
    upstream = played.upstream
    sent = _block(f"POST {played.base_url}{upstream.path}\n\n{_list_fields(json.loads(upstream.body))}")
    frames, events = stop.reply.count(b"data: {"), played.events.count("event: ")
    return [
        render_section(
            "1 Route", [f"<p>{_REQUEST['model']} → <b>{escape(played.target)}</b></p>", f'<p class="quiet">{route}</p>']
        ),
        render_section(
            "2 Request",
            [
                *_pair("Claude Code sends", asked, f"{stop.title} gets, over {stop.api}", sent),
                "<p>Fields without an exact counterpart are named, never dropped in silence:</p>",
                *(["<table>", *changes, "</table>"] if changes else ["<p>Here every field has a counterpart.</p>"]),
            ],
        ),
        render_section(
            "3 Reply",
            [
                f"<p>{stop.title} streams {frames} piece{'' if frames == 1 else 's'}. Claude Code receives {events} "
                "events of the Messages API. Each piece is passed on as soon as it arrives.</p>",
                "<details><summary>Show them</summary>",
                *_pair(
                    f"{stop.title} streams",
                    _block(stop.reply.decode()),
                    "Claude Code receives, at once",
                    _block(played.events),
                ),
                "</details>",
            ],
        ),
    ]


def _describe_costs(stop: _Stop, played: _Played, price: Price | None) -> list[str]:
    if price is None:
        return [
            "<p>The price of this model is unknown. This command adds the prices of vendors, and the proxy then counts "
            f"what each request costs:</p><pre><code>{escape(_ADD_PRICES)}</code></pre>"
        ]
    rates = price.base
    return [
        f"<p>{escape(stop.model)} costs {format_price(rates.input)} per million tokens of input, "
        f"{format_price(rates.cache_read)} if they are read from the cache, and {format_price(rates.output)} of "
        f'output <span class="quiet">({escape(price.source)})</span>. This request costs '
        f"<b>{escape(format_cost(price.calculate_cost(played.tokens)))}</b>.</p>",
        f"<p>A session of {_SESSION_REQUESTS} requests, each with {_SESSION_REQUEST.all_input_tokens:,} tokens of "
        f"input, 90 % of them from the cache, and {_SESSION_REQUEST.output_tokens:,} of output, costs "
        f"<b>{format_cost(_SESSION_REQUESTS * price.calculate_cost(_SESSION_REQUEST))}</b>.</p>",
        "<p>Each real request gets its costs in the command <code>usage</code>, in the status line of "
        "Claude Code and in the dashboard.</p>",
    ]


def _pair(left_title: str, left: str, right_title: str, right: str) -> list[str]:
    left_half, right_half = (
        f"<div><p>{escape(title)}:</p>{text}</div>" for title, text in ((left_title, left), (right_title, right))
    )
    return ['<div class="pair">', left_half, right_half, "</div>"]


def _list_fields(body: Mapping[str, Any]) -> str:
    """Return JSON with one line per field of the body, so that two bodies can be compared by eye."""
    lines = [f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in body.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def _block(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text.strip())}</code></pre>'
