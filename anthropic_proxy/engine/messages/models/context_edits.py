"""The request field `context_management`: edits of the conversation that the model receives.

Defaults and limits: platform.claude.com, "Context editing" and "Compaction at a token threshold", read 2026-11, and the
types of the official SDK (anthropic 2.10). That page and the SDK differ in one point: whether `instructions` of
`compact_20260112` replace the default or add to it. The SDK is followed: they add.
"""

from typing import ClassVar, TypeVar

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models.raw_json import (
    ABSENT,
    is_json_object,
    is_present,
    validation_error,
    wrong_type_error,
)

_FIELD = "context_management"
CLEAR_TOOL_USES, CLEAR_THINKING = "clear_tool_uses_20250919", "clear_thinking_20251015"
_COMPACT = "compact_20260112"
_DEFAULT_TRIGGER = ("input_tokens", 100_000)
_DEFAULT_KEPT_USES = 3
_DEFAULT_KEPT_TURNS = 1
_DEFAULT_COMPACTION_TOKENS, _MIN_COMPACTION_TOKENS = 150_000, 50_000
_ALL = "all"
_EDITED = FidelityNote("emulated", _FIELD, "the proxy edits the conversation, and counts tokens by its own estimate")
_COMPACTED = FidelityNote(
    "emulated", _FIELD, "the proxy asks a model for the summary, and counts tokens by its own estimate"
)
_UNKNOWN = FidelityNote("approximated", _FIELD, "an edit of an unknown type is not made")
_StructT = TypeVar("_StructT")


class ClearToolUses(Struct, frozen=True):
    """Edit that replaces results of tools by a short text, from the oldest on."""

    trigger: tuple[str, int] = _DEFAULT_TRIGGER
    """Unit, `input_tokens` or `tool_uses`, and the number of them above which the conversation is edited."""
    keep: int = _DEFAULT_KEPT_USES
    """Number of the last tool uses that stay."""
    clear_at_least: int = 0
    """Minimum number of tokens by which the edit must shorten the conversation."""
    exclude_tools: frozenset[str] = frozenset()
    clear_tool_inputs: bool | frozenset[str] = False
    """Tools whose inputs are removed with the results. True: all."""

    note: ClassVar[FidelityNote] = _EDITED

    def clears_input(self, tool: str) -> bool:
        cleared = self.clear_tool_inputs
        return cleared if isinstance(cleared, bool) else tool in cleared


class ClearThinking(Struct, frozen=True):
    """Edit that removes the thinking of earlier turns."""

    keep: int = _DEFAULT_KEPT_TURNS
    """Number of the last turns with thinking that keep it, at least 1."""
    note: ClassVar[FidelityNote] = _EDITED


class Compact(Struct, frozen=True):
    """Edit that replaces the conversation by a summary, which begins the reply."""

    trigger: int = _DEFAULT_COMPACTION_TOKENS
    """Number of input tokens from which on the conversation is summarized."""
    instructions: str = ""
    """What the summary must have, in addition to the default. "": nothing."""
    pauses: bool = False
    """True if the reply ends with the summary."""
    note: ClassVar[FidelityNote] = _COMPACTED


class Summarize(Struct, frozen=True):
    """Request field `compaction`: the reply is a summary of the conversation, and nothing else."""

    instructions: str = ""
    """What the summary must have, in place of the default. "": the default."""
    note: ClassVar[FidelityNote] = FidelityNote("emulated", "compaction", "the proxy asks a model for the summary")


class UnsupportedEdit(Struct, frozen=True):
    """An edit of an unknown type, which the proxy does not make."""

    kind: str
    note: ClassVar[FidelityNote] = _UNKNOWN


ContextEdit = ClearToolUses | ClearThinking | Compact | Summarize | UnsupportedEdit


class _Config(Struct):
    edits: list[Raw] | None = None


class _Edit(Struct):
    type: str


class _ToolUses(Struct):
    trigger: Raw = ABSENT
    keep: Raw = ABSENT
    clear_at_least: Raw = ABSENT
    exclude_tools: list[str] | None = None
    clear_tool_inputs: bool | list[str] | None = None


class _Thinking(Struct):
    keep: Raw = ABSENT


class _Compact(Struct):
    trigger: Raw = ABSENT
    instructions: str | None = None
    pause_after_compaction: bool | None = None


class _Amount(Struct):
    type: str
    value: int | None = None


def decode_context_edits(raw: Raw) -> tuple[ContextEdit, ...]:
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
        if kind == CLEAR_TOOL_USES:
            edits.append(_read_tool_uses(given, path))
        elif kind == _COMPACT:
            edits.append(_read_compact(given, path))
        elif kind != CLEAR_THINKING:
            edits.append(UnsupportedEdit(kind))
        elif (kept := _read_kept_turns(_decode(given, _Thinking, path).keep, f"{path}.keep")) is not None:
            edits.append(ClearThinking(kept))
    return tuple(edits)


def _read_tool_uses(raw: Raw, path: str) -> ClearToolUses:
    read = _decode(raw, _ToolUses, path)
    trigger, keep, at_least = _DEFAULT_TRIGGER, _DEFAULT_KEPT_USES, 0
    if is_present(read.trigger):
        trigger = _read_amount(read.trigger, f"{path}.trigger", ("input_tokens", "tool_uses"), 1)
    if is_present(read.keep):
        keep = _read_amount(read.keep, f"{path}.keep", ("tool_uses",), 0)[1]
    if is_present(read.clear_at_least):
        at_least = _read_amount(read.clear_at_least, f"{path}.clear_at_least", ("input_tokens",), 0)[1]
    inputs = read.clear_tool_inputs
    return ClearToolUses(
        trigger,
        keep,
        at_least,
        frozenset(read.exclude_tools or ()),
        frozenset(inputs) if isinstance(inputs, list) else bool(inputs),
    )


def _read_compact(raw: Raw, path: str) -> Compact:
    read = _decode(raw, _Compact, path)
    trigger = _DEFAULT_COMPACTION_TOKENS
    if is_present(read.trigger):
        _, trigger = _read_amount(read.trigger, f"{path}.trigger", ("input_tokens",), _MIN_COMPACTION_TOKENS)
    return Compact(trigger, (read.instructions or "").strip(), read.pause_after_compaction is True)


def _read_kept_turns(raw: Raw, path: str) -> int | None:
    """Return the number of turns that keep their thinking. None: all."""
    if not is_present(raw):
        return _DEFAULT_KEPT_TURNS
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
