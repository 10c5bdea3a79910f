"""A provider with the Messages API that bills its replies by decimal arithmetic of its own.

This module imports nothing of the product. The amounts follow from the prices below and from the counts that the
replies state, as the SDK `anthropic` 2.10 and platform.claude.com ("Pricing", "Advisor tool", "Refusals and fallback",
"Compaction", read 2026-11) describe them.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from random import Random
from typing import Any, NamedTuple

from aiohttp import web

from tests.support.fakes.server import RequestLog, new_application

KEY = "key-of-the-billing-provider"
HAIKU, SONNET, OPUS = "claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5"
MINI = "gpt-4.1-mini"
"""Model of the fake servers of OpenAI's API, whose counts a test reads in their journals."""
REFUSED_ATTEMPTS = 1
"""Number of attempts of a request that fail, if one fails."""
_NANO = Decimal(10) ** 9
_MILLION = Decimal(10) ** 6
_WAIT_SECONDS = 60.0
OF_SESSION = re.compile(r"This is (job-\d+)\. Case: ([a-z ]+)\.")
_OF_CHECK = "safety check of a coding agent"
_VERDICT = {"rule": "Deleting", "verdict": "flagged", "explanation": "Deletes data that cannot be restored."}
_COMMAND = {"command": "rm -rf /srv/data"}


class Rates(NamedTuple):
    """US dollars per million tokens. The names are those of a table `[prices]`."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal


def _rates(*amounts: str) -> Rates:
    return Rates(*map(Decimal, amounts))


# A token of some kinds costs no whole number of nano-dollars, so that rounding counts too.
PRICES: Mapping[str, Rates] = {
    HAIKU: _rates("1", "5", "0.1", "1.25", "2"),
    SONNET: _rates("3.0125", "15.0625", "0.30125", "3.765625", "6.025"),
    OPUS: _rates("5.00005", "25.0005", "0.500005", "6.2500625", "10.0001"),
    MINI: _rates("0.4", "1.6", "0.1", "0.4", "0.4"),
}
PROVIDERS: Mapping[str, str] = {HAIKU: "anthropic", SONNET: "anthropic", OPUS: "anthropic", MINI: "openai"}
FAST: Mapping[str, Rates] = {
    SONNET: _rates("18", "90", "1.8", "22.5", "36"),
}
"""Prices of `speed: fast`. A model without them has its usual prices, if another model's request calls it."""
SEARCHES_PER_1000 = Decimal(10)
REGIONS: Mapping[str, Decimal] = {"us": Decimal("1.1")}


class Counts(NamedTuple):
    """Tokens of one call of a model."""

    input: int = 0
    cache_read: int = 0
    written: int = 0
    """To the cache, for 5 minutes."""
    written_1h: int = 0
    output: int = 0


class Entry(NamedTuple):
    """An entry of `usage.iterations`."""

    kind: str
    model: str
    """"": that of the reply."""
    counts: Counts


@dataclass(frozen=True)
class Charge:
    """What the bill has for one call of a model."""

    session: str
    is_check: bool
    kind: str
    model: str
    counts: Counts
    searches: int = 0
    is_fast: bool = False
    region: str = ""

    @property
    def nano_dollars(self) -> int:
        rates = FAST.get(self.model, PRICES[self.model]) if self.is_fast else PRICES[self.model]
        counts = self.counts
        dollars = (
            counts.input * rates.input
            + counts.output * rates.output
            + counts.cache_read * rates.cache_read
            + counts.written * rates.cache_write
            + counts.written_1h * rates.cache_write_1h
        ) / _MILLION
        factor = REGIONS.get(self.region, Decimal(1))
        tokens = (dollars * factor * _NANO).quantize(Decimal(1), ROUND_HALF_UP)
        return int(tokens + self.searches * SEARCHES_PER_1000 / 1000 * _NANO)


