"""What needs attention: the problems of a range of time, and whether something is wrong now."""

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.error_kinds import find_error_kind
from anthropic_proxy.console.dashboard.page import PageContext, StateLine
from anthropic_proxy.console.dashboard.panels import FailedPanel
from anthropic_proxy.console.doctor.evidence import Evidence
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.failures import (
    OF_REQUESTS,
    ErrorGroup,
    ErrorPeriod,
    list_errors,
)
from anthropic_proxy.console.units import HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.gateway.error_catalog import find_cause, find_remedy


class StateNow(StateLine, frozen=True):
    """First line of the page: is something wrong now?"""

    link: str = ""
    """Text of the link to the problems. "": no link."""
    command: str = ""


class Notice(StateLine, frozen=True):
    detail: str = ""
    href: str = ""
    link: str = ""
    remedy: str = ""
    help_link: str = ""
    """URL of the entry of the error catalog: `/help/errors#rate-limit`. "": no entry."""
    is_solved: bool = False
    """True if the same has succeeded since then."""
    failing_provider: str = ""
    """Name of the provider that does not reply now. "": the problem is another one."""


class Problems(Struct, frozen=True):
    open: Sequence[Notice]
    solved: Sequence[Notice]
    failed: FailedPanel | None = None
    """Reason why the problems of requests are not known. None: they are known."""

    def find_failing(self) -> Mapping[str, Notice]:
        """Return name of each provider that does not reply now → its first problem."""
        return {one.failing_provider: one for one in reversed(self.open) if one.failing_provider}


def describe_state(problems: Problems, demo: str) -> StateNow:
    if problems.open:
        worst = min(problems.open, key=lambda notice: "✕!".index(notice.sign))
        if len(problems.open) == 1:
            return StateNow(worst.sign, worst.role, "One open problem:", worst.text)
        return StateNow(worst.sign, worst.role, "Now:", f"{len(problems.open)} open problems")
    if problems.failed:
        return StateNow("!", "warn", "It is not known whether something is wrong: the stored requests cannot be read.")
    if demo:
        return StateNow("!", "warn", f"{demo}. Choose a provider:", command="anthropic-proxy init")
    return StateNow("✓", "ok", "All is well now: there are no open problems.")


def list_setting_notices(context: PageContext) -> list[Notice]:
    return [Notice(problem.sign, problem.role, problem.text) for problem in context.setup.problems]


def list_doctor_notices(evidence: Evidence, failures: Sequence[ErrorGroup]) -> list[Notice]:
    """`failures`: those that are not solved."""
    notices = []
    for fix in evidence.list_open_fixes(failures):
        remedy = f"{fix.remedy}  {fix.place}".rstrip()
        failing = next((call.provider for call in fix.failed if not call.model), "")
        text = f"{fix.name}: {fix.problem}"
        notices.append(Notice("✕", "error", text, "Found by the doctor.", remedy=remedy, failing_provider=failing))
    return notices


def list_error_groups(
    context: PageContext, costs: ModelCosts, errors: Sequence[ErrorPeriod], evidence: Evidence
) -> list[ErrorGroup]:
    mapped = set[str]()
    for row in context.setup.mapping:
        mapped |= {row.target, *row.fallbacks, *(target for target, _ in row.replies)}

    def is_set(provider: str, model: str) -> bool:
        return f"{costs.find_prefix(provider)}/{model}" in mapped

    return list_errors(context.connection, context.selection, errors, is_set, evidence.find_reply)


def build_error_notice(context: PageContext, costs: ModelCosts, group: ErrorGroup, evidence: Evidence) -> Notice:
    name = costs.find_prefix(group.provider) if group.provider else "the proxy"
    latest = group.latest
    href = f"/dashboard/requests/{latest.id}"
    link = "show it"
    if group.count > 1:
        facets = {**context.query.facets, "outcome": "error", "provider": group.provider}
        # a range begins and ends with an hour
        start = group.first_at // MICROSECONDS // HOUR_SECONDS * HOUR_SECONDS
        end = (group.last_at // MICROSECONDS // HOUR_SECONDS + 1) * HOUR_SECONDS
        chosen = structs.replace(context.query, facets=facets, text=group.error_code)
        href = chosen.link_to_requests(start, end)
        link = f"show the {group.count:,}"
    remedy = find_remedy(
        group.error_code,
        costs.find_key_setting(group.provider),
        latest.requested_model,
        name if group.provider else "",
        latest.remedy,
        fallbacks=context.settings.fallbacks,
    )
    kind = f", {find_error_kind(group.error_type, group.error_code)}" if group.error_type else ""
    text = f"{formats.plural(group.count, 'request')} failed at {name} with {group.status}{kind}."
    if not group.has_model:  # no figure counts them
        verb = "was" if group.count == 1 else "were"
        text = f"{formats.plural(group.count, 'request')} without a model {verb} rejected with {group.status}{kind}."
    period = formats.time_span(group.first_at, group.last_at)
    detail = f"{period}. {find_cause(latest.error, latest.remedy)[:300]}"
    help_link = remedy.link if remedy else ""
    if group.is_solved:
        return Notice("✓", "none", text, detail, href, link, help_link=help_link, is_solved=True)
    has_replied = group.error_type in OF_REQUESTS or evidence.find_reply(group.last_at, group.provider) > 0
    failing = "" if has_replied else group.provider
    shown = remedy.text if remedy else ""
    return Notice("✕", "error", text, detail, href, link, shown, help_link, failing_provider=failing)
