"""`BlockMark`: kind and start time of a content block in a reply, or the time at which the reply ended."""

BlockMark = tuple[str, str, float, int]
"""Block or end of a reply: kind, name of the called tool, time in seconds since the epoch, characters before it.

Kinds are `text`, `thinking`, `tool call`, and `server tool` for any other block. "" is the end of the reply. A block
ends where the next one begins.
"""
