"""Tools and their calls, as far as all wires treat them alike: cached definitions, strict mode, call ids and wrappers.

A session repeats its tools in every request. Each wire therefore encodes a tool, and a list of tools, only once: a
result is found by the JSON text of the tool and the options of the encoder. Its work counts at each use.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, TypeVarTuple

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.deltas import ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import Tool, ToolChoice, ToolUseBlock
from anthropic_proxy.engine.messages.models.tool_arguments import normalize_arguments
from anthropic_proxy.engine.messages.models.tools import ToolList, is_client_tool
from anthropic_proxy.engine.messages.preparation import server_tool_kind
from anthropic_proxy.engine.messages.work_budget import WorkBudget, WorkCache
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.dialect import BaseDialect, ForcedToolCondition
from anthropic_proxy.engine.wires.shared_notes import keywords_as_text_note
from anthropic_proxy.errors import UnsupportedFeature, UpstreamProtocolError

_MAX_CACHED_BYTES = 32 * 1024
"""Maximum size in bytes of the JSON text of a cached tool. A larger one is encoded for every request."""

_Options = TypeVarTuple("_Options")


class EncodedTool(NamedTuple):
    definition: Raw
    losses: Sequence[str]
    """Texts for fidelity notes."""
    keywords_as_text: frozenset[str] = frozenset()
    """Keywords of the schema that became text in descriptions."""
    lossy_field: str = ""
    """Field of the tool that the losses concern, such as `.strict`. "": the tool itself."""


_EncodedTools = tuple[tuple[Raw, ...], tuple[FidelityNote, ...]]


def for_each_client_tool(
    encode: Callable[[Tool, WorkBudget, *_Options], EncodedTool],
) -> Callable[[Sequence[Tool], WorkBudget, *_Options], _EncodedTools]:
    """Return a function that encodes the client tools of a list with `encode`, with caches: definitions and notes.

    Callers must not change a result: it is shared. The function raises `WorkLimitExceeded` if the work exceeds the
    `WorkBudget`.
    """
    encode_kept = WorkCache(encode, lambda tool: tool.source, _measure_tool).get_or_encode

    def encode_each(tools: Sequence[Tool], budget: WorkBudget, *options: *_Options) -> _EncodedTools:
        definitions: list[Raw] = []
        notes: list[FidelityNote] = []
        keywords: frozenset[str] = frozenset()
        for tool in filter(is_client_tool, tools):
            with budget.error_field(budget.tool_schema_path(tool.name)):
                one = (encode if len(tool.source) > _MAX_CACHED_BYTES else encode_kept)(tool, budget, *options)
            definitions.append(one.definition)
            field = f"tools.{budget.client_tool_name(tool.name)}{one.lossy_field}"
            notes += [FidelityNote("approximated", field, what) for what in one.losses]
            keywords |= one.keywords_as_text
        if keywords:
            notes.append(keywords_as_text_note(keywords))
        return tuple(definitions), tuple(notes)

    lists_kept = WorkCache(encode_each, None, _measure_list).get_or_encode
    return lambda tools, *rest: (lists_kept if isinstance(tools, ToolList) else encode_each)(tools, *rest)


def _measure_tool(tool: Tool, encoded: EncodedTool) -> int:
    return len(tool.source) + len(encoded.definition)


def _measure_list(tools: Sequence[Tool], encoded: _EncodedTools) -> int:
    return sum(len(tool.source) for tool in tools) + sum(map(len, encoded[0]))


def tool_description(tool: Tool, *further_texts: str) -> str:
    """Return the client's description of a tool, `further_texts`, and the client's input examples. "": no text."""
    examples = bytes(tool.input_examples)
    shown = ""
    if examples not in (b"", b"[]", b"null"):
        shown = f"Examples of input: {msgspec.json.format(examples, indent=-1).decode()}"
    return "\n\n".join(filter(None, (tool.description, *further_texts, shown)))


class EmulatedChoice(Struct, frozen=True):
    """What stands for a tool choice that the model does not accept."""

    type: Literal["auto", "any"]
    user_instruction: str
    """User text that requests the call."""
    note: FidelityNote


_UNFORCED: Mapping[ForcedToolCondition, str] = {"any": " by name", "not_thinking": " while the model reasons"}


def emulate_forced_tool(
    choice: ToolChoice, accepted: ForcedToolCondition, provider: str, *, thinks: bool
) -> EmulatedChoice | None:
    """Return what is sent in place of a tool choice. None: the choice itself.

    `thinks`: whether the model thinks in this request. The client gets no call if the model does not follow the text.
    """
    may_force = accepted == "always" or (accepted == "any" and choice.type == "any")
    if choice.type not in ("any", "tool") or may_force or (accepted == "not_thinking" and not thinks):
        return None
    why = f"{provider} is not known to force tool calls{_UNFORCED.get(accepted, '')}; a user text asks for the call"
    note = FidelityNote("emulated", "tool_choice", why)
    return EmulatedChoice("any" if accepted == "any" else "auto", ask_for_call(choice), note)


def ask_for_call(choice: ToolChoice) -> str:
    return f"Call the tool {choice.name} now." if choice.type == "tool" else "Call one of the tools now."


def build_forced_tool_error(call: TranslatedCall[BaseDialect], what: str) -> UnsupportedFeature:
    text = f"tool_choice: {call.provider_prefix} cannot be forced to call {what}"
    return UnsupportedFeature(text, code="forced-tool")


def name_forced_tools(call: TranslatedCall[BaseDialect]) -> str:
    """Return the name of the tool that the client forces, or of all tools of which it forces one."""
    choice = call.request.tool_choice
    return (choice and choice.name) or ", ".join(tool.name for tool in call.request.tools) or "nothing"


def list_blocked_domains(call: TranslatedCall[BaseDialect]) -> list[str]:
    """Return the domains that no search of the request may find."""
    searching = (tool for tool in call.request.tools if server_tool_kind(tool) == "web_search")
    return [domain for tool in searching for domain in tool.blocked_domains or ()]


_KEEPABLE = compile_anchored(r"[a-zA-Z0-9_-]{1,64}")
"""Pattern of the tool call ids that the Messages API accepts."""


_NO_ARGUMENTS = normalize_arguments("")


class EndedCalls:
    """The calls of a reply that have ended, by their id at the provider and their name.

    Some servers send a call once more, or only its beginning, without arguments: this is no second call. Other servers
    give all calls one id, so other arguments are another call.
    """

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], tuple[str, object]] = {}
        """Id and name → arguments of the first call, and its event. Almost no other one follows."""
        self._compared: dict[tuple[str, str], dict[bytes, object]] = {}
        """The same of all calls, with normalized arguments, for an id that was used again."""

    def has(self, upstream_id: str | None, name: str) -> bool:
        return bool(upstream_id) and (upstream_id, name) in self._first

    def repeats(self, upstream_id: str | None, name: str, arguments: str, event: object = None) -> bool:
        """Record a call that ends. Return True if it repeats one of another event. `event`: has the whole call, and
        perhaps others. None: the call has events of its own.
        """
        if not upstream_id:
            return False
        event = object() if event is None else event
        key = upstream_id, name
        if key not in self._first:
            self._first[key] = arguments, event
            return False
        first, first_event = self._first[key]
        normalized = normalize_arguments(arguments)
        if normalized == _NO_ARGUMENTS:
            return first_event is not event
        compared = self._compared.setdefault(key, {})
        if not compared:
            compared[normalize_arguments(first)] = first_event
        return compared.setdefault(normalized, event) is not event


MAX_REPLY_CALLS = 10_000
"""Maximum number of tool calls of a reply, and of other ids in it. Each call needs some 2 KiB while a reply is decoded,
however short it is, and its blocks more bytes than it had: a reply of 3 MB had 100,000. A model writes at most some ten
thousand in its longest reply."""


def require_few_calls(calls: int) -> None:
    """Raises `UpstreamProtocolError` for more than `MAX_REPLY_CALLS`."""
    if calls > MAX_REPLY_CALLS:
        text = f"the reply has more than {MAX_REPLY_CALLS:,} tool calls"
        raise UpstreamProtocolError(text, retryable=False, code="reply-too-large")


class BoundIds(Struct):
    """Returns as many new ids as one reply may have."""

    new_id: Callable[[str], str]
    count: int = 0

    def __call__(self, prefix: str) -> str:
        self.count += 1
        require_few_calls(self.count)
        return self.new_id(prefix)


class ToolCallIds:
    """Assigns the tool call ids of one reply. A valid and unique id of the provider is kept, any other is replaced."""

    _calls = 0

    def __init__(self, call: TranslatedCall[BaseDialect]) -> None:
        self._call = call
        self._used_ids: set[str] | None = None
        """Tool call ids in the client's messages and in this reply. None: not collected yet."""

    @cached_property
    def ended_calls(self) -> EndedCalls:
        return EndedCalls()

    def assign_client_id(self, upstream_id: str | None) -> str:
        """Return the id that the client receives for a tool call, and record it as used. Raises
        `UpstreamProtocolError` for too many calls.
        """
        self._calls += 1
        require_few_calls(self._calls)
        if self._used_ids is None:
            blocks = (block for message in self._call.request.messages for block in message.blocks)
            self._used_ids = {block.id for block in blocks if isinstance(block, ToolUseBlock)}
        if not upstream_id or upstream_id in self._used_ids or not _KEEPABLE.fullmatch(upstream_id):
            upstream_id = self._call.new_id("toolu_px")
        self._used_ids.add(upstream_id)
        return upstream_id

    def build_whole_call(
        self, key: int | str, upstream_id: str | None, name: str, arguments: str
    ) -> list[ToolCall | ToolArgs | ToolEnd]:
        given = [ToolArgs(key, arguments)] if arguments else []
        return [ToolCall(key, self.assign_client_id(upstream_id), name), *given, ToolEnd(key)]


