"""Web fetch: the proxy fetches web pages for a model, from public addresses only."""

from anthropic_proxy.upstream.web_fetch.fetcher import PageFetcher

__all__ = ["PageFetcher"]
