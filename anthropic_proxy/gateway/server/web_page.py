"""Web pages of the server: the page at `/` for browsers, and the error catalog. They have no script and no keys.

`prefers_html` tells whether a client gets a page or JSON.
"""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import date
from hashlib import sha256
from html import escape
from pathlib import Path

from msgspec import Struct, structs

from anthropic_proxy import __version__
from anthropic_proxy.engine.advice import Problem
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.platforms.program import name_program
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.choices import find_preferred_provider
from anthropic_proxy.engine.routing.model_listing import TierMapping
from anthropic_proxy.errors import build_extra_install_command
from anthropic_proxy.gateway.error_catalog import PAGE as ERROR_PAGE
from anthropic_proxy.gateway.error_catalog import CatalogEntry, load_entries, load_sections
from anthropic_proxy.gateway.problems import describe_demo
from anthropic_proxy.gateway.readiness import Readiness, find_readiness, group_shown_mappings, join_tiers, name_target
from anthropic_proxy.gateway.settings import Settings

_STYLE = Path(__file__).with_name("web_page.css").read_text("utf-8").strip()
_STYLE_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
SECURITY_HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 18 18">'
    b'<path d="M2 9h5M7 9c3 0 3-5 6-5h3M7 9h9M7 9c3 0 3 5 6 5h3" fill="none" stroke="#2453c7" stroke-width="2" '
    b'stroke-linecap="round" stroke-linejoin="round"/></svg>'
)
"""Served at `/favicon.ico`, which browsers request with each page and each JSON."""
_LINKS = {
    "/dashboard": "Dashboard",
    "/health": "Health as JSON",
    "/v1/models": "Models as JSON",
    "/metrics": "Metrics for Prometheus",
}
"""URL path → text of the link on the page. A path that the reader of the page may not open is omitted."""
DOCUMENTATION = (
    f'<p>Documentation: <a href="{ERROR_PAGE}">each error, its cause and remedy</a>, and <code>docs/index.md</code> of '
    "the repository: first steps, providers, clients, settings.</p>"
)
"""No program and no page knows where the repository is published, so that only its path is named."""
_ELEMENT = compile_later(r'(?:[^",]|"(?:[^"\\]|\\.?)*+"?)++', re.DOTALL)
"""Pattern of one element of a comma-separated header. A quoted string without an end quote ends with the header."""
_MEDIA_RANGE = compile_anchored(r"\s*([\w!#$&^.+*-]+/[\w!#$&^.+*-]+)\s*(?:;|$)")
_QUALITY = compile_later(r";\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*(?:;|$)", re.IGNORECASE)
_HAS_QUALITY = compile_later(r";\s*q\s*=", re.IGNORECASE)


class SetupView(Struct, frozen=True):
    mapping: Sequence[tuple[Sequence[str], TierMapping]]
    """From `group_tier_mappings`."""
    readiness: Readiness
    problems: Sequence[Problem]
    demo: str
    """From `describe_demo`. "": the demo does not reply."""


def prefers_html(accept: str) -> bool:
    """Return True for web browsers. A wildcard such as `*/*` does not count as HTML."""
    qualities: dict[str, float] = {}
    for element in _ELEMENT.findall(accept):
        media = _MEDIA_RANGE.match(element)
        if media is None:
            continue
        weight = _QUALITY.search(element, media.end(1))
        if weight is None and _HAS_QUALITY.search(element, media.end(1)):
            continue  # an invalid weight
        media_range = media[1].lower()
        quality = float(weight[1]) if weight else 1.0
        qualities[media_range] = max(quality, qualities.get(media_range, 0.0))
    # the most specific media type that includes JSON
    json_ranges = ("application/json", "application/*", "*/*")
    json_quality = next((qualities[name] for name in json_ranges if name in qualities), 0.0)
    html_quality = qualities.get("text/html", 0.0)
    return html_quality > 0 and html_quality >= json_quality


def build_setup_view(settings: Settings, catalog: Catalog, server_problems: Mapping[str, Problem]) -> SetupView:
    """`server_problems`: from `find_server_problems`."""
    readiness = find_readiness(settings, catalog, date.today(), server_problems)
    return SetupView(
        mapping=group_shown_mappings(settings, catalog),
        readiness=readiness,
        problems=readiness.list_for_pages(settings),
        demo=describe_demo(settings) if find_preferred_provider(settings, catalog).name == "demo" else "",
    )


