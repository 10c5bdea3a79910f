"""What tells a call of the model from one that it quotes: sentences, quotations, lists, and code in Markdown and HTML.

The rules are those of CommonMark 0.31.2. Where the end of a text must be known, as for the end of inline code, the text
counts as code: a call that stays text does no harm.
"""

from typing import Literal

from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_anchored, compile_later

_MAX_NEAR = 64
"""Number of characters before a start marker that may be the end of a sentence."""
SENTENCE_ENDS = ".!?…。！？"
_ALONE = compile_later(
    # a line of its own, which is no code by its indentation
    r"[\r\n] {0,3}\Z"
    # behind a sentence
    rf"|[^\s.][{SENTENCE_ENDS}]+[*_)\"'”’»」]*[^\S\r\n]*\Z"
    # directly behind a colon, without a space
    r"|\w[*_)]*[:：][*_)]*\Z"
    # directly behind reasoning or another message, which may end without a full stop
    rf"|[\r\n\w:：)*{SENTENCE_ENDS}](?:</(?:think|thinking|thought)>|\[/THINK\]|<channel\|>|<\|(?:end|call)\|>)[^\S\r\n]*\Z",
    most=_MAX_NEAR,
)
_FOUND = compile_later(r"[./\\]\S*:\d+[:：]\Z|(?:\A|[\r\n])\S*[./\\]\S*[:：]\Z", most=_MAX_NEAR)
"""Beginning of a line of `grep`: the name of a file, perhaps with a number. A sentence may end with such a name too."""
Container = Literal["", "quotation", "item"]
"""What is open in a text: nothing, the paragraph of a quotation, or an item of a list."""
_LINE = compile_later(
    r"(?:\r\n?|\n)(?:(?P<quotation>[^\S\r\n]*+>|[^\S\r\n]{256})|(?P<item>[^\S\r\n]*+(?:[*+•-][^\S\r\n]|\d{1,9}+[.)]))"
    r"|(?P<other>[^\S\r\n]*+\S)|[^\S\r\n]*+(?P<blank>(?=[\r\n]))?)"
)
"""Beginning of a line. So much white space counts as a quotation, as its end may come later."""


def begins_alone(before: str, container: Container = "") -> bool:
    """Return True if a call does not begin within a sentence, a quotation or a list.

    `before`: text before it. `container`: what is open at its beginning. A call below an item belongs to it if it is
    indented. Templates put calls below it without a blank line, so it is no lazy continuation of the item.
    """
    near = before[-_MAX_NEAR:]
    if _ALONE.search(near) is None or _FOUND.search(near) is not None:
        return False
    container = find_container(before, container)
    return not container or (container == "item" and before[-1] in "\r\n")


def find_container(text: str, container: Container = "") -> Container:
    """Return what is open at the end of a text. `container`: what is open at its beginning.

    A line that may still become any is left out.
    """
    for line in _LINE.finditer(text):
        match line.lastgroup:
            case "quotation" | "item" as begun:
                container = begun
            case "blank" if container == "quotation":
                container = ""
            case "other" if container == "item" and not line["other"][:1].isspace():
                container = ""
    return container


_TAGS_OF_LINES = "textarea|script|style|samp|kbd|blockquote"
"""Tags of HTML that begin code or a quotation at the beginning of a line. Sentences about web pages name them."""
_CODE_MARK = compile_later(
    r"``*|\r\n?+[ \t]*+[\r\n]|\n[ \t]*+[\r\n]|<!--|-->|</?(?i:pre|code)\b"
    rf"|</(?i:{_TAGS_OF_LINES})\b|(?<=[\r\n])<(?i:{_TAGS_OF_LINES})\b"
)
"""Marks of inline code, the end of a paragraph, which ends it, and marks of code and comments in HTML. Each alternative
begins with one character or a line, so that a search skips all others."""


def find_open_code(text: str, opened: str = "") -> str:
    """Return the mark of the inline code, the code of HTML or the comment that is open at the end of a text. "": none.

    `opened`: the mark that is open at its beginning.
    """
    for match in _CODE_MARK.finditer(text):
        mark = match.group().lower()
        if mark[0] == "`":
            opened = "" if opened == mark else opened or mark
        elif mark[0] in "\r\n":
            opened = opened.strip("`")
        elif mark[0] == "-" or mark[1] == "/":
            begun = "<!--" if mark[0] == "-" else f"<{mark[2:]}"
            opened = "" if opened == begun else opened
        elif opened[:1] != "<":
            opened = mark
    return opened