class BillingProvider:
    """The charges of one run, by the requests that it gets."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._attempts = Counter[tuple[str, bool]]()
        self.charges: list[Charge] = []
        self.failures = Counter[str]()
        """Case → number of failed replies."""

    def build_application(self) -> web.Application:
        return new_application(self._answer, RequestLog())

    async def _answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        if request.path != "/v1/messages":
            return _build_error(404, "not_found_error", "Not found")
        body, text = json.loads(raw), raw.decode()
        found = OF_SESSION.search(text)
        assert found is not None, text
        reply = _Reply(self, request, body, found[1], found[2], _OF_CHECK in text)
        return await reply.send(journal.open(request, None).number)

    def begin_attempt(self, session: str, is_check: bool) -> tuple[int, Random]:
        """Return the number of the attempt from 1 on, and its random numbers."""
        self._attempts[session, is_check] += 1
        number = self._attempts[session, is_check]
        return number, Random(f"{self._seed} {session} {is_check} {number}")


class _Reply:
    """The reply to one HTTP request."""

    def __init__(
        self,
        provider: BillingProvider,
        request: web.Request,
        body: Mapping[str, Any],
        session: str,
        case: str,
        is_check: bool,
    ) -> None:
        self.session = session
        self._provider, self._request, self._body, self._is_check = provider, request, body, is_check
        self._case = "check" if is_check else case
        self._attempt, self._random = provider.begin_attempt(session, is_check)
        self._number = 0
        types = [str(tool.get("type")) for tool in body.get("tools", ())]
        self._advisor = next((tool["model"] for tool in body.get("tools", ()) if "model" in tool), "")
        self._searches = self._random.randrange(1, 4) if any(one.startswith("web_search_") for one in types) else 0
        self._is_fast = body.get("speed") == "fast"
        self._region = str(body.get("inference_geo") or "")

    async def send(self, number: int) -> web.StreamResponse:
        self._number = number
        is_failing = self._attempt <= REFUSED_ATTEMPTS
        if self._case == "overloaded" and is_failing:
            return self._fail(529, "overloaded_error", "Overloaded")
        if self._case == "invalid":
            return self._fail(400, "invalid_request_error", "messages: the test wants this")
        if not self._body.get("stream"):
            entries = self._list_entries()
            self._charge(entries)
            return web.json_response(self._build_message(self._build_usage(entries)))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(self._request)
        await self._stream(response, is_failing=is_failing)
        return response

    def _fail(self, status: int, error_type: str, message: str) -> web.Response:
        self._provider.failures[self._case] += 1
        return _build_error(status, error_type, message)

    async def _stream(self, response: web.StreamResponse, *, is_failing: bool) -> None:
        entries = self._list_entries()
        usage = self._build_usage(entries)
        begun = {name: value for name, value in usage.items() if name not in ("iterations", "server_tool_use")}
        begun["output_tokens"] = self._random.randrange(100, 200)
        message = {**self._build_message(begun), "content": [], "stop_reason": None}
        await _write(response, "message_start", message=message)
        if (self._case == "failed after usage" and is_failing) or self._case in ("cut", "left"):
            self._provider.failures[self._case] += 1
            first = entries[-1].counts._replace(output=begun["output_tokens"])
            self._charge([Entry("message", "", first)])
            if self._case == "failed after usage":
                await _write(response, "error", error={"type": "overloaded_error", "message": "Overloaded"})
                return
            await self._write_block(response, 0, {"type": "text", "text": "Begun"}, ends=False)
            if self._case == "left":
                await asyncio.sleep(_WAIT_SECONDS)  # the client leaves, which cancels this handler
            if (transport := self._request.transport) is not None:
                transport.close()
            return
        for index, block in enumerate(self._build_content()):
            await self._write_block(response, index, block)
        self._charge(entries)
        ending = {"stop_reason": self._stop_reason, "stop_sequence": None}
        await _write(response, "message_delta", delta=ending, usage=usage)
        if self._case == "no end":
            if (transport := self._request.transport) is not None:
                transport.close()
            return
        await _write(response, "message_stop")

    async def _write_block(
        self, response: web.StreamResponse, index: int, block: Mapping[str, Any], *, ends: bool = True
    ) -> None:
        delta = None
        if block["type"] == "text":
            delta, block = {"type": "text_delta", "text": block["text"]}, {**block, "text": ""}
        elif block["type"] == "tool_use":
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            block = {**block, "input": {}}
        await _write(response, "content_block_start", index=index, content_block=block)
        if delta is not None:
            await _write(response, "content_block_delta", index=index, delta=delta)
        if ends:
            await _write(response, "content_block_stop", index=index)

    def _charge(self, entries: Sequence[Entry]) -> None:
        """The searches belong to the model of the reply."""
        for kind, model, counts in entries:
            self._provider.charges.append(
                Charge(
                    session=self.session,
                    is_check=self._is_check,
                    kind=kind,
                    model=model or self._body["model"],
                    counts=counts,
                    is_fast=self._is_fast,
                    region=self._region,
                )
            )
        if self._searches:
            self._provider.charges.append(
                Charge(
                    session=self.session,
                    is_check=self._is_check,
                    kind="search",
                    model=self._body["model"],
                    counts=Counts(),
                    searches=self._searches,
                )
            )

    def _list_entries(self) -> list[Entry]:
        """Return the calls of models for this reply, in their order."""
        count = self._count
        entries = [Entry("message", "", count())]
        if self._advisor:
            for _ in range(self._random.randrange(1, 3)):
                entries += [Entry("advisor_message", self._advisor, count()), Entry("message", "", count())]
        if "compact_" in json.dumps(self._body.get("context_management")):
            entries.insert(0, Entry("compaction", "", count(input_tokens=50_000)))
        if (fallbacks := self._body.get("fallbacks")) and self._random.random() < 0.7:
            refused = entries[0].counts._replace(output=0)
            entries = [Entry("message", self._body["model"], refused)]
            entries.append(Entry("fallback_message", fallbacks[0]["model"], count()))
        if self._case == "later kind":
            entries += [Entry("review", OPUS, count()), Entry("summary", "", count())]
        return entries

    def _count(self, input_tokens: int = 2_000) -> Counts:
        draw = self._random.randrange
        has_cache, has_hour = self._random.random() < 0.6, self._random.random() < 0.5
        return Counts(
            input=draw(1, input_tokens),
            cache_read=draw(0, 20_000) if has_cache else 0,
            written=draw(0, 3_000) if has_cache else 0,
            written_1h=draw(0, 3_000) if has_cache and has_hour else 0,
            output=draw(1, 800),
        )

    def _build_usage(self, entries: Sequence[Entry]) -> dict[str, Any]:
        """Return the field `usage`: the counts of the attempt that wrote the message, of several calls for it the input
        of the first and all output.
        """
        own = [entry.counts for entry in entries if entry.kind == "message"]
        fallbacks = [entry.counts for entry in entries if entry.kind == "fallback_message"]
        totals = fallbacks[-1] if fallbacks else own[0]._replace(output=sum(one.output for one in own))
        usage = _encode(totals)
        usage["service_tier"] = "standard"
        usage["inference_geo"] = self._region or "not_available"
        if self._is_fast:
            usage["speed"] = "fast"
        if self._searches:
            usage["server_tool_use"] = {"web_search_requests": self._searches, "web_fetch_requests": 0}
        if len(entries) > 1:
            usage["iterations"] = [
                {"type": kind, **({"model": model} if model else {}), **_encode(counts)}
                for kind, model, counts in entries
            ]
        return usage

    def _build_message(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": f"msg_{self._number}",
            "type": "message",
            "role": "assistant",
            "model": self._body["model"],
            "content": self._build_content(),
            "stop_reason": self._stop_reason,
            "stop_sequence": None,
            "usage": usage,
        }

    def _build_content(self) -> list[dict[str, Any]]:
        if self._is_check:
            return [{"type": "text", "text": json.dumps(_VERDICT)}]
        if self._case == "checked":
            return [{"type": "tool_use", "id": f"toolu_{self._number}", "name": "Bash", "input": _COMMAND}]
        return [{"type": "text", "text": "Done."}]

    @property
    def _stop_reason(self) -> str:
        return "tool_use" if self._case == "checked" and not self._is_check else "end_turn"


def _build_error(status: int, error_type: str, message: str) -> web.Response:
    return web.json_response({"type": "error", "error": {"type": error_type, "message": message}}, status=status)


def _encode(counts: Counts) -> dict[str, Any]:
    return {
        "input_tokens": counts.input,
        "cache_read_input_tokens": counts.cache_read,
        "cache_creation_input_tokens": counts.written + counts.written_1h,
        "cache_creation": {
            "ephemeral_5m_input_tokens": counts.written,
            "ephemeral_1h_input_tokens": counts.written_1h,
        },
        "output_tokens": counts.output,
    }


async def _write(response: web.StreamResponse, event: str, **fields: Any) -> None:
    data = json.dumps({"type": event, **fields}, separators=(",", ":"))
    await response.write(f"event: {event}\ndata: {data}\n\n".encode())


def name_model(model: str) -> str:
    return f"{PROVIDERS[model]}/{model}"


def write_price_tables() -> str:
    """Return the prices above as tables of the configuration."""
    lines = []
    for model, rates in PRICES.items():
        lines.append(f'[prices."{name_model(model)}"]')
        lines += [f"{name} = {amount}" for name, amount in rates._asdict().items()]
        lines.append(f"web_search_per_1000 = {SEARCHES_PER_1000}")
        if (fast := FAST.get(model)) is not None:
            tier = ", ".join(f"{name} = {amount}" for name, amount in fast._asdict().items())
            lines.append(f"tiers.fast = {{ {tier} }}")
    return "\n".join(lines) + "\n"
