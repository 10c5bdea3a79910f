"""The nine deltas: the pieces of a model's reply, independent of the provider's format.

The decoder of a provider's API creates them, and `MessageWriter` converts them to events of the Messages API. A reply
may contain several `Stop` and `Usage`; the functions at the end of this file combine them, and `TokenCounts` has the
numbers that follow from them. `TrailingThinkingBuffer` removes thinking that no client may send back.

The classes have no subclasses, so a list is asked for a kind by `Stop in map(type, deltas)`, and a delta by `type`.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from operator import attrgetter
from typing import Any, final

from msgspec import Raw, Struct, structs


@final
class Text(Struct, frozen=True, gc=False):
    text: str


@final
class TextEnd(Struct, frozen=True, gc=False):
    """The text so far is a block of its own: text behind it begins the next one."""


@final
class Citation(Struct, frozen=True, gc=False):
    """A source that the model cites for the text of the reply so far."""

    raw: Raw
    """One JSON object: the field `citation` in a `citations_delta` of the Messages API."""


@final
class Thinking(Struct, frozen=True, gc=False):
    """A fragment of the model's reasoning. The last fragment of a thinking block may have a signature."""

    text: str = ""
    """The fragment. "": only a signature."""
    signature: str = ""
    """Signature that ends the thinking block. "": more text may follow."""


@final
class ToolCall(Struct, frozen=True, gc=False):
    """Start of a tool call of the model. Its arguments follow as `ToolArgs`."""

    key: int | str
    """Key that links `ToolArgs` and `ToolEnd` to this call. It is unique within the reply: an index or id of the
    provider. The client does not receive it."""
    id: str
    """Id of the call in the reply to the client. Its tool result refers to this id."""
    name: str
    """Name of the called tool in the client request. Decoders replace the name that was sent upstream."""


@final
class ToolArgs(Struct, frozen=True, gc=False):
    key: int | str
    json: str
    """Fragment of JSON text, not parsed. All fragments of one call, joined, are one JSON object."""


@final
class ToolEnd(Struct, frozen=True, gc=False):
    """End of a tool call: all its arguments were received. Each decoder detects it by the rules of its API."""

    key: int | str


@final
class Block(Struct, frozen=True, gc=False):
    """A complete content block, such as the result of a server tool, which the client receives unchanged."""

    raw: Raw


class TokenCounts(Struct):
    """Numbers of tokens by kind, as the Messages API counts them."""

    input_tokens: int = 0
    """Input tokens without cached ones."""
    cache_read_tokens: int = 0
    """Input tokens read from the provider's cache."""
    cache_write_tokens: int = 0
    """Input tokens written to the provider's cache."""
    cache_write_1h_tokens: int = 0
    """Part of `cache_write_tokens` that the provider keeps for one hour, at a higher price."""
    output_tokens: int = 0
    """Output tokens, thinking included."""
    thinking_tokens: int = 0
    """Output tokens of thinking; 0 if the provider does not count them."""

    @property
    def all_input_tokens(self) -> int:
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    @property
    def all_tokens(self) -> int:
        return self.all_input_tokens + self.output_tokens

    @property
    def context_tokens(self) -> int:
        """Input tokens of one call of a model, by which prices for long contexts apply."""
        return self.all_input_tokens

    def add_tokens(self, other: "TokenCounts") -> None:
        for name in TokenCounts.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def divide_by_kind(self) -> dict[str, int]:
        """Kinds of tokens that have their own price, in the order of a stacked chart from bottom to top."""
        thinking = min(self.thinking_tokens, self.output_tokens)
        return {
            "cache_read": self.cache_read_tokens,
            "cache_write": self.cache_write_tokens,
            "input": self.input_tokens,
            "output": self.output_tokens - thinking,
            "thinking": thinking,
        }


class Iteration(TokenCounts, kw_only=True):
    """A call of a model within the provider for one reply: an entry of `usage.iterations` of the Messages API.

    The provider bills each by its own model (platform.claude.com, "Refusals and fallback", "Advisor tool",
    "Compaction", read 2026-11).
    """

    kind: str
    """Type of the entry: `message`, `fallback_message`, `advisor_message`, `compaction`, or one of later versions."""
    model: str = ""
    """Model id at the provider. "": that of the reply."""
    calls: int = 1
    """Number of calls with these tokens together. Above 1: of a reply with very many, or of the results of a batch."""

    @property
    def context_tokens(self) -> int:
        return self.all_input_tokens // self.calls

    @classmethod
    def from_counts(cls, kind: str, counts: TokenCounts) -> "Iteration":
        call = cls(kind=kind)
        call.add_tokens(counts)
        return call

    def add_call(self, other: "Iteration") -> None:
        self.add_tokens(other)
        self.calls += other.calls


