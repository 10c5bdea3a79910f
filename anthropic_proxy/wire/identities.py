"""The ids under which a client knows the calls of one answer."""

import re

from anthropic_proxy.messages.types import ToolUseBlock
from anthropic_proxy.wire.contract import Call

_KEEPABLE = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What Anthropic takes back as the id of a call."""


class CallIds:
    """Keeps the upstream's ids where they can be the client's too, and renews the others."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._taken: set[str] | None = None
        """Ids of the history and of this answer; read when the first call comes."""

    def keep_or_renew(self, upstream_id: str | None) -> str:
        """Return the upstream's id if it is well formed, and new in this answer and its history; else a fresh one."""
        if self._taken is None:
            blocks = (block for message in self._call.request.messages for block in message.blocks)
            self._taken = {block.id for block in blocks if isinstance(block, ToolUseBlock)}
        if not upstream_id or upstream_id in self._taken or not _KEEPABLE.fullmatch(upstream_id):
            upstream_id = self._call.new_id("toolu_px")
        self._taken.add(upstream_id)
        return upstream_id
