"""`ToolCallIds`: assigns valid and unique ids to the tool calls of a reply, from the ids that the provider sent.

`assign_client_id` returns the id for one call. It differs from the ids of all earlier calls in the conversation.
"""

import re

from anthropic_proxy.messages.models import ToolUseBlock
from anthropic_proxy.wire.contract import BaseDialect, Call

_KEEPABLE = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""Pattern of the tool call ids that the Messages API accepts."""


class ToolCallIds:
    """Assigns the tool call ids of one reply. A valid and unique id of the provider is kept, any other is replaced."""

    def __init__(self, call: Call[BaseDialect]) -> None:
        self._call = call
        self._used_ids: set[str] | None = None
        """Tool call ids in the client's messages and in this reply. None: not collected yet."""

    def assign_client_id(self, upstream_id: str | None) -> str:
        """Return the id that the client receives for a tool call, and record it as used.

        A valid, unused id of the provider is kept.
        """
        if self._used_ids is None:
            blocks = (block for message in self._call.request.messages for block in message.blocks)
            self._used_ids = {block.id for block in blocks if isinstance(block, ToolUseBlock)}
        if not upstream_id or upstream_id in self._used_ids or not _KEEPABLE.fullmatch(upstream_id):
            upstream_id = self._call.new_id("toolu_px")
        self._used_ids.add(upstream_id)
        return upstream_id
