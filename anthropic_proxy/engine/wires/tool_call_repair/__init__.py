"""Recovery of tool calls and reasoning that a server sends as reply text, and repair of tool names and arguments.

Theory of operation: open models write calls and reasoning as text with markers, which some servers do not parse. The
text of a reply passes through `TextSplitter`: first `ThinkingTagParser`, until no more reasoning can follow, then
`TextCallDetector`. Both buffer only text that may still become reasoning or a call; all other text leaves at once. A
text is a call only if it stands outside of code and sentences, names an offered tool (`OfferedTools`) and has readable
arguments. Everything else stays text, because a wrong call is worse than a missed one.

`ToolCallRepair` corrects the names and arguments of calls, wherever they came from. It accepts only a repair with one
possible meaning. The limits of each step keep the work proportional to the text. `README.md` has one example of each
text format.
"""

from collections.abc import Sequence
from functools import cached_property

from anthropic_proxy.engine.messages.deltas import Delta, Text, Thinking
from anthropic_proxy.engine.messages.fidelity import TOOL_CALL_FIELDS, FidelityNote
from anthropic_proxy.engine.messages.models.tool_arguments import means_no_arguments
from anthropic_proxy.engine.messages.preparation.tools import valid_name
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.tool_call_repair.calls import (
    MAX_REPAIRED_CHARACTERS,
    MAX_REPAIRED_ON_LOOP,
    UNNAMED_TOOL,
    OfferedTools,
    is_json_object,
    repair_arguments,
)
from anthropic_proxy.engine.wires.tool_call_repair.doubled_calls import DoubledCalls
from anthropic_proxy.engine.wires.tool_call_repair.formats import TOOL_CALL_FORMATS, ToolCallFormat
from anthropic_proxy.engine.wires.tool_call_repair.text_calls import TextCallDetector
from anthropic_proxy.engine.wires.tool_call_repair.thinking_tags import (
    OPENED_THINKING_TAGS,
    ThinkingTagParser,
    ThinkingTags,
    has_unopened_reasoning,
    join_examined,
)

__all__ = [
    "MAX_REPAIRED_ON_LOOP",
    "OPENED_THINKING_TAGS",
    "TOOL_CALL_FORMATS",
    "UNNAMED_TOOL",
    "DoubledCalls",
    "OfferedTools",
    "TextCallDetector",
    "TextSplitter",
    "ThinkingTagParser",
    "ThinkingTags",
    "ToolCallFormat",
    "ToolCallRepair",
    "is_json_object",
    "read_unopened_reasoning",
    "repair_arguments",
]


_NAME, _INPUT = TOOL_CALL_FIELDS
_MAX_REPAIRED_OF_REPLY = 2 * MAX_REPAIRED_CHARACTERS
"""Maximum length of all arguments of a reply that are repaired."""


