"""The fake prefix cache is as strict as the documents of the providers."""

from typing import Any

from tests.support.fakes.prefix_cache import CachePolicy, CachingProvider, PrefixCache


def part(letter: str, tokens: int) -> bytes:
    """Return a part of a prompt that has this many tokens with the separator behind it."""
    return letter.encode() * (tokens * 4 - 1)


def test_blocks_are_found_if_all_before_them_are_the_same() -> None:
    cache = PrefixCache(CachePolicy(block=128))
    a, b, c = (part(letter, 128) for letter in "abc")
    assert cache.feed([a, b]) == (256, 0)
    assert cache.feed([a, b, c, b"rest"]) == (385, 256)
    assert cache.feed([c, b]) == (256, 0)
    assert cache.feed([a, c]) == (256, 128)


def test_a_short_prompt_is_not_cached() -> None:
    cache = PrefixCache(CachePolicy(block=128, minimum=1_024))
    assert [cache.feed([part("a", 1_020)])[1] for _ in range(2)] == [0, 0]
    assert [cache.feed([part("a", 1_100)])[1] for _ in range(2)] == [0, 1_024]


def test_another_key_is_another_machine() -> None:
    cache = PrefixCache(CachePolicy(block=128))
    assert [cache.feed([part("a", 256), b""], key)[1] for key in ("one", "two", "one")] == [0, 0, 256]


def test_only_whole_earlier_requests_are_found_again() -> None:
    cache = PrefixCache(CachePolicy("requests"))
    a, b, c = (part(letter, 500) for letter in "abc")
    assert cache.feed([a, b])[1] == 0
    assert cache.feed([a, c])[1] == 0
    assert cache.feed([a, b, c])[1] == 1_000


def test_a_prompt_is_found_up_to_marks_only() -> None:
    cache = PrefixCache(CachePolicy("marks", marks="cache_control"))
    parts = [part(letter, 100) for letter in "abc"]
    assert cache.feed(parts)[1] == 0
    assert cache.feed(parts, marked=[1])[1] == 0, "nothing was marked before"
    assert cache.feed([*parts, part("d", 100)])[1] == 0, "no mark in this prompt"
    assert cache.feed([*parts, part("d", 100)], marked=[3])[1] == 200


def test_an_earlier_mark_is_found_at_most_twenty_parts_before_the_next() -> None:
    cache = PrefixCache(CachePolicy("marks", marks="cache_control"))
    parts = [part("a", 10)] * 30
    cache.feed(parts[:5], marked=[4])
    assert cache.feed(parts[:26], marked=[25])[1] == 0
    assert cache.feed(parts[:25], marked=[24])[1] == 50


def test_a_request_without_the_key_finds_nothing() -> None:
    policy = CachePolicy(block=128, keys=("x-grok-conv-id", "prompt_cache_key"))
    provider = CachingProvider(["one"] * 5, policy)
    body = {"messages": [{"role": "user", "content": "sea " * 1_000}]}
    for key in ({}, {}, {"prompt_cache_key": "a"}, {"prompt_cache_key": "a"}):
        provider.reply("chat", {**body, **key}, {})
    provider.reply("chat", {**body, "prompt_cache_key": "a"}, {"X-Grok-Conv-Id": "b"})
    assert [call.cached for call in provider.calls] == [0, 0, 0, 896, 0]


def test_a_prompt_of_the_messages_api_is_found_by_the_marks_of_its_blocks() -> None:
    provider = CachingProvider(["one"] * 6, CachePolicy("marks", minimum=1_000, marks="cache_control"))
    mark = {"cache_control": {"type": "ephemeral"}}

    def ask(*blocks: dict[str, Any], loaded: bool = False) -> int:
        tool = {"name": "Late", "input_schema": {"type": "object"}} | ({} if loaded else {"defer_loading": True})
        body = {"tools": [tool], "messages": [{"role": "user", "content": [*blocks]}]}
        reply = provider.reply("messages", body, {})
        assert sum(reply["usage"].values()) - 20 == provider.calls[-1].tokens
        return int(reply["usage"]["cache_read_input_tokens"])

    text, more = {"type": "text", "text": "sea " * 4_000}, {"type": "text", "text": "more"}
    assert ask(text | mark) == 0
    assert ask(text, more | mark) > 4_000, "the mark has moved"
    assert ask(text, more) == 0, "no mark"
    assert ask(text, *[more] * 25, more | mark) == 0, "too many blocks since the mark before"
    assert ask(text | mark, loaded=True) == 0, "a tool before the text"
    assert ask({"type": "text", "text": "sea"} | mark) == 0
