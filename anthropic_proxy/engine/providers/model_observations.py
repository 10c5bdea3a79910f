"""`ModelObservations`: facts about models that the proxy has learned from upstream replies, in a store.

An adaptation is a change of requests that a provider requires, such as a dropped field. The token scale of a model is
the ratio of real to estimated tokens, which corrects estimates. Each fact belongs to the client whose requests have
shown it: these may be the reason.
"""

import asyncio
import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from types import MappingProxyType

from msgspec import Struct

from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.messages.effort_plan import (
    EffortPlan,
    decode_plans,
    encode_plans,
    find_plan,
    follow_effort,
    keep_plan,
)
from anthropic_proxy.engine.messages.loaded_tools import DeferredToolPlaces, digest_tool_name
from anthropic_proxy.engine.messages.models import Message, TextBlock, ToolUseBlock
from anthropic_proxy.engine.messages.preparation import PreparedRequest
from anthropic_proxy.engine.messages.tokens import TokenScale
from anthropic_proxy.engine.providers.refused_parts import RefusedParts
from anthropic_proxy.engine.providers.token_families import find_token_family
from anthropic_proxy.engine.wires.dialect import shorten_name
from anthropic_proxy.errors import join_with_and

RETENTION_SECONDS = 7 * 24 * 3600.0
"""Seconds until a stored fact expires. A parameter that was dropped because of a stored adaptation is then sent
again."""
CONVERSATION_SECONDS = 24 * 3600.0
"""Seconds for which the efforts and the listed tools of a conversation are remembered. No provider caches a prompt for
longer."""
MAX_PLACED_TOOLS = 256
"""Maximum number of listed tools, and of loaded ones, that are remembered for a conversation."""
COUNT_PATH_SECONDS = 24 * 3600.0
"""Seconds for which it is remembered whether a server counts tokens at a path."""
COUNT_PAUSE_SECONDS = 60.0
"""Seconds for which a server is not asked for token counts after it has not answered one in time."""
MIN_SCALE, MAX_SCALE = 0.7, 1.6
"""Minimum and maximum token scale. A value outside is replaced by the nearer limit.

Larger deviations come from errors, or from text that the provider adds to the prompt."""
MAX_SIGNATURES = 16_384
"""Maximum number of remembered thinking signatures, of all conversations of all clients together."""
MIN_RECORDED_TOKENS = 1_000
"""Minimum estimated input tokens of a request from which the token scale is computed. In smaller requests, text that
the provider adds to the prompt would distort the ratio."""
MAX_ADAPTATIONS = 64
"""Maximum number of adaptations with the same first word that are stored for a client and a model. Made-up betas, which
the provider rejects, cannot remove limits."""
_REPLACING_VERBS = frozenset(("limit", "reasons", "window"))
"""First words of adaptations with a value, such as `limit 4096`. A new adaptation replaces a stored one with the same
first word."""
_KINDS_OF_REFUSALS = (
    *("adaptations:", "parts:", "part:", "part of all:", "searches:", "tested:"),
    *("form:", "failed:", "refused twice:"),
)
"""Beginnings of the keys of what refusals have shown."""
_SMOOTHING_FACTOR = 0.25
"""Weight (0 to 1) of the latest reply in the moving average of the token scale."""


class ForgottenRefusals(Struct, frozen=True):
    """What was known about the refusals of a model."""

    names: tuple[str, ...]
    """Names of adaptations and parts."""
    has_search: bool
    """True if requests searched for a refused part."""
    has_forms: bool
    """True if conversations had a plainer form."""

    def describe(self, model: str) -> str:
        listed = list(self.names)
        listed += ["a search for a refused part"] if self.has_search else []
        listed += ["the plainer forms of conversations"] if self.has_forms else []
        if not listed:
            return f"Nothing was known about refusals of {model}."
        return f"Forgotten about {model}: {join_with_and(listed)}."


