"""Reasoning that a server leaves in the text, between tags."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from anthropic_proxy.messages.deltas import Delta, Text, Thinking

ThinkingTags = Literal["think", "thinking", "thought", "brackets", "triangles", "seed", "channel", "unopened"]
"""Names of forms: see `_FORMS`.

`unopened` is `think` whose first tag stands in the prompt: the reasoning begins with the answer and only `</think>`
tells its end (the chat templates of DeepSeek R1, QwQ and Qwen's thinking models).
"""
TAGS: tuple[ThinkingTags, ...] = tuple(name for name in get_args(ThinkingTags) if name != "unopened")
"""The forms that show where they begin, so that no answer is taken for reasoning."""


class _Form(NamedTuple):
    opening: str
    closing: str
    then: str = ""
    """What may follow and means nothing."""


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


class ThinkTags:
    """Lifts reasoning in tags at the very start of the text; everything else stays text."""

    def __init__(self, forms: Sequence[ThinkingTags]) -> None:
        self._forms = [_FORMS[name] for name in forms if name != "unopened"]
        self._unopened = "unopened" in forms
        self._form = _FORMS["think"]
        self._then = ""
        """What may follow and means nothing."""
        self._held = ""
        self._gap: list[str] = []
        """White space before what is held, that nobody knows yet what it is: joined once."""
        self._state = "start"  # then thinking, after, text
        self._said = False
        """Whether any of the reasoning was given."""
        self._doubtful: list[str] = []
        """Reasoning that no tag began: the answer itself, where no tag ends it."""

    @property
    def done(self) -> bool:
        """Whether all that comes from here on is text."""
        return self._state == "text"

    def feed(self, text: str) -> list[Delta]:
        """Return what is certain; the beginning of a tag is held back until it is."""
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
        """Return what was held back. `whole`: the answer has ended by itself, and there is nothing else in it.

        Then reasoning that no tag began or ended was the answer, and is said as text too.
        """
        deltas: list[Delta] = []
        if self._state == "after":
            self._leave(final=True)
        held, self._held = self._held, ""
        if self._state == "thinking":
            self._say(held, deltas)
            if whole and self._doubtful:
                deltas.append(Text("".join(self._doubtful)))
            self._doubtful = []
        elif held := self._take_gap() + held:
            deltas.append(Text(held))
        if self._state != "start":
            self._state = "text"
        return deltas

    def expect_tags(self) -> None:
        """Learn that reasoning comes in a field of its own: what no tag begins is the answer."""
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
            self._held = self._take_gap() + self._held
        elif start:
            self._form, self._state = _FORMS["think"], "thinking"
            self._doubtful = [""]

    def _think(self, deltas: list[Delta]) -> None:
        closing = self._form.closing
        end = self._held.find(closing)
        if end >= 0:
            self._say(self._held[:end], deltas)
            self._held = self._held[end + len(closing) :]
            self._state, self._doubtful = "after", []
            self._then = self._form.then
        else:
            kept = next((size for size in range(len(closing) - 1, 0, -1) if self._held.endswith(closing[:size])), 0)
            cut = len(self._held) - kept
            thought, self._held = self._held[:cut], self._held[cut:]
            if not self._said and not thought.strip():
                self._gap.append(thought)  # reasoning that is nothing but line breaks is none
            else:
                self._say(thought, deltas)

    def _take_gap(self) -> str:
        gap = "".join(self._gap)
        self._gap.clear()
        return gap

    def _say(self, thought: str, deltas: list[Delta]) -> None:
        thought = self._take_gap() + thought
        if self._doubtful:
            self._doubtful.append(thought)
        if thought and (self._said or thought.strip()):
            self._said = True
            deltas.append(Thinking(thought))

    def _leave(self, *, final: bool) -> None:
        """Leave out what follows the reasoning and is no answer yet."""
        self._held = self._held.lstrip("\r\n")
        then = self._then
        if then and self._held.startswith(then):
            self._held = self._held[len(then) :].lstrip("\r\n")
            self._then = ""
        elif then and self._held and then.startswith(self._held) and not final:
            return
        if self._held:
            self._state = "text"
