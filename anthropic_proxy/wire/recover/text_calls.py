"""Calls in the text of an answer, found as it streams: what is no call passes as the text that it was."""

import re
from collections.abc import Callable, Sequence

from anthropic_proxy.messages.deltas import Delta, Text, ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.wire.recover.conventions import Mark, TextConvention, may_be_bare, read_bare, signs_of
from anthropic_proxy.wire.recover.json_calls import FoundCall
from anthropic_proxy.wire.recover.offered import OfferedTools

_FENCE = re.compile(r"(?<=\n) {0,3}(?:```|~~~)")
_FENCE_BEHIND = 6
"""Characters of a line's beginning that may belong to a fence which is not complete."""
_LINE_BREAK = re.compile(r"[\r\n]")
_WORD = re.compile(r"[\w.:/-]*")
_LONGEST_NAME = 128
_MOST_FAILURES = 64
"""How many marks may turn out to begin no call: a model that repeats itself would keep us reading all of it again."""
_PIECE = 4_096
"""Characters that are looked at together."""
_BEGINNING = 256
"""Characters of an answer that show whether it may be calls alone."""
_MOST_ENDINGS = 16
"""How often what looks like the end of a call may turn out to be none, before the whole is taken for text."""
_MOST_IN_VAIN, _TIMES_IN_VAIN = 128 * 1024, 4
"""Characters that may be read as a call and be none, in one answer: so many, and so often the length of the last."""


