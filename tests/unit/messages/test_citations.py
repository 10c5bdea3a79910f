"""Quotations are cut from the sources of the request, whatever a model writes and wherever its fragments end."""

import itertools
import re
import sys
import unicodedata
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from anthropic.types.beta import beta_text_citation_param as sdk
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.citations import (
    FORMS,
    MAX_QUOTED_CHARACTERS,
    CitedReply,
    NumberedSources,
    number_passages,
    split_sentences,
)
from anthropic_proxy.engine.messages.deltas import (
    Citation,
    Delta,
    Stop,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    Usage,
)
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.foreign_text import enclose
from anthropic_proxy.engine.messages.models import DocumentBlock, Message, Raw, decode_nested_content, decode_request
from anthropic_proxy.engine.messages.reply_filter import ReplyFilter
from anthropic_proxy.errors import InvalidRequest
from tests.support.paths import ROOT

FORMS_OF_OTHERS = {"web_search_result_location": "of pages that a provider or a tool of the proxy has found"}
"""Form of the SDK that no source of the client leads to → where it comes from."""
GRASS = "The grass is green. The sky is blue."
CITED = {"enabled": True}
WORD = "citing"
"""Word of the marks in these tests, in place of a hash."""


def test_each_form_of_the_sdk_has_its_unit_and_is_described() -> None:
    forms = [get_type_hints(form) for form in get_args(sdk.BetaTextCitationParam)]
    types = {kind: form for form in forms for kind in get_args(form["type"])}
    assert types.keys() == FORMS.keys() | FORMS_OF_OTHERS.keys()
    assert {kind: {f"start_{unit}", f"end_{unit}"} - types[kind].keys() for kind, unit in FORMS.items()} == {
        kind: set() for kind in FORMS
    }
    page = (ROOT / "docs/guide/api-on-every-model.md").read_text("utf-8")
    assert [kind for kind in FORMS if f"`{kind}`" not in page] == []


def text_document(text: str, **fields: Any) -> dict[str, Any]:
    source = {"type": "text", "media_type": "text/plain", "data": text}
    return {"type": "document", "source": source, "citations": CITED, **fields}


