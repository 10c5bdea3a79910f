"""Notices on the page Overview about problems: wrong settings, and groups of failed requests.

`list_setup_notices` returns a `Notice` for each problem of the settings or providers. `build_error_notice` returns the
notice about a group of failed requests.
"""

from msgspec import Struct

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.error_kinds import find_error_kind
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.dashboard.remedies import find_remedy
from anthropic_proxy.ledger.dashboard_queries import ErrorGroup
from anthropic_proxy.ledger.model_costs import ModelCosts


class Notice(Struct, frozen=True):
    """A problem that a page shows, with an explanation, a remedy and a link to details if there are any."""

    sign: str
    role: str
    text: str
    detail: str = ""
    href: str = ""
    link: str = ""
    remedy: str = ""
    help_link: str = ""
    """URL of the entry of the error catalog: `/help/errors#rate-limit`. "": no entry."""


def list_setup_notices(context: PageContext) -> list[Notice]:
    """Return a notice for each problem of the settings or providers, such as a missing key."""
    setup = context.setup
    found = [Notice("✕", "error", problem) for problem in setup.problems]
    return found + [Notice("!", "warn", text) for text in setup.advice]


def build_error_notice(context: PageContext, costs: ModelCosts, group: ErrorGroup) -> Notice:
    """Return the notice about a group of failed requests with the same type of error.

    The notice has a remedy if the error catalog has one.
    """
    name = costs.find_prefix(group.provider) if group.provider else "the proxy"
    period = formats.day_and_time(group.first_at)
    if group.count > 1:
        period += f" to {formats.day_and_time(group.last_at)}"
    href, link = f"/dashboard/requests/{group.request_id}", "show it"
    if group.count > 1:
        facets = {**context.query.facets, "outcome": "error", "provider": group.provider}
        href, link = context.query.link("/dashboard/requests", facets=facets, measure=""), f"show the {group.count:,}"
    remedy = find_remedy(group, costs.find_api_key_variable(group.provider))
    kind = f", {find_error_kind(group.error_type)}" if group.error_type else ""
    return Notice(
        sign="✕",
        role="error",
        text=f"{formats.plural(group.count, 'request')} failed at {name} with {group.status}{kind}.",
        detail=f"{period}. {group.error[:300]}",
        href=href,
        link=link,
        remedy=remedy.text if remedy else "",
        help_link=remedy.link if remedy else "",
    )
