"""The quotations of Anthropic's server: what the model quotes becomes a citation.

The scripted model marks a quotation as `<cite n="2">words</cite>`, with the number of a sentence or block of the
sources in their order.
"""

import re
from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.messages.rules import blocks_of

_MARK = re.compile(r'<cite n="(\d+)">(.*?)</cite>')
_SENTENCE = re.compile(r"[^.]*\.\s*")


def split_at_quotations(text: str, body: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the texts of a reply with their citations. A reply to a request without sources has no quotations."""
    passages = [*_list_passages(body["messages"])]
    begin = 0
    for mark in _MARK.finditer(text) if passages else ():
        if mark.start() > begin:
            yield text[begin : mark.start()], []
        yield mark[2], [passages[int(mark[1]) - 1]]
        begin = mark.end()
    if begin < len(text) or not text:
        yield text[begin:], []


def _list_passages(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    documents = results = 0
    for block in (block for message in messages for block in blocks_of(message)):
        cites = (block.get("citations") or {}).get("enabled") if block["type"] != "text" else False
        if block["type"] == "document":
            about = {"document_index": documents, "document_title": block.get("title"), "file_id": None}
            documents += 1
            for sentence in _SENTENCE.finditer(block["source"].get("data", "")) if cites else ():
                place = {"start_char_index": sentence.start(), "end_char_index": sentence.end()}
                yield {"type": "char_location", "cited_text": sentence[0], **about, **place}
        elif block["type"] == "search_result":
            source = {"search_result_index": results, "source": block["source"], "title": block["title"]}
            results += 1
            for number, one in enumerate(block["content"] if cites else ()):
                place = {"start_block_index": number, "end_block_index": number + 1}
                yield {"type": "search_result_location", "cited_text": one["text"], **source, **place}