class TextCalls:
    """Turns the calls in a text into blocks: `feed` each fragment, then `finish`.

    A call counts only at a mark, never inside a fence or behind a backtick, and only if all of it can be read and calls
    tools that are offered. Text is held back only as long as it may still become a mark; where it was cut in pieces
    makes no difference. Line breaks next to a call go with it.
    """

    def __init__(
        self, conventions: Sequence[TextConvention], offered: OfferedTools, new_id: Callable[[str], str]
    ) -> None:
        self.notes: list[Note] = []
        """What was recovered."""
        self._conventions = conventions
        self._offered = offered
        self._new_id = new_id
        signs = signs_of(tuple(conventions))
        self._marks, self._pattern, self._strays, self._firsts, self._spark, self._longest = signs
        self._state = "start"  # then bare, text, fence, call, after; over: nothing is looked for any more
        self._held = ""
        self._pieces: list[str] = []
        """Text behind what is held that decides nothing: it is joined once, when something is decided."""
        self._blank = False
        """Whether what is held, behind the mark of a call, is white space alone: more of it decides nothing."""
        self._last = ""
        """The end of those pieces, as far as the beginning of a call's end could stand in it."""
        self._before = "\n"
        """The end of what was said, as far as a fence or a backtick could stand in it."""
        self._space = ""
        """Line breaks before the mark of the call that is being read."""
        self._mark = ""
        self._later = ""
        """Text that has come and is not held yet, from `_taken` on."""
        self._taken = 0
        self._failures = 0
        self._named = False
        """Whether what follows the mark is known to be no other name than that of an offered tool."""
        self._searched = 0
        self._endings = 0
        self._in_vain = 0
        """Characters that were read as a call and were none."""
        self._weary = False
        """Whether there were so many that no other call is looked for."""
        self._fence_run = False
        """Whether more of the characters that opened the fence may follow."""
        self._fence_line = False
        """Whether the line that opened the fence goes on."""
        self._count = 0

    def feed(self, text: str) -> list[Delta]:
        """Return what is certain."""
        if self._state == "text" and not self._held and not self._spark.search(text):
            self._before = (self._before + text)[-_FENCE_BEHIND:]
            return [Text(text)]
        if self._state == "over":
            return [Text(text)]
        deltas: list[Delta] = []
        self._later, self._taken = text, 0
        self._read_on(deltas)
        return deltas

    def finish(self, *, cut: bool = False) -> list[Delta]:
        """Return what was held back. `cut`: the answer did not end by itself, so a call without its end is none."""
        deltas: list[Delta] = []
        self._join("")
        while self._step(deltas, final=True, cut=cut) or self._later:
            self._read_on(deltas)
            self._join("")
        if self._held and self._state != "after":
            self._say(len(self._held), deltas)
        self._held, self._blank = "", False
        if self._state not in ("start", "fence", "over"):
            self._state = "text"
        return deltas

    def _read_on(self, deltas: list[Delta]) -> None:
        """Read what is there, a piece at a time: a step costs as much as the text that it looks at."""
        while self._taken < len(self._later):
            piece = self._later[self._taken : self._taken + _PIECE]
            self._taken += _PIECE
            if self._decides_nothing(piece):
                self._pieces.append(piece)
                continue
            self._join(piece)
            while self._step(deltas, final=False, cut=False):
                pass
            rest = self._held if self._state != "call" else "" if self._named else self._held[len(self._mark) :]
            self._blank = rest.isspace()
        self._later, self._taken = "", 0

    def _decides_nothing(self, piece: str) -> bool:
        """Whether nothing more is known with this piece of text than without it."""
        if self._blank:
            return piece.isspace()
        if self._state == "bare":
            return len(self._held) >= _BEGINNING
        if self._state != "call" or not self._named:
            return False
        ending = self._marks[self._mark].ending
        if not ending:
            return True
        said = (self._last if self._pieces else self._held[1 - len(ending) :]) + piece
        self._last = said[1 - len(ending) :]
        return ending not in said

    def _join(self, piece: str) -> None:
        self._held = "".join((self._held, *self._pieces, piece))
        self._pieces.clear()

    def _step(self, deltas: list[Delta], *, final: bool, cut: bool) -> bool:
        """Decide one thing more; return whether there may be another."""
        if not self._held:
            return False
        if self._state == "start":
            return self._begin()
        if self._state == "bare":
            return self._read_bare(deltas, final=final, cut=cut)
        if self._state == "call":
            return self._read_call(deltas, final=final, cut=cut)
        if self._state == "fence":
            return self._leave_fence(deltas)
        if self._state == "after":
            return self._go_on(final=final)
        if self._state == "over":
            self._say(len(self._held), deltas)
            return False
        return self._find_mark(deltas, final=final)

    def _begin(self) -> bool:
        if self._held.isspace():
            return False
        bare = "bare_json" in self._conventions or "bare_python" in self._conventions
        self._state = "bare" if bare and self._held.lstrip()[0] in "{[" else "text"
        return True

    def _read_bare(self, deltas: list[Delta], *, final: bool, cut: bool) -> bool:
        if may_be_bare(self._held[:_BEGINNING], self._conventions, self._offered):
            if not final:
                return False
            found = None if cut else read_bare(self._held, self._conventions, self._offered)
            if found is not None:
                self._say_calls(*found, deltas)
                self._held = ""
                return False
        self._state = "text"
        self._read_again()
        return False

    def _find_mark(self, deltas: list[Delta], *, final: bool) -> bool:
        said = self._before + self._held
        offset = len(self._before)
        mark = self._pattern.search(said, offset) if self._pattern else None
        fence = next((match for match in _FENCE.finditer(said) if match.end() > offset), None)
        if mark is not None and (fence is None or mark.start() <= fence.end() - len("```")):
            self._open_call(mark, offset, deltas)
            return True
        if not final and (kept := self._may_begin_at(said, offset)) < len(said):
            if fence is None or kept < fence.end():
                self._say(_end_before_gap(said, kept) - offset, deltas)
                return False
        elif not final and fence is None:
            self._say(_end_before_gap(said, len(said)) - offset, deltas)
            return False
        if fence is None:
            return False
        self._say(fence.end() - offset, deltas)
        self._open_fence()
        return True

    def _read_again(self) -> None:
        """Take what is held for text that has only come."""
        self._later, self._taken = self._held + self._later[self._taken :], 0
        self._held = ""

    def _open_fence(self) -> None:
        self._state, self._fence_run, self._fence_line = "fence", True, True

    def _open_call(self, match: re.Match[str], offset: int, deltas: list[Delta]) -> None:
        free = match.string[offset : match.start()]
        end = _end_before_gap(free, len(free))
        self._space = free[end:]
        self._say(end, deltas)
        self._held = self._held[len(self._space) :]
        self._mark = match.group()
        self._state, self._searched, self._endings = "call", len(self._mark), 0
        self._named = not self._marks[self._mark].names

    def _may_begin_at(self, said: str, offset: int) -> int:
        """Return where the longest ending of the text begins that may still become a mark; its length: nowhere."""
        for start in range(max(offset, len(said) - self._longest + 1), len(said)):
            if said[start] in self._firsts and (start == 0 or said[start - 1] != "`"):
                tail = said[start:]
                if any(mark.startswith(tail) for mark in self._marks):
                    return start
        return len(said)

    def _read_call(self, deltas: list[Delta], *, final: bool, cut: bool) -> bool:
        mark = self._marks[self._mark]
        if not self._named and not self._may_be_named():
            return self._release(deltas)
        while mark.ending and (found := self._held.find(mark.ending, self._searched)) >= 0:
            self._searched = found + len(mark.ending)
            if self._take(mark, self._held[: self._searched], deltas):
                return True
            self._endings += 1
            if self._endings >= _MOST_ENDINGS or self._weary:
                return self._release(deltas)
        self._searched = max(self._searched, len(self._held) - len(mark.ending) + 1)
        if not final:
            return False
        return (not cut and self._take(mark, self._held, deltas)) or self._release(deltas)

    def _may_be_named(self) -> bool:
        """Whether what follows the mark is a bracket, or may be the name of an offered tool."""
        rest = self._held[len(self._mark) :].lstrip()
        word = _WORD.match(rest)
        name = word.group() if word else ""
        if len(name) == len(rest):
            return len(name) <= _LONGEST_NAME
        self._named = rest[0] in '{[<"' or (
            bool(name) and any(map(self._offered.match, (name, name.removesuffix(".call"))))
        )
        return self._named

    def _take(self, mark: Mark, text: str, deltas: list[Delta]) -> bool:
        """Say the calls that a text from a mark to an ending is, if it is that."""
        for convention, read in mark.readers:
            if calls := read(text, self._offered):
                self._say_calls(convention, calls, deltas)
                self._held = self._held[len(text) :]
                self._state = "after"
                return True
        self._in_vain += len(text)
        self._weary = self._in_vain > _MOST_IN_VAIN + _TIMES_IN_VAIN * len(text)
        return False

    def _release(self, deltas: list[Delta]) -> bool:
        """Pass a mark that began no call as text, and look on behind it."""
        self._held = self._space + self._held
        self._say(len(self._space) + len(self._mark), deltas)
        self._read_again()
        self._failures += 1
        self._state = "over" if self._weary or self._failures >= _MOST_FAILURES else "text"
        if self._mark.startswith("```") and self._state == "text":
            self._open_fence()
        return False

    def _leave_fence(self, deltas: list[Delta]) -> bool:
        if self._fence_run:
            self._say(len(self._held) - len(self._held.lstrip("`~")), deltas)
            self._fence_run = not self._held
            return bool(self._held)
        if self._fence_line:
            return self._leave_fence_line(deltas)
        said, offset = self._before + self._held, len(self._before)
        fence = next((match for match in _FENCE.finditer(said) if match.end() > offset), None)
        self._say(fence.end() - offset if fence else len(self._held), deltas)
        if fence is not None:
            self._state = "text"
        return fence is not None

    def _leave_fence_line(self, deltas: list[Delta]) -> bool:
        """Go on to the lines inside; a line that holds its own end was no fence but code."""
        line, line_break, _ = self._held.partition("\n")
        end = line.find("```")
        if end < 0 and not line_break:
            self._say(len(line.rstrip("`")), deltas)
            return False
        self._fence_line = False
        self._say(end + len("```") if end >= 0 else len(line) + 1, deltas)
        self._state = "text" if end >= 0 else "fence"
        return True

    def _go_on(self, *, final: bool) -> bool:
        """Leave out white space after a call, and the end of a tag that had no beginning."""
        self._held = self._held.lstrip()
        for stray in self._strays:
            if self._held.startswith(stray):
                self._held = self._held[len(stray) :]
                return True
            if not final and stray.startswith(self._held):
                return False
        if self._held:
            self._state = "text"
            self._before = "\n"
        return bool(self._held)

    def _say(self, size: int, deltas: list[Delta]) -> None:
        if size > 0:
            text, self._held = self._held[:size], self._held[size:]
            self._before = (self._before + text)[-_FENCE_BEHIND:]
            deltas.append(Text(text))

    def _say_calls(self, convention: str, calls: Sequence[FoundCall], deltas: list[Delta]) -> None:
        for call in calls:
            key = f"text {self._count}"
            self._count += 1
            deltas += [ToolCall(key, self._new_id("toolu_px"), call.name), ToolArgs(key, call.arguments), ToolEnd(key)]
            why = f"a call of {call.name} that the model wrote as text ({convention}) became a block"
            self.notes.append(Note("emulated", "content.tool_use", why))


def _end_before_gap(text: str, end: int) -> int:
    """Return where the white space from the first line break on begins with which `text[:end]` ends; else `end`."""
    line_break = _LINE_BREAK.search(text, len(text[:end].rstrip()), end)
    return line_break.start() if line_break else end
