"""`BlockMark`: kind and start time of a content block in a reply, or the end of the reply. It has no content."""

BlockMark = tuple[str, str, float, int]
"""Kind of the block, name of the called tool, time in seconds since the epoch, and characters of the reply before it.

Kinds: `text`, `thinking`, `tool call`, `server tool` (any other block). "": the reply ends. A block ends where the next
one begins. It is a plain tuple, because each block of a reply adds one.
"""