def render_web_page(command: str, view: SetupView | None, accessible_paths: Sequence[str], dashboard_step: str) -> str:
    """Return the page at `/`.

    `view` is None if the client may not see models and providers. Only `accessible_paths` are linked.
    `dashboard_step`: what to do after the installation of the dashboard; "": it is not needed.
    """
    summary = ""
    commands = [command]
    sections = []
    needs_provider = view is not None and bool(view.demo)
    if view:
        commands = [name_program("anthropic-proxy code"), command]
        count = len(view.readiness.ready)
        errors = [problem for problem in view.problems if problem.is_error]
        if errors:
            text = f"{len(errors)} problem{'' if len(errors) == 1 else 's'}"
            summary = _signed(errors[0].sign, errors[0].role, text, "span")
        elif view.demo:
            summary = _signed("!", "warn", "the demo replies", "span")
        else:
            summary = _signed("✓", "ok", f"{count} provider{'' if count == 1 else 's'} ready", "span")
        rows = []
        for tiers, row in view.mapping:
            head, lead = f'<tr><th scope="row">{escape(join_tiers(tiers))}</th>', "→"
            for position, (target, reason) in enumerate(row.replies, 1):
                name = f"{lead} {escape(name_target(target))}"
                if row.fallbacks and position == len(row.replies):
                    name += f"<br>then {escape(', '.join(row.fallbacks))}"
                rows.append(f'{head}<td>{name}</td><td class="quiet">{escape(reason)}</td></tr>')
                head, lead = "<tr><td></td>", "else"
        sections.append(render_section("Mapping", ["<table>", *rows, "</table>"]))
        health = []
        if view.demo:
            health.append(_signed("!", "warn", f"{view.demo}: it streams and calls tools, but has no model."))
        health += [_signed(problem.sign, problem.role, problem.text) for problem in view.problems]
        ready = [
            provider.name if provider.model_count is None else f"{provider.name}, {provider.state}"
            for provider in view.readiness.ready
        ]
        if ready:
            health.append("<ul>" + "".join(_signed("✓", "ok", text, "li") for text in ready) + "</ul>")
        if view.readiness.unset:
            health.append(f'<p class="quiet">– not set: {escape(" ".join(view.readiness.unset))}</p>')
        sections.append(render_section("Health", health))
    links = [f'<li><a href="{path}">{text}</a></li>' for path, text in _LINKS.items() if path in accessible_paths]
    lines = [
        "<main>",
        f"<header><h1>anthropic-proxy <small>{__version__}</small></h1>{summary}</header>",
        "<p>This server accepts the Anthropic Messages API and sends each request to a model provider.</p>",
        render_section("See it", ['<p><a href="/tour">One request, its way, and its cost</a></p>']),
        *(
            [render_section("Set it up", [_format_command(name_program("anthropic-proxy init"))])]
            if needs_provider
            else []
        ),
        render_section("Use it", [_format_command(line) for line in commands]),
        *sections,
        *([_render_dashboard_installation(dashboard_step)] if dashboard_step else []),
        render_section("Links", ["<ul>", *links, "</ul>", DOCUMENTATION]),
        "</main>",
    ]
    return render_document("\n".join(lines))


def render_missing_dashboard(step: str) -> str:
    """Return the page at `/dashboard` if the dashboard is not installed.

    `step`: what to do after its installation. "": the client is on another machine and does not install it.
    """
    lines = [
        "<main>",
        f"<header><h1>anthropic-proxy <small>{__version__}</small></h1></header>",
        "<p>The dashboard is not installed. Requests are served and stored without it.</p>",
        *([_render_dashboard_installation(step)] if step else []),
        render_section("Links", ['<p><a href="/">Start page</a></p>']),
        "</main>",
    ]
    return render_document("\n".join(lines))


def _render_dashboard_installation(step: str) -> str:
    """`step`: what to do afterwards, as the end of a sentence."""
    command = name_program(f"{build_extra_install_command('dashboard')} prices")
    text = f"Run this command, then {name_program(step)}. <code>prices</code> adds the costs of requests."
    return render_section("Dashboard", [_format_command(command), f"<p>{text}</p>"])