def search_result(*texts: str, **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": text} for text in texts]
    result = {"type": "search_result", "source": "https://example.com/a", "title": "A page", "content": content}
    return {**result, "citations": CITED, **fields}


def read_messages(*contents: Any) -> list[Message]:
    messages = [{"role": "user", "content": content} for content in contents]
    body = msgspec.json.encode({"model": "m", "max_tokens": 1, "messages": messages})
    return [*decode_request(body).messages]


def number(*contents: Any) -> tuple[list[list[Any]], NumberedSources]:
    """Return the texts that the model reads, message by message, and the sources."""
    messages, sources = number_passages(read_messages(*contents), [], key=b"k")
    sources.word = WORD
    return [msgspec.json.decode(msgspec.json.encode(message.content)) for message in messages], sources


def find_word(*contents: Any, key: bytes = b"k") -> str:
    """Return the word of the marks that the model is told."""
    messages, sources = number_passages(read_messages(*contents), [], key=key)
    assert f"<{sources.word} 3>a statement</{sources.word}>" in msgspec.json.encode(messages).decode()
    return sources.word


def read_texts(blocks: list[Any]) -> list[str]:
    """Return the texts that the model reads, without the instruction behind the first source."""
    texts = [block["text"] for block in blocks]
    (instruction,) = (text for text in texts if text.startswith("[The passages of this source"))
    return [text for text in texts if text is not instruction]


def cite(sources: NumberedSources, *deltas: Delta | str) -> list[Delta]:
    reply = CitedReply(sources)
    read = [Text(delta) if isinstance(delta, str) else delta for delta in deltas]
    return [written for delta in read for written in reply.feed([delta])] + reply.flush()


def blocks_of(deltas: list[Delta]) -> list[tuple[str, list[Any]]]:
    """Return the text blocks: text and citations."""
    blocks: list[tuple[str, list[Any]]] = []
    is_open = False
    for delta in deltas:
        if isinstance(delta, Text):
            if not is_open:
                blocks.append(("", []))
            blocks[-1] = (blocks[-1][0] + delta.text, blocks[-1][1])
            is_open = True
        elif isinstance(delta, Citation):
            blocks[-1][1].append(msgspec.json.decode(delta.raw))
        else:
            is_open = False
    return blocks


def quotation(text: str, start: int, end: int, **fields: Any) -> dict[str, Any]:
    place = {"start_char_index": start, "end_char_index": end}
    about = {"type": "char_location", "document_index": 0, "document_title": None, "file_id": None}
    return {**about, "cited_text": text, **place, **fields}


def test_blocks_beside_a_source_in_a_result_stay_as_they_are() -> None:
    """A resource of an MCP server may be an empty text, which differs from a document without a text."""
    empty = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": ""}, "title": "Empty"}
    content = [{"type": "text", "text": "a"}, empty | {"citations": None}, search_result("Found.")]
    ((read,),), _ = number([{"type": "tool_result", "tool_use_id": "toolu_1", "content": content}])
    assert read["content"][:2] == content[:2]
    assert read_texts(read["content"][2:]) == ["A page\nhttps://example.com/a", "[1] Found."]
    assert [type(block) for block in decode_nested_content(Raw(msgspec.json.encode(read["content"])))][
        1
    ] is DocumentBlock


def test_sentences_have_numbers_and_a_mark_becomes_a_citation_of_its_place() -> None:
    content = [text_document(GRASS, title="Nature", context="A book."), {"type": "text", "text": "Sky?"}]
    (read,), sources = number(content)
    word = find_word(content)
    assert [block["text"] for block in read] == [
        "Nature",
        "A book.",
        "[1] The grass is green.\n[2] The sky is blue.",
        (
            "[The passages of this source, and of those that follow, have numbers in square brackets. If a statement "
            "of your answer is based on passages, write it between marks with their numbers: <WORD 3>a "
            "statement</WORD>, or <WORD 3,7-9>another one</WORD>. Write the numbers nowhere else, and do not "
            "speak of the marks.]"
        ).replace("WORD", word),
        "Sky?",
    ]
    assert blocks_of(cite(sources, 'It is <citing n="2">blue</citing>.')) == [
        ("It is ", []),
        ("blue", [quotation("The sky is blue.", 20, 36, document_title="Nature")]),
        (".", []),
    ]


def test_documents_and_search_results_are_counted_apart_and_over_all_messages() -> None:
    custom = {"type": "content", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]}
    read, sources = number(
        [text_document("First."), search_result("A found text.", "Another.")],
        [{"type": "document", "source": custom, "title": "Parts", "citations": CITED}],
        [search_result("A third text.", title="B page", source="name of b")],
    )
    assert read_texts(read[0]) == [
        "[1] First.",
        "A page\nhttps://example.com/a",
        "[2] A found text.",
        "[3] Another.",
    ]
    assert [block["text"] for block in read[1]] == ["Parts", "[4] One.", "[5] Two."]
    assert [block["text"] for block in read[2]] == ["B page\nname of b", "[6] A third text."]
    (block,) = blocks_of(cite(sources, '<citing n="1,3-6">all</citing>'))
    assert block == (
        "all",
        [
            quotation("First.", 0, 6),
            {
                "type": "search_result_location",
                "search_result_index": 0,
                "source": "https://example.com/a",
                "title": "A page",
                "cited_text": "Another.",
                "start_block_index": 1,
                "end_block_index": 2,
            },
            {
                "type": "content_block_location",
                "document_index": 1,
                "document_title": "Parts",
                "file_id": None,
                "cited_text": "One.Two.",
                "start_block_index": 0,
                "end_block_index": 2,
            },
            {
                "type": "search_result_location",
                "search_result_index": 1,
                "source": "name of b",
                "title": "B page",
                "cited_text": "A third text.",
                "start_block_index": 0,
                "end_block_index": 1,
            },
        ],
    )


