"""How servers of the Messages API deviate from Anthropic's own."""

from msgspec import Struct


class Dialect(Struct, frozen=True, kw_only=True, cache_hash=True):
    """Quirks of one server. The defaults are Anthropic's."""

    checks_signatures: bool = True
    """Whether it refuses thinking and search results that it did not sign itself.

    True: search results without `encrypted_content`, which only other backends give, are cut out.
    False: Ollama, vLLM and llama.cpp read no signature (source: their servers' code, read 2026-11).
    Proven by: golden/anthropic/foreign_search, golden/anthropic/local_server_history.
    """
    keeps_thinking: bool = True
    """Whether thinking of earlier replies is sent. False: after it refused a signature that another server made.

    Proven by: tests/test_relay.py.
    """
    takes_client_headers: bool = True
    """Whether the client's headers are meant for it: betas, platform, session and whatever the user added.

    False: it gets the version and the type of the body only; betas are Anthropic's own, the rest tells whose machine
    this is.
    Proven by: golden/anthropic/local_server.
    """
    takes_client_data: bool = True
    """Whether `metadata`, `safeguards` and the billing line may reach it.

    False: they hold an account, a device and local paths, and the billing line differs from session to session, which
    spoils the prefix cache of servers that compare text.
    Proven by: golden/anthropic/local_server.
    """
    speaks_errors: bool = True
    """Whether its errors are Anthropic's in kind and words, so that they pass as they are.

    False: vLLM's kinds are `NotFoundError` and the like, OpenRouter's a number, and nobody else says an overflow in the
    words by which clients compact (source: vllm/entrypoints/anthropic/api_router.py, read 2026-11).
    Proven by: golden/anthropic/local_server_overflow.
    """
    counts: bool = True
    """Whether it has `/v1/messages/count_tokens`. False: Ollama (source: docs.ollama.com, Anthropic compatibility).

    Proven by: tests/test_relay.py.
    """
    lists: bool = True
    """Whether `/v1/models` is in Anthropic's shape. False: it is in OpenAI's everywhere else.

    Proven by: tests/test_relay.py.
    """
