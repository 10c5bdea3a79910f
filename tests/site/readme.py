"""The generated sections of the README: provider blocks and measured figures; and the version picture."""

import re

from anthropic_proxy import __version__
from tests.site.pages import DOCS
from tests.site.start_pages import ProviderStart, providers
from tests.support.paths import ROOT

PAGE = ROOT / "README.md"
VERSION_PICTURE = DOCS / "pictures/version.svg"
_MEASUREMENTS = DOCS / "contributing/performance.md"
_GATEWAYS = ("anthropic-proxy", "LiteLLM", "claude-code-router", "ant2oai", "local-openai2anthropic")
_ROWS = (
    "start to first reply, s",
    "CPU per 120 KB request, ms",
    "CPU per event, paced (a packet each), µs",
    "120 KB stream: time to first token, ms",
    "64 streams × 45 events/s, 1.1 s each: p50, ms",
    "memory after 64 streams, MiB",
)
_VERSION = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="Version {version}">
<!-- Written by `python3 scripts/fix.py` -->
<rect width="{width}" height="20" rx="3" fill="#2453c7"/>
<text x="{middle}" y="14" fill="#fff" font-family="Verdana, DejaVu Sans, sans-serif" font-size="11"
 text-anchor="middle">version {version}</text>
</svg>
"""


def written_readme() -> str:
    text = PAGE.read_text("utf-8")
    text = replace_section(text, "providers", "\n".join(_provider_block(provider) for provider in providers()))
    return replace_section(text, "figures", _figures())


def written_version_picture() -> str:
    width = 56 + 7 * len(__version__)
    return _VERSION.format(width=width, middle=width // 2, version=__version__)


def replace_section(text: str, name: str, content: str) -> str:
    begin, end = re.search(rf"<!-- {name}: written by .*? -->", text), f"<!-- {name}: end -->"
    assert begin is not None, name
    return f"{text[: begin.end()]}\n{content}\n{text[text.index(end) :]}"


def _provider_block(provider: ProviderStart) -> str:
    install = f"After `{provider.before}`:\n\n" if provider.before else ""
    return (
        f"<details><summary>{provider.short or provider.title}</summary>\n\n{install}```\n"
        f"{provider.settings.strip()}\n```\n\n"
        f"[First reply in five minutes](docs/start/{provider.slug}.md)\n\n</details>"
    )


def _figures() -> str:
    section = _MEASUREMENTS.read_text("utf-8").partition("<!-- bench: everybody -->\n")[2].partition("<!-- end -->")[0]
    table = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in section.splitlines() if line]
    places = [table[0].index(name) - len(table[0]) for name in _GATEWAYS]
    lines = [f"| | {' | '.join(f'**{name}**' if name == _GATEWAYS[0] else name for name in _GATEWAYS)} |"]
    lines.append("| --- |" + " ---: |" * len(_GATEWAYS))
    for title in _ROWS:
        row = next(cells for cells in table if cells[0] == title)
        lines.append(f"| {title} | {' | '.join(row[place].partition(' ')[0] for place in places)} |")
    return "\n".join(lines)
