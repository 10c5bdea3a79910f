"""`BlockMark`: start of a content block in a reply (kind and time), or the end of the reply."""

BlockMark = tuple[str, str, float, int]
"""Block or end of a reply: kind, name of the called tool, time in seconds since the epoch, characters before it.

Kinds are `text`, `thinking`, `tool call`, and `server tool` for any other block. "" is the end of the reply. A block
ends where the next one begins.
"""
