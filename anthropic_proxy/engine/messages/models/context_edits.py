"""The request field `context_management`: edits of the conversation that the model receives.

Defaults and limits: platform.claude.com, "Context editing" and "Compaction at a token threshold", read 2026-11, and the
types of the official SDK (anthropic 2.10). That page and the SDK differ in one point: whether `instructions` of
`compact_20260112` replace the default or add to it. The SDK is followed: they add.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import ClassVar, TypeVar, get_args

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.beta_tables import CONTEXT_BETA
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models.raw_json import (
    ABSENT,
    is_json_object,
    is_present,
    validation_error,
    wrong_type_error,
)

_FIELD = "context_management"
_DEFAULT_TRIGGER = ("input_tokens", 100_000)
_DEFAULT_KEPT_USES = 3
_DEFAULT_KEPT_TURNS = 1
_KEEP_ALL_THINKING = (
    *("*opus-4[-.][5-9]*", "*opus-[5-9]*", "*sonnet-4[-.][6-9]*", "*sonnet-[5-9]*", "*fable-*", "*mythos-*"),
)
"""Patterns of models of which `clear_thinking` removes nothing without `keep`. Of others, such as earlier ones and all
Haiku, it leaves the last turn (the same page, "Configuration options for thinking block clearing", read 2026-11-29)."""
_DEFAULT_COMPACTION_TOKENS, _MIN_COMPACTION_TOKENS = 150_000, 50_000
_ALL = "all"
_EDITED = FidelityNote("emulated", _FIELD, "the proxy edits the conversation, and counts tokens by its own estimate")
_COMPACTED = FidelityNote(
    "emulated", _FIELD, "the proxy asks a model for the summary, and counts tokens by its own estimate"
)
_NO_SUMMARY = FidelityNote(
    "approximated", _FIELD, "nothing is summarized for a server that is called after one that does it itself"
)
_UNKNOWN = FidelityNote("approximated", _FIELD, "an edit of an unknown type is not made")
_MAX_NAME, _MAX_NAMES = 64, 5
_StructT = TypeVar("_StructT")
_Options = type[Struct]


class _MadeEdit(Struct, frozen=True):
    """An edit that the proxy makes.

    The class method `read` of each returns None if the edit keeps everything. `model`: that of the request.
    """

    type: ClassVar[str]
    beta: ClassVar[str] = CONTEXT_BETA
    note: ClassVar[FidelityNote] = _EDITED
    options: ClassVar[_Options]
    """Fields of the edit in a request, apart from its type."""
    requires_thinking: ClassVar[bool] = False
    """True if the API refuses the edit in a request without thinking. A relay leaves it out there."""

    @property
    def field(self) -> str:
        """Name of the field that requests the edit, as a rejection by a server names it."""
        return f"{_FIELD}.edits.{self.type}"


class _ToolUses(Struct):
    trigger: Raw = ABSENT
    keep: Raw = ABSENT
    clear_at_least: Raw = ABSENT
    exclude_tools: list[str] | None = None
    clear_tool_inputs: bool | list[str] | None = None


class ClearToolUses(_MadeEdit, frozen=True):
    """Edit that replaces results of tools by a short text, from the oldest on."""

    type: ClassVar[str] = "clear_tool_uses_20250919"
    options: ClassVar[_Options] = _ToolUses
    trigger: tuple[str, int] = _DEFAULT_TRIGGER
    """Unit, `input_tokens` or `tool_uses`, and the number of them above which the conversation is edited."""
    keep: int = _DEFAULT_KEPT_USES
    """Number of the last tool uses that stay."""
    clear_at_least: int = 0
    """Minimum number of tokens by which the edit must shorten the conversation."""
    exclude_tools: frozenset[str] = frozenset()
    clear_tool_inputs: bool | frozenset[str] = False
    """Tools whose inputs are removed with the results. True: all."""

    @classmethod
    def read(cls, raw: Raw, path: str, model: str) -> "ClearToolUses":
        read = _decode(raw, _ToolUses, path)
        trigger, keep, at_least = _DEFAULT_TRIGGER, _DEFAULT_KEPT_USES, 0
        if is_present(read.trigger):
            trigger = _read_amount(read.trigger, f"{path}.trigger", ("input_tokens", "tool_uses"), 1)
        if is_present(read.keep):
            keep = _read_amount(read.keep, f"{path}.keep", ("tool_uses",), 0)[1]
        if is_present(read.clear_at_least):
            at_least = _read_amount(read.clear_at_least, f"{path}.clear_at_least", ("input_tokens",), 0)[1]
        inputs = read.clear_tool_inputs
        return cls(
            trigger,
            keep,
            at_least,
            frozenset(read.exclude_tools or ()),
            frozenset(inputs) if isinstance(inputs, list) else bool(inputs),
        )

    def clears_input(self, tool: str) -> bool:
        cleared = self.clear_tool_inputs
        return cleared if isinstance(cleared, bool) else tool in cleared


class _Thinking(Struct):
    keep: Raw = ABSENT


class ClearThinking(_MadeEdit, frozen=True):
    """Edit that removes the thinking of earlier turns."""

    type: ClassVar[str] = "clear_thinking_20251015"
    options: ClassVar[_Options] = _Thinking
    requires_thinking: ClassVar[bool] = True  # anthropics/claude-code issues 11231 and 11971
    keep: int = _DEFAULT_KEPT_TURNS
    """Number of the last turns with thinking that keep it, at least 1."""

    @classmethod
    def read(cls, raw: Raw, path: str, model: str) -> "ClearThinking | None":
        kept = _read_kept_turns(_decode(raw, _Thinking, path).keep, f"{path}.keep", model)
        return None if kept is None else cls(kept)


class _Compact(Struct):
    trigger: Raw = ABSENT
    instructions: str | None = None
    pause_after_compaction: bool | None = None


class Compact(_MadeEdit, frozen=True):
    """Edit that replaces the conversation by a summary, which begins the reply."""

    type: ClassVar[str] = "compact_20260112"
    options: ClassVar[_Options] = _Compact
    beta: ClassVar[str] = "compact-2026-01-12"
    note: ClassVar[FidelityNote] = _COMPACTED
    trigger: int = _DEFAULT_COMPACTION_TOKENS
    """Number of input tokens from which on the conversation is summarized."""
    instructions: str = ""
    """What the summary must have, in addition to the default. "": nothing."""
    pauses: bool = False
    """True if the reply ends with the summary."""

    @classmethod
    def read(cls, raw: Raw, path: str, model: str) -> "Compact":
        read = _decode(raw, _Compact, path)
        trigger = _DEFAULT_COMPACTION_TOKENS
        if is_present(read.trigger):
            _, trigger = _read_amount(read.trigger, f"{path}.trigger", ("input_tokens",), _MIN_COMPACTION_TOKENS)
        return cls(trigger, (read.instructions or "").strip(), read.pause_after_compaction is True)


class Summarize(Struct, frozen=True):
    """Request field `compaction`: the reply is a summary of the conversation, and nothing else."""

    instructions: str = ""
    """What the summary must have, in place of the default. "": the default."""
    beta: ClassVar[str] = "compact-2026-09-04"
    field: ClassVar[str] = "compaction"
    note: ClassVar[FidelityNote] = FidelityNote("emulated", "compaction", "the proxy asks a model for the summary")


class UnsupportedEdit(Struct, frozen=True):
    """What the proxy does not know: an edit of an unknown type, or fields of an edit."""

    note: FidelityNote
    beta: ClassVar[str] = ""
    field: ClassVar[str] = _FIELD


MadeEdit = ClearToolUses | ClearThinking | Compact
ContextEdit = MadeEdit | Summarize | UnsupportedEdit
EDITS: Mapping[str, type[MadeEdit]] = {edit.type: edit for edit in get_args(MadeEdit)}
"""Type of an edit in a request → its class."""


class _Config(Struct):
    edits: list[Raw] | None = None


class _Edit(Struct):
    type: str


class _Amount(Struct):
    type: str
    value: int | None = None


def list_notes_of_relay(edits: Sequence[ContextEdit], *, summarizes: bool) -> Sequence[FidelityNote]:
    """Return the notes on edits that the proxy makes for a server with the Messages API."""
    return [
        *dict.fromkeys(_NO_SUMMARY if isinstance(edit, Compact) and not summarizes else edit.note for edit in edits)
    ]


def requires_thinking(kind: str) -> bool:
    """Return True for a type of edit that the API refuses in a request without thinking, of any version."""
    name = kind.rpartition("_")[0]
    return any(edit.requires_thinking and edit.type.rpartition("_")[0] == name for edit in EDITS.values())


def decode_context_edits(raw: Raw, model: str) -> tuple[ContextEdit, ...]:
    """Return the edits of the request field `context_management`, without those that keep everything.

    Raises `InvalidRequest` with the path of the invalid value. A type of edit may occur once.
    """
    config = _decode(raw, _Config, _FIELD)
    edits: list[ContextEdit] = []
    known: set[str] = set()
    for index, given in enumerate(config.edits or ()):
        path = f"{_FIELD}.edits.{index}"
        kind = _decode(given, _Edit, path).type
        if kind in known:
            raise wrong_type_error(f"{path}.type", "a type that no edit before it has", kind)
        known.add(kind)
        made = EDITS.get(kind)
        if made is None:
            edits.append(UnsupportedEdit(_UNKNOWN))
            continue
        edit = made.read(given, path, model)
        if edit is not None:
            edits.append(edit)
        edits += _find_unknown_fields(given, made, path)
    return tuple(edits)


def _find_unknown_fields(given: Raw, edit: type[MadeEdit], path: str) -> Sequence[UnsupportedEdit]:
    # The API refuses them. A client that is newer than the proxy must not lose its session by one.
    names = msgspec.json.decode(given, type=dict[str, Raw]).keys() - {"type", *edit.options.__struct_fields__}
    if not names:
        return ()
    listed = ", ".join(name[:_MAX_NAME] for name in sorted(names)[:_MAX_NAMES])
    return (UnsupportedEdit(FidelityNote("approximated", path, f"unknown fields have no effect: {listed}")),)


def _read_kept_turns(raw: Raw, path: str, model: str) -> int | None:
    """Return the number of turns that keep their thinking. None: all."""
    if not is_present(raw):
        keeps_all = any(fnmatchcase(model, name) for name in _KEEP_ALL_THINKING)
        return None if keeps_all else _DEFAULT_KEPT_TURNS
    if bytes(raw) == b'"all"':
        return None
    if not is_json_object(raw):
        raise wrong_type_error(path, "'all' or an object", raw)
    if _decode(raw, _Amount, path).type == _ALL:
        return None
    return _read_amount(raw, path, ("thinking_turns", _ALL), 1)[1]


def _read_amount(raw: Raw, path: str, units: tuple[str, ...], minimum: int) -> tuple[str, int]:
    amount = _decode(raw, _Amount, path)
    if amount.type not in units:
        raise wrong_type_error(f"{path}.type", " or ".join(f"'{unit}'" for unit in units), amount.type)
    if amount.value is None or amount.value < minimum:
        raise wrong_type_error(f"{path}.value", f"an integer greater than or equal to {minimum}", amount.value)
    return amount.type, amount.value


def _decode(raw: Raw, kind: type[_StructT], path: str) -> _StructT:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise validation_error(error, raw, path) from None
