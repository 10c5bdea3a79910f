"""One call of LiteLLM as an answer of Chat Completions."""

from collections.abc import Mapping
from typing import Any

import msgspec

from anthropic_proxy.upstream.litellm.engine import Engine, Library
from anthropic_proxy.upstream.litellm.faults import encode_failure, read_failure
from anthropic_proxy.upstream.litellm.spelling import Speller, spell_arguments
from anthropic_proxy.wire.contract import Credential, UpstreamRequest

_DONE = b"data: [DONE]\n\n"


class LiteLLMUpstream:
    """Sends requests through LiteLLM.

    `timeout`: seconds of silence that are allowed to a provider; the corridor's own limits end a call before.
    """

    def __init__(self, engine: Engine, timeout: float) -> None:
        self._engine = engine
        self._timeout = timeout

    async def send(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> "LiteLLMResponse":
        """Send and wait until the provider has accepted or refused; of a stream, until its first chunk.

        Raises `UpstreamUnreachable` where no provider answered, `UpstreamRefused` where LiteLLM is not installed.
        """
        response = LiteLLMResponse(self._engine)
        try:
            await self._engine.run(response.open(spell_arguments(request.body, self._timeout)))
        except BaseException:
            await response.close()
            raise
        return response

    async def close(self) -> None:
        """End LiteLLM's thread, where it was started."""
        await self._engine.close()


class LiteLLMResponse:
    """An `UpstreamResponse`. `open` and what is private run in the engine's loop, the rest in the caller's."""

    def __init__(self, engine: Engine) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self._engine = engine
        self._library: Library | None = None
        self._speller = Speller()
        self._stream: Any = None
        self._first = b""
        self._ended = False

    async def open(self, arguments: dict[str, Any]) -> None:
        """Make the call. `arguments`: what LiteLLM's `acompletion` takes."""
        library = self._library = self._engine.load(arguments["model"])
        try:
            answer = await library.complete(**arguments)
            if arguments.get("stream"):
                self._stream = answer
                self._first = await self._pull()
            else:
                self._first, self._ended = msgspec.json.encode(self._speller.spell(answer)), True
        except library.failures as error:
            failure = read_failure(error)
            if failure.unreachable is not None:
                raise failure.unreachable from error
            self.status, self.headers = failure.status, failure.headers
            self._first, self._ended = encode_failure(failure), True

    async def read(self) -> bytes:
        """Return the next frame, b"" at the end; of an answer that is no stream, the body."""
        if self._first or self._ended:
            first, self._first = self._first, b""
            return first
        return await self._engine.run(self._next())

    async def close(self, *, complete: bool = False) -> None:
        """End the call; where it was not read whole, the provider's connection is cut."""
        self._first, self._ended = b"", True
        self._engine.leave(self._end())

    async def _next(self) -> bytes:
        assert self._library is not None
        try:
            return await self._pull()
        except self._library.failures as error:
            self._ended = True
            return b"data: " + encode_failure(read_failure(error)) + b"\n\n"

    async def _pull(self) -> bytes:
        """Return the next chunk as a frame; b"" where the provider broke off."""
        try:
            chunk = await anext(self._stream)
        except StopAsyncIteration:
            self._ended = True
            return _DONE
        if self._is_made_up(chunk):
            self._ended = True
            return b""
        return b"data: " + msgspec.json.encode(self._speller.spell(chunk)) + b"\n\n"

    def _is_made_up(self, chunk: Any) -> bool:
        """Whether LiteLLM says how the reply ended though no provider said it: then it broke off.

        It ends every stream with a finish reason, `stop` where there was none.
        """
        if not any(choice.finish_reason for choice in chunk.choices):
            return False
        said = ("received_finish_reason", "intermittent_finish_reason")
        return hasattr(self._stream, said[0]) and not any(getattr(self._stream, name, None) for name in said)

    async def _end(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()
