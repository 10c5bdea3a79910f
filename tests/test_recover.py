"""Calls and reasoning found in text: every convention, at any cut, and nothing lost where it is no call."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from anthropic_proxy.messages.deltas import Delta, Text, Thinking, ToolArgs, ToolCall
from anthropic_proxy.messages.prepare import Limits, prepare
from anthropic_proxy.messages.types import decode_request
from anthropic_proxy.routing.catalogue import Catalogue
from anthropic_proxy.routing.providers import PROVIDERS
from anthropic_proxy.routing.router import Facts, resolve
from anthropic_proxy.settings import load_settings
from anthropic_proxy.wire import openai_chat
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.recover import (
    TAGS,
    TEXT_CONVENTIONS,
    AnswerText,
    CallMender,
    OfferedTools,
    TextCalls,
    ThinkTags,
    mend_arguments,
)
from tests.golden.stage import Scenario
from tests.house import Answer, Town

GOLDEN = Path(__file__).parent / "golden" / "openai_chat"

TOOLS: dict[str, dict[str, Any]] = {
    "Read": {"properties": {"path": {"type": "string"}, "limit": {"type": "integer"}}, "required": ["path"]},
    "Run": {"properties": {"command": {"type": "string"}, "background": {"type": "boolean"}}, "required": ["command"]},
    "now": {"properties": {}},
}
READ = '{"path": "a.py", "limit": 3}'
RUN = '{"command": "echo \\"<hi>\\""}'
FORMS = {
    "hermes": f'<tool_call>\n{{"name": "Read", "arguments": {READ}}}\n</tool_call>\n'
    f'<tool_call>\n{{"arguments": {RUN}, "name": "Run"}}\n</tool_call>',
    "functions": "<tool_call>\n<function=Read>\n<parameter=path>\na.py\n</parameter>\n<parameter=limit>\n3\n"
    "</parameter>\n</function>\n</tool_call>\n<function=Run>\n<parameter=command>\n"
    'echo "<hi>"\n</parameter>\n</function>\n</tool_call>',
    "function_json": f"<function=Read>{READ}</function><function=Run>{RUN}</function>",
    "keys": "<tool_call>Read\n<arg_key>path</arg_key>\n<arg_value>a.py</arg_value>\n<arg_key>limit</arg_key>\n"
    "<arg_value>3</arg_value>\n</tool_call><tool_call>Run<arg_key>command</arg_key>"
    '<arg_value>echo "<hi>"</arg_value></tool_call>',
    "python_tag": f'<|python_tag|>{{"name": "Read", "parameters": {READ}}}; {{"name": "Run", "parameters": {RUN}}}',
    "listed": f'[TOOL_CALLS] [{{"name": "Read", "arguments": {READ}}}, {{"name": "Run", "arguments": {RUN}}}]',
    "section": f"<|tool_calls_section_begin|><|tool_call_begin|>functions.Read:0<|tool_call_argument_begin|>{READ}"
    f"<|tool_call_end|><|tool_call_begin|>functions.Run:1<|tool_call_argument_begin|>{RUN}<|tool_call_end|>"
    "<|tool_calls_section_end|>",
    "barred": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>Read\n```json\n{READ}\n```"
    "<｜tool▁call▁end｜>\n"
    f"<｜tool▁call▁begin｜>Run<｜tool▁sep｜>{RUN}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "tool_code": '```tool_code\nprint(default_api.Read(path="a.py", limit=3))\nRun(command=\'echo "<hi>"\')\n```',
    "channel": f"<|channel|>commentary to=functions.Read <|constrain|>json<|message|>{READ}<|call|>"
    f"<|start|>assistant to=functions.Run<|channel|>commentary json<|message|>{RUN}<|call|>",
    "invoke": '<function_calls>\n<invoke name="Read">\n<parameter name="path">a.py</parameter>\n'
    '<parameter name="limit">3</parameter>\n</invoke>\n<invoke name="Run">\n'
    '<parameter name="command">echo "<hi>"</parameter>\n</invoke>\n</function_calls>',
    "bare_json": f'{{"name": "Read", "parameters": {READ}}}\n{{"type": "function", "function": '
    f'{{"name": "Run", "arguments": {RUN}}}}}',
    "bare_python": '[Read(path="a.py", limit=3), Run(command=\'echo "<hi>"\')]',
}
MORE_FORMS = {
    "named lists": f"[TOOL_CALLS]Read[ARGS]{READ}[TOOL_CALLS]Run[CALL_ID]abc123DEF[ARGS]{RUN}",
    "lists without a mark for arguments": f"[TOOL_CALLS]Read{READ}[TOOL_CALLS]Run{RUN}",
    "built-in tools": '<|python_tag|>Read.call(path="a.py", limit=3)\nRun.call(command=\'echo "<hi>"\')',
    "calls without a section": f"<|tool_call_begin|>Read:0<|tool_call_argument_begin|>{READ}<|tool_call_end|>"
    f"<|tool_call_begin|>Run:1<|tool_call_argument_begin|>{RUN}<|tool_call_end|>",
    "one tag for both": f'<tool_call>{{"name": "Read", "arguments": {READ}}}\n'
    f'{{"name": "Run", "arguments": {RUN}}}</tool_call>',
    "no last tag": f'<tool_call>{{"name": "Read", "arguments": {READ}}}</tool_call>'
    f'<tool_call>{{"name": "Run", "arguments": {RUN}}}',
    "arguments as text": f'<tool_call>{{"name": "Read", "arguments": {json.dumps(READ)}}}</tool_call>'
    f'<tool_call>{{"name": "Run", "arguments": {json.dumps(RUN)}}}</tool_call>',
    "odd names": f'<tool_call>{{"name": "functions.read", "arguments": {READ}}}</tool_call>'
    f'<tool_call>{{"name": "RUN", "arguments": {RUN}}}</tool_call>',
    "a comma too many": '<tool_call>{"name": "Read", "arguments": {"path": "a.py", "limit": 3,}}</tool_call>'
    f'<tool_call>{{"name": "Run", "arguments": {RUN}}}</tool_call>',
    "bars and names": '<｜DSML｜function_calls><｜DSML｜invoke name="Read">'
    '<｜DSML｜parameter name="path" string="true">a.py</｜DSML｜parameter>'
    '<｜DSML｜parameter name="limit" string="false">3</｜DSML｜parameter></｜DSML｜invoke>'
    '<｜DSML｜invoke name="Run"><｜DSML｜parameter name="command" string="true">echo "<hi>"</｜DSML｜parameter>'
    "</｜DSML｜invoke></｜DSML｜function_calls>",
}
EXPECTED = [("Read", json.loads(READ)), ("Run", json.loads(RUN))]


def new_call(**fields: Any) -> Call:
    body = {
        "model": "claude",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"name": name, "input_schema": {"type": "object", **schema}} for name, schema in TOOLS.items()],
    } | fields
    prepared = prepare(decode_request(msgspec.json.encode(body)), Limits())
    count = iter(range(1, 1_000_000))
    return Call(
        request=prepared.request,
        model="m",
        dialect=openai_chat.Dialect(text_calls=TEXT_CONVENTIONS, thinking_tags=TAGS),
        stream=True,
        aliases=prepared.aliases,
        new_id=lambda prefix: f"{prefix}{next(count):022d}",
        provider="somebody",
    )


def read(parts: Sequence[str], conventions: Sequence[Any] = TEXT_CONVENTIONS, *, cut: bool = False) -> list[Delta]:
    call = new_call()
    reader = TextCalls(conventions, OfferedTools(call), call.new_id)
    return [delta for part in parts for delta in reader.feed(part)] + reader.finish(cut=cut)


def folded(deltas: Sequence[Delta]) -> list[Any]:
    """Return texts joined and calls with their input."""
    said: list[Any] = []
    for delta in deltas:
        if isinstance(delta, Text | Thinking):
            if said and isinstance(said[-1], str):
                said[-1] += delta.text
            else:
                said.append(delta.text)
        elif isinstance(delta, ToolCall):
            said.append([delta.name, ""])
        elif isinstance(delta, ToolArgs):
            said[-1][1] += delta.json
    return [item if isinstance(item, str) else (item[0], json.loads(item[1] or "{}")) for item in said]


@pytest.mark.parametrize("name", FORMS)
def test_every_convention_is_read_and_only_where_it_is_switched_on(name: Any) -> None:
    assert folded(read([FORMS[name]])) == EXPECTED
    assert folded(read([FORMS[name]], [name])) == EXPECTED
    assert folded(read(list(FORMS[name]), [name])) == EXPECTED
    others = [other for other in TEXT_CONVENTIONS if other != name]
    assert folded(read([FORMS[name]], others)) != EXPECTED


@pytest.mark.parametrize("name", MORE_FORMS)
def test_the_usual_variations_are_read_too(name: str) -> None:
    assert folded(read([MORE_FORMS[name]])) == EXPECTED
    assert folded(read(list(MORE_FORMS[name]))) == EXPECTED


@pytest.mark.parametrize("name", TEXT_CONVENTIONS)
def test_every_convention_has_a_scenario_that_needs_it(name: Any) -> None:
    assert name in FORMS
    scenario = Scenario(GOLDEN / f"text_call_{name}")
    with_it = scenario.play([scenario.upstream or b""])
    dialect = scenario.target.dialect
    others = tuple(other for other in dialect.text_calls if other != name)
    scenario.change_target(structs.replace(scenario.target, dialect=structs.replace(dialect, text_calls=others)))
    assert scenario.play([scenario.upstream or b""]) != with_it


@pytest.mark.parametrize("name", [name for name in FORMS if not name.startswith("bare")])
def test_text_around_a_call_stays_text_without_the_white_space_next_to_the_call(name: str) -> None:
    ends_answer = name in ("python_tag", "listed")
    text = f"Let me look.\n\n{FORMS[name]}" + ("" if ends_answer else "\n\nDone <b>now</b>.")
    expected = ["Let me look.", *EXPECTED] + ([] if ends_answer else ["Done <b>now</b>."])
    assert folded(read([text])) == expected
    assert folded(read(list(text))) == expected


NOT_CALLS = (
    "Use <tool_call> tags for that: <tool_call> and </tool_call>.",
    "a < b and [1] and `<tool_call>{}</tool_call>`",
    '```xml\n<tool_call>{"name": "now", "arguments": {}}</tool_call>\n```\nLike that.',
    "Write ```<function=now>{}</function>``` or\n\n~~~\n[TOOL_CALLS]now[ARGS]{}\n~~~\n",
    '<tool_call>{"name": "Unknown", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "Read", "arguments": "none"}</tool_call> and more',
    '<tool_call>{"name": "Read", "arguments": {"path": "a',
    "<tool_call>",
    "<function=Unknown>{}</function>",
    "<function=Read>no json</function> text",
    "[TOOL_CALLS]Unknown[ARGS]{}",
    "[TOOL_CALLS] is what it writes.",
    '{"name": "Ada", "parameters": {}}',
    '{"name": "Read"}',
    '{"nam',
    '{"name": "Read", "parameters": {}} is the form.',
    "[1, 2]",
    "[Read]",
    "[Unknown(x=1)]",
    "[Read(open('x'))]",
    "```tool_code\nimport os\n```\n",
    "```tool_code",
    "<|channel|>commentary<|message|>Hm",
    "  \n ",
    "``",
)


@pytest.mark.parametrize("text", NOT_CALLS)
def test_what_is_no_call_passes_as_it_was(text: str) -> None:
    assert folded(read([text])) == [text]
    assert folded(read(list(text))) == [text]


@pytest.mark.parametrize("name", FORMS)
def test_a_call_that_the_limit_cut_is_the_text_that_it_was(name: str) -> None:
    text = f"{FORMS[name][:-20]}"
    deltas = folded(read(list(text), cut=True))
    assert isinstance(deltas[-1], str)
    assert text.endswith(deltas[-1])


PIECES = st.one_of(
    st.sampled_from([*FORMS.values(), *MORE_FORMS.values(), *NOT_CALLS]),
    st.sampled_from(
        ["\n", " ", "`", "```", "\n```\n", "<", "[", "<tool_call>", "</tool_call>", "<|", "Hi", "<function="]
    ),
    st.text(max_size=5),
)


@given(st.lists(PIECES, max_size=5), st.lists(st.integers(0, 2_000), max_size=12), st.booleans())
@example(["x", "```tool_code\n", "```tool_x"], [1, 2, 3], False)
def test_where_the_text_is_cut_makes_no_difference(pieces: list[str], points: list[int], ends: bool) -> None:
    text = "".join(pieces)
    edges = sorted({0, len(text), *(point % (len(text) + 1) for point in points)})
    parts = [text[start:end] for start, end in itertools.pairwise(edges)]
    whole = folded(read([text], cut=ends))
    assert folded(read(parts, cut=ends)) == whole
    assert folded(read(list(text), cut=ends)) == whole


@given(st.lists(PIECES, max_size=5))
def test_no_word_is_lost(pieces: list[str]) -> None:
    """What stays text is, in order, what is left when the calls are cut out."""
    text = "".join(pieces)
    position = 0
    for said in folded(read([text])):
        if isinstance(said, str):
            words = re.sub(r"\s+", " ", said)
            found = re.sub(r"\s+", " ", text).find(words, 0)
            assert found >= 0
            position = max(position, found)
    if not any(isinstance(said, tuple) for said in folded(read([text]))):
        assert folded(read([text])) == ([text] if text else [])


def test_text_flows_on_where_nothing_can_begin() -> None:
    call = new_call()
    reader = TextCalls(TEXT_CONVENTIONS, OfferedTools(call), call.new_id)
    assert reader.feed("Hello") == [Text("Hello")]
    assert reader.feed(" there, a <") == [Text(" there, a ")]
    assert reader.feed("b> c\n") == [Text("<b> c")]
    assert reader.feed("<tool_call> is a tag") == [Text("\n<tool_call>"), Text(" is a tag")]


@given(st.lists(st.sampled_from(["a", "b c", " ", "\n", "<", "`", None]), max_size=8))
@example(["a", "\n", None, " ", "b"])
def test_text_that_goes_on_behind_something_else_keeps_its_order(pieces: list[str | None]) -> None:
    """`None` stands for what comes between: a call, or reasoning in a field of its own."""
    call = new_call()
    reader = TextCalls(TEXT_CONVENTIONS, OfferedTools(call), call.new_id)
    said = [delta for piece in [*pieces, None] for delta in (reader.finish() if piece is None else reader.feed(piece))]
    assert "".join(delta.text for delta in said if isinstance(delta, Text)) == "".join(filter(None, pieces))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('{"a": 1,}', {"a": 1}),
        ('{"a": [1, 2,], "b": {"c": 2,},}', {"a": [1, 2], "b": {"c": 2}}),
        ('{"a": 1 "b": 2}', {"a": 1, "b": 2}),
        ('{"a": {"b": [1', {"a": {"b": [1]}}),
        ('{"a": 1}}', {"a": 1}),
        ('{"a": "no end', {"a": "no end"}),
        ('{"a": "f() {} and', {"a": "f() {} and"}),
        ('"{\\"a\\": 1}"', {"a": 1}),
        (json.dumps(json.dumps('{"a": 1}')), {"a": 1}),
        ('{"a": 1}{"a": 1}', {"a": 1}),
        ('{"a": 1}\n\n{"a": 1}{"a": 1}', {"a": 1}),
        ('{}{"a": 1}', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('Here you are: {"a": 1,} Bye.', {"a": 1}),
        (
            "{'a': 'it\\'s', \"b\": 'say \"x\"', 'c': None, 'd': True}",
            {"a": "it's", "b": 'say "x"', "c": None, "d": True},
        ),
        ("{a: 1, b_c: [false]}", {"a": 1, "b_c": [False]}),
        ('{"a": "two\nlines", "b": 12345678901234567890,}', {"a": "two\nlines", "b": 12345678901234567890}),
    ],
)
def test_arguments_are_mended_where_they_can_mean_one_object_only(written: str, meant: dict[str, Any]) -> None:
    mended = mend_arguments(written)
    assert mended is not None
    assert json.loads(mended) == meant


@pytest.mark.parametrize(
    "written",
    [
        "",
        "none",
        "[1]",
        '[{"a": 1}]',
        '{"a": 1}{"a": 2}',
        '{"a": 1}, "b": 2}',
        '"a": {"b": 1}',
        '{"a": tru',
        '{"a": 1, "b',
        '{"a": 1, "b"}',
        '{"a": }',
        '{"a": 01}',
        '{"a": NaN}',
        '{"a": 1e999,}',
        '{"a": (1, 2)}',
        '{"a": "he said "hi" to me"}',
        "{'a': 'it's'}",
        '{"a": "\\d+"}',
        '{"a": 1, "a": 2,}',
        '{"a": 1 // why\n}',
        '{"a": "\\ud83d',
        '{"a": "' + "x" * 70_000 + '",}',
        "{" * 20_000,
    ],
)
def test_arguments_with_two_meanings_are_left_alone(written: str) -> None:
    assert mend_arguments(written) is None


def test_between_marks_nothing_around_an_object_is_passed_over() -> None:
    for written in ('{"a": "b', 'text {"a": 1,}', '{"a": 1,} text', '{"a": 1}{"a": 1}'):
        assert mend_arguments(written, alone=True) is None
        assert mend_arguments(written) is not None
    assert mend_arguments('{"a": ["b"', alone=True) == '{"a": ["b"]}'


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.integers(0, 9))
def test_what_is_an_object_stays_as_it_is_and_what_lacks_its_end_is_never_another(
    value: dict[str, Any], missing: int
) -> None:
    whole = json.dumps(value)
    assert mend_arguments(whole) == whole
    cut = whole[: max(1, len(whole) - missing)]
    mended = mend_arguments(cut)
    if mended is not None:
        read = json.loads(mended)
        assert list(read) == list(value)[: len(read)], "keys are kept in order, and none is invented"
    assert mend_arguments(whole + whole) == whole
    assert mend_arguments(json.dumps(whole)) == whole


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Read", "Read"),
        ("read", "Read"),
        ("functions.Read", "Read"),
        ("default_api.read", "Read"),
        ("default_api:Read", "Read"),
        ("functions.Read:3", "Read"),
        ("mcp__files__list-all", "mcp__files__list_all"),
        ("tools.mcp__files__LIST_ALL", "mcp__files__list_all"),
        ("Write", None),
        ("Rea", None),
        ("", None),
        ("web-search", None),
    ],
)
def test_odd_names_find_the_one_tool_that_they_can_mean(said: str, meant: str | None) -> None:
    names = ("Read", "mcp__files__list_all", "web_search", "Web-Search")
    assert OfferedTools(new_call(tools=[{"name": name, "input_schema": {}} for name in names])).match(said) == meant


def test_a_long_name_is_matched_under_its_alias_and_found_again() -> None:
    name = "mcp__a_server__" + "x" * 70
    call = new_call(tools=[{"name": name, "input_schema": {}}])
    (said,) = call.aliases
    assert OfferedTools(call).match(said) == name
    assert OfferedTools(call).match(f"functions.{said.upper()}") == name
    assert OfferedTools(call).match(name) == name


def test_a_note_holds_no_more_than_the_beginning_of_a_name_that_a_model_made_up() -> None:
    mender = CallMender(new_call(), names=True)
    name = "a\x1b[31m\n" + "x" * 5_000
    assert mender.mend_name(name) == name
    assert mender.mend_arguments("{'a': 1}", name) == '{"a": 1}'
    assert mender.mend_name("\n" + "x" * 400 + ".read") == "Read"
    reasons = [note.reason for note in mender.notes]
    assert len(reasons) == 2
    for reason in reasons:
        assert len(reason) < 200
        assert reason.isprintable()


def test_a_name_behind_thousands_of_namespaces_is_nobodys() -> None:
    assert OfferedTools(new_call()).match("a." * 50 + "Read") == "Read"
    assert OfferedTools(new_call()).match("a." * 50_000 + "Read") is None


def test_a_call_without_a_name_is_found_by_its_arguments() -> None:
    offered = OfferedTools(new_call())
    assert offered.match_arguments('{"path": "a", "limit": 1}') == "Read"
    assert offered.match_arguments('{"command": "ls"}') == "Run"
    assert offered.match_arguments("") == "now"
    assert offered.match_arguments('{"path": "a", "command": "b"}') is None
    assert offered.match_arguments("no json") is None
    forced = {"type": "tool", "name": "Run"}
    assert OfferedTools(new_call(tool_choice=forced)).match_arguments("no json") == "Run"


def test_no_call_is_looked_for_where_no_tool_may_be_called() -> None:
    for fields in ({"tools": []}, {"tool_choice": {"type": "none"}}):
        assert AnswerText(new_call(**fields)).feed(FORMS["hermes"]) == [Text(FORMS["hermes"])]


def test_json_that_the_client_asked_for_is_no_call() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    call = new_call(output_config={"format": {"type": "json_schema", "schema": schema}})
    text = AnswerText(call)
    assert folded([*text.feed(FORMS["bare_json"]), *text.finish()]) == [FORMS["bare_json"]]


TAGGED = {
    "think": "<think>Hm.</think>",
    "thinking": "<thinking>Hm.</thinking>",
    "thought": "<thought>Hm.</thought>",
    "brackets": "[THINK]Hm.[/THINK]",
    "triangles": "◁think▷Hm.◁/think▷",
    "seed": "<seed:think>Hm.</seed:think>",
    "channel": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>",
    "unopened": "Hm.</think>",
}


@pytest.mark.parametrize("form", TAGGED)
def test_reasoning_is_lifted_in_every_form(form: Any) -> None:
    for text in (f"{TAGGED[form]}Hi </b>", f"\n{TAGGED[form]}\n\nHi </b>"):
        for parts in ([text], list(text)):
            tags = ThinkTags((form,))
            deltas = [delta for part in parts for delta in tags.feed(part)] + tags.finish(whole=True)
            assert "".join(delta.text for delta in deltas if isinstance(delta, Thinking)).strip() == "Hm."
            assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == "Hi </b>"


def test_reasoning_that_no_tag_ends_was_the_answer_where_no_tag_began_it() -> None:
    tags = ThinkTags((*TAGS, "unopened"))
    assert tags.feed("All of it") == [Thinking("All of it")]
    assert tags.finish(whole=True) == [Text("All of it")]
    tags = ThinkTags((*TAGS, "unopened"))
    tags.expect_tags()
    assert tags.feed("All of it") == [Text("All of it")]
    tags = ThinkTags((*TAGS, "unopened"))
    assert [*tags.feed("<think>All of it"), *tags.finish(whole=True)] == [Thinking("All of it")]


@pytest.mark.parametrize("parts", [["\n All of it"], list("\n All of it")])
def test_reasoning_that_was_the_answer_begins_as_the_model_began_it(parts: list[str]) -> None:
    tags = ThinkTags(("unopened",))
    said = [delta for part in parts for delta in tags.feed(part)] + tags.finish(whole=True)
    assert said[-1] == Text("\n All of it")
    tags = ThinkTags(("think",))
    said = [delta for part in parts for delta in tags.feed(part)] + tags.finish(whole=True)
    assert "".join(delta.text for delta in said if isinstance(delta, Text)) == "\n All of it"


def test_a_model_that_repeats_a_mark_for_ever_is_left_alone_in_the_end() -> None:
    text = "<tool_call>" * 5_000 + FORMS["hermes"]
    assert folded(read([text])) == [text]
    broken = '<tool_call>{"name": "Read", "arguments": {' + '"path": [1] ' * 800
    long = (broken + "</tool_call>" * 16) * 4
    assert folded(read([long + FORMS["hermes"]])) == [long + FORMS["hermes"]]
    assert folded(read(list(long + FORMS["hermes"]))) == [long + FORMS["hermes"]]
    prose = "A line.\n\n```py\nx = 1\n```\n" * 1_000
    assert folded(read([prose + FORMS["hermes"]])) == [prose[:-1], *EXPECTED]


# Which servers are known for what, and who is told


def dialect_of(model: str, **settings: str) -> Any:
    return resolve(Facts(model), load_settings(settings, PROVIDERS, env_file=None), Catalogue()).targets[0].dialect


@pytest.mark.parametrize(
    ("model", "settings", "texts", "holds"),
    [
        ("openai/phi-4-mini", {"OPENAI_BASE_URL": "http://localhost:8000/v1"}, True, True),
        ("openai/gpt-oss-20b", {"OPENAI_BASE_URL": "http://192.168.0.9:8000/v1"}, True, True),
        ("openai/phi-4-mini", {"OPENAI_BASE_URL": "https://inference.example.com/v1"}, True, False),
        ("openai/gpt-4.1", {"OPENAI_BASE_URL": "http://localhost:4000/v1"}, False, False),
        ("openai/gpt-4.1", {"OPENAI_API_KEY": "k"}, False, False),
        ("openai/deepseek-chat", {"OPENAI_BASE_URL": "https://api.deepseek.com"}, False, False),
        ("groq/llama-3.3-70b-versatile", {"GROQ_API_KEY": "k"}, False, False),
        ("xai/grok-4.5", {"XAI_API_KEY": "k"}, False, False),
        ("moonshot/kimi-k2.5", {"MOONSHOT_API_KEY": "k"}, False, False),
        ("litellm/ollama_chat/phi4", {}, True, True),
        ("litellm/bedrock/anthropic.claude-v2", {}, False, False),
        ("ollama/qwen3:8b", {}, True, True),
    ],
)
def test_only_servers_of_small_models_are_read_so(
    model: str, settings: dict[str, str], texts: bool, holds: bool
) -> None:
    dialect = dialect_of(model, **settings)
    field = "mends_tool_arguments" if model.startswith("ollama/") else "buffers_tool_arguments"
    assert (bool(dialect.text_calls), bool(dialect.thinking_tags), dialect.mends_tool_names) == (texts,) * 3
    assert getattr(dialect, field) is holds


def test_reasoning_without_a_first_tag_is_expected_of_few_models() -> None:
    local = {"OPENAI_BASE_URL": "http://localhost:8000/v1"}
    for model in ("deepseek-r1-distill-qwen-7b", "QwQ-32B", "Qwen/Qwen3-30B-A3B-Thinking-2507"):
        assert "unopened" in dialect_of(f"openai/{model}", **local).thinking_tags
    for model in ("qwen3-8b", "magistral-small", "deepseek-v3.1"):
        assert "unopened" not in dialect_of(f"openai/{model}", **local).thinking_tags


def call_piece(index: int, name: str, arguments: str) -> dict[str, Any]:
    return {
        "index": index,
        "id": f"call_{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


@pytest.mark.parametrize("stream", [True, False])
async def test_what_was_mended_stands_in_the_receipt(stream: bool) -> None:
    calls = [
        call_piece(0, "functions.read", '{"path": "a",}'),
        call_piece(1, "Run", '{"command": 1}{"command": 2}'),
    ]
    said = {"role": "assistant", "content": FORMS["hermes"], "tool_calls": calls}
    choice = {"index": 0, "delta" if stream else "message": said, "finish_reason": "tool_calls"}
    body = msgspec.json.encode({"choices": [choice]})
    answer = Answer(200, b"data: %b\n\ndata: [DONE]\n\n" % body if stream else body)
    town = Town(
        lambda *_: answer,
        OPENAI_BASE_URL="http://localhost:8000/v1",
        BIG_MODEL="openai/phi-4-mini",
    )
    tools = [{"name": name, "input_schema": {"type": "object", **schema}} for name, schema in TOOLS.items()]
    keeper = await town.ask(stream=stream, tools=tools)
    assert keeper.receipt is not None
    notes = [f"{note.fate} {note.field}: {note.reason}" for note in keeper.receipt.notes if "tool_use" in note.field]
    assert notes == [
        "emulated content.tool_use: a call of Read that the model wrote as text (hermes) became a block",
        "emulated content.tool_use: a call of Run that the model wrote as text (hermes) became a block",
        "approximated content.tool_use.name: 'functions.read' was called; Read is offered",
        "approximated content.tool_use.input: the arguments of a call of Read were no JSON object and are mended",
        "approximated content.tool_use.input: the arguments of a call of Run are no JSON object and pass as they came",
    ]


@pytest.mark.parametrize("held", ["<tool_c", '<tool_call>{"name": "Read", "argum'])
async def test_text_that_waits_is_passed_on_before_the_error_where_the_answer_breaks_off(held: str) -> None:
    def street(*_: object) -> Answer:
        frames = [json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in ("I look. ", held)]
        return Answer(200, *(f"data: {frame}\n\n".encode() for frame in frames))

    local = {"OPENAI_BASE_URL": "http://localhost:8000/v1", "PREFERRED_PROVIDER": "openai", "BIG_MODEL": "openai/qwen3"}
    read = {"name": "Read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}
    keeper = await Town(street, **local).ask(stream=True, tools=[read])
    lines = [json.loads(line[6:]) for line in keeper.stream.splitlines() if line.startswith(b"data: ")]
    assert (
        "".join(line["delta"]["text"] for line in lines if line["type"] == "content_block_delta") == "I look. " + held
    )
    assert lines[-1]["type"] == "error"
