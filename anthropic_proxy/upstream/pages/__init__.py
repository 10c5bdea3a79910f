"""Pages and links that the proxy fetches itself, past a guard against addresses that are not public."""

from anthropic_proxy.upstream.pages.fetching import Pages

__all__ = ["Pages"]
