"""Claude Code through the proxy to a model on the user's own machine, by Ollama's API."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.gateway.settings import CONFIG_FILE
from tests.e2e.claude import do_the_task, run_claude
from tests.support.fakes.ollama import new_ollama
from tests.support.fakes.openai_chat.samples import png
from tests.support.fakes.server import Running, serving_strictly
from tests.support.pdf import write_pdf
from tests.support.pictures import paint
from tests.support.server_process import Proxy, running_proxy


@pytest.fixture
def ollama() -> Iterator[Running]:
    with serving_strictly(new_ollama()) as running:
        yield running


@pytest.fixture
def settings(ollama: Running) -> dict[str, str]:
    return {"OLLAMA_API_BASE": ollama.url, "BIG_MODEL": "qwen3-vl:8b", "SMALL_MODEL": "llama3.2"}


def chats(ollama: Running) -> list[Any]:
    return [exchange.body for exchange in ollama.journal.exchanges if exchange.path == "/api/chat"]


def test_a_task_of_several_turns_with_what_was_thought(claude: Path, proxy: Proxy, ollama: Running, work: Path) -> None:
    do_the_task(claude, proxy.url, work)
    asked = chats(ollama)
    assert {(body["model"], body["options"]["num_ctx"]) for body in asked} == {("qwen3-vl:8b", 65_536)}
    assert [sum(1 for message in body["messages"] if message["role"] == "tool") for body in asked] == [0, 1, 3, 4]
    assert [sum(1 for message in body["messages"] if message.get("thinking")) for body in asked] == [0, 1, 2, 3]
    for before, after in itertools.pairwise(asked):
        assert after["tools"] == before["tools"], "a changed beginning is read anew by the model, which takes minutes"
        shared = len(before["messages"]) - 1
        assert after["messages"][:shared] == before["messages"][:shared]
    assert "Traceback" not in proxy.log
    assert " 500 " not in proxy.log


def test_a_picture_is_looked_at(claude: Path, proxy: Proxy, work: Path) -> None:
    (work / "plan.png").write_bytes(png(23, 11))
    run = run_claude(claude, proxy.url, work, f"Look at the picture {work / 'plan.png'}", "--allowedTools", "Read")
    assert run.text == "The picture is image/png, 23 by 11 pixels."


def test_the_error_of_a_model_that_was_not_pulled_names_the_command(claude: Path, proxy: Proxy, work: Path) -> None:
    run = run_claude(claude, proxy.url, work, "Say exactly: hello", "--model", "ollama/gone:7b")
    assert "gone:7b" in run.text


@pytest.fixture
def blind_settings(ollama: Running, server: Path) -> dict[str, str]:
    """Return the settings of a user whose model does not see, and who has another one that does."""
    (server / CONFIG_FILE).write_text('[images]\nmodel = "ollama/qwen3-vl:8b"\n', encoding="utf-8")
    return {"OLLAMA_API_BASE": ollama.url, "BIG_MODEL": "llama3.2", "SMALL_MODEL": "llama3.2"}


def test_a_screenshot_is_described_for_a_model_of_text(
    claude: Path, blind_settings: dict[str, str], ollama: Running, server: Path, work: Path
) -> None:
    yellow = paint((255, 255, 0), 23, 11)
    (work / "screenshot.png").write_bytes(yellow)
    with running_proxy(server, blind_settings) as proxy:
        prompt = f"Look at the picture {work / 'screenshot.png'}"
        run = run_claude(claude, proxy.url, work, prompt, "--allowedTools", "Read")
        assert "Traceback" not in proxy.log
        assert "description of a picture" in proxy.log
    assert run.text == "I was told that it shows: yellow."
    asked = {model: [body for body in chats(ollama) if body["model"] == model] for model in ("qwen3-vl:8b", "llama3.2")}
    assert [has_pictures(body) for body in asked["qwen3-vl:8b"]] == [True]
    assert not any(has_pictures(body) for body in asked["llama3.2"])
    assert r"\nyellow\n</image_description>" in json.dumps(asked["llama3.2"][-1])


def test_a_page_of_a_pdf_is_quoted_by_a_model_of_text(
    claude: Path, blind_settings: dict[str, str], ollama: Running, server: Path, work: Path
) -> None:
    (work / "terms.pdf").write_bytes(write_pdf("Terms of delivery", "Goods are sent within three days."))
    with running_proxy(server, blind_settings) as proxy:
        prompt = f"What does page 2 of {work / 'terms.pdf'} say?"
        run = run_claude(claude, proxy.url, work, prompt, "--allowedTools", "Read")
        assert "Traceback" not in proxy.log
    assert run.text == "Page 2 says: Goods are sent within three days."
    assert not any(has_pictures(body) for body in chats(ollama))


def has_pictures(body: Any) -> bool:
    return any(message.get("images") for message in body["messages"])
