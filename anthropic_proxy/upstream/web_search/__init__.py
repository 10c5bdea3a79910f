"""Web search for models, by a search service that the user chooses: SearXNG, Brave, Tavily or Exa.

`client` sends a query and chooses the results. `searxng` and `keyed_services` encode requests and decode responses.
"""

from anthropic_proxy.upstream.web_search.client import MAX_QUERY_CHARACTERS, SearchClient, SearxngClient

__all__ = ["MAX_QUERY_CHARACTERS", "SearchClient", "SearxngClient"]