class ModelObservations:
    """Facts about a server are stored with the digest of its settings. A request that began before a reload, or another
    worker, thus adds no fact about another server.
    """

    def __init__(self, store: MemoryValues, settings_digests: Mapping[str, str] = MappingProxyType({})) -> None:
        self.store = store
        self.settings_digests = settings_digests
        """Provider name → digest of the settings on which its replies depend."""
        self.count_locks: dict[str, asyncio.Lock] = {}
        """Server and path → lock of the first token count there, whose answer shows whether the server has the path."""
        self._refused_thinking: dict[str, dict[bytes, None]] = {}
        """`Client.id` → digests of thinking blocks that a model has rejected, and of tool loops that it accepts only
        without thinking, oldest first. The conversations that contain them need no rejected call in each later turn.
        """

    def continue_from(self, previous: "ModelObservations") -> None:
        """Use the facts of the observations before a reload."""
        self.store, self.count_locks = previous.store, previous.count_locks
        self._refused_thinking = previous._refused_thinking

    def list_refused_thinking(self, client: str) -> Collection[bytes]:
        return self._refused_thinking.get(client, ())

    def remember_refused_thinking(self, refused: Sequence[bytes], client: str) -> None:
        """The oldest digests of the client that has most make room for new ones."""
        if not refused:
            return
        self._refused_thinking.setdefault(client, {}).update(dict.fromkeys(refused))
        excess = sum(map(len, self._refused_thinking.values())) - MAX_SIGNATURES
        if excess > 0:
            largest = max(self._refused_thinking.values(), key=len)
            for digest in list(islice(largest, excess)):
                del largest[digest]

    def find_adaptations(self, upstream: str, model: str, client: str) -> tuple[str, ...]:
        """Return the names of the stored adaptations of a model for the requests of a client, oldest first.

        `client`: `Client.id` of the sender of the requests that taught them. All devices of a person have the same.
        """
        known = self.store.read(self._name_adaptations(upstream, model, client))
        return tuple(known.split("\n")) if known else ()

    def store_adaptation(
        self, upstream: str, model: str, adaptation: str, client: str, seconds: float = RETENTION_SECONDS
    ) -> None:
        """Store the name of an adaptation as the newest. The oldest of too many is removed.

        All adaptations of a client and a model end `seconds` after the first: a later one renews none.
        """
        verb = adaptation.partition(" ")[0]
        known = [name for name in self.find_adaptations(upstream, model, client) if name != adaptation]
        similar = [name for name in known if name.partition(" ")[0] == verb]
        removed = similar if verb in _REPLACING_VERBS else similar[: 1 - MAX_ADAPTATIONS]
        names = "\n".join((*(name for name in known if name not in removed), adaptation))
        key = self._name_adaptations(upstream, model, client)
        self.store.write(key, names, self.store.find_remaining_seconds(key) or seconds)

    def forget_adaptations(self, upstream: str, model: str, client: str) -> None:
        key = self._name_adaptations(upstream, model, client)
        self.store.write(key, "", self.store.find_remaining_seconds(key))

    def find_form(self, conversation: str) -> tuple[tuple[str, ...], int] | None:
        """Return the parts that the requests of a conversation leave out, and how often they have changed. None: none.

        `conversation` is a digest.
        """
        known = self.store.read(f"form:{conversation}")
        changes, _, names = (known or "").partition("\n")
        return (tuple(names.split("\n")), int(changes)) if changes.isdecimal() and names else None

    def store_form(self, conversation: str, left_out: Sequence[str], changes: int, *, renews: bool = True) -> None:
        """`renews`: False if a known form ends when it would have ended."""
        names = "\n".join(dict.fromkeys(left_out))
        key = f"form:{conversation}"
        seconds = 0.0 if renews else self.store.find_remaining_seconds(key)
        self.store.write(key, f"{changes}\n{names}", seconds or CONVERSATION_SECONDS)

    def find_refused_parts(self, upstream: str, model: str, wire: str, learner: str, account: str) -> RefusedParts:
        """Return what is known for the requests of one learner. `wire`: name of the API, which decides what the names
        of parts mean. `account`: see `RefusedParts`.
        """
        return RefusedParts(self.store, f"{self._name_server(upstream)}/{model} {wire}", learner, account)

    def forget_refusals(self, upstream: str, model: str) -> "ForgottenRefusals":
        """Forget for all clients what refusals of a model have shown: by their words, and without them."""
        place = f"{self._name_server(upstream)}/{model}"
        names, kinds = dict[str, None](), set[str]()
        for key in self.store.list_keys():
            kind, _, rest = key.partition(place)
            known = self.store.read(key)
            if not kind.startswith(_KINDS_OF_REFUSALS) or rest[:1] not in ("", " ") or not known:
                continue
            if kind.startswith("adaptations:"):
                names.update(dict.fromkeys(known.split("\n")))
            elif kind.startswith(("part:", "part of all:")):
                names[rest.partition(":")[2]] = None
            kinds.add(kind.partition(":")[0])
            self.store.write(key, "", self.store.find_remaining_seconds(key))
        return ForgottenRefusals(tuple(map(shorten_name, names)), "parts" in kinds, "form" in kinds)

    def follow_effort(self, conversation: str, request: PreparedRequest) -> EffortPlan:
        """Return the effort of a request as changes since its conversation began, and remember it."""
        key = "effort:" + digest_beginning(conversation, request.messages)
        known = decode_plans(self.store.read(key) or "")
        plan = follow_effort(find_plan(known, request.messages, request.effort), request.messages, request.effort)
        kept = keep_plan(known, request.messages, plan)
        self.store.write(key, encode_plans(kept), CONVERSATION_SECONDS)
        return plan

    def find_tool_places(self, conversation: str, messages: Sequence[Message]) -> DeferredToolPlaces | None:
        """Return what `store_tool_places` has stored for the conversation, as digests of names. None: this is its first
        request.

        After a compaction that keeps the first message, the numbers of messages say nothing, so they are 0.
        """
        parts = (self.store.read("places:" + digest_beginning(conversation, messages)) or "").split("|")
        if len(parts) != 4 or not parts[2].isdecimal():  # nothing, or the text of an instance with another version
            return None
        listed, placed, latest, second = parts
        is_valid = second == _digest_second(messages)
        pairs = (entry.partition(":") for entry in placed.split())
        counts = {digest: int(count) if is_valid and count.isdecimal() else 0 for digest, _, count in pairs}
        return DeferredToolPlaces(frozenset(listed.split()), counts, int(latest) + 2 if is_valid else 0)

    def store_tool_places(
        self,
        conversation: str,
        messages: Sequence[Message],
        known: DeferredToolPlaces | None,
        latest: DeferredToolPlaces,
    ) -> None:
        """Store where the deferred tools of a conversation are. `known` is what `find_tool_places` returned, `latest`
        has names.

        A tool that comes into the list after the first request stays there only if a search had loaded it before:
        otherwise the request lacks the newest messages, which name it.
        """
        listed = {digest_tool_name(name) for name in islice(latest.listed, MAX_PLACED_TOOLS)}
        placed = {digest_tool_name(name): latest.placed[name] for name in islice(latest.placed, MAX_PLACED_TOOLS)}
        if known is not None:
            listed = {*known.listed, *listed.intersection(known.placed)}
            placed = {**known.placed, **placed}
        entries = (f"{digest}:{count}" for digest, count in placed.items())
        parts = [" ".join(sorted(texts)[:MAX_PLACED_TOOLS]) for texts in (listed, entries)]
        key = "places:" + digest_beginning(conversation, messages)
        parts += [str(len(messages)), _digest_second(messages)]
        self.store.write(key, "|".join(parts), CONVERSATION_SECONDS)

    def record_checks(self, upstream: str, model: str, client: str, *, answered: bool) -> int:
        """Return how many replies had no checks of their tool calls. 0: the server has answered such a request."""
        key = f"checks:{client}:{self._name_server(upstream)}/{model}"
        known = self.store.read(key) or "0"
        is_answered = answered or not known.isdecimal()
        self.store.write(key, "yes" if is_answered else str(int(known) + 1), RETENTION_SECONDS)
        return 0 if is_answered else int(known) + 1

    def has_count_path(self, server: str, path: str, client: str) -> bool | None:
        """Return whether the server counts at this path, or has answered that it is unknown. None: not asked.

        The answer may be about an object that the request names, so that of one client is not used for another one.
        """
        known = self.store.read(f"counts:{client}:{self._name_server(server)}{path}")
        return None if known is None else known == "yes"

    def store_count_path(self, server: str, path: str, client: str, *, counts: bool) -> None:
        key = f"counts:{client}:{self._name_server(server)}{path}"
        self.store.write(key, "yes" if counts else "no", COUNT_PATH_SECONDS)

    def pause_counts(self, server: str, client: str) -> None:
        self.store.write(f"counts:{client}:{self._name_server(server)}", "late", COUNT_PAUSE_SECONDS)

    def pauses_counts(self, server: str, client: str) -> bool:
        return self.store.read(f"counts:{client}:{self._name_server(server)}") is not None

    def find_token_scale(self, provider: str, model: str, client: str, form: str = "") -> TokenScale:
        """Return how tokens of a model are estimated. Its factor is 1.0 without earlier replies to the client, whose
        texts decide about it. `form`: `Repair.form` of the request.
        """
        known = self.store.read(f"scale:{client}:{self._name_server(provider)}/{model}{form}")
        factor = None if known is None else _decode_scale(known)
        return TokenScale(find_token_family(model), factor or 1.0)

    def record_token_count(
        self, provider: str, model: str, client: str, estimated: int, counted: int, *, form: str = ""
    ) -> None:
        """Update the token scale of a model. `estimated` is the proxy's estimate without correction, at least
        `MIN_RECORDED_TOKENS`.
        """
        if counted <= 0:
            return
        key = f"scale:{client}:{self._name_server(provider)}/{model}{form}"
        scale = min(max(counted / estimated, MIN_SCALE), MAX_SCALE)
        if known := _decode_scale(self.store.read(key)):
            scale = known * (1 - _SMOOTHING_FACTOR) + scale * _SMOOTHING_FACTOR
        self.store.write(key, f"{scale:.4f}", RETENTION_SECONDS)

    def _name_adaptations(self, upstream: str, model: str, client: str) -> str:
        return f"adaptations:{client}:{self._name_server(upstream)}/{model}"

    def _name_server(self, upstream: str) -> str:
        """`upstream`: name of a provider, or name and host."""
        return f"{self.settings_digests.get(upstream.partition(' ')[0], '')} {upstream}"


