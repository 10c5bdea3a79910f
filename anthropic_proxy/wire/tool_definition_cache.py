"""Caches of tool definitions encoded for a provider, because a session repeats its tools in every request.

`cached_encoder` adds a cache to a function that encodes one tool, `cached_list_encoder` to one that encodes a list of
tools. `tool_description` returns the description of a tool for the provider. `resolve_strict` returns the decision to
send `strict: true` for a tool, as `StrictMode`. In strict mode, the arguments of a tool call always match the schema.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar, TypeVarTuple

import msgspec

from anthropic_proxy.messages.models import Tool
from anthropic_proxy.messages.models.tools import ToolList
from anthropic_proxy.messages.work_budget import WorkBudget, WorkCache

_KEPT = 1_024
"""Maximum number of tool definitions in one cache. The least recently used one is removed."""
_LISTS_KEPT = 64
"""Maximum number of tool lists in one cache. The least recently used one is removed."""
_MAX_CACHED_BYTES = 32 * 1024
"""Maximum size in bytes of the JSON text of a cached tool. A larger one is encoded for every request."""

_Options = TypeVarTuple("_Options")
_Encoded = TypeVar("_Encoded")


def cached_encoder(
    encode: Callable[[Tool, WorkBudget, *_Options], _Encoded],
) -> Callable[[Tool, WorkBudget, *_Options], _Encoded]:
    """Return a function that encodes one tool definition like `encode`, with a cache of the results.

    The function raises `WorkLimitExceeded` if the work exceeds the `WorkBudget` that it receives.
    """
    # A result is found by the JSON text of the tool and the options. Its work counts at each use.
    encode_kept = WorkCache(encode, _source_of, _KEPT).get_or_encode

    def encode_tool(tool: Tool, budget: WorkBudget, *options: *_Options) -> _Encoded:
        with budget.error_field(budget.tool_schema_path(tool.name)):
            return (encode if len(tool.source) > _MAX_CACHED_BYTES else encode_kept)(tool, budget, *options)

    return encode_tool


def cached_list_encoder(
    encode: Callable[[Sequence[Tool], WorkBudget, *_Options], _Encoded],
) -> Callable[[Sequence[Tool], WorkBudget, *_Options], _Encoded]:
    """Return a function that encodes a list of tools like `encode`, with a cache of the results.

    Callers must not change a result, because it is shared.
    """
    encode_kept = WorkCache(encode, None, _LISTS_KEPT).get_or_encode

    def encode_list(tools: Sequence[Tool], budget: WorkBudget, *options: *_Options) -> _Encoded:
        return (encode_kept if isinstance(tools, ToolList) else encode)(tools, budget, *options)

    return encode_list


def _source_of(tool: Tool) -> bytes:
    return tool.source


def tool_description(tool: Tool, *further_texts: str) -> str:
    """Return the description of a tool for the upstream request. "": there is no text.

    It consists of the client's description, `further_texts`, and the client's input examples as JSON.
    """
    examples = bytes(tool.input_examples)
    shown = ""
    if examples not in (b"", b"[]", b"null"):
        shown = f"Examples of input: {msgspec.json.format(examples, indent=-1).decode()}"
    return "\n\n".join(filter(None, (tool.description, *further_texts, shown)))


class StrictMode(NamedTuple):
    """Result of `resolve_strict` for one tool: the value of `strict`, and a text if the client's `strict` is lost."""

    is_strict: bool
    """True if the tool is sent with `strict: true`."""
    losses: tuple[str, ...]
    """Text for a fidelity note if the client's `strict` is not sent. Empty: it is sent, or the client did not set
    it."""


def resolve_strict(tool: Tool, *, qualifies: bool, sends_strict: bool) -> StrictMode:
    """Return the value of `strict` to send for a tool, and a text if the client's `strict` is not sent.

    `qualifies` is True if strict mode allows the schema of the tool. `sends_strict` is True if the server has a strict
    mode.
    """
    if not tool.strict or (qualifies and sends_strict):
        return StrictMode(bool(tool.strict), ())
    why = "the schema does not fit strict mode" if sends_strict else "the server has no known strict mode"
    return StrictMode(is_strict=False, losses=(f"strict was not sent: {why}",))
