"""The pages that are written from the code, each with the function that returns its present text."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.site import (
    chart_secrets,
    config_schema,
    error_page,
    install_page,
    openapi_document,
    permissions_page,
    readme,
    reference_pages,
    settings_pages,
    start_pages,
    vendors_page,
)
from tests.site.pages import DOCS

PAGES: dict[Path, Callable[[], str]] = {
    chart_secrets.TEMPLATE: chart_secrets.written_template,
    error_page.PAGE: error_page.written_page,
    error_page.DATA: error_page.written_catalog,
    install_page.PAGE: install_page.written_page,
    readme.PAGE: readme.written_readme,
    readme.VERSION_PICTURE: readme.written_version_picture,
    config_schema.SCHEMA: config_schema.written_schema,
    config_schema.PACKAGED_SCHEMA: config_schema.written_schema,
    settings_pages.EXAMPLE: settings_pages.written_example,
    openapi_document.DOCUMENT: openapi_document.written_document,
    permissions_page.PAGE: permissions_page.written_page,
    vendors_page.PAGE: vendors_page.written_page,
    vendors_page.GUIDE: vendors_page.written_guide,
    DOCS / "reference/settings.md": settings_pages.written_page,
    DOCS / "reference/command-line.md": reference_pages.commands_page,
    DOCS / "reference/metrics.md": reference_pages.metrics_page,
    DOCS / "reference/log.md": reference_pages.log_page,
    **{
        DOCS / f"start/{provider.slug}.md": partial(start_pages.written_page, provider)
        for provider in start_pages.providers()
    },
}
"""Page → function that returns its text for the present code."""


def stale_pages() -> list[Path]:
    return [page for page, text in PAGES.items() if not page.exists() or page.read_text("utf-8") != text()]


def write_pages() -> None:
    for page, text in PAGES.items():
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text(), "utf-8")
