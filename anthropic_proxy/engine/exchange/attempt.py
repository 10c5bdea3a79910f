"""`Attempt`: one call to a target, and `TargetRun`: what all attempts at this target share."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.engine.exchange.adaptation import Adaptations
from anthropic_proxy.engine.exchange.relay import RelayStream
from anthropic_proxy.engine.exchange.upstream_stream import UpstreamStream
from anthropic_proxy.engine.messages.models import MessagesRequest, Tool
from anthropic_proxy.engine.messages.output_limit import ReplyEnd
from anthropic_proxy.engine.messages.preparation import ProxyTool
from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.engine.messages.tokens import TokenScale
from anthropic_proxy.engine.providers.model_observations import ModelObservations
from anthropic_proxy.engine.providers.prefix_guard import Prompt
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.wires.bound_requests import ClientOrigin
from anthropic_proxy.engine.wires.contract import BaseDialect, Call, Credential
from anthropic_proxy.errors import InternalError

MAX_RETRIES_PER_TARGET = 1
"""Maximum number of retries at one target after temporary failures."""
MAX_REPLACED_KEYS = 1
"""Maximum number of retries at one target with a key that was read again from its file or command."""
MAX_QUEUE_SECONDS = 5.0
"""Maximum seconds that a call waits, if another target follows, for a throttled provider (`requests_per_minute`), or
for the key of a command that its provider has rejected."""


class TargetRun(Struct):
    """What all attempts at one target share: the request, and the repetitions that are left."""

    request: MessagesRequest
    token_scale: TokenScale
    """How tokens of the model are estimated."""
    origin: ClientOrigin
    """Why the calls are made, and where they may lead."""
    adaptations_left: int
    key_changes: int = 0
    """How often the key was changed. The keys of the provider are a limit (`Credentials.max_key_changes`)."""
    retries_left: int = MAX_RETRIES_PER_TARGET
    key_replacements_left: int = MAX_REPLACED_KEYS
    is_message: bool = True
    """False: a request of `forwarding.py`. It is repeated with a key that was read again or a new access token, but not
    with another key, which has limits of its own for such requests and may belong to another workspace."""
    uses_first_key: bool = False
    requires_room: bool = False
    """True if a target before this one failed. A model whose window is known to be too small is then not called: its
    refusal would hide the failure, and the client would shorten a conversation that only had to be repeated."""
    has_next_target: bool = False
    """True if another target follows. This one is then skipped while its circuit is open, or if the call would wait for
    longer than `MAX_QUEUE_SECONDS`."""
    continuation: str | None = None
    """Token to continue a reply that the provider split. "": another call without a token. None: first call."""
    reply_end: ReplyEnd | None = None
    """Filter of the previous call, if this call continues its reply."""
    adaptations: Adaptations | None = None
    """Changes of the request after errors of the provider in this exchange. None: no change so far."""

    @property
    def max_queue_seconds(self) -> float | None:
        return MAX_QUEUE_SECONDS if self.has_next_target else None


class Attempt(Struct, kw_only=True):
    """One call to a target. It is filled step by step: prepared, encoded, sent, opened."""

    target: Target
    run: TargetRun
    call: Call[BaseDialect]
    """Input of the wire. A relay's body is removed when the reply begins, to free memory."""
    credential: Credential | None
    """None: the provider needs no key."""
    is_large: bool = False
    """True if a thread must encode the request, because it would occupy the event loop for too long."""
    proxy_tools: Mapping[str, ProxyTool] = {}
    """Name of a tool in calls of the model → the tool that the proxy runs in place of client or provider."""
    deferred_tools: Sequence[Tool] = ()
    """Tools that are not sent to the model until its tool search finds them."""
    upstream_path: str = ""
    """Path below the base URL. "": not encoded yet."""
    proves: str = ""
    """`UpstreamRequest.proves`."""
    prompt: Prompt | None = None
    """Its prompt, for the comparison with the one before. None: not encoded, no session, or too large."""
    reply_schema: ReplySchema | None = None
    """JSON Schema against which the proxy checks the reply. None: none requested, or the provider enforces it."""
    stream: UpstreamStream | RelayStream | None = None
    """The reply, whose first content has arrived. None: not opened."""

    def decoded(self) -> UpstreamStream:
        """Return the reply as deltas. Only such a reply can have further calls."""
        if not isinstance(self.stream, UpstreamStream):
            raise InternalError("a relay cannot continue a reply")
        return self.stream

    def store_lessons(self, observations: ModelObservations, client: str, *, is_rejected: bool = False) -> None:
        """Store for a client what the success of the call shows about the model, or its rejection that no adaptation
        avoids.
        """
        target = self.target
        if self.proves:
            observations.store_adaptation(target.upstream, target.model, self.proves, client)
        if self.run.adaptations is not None:
            self.run.adaptations.store_for_model(target, is_rejected=is_rejected)
