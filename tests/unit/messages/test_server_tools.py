"""Assignment of Anthropic's server tools: to the provider, to the proxy, or to neither."""

import json
from typing import Any

import pytest

from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.preparation import PreparationResult, TargetLimits, prepare
from anthropic_proxy.errors import InvalidRequest

SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
FETCH = {"type": "web_fetch_20250910", "name": "web_fetch"}
READ = {"name": "Read", "input_schema": {"type": "object"}}
OWNED = ("web_search", "web_fetch", "tool_search")


def prepared(*tools: dict[str, Any], limits: TargetLimits | None = None, **fields: Any) -> PreparationResult:
    body = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}], "tools": tools, **fields}
    return prepare(decode_request(json.dumps(body).encode()), limits or TargetLimits(provider="acme"))


def offered(preparation: PreparationResult) -> list[tuple[str, str | None]]:
    return [(tool.name, tool.type) for tool in preparation.request.tools]


def test_a_server_tool_without_a_name_gets_one_that_is_free() -> None:
    client = {"name": "web_search", "input_schema": {"type": "object"}}
    preparation = prepared(client, {"type": "web_search_20250305"}, limits=TargetLimits(proxy_tool_kinds=OWNED))
    assert offered(preparation) == [("web_search", None), ("web_search_2", None)]
    assert preparation.proxy_tools["web_search_2"].name == "web_search"


def test_what_the_proxy_does_not_heed_is_noted() -> None:
    preparation = prepared(
        {**SEARCH, "user_location": {"type": "approximate", "city": "Oslo"}},
        {**FETCH, "url_sources": {"user_input": "none"}},
        limits=TargetLimits(proxy_tool_kinds=OWNED),
    )
    assert [(note.handling, note.field) for note in preparation.notes if note.handling != "emulated"] == [
        ("approximated", "tools.web_search.user_location"),
        ("dropped", "tools.web_fetch.url_sources"),
    ]


@pytest.mark.parametrize("runs", ["provider", "proxy", "nobody"])
@pytest.mark.parametrize(
    ("fields", "expected_message"),
    [
        (
            {"allowed_domains": ["a.test", "https://b.test"]},
            r"tools.web_search.allowed_domains: 'https://b.test' is no",
        ),
        ({"blocked_domains": ["a b"]}, r"tools.web_search.blocked_domains: 'a b' is not a domain; use one such as"),
        ({"allowed_domains": ["*.a.test"]}, r"'\*.a.test' is not a domain"),
        (
            {"allowed_domains": ["a.test"], "blocked_domains": ["b.test"]},
            r"tools.web_search: allowed_domains \['a.test'\] and blocked_domains \['b.test'\] cannot be used together",
        ),
    ],
)
def test_domains_that_the_api_refuses_are_refused_at_once(
    fields: dict[str, Any], expected_message: str, runs: str
) -> None:
    limits = {
        "provider": TargetLimits(server_tools=("web_search",)),
        "proxy": TargetLimits(proxy_tool_kinds=OWNED),
        "nobody": TargetLimits(),
    }
    with pytest.raises(InvalidRequest, match=expected_message):
        prepared({**SEARCH, **fields}, limits=limits[runs])


def test_domains_with_paths_and_an_empty_list_beside_another_are_accepted() -> None:
    domains = {"allowed_domains": ["a.test/blog/*", "BÜCHER.test"], "blocked_domains": []}
    assert offered(prepared({**SEARCH, **domains}, limits=TargetLimits(proxy_tool_kinds=OWNED))) == [
        ("web_search", None)
    ]
