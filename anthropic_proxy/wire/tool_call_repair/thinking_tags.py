"""Reasoning between tags in the text of a reply."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from anthropic_proxy.messages.deltas import Delta, Text, Thinking

ThinkingTags = Literal["think", "thinking", "thought", "brackets", "triangles", "seed", "channel", "unopened"]
"""Names of forms: see `_FORMS`.

`unopened` is `think` with its first tag in the prompt: the reasoning starts the reply and ends at `</think>` (the chat
templates of DeepSeek R1, QwQ and Qwen's thinking models).
"""
TAGS: tuple[ThinkingTags, ...] = tuple(name for name in get_args(ThinkingTags) if name != "unopened")
"""Forms with a start tag. They cannot mistake the reply for reasoning."""


class _Form(NamedTuple):
    opening: str
    closing: str
    then: str = ""
    """Text after the closing tag that is dropped."""


_FORMS: dict[str, _Form] = {
    "think": _Form("<think>", "</think>"),
    "thinking": _Form("<thinking>", "</thinking>"),
    "thought": _Form("<thought>", "</thought>"),
    "brackets": _Form("[THINK]", "[/THINK]"),
    "triangles": _Form("◁think▷", "◁/think▷"),
    "seed": _Form("<seed:think>", "</seed:think>"),
    "channel": _Form("<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant<|channel|>final<|message|>"),
}
"""`brackets`: Magistral; `triangles`: Kimi's vision models and early K2 Thinking; `seed`: Seed-OSS; `channel`: gpt-oss.

Sources: the models' chat templates, SGLang's "Reasoning Parser" and vLLM's `reasoning` modules, read 2026-11.
"""


class ThinkingTagParser:
    """Extracts reasoning in tags at the start of the text; all other text is unchanged."""

    def __init__(self, forms: Sequence[ThinkingTags]) -> None:
        self._forms = [_FORMS[name] for name in forms if name != "unopened"]
        self._unopened = "unopened" in forms
        self._form = _FORMS["think"]
        self._then = ""
        """Text after the closing tag that is dropped."""
        self._held = ""
        self._gap: list[str] = []
        """White space of undecided kind before `_held`, joined once."""
        self._state = "start"  # then thinking, after, text
        self._emitted = False
        """True if reasoning was emitted."""
        self._doubtful: list[str] = []
        """Reasoning without a start tag. It is the reply itself if no end tag follows."""

    @property
    def done(self) -> bool:
        """True if all further text is reply text."""
        return self._state == "text"

    def feed(self, text: str) -> list[Delta]:
        """Return the decided deltas; the beginning of a tag is buffered."""
        if self._state == "text":
            return [Text(text)]
        deltas: list[Delta] = []
        if self._state == "start" and not self._held and text.isspace():
            self._gap.append(text)
            return deltas
        self._held += text
        if self._state == "start":
            self._begin()
        if self._state == "thinking":
            self._think(deltas)
        if self._state == "after":
            self._leave(final=False)
        if self._state == "text" and self._held:
            deltas.append(Text(self._held))
            self._held = ""
        return deltas

    def finish(self, *, whole: bool = False) -> list[Delta]:
        """Return the buffered text. `whole`: the reply ended normally and contained nothing else.

        Reasoning without any tag was then the reply, and is returned as text too.
        """
        deltas: list[Delta] = []
        if self._state == "after":
            self._leave(final=True)
        held, self._held = self._held, ""
        if self._state == "thinking":
            self._emit(held, deltas)
            if whole and self._doubtful:
                deltas.append(Text("".join(self._doubtful)))
            self._doubtful = []
        elif held := self._pop_gap() + held:
            deltas.append(Text(held))
        if self._state != "start":
            self._state = "text"
        return deltas

    def expect_tags(self) -> None:
        """Expect reasoning in a field of its own: text without a start tag is the reply."""
        self._unopened = False

    def _begin(self) -> None:
        start = self._held.lstrip()
        for form in self._forms:
            if start.startswith(form.opening):
                self._form, self._state = form, "thinking"
                self._held = start[len(form.opening) :]
                self._gap.clear()
                return
        if any(form.opening.startswith(start) for form in self._forms):
            return
        if not self._unopened:
            self._state = "text"
            self._held = self._pop_gap() + self._held
        elif start:
            self._form, self._state = _FORMS["think"], "thinking"
            self._doubtful = [""]

    def _think(self, deltas: list[Delta]) -> None:
        closing = self._form.closing
        end = self._held.find(closing)
        if end >= 0:
            self._emit(self._held[:end], deltas)
            self._held = self._held[end + len(closing) :]
            self._state, self._doubtful = "after", []
            self._then = self._form.then
        else:
            kept = next((size for size in range(len(closing) - 1, 0, -1) if self._held.endswith(closing[:size])), 0)
            cut = len(self._held) - kept
            thought, self._held = self._held[:cut], self._held[cut:]
            if not self._emitted and not thought.strip():
                self._gap.append(thought)  # reasoning that is nothing but line breaks is none
            else:
                self._emit(thought, deltas)

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
        """Skip text between the reasoning and the reply."""
        self._held = self._held.lstrip("\r\n")
        then = self._then
        if then and self._held.startswith(then):
            self._held = self._held[len(then) :].lstrip("\r\n")
            self._then = ""
        elif then and self._held and then.startswith(self._held) and not final:
            return
        if self._held:
            self._state = "text"
