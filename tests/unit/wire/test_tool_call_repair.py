"""Calls and reasoning found in text: every convention, at any cut, and nothing lost where it is no call."""

import itertools
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anthropic_proxy.engine.messages.deltas import Delta, Text, Thinking, ToolArgs, ToolCall
from anthropic_proxy.engine.wires import tool_call_repair
from anthropic_proxy.engine.wires.tool_call_repair import (
    OPENED_THINKING_TAGS,
    TOOL_CALL_FORMATS,
    OfferedTools,
    TextCallDetector,
    TextSplitter,
    ThinkingTagParser,
    ToolCallRepair,
    repair_arguments,
)
from anthropic_proxy.engine.wires.tool_call_repair.calls import MAX_REPAIRED_CHARACTERS
from anthropic_proxy.engine.wires.tool_call_repair.formats import CALL_SIGNS, CallSign
from anthropic_proxy.engine.wires.tool_call_repair.text_calls import MAX_FENCES
from anthropic_proxy.engine.wires.tool_call_repair.thinking_tags import has_unopened_reasoning
from tests.support.golden_texts import Check
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.paths import ROOT
from tests.support.tables import in_one_test
from tests.support.tool_call_forms import FORMS, MORE_FORMS, READ, RUN, TOOLS, new_call

EXPECTED = [("Read", json.loads(READ)), ("Run", json.loads(RUN))]


def read(parts: Sequence[str], conventions: Sequence[Any] = TOOL_CALL_FORMATS, *, cut: bool = False) -> list[Delta]:
    call = new_call()
    reader = TextCallDetector(conventions, OfferedTools(call), call.new_id)
    return [delta for part in parts for delta in reader.feed(part)] + reader.finish(reply_ended_early=cut)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "Run", "arguments": {"command": "a \\ud800"}}</tool_call>',
        '[TOOL_CALLS][{"name": "Run", "arguments": {"command": "a \\udfff"}}]',
        '[Run(command="a \\ud800")]',
    ],
)
def test_a_call_with_half_of_a_surrogate_pair_is_one(text: str) -> None:
    assert folded(read([text])) == [("Run", {"command": "a \ufffd"})]


README = Path(tool_call_repair.__file__).with_name("README.md").read_text("utf-8")
README_EXAMPLES = re.findall(r"^\| `(\w+)` \| [^|`]+ \| `+ ?(.+?) ?`{1,4}(?: \(.*\))? \|$", README, re.MULTILINE)


def folded(deltas: Sequence[Delta]) -> list[Any]:
    """Return texts joined and calls with their input."""
    items: list[Any] = []
    for delta in deltas:
        if isinstance(delta, Text | Thinking):
            if items and isinstance(items[-1], str):
                items[-1] += delta.text
            else:
                items.append(delta.text)
        elif isinstance(delta, ToolCall):
            items.append([delta.name, ""])
        elif isinstance(delta, ToolArgs):
            items[-1][1] += delta.json
    return [item if isinstance(item, str) else (item[0], json.loads(item[1] or "{}")) for item in items]


@pytest.mark.parametrize(("name", "written"), README_EXAMPLES)
def test_the_examples_of_the_readme_are_calls(name: str, written: str) -> None:
    text = written.replace("\\|", "|").replace("⏎", "\n")
    assert folded(read([text], [name])) == [("Read", {"path": "a"})]


QUOTATIONS: dict[CallSign, tuple[str, ...]] = {
    "offered tool": ("CALL",),
    "no code": (
        "Look:\n```\nCALL\n```\n",
        "Look:\n~~~~\nCALL\n~~~~\nSo.",
        "Look: `CALL`.",
        "Look:\n````md\nA file:\n```\nCALL\n```\n````\n",
        "Look:\n~~~\n```\nCALL\n```\n~~~\n",
        "Look:\n```\n~~~\nCALL\n~~~\n```\n",
        "Look:\n```\n```json\nCALL\n```\n",
        "Look:\n```\n``` so\nCALL\n```\n",
        "- Look:\n\n      ```\n      a\n      ```\n      ```\nCALL\n      ```\n",
        "- ```\n  CALL\n  ```\n",
        "1. ```\nCALL\n   ```\n",
        "> ```\nCALL\n> ```\n",
        "Look:\n\n    CALL",
        "Look:\n\n\tCALL\n",
        "Look:\n```md\n1. a\n    ```\nCALL\n```\n",
        "Look:\n```md\n\t```\nCALL\n```\n",
        "Look:\n```md\n> ```\nCALL\n```\n",
        "> ```\n> > ```\nCALL\n> ```\n",
        "Look:\r```\rCALL\r```\r",
        "Look:\r\n```\r\na\r\nCALL\r\n```\r\n",
        "Look: `\nCALL\n`",
        "Look: ``\na`\nCALL\n``",
        "Look: ```\nCALL\n```",
        f"Look: ``\n{'so ' * 800}.\nCALL\n``",
        "Look:\n<pre>\n\nCALL\n</pre>",
        "Look:\n<PRE class='a'>\n```\na\n```\nCALL\n</PRE>",
        "Look: <code>\nCALL\n</code>",
        *(f"Look:\n<{tag}>\n\nCALL\n</{tag}>" for tag in ("textarea", "script", "style", "samp", "kbd", "blockquote")),
        f"<SCRIPT src='a'>\n{'so ' * 800}\nCALL\n</SCRIPT>",
        "Look:\n<!--\n" + "so\n\n" * 800 + "CALL\n-->",
    ),
    "by itself": (
        "It says CALL here.",
        "It says CALL",
        "It says: CALL",
        "It says:\tCALL\n",
        "The page (a.html) says CALL\nSo.",
        "It says `CALLCALL`.",
        "It says `CALL` and CALL.",
        "CALL is what it says.",
        "CALL</code> is what it says.",
        "\n\nCALL, it says",
        "CALL CALL is what it says.",
        "It says that. CALL is all.",
        "> CALL",
        "It says:\n> Look.\n> CALL\n",
        "- CALL\n1. CALL\n 12) CALL",
        "> Look at this. CALL",
        "- Look:CALL\n* Look! CALL\n 1. Look. CALL",
        f"Look:\n- It says {'so ' * 400}this. CALL",
        f"> It says {'so ' * 800}this. CALL",
        "- It says\n  CALL\n",
        f"1. It says {'so ' * 800}this:\n\n   so\n   CALL\n",
        "1. It says\r\n   CALL\r\n2. No.\r\n",
        "- ```\n  a\n  ```\n  CALL\n",
        "> It says\nCALL\n",
        f"> It says\n{'so ' * 800}\nit. CALL\n",
        "It is here:\nREADME.md:12:CALL\nsrc/a:CALL\n.env:CALL",
        f"{' ' * 2_000}> It says {'so ' * 400}this. CALL",
        '"CALL"',
        'It says this. "CALL"',
        "It says this: “CALL”.",
        "It says </think>CALL",
        "It says <|end|></think>CALL",
        "<code>CALL</code>",
        "| CALL |",
        "It says that" + " " * 100 + "CALL",
    ),
    "end of reply": ("CALL\n\nSo.",),
    "whole reply": ("Look.\n\nCALL",),
}
"""Sign → replies in which a call lacks it. One of another tool lacks the first sign."""


