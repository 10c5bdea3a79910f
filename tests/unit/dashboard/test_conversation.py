"""Conversations: new messages of each request, results below their calls, images, limits, and texts of any form."""

import base64
import json
from typing import Any

import msgspec
import pytest

from anthropic_proxy.console.dashboard.conversation import (
    Block,
    CacheBreak,
    CallVerdict,
    Part,
    Turn,
    build_turns,
    find_cache_breaks,
    find_image,
    format_json,
    list_new_messages,
    list_reply_blocks,
    mark_up,
)
from anthropic_proxy.console.ledger.contents import StoredContent
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.plugins import CallCheck

PNG = base64.b64encode(b"\x89PNG").decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
DRAWING = {"type": "image", "source": {"type": "base64", "media_type": "image/svg+xml", "data": PNG}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "/etc/hosts", "limit": 3}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "127.0.0.1 localhost\n::1 localhost"}


def request(*contents: object, role: str = "user") -> bytes:
    """Return a request whose messages alternate between the user and the assistant."""
    roles = ("assistant", role)
    messages = [{"role": roles[(len(contents) - index) % 2], "content": one} for index, one in enumerate(contents)]
    return json.dumps({"model": "m", "messages": messages}).encode()


def reply(*blocks: object) -> bytes:
    return json.dumps({"type": "message", "content": blocks}).encode()


def turns_of(*texts: tuple[bytes, bytes], **fields: Any) -> list[Turn]:
    rows = [StoredRequest(id=f"req_{index}", outcome_class="ok", **fields) for index in range(len(texts))]
    return build_turns(
        rows,
        {
            row.id: {
                kind: StoredContent(kind, len(data), data)
                for kind, data in zip(("request", "reply"), pair, strict=True)
                if data
            }
            for row, pair in zip(rows, texts, strict=True)
        },
    )


def test_a_turn_has_the_messages_after_the_last_reply_and_a_result_is_below_its_call() -> None:
    first, second = turns_of(
        (request("list the files"), reply({"type": "thinking", "thinking": "hm\nthen"}, CALL)),
        (request("list the files", [CALL], [RESULT]), reply({"type": "text", "text": "Two:\n```\na\nb\n```\nDone."})),
    )
    assert first.sent == [Block(kind="text", parts=[Part("list the files")])]
    thinking, call = first.reply
    assert (thinking.kind, thinking.title, thinking.summary) == ("thinking", "Thinking", "hm")
    assert (call.title, call.summary, call.parts) == (
        "Read",
        "/etc/hosts",
        [Part("file_path: /etc/hosts\nlimit: 3", is_code=True)],
    )
    assert call.result is not None
    assert (call.result.summary, call.result.is_error) == ("127.0.0.1 localhost", False)
    assert second.sent == []
    assert second.reply[0].parts == [Part("Two:"), Part("a\nb", is_code=True), Part("Done.")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Run this:\n```npm install```\nthen open it.", [Part("Run this:\n```npm install```\nthen open it.")]),
        ("```python\nx\n```\nDone.", [Part("x", is_code=True), Part("Done.")]),
        ("```python title=a.py\nx\n```", [Part("python title=a.py\nx", is_code=True)]),
        ("````md\n```sh\nls\n```\n````\nDone.", [Part("```sh\nls\n```", is_code=True), Part("Done.")]),
        ("~~~\n```\n~~~\nDone.", [Part("```", is_code=True), Part("Done.")]),
        ("See:\n```\nls\n```sh", [Part("See:"), Part("ls\n```sh", is_code=True)]),
    ],
)
def test_code_blocks_are_those_of_markdown_and_no_text_is_lost(text: str, parts: list[Part]) -> None:
    (turn,) = turns_of((request("x"), reply({"type": "text", "text": text})))
    assert turn.reply[0].parts == parts


def test_a_failed_result_is_marked_and_one_without_its_call_stays() -> None:
    (turn,) = turns_of((request("x", [CALL], [{**RESULT, "is_error": True}, {"type": "text", "text": "why?"}]), b""))
    assert [(block.title, block.is_error) for block in turn.sent] == [("Result with an error", True), ("", False)]


