"""`Checked`: a reply that is held until it is known to be the JSON that was asked for."""

import asyncio

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.exchange.turns.turns import Turns
from anthropic_proxy.messages.conformity import Shape
from anthropic_proxy.messages.deltas import Block, Citation, Delta, Stop, Text, ToolCall, Usage
from anthropic_proxy.messages.usage import with_later

_COMPLETE = "end_turn"
"""The reason after which a reply is as it should be; one that was cut off, by a limit or by a stop sequence of the
client's, or refused need not keep to any schema."""
_AGAIN = "That is not the JSON that was asked for: {}. Answer again, with the JSON value alone."
_SAID = (Text, Citation)


class Checked:
    """Reads like an `Answer`. From its first text on a reply waits for its end, and is asked for once more if wrong.

    A reply that is the JSON is all of the text that the client gets: its SDK reads every text of it as JSON. Thinking
    and what the proxy or the provider ran is never lost, whatever becomes of the text before or after it.
    """

    def __init__(self, reply: Turns, shape: Shape) -> None:
        self._reply = reply
        self._shape = shape
        self._held: list[Delta] = []
        """Everything since the first text, in order."""
        self._stop: Stop | None = None
        self._calls_client = False
        """Whether a tool of the client's was called: then this is not yet the reply that has a schema."""
        self._usage = Usage()
        self._asked = 1
        self._over = False

    @property
    def signature(self) -> str:
        """What an unsigned thinking block of this reply is signed with."""
        return self._reply.signature

    @property
    def ended(self) -> bool:
        """Not known: what was read last may be followed by more."""
        return False

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
            elif self._held or isinstance(delta, Text):
                self._held.append(delta)
            else:
                free.append(delta)
        return free

    async def _end(self) -> list[Delta]:
        """Check what was held; return it, or ask for it once more."""
        stop, held = self._stop, self._held
        if stop is None or self._calls_client or stop.reason != _COMPLETE:
            return self._finish(held, stop)
        text = "".join(delta.text for delta in held if isinstance(delta, Text))
        # beside the loop: what a client's schema asks for may take a second, in which others are served
        json, problem = await asyncio.to_thread(self._find_json)
        if problem:
            return self._complain(problem)
        if json == text:
            return self._finish(held, stop)
        return self._finish([*self._held_beside_text(), Text(json)], stop)

    def _finish(self, deltas: list[Delta], stop: Stop | None) -> list[Delta]:
        self._over = True
        return [*deltas, self._usage, *([stop] if stop else [])]

    def _held_beside_text(self) -> list[Delta]:
        return [delta for delta in self._held if not isinstance(delta, _SAID)]

    def _find_json(self) -> tuple[str, str]:
        """Return the JSON and what is wrong with it. The last text has it: before a search models say what they do."""
        texts: list[list[str]] = [[]]
        for delta in self._held:
            if isinstance(delta, Text):
                texts[-1].append(delta.text)
            elif isinstance(delta, Block):
                texts.append([])
        said = [text for text in map("".join, texts) if text.strip()] or [""]
        found, problem = self._shape.find_json(said[-1])
        if problem and len(said) > 1 and not (whole := self._shape.find_json("".join(said)))[1]:
            return whole
        return found, problem

    def _complain(self, problem: str) -> list[Delta]:
        if self._asked > 1:
            provider = self._reply.answer.target.provider.name
            raise UpstreamProtocolError(
                f"{provider} was asked twice for a reply of the schema in output_config.format, and gave none: "
                f"{problem}.",
                provider=provider,
                retryable=False,
            )
        self._asked += 1
        if not self._reply.ask_again(_AGAIN.format(problem)):
            return self._finish(self._held, Stop("max_tokens"))
        beside = self._held_beside_text()
        self._held, self._stop = [], None
        return beside