def test_sources_in_results_of_tools_are_numbered_too() -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": [search_result("Found."), text_document("Read.")]}
    (read,), sources = number([result, text_document("Given.")])
    inner = read[0]["content"]
    assert read_texts(inner) == ["A page\nhttps://example.com/a", "[1] Found.", "[2] Read."]
    assert "numbers in square brackets" in inner[2]["text"]
    assert [block["text"] for block in read[1:]] == ["[3] Given."]
    ((_, citations),) = blocks_of(cite(sources, '<citing n="2-3">x</citing>'))
    assert [one["document_index"] for one in citations] == [0, 1]


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        ('<citing n="2">x</citing>', "x"),
        ("<citing n='2'>x</citing>", "x"),
        ("<citing n=2>x</citing >", "x"),
        ('<citing  n = " 2 " >x</citing>', "x"),
        ('x<citing n="2"/>', "x"),
        ('x<citing n="2" />', "x"),
        ('<citing n="2">x', "x"),
        ('<citing n="2,2, 2-2">x</citing>', "x"),
        ("<citing [2]; 9>x</citing>", "x"),
        ('<citing n="8 2">x</citing>', "x"),
    ],
)
def test_marks_are_read_in_the_forms_that_models_write(mark: str, text: str) -> None:
    _, sources = number([text_document(GRASS)])
    assert blocks_of(cite(sources, mark, Stop("end_turn"))) == [(text, [quotation("The sky is blue.", 20, 36)])]


@pytest.mark.parametrize(
    "text",
    [
        "a < b and <cite>no numbers</cite>, <citation n=1>",
        'in HTML: </cite> and <cite class="n">',
        "an end: <c",
        "<",
        f'<citing n="{"1," * 200}">long',
    ],
)
def test_what_is_no_mark_stays_text(text: str) -> None:
    _, sources = number([text_document(GRASS)])
    assert blocks_of(cite(sources, text)) == [(text, [])]


def test_a_mark_that_names_no_passage_is_left_out_and_counted() -> None:
    _, sources = number([text_document(GRASS)])
    reply = CitedReply(sources)
    deltas = reply.feed(
        [Text('<citing n="1"></citing>Not <citing n="9">there</citing>, <citing n="0,3-1,-">nor</citing> here.')]
    )
    assert "".join(text for text, _ in blocks_of(deltas)) == "Not there, nor here."
    assert [citations for _, citations in blocks_of(deltas) if citations] == []
    assert reply.notes == (
        FidelityNote("approximated", "content.citations", "marks of the model that name no passage were left out: 3"),
    )


@pytest.mark.parametrize("mark", ['<citing n="2"/>', '<citing n="2"></citing>'])
def test_a_mark_without_a_statement_is_about_the_text_before_it(mark: str) -> None:
    _, sources = number([text_document(GRASS)])
    first, second = blocks_of(cite(sources, *f"It is blue{mark}. So what?"))
    assert (first[0].strip(), first[1]) == ("It is blue", [quotation("The sky is blue.", 20, 36)])
    assert second == (". So what?", [])


def test_a_reply_with_citations_is_one_text_in_the_next_turn() -> None:
    words = 'It is <citing n="2">blue</citing>, not <citing n="1">green</citing> \\"\N{GRINNING FACE}.'
    _, sources = number([text_document(GRASS)])
    reply = [{"type": "text", "text": text} for text, _ in blocks_of(cite(sources, words))]
    call = {"type": "tool_use", "id": "call_1", "name": "f", "input": {}}
    last = {"type": "text", "text": "End."}
    turns = [
        {"role": "assistant", "content": [{"type": "text", "text": "A."}, {"type": "text", "text": "B."}]},
        {"role": "user", "content": [text_document(GRASS), {"type": "text", "text": "Sky?"}]},
        {"role": "assistant", "content": [*reply, call, last]},
    ]
    body = msgspec.json.encode({"model": "m", "max_tokens": 1, "messages": turns})
    messages, _ = number_passages([*decode_request(body).messages], [], key=b"k")
    first, user, second = (msgspec.json.decode(msgspec.json.encode(message.content)) for message in messages)
    assert [block["text"] for block in first] == ["A.", "B."]
    assert len(user) == 3
    assert second == [{"type": "text", "text": 'It is blue, not green \\"\N{GRINNING FACE}.'}, call, last]


def test_a_mark_ends_before_a_call_and_with_the_reply() -> None:
    _, sources = number([text_document(GRASS)])
    call = ToolCall(0, "a", "b")
    citation = Citation(msgspec.Raw(msgspec.json.encode(quotation("The grass is green. ", 0, 20))))
    count = Usage(output_tokens=1)
    assert [*map(read_citation, cite(sources, '<citing n="1">x', count, call, "a<", Thinking("t")))] == [
        *map(read_citation, [Text("x"), citation, count, call, Text("a"), Text("<"), Thinking("t")])
    ]


