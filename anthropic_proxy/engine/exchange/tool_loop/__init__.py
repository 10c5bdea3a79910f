"""Tool loop: several upstream calls for one reply to the client.

The proxy itself runs some tools: web search, web fetch, tool search. After the model calls such a tool, the proxy runs
it and calls the model again with the result. The proxy also makes another call if a provider splits a long reply, or if
a reply violates its JSON Schema. `Exchange` chooses it when the first call has been opened.
"""
