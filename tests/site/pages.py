"""The Markdown pages of the repository: their links, anchors and code blocks."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

DOCS = ROOT / "docs"
_FENCE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"(`+)[^\n]*?\1")
_LINK = re.compile(
    r"\]\((?P<address>[^()\s]+)\)|^\[[^\]]+\]: (?P<named>\S+)$"
    r"|<(?:img|source|a)\b[^>]*?\b(?:src|srcset|href)=\"(?P<html>[^\"]+)\"",
    re.MULTILINE,
)
_HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)
_ANCHOR = re.compile(r"<a id=\"([^\"]+)\"></a>")


@dataclass(frozen=True)
class Block:
    """A fenced block of code: its language, the words after it, its text and its first line in the page."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int


def all_pages() -> list[Path]:
    """Return every Markdown page for readers: those of the root, and those below docs/."""
    return sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found = []
    for match in _FENCE.finditer(text):
        language, *words = match[3].split() or [""]
        indent = len(match[1])
        lines = "".join(line[indent:] for line in match[4].splitlines(keepends=True))
        found.append(Block(language, tuple(words), lines, text.count("\n", 0, match.start()) + 1))
    return found


def without_code(text: str) -> str:
    return _INLINE_CODE.sub("", _FENCE.sub("", text))


def links(text: str) -> list[str]:
    """Return the addresses of all links and pictures of a page that name no other host.

    Addresses below `../../actions/` are pages of the code host, for the CI badge.
    """
    found = [next(filter(None, match.groups())) for match in _LINK.finditer(without_code(text))]
    return [address for address in found if not re.match(r"[a-z]+:|\.\./\.\./actions/", address)]


def replace_links(text: str, addresses: dict[str, str]) -> str:
    """Return a page with other addresses in its links. Code stays as it is."""

    def replace(match: re.Match[str]) -> str:
        address = next(filter(None, match.groups()))
        return match[0].replace(address, addresses.get(address, address))

    result, end = "", 0
    for fence in _FENCE.finditer(text):
        result += _LINK.sub(replace, text[end : fence.start()]) + fence[0]
        end = fence.end()
    return result + _LINK.sub(replace, text[end:])


def broken_lists(text: str) -> list[str]:
    """Return the lines with which the site would number wrongly: points that it joins to the steps before them, and
    steps that it begins again at 1, because a block that is not indented stands between.
    """
    found = []
    follows_step = False
    for line in _FENCE.sub(r"\1code", text).splitlines():
        if step := re.match(r"(\d+)\. ", line):
            if step[1] != "1" and not follows_step:
                found.append(line)
            follows_step = True
        elif line and not line.startswith(" "):
            if follows_step and line.startswith("- "):
                found.append(line)
            follows_step = False
    return found


def anchors(text: str) -> set[str]:
    """Return the anchors of a page: explicit ones, and those that code hosts derive from the headings."""
    outside = _FENCE.sub("", text)
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in _HEADING.findall(outside)]
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles} | set(_ANCHOR.findall(outside))


def broken_links(page: Path) -> list[str]:
    """Return the links of a page that lead to no file or no anchor."""
    found = []
    for address in links(page.read_text("utf-8")):
        name, _, anchor = address.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            found.append(address)
    return found
