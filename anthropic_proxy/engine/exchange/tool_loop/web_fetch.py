"""Web fetches that the proxy runs for a model."""

from datetime import UTC, datetime
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.exchange.tool_loop.proxy_calls import (
    MAX_TITLE_CHARACTERS,
    ToolContext,
    list_domains,
    run_each,
)
from anthropic_proxy.engine.messages.deltas import CHARACTERS_PER_TOKEN
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import Tool
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.server_blocks import Content, error_content, web_fetch_content
from anthropic_proxy.engine.upstream.contract import (
    DEFAULT_MEDIA_TYPES,
    MAX_URL_CHARACTERS,
    PDF_MEDIA_TYPE,
    TEXT_MEDIA_TYPES,
    FetchedPage,
)
from anthropic_proxy.engine.wires.bound_requests import WEB
from anthropic_proxy.errors import WebFetchFailed

_READ_PDF = FidelityNote("emulated", "messages.document", "the fetched PDF is sent as text, page by page")
_MAX_FETCHED_TOKENS = 100_000
"""Maximum tokens of a fetched page for the model. A longer page is truncated."""


async def _fetch(tool: Tool, arguments: dict[str, Any], context: ToolContext) -> Content:
    url = arguments.get("url")
    if not isinstance(url, str) or not url.strip():
        return error_content("web_fetch", "invalid_tool_input")
    if context.engine.web_fetch is None or WEB not in context.origin.servers:
        return error_content("web_fetch", "unavailable")
    if len(url) > MAX_URL_CHARACTERS:
        return error_content("web_fetch", "url_too_long")
    if not await context.engine.background.of(context.origin.payer).run_in_thread(context.known_urls.contains, url):
        return error_content("web_fetch", "url_not_in_prior_context")
    try:
        reads_pdf = context.accepts_pdf or context.engine.documents.is_installed
        media_types = DEFAULT_MEDIA_TYPES if reads_pdf else TEXT_MEDIA_TYPES
        origin = structs.replace(context.origin, purpose="web_fetch")
        fetched = await context.engine.web_fetch(origin, url, media_types=media_types, **list_domains(tool))
    except WebFetchFailed as error:
        return error_content("web_fetch", error.error_code)
    max_tokens = _MAX_FETCHED_TOKENS
    if tool.max_content_tokens is not None:
        max_tokens = max(min(tool.max_content_tokens, max_tokens), 0)
    citations = decode_values(tool.citations) if memoryview(tool.citations).nbytes else None
    room = max_tokens * CHARACTERS_PER_TOKEN
    title = (fetched.title or "")[: min(room, MAX_TITLE_CHARACTERS)]
    now = datetime.fromtimestamp(context.engine.clock(), UTC).isoformat(timespec="seconds")
    is_pdf = fetched.media_type == PDF_MEDIA_TYPE
    if is_pdf and context.accepts_pdf:
        source = {"type": "base64", "media_type": PDF_MEDIA_TYPE, "data": fetched.body_base64}
    else:
        text = await _read_pdf(fetched, context) if is_pdf else fetched.text or ""
        if is_pdf and not text:
            return error_content("web_fetch", "unsupported_content_type")
        if is_pdf:
            context.add_notes([_READ_PDF])
        source = {"type": "text", "media_type": "text/plain", "data": text[: max(room - len(title), 0)]}
    await context.count_fetched(len(source["data"]))
    return web_fetch_content(fetched.url, source, title or None, citations, now)


async def _read_pdf(fetched: FetchedPage, context: ToolContext) -> str:
    """Return the text of a PDF by page, for a model that reads no files. "": it has none, or cannot be read."""
    from anthropic_proxy.engine.messages.documents import write_pages  # noqa: PLC0415  # few need it

    background = context.engine.background.of(context.origin.payer)
    read = await context.engine.documents.read(background, fetched.body_base64, "none")
    return write_pages(read.pages) if any(page.text for page in read.pages) else ""


run_web_fetches = run_each(_fetch)