def test_reminders_of_the_client_are_folded_and_system_messages_named() -> None:
    reminder = {"type": "text", "text": "<system-reminder>\nrules\n</system-reminder>"}
    (turn,) = turns_of((request([reminder, {"type": "text", "text": "go"}]), b""))
    assert [block.title for block in turn.sent] == ["System reminder", ""]
    (turn,) = turns_of((request("be brief", role="system"), b""))
    assert [(block.title, block.parts) for block in turn.sent] == [("System", [Part("be brief")])]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("<local-command-caveat>Caveat: …</local-command-caveat>", "Command of the client"),
        ("<command-name>/clear</command-name>\n<command-message>clear</command-message>", "Command of the client"),
        ("<local-command-stdout></local-command-stdout>", "Command of the client"),
        ("<bash-input>ls</bash-input>", "Shell command of the user"),
        ("<div>a page</div>", ""),
    ],
)
def test_commands_of_the_client_are_folded(text: str, title: str) -> None:
    (turn,) = turns_of((request([{"type": "text", "text": text}, {"type": "text", "text": "go"}]), b""))
    assert [block.title for block in turn.sent] == [title, ""]


def test_images_have_addresses_if_a_browser_can_show_them_safely() -> None:
    data = request([DRAWING, IMAGE, {**RESULT, "content": [{"type": "text", "text": "seen"}, IMAGE]}])
    (turn,) = turns_of((data, b""))
    assert [block.image for block in turn.sent if block.kind == "image"] == [
        "",
        "/dashboard/requests/req_0/images/0",
        "/dashboard/requests/req_0/images/1",
    ]
    assert find_image(data, 1) == ("image/png", b"\x89PNG")
    assert find_image(data, 2) is None
    assert find_image(request([{**IMAGE, "source": {**IMAGE["source"], "data": "%"}}]), 0) is None
    assert find_image(b"[", 0) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"[", b"{", b"5", b"[" * 100_000, b'{"messages": 5}', b'{"messages": [5]}', b'{"messages": [{}]}', b"\xff"],
)
def test_a_text_that_is_no_request_is_stated(data: bytes) -> None:
    (turn,) = turns_of((data, data))
    assert [block.title for block in turn.sent] in (["Request"], []), "an empty text is not stored"
    assert turn.reply == []


@pytest.mark.parametrize(
    "block",
    [
        *(5, None, {}, {"type": 5}, {"type": "text"}, {"type": "tool_use"}, {"type": "tool_result", "content": 5}),
        *({"type": "image", "source": 5}, {"type": "thinking", "thinking": 5}, {"type": "document", "source": {}}),
    ],
)
def test_a_block_of_any_form_is_shown(block: object) -> None:
    (turn,) = turns_of((request([block]), reply(block)))
    shown = [] if block == {"type": "text"} else [Block]
    assert [type(one) for one in turn.sent] == [type(one) for one in turn.reply] == shown, "an empty text is not shown"


def test_a_long_text_is_cut_and_many_texts_are_cut_short() -> None:
    (turn,) = turns_of((request("x" * 5_000), b""))
    assert turn.sent[0].parts == [Part("x" * 4_000)]
    assert turn.sent[0].note == "5,000 characters, the first 4,000 are shown"
    (turn,) = turns_of((request([{"type": "text", "text": "x" * 4_000}] * 60), b""))
    shown = [sum(len(part.text) for part in block.parts) for block in turn.sent]
    assert (shown[0], shown[-1]) == (4_000, 200)
    assert sum(shown) <= 130_000


def test_many_blocks_are_left_out_with_their_number() -> None:
    """A page of twelve such requests had 76 MB."""
    blocks = [{"type": "x"}] * 40_000
    turns = turns_of(*[(request(blocks), reply(*blocks[:20]))] * 3)
    assert [len(turn.sent) for turn in turns] == [1_501, 11, 11]
    assert [turn.sent[-1].title for turn in turns] == ["38,500 parts more", "39,990 parts more", "39,990 parts more"]
    assert [turn.reply[-1].title for turn in turns] == ["10 parts more"] * 3


def test_separators_of_unicode_in_a_streamed_reply_end_no_line() -> None:
    text = "a\u2028b\u0085c\fd"
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    events = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in (start, delta))
    assert [*list_reply_blocks(events.encode())] == [{"type": "text", "text": text}]


def test_only_the_beginning_of_a_large_request_is_stored() -> None:
    (row,) = [StoredRequest(id="req_1")]
    stored = StoredContent("request", 3_000_000, b'{"messages": [{"role":')
    (turn,) = build_turns([row], {"req_1": {"request": stored}})
    assert turn.sent == [
        Block(kind="other", title="Request", note="3,000,000 bytes, of which only the beginning is stored")
    ]


def test_without_texts_a_turn_is_an_outline() -> None:
    blocks = '[["thinking","",0,9,320],["tool call","Read",9,5,41]]'
    row = StoredRequest(id="req_1", reply_blocks=blocks, tool_results=2, tool_errors=1)
    (turn,) = build_turns([row], {})
    assert turn.sent == [Block(kind="other", title="2 tool results, 1 error")]
    assert [(block.title, block.note) for block in turn.reply] == [
        ("Thinking", "320 characters"),
        ("Read", "41 characters"),
    ]


