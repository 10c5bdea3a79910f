"""Full-screen view `logs --live`, operated by keys: the screen after each key."""

import asyncio
from typing import Any

from anthropic_proxy.cli.live_view import LiveView
from anthropic_proxy.cli.request_updates import RequestUpdate
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.gateway.telemetry.logged_requests import LoggedRequest
from anthropic_proxy.plugins import CallCheck, Client, Receipt

NOW = 1_000.0


def receipt_of(name: str, started_at: float, **fields: Any) -> Receipt:
    return Receipt(request_id=name, client=Client(), started_at=started_at, **fields)


REPORT = FidelityReport(notes=[FidelityNote("dropped", "top_k", "not sent")])
GPT = {"requested_model": "claude-sonnet-4-6", "provider": "openai", "prefix": "openai", "model": "gpt-4.1"}
LLAMA = {"requested_model": "claude-haiku-4-5", "provider": "groq", "prefix": "groq", "model": "llama"}
UPDATE = RequestUpdate(
    finished=[
        LoggedRequest(
            receipt_of("req_1", 900.0, **LLAMA, status=429, outcome="error", error="too fast", duration_seconds=0.2)
        ),
        LoggedRequest(
            receipt_of(
                *("req_2", 950.0),
                **GPT,
                status=200,
                outcome="end_turn",
                duration_seconds=8.4,
                first_token_seconds=0.83,
                input_tokens=1_000,
                cache_read_tokens=3_000,
                output_tokens=486,
                fidelity=REPORT,
                checks=[CallCheck("toolu_1", "Ba\x1b[2Jsh", "flagged", "Deletes data.")],
            )
        ),
    ],
    running=[receipt_of("req_3", 994.0, **GPT)],
)


def view() -> LiveView:
    return LiveView("127.0.0.1:8082", [UPDATE], clock=lambda: NOW)


def lines_of(app: LiveView) -> list[str]:
    """Return the non-empty lines of the screen, with single spaces."""
    strips = app.screen._compositor.render_strips()
    return [line for strip in strips if (line := " ".join(strip.text.split()))]


async def test_running_and_finished_requests_are_rows() -> None:
    app = view()
    async with app.run_test(size=(120, 20)) as pilot:
        await asyncio.to_thread(app.reader.join)
        await pilot.pause()
        lines = lines_of(app)
    assert lines[0] == "127.0.0.1:8082 · 1 in flight · 2/min"
    assert lines[1] == "Time Model used Requested Outcome In Cached Out First Total"
    assert [line.split(" ", 1)[1] for line in lines[2:5]] == [
        "openai/gpt-4.1 sonnet-4-6 waiting – – – – 6.00 s",
        "openai/gpt-4.1 sonnet-4-6 ✓ end_turn 4,000 75 % 486 0.83 s 8.40 s",
        "groq/llama haiku-4-5 ✕ 429 – – – – 0.20 s",
    ]


async def test_a_narrow_terminal_shows_every_time_in_its_own_colors() -> None:
    app = view()
    async with app.run_test(size=(80, 20)) as pilot:
        await asyncio.to_thread(app.reader.join)
        await pilot.pause()
        lines = lines_of(app)
        segments = [segment for strip in app.screen._compositor.render_strips() for segment in strip]
    assert lines[1:3] == ["Time Model used Outcome In Cached Out First Total", lines[2]]
    assert lines[2].endswith("waiting – – – – 6.00 s")
    colors = [color for one in segments if one.style for color in (one.style.color, one.style.bgcolor) if color]
    assert {color.triplet for color in colors} == {None}


async def test_the_times_to_the_first_token_fit_into_one_line() -> None:
    app = view()
    async with app.run_test(size=(80, 20)) as pilot:
        await asyncio.to_thread(app.reader.join)
        app.apply_update(UPDATE)
        await pilot.pause()
        lines = lines_of(app)
    assert lines[:2] == [
        "127.0.0.1:8082 · 1 in flight · 3/min · first token p50 0.83 s, p95 0.83 s",
        "Time Model used Outcome In Cached Out First Total",
    ]


async def test_keys_select_filter_and_restrict() -> None:
    app = view()
    async with app.run_test(size=(120, 20)) as pilot:
        await asyncio.to_thread(app.reader.join)
        await pilot.press("down")
        assert "req_2 ✕ Ba\\x1b[2Jsh: flagged: Deletes data. ✕ top_k dropped: not sent" in lines_of(app)
        await pilot.press("e")
        assert "req_1 ✕ too fast" in lines_of(app)
        assert not any("end_turn" in line for line in lines_of(app))
        await pilot.press("e", "slash", *"gpt end", "enter")
        assert [line for line in lines_of(app) if "haiku" in line or "waiting" in line] == []
        await pilot.press("question_mark")
        await pilot.pause()
        assert any("Cursor up" in line for line in lines_of(app))
        await pilot.press("escape", "p")
        assert not any("Cursor up" in line for line in lines_of(app))
        assert lines_of(app)[0].endswith("paused")
        await pilot.press("q")
    assert app.return_code == 0


async def test_a_long_name_of_a_model_moves_no_time_out_of_a_narrow_terminal() -> None:
    model = {**LLAMA, "model": "llama-3.3-70b-versatile", "input_tokens": 140_000, "output_tokens": 4_096}
    ended = receipt_of(
        "req_1", 900.0, **model, status=200, outcome="max_tokens", duration_seconds=61.2, first_token_seconds=10.1
    )
    app = LiveView("127.0.0.1:8082", [RequestUpdate(finished=[LoggedRequest(ended)])], clock=lambda: NOW)
    async with app.run_test(size=(80, 20)) as pilot:
        await asyncio.to_thread(app.reader.join)
        await pilot.pause()
        (row,) = [line for line in lines_of(app) if "truncated" in line]
    assert row.endswith("… ! truncated 140,000 – 4,096 10.1 s 1 min 1 s")