def read_citation(delta: Delta) -> Any:
    return msgspec.json.decode(delta.raw) if isinstance(delta, Citation) else delta


@given(st.text(), st.integers(0, 50))
def test_sentences_are_all_of_the_text_in_its_order(text: str, repeats: int) -> None:
    text = text * repeats
    bounds = [*split_sentences(text)]
    assert all(text[begin:end].strip() for begin, end in bounds)
    edges = [0, *itertools.chain(*bounds), len(text)]
    assert edges == sorted(edges)
    assert "".join(text[begin:end] for begin, end in bounds).split() == text.split()


def read_calls(deltas: list[Delta]) -> dict[int | str, str]:
    calls = dict[int | str, str]()
    for delta in deltas:
        if isinstance(delta, ToolArgs):
            calls[delta.key] = calls.get(delta.key, "") + delta.json
    return calls


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"text":"It is <citing 1>green</citing>."}', '{"text":"It is green."}'),
        ('{"text":"It is <citing 9/>green, <citing 1, 2–3>all</citing >"}', '{"text":"It is green, all"}'),
        (r'{"text":"<citing n=\"1\">green<\/citing>"}', '{"text":"green"}'),
        (r'{"text":"\u003cciting 1\u003egreen\u003C/citing\u003E"}', '{"text":"green"}'),
        (r'{"text":"\\\u003cciting 1>x\\"}', r'{"text":"\\x\\"}'),
        (r'{"text":"\\u003cciting 1>x<"}', r'{"text":"\\u003cciting 1>x<"}'),
        (r'{"text":"<citing n=\"1\u20133\">green</citing\u0020>"}', '{"text":"green"}'),
        (r'{"text":"<citing 1\u003cb>green"}', r'{"text":"<citing 1\u003cb>green"}'),
        ('{"<citing 1>a</citing>":"<citing 1>b</citing>"}', '{"a":"b"}'),
        ('{"a":"<citing 1","b":"2>"}', '{"a":"<citing 1","b":"2>"}'),
        ('{"html":"<b>1 < 2</b> <citizen 1> <cite 1>"}', '{"html":"<b>1 < 2</b> <citizen 1> <cite 1>"}'),
        ('{"text":"cut <citing 1', '{"text":"cut '),
        ('{"text":"cut <', '{"text":"cut <'),
        (r'{"text":"cut <citing 1\u20', '{"text":"cut '),
        (r'{"text":"cut \u00', r'{"text":"cut \u00'),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_marks_in_the_arguments_of_calls_are_left_out(written: str, read: str, size: int) -> None:
    _, sources = number([text_document(GRASS)])
    pieces = [written[place : place + size] for place in range(0, len(written), size)]
    both = [ToolArgs(key, piece) for piece in pieces for key in (0, "b")]
    deltas = cite(sources, ToolCall(0, "a", "Write"), ToolCall("b", "b", "Write"), *both, ToolEnd(0), Stop("tool_use"))
    assert read_calls(deltas) == {0: read, "b": read}
    assert deltas[-1] == Stop("tool_use")


def test_arguments_without_marks_arrive_at_once() -> None:
    _, sources = number([text_document(GRASS)])
    reply = CitedReply(sources)
    for piece in ('{"a":"1 < 2, ', r"\n<b>", '<cit>"', ',"b":">"}'):
        assert reply.feed([ToolArgs(0, piece)]) == [ToolArgs(0, piece)]
    assert reply.feed([ToolEnd(0)]) == [ToolEnd(0)]
    assert reply.notes == ()