def test_a_request_that_does_not_read_the_cache_of_the_one_before_is_marked() -> None:
    rows = [
        StoredRequest(id=str(number), model=model, outcome_class="ok", **dict(zip(names, counts, strict=True)))
        for number, (model, *counts) in enumerate(
            [
                *(("a", 900, 0, 1_100), ("a", 90, 2_000, 0), ("a", 3_000, 0, 0), ("b", 2_000, 0, 0)),
                *(("b", 500, 900, 600), ("b", 700, 0, 0)),
            ]
        )
        for names in (("input_tokens", "cache_read_tokens", "cache_write_tokens"),)
    ]
    rows[4].prefix_change, rows[4].prefix_change_tokens = "tool 3 (WebFetch)", 1_000
    costs = ModelCosts(load_settings({"OPENAI_API_KEY": "k"}, PROVIDERS, env_file=None))
    breaks = find_cache_breaks(rows, costs)
    assert breaks == {"2": CacheBreak("", 2_000, None), "4": CacheBreak("tool 3 (WebFetch)", 1_000, None)}
    assert [turn.cache_break for turn in build_turns(rows, {}, breaks)] == [
        *(None, None, breaks["2"], None, breaks["4"], None),
    ]
    assert [turn.cached for turn in build_turns(rows, {})] == ["0 %", "96 %", "0 %", "0 %", "45 %", "0 %"]
    for row in rows:
        row.provider, row.model = "openai", "gpt-4.1"
    found = find_cache_breaks(rows, costs)["4"]
    assert (found.cause, found.loss) == ("tool 3 (WebFetch) changed", "1,000 tokens read again, $0.002 more")


def delta(index: int, **fields: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def test_json_is_indented_and_other_texts_are_not_changed() -> None:
    assert format_json(b'{"a":[1]}') == '{\n  "a": [\n    1\n  ]\n}'
    assert format_json(b'{"a":[1') == '{"a":[1'
    assert format_json(b"[" * 100_000) == "[" * 100_000
    assert list_reply_blocks(b"[" * 100_000) == []


def test_a_beginning_of_the_reply_in_the_request_is_no_new_message() -> None:
    data = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "{"}]}).encode()
    assert list_new_messages(data) == [{"role": "user", "content": "a"}]


def test_an_odd_body_has_its_messages() -> None:
    call = b'{"type":"tool_use","id":"t","name":"Read","input":{"n":1e999}}'
    data = (
        b'\xef\xbb\xbf{"messages":[{"role":"user","content":"no","content":[{"type":"text","text":"a \\ud83d"},%b]}]}'
        % call
    )
    (message,) = list_new_messages(data)
    text, use = message["content"]
    assert text == {"type": "text", "text": "a \ufffd"}
    assert bytes(use["input"]["n"]) == b"1e999"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Run `pip install x`, **now**.", "Run <code>pip install x</code>, <b>now</b>."),
        ("# Summary\ntext #1", "<b>Summary</b>\ntext #1"),
        ("2 ** 3 ** 4 and `a\nb`", "2 ** 3 ** 4 and `a\nb`"),
        ("`<b>` <img src=x> **<i>**", "<code>&lt;b&gt;</code> &lt;img src=x&gt; <b>&lt;i&gt;</b>"),
    ],
)
def test_markdown_of_a_message_has_its_form_and_no_element_of_its_own(text: str, shown: str) -> None:
    assert mark_up(text) == shown


def test_repetitions_of_a_failed_message_are_one_turn() -> None:
    sizes = [(1, "ok"), (3, "error"), (3, "error"), (3, "ok"), (5, "error"), (7, "ok")]
    rows = [
        StoredRequest(id=f"req_{index}", outcome_class=outcome, status=529, message_count=size, requested_model="m")
        for index, (size, outcome) in enumerate(sizes)
    ]
    stored = StoredContent("request", 1, request("list", [CALL], [RESULT]))
    contents = {row.id: {"request": stored} for row in rows[1:4]}
    contents["req_0"] = {"reply": StoredContent("reply", 1, reply(CALL))}
    turns = build_turns(rows, contents)
    assert [([one.row.id for one in turn.failed], turn.row.id) for turn in turns] == [
        ([], "req_0"),
        (["req_1", "req_2"], "req_3"),
        ([], "req_4"),
        ([], "req_5"),
    ]
    assert [one.outcome for one in turns[1].failed] == ["529", "529"]
    assert turns[0].reply[0].result is not None
    assert turns[1].sent == []


