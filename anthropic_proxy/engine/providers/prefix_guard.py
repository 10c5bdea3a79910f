"""`PrefixGuard`: finds prompts that do not begin like the prompt before them, and the part that has changed.

A provider caches the beginning of a prompt, in the order tools, system text, messages, and bills a cached beginning at
a fraction. So each prompt of a conversation should begin with the whole prompt before it. Where one does not, the
provider reads everything behind the change again, and nobody is told: a date in the system text, a tool in another
place, or an edited message can multiply the price of a session.

The guard compares encoded requests, because the provider receives these. Requests with the same session, subagent,
provider and model form a conversation. It can have several prompts at the same time: one writes a title, others do
parallel tasks. So a prompt is compared only with earlier ones that begin with the same messages. A prompt counts as
changed only if the provider had read at least `MIN_LOST_BYTES` of what it now has to read again.

A prompt is compared after its reply, when the provider's counts are known and the client no longer waits. The bytes of
the last prompts are kept, not hashes of their parts: CRC-32, the fastest digest at hand, takes four times as long as
comparing them, and dividing a prompt into its parts ten times that. The body is the object that was sent, so nothing is
copied. Memory has a bound for each prompt, for each conversation and for all of them together.

There are several ways to compare. If the provider has read as many tokens from its cache as the old prompt has, nothing
is lost, and a sample of a few bytes at the end of the old prompt tells whether it is the same conversation.

If the provider reports no cached tokens, to read both prompts from memory would take more than 1 % of a request. So of
a long prompt, only the tools and some samples are compared (`_has_same_samples`), and the old prompt stays the kept
one. All bytes of every sixteenth prompt are compared, apart from messages whose marks have moved. So a change that
keeps the length is found up to 15 requests later, and one of a message that the kept prompt does not have is not found.

In all other cases the bytes are compared without reading JSON (`_is_continued`): the new body begins with the old
conversation, apart from marks of the cache that have moved, and ends with what follows the conversation, such as the
tools. All other bodies, also the second one of a conversation, are divided into their parts (`_divide`): once for the
new prompt, and once for each of the kept ones that begin with the same messages. Kept prompts of other conversations
are told by a few hashes. A part that has changed is searched in all messages, but only a few behind it tell whether
another branch begins there. Settings of the request, such as the effort, are compared where the provider writes them
into the prompt (`BaseDialect.prompt_settings`), if the parts are the same.

Example. A session with 40 kB of tools and 10 kB of system text, which begins with the date, sends three prompts of the
messages u1, u1 a1 u2, and u1 a1 u2 a2 u3. The message u1 has 20 kB, the others are short.

    prompt  compared with     way                                        result                      kept afterwards
    1       nothing                                                      begins a conversation       1
    2       1                 where it ends is not known yet: both are   continues 1                 2 in place of 1
                              divided into parts
    3, the  2                 the bytes before u2 differ (the date): 3   `PrefixChange("system",     3 in place of 2
    next                      and 2 are divided, the system text is the  "system text", share=0.43)`
    day                       first part that differs

The third prompt has 70 kB. Behind the date, 10 kB of system text and 20 kB of messages are read again: 0.43 of it. Once
the provider has counted the tokens, `settle_change` multiplies them by the share, and logs the change, unless the
provider has read more from its cache nevertheless.
"""

import operator
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.hooks import EngineLog, PrefixChange, Receipt
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.engine.messages.models.client_json import RepeatedKeyError, read_json
from anthropic_proxy.engine.messages.models.raw_json import ABSENT
from anthropic_proxy.engine.messages.work_budget import WorkPostponed
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.anthropic.json_spans import find_members
from anthropic_proxy.errors import InvalidRequest

