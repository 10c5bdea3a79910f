"""Assignment of Anthropic's server tools: to the provider, to the proxy, or to neither."""

import json
from typing import Any

import pytest

from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.preparation import PreparationResult, TargetLimits, prepare
from anthropic_proxy.errors import InvalidRequest, UnsupportedFeature
from tests.support.messages import exactly

SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
FETCH = {"type": "web_fetch_20250910", "name": "web_fetch"}
CODE = {"type": "code_execution_20250825", "name": "code_execution"}
READ = {"name": "Read", "input_schema": {"type": "object"}}
OWNED = ("web_search", "web_fetch", "tool_search")


def prepared(*tools: dict[str, Any], limits: TargetLimits | None = None, **fields: Any) -> PreparationResult:
    body = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}], "tools": tools, **fields}
    return prepare(decode_request(json.dumps(body).encode()), limits or TargetLimits(provider="acme"))


def offered(preparation: PreparationResult) -> list[tuple[str, str | None]]:
    return [(tool.name, tool.type) for tool in preparation.request.tools]


def test_what_the_provider_runs_stays_as_it_is() -> None:
    preparation = prepared(
        READ, SEARCH, FETCH, limits=TargetLimits(server_tools=("web_search", "web_fetch"), proxy_tool_kinds=OWNED)
    )
    assert offered(preparation) == [("Read", None), ("web_search", SEARCH["type"]), ("web_fetch", FETCH["type"])]
    assert not preparation.proxy_tools
    assert not preparation.notes


def test_what_the_proxy_runs_becomes_a_function_of_the_same_name() -> None:
    preparation = prepared(READ, SEARCH, limits=TargetLimits(proxy_tool_kinds=OWNED, provider="acme"))
    assert offered(preparation) == [("Read", None), ("web_search", None)]
    search = preparation.request.tools[1]
    assert json.loads(bytes(search.input_schema))["required"] == ["query"]
    assert search.description
    assert preparation.proxy_tools["web_search"].kind == "web_search"
    assert preparation.proxy_tools["web_search"].tool.max_uses == 5
    (note,) = preparation.notes
    assert (note.handling, note.field) == ("emulated", "tools.web_search")
    assert note.reason == "the proxy runs it; acme is not known to run web_search_20250305"


def test_what_nobody_runs_is_dropped_and_noted() -> None:
    preparation = prepared(READ, CODE, {"type": "mcp_toolset", "mcp_server_name": "x"}, tool_choice={"type": "any"})
    assert offered(preparation) == [("Read", None)]
    assert [(note.handling, note.field, note.reason) for note in preparation.notes] == [
        ("dropped", "tools.code_execution", "acme is not known to run code_execution_20250825"),
        ("dropped", "tools[2]", "acme is not known to run mcp_toolset"),
    ]


@pytest.mark.parametrize("choice", [{"type": "tool", "name": "code_execution"}, {"type": "any"}])
def test_a_tool_that_nobody_runs_cannot_be_forced(choice: dict[str, Any]) -> None:
    beside = [READ] if choice["type"] == "tool" else []
    with pytest.raises(
        UnsupportedFeature,
        match=exactly(
            f"tool_choice: '{choice['type']}' forces 'code_execution' (code_execution_20250825), "
            "which acme is not known to run"
        ),
    ):
        prepared(*beside, CODE, tool_choice=choice)


def test_a_tool_that_may_not_stand_beside_functions_becomes_one() -> None:
    alone = TargetLimits(
        server_tools=("web_search", "web_fetch"), server_tools_exclusive=True, proxy_tool_kinds=("web_search",)
    )
    assert offered(prepared(SEARCH, FETCH, limits=alone)) == [
        ("web_search", SEARCH["type"]),
        ("web_fetch", FETCH["type"]),
    ]
    preparation = prepared(READ, SEARCH, FETCH, limits=alone)
    assert offered(preparation) == [("Read", None), ("web_search", None)]
    assert [note.handling for note in preparation.notes] == ["emulated", "dropped"]
    assert preparation.notes[1].reason.endswith("together with functions")


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


def test_the_search_of_tools_is_offered_by_its_kind() -> None:
    regex = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    words = {"type": "tool_search_tool_bm25", "name": "tool_search_tool_bm25"}
    preparation = prepared(regex, words, READ, limits=TargetLimits(proxy_tool_kinds=OWNED))
    schemas = [json.loads(bytes(tool.input_schema)) for tool in preparation.request.tools[:2]]
    assert [schema["required"] for schema in schemas] == [["pattern"], ["query"]]
