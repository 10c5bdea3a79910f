"""What the user wrote, and the earlier tool calls, in the body of a client request.

A user message has more than the words of the user. Claude Code adds files of the repository, texts of skills and
commands, output of programs, and messages of other sessions, most of them without a tag. A stranger can write all of
this, so only texts in places that Claude Code fills with the user's words count (observed with 2.1.332):

- a text of a message without tool results, unless it follows the name of a command: then it is the command's file
- beside tool results: the words in `The user sent a new message while you were working`, and texts behind
  `[Request interrupted by user`. Beside the result of a skill nothing counts, because the skill's file is such a text.

What a sub-agent gets as a message of the user was written by the model. So was the text of a planned wake-up.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.background import is_large
from anthropic_proxy.engine.messages.models.client_json import read_json
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.slices import give_way_between

_MAX_USER_TEXT, _MAX_USER_TEXTS = 4_000, 16_000
_TAG = compile_later(r"<(/?)(?:[a-z]{1,40}[-_][a-z_-]{1,60}|channel|input|tick)(?:>|(?=\s))")
"""Tags that Claude Code puts around texts that the user did not write: files, output, messages of others."""
_NOT_OF_USER = compile_anchored(
    r"(?:Another Claude session|A peer session|The coordinator|The .{1,80} plugin) sent |Your background observer "
    r"|A message arrived |Messages arrived |Activity was observed |[^\n:]{1,40} hook feedback\b|Caveat: "
    r"|Base directory for this skill:|This skill is served by |This session is being continued "
    r"|\[[A-Z -]{8,80}\]|\[handback-",
    most=200,
)
"""Beginnings of texts that Claude Code writes into user messages without a tag."""
_SUMMARY = "This session is being continued from a previous conversation"
"""Beginning of the summary of a compacted conversation, which the model wrote."""
_COMPACTION = "compaction"
"""Type of the block with such a summary, if the API compacts."""
_SUMMARY_LEFT_OUT = "(a summary of the earlier conversation by the agent is left out)"
_INTERRUPTED = "[Request interrupted by user"
_QUEUED = "The user sent a new message while you were working:\n"
_AFTER_QUEUED = "\n\nThis is how Claude Code surfaces "
_COMMAND = compile_anchored(r"<command-(?:message|name|args)>")
_CALL = "tool_use"
"""End of the types of all content blocks of calls. Those that a server runs may have written what the client runs."""
_TRANSCRIPT = "<transcript>"
"""Beginning of the conversation in a question of the client's classifier. CLAUDE.md stands before it."""
_READS_TEXT = frozenset(("Skill", "SlashCommand"))
"""Tools whose file Claude Code adds to the message with their result."""


class _Prompt(Struct):
    prompt: str | None = None


class _Block(Struct):
    type: str = ""
    text: str = ""
    name: str = ""
    id: str = ""
    tool_use_id: str = ""
    input: Raw = Raw(b"{}")  # immutable
    content: Raw = Raw(b"null")  # immutable


class _Message(Struct):
    role: str = ""
    content: str | list[_Block] = ""

    def list_blocks(self) -> Sequence[_Block]:
        return [_Block("text", self.content)] if isinstance(self.content, str) else self.content


class _Body(Struct):
    messages: list[_Message] = []


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_prompt = msgspec.json.Decoder(_Prompt).decode


class EarlierCall(Struct, frozen=True):
    tool: str
    input: str
    """Its input as JSON text."""


class Transcript(Struct, frozen=True):
    """What the check of every call of a reply shares."""

    user_messages: Sequence[str]
    earlier_calls: Sequence[EarlierCall]
    messages_left_out: int = 0
    """Number of messages of the user between the first and the latest ones."""
    agent_task: Sequence[str] = ()
    """What the model wrote to the sub-agent whose calls are checked, in place of `user_messages`."""

    @property
    def is_large(self) -> bool:
        """True if a thread reads the inputs of the earlier calls."""
        characters = sum(len(call.input) for call in self.earlier_calls)
        return is_large(characters, sum(call.input.count('"') for call in self.earlier_calls))