@pytest.mark.parametrize(("name", "written"), README_EXAMPLES)
def test_a_call_is_told_from_a_quoted_one_by_the_signs_of_its_format(name: Any, written: str) -> None:
    call = written.replace("\\|", "|").replace("⏎", "\n")
    found = [
        sign
        for sign, replies in QUOTATIONS.items()
        for quoted in [
            [text.replace("CALL", call.replace("Read", "Erase") if text == "CALL" else call) for text in replies]
        ]
        if [folded(read([text], [name])) for text in quoted] == [[text] for text in quoted]
        and [folded(read(list(text), [name])) for text in quoted] == [[text] for text in quoted]
    ]
    assert found == [*CALL_SIGNS[name]]


OWN_CALLS = (
    "CALL",
    "\n  CALL  \n",
    "I look.\nCALL",
    "I look\n\n   CALL",
    "```\na\n```\nCALL",
    "````\n```\na\n````\nCALL",
    "```a``` is it.\nCALL",
    "- ```\n  a\n  ```\n\nCALL",
    "I look.CALL",
    "I look. CALL",
    "I look (at it!) CALL\r\n",
    "**I look.** CALL",
    'He said "go." CALL',
    "I'll look:CALL",
    "I read src/main.py:CALL",
    "Now in v2.0:CALL",
    "At 10:30:CALL",
    "**I'll look:**CALL",
    "我来看看：CALL",
    "我再查几条。CALL",
    "I look</think>CALL",
    "I look.\n</think>CALL",
    "I look<|end|>CALL",
    "It is in version 2. CALL",
    f"It is {'so ' * 400}good. CALL",
    f"> It says {'so ' * 800}this.\n\nIt is {'so ' * 800}good. CALL",
    "1. I look.\n2. I edit.\nCALL",
    f"1. I look {'so ' * 800}here.\nCALL",
    "- I look.\r\n- I edit.\r\nCALL",
    "- a\n\nI look.\n  CALL",
    "- a\n```\n- b\n```\n  CALL",
    "> a\n\n  CALL",
    "In step 2:CALL",
    "I add a <script> tag and a <style>.\nCALL",
    "<script>\na\n</script>\nCALL",
    "I look…\nCALL<|im_end|>",
    "> ```\n> a\n> ```\nCALL",
    "1. a\n\n       ```\n       b\n       ```\nCALL",
    "```\r\na\r\n   ```\r\nCALL",
    "I use `a` and ``b`c``.\nCALL",
    "I use a ` here.\r\n\r\nCALL",
    "<pre>a</pre> and <!-- b --> are tags.\nCALL",
    "I use `a\n```\nb\n```\nCALL",
)
"""Replies with a call of the model, as templates and servers let them stand behind a text."""


@pytest.mark.parametrize(("name", "written"), README_EXAMPLES)
def test_a_call_behind_a_text_is_one_in_all_formats(name: Any, written: str) -> None:
    call = written.replace("\\|", "|").replace("⏎", "\n")
    texts = [text.replace("CALL", call) for text in OWN_CALLS]
    if "end of reply" in CALL_SIGNS[name]:
        texts = [text for text in texts if not text.endswith(">") or text.endswith(call)]
    found = [[item for item in folded(read([text], [name])) if not isinstance(item, str)] for text in texts]
    is_whole = "whole reply" in CALL_SIGNS[name]
    made = [is_whole <= (text.strip() == call) for text in texts]
    assert found == [[("Read", {"path": "a"})] if is_made else [] for is_made in made]
    assert [[item for item in folded(read(list(text), [name])) if not isinstance(item, str)] for text in texts] == found


def test_calls_on_a_line_are_made_or_quoted_together() -> None:
    call = FORMS["function_json"]
    assert folded(read([f"{call} \n{call}"])) == EXPECTED * 2
    assert folded(read([f"{call} {call}</tool_call> is it."])) == [f"{call} {call}</tool_call> is it."]
    broken = f"{call}<function=Read>[1]</function> is it."
    assert folded(read([broken])) == [*EXPECTED, broken.removeprefix(call)]
    assert folded(read([f"{call}<function=Re"], cut=True)) == [*EXPECTED, "<function=Re"]


