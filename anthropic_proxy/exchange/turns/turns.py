"""`Turns`: one reply, made of as many upstream answers as it takes."""

from collections.abc import Sequence

from msgspec.structs import replace

from anthropic_proxy.exchange.answer import Answer
from anthropic_proxy.exchange.attempts import Attempts
from anthropic_proxy.exchange.turns.errands import Errands
from anthropic_proxy.exchange.turns.history import with_blocks, without_force
from anthropic_proxy.exchange.turns.step import Step
from anthropic_proxy.messages.deltas import Block, Delta, Stop, Usage
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.types import Message, MessagesRequest
from anthropic_proxy.messages.usage import with_spent

MOST_CALLS = 10
"""Upstream calls for one reply; then it pauses, as the API's own loop does, and the client may have it go on."""
_MOST_PIECES = 64
"""Answers that one reply of the model may come in: far more than a window has room for."""
_NATURAL = ("end_turn", "tool_use")
_ASKED_AGAIN = Note("emulated", "output_config.format", "the first reply did not fit; it was asked for again")


class Turns:
    """Reads like an `Answer`: lists of deltas, until the model has nothing more to say to us.

    `ahead` are deltas that stand before the first answer.
    """

    def __init__(
        self,
        attempts: Attempts,
        errands: Errands,
        request: MessagesRequest,
        answer: Answer,
        ahead: list[Delta],
    ) -> None:
        self._attempts = attempts
        self._errands = errands
        self._request = request
        """What was asked, and everything that was answered since."""
        self._max_tokens = request.max_tokens
        self._answer = answer
        self._ahead = ahead
        self._step = self._new_step()
        self._asked = self._pieces = 1
        self._spent: Usage | None = None
        """Totals of the upstream calls that have ended."""
        self._token = ""
        """What has the provider go on where it stopped; "": the model is asked anew."""
        self._due = False
        """Whether another upstream call comes next."""
        self._over = False

    @property
    def answer(self) -> Answer:
        """The upstream answer under way."""
        return self._answer

    @property
    def signature(self) -> str:
        """What an unsigned thinking block of this reply is signed with."""
        return self._answer.signature

    @property
    def ended(self) -> bool:
        """Not known: what was read last may be followed by more."""
        return False

    async def read(self) -> list[Delta] | None:
        """Return the next deltas; None at the end. Raises `UpstreamError` where an answer fails."""
        if self._ahead:
            ahead, self._ahead = self._ahead, []
            return ahead
        while not self._over:
            if self._due:
                await self._ask()
            deltas = await self._answer.read()
            free = await self._end_answer() if deltas is None else self._pass_on(deltas)
            if free:
                return free
        return None

    async def close(self) -> None:
        """End the upstream call."""
        await self._answer.close()

    def ask_again(self, words: str) -> bool:
        """Have the model answer once more after its reply, with an objection in words; False: it has no tokens left."""
        self._add_to_history([])
        if self._is_exhausted():
            return False
        messages = [*self._request.messages, Message("user", words)]
        self._request = replace(self._request, messages=messages)
        self._attempts.note(_ASKED_AGAIN)
        self._token, self._due, self._over = "", True, False
        return True

    def _new_step(self) -> Step:
        choice = self._request.tool_choice
        one_call = choice is not None and bool(choice.disable_parallel_tool_use)
        answer = self._answer
        return Step(self._attempts.owned, answer.signature, answer.call.new_id, one_call=one_call)

    def _pass_on(self, deltas: list[Delta]) -> list[Delta]:
        free = self._step.feed(deltas)
        if any(isinstance(delta, Usage) for delta in deltas):
            free.append(self._usage())
        return free

    def _usage(self) -> Usage:
        running = with_spent(self._step.usage, self._errands.usage)
        return running if self._spent is None else with_spent(self._spent, running)

    async def _ask(self) -> None:
        """Make the next upstream call of this reply."""
        self._due = False
        await self._answer.close()
        self._answer = await self._attempts.open_again(self._answer, self._request, self._token)
        if self._token:
            self._step.next_piece()
        else:
            self._asked += 1
            self._step = self._new_step()

    async def _end_answer(self) -> list[Delta]:
        """Decide how the reply goes on after an answer; return what the client gets of that."""
        step = self._step
        if step.stop is None:
            if self._answer.continuation:
                return self._go_on(self._answer.continuation)
            self._over = True
            return []  # nobody said that it is complete: the writer refuses it
        free = step.finish()
        if not step.calls or step.stop.reason not in _NATURAL:
            return [*free, *self._finish(step.stop)]
        takes_pdf = self._answer.call.request.pdf
        results = await self._errands.run(
            step.calls, self._request.messages, self._attempts.deferred, takes_pdf=takes_pdf
        )
        if step.calls_client:
            return [*free, *results, *self._finish(Stop("tool_use"))]
        self._add_to_history(results)
        if self._asked >= MOST_CALLS:
            return [*free, *results, *self._finish(Stop("pause_turn"))]
        if self._is_exhausted():
            return [*free, *results, *self._finish(Stop("max_tokens"))]
        self._token, self._due = "", True
        return [*free, *results]

    def _go_on(self, token: str) -> list[Delta]:
        """Have the provider go on with a reply that it cut."""
        usage, self._pieces = self._step.usage, self._pieces + 1
        self._end_call(usage)
        if self._is_exhausted() or self._pieces >= _MOST_PIECES or usage.output_tokens == 0:
            cutter = self._answer.cutter
            return [*(cutter.finish() if cutter is not None else ()), *self._finish(Stop("max_tokens"))]
        self._token, self._due = token, True
        return []

    def _finish(self, stop: Stop) -> list[Delta]:
        self._over = True
        return [self._usage(), stop]

    def _add_to_history(self, results: Sequence[Delta]) -> None:
        """Put what the client saw of this step into the request, and count the call."""
        content, tokens = self._step.content()
        usage = self._step.usage
        self._end_call(
            replace(
                usage,
                input_tokens=self._attempts.count(self._request) if usage.input_tokens is None else usage.input_tokens,
                output_tokens=tokens if usage.output_tokens is None else usage.output_tokens,
            )
        )
        blocks = [*content, *(result.raw for result in results if isinstance(result, Block))]
        request = without_force(with_blocks(self._request, blocks))
        left = None if self._max_tokens is None else max(self._max_tokens - self._said(), 1)
        self._request = replace(request, max_tokens=left)

    def _end_call(self, usage: Usage) -> None:
        self._spent = usage if self._spent is None else with_spent(self._spent, usage)
        self._step.usage = Usage()

    def _said(self) -> int:
        return (self._spent.output_tokens if self._spent is not None else None) or 0

    def _is_exhausted(self) -> bool:
        return self._max_tokens is not None and self._said() >= self._max_tokens
