"""The generated part of the README, the number of vendors; and the version picture."""

import re

from anthropic_proxy import __version__
from anthropic_proxy.cli.init.candidates import MOST_USED, list_candidates
from anthropic_proxy.gateway.settings import Settings
from tests.site.pages import DOCS
from tests.support.paths import ROOT

PAGE = ROOT / "README.md"
VERSION_PICTURE = DOCS / "pictures/version.svg"
_VERSION = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="Version {version}">
<!-- Written by `python3 scripts/fix.py` -->
<rect width="{width}" height="20" rx="3" fill="#2453c7"/>
<text x="{middle}" y="14" fill="#fff" font-family="Verdana, DejaVu Sans, sans-serif" font-size="11"
 text-anchor="middle">version {version}</text>
</svg>
"""


def written_readme() -> str:
    others = len(list_candidates(Settings(), {})) - len(MOST_USED)  # the first list of `init` has the same number
    return re.sub(r"(?<=Ollama, )\d+ more", f"{others} more", PAGE.read_text("utf-8"))


def written_version_picture() -> str:
    width = 56 + 7 * len(__version__)
    return _VERSION.format(width=width, middle=width // 2, version=__version__)


def replace_section(text: str, name: str, content: str) -> str:
    begin, end = re.search(rf"<!-- {name}: written by .*? -->", text), f"<!-- {name}: end -->"
    assert begin is not None, name
    return f"{text[: begin.end()]}\n{content}\n{text[text.index(end) :]}"
