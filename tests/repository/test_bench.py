"""The bench finds errors in a reply, and its page has a place for all of its output."""

import json
from collections import Counter

import pytest

from bench.conformance import page
from bench.ledger_cost import find_median_interval
from bench.replies import find_defect, read_wanted
from bench.report import cell
from bench.results import Row, fit

WANTED = read_wanted("bench-text-3")
HEAD = 'event: message_start\ndata: {"type":"message_start","message":{"content":[],"stop_reason":null}}\n\n'
END = 'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\nevent: message_stop\ndata: {}\n\n'


def stream(*texts: str, end: str = END) -> bytes:
    deltas = [f'data: {{"delta":{{"type":"text_delta","text":"{text}"}}}}\n\n' for text in texts]
    return (HEAD + "".join(deltas) + end).encode()


@pytest.mark.parametrize(("count", "first"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (12, 3), (15, 4), (25, 8)])
def test_the_confidence_interval_of_a_median_ends_at_the_ranks_of_the_sign_test(count: int, first: int) -> None:
    """The ranks are those of a table of the sign test for 95 %; with five values or fewer there is no such interval."""
    assert find_median_interval(range(1, count + 1)) == (first, count + 1 - first)


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (stream("00000 ", "00001 ", "00002 "), ""),
        (stream("00000 ", "00002 "), "its text is not what was sent"),
        (stream("00000 ", "00002 ", "00001 "), "its text is not what was sent"),
        (stream("00000 ", "00001 ", "00002 ", "00002 "), "its text is not what was sent"),
        (stream("00000 ", "00001 00002 "), "3 pieces came as 2"),
        (stream("00000 ", "00001 ", "00002 ", end=END + END), "it ends 2 times"),
        (stream("00000 ", "00001 ", "00002 ", end=END.partition("event")[0]), "it ends 0 times"),
        (stream("00000 ", "00001 ", "00002 ", end="event: message_stop\n\n"), "it does not say why it stopped"),
        (
            stream("00000 ", "00001 ", "00002 ", end=END.replace("end_turn", "max_tokens")),
            "it does not say why it stopped",
        ),
    ],
)
def test_a_reply_that_is_not_what_was_sent_is_found(reply: bytes, fault: str) -> None:
    assert find_defect(reply, WANTED, separate=True) == fault


def test_a_line_through_points_is_the_nearest() -> None:
    exact = fit([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)])
    assert (exact.slope, exact.intercept, exact.residual, exact.determination) == pytest.approx((2, 1, 0, 1))
    bent = fit([(0.0, 1.0), (1.0, 2.0), (2.0, 1.0)])
    assert (bent.slope, bent.determination) == pytest.approx((0, 0))


def test_a_value_within_its_spread_is_nobodys_best() -> None:
    row = Row(key="stream", title="stream", unit="ms", values={"noisy": [-390.0, 20.0], "steady": [2.0, 2.2]})
    assert (row.is_clear("noisy"), row.is_clear("steady")) == (False, True)
    assert cell(row, "noisy") == "not measurable (±205.0)"


def test_the_page_about_other_servers_follows_from_results_and_explanations() -> None:
    assert page.PAGE_FILE.read_text("utf-8") == page.describe_results()


def test_each_explanation_is_about_a_failure_of_the_server() -> None:
    failed = {row["name"]: row.get("failures", {}) for row in json.loads(page.RESULTS_FILE.read_text("utf-8"))}
    for server, explanations in page.read_explanations().items():
        named = Counter(name for explanation in explanations for name in explanation.checks)
        assert {name for name in named if name not in failed[server]} == set(), server
        assert [name for name, count in named.items() if count > 1] == [], server
        assert {explanation.cause for explanation in explanations} <= {"", *page.CAUSES}, server
