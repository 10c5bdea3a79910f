"""Cache of encoded tool definitions. A session repeats dozens of them in every request."""

from collections.abc import Callable, Sequence
from typing import TypeVar, TypeVarTuple

import msgspec

from anthropic_proxy.messages.models import Tool
from anthropic_proxy.messages.models.tools import ToolList
from anthropic_proxy.messages.work_budget import WorkBudget, WorkCache

_KEPT = 1_024
_LISTS_KEPT = 64
_MAX_CACHED_BYTES = 32 * 1024
"""Maximum size of a cached definition. Together with `_KEPT` it limits the size of a cache."""

_Options = TypeVarTuple("_Options")
_Encoded = TypeVar("_Encoded")


def cached_encoder(
    encode: Callable[[Tool, WorkBudget, *_Options], _Encoded],
) -> Callable[[Tool, WorkBudget, *_Options], _Encoded]:
    """Return `encode` with a cache by tool source and further arguments.

    Raises `WorkLimitExceeded` with the name of the tool.
    """
    encode_kept = WorkCache(encode, _source_of, _KEPT).find

    def encode_tool(tool: Tool, budget: WorkBudget, *options: *_Options) -> _Encoded:
        with budget.work_on(budget.field_of_tool(tool.name)):
            return (encode if len(tool.source) > _MAX_CACHED_BYTES else encode_kept)(tool, budget, *options)

    return encode_tool


def cached_list_encoder(
    encode: Callable[[Sequence[Tool], WorkBudget, *_Options], _Encoded],
) -> Callable[[Sequence[Tool], WorkBudget, *_Options], _Encoded]:
    """Return `encode` with a cache for repeated tool lists.

    A result is shared between requests.
    """
    encode_kept = WorkCache(encode, None, _LISTS_KEPT).find

    def encode_list(tools: Sequence[Tool], budget: WorkBudget, *options: *_Options) -> _Encoded:
        return (encode_kept if isinstance(tools, ToolList) else encode)(tools, budget, *options)

    return encode_list


def _source_of(tool: Tool) -> bytes:
    return tool.source


def tool_description(tool: Tool, *more: str) -> str:
    """Return the description of a tool, then `more`, then its input examples as text."""
    examples = bytes(tool.input_examples)
    shown = ""
    if examples not in (b"", b"[]", b"null"):
        shown = f"Examples of input: {msgspec.json.format(examples, indent=-1).decode()}"
    return "\n\n".join(filter(None, (tool.description, *more, shown)))


def strict_mode(tool: Tool, *, qualifies: bool, sends_strict: bool) -> tuple[bool, tuple[str, ...]]:
    """Return True to request strict mode, and a reason if the client requested it in vain.

    `qualifies`: the cleaned schema obeys strict mode. `sends_strict`: the server supports it.
    """
    if not tool.strict or (qualifies and sends_strict):
        return bool(tool.strict), ()
    why = "the schema does not fit strict mode" if sends_strict else "the server has no known strict mode"
    return False, (f"strict was not sent: {why}",)
