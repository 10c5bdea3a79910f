"""Commands `code` and `run`: which program runs, and what follows from the models; more in `golden_commands/code`."""

import json
import os
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.cli.code import describe_limit
from anthropic_proxy.console.client_limits import ServedModels
from anthropic_proxy.console.client_models import (
    TIERS,
    TierModel,
    build_model_picker,
    explain_tool_search,
    find_tier_models,
    list_name_variables,
)
from anthropic_proxy.console.client_variables import ASSUMED_MODEL
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog, LearnedModel, store_learned_models
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.gateway.settings import load_settings
from tests.support.clocks import start_at_recorded_time
from tests.support.command_line import OPENAI, install_program, read_call, run_command
from tests.support.server_process import reserve_closed_port, running_forked_proxy
from tests.support.terminal import answer_questions


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    install_program(tmp_path, "claude")
    return tmp_path


def entry(name: str, target: str, window: int | None) -> dict[str, Any]:
    return {"id": name, "target": target or None, "max_input_tokens": window}


def test_explain_says_when_tool_search_pays() -> None:
    tools = [{"name": f"mcp__many__{number}", "description": "word " * 250} for number in range(60)]
    text = explain_tool_search(tools, 1_047_576)
    assert re.sub(r"about [\d,]+", "about N", text) == (
        "60 tools, about N tokens in each request; above 10,000 tokens tool search pays, if most of them are "
        "deferrable: start Claude Code by anthropic-proxy code, which sets ENABLE_TOOL_SEARCH. Below, it costs more: "
        "each search is one more request with the whole prompt"
    )
    assert re.sub(r"about [\d,]+", "about N", explain_tool_search([*tools, {"name": "ToolSearch"}], 1_047_576)) == (
        "61 tools, about N tokens in each request; tool search is on, so Claude Code sends further tools when the "
        "model needs them"
    )
    assert re.sub(r"about [\d,]+", "about N", explain_tool_search(tools[:5], 1_047_576)) == (
        "5 tools, about N tokens in each request; tool search would pay above 10,000 tokens"
    )
    assert "above 800 tokens" in explain_tool_search(tools[:5], 8_000)


def test_the_newest_model_of_a_tier_counts_and_no_control_character_is_passed_on() -> None:
    listing = {"data": [entry("claude-opus-5-5", "a/\x1b[2Jb", 10), entry("claude-opus-5", "a/c", 10)]}
    assert find_tier_models(listing) == [TierModel("opus", "claude-opus-5-5", "a/\\x1b[2Jb", 10)]


