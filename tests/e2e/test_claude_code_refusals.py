"""Forty turns of Claude Code at a server that refuses a part of its requests from the fifteenth turn on.

The server refuses in words that the proxy cannot know. No turn fails, and the cache of the prompt is lost at most once.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from anthropic_proxy.gateway.settings import CONFIG_FILE
from tests.e2e.cache_sessions import Turn, run_turns
from tests.support.fakes.prefix_cache import CachingProvider, Script, new_caching_provider
from tests.support.fakes.server import RequestLog, serving_strictly
from tests.support.server_process import running_proxy

_TURNS = 40
_FIRST_REFUSED = 15
_WORDS = "Bxqv: 7 does not hold here."


@dataclass
class RefusingProvider(CachingProvider):
    """A server that refuses each request for which `refuses` is true, after its first `accepted` replies."""

    refuses: Callable[[Any], bool] = lambda body: False
    accepted: int = 0
    refused: int = 0

    async def answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        if len(self.calls) >= self.accepted and raw and self.refuses(body := json.loads(raw)):
            journal.open(request, body)
            self.refused += 1
            return web.json_response({"error": {"message": _WORDS}}, status=400)
        return await super().answer(request, raw, journal)


def _plan_turns(work: Path) -> list[Turn]:
    turns = []
    for number in range(1, _TURNS + 1):
        path = work / f"part-{number}.txt"
        path.write_text(f"The text of part {number}.\n" * (600 if number == 1 else 20), "utf-8")
        steps: Script = [("Read", {"file_path": str(path)}), f"Part {number} is done."]
        turns.append(Turn(f"Do part {number} of the work.", steps))
    return turns


@pytest.mark.parametrize(
    ("refuses", "refused", "min_share"),
    [
        pytest.param(lambda body: False, 0, 0.98, id="nothing"),
        pytest.param(lambda body: "stream_options" in body, 1, 0.98, id="behind the prompt"),
        pytest.param(lambda body: "additionalProperties" in json.dumps(body.get("tools")), 1, 0.97, id="in the tools"),
    ],
)
def test_no_turn_fails(
    claude: Path, tmp_path: Path, refuses: Callable[[Any], bool], refused: int, min_share: float
) -> None:
    work, server = tmp_path / "work", tmp_path / "server"
    work.mkdir()
    server.mkdir()
    turns = _plan_turns(work)
    steps = [step for turn in turns for step in turn.steps]
    accepted = sum(len(turn.steps) for turn in turns[: _FIRST_REFUSED - 1])
    provider = RefusingProvider(steps, refuses=refuses, accepted=accepted)
    with serving_strictly(new_caching_provider(provider)) as fake:
        table = f'[providers.measured]\nbase_url = "{fake.url}/v1"\nwire = "chat"\n'
        (server / CONFIG_FILE).write_text(table, "utf-8")
        settings = {"BIG_MODEL": "measured/qwen3-coder", "SMALL_MODEL": "measured/qwen3-coder"}
        with running_proxy(server, settings) as proxy:
            events = run_turns(claude, proxy.url, work, turns)
            assert "Traceback" not in proxy.log
    results = [event["result"] for event in events if event["type"] == "result"]
    assert results == [turn.steps[-1] for turn in turns]
    assert provider.refused == refused
    later = provider.calls[2:]
    share = sum(call.cached for call in later) / sum(call.tokens for call in later)
    assert share >= min_share
