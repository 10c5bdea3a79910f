"""Web searches that the proxy runs for a model, by the search service of the settings."""

from typing import Any

from msgspec import structs

from anthropic_proxy.engine.exchange.tool_loop.proxy_calls import (
    MAX_TITLE_CHARACTERS,
    ToolContext,
    list_domains,
    run_each,
)
from anthropic_proxy.engine.messages.models import Tool
from anthropic_proxy.engine.messages.server_blocks import Content, SearchResultPage, error_content, web_search_content
from anthropic_proxy.engine.wires.failures.quoted_prompts import find_quoted_texts
from anthropic_proxy.errors import WebSearchFailed

_RESULTS_ASKED = 10
_MAX_SNIPPET_CHARACTERS, _MAX_DATE_CHARACTERS = 10_000, 100
"""Maximum length of texts of a search service. Longer ones are truncated."""
_MAX_RESULT_URL_CHARACTERS = 2_000
"""Maximum length of the URL of a search result. A result with a longer one is left out."""


async def _search(tool: Tool, arguments: dict[str, Any], context: ToolContext) -> Content:
    query = arguments.get("query")
    if not isinstance(query, str) or not query.strip():
        return error_content("web_search", "invalid_tool_input")
    service = context.engine.web_search
    if service is None or service.service not in context.origin.servers:
        return error_content("web_search", "unavailable")
    try:
        origin = structs.replace(context.origin, purpose="web_search")
        results = await service.search(origin, query, **list_domains(tool), limit=_RESULTS_ASKED)
    except WebSearchFailed as error:
        if error.error_code in ("unavailable", "too_many_requests"):  # a failure of the service, not of the query
            error.quotes = find_quoted_texts(error.message, [" ".join(query.split())], "query")  # as it was sent
            context.engine.log.write_once(f"web_search failed: {error.stored_message}", "warning")
        return error_content("web_search", error.error_code)
    return web_search_content(
        SearchResultPage(
            result.url,
            result.title[:MAX_TITLE_CHARACTERS],
            result.snippet[:_MAX_SNIPPET_CHARACTERS],
            result.page_age and result.page_age[:_MAX_DATE_CHARACTERS],
        )
        for result in results
        if len(result.url) <= _MAX_RESULT_URL_CHARACTERS
    )


run_web_searches = run_each(_search)
