"""Extraction of reasoning between tags (`<think>…</think>`) from the start of a reply's text.

Some servers do not separate reasoning from the reply. Some models write only the end tag of their reasoning. This form
is called `unopened`. If it is enabled, all text before the end tag is reasoning. If it is not known whether a model has
this form, only its complete reply shows it (`has_unopened_reasoning`).
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice, repeat
from typing import Literal, NamedTuple, get_args

from anthropic_proxy.engine.messages.deltas import Delta, Text, Thinking
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.tool_call_repair.quoting import begins_alone, find_line, find_open_fence

ThinkingTags = Literal[
    "think",
    "thinking",
    "thought",
    "brackets",
    "triangles",
    "seed",
    "minimax",
    "channel",
    "thought_channel",
    "xtml",
    "unopened",
    "unopened_alone",
]
"""Names of tag pairs; `_FORMS` has the tags. `unopened`: the prompt ends with `<think>`, so the reply starts with
reasoning and has only `</think>` (chat templates of DeepSeek R1, QwQ, MiniMax M2 and Qwen's thinking models), or the
end tag that the model takes for it. `unopened_alone`: the same for a model of which only an earlier reply has shown it,
so that the end tag must stand by itself (`has_unopened_reasoning`)."""
_UNOPENED_NAMES = ("unopened", "unopened_alone")
OPENED_THINKING_TAGS: tuple[ThinkingTags, ...] = tuple(
    name for name in get_args(ThinkingTags) if name not in _UNOPENED_NAMES
)
"""All tag pairs except those without a start tag. With these pairs, a reply without tags is reply text."""


class _Form(NamedTuple):
    """Texts around reasoning in a reply: start tag and end tag."""

    opening: str
    closing: str
    other_closings: tuple[str, ...] = ()
    """End tags of other pairs with which models end reasoning too, unless a quotation mark stands before them."""
    then: str = ""
    """Text directly after the end tag that belongs to the format and is dropped. "": none."""


_FORMS: dict[str, _Form] = {
    "think": _Form("<think>", "</think>", ("</thinking>", "</thought>", "</mm:think>")),
    "thinking": _Form("<thinking>", "</thinking>", ("</think>", "</thought>")),
    "thought": _Form("<thought>", "</thought>", ("</think>", "</thinking>")),
    "brackets": _Form("[THINK]", "[/THINK]"),
    "triangles": _Form("◁think▷", "◁/think▷"),
    "seed": _Form("<seed:think>", "</seed:think>"),
    "minimax": _Form("<mm:think>", "</mm:think>", ("</think>",)),
    "channel": _Form("<|channel|>analysis<|message|>", "<|end|>", then="<|start|>assistant<|channel|>final<|message|>"),
    "thought_channel": _Form("<|channel>thought", "<channel|>"),
    "xtml": _Form("<|open|>think<|sep|>", "<|close|>think<|sep|>", then="<|open|>response<|sep|>"),
}
"""Name of a tag pair → its tags. `brackets`: Magistral; `triangles`: Kimi's vision models and early K2 Thinking;
`seed`: Seed-OSS; `minimax`: MiniMax M3 (GoModel pull 1041); `channel`: gpt-oss; `thought_channel`: Gemma 4;
`xtml`: Kimi K3. Sources: the models' chat templates, SGLang's "Reasoning Parser" and vLLM's `reasoning` modules, read
2026-11."""

_UNOPENED = _Form("", "</think>", ("</thinking>", "</thought>", "</mm:think>", "<channel|>"))
_BARE_ENDS = [_Form(tag, "") for tag in (_UNOPENED.closing, *_UNOPENED.other_closings)]
"""End tags that models write in front of a reply without any reasoning (GoModel pull 1041)."""
_QUOTES = frozenset("`'\"")
_MAX_BLANKS = 1_000
"""Maximum number of blanks behind an end tag that may be a line of its own. More of them are text."""
_MAX_EXAMINED = 512 * 1024
"""Maximum number of characters of a complete reply that are searched for an end tag alone, which takes a few
milliseconds."""
_PLAIN_TAGS = compile_later(r"</?(?:(?:mm:)?think|thinking|thought)>")
_END_OF_LINE = compile_anchored(r"[^\S\r\n]*(?:[\r\n]|\Z)")
_GLUED = compile_anchored(r"[\w<*#]")
"""Beginning of a reply directly behind an end tag."""


def has_unopened_reasoning(text: str) -> bool:
    """Return True if a complete text begins with reasoning that has an end tag and no start tag.

    The tag is the only one of the text, and no code fence is open before it. It stands by itself: on its own line,
    directly behind a word at the end of a line, or directly between the end of a sentence and a word.
    """
    if len(text) > _MAX_EXAMINED or "</" not in text:
        return False
    tags = list(islice(_PLAIN_TAGS.finditer(text), 2))
    if len(tags) != 1 or not tags[0].group().startswith("</"):
        return False
    start, end = tags[0].span()
    before = "\n" + text[:start]
    line = before[find_line(before) - 1 :]
    if _END_OF_LINE.match(text, end):
        stands_alone = begins_alone(line) or before[-1].isalnum()
    else:
        stands_alone = _GLUED.match(text, end) is not None and not before[-1].isspace() and begins_alone(line)
    return stands_alone and find_open_fence(before) is None


def join_examined(pieces: Sequence[str]) -> str:
    """Return the text of a complete reply for `has_unopened_reasoning`. "": it is too long."""
    is_short = len(pieces) <= _MAX_EXAMINED and sum(map(len, pieces)) <= _MAX_EXAMINED
    return "".join(pieces) if is_short else ""


@cache
def _find_forms(names: tuple[ThinkingTags, ...]) -> tuple[Mapping[str, _Form], bool, bool]:
    """Return the tag pairs that the settings name, each by its start tag, whether reasoning may have no start tag, and
    whether its end tag then must stand by itself.
    """
    forms = [_FORMS[name] for name in names if name not in _UNOPENED_NAMES]
    forms += _BARE_ENDS if forms else []
    is_unopened = any(name in _UNOPENED_NAMES for name in names)
    return {form.opening: form for form in forms}, is_unopened, "unopened" not in names


class ThinkingTagParser:
    """Converts reasoning in tags at the start of a reply into `Thinking` deltas. All other text becomes `Text`. An end
    tag that is the first line of a reply is dropped.

    Call `feed` for each text fragment, then `finish`.
    """

    def __init__(self, forms: Sequence[ThinkingTags]) -> None:
        self._forms, self._unopened, self._must_stand_alone = _find_forms(tuple(forms))
        self._form = _FORMS["think"]
        self._then = ""
        """Text to drop after the end tag of the tag pair that was found."""
        self._held = ""
        """Buffered text that may be the start of a tag."""
        self._previous = ""
        """Last character of the reasoning before `_held`."""
        self._gap: list[str] = []
        """White space before `_held` that may belong to the reasoning or to the reply text."""
        self._state = "start"  # then thinking, after, text
        self._emitted = False
        """True if reasoning was emitted as a `Thinking` delta."""
        self._doubtful: list[str] = []
        """Reasoning without a start tag that was returned. If no end tag follows, this text is the reply and is
        returned again."""
        self.has_unopened_form: bool | None = None
        """True after reasoning without a start tag. False: the form was expected, but the text has no end tag. None:
        the text does not show it."""

    @property
    def reached_reply_text(self) -> bool:
        """True if no more reasoning can follow, so that all further text is reply text."""
        return self._state == "text"

    def feed(self, text: str) -> list[Delta]:
        """Add a fragment of reply text and return its `Thinking` and `Text` deltas.

        Text that may be part of a tag is buffered until a later `feed` or `finish`.
        """
        if self._state == "text":
            return [Text(text)]
        deltas: list[Delta] = []
        if self._state == "start" and not self._held and text.isspace():
            self._gap.append(text)
            return deltas
        self._held += text
        if self._state == "start":
            self._begin()
        if self._state == "thinking" and not self._end_reasoning(deltas, final=False):
            cut = len(self._held) - self._find_partial_end()
            self._previous = self._held[cut - 1 : cut] or self._previous
            thought, self._held = self._held[:cut], self._held[cut:]
            if not self._emitted and not thought.strip():
                self._gap.append(thought)  # reasoning of white space only is dropped
            else:
                self._emit(thought, deltas)
        if self._state == "after":
            self._leave(final=False)
        if self._state == "text" and self._held:
            deltas.append(Text(self._held))
            self._held = ""
        return deltas

    def finish(self, *, is_text_reply: bool = False) -> list[Delta]:
        """Return the buffered text as deltas at the end of the text.

        `is_text_reply` is True if the reply ended normally and contained only text. Text that was returned as
        reasoning, although it had neither a start tag nor an end tag, is then returned again as `Text`.
        """
        deltas: list[Delta] = []
        if self._state == "thinking" and self._held:
            self._end_reasoning(deltas, final=True)
        if self._state == "after":
            self._leave(final=True)
        held, self._held = self._held, ""
        if self._state == "thinking":
            self._emit(held, deltas)
            if self._doubtful:
                self.has_unopened_form = False
                if is_text_reply:
                    deltas.append(Text("".join(self._doubtful)))
            self._doubtful = []
        elif held := self._pop_gap() + held:
            deltas.append(Text(held))
        if self._state != "start":
            self._state = "text"
        return deltas

    def enable_unopened_form(self) -> None:
        """Treat text before an end tag as reasoning, if no start tag comes before the text."""
        self._unopened = True

    def disable_unopened_form(self) -> None:
        """Treat text before an end tag as reply text, not as reasoning, if no start tag comes before the text.

        Call this if the provider sends reasoning in a separate field.
        """
        self._unopened = False

    def _begin(self) -> None:
        start = self._held.lstrip()
        openings = (*self._forms,)
        if start.startswith(openings):
            form = next(form for opening, form in self._forms.items() if start.startswith(opening))
            rest = start[len(form.opening) :]
            if form.closing:
                self._form, self._state, self._held = form, "thinking", rest
                self._gap.clear()
                return
            blanks, rest = len(rest), rest.lstrip(" \t")
            if rest[:1] in ("\r", "\n") and not self._unopened:
                self._state, self._held = "after", rest
                self._gap.clear()
                return
            if not rest and blanks <= _MAX_BLANKS:  # the end tag may be a line of its own
                return
        elif any(map(str.startswith, openings, repeat(start))):
            return
        if not self._unopened:
            self._state = "text"
            self._held = self._pop_gap() + self._held
        elif start:
            self._form = _UNOPENED
            self._state = "thinking"
            self._doubtful = [""]

    def _end_reasoning(self, deltas: list[Delta], *, final: bool) -> bool:
        """Append the reasoning before the first end tag in the buffered text. Return False if there is none.

        `final`: no further text follows.
        """
        form, found = self._form, []
        for closing in (form.closing, *form.other_closings):
            end = self._held.find(closing)
            while end >= 0 and self._is_quoted(closing, end, final=final):
                end = self._held.find(closing, end + 1)
            if end >= 0:
                found.append((end, closing))
        if not found:
            return False
        end, closing = min(found)
        if self._doubtful and self._must_stand_alone:
            rest = self._held[end + len(closing) :]
            line = len(rest) - len(rest.lstrip(" \t")) + 1
            if len(rest) < line <= _MAX_BLANKS and not final:
                return False
            if not has_unopened_reasoning("".join((*self._doubtful, self._held[:end], closing, rest[:line]))):
                deltas.append(Text("".join(self._doubtful)))
                self._doubtful, self.has_unopened_form, self._state = [], False, "text"
                return True
        self._emit(self._held[:end], deltas)
        self._held = self._held[end + len(closing) :]
        self._state, self._then = "after", form.then
        if self._doubtful:
            self._doubtful = []
            self.has_unopened_form = True
        return True

    def _is_quoted(self, closing: str, end: int, *, final: bool) -> bool:
        """Return True if quotation marks enclose an end tag. For one of another pair, a mark before it is enough."""
        quote = self._held[end - 1] if end else self._previous
        if quote not in _QUOTES or closing != self._form.closing:
            return quote in _QUOTES
        following = end + len(closing)
        return self._held[following : following + 1] == quote or (following == len(self._held) and not final)

    def _find_partial_end(self) -> int:
        """Return the length of an end tag that is incomplete, or may be quoted, at the end of the buffered text. 0:
        there is none.
        """
        tags = (self._form.closing, *self._form.other_closings)
        if self._doubtful and self._must_stand_alone:  # one that waits for the rest of its line
            places = [place for place in map(self._held.find, tags) if place >= 0]
            if places:
                return len(self._held) - min(places)
        longest = max(map(len, tags))
        start = self._held.find(tags[0][0], max(0, len(self._held) - longest))
        while start >= 0 and not any(tag.startswith(self._held[start:]) for tag in tags):
            start = self._held.find(tags[0][0], start + 1)
        return len(self._held) - start if start >= 0 else 0

    def _pop_gap(self) -> str:
        gap = "".join(self._gap)
        self._gap.clear()
        return gap

    def _emit(self, thought: str, deltas: list[Delta]) -> None:
        thought = self._pop_gap() + thought
        if self._doubtful:
            self._doubtful.append(thought)
        if thought and (self._emitted or thought.strip()):
            self._emitted = True
            deltas.append(Thinking(thought))

    def _leave(self, *, final: bool) -> None:
        """Drop line breaks and separator text after the reasoning. `final`: no further text follows."""
        self._held = self._held.lstrip("\r\n")
        then = self._then
        if then and self._held.startswith(then):
            self._held = self._held[len(then) :].lstrip("\r\n")
            self._then = ""
        elif then and self._held and then.startswith(self._held) and not final:
            return
        if self._held:
            self._state = "text"