def read_transcript(body: bytes, *, is_subagent: bool = False) -> Transcript:
    """Return what the user wrote, and earlier calls, from the body of a client request.

    Raises `InvalidRequest` for a body that cannot be read.
    """
    messages = read_json(body, _decode_body).messages
    calls = [
        block
        for message in give_way_between(messages)
        if message.role == "assistant"
        for block in message.list_blocks()
        if block.type.endswith(_CALL)
    ]
    plain_calls = {call.id for call in calls} - {call.id for call in calls if call.name in _READS_TEXT}
    prompts = set[str]()  # which calls plan to send later as messages, such as that of a wake-up
    for call in give_way_between(calls):
        with suppress(msgspec.DecodeError):
            prompts.add((_decode_prompt(call.input).prompt or "").strip())
    turns = [list[_Block]()]  # summaries, and the blocks of the user messages between two messages of the model
    for message in give_way_between(messages):
        if message.role == "user":
            turns[-1] += message.list_blocks()
        elif message.role == "assistant":
            turns.append([block for block in message.list_blocks() if block.type == _COMPACTION])
    texts = [text for turn in turns for text in _list_user_texts(turn, plain_calls)]
    texts = [text for text in texts if not text or text not in prompts]
    first, latest, size = texts[:1], list[str](), 0
    for text in reversed(texts[1:]):
        size += min(len(text), _MAX_USER_TEXT)
        if size > _MAX_USER_TEXTS:
            break
        latest.append(text)
    shown = [shorten(text, _MAX_USER_TEXT) for text in (*first, *reversed(latest))]
    return Transcript(
        [] if is_subagent else shown,
        [EarlierCall(call.name, bytes(call.input).decode(errors="replace")) for call in calls],
        0 if is_subagent else len(texts) - len(shown),
        shown if is_subagent else [],
    )


def list_lines_of_question(body: bytes) -> list[str]:
    """Return the lines of the conversation in a question of the client's classifier, from the body of the request.

    Behind `<transcript>` each line is a JSON object: `{"user":"…"}`, `{"Bash":"…"}`. Without this tag, the lines of all
    messages are returned. Raises like `read_transcript`, and `ValueError` for a content block that is no text.
    """
    messages = read_json(body, _decode_body).messages
    blocks = [block for message in messages for block in message.list_blocks()]
    if any(block.type != "text" for block in blocks):
        raise ValueError("a question of the classifier consists of texts")
    before, tag, behind = "\n".join(block.text for block in blocks).partition(_TRANSCRIPT)
    return (behind if tag else before).split("\n")


def _list_user_texts(turn: Sequence[_Block], plain_calls: Collection[str]) -> Iterator[str]:
    """`plain_calls`: ids of the calls of tools to whose results no file is added."""
    answered = [block.tool_use_id for block in turn if block.type == "tool_result"]
    if not all(call in plain_calls for call in answered):
        return
    is_command, is_of_user = False, not answered
    for block in give_way_between(turn):
        text = block.text.strip()
        if block.type == _COMPACTION and bytes(block.content) != b"null":
            yield _SUMMARY_LEFT_OUT
        elif block.type != "text":
            continue
        elif text.startswith(_INTERRUPTED):
            is_of_user = True
        elif answered and text.startswith(_QUEUED):
            yield from _find_words_of_user(text[len(_QUEUED) :].rpartition(_AFTER_QUEUED)[0])
        elif is_command or not is_of_user:
            continue
        elif _COMMAND.match(text):
            is_command = True
            tags = ("command-name", "command-args")
            parts = (text.partition(f"<{tag}>")[2].rpartition(f"</{tag}>")[0].strip() for tag in tags)
            yield " ".join(filter(None, parts))
        elif text.startswith(_SUMMARY):
            yield _SUMMARY_LEFT_OUT
        else:
            yield from _find_words_of_user(text)


def _find_words_of_user(text: str) -> Iterator[str]:
    """Yield the words of the user in a text, if it has any."""
    words = remove_added_text(text).strip()
    if words and not _NOT_OF_USER.match(words):
        yield words


def remove_added_text(text: str) -> str:
    """Return a user text without what the client has put between tags.

    A file in it may contain tags, so all between the first and the last tag is removed.
    """
    first = last = None
    for last in give_way_between(_TAG.finditer(text)):
        first = first or last
    if first is None or last is None:
        return text
    return ("" if first[1] else text[: first.start()]) + (text[last.end() :] if last[1] else "")


def shorten(text: str, maximum: int) -> str:
    if len(text) <= maximum:
        return text
    half = maximum // 2
    return f"{text[:half]} …[{len(text) - 2 * half:,} characters left out]… {text[-half:]}"
