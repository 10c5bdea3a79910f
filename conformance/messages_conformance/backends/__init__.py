"""Scripted upstreams: they play the provider behind a proxy, and keep what the proxy sends."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from messages_conformance.backends.gemini.wire import Gemini
from messages_conformance.backends.messages.wire import Messages
from messages_conformance.backends.ollama.wire import Ollama
from messages_conformance.backends.openai.wire import OpenAI
from messages_conformance.backends.responses.wire import Responses
from messages_conformance.backends.server import ScriptedUpstream
from messages_conformance.backends.wire import Wire
from messages_conformance.rows import SuiteError
from messages_conformance.trial import UpstreamRequest

WIRES: Mapping[str, type[Wire]] = {
    "openai": OpenAI,
    "responses": Responses,
    "gemini": Gemini,
    "ollama": Ollama,
    "messages": Messages,
}
PROTOCOLS = tuple(WIRES)
LACKS: Mapping[str, frozenset[str]] = {
    "openai": frozenset({"written-tokens", "signatures", "upstream-citations", "many-tools", "upstream-messages"}),
    "responses": frozenset({"upstream-citations", "many-tools", "upstream-messages"}),
    "gemini": frozenset({"written-tokens", "upstream-citations", "upstream-messages", "upstream-one-call"}),
    "ollama": frozenset(
        {"written-tokens", "signatures", "upstream-forced-tools", "refusals", "cached-tokens", "thinking-tokens"}
        | {"upstream-citations", "upstream-messages", "upstream-one-call"}
    ),
}
"""Protocol → what its replies cannot say, of the needs of rows."""

NEEDS_OF_BACKENDS = frozenset({"backend"}).union(*LACKS.values())
"""Needs of rows that say nothing about the server under test."""


class Backend(Protocol):
    """A server that answers each trial with its scripted replies."""

    @property
    def url(self) -> str:
        """Base URL for the settings of the server under test."""
        ...

    def expect(self, trial: str, replies: Sequence[Mapping[str, Any]]) -> None:
        """Prepare the replies to the calls whose last token is `[trial TRIAL]`; the last one answers all further calls.

        Without replies, and for calls without a token, the upstream answers with a short text.
        """
        ...

    def tell(self, trial: str, event: str) -> None:
        """Say that the client of a trial has got an event of this type."""
        ...

    def take_requests(self, trial: str) -> list[UpstreamRequest]:
        """Return the calls of a trial so far, in their order, and forget the trial."""
        ...

    def close(self) -> None: ...


def start_backend(protocol: str, host: str, port: int, accepted: Collection[str] = ()) -> Backend:
    """Start a scripted upstream. Raises `SuiteError`.

    `accepted`: fields of a request that it takes although its API does not have them.
    """
    if protocol not in WIRES:
        raise SuiteError(f"there is no backend {protocol!r}; allowed: {', '.join(PROTOCOLS)}")
    try:
        return ScriptedUpstream(protocol, WIRES[protocol](), host, port, accepted)
    except OSError as error:
        raise SuiteError(f"the backend {protocol} cannot listen on {host}:{port}: {error}") from error
