"""The pages written from the code are up to date, and the error catalog has every class and every message."""

import re
from itertools import product

import pytest

from anthropic_proxy.console.dashboard.error_kinds import find_remedy
from anthropic_proxy.console.ledger.queries import ErrorGroup
from anthropic_proxy.errors import ClientError, MissingExtra, ProxyError, UpstreamError
from anthropic_proxy.gateway.error_catalog import PAGE as CATALOG_PAGE
from anthropic_proxy.gateway.error_catalog import (
    RULES_OF_BOTH,
    RULES_OF_PROVIDERS,
    RULES_OF_PROXY,
    error_help_headers,
    load_sections,
)
from tests.site.error_page import NO_STATUS, PAGE, Entry, entries
from tests.site.generated import stale_pages
from tests.site.pages import DOCS, anchors
from tests.site.raised_errors import error_classes, raised_messages
from tests.site.reference_pages import documented_settings, known_settings
from tests.site.start_pages import ProviderStart, providers
from tests.support.startup_summary import startup_lines

WITH_RULE = {rule.entry for rule in (*RULES_OF_BOTH, *RULES_OF_PROVIDERS, *RULES_OF_PROXY)}
"""Entries of the catalog to which a failed request can belong."""


def test_generated_pages_agree_with_the_code() -> None:
    assert stale_pages() == [], "write them with: python3 scripts/fix.py"


def test_every_error_class_has_an_entry() -> None:
    with_entry = {entry.error_class for entry in entries()}
    bases = {base.__name__ for found in error_classes().values() for base in found.__mro__[1:]}
    assert set(error_classes()) - with_entry - bases == set()
    assert with_entry <= set(error_classes())


def test_every_message_of_the_code_has_an_entry_and_no_entry_is_stale() -> None:
    listed = {(entry.error_class, message) for entry in entries() for message in entry.messages}
    written = {(name, message) for name, messages in raised_messages().items() for message in messages}
    assert sorted(written - listed) == [], "add these to docs/fix/errors.toml, then: python3 scripts/fix.py"
    assert sorted(listed - written) == [], "no code has these messages: remove them from docs/fix/errors.toml"


@pytest.mark.parametrize("error_class", error_classes().values(), ids=lambda found: found.__name__)
def test_the_help_header_of_each_error_class_leads_to_a_section(error_class: type[ProxyError]) -> None:
    error = error_class.__new__(error_class)
    error.message = ""
    page, _, section = error_help_headers(error)["x-proxy-help"].partition("#")
    assert page == CATALOG_PAGE
    served = [slug for one in load_sections() for slug in (one.slug, *(entry.slug for entry in one.entries))]
    assert section in served
    assert set(served) <= anchors(PAGE.read_text("utf-8")), "the page of the documentation has the same addresses"


def test_the_reference_of_settings_has_every_variable() -> None:
    assert documented_settings() == known_settings()


@pytest.mark.parametrize("provider", providers(), ids=lambda provider: provider.slug)
def test_the_lines_of_each_provider_start_without_a_remark(provider: ProviderStart) -> None:
    """The start-up message has exactly this mapping, and no warning about a setting or a retired model."""
    lines = startup_lines(**provider.values())
    mapped = [line.split(" → ")[1].split()[0] for line in lines if " → " in line]
    values = provider.values()
    for variable, model in (("SMALL_MODEL", mapped[0]), ("BIG_MODEL", mapped[-1])):
        assert variable not in values or model.endswith(values[variable])
    remarks = [line for line in lines if line.strip().startswith(("✕", "!"))]
    assert remarks == [] or provider.before or provider.slug == "ollama"  # a package or a running server is missing


def test_the_guide_has_a_row_for_each_server_error_of_the_proxy_itself() -> None:
    classes = [
        found
        for name, found in error_classes().items()
        if found.status >= 500 and name not in (*NO_STATUS, "ProxyError") and not issubclass(found, UpstreamError)
    ]
    guide = (DOCS / "guide/reliability.md").read_text("utf-8")
    rows = re.findall(r"^\| (5\d\d) `", guide.partition("## Statuses of the proxy itself")[2], re.MULTILINE)
    assert sorted(rows) == sorted(str(found.status) for found in classes)
    busy = [message for found in classes if found.status == 529 for message in raised_messages()[found.__name__]]
    sources = re.findall(r"`provider` is empty; `error` begins with `([^`]+)`", guide)
    assert [sum(message.startswith(each) for message in busy) for each in sources] == [1] * len(busy)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.slug)
def test_the_dashboard_shows_no_error_with_the_remedy_of_another_one(entry: Entry) -> None:
    """It recognizes an error by its text, because errors with the same status have different remedies."""
    error_class = error_classes()[entry.error_class]
    if entry.error_class in (*NO_STATUS, "UpstreamError", "UpstreamRefused") or entry.slug == "proxy-connection":
        return  # never stored in the ledger, or with a text and status of a provider
    prefix = "groq: " if issubclass(error_class, UpstreamError) else ""
    providers = ["groq"] if prefix else [""] if issubclass(error_class, ClientError) else ["", "groq"]
    for provider, message in product(providers, entry.messages or [entry.title]):
        text = prefix + message.replace("…", "9")
        if error_class is MissingExtra:  # the listed messages are beginnings, which the class completes
            text += ", which is not installed. Install it and start the proxy again: pip"
        group = ErrorGroup(provider, error_class.error_type, error_class.status, 1, 0, 0, text, "req_1")
        remedy = find_remedy(group)
        # a title is not a complete message
        allowed = [entry.slug] if entry.slug in WITH_RULE and entry.messages else [entry.slug, ""]
        assert (remedy.entry if remedy else "") in allowed, message
