"""Blocks of server tools, which the official SDK reads, and the domain lists of web tools."""

from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types.beta import BetaContentBlock
from pydantic import TypeAdapter

from anthropic_proxy.engine.messages.server_blocks import is_url_allowed
from anthropic_proxy.engine.patterns import list_patterns
from tests.support.golden_runner import find_cases, read_message
from tests.support.messages import exactly

CALLS = ("server_tool_use", "mcp_tool_use")
SCENARIOS = sorted(
    folder
    for folder in find_cases()
    if folder.parent.parent.name != "anthropic"
    and (folder / "expected_events.sse").is_file()
    and not (folder / "expected_error.json").exists()
    and any(block["type"] in CALLS for block in read_message(folder)["content"])
)
_BLOCK: TypeAdapter[Any] = TypeAdapter(BetaContentBlock)


def streamed(events: bytes) -> Any:
    """Return the message that the official SDK makes of a stream."""
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, content=events, headers=headers))
    http_client = httpx2.Client(transport=transport)
    client = anthropic.Anthropic(api_key="k", base_url="http://test", http_client=http_client)
    asked: Any = [{"role": "user", "content": "?"}]
    with client, client.beta.messages.stream(model="m", max_tokens=1, messages=asked) as stream:
        return stream.get_final_message()


def given(fields: Any) -> Any:
    """Return JSON without fields that are null, because the SDK adds fields that are not there."""
    if isinstance(fields, dict):
        return {name: given(value) for name, value in fields.items() if value is not None}
    return [given(value) for value in fields] if isinstance(fields, list) else fields


@pytest.mark.parametrize("folder", SCENARIOS, ids=lambda folder: folder.name)
def test_the_official_sdk_reads_every_block(folder: Path) -> None:
    expected = read_message(folder)["content"]
    message = streamed((folder / "expected_events.sse").read_bytes())
    assert given([block.model_dump(mode="json") for block in message.content]) == given(expected)
    for block in expected:
        _BLOCK.validate_python(block)


@pytest.mark.parametrize("folder", SCENARIOS, ids=lambda folder: folder.name)
def test_every_call_that_a_provider_ran_has_its_result_behind_it(folder: Path) -> None:
    blocks = read_message(folder)["content"]
    owed: list[str] = []
    for block in blocks:
        if block["type"] in CALLS:
            owed.append(block["id"])
        elif block["type"].endswith("_tool_result"):
            owed.remove(block["tool_use_id"])
    assert owed == []


@pytest.mark.parametrize("url", ["https://example.com\\@good.test/", "https://", "https://[::1", "https://a b/"])
def test_an_address_that_two_readers_may_read_differently_passes_nowhere(url: str) -> None:
    assert not is_url_allowed(url, ["good.test"], [])
    assert not is_url_allowed(url, [], ["example.com"])


@pytest.mark.parametrize("path", ["/%62log/1", "/x/../blog/1", "//blog/1", "/blog/%2e%2e/other"])
def test_another_spelling_of_a_path_does_not_get_past_a_block(path: str) -> None:
    assert not is_url_allowed(f"https://example.com{path}", [], ["example.com/blog"])


@pytest.mark.parametrize(
    "entry",
    ["https://example.com", "*.example.com", "ex*.com", "", "example.com/*/a/*", "example.com?q", "a b", "a.test:80"],
)
def test_what_is_no_domain_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=r"is not a (domain|host)"):
        is_url_allowed("https://example.com/", [entry], [])


def test_a_long_entry_of_a_list_of_domains_is_refused() -> None:
    assert is_url_allowed("https://example.com/blog", ["example.com/" + "n" * 1_980, "example.com"], [])
    with pytest.raises(ValueError, match=exactly("a domain of 1,000,012 characters is too long; the maximum is 2,000")):
        is_url_allowed("https://example.com/", ["example.com/" + "n" * 1_000_000], [])


def test_a_long_list_of_domains_makes_no_compiled_pattern_for_each_entry() -> None:
    before = len(list_patterns())
    blocked = [f"d{number}.example.com/*x" for number in range(2_000)]
    assert is_url_allowed("https://d0.example.com/y", [], blocked)
    assert not is_url_allowed("https://www.d1999.example.com/yx/z", [], blocked)
    assert len(list_patterns()) - before < 10


def test_a_host_that_no_name_server_can_know_passes_nowhere() -> None:
    assert not is_url_allowed(f"https://{'a.' * 127}example.com/", [], ["example.org"])
