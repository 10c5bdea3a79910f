"""`read_own_words`: an error of a provider without what its text quotes of the request.

Strangers write into requests: a page that says "your credit balance is too low" is no account without credit. So each
error of a provider passes this function before anything decides by its text. The client gets the whole text.
"""

from msgspec import structs

from anthropic_proxy.engine.messages.work_budget import WorkPostponed
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.calls import BaseCall
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.failures.error_body import UpstreamFault, find_retry_delay, remove_wrappers
from anthropic_proxy.engine.wires.failures.quoted_prompts import (
    MAX_BODY_BYTES,
    RequestWords,
    count_bytes_on_loop,
    list_texts,
)

_QUOTE = "…"
_OWN_WORD = compile_later(r"(?<![\w.\[\]/])[^\W\d_]{2,}(?![\w.\[\]/])")
"""A word that is no part of a path, such as `messages.0.content`."""
_MIN_OWN_WORDS = 2


def read_own_words(fault: UpstreamFault, call: BaseCall[BaseDialect], *, may_postpone: bool = False) -> UpstreamFault:
    """Return an error without what its text quotes of the request.

    A text that says nothing else is no quote: a client may ask about the error that it gets. A request that was freed
    cannot be compared, nor a very large one. `may_postpone`: True if the caller can repeat the work in a thread. A
    stream is read there as long as its frames may be compared with a large request (`count_bytes_on_loop`).
    """
    text = fault.message
    if not text or fault.is_unreadable_output:
        return fault
    sent = list_texts(call)
    if not 0 < len(sent) <= MAX_BODY_BYTES:
        return fault
    if may_postpone and call.max_schema_steps is not None and len(text) > count_bytes_on_loop(len(sent)):
        raise WorkPostponed
    own = text
    quotes = sorted(RequestWords(sent).find_passages(text), key=len, reverse=True)
    for quote in quotes:
        own = own.replace(quote, _QUOTE)
    if not quotes or not has_own_words(own):
        return fault
    stated = fault.without_texts or UpstreamFault()
    quoted = "\n".join(quotes).lower()
    parameter, delay = fault.parameter, fault.retry_after
    return structs.replace(
        fault,
        message=own,
        told=fault.told or text,
        codes=frozenset(code for code in fault.codes if code in stated.codes or code.lower() not in quoted),
        parameter=None if parameter and parameter.lower() in quoted else parameter,
        retry_after=delay if delay == stated.retry_after else find_retry_delay({}, None, own),
    )


def has_own_words(message: str) -> bool:
    """Return True if a text without its quotes says something, beside names of errors and places."""
    return len(_OWN_WORD.findall(remove_wrappers(message))) >= _MIN_OWN_WORDS
