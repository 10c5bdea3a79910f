"""`RepeatableStream`: the reply of one upstream call, which is repeated if it is unreadable after thinking only."""

from anthropic_proxy.engine.exchange.attempts import Attempt, Attempts
from anthropic_proxy.engine.exchange.upstream_stream import DeltaStream
from anthropic_proxy.engine.messages.deltas import Delta, Thinking, Usage, mark_input_repeated, merge_latest, sum_usages
from anthropic_proxy.errors import UnreadableReply


class RepeatableStream(DeltaStream):
    """Its usage is the sum of both calls. Input of the failed call counts as repeated (`Usage.repeated_input`)."""

    has_one_call = True

    def __init__(self, attempts: Attempts, attempt: Attempt) -> None:
        self._attempts = attempts
        self.attempt = attempt
        """The call whose reply is read."""
        self._stream = attempt.decoded()
        self.default_signature = self._stream.default_signature
        # until something else than thinking is read, or the call is repeated
        self.may_send_again = True
        self._usage = Usage()
        self._spent: Usage | None = None
        """Token usage of the failed call. None: the call was not repeated."""

    @property
    def complete(self) -> bool:
        return self._stream.complete

    @property
    def continuation(self) -> str | None:
        return self._stream.continuation

    async def read(self) -> list[Delta] | None:
        try:
            deltas = await self._stream.read()
        except UnreadableReply as error:
            if not self.may_send_again:
                raise
            await self.close()
            self.attempt = await self._attempts.repeat_call(self.attempt, error, self._usage)
            self._stream = self.attempt.decoded()
            self._spent = mark_input_repeated(self._usage)
            self._usage = Usage()
            self.may_send_again = False
            return []
        for place, delta in enumerate(deltas or ()):
            if isinstance(delta, Usage):
                self._usage = merge_latest(self._usage, delta)
                if self._spent is not None and deltas is not None:
                    deltas[place] = sum_usages(self._spent, self._usage)
            elif not isinstance(delta, Thinking):
                self.may_send_again = False
        return deltas

    def flush_pending(self) -> list[Delta]:
        return self._stream.flush_pending()

    def release_request(self) -> None:
        self._stream.release_request()

    async def close(self) -> None:
        await self._stream.close()