@pytest.mark.parametrize("size", [1, 4, 1_000])
@pytest.mark.parametrize("end", [Thinking(signature="s"), Text("Now."), Stop("end_turn")])
def test_marks_in_thinking_are_left_out_and_counted(end: Delta, size: int) -> None:
    _, sources = number([text_document(GRASS)])
    text = 'It is <citing n="1">green</citing>, 1 <'
    reply = CitedReply(sources)
    pieces = [Thinking(text[place : place + size]) for place in range(0, len(text), size)]
    deltas = [written for piece in pieces for written in reply.feed([piece])] + reply.feed([end])
    assert "".join(delta.text for delta in deltas if isinstance(delta, Thinking)) == "It is green, 1 <"
    last = deltas[-1]
    assert last == end or (isinstance(last, Thinking) and last.signature == "s")
    text = "marks of the model that are in calls or in thinking were left out: 1"
    assert reply.notes == (FidelityNote("approximated", "content.citations", text),)


PIECES = st.sampled_from(
    [
        '<citing n="1">',
        '<citing n="2-9">',
        "</citing>",
        "<",
        "/citing>",
        "<citing",
        ' n="2"',
        '"',
        ">",
        "/>",
        "word ",
        "é",
        "1,",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join), st.lists(st.integers(0, 90), max_size=8))
def test_the_blocks_of_a_reply_do_not_depend_on_its_fragments(text: str, cuts: list[int]) -> None:
    _, sources = number([text_document(GRASS)])
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    whole = blocks_of(cite(sources, text, Stop("end_turn")))
    assert blocks_of(cite(sources, *pieces, Stop("end_turn"))) == whole
    for _, citations in whole:
        for citation in citations:
            assert GRASS[citation["start_char_index"] : citation["end_char_index"]] == citation["cited_text"]


@pytest.mark.parametrize(
    ("document", "mark"),
    [
        (text_document("x" * 900 + ". "), '<citing n="1-999">x</citing>'),
        (text_document("x.", title="t" * 10_000), '<citing n="1">x</citing>' * 50),
    ],
    ids=["texts", "titles"],
)
def test_citations_of_a_reply_are_bounded(document: dict[str, Any], mark: str) -> None:
    _, sources = number([document] * 400)
    deltas = cite(sources, mark * 20)
    assert sum(len(delta.raw) for delta in deltas if isinstance(delta, Citation)) < 2 * MAX_QUOTED_CHARACTERS


def test_white_space_between_statements_is_no_block() -> None:
    _, sources = number([text_document(GRASS)])
    text = "\n<citing 1>A.</citing> <citing 2>B.</citing>\n\nC. <citing 1> </citing>D. <citing 1>E</citing>\n"
    green, blue = quotation("The grass is green. ", 0, 20), quotation("The sky is blue.", 20, 36)
    expected = [("\nA. ", [green]), ("B.", [blue]), ("\n\nC. ", [green]), (" D. ", []), ("E\n", [green])]
    assert blocks_of(cite(sources, text)) == expected
    assert blocks_of(cite(sources, *text)) == expected


def test_a_mark_within_a_mark_begins_another_statement() -> None:
    _, sources = number([text_document(GRASS)])
    deltas = cite(sources, 'a<citing n="1">b<citing n="2">c</citing>d</citing>e')
    green, blue = quotation("The grass is green. ", 0, 20), quotation("The sky is blue.", 20, 36)
    assert blocks_of(deltas) == [("a", []), ("b", [green]), ("c", [blue]), ("de", [])]


@pytest.mark.parametrize(
    ("stops", "limit", "text"), [(["STOP"], None, "blue "), ([], 2, "blue STO")], ids=["stop sequence", "limit"]
)
def test_an_end_of_the_reply_within_a_statement_loses_no_citation(
    stops: list[str], limit: int | None, text: str
) -> None:
    _, sources = number([text_document(GRASS)])
    reply = ReplyFilter(stops, limit, sources)
    deltas = reply.feed([Text('<citing n="2">blue STOP now</citing>'), Stop("end_turn")]) + reply.flush()
    assert blocks_of(deltas) == [(text, [quotation("The sky is blue.", 20, 36)])]


