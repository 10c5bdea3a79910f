"""Page Providers: open circuits, keys in cooldown, speed; page Models: times and speed of each model."""

from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.dashboard.models import build_models_page
from anthropic_proxy.dashboard.page_context import FailedPanel
from anthropic_proxy.dashboard.providers import build_providers_page
from anthropic_proxy.plugins import Cost, ProviderSetup, Setup
from anthropic_proxy.settings import Settings
from tests.support.ledger import NOON, UNKNOWN_COST, new_receipt, reading, running_ledger
from tests.support.page_context import build_context

FAILURE = "groq returned HTTP 503."


def setup_of(**fields: Any) -> Setup:
    return Setup(providers=[ProviderSetup(**{"name": "groq", "prefix": "groq", "state": "ready", **fields})])


@pytest.mark.parametrize(
    ("fields", "state", "remedy", "verdict"),
    [
        ({}, "ready", "1 of 3 requests was answered with an error.", "1 provider ready."),
        (
            {"open_seconds": 12.0, "failure": FAILURE},
            "blocked",
            f"Repeated failures opened the circuit; the next call is tried in 12.0 s. {FAILURE}",
            "0 providers ready. groq: circuit open.",
        ),
        (
            {"key_count": 2, "cooldowns": [30.0]},
            "ready",
            "1 of 2 keys is skipped after failures; the next one is used again in 30.0 s.",
            "1 provider ready.",
        ),
        (
            {"key_count": 2, "cooldowns": [30.0, 9.0]},
            "cooldown",
            "2 of 2 keys are skipped after failures; the next one is used again in 9.00 s.",
            "0 providers ready. groq: all keys in cooldown.",
        ),
        (
            {"state": "unset", "remedy": "GROQ_API_KEY is not set."},
            "not set",
            "GROQ_API_KEY is not set.",
            "No provider is configured, so the demo replies: it streams and calls tools, but has no model.",
        ),
    ],
    ids=["ready", "circuit", "one key", "all keys", "unset"],
)
async def test_a_provider_has_a_state_and_a_remedy(
    tmp_path: Path, fields: dict[str, Any], state: str, remedy: str, verdict: str
) -> None:
    page = await build_page(tmp_path, setup_of(**fields))
    (row,) = page["rows"]
    assert (row.state, row.remedy, page["verdict"]) == (state, remedy, verdict)
    assert (row.requests, row.errors, row.p50, row.p95) == ("3", "33.3 %", "0.51 s", "1.95 s")
    assert "polyline" in row.line


async def build_page(tmp_path: Path, setup: Setup, page: Any = build_providers_page) -> dict[str, Any]:
    """Return the values of a page about three requests to Groq."""
    settings = Settings(data_directory=tmp_path / "data")
    failed = {"outcome": "error", "status": 429, "first_token_seconds": None, "output_tokens": 0}
    with running_ledger(settings) as ledger:
        await ledger.record(
            new_receipt(1, output_tokens=100),
            new_receipt(2, started_at=NOON + 3_600, first_token_seconds=2.0, duration_seconds=3.0, output_tokens=100),
            new_receipt(3, **failed),
        )
        ledger.wait_written(3)
    with reading(settings) as engine, engine.connect() as connection:
        return dict(page(build_context("/dashboard/providers", connection, settings, now=NOON + 7_200, setup=setup)))


async def test_a_model_has_total_times_and_the_speed_of_its_output(tmp_path: Path) -> None:
    page = await build_page(tmp_path, Setup(), build_models_page)
    assert not [name for name, value in page.items() if isinstance(value, FailedPanel)]
    (row,) = page["rows"]
    assert (row["p50"], row["p95"], row["total50"], row["total95"]) == ("0.51 s", "1.95 s", "1.47 s", "3.15 s")
    assert row["speed"] == "100", "200 tokens in 2 s after the first tokens, without the failed request"


async def test_unused_providers_are_one_line_and_keys_are_no_addresses(tmp_path: Path) -> None:
    own = ProviderSetup(
        name="own", prefix="own", state="ready", detail="http://127.0.0.1:9/v1", base_url="http://127.0.0.1:9/v1"
    )
    listed = ProviderSetup(
        name="ollama", prefix="ollama", state="ready", detail="3 models", base_url="http://localhost"
    )
    unused = ProviderSetup(name="google", prefix="gemini", state="unset", remedy="GEMINI_API_KEY is not set.")
    keyed = ProviderSetup(name="groq", prefix="groq", state="ready", detail="…1234, .env", key_count=1)
    page = await build_page(tmp_path, Setup(providers=[own, listed, unused, keyed]))
    assert [(row.name, row.address, row.key, row.remedy) for row in page["rows"]] == [
        ("own", "127.0.0.1:9/v1", "no key", "Nothing to do."),
        ("ollama", "localhost", "no key; 3 models", "Nothing to do."),
        ("groq", "–", "…1234, .env", "1 of 3 requests was answered with an error."),
    ]
    assert page["unused"] == [("google", "gemini", "GEMINI_API_KEY is not set.")]
    assert "outcome=error&provider=groq" in page["rows"][2].failures


async def test_the_costs_at_other_models_are_of_the_same_requests(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    costs = {"small": Cost(50_000_000, None, "own")}
    with running_ledger(settings, cost=lambda receipt: costs.get(receipt.model, UNKNOWN_COST)) as ledger:
        await ledger.record(
            new_receipt(1, input_tokens=100_000), new_receipt(2, model="unpriced", input_tokens=9_000_000)
        )
        ledger.wait_written(2)
    with reading(settings) as engine, engine.connect() as connection:
        query = {"at": ["openai/gpt-4.1"]}
        page = build_models_page(build_context("/dashboard/models", connection, settings, query, now=NOON + 7_200))
    comparison = page["comparison"]
    (row,) = [row for row in comparison["rows"] if row.model == "openai/gpt-4.1"]
    assert (comparison["actual"], comparison["left_out"]) == ("$0.050", 1)
    assert (row.cost, row.difference) == ("$0.20", "+$0.15 (+300 %)")
