"""The request field `compaction`, and the `compaction` blocks that it leads to.

Such a block has a signature, as in the API, so that a client notices what it has changed by mistake. The signature of
the proxy has digests and no secret: who can send a block can also send the conversation that it replaces. The block of
`context_management` has none. Rules and errors: platform.claude.com, "Compaction on demand", read 2026-11, and the
error types of the official SDK (anthropic 2.10).
"""

import hashlib
from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.base64url import decode_base64url, encode_base64url
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.models.context_edits import Compact, ContextEdit, Summarize
from anthropic_proxy.engine.messages.models.raw_json import ABSENT, is_present, validation_error, wrong_type_error
from anthropic_proxy.engine.messages.models.structs import (
    CompactionBlock,
    Message,
    ServerToolUseBlock,
    ToolUseBlock,
)
from anthropic_proxy.errors import InvalidRequest

_FIELD = "compaction"
_SUMMARIZE = "summarize"
_MAX_INSTRUCTION_CHARACTERS = 16_384
SIGNATURE_HEAD = "px1.compaction."


class _Config(Struct):
    type: str
    instructions: str | None = None


class _TaskBudget(Struct):
    remaining: Raw = ABSENT


class _Digests(Struct):
    content: str
    tool_changes: str


def decode_compaction(raw: Raw) -> Summarize:
    """Return the request field `compaction`. Raises `InvalidRequest`."""
    try:
        config = msgspec.json.decode(raw, type=_Config)
    except msgspec.ValidationError as error:
        raise validation_error(error, raw, _FIELD) from None
    if config.type != _SUMMARIZE:
        raise wrong_type_error(f"{_FIELD}.type", f"'{_SUMMARIZE}'", config.type)
    instructions = (config.instructions or "").strip()
    if len(instructions) > _MAX_INSTRUCTION_CHARACTERS:
        raise InvalidRequest(
            f"{_FIELD}.instructions: {len(instructions)} characters; at most {_MAX_INSTRUCTION_CHARACTERS} are allowed",
            code="compaction",
        )
    return Summarize(instructions)


def require_no_field_beside(given: dict[str, bool], task_budget: Raw) -> None:
    """Raise `InvalidRequest` for a field that cannot be combined with `compaction`. `given`: path → it was sent."""
    if len(task_budget) and has_remaining(task_budget):
        given = given | {"output_config.task_budget.remaining": True}
    for field, is_given in given.items():
        if is_given:
            raise InvalidRequest(f"{field}: cannot be combined with {_FIELD}", code="compaction")


def has_remaining(task_budget: Raw) -> bool:
    try:
        return is_present(msgspec.json.decode(task_budget, type=_TaskBudget).remaining)
    except msgspec.ValidationError:
        return False


def require_summarizable(messages: Sequence[Message]) -> None:
    """Raise `InvalidRequest` unless the messages are a conversation of complete turns."""
    turns = [message for message in messages if message.role != "system" and message.content]
    if not turns:
        raise _refuse("nothing_to_summarize", "messages: there is no content of user or assistant to summarize")
    last = turns[-1]
    if last.role == "assistant" and not isinstance(last.content, str):
        is_waiting = isinstance(last.content[-1], ServerToolUseBlock)
        if is_waiting or any(isinstance(block, ToolUseBlock) for block in last.content):
            raise _refuse(
                "incomplete_turn", "messages: the last turn ends with a tool call; send the results of its tools first"
            )


def require_valid_blocks(messages: Sequence[Message], edits: Sequence[ContextEdit]) -> None:
    """Raise `InvalidRequest` if a block is empty, or a signed one was changed, or is not the first one and alone, or
    stands together with an edit that summarizes (`tool_runner` of the official SDK says so of the API, anthropic 2.10).
    """
    found = [
        (place, index, block)
        for place, message in enumerate(messages)
        if not isinstance(message.content, str)
        for index, block in enumerate(message.content)
        if isinstance(block, CompactionBlock) and block.content is not None
    ]
    for place, index, block in found:
        if not block.content:  # the API accepts null only, for a summary that failed
            raise wrong_type_error(f"messages.{place}.content.{index}.content", "null or a text that is not empty", "")
    if not any(block.signature for *_, block in found):
        return
    if len(found) > 1:
        raise _refuse("block_ambiguous", f"messages: {len(found)} compaction blocks; send only the newest one")
    ((place, index, block),) = found
    path = f"messages.{place}.content.{index}"
    if (place, index) != (0, 0) or messages[0].role == "system":
        raise _refuse("block_misplaced", f"{path}: the compaction block must be the first block of the conversation")
    if block.signature and block.signature.startswith(SIGNATURE_HEAD):
        _verify(block, block.signature, path)
        # a block of another server may have a signature, although an edit has requested it
        if any(isinstance(edit, Compact) for edit in edits):
            raise InvalidRequest(
                f"context_management.edits: {Compact.type} cannot be combined with {path}, a compaction block that the "
                f"field {_FIELD} has requested; leave out the edit",
                code="compaction",
            )


def find_signed_block(messages: Sequence[Message]) -> bool:
    """Return True if the conversation begins with a block that the field `compaction` has requested."""
    content = messages[0].content if messages else ""
    first = content[0] if content and not isinstance(content, str) else None
    return isinstance(first, CompactionBlock) and bool(first.content and first.signature)


def sign_block(raw: Raw) -> str:
    """Return the signature of a block, which is given as JSON."""
    block = msgspec.json.decode(raw, type=CompactionBlock)
    digests = msgspec.json.encode(_Digests(_digest_content(block), _digest_changes(block)))
    return SIGNATURE_HEAD + encode_base64url(digests)


def _verify(block: CompactionBlock, signature: str, path: str) -> None:
    text = signature.removeprefix(SIGNATURE_HEAD)
    try:
        digests = msgspec.json.decode(decode_base64url(text), type=_Digests)
    except ValueError:  # msgspec's errors are ValueErrors too
        raise _refuse("signature_invalid", f"{path}.signature: it was changed; send the block as it came") from None
    if digests.content != _digest_content(block):
        raise _refuse("content_mismatch", f"{path}.content: it was changed; send the block as it came")
    if digests.tool_changes != _digest_changes(block):
        raise _refuse("tool_changes_mismatch", f"{path}.tool_changes: it was changed; send the block as it came")


def _digest_content(block: CompactionBlock) -> str:
    return _digest((block.content or "").encode(errors="replace"))


def _digest_changes(block: CompactionBlock) -> str:
    """Of what the proxy reads, because clients may write members in another order. "": the block has no changes."""
    if block.tool_changes is None:
        return ""
    read = [
        (
            type(change).__name__,
            tool.type,
            tool.name,
            decode_values(tool.definition) if len(tool.definition) else 0,
        )
        for change in block.tool_changes
        for tool in (change.tool,)
    ]
    return _digest(msgspec.json.encode(read, order="sorted"))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _refuse(code: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, details={"error_code": f"compaction_{code}"}, code="compaction")
