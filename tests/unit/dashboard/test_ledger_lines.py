"""Lines of the pages about a ledger that fails, waits or has lost requests; pages that need long."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator

import pytest

from anthropic_proxy.dashboard.pages import STALE_SECONDS, Progress, describe_ledger, respond_with_early_flush
from anthropic_proxy.dashboard.responses import accepts_gzip
from anthropic_proxy.ledger.dashboard_queries import LedgerExtent
from anthropic_proxy.plugins import LedgerState, RouteRequest, RouteResponse

NOW = 1_790_000_000.0
FACTS = LedgerExtent(10, 1, int((NOW - 240) * 1_000_000))
PROBLEM = "The ledger cannot store requests: locked (x). End the transaction of that program."


@pytest.mark.parametrize(
    ("state", "facts", "expected"),
    [
        (LedgerState(queued_rows=3, waiting_since=NOW - STALE_SECONDS), FACTS, []),
        (
            LedgerState(condition="locked", problem=PROBLEM, queued_rows=1, waiting_since=NOW - 1),
            FACTS,
            [f"{PROBLEM} Requests are still served. 1 request waits to be stored. Last row 4 min ago."],
        ),
        (LedgerState(condition="locked", problem=PROBLEM), None, [f"{PROBLEM} Requests are still served."]),
        (
            LedgerState(dropped_rows=12),
            FACTS,
            ["12 requests are missing here, because the ledger could not store them."],
        ),
        (None, FACTS, []),
    ],
    ids=["half a second", "locked", "unreadable", "lost", "off"],
)
def test_a_line_states_what_is_not_stored(
    state: LedgerState | None, facts: LedgerExtent | None, expected: list[str]
) -> None:
    assert [line.text for line in describe_ledger(state, facts, NOW)] == expected


def test_requests_that_wait_for_long_are_stale() -> None:
    (line,) = describe_ledger(LedgerState(queued_rows=2, waiting_since=NOW - 60), FACTS, NOW)
    assert line.text.startswith("Stale: no request has been stored since ")
    assert line.text.endswith(
        ", because the database does not answer. Requests are still served. 2 requests wait to be stored. "
        "Last row 4 min ago."
    )


@pytest.mark.parametrize(
    ("header", "is_accepted"),
    [
        ("gzip", True),
        ("br, GZIP ; q=0.5", True),
        ("gzip;q=1.0", True),
        ("gzip;q=0", False),
        ("gzip;q=0.00, br", False),
        ("", False),
    ],
)
def test_a_page_is_compressed_if_the_browser_accepts_it(header: str, is_accepted: bool) -> None:
    assert accepts_gzip(RouteRequest(path="/dashboard", headers={"accept-encoding": header})) == is_accepted


@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_a_slow_page_begins_with_its_head_and_a_sentence(coding: str) -> None:
    page = b"<main><!-- content --><p>42</p></main>"
    ready = asyncio.Event()

    async def build() -> RouteResponse:
        await ready.wait()
        return RouteResponse(headers={"content-encoding": "gzip"}, body=gzip.compress(page))

    def render_head() -> RouteResponse:
        return RouteResponse(headers={"content-type": "text/html"}, body=b"<main><!-- content --></main>")

    request = RouteRequest(path="/dashboard", headers={"accept-encoding": coding} if coding else {})
    answer = await respond_with_early_flush(request, build(), render_head, Progress(1_000_000))
    assert answer.headers.get("content-encoding", "") == coding
    assert isinstance(answer.body, AsyncIterator)
    first = await anext(answer.body)
    decoder = zlib.decompressobj(wbits=31)
    head = decoder.decompress(first) if coding else first
    ready.set()
    others = b"".join([chunk async for chunk in answer.body])
    sentence = '<p class="adding-up" role="status">Adding up 1,000,000 requests …</p>\n'
    assert head.decode() == f"<main>{sentence}"
    assert (decoder.decompress(others) if coding else others) == b"<p>42</p></main>"


async def test_a_fast_page_is_one_response() -> None:
    async def build() -> RouteResponse:
        return RouteResponse(body=b"page")

    answer = await respond_with_early_flush(RouteRequest(path="/dashboard"), build(), RouteResponse, Progress())
    assert answer.body == b"page"
