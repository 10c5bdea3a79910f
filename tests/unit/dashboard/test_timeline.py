"""Timeline of a request: bars of its attempts on one scale, from the receipt to the row of the ledger and back."""

from pathlib import Path

import pytest
from sqlalchemy import select

from anthropic_proxy.dashboard.request import (
    MAX_BLOCK_BARS,
    Attempt,
    Bar,
    build_timeline,
    list_attempts,
    list_client_events,
    sum_failed_attempt_time,
)
from anthropic_proxy.ledger.request_queries import REQUEST_COLUMNS, StoredRequest, to_stored_request
from anthropic_proxy.ledger.rows import MAX_ATTEMPT_ERROR_CHARACTERS, decode_attempt_times
from anthropic_proxy.plugins import UpstreamAttempt
from anthropic_proxy.settings import Settings
from tests.support.ledger import NOON, new_receipt, reading, running_ledger

KEY = "sk-secret-key-of-this-test-1234567890"
FAILED = UpstreamAttempt(
    provider="groq",
    model="llama",
    offset_seconds=0.01,
    duration_seconds=0.2,
    status=429,
    error_type="rate_limit_error",
    error="12,000 tokens per minute",
)
SERVED = UpstreamAttempt(provider="openai", model="gpt-4.1", offset_seconds=0.3, duration_seconds=8.0, status=200)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_directory=tmp_path / "data")


async def stored(settings: Settings, **fields: object) -> StoredRequest:
    """Return a request as the ledger returns it."""
    with running_ledger(settings) as ledger:
        await ledger.record(new_receipt(**fields))
        ledger.wait_written(1)
    with reading(settings) as engine, engine.connect() as connection:
        return to_stored_request(connection.execute(select(*REQUEST_COLUMNS)).one())


async def test_each_attempt_is_a_bar_and_the_reply_begins_at_the_first_token(settings: Settings) -> None:
    times = {"duration_seconds": 8.3, "first_token_seconds": 0.8, "output_tokens": 486}
    row = await stored(settings, attempts=[FAILED, SERVED], **times)
    found = build_timeline(row)
    assert found.ticks == ["0 s", "2 s", "4 s", "6 s", "8 s"]
    assert found.first_token == pytest.approx(0.08)
    assert found.bars[0] == Bar("attempt 1", "bad", 0.001, 0.02, "0.01 s", "0.20 s", "groq: 429")
    assert [(bar.name, bar.role, round(bar.start, 3), round(bar.share, 3), bar.text) for bar in found.bars[1:]] == [
        ("attempt 2", "wait", 0.03, 0.05, "openai: wait for the first token"),
        ("reply", "text", 0.08, 0.75, "486 tokens"),
    ]
    assert sum_failed_attempt_time(row) == 200_000
    assert list_attempts(row) == [
        Attempt("groq", "llama", "429 after 0.20 s", "12,000 tokens per minute"),
        Attempt("openai", "gpt-4.1", "", ""),
    ]


async def test_each_content_block_is_a_bar_and_an_event(settings: Settings) -> None:
    blocks = [
        ("thinking", "", NOON + 0.8, 0),
        ("text", "", NOON + 2.0, 900),
        ("tool call", "Read", NOON + 3.0, 1_000),
        ("", "", NOON + 8.3, 1_084),
    ]
    times = {"duration_seconds": 8.3, "first_token_seconds": 0.8, "output_tokens": 486, "stream": True}
    row = await stored(settings, started_at=NOON, attempts=[SERVED], blocks=blocks, **times)
    bars = build_timeline(row).bars
    assert [(bar.name, bar.role, round(bar.start, 3), round(bar.share, 3), bar.text) for bar in bars] == [
        ("attempt 1", "wait", 0.03, 0.05, "openai: wait for the first token"),
        ("thinking", "thinking", 0.08, 0.12, "900 characters"),
        ("text", "text", 0.2, 0.1, "100 characters"),
        ("Read", "tool", 0.3, 0.53, "84 characters"),
    ]
    assert list_client_events(row) == [
        ("0.800 s", "message_start", "model claude-haiku-4-5"),
        ("0.800 s", "content_block_start", "0 thinking"),
        ("2.000 s", "content_block_stop", "0, 900 characters"),
        ("2.000 s", "content_block_start", "1 text"),
        ("3.000 s", "content_block_stop", "1, 100 characters"),
        ("3.000 s", "content_block_start", "2 tool_use Read"),
        ("8.300 s", "content_block_stop", "2, 84 characters"),
        ("8.300 s", "message_delta", "stop reason end_turn, 486 output tokens"),
        ("8.300 s", "message_stop", ""),
    ]


async def test_a_reply_with_many_blocks_has_a_limited_number_of_bars(settings: Settings) -> None:
    count = MAX_BLOCK_BARS + 5
    blocks = [("text", "", NOON + number, number) for number in range(count)]
    row = await stored(settings, started_at=NOON, blocks=blocks, duration_seconds=60.0, first_token_seconds=0.5)
    bars = build_timeline(row).bars
    assert len(bars) == 1 + MAX_BLOCK_BARS + 1
    assert (bars[-1].name, bars[-1].text) == ("more", "5 blocks")


async def test_a_request_of_an_earlier_version_has_phases(settings: Settings) -> None:
    row = await stored(settings, duration_seconds=2.0, first_token_seconds=0.5, failed_attempts=["groq 429"])
    found = build_timeline(row)
    assert [(bar.name, bar.start, bar.share, bar.text) for bar in found.bars] == [
        ("failed attempts and wait", 0.0, 0.25, "groq 429"),
        ("reply", 0.25, 0.75, "20 tokens"),
    ]


@pytest.mark.parametrize(
    ("seconds", "ticks"),
    [
        (0.0, ["0 ms"]),
        (0.0231, ["0 ms", "5 ms", "10 ms", "15 ms", "20 ms"]),
        (301.0, ["0 s", "100 s", "200 s", "300 s"]),
    ],
)
async def test_the_scale_has_round_times(settings: Settings, seconds: float, ticks: list[str]) -> None:
    found = build_timeline(await stored(settings, duration_seconds=seconds, first_token_seconds=None))
    assert found.ticks == ticks
    assert all(0 <= bar.start <= 1 and bar.start + bar.share <= 1 for bar in found.bars)


async def test_errors_of_attempts_are_short_and_contain_no_key(settings: Settings) -> None:
    long = UpstreamAttempt(
        provider="groq", model="m", offset_seconds=0.0, error_type="api_error", error="x" * 290 + f" {KEY} " + "y" * 900
    )
    row = await stored(settings, attempts=[long, SERVED], duration_seconds=9.0)
    first, second = decode_attempt_times(row.attempt_times)
    assert len(first.error) == MAX_ATTEMPT_ERROR_CHARACTERS
    assert "sk-secret" not in row.attempt_times
    assert (second.provider, second.duration) == ("openai", 8_000_000)