_WRAPPERS = frozenset(("parallel", "multi_tool_use.parallel"))
"""Names of the tool `parallel`, a call with several calls in its arguments. Models of OpenAI sometimes call it although
the request does not offer it."""
_NAMESPACE = "functions."


class _Use(Struct):
    recipient_name: str
    parameters: Raw = Raw(b"{}")  # immutable


class _Wrapped(Struct):
    tool_uses: list[_Use]


_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode


class WrappedCall(NamedTuple):
    upstream_id: str | None
    name: str
    arguments: str


def is_other_call(call_id: str | None, known: str | None) -> bool:
    """Return True if both ids are stated and differ."""
    return bool(call_id and known and call_id != known)


def is_parallel_wrapper(name: str, call: TranslatedCall[BaseDialect]) -> bool:
    """Return True if `name` is a parallel wrapper, a tool that the client does not offer."""
    return name in _WRAPPERS and all(tool.name != name for tool in call.request.tools)


def split_wrapper(upstream_id: str | None, arguments: str) -> list[WrappedCall] | None:
    """Return the calls in the arguments of a parallel wrapper. None: the arguments have another form."""
    try:
        uses = _decode_wrapped(arguments).tool_uses
    except (msgspec.DecodeError, RecursionError):
        return None
    return [
        WrappedCall(
            f"{upstream_id}_{position}" if upstream_id else None,
            use.recipient_name.removeprefix(_NAMESPACE),
            bytes(use.parameters).decode(),
        )
        for position, use in enumerate(uses)
    ]
