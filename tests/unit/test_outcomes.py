"""How a request ended: the log, the live view, the ledger and the pages agree."""

import io
from typing import Any

import pytest

from anthropic_proxy.cli.live_view import build_rows
from anthropic_proxy.console.dashboard.request import summarize_outcome
from anthropic_proxy.console.dashboard.tables import COLUMNS, build_finished_row, build_running_row
from anthropic_proxy.console.ledger.records import RowBuilder
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.logged_requests import LoggedRequest
from anthropic_proxy.plugins import Client, Cost, Receipt, UpstreamAttempt
from tests.support.ledger import NOON, new_receipt

FAILED = {"failed_attempts": ["groq 429"]}


@pytest.mark.parametrize(
    ("fields", "remark", "tag", "stored", "summary"),
    [
        ({"outcome": "end_turn"}, "", "✓ end_turn", "ok", "Succeeded"),
        ({"outcome": "pause_turn"}, "", "✓ pause_turn", "ok", "Succeeded"),
        (
            {"outcome": "tool_use", **FAILED},
            "↻ groq 429, then openai",
            "↻ retried",
            "retried",
            "Succeeded after a fallback to openai",
        ),
        (
            {"outcome": "max_tokens"},
            "! truncated (max_tokens)",
            "! truncated",
            "truncated",
            "Truncated by the token limit",
        ),
        (
            {"outcome": "model_context_window_exceeded"},
            "! truncated (model_context_window_exceeded)",
            "! truncated",
            "truncated",
            "Truncated by the token limit",
        ),
        (
            {"outcome": "max_tokens", **FAILED},
            "↻ groq 429, then openai; ! truncated (max_tokens)",
            "! truncated",
            "truncated",
            "Truncated by the token limit after a fallback to openai",
        ),
        ({"outcome": "max_tokens", "message_count": 1, "output_tokens": 16}, "", "✓ max_tokens", "ok", "Succeeded"),
        ({"outcome": "refusal"}, "! refused", "! refused", "refused", "Refused by the model"),
        (
            {"outcome": "error", "status": 502, "error": "openai: full", **FAILED},
            "↻ groq 429; ✕ openai: full",
            "✕ 502",
            "error",
            "Failed with 502 after a fallback to openai",
        ),
        (
            {
                "outcome": "error",
                "status": 529,
                "error": "own: full",
                "attempts": [
                    UpstreamAttempt(
                        provider="own", model="m", offset_seconds=0.0, status=503, error_type="overloaded_error"
                    )
                ],
            },
            "✕ own: full (openai sent 503)",
            "✕ 529",
            "error",
            "Failed with 529",
        ),
        ({"outcome": "", "status": 404}, "", "✕ 404", "error", "Failed with 404"),
        ({"outcome": "cancelled"}, "– client left", "– cancelled", "cancelled", "Cancelled by the client"),
    ],
)
def test_all_views_agree_about_an_outcome(
    fields: dict[str, Any], remark: str, tag: str, stored: str, summary: str
) -> None:
    receipt = Receipt(
        request_id="req_1",
        client=Client(),
        started_at=0.0,
        method="POST",
        path="/v1/messages",
        **{"status": 200, "prefix": "openai", **fields},
    )
    stream = io.StringIO()
    Log(stream).write_request(receipt)
    assert stream.getvalue().split(maxsplit=4)[4].removesuffix("req_1\n").strip() == remark
    (row,) = build_rows([LoggedRequest(receipt)], [], 1.0)
    record = RowBuilder(()).build(receipt, Cost(0, 0, ""))
    tag_cell = build_finished_row(record, 1.0).cells["outcome"].tag
    assert tag_cell is not None
    sign, role, outcome = tag_cell
    assert (row.cells[3], f"{sign} {outcome}", record.outcome_class) == (tag, tag, stored)
    assert (row.role, summarize_outcome(record)) == (role, summary)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"provider": "openai", "message_count": 3, "input_tokens": 100, "output_tokens": 20},
            {
                "in": "100",
                "cached": "0 %",
                "cache-write": "0",
                "out": "20",
                "thinking": "0",
                "tools": "0",
                "changes": "0",
            },
        ),
        ({}, {"in": "–", "cached": "–", "cache-write": "–", "out": "–", "thinking": "–", "tools": "–", "changes": "0"}),
    ],
    ids=["a reply", "not read"],
)
def test_a_dash_stands_only_for_an_unknown_figure(fields: dict[str, Any], expected: dict[str, str]) -> None:
    receipt = Receipt(request_id="req_1", client=Client(), started_at=0.0, **fields)
    cells = build_finished_row(RowBuilder(()).build(receipt, Cost(0, 0, "")), 1.0, COLUMNS).cells
    assert {name: cells[name].text for name in expected} == expected


def test_a_running_request_shows_what_is_known_of_it() -> None:
    receipt = new_receipt(
        1, session="0f6c2a1e-7d1f-4d0e-9d0a-636865636b6f", project="shop", input_tokens=1_200, duration_seconds=0.0
    )
    row = build_running_row(receipt, NOON + 2.5, COLUMNS)
    early = {column.name for column in COLUMNS if column.is_early}
    assert {name: cell.text for name, cell in row.cells.items() if name in ("project", "session", "in", "total")} == {
        "project": "shop",
        "session": "0f6c2a1e-7d1…65636b6f",
        "in": "1,200",
        "total": "2.50 s",
    }
    assert {row.cells[column.name].text for column in COLUMNS if column.name not in early} == {"–"}
    assert row.cells["outcome"].tag == ("●", "run", "streaming")
