"""Adaptations: changes of an upstream request after the provider rejected it, such as `drop temperature`.

The proxy repeats the rejected request with such a change. Changes that later requests for the same model also need are
stored after the success, for the client of the request only: the words of an error may be those of the request. For
some, it is enough that the repetition is rejected for another reason. Pictures and documents are left out for the rest
of their conversation only, and only if the model is not known to accept them: the reason may be one of them. Decision
0016 has the table of all changes.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import partial

from msgspec import structs

from anthropic_proxy.engine.background import PayerWork
from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.provider_errors import rejects_configured_model
from anthropic_proxy.engine.messages.fidelity import FidelityNote, Handling
from anthropic_proxy.engine.messages.models import DocumentBlock, ImageBlock, MessagesRequest
from anthropic_proxy.engine.providers.model_observations import CONVERSATION_SECONDS, digest_beginning
from anthropic_proxy.engine.routing.replacements import find_successor
from anthropic_proxy.engine.routing.targets import Target, switch_wire
from anthropic_proxy.engine.wires.calls import Call, RelayCall
from anthropic_proxy.engine.wires.dialect import (
    REASONS_ALWAYS,
    REASONS_UNASKED,
    SYSTEM_MESSAGE,
    SYSTEM_REMINDER,
    TEMPLATE_SWITCH,
    UNOPENED_REASONING,
    Adaptation,
    BaseDialect,
)
from anthropic_proxy.engine.wires.failures import rejects_tool_result_images
from anthropic_proxy.errors import UnreadableReply, UnsupportedFeature, UpstreamError, UpstreamErrorCause


class Adaptations:
    """Changes that one client request needs for one model. Their names are added to the list `used_names`."""

    def __init__(
        self,
        engine: Engine,
        background: PayerWork,
        used_names: list[str],
        client: str,
        name_conversation: Callable[[Target], str],
    ) -> None:
        """`client`: `Client.id` of the sender. `name_conversation`: from `name_conversation` of this module."""
        self._engine = engine
        self._background = background
        self._client = client
        self._name_conversation = name_conversation
        self._used = used_names
        self.notes: list[FidelityNote] = []
        """Notes about the request fields that the adaptations change, for the fidelity report."""
        self.names: list[str] = []
        """Names of the changes after rejections by the provider, oldest first."""
        self._refused: list[bytes] = []
        """Digests of thinking signatures to remember once a request without them succeeds."""
        self._changes: list[tuple[str, Adaptation, str]] = []
        """Model, change of its request, and message of the error before it, oldest first, without guesses that were
        wrong."""

    async def find_adapted_target(self, target: Target, call: Call[BaseDialect], error: UpstreamError) -> Target | None:
        """Return a changed copy of `target` for the repetition of a rejected request. None: no change fits."""
        # the same message again: that change did not help, so it shows nothing about the model
        self._changes = [row for row in self._changes if row[2] != error.message]
        adaptations = await self._background.run_for_call(partial(_find_adaptations, target, error), call)
        if not adaptations and rejects_configured_model(error, target, self._engine.settings):
            successor = _find_successor(self._engine, target)
            adaptations = () if successor is None else (Adaptation(f"model {successor.model}"),)
        adapted: Target | None = target if adaptations else None
        for adaptation in adaptations:
            adapted = adapted and _apply_adaptation(self._engine, adapted, adaptation.name)
        if adapted is None:
            return None
        self.names += [adaptation.name for adaptation in adaptations]
        shown = [_shorten(adaptation.name) for adaptation in adaptations]
        names, provider = ", ".join(shown), target.provider.prefix
        change = _describe_limit(adaptations) or f"{names}, because of: {error.stored_message}"
        self._engine.log.write_once(f"{provider}/{target.model}: {change}")
        handling: Handling = "approximated" if target.is_relayed else "kept"  # the encoder notes any other loss
        fields = dict[str, None]()
        for adaptation in adaptations:
            verb, _, value = adaptation.name.partition(" ")
            fields[error.parameter or _FIELDS.get(verb, value)] = None
        self.notes += [FidelityNote(handling, field, f"{provider} refused it: {names}") for field in fields]
        self._used += shown
        self._refused += [digest for adaptation in adaptations for digest in adaptation.refused_thinking]
        verbs = {_verb(change) for change in adaptations}
        kept = [
            (model, change, message)
            for model, change, message in self._changes
            if _verb(change) not in _FROM_TEXTS and (not change.stored_name or _verb(change) not in verbs)
        ]
        self._changes = [*kept, *((target.model, change, error.message) for change in adaptations)]
        if adapted.model != target.model:
            return apply_stored_adaptations(self._engine, adapted, self._used, self._client, earlier=shown)
        if adapted.wire is not target.wire:  # the stored changes may concern a dialect of the other API only
            return apply_stored_adaptations(self._engine, adapted, self._used, self._client, earlier=self._used)
        return adapted

    def list_refused_thinking(self) -> frozenset[bytes]:
        """Return the digests of all thinking signatures that the next attempt leaves out."""
        known = self._engine.observations.list_refused_thinking(self._client)
        return frozenset((*known, *self._refused))

    def store_for_model(self, target: Target, *, is_rejected: bool = False) -> None:
        """Store the changes that later requests to the model also need.

        The changed request has succeeded. With `is_rejected`, it was rejected for a reason that no change avoids.
        """
        observations, upstream = self._engine.observations, target.upstream
        for model, change, _ in self._changes:
            if change.persistent and (change.stored_if_rejected or not is_rejected):
                if change.name in _CONTENT:
                    conversation = self._name_conversation(target)
                    observations.store_adaptation(upstream, model, change.name, conversation, CONVERSATION_SECONDS)
                    observations.store_adaptation(upstream, model, REFUSED_CONTENT, self._client)
                    continue
                observations.store_adaptation(upstream, model, change.stored_name or change.name, self._client)
            if change.stored_name:
                break  # later requests differ from this one, so what it needs besides shows nothing about them
        self._changes.clear()
        if not is_rejected:
            observations.remember_refused_thinking(self._refused, self._client)
            self._refused.clear()


def name_conversation(incoming: ClientRequest, request: MessagesRequest, target: Target) -> str:
    """Return a digest of client, session, model and first message, which is the same for all requests of a
    conversation.
    """
    receipt = incoming.receipt
    session = "" if incoming.cache_session else receipt.session
    scope = receipt.client.scope_session(session) or receipt.client.id
    first = request.messages[0].blocks if request.messages else []
    sources = [block.source for block in first if isinstance(block, ImageBlock | DocumentBlock)]
    files = hashlib.sha256("\n".join(f"{one.url}{one.file_id}{one.data}" for one in sources).encode(errors="replace"))
    name = f"{scope} {receipt.agent} {target.prefixed_id} {files.hexdigest()}"
    return digest_beginning(name, request.messages)


def apply_adaptations_of(engine: Engine, target: Target, used_names: list[str], key: str) -> Target:
    """Return `target` with the adaptations that are stored under `key`, a digest of a conversation
    (`name_conversation`) or the name of `name_reply_form`.
    """
    for name in engine.observations.find_adaptations(target.upstream, target.model, key):
        target = _apply_adaptation(engine, target, name) or target
        used_names.append(name)
    return target


def apply_stored_adaptations(
    engine: Engine, target: Target, used_names: list[str], client: str, *, earlier: Sequence[str] = ()
) -> Target:
    """Return `target` with the stored changes of its model for the requests of `client` (`Client.id`).

    `used_names` becomes `earlier` and the names of these.
    """
    used_names[:] = earlier
    names = engine.observations.find_adaptations(target.upstream, target.model, client)
    changes = (name for name in names if name not in _STORED_ELSEWHERE)
    for name in sorted(changes, key=lambda name: not name.startswith("wire ")):  # another API has a dialect of its own
        adapted = _apply_adaptation(engine, target, name)
        if adapted is None:
            continue
        if adapted.model != target.model:  # a new target, without the changes for the earlier model
            return apply_stored_adaptations(engine, adapted, used_names, client, earlier=[name])
        if (shown := _shorten(name)) not in used_names:
            used_names.append(shown)
        target = adapted
    return target


def find_learned_dialect(engine: Engine, target: Target, client: str) -> BaseDialect:
    """Return the dialect with the stored changes of the model for the requests of `client` (`Client.id`)."""
    return apply_stored_adaptations(engine, target, [], client).dialect


def correct_system_form(engine: Engine, target: Target, client: str, cached_before: int, cached: int) -> None:
    """Store that later requests of a client to a model have system messages inside the conversation in the other form.

    The cached tokens fell after such a message was sent to `target`. Both forms are accepted: no request becomes wrong,
    even if the tokens fell for another reason. If they fall in both forms, the text of the user stays, because no
    server moves that.
    """
    upstream, model = target.upstream, target.model
    for name, form, other in _SYSTEM_FORMS:
        if target.wire.apply_adaptation(target.dialect, name) == target.dialect:
            continue
        if name not in engine.observations.find_adaptations(upstream, model, client):
            engine.observations.store_adaptation(upstream, model, name, client)
            engine.log.write_once(
                f"{target.provider.prefix}/{model}: system messages inside a conversation are sent {form} from now on: "
                f"after one of them {other}, the cached input fell from {cached_before:,} to {cached:,} tokens"
            )
        return


def name_reply_form(incoming: ClientRequest) -> str:
    """Return the name under which the form of replies to the client, or to its session, is stored."""
    return f"replies to {incoming.learner}"


def store_reply_form(engine: Engine, target: Target, incoming: ClientRequest, *, is_unopened: bool) -> None:
    """Store whether the replies of a model begin with reasoning that has only an end tag, as the latest one shows."""
    observations, upstream, model = engine.observations, target.upstream, target.model
    key = name_reply_form(incoming)
    is_known = UNOPENED_REASONING in observations.find_adaptations(upstream, model, key)
    client = incoming.receipt.client.id
    is_marked = UNOPENED_REASONING in observations.find_adaptations(upstream, model, client)  # several keys of a person
    if is_unopened and not (is_known and is_marked):
        observations.store_adaptation(upstream, model, UNOPENED_REASONING, key)
        observations.store_adaptation(upstream, model, UNOPENED_REASONING, client)
        engine.log.write_once(
            f"{target.provider.prefix}/{model}: a reply had </think> without <think> before it, so the text of later "
            "replies is read as thinking up to this tag"
        )
    elif is_known and not is_unopened:
        observations.forget_adaptations(upstream, model, key)


_AS_TEXT, _WITH_ROLE = "as text of the user", "with their role"
_SYSTEM_FORMS = ((SYSTEM_REMINDER, _AS_TEXT, _WITH_ROLE), (SYSTEM_MESSAGE, _WITH_ROLE, _AS_TEXT))


def _verb(adaptation: Adaptation) -> str:
    return adaptation.name.partition(" ")[0]


def _describe_limit(adaptations: Sequence[Adaptation]) -> str:
    """Return what the proxy did after an error about too many tokens, whose text tells a client what to do. "": the
    error was another one.
    """
    found = {verb: value for verb, _, value in (adaptation.name.partition(" ") for adaptation in adaptations)}
    if "limit" not in found or not found.keys() <= {"limit", "window"}:
        return ""
    window = f" for a window of {int(found['window']):,} tokens" if "window" in found else ""
    return f"max_tokens limited to {int(found['limit']):,}{window}; sent again"


def _shorten(name: str) -> str:
    """Return the name of an adaptation for people. A client may send hundreds of betas."""
    words = name.split(" ")
    if len(words) <= _MAX_SHOWN_WORDS:
        return name
    return f"{' '.join(words[:_MAX_SHOWN_WORDS])} and {len(words) - _MAX_SHOWN_WORDS} more"


def _find_successor(engine: Engine, target: Target) -> Target | None:
    today = date.fromtimestamp(engine.clock())
    return find_successor(target, engine.settings, engine.catalog, today)


_FROM_TEXTS = ("limit", "window", "wire")
"""First words of changes that only the text of an error tells, which may quote the client. If the repetition with such
a change is rejected too, it is not stored: if the limit or API was real, a later request finds it."""
_MAX_SHOWN_WORDS = 12
_FIELDS = {
    "betas": "anthropic-beta",
    "documents": "messages.document",
    "effort": "output_config.effort",
    "images": "messages.image",
    "limit": "max_tokens",
    "minimum": "max_tokens",
    "model": "model",
    "role": "system",
    "thinking": "thinking",
    "window": "max_tokens",
    "wire": "tools",
}
"""First word of an adaptation → request field that it changes, if the error of the provider names no field."""


def _find_adaptations(target: Target, error: UpstreamError, call: Call[BaseDialect]) -> Sequence[Adaptation]:
    if isinstance(error, UnreadableReply):
        return ()  # its text may quote the model
    if error.cause is not None and (found := _find_by_cause(target, call, error.cause)):
        return found
    adaptation = target.wire.find_adaptation(call, error)
    if adaptation is None and rejects_tool_result_images(error.provider_text, error.parameter):
        return _find_by_cause(target, call, UpstreamErrorCause(kind="images"))
    return () if adaptation is None else (adaptation,)


def _find_by_cause(target: Target, call: Call[BaseDialect], cause: UpstreamErrorCause) -> Sequence[Adaptation]:
    if isinstance(call, RelayCall):
        return ()
    if (content := _CONTENT_OF_CAUSES.get(cause.kind)) is not None:
        name, capability = content
        facts = target.capabilities
        lasts = not (facts.features_known and getattr(facts, capability))
        without = structs.replace(call, request=structs.replace(call.request, **{capability: False}))
        with suppress(UnsupportedFeature):
            if target.wire.encode_request(call).body != target.wire.encode_request(without).body:
                return [Adaptation(name, persistent=lasts)]
        return []
    requested = call.request.max_tokens
    if cause.max_output_tokens is not None and cause.max_output_tokens < requested:
        return [Adaptation(f"limit {cause.max_output_tokens}")]
    if cause.max_tokens is None or cause.max_tokens >= requested:
        return []
    found = [Adaptation(f"limit {cause.max_tokens}", persistent=False)]
    return found if cause.context_window is None else [Adaptation(f"window {cause.context_window}"), *found]


NO_IMAGES, NO_DOCUMENTS = "images none", "documents none"
"""Names of two adaptations: later requests of the conversation contain no images, or no documents."""
_CONTENT = (NO_IMAGES, NO_DOCUMENTS)
_CONTENT_OF_CAUSES = {"images": (NO_IMAGES, "accepts_images"), "documents": (NO_DOCUMENTS, "accepts_pdf")}
"""Kind of a cause → adaptation, and the field of prepared requests and of models that says whether it is accepted."""
REFUSED_CONTENT = "content refused"
"""Name among the adaptations of a model: those of content are stored besides, each for its conversation."""
_STORED_ELSEWHERE = (REFUSED_CONTENT, UNOPENED_REASONING)
"""Names among the adaptations of a model and a client: something is stored for a conversation or session."""
_NUMBERS = {"limit": "max_output_from_error", "window": "context_window_from_error"}
_CAPABILITIES: Mapping[str, Mapping[str, object]] = {
    NO_IMAGES: {"rejects_images": True},
    NO_DOCUMENTS: {"rejects_documents": True},
    **{name: {"reasons": name.partition(" ")[2]} for name in (REASONS_UNASKED, REASONS_ALWAYS)},
}
"""Name of an adaptation → what it tells about the model. `_NUMBERS`: the same for the first word, with a number."""


def _apply_adaptation(engine: Engine, target: Target, name: str) -> Target | None:
    """Return a changed copy of `target`. None: the adaptation `name` cannot be applied to it."""
    verb, _, value = name.partition(" ")
    if verb == "wire":
        return switch_wire(target, value, engine.settings)
    if verb == "model":
        successor = _find_successor(engine, target)
        return successor if successor is not None and successor.model == value else None
    facts, found = target.capabilities, _CAPABILITIES.get(name)
    if verb in _NUMBERS and value.isdecimal():
        found = {_NUMBERS[verb]: int(value)}
    if found is not None:
        return structs.replace(target, capabilities=structs.replace(facts, **found))
    if name == TEMPLATE_SWITCH:
        switched = structs.replace(facts, efforts=facts.efforts or ("none", "medium"))
        target = structs.replace(target, capabilities=switched)
    return structs.replace(target, dialect=target.wire.apply_adaptation(target.dialect, name))