class ToolCallRepair:
    """Repairs the tool calls of one reply, and adds a note for each repair.

    A name or arguments with more than one possible meaning stay unchanged.
    """

    def __init__(self, call: TranslatedCall[BaseDialect], *, names: bool) -> None:
        """`names`: True to repair all names, False only those that the Messages API does not allow."""
        self.notes: list[FidelityNote] = []
        """Notes on repairs, and on invalid arguments that could not be repaired."""
        self._call = call
        self._aliases = call.client_tool_names
        self._repairs_names = names
        self._repaired_characters = 0

    @cached_property
    def _offered(self) -> OfferedTools:
        return OfferedTools(self._call)

    def repair_name(self, name: str) -> str:
        """Return the client's tool name for a tool name in the provider's reply.

        A name with no certain meaning is returned unchanged, or as an alias if the Messages API does not allow it: a
        later request with it in the history would be rejected.
        """
        client_name = self._aliases.get(name, name)
        allowed_name = client_name if client_name != name else _replace_invalid(name)
        if client_name == allowed_name and not self._repairs_names:
            return client_name
        found = self._offered.find_tool_name(name)
        if found is None and client_name == allowed_name:
            return client_name
        if found is None:
            self._note_name(name, "no tool can have this name, so the client gets another one")
            return allowed_name
        if found != client_name:
            self._note_name(name, f"the offered tool is {found}")
        return found

    def find_name_by_arguments(self, arguments: str) -> str | None:
        """Return the client's name of the tool for a call without a name, if exactly one tool fits the arguments.

        If no tool or several tools fit, the result is `unnamed_tool`. None: names are not repaired, or no tool is
        offered.
        """
        if not (self._repairs_names and self._offered):
            return None
        whole = arguments if is_json_object(arguments) else self._mend(arguments) or arguments
        found = self._offered.find_tool_name_by_arguments(whole) or UNNAMED_TOOL
        self.notes.append(FidelityNote("approximated", _NAME, f"a call had no name: {found}"))
        return found

    def repair_arguments(self, arguments: str, name: str) -> str:
        """Return the arguments of a call as the JSON text of one object.

        Empty or ambiguous arguments are returned unchanged.
        """
        if means_no_arguments(arguments) or is_json_object(arguments):
            return arguments
        mended = self._mend(arguments)
        verb, fate = ("are", "delivered unchanged") if mended is None else ("were", "repaired")
        fate = f"{verb} not a JSON object and were {fate}"
        self.notes.append(
            FidelityNote("approximated", _INPUT, f"the arguments of a call of {self._describe(name)} {fate}")
        )
        return arguments if mended is None else mended

    def _mend(self, arguments: str) -> str | None:
        """Return repaired arguments. None: they cannot be repaired, or those of this reply take too long together."""
        if len(arguments) <= MAX_REPAIRED_CHARACTERS:
            self._repaired_characters += len(arguments)
        return None if self._repaired_characters > _MAX_REPAIRED_OF_REPLY else repair_arguments(arguments)

    def _note_name(self, name: str, meaning: str) -> None:
        shown = f"'{name}'" if _SHOWN.fullmatch(name) else self._describe(name)
        self.notes.append(FidelityNote("approximated", _NAME, f"{shown} was called; {meaning}"))

    def _describe(self, name: str) -> str:
        """Return the name of an offered tool. Others may have words of the reply, which notes must not store."""
        is_offered = any(tool.name == name for tool in self._call.request.tools)
        return name if is_offered else f"a name of {len(name)} characters"


def _replace_invalid(name: str) -> str:
    """Return a name that the Messages API allows, without the words of one that no tool has: names are stored."""
    allowed = valid_name(name)
    is_shown = allowed == name or _SHOWN.fullmatch(name)
    return allowed if is_shown else f"unknown_tool_{allowed[-8:]}"  # the hash of the name


_SHOWN = compile_anchored(r"[a-zA-Z0-9_.:-]{1,64}")
"""Names that a note about them shows: those of tools, perhaps with a namespace or a number."""


_MAX_REASONING = 256 * 1024
"""Number of characters of reasoning that are kept for the search for calls at its end."""
_WHOLE_ANSWERS = ("bare_json", "bare_python")
"""Formats of tool calls without markers. A reply in such a format contains nothing else."""


def read_unopened_reasoning(tags: tuple[ThinkingTags, ...]) -> tuple[ThinkingTags, ...]:
    """Return the tag pairs of a model whose replies have shown reasoning without a start tag.

    What else is known about the model stays: tags that are not the usual ones come from facts or settings.
    """
    return (*tags, "unopened_alone") if tags == OPENED_THINKING_TAGS else tags