OF_REPLY = frozenset({"message", "fallback_message"})
"""Kinds of iterations whose tokens the counts of the reply have too, at least in part. The counts are those of the
attempt that produced the message; of several iterations with tools, all output, but only the input of the first. The
tokens of any other kind are in no count of the reply."""


@final
class Usage(Struct, frozen=True):
    """Token counts of one upstream call, as reported by the provider.

    A provider may report several times during a reply. Each count is a total since the beginning of the call, so it
    replaces the earlier one. None: the report does not contain the count.
    """

    input_tokens: int | None = None
    """Input tokens that were neither read from nor written to a prompt cache, as in Anthropic's API."""
    output_tokens: int | None = None
    """Output tokens, thinking included."""
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    """Part of `cache_write_tokens` that the provider keeps for one hour, at a higher price."""
    thinking_tokens: int | None = None
    web_search_requests: int | None = None
    web_fetch_requests: int | None = None
    service_tier: str | None = None
    """Priority class of the request as the provider reported it: `standard`, `priority`."""
    billed_searches: int | None = None
    """Number of web searches that the provider ran and bills. The client receives `web_search_requests` instead."""
    billed_tier: str | None = None
    """Service tier by which the provider bills the call, in its own words. Unlike `service_tier`, the client does not
    receive it."""
    stated_cost: int | None = None
    """Cost of the call in nano-dollars, as the provider states it. The client does not receive it."""
    region: str | None = None
    """Region where the model ran, in the words of the provider: `us`. The client does not receive it."""
    iterations: tuple[Iteration, ...] | None = None
    """Calls of models within the provider, which it bills in place of the counts above."""
    earlier: "Usage | None" = None
    """What the client is told of the ended calls for the same reply, in addition to the counts above. Another object
    begins another call. None: the first call."""


NO_USAGE = Usage()
INPUT_COUNTS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens")
_OUTPUT_COUNTS = ("output_tokens", "thinking_tokens")
_SUMMED = tuple(set(Usage.__struct_fields__) - {"service_tier", "billed_tier", "region", "iterations", "earlier"})


@final
class Stop(Struct, frozen=True):
    """End of the reply. `merge_stops` says which one of several counts."""

    reason: str
    """Stop reason of the Messages API: `end_turn`, `max_tokens`, `tool_use`, …"""
    sequence: str | None = None
    """Stop sequence that ended the reply. None: another reason."""
    details: dict[str, Any] | None = None
    """Object `stop_details` of the reply, for a refusal."""


Delta = Text | TextEnd | Citation | Thinking | ToolCall | ToolArgs | ToolEnd | Block | Usage | Stop


def _is_answer(delta: Delta) -> bool:
    match delta:
        case Text():
            return bool(delta.text)
        case ToolCall() | Block():
            return True
        case TextEnd() | Thinking() | Citation() | ToolArgs() | ToolEnd() | Usage() | Stop():
            return False


_MAX_PIECES = 1_000
_MAX_ALONE = 256 * 1024
"""Maximum number of characters of thinking that may be the text of a reply."""