def test_code_behind_a_call_is_quoted() -> None:
    call = FORMS["function_json"]
    assert folded(read([f"{call}\n\n    {call}\n"])) == [*EXPECTED, f"{call}\n"]
    assert folded(read(list(f"{call}\n\t{call}\n"))) == [*EXPECTED, f"{call}\n"]


def test_the_readme_has_the_signs_of_calls() -> None:
    rows = dict(re.findall(r"^\| `([a-z ]+)` \| [^|]+ \| ([^|]+) \|$", README, re.MULTILINE))
    listed = {
        sign: [*TOOL_CALL_FORMATS] if rows[sign] == "all" else re.findall(r"\w+", rows[sign]) for sign in QUOTATIONS
    }
    assert {*QUOTATIONS} == {*get_args(CallSign)}
    assert listed == {sign: [name for name in TOOL_CALL_FORMATS if sign in CALL_SIGNS[name]] for sign in QUOTATIONS}


@pytest.mark.parametrize("name", FORMS)
def test_every_convention_is_read_and_only_where_it_is_switched_on(name: Any) -> None:
    assert folded(read([FORMS[name]])) == EXPECTED
    assert folded(read([FORMS[name]], [name])) == EXPECTED
    assert folded(read(list(FORMS[name]), [name])) == EXPECTED
    others = [other for other in TOOL_CALL_FORMATS if other != name]
    assert folded(read([FORMS[name]], others)) != EXPECTED


@pytest.mark.parametrize("name", MORE_FORMS)
def test_the_usual_variations_are_read_too(name: str) -> None:
    assert folded(read([MORE_FORMS[name]])) == EXPECTED
    assert folded(read(list(MORE_FORMS[name]))) == EXPECTED


@pytest.mark.parametrize("name", [name for name in FORMS if not name.startswith("bare")])
def test_text_around_a_call_stays_text_without_the_white_space_next_to_the_call(name: str) -> None:
    ends_answer = name in ("python_tag", "listed")
    text = f"Let me look.\n\n{FORMS[name]}" + ("" if ends_answer else "\n\nDone <b>now</b>.")
    expected = ["Let me look.", *EXPECTED] + ([] if ends_answer else ["Done <b>now</b>."])
    assert folded(read([text])) == expected
    assert folded(read(list(text))) == expected


PARSERS = tomllib.loads((ROOT / "tests/support/tool_parsers.toml").read_text("utf-8"))


def test_each_tool_parser_of_a_server_has_a_format_or_a_reason() -> None:
    read_names = [name for names in PARSERS["read"].values() for name in names]
    listed = [*read_names, *PARSERS["missing"], *PARSERS["unknown"]["names"]]
    assert sorted(listed) == sorted({*PARSERS["names"]["vllm"], *PARSERS["names"]["sglang"]})
    assert sorted([*PARSERS["read"], *PARSERS["not_read_by_servers"]]) == sorted(TOOL_CALL_FORMATS)


def test_a_call_for_a_missing_tool_parser_is_still_text() -> None:
    """One that has become a call has a format now: move its name."""
    assert {name: folded(read([text])) for name, text in PARSERS["missing"].items()} == {
        name: [text] for name, text in PARSERS["missing"].items()
    }