@lru_cache(maxsize=64)
def _decode_scale(text: str | None) -> float | None:
    try:
        scale = decode_json(text or "", float)
    except InvalidJson:
        return None
    return scale if MIN_SCALE <= scale <= MAX_SCALE else None


def digest_beginning(conversation: str, messages: Sequence[Message]) -> str:
    """Return a hash of the name of a conversation and the texts of its first message.

    A client has several conversations with one name, such as that for titles: each begins with another message.
    """
    first = messages[0].blocks if messages else []
    texts = b"".join(bytes(block.text) for block in first if type(block) is TextBlock)
    return hashlib.sha256(conversation.encode(errors="replace") + b"\n" + texts).hexdigest()


def digest_first_reply(beginning: str, messages: Sequence[Message]) -> str:
    """Return a hash of the digest of a beginning and the texts and calls of the first reply.

    Some clients begin all conversations with the same message: the replies tell them apart.
    """
    place = next((place for place, message in enumerate(messages) if message.role == "assistant"), 1)
    return hashlib.sha256(f"{beginning} {_digest_second(messages[place - 1 :])}".encode()).hexdigest()


def _digest_second(messages: Sequence[Message]) -> str:
    """Return a hash of the texts and calls of the second message, which a compaction changes."""
    second = messages[1].blocks if len(messages) > 1 else []
    parts = (
        bytes(block.text) if isinstance(block, TextBlock) else block.id.encode(errors="replace")
        for block in second
        if isinstance(block, TextBlock | ToolUseBlock)
    )
    return hashlib.blake2b(b"\n".join(parts), digest_size=8).hexdigest()