def test_repetitions_take_no_room_from_other_messages() -> None:
    outcomes = ["error"] * 60 + ["ok", "ok"]
    rows = [
        StoredRequest(id=f"req_{index}", outcome_class=outcome, message_count=1 + index // 61, requested_model="m")
        for index, outcome in enumerate(outcomes)
    ]
    stored = StoredContent("request", 1, request([{"type": "text", "text": "x" * 3_000}]))
    turns = build_turns(rows, {row.id: {"request": stored} for row in rows})
    assert [(len(turn.failed), [len(block.parts[0].text) for block in turn.sent]) for turn in turns] == [
        (60, [3_000]),
        (0, [3_000]),
    ]


def test_a_failed_message_that_the_user_has_changed_is_a_turn_of_its_own() -> None:
    outcomes = ["error", "error", "error", "ok"]
    rows = [
        StoredRequest(id=f"req_{index}", outcome_class=outcome, status=529, message_count=1, requested_model="m")
        for index, outcome in enumerate(outcomes)
    ]
    texts = ["Delete it.", "Delete it.", "Show it.", "Show it."]
    stored = [StoredContent("request", 1, request([{"type": "text", "text": text}, IMAGE])) for text in texts]
    turns = build_turns(rows, {row.id: {"request": one} for row, one in zip(rows, stored, strict=True)})
    assert [([one.row.id for one in turn.failed], turn.row.id) for turn in turns] == [
        (["req_0"], "req_1"),
        (["req_2"], "req_3"),
    ]


def test_the_parts_of_a_result_count_as_blocks_of_the_page() -> None:
    result = {**RESULT, "content": [{"type": "x"}] * 40_000}
    (turn,) = turns_of((request([result, result]), b""))
    # 2 results, 1,498 parts of the first, 1 of the second
    assert [block.title for block in turn.sent if block.title != "X"] == [
        *("Result", "38,502 parts more"),
        *("Result", "39,999 parts more"),
    ]
    assert len(turn.sent) == 2 + 1_498 + 1 + 2


CHECKS = [
    CallCheck("toolu_1", "Read", "flagged", "<b>Reads</b> a secret.", rule="Secrets", request="req_c1"),
    CallCheck("toolu_2", "Read", "harmless", rule="only reads", kind="rule"),
    CallCheck("toolu_3", "Bash", "not_flagged", kind="provider"),
    CallCheck("toolu_4", "Write", "unavailable", "timeout", request="req_c2", confirmation="req_c3", kind="timeout"),
]
SHOWN = {
    "toolu_1": CallVerdict("✕", "error", "flagged", "<b>Reads</b> a secret.", ["req_c1"], True),
    "toolu_2": CallVerdict("–", "quiet", "harmless", "only reads", [], False),
    "toolu_3": CallVerdict("✓", "ok", "not flagged by the provider", "", [], False),
    "toolu_4": CallVerdict("!", "warn", "unavailable", "timeout", ["req_c2", "req_c3"], True),
}


def verdicts_of(texts: tuple[bytes, bytes], **fields: Any) -> list[tuple[str, CallVerdict | None]]:
    (turn,) = turns_of(texts, checks=msgspec.json.encode(CHECKS).decode(), **fields)
    return [(block.title, block.verdict) for block in turn.reply]


def test_a_verdict_is_shown_at_its_call() -> None:
    calls = [{**CALL, "id": f"toolu_{number}"} for number in (2, 1, 9)]
    assert verdicts_of((request("hi"), reply({"type": "text", "text": "ok"}, *calls))) == [
        ("", None),
        ("Read", SHOWN["toolu_2"]),
        ("Read", SHOWN["toolu_1"]),
        ("Read", None),
        ("Bash", SHOWN["toolu_3"]),
        ("Write", SHOWN["toolu_4"]),
    ]


def test_without_texts_a_verdict_is_shown_at_the_call_with_its_name() -> None:
    blocks = [["tool call", "Write", 5], ["text", "", 6], ["tool call", "Read", 7], ["server tool", "web_search", 8]]
    blocks += [["tool call", "Read", 9], ["tool call", "Read", 9]]
    assert verdicts_of((b"", b""), reply_blocks=json.dumps(blocks)) == [
        ("Write", SHOWN["toolu_4"]),
        ("Text", None),
        ("Read", SHOWN["toolu_1"]),
        ("web_search", None),
        ("Read", SHOWN["toolu_2"]),
        ("Read", None),
        ("Bash", SHOWN["toolu_3"]),
    ]


def test_the_verdicts_about_a_relayed_reply_have_blocks_of_their_own() -> None:
    assert verdicts_of((b"", b"")) == [(one.tool, SHOWN[one.call]) for one in CHECKS]


def test_the_reply_of_a_check_is_no_tool_call() -> None:
    assert verdicts_of((b"", b""), parent="req_0") == []
