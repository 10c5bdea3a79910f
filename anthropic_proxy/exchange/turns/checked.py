"""`Checked`: a reply that is held until it is known to be the JSON that was asked for."""

from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.exchange.answer import Reply
from anthropic_proxy.exchange.turns.history import with_blocks
from anthropic_proxy.messages.conformity import Shape
from anthropic_proxy.messages.deltas import Delta, Stop, Text, Thinking, ToolCall, Usage
from anthropic_proxy.messages.types import Message, MessagesRequest
from anthropic_proxy.messages.usage import with_later, with_spent

_COMPLETE = "end_turn"
"""The reason after which a reply is as it should be; one that was cut off, by a limit or by a stop sequence of the
client's, or refused need not keep to any schema."""
_AGAIN = "That is not the JSON that was asked for: {}. Answer again, with the JSON value alone."


class Checked:
    """Reads like an `Answer`. Thinking passes at once; text waits for its end, and is asked for once more if wrong.

    `ask_again` gives the reply to the request with the wrong one and a complaint in it.
    """

    def __init__(
        self,
        reply: Reply,
        request: MessagesRequest,
        shape: Shape,
        *,
        provider: str,
        ask_again: Callable[[MessagesRequest], Awaitable[Reply]],
    ) -> None:
        self._reply = reply
        self._request = request
        self._shape = shape
        self._provider = provider
        self._ask_again = ask_again
        self._held: list[Delta] = []
        self._stop: Stop | None = None
        self._calls_client = False
        """Whether a tool of the client's was called: then this is not yet the reply that has a schema."""
        self._spent: Usage | None = None
        self._usage = Usage()
        self._asked = 1
        self._over = False

    @property
    def signature(self) -> str:
        """What an unsigned thinking block of this reply is signed with."""
        return self._reply.signature

    async def read(self) -> list[Delta] | None:
        """Return the next deltas; None at the end.

        Raises `UpstreamProtocolError` where also the second reply is not as it was asked for.
        """
        while not self._over:
            deltas = await self._reply.read()
            free = await self._end() if deltas is None else self._sort(deltas)
            if free:
                return free
        return None

    async def close(self) -> None:
        """End the upstream call."""
        await self._reply.close()

    def _sort(self, deltas: list[Delta]) -> list[Delta]:
        free: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Usage):
                self._usage = with_later(self._usage, delta)
            elif isinstance(delta, Stop):
                self._stop = self._stop or delta
            elif self._calls_client:
                free.append(delta)
            elif isinstance(delta, ToolCall):
                self._calls_client = True
                free += [*self._held, delta]
                self._held = []
            elif self._held or not isinstance(delta, Thinking):
                self._held.append(delta)
            else:
                free.append(delta)
        return free

    async def _end(self) -> list[Delta]:
        """Check what was held; return it, or ask for it once more."""
        stop, held = self._stop, self._held
        if stop is None or self._calls_client or stop.reason != _COMPLETE:
            self._over = True
            return [*held, self._totals(), *([stop] if stop else [])]
        text = "".join(delta.text for delta in held if isinstance(delta, Text))
        json, problem = self._shape.find_json(text)
        if problem:
            await self._complain(text, problem)
            return []
        self._over = True
        if json == text:
            return [*held, self._totals(), stop]
        return [*(delta for delta in held if not isinstance(delta, Text)), Text(json), self._totals(), stop]

    def _totals(self) -> Usage:
        return self._usage if self._spent is None else with_spent(self._spent, self._usage)

    async def _complain(self, text: str, problem: str) -> None:
        if self._asked > 1:
            raise UpstreamProtocolError(
                f"{self._provider} was asked twice for a reply of the schema in output_config.format, and gave none: "
                f"{problem}.",
                provider=self._provider,
                retryable=False,
            )
        self._asked += 1
        said = [Raw(msgspec.json.encode({"type": "text", "text": text}))] if text.strip() else []
        request = with_blocks(self._request, said) if said else self._request
        complaint = Message("user", _AGAIN.format(problem))
        await self._reply.close()
        self._reply = await self._ask_again(replace(request, messages=[*request.messages, complaint]))
        self._spent, self._usage = self._usage, Usage()
        self._held, self._stop = [], None
