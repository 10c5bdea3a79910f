"""Frames: the values of `base.html`, which each page has around its content, by kind of page.

A page adds values of its own. A template that uses a name without a value raises an error, so the shared names are
declared here.
"""

from collections.abc import Sequence
from typing import TypedDict

from anthropic_proxy.console.dashboard.page import StateLine
from anthropic_proxy.console.dashboard.permissions import NavigationEntry, Session
from anthropic_proxy.console.dashboard.query import RangeChoice, ViewQuery
from anthropic_proxy.plugins import Receipt


class Frame(TypedDict):
    """That of any page. A page without a sign-in, such as the sign-in page, has only these values."""

    title: str
    section: str
    """Entry of the navigation. "": none."""
    pages: Sequence[NavigationEntry]
    """(): the page has no navigation."""
    theme: str
    """`light` or `dark`. "": that of the browser."""
    running: Sequence[Receipt]
    form_token: str
    """Token of the form to sign out. "": no sign-in is required, or the user is not signed in."""
    live: bool
    """True if the page receives live rows."""


class NavigationFrame(Frame):
    """That of a page with a navigation."""

    user: Session | None
    host: str
    client_command: str
    ledger_text: str
    can_read: bool
    """True if the ledger can be read."""
    stores_content: bool
    start_again: str
    """What makes the proxy read its settings again."""
    zone: str
    key_refusal: str
    """Why this user may not change keys. "": the user may. The next three are alike."""
    model_refusal: str
    doctor_refusal: str
    edit_refusal: str


class ViewFrame(NavigationFrame):
    """That of a `Page`."""

    query: ViewQuery
    tables: Sequence[str]
    """Names of the tables that can be downloaded."""
    ranges: RangeChoice
    filters: Sequence[tuple[str, str]]
    """Text of each filter, and URL of the page without it."""
    state: list[StateLine]


class FormFrame(NavigationFrame):
    """That of a `Form`."""

    edit_token: str


class ErrorFrame(NavigationFrame):
    """That of `error.html`. If a page has failed, the values of its view are there too."""

    message: str
    setting: str
    """Line for `.env` that helps. "": none."""
    tables: Sequence[str]
