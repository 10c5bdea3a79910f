"""Decoder of grounding, Google's term for web searches and URL fetches that the provider runs for a reply.

`GroundingDecoder` converts them to blocks and citations of the Messages API. Gemini sends the sources of a search last,
but a client needs the result block before the text that cites it. The decoder therefore buffers the text until the
sources are known. If the provider announces its tool calls, only text after such a call is buffered (recorded by the
project `pydantic/pydantic-ai`, cassettes test_google_model_web_search_tool_stream and
test_native_output_with_builtin_tools_stream, 2026-08).
"""

import re

from msgspec.structs import replace

from anthropic_proxy.messages.deltas import Citation, Delta, Text, Thinking, Usage
from anthropic_proxy.messages.server_blocks import (
    SERVER_TOOL_ID_PREFIX,
    FetchError,
    encode_citation,
    encode_fetch_call_and_result,
    encode_search_call_and_result,
    is_domain_allowed,
)
from anthropic_proxy.messages.server_blocks import SearchResultPage as Result
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.gemini.dialect import Dialect
from anthropic_proxy.wire.gemini.frames import GroundingMetadata, ServerToolCall, UrlContextMetadata, WebSource
from anthropic_proxy.wire.gemini.tools import GoogleTools

_FETCHED = "URL_RETRIEVAL_STATUS_SUCCESS"
_FETCH_ERRORS: dict[str, FetchError] = {
    "URL_RETRIEVAL_STATUS_ERROR": "url_not_accessible",
    "URL_RETRIEVAL_STATUS_PAYWALL": "url_not_accessible",
    "URL_RETRIEVAL_STATUS_UNSAFE": "url_not_allowed",
}
_DOMAIN = re.compile(r"[\w-]+(\.[\w-]+)+")


