"""Command `import`: the work is proportional to the file, and a file that would multiply it is rejected."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.cli.importing import servers as imported_servers
from anthropic_proxy.cli.importing.files import prepare_files
from anthropic_proxy.cli.importing.plan import ImportPlan
from anthropic_proxy.cli.importing.reading import read_plan
from anthropic_proxy.errors import ConfigurationError
from tests.support.command_line import run_command

SERVER = {"name": "own", "api_base_url": "http://127.0.0.1:8000/v1/chat/completions", "models": ["m"]}
MODEL_NAME = "model_list:\n- model_name: "


def read(text: str, tmp_path: Path, name: str = "config.yaml") -> ImportPlan:
    file = tmp_path / name
    file.write_text(text)
    return read_plan(file)


def read_rejected(text: str, tmp_path: Path, name: str = "config.yaml") -> str:
    with pytest.raises(ConfigurationError) as failed:
        read(text, tmp_path, name)
    return failed.value.messages[0].removeprefix(str(tmp_path / name)).strip()


@pytest.fixture(params=[True, False], ids=["parser in C", "parser in Python"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = pytest.importorskip("yaml")
    if request.param and not yaml.__with_libyaml__:
        pytest.skip("PyYAML has no parser in C")
    monkeypatch.setattr(yaml, "__with_libyaml__", request.param)


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{MODEL_NAME}1{':00' * 5_000}", "line 2: a number has too many digits"),
        (f"{MODEL_NAME}1{':00' * 5_000}.5", "line 2: a number has too many digits"),
        (f"{MODEL_NAME}0x{'f' * 5_000}", "line 2: a number has too many digits"),
        (f"{MODEL_NAME}{'9' * 101}", "line 2: a number has too many digits"),
        (f"{MODEL_NAME}{'9' * 100}", ""),
        (f"{MODEL_NAME}2026-02-30", "line 2: this is no value of the type timestamp"),
        (f"{MODEL_NAME}!!timestamp x", "line 2: this is no value of the type timestamp"),
        (f"{MODEL_NAME}!!bool x", "line 2: this is no value of the type bool"),
        (f"{MODEL_NAME}!!int ''", "line 2: this is no value of the type int"),
        (f"{MODEL_NAME}!!python/object:os.system x", "line 2: could not determine a constructor for the tag 'tag:…"),
        (f"{MODEL_NAME}'\\u0007\x07'", "line 2: the character '\\x07' is not allowed"),
        (f"{MODEL_NAME}[&a x, *b]", "line 2: found undefined alias 'b'"),
        ("model_list: &a [*a]", "line 1: an alias stands in its own value"),
        ("model_list: &a {<<: *a}", "line 1: an alias stands in its own value"),
        ("model_list: []\nmodel: b: c", "line 2: mapping values are not allowed"),
        ("model_list: [\n'x", "line 2: while scanning a quoted scalar, found unexpected end of stream"),
        (
            f"model_list: []\nk0: &a0 [{'x, ' * 500}]\nk1: &a1 [{'*a0, ' * 500}]\nk2: [{'*a1, ' * 500}]",
            "line 3: aliases make too many values",
        ),
    ],
)
def test_a_value_of_yaml_that_is_no_value_is_named(text: str, problem: str, tmp_path: Path) -> None:
    if not problem:
        assert read(text, tmp_path).notes
        return
    assert read_rejected(text, tmp_path).startswith(f"is not valid YAML: {problem}".removesuffix("…"))


@pytest.mark.usefixtures("_parser")
def test_merge_keys_that_double_the_values_with_each_line_are_rejected(tmp_path: Path) -> None:
    lines = [f"k{number}: &a{number} {{<<: [*a{number - 1}, *a{number - 1}]}}" for number in range(1, 20)]
    text = "\n".join(["model_list: []", "k0: &a0 {x: 1}", *lines])
    assert read_rejected(text, tmp_path) == "is not valid YAML: line 12: aliases make too many values."


@pytest.mark.usefixtures("_parser")
def test_an_alias_and_a_merge_key_have_the_values_of_their_anchor(tmp_path: Path) -> None:
    shared = "shared: &shared {model: openai/gpt-4.1, api_base: http://10.0.0.1/v1}\n"
    own = "- {model_name: claude-sonnet, litellm_params: *shared}\n"
    merged = "- {model_name: claude-opus, litellm_params: {<<: *shared, model: openai/gpt-5}}\n"
    plan = read(f"{shared}model_list:\n{own}{merged}", tmp_path)
    assert [*plan.servers["server"].models] == ["gpt-4.1", "gpt-5"]


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize("text", ["[" * 100_000, f"model_list: {'[' * 2_000}{']' * 2_000}", "- " * 100_000])
def test_deep_levels_of_yaml_are_rejected(text: str, tmp_path: Path) -> None:
    assert "it nests lists or objects too deeply" in read_rejected(text, tmp_path)


@pytest.mark.parametrize(
    ("name", "config", "place"),
    [
        ("config.json", {"Providers": [SERVER] * 10_001}, "Providers"),
        ("config.json", {"Providers": [{**SERVER, "models": ["m"] * 10_001}]}, "Providers[0].models"),
        ("config.json", {"Router": dict.fromkeys(map(str, range(10_001)), "own,m")}, "Router"),
        ("config.json", {"Providers": [], **dict.fromkeys(map(str, range(10_000)), "")}, "it"),
        ("config.yaml", {"model_list": ["x"] * 10_001}, "model_list"),
        (
            "config.yaml",
            {"litellm_settings": {"default_fallbacks": ["x"] * 10_001}},
            "litellm_settings.default_fallbacks",
        ),
    ],
)
def test_more_than_10000_entries_are_rejected(name: str, config: Mapping[str, Any], place: str, tmp_path: Path) -> None:
    text = read_rejected(json.dumps(config), tmp_path, name)
    assert text == f"cannot be imported: {place} has 10,001 entries, and the maximum is 10,000."


@pytest.mark.parametrize(
    ("name", "config", "place"),
    [
        ("config.json", {"Providers": [{**SERVER, "name": "a\ud800b"}]}, "Providers[0].name"),
        ("config.json", {"Providers": [SERVER], "Router": {"default\udfff": "own,m"}}, "Router"),
        ("config.json", {"Providers": [SERVER], "Router": {"default": "own,\udc00\ud83d"}}, "Router.default"),
        ("config.yaml", {"model_list": [{"model_name": "a\ud800b"}]}, "model_list[0].model_name"),
    ],
)
def test_half_of_a_surrogate_pair_is_rejected(name: str, config: Mapping[str, Any], place: str, tmp_path: Path) -> None:
    text = read_rejected(json.dumps(config), tmp_path, name)
    assert text == f"cannot be imported: {place} has half of a surrogate pair, which is no character."


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    config = {"Providers": [{**SERVER, "models": ["\U0001f600"]}], "Router": {"default": "own,\U0001f600"}}
    assert [*read(json.dumps(config), tmp_path, "config.json").servers["own"].models] == ["\U0001f600"]


def test_a_command_with_too_many_providers_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"Providers": [SERVER] * 30_000}))
    done = run_command("import", "config.json", directory=tmp_path)
    message = "✕ config.json cannot be imported: Providers has 30,000 entries, and the maximum is 10,000.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_a_note_about_a_long_name_is_short(tmp_path: Path) -> None:
    config = {"Providers": [{"name": "n" * 100_000, "models": ["m"]}], "Router": {"default": "d" * 100_000}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run_command("import", "config.json", directory=tmp_path)
    assert "Router.default" in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 2_100


def test_each_wrong_item_of_a_list_is_named_by_its_place(tmp_path: Path) -> None:
    config = {"Providers": [{**SERVER, "models": [[], "m", [], {}, "n"]}], "Router": {"default": "own,m"}}
    plan = read(json.dumps(config), tmp_path, "config.json")
    assert [note.setting for note in plan.notes] == [f"Providers[0].models[{index}]" for index in (0, 2, 3)]
    assert [*plan.servers["own"].models] == ["m", "n"]


def count_checked_tables(fields: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    checked: list[str] = []
    check = imported_servers._find_table_problem

    def note(name: str, table: imported_servers.ServerTable) -> str:
        checked.append(table.encode_toml(name))
        return check(name, table)

    monkeypatch.setattr(imported_servers, "_find_table_problem", note)
    config = {"Providers": [{**SERVER, "extraHeaders": fields}], "Router": {"default": "own,m"}}
    plan = read(json.dumps(config), tmp_path, "config.json")
    valid = {name: text for name, text in fields.items() if " " not in name}
    assert plan.servers["own"].headers == valid
    assert len(plan.notes) == len(fields) - len(valid)
    return sum(map(len, checked))


def test_headers_are_checked_in_proportion_to_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in ("X-{}", "X {}"):
        small, large = (
            count_checked_tables({form.format(index): "a" for index in range(number)}, tmp_path, monkeypatch)
            for number in (30, 120)
        )
        assert large < 6 * small


def test_settings_that_the_proxy_could_not_read_are_not_written(tmp_path: Path) -> None:
    plan = ImportPlan("LiteLLM")
    for index in range(900):
        plan.add_route(f"r{index}", {"model": [f"openai/model-{number}" for number in range(400)]}, ["openai/m"])
    with pytest.raises(ConfigurationError) as failed:
        prepare_files(plan, tmp_path)
    (message,) = failed.value.messages
    assert "anthropic-proxy.toml would have 7," in message
    assert message.endswith(" bytes, and the maximum is 4,194,304.")


def test_routes_with_too_many_targets_are_not_prepared() -> None:
    plan, targets = ImportPlan("LiteLLM"), [f"openai/model-{number}" for number in range(400)]

    def add_routes() -> None:
        for index in range(900):
            plan.add_route(f"r{index}", {"model": [f"m{index}"]}, targets)

    with pytest.raises(ConfigurationError) as failed:
        add_routes()
    (message,) = failed.value.messages
    assert message == (
        "anthropic-proxy.toml would have more than 4,194,304 bytes, because the routes have too many targets."
    )


def test_names_of_routes_and_tables_are_numbered(tmp_path: Path) -> None:
    servers = [
        {**SERVER, "api_base_url": f"https://api{index}.example.org/v1", "api_key": key}
        for index, key in ((1, "a"), (2, "a"), (1, "b"), (2, ""), (1, "a"))
    ]
    rules = [{"type": "model-prefix", "name": "r", "pattern": f"x{n}", "target": "own,m"} for n in range(3)]
    router = {"default": "own,m", "rules": rules}
    plan = read(json.dumps({"Providers": servers, "Router": router}), tmp_path, "config.json")
    assert [(name, table.base_url) for name, table in plan.servers.items()] == [
        ("own", "https://api1.example.org/v1"),
        ("own-2", "https://api2.example.org/v1"),
        ("own-3", "https://api1.example.org/v1"),
    ]
    assert [route.name for route in plan.routes] == ["r", "r-2", "r-3"]


def test_the_longest_name_of_a_server_begins_a_target(tmp_path: Path) -> None:
    servers = [{**SERVER, "name": name} for name in ("own", "own/large")]
    rules = [{"type": "model-prefix", "name": "r", "pattern": "x", "target": "own/large/m/n"}]
    config = {"Providers": servers, "Router": {"default": "own,m", "rules": rules}}
    (route,) = read(json.dumps(config), tmp_path, "config.json").routes
    assert [target.partition("/")[2] for target in route.targets] == ["m/n"]