MAX_PROMPT_BYTES = 8 * 1024 * 1024
"""Maximum size of a guarded request, which may contain images. Larger ones are ignored."""
MAX_PROMPTS_OF_CONVERSATION = 8
"""Number of prompts of one session and model that are kept. A prompt that continued another one is kept longest: side
requests, such as those for titles, come in numbers between two turns, and no prompt continues them."""
MAX_KEPT_BYTES = 32 * 1024 * 1024
MAX_CONVERSATIONS = 1_000
"""Maximum size and number of all kept prompts of a process. The least recently used ones are forgotten."""
MAX_SAMPLED_PROMPTS = 15
"""Maximum number of prompts in succession of which only samples are compared."""
MIN_SAMPLED_BYTES = 32 * 1024
"""Minimum size of a prompt of which only samples are compared. To compare a smaller one completely costs little."""
MIN_LOST_TOKENS = 1_024
MIN_LOST_BYTES = 4_096
"""About as many, the shortest beginning that most providers cache (developers.openai.com, "Prompt caching";
platform.claude.com, "Prompt caching"; read 2026-11)."""

MAX_CACHE_SECONDS = 300.0
"""Seconds for which each provider caches a prompt at least (platform.claude.com, developers.openai.com, "Prompt
caching", read 2026-11)."""

Conversation = tuple[str, str, str, str]
"""Session with its client (`Client.scope_session`), subagent, provider and model."""

_SETTINGS = {
    "reasoning.effort": "effort",
    "reasoning_effort": "effort",
    "output_config.effort": "effort",
    "thinking.type": "thinking",
    "thinking.budget_tokens": "thinking",
    "text.format": "reply schema",
    "response_format": "reply schema",
    "output_config.format": "reply schema",
    "output_format": "reply schema",
    "tool_choice": "tool choice",
}
"""Name of a field of `BaseDialect.prompt_settings`, for people. One that a settings file adds has its own name."""
_BEHIND_SYSTEM = ("output_config.", "output_format", "thinking.", "tool_choice")
"""Beginnings of the names of settings that change only the messages of the prompt."""
_SYSTEM_FIELDS = ("system", "instructions", "systemInstruction")
_MESSAGE_FIELDS = ("messages", "input", "contents")
"""Fields of the prompt in the APIs of all wires."""
_MARK = b'"cache_control"'
_CACHE_MARK = compile_anchored(rb'"cache_control": ?\{[^{}]*\}(, ?)?')
_MAX_MARKS = 8
"""Number of the last marks that may stand elsewhere in the next request. Anthropic accepts four."""
_CONTENT = b'"content"'
"""Name of the field that has the marks of a message, and is a list instead of a text because of them."""
_SINGLE_TEXT = compile_later(rb'\[\{"type": ?"text", ?"text": ?("[^"\\]*+(?:\\.[^"\\]*+)*+")\}\]')
_ROLE = compile_later(rb'"role": ?"([a-z]+)"')
_SYSTEM_ROLE = compile_anchored(rb'[^\[]{,40}"role": ?"(?:system|developer)"')
_SYSTEM_MESSAGE = (b'"role":"system"', b'"role": "system"')
_NAME = compile_later(rb'"name": ?"([A-Za-z0-9_.:/-]{1,128})"')
_MAX_COMPARED_MESSAGES = 8
"""Number of messages behind a change that tell an edited conversation from another branch."""
_LIST = b"["[0]
_FUNCTIONS = b'{"functionDeclarations":['
_BILLING = b"x-anthropic-billing-header:"
_DEFERRED = compile_later(rb'"defer_loading": ?true')
_SEPARATOR_BYTES = 2
"""Maximum length of the comma between two fields."""
_SAMPLE_BYTES = 256
"""Bytes that tell the conversation of a prompt which the provider has read from its cache."""
_SEAM_BYTES = 16
"""Bytes behind the conversation that tell whether what follows it has another length."""
_MAX_SHIFT = 300
"""By how many bytes marks that move may shift what is behind them: three marks, each with the list around its text."""
_SHOWN_SESSION = 8
"""Characters of a session id in the log."""
_USUAL_CHOICES = (b'"auto"', b'{"type":"auto"}', b'{"type": "auto"}')
"""Values of `tool_choice` that mean the same as none."""
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