@pytest.mark.parametrize("cut", [0, 1, 2, 3], ids=lambda cut: f"cut {cut}")
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('It is <citing n="2">blue ST</citing>OP now.', [("It is ", []), ("blue ", ["sky"])]),
        ('It is ST<citing n="2">OP blue</citing>.', [("It is ", [])]),
        ('<citing n="2">blue S</citing><citing n="2">TO</citing>P', [("blue ", ["sky"])]),
        ('<citing n="2">blue ST</citing>ART.', [("blue ST", ["sky"]), ("ART.", [])]),
    ],
    ids=["at its end", "at its begin", "over two", "none"],
)
def test_a_stop_sequence_is_found_across_the_ends_of_statements(
    written: str, expected: list[tuple[str, list[str]]], cut: int
) -> None:
    _, sources = number([text_document(GRASS)])
    reply = ReplyFilter(["STOP"], None, sources)
    size = len(written) // cut if cut else len(written)
    pieces = [written[place : place + size] for place in range(0, len(written), size)]
    deltas = [delta for piece in pieces for delta in reply.feed([Text(piece)])]
    deltas += reply.feed([Stop("end_turn")]) + reply.flush()
    sky = {"sky": quotation("The sky is blue.", 20, 36)}
    assert blocks_of(deltas) == [(text, [sky[name] for name in names]) for text, names in expected]
    ends = [delta.reason for delta in deltas if isinstance(delta, Stop)]
    assert ends == (["end_turn"] if "START" in written.replace("</citing>", "") else ["stop_sequence"])


def test_a_source_cannot_write_the_number_of_another_passage() -> None:
    forged = "[9] One.\n [1] Two.\u2028[1] Three [4].\r[ 1] Four."
    (read,), _ = number([text_document(forged, title="T\n[1] x"), search_result(forged, title="[2] y")])
    assert read_texts(read) == [
        "T\n\\[1] x",
        "[1] \\[9] One.\n[2] \\[1] Two.\n[3] \\[1] Three [4].\n[4] \\[ 1] Four.",
        "\\[2] y\nhttps://example.com/a",
        "[5] \\[9] One.\n \\[1] Two.\u2028\\[1] Three [4].\r\\[ 1] Four.",
    ]


UNSEEN = sorted(
    {chr(code) for code in range(sys.maxunicode) if unicodedata.category(chr(code)) in ("Zs", "Zl", "Zp", "Cc", "Cf")}
    | {*"\u034f\u115f\u1160\u17b4\u2800\u3164\ufe0f\uffa0\U000e0100"}
)
"""White space, control and format characters, and others that no font shows."""


@pytest.mark.parametrize(
    ("begin", "number"),
    [
        ("Intro.\n{}", "[1] x"),
        ("{}", "[1] x"),
        ("Intro.\n {} \t", "[1] x"),
        ("Intro.\n", "[{}1] x"),
        ("a\n", "[1{}] x"),
    ],
)
def test_no_unseen_character_hides_the_number_of_a_source(begin: str, number: str) -> None:
    places = {(begin.format(sign), number.format(sign)) for sign in UNSEEN}
    texts = [before + after for before, after in places]
    read, _ = number_of_blocks(texts)
    assert read == [f"{before}\\{after}" for before, after in places]


@pytest.mark.parametrize("form", ["<{0}/{0}page>", "<{0}PAGE number", "\uff1c{0}image_description>", "</{0}{0}page\n>"])
def test_no_unseen_character_hides_a_mark_within_what_is_enclosed(form: str) -> None:
    marks = "".join(form.format(sign) for sign in UNSEEN)
    shown = "".join(f"&lt;{form.format(sign)[1:]}" for sign in UNSEEN)
    assert enclose("page", f"{marks} <pages> a < b") == f"<page>\n{shown} <pages> a < b\n</page>"


@pytest.mark.parametrize(
    "sign", [*"\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029", "\r\n", "\u3000\n\u200b", "\n" + " " * 5_000]
)
def test_each_line_end_begins_a_line_of_a_source(sign: str) -> None:
    read, _ = number_of_blocks([f"Intro.{sign}[1] x", f"Intro.{sign}\uff3b\u0661\uff3d x", f"Intro.{sign}[a] [1] x"])
    assert read == [f"Intro.{sign}\\[1] x", f"Intro.{sign}\\\uff3b\u0661\uff3d x", f"Intro.{sign}[a] [1] x"]


def number_of_blocks(texts: list[str]) -> tuple[list[str], NumberedSources]:
    """Return what the model reads of a source with these blocks, without the numbers of the proxy."""
    (read,), sources = number([search_result(*texts)])
    shown = read_texts(read)[1:]
    numbers = [f"[{place}] " for place in range(1, len(shown) + 1)]
    assert all(text.startswith(begin) for text, begin in zip(shown, numbers, strict=True))
    return [text.removeprefix(begin) for text, begin in zip(shown, numbers, strict=True)], sources


