"""The pages written from the code are up to date, and the error catalog has an entry for every error."""

import re

import pytest

from anthropic_proxy.errors import ProxyError, UpstreamError, UpstreamRefused
from anthropic_proxy.gateway.error_catalog import PAGE as CATALOG_PAGE
from anthropic_proxy.gateway.error_catalog import error_help_headers, load_sections
from tests.site.error_page import NO_STATUS, PAGE, read_entries
from tests.site.generated import stale_pages
from tests.site.pages import DOCS, anchors
from tests.site.raised_errors import error_classes, named_texts, raised_messages
from tests.site.start_pages import ProviderStart, providers
from tests.support.startup_summary import startup_lines


def test_generated_pages_agree_with_the_code() -> None:
    assert stale_pages() == [], "write them with: python3 scripts/fix.py"


def test_every_error_has_an_entry_and_every_entry_an_error() -> None:
    known = {code for codes in read_entries().values() for code in codes}
    assert (
        sorted(code or messages[0] for (_, code), messages in raised_messages().items() if code not in known) == []
    ), "give these a code of docs/fix/errors.toml, or write an entry, then: python3 scripts/fix.py"
    assert known - named_texts() == set(), "no error has these codes: remove them from docs/fix/errors.toml"
    of_providers = {UpstreamRefused("groq: no", status=status).code for status in range(400, 600)}
    assert {found.code for found in error_classes().values()} | of_providers <= {"", *known}


@pytest.mark.parametrize("error_class", error_classes().values(), ids=lambda found: found.__name__)
def test_the_help_header_of_each_error_class_leads_to_a_place_of_the_catalog(error_class: type[ProxyError]) -> None:
    page, _, place = error_help_headers(error_class.__new__(error_class))["x-proxy-help"].partition("#")
    assert page == CATALOG_PAGE
    served = [slug for one in load_sections() for slug in (one.slug, *(entry.slug for entry in one.entries))]
    assert place in served
    assert set(served) <= anchors(PAGE.read_text("utf-8")), "the page of the documentation has the same addresses"


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
    busy = [
        message
        for (name, _), messages in raised_messages().items()
        if error_classes()[name] in classes and error_classes()[name].status == 529
        for message in messages
    ]
    sources = re.findall(r"`provider` is (?:empty|set); `error` begins with `([^`]+)`", guide)
    assert [sum(message.startswith(each) for message in busy) for each in sources] == [1] * len(busy)