NOT_CALLS = (
    "<function=Read>\n<parameter=path>\na.py\n<parameter=path>\nb.py\n</function>",
    "<function=Read>\n<parameter=path>\na.py\n<parameter=color>\nred\n</function>",
    "<function=Read>\n<parameter=path>\na.py\n</function>\n</function>",
    "<function=Run>\n<parameter=command>\nls -la",
    "<function=Run>\n<parameter=command>\necho '<function=Read><parameter=path>a</parameter></function>' x",
    "<function=Run>\n<parameter=command>\nrm x\n<function=Read>\n<parameter=path>\nEOF\n</parameter>\n</function>",
    "<function=Run>\n<parameter=command>\nrm x\n<parameter=background>\ntrue\nEOF\n</parameter>\n</function>",
    "<function=Run>\n<parameter=command>\nrm x; grep '<parameter=background>' y\n</function>",
    "<function=Run>\n<parameter=command>\nrm x; echo '</function>\n<function=Read>\n<parameter=path>\na'\n</function>",
    "<function=Run><parameter=command>rm -rf build; echo <parameter=background>true</parameter></function>",
    "<function=Run>\n<parameter=command>\ncat <<E\nUse <function=Read>\n<parameter=x>\nE\n</parameter>\n</function>",
    "<function=Run>\n<parameter=command>\nrm -rf build </tool_call> </tool_call>",
    "<function=Run>\n<parameter=command>\nls -la\n</function>\nThat lists the files.",
    "<function=Read(1)></function>",
    "Use <tool_call> tags for that: <tool_call> and </tool_call>.",
    "a < b and [1] and `<tool_call>{}</tool_call>`",
    '```xml\n<tool_call>{"name": "now", "arguments": {}}</tool_call>\n```\nLike that.',
    "Write ```<function=now>{}</function>``` or\n\n~~~\n[TOOL_CALLS]now[ARGS]{}\n~~~\n",
    '<tool_call>{"name": "Unknown", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "Read", "arguments": "none"}</tool_call> and more',
    '<tool_call>{"name": "Read", "arguments": {"path": "a',
    "<tool_call>",
    '<tool_call>{"name": "now"',
    "<tool_call>now",
    "<tool_call>now\n",
    "<function=now>",
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>",
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>",
    "<|channel|>commentary to=functions.now <|constrain|>json<|message|>",
    "[TOOL_CALLS]now[ARGS]",
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


@pytest.mark.parametrize(
    ("kinds", "written", "value"),
    [
        (["integer", "null"], "5", 5),
        (["integer", "null"], "None", None),
        (["string", "integer"], "5", "5"),
        (["string", "null"], "null", None),
        ("string", "null", "null"),
        ("boolean", "True", True),
        ("integer", "many", "many"),
        (None, "5", 5),
    ],
)
def test_a_tagged_parameter_has_a_type_that_its_schema_allows(kinds: Any, written: str, value: Any) -> None:
    schema = {"type": "object", "properties": {"line": {"type": kinds} if kinds else {}}}
    call = new_call(tools=[{"name": "Read", "input_schema": schema}])
    reader = TextCallDetector(TOOL_CALL_FORMATS, OfferedTools(call), call.new_id)
    text = f"<function=Read><parameter=line>{written}</parameter></function>"
    assert folded(reader.feed(text) + reader.finish(reply_ended_early=False)) == [("Read", {"line": value})]


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
    st.sampled_from(
        ["<function=now>{}</function>", "call:now{}", "It says ", ". ", ":", "</function>", "\u00a0", "- "]
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


VALUES_WITH_TAGS = st.lists(
    st.sampled_from(["a", " b", "\n", "</function>", "<parameter=x>", "<parameter=limit>", "</parameter> c", "<", '"']),
    min_size=1,
    max_size=4,
).map(lambda parts: "".join(parts).strip() or "a")


@given(
    st.lists(st.tuples(VALUES_WITH_TAGS, st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=2),
    st.booleans(),
    st.integers(0, 200),
)
def test_a_call_without_end_tags_is_the_right_call_or_text(
    written: list[tuple[str, bool, bool, bool]], has_wrapper: bool, cut: int
) -> None:
    """Any end tag may be missing, and a value may contain what looks like a tag. No other call is made of it."""
    expected, blocks = [], []
    for value, closes_path, closes_limit, closes_call in written:
        ends = ["\n</parameter>" if closes else "" for closes in (closes_path, closes_limit)]
        text = f"<function=Read>\n<parameter=path>\n{value}{ends[0]}\n<parameter=limit>\n3{ends[1]}\n"
        text += "</function>" if closes_call else ""
        blocks.append(f"<tool_call>\n{text}\n</tool_call>" if has_wrapper else text)
        expected.append(("Read", {"path": value, "limit": 3}))
    text = "\n".join(blocks)
    found = folded(read([text], ["functions"]))
    assert folded(read([text[:cut], text[cut:]], ["functions"])) == found
    calls = [item for item in found if not isinstance(item, str)]
    # an end tag in a value of the second call may end a value of the first one
    may_end_the_first = len(written) > 1 and not all(written[0][2:]) and "</" in written[1][0]
    assert may_end_the_first or all(call in expected for call in calls)
    is_plain = all("<" not in value for value, *_ in written)
    ends_are_clear = has_wrapper or all(closes_call for *_, closes_call in written)
    # An end tag of the second call may end a value of the first one, which then has the start of a call as text.
    has_one_reading = len(written) == 1 or all(written[0][2:]) or not (written[1][1] or written[1][2])
    if is_plain and ends_are_clear and has_one_reading:
        assert found == expected


VALUES_ABOUT_CALLS = (
    "rm -rf build; grep -n '<parameter=background>' x",
    "rm -rf build; grep -n '<parameter=background>true' x",
    "rm -rf build; grep -n '<function=Read>' x",
    "echo '<function=Read><parameter=path>a</parameter></function>' > doc; rm doc",
    "echo '<function=Other><parameter=x>a</parameter></function>' > doc; rm doc",
    "cat > x <<EOF\n<function=Read>\n<parameter=path>\na.py\n</parameter>\n</function>\nEOF",
    "rm -rf build </tool_call> x",
    "grep '</function>' x",
)
FRAMES = {
    "functions": "<function=Run>\n<parameter=command>\n{}\n</parameter>\n</function>",
    "invoke": '<invoke name="Run">\n<parameter name="command">{}</parameter>\n</invoke>',
    "keys": "<tool_call>Run\n<arg_key>command</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>",
}


def in_format(value: str, name: str) -> str:
    """Return a value with the tags of the format `name` in place of those of `functions`."""
    changes = {
        "functions": (),
        "invoke": (
            (r"<(parameter|function)=(\w+)>", r'<\1 name="\2">'),
            ("function(?= name|>)", "invoke"),
        ),
        "keys": (
            (r"<parameter=(\w+)>", r"<arg_key>\1</arg_key>\n<arg_value>"),
            ("</parameter>", "</arg_value>"),
            (r"<function=(\w+)>", r"<tool_call>\1\n"),
            ("</function>", "</tool_call>"),
        ),
    }[name]
    for pattern, replacement in changes:
        value = re.sub(pattern, replacement, value)
    return value


@in_one_test
@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("value", VALUES_ABOUT_CALLS)
def test_a_value_that_has_tags_as_text_is_never_cut(name: str, value: str) -> None:
    command = in_format(value, name)
    text = FRAMES[name].format(command)
    for parts in ([text], list(text), [f"I look.\n{text}\nThen I report."], [text + "\n" + text]):
        calls = [item for item in folded(read(parts)) if not isinstance(item, str)]
        assert all(call == ("Run", {"command": command}) for call in calls)
        if name != "keys":
            assert calls


@given(st.lists(PIECES, max_size=5))
def test_no_word_is_lost(pieces: list[str]) -> None:
    """The remaining text is the input without its calls, in order."""
    text = "".join(pieces)
    position = 0
    for item in folded(read([text])):
        if isinstance(item, str):
            words = re.sub(r"\s+", " ", item)
            found = re.sub(r"\s+", " ", text).find(words, position)
            assert found >= 0
            position = found + len(words.strip())
    if not any(isinstance(item, tuple) for item in folded(read([text]))):
        assert folded(read([text])) == ([text] if text else [])


def test_text_flows_on_where_nothing_can_begin() -> None:
    call = new_call()
    reader = TextCallDetector(TOOL_CALL_FORMATS, OfferedTools(call), call.new_id)
    assert reader.feed("Hello") == [Text("Hello")]
    assert reader.feed(" there, a <") == [Text(" there, a ")]
    assert reader.feed("b> c\n") == [Text("<b> c")]
    assert reader.feed("<tool_call> is a tag") == [Text("\n<tool_call> is a tag")]


def test_after_many_fences_no_call_is_looked_for() -> None:
    call = '<tool_call>{"name": "Read", "arguments": {"file_path": "a.txt"}}</tool_call>'
    few, many = "```\n```\n" * 100, "```\n```\n" * (MAX_FENCES + 1)
    assert len(folded(read([few + call]))) == 2
    assert folded(read([many + call])) == [many + call]


@given(st.lists(st.sampled_from(["a", "b c", " ", "\n", "<", "`", None]), max_size=8))
@example(["a", "\n", None, " ", "b"])
def test_text_that_goes_on_behind_something_else_keeps_its_order(pieces: list[str | None]) -> None:
    """`None` is a different delta between texts: a call, or reasoning in its own field."""
    call = new_call()
    reader = TextCallDetector(TOOL_CALL_FORMATS, OfferedTools(call), call.new_id)
    deltas = [
        delta for piece in [*pieces, None] for delta in (reader.finish() if piece is None else reader.feed(piece))
    ]
    assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == "".join(filter(None, pieces))


def test_arguments_are_repaired_where_they_can_mean_one_object_only(golden: Check) -> None:
    def show(given: str) -> str:
        written = json.loads(given)
        alone, between = (repair_arguments(written, between_markers=is_between) for is_between in (False, True))
        return f"{alone}{'' if alone == between else f', between markers {between}'}"

    golden("tool_arguments", show)


@pytest.mark.parametrize("written", ['{"a": "' + "x" * 70_000 + '",}', "{" * 20_000])
def test_long_arguments_are_left_alone(written: str) -> None:
    assert repair_arguments(written) is None


def test_arguments_up_to_the_limit_are_repaired() -> None:
    whole = '{"a": "' + "x" * (MAX_REPAIRED_CHARACTERS - 10) + '"'
    assert repair_arguments(f"{whole},}}") == f"{whole}}}"


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
    assert repair_arguments(whole) == whole
    cut = whole[: max(1, len(whole) - missing)]
    mended = repair_arguments(cut)
    if mended is not None:
        read = json.loads(mended)
        assert list(read) == list(value)[: len(read)], "keys are kept in order, and none is invented"
    assert repair_arguments(whole + whole) == whole
    assert repair_arguments(json.dumps(whole)) == whole


def test_a_long_name_is_matched_under_its_alias_and_found_again() -> None:
    name = "mcp__a_server__" + "x" * 70
    call = new_call(tools=[{"name": name, "input_schema": {}}])
    (alias,) = call.client_tool_names
    assert OfferedTools(call).find_tool_name(alias) == name
    assert OfferedTools(call).find_tool_name(f"functions.{alias.upper()}") == name
    assert OfferedTools(call).find_tool_name(name) == name


def test_a_note_holds_nothing_of_a_name_that_a_model_made_up() -> None:
    mender = ToolCallRepair(new_call(), names=True)
    alias = mender.repair_name("a\x1b[31m\n" + "x" * 5_000)
    assert alias == "unknown_tool_09e13d95"
    assert mender.repair_arguments("{'a': 1}", alias) == '{"a": 1}'
    assert mender.repair_name("\n" + "x" * 400 + ".read") == "Read"
    reasons = [note.reason for note in mender.notes]
    assert len(reasons) == 3
    for reason in reasons:
        assert len(reason) < 220
        assert reason.isprintable()


INVENTED = [
    ("functions.Read", "Read"),
    ("default_api.Read", "Read"),
    ("a.b.Read:3", "Read"),
    (" Read\n", "Read"),
    ("Read<|channel|>commentary", "Read"),
    ("Read</arg_value>", "Read"),
    ("Read<arg_key>", "Read"),
    ("Read[ARGS]", "Read"),
    ("[TOOL_CALLS]Read", "Read"),
    ("[TOOL_CALLS] Read[ARGS]", "Read"),
    ("functions.Read<|constrain|>json", "Read"),
    ("functions.Read:0<|tool_call_argument_begin|>", "Read"),
    ("functions.Read:12 <|x|>:3", "Read"),
    ("functions.read", "Read"),
    ("multi_tool_use.parallel", "multi_tool_use_parallel_41c06c9e"),
    ("functions.grep", "functions_grep_3310b1b4"),
    ("<|channel|>", "unknown_tool_fb8e034c"),
    ("Dear Mr Smith, the merger", "unknown_tool_873c5835"),
    ("read", "read"),
    ("grep", "grep"),
]


@pytest.mark.parametrize(("written", "delivered"), INVENTED)
def test_an_invalid_name_is_that_of_the_offered_tool_or_an_alias(written: str, delivered: str) -> None:
    repair = ToolCallRepair(new_call(), names=False)
    assert repair.repair_name(written) == delivered
    assert bool(repair.notes) == (written != delivered)
    assert "merger" not in str(repair.notes)


def test_a_name_that_may_be_either_of_two_tools_becomes_an_alias() -> None:
    call = new_call(tools=[{"name": name, "input_schema": {}} for name in ("Read", "READ", "a-b", "a_b")])
    repair = ToolCallRepair(call, names=False)
    assert repair.repair_name("functions.read").startswith("functions_read_")
    assert repair.repair_name("functions.A-B").startswith("functions_A_B_")
    assert repair.repair_name("functions.READ") == "READ"


@given(st.text(min_size=1), st.sampled_from(["", "functions.", "x:"]), st.sampled_from([*TOOLS, ""]), st.booleans())
def test_every_delivered_name_is_allowed_and_stays_in_later_replies(
    start: str, namespace: str, tool: str, names: bool
) -> None:
    repair = ToolCallRepair(new_call(), names=names)
    delivered = repair.repair_name(f"{start}{namespace}{tool}")
    assert re.fullmatch("[a-zA-Z0-9_-]{1,128}", delivered)
    assert repair.repair_name(delivered) == delivered


@given(st.from_regex("[a-zA-Z0-9_-]{1,128}", fullmatch=True))
def test_a_valid_name_of_a_vendors_own_server_stays(name: str) -> None:
    repair = ToolCallRepair(new_call(), names=False)
    assert repair.repair_name(name) == name
    assert repair.notes == []


def test_an_invalid_name_that_the_client_offers_stays() -> None:
    call = new_call(tools=[{"name": "fs.read", "input_schema": {}}])
    (alias,) = call.client_tool_names
    repair = ToolCallRepair(call, names=False)
    assert repair.repair_name(alias) == "fs.read"
    assert repair.repair_name("functions.fs.read") == "fs.read"


def test_a_name_behind_thousands_of_namespaces_is_nobodys() -> None:
    assert OfferedTools(new_call()).find_tool_name("a." * 50 + "Read") == "Read"
    assert OfferedTools(new_call()).find_tool_name("a." * 50_000 + "Read") is None


def test_a_call_without_a_name_is_found_by_its_arguments() -> None:
    offered = OfferedTools(new_call())
    assert offered.find_tool_name_by_arguments('{"path": "a", "limit": 1}') == "Read"
    assert offered.find_tool_name_by_arguments('{"command": "ls"}') == "Run"
    assert offered.find_tool_name_by_arguments("") == "now"
    assert offered.find_tool_name_by_arguments('{"path": "a", "command": "b"}') is None
    assert offered.find_tool_name_by_arguments("no json") is None
    forced = {"type": "tool", "name": "Run"}
    assert OfferedTools(new_call(tool_choice=forced)).find_tool_name_by_arguments("no json") == "Run"


@pytest.mark.parametrize("required", [[{}], [["path"], "path"], [None, 1, "path"], "path", {"path": True}])
def test_a_list_of_required_arguments_may_hold_anything(required: Any) -> None:
    schema = {"type": "object", "properties": {"path": {}}, "required": required}
    tools = [{"name": "Read", "input_schema": schema}, {"name": "Run", "input_schema": {"type": "object"}}]
    assert OfferedTools(new_call(tools=tools)).find_tool_name_by_arguments('{"path": "a"}') == "Read"


def new_splitter(call) -> TextSplitter:
    return TextSplitter(call, call.dialect.thinking_tags, call.dialect.text_call_formats)


def test_no_call_is_looked_for_where_no_tool_may_be_called() -> None:
    for fields in ({"tools": []}, {"tool_choice": {"type": "none"}}):
        assert new_splitter(new_call(**fields)).feed(FORMS["hermes"]) == [Text(FORMS["hermes"])]


def test_json_that_the_client_asked_for_is_no_call() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    call = new_call(output_config={"format": {"type": "json_schema", "schema": schema}})
    text = new_splitter(call)
    assert folded([*text.feed(FORMS["bare_json"]), *text.finish()]) == [FORMS["bare_json"]]


TAGGED = {
    "think": "<think>Hm.</think>",
    "thinking": "<thinking>Hm.</thinking>",
    "thought": "<thought>Hm.</thought>",
    "brackets": "[THINK]Hm.[/THINK]",
    "triangles": "◁think▷Hm.◁/think▷",
    "seed": "<seed:think>Hm.</seed:think>",
    "minimax": "<mm:think>Hm.</mm:think>",
    "channel": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>",
    "thought_channel": "<|channel>thought\nHm.<channel|>",
    "unopened": "Hm.</think>",
}
UNPAIRED = {
    "think": ("<think>Hm.</thinking>", "<think>Hm.</thought>", "<think>Hm.</mm:think>"),
    "minimax": ("<mm:think>Hm.</think>",),
    "thinking": ("<thinking>Hm.</think>",),
    "thought": ("<thought>\nHm.\n</think>\n",),
    "unopened": ("Hm.</thinking>", "Hm.</thought>", "Hm.</mm:think>", "Hm.<channel|>"),
}


@pytest.mark.parametrize("form", TAGGED)
def test_reasoning_is_lifted_in_every_form(form: Any) -> None:
    for text in (f"{TAGGED[form]}Hi </b>", f"\n{TAGGED[form]}\n\nHi </b>"):
        for parts in ([text], list(text)):
            tags = ThinkingTagParser((form,))
            deltas = [delta for part in parts for delta in tags.feed(part)] + tags.finish(is_text_reply=True)
            assert "".join(delta.text for delta in deltas if isinstance(delta, Thinking)).strip() == "Hm."
            assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == "Hi </b>"


@pytest.mark.parametrize("form", UNPAIRED)
def test_reasoning_ends_at_the_end_tag_of_another_pair(form: Any) -> None:
    for tagged in UNPAIRED[form]:
        for parts in ([f"{tagged}Hi </b>"], list(f"{tagged}Hi </b>")):
            tags = ThinkingTagParser((form,))
            deltas = [delta for part in parts for delta in tags.feed(part)] + tags.finish(is_text_reply=True)
            assert "".join(delta.text for delta in deltas if isinstance(delta, Thinking)).strip() == "Hm."
            assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == "Hi </b>"


@pytest.mark.parametrize("quote", ["`", "'", '"'])
def test_reasoning_may_quote_the_end_tag_of_another_pair(quote: str) -> None:
    text = f"<think>It ends {quote}</thinking>{quote} here.</think>Hi"
    for parts in ([text], list(text), [text[:16], text[16:]]):
        tags = ThinkingTagParser(("think",))
        deltas = [delta for part in parts for delta in tags.feed(part)] + tags.finish(is_text_reply=True)
        assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == "Hi"
        thought = "".join(delta.text for delta in deltas if isinstance(delta, Thinking))
        assert thought == f"It ends {quote}</thinking>{quote} here."


def join_texts(deltas: Sequence[Delta], kind: type[Text | Thinking]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Text | Thinking) and isinstance(delta, kind))


@pytest.mark.parametrize("form", ["think", "unopened"])
@pytest.mark.parametrize("quote", ["`", "'", '"'])
def test_reasoning_may_quote_its_own_end_tag_but_may_end_with_a_quotation(form: Any, quote: str) -> None:
    opening = "<think>" if form == "think" else ""
    for thought, reply in (
        (f"It ends {quote}</think>{quote} here.", "Hi"),
        (f"I say {quote}Hi{quote}", "Hi"),
        (f"I say {quote}Hi{quote}", ""),
    ):
        text = f"{opening}{thought}</think>{reply}"
        for parts in ([text], list(text)):
            tags = ThinkingTagParser((form,))
            deltas = [delta for part in parts for delta in tags.feed(part)] + tags.finish(is_text_reply=True)
            assert "".join(delta.text for delta in deltas if isinstance(delta, Thinking)) == thought
            assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == reply


@pytest.mark.parametrize(
    "text",
    [
        "I think.\n</think>\n\nHi",
        "I think.</think>\n\nHi",
        "The sum is 4</think>\nIt is 4.",
        "I think.</think>Hi",
        "I think.</think>**Hi**",
        "\n</think>\n\nHi",
        "I think.\n</think>",
        "I think.\n</thinking>\nHi",
        "```\ncode\n```\nI think.\r\n</thought>\r\nHi",
        'I say "Hi".</think>\n\n"Hi"',
        f"I think {'so ' * 400}too.</think>Hi",
        "````md\n```\n````\nI think.</think>Hi",
        "```` ``` ````\nI think.</think>Hi",
    ],
)
def test_an_end_tag_that_stands_by_itself_ends_reasoning_without_a_start_tag(text: str) -> None:
    assert has_unopened_reasoning(text)
    for parts in ([text], list(text)):
        tags = ThinkingTagParser((*OPENED_THINKING_TAGS, "unopened_alone"))
        deltas = [delta for part in parts for delta in tags.feed(part)] + tags.finish(is_text_reply=True)
        assert tags.has_unopened_form
        assert join_texts(deltas, Text) == re.split(r"</\w+>", text)[1].lstrip("\r\n")


@pytest.mark.parametrize(
    "text",
    [
        "Example:\n```\n<think>\nplan\n</think>\nanswer\n```\nThe parser drops it.",
        "Replace </think> by a line break, then run the tests.",
        'Use `re.split(r"</think>\\s*", text)` in parse.py.',
        "```jinja\n{%- set content = content.split(</think>)[-1] %}\n```\nDone.",
        "The span ``x </think> y`` is text.",
        "I look for </think> in the sources.\n</think>\n",
        "```\nplan\n</think>\n```\nSo it ends.",
        "<b>I</b> say <think>plan</think>\nHi",
    ],
)
def test_an_end_tag_within_a_text_ends_no_reasoning_that_earlier_replies_have_shown(text: str) -> None:
    for parts in ([text], list(text), [text[:40], text[40:]]):
        tags = ThinkingTagParser((*OPENED_THINKING_TAGS, "unopened_alone"))
        deltas = [delta for part in parts for delta in tags.feed(part)] + tags.finish(is_text_reply=True)
        assert (join_texts(deltas, Text), tags.has_unopened_form) == (text, False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("</mm:think>\n\nHello", "Hello"),
        ("\n</think> \r\nHello", "Hello"),
        ("</think> ends it.", "</think> ends it."),
        ("</think>", "</think>"),
        ("</thin", "</thin"),
        ("</p>\nHello", "</p>\nHello"),
    ],
)
def test_an_end_tag_that_is_the_first_line_is_dropped(text: str, shown: str) -> None:
    for parts in ([text], list(text)):
        for disable in (True, False):
            tags = ThinkingTagParser(OPENED_THINKING_TAGS)
            if disable:
                tags.disable_unopened_form()
            deltas = [delta for part in parts for delta in tags.feed(part)] + tags.finish(is_text_reply=True)
            assert join_texts(deltas, Text) == shown


def test_a_very_long_reply_is_not_searched_for_an_end_tag_alone() -> None:
    splitter = TextSplitter(new_call(), OPENED_THINKING_TAGS, ())
    pieces = ["I think.\n", "x" * 1_000_000, "\n</think>\nHi"]
    for piece in pieces:
        splitter.feed(piece)
    splitter.finish(is_text_reply=True)
    assert splitter.examine_text(pieces) is None
    assert splitter.examine_text([pieces[0], pieces[2]]) is True


def test_reasoning_that_no_tag_ends_was_the_answer_where_no_tag_began_it() -> None:
    tags = ThinkingTagParser((*OPENED_THINKING_TAGS, "unopened"))
    assert tags.feed("All of it") == [Thinking("All of it")]
    assert tags.finish(is_text_reply=True) == [Text("All of it")]
    tags = ThinkingTagParser((*OPENED_THINKING_TAGS, "unopened"))
    tags.disable_unopened_form()
    assert tags.feed("All of it") == [Text("All of it")]
    tags = ThinkingTagParser((*OPENED_THINKING_TAGS, "unopened"))
    assert [*tags.feed("<think>All of it"), *tags.finish(is_text_reply=True)] == [Thinking("All of it")]


@pytest.mark.parametrize("parts", [["\n All of it"], list("\n All of it")])
def test_reasoning_that_was_the_answer_begins_as_the_model_began_it(parts: list[str]) -> None:
    tags = ThinkingTagParser(("unopened",))
    deltas = [delta for part in parts for delta in tags.feed(part)] + tags.finish(is_text_reply=True)
    assert deltas[-1] == Text("\n All of it")
    tags = ThinkingTagParser(("think",))
    deltas = [delta for part in parts for delta in tags.feed(part)] + tags.finish(is_text_reply=True)
    assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == "\n All of it"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<|open|>response<|sep|>Hello.<|close|>response<|sep|><|close|>message<|sep|>", "Hello."),
        ("Hello.<|close|>response<|sep|>", "Hello."),
        ("Look at `a <|close|>response<|sep|> b`.", "Look at `a <|close|>response<|sep|> b`."),
        ("```\n<|open|>response<|sep|>\n```", "```\n<|open|>response<|sep|>\n```"),
        ("Say <|open|>respond.", "Say <|open|>respond."),
    ],
)
def test_the_channels_of_kimi_k3_are_removed_outside_of_code(text: str, shown: str) -> None:
    for parts in ([text], list(text), [text[:9], text[9:]]):
        assert folded(read(parts)) == [shown]