class Fence(Struct):
    """A code fence that is open."""

    sign: str
    """Backtick or tilde."""
    length: int
    """Number of signs of its mark."""
    width: int
    """Maximum number of columns before the mark that ends it. A mark with more is a line of the code."""
    depth: int
    """Number of marks of quotations before each of its lines."""


_MAX_MARGIN = 48
"""Maximum number of characters before a fence mark on its line: blanks, and the marks of lists and quotations."""
_INDENTATION = 3
"""Maximum number of columns before the mark that ends a fence without a margin. More are indented code."""
_FENCE_MARK = compile_later(rf"(?<=[\r\n])[ \t>*+\-\d.)]{{0,{_MAX_MARGIN}}}(?:```|~~~)")
_FENCE_END = compile_later(
    rf"(?<=[\r\n])([ \t>]{{0,{_MAX_MARGIN}}})(`{{3,}}+|~{{3,}}+)[ \t]{{0,{_MAX_MARGIN}}}(?=[\r\n])"
)
"""Source: section 4.5: as many of the same character as begin the fence, or more, and nothing else."""
_FENCE_RUN = compile_anchored(r"`++|~++")
LINE_BREAK = compile_later(r"[\r\n]")


def find_open_fence(text: str) -> tuple[Fence, bool] | None:
    """Return the code fence that is open at the end of a text, and True if its opening line has ended. None: no fence.

    The text begins with a line break.
    """
    place = 0
    while (mark := find_fence_mark_end(text, place)) is not None:
        fence = read_fence(text, mark)
        run = _FENCE_RUN.match(text, mark - 3)
        assert run is not None, "a fence mark ends there"
        fence.length = len(run.group())
        line = LINE_BREAK.search(text, run.end())
        inline_end = find_inline_end(text[run.end() : line.start() if line else len(text)], fence)
        if inline_end >= 0:
            place = run.end() + inline_end
            continue
        end = find_fence_end(text, line.start(), line.end(), fence) if line else None
        if end is None:
            return fence, line is not None
        place = end
    return None


def find_fence_mark_end(text: str, offset: int) -> int | None:
    """Return the index after the first three characters of the next fence mark, after `offset`. None: no fence mark."""
    match = _FENCE_MARK.search(text, max(0, offset - _MAX_MARGIN - len("\n``")))
    while match is not None and match.end() <= offset:
        match = _FENCE_MARK.search(text, match.end())
    return match.end() if match is not None else None


def read_fence(text: str, mark_end: int) -> Fence:
    """Return the fence whose mark has its first three characters before `mark_end`."""
    begin = text[max(0, mark_end - 3 - _MAX_MARGIN) : mark_end - 3]
    margin = begin[find_line(begin) :]
    return Fence(text[mark_end - 1], 3, max(_INDENTATION, _count_columns(margin)), margin.count(">"))


def find_inline_end(line: str, fence: Fence) -> int:
    """Return the index after the backticks in the opening line of a fence that make it inline code. -1: none."""
    end = line.find("`" * fence.length) if fence.sign == "`" else -1
    return end + fence.length if end >= 0 else -1


def find_fence_end(text: str, start: int, offset: int, fence: Fence) -> int | None:
    """Return the index behind the mark that ends a fence. None: there is none.

    `start`: place from which on the mark may begin. `offset`: place from which on it may end.
    """
    for match in _FENCE_END.finditer(text, start):
        margin, mark = match.groups()
        if (
            match.end() >= offset
            and mark[0] == fence.sign
            and len(mark) >= fence.length
            and margin.count(">") == fence.depth
            and _count_columns(margin) <= fence.width
        ):
            return match.end()
    return None


def _count_columns(margin: str) -> int:
    return len(margin.expandtabs(4))


def find_line(text: str) -> int:
    """Return the index at which the last line begins."""
    return max(text.rfind("\n"), text.rfind("\r")) + 1