def test_a_running_proxy_is_used_and_stays(directory: Path) -> None:
    install_program(directory, "agent")
    with running_forked_proxy(directory, {**OPENAI, "PROXY_API_KEY": "pk-one,pk-two"}) as proxy:
        settings = {"PORT": proxy.url.rpartition(":")[2], "PROXY_API_KEY": "pk-one,pk-two"}
        ended = run_command("run", "agent", "x", directory=directory, settings=settings)
        arguments, environment = read_call(ended.stdout)
        assert (arguments, environment["ANTHROPIC_BASE_URL"]) == (["x"], proxy.url)
        assert environment["ANTHROPIC_AUTH_TOKEN"] == "pk-one"
        assert proxy.client().get("/health").status_code == 200


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the port of a running proxy, which makes each command faster."""
    with running_forked_proxy(tmp_path_factory.mktemp("proxy"), OPENAI) as proxy:
        yield proxy.url.rpartition(":")[2]


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (
            "1.0.5 (Claude Code)",
            "  Claude Code 1.0.5 is older than 2.1.197, the oldest release that was tested with this proxy. "
            "Update it:  claude update\n",
        ),
        ("2.1.197 (Claude Code)", ""),
        ("10.0.0", ""),
        ("no version", ""),
    ],
)
def test_an_outdated_claude_code_is_reported(tmp_path: Path, version: str, text: str) -> None:
    program = tmp_path / "claude"
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(0o755)
    ended = run_command("code", directory=tmp_path, settings=OPENAI | start_at_recorded_time())
    assert (ended.returncode, ended.stderr) == (0, text)


def test_a_demo_elsewhere_is_not_replaced_by_settings_of_this_user(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = f"{directory}:{os.environ['PATH']}"
    with running_forked_proxy(tmp_path / "elsewhere", {}) as proxy:
        settings = {"PORT": proxy.url.rpartition(":")[2], "ANTHROPIC_BASE_URL": proxy.url, "PATH": path}
        ended = run_command("code", directory=directory, settings=settings)
    assert (ended.returncode, ended.stderr) == (
        0,
        f"The demo of the proxy at {proxy.url} replies, which ANTHROPIC_BASE_URL names. It has no model. To use your "
        "own settings, unset ANTHROPIC_BASE_URL.\n",
    )


@pytest.mark.parametrize("search_path", [":{home}", ".:{home}", "{home}:", "project:bin:{home}"])
def test_a_program_of_the_current_directory_is_not_run(directory: Path, port: str, search_path: str) -> None:
    for folder in ("project", "project/project", "project/bin"):
        (directory / folder).mkdir()
        for name in ("claude", "own"):
            install_program(directory / folder, name)
    (directory / "own").symlink_to(directory / "claude")
    settings = {**OPENAI, "HOME": str(directory), "PORT": port, "PATH": search_path.format(home=directory)}
    settings["ANTHROPIC_BASE_URL"] = f"http://127.0.0.1:{port}"  # no line about its settings
    settings |= start_at_recorded_time()
    for words in (("code",), ("run", "own")):
        ended = run_command(*words, directory=directory / "project", settings=settings)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert json.loads(ended.stdout)["program"] == str(directory / ("claude" if words == ("code",) else "own"))
    ended = run_command("run", "none", directory=directory / "project", settings=settings)
    assert (ended.returncode, ended.stderr) == (2, '✕ There is no program "none" in PATH.\n')
    install_program(directory / "project/bin", "tool")
    relative = {**settings, "PATH": f"bin:{directory}"}
    ended = run_command("run", "tool", directory=directory / "project", settings=relative)
    assert (ended.returncode, ended.stderr) == (
        2,
        '✕ There is no program "tool" in PATH: it is only in "bin". Relative folders of PATH are not searched, because '
        "the current directory would decide. Use the absolute path of this folder.\n",
    )


@pytest.mark.parametrize(
    ("status", "command"), [("0", "anthropic-proxy code --continue"), ("1", "anthropic-proxy code")]
)
def test_the_end_names_the_command_with_the_proxy(directory: Path, port: str, status: str, command: str) -> None:
    path = f"{directory}:{os.environ['PATH']}"
    settings = {**OPENAI, "HOME": str(directory), "PORT": port, "PATH": path, "EXIT_STATUS": status}
    screen = answer_questions("code", answers=[], directory=directory, settings=settings)
    assert screen.status == int(status)
    assert screen.lines[-1] == f"  With this proxy:  {command}"


def test_the_menu_has_one_row_for_each_model_and_one_for_the_requested_tier() -> None:
    targets = {"opus": "openai/a", "sonnet": "openai/a", "haiku": "openai/b", "fable": "openai/a"}
    models = [TierModel(tier, f"claude-{tier}-5-5", target, 1_047_576) for tier, target in targets.items()]
    prices = {"openai/a": "$2/$8 per Mtok", "openai/b": "free of charge"}
    variables = list_name_variables(models, prices, {})
    assert build_model_picker(models, variables, prices, {}, ["opus", "sonnet"]) == {
        "options": [
            {
                "model": "claude-opus-5-5",
                "label": "openai/a",
                "description": "replies to opus, sonnet and fable, 1.0 M context, $2/$8 per Mtok",
            },
            {
                "model": "claude-haiku-5-5",
                "label": "openai/b",
                "description": "replies to haiku, 1.0 M context, free of charge",
            },
        ],
        "replaceBuiltInOptions": True,
    }
    rows = build_model_picker(models, variables, prices, {}, ["claude-sonnet"])["options"]
    assert [(row["model"], row["label"]) for row in rows] == [
        ("claude-opus-5-5", "openai/a"),
        ("claude-sonnet-5-5", "openai/a"),
        ("claude-haiku-5-5", "openai/b"),
    ]


@pytest.mark.parametrize("variable", ["ANTHROPIC_CUSTOM_MODEL_OPTION", "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY"])
def test_rows_that_the_user_has_chosen_stay_in_the_menu(variable: str) -> None:
    models = [TierModel(tier, f"claude-{tier}-5-5", "openai/a", 0) for tier in TIERS]
    own = {variable: "1"}
    picker = build_model_picker(models, list_name_variables(models, {}, own), {}, own, [])
    assert [row["description"] for row in picker["options"]] == [f"replies to {tier}" for tier in TIERS]
    assert "replaceBuiltInOptions" not in picker


def test_a_conversation_with_the_demo_begins_with_a_line_about_it(directory: Path) -> None:
    settings = {"OLLAMA_API_BASE": "http://127.0.0.1:9", "HOME": str(directory), "PORT": reserve_closed_port()}
    settings["PATH"] = f"{directory}:{os.environ['PATH']}"
    line = "No provider is chosen, so the demo replies. It has no model. Next:  anthropic-proxy init\n"
    for words, shown in (((), line), (("-p", "hi"), "")):
        ended = run_command("code", *words, directory=directory, settings=settings)
        assert (ended.returncode, ended.stderr) == (0, shown)


def test_a_model_without_a_key_is_reported_before_the_client_starts(directory: Path) -> None:
    (directory / "anthropic-proxy.toml").write_text(
        '[providers.box]\nbase_url = "https://box.example.com/v1"\napi_key = { env = "BOX_KEY" }\nmodels = ["a"]\n'
        '[[routes]]\nname = "images"\nwhen = { images = true }\ntargets = ["gemini/gemini-3.8-flash"]\n'
    )
    settings = {"OLLAMA_API_BASE": "http://127.0.0.1:9", "HOME": str(directory), "PORT": reserve_closed_port()}
    settings |= {"PATH": f"{directory}:{os.environ['PATH']}", "PREFERRED_PROVIDER": "box", "BIG_MODEL": "box/a"}
    settings |= {"SMALL_MODEL": "box/a"}
    box = "box has no key: BOX_KEY is not set (providers.box.api_key in anthropic-proxy.toml, line 3). "
    box += "Set it in .env or in the environment."
    ended = run_command("code", directory=directory, settings=settings)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert " ".join(ended.stderr.split()) == f"✕ {box}"
    ended = run_command("code", "--model", "box/a", directory=directory, settings=settings)
    assert ended.returncode == 0
    gemini = 'The route "images" (anthropic-proxy.toml line 5): gemini has no key: GEMINI_API_KEY is not set. '
    gemini += "Set it in .env, which applies at once, or in the environment "
    gemini += "and start Claude Code again with anthropic-proxy code."
    assumed = "The context of box/a is unknown, so 128 k tokens are assumed. If you know it, set "
    assumed += 'context_window in [providers.box.models."a"] of anthropic-proxy.toml. Else ask its server:  '
    assumed += "anthropic-proxy doctor box/a"
    assert [line.strip() for line in ended.stderr.splitlines()] == [f"✕ {box}", f"✕ {gemini}", assumed]
    ended = run_command("code", directory=directory, settings={**settings, "BOX_KEY": "k-0123456789"})
    assert ended.returncode == 0
    assert [line.strip() for line in ended.stderr.splitlines()] == [f"✕ {gemini}", assumed]


def test_the_doctor_is_proposed_only_until_it_has_examined_a_model_of_a_cloud(tmp_path: Path) -> None:
    settings = load_settings({"VERTEX_PROJECT": "p", "VERTEX_LOCATION": "europe-west1"}, PROVIDERS, env_file=None)
    settings = structs.replace(settings, data_directory=tmp_path)
    variables = {ASSUMED_MODEL: "vertex_ai/gemini-acme", "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "128000"}
    (target,) = build_plan(RoutingQuery("vertex_ai/gemini-acme"), settings, Catalog()).targets
    texts = [describe_limit(ServedModels(), variables, settings)]
    today = date.today()
    facts = LearnedModel(
        server=target.upstream, model=target.model, observed_on=today, evidence="e", accepts_images=True
    )
    store_learned_models(tmp_path, [facts], today)
    texts.append(describe_limit(ServedModels(), variables, settings))
    assert texts[0] == f"{texts[1]} Else ask its server:  anthropic-proxy doctor vertex_ai/gemini-acme"