def test_a_model_that_repeats_a_mark_for_ever_is_left_alone_in_the_end() -> None:
    text = "<tool_call>" * 5_000 + FORMS["hermes"]
    assert folded(read([text])) == [text]
    broken = '<tool_call>{"name": "Read", "arguments": {' + '"path": [1] ' * 800
    long = (broken + "</tool_call>" * 16) * 4
    assert folded(read([long + FORMS["hermes"]])) == [long + FORMS["hermes"]]
    assert folded(read(list(long + FORMS["hermes"]))) == [long + FORMS["hermes"]]
    assert folded(read(["<|close|>response<|sep|>" * 40_000 + "Well."])) == ["Well."]
    prose = "A line.\n\n```py\nx = 1\n```\n" * 1_000
    assert folded(read([prose + FORMS["hermes"]])) == [prose[:-1], *EXPECTED]


# The known behaviour of servers, and the recipients of the report


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
        call_piece(1, "Run", '{"command": 1} or {"command": 2}'),
    ]
    message = {"role": "assistant", "content": FORMS["hermes"], "tool_calls": calls}
    choice = {"index": 0, "delta" if stream else "message": message, "finish_reason": "tool_calls"}
    body = msgspec.json.encode({"choices": [choice]})
    answer = FakeResponse(200, b"data: %b\n\ndata: [DONE]\n\n" % body if stream else body)
    proxy = ProxyHarness(lambda *_: answer, OPENAI_BASE_URL="http://localhost:8000/v1", BIG_MODEL="openai/phi-4-mini")
    tools = [{"name": name, "input_schema": {"type": "object", **schema}} for name, schema in TOOLS.items()]
    sink = await proxy.post(stream=stream, tools=tools)
    notes = [f"{note.handling} {note.field}: {note.reason}" for note in sink.receipt.notes if "tool_use" in note.field]
    assert notes == [
        "emulated content.tool_use: a call of Read that the model wrote as text (hermes) became a block",
        "emulated content.tool_use: a call of Run that the model wrote as text (hermes) became a block",
        "approximated content.tool_use.name: 'functions.read' was called; the offered tool is Read",
        "approximated content.tool_use.input: the arguments of a call of Read were not a JSON object and were repaired",
        "approximated content.tool_use.input: the arguments of a call of Run are not a JSON object and were "
        "delivered unchanged",
    ]


