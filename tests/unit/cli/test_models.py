"""Command `models`: mapping of the tiers and the models of each provider, with limits and prices."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.support.command_line import run_command
from tests.support.fakes import anthropic, gemini, ollama, openai_chat
from tests.support.fakes.server import Running, serving, serving_strictly
from tests.support.paths import ROOT
from tests.support.server_process import running_forked_proxy

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def openai() -> Iterator[Running]:
    with serving_strictly(openai_chat.new_openai()) as running:
        yield running


def test_lists_are_counted_and_failures_are_lines(tmp_path: Path, openai: Running) -> None:
    with serving_strictly(gemini.new_gemini()) as google, serving(openai_chat.new_openai()) as other:
        settings = {
            "OPENAI_API_KEY": openai_chat.KEY,
            "OPENAI_BASE_URL": f"{openai.url}/v1",
            "GEMINI_API_KEY": gemini.KEY,
            "GEMINI_BASE_URL": google.url,
            "GROQ_API_KEY": "gsk_0123456789abcdef",
            "GROQ_BASE_URL": f"{openai.url}/v1",
            "XAI_API_KEY": "xai-0123456789abcdef",
            "XAI_BASE_URL": f"{other.url}/other",
        }
        ended = run_command("models", directory=tmp_path, settings=settings)
        listed = json.loads(run_command("models", "--json", directory=tmp_path, settings=settings).stdout)
    counts = {row["provider"]: len(row["models"]) for row in listed["providers"] if not row["problem"]}
    assert counts.keys() == {"openai", "gemini"}
    assert min(counts.values()) > 3
    host = openai.url.removeprefix("http://")
    assert ended.stderr.splitlines() == [
        f"  {counts['openai']} models at openai, {counts['gemini']} at gemini:  anthropic-proxy models openai",
        f"  ! groq at {host} rejected the key …cdef (401). It is set by GROQ_API_KEY in the environment.",
        "  ! xai answered the query for its models with status 404. The address is set by XAI_BASE_URL, environment. "
        f"Is /v1 missing? Try XAI_BASE_URL={other.url}/other/v1",
    ]
    assert ended.returncode == 0


def test_the_models_of_a_provider_have_the_limits_of_its_list(tmp_path: Path) -> None:
    with serving_strictly(gemini.new_gemini()) as google:
        settings = {"GEMINI_API_KEY": gemini.KEY, "GEMINI_BASE_URL": google.url}
        ended = run_command("models", "google", directory=tmp_path, settings=settings)
        listed = json.loads(run_command("models", "gemini", "--json", directory=tmp_path, settings=settings).stdout)
        stated = {
            entry["name"].removeprefix("models/"): entry["inputTokenLimit"]
            for entry in httpx.get(f"{google.url}/v1beta/models", headers={"x-goog-api-key": gemini.KEY}).json()[
                "models"
            ]
        }
    assert {row["model"].removeprefix("gemini/"): row["context_window"] for row in listed["models"]} == stated
    assert listed["source"] == "provider"
    assert ended.stderr == ""
    assert len(ended.stdout.splitlines()) == len(stated) + 1


def test_models_on_this_machine_are_free_and_those_of_an_unknown_server_have_no_price(
    tmp_path: Path, openai: Running
) -> None:
    with serving_strictly(ollama.new_ollama()) as local:
        listed = run_command("models", "ollama", directory=tmp_path, settings={"OLLAMA_API_BASE": local.url}).stdout
    rows = [line.split("\t") for line in listed.splitlines()[1:]]
    assert rows
    assert {tuple(row[3:]) for row in rows if not row[0].endswith("cloud")} == {("free", "free", "free", "")}
    settings = {"OPENAI_API_KEY": openai_chat.KEY, "OPENAI_BASE_URL": f"{openai.url}/v1"}
    listed = run_command("models", "openai", directory=tmp_path, settings=settings).stdout
    assert {tuple(line.split("\t")[3:]) for line in listed.splitlines()[1:]} == {("unknown", "unknown", "unknown", "")}


def test_the_price_list_is_named_only_if_a_price_is_unknown(tmp_path: Path) -> None:
    hidden = tmp_path / "without-prices"
    hidden.mkdir()
    (hidden / "genai_prices.py").touch()  # a module in place of the package
    with serving_strictly(ollama.new_ollama()) as local:
        own = {"PYTHONPATH": f"{hidden}{os.pathsep}{ROOT}", "OLLAMA_API_BASE": local.url}
        notices = [
            run_command("models", directory=tmp_path, settings={**own, **more}).stderr
            for more in (
                {},
                {"SMALL_MODEL": "openai/gpt-4.1", "OPENAI_API_KEY": openai_chat.KEY, "OPENAI_BASE_URL": NOBODY},
            )
        ]
    text = "! Prices need the package genai-prices:  anthropic-proxy add prices"
    assert [text in each for each in notices] == [False, True]


def test_anthropic_lists_its_own_models(tmp_path: Path) -> None:
    with serving_strictly(anthropic.new_anthropic()) as server:
        settings = {"ANTHROPIC_API_KEY": anthropic.KEY, "ANTHROPIC_UPSTREAM_URL": server.url}
        ended = run_command("models", "anthropic", directory=tmp_path, settings=settings)
        mapping = run_command("models", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "anthropic/claude-" in ended.stdout
    assert mapping.stdout.splitlines()[1] == "\t".join(
        ("claude-haiku-*", "anthropic/claude-haiku-…", *("as listed",) * 5, "")
    )


def test_the_demo_has_the_limits_that_clients_receive(tmp_path: Path) -> None:
    settings = {"OLLAMA_API_BASE": NOBODY}
    rows = run_command("models", directory=tmp_path, settings=settings).stdout.splitlines()
    with running_forked_proxy(tmp_path, settings) as proxy:
        listed = proxy.client().get("/v1/models/claude-opus-5").json()
    assert rows[1].split("\t")[1:4] == ["demo/demo", str(listed["max_input_tokens"]), str(listed["max_tokens"])]


def test_the_context_of_a_model_is_the_most_input_that_clients_are_told(tmp_path: Path) -> None:
    settings = {"BIG_MODEL": "openai/gpt-5.1", "OPENAI_API_KEY": openai_chat.KEY, "HTTPS_PROXY": NOBODY}
    rows = run_command("models", directory=tmp_path, settings=settings).stdout.splitlines()
    found = json.loads(run_command("models", "--json", directory=tmp_path, settings=settings).stdout)["mapping"]
    with running_forked_proxy(tmp_path, settings) as proxy:
        listed = proxy.client().get("/v1/models/claude-opus-5").json()
    shown = {row[1]: int(row[2]) for row in (line.split("\t") for line in rows[1:]) if row[2]}
    facts = {one["facts"]["model"]: one["facts"] for one in found}["openai/gpt-5.1"]
    assert shown["openai/gpt-5.1"] == listed["max_input_tokens"] == facts["max_input"]
    assert listed["max_input_tokens"] < facts["context_window"]


def test_one_model_is_shown_with_its_limits_or_the_reason_why_not(tmp_path: Path) -> None:
    with serving_strictly(gemini.new_gemini()) as google:
        settings = {"GEMINI_API_KEY": gemini.KEY, "GEMINI_BASE_URL": google.url}
        found = run_command("models", "gemini/gemini-2.5-pro", directory=tmp_path, settings=settings)
        missing = run_command("models", "gemini/gemini-0", directory=tmp_path, settings=settings)
    assert (found.returncode, found.stderr, len(found.stdout.splitlines())) == (0, "", 2)
    assert found.stdout.splitlines()[1].startswith("gemini/gemini-2.5-pro\t1048576\t65536\t")
    message = "gemini does not list the model gemini-0. Its chat models:  anthropic-proxy models gemini"
    assert (missing.returncode, missing.stdout, missing.stderr) == (1, "", f"  ✕ {message}\n")


def test_a_provider_without_a_model_is_an_id_without_a_name_for_programs(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(f'[providers.my]\nbase_url = "{NOBODY}/v1"\n')
    settings = {"PREFERRED_PROVIDER": "my", "BIG_MODEL": "big"}
    found = json.loads(run_command("models", "--json", directory=tmp_path, settings=settings).stdout)["mapping"]
    assert [one["facts"]["model"] for one in found] == ["my/", "my/big"]
