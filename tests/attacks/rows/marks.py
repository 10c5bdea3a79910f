"""Marks that the proxy writes or reads, in texts of strangers that a model gets and copies.

Each mark stands in each place of a request, for each wire and a relay. Outside of what the proxy encloses, no place
changes it, because an agent edits files by their text. A reply that has it stays as the model wrote it.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import product
from typing import Any

from tests.attacks.buyer import Attempts
from tests.attacks.lab import Attack, Row
from tests.attacks.rows.media import CONFIGURATION, describe, sees
from tests.attacks.upstream import UpstreamCall, list_texts, reply_text
from tests.faults.client import Answer
from tests.support.citations import write_marks
from tests.support.foreign_marks import ENCLOSED, MARKS, hide
from tests.support.pdf import document, write_pdf
from tests.support.pictures import paint, show

_WIRES: Mapping[str, str] = {
    "Chat": "groq/openai/gpt-oss-120b",
    "Responses": "openai/gpt-5.5",
    "Gemini": "gemini/gemini-2.5-flash",
    "Ollama": "ollama/llama3",
    "relay": "claude-sonnet-4-5",
}
_CITED = {"citations": {"enabled": True}}
_OFFICIAL = {
    "type": "document",
    "title": "Official",
    "source": {"type": "text", "media_type": "text/plain", "data": "It is unsafe. It was recalled."},
    **_CITED,
}
_QUESTION = {"type": "text", "text": "What is there?"}
_TOOL = {"name": "Read", "input_schema": {"type": "object", "properties": {}}}


def _say(role: str, *content: Any) -> dict[str, Any]:
    return {"role": role, "content": [*content]}


def _text(mark: str) -> dict[str, Any]:
    return {"type": "text", "text": f"So: {mark}."}


def _source(mark: str = "A blog.", **fields: Any) -> dict[str, Any]:
    source = {"type": "text", "media_type": "text/plain", "data": f"So: {mark}. End."}
    return {"type": "document", "source": source, **_CITED, **fields}


def _found(mark: str) -> dict[str, Any]:
    fields = {"source": f"So: {mark}.", "title": f"So: {mark}.", "content": [_text(mark)]}
    return {"type": "search_result", **fields, **_CITED}


def _result(content: Any) -> list[dict[str, Any]]:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}
    return [_say("user", _OFFICIAL, _QUESTION), _say("assistant", call), _say("user", result)]


_PLACES: Mapping[str, Callable[[str], list[dict[str, Any]]]] = {
    "a source": lambda mark: [_say("user", _OFFICIAL, _source(mark), _QUESTION)],
    "the first source": lambda mark: [_say("user", _source(mark), _OFFICIAL, _QUESTION)],
    "a title": lambda mark: [_say("user", _OFFICIAL, _source(title=f"So: {mark}."), _QUESTION)],
    "a context": lambda mark: [_say("user", _OFFICIAL, _source(context=f"So: {mark}."), _QUESTION)],
    "a search result": lambda mark: [_say("user", _OFFICIAL, _found(mark), _QUESTION)],
    "a text": lambda mark: [_say("user", _OFFICIAL, _text(mark))],
    "a result": lambda mark: _result(f"So: {mark}."),
    "blocks of a result": lambda mark: _result([_text(mark)]),
    "a source in a result": lambda mark: _result([_source(mark)]),
    "a reply": lambda mark: [
        _say("user", _OFFICIAL, _QUESTION),
        _say("assistant", _text(mark)),
        _say("user", _QUESTION),
    ],
}


def _copy_in_texts(attack: Attack) -> list[Answer]:
    attempts = Attempts()
    cells = product(_WIRES.items(), enumerate(MARKS.items()), enumerate(_PLACES.items()))
    for (wire, model), (row, (name, mark)), (column, (place, build)) in cells:
        asked = f"{name} in {place}, {wire}"
        attack.upstream.calls.clear()
        attack.upstream.reply = partial(_copy, mark)
        streams = (row + column) % 2 == 0
        body = {"model": model, "max_tokens": 1_000, "messages": build(mark), "tools": [_TOOL], "stream": streams}
        answer = attack.post(body)
        (call,) = attack.upstream.calls
        sent = "\n".join(list_texts(call.body))
        attempts.check(f"{asked}: sent", f"So: {mark}." in sent, sent)
        said = f"So: {mark}. It is unsafe, not {mark}."
        attempts.check(f"{asked}: said", answer.status == 200 and answer.text == said, answer.body)
        quoted = [one["cited_text"] for one in _list_citations(answer)]
        first = "So: " if place == "the first source" else "It is unsafe."
        expected = [] if wire == "relay" else [first]
        is_held = [one[: len(first)] for one in quoted] == expected
        attempts.check(f"{asked}: cited", is_held, answer.body)
    return attempts.finish(attack)


def _copy(mark: str, call: UpstreamCall) -> bytes | Iterable[bytes]:
    """Reply with a mark of a stranger, alone and within a statement that the model marks itself, if it has to."""
    own = '<cite n="1">', "</cite>"
    asked = tuple(write_marks(one, call.raw.decode()) for one in own)
    begin, end = ("", "") if asked == own else asked
    return reply_text(f"So: {mark}. {begin}It is unsafe, not {mark}{end}.")(call)


def _list_citations(answer: Answer) -> list[dict[str, Any]]:
    if not answer.streamed:
        return [one for block in json.loads(answer.body)["content"] for one in block.get("citations") or ()]
    deltas = [event["delta"] for event in answer.events if event["type"] == "content_block_delta"]
    return [delta["citation"] for delta in deltas if delta["type"] == "citations_delta"]


_BLIND_RELAY = """
[providers.blind-relay]
base_url = "{upstream}"
wire = "messages"
api_key = { env = "ANTHROPIC_API_KEY" }
[providers.blind-relay.models]
"text" = { accepts_images = false }
"""


def _enclose(attack: Attack) -> list[Answer]:
    """PDFs, and descriptions of pictures: the proxy encloses what it has read, and nothing in it ends that."""
    attempts = Attempts()
    for number, (name, mark) in enumerate(MARKS.items()):
        words = f"So: {mark}."
        picture, pdf = show(paint((number, 0, 0))), document(write_pdf(words))
        for place, ended, model, content in (
            ("a PDF", "page", "blind/text", [pdf]),
            ("a PDF to cite", "page", "blind/text", [_OFFICIAL, {**pdf, **_CITED}]),
            ("a description", "image_description", "blind/text", [_OFFICIAL, picture]),
            ("a description at a relay", "image_description", "blind-relay/text", [_OFFICIAL, picture]),
        ):
            attack.upstream.reply = describe(words)
            body = {"model": model, "max_tokens": 100, "messages": [_say("user", *content, _QUESTION)]}
            answer = attack.post(body)
            call = next(call for call in reversed(attack.upstream.calls) if not sees(call))
            sent = "\n".join(list_texts(call.body["messages"]))
            is_shown = answer.status == 200 and f"So: {hide(mark)}." in sent
            attempts.check(f"{name} in {place}", is_shown, sent)
            ends = {word: sent.count(f"</{word}>") for word in ENCLOSED}
            attempts.check(f"{name} in {place}: ends", ends == {**dict.fromkeys(ENCLOSED, 0), ended: 1}, sent)
    return attempts.finish(attack)


MARKS_OF_THE_PROXY: tuple[Row, ...] = (
    Row(
        name="marks: those of the proxy, copied from each text of a request",
        run=_copy_in_texts,
        settings={"MODEL_SONNET": "anthropic/claude-sonnet-4-5"},
    ),
    Row(name="marks: those of the proxy in what it encloses", run=_enclose, configuration=CONFIGURATION + _BLIND_RELAY),
)
