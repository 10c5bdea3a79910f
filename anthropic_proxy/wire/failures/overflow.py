"""Requests that do not fit the window: the providers' many texts → the one that Anthropic's clients understand."""

import re
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from anthropic_proxy.wire.failures.fault import Fault

_N = r"(?P<n>\d[\d,]{0,19})"
_M = r"(?P<m>\d[\d,]{0,19})"
_A = r"(?P<a>\d[\d,]{0,19})"
_B = r"(?P<b>\d[\d,]{0,19})"
"""Numbers of tokens; Python refuses to read one of thousands of digits."""
_X = ".{0,400}?"
"""Other words between numbers: bounded, because several that are not would read a long text again from every word."""
_TEXTS = tuple(
    re.compile(text, re.IGNORECASE | re.DOTALL)
    for text in (
        rf"prompt is too long: {_N} tokens > {_M}",
        rf"input length and `?max_tokens`? exceed context limit: {_N} \+ {_B} > {_M}",
        rf"is too large: {_B}{_X}maximum context length is {_M}{_X}has {_N} input tokens",
        rf"maximum context length is {_M}{_X}requested {_B} output tokens{_X}contains (?:at least )?{_N} input",
        rf"maximum context length of {_M}{_X}total of \d+ tokens: {_A} tokens from the input{_X}"
        rf"{_B} tokens for the completion",
        rf"maximum (?:context|model) length (?:is|of) {_M}{_X}(?:resulted in|requested|contains|has) (?:at least )?{_N}"
        rf"(?: (?:input )?tokens)?(?: \({_A} (?:in|of|from) the (?:messages|text input|prompt|input){_X}"
        rf"{_B} (?:in|of|for|from) the (?:completion|output))?",
        rf"input tokens exceed the configured limit of {_M}{_X}{_N}",
        rf"input token count(?: \(?{_N}\)?)? exceeds the maximum number of tokens allowed \(?{_M}",
        rf"input token count is {_N} but model only supports up to {_M}",
        rf"maximum prompt length is {_M} but the request contains {_N}",
        rf"exceeded model token limit:? {_M} \(requested:? {_N}\)",
        rf"request \({_N} tokens\) exceeds the available context size \({_M}",
        rf"input \({_N} tokens\) is longer than the model's context length \({_M}",
        rf"input length \({_N} tokens\) exceeds the model's maximum context length \({_M}",
        rf"prompt token count of {_N} exceeds the limit of {_M}",
        rf"prompt contains {_N} tokens{_X}(?:too large for|exceeds){_X}{_M}",
        rf"requested tokens \({_N}\) exceed context window of {_M}",
        rf"maximum (?:context|model) length (?:is|of) {_M}",
        rf"reduce the length of the messages{_X}resulted in {_N} tokens",
    )
)
_MARKS = re.compile(
    r"context[_ ]length[_ ]exceeded|exceeds the context window|prompt is too long|reduce the length of the messages"
    r"|prompt is longer than the context length|input length exceeds the context length"
    r"|exceeds the available context size|greater than the context length|context window exceeds limit"
    r"|exceeds the model's maximum context|input is too long for requested model|exceed_context_size",
    re.IGNORECASE,
)
_CODES = frozenset(("context_length_exceeded", "exceed_context_size_error"))
_UNKNOWN_WINDOW = 128_000
"""Tokens that a model is taken to have room for where it was full and nobody says its size."""
_OTHERWISE = re.compile(r"per[- ](?:minute|day|hour)|\bTPM\b|rate limit|string_above_max_length", re.IGNORECASE)


class Overflow(Struct, frozen=True):
    """A request that does not fit."""

    message: str
    """In Anthropic's words: clients read the numbers and compact, or ask for less output."""
    parameter: Literal["messages", "max_tokens"]
    """What is too long: the input alone, or only together with the output that was asked for."""


def find_overflow(fault: Fault, window: int | None, estimate: Callable[[], int], asked: int) -> Overflow | None:
    """Return what does not fit, if that is what the fault is about.

    `window` and what `estimate` counts stand in for numbers that the provider does not say; `asked` is the output limit
    as sent.
    """
    if "string_above_max_length" in fault.codes or _OTHERWISE.search(fault.message):
        return None
    match = next((match for text in _TEXTS if (match := text.search(fault.message))), None)
    if match is None and not fault.codes & _CODES and not _MARKS.search(fault.message):
        return None
    said = {name: int(number.replace(",", "")) for name, number in match.groupdict().items() if number} if match else {}
    limit = said.get("m") or fault.window or window or _UNKNOWN_WINDOW
    tokens = said.get("a") or said.get("n") or fault.tokens or max(estimate(), limit + 1)
    output = said.get("b") or (asked if "n" in said else 0)
    if tokens <= limit < tokens + output:
        text = f"input length and `max_tokens` exceed context limit: {tokens} + {output} > {limit}"
        return Overflow(f"{text}, decrease input length or `max_tokens` and try again", "max_tokens")
    if tokens <= limit:  # the provider counted otherwise than what is known here
        tokens = limit + 1
    return Overflow(f"prompt is too long: {tokens} tokens > {limit} maximum", "messages")
