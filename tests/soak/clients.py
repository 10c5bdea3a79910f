"""Clients that stream, wait for the whole, read slowly, leave, or send rubbish."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx2 as httpx

from tests.support.event_grammar import check_bytes

MODELS = (
    "openai/gpt-5.5",
    "groq/openai/gpt-oss-120b",
    "gemini/gemini-3.6-flash",
    "ollama/qwen3-coder:30b",
    "claude-sonnet-5-5",
)
PROMPTS = ("Say exactly: Über den Wolken ✓", "Count to {n}", "Which tools", "What is the weather in Oslo and Rome?")
FAULTS = (
    *("late seconds=0.3", "silence seconds=0.5", "stall seconds=0.4 pieces=2", "cut pieces=1", "cut pieces=6"),
    *("torn pieces=2", "torn pieces=0", "error pieces=3", "error pieces=0", "reset", "silence seconds=40"),
)
TOOLS = [
    {
        "name": name,
        "description": f"The tool {name}.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
    for name in ("get_weather", "lookup")
]
RUBBISH = (
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{",
    b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    b"\0" * 5_000,
    b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n[]" * 20,
)
MAX_REQUEST_SECONDS = 45.0
"""After which an answer is taken to hang: longer than any fault, with its repeat, can last."""


@dataclass
class ResultCounts:
    """The counts and outcomes of all clients."""

    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class ClientPool:
    """Clients that each ask again and again until they are stopped; one seed, one sequence of wishes."""

    def __init__(self, url: str, seed: int) -> None:
        self.tally = ResultCounts()
        self._url = url
        self._random = Random(seed)
        self._stopping = asyncio.Event()

    async def work(self, clients: int, seconds: float, requests: int = 10**9) -> None:
        """Ask for so long, or until so many requests were made."""
        self._stopping.clear()
        limit = self.tally.requests + requests
        async with httpx.AsyncClient(base_url=self._url, timeout=MAX_REQUEST_SECONDS, trust_env=False) as client:
            crowd = [asyncio.create_task(self._ask_on(client, limit)) for _ in range(clients)]
            await asyncio.wait(crowd, timeout=seconds)
            self._stopping.set()
            await asyncio.gather(*crowd)

    async def _ask_on(self, client: httpx.AsyncClient, limit: int) -> None:
        while not self._stopping.is_set() and self.tally.requests < limit:
            self.tally.requests += 1
            draw = self._random.random()
            send = self._rubbish if draw < 0.08 else self._nonsense if draw < 0.12 else self._ask
            try:
                await send(client)
            except (httpx.TimeoutException, TimeoutError):
                self.tally.wrong.append("an answer that does not end")
            except (httpx.TransportError, OSError) as error:
                self.tally.wrong.append(f"the connection broke: {error!r}")

    def _new_body(self) -> dict[str, Any]:
        random = self._random
        prompt = random.choice(PROMPTS).format(n=random.choice((5, 40, 400)))
        if random.random() < 0.35:
            prompt += f" [fault:{random.choice(FAULTS)}]"
        body: dict[str, Any] = {
            "model": random.choice(MODELS),
            "max_tokens": 4_000,
            "stream": random.random() < 0.75,
            "messages": [{"role": "user", "content": prompt}],
        }
        if "tool" in prompt or "weather" in prompt:
            body["tools"] = TOOLS
        if random.random() < 0.1:
            body["system"] = "x" * random.choice((1_000, 300_000))
        return body

    async def _ask(self, client: httpx.AsyncClient) -> None:
        body, manner = self._new_body(), self._random.choice(("whole",) * 6 + ("leave", "leave early", "slow"))
        if manner == "leave early" or "seconds=40" in body["messages"][0]["content"]:
            await self._leave_early(client, body)
        elif body["stream"]:
            await self._stream(client, body, manner)
        else:
            answer = await client.post("/v1/messages", json=body)
            self._judge(answer.status_code, answer.content, body)

    async def _leave_early(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._random.choice((0.001, 0.02, 0.3))):
                await client.post("/v1/messages", json=body)
        except TimeoutError:
            pass
        self.tally.outcomes["left early"] += 1

    async def _stream(self, client: httpx.AsyncClient, body: dict[str, Any], manner: str) -> None:
        received = b""
        async with client.stream("POST", "/v1/messages", json=body) as answer:
            async for data in answer.aiter_raw():
                received += data
                if manner == "leave":
                    self.tally.outcomes["left in a stream"] += 1
                    return
                if manner == "slow":
                    await asyncio.sleep(0.02)
            self._judge(answer.status_code, received, body)

    def _judge(self, status: int, received: bytes, body: dict[str, Any]) -> None:
        if status == 200 and body["stream"]:
            blamed = check_bytes(received, requires_json_arguments=False)
            self.tally.outcomes["stream with an error" if b"event: error" in received else "stream"] += 1
            if blamed:
                self.tally.wrong.append(f"{body['model']}: {blamed[:2]} in {body['messages'][0]['content'][:80]!r}")
            return
        reply = json.loads(received)
        self.tally.outcomes[f"status {status}"] += 1
        if reply["type"] != ("message" if status == 200 else "error") or b"the traceback is in its log" in received:
            self.tally.wrong.append(f"{body['model']}: {status} {received[:200]!r}")

    async def _nonsense(self, client: httpx.AsyncClient) -> None:
        content = self._random.choice(
            (b"", b"{", b"[" * 5_000, b'{"model": 1}', b"\xff\xfe", b'"\\ud800"', b"{}" * 50_000)
        )
        answer = await client.post("/v1/messages", content=content, headers={"content-type": "application/json"})
        self.tally.outcomes[f"status {answer.status_code}"] += 1
        if not 400 <= answer.status_code < 500:
            self.tally.wrong.append(f"{answer.status_code} for {content[:20]!r}")

    async def _rubbish(self, client: httpx.AsyncClient) -> None:
        host, port = client.base_url.host, client.base_url.port
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(self._random.choice(RUBBISH))
            await writer.drain()
            async with asyncio.timeout(self._random.choice((0.05, 0.5))):
                await reader.read()
        except (TimeoutError, OSError):
            pass
        finally:
            self.tally.outcomes["rubbish"] += 1
            writer.transport.abort()
