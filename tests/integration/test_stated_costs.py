"""A cost that OpenRouter states with a reply: the SDK sends the request to a real process, and each place that shows or
sums costs has the same amount with the same source.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any, cast

import anthropic
import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from anthropic_proxy.gateway.money import NANO_DOLLARS, format_cost
from anthropic_proxy.gateway.prices.price_list import find_price_package_version
from tests.support.command_line import run_command
from tests.support.fakes.openrouter import KEY, Answer, count_tokens, new_openrouter, serving_openrouter
from tests.support.fakes.server import Running
from tests.support.sdk import open_sdk, text_of
from tests.support.server_process import Proxy, running_forked_proxy
from tests.support.terminal import answer_questions
from tests.support.waiting import wait_for

GLM, OWN = "z-ai/glm-5.2", "acme/own"
"""A model with a price in the package, $1.40 and $4.40, and a lower one in the list; and a model with an own price."""
PRICING = {"prompt": "0.0000006", "completion": "0.0000022", "input_cache_read": "0.00000011"}
SEARCH: Any = {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"}
READ: Any = {
    "name": "read_document",
    "description": "Reads a document.",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}
SAFEGUARDS = [{"type": "dangerous_tool_use", "classifier_context": {"v": 1, "live_cwd": "/home/ada/shop"}}]
STATED, LIST, PACKAGE = "stated by the provider", "model list of openrouter.ai", find_price_package_version()
OF_FILE = "anthropic-proxy.toml line 7"
VERDICT = json.dumps({"rule": "", "verdict": "not_flagged", "explanation": ""})


def bill(cost: float | None, **fields: Any) -> dict[str, Any]:
    return count_tokens(20_000, 278, cost, **fields)


def upstream(cost: float | None) -> dict[str, Any]:
    return {"upstream_inference_cost": cost}


@dataclass(frozen=True)
class Case:
    name: str
    answers: Sequence[Answer]
    """The replies to the calls of one request, in their order; the last one also to further calls."""
    cost: float | None
    source: str
    model: str = GLM
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    """Error that the client receives."""
    streams: Sequence[bool] = (False, True)


CASES = [
    Case("stated", [Answer(usage=bill(0.0134))], 0.0134, STATED),
    Case("unstated", [Answer(usage=bill(None))], 0.0126116, LIST),
    Case("absurd", [Answer(usage=bill(5.0))], 0.0126116, LIST),
    Case("own", [Answer(usage=bill(0.0134))], 0.020278, OF_FILE, OWN),
    Case(
        "byok", [Answer(usage=bill(0, is_byok=True, cost_details=upstream(0.0197)))], 0.0197, STATED
    ),  # DataDog/dd-trace-py pull 19324
    Case("fee", [Answer(usage=bill(0.001, is_byok=True, cost_details=upstream(0.0197)))], 0.0207, STATED),
    Case("older", [Answer(usage=bill(0.001, is_byok=None, cost_details=upstream(0.0197)))], 0.0207, STATED),
    Case("unbilled", [Answer(usage=bill(0.001, is_byok=True, cost_details=upstream(None)))], 0.0126116, LIST),
    Case(
        "failed",
        [Answer(text="", error="Token limit reached", usage=bill(0.0134))],
        0.0268,  # the proxy repeated the call, which OpenRouter billed too
        STATED,
        error="openrouter: Token limit reached",
    ),
    Case(
        "interrupted",
        [Answer(error="Provider disconnected", usage=bill(0.0134))],
        0.0134,
        STATED,
        error="openrouter: Provider disconnected",
        streams=[True],
    ),
    Case(
        "ended",
        [Answer(usage=None)],
        None,  # of estimated counts
        LIST,
        error="openrouter: the reply ended before it was complete",
        streams=[True],
    ),
    Case(
        "loop",
        [
            Answer(text="", calls=[("tool_search_tool_bm25", '{"query": "read"}')], usage=bill(0.0134)),
            Answer(usage=bill(0.0144)),
        ],
        0.0278,
        STATED,
        fields={"tools": [SEARCH, {**READ, "defer_loading": True}]},
    ),
    Case(
        "fallback",
        [*[Answer(text="", error="Provider disconnected", usage=bill(0.01))] * 2, Answer(usage=bill(0.0134))],
        0.040278,  # two failed calls of the first model, and one at an own price
        f"{STATED}, {OF_FILE}",
        "claude-haiku-4-5",
    ),
    Case(
        "checked",
        [Answer(text="", calls=[("read_document", '{"path": "a"}')], usage=bill(0.0134))],
        0.0134,
        STATED,
        fields={"tools": [READ], "extra_body": {"safeguards": SAFEGUARDS}},
    ),
]
CHECK = 0.0021
"""Cost of a check of auto mode."""


class Script:
    """The fake's part of the cases: replies by the name of the case in the request."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def answer(self, body: dict[str, Any]) -> Answer:
        text = json.dumps(body["messages"])
        if "safety check of a coding agent" in text:
            return Answer(VERDICT, count_tokens(1_500, 30, CHECK))
        label, name = re.findall(r"Case ((\w+)-\w+)\.", text)[-1]
        number = self.calls[label] = self.calls.get(label, 0) + 1
        case = next(one for one in CASES if one.name == name)
        return case.answers[min(number, len(case.answers)) - 1]


