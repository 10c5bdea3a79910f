"""Data structures and functions of the Messages API that do not depend on a provider.

`models` has the structs of requests and replies. Deltas (`deltas`) are the decoded pieces of a provider's reply. Events
(`events`) are the pieces of a streamed reply to the client.
"""
