"""The counters of a process, their sum over several processes, and the text of the metrics page."""

import subprocess
import sys
from typing import Any

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from anthropic_proxy.engine.messages.deltas import MAX_COUNT, Iteration
from anthropic_proxy.engine.messages.fidelity import FidelityReport
from anthropic_proxy.gateway.telemetry.metrics import (
    BUDGET_USED_RATIO,
    CPU_SECONDS,
    FAILED_ATTEMPTS,
    FAMILIES,
    KEYS_IN_COOLDOWN,
    LEDGER_UP,
    MAX_FAILED_ATTEMPT_LABELS,
    MAX_LABEL_CHARACTERS,
    MAX_LABEL_SETS,
    MAX_MODEL_LABELS,
    RESIDENT_MEMORY,
    START_TIME,
    WORKERS,
    MetricsSnapshot,
    MetricsTotals,
    encode_snapshot,
    serve_metrics,
    sum_snapshots,
)
from anthropic_proxy.gateway.telemetry.requests import Receipts
from anthropic_proxy.gateway.workers.link import WorkerPeer
from anthropic_proxy.plugins import (
    CallCheck,
    Client,
    InspectionRecord,
    LedgerState,
    PrefixChange,
    Receipt,
    RouteRequest,
)
from anthropic_proxy.secrets import redact_key_patterns
from tests.support.harness import ProxyHarness
from tests.support.platform_marks import HIDDEN_POSIX

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def receipt_of(**fields: Any) -> Receipt:
    usual = {"provider": "groq", "model": "small", "status": 200, "outcome": "end_turn", "duration_seconds": 1.0}
    return Receipt(request_id="req_1", client=Client(), started_at=0.0, **{**usual, **fields})


def contains_key(word: str) -> bool:
    return redact_key_patterns(word) != word


async def count(*receipts: Receipt) -> MetricsSnapshot:
    totals = MetricsTotals(contains_key)
    for receipt in receipts:
        totals.count_exchange(receipt)
    return totals.snapshot


async def page_of(reading: MetricsSnapshot, accept: str = "") -> tuple[str, str]:
    async def gather() -> tuple[MetricsSnapshot, int]:
        return reading, 0

    response = await serve_metrics(gather, RouteRequest(path="/metrics", headers={"accept": accept}))
    assert isinstance(response.body, bytes)
    return response.body.decode(), str(response.headers["content-type"])