@dataclass
class Setup:
    proxy: Proxy
    folder: Path
    settings: dict[str, str]
    key_id: str
    sdk: anthropic.Anthropic
    admin: httpx.Client

    def run(self, *words: str, stdin: str = "") -> str:
        done = run_command(*words, directory=self.folder, settings=self.settings, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout


ADMIN = "admin-key-of-this-proxy-1"


@pytest.fixture(scope="module")
def openrouter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    folder = tmp_path_factory.mktemp("stated_costs")
    fake = new_openrouter(Script().answer, {GLM: PRICING, OWN: PRICING})
    with serving_openrouter(fake, folder) as (running, lines):
        prices = f'[prices."openrouter/{OWN}"]\ninput = 1\noutput = 1\n'
        (folder / "anthropic-proxy.toml").write_text(f"{lines}\n{prices}", encoding="utf-8")
        yield running, folder
        assert running.journal.violations() == []


@pytest.fixture(scope="module")
def setup(openrouter: tuple[Running, Path]) -> Iterator[Setup]:
    _, folder = openrouter
    settings = {
        "PREFERRED_PROVIDER": "openrouter",
        "OPENROUTER_API_KEY": KEY,
        "BIG_MODEL": f"openrouter/{GLM}",
        "SMALL_MODEL": f"openrouter/{GLM}",
        "FALLBACK_HAIKU": f"openrouter/{OWN}",
        "VIRTUAL_KEYS": "true",
        "ADMIN_API_KEY": ADMIN,
        "DATABASE_URL": f"sqlite:///{folder / 'ledger.sqlite3'}",
    }
    with running_forked_proxy(folder, settings) as proxy:
        admin = proxy.client(headers={"x-api-key": ADMIN})
        budget = {"amount": 50, "unit": "usd", "period": "month"}
        created = admin.post("/admin/keys", json={"name": "ci", "owner": "Ann", "budgets": [budget]}).json()
        own = settings | {"PORT": proxy.url.rpartition(":")[2]}
        own |= {"ANTHROPIC_BASE_URL": proxy.url, "ANTHROPIC_AUTH_TOKEN": ADMIN}
        with open_sdk(base_url=proxy.url, api_key=created["key"], max_retries=0) as sdk:
            assert list(sdk.models.list())  # the proxy reads the list of OpenRouter with its prices
            yield Setup(proxy, folder, own, created["id"], sdk, admin)
        assert "Traceback" not in proxy.log


def send(setup: Setup, case: Case, *, stream: bool) -> None:
    """Send the request of a case, and check what the client gets."""
    label = name_request(case, stream=stream)
    model = case.model if case.model.startswith("claude-") else f"openrouter/{case.model}"
    fields: Any = {"model": model, "max_tokens": 400, **case.fields}
    fields["messages"] = [{"role": "user", "content": f"Case {label}."}]
    fields["extra_headers"] = {"x-claude-code-session-id": label}
    try:
        if stream:
            with setup.sdk.messages.stream(**fields) as events:
                reply = events.get_final_message()
        else:
            reply = setup.sdk.messages.create(**fields)
    except anthropic.APIError as error:
        outcome = cast("dict[str, Any]", error.body)["error"]["message"]
    else:
        outcome = text_of(reply)
    assert outcome == (case.error or case.answers[-1].text)


def show_page(setup: Setup, path: str) -> str:
    """Return the words of a page of the dashboard."""
    text = setup.admin.get(path).text
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())


def name_request(case: Case, *, stream: bool) -> str:
    return f"{case.name}-{'streamed' if stream else 'whole'}"


SENT = [(case, stream) for case in CASES for stream in case.streams]


@pytest.fixture(scope="module")
def rows(setup: Setup) -> dict[str, list[dict[str, Any]]]:
    """Send all requests, and return their rows of the ledger by session. Checks of tool calls have their own rows."""
    for case, stream in SENT:
        send(setup, case, stream=stream)
    checks = sum(case.name == "checked" for case, _ in SENT)
    found = wait_for(
        lambda: setup.admin.get("/api/requests", params={"since": "1h", "limit": 100}).json()["requests"],
        lambda found: len(found) == len(SENT) + checks,
    )
    return {label: [row for row in found if row["session"] == label] for label in {row["session"] for row in found}}