class TrailingThinkingBuffer(Struct, eq=False):
    """Buffers thinking after text or tool calls, and drops it if the reply ends before other content follows.

    The Messages API rejects a history in which a reply ends with such thinking. Thinking alone may be the complete
    reply, or be its text (`take_text`).
    """

    _keeps_alone: bool = True
    """False: the client has asked for thinking, so this never becomes the text."""
    _answered: bool = False
    """True after text, a tool call or a block. Thinking before it is never buffered."""
    _is_watching: bool = False
    """True while there is something in the lists."""
    _kept: "list[Delta]" = []
    _alone: list[str] = []
    """Texts of the thinking so far, of which a reply has nothing else."""
    _size: int = 0

    @property
    def is_alone(self) -> bool:
        """True if the reply has a text of thinking and nothing else."""
        return bool(self._alone)

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Add the next deltas of the reply and return those to send now."""
        if not self._is_watching and Thinking not in map(type, deltas):
            if not self._answered and any(map(_is_answer, deltas)):
                self._answered = True
            return deltas
        released: list[Delta] = []
        for delta in deltas:
            if type(delta) is Thinking:
                if self._answered:
                    self._kept.append(delta)
                    continue
                if self._keeps_alone:
                    self._keep_alone(delta.text)
            elif type(delta) is Stop:
                self._kept = []
            elif _is_answer(delta):
                self._answered = True
                released += self._kept
                self._kept, self._alone = [], []
            released.append(delta)
        self._is_watching = bool(self._kept or self._alone)
        return released

    def _keep_alone(self, text: str) -> None:
        self._size += len(text)
        if self._alone or text.strip():
            self._alone.append(text)
        if self._size > _MAX_ALONE:
            self._alone.clear()
        elif len(self._alone) > _MAX_PIECES:  # a piece needs much more memory than its characters
            self._alone = ["".join(self._alone)]

    def take_text(self) -> list[Delta]:
        """Return the text of a reply that has ended with thinking alone, which its client has not asked for: vLLM takes
        a reply without tags for thinking (its issues 17349 and 17609).
        """
        text = "".join(self._alone)
        self._alone.clear()
        return [Text(text)] if text else []

    def flush_pending(self) -> list[Delta]:
        """Return the buffered deltas and empty the buffer. Call this when the provider's response breaks off."""
        kept = self._kept
        self._kept = []
        return kept


CHARACTERS_PER_TOKEN = 4
"""Number of characters that count as one output token if the upstream reports no usage. The estimate is too low for
Chinese, too high for code."""
MAX_COUNT = 2**53 - 1
"""Maximum token count: the largest integer that every JSON decoder reads exactly."""


def merge_stops(before: Stop | None, new: Stop) -> Stop:
    """Return the first `Stop` that is not `end_turn`. Old Gemini models send `STOP` in each frame (recorded).

    Calls may turn out to be cut behind their `tool_use`.
    """
    is_cut = before is not None and (before.reason, new.reason) == ("tool_use", "max_tokens")
    return new if before is None or before.reason == "end_turn" or is_cut else before


def merge_latest(before: Usage, new: Usage) -> Usage:
    """Return the combination of two usage reports of one upstream call.

    A count of `new` replaces the count of `before`, unless it is None. If `new` is that of another call, it replaces
    all counts. A report without any input tokens replaces no count of the input, and 0 replaces no count of the output:
    some servers end a stream with zeros. Iterations that `new` leaves out stay, because a call that was made is billed.
    """
    if before is NO_USAGE or new.earlier is not before.earlier:
        return new
    for names in (INPUT_COUNTS, _OUTPUT_COUNTS):
        if getattr(new, names[0]) == 0 and not any(getattr(new, name) for name in names):
            new = structs.replace(new, **dict.fromkeys(names))
    if before.iterations is not None and new.iterations is not None:
        new = structs.replace(new, iterations=(*_find_left_out(before.iterations, new.iterations), *new.iterations))
    pairs = zip(structs.astuple(before), structs.astuple(new), strict=True)
    return Usage(*[earlier if value is None else value for earlier, value in pairs])


def _find_left_out(before: Sequence[Iteration], new: Sequence[Iteration]) -> Sequence[Iteration]:
    """Return the earlier calls without those that are among the new ones: unchanged, with other counts, or with another
    model.
    """
    for read_same in (structs.astuple, attrgetter("kind", "model"), attrgetter("kind")):
        if not before:
            break
        before, new = _remove_common(before, new, read_same), _remove_common(new, before, read_same)
    return before


def _remove_common(
    calls: Sequence[Iteration], others: Sequence[Iteration], read_same: Callable[[Iteration], Hashable]
) -> Sequence[Iteration]:
    common = Counter(map(read_same, others))
    rest = []
    for call in calls:
        if common[same := read_same(call)] > 0:
            common[same] -= 1
        else:
            rest.append(call)
    return rest


def sum_usages(earlier: Usage, current: Usage) -> Usage:
    counts = [(name, getattr(earlier, name), getattr(current, name)) for name in _SUMMED]
    return Usage(
        **{name: max(one or 0, 0) + max(other or 0, 0) for name, one, other in counts if (one, other) != (None, None)},
        service_tier=current.service_tier or earlier.service_tier,
        billed_tier=current.billed_tier or "",
        region=current.region,
        iterations=(*(earlier.iterations or ()), *(current.iterations or ())) or None,
        earlier=current.earlier,
    )