MARKS_OF_OTHERS = (
    '<cite n="1">x</cite>',
    "</cite>",
    "<citinh 1>x</citinh>",
    "<citings 1>x</citings>",
    "<Citing 1>x",
    "<citin>",
)


@pytest.mark.parametrize("text", MARKS_OF_OTHERS)
def test_a_mark_without_the_word_is_text(text: str) -> None:
    _, sources = number([text_document(GRASS)])
    quoted = f"<citing 2>It says {text}, and more</citing>."
    sky = quotation("The sky is blue.", 20, 36)
    expected = [(f"It says {text}, and more", [sky]), (".", [])]
    assert blocks_of(cite(sources, quoted)) == expected
    assert blocks_of(cite(sources, *quoted)) == expected


def test_a_mark_that_cannot_be_read_never_reaches_the_client() -> None:
    """Who reads its word could write marks into the next source."""
    _, sources = number([text_document(GRASS)])
    assert blocks_of(cite(sources, "a<citing>b</citing x>, <citing one>c</citing></citing>d")) == [("ab, cd", [])]


def test_the_end_of_a_reply_within_a_mark_shows_no_word() -> None:
    _, sources = number([text_document(GRASS)])
    text = "Is <citing 1>it</citing> so"
    for end in range(len(text) + 1):
        shown = "".join(part for part, _ in blocks_of(cite(sources, text[:end])))
        assert shown in ("Is it so"[: len(shown)], "Is <", "Is <c", "Is it<", "Is it</", "Is it</c"), text[:end]
    assert [blocks_of(cite(sources, f"1 {end}")) for end in ("<", "</", "<b", "<cite")] == [
        [(f"1 {end}", [])] for end in ("<", "</", "<b", "<cite")
    ]


def test_the_word_of_marks_depends_on_client_and_first_source_alone() -> None:
    first, other = text_document(GRASS, title="Nature"), search_result("Found.")
    question = {"type": "text", "text": "Sky?"}
    words = [
        find_word([first]),
        find_word([question, first, other]),
        find_word([first, question], [other]),
        find_word([{"type": "tool_result", "tool_use_id": "a", "content": [first]}]),
    ]
    assert len({*words}) == 1
    others = [find_word([first], key=b"another"), find_word([other, first]), find_word([{**first, "title": "Art"}])]
    assert len({*words, *others}) == 4
    assert all(re.fullmatch("[a-z]{6}", word) for word in {*words, *others})


def test_an_edit_of_the_first_source_leaves_what_stands_before_it() -> None:
    before, after = (
        msgspec.json.encode(number_passages(read_messages([text_document(text)]), [], key=b"k")[0])
        for text in (GRASS, GRASS.replace("blue", "gray"))
    )
    end = before.index(b"[2] The sky is ") + len("[2] The sky is ")
    assert before[:end] == after[:end]


def test_blank_sources_have_no_passage() -> None:
    (read,), sources = number([text_document(" \n" + " " * 5_000), text_document("A. " + " " * 5_000 + "B.")])
    assert read_texts(read) == ["[1] A.\n[2] B."]
    assert blocks_of(cite(sources, '<citing n="3">x</citing>')) == [("x", [])]


def test_only_some_sources_with_citations_are_refused() -> None:
    plain = text_document("Not cited.", citations={"enabled": False})
    with pytest.raises(InvalidRequest) as refused:
        number([text_document("Cited."), search_result("Found.", citations=None)], [plain])
    assert str(refused.value) == (
        "messages.1.content.0.citations: each document of a request must have citations enabled, or none; "
        "messages.0.content.0 has, and messages.1.content.0 has not"
    )


def test_requests_without_citations_keep_their_blocks() -> None:
    messages = read_messages(
        [text_document(GRASS, citations={"enabled": False})], "text", [search_result("a", citations=None)]
    )
    notes: list[FidelityNote] = []
    numbered, sources = number_passages(messages, notes, key=b"k")
    assert not sources
    assert notes == []
    assert all(new is old for new, old in zip(numbered, messages, strict=True))
