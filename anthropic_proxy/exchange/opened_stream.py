"""`OpenedStream`: an upstream stream with its first content, and the attempt (request to a provider) that opened it."""

from typing import Generic, TypeVar

from msgspec import Struct

from anthropic_proxy.exchange.attempt_steps import TargetRun
from anthropic_proxy.exchange.call_building import AttemptState
from anthropic_proxy.exchange.relay import RelayStream
from anthropic_proxy.exchange.upstream_stream import UpstreamStream

_Stream_co = TypeVar("_Stream_co", bound=UpstreamStream | RelayStream, covariant=True)


class OpenedStream(Struct, Generic[_Stream_co], frozen=True):
    """An upstream reply that has sent its first content, and the attempt (request to a provider) that opened it."""

    stream: _Stream_co
    """Reply of the provider: deltas (`UpstreamStream`) or bytes of a relay (`RelayStream`)."""
    state: AttemptState
    """The upstream attempt that opened the stream: target, call and facts."""
    run: TargetRun
    """State of all attempts at the target, with the retries that are left."""


AnyOpenedStream = OpenedStream[UpstreamStream | RelayStream]
"""An opened stream of either kind: deltas (a decoded reply) or relayed bytes."""
