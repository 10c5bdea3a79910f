"""The grid of the week: one cell per weekday and hour, links to the highest hour, and a table with the same values."""

import re
from datetime import datetime

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.overview import draw_week
from anthropic_proxy.dashboard.view_query import read_view_query
from anthropic_proxy.ledger.dashboard_queries import PeriodSums
from anthropic_proxy.ledger.sums import UsageSums

MONDAY = int(datetime(2026, 11, 16, 9).astimezone().timestamp())
QUERY = read_view_query("/dashboard", {"range": ["30d"]}, MONDAY + 14 * 86_400)


def hour(start: int, requests: int) -> PeriodSums:
    return PeriodSums(start, "", UsageSums(requests=requests))


def test_hours_of_several_weeks_are_one_cell() -> None:
    hours = [hour(MONDAY, 2), hour(MONDAY + 7 * 86_400, 8), hour(MONDAY + 86_400 + 3_600, 1)]
    grid = draw_week(QUERY, hours, lambda sums: sums.requests, formats.count)
    links = re.findall(r'<a href="([^"]+)" data-column="([^"]+)" aria-label="([^"]+)"', grid.drawing)
    assert [(column, label) for _, column, label in links[:2]] == [
        ("09:00", "Monday, 09:00, 10: hours with requests = 2; highest, 23 Nov = 8"),
        ("10:00", "Tuesday, 10:00, 1"),
    ]
    assert len(links) == 4  # a wide and a narrow drawing
    first = QUERY.link_to_range(MONDAY + 7 * 86_400, MONDAY + 7 * 86_400 + 3_600, "/dashboard/requests")
    assert links[0][0] == first.replace("&", "&amp;")
    assert re.findall(r"level-(\d)", grid.drawing)[: 7 * 24].count("0") == 7 * 24 - 2
    assert (grid.rows[0][0], grid.rows[0][10], grid.rows[1][11], grid.rows[6][1]) == ("Monday", "10", "1", "–")


def test_a_grid_without_requests_has_no_drawing() -> None:
    assert draw_week(QUERY, [], lambda sums: sums.requests, formats.count).drawing == ""