class TextSplitter:
    """Splits the streamed text of one reply into deltas: reasoning at the start, then text and tool calls."""

    def __init__(
        self, call: TranslatedCall[BaseDialect], tags: Sequence[ThinkingTags], formats: Sequence[ToolCallFormat]
    ) -> None:
        if call.request.output_schema:  # the client requested JSON, so JSON without markers is no call
            formats = tuple(name for name in formats if name not in _WHOLE_ANSWERS)
        offered = OfferedTools(call) if formats else None
        self._tags = ThinkingTagParser(tags) if tags else None
        self._may_be_unopened = tags == OPENED_THINKING_TAGS
        """True if it is not known whether the model writes the start tag of its reasoning."""
        self._has_unopened: bool | None = None
        """`ThinkingTagParser.has_unopened_form`."""
        self._calls = TextCallDetector(formats, offered, call.new_id, prefill=call.request.prefill) if offered else None
        self._reasoning: list[str] | None = [] if self._calls else None
        """Reasoning of a reply that has nothing else so far. None: it has, or calls are not searched."""
        self._reasoning_size = 0

    def __bool__(self) -> bool:
        """Return True if thinking tags or tool calls are searched. False: all text is returned unchanged."""
        return self._tags is not None or self._calls is not None

    @property
    def doubled(self) -> DoubledCalls | None:
        """What compares the calls in the text with those of the API. None: calls are not searched."""
        return self._calls.doubled if self._calls is not None else None

    @property
    def notes(self) -> Sequence[FidelityNote]:
        """Fidelity notes on this reply: one for each tool call that was found in the reply text."""
        return self._calls.notes if self._calls is not None else ()

    @property
    def held_characters(self) -> int:
        """Number of characters that may be calls. They are read at once at their end."""
        return self._calls.held_characters if self._calls is not None else 0

    def feed(self, text: str) -> list[Delta]:
        """Return the deltas for one more fragment of reply text.

        Text that may belong to a tag or a tool call is buffered until a later `feed` or `finish`.
        """
        if self._reasoning is not None and self._tags is None and not text.isspace():
            self._reasoning = None
        if self._tags is None:
            return self._calls.feed(text) if self._calls is not None else [Text(text)]
        deltas = self._tags.feed(text)
        if self._tags.reached_reply_text:
            self._has_unopened = self._tags.has_unopened_form
            self._tags = None
        return self._find_calls(deltas)

    def pass_text(self, text: str) -> list[Delta]:
        """Return the deltas for a text without calls and reasoning, such as a refusal, which may quote a call."""
        deltas = [*self.finish(), Text(text)]
        self._note_reply(deltas)
        return deltas

    def make_postponed_calls(self) -> list[Delta]:
        """Return the calls in the text that waited for the end of a call of the API. Call this after that end."""
        return self._calls.make_postponed() if self._calls is not None else []

    def expect_text(self, text: str) -> None:
        """Examine the complete text of a reply before it is fed at once."""
        if self._may_be_unopened and self._tags is not None and has_unopened_reasoning(text):
            self._tags.enable_unopened_form()

    def examine_text(self, pieces: Sequence[str]) -> bool | None:
        """Return `Decoder.has_unopened_reasoning`, after `finish`. `pieces`: the text of the complete reply."""
        if self._has_unopened is None and self._may_be_unopened and has_unopened_reasoning(join_examined(pieces)):
            return True
        return self._has_unopened

    def finish(self, *, reply_ended_early: bool = False, is_text_reply: bool = False) -> list[Delta]:
        """Return the buffered text as deltas. Call this before another block and at the end of the reply.

        `is_text_reply`: True if the reply ended normally with text only. Text that was returned as reasoning, although
        it had neither a start tag nor an end tag, is then returned again as `Text`. `reply_ended_early`: True to return
        unfinished tool calls as text.
        """
        deltas: list[Delta] = []
        if self._tags is not None:
            deltas = self._find_calls(self._tags.finish(is_text_reply=is_text_reply))
            self._has_unopened = self._tags.has_unopened_form
        if self._calls is None:
            return deltas
        deltas += self._calls.finish(reply_ended_early=reply_ended_early)
        self._note_reply(deltas)
        if is_text_reply:
            deltas += self._find_calls_in_reasoning()
        return deltas

    def note_separate_reasoning(self, text: str) -> None:
        """Record that the provider sends reasoning in a separate field.

        Text before an end tag such as `</think>` is then reply text, unless a start tag comes before the text.
        """
        self._may_be_unopened = False
        if self._tags is not None:
            self._tags.disable_unopened_form()
        self._note_reasoning(text)

    def _note_reasoning(self, text: str) -> None:
        if self._reasoning is not None:
            self._reasoning.append(text)
            self._reasoning_size += len(text)
            if self._reasoning_size > _MAX_REASONING:
                self._reasoning = None

    def _note_reply(self, deltas: Sequence[Delta]) -> None:
        if any(not isinstance(delta, Text) or not delta.text.isspace() for delta in deltas):
            self._reasoning = None

    def _find_calls_in_reasoning(self) -> list[Delta]:
        """Return the calls at the end of the reasoning, if the reply has nothing else: the model meant to call."""
        reasoning, self._reasoning = self._reasoning, None
        if not reasoning or self._calls is None:
            return []
        detector = self._calls.begin_again()
        deltas = detector.feed("".join(reasoning)) + detector.finish()
        last_text = max((place for place, delta in enumerate(deltas) if isinstance(delta, Text)), default=-1)
        calls: list[Delta] = [delta for delta in deltas if not isinstance(delta, Text)]
        if not calls or len(calls) != len(deltas) - last_text - 1:
            return []  # text follows a call, which may be an example
        self._calls = detector  # has the notes
        return calls

    def _find_calls(self, deltas: list[Delta]) -> list[Delta]:
        if self._calls is None:
            return deltas
        found: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Text):
                if not delta.text.isspace():
                    self._reasoning = None
                found += self._calls.feed(delta.text)
            else:
                if isinstance(delta, Thinking):
                    self._note_reasoning(delta.text)
                found.append(delta)
        return found