class Prompt(Struct, eq=False, gc=False):
    """The prompt of one request that the provider has accepted."""

    conversation: Conversation
    body: bytes
    tokens: int = 0
    """Tokens that the provider has counted. 0: unknown."""
    cached_tokens: int = 0
    """Part of `tokens` that the provider has read from its cache."""
    reports_cache: bool = False
    """True if the provider has reported cached tokens in this conversation."""
    sent_at: float = 0.0
    """Loop time at which the prompt was sent."""
    system_messages: int | None = None
    """Number of system messages inside the conversation. None: as many as `body` has."""
    settings: Sequence[str] = ()
    """`prompt_settings` of the dialect."""
    tools: Sequence[object] = ()
    """Tools of the request, at a relay those of the client. Requests with equal tools have the same objects."""
    latest_turn: int = 0
    """Offset of the latest turn in `body`."""
    stable_end: int = 0
    """Offset where the common beginning with the next prompt probably ends. It is the latest turn, or lies before the
    first message whose cache mark may be missing in the next prompt."""
    conversation_end: int = 0
    """Offset where the conversation ends in `body`. 0: not known yet."""
    mark_count: int = 0
    """Number of cache marks in the conversation, at most `_MAX_MARKS`."""
    beginning: Sequence[int] | None = None
    """`_Parts.beginning`. None: not known yet. Empty: the body is no request of a known API."""
    is_continuation: bool = False
    """True if a prompt before it is known."""
    is_reported: bool = False
    """True if the log has a change of this conversation."""
    sample: bytes = b""
    sample_begin: int = 0
    """Bytes before `conversation_end`, and the offset where the next prompt probably has them. Empty: not taken yet."""
    sampled: int = 0
    """Number of later prompts of which only samples were compared with this one, so that this one is still kept."""
    is_sampled: bool = False
    """True if only samples of this prompt were compared with the one before, which is kept in its place."""
    replaced: "Prompt | None" = None
    """The prompt before it. None: this is the first one, or it is kept."""
    change: PrefixChange | None = None
    """None: the prompt begins with the one before."""