def clamp_count(count: int | None) -> int:
    """Return a count of a provider limited to the range from 0 to `MAX_COUNT`. None counts as 0."""
    if not count or count < 0:
        return 0
    return count if count < MAX_COUNT else MAX_COUNT


class BilledUsage(TokenCounts):
    """What providers bill for one or more calls. The counts include those of all iterations."""

    billed_searches: int = 0
    """Web searches that the provider ran and bills. Searches of the proxy itself do not count."""
    service_tier: str = ""
    """Service tier that the provider of the last call reported, in its own words: `default`, `flex`; the `speed` of
    Anthropic if it is `fast`. "": none."""
    stated_cost: int = 0
    """Cost in nano-dollars that the provider stated (OpenRouter, xAI). 0: none. It counts unless you set a price."""
    region: str = ""
    """Region where the model of the last call ran, in the words of its provider: `us` (`inference_geo` of Anthropic).
    "": not reported."""
    iterations: tuple[Iteration, ...] = ()
    """Calls of models within the provider that it bills by themselves: advisors, fallbacks, compactions. Empty: none.
    """

    def copy_usage(self, source: "BilledUsage") -> None:
        self.input_tokens = source.input_tokens
        self.output_tokens = source.output_tokens
        self.cache_read_tokens = source.cache_read_tokens
        self.cache_write_tokens = source.cache_write_tokens
        self.cache_write_1h_tokens = source.cache_write_1h_tokens
        self.thinking_tokens = source.thinking_tokens
        self.billed_searches = source.billed_searches
        self.service_tier = source.service_tier
        self.stated_cost = source.stated_cost
        self.region = source.region
        self.iterations = source.iterations

    def set_usage(self, usage: Usage) -> None:
        """Replace all counts by the reported ones, and by 0 if one is not reported."""
        self.copy_usage(BilledUsage(service_tier=usage.billed_tier or "", region=usage.region or ""))
        self.add_usage(usage)

    def add_call(self, call: "BilledUsage") -> None:
        """Add the counts of the next call. Tier and region are those of the last call with tokens."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(call, name))
        self.iterations = (*self.iterations, *call.iterations)
        if call.all_tokens:
            self.service_tier, self.region = call.service_tier, call.region

    def add_usage(self, usage: Usage) -> None:
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + clamp_count(getattr(usage, name)))
        if usage.iterations is not None:
            totals = TokenCounts(*(clamp_count(getattr(usage, name)) for name in _TOKENS))
            self.add_iterations(usage.iterations, totals)

    def add_iterations(self, iterations: Sequence[Iteration], totals: TokenCounts) -> None:
        """Count the iterations of a reply. The counts must have `totals`, those of the same reply, already."""
        iterations = _divide_long_writes(iterations, totals)
        of_reply = [one for one in iterations if one.kind in OF_REPLY]
        for name in _TOKENS:
            known = min(getattr(totals, name), sum(getattr(one, name) for one in of_reply))
            added = sum(getattr(one, name) for one in iterations) - known
            setattr(self, name, getattr(self, name) + added)
        self.iterations = (*self.iterations, *iterations)

    def count_without_iterations(self) -> TokenCounts:
        """Return the tokens that belong to no iteration. The model of the reply has used them."""
        rest = TokenCounts()
        for name in _TOKENS:
            counted = sum(getattr(one, name) for one in self.iterations)
            setattr(rest, name, max(getattr(self, name) - counted, 0))
        return rest

    @property
    def context_tokens(self) -> int:
        """Those of the largest call."""
        if not self.iterations:
            return self.all_input_tokens
        return max(one.context_tokens for one in (*self.iterations, self.count_without_iterations()))


_TOKENS = TokenCounts.__struct_fields__
_COUNTS = (*_TOKENS, "billed_searches", "stated_cost")


def _divide_long_writes(iterations: Sequence[Iteration], totals: TokenCounts) -> Sequence[Iteration]:
    """Divide the cache writes for one hour that only the counts of the reply state among its iterations."""
    of_reply = [one for one in iterations if one.kind in OF_REPLY]
    left = totals.cache_write_1h_tokens - sum(one.cache_write_1h_tokens for one in of_reply)
    if left <= 0:
        return iterations
    divided = []
    for one in iterations:
        room = max(one.cache_write_tokens - one.cache_write_1h_tokens, 0) if one.kind in OF_REPLY else 0
        moved = min(room, left)
        left -= moved
        divided.append(structs.replace(one, cache_write_1h_tokens=one.cache_write_1h_tokens + moved))
    return divided
