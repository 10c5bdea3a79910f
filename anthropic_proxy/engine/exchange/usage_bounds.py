"""`UsageBounds`: the counts of one call to a provider that its request and reply can have.

Costs and budgets are computed from what a provider states. A stated count outside the bounds is left out, so that the
proxy's own estimate counts, and the receipt says so. The bounds are wide: providers add prompts of their own, repeat
the input for each of their searches, and think beyond the output limit.
"""

from operator import attrgetter

from msgspec import Struct, structs

from anthropic_proxy.engine.messages.deltas import CHARACTERS_PER_TOKEN, MAX_COUNT, Delta, Usage
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.engine.messages.media import may_have_media
from anthropic_proxy.engine.messages.models.tools import are_all_from_client
from anthropic_proxy.engine.messages.server_tools import USAGE_COUNTERS
from anthropic_proxy.engine.wires.calls import Call, TranslatedCall
from anthropic_proxy.engine.wires.dialect import BaseDialect

_MAX_WINDOW = 10_000_000
"""Context window of a model of which none is known: that of Llama 4 Scout, the largest one."""
_MAX_PASSES = 32
"""How often a provider may read the input for one reply, if it runs tools. Anthropic pauses after ten."""
_OWN_PROMPT_TOKENS = 262_144
"""Input tokens that a provider may add to a request of texts: its prompt, and what it has searched."""
_OWN_OUTPUT_TOKENS = 131_072
_OUTPUT_FACTOR = 4
"""How many times the output limit a reply may have, and how many tokens more: thinking may not count for the limit."""
_MAX_SEARCHES = 1_000
_NANODOLLARS_PER_TOKEN = 1_000_000
_NANODOLLARS_PER_CALL = 100_000_000_000
"""Maximum stated cost: $1,000 for a million tokens, and $100 for all else, such as searches and files."""

_INPUTS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens")
_OUTPUTS = ("output_tokens", "thinking_tokens")
_SEARCHES = (*USAGE_COUNTERS, "billed_searches")
_read_inputs = attrgetter(*_INPUTS)
_read_tokens = attrgetter(*_INPUTS, *_OUTPUTS)
_read_others = attrgetter(*_SEARCHES, "iterations", "stated_cost")
_read_billed = attrgetter("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")


class UsageBounds(Struct):
    max_input: int
    max_output: int
    estimated_input: int | None
    """Input tokens in place of a count out of bounds. None: the exchange estimates them."""
    provider: str
    report: FidelityReport
    estimates_output: bool = False
    """True after a count of the output was left out. An earlier one of the reply is partial."""
    has_input: bool = False
    """True after a report with input that the call can have. It is complete, so no later estimate replaces it."""

    def check_deltas(self, deltas: list[Delta]) -> list[Delta]:
        return [self.check(delta) if type(delta) is Usage else delta for delta in deltas]

    def check(self, usage: Usage) -> Usage:
        """Return the counts without those that the call cannot have."""
        counts = [*filter(None, _read_tokens(usage))]
        is_small = not counts or (min(counts) > 0 and sum(counts) <= min(self.max_input, self.max_output))
        if not is_small or any(_read_others(usage)):
            usage = self._check_each(usage)
        if usage.input_tokens is not None:
            self.has_input = self.has_input or any(_read_inputs(usage))
        return usage

    def _check_each(self, usage: Usage) -> Usage:
        usage = self._leave_out_impossible(usage)
        if usage.iterations is not None:
            usage = self._check_iterations(usage)
        if (cost := usage.stated_cost) is not None:
            tokens = sum(filter(None, _read_billed(usage)))
            if not 0 <= cost <= tokens * _NANODOLLARS_PER_TOKEN + _NANODOLLARS_PER_CALL:
                self._tell("cost", cost)
                usage = structs.replace(usage, stated_cost=None)
        return usage

    def _check_iterations(self, usage: Usage) -> Usage:
        """Return the counts without the iterations if these together cannot be those of the call."""
        read = sum(one.all_input_tokens for one in usage.iterations or ())
        written = sum(one.output_tokens for one in usage.iterations or ())
        if read <= self.max_input and written <= self.max_output:
            return usage
        self._tell("iterations", read if read > self.max_input else written)
        return structs.replace(usage, iterations=None)

    def _leave_out_impossible(self, usage: Usage) -> Usage:
        if usage.input_tokens == -1 and 0 < (usage.cache_read_tokens or 0) <= self.max_input:
            # Kimi's -1: the whole prompt came from the cache (kolega-code pull 473, read 2026-11-30)
            usage = structs.replace(usage, input_tokens=0)
        left_out = dict[str, None]()
        for names, maximum in ((_INPUTS, self.max_input), (_OUTPUTS, self.max_output), (_SEARCHES, _MAX_SEARCHES)):
            for name in names:
                count = getattr(usage, name)
                if count is not None and not 0 <= count <= maximum:
                    self._tell(name, count)
                    left_out[name] = None
        usage = structs.replace(usage, **left_out)
        cached = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
        if (total := cached + (usage.input_tokens or 0)) > self.max_input:
            self._tell("input_tokens", total)
            left_out |= dict.fromkeys(_INPUTS)
            usage, cached = structs.replace(usage, **left_out), 0
        self.estimates_output = self.estimates_output or "output_tokens" in left_out
        if "input_tokens" in left_out and self.estimated_input is not None and not self.has_input:
            usage = structs.replace(usage, input_tokens=max(self.estimated_input - cached, 0))
        return usage

    def _tell(self, name: str, count: int) -> None:
        field = f"usage.{name}"
        shown = f"{max(-MAX_COUNT, min(count, MAX_COUNT)):,}"
        if all(note.field != field for note in self.report.notes):
            instead = "estimated" if name in _INPUTS or name in _OUTPUTS else "left out"
            reason = f"{self.provider} states {shown}, which this call cannot have; {instead}"
            self.report.add_notes((FidelityNote("approximated", field, reason),))


def build_usage_bounds(
    call: Call[BaseDialect], sent_bytes: int, max_tokens: int, report: FidelityReport
) -> UsageBounds:
    """`sent_bytes`: size of the body that was sent. `max_tokens`: the output limit in it. 0: none."""
    request = call.request if isinstance(call, TranslatedCall) else None
    runs_tools = request is None or bool(request.tools and not are_all_from_client(request.tools))
    passes = _MAX_PASSES if runs_tools else 1
    max_input = max(call.context_window or _MAX_WINDOW, call.max_input_tokens or 0) * passes
    messages = () if request is None or runs_tools else request.messages
    if not may_have_media(messages):
        max_input = min(max_input, sent_bytes + _OWN_PROMPT_TOKENS)  # a token of text has a byte at least
    return UsageBounds(
        max_input=max_input,
        max_output=(max_tokens * _OUTPUT_FACTOR + _OWN_OUTPUT_TOKENS) * passes,
        estimated_input=sent_bytes // CHARACTERS_PER_TOKEN if request is None else None,
        provider=call.provider_prefix,
        report=report,
    )
