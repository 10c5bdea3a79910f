"""The engine in a program, without a server: the official SDK streams a reply of any provider.

`OPENAI_API_KEY=… python examples/in_process.py "Why is the sky blue?"`. Without a key, the built-in demo replies.
"""

import asyncio
import os
import sys

import anthropic
import httpx2

from anthropic_proxy.engine.engine import Engine, build_engine
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.secrets import Secret


class EngineTransport(httpx2.AsyncBaseTransport):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = await send_request(self._engine, await request.aread(), dict(request.headers))
        return httpx2.Response(reply.status, headers=dict(reply.headers), content=reply.body)


async def main(question: str) -> None:
    key = os.environ.get("OPENAI_API_KEY")
    engine = build_engine(EngineOptions(keys={"openai": [Secret(key)]} if key else {}))
    client = anthropic.AsyncAnthropic(api_key="-", http_client=httpx2.AsyncClient(transport=EngineTransport(engine)))
    messages: list[anthropic.types.MessageParam] = [{"role": "user", "content": question}]
    async with client.messages.stream(model="claude-sonnet-5", max_tokens=500, messages=messages) as stream:
        async for text in stream.text_stream:
            print(text, end="", flush=True)
    await engine.close()


asyncio.run(main(" ".join(sys.argv[1:]) or "Who are you?"))