class PrefixGuard:
    def __init__(self) -> None:
        self._prompts: OrderedDict[Conversation, list[Prompt]] = OrderedDict()
        """Prompts of each conversation, the most recent one first."""
        self.kept_bytes = 0
        """Size of all kept prompts."""

    def compare(self, prompt: Prompt) -> None:
        """Find the prompt before this one, and the change. May run in another thread."""
        body = prompt.body
        prompts = tuple(self._prompts.get(prompt.conversation, ()))
        prompt.reports_cache = prompt.cached_tokens > 0
        for before in prompts:  # the fast way
            prompt.reports_cache = prompt.reports_cache or before.reports_cache
            stable_end, end = before.stable_end, before.conversation_end
            grown_end = len(body) - len(before.body) + end
            if not end or grown_end < max(stable_end, end - MIN_LOST_BYTES):
                continue
            latest_turn = end if end < grown_end else before.latest_turn  # otherwise, the last message is another one
            if not _is_read(before, prompt):
                may_sample = not prompt.reports_cache and len(body) >= MIN_SAMPLED_BYTES
                has_same_samples = may_sample and _has_same_samples(before, prompt, grown_end)
                if has_same_samples and before.sampled < MAX_SAMPLED_PROMPTS:
                    prompt.is_sampled, prompt.replaced = True, before
                    return
                if not _is_continued(before, body, has_same_samples=has_same_samples):
                    continue
                stable_end = _find_stable_end(body, stable_end, grown_end, latest_turn, before.mark_count)
            prompt.stable_end, prompt.latest_turn, prompt.conversation_end = stable_end, latest_turn, grown_end
            prompt.mark_count = before.mark_count
            if before.beginning is not None and len(before.beginning) == _FULL_BEGINNING:
                prompt.beginning = before.beginning
            prompt.is_continuation, prompt.is_reported, prompt.replaced = True, before.is_reported, before
            return
        if prompts and (parts := _examine(prompt)) is not None:
            for before in prompts:
                parts_before = _examine(before) if before.beginning is None else None
                if before.beginning and _are_of_one_conversation(before.beginning, parts.beginning):
                    parts_before = parts_before or _examine(before)
                    assert parts_before is not None, "its beginning is known"
                    is_continued, change = _find_change(parts_before, parts)
                    if not is_continued:
                        continue
                    if change is None and (change := _find_changed_setting(parts_before, parts)) is not None:
                        # a request beside the conversation has other settings: a later prompt may continue each
                        if prompt.change is None:
                            prompt.is_continuation, prompt.change = True, change
                            change.is_first = not before.is_reported
                            prompt.is_reported = True
                        continue
                    prompt.change = change
                    prompt.is_continuation, prompt.replaced = True, before
                    if prompt.change is not None:
                        prompt.change.is_first = not before.is_reported
                    prompt.is_reported = before.is_reported or prompt.change is not None
                    break

    def keep(self, prompt: Prompt) -> None:
        """Compare later prompts with this one."""
        prompts, replaced = self._prompts.get(prompt.conversation), prompt.replaced
        if prompts is None:
            prompts = self._prompts[prompt.conversation] = []
        else:
            self._prompts.move_to_end(prompt.conversation)
        prompt.replaced = None
        if prompt.is_sampled and replaced is not None:
            prompt = replaced
            prompt.sampled += 1
            if prompts and prompts[0] is prompt:
                return
        self.kept_bytes += len(prompt.body)
        if prompts and prompts[0] is replaced:
            prompts[0] = prompt
            self.kept_bytes -= len(replaced.body)
        else:
            if replaced in prompts:
                prompts.remove(replaced)
                self.kept_bytes -= len(replaced.body)
            elif len(prompts) == MAX_PROMPTS_OF_CONVERSATION:
                oldest_first = range(len(prompts) - 1, -1, -1)
                forgotten = next((index for index in oldest_first if not prompts[index].is_continuation), -1)
                self.kept_bytes -= len(prompts.pop(forgotten).body)
            prompts.insert(0, prompt)
        while self.kept_bytes > MAX_KEPT_BYTES or len(self._prompts) > MAX_CONVERSATIONS:
            _, oldest = self._prompts.popitem(last=False)
            self.kept_bytes -= sum(len(each.body) for each in oldest)


