"""Ids of the tool calls of one reply."""

import re

from anthropic_proxy.messages.models import ToolUseBlock
from anthropic_proxy.wire.contract import BaseDialect, Call

_KEEPABLE = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""Form of a call id that the Messages API accepts."""


class ToolCallIds:
    """Keeps upstream ids that are valid and unique, and replaces the others."""

    def __init__(self, call: Call[BaseDialect]) -> None:
        self._call = call
        self._used_ids: set[str] | None = None
        """Ids of the history and of this reply. None: no call yet."""

    def keep_or_renew(self, upstream_id: str | None) -> str:
        """Return the upstream id if it is well formed and unique in this reply and its history, else a new one."""
        if self._used_ids is None:
            blocks = (block for message in self._call.request.messages for block in message.blocks)
            self._used_ids = {block.id for block in blocks if isinstance(block, ToolUseBlock)}
        if not upstream_id or upstream_id in self._used_ids or not _KEEPABLE.fullmatch(upstream_id):
            upstream_id = self._call.new_id("toolu_px")
        self._used_ids.add(upstream_id)
        return upstream_id
