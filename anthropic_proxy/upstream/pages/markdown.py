"""An HTML page as Markdown: what a reader sees of it, with its title. A program of its own (`confined`).

The page is read piece by piece and no tree of it is kept. Some pages cost libxml2 the square of their length all the
same (it looks for the beginning of every stray end through all that is open), in C and with the interpreter's lock
held. Why lxml: docs/decisions (pages as text).
"""

import re
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

MOST_CHARACTERS = 2 * 1024 * 1024
"""Of a page's HTML that are read; what follows is left out, and the text says so."""
_PIECE = 64 * 1024
_CUT = "[the page goes on]"
_ENOUGH = 200
"""Characters from which on a page's `main` stands for the page."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNSEEN = _words(
    "script style noscript template svg math iframe object canvas nav button select datalist dialog audio video map"
)
_VOID = _words("area base br col embed frame hr img input link meta param source track wbr basefont isindex")
_BLOCKS = _words(
    "address article aside body caption center dd details div dl dt fieldset figcaption figure footer "
    "form header hgroup legend main p search section summary"
)
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_MARKS = {"b": "**", "strong": "**", "i": "*", "em": "*", "code": "`", "del": "~~", "s": "~~"}
_SPACES = re.compile(r"[ \t\r\n\f\v]+")
_HIDDEN = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_LINKED = ("http", "https", "mailto")
_DEEPEST = 6
"""Levels of lists and quotes that are shown."""
_MOST_ADDRESSES = 1024 * 1024
"""Characters of addresses that one page may show: a long `base` would make every short link long."""


class Reading(NamedTuple):
    """What a page says."""

    title: str
    text: str


def answer(question: dict[str, str]) -> Reading:
    """Read the page of a question: `{"html": …, "url": …}`."""
    return read_html(question["html"], question["url"])


def read_html(html: str, url: str) -> Reading:
    """Return title and text of a page that was found at `url`."""
    if not html.strip():
        return Reading("", "")
    from lxml import etree  # type: ignore[import-untyped]  # noqa: PLC0415  # only who fetches pages needs it

    page = _Page(url)
    parser = etree.HTMLParser(target=page, recover=True, no_network=True)
    for start in range(0, min(len(html), MOST_CHARACTERS), _PIECE):
        parser.feed(html[start : start + _PIECE])
    parser.close()
    text = page.text()
    return Reading(page.title, f"{text}\n\n{_CUT}" if len(html) > MOST_CHARACTERS else text)


class _Page:
    """What lxml tells of a page, in order, becomes lines."""

    def __init__(self, url: str) -> None:
        self._base = url
        self._title: list[str] = []
        self._in_title = False
        self._lines: list[str] = []
        self._line: list[str] = []
        self._prefix = ""
        """What the line under way begins with: a heading's signs, a list's."""
        self._unseen: list[str] = []
        """Elements under way that nobody sees, the outermost first."""
        self._lists: list[int] = []
        """Of each list under way the number of its last item; -1: it has no numbers."""
        self._quotes = 0
        self._verbatim = 0
        self._cells = 0
        self._is_first_row = False
        self._link: tuple[str, int] | None = None
        """Address of the link under way, and where its text begins in the line."""
        self._addresses = 0
        """Characters of addresses shown so far."""
        self._main: list[int] = []
        """Lines at which `main` begins and ends."""

    @property
    def title(self) -> str:
        return _SPACES.sub(" ", "".join(self._title)).strip()

    def text(self) -> str:
        self._break()
        start, end = (*self._main, len(self._lines))[:2] if self._main else (0, 0)
        main = self._lines[start:end]
        lines = main if sum(map(len, main)) >= _ENOUGH else self._lines
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")

    # What lxml calls.

    def start(self, tag: str, attributes: Any) -> None:
        if self._unseen:
            if tag not in _VOID:
                self._unseen.append(tag)
        elif tag == "title" and not self._title:
            self._in_title = True
        elif tag in _UNSEEN or _is_hidden(attributes):
            if tag not in _VOID:
                self._unseen.append(tag)
        else:
            self._open(tag, attributes)

    def end(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif not self._unseen:
            self._close(tag)
        elif tag not in _VOID:
            self._unseen.pop()

    def data(self, text: str) -> None:
        if self._in_title:
            self._title.append(text)
        elif self._unseen:
            return
        elif self._verbatim:
            self._line.append(text)
        else:
            self._line.append(_SPACES.sub(" ", text))

    def comment(self, text: str) -> None:
        """Nobody sees those."""

    def close(self) -> None:
        """The page has ended."""

    # Elements.

    def _open(self, tag: str, attributes: Any) -> None:
        if tag in _BLOCKS or tag in _HEADINGS or tag in ("ul", "ol", "blockquote", "table", "tr", "li", "pre"):
            self._break(loose=tag not in ("li", "tr") and not (self._lists and tag in ("ul", "ol")))
        if tag in _HEADINGS:
            self._prefix = _HEADINGS[tag]
        elif tag in _MARKS and not self._verbatim:
            self._line.append(_MARKS[tag])
        elif tag in ("td", "th"):
            self._cells += 1
            self._line.append(" | " if self._cells > 1 else "")
        elif tag == "a":
            self._link = (self._absolute(attributes.get("href")), len(self._line))
        elif tag == "img":
            self._picture(attributes)
        elif tag == "br":
            self._line.append("\n")
        elif tag == "base":
            self._base = urljoin(self._base, attributes.get("href") or "")
        else:
            self._open_structure(tag)

    def _open_structure(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            self._lists.append(0 if tag == "ol" else -1)
        elif tag == "li":
            self._begin_item()
        elif tag == "blockquote":
            self._quotes += 1
        elif tag == "pre":
            self._lines.append(self._margin() + "```")
            self._verbatim += 1
        elif tag == "table":
            self._is_first_row = True
        elif tag == "tr":
            self._cells = 0
        elif tag == "hr":
            self._break()
            self._lines += ["---", ""]
        elif tag == "main" and not self._main:
            self._main.append(len(self._lines))

    def _close(self, tag: str) -> None:
        if tag in _MARKS and not self._verbatim:
            self._close_mark(_MARKS[tag])
        elif tag == "a" and self._link:
            self._close_link(*self._link)
        elif tag == "pre":
            self._close_verbatim()
        elif tag == "tr":
            self._close_row()
        elif tag == "li" or tag in _HEADINGS:
            self._break(loose=tag != "li")
            self._prefix = ""
        elif tag in _BLOCKS:
            self._break()
        elif tag in ("ul", "ol"):
            del self._lists[-1:]
            self._break(loose=not self._lists)
        elif tag == "blockquote":
            self._break()
            self._quotes = max(self._quotes - 1, 0)
            if self._lines:
                self._lines[-1] = self._margin().rstrip()
        elif tag == "table":
            self._break()
        if tag == "main" and len(self._main) == 1:
            self._main.append(len(self._lines))

    def _begin_item(self) -> None:
        if not self._lists:
            self._lists.append(-1)
        sign = "- "
        if self._lists[-1] >= 0:
            self._lists[-1] += 1
            sign = f"{self._lists[-1]}. "
        self._prefix = "  " * (min(len(self._lists), _DEEPEST) - 1) + sign

    def _close_row(self) -> None:
        cells, first = self._cells, self._is_first_row
        self._break(loose=False)
        if cells and first:
            self._lines.append(" | ".join(["---"] * cells))
            self._is_first_row = False
        self._cells = 0

    def _close_mark(self, mark: str) -> None:
        if self._line and self._line[-1] == mark:
            self._line.pop()
        else:
            self._line.append(mark)

    def _close_link(self, url: str, place: int) -> None:
        self._link = None
        text = "".join(self._line[place:])
        said = text.strip()
        if not said or not self._may_show(url):
            return
        before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        self._line[place:] = [f"{before}[{_SPACES.sub(' ', said)}]({url}){after}"]

    def _close_verbatim(self) -> None:
        self._verbatim = max(self._verbatim - 1, 0)
        margin = self._margin()
        self._lines += [margin + line for line in "".join(self._line).strip("\n").split("\n")]
        self._lines += [margin + "```", ""]
        self._line = []

    def _picture(self, attributes: Any) -> None:
        words = _SPACES.sub(" ", attributes.get("alt") or "").strip()
        url = self._absolute(attributes.get("src"))
        if words and self._may_show(url):
            self._line.append(f"![{words}]({url})")

    def _absolute(self, href: str | None) -> str:
        """Return where a link leads; "": nowhere that a reader could go."""
        href = (href or "").strip()
        if not href or href.startswith("#"):
            return ""
        try:
            url = urljoin(self._base, href)
            return url.replace(" ", "%20") if urlsplit(url).scheme in _LINKED else ""
        except ValueError:
            return ""

    def _may_show(self, url: str) -> bool:
        self._addresses += len(url)
        return bool(url) and self._addresses <= _MOST_ADDRESSES

    def _margin(self) -> str:
        return "> " * min(self._quotes, _DEEPEST)

    def _break(self, *, loose: bool = True) -> None:
        """End the line under way; `loose`: an empty one follows."""
        if self._verbatim:
            return
        if self._link:
            self._link = (self._link[0], 0)
        parts = [_SPACES.sub(" ", part).strip() for part in "".join(self._line).split("\n")]
        self._line = []
        said = [part for part in parts if part]
        if said:
            margin = self._margin()
            self._lines += [f"{margin}{self._prefix if not place else ''}{part}" for place, part in enumerate(said)]
            self._prefix = ""
        if loose and not self._prefix and self._lines and self._lines[-1].strip("> "):
            self._lines.append(self._margin().rstrip())


def _is_hidden(attributes: Any) -> bool:
    if "hidden" in attributes or attributes.get("aria-hidden") == "true":
        return True
    style = attributes.get("style")
    return bool(style) and _HIDDEN.search(style) is not None
