"""`convert_html`: converts the visible text of an HTML page to Markdown. It runs in a separate process.

The result is a `PageText`. `main` is the entry point of the process. A separate process is necessary, because libxml2
needs quadratic time for some pages, and blocks other threads meanwhile. lxml reports the page as events and builds no
tree. Parsers that follow the HTML Standard, such as selectolax, need minutes for a deeply nested page.
"""

import re
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

MAX_HTML_CHARACTERS = 2 * 1024 * 1024
"""Maximum characters of HTML that are converted. The remainder is cut, and the text ends with a note."""
_CHUNK_CHARACTERS = 64 * 1024
_TRUNCATION_NOTE = "[the page goes on]"
_MIN_MAIN_CHARACTERS = 200
"""Minimum number of characters in the HTML element `main`. A page with a shorter `main` is converted completely."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_INVISIBLE = _words(
    "script style noscript template svg math iframe object canvas nav button select datalist dialog audio video map"
)
_VOID = _words("area base br col embed frame hr img input link meta param source track wbr basefont isindex")
_BLOCKS = _words(
    "address article aside body caption center dd details div dl dt fieldset figcaption figure footer "
    "form header hgroup legend main p search section summary"
)
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_LISTS = ("ul", "ol")
_BREAKING = _BLOCKS.union(_HEADINGS, _LISTS, ("blockquote", "table", "tr", "li", "pre"))
"""Elements before which a line ends."""
_MARKS = {"b": "**", "strong": "**", "i": "*", "em": "*", "code": "`", "del": "~~", "s": "~~"}
_SPACES = re.compile(r"[ \t\r\n\f\v]+")
_EMPTY_LINES = re.compile(r"\n{3,}")
_HIDDEN = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_LINKED = ("http", "https", "mailto")
_MAX_INDENTATION = 6
_MAX_URL_CHARACTERS = 1024 * 1024
"""Maximum characters of all URLs in one page. A long `base` lengthens every relative link."""
_MAX_BASE_CHARACTERS = 2_048
"""A longer `base` is ignored, because completing a relative link takes time in proportion to it."""


class PageText(NamedTuple):
    title: str
    """Title of the HTML page. "": no title."""
    markdown: str


def main(input_value: dict[str, str]) -> PageText | None:
    """`input_value` has the page as `html`, and its `url`. Return None if lxml is not installed."""
    try:
        return convert_html(input_value["html"], input_value["url"])
    except ModuleNotFoundError:
        return None


def convert_html(html: str, url: str) -> PageText:
    """Relative links are completed with `url`."""
    if not html.strip():
        return PageText("", "")
    from lxml import etree  # type: ignore[import-untyped]  # noqa: PLC0415  # only required by the program

    page = _Page(url)
    parser = etree.HTMLParser(target=page, recover=True, no_network=True)
    for start in range(0, min(len(html), MAX_HTML_CHARACTERS), _CHUNK_CHARACTERS):
        parser.feed(html[start : start + _CHUNK_CHARACTERS])
    parser.close()
    text = page.text()
    return PageText(page.title, f"{text}\n\n{_TRUNCATION_NOTE}" if len(html) > MAX_HTML_CHARACTERS else text)


class _Page:
    """Parser target of lxml: collects lines of Markdown from the tags and texts of one HTML page."""

    def __init__(self, url: str) -> None:
        self._base = url
        self._has_base = False
        self._title: list[str] = []
        self._in_title = False
        self._lines: list[str] = []
        self._line: list[str] = []
        self._prefix = ""
        """Prefix of the current Markdown line: the marker of a heading or a list item."""
        self._invisible: list[str] = []
        """Names of the open invisible HTML elements (`script`), the outermost first."""
        self._lists: list[int] = []
        """For each open list: number of its last item. -1: a list without numbers."""
        self._quotes = 0
        self._verbatim = 0
        self._cells = 0
        self._is_first_row = False
        self._link: tuple[str, int] | None = None
        """URL of the open link, and the index in the current line at which the link text begins. None: no link is
        open."""
        self._url_characters = 0
        self._main: list[int] = []
        """Index of the first Markdown line of the HTML element `main`, and of the line after its end. []: no `main` so
        far."""

    @property
    def title(self) -> str:
        return _SPACES.sub(" ", "".join(self._title)).strip()

    def text(self) -> str:
        self._break()
        start, end = (*self._main, len(self._lines))[:2] if self._main else (0, 0)
        main = self._lines[start:end]
        lines = main if sum(map(len, main)) >= _MIN_MAIN_CHARACTERS else self._lines
        return _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip("\n")

    # Methods that lxml calls.

    def start(self, tag: str, attributes: Any) -> None:
        if self._invisible or (tag != "title" and _is_hidden(tag, attributes)):
            if tag not in _VOID:
                self._invisible.append(tag)
        elif tag == "title":
            self._in_title = not self._title
        else:
            if tag in _BREAKING:
                self._break(loose=tag not in ("li", "tr") and not (self._lists and tag in _LISTS))
            if tag in _HEADINGS:
                self._prefix = _HEADINGS[tag]
            elif tag in _MARKS and not self._verbatim:
                self._line.append(_MARKS[tag])
            else:
                self._start_element(tag, attributes)

    def _start_element(self, tag: str, attributes: Any) -> None:
        match tag:
            case "a":
                self._link = (self._absolute(attributes.get("href")), len(self._line))
            case "base" if not self._has_base and (href := attributes.get("href")):
                self._has_base = True  # only the first one counts, as in browsers
                if len(href) <= _MAX_BASE_CHARACTERS:
                    self._base = urljoin(self._base, href)
            case "blockquote":
                self._quotes += 1
            case "br":
                self._line.append("\n")
            case "hr":
                self._break()
                self._lines += ["---", ""]
            case "img":
                words = _SPACES.sub(" ", attributes.get("alt") or "").strip()
                url = self._absolute(attributes.get("src"))
                if words and self._may_add_url(url):
                    self._line.append(f"![{words}]({url})")
            case "li":
                if not self._lists:
                    self._lists.append(-1)
                sign = "- "
                if self._lists[-1] >= 0:
                    self._lists[-1] += 1
                    sign = f"{self._lists[-1]}. "
                self._prefix = "  " * (min(len(self._lists), _MAX_INDENTATION) - 1) + sign
            case "main" if not self._main:
                self._main.append(len(self._lines))
            case "ol" | "ul":
                self._lists.append(0 if tag == "ol" else -1)
            case "pre":
                self._lines.append(self._margin() + "```")
                self._verbatim += 1
            case "table":
                self._is_first_row = True
            case "td" | "th":
                self._cells += 1
                self._line.append(" | " if self._cells > 1 else "")
            case "tr":
                self._cells = 0
            case _:
                pass

    def end(self, tag: str) -> None:
        if self._invisible:
            if tag not in _VOID:
                self._invisible.pop()
        elif tag == "title":
            self._in_title = False
        elif tag in _MARKS and not self._verbatim:
            if self._line and self._line[-1] == _MARKS[tag]:
                self._line.pop()
            else:
                self._line.append(_MARKS[tag])
        elif tag == "a":
            self._end_link()
        elif tag == "blockquote":
            self._break()
            self._quotes = max(self._quotes - 1, 0)
            if self._lines:
                self._lines[-1] = self._margin().rstrip()
        elif tag == "pre":
            self._verbatim = max(self._verbatim - 1, 0)
            margin = self._margin()
            self._lines += [margin + line for line in "".join(self._line).strip("\n").split("\n")]
            self._lines += [margin + "```", ""]
            self._line = []
        elif tag == "tr":
            cells, is_first = self._cells, self._is_first_row
            self._break(loose=False)
            if cells and is_first:
                self._lines.append(" | ".join(["---"] * cells))
                self._is_first_row = False
            self._cells = 0
        elif tag in _LISTS:
            del self._lists[-1:]
            self._break(loose=not self._lists)
        elif tag == "li" or tag in _HEADINGS:
            self._break(loose=tag != "li")
            self._prefix = ""
        elif tag in _BLOCKS or tag == "table":
            self._break()
            if tag == "main" and len(self._main) == 1:
                self._main.append(len(self._lines))

    def _end_link(self) -> None:
        if self._link is None:
            return
        (url, start), self._link = self._link, None
        text = "".join(self._line[start:])
        label = text.strip()
        if label and self._may_add_url(url):
            before = text[: len(text) - len(text.lstrip())]
            after = text[len(text.rstrip()) :]
            self._line[start:] = [f"{before}[{_SPACES.sub(' ', label)}]({url}){after}"]

    def data(self, text: str) -> None:
        if self._in_title:
            self._title.append(text)
        elif self._invisible:
            return
        elif self._verbatim:
            self._line.append(text)
        else:
            self._line.append(_SPACES.sub(" ", text))

    def comment(self, text: str) -> None:
        """Ignore an HTML comment (callback of lxml)."""

    def close(self) -> None:
        """Ignore the end of the page (callback that lxml requires)."""

    def _absolute(self, href: str | None) -> str:
        """Return the absolute URL of a link. "": the link leads to no other page, such as `#top` or `javascript:`."""
        href = (href or "").strip()
        if not href or href.startswith("#"):
            return ""
        try:
            url = urljoin(self._base, href)
            return url.replace(" ", "%20") if urlsplit(url).scheme in _LINKED else ""
        except ValueError:
            return ""

    def _may_add_url(self, url: str) -> bool:
        self._url_characters += len(url)
        return bool(url) and self._url_characters <= _MAX_URL_CHARACTERS

    def _margin(self) -> str:
        return "> " * min(self._quotes, _MAX_INDENTATION)

    def _break(self, *, loose: bool = True) -> None:
        """`loose`: True to append an empty line."""
        if self._verbatim:
            return
        if self._link:
            self._link = (self._link[0], 0)
        lines = [_SPACES.sub(" ", line).strip() for line in "".join(self._line).split("\n")]
        self._line = []
        if lines := [line for line in lines if line]:
            margin = self._margin()
            self._lines += [f"{margin}{self._prefix if not index else ''}{line}" for index, line in enumerate(lines)]
            self._prefix = ""
        if loose and not self._prefix and self._lines and self._lines[-1].strip("> "):
            self._lines.append(self._margin().rstrip())


def _is_hidden(tag: str, attributes: Any) -> bool:
    style = attributes.get("style")
    return (
        tag in _INVISIBLE
        or "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or bool(style and _HIDDEN.search(style))
    )
