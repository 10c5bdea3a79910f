"""Search for tool calls that a model wrote in its reply text, and their conversion to deltas.

The detector reads the text in pieces and is in one of these states: `start` (no text yet), `bare` (the whole reply may
be a call without markers), `text` (search for a start marker or a code fence), `fence` (inside of code, where a call is
only an example), `call` (after a start marker), `line` (after a call, whose line decides whether it stands by itself),
`after` (after a call, where superfluous end markers are dropped) and `over` (too many failures; all further text is
returned unchanged). A start marker that begins no call becomes text, and the search continues after it. A call within a
sentence becomes text as a whole.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat

from anthropic_proxy.engine.messages.deltas import Delta, Text, ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.wires.tool_call_repair.calls import OfferedTools, RecoveredCall
from anthropic_proxy.engine.wires.tool_call_repair.doubled_calls import DoubledCalls
from anthropic_proxy.engine.wires.tool_call_repair.formats import (
    NAME_SUFFIXES,
    OPEN_TAGS,
    StartMarker,
    ToolCallFormat,
    build_format_markers,
    can_be_unmarked_calls,
    read_unmarked_calls,
)
from anthropic_proxy.engine.wires.tool_call_repair.quoting import (
    LINE_BREAK,
    Container,
    Fence,
    begins_alone,
    find_container,
    find_fence_end,
    find_fence_mark_end,
    find_inline_end,
    find_line,
    find_open_code,
    find_open_fence,
    read_fence,
)
from anthropic_proxy.engine.wires.tool_call_repair.tagged_calls import begins_call, read_last_calls

_WORD = compile_anchored(r"[\w.:/-]*")
_MAX_NAME_LENGTH = 128
_MAX_FAILURES = 64
"""Maximum number of start markers in a reply that began no call. Later text is not searched."""
MAX_FENCES = 1_000
"""Maximum number of code fences in a reply. Later text is not searched. Each one costs 20 µs, perhaps in one step."""
_MAX_PREFILL = 16 * 1024
"""Maximum number of characters before the reply in which open code is searched. No call is searched behind more."""
_MIN_PIECE, _MAX_PIECE = 128, 4_096
"""Minimum and maximum number of characters that are examined at once. The number doubles with each piece. After a
decision, the remainder of a piece is examined in shorter pieces."""
_BEGINNING = 256
"""Number of characters at the start of a reply that are checked for calls without markers."""
_MAX_ENDINGS = 16
"""Number of end markers after one start marker that are tried before the start marker becomes text."""
_MAX_FAILED_CHARACTERS, _MAX_FAILED_MULTIPLE = 128 * 1024, 4
"""Maximum number of characters parsed without a call: a base, and a multiple of the last attempt. Later text is not
searched."""


class TextCallDetector:
    """Converts tool calls in streamed reply text into deltas. Call `feed` for each fragment, then `finish`."""

    held_characters = 0
    """Number of characters that were received since the last delta, or more."""
    _state = "start"
    _held = ""
    _blank = False
    """True if only white space follows the start marker so far."""
    _last = ""
    """Last characters of `_pieces`, in which an end marker may begin."""
    _before = "\n"
    """Last characters of the emitted text: a code fence may begin in them, and a sentence may end."""
    _container: Container = ""
    """What is open at the beginning of `_before`, or of the code fence."""
    _code = ""
    """Mark of inline code or of HTML that is open at the beginning of `_before`. "": none."""
    _space = ""  # line breaks before the start marker of the current call
    _mark = ""
    _is_alone = False
    """True if the start marker of the current line of calls stands in no sentence."""
    _later = ""
    """Received text that is not yet in `_held`, from `_later_offset` on."""
    _later_offset = 0
    _piece = _MIN_PIECE  # length of the next piece, in characters
    _failures = _fences = _searched = _endings = 0
    _named = False
    """True if the name of an offered tool follows the start marker."""
    _failed_characters = 0
    """Number of characters of the reply that were parsed as a call but were none."""
    _exhausted = False
    """True if `_failed_characters` exceeds the limit, so that detection stops."""
    _in_fence = ""
    """Position in a code fence: `run` (opening backticks or tildes), `line` (remainder of that line) or
    `inside`."""
    _count = 0

    def __init__(
        self,
        formats: Sequence[ToolCallFormat],
        offered: OfferedTools,
        new_id: Callable[[str], str],
        doubled: DoubledCalls | None = None,
        prefill: str = "",
    ) -> None:
        """`doubled`: compares the calls with those of the API. `prefill`: the text that the reply continues."""
        self.notes: list[FidelityNote] = []
        """Fidelity notes: one for each tool call that was found in the reply text."""
        self._formats = formats
        self._offered = offered
        self._new_id = new_id
        self.doubled = DoubledCalls() if doubled is None else doubled
        signs = self._signs = build_format_markers(tuple(formats))
        self._marks, self._pattern = signs.start_markers, signs.start_pattern
        self._strays, self._tokens, self._spark = signs.dropped_end_markers, signs.tokens, signs.candidate_pattern
        self._pieces: list[str] = []
        """Buffered fragments after `_held` that neither start nor end a call."""
        self._found: list[tuple[str, Sequence[RecoveredCall]]] = []
        """Format and calls of the current line, until its end decides whether they are calls."""
        self._found_text: list[str] = []
        self._free: list[str] = []
        """Text to emit, joined into one delta at the end of `feed` and before a tool call."""
        self._fence = Fence("`", 3, 0, 0)
        self._postponed: list[tuple[str, RecoveredCall]] = []
        """Format and call of those that may be a call of the API, which has begun and not ended."""
        if prefill:
            self._continue("\n" + prefill)

    def begin_again(self) -> "TextCallDetector":
        """Return a detector for another text of the same reply."""
        return TextCallDetector(self._formats, self._offered, self._new_id, self.doubled)

    def _continue(self, prefill: str) -> None:
        """Begin in the code that a text before the reply has opened."""
        if len(prefill) > _MAX_PREFILL:
            self._state = "over"
        elif (opened := find_open_fence(prefill)) is not None:
            self._fence, has_line_ended = opened
            self._state, self._in_fence = "fence", "inside" if has_line_ended else "line"
        else:
            self._code = find_open_code(prefill)

    def feed(self, text: str) -> list[Delta]:
        """Return the deltas for one more fragment of reply text. Text that may belong to a tool call is buffered."""
        if self._state == "text" and not self._held and not self._spark.search(text):
            self._before += text
            if len(self._before) > _MAX_BEFORE:
                self._shorten_before()
            return [Text(text)]
        if self._state == "over":
            return [Text(text)]
        deltas: list[Delta] = []
        self._later = text
        self._later_offset = 0
        self._read_on(deltas)
        self._pass_free(deltas)
        if deltas:
            self.held_characters = 0
        else:
            self.held_characters += len(text)
        return deltas

    def finish(self, *, reply_ended_early: bool = False) -> list[Delta]:
        """Return the buffered text as deltas at the end of the text: tool calls or plain text.

        If the reply ended early, unfinished calls become text.
        """
        deltas: list[Delta] = []
        if self._held or self._pieces or self._found:
            self._join("")
            while self._step(deltas, final=True, reply_ended_early=reply_ended_early) or self._later:
                self._read_on(deltas)
                self._join("")
            if self._held and self._state != "after":
                self._emit(len(self._held))
            self._pass_free(deltas)
        self._held, self._blank = "", False
        if self._state not in ("start", "fence", "over"):
            self._state = "text"
        return deltas

    def _read_on(self, deltas: list[Delta]) -> None:
        """Examine the received text in pieces, and append its deltas to `deltas`."""
        while self._later_offset < len(self._later):
            piece = self._later[self._later_offset : self._later_offset + self._piece]
            self._later_offset += len(piece)
            if self._decides_nothing(piece):
                self._pieces.append(piece)
                continue
            self._join(piece)
            self._piece = min(2 * self._piece, _MAX_PIECE)
            while self._step(deltas, final=False, reply_ended_early=False):
                if self._state in ("text", "fence") and _MIN_PIECE < len(self._held) <= self._later_offset:
                    # The undecided remainder of the piece becomes unread text again, to be examined in shorter pieces.
                    self._later_offset -= len(self._held)
                    self._held = ""
                    self._piece = _MIN_PIECE
            remainder = self._held
            if self._state == "call":
                remainder = "" if self._named else self._held[len(self._mark) :]
            self._blank = remainder.isspace()
        self._later, self._later_offset = "", 0

    def _decides_nothing(self, piece: str) -> bool:
        """Return True if a piece of text cannot end or start a call, so that it is only buffered."""
        if self._blank:
            return piece.isspace() and not (self._state == "line" and LINE_BREAK.search(piece))
        if self._state == "bare":
            return len(self._held) >= _BEGINNING
        if self._state != "call" or not self._named:
            return False
        ending = self._marks[self._mark].end_marker
        if not ending:
            return True
        window = (self._last if self._pieces else self._held[1 - len(ending) :]) + piece
        self._last = window[1 - len(ending) :]
        return ending not in window

    def _join(self, piece: str) -> None:
        self._held = "".join((self._held, *self._pieces, piece))
        self._pieces.clear()

    def _step(self, deltas: list[Delta], *, final: bool, reply_ended_early: bool) -> bool:
        """Convert the start of the buffered text. Return True if more steps are possible without more text."""
        if not self._held and self._state != "line":
            return False
        if self._state == "start":
            if self._held.isspace():
                return False
            bare = "bare_json" in self._formats or "bare_python" in self._formats
            self._state = "bare" if bare and self._held.lstrip()[0] in "{[" else "text"
            return True
        if self._state == "bare":
            if can_be_unmarked_calls(self._held[:_BEGINNING], self._formats, self._offered):
                if not final:
                    return False
                found = None if reply_ended_early else read_unmarked_calls(self._held, self._formats, self._offered)
                if found is not None:
                    self._emit_calls(*found, deltas)
                    self._held = ""
                    return False
            self._state = "text"
            self._read_again()
            return False
        if self._state == "call":
            return self._read_call(deltas, final=final, reply_ended_early=reply_ended_early)
        if self._state == "fence":
            return self._leave_fence()
        if self._state == "line":
            return self._read_line(deltas, final=final)
        if self._state == "after":
            rest = self._held.lstrip()
            if rest.startswith(self._strays):
                self._held = rest[len(self._find_stray(len(self._held) - len(rest))) :]
                return True
            if not rest or (not final and any(map(str.startswith, self._strays, repeat(rest)))):
                return False
            self._state = "text"
            # the white space is dropped, but four blanks make code of what follows
            self._before, self._code, self._container = "\n" + self._held[: -len(rest)][-_MIN_BEFORE:], "", ""
            self._held = rest
            return True
        if self._state == "over":
            self._emit(len(self._held))
            return False
        text = self._before + self._held
        offset = len(self._before)
        mark = self._pattern.search(text, offset) if self._pattern else None
        fence = find_fence_mark_end(text, offset)
        if mark is not None and (fence is None or mark.start() <= fence - len("```")):
            free = text[offset : mark.start()]
            before = text[: mark.start()]
            if not self._marks[mark.group()].readers:
                is_code = bool(find_open_code(before, self._code))
                self._emit(mark.end() - offset if is_code else len(free))
                if not is_code:
                    self._held = self._held[self._find_end_of_tokens() :]
                    self._before += "" if self._before.endswith("\n") else "\n"
                return True
            self._is_alone = begins_alone(before, self._container) and not find_open_code(before, self._code)
            end = _find_text_end_before_call(free, len(free))
            self._space = free[end:]
            self._emit(end)
            self._held = self._held[len(self._space) :]
            self._begin_call(mark.group())
            return True
        if not final:
            kept = self._signs.find_partial_marker(text, offset, len(text) if fence is None else fence)
            if kept < len(text) or fence is None:
                self._emit(_find_text_end_before_call(text, kept) - offset)
                return False
        if fence is None:
            return False
        self._fences += 1
        if self._fences > MAX_FENCES:
            self._state = "over"
            return True
        self._emit(fence - offset)
        self._enter_fence()
        return self._leave_fence()

    def _find_end_of_tokens(self) -> int:
        """Return the place behind the tokens at the beginning of the held text that are only removed."""
        removed, end = [token for token, mark in self._marks.items() if not mark.readers], 0
        while found := next((token for token in removed if self._held.startswith(token, end)), ""):
            end += len(found)
        return end

    def _begin_call(self, mark: str) -> None:
        self._mark = mark
        self._state = "call"
        self._searched = len(mark)
        self._endings = 0
        self._named = not self._marks[mark].requires_name

    def _read_line(self, deltas: list[Delta], *, final: bool) -> bool:
        """Decide what the calls before the buffered text are. Return True if more steps are possible."""
        if not self._held and not final:
            return False
        while True:
            space = _LINE_SPACE.match(self._held)
            start = space.end() if space else 0
            if not self._held.startswith(self._strays, start):
                break
            stray = self._find_stray(start)
            self._found_text.append(self._held[: start + len(stray)])
            self._held = self._held[start + len(stray) :]
        rest = self._held[start:]
        if not rest and not final:
            return False
        mark = self._pattern.match(rest) if self._pattern else None
        if mark is not None:
            self._found_text.append(self._held[:start])
            self._held = rest
            self._begin_call(mark.group())
            return True
        may_be_token = any(map(str.startswith, self._tokens, repeat(rest))) or _TOKEN_BEGINNING.fullmatch(rest)
        if rest and not final and may_be_token:
            return False
        self._end_line(deltas, is_alone=not rest or _LINE_END.match(rest) is not None)
        return bool(self._held)

    def _find_stray(self, start: int) -> str:
        """Return the superfluous token at a place of the buffered text."""
        return next(stray for stray in self._strays if self._held.startswith(stray, start))

    def _end_line(self, deltas: list[Delta], *, is_alone: bool) -> None:
        """Make the calls of the line, if no sentence is around them. Otherwise they are text."""
        found, text = self._found, self._space + "".join(self._found_text)
        self._found, self._found_text = [], []
        if is_alone and self._is_alone:
            for convention, calls in found:
                self._emit_calls(convention, calls, deltas)
            self._state = "after"
        else:
            self._held = text + self._held
            self._emit(len(text))
            self._state = "text"

    def _read_again(self) -> None:
        """Move the buffered text back to the unread text, so that it is examined again."""
        self._later = self._held + self._later[self._later_offset :]
        self._later_offset = 0
        self._held = ""

    def _read_call(self, deltas: list[Delta], *, final: bool, reply_ended_early: bool) -> bool:
        mark = self._marks[self._mark]
        if not self._named and not self._may_be_named():
            return self._release(deltas)
        while mark.end_marker and (found := self._held.find(mark.end_marker, self._searched)) >= 0:
            self._searched = found + len(mark.end_marker)
            if self._convert_calls(mark, self._held[: self._searched], deltas):
                return True
            self._endings += 1
            if self._endings >= _MAX_ENDINGS or self._exhausted:
                return self._release(deltas)
        self._searched = max(self._searched, len(self._held) - len(mark.end_marker) + 1)
        if not final:
            return False
        if reply_ended_early:
            return self._release(deltas)
        texts = [self._held]
        before, end_marker, rest = self._held.rpartition(mark.end_marker or "\0")
        if end_marker and rest.lstrip(" \t").startswith("\n") and not rest.isspace():
            texts.append(before + end_marker)
        return any(self._convert_calls(mark, text, deltas, final=True) for text in texts) or self._release(deltas)

    def _may_be_named(self) -> bool:
        """Return True if a bracket or a possible tool name follows the start marker."""
        following = self._held[len(self._mark) :].lstrip()
        word = _WORD.match(following)
        name = word.group() if word else ""
        if len(name) == len(following):
            return len(name) <= _MAX_NAME_LENGTH
        self._named = following[0] in '{[<"]' or (
            bool(name)
            and any(map(self._offered.find_tool_name, (name, *(name.removesuffix(end) for end in NAME_SUFFIXES))))
        )
        return self._named

    def _convert_calls(self, mark: StartMarker, text: str, deltas: list[Delta], *, final: bool = False) -> bool:
        """Append the calls in `text` to `deltas`. Return False if it has none.

        `final`: the reply is complete.
        """
        readers = mark.readers
        if final:
            is_whole = len(text) == len(self._held)
            open_tags = ((name, OPEN_TAGS[name]) for name, _ in readers if name in OPEN_TAGS)
            readers = (
                *readers,
                *((name, partial(read_last_calls, tags, is_end_of_reply=is_whole)) for name, tags in open_tags),
            )
        for convention, read in readers:
            if calls := read(text, self._offered):
                self._found.append((convention, calls))
                self._found_text.append(text)
                self._held = self._held[len(text) :]
                self._state = "line"
                return True
        self._failed_characters += len(text)
        self._exhausted = self._failed_characters > _MAX_FAILED_CHARACTERS + _MAX_FAILED_MULTIPLE * len(text)
        return False

    def _release(self, deltas: list[Delta]) -> bool:
        """Emit a start marker that begins no call as text, and continue the search after it. Return False.

        Return True if the marker follows calls on its line, which are decided first.
        """
        if self._found:
            self._end_line(deltas, is_alone=True)
            return True
        is_over = self._exhausted or self._failures >= _MAX_FAILURES - 1 or self._may_have_calls_as_text()
        self._held = self._space + self._held
        self._emit(len(self._space) + len(self._mark))
        self._read_again()
        self._failures += 1
        self._state = "over" if is_over else "text"
        if self._mark.startswith("```") and self._state == "text":
            self._enter_fence()
        return False

    def _may_have_calls_as_text(self) -> bool:
        """Return True if later calls can be text in a parameter of the call that was not read."""
        names = (name for name, _ in self._marks[self._mark].readers if name in OPEN_TAGS)
        return self._named and any(begins_call(OPEN_TAGS[name], self._held, self._offered) for name in names)

    def _enter_fence(self) -> None:
        """Its mark was emitted, or the first three characters of it."""
        self._state, self._in_fence = "fence", "run"
        end = max(self._before.rfind("```"), self._before.rfind("~~~")) + 3
        self._fence = read_fence(self._before, end)
        self._code = find_open_code(self._before[: end - 3], self._code)
        self._container = find_container(self._before[:end], self._container)

    def _leave_fence(self) -> bool:
        """Emit a code fence, from its opening line to its closing line, as text. Return True at its end."""
        if self._in_fence == "run":
            more = len(self._held) - len(self._held.lstrip(self._fence.sign))
            self._fence.length += more
            self._emit(more)
            if not self._held:
                return False
            self._in_fence = "line"
        if self._in_fence == "line":  # closing backticks in the opening line make it inline code
            line_break = LINE_BREAK.search(self._held)
            line = self._held[: line_break.start()] if line_break else self._held
            end = find_inline_end(line, self._fence)
            if end < 0 and not line_break:
                self._emit(len(line.rstrip("`")))
                return False
            self._in_fence = "inside"
            self._emit(end if end >= 0 else len(line) + 1)
            if end >= 0:
                self._end_fence("x")
                return True
        offset = len(self._before)
        mark = find_fence_end(self._before + self._held, max(0, offset - _MAX_FENCE_END), offset, self._fence)
        self._emit(mark - offset if mark is not None else len(self._held))
        if mark is not None:
            self._end_fence("\n")
        return mark is not None

    def _end_fence(self, before: str) -> None:
        """Go on behind it. `before` stands for its text, which begins no code, and ends the paragraph before it."""
        self._state = "text"
        self._before, self._code = before, self._code.strip("`")

    def _emit(self, size: int) -> None:
        if size > 0:
            text, self._held = self._held[:size], self._held[size:]
            self._before += text
            if len(self._before) > _MAX_BEFORE:
                self._shorten_before()
            self._free.append(text)

    def _shorten_before(self) -> None:
        end = len(self._before) - _MIN_BEFORE
        line = find_line(self._before[:end])
        # a line break is in both parts, because it may end an empty line, and may begin one
        begin, end = (line - 1, line) if line > 1 else (end, end)
        if self._state != "fence":
            self._code = find_open_code(self._before[:end], self._code)
            self._container = find_container(self._before[:end], self._container)
        self._before = self._before[begin:]

    def _pass_free(self, deltas: list[Delta]) -> None:
        if self._free:
            deltas.append(Text("".join(self._free)))
            self._free.clear()

    def _emit_calls(self, convention: str, calls: Sequence[RecoveredCall], deltas: list[Delta]) -> None:
        self._pass_free(deltas)
        for call in calls:
            if self.doubled.postpone(call.name, call.arguments):
                self._postponed.append((convention, call))
            else:
                self._make_call(convention, call, deltas)

    def make_postponed(self) -> list[Delta]:
        """Return the calls that waited for the end of a call of the API. Call this after that end."""
        deltas: list[Delta] = []
        postponed, self._postponed = self._postponed, []
        for convention, call in postponed:
            self._make_call(convention, call, deltas)
        return deltas

    def _make_call(self, convention: str, call: RecoveredCall, deltas: list[Delta]) -> None:
        if self.doubled.add_in_text(call.name, call.arguments):
            return
        key = f"text {self._count}"
        self._count += 1
        deltas += [ToolCall(key, self._new_id("toolu_px"), call.name), ToolArgs(key, call.arguments), ToolEnd(key)]
        detail = f"a call of {call.name} that the model wrote as text ({convention}) became a block"
        self.notes.append(FidelityNote("emulated", "content.tool_use", detail))


_MIN_BEFORE, _MAX_BEFORE = 512, 2_048
"""Minimum and maximum number of characters that are kept of a longer text. What decides about a fence or a line is
shorter than the minimum."""
_MAX_FENCE_END = 256
"""Maximum number of characters of a line that ends a fence. A longer one does not. The search begins so many characters
before a fragment."""
_LINE_END = compile_anchored(
    r"[\r\n]|\]<\]|</?(?:[|｜]|\w{1,32}[|｜]>|(?:s|eos|bos|think|thinking|thought)>|(?:start|end)_of_"
    r"|[\w:]{0,32}?(?:tool|func|call|invoke|param))"
)
"""What may follow a call that stands by itself: the end of its line, or a token of a chat format. No tag of HTML."""
_TOKEN_BEGINNING = compile_anchored(r"</?[\w:]{0,32}|\]<?", most=64)
_LINE_SPACE = compile_anchored(r"[^\S\r\n]*+")


def _find_text_end_before_call(text: str, call_start: int) -> int:
    """Return the first line break of the white space before a possible call, or else `call_start`."""
    line_break = LINE_BREAK.search(text, len(text[:call_start].rstrip()), call_start)
    return line_break.start() if line_break else call_start