@in_one_test
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("is_tagged", [True, False])
def test_calls_at_the_end_of_reasoning_are_made_if_the_reply_has_nothing_else(name: str, is_tagged: bool) -> None:
    is_whole = name.startswith("bare")  # these have no marker, so they are the complete text
    before = "" if is_whole else "I should look.\n"

    def play(reasoning: str, reply: str = "", *, is_early: bool = False) -> list[Any]:
        call = new_call()
        splitter = TextSplitter(call, OPENED_THINKING_TAGS, TOOL_CALL_FORMATS)
        deltas: list[Delta] = []
        if is_tagged:
            deltas += splitter.feed(f"<think>{reasoning}</think>")
        else:
            for piece in (reasoning[:9], reasoning[9:]):
                splitter.note_separate_reasoning(piece)
                deltas.append(Thinking(piece))
        if reply:
            deltas += splitter.feed(reply)
        deltas += splitter.finish(reply_ended_early=is_early, is_text_reply=not is_early)
        return [item for item in folded(deltas) if not isinstance(item, str)]

    assert play(before + FORMS[name]) == EXPECTED
    assert play(before + FORMS[name], "\n\n") == EXPECTED
    assert play(before + FORMS[name], "Done.") == []
    assert play(before + FORMS[name], is_early=True) == []
    if not is_whole and name not in ("python_tag", "listed"):
        assert play(f"{FORMS[name]}\nBut first I answer.") == []