def values_of(page: str, read: Any = read_text) -> dict[tuple[str, ...], float]:
    """Sample → value; a sample is its name and the values of its labels, in the order of their names."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in read(page)
        for sample in family.samples
    }


async def test_an_exchange_counts_once_in_each_metric_that_it_concerns() -> None:
    report = FidelityReport(approximated=1, dropped=2, notes=[None, None, None])  # type: ignore[list-item]
    streamed = receipt_of(
        stream=True,
        duration_seconds=3.0,
        first_token_seconds=0.25,
        input_tokens=5,
        cache_read_tokens=7,
        fidelity=report,
    )
    failed = receipt_of(
        status=529,
        outcome="error",
        error_code="overloaded",
        duration_seconds=301.0,
        failed_attempts=["groq 429", "groq 429", "gemini circuit_open"],
        prefix_change=PrefixChange("tools", "tool 3 (WebFetch)", 0.9, 45_000),
        checks=[
            CallCheck("c1", "Bash", "flagged", "Deletes data."),
            *[CallCheck("c2", "Bash", "unavailable", "timeout", kind="timeout")] * 2,
            CallCheck("c3", "Read", "harmless", kind="rule"),
        ],
        inspections=[
            InspectionRecord("secrets", "request", "redacted", {"key": 3}, 0.5),
            InspectionRecord("guard", "request", "failed", seconds=2.0, failure="timeout"),
        ],
    )
    advised = receipt_of(
        provider="cloud",
        model="haiku",
        input_tokens=830,
        output_tokens=97,
        iterations=(
            Iteration(kind="message", input_tokens=30, output_tokens=7),
            Iteration(kind="advisor_message", model="opus", input_tokens=800, output_tokens=90),
        ),
    )
    check = receipt_of(provider="judge", kind="auto_mode_check", parent=failed.request_id, checks=failed.checks[:1])
    page, _ = await page_of(await count(streamed, failed, advised, check))
    values = values_of(page)
    assert values["anthropic_proxy_requests_total", "small", "end_turn", "groq", "200", "true"] == 1
    assert values["anthropic_proxy_requests_total", "small", "error", "groq", "529", "false"] == 1
    assert values["anthropic_proxy_tokens_total", "cache_read", "small", "groq"] == 7
    assert values["anthropic_proxy_tokens_total", "input", "small", "groq"] == 5
    assert values["anthropic_proxy_tokens_total", "input", "haiku", "cloud"] == 30
    assert values["anthropic_proxy_tokens_total", "input", "opus", "cloud"] == 800
    assert values["anthropic_proxy_tokens_total", "output", "opus", "cloud"] == 90
    assert values["anthropic_proxy_requests_total", "haiku", "end_turn", "cloud", "200", "false"] == 1
    assert values["anthropic_proxy_requests_total", "opus", "end_turn", "cloud", "200", "false"] == 0
    assert values["anthropic_proxy_fidelity_notes_total", "dropped", "small", "groq"] == 2
    assert values["anthropic_proxy_errors_total", "overloaded", "groq", "529"] == 1
    assert values["anthropic_proxy_failed_attempts_total", "groq", "429"] == 2
    assert values["anthropic_proxy_failed_attempts_total", "gemini", "circuit_open"] == 1
    assert values["anthropic_proxy_prefix_changes_total", "tools", "groq"] == 1
    assert values["anthropic_proxy_prefix_change_tokens_total", "tools", "groq"] == 45_000
    checks = {names[1:]: value for names, value in values.items() if names[0].startswith("anthropic_proxy_tool_call")}
    assert checks == {("model", "flagged"): 1, ("timeout", "unavailable"): 2, ("rule", "harmless"): 1}
    assert values["anthropic_proxy_inspections_total", "redacted", "secrets", "request"] == 1
    assert values["anthropic_proxy_inspections_total", "failed", "guard", "request"] == 1
    assert values["anthropic_proxy_inspection_seconds_total", "failed", "guard", "request"] == 2
    seconds = "anthropic_proxy_request_duration_seconds"
    assert values[f"{seconds}_bucket", "2.5", "small", "groq", "true"] == 0
    assert values[f"{seconds}_bucket", "5.0", "small", "groq", "true"] == 1
    assert values[f"{seconds}_bucket", "300.0", "small", "groq", "false"] == 0
    assert values[f"{seconds}_bucket", "+Inf", "small", "groq", "false"] == 1
    assert values[f"{seconds}_sum", "small", "groq", "false"] == 301
    first = "anthropic_proxy_time_to_first_token_seconds"
    assert values[f"{first}_bucket", "0.25", "small", "groq", "true"] == 1, "a limit belongs to its class"
    assert values[f"{first}_count", "small", "groq", "false"] == 0


async def test_both_formats_have_the_same_values() -> None:
    reading = await count(receipt_of(model='odd "name"\\'), receipt_of(provider="", model="", status=400))
    for family in FAMILIES:
        if family.kind == "gauge" and not family.label_names:
            reading.replace(family, 5.0)
    text, text_type = await page_of(reading)
    openmetrics, openmetrics_type = await page_of(reading, f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
    assert text_type == "text/plain; version=0.0.4; charset=utf-8"
    assert openmetrics_type.startswith(OPENMETRICS)
    assert values_of(text) == values_of(openmetrics, read_openmetrics)
    assert {family.name for family in read_text(text)} == {name_of(family.name) for family in FAMILIES}


def name_of(name: str) -> str:
    """Return the metric name as parsers of the format report it: a counter without its ending."""
    return name.removesuffix("_total")


@pytest.mark.parametrize("status", [0, 401, 404, 429, 502])
async def test_names_invented_by_clients_use_no_memory(status: int) -> None:
    junk = [
        receipt_of(model=f"no-such-{number}", status=status, outcome="error") for number in range(3 * MAX_MODEL_LABELS)
    ]
    served = [receipt_of(model=f"model-{number}") for number in range(3 * MAX_MODEL_LABELS)]
    reading = await count(
        *junk, receipt_of(model="x" * (MAX_LABEL_CHARACTERS + 1)), *served, receipt_of(model="model-1")
    )
    models = {model for _, model, *_ in reading.counters}
    assert len(models) == MAX_MODEL_LABELS + 1
    assert reading.counters["groq", "model-1", False, 200, "end_turn"].requests == 2
    assert reading.counters["groq", "other", False, status, "error"].requests == len(junk)
    assert sum(row.requests for row in reading.counters.values()) == len(junk) + len(served) + 2


async def test_names_invented_by_providers_use_no_memory() -> None:
    odd = [
        receipt_of(outcome=f"reason-{number}", failed_attempts=[f"groq {number}"])
        for number in range(2 * MAX_LABEL_SETS)
    ]
    reading = await count(*odd)
    assert len(reading.counters) == MAX_LABEL_SETS + 1
    assert reading.counters["other", "other", False, 0, "other"].requests == MAX_LABEL_SETS
    failed = reading.values[FAILED_ATTEMPTS.name]
    assert len(failed) == MAX_FAILED_ATTEMPT_LABELS + 1
    assert (failed["other", "other"], sum(failed.values())) == (len(odd) - MAX_FAILED_ATTEMPT_LABELS, len(odd))


@pytest.mark.parametrize("model", ["sk-ant-0123456789abcdef", "gpt\ud800", "gpt\x1b[2J", "a\nb"])
async def test_a_name_reveals_no_key_and_keeps_the_page_valid(model: str) -> None:
    page, _ = await page_of(await count(receipt_of(model=model)))
    assert "0123456789ab" not in page
    assert values_of(page)["anthropic_proxy_requests_total", "other", "end_turn", "groq", "200", "false"] == 1


async def test_counts_of_several_processes_are_added_and_those_of_ended_ones_stay() -> None:
    readings = [
        await count(receipt_of(duration_seconds=1.0, input_tokens=1), receipt_of(failed_attempts=["groq 500"])),
        await count(
            receipt_of(duration_seconds=2.0, input_tokens=2), receipt_of(model="big", failed_attempts=["groq 500"])
        ),
    ]
    for reading, started in zip(readings, (7.0, 5.0), strict=True):
        reading.replace(CPU_SECONDS, 1.5)
        gauges = {
            START_TIME: started,
            RESIDENT_MEMORY: 10,
            KEYS_IN_COOLDOWN: 1,
            WORKERS: 1,
            LEDGER_UP: int(started == 7),
        }
        for family, number in gauges.items():
            reading.replace(family, number)
    first, second = map(encode_snapshot, readings)
    total = sum_snapshots([second], ended_snapshots=[first])
    assert total.counters["groq", "small", False, 200, "end_turn"].requests == 3
    assert total.counters["groq", "small", False, 200, "end_turn"].tokens[0] == 3
    assert total.counters["groq", "big", False, 200, "end_turn"].requests == 1
    counts = {FAILED_ATTEMPTS.name: {("groq", "500"): 2}, CPU_SECONDS.name: {(): 3.0}}
    assert total.values == {
        **counts,
        START_TIME.name: {(): 5.0},
        RESIDENT_MEMORY.name: {(): 10},
        KEYS_IN_COOLDOWN.name: {(): 1},
        WORKERS.name: {(): 1},
        LEDGER_UP.name: {(): 0},
    }
    both = sum_snapshots([first, second])
    assert both.counters == total.counters
    assert both.values == {  # what rests, rests for all
        **counts,
        START_TIME.name: {(): 5.0},
        RESIDENT_MEMORY.name: {(): 20},
        KEYS_IN_COOLDOWN.name: {(): 1},
        WORKERS.name: {(): 2},
        LEDGER_UP.name: {(): 0},
    }
    assert msgspec.to_builtins(sum_snapshots([encode_snapshot(both)])) == msgspec.to_builtins(both)


async def test_workers_report_the_highest_use_of_a_budget() -> None:
    snapshots = []
    for used in (0.85, 0.9):
        snapshot = MetricsSnapshot()
        snapshot.replace(BUDGET_USED_RATIO, used, ("key", "ci", "usd", "day", "", "hard"))
        snapshots.append(encode_snapshot(snapshot))
    page, _ = await page_of(sum_snapshots(snapshots))
    line = 'anthropic_proxy_budget_used_ratio{mode="hard",models="",name="ci",period="day",scope="key",unit="usd"} 0.9'
    assert line in page.splitlines()


async def test_rows_in_the_file_of_all_workers_count_once() -> None:
    snapshots = []
    for waiting, in_file in ((2, 7), (3, 5), (0, 7)):
        totals = MetricsTotals(contains_key)
        totals.copy_ledger_state(LedgerState(queued_rows=waiting + in_file, spooled_rows=in_file))
        snapshots.append(encode_snapshot(totals.snapshot))
    page, _ = await page_of(sum_snapshots(snapshots))
    assert [line for line in page.splitlines() if line.startswith("anthropic_proxy_ledger_queued_rows{")] == [
        'anthropic_proxy_ledger_queued_rows{place="memory"} 5.0',
        'anthropic_proxy_ledger_queued_rows{place="file"} 7.0',
    ]


async def test_sums_of_maximum_token_counts_can_be_sent_and_shown() -> None:
    """2,100 replies of 2**53 - 1 tokens exceed 64 bits, the limit of integers in a message between processes."""
    huge = receipt_of(input_tokens=MAX_COUNT, output_tokens=MAX_COUNT, cache_read_tokens=MAX_COUNT)
    reading = sum_snapshots([encode_snapshot(await count(*[huge] * 2_100))] * 3)
    page, _ = await page_of(reading)
    assert values_of(page)["anthropic_proxy_tokens_total", "input", "small", "groq"] == pytest.approx(MAX_COUNT * 6_300)


async def test_workers_count_their_exchanges() -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("nobody is called"), OPENAI_API_KEY="sk-none")
    peer = WorkerPeer(contains_key, lambda _: None, lambda _: None)
    proxy.services = msgspec.structs.replace(proxy.services, receipts=Receipts(proxy.services.log, totals=peer.totals))
    await proxy.post(model="no such model", max_tokens=-1)
    reading, unresponsive = await peer.query_totals()
    assert [key[3:] for key in reading.counters] == [(400, "error")]
    assert unresponsive == 0
    assert (reading.values[RESIDENT_MEMORY.name][()] > 0) is not HIDDEN_POSIX


def test_the_library_is_loaded_with_the_first_page() -> None:
    code = "import sys, anthropic_proxy.app; print([name for name in sys.modules if name.startswith('prometheus')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