# If the provider announces its tool calls, only text after such a call is buffered (recorded by the project
# `pydantic/pydantic-ai`, cassettes test_google_model_web_search_tool_stream and
# test_native_output_with_builtin_tools_stream, 2026-08).
class GroundingDecoder:
    """Decoder of the web searches and URL fetches in one reply. It buffers text that later citations may refer to."""

    def __init__(self, call: Call[Dialect], own: GoogleTools) -> None:
        self._new_id = call.new_id
        self._own = own
        self._bills_replies = call.dialect.searches_billed_per_reply
        self._holds = not own.announces_calls and (own.can_search or own.cites_fetches)
        self._held: list[Delta] = []
        self._left: list[str] = []
        """Fragments of text that were returned without buffering. Late citations may refer to this text."""
        self._queries: dict[str, None] = {}
        self._sources: dict[str, WebSource] = {}
        self._fetched: set[str] = set()
        self._cited: list[tuple[str, list[WebSource]]] = []
        self._searches = 0

    def begin_search(self, use: ServerToolCall) -> None:
        """Record that Gemini called one of Google's own tools, with the search queries of the call.

        Gemini sends the citations of a text after the text itself. After the call, `feed_delta` therefore buffers text,
        and `release_buffered_deltas` adds the citations. Nothing is buffered if the request offers neither web search
        nor citations of fetched pages.
        """
        self._holds = self._holds or self._own.can_search or self._own.cites_fetches
        if use.args is not None:
            self._queries |= dict.fromkeys(query for query in use.args.queries or () if query)

    def feed_delta(self, delta: Delta) -> list[Delta]:
        """Add the next delta (piece of the reply) and return the deltas to send now. Empty list: it is buffered."""
        if self._held or (self._holds and isinstance(delta, Text)):
            self._held.append(delta)
            return []
        if isinstance(delta, Text):
            self._left.append(delta.text)
        else:
            self._left = []
        return [delta]

    def decode_url_fetches(self, context: UrlContextMetadata) -> list[Delta]:
        """Return a call block and a result block for each fetched URL that earlier frames did not contain.

        While text is buffered, these blocks are buffered too. After new URLs, a `Usage` delta has the number of all
        URLs that were fetched for the reply so far.
        """
        deltas: list[Delta] = []
        before = len(self._fetched)
        for source in context.url_metadata or ():
            url, status = source.retrieved_url, source.url_retrieval_status or ""
            if url and url not in self._fetched:
                self._fetched.add(url)
                error = None if status == _FETCHED else _FETCH_ERRORS.get(status, "unavailable")
                for block in encode_fetch_call_and_result(self._new_id(SERVER_TOOL_ID_PREFIX), url, error=error):
                    deltas += self.feed_delta(block)
        if len(self._fetched) > before:
            deltas.append(Usage(web_fetch_requests=len(self._fetched)))
        return deltas

    def record_search_results(self, grounding: GroundingMetadata) -> None:
        """Store the queries, sources and citations of a web search until `release_buffered_deltas` returns them."""
        self._queries |= dict.fromkeys(query for query in grounding.web_search_queries or () if query)
        sources = [chunk.web for chunk in grounding.grounding_chunks or ()]
        self._sources |= {source.uri: source for source in sources if source is not None and source.uri}
        for support in grounding.grounding_supports or ():
            passage = support.segment.text if support.segment else None
            indices = [index for index in support.grounding_chunk_indices or () if 0 <= index < len(sources)]
            cited = [source for source in (sources[index] for index in indices) if source is not None and source.uri]
            if passage and cited:
                self._cited.append((passage, cited))

    def release_buffered_deltas(self) -> list[Delta]:
        """Return the blocks of the recorded searches, then the buffered deltas with citations inserted.

        Citations of text that was returned without buffering come first, before the blocks.
        """
        deltas: list[Delta] = []
        found = {url: source for url, source in self._sources.items() if self._may_show(source)}
        if self._queries or self._own.cites_fetches or not self._sources.keys() <= self._fetched:
            _, cited = self._with_citations("".join(self._left))
            deltas += [delta for delta in cited if isinstance(delta, Citation)]
        else:
            self._cited = []
        results = [Result(url, source.title) for url, source in found.items() if url not in self._fetched]
        if self._queries or results:
            deltas += encode_search_call_and_result(
                self._new_id(SERVER_TOOL_ID_PREFIX), ", ".join(self._queries), results
            )
            self._searches += max(len(self._queries), 1)
            billed = 1 if self._bills_replies else self._searches
            deltas.append(Usage(web_search_requests=self._searches, billed_searches=billed))
        for delta in _joined(self._held):
            if isinstance(delta, Text):
                remainder, cited = self._with_citations(delta.text)
                deltas += [*cited, Text(remainder)] if remainder else cited
            else:
                deltas.append(delta)
        self._held, self._left, self._queries, self._sources, self._cited = [], [], {}, {}, []
        return deltas

    def _with_citations(self, text: str) -> tuple[str, list[Delta]]:
        """Split reply text at its cited passages.

        Return the text after the last cited passage, and deltas (texts and citations) for all text before it. A
        citation of a passage outside this text is kept for the next call.
        """
        deltas: list[Delta] = []
        missing: list[tuple[str, list[WebSource]]] = []
        start = 0
        for passage, sources in self._cited:
            place = text.find(passage, start)
            if place < 0:
                missing.append((passage, sources))
                continue
            deltas.append(Text(text[start : place + len(passage)]))
            deltas += [
                encode_citation(source.uri or "", source.title, passage) for source in sources if self._may_show(source)
            ]
            start = place + len(passage)
        self._cited = missing
        return text[start:], deltas

    def _may_show(self, source: WebSource) -> bool:
        """Return True if the client's domain lists allow a web page that the search found.

        The domain is read from the title of the page, because its URL is a redirect of Google.
        """
        domain = source.domain or source.title or ""
        url = f"https://{domain}" if _DOMAIN.fullmatch(domain) else source.uri or ""
        return is_domain_allowed(url, self._own.allowed_domains, self._own.blocked_domains)


def _joined(deltas: list[Delta]) -> list[Delta]:
    """Return the deltas with adjacent texts joined, because a cited passage may span several deltas."""
    joined: list[Delta] = []
    for delta in deltas:
        last = joined[-1] if joined else None
        if isinstance(delta, Text) and isinstance(last, Text):
            joined[-1] = Text(last.text + delta.text)
        elif isinstance(delta, Thinking) and isinstance(last, Thinking) and not last.signature:
            joined[-1] = replace(delta, text=last.text + delta.text)
        else:
            joined.append(delta)
    return joined
