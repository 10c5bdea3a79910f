"""State of the provider for a client that has not asked for thinking: tool calls carry it in place of thinking blocks.

Theory of operation. A thinking block has what its provider needs back, such as a signature. A client without `thinking`
gets no such block, and would not send it back. Only a tool call needs the state: a turn goes on behind it. So
`HiddenThinking` collects the thinking before a call, and the client gets the call with another id:

    state up to about 2 KB             `toolu_pxs-` and the state
    longer state, or text to replay    `toolu_pxk-`, random characters and the state's size in memory (hexadecimal),
                                       under which the caller keeps the state

In later requests, `restore_states` puts the thinking blocks and the id of the provider back, before the request is
prepared. The request to the provider is then the same as for a client that gets thinking. Without its state, a call is
sent as one that another provider has made. A client can change an id as it can change the signature of a block: a
damaged one has no state, and a changed one has what the provider makes of it.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.base64url import decode_base64url, encode_base64url
from anthropic_proxy.engine.messages.deltas import Thinking
from anthropic_proxy.engine.messages.events import replace_surrogates
from anthropic_proxy.engine.messages.models import Block, CleanMessages, Message, ThinkingBlock
from anthropic_proxy.engine.messages.models.decode import as_clean_messages
from anthropic_proxy.engine.messages.models.structs import ToolResultBlock, ToolUseBlock
from anthropic_proxy.engine.messages.models.tools import KEPT_ID_PREFIX, STATE_ID_PREFIX, are_valid_ids
from anthropic_proxy.engine.slices import give_way_between

MAX_ID_CHARACTERS = 2_304
"""Maximum length of an id with a state: 2 KB of it, and what belongs to it."""
MAX_KEPT_CHARACTERS = 256 * 1024
"""Maximum length of a state that is kept under the id of its call. A longer one is lost."""
_MAX_SIGNED_CHARACTERS = 2 * MAX_KEPT_CHARACTERS
"""Maximum length of the signatures before a call. In base64, they are longer than their states. With more, the call has
no state."""
_BYTES_PER_CHARACTER = 4
_MAX_SIZE_DIGITS = 6
_CHARACTERS_PER_THOUGHT = 64
"""What a thinking block counts besides its signature."""
_MAX_CALL_ID_CHARACTERS = 64
_RESTORED = "restored"
"""Key of known messages with the thinking before their calls in `CleanMessages.results`."""
_MAX_THOUGHTS = 8
"""Maximum number of thinking blocks in an id: a block needs 50 times the memory of its code. A state with more is kept.
"""
_MAX_RATIO = 2
"""A state has at most so many times the length of its id, because an id costs a request little. A state that is coded
in a shorter id is kept."""


class HiddenThought(Struct, frozen=True, array_like=True):
    """A thinking block before a tool call."""

    skipped: int
    """Number of blocks between it and the call."""
    tag: str
    state: str
    """JSON of the state in the signature `px1.<tag>.<state>`."""
    text: str = ""

    @property
    def is_demanded(self) -> bool:
        """True if the provider needs the text itself."""
        return bool(_decode_fields(self.state).replay)

    def build_block(self) -> ThinkingBlock:
        state = encode_base64url(self.state.encode(errors="replace"))
        return ThinkingBlock(thinking=self.text, signature=f"px1.{self.tag}.{state}")


class CallState(Struct, frozen=True, array_like=True):
    """What a tool call carries."""

    call_id: str
    """The id of the call without its state."""
    thoughts: list[HiddenThought]


class _State(Struct):
    """Fields of `ReasoningState` (`engine/wires/thinking.py`) that say whether the text of the thinking goes back."""

    replay: int = msgspec.field(default=0, name="r")
    item_id: str | None = msgspec.field(default=None, name="i")


_encode = msgspec.json.Encoder().encode
_decode_state = msgspec.json.Decoder(CallState).decode
_decode_fields = msgspec.json.Decoder(_State).decode


class _OpenThought:
    def __init__(self, place: int) -> None:
        self.place = place
        self.fragments: list[str] = []
        self.signature = ""


class HiddenThinking(Struct, eq=False):
    """The thinking of a reply that its client does not get."""

    new_id: Callable[[str], str]
    """Makes the ids of calls with a kept state."""
    unsaved: dict[str, str] = {}
    """Id of a call that the client gets next → its state, which is to be kept before."""
    _thoughts: list[_OpenThought] = []
    """Those since the last call."""
    _characters: int = 0
    """Length of their texts."""
    _signed_characters: int = 0
    """Length of their signatures, and what they count besides."""

    def add(self, delta: Thinking, place: int) -> None:
        """`place`: number of the blocks of the reply before it."""
        last = self._thoughts[-1] if self._thoughts else None
        is_new = last is None or last.signature != "" or last.place != place
        self._signed_characters += len(delta.signature) + (_CHARACTERS_PER_THOUGHT if is_new else 0)
        if self._signed_characters > _MAX_SIGNED_CHARACTERS:
            self._thoughts = []
            return
        if last is None or is_new:
            last = _OpenThought(place)
            self._thoughts.append(last)
        last.signature = delta.signature
        self._characters += len(delta.text)
        if delta.text and self._characters <= MAX_KEPT_CHARACTERS:
            last.fragments.append(delta.text)

    def assign_id(self, call_id: str, place: int, signature: str) -> str:
        """Return the id under which the client gets the next tool call. `signature`: that of unsigned thinking."""
        open_thoughts, self._thoughts = self._thoughts, []
        is_complete = self._characters <= MAX_KEPT_CHARACTERS
        self._characters = self._signed_characters = 0
        if not open_thoughts:
            return call_id
        found = [_close(thought, place, signature) for thought in open_thoughts]
        thoughts = [thought for thought in found if thought is not None]
        if not thoughts:
            return call_id
        state = CallState(call_id, thoughts)
        text = _encode(state).decode()
        if len(text) > MAX_KEPT_CHARACTERS or not (is_complete or all(thought.text == "" for thought in thoughts)):
            return call_id
        is_short = len(text) <= 2 * MAX_ID_CHARACTERS and len(thoughts) <= _MAX_THOUGHTS
        is_short = is_short and not any(thought.is_demanded for thought in thoughts)
        if is_short:
            id_with_state = encode_state_id(state)
            is_short = len(id_with_state) <= MAX_ID_CHARACTERS
            if is_short and len(text.encode()) <= _MAX_RATIO * len(id_with_state):
                return id_with_state
        kept_id = f"{self.new_id(KEPT_ID_PREFIX)}_{measure_state(text):x}"
        self.unsaved[kept_id] = text
        return kept_id


def _close(thought: _OpenThought, place: int, default_signature: str) -> HiddenThought | None:
    """Return the thinking block as its provider needs it back. None: it does not."""
    _, _, signed = (thought.signature or default_signature).partition(".")
    tag, _, encoded = signed.partition(".")
    try:
        content = decode_base64url(encoded)
        fields, state = _decode_fields(content), content.decode()
    except ValueError:  # not base64, not JSON, or not UTF-8
        return None
    text = "".join(map(replace_surrogates, thought.fragments)) if fields.replay or fields.item_id else ""
    if not text and (state == "{}" or fields.replay):
        return None
    return HiddenThought(place - thought.place, tag, state, text)


def measure_state(text: str) -> int:
    """Return the bytes of a state that is kept, in memory."""
    return len(text) * (1 if text.isascii() else _BYTES_PER_CHARACTER)


def read_kept_size(call_id: str) -> int:
    """Return the size of the state that is kept under an id. 0: the id states none. An id with another size than its
    state has is not the one under which the state is kept.
    """
    digits = call_id.rpartition("_")[2]
    is_size = 0 < len(digits) <= _MAX_SIZE_DIGITS and not digits.strip("0123456789abcdef")
    return int(digits, 16) if is_size else 0


def encode_state_id(state: CallState) -> str:
    # without a search for repetitions, so that a short id cannot become a long state
    compressor = zlib.compressobj(wbits=-15, strategy=zlib.Z_HUFFMAN_ONLY)
    packed = compressor.compress(_encode(state)) + compressor.flush()
    return STATE_ID_PREFIX + encode_base64url(packed)


def decode_state_id(call_id: str) -> CallState | None:
    """Return the state in the id of a tool call. None: it has none, or is damaged."""
    if not call_id.startswith(STATE_ID_PREFIX) or len(call_id) > MAX_ID_CHARACTERS:
        return None
    try:
        packed = decode_base64url(call_id[len(STATE_ID_PREFIX) :])
        decompressor = zlib.decompressobj(wbits=-15)
        unpacked = decompressor.decompress(packed, _MAX_RATIO * len(call_id))
    except (ValueError, zlib.error):
        return None
    is_whole = decompressor.eof and not decompressor.unused_data
    state = decode_kept_state(unpacked) if is_whole else None
    if state is None or len(state.thoughts) > _MAX_THOUGHTS:
        return None
    try:
        is_kept_elsewhere = any(thought.is_demanded for thought in state.thoughts)
    except (ValueError, RecursionError):  # the state of a thought is not JSON
        return None
    return None if is_kept_elsewhere else state


def decode_kept_state(text: str | bytes) -> CallState | None:
    """Return a state that was kept. None: it is damaged."""
    try:
        state = _decode_state(text)
    except (ValueError, RecursionError):  # not UTF-8; msgspec's errors are ValueErrors too
        return None
    is_valid = 0 < len(state.call_id) <= _MAX_CALL_ID_CHARACTERS and are_valid_ids((state.call_id,))
    return state if is_valid else None


def cut_state(call_id: str) -> str:
    """Return the id of a tool call without its state."""
    state = decode_state_id(call_id)
    return call_id if state is None else state.call_id


def list_ids_with_states(messages: Sequence[Message]) -> list[str]:
    """Return the ids of the tool calls that may have a state, in their order."""
    ids: Iterable[str]
    if isinstance(messages, CleanMessages):
        ids = messages.names
        if not ids:
            return []
        joined = "".join(ids)  # without a Python loop, because an agent's request has hundreds of calls
        if STATE_ID_PREFIX not in joined and KEPT_ID_PREFIX not in joined:
            return []
    else:
        ids = [block.id for message in messages for block in message.blocks if type(block) is ToolUseBlock]
    return [call_id for call_id in ids if call_id.startswith((STATE_ID_PREFIX, KEPT_ID_PREFIX))]


def restore_states(messages: Sequence[Message], kept: Mapping[str, CallState]) -> list[Message]:
    """Return the messages with the thinking before their tool calls, and with the ids of the provider.

    `kept`: id of a call → the state that was kept under it.
    """
    before: CleanMessages | None = None
    new = messages
    if isinstance(messages, CleanMessages) and (known := messages.known) is not None:
        before = _restore_known(known, kept)
        new = messages if before is None else messages[len(known) :]
    renamed: dict[str, str] = {}
    restored = [_restore_message(message, kept, renamed) for message in give_way_between(new)]
    if not isinstance(messages, CleanMessages):
        return restored
    return as_clean_messages(restored, before) or [*(before or ()), *restored]


def _restore_known(known: CleanMessages, kept: Mapping[str, CallState]) -> CleanMessages | None:
    """Return the first messages of a conversation, which are restored once. None: their states are not in them."""
    if not known.names.keys().isdisjoint(kept):
        return None
    if _RESTORED not in known.results:
        restored = restore_states(known, {})
        if isinstance(restored, CleanMessages):
            restored.share_results()
        known.results[_RESTORED] = restored  # complete: another thread may use it
    messages = known.results[_RESTORED]
    return messages if isinstance(messages, CleanMessages) else None


def _restore_message(message: Message, kept: Mapping[str, CallState], renamed: dict[str, str]) -> Message:
    """`renamed`: id of each call so far with a state → the id without it."""
    content = message.content
    if isinstance(content, str) or (message.role == "user" and not renamed):
        return message
    blocks: list[Block] = []
    added: dict[int, list[ThinkingBlock]] = {}
    is_changed = False
    first = 0  # place behind the call before
    for place, block in enumerate(content):
        if type(block) is ToolResultBlock:
            if (sent := renamed.get(block.tool_use_id)) is not None:
                is_changed = True
                block = structs.replace(block, tool_use_id=sent)  # noqa: PLW2901
        elif type(block) is ToolUseBlock:
            kept_state = kept.get(block.id)
            state = kept_state or decode_state_id(block.id)
            if state is not None:
                is_changed = True
                # the id of a kept state is short, so it brings the state back only once
                thoughts = () if kept_state is not None and block.id in renamed else state.thoughts
                renamed[block.id] = state.call_id
                block = structs.replace(block, id=state.call_id)  # noqa: PLW2901
                for thought in thoughts:
                    before = min(max(place - thought.skipped, first), place)
                    added.setdefault(before, []).append(thought.build_block())
            first = place + 1
        blocks.append(block)
    if not is_changed:
        return message
    if added:
        blocks = [one for place, block in enumerate(blocks) for one in (*added.get(place, ()), block)]
    return Message(message.role, blocks)
