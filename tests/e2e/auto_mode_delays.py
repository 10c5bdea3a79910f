"""How long a reply waits for the check of its call: `python -m tests.e2e.auto_mode_delays` prints the table of
docs/guide/auto-mode.md, and writes it with `--write`.

A call is complete two seconds before its reply ends. A server process, and a provider whose checker takes some seconds.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from aiohttp import web

from tests.support.fakes.server import RequestLog, new_application, serving
from tests.support.paths import ROOT
from tests.support.sdk import open_async_sdk
from tests.support.server_process import running_proxy
from tests.support.tool_loop import call, calls

PAGE = ROOT / "docs/guide/auto-mode.md"
BEGIN = "<!-- delays: begin, written by python -m tests.e2e.auto_mode_delays --write -->\n"
END = "<!-- delays: end -->"
SECONDS = (0.3, 1.0, 3.0)
REST = 2.0
"""Seconds between the end of the call and the end of the reply."""
_REPLIES, _AT_ONCE = 200, 10
_VERDICT = json.dumps({"rule": "Task", "verdict": "not_flagged", "explanation": ""})
_SHOP = "/home/ada/shop"
_CONTEXT = {"live_cwd": _SHOP, "trusted_directories": {"primary": {"path": _SHOP, "resolved": [_SHOP]}}}
_SAFEGUARDS = [{"type": "dangerous_tool_use", "classifier_context": _CONTEXT}]
_BASH: Any = {"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}
_READ: Any = {"name": "Read", "input_schema": {"type": "object", "properties": {"file_path": {"type": "string"}}}}


def new_provider(check_seconds: float) -> web.Application:
    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        del journal
        if not json.loads(raw).get("stream"):
            await asyncio.sleep(check_seconds)
            message = {"role": "assistant", "content": _VERDICT}
            return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        first, second, *others = calls(call("Bash", command="make"), call("Read", 1, file_path="a.py"))
        await response.write(
            first + second
        )  # the second call, which needs no check, shows that the first one is complete
        await asyncio.sleep(REST)
        await response.write(b"".join(others))
        return response

    return new_application(answer, RequestLog())


async def measure_replies(url: str, **more: Any) -> list[float]:
    """Return the seconds of each reply."""
    free = asyncio.Semaphore(_AT_ONCE)
    fields: Any = {"model": "openai/gpt-4.1", "max_tokens": 500, "tools": [_BASH, _READ], "extra_body": more}

    async def measure() -> float:
        async with free:
            started = time.monotonic()
            async with client.messages.stream(**fields, messages=[{"role": "user", "content": "build it"}]) as stream:
                await stream.get_final_message()
            return time.monotonic() - started

    async with open_async_sdk(base_url=url, api_key="the-clients-own", max_retries=0) as client:
        await measure()
        return sorted(await asyncio.gather(*(measure() for _ in range(_REPLIES))))


def find_late(values: Sequence[float]) -> float:
    return values[int(0.99 * len(values)) - 1]


def describe(check_seconds: float) -> str:
    with tempfile.TemporaryDirectory() as folder, serving(new_provider(check_seconds)) as provider:
        settings = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{provider.url}/v1", "OPENAI_WIRE": "chat"}
        with running_proxy(Path(folder), {**settings, "PREFERRED_PROVIDER": "openai"}) as proxy:
            without = asyncio.run(measure_replies(proxy.url))
            checked = asyncio.run(measure_replies(proxy.url, safeguards=_SAFEGUARDS))
    added = [find(checked) - find(without) for find in (median, find_late)]
    return f"| {check_seconds:g} s | {' | '.join(f'{max(seconds, 0):.2f} s' for seconds in added)} |"


def main() -> None:
    lines = ["| the checker takes | median | 99 % of replies |", "| ---: | ---: | ---: |", *map(describe, SECONDS)]
    head = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(head, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    table = "\n".join([*lines, "", f"Measured with commit `{commit}`."]) + "\n"
    print(table)
    if "--write" in sys.argv:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{table}{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
