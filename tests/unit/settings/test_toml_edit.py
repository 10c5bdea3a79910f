"""Changes of a single field in a TOML file: the value is the expected one, and all other text stays."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.gateway.settings.toml_edit import change_toml_field

PATH = ("auto_mode", "mode")
CASES = {
    "header": (
        '# ours\n[auto_mode]  # rules\nmode = "client"  # for now, = #x\nmodel = "a"\n',
        '# ours\n[auto_mode]  # rules\nmode = "off"  # for now, = #x\nmodel = "a"\n',
        '# ours\n[auto_mode]  # rules\n# for now, = #x\nmodel = "a"\n',
    ),
    "line ends": (
        '\ufeff[auto_mode]\r\n  mode = "client"\r\nmodel = "a"',
        '\ufeff[auto_mode]\r\n  mode = "off"\r\nmodel = "a"',
        '\ufeff[auto_mode]\r\nmodel = "a"',
    ),
    "inline": (
        'auto_mode = { model = "mode = 1", mode = "client" } # c\n',
        'auto_mode = { model = "mode = 1", mode = "off" } # c\n',
        'auto_mode = { model = "mode = 1" } # c\n',
    ),
    "first of an inline table": (
        'auto_mode = { mode = "client", model = "a" }\n',
        'auto_mode = { mode = "off", model = "a" }\n',
        'auto_mode = { model = "a" }\n',
    ),
    "dotted": (
        'auto_mode.mode = "client" # c\nauto_mode.model = "a"\n',
        'auto_mode.mode = "off" # c\nauto_mode.model = "a"\n',
        '# c\nauto_mode.model = "a"\n',
    ),
    "quoted": (
        "[\"auto_mode\"]\n'mode' = 'cli#ent,}'\n",
        '["auto_mode"]\n\'mode\' = "off"\n',
        '["auto_mode"]\n',
    ),
    "another table with the same key": (
        '[other]\nmode = "client"\n[auto_mode]\nmodel = "mode"\nmode = "client"\n',
        '[other]\nmode = "client"\n[auto_mode]\nmodel = "mode"\nmode = "off"\n',
        '[other]\nmode = "client"\n[auto_mode]\nmodel = "mode"\n',
    ),
    "missing": ("# empty", '# empty\n\n[auto_mode]\nmode = "off"\n', "# empty"),
    "without the field": ('[auto_mode]\nmodel = "a"\n', '[auto_mode]\nmode = "off"\nmodel = "a"\n', None),
    "text of several lines": ('[auto_mode]\nmode = """\nclient"""\n', None, None),
    "no table": ("auto_mode = 3\n", None, None),
}


@pytest.mark.parametrize(("before", "changed", "removed"), CASES.values(), ids=[*CASES])
def test_only_the_field_changes(before: str, changed: str | None, removed: str | None) -> None:
    assert change_toml_field(before, PATH, "off") == changed
    expected = before if removed is None and "mode =" not in before else removed
    assert change_toml_field(before, PATH, None) == expected


ROUTE = '[[routes]]\nmodel = "a"\nmode = "client"\n'
BEFORE = {
    "tables with the same key": ROUTE * 50,
    "comments": "# a comment about mode = 3\n" * 50,
    "longer keys": "[other]\n" + "".join(f"mode{number} = 1\nthe-mode{number}-mode = 1\n" for number in range(50)),
    "a text of several lines": 'text = """\n' + '[auto_mode]\nmode = "client"\n\\"""' * 50 + '\n"""\n',
    "a literal text of several lines": "text = '''\n" + '[auto_mode]\n"""mode = 3\n' * 50 + "'''\n",
    "texts with signs of comments": "[other]\n" + "".join(f'k{number} = \'#"""\'\n' for number in range(50)),
    "other tables of the same name": "".join(f"[t{number}.auto_mode]\nmode = 1\n" for number in range(50)),
    "keys of another table": "[other]\nauto_mode.mode = 1\n" + ROUTE * 50,
}


@pytest.mark.parametrize("inside", ["", "# mode = 1\n" * 50, 'text = """\n' + "mode = 1\n" * 50 + '"""\n'])
@pytest.mark.parametrize("before", BEFORE.values(), ids=[*BEFORE])
def test_a_field_is_found_behind_many_lines_that_look_like_it(before: str, inside: str) -> None:
    start = f"{before}[auto_mode]\n{inside}"
    text = f'{start}mode = "on"\n{ROUTE * 50}'
    assert change_toml_field(text, PATH, "off") == f'{start}mode = "off"\n{ROUTE * 50}'
    assert change_toml_field(text, PATH, None) == f"{start}{ROUTE * 50}"
    added = change_toml_field(text, ("auto_mode", "timeout"), 3)
    assert added == text.replace(start, f"{before}[auto_mode]\ntimeout = 3\n{inside}")


VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20) | st.integers() | st.booleans()


@given(st.dictionaries(st.sampled_from(["mode", "model", "timeout"]), VALUES), VALUES)
def test_a_written_value_is_read_back_and_can_be_removed(fields: dict[str, Any], value: Any) -> None:
    text = ""
    for key, content in fields.items():
        text = change_toml_field(text, ("auto_mode", key), content) or ""
    changed = change_toml_field(text, PATH, value)
    assert changed is not None
    assert tomllib.loads(changed) == {"auto_mode": {**fields, "mode": value}}
    removed = change_toml_field(changed, PATH, None)
    assert removed is not None
    rest = {key: content for key, content in fields.items() if key != "mode"}
    assert tomllib.loads(removed).get("auto_mode", {}) == rest
