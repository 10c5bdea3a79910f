"""Web fetch by the proxy, limited to public addresses."""

from anthropic_proxy.upstream.web_fetch.fetcher import PageFetcher

__all__ = ["PageFetcher"]
