"""Paths through the dashboard that answer a question with at most three clicks, for a test and for pictures."""

import re
from collections.abc import Callable, Sequence

from msgspec import Struct
from playwright.sync_api import Locator, Page

MAX_CLICKS = 3


class ClickPath(Struct, frozen=True):
    """Clicks from the overview to the answer of a question."""

    name: str
    """Part of the names of its pictures: `cost`."""
    question: str
    clicks: Sequence[Callable[[Page], Locator]]
    """Functions that return the element to click, in order."""


PATHS: Sequence[ClickPath] = (
    ClickPath(
        "cost",
        "What did yesterday cost and why?",
        (
            lambda page: page.get_by_role("link", name="Yesterday", exact=True),
            lambda page: page.locator(".figures").get_by_role("link", name=re.compile("^Spent")),
            lambda page: page.locator("#rows tr.go a").first,
        ),
    ),
    ClickPath(
        "failure",
        "Why did this request fail?",
        (
            lambda page: page.locator(".figures").get_by_role("link", name=re.compile("^Succeeded")),
            lambda page: page.locator("tr.go a").first,
        ),
    ),
    ClickPath(
        "speed",
        "Which model is slow?",
        (lambda page: page.locator(".figures").get_by_role("link", name=re.compile("^Time to first token")),),
    ),
)


def follow(page: Page, path: ClickPath, show: Callable[[int, Locator | None], None] | None = None) -> None:
    """Open the overview and click to the answer.

    `show`: called on each page with its number and the element that is clicked next; None: the answer.
    """
    page.goto("/dashboard")
    for number, find in enumerate(path.clicks, 1):
        target = find(page)
        if show is not None:
            show(number, target)
        with page.expect_navigation():
            target.click()
    if show is not None:
        show(len(path.clicks) + 1, None)
