"""Citations of documents and search results, as the official SDK reads them, from models that cannot cite."""

from typing import Any

import anthropic
import pytest

from tests.support.sdk import MODEL
from tests.support.shared_servers import every_kind
from tests.support.wires import Upstream

CITED = {"enabled": True}
GRASS = "The grass is green. The sky is blue."
SOURCES: Any = [
    {
        "type": "document",
        "title": "Nature",
        "citations": CITED,
        "source": {"type": "text", "media_type": "text/plain", "data": GRASS},
    },
    {
        "type": "search_result",
        "source": "https://example.org/sea",
        "title": "The sea",
        "citations": CITED,
        "content": [{"type": "text", "text": "The sea is blue."}],
    },
]


def ask(words: str) -> dict[str, Any]:
    content = [*SOURCES, {"type": "text", "text": f"Say exactly: {words}"}]
    return {"model": MODEL, "max_tokens": 4_000, "messages": [{"role": "user", "content": content}]}


def read_blocks(message: Any) -> list[tuple[str, list[Any]]]:
    """Return text and citations of each block of text."""
    blocks = [block for block in message.content if block.type == "text"]
    return [(block.text, [one.to_dict() for one in block.citations or []]) for block in blocks]


@every_kind
def test_marks_of_the_model_become_citations_with_their_places(client: anthropic.Anthropic, wire: Upstream) -> None:
    request = ask('The <cite n="2">sky</cite> and <cite n="3">the sea</cite> are.')
    whole = client.messages.create(**request)
    with client.messages.stream(**request) as stream:
        streamed = stream.get_final_message()
    assert read_blocks(streamed) == read_blocks(whole)
    texts, cited = zip(*read_blocks(whole), strict=True)
    assert texts == ("The ", "sky", " and ", "the sea", " are.")
    assert [*cited] == [
        [],
        [
            {
                "type": "char_location",
                "cited_text": GRASS[20:36],
                "document_index": 0,
                "document_title": "Nature",
                "file_id": None,
                "start_char_index": 20,
                "end_char_index": 36,
            }
        ],
        [],
        [
            {
                "type": "search_result_location",
                "cited_text": "The sea is blue.",
                "search_result_index": 0,
                "source": "https://example.org/sea",
                "title": "The sea",
                "start_block_index": 0,
                "end_block_index": 1,
            }
        ],
        [],
    ]
    is_numbered = ["[2] The sky is blue." in str(body) for body in wire.bodies]
    assert is_numbered == [not wire.kind.has_native_features] * 2


def test_a_reply_with_all_fields_of_its_type_is_read_again(client: anthropic.Anthropic, wire: Upstream) -> None:
    """`file_id` is null in replies, and no field of requests: Anthropic's server refuses what the proxy reads over."""
    request = ask('The <cite n="2">sky</cite> is.')
    reply = client.messages.create(**request)
    content: Any = [block.model_dump() for block in reply.content if block.type == "text"]
    assert [one["file_id"] for block in content for one in block["citations"] or []] == [None]
    request["messages"] += [{"role": "assistant", "content": content}, {"role": "user", "content": "Say exactly: Yes"}]
    assert read_blocks(client.messages.create(**request)) == [("Yes", [])]


def test_some_documents_without_citations_are_refused_as_the_api_does(client: anthropic.Anthropic) -> None:
    request = ask("never")
    plain = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Not cited."}}
    request["messages"][0]["content"].append(plain)
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**request)
    with pytest.raises(anthropic.BadRequestError) as not_counted:
        client.messages.count_tokens(model=MODEL, messages=request["messages"])
    for error in (refused.value, not_counted.value):
        assert error.body == {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": (
                    "messages.0.content.3.citations: each document of a request must have citations enabled, or none; "
                    "messages.0.content.0 has, and messages.0.content.3 has not"
                ),
            },
            "request_id": error.request_id,
        }


@every_kind
def test_a_count_has_the_instruction_and_the_numbers_of_passages(client: anthropic.Anthropic, wire: Upstream) -> None:
    uncited: Any = [{name: value for name, value in source.items() if name != "citations"} for source in SOURCES]
    counts = [
        client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": content}]).input_tokens
        for content in (uncited, SOURCES)
    ]
    # a server that cites by itself needs no instruction
    assert counts[1] - counts[0] > (0 if wire.kind.has_native_features else 80)


def test_citations_of_a_reply_in_a_given_format_are_refused_as_the_api_does(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**ask("never"), output_config={"format": {"type": "json_schema", "schema": schema}})
    assert refused.value.body == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "output_config.format: a reply in a given format cannot have citations; leave out one of both",
        },
        "request_id": refused.value.request_id,
    }
