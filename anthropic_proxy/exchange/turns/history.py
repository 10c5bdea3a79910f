"""The request of a reply that goes on: what the client has seen so far stands in it as the assistant's last message."""

from collections.abc import Sequence

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from anthropic_proxy.messages.types import Message, MessagesRequest
from anthropic_proxy.messages.types.blocks import read_blocks


def with_blocks(request: MessagesRequest, raws: Sequence[Raw]) -> MessagesRequest:
    """Return the request with these blocks at the end of the assistant's last message, or as one of its own."""
    if not raws:
        return request
    blocks = read_blocks(Raw(msgspec.json.encode(list(raws))), "messages")
    messages = [*request.messages]
    last = messages[-1]
    if last.role == "assistant":
        messages[-1] = Message("assistant", [*last.blocks, *blocks])
    else:
        messages.append(Message("assistant", blocks))
    size = request.size and request.size + sum(memoryview(raw).nbytes for raw in raws)
    return replace(request, messages=messages, size=size)


def without_force(request: MessagesRequest) -> MessagesRequest:
    """Return the request with its tools free: a call that was forced has been made."""
    choice = request.tool_choice
    if choice is None or choice.type not in ("any", "tool"):
        return request
    return replace(request, tool_choice=replace(choice, type="auto", name=None))