MAX_SEARCH_CHARACTERS = 200
_FREQUENT = (
    "rejected-key",
    "rate-limit",
    "configured-model-not-found",
    "no-server",
    "overloaded",
    "prompt-too-long",
    "no-credit",
    "provider-failed",
    "provider-key-missing",
    "proxy-key-wrong",
    "no-data",
    "port-in-use",
)
"""Entries that most users meet, the most frequent first. They and their sections precede the others."""


def render_error_catalog(search: str = "") -> str:
    """`search`: only entries that contain each of its words, with all their messages. "…" in a title stands for any
    text.
    """
    words = search.lower().split()
    lines = ['<main class="catalog">', f"<header><h1>Errors <small>anthropic-proxy {__version__}</small></h1></header>"]
    lines.append("<p>Cause and remedy of each error. … stands for a name, a number or an address.</p>")
    lines.append(
        f'<form action="{ERROR_PAGE}" role="search"><input type="search" name="q" value="{escape(search)}" '
        f'maxlength="{MAX_SEARCH_CHARACTERS}" aria-label="Search errors" placeholder="Words of your message">'
        "<button>Search</button></form>"
    )
    sections = []
    for section in load_sections():
        found = []
        for entry in section.entries:
            text = " ".join((entry.title, entry.cause, entry.remedy, *entry.texts, entry.slug)).lower()
            if all(word in text for word in words):
                found.append(entry)
        if found:
            sections.append(structs.replace(section, entries=sorted(found, key=_rank)))
    sections.sort(key=lambda section: _rank(section.entries[0]))
    if words:
        nothing = "" if sections else "No error has all these words. "
        lines.append(f'<p>{nothing}<a href="{ERROR_PAGE}">Show all</a></p>')
    else:
        entries = load_entries()
        frequent = "".join(
            f'<li><a href="#{slug}">{escape(entries[slug].title.removeprefix("…: "))}</a></li>' for slug in _FREQUENT
        )
        links = "".join(f'<li><a href="#{section.slug}">{escape(section.title)}</a></li>' for section in sections)
        lines.append(f'<nav aria-label="Frequent errors"><h2>Frequent</h2><ul>{frequent}</ul></nav>')
        lines.append(f'<nav aria-label="Kinds of errors"><h2>All</h2><ul>{links}</ul></nav>')
    for section in sections:
        lines.append(f'<section id="{section.slug}"><h2>{escape(section.title)}</h2><div>')
        lines.append(f'<p class="quiet">{_inline(section.meaning)}</p>')
        for entry in section.entries:
            lines.append(f'<article id="{entry.slug}"><h3>{escape(entry.title)}</h3>')
            lines.append(f"<p><b>Cause.</b> {_inline(entry.cause)}</p><p><b>Remedy.</b> {_inline(entry.remedy)}</p>")
            texts = "".join(f'<p class="quiet">{escape(text)}</p>' for text in entry.texts)
            if len(entry.texts) > 1 and not words:
                texts = f"<details><summary>{len(entry.texts)} messages</summary>{texts}</details>"
            lines.append(f"{texts}</article>")
        lines.append("</div></section>")
    return render_document("\n".join([*lines, "</main>"]))


def _rank(entry: CatalogEntry) -> int:
    return _FREQUENT.index(entry.slug) if entry.slug in _FREQUENT else len(_FREQUENT)


_CODE = compile_later(r"`([^`]+)`")


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))


def render_document(body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="robots" content="noindex">\n'
        f"<title>anthropic-proxy</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def render_section(title: str, lines: Sequence[str]) -> str:
    return f"<section><h2>{title}</h2>\n<div>" + "\n".join(lines) + "</div></section>"


_BREAKABLE = compile_later(r"=|(?<=\w)/")


def _format_command(line: str) -> str:
    # a narrow page breaks there, and not within a number
    shown = _BREAKABLE.sub(r"\g<0><wbr>", escape(line))
    return f"<pre><code>{shown}</code></pre>"


def _signed(sign: str, role: str, text: str, element: str = "p") -> str:
    return f'<{element}><span class="{role}">{sign}</span> {escape(text)}</{element}>'
