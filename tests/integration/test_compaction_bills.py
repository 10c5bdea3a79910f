"""Summaries of conversations in ledger, sums and budgets: each has the tokens and costs that the provider states."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import httpx2 as httpx
import pytest
from aiohttp import web

from tests.support.command_line import run_command
from tests.support.fakes.openrouter import KEY, Answer, count_tokens, new_openrouter, serving_openrouter
from tests.support.fakes.server import RequestLog, new_application, serving
from tests.support.sdk import open_sdk
from tests.support.server_process import Proxy, running_forked_proxy
from tests.support.waiting import wait_for

GLM = "z-ai/glm-5.2"
PRICING = {"prompt": "0.0000006", "completion": "0.0000022"}
ADMIN = "admin-key-of-this-proxy-1"
EDIT: Any = {"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 50_000}}
LONG = "Rain and wind. " * 16_000
PRICES = """[prices."relay/glm"]
input = 0.6
output = 2.2
"""


@dataclass
class Bill:
    """What the provider has counted so far."""

    summary: dict[str, Any]
    reply: dict[str, Any]
    calls: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, body: dict[str, Any]) -> Answer:
        is_summary = "between <summary> and </summary>" in json.dumps(body["messages"][-1])
        usage = self.summary if is_summary else self.reply
        self.calls.append(usage)
        return Answer("<summary>It rains.</summary>" if is_summary else "Wet.", usage)

    @property
    def tokens(self) -> int:
        return sum(usage["total_tokens"] for usage in self.calls)

    @property
    def cost(self) -> float:
        return float(sum(usage["cost"] for usage in self.calls))


@dataclass
class Setup:
    bill: Bill
    model: str
    proxy: Proxy
    folder: Path
    settings: dict[str, str]
    admin: httpx.Client

    def create_key(self, name: str, tokens: int) -> tuple[str, str]:
        budget = {"amount": tokens, "unit": "tokens", "period": "day"}
        created = self.admin.post("/admin/keys", json={"name": name, "budgets": [budget]}).json()
        return created["id"], created["key"]

    def list_rows(self, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = wait_for(
            lambda: self.admin.get("/api/requests", params={"since": "1h", "limit": 100}).json()["requests"],
            lambda found: len(found) == count,
        )
        return found


@contextmanager
def openrouter_at(bill: Bill, folder: Path) -> Iterator[str]:
    with serving_openrouter(new_openrouter(bill.answer, {GLM: PRICING}), folder) as (running, lines):
        yield lines
        assert running.journal.violations() == []


@contextmanager
def relay_at(bill: Bill, folder: Path) -> Iterator[str]:
    """A server with the Messages API, which does not know `compaction`."""

    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        body = json.loads(raw)
        assert not {"compaction", "context_management"} & body.keys()
        found = bill.answer(body)
        assert found.usage is not None
        tokens = found.usage["prompt_tokens"], found.usage["completion_tokens"]
        usage = dict(zip(("input_tokens", "output_tokens"), tokens, strict=True))
        content = [{"type": "text", "text": found.text}]
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "glm", "content": content}
        return web.json_response({**head, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage})

    with serving(new_application(answer, RequestLog())) as running:
        yield f'[providers.relay]\nbase_url = "{running.url}"\nwire = "messages"\n{PRICES}'


@pytest.fixture(params=["OpenRouter", "relay"])
def setup(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Setup]:
    settings = {
        "VIRTUAL_KEYS": "true",
        "ADMIN_API_KEY": ADMIN,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}",
    }
    if request.param == "relay":  # it states no costs
        bill, model = Bill(count_tokens(60_000, 300, 0.03666), count_tokens(500, 20, 0.000344)), "relay/glm"
        upstream = relay_at(bill, tmp_path)
    else:
        bill, model = Bill(count_tokens(60_000, 300, 0.04), count_tokens(500, 20, 0.0005)), f"openrouter/{GLM}"
        upstream = openrouter_at(bill, tmp_path)
        settings |= {"PREFERRED_PROVIDER": "openrouter", "OPENROUTER_API_KEY": KEY}
    settings["BIG_MODEL"] = model
    with upstream as lines:
        (tmp_path / "anthropic-proxy.toml").write_text(lines, encoding="utf-8")
        with running_forked_proxy(tmp_path, settings) as proxy:
            admin = proxy.client(headers={"x-api-key": ADMIN})
            yield Setup(bill, model, proxy, tmp_path, settings, admin)
            assert "Traceback" not in proxy.log


def ask(sdk: anthropic.Anthropic, model: str, **fields: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": LONG}]
    return sdk.beta.messages.create(model=model, max_tokens=400, messages=messages, **fields)


EDITS: Any = {"betas": ["compact-2026-01-12"], "context_management": {"edits": [EDIT]}}


def test_each_sum_has_what_the_provider_has_counted(setup: Setup) -> None:
    key_id, key = setup.create_key("ci", 10_000_000)
    with open_sdk(base_url=setup.proxy.url, api_key=key, max_retries=0) as sdk:
        replies = [ask(sdk, setup.model, **EDITS) for _ in range(3)]
        replies.append(ask(sdk, setup.model, betas=["compact-2026-09-04"], compaction={"type": "summarize"}))
    told = [one for reply in replies for one in reply.usage.iterations]
    assert sum(one.input_tokens + one.output_tokens for one in told) == setup.bill.tokens == 3 * 60_820 + 60_300
    rows = setup.list_rows(8)
    summaries = [row for row in rows if row["kind"] == "compaction"]
    assert len(summaries) == 4
    assert {row["parent"] for row in summaries} == {row["id"] for row in rows if not row["parent"]}
    assert sum(row["input_tokens"] + row["output_tokens"] for row in rows) == setup.bill.tokens
    assert sum(row["cost"] or 0 for row in rows) == pytest.approx(setup.bill.cost)
    done = run_command(
        "usage", "--by", "kind", "--since", "1d", "--json", directory=setup.folder, settings=setup.settings
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["total"]["cost"] == pytest.approx(setup.bill.cost)
    (group,) = [one for one in found["groups"] if one["name"] == "compaction"]
    assert group["cost"] == pytest.approx(4 * setup.bill.summary["cost"])
    (budget,) = setup.admin.get(f"/admin/keys/{key_id}").json()["spending"]
    assert budget["used"] == setup.bill.tokens
    explained = run_command("explain", summaries[0]["id"], directory=setup.folder, settings=setup.settings)
    assert f"the conversation in {summaries[0]['parent']}" in explained.stdout


def test_a_used_up_budget_is_no_lost_conversation(setup: Setup) -> None:
    _, key = setup.create_key("small", 50_000)
    with open_sdk(base_url=setup.proxy.url, api_key=key, max_retries=0) as sdk:
        reply = ask(sdk, setup.model, **EDITS)
        assert [(block.type, getattr(block, "content", None)) for block in reply.content] == [
            ("compaction", None),
            ("text", None),
        ]
        with pytest.raises(anthropic.RateLimitError):
            ask(sdk, setup.model, betas=["compact-2026-09-04"], compaction={"type": "summarize"})
    assert setup.bill.calls == [setup.bill.reply]