@pytest.mark.parametrize(("case", "stream"), SENT, ids=[name_request(case, stream=stream) for case, stream in SENT])
def test_each_place_shows_the_amount_of_a_request_and_its_source(
    setup: Setup, rows: dict[str, list[dict[str, Any]]], case: Case, stream: bool
) -> None:
    label = name_request(case, stream=stream)
    (row,) = (one for one in rows[label] if not one["parent"])
    cost = row["cost"] if case.cost is None else case.cost
    assert 0 < cost == row["cost"]
    assert (row["price_source"], row["error"]) == (case.source, case.error)
    assert setup.admin.get(f"/api/requests/{row['id']}").json()["cost"] == cost
    page = show_page(setup, f"/dashboard/requests/{row['id']}")
    shown = format_cost(round(cost * NANO_DOLLARS))
    assert f"Cost {shown} " in page
    assert f"Tokens and cost {case.source} " in page
    assert f" All {row['input_tokens'] + row['output_tokens']:,} {shown} " in page


def test_all_sums_equal_the_sum_of_the_rows(setup: Setup, rows: dict[str, list[dict[str, Any]]]) -> None:
    everything = [row for found in rows.values() for row in found]
    nano = {label: sum(round(row["cost"] * NANO_DOLLARS) for row in found) for label, found in rows.items()}
    whole = sum(nano.values()) / NANO_DOLLARS
    shown = format_cost(sum(nano.values()))
    assert {row["cost"] for row in everything if row["kind"] == "auto_mode_check"} == {CHECK}

    for text in (
        setup.run("usage", "--by", "day", "--since", "1d", "--json"),
        setup.admin.get("/api/usage", params={"by": "day", "since": "1d"}).text,
    ):
        found = json.loads(text)
        assert found["total"]["cost"] == pytest.approx(whole, abs=1e-9)
        assert sum(group["cost"] for group in found["groups"]) == pytest.approx(whole, abs=1e-9)
    text = setup.run("usage", "--by", "session", "--since", "1d", "--csv")
    costs = {row["session"]: float(row["cost"]) for row in csv.DictReader(io.StringIO(text))}
    assert costs == {label: pytest.approx(amount / NANO_DOLLARS) for label, amount in nano.items()}
    for name in ("json", "csv"):
        text = setup.admin.get("/dashboard/costs", params={"by": "model", "range": "24h", "format": name}).text
        exported = json.loads(text) if name == "json" else list(csv.DictReader(io.StringIO(text)))
        assert sum(float(one["cost"]) for one in exported) == pytest.approx(whole, abs=1e-9)
    for name in ("json", "csv"):
        text = setup.admin.get("/dashboard/requests", params={"range": "24h", "format": name}).text
        exported = json.loads(text) if name == "json" else list(csv.DictReader(io.StringIO(text)))
        assert {(one["id"], float(one["cost"]), one["price_source"]) for one in exported} == {
            (row["id"], row["cost"], row["price_source"]) for row in everything
        }
    for path in ("/dashboard/costs", "/dashboard"):
        assert shown in show_page(setup, path)
    measured = [
        sample.value
        for family in text_string_to_metric_families(setup.admin.get("/metrics").text)
        for sample in family.samples
        if sample.name == "anthropic_proxy_cost_dollars_total"
    ]
    assert sum(measured) == pytest.approx(whole, abs=1e-9)
    (spending,) = setup.admin.get(f"/admin/keys/{setup.key_id}").json()["spending"]
    assert spending["used"] == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("label", ["stated-whole", "stated-streamed", "loop-streamed", "checked-whole"])
def test_commands_show_the_same_amount(setup: Setup, rows: dict[str, list[dict[str, Any]]], label: str) -> None:
    (row,) = (one for one in rows[label] if not one["parent"])
    shown = format_cost(round(row["cost"] * NANO_DOLLARS))
    assert f"cost       {shown} ({row['price_source']})\n" in setup.run("explain", row["id"])
    assert json.loads(setup.run("explain", row["id"], "--json"))["cost"] == row["cost"]
    session = format_cost(sum(round(one["cost"] * NANO_DOLLARS) for one in rows[label]))
    today = format_cost(sum(round(one["cost"] * NANO_DOLLARS) for found in rows.values() for one in found))
    text = json.dumps({"session_id": label, "model": {"id": row["requested_model"]}})
    # a line of a busy machine leaves out what the proxy does not tell in time
    wait_for(lambda: setup.run("statusline", stdin=text), lambda line: f" · session {session} · today {today}" in line)


def test_logs_show_the_amounts(setup: Setup, rows: dict[str, list[dict[str, Any]]]) -> None:
    screen = answer_questions(
        *("logs", "--no-follow", "-n", "100"), answers=[], directory=setup.folder, settings=setup.settings, columns=200
    )
    costs = [found[1] for line in screen.lines if (found := re.search(r" total \S+  (<?\$[\d.]+)", line))]
    assert sorted(costs) == sorted(
        format_cost(round(row["cost"] * NANO_DOLLARS)) for found in rows.values() for row in found
    )