def find_lost_tokens(prompt: Prompt) -> int:
    """Return how many cached tokens fewer a compared prompt has than the one before, because of a system message.

    0: the prompt does not continue another one with a further system message, or the cache may be lost for another
    reason.
    """
    before = prompt.replaced
    if before is None or prompt.change is not None or prompt.sent_at - before.sent_at > MAX_CACHE_SECONDS:
        return 0
    lost = before.cached_tokens - prompt.cached_tokens
    is_fall = lost >= max(MIN_LOST_TOKENS, before.cached_tokens // 2)
    return lost if is_fall and _count_system_messages(prompt) > _count_system_messages(before) else 0


def _count_system_messages(prompt: Prompt) -> int:
    if prompt.system_messages is None:
        prompt.system_messages = sum(map(prompt.body.count, _SYSTEM_MESSAGE))
    return prompt.system_messages


def settle_change(receipt: Receipt, change: PrefixChange, counts: TokenCounts, log: EngineLog) -> PrefixChange | None:
    """Complete the change of a prompt by the provider's `counts`, and log the first one of a conversation.

    None: the provider has read the prompt from its cache nevertheless, so it ignores what has changed.
    """
    whole = counts.all_input_tokens
    change.tokens = round(change.share * whole)
    if counts.cache_read_tokens > whole - change.tokens // 2:
        return None
    if change.is_first:
        log.write_once(
            f"{receipt.prefix}/{receipt.model}: the prompt of session {receipt.session[:_SHOWN_SESSION]} has changed "
            f"at {change.part}, so about {change.tokens:,} tokens behind it cannot be read from the provider's cache",
            "warning",
        )
    return change


def _take_sample(body: bytes, end: int) -> tuple[bytes, int]:
    """Return some bytes before an offset, or before the marks in front of it, and where they begin."""
    while (mark := body.rfind(_MARK, end - _SAMPLE_BYTES, end)) >= 0:
        end = mark - _SEPARATOR_BYTES
    begin = max(0, end - _SAMPLE_BYTES)
    return body[begin:end], begin


def _find_sample(body: bytes, sample: bytes, begin: int, *, may_move: bool) -> int:
    """Return where a sample begins, near the offset `begin`. -1: nowhere."""
    if body.startswith(sample, begin):
        return begin
    return body.find(sample, max(0, begin - _MAX_SHIFT), begin + len(sample) + _MAX_SHIFT) if may_move else -1


def _is_read(before: Prompt, prompt: Prompt) -> bool:
    """Return True if the provider has read the prompt before this one from its cache."""
    if not 0 < before.tokens - MIN_LOST_TOKENS <= prompt.cached_tokens:
        return False
    sample, begin = _take_sample(before.body, before.latest_turn)
    return _find_sample(prompt.body, sample, begin, may_move=before.mark_count > 0) >= 0


def _has_same_samples(before: Prompt, prompt: Prompt, grown_end: int) -> bool:
    """Return True if the tools and some bytes of the prompt before are those of this one.

    The bytes lie at `stable_end` and at the end of the conversation. A field that is added, removed or has another
    length moves one of them, before or behind the conversation.
    """
    old, body, stable_end, end = before.body, prompt.body, before.stable_end, before.conversation_end
    if before.tools != prompt.tools or not body.startswith(old[end : end + _SEAM_BYTES], grown_end):
        return False
    has_marks = before.mark_count > 0
    begin, stop = max(0, stable_end - _SAMPLE_BYTES), min(end, stable_end + (0 if has_marks else _SAMPLE_BYTES))
    if not body.startswith(old[begin:stop], begin):
        return False
    if not before.sample:
        before.sample, before.sample_begin = _take_sample(old, end)
    place = _find_sample(body, before.sample, before.sample_begin, may_move=has_marks)
    if place < 0:
        return False
    before.sample_begin = place  # later prompts have it in this place too
    return True


def _is_continued(before: Prompt, body: bytes, *, has_same_samples: bool) -> bool:
    """Return True if `body` begins with the conversation of the prompt before, and ends with what follows it.

    False: it differs, or it has to be divided to tell. Of messages whose marks have moved, same samples are enough.
    """
    old, stable_end, end = before.body, before.stable_end, before.conversation_end
    view = memoryview(old)
    if not (body.startswith(view[:stable_end]) and body.endswith(view[end:])):
        return False
    is_short = end - stable_end < MIN_LOST_BYTES and before.latest_turn < end  # and not the whole conversation
    if is_short or body.startswith(view[stable_end:end], stable_end):
        return True
    if not before.mark_count:
        return False
    return has_same_samples or _neutral(body[stable_end : end + _MAX_SHIFT]).startswith(_neutral(old[stable_end:end]))


def _find_stable_end(body: bytes, begin: int, end: int, latest_turn: int, mark_count: int) -> int:
    """Return `Prompt.stable_end` of a conversation that has so many marks between the offsets `begin` and `end`."""
    marks = _find_marks(body, begin, end, mark_count)
    return min(latest_turn, max(begin, body.rfind(_CONTENT, begin, marks[-1][0]))) if marks else latest_turn


class _Parts(Struct, frozen=True):
    """A prompt in the order of the provider's cache."""

    tools: Sequence[Raw]
    system: Sequence[Raw]
    messages: Sequence[Raw]
    latest_turn: int
    stable_end: int
    conversation_end: int
    mark_count: int
    settings: Mapping[str, bytes]
    """Name of a setting → its JSON text. Empty: not given."""

    @property
    def beginning(self) -> Sequence[int]:
        """What tells the conversation: whether there are tools, and the hashes of the first three messages."""
        return bool(self.tools), *[hash(_neutral(bytes(message))) for message in self.messages[:3]]


_FULL_BEGINNING = 4
"""Length of `_Parts.beginning` if further messages do not change it."""


def _examine(prompt: Prompt) -> _Parts | None:
    """Divide a prompt, and store in it what is found. None: it is no request of a known API, or has too many fields."""
    try:
        parts = read_json(prompt.body, partial(_divide, prompt))
    except (InvalidRequest, StopIteration, WorkPostponed):
        parts = None
    if parts is None:
        prompt.beginning = ()
        return None
    prompt.latest_turn, prompt.stable_end = parts.latest_turn, parts.stable_end
    prompt.conversation_end, prompt.mark_count = parts.conversation_end, parts.mark_count
    prompt.beginning = parts.beginning
    return parts


_MAX_FIELDS = 1_000
"""Maximum number of fields of a request that is compared. More take the event loop too long."""


def _divide(prompt: Prompt, body: bytes) -> _Parts | None:
    """Return the parts of a prompt. None: places in its readable `body` are not those in the prompt.

    Raises one of many errors if it is no JSON object of a known API.
    """
    if len(body) != len(prompt.body):
        return None
    try:
        members = {member.key: member for member in find_members(body, most=_MAX_FIELDS)}
    except RepeatedKeyError:
        return None
    conversation = next(member for name in _MESSAGE_FIELDS if (member := members.get(name)))
    view = memoryview(body)
    tools, system, messages = (
        [part for name in names if (member := members.get(name)) for part in _list(view[member.value : member.end])]
        for names in (("tools",), _SYSTEM_FIELDS, _MESSAGE_FIELDS)
    )
    while len(messages) > 1 and _SYSTEM_ROLE.match(messages[0]):  # the system text of some APIs
        system.append(messages.pop(0))
    if tools and (functions := memoryview(tools[0]))[: len(_FUNCTIONS)] == _FUNCTIONS:  # Gemini: a list inside the list
        tools = [*_list(functions[len(_FUNCTIONS) - 1 : -1]), *tools[1:]]
    # Anthropic places deferred tools behind the conversation, and the billing line outside of the prompt
    tools = [tool for tool in tools if not _DEFERRED.search(tool)]
    system = [block for block in system if _BILLING not in bytes(memoryview(block)[:100])]
    end = conversation.end - 1
    latest_turn = end - len(messages[-1]) if messages else conversation.value
    latest_turn = max(latest_turn, body.rfind(b',{"', conversation.value, end))
    marks = _find_marks(body, conversation.value, end, _MAX_MARKS)
    stable_end = _find_stable_end(body, conversation.value, end, latest_turn, len(marks))
    if len(messages) < 2:  # nothing in front of the only message tells the conversation
        latest_turn = end
    given = {name: _read_setting(name, view, members) for name in prompt.settings}
    return _Parts(tools, system, messages, latest_turn, stable_end, end, len(marks), given)


def _read_setting(name: str, body: memoryview, members: Mapping[str, Any]) -> bytes:
    field, _, inner = name.partition(".")
    if (member := members.get(field)) is None:
        return b""
    value = bytes(body[member.value : member.end])
    if inner:
        return bytes(_decode_object(value).get(inner, b"")) if value.startswith(b"{") else b""
    return b"" if value in _USUAL_CHOICES else value


def _list(value: memoryview) -> list[Raw]:
    return _decode_list(value) if value[0] == _LIST else [Raw(value)]


def _neutral(text: bytes) -> bytes:
    """Return JSON text without what no provider's cache depends on: marks, and the form of a single text."""
    if marks := _find_marks(text, 0, len(text)):
        pieces, place = list[bytes](), 0
        for begin, end in reversed(marks):
            pieces.append(text[place:begin])
            place = end
        text = b"".join((*pieces, text[place:]))
    return _SINGLE_TEXT.sub(rb"\1", text)


def _find_marks(text: bytes, begin: int, end: int, count: int = sys.maxsize) -> list[tuple[int, int]]:
    """Return begin and end of the last marks of the cache, with the comma that separates each, the last mark first."""
    found: list[tuple[int, int]] = []  # in this order, because `rfind` takes half the time of `find`
    while len(found) < count and (end := text.rfind(_MARK, begin, end)) >= 0:
        if mark := _CACHE_MARK.match(text, end):
            comma_before = 0 if mark[1] else 1 + text.startswith(b", ", end - 2)
            found.append((end - comma_before, mark.end()))
    return found


def _are_of_one_conversation(before: Sequence[int], after: Sequence[int]) -> bool:
    """Return True if the first message or two of the first three are the same; of three, the first alone is too few."""
    same_tools, *equal = map(operator.eq, before, after)
    return same_tools and (sum(equal) >= 2 or (equal[:1] == [True] and len(equal) < 3))


def _find_change(before: _Parts, after: _Parts) -> tuple[bool, PrefixChange | None]:
    """Return whether the second prompt continues the first one, and the first change.

    None: there is none, or the provider has only little to read again. Prompts with other messages from one message on
    are two branches of a conversation, such as those of parallel tasks that began alike: none continues the other.
    """
    old, new = (
        [("tools", each.tools), ("system", each.system), ("messages", each.messages)] for each in (before, after)
    )
    size_before, size = (sum(len(part) for _, parts in each for part in parts) for each in (old, new))
    same = 0
    for (kind, old_parts), (_, new_parts) in zip(old, new, strict=True):
        for place, (old_part, new_part) in enumerate(zip_longest(old_parts, new_parts, fillvalue=ABSENT)):
            if old_part == new_part:
                same += len(old_part)
                continue
            first, second = _neutral(bytes(old_part)), _neutral(bytes(new_part))
            if first == second:
                same += len(old_part)
                continue
            common = _count_equal_bytes(first, second)
            lost = min(size_before, size) - same - common
            if kind == "messages":
                if not first:
                    return True, None
                if _is_branch(first, second, common, old_parts[place + 1 :], new_parts[place + 1 :]):
                    return False, None
            if lost < MIN_LOST_BYTES:
                return True, None
            return True, PrefixChange(kind, _describe(kind, place, second or first), lost / size)
    return True, None


def _find_changed_setting(before: _Parts, after: _Parts) -> PrefixChange | None:
    """Return the change of the first setting that differs. None: there is none, or only little to read again."""
    for name, value in after.settings.items():
        if value != before.settings.get(name, value):
            parts = [(*each.tools, *each.system, *each.messages) for each in (before, after)]
            size_before, size = (sum(map(len, each)) for each in parts)
            lost = min(size_before, size)
            if name.startswith(_BEHIND_SYSTEM):
                lost = min(sum(map(len, each.messages)) for each in (before, after))
            return PrefixChange("settings", _SETTINGS.get(name, name), lost / size) if lost >= MIN_LOST_BYTES else None
    return None


def _is_branch(first: bytes, second: bytes, common: int, rest_before: Sequence[Raw], rest: Sequence[Raw]) -> bool:
    """Return True if two different messages with `common` equal bytes, and those behind them, are of two branches."""
    if not (rest_before and rest):
        shorter = min(len(first), len(second))
        return shorter - common >= MIN_LOST_BYTES and common * 2 < shorter
    old, new = (  # without names: the results of a loaded tool that is gone have another one at Gemini
        [_NAME.sub(b"", _neutral(bytes(message))) for message in rest[:_MAX_COMPARED_MESSAGES]]
        for rest in (rest_before, rest)
    )
    shared = sum(len(message) for message in new if message in old)
    return shared * 2 < min(sum(map(len, old)), sum(map(len, new)))


def _count_equal_bytes(first: bytes, second: bytes) -> int:
    """Return the length of the common beginning, by halving the range."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first.startswith(memoryview(second)[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low


def _describe(kind: str, place: int, part: bytes) -> str:
    """Return the name of a part for people, without content: `tool 3 (WebFetch)`, `message 12 (user)`."""
    if kind == "system":
        return "system text"
    name = (_NAME if kind == "tools" else _ROLE).search(part)
    return f"{kind.removesuffix('s')} {place + 1}" + (f" ({name[1].decode()})" if name else "")
