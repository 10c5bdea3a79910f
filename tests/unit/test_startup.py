"""Output at start-up, compared with the screens to the character."""

import io
import json
import re
import sys
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import build_catalog
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.startup_summary import log_startup_summary
from anthropic_proxy.gateway.telemetry.log import Log
from tests.support.harness import ProxyHarness
from tests.support.recorded_texts import Compare

BEFORE, NOW, NEXT_YEAR = date(2025, 6, 1), date(2026, 11, 20), date(2027, 1, 14)
OPENAI, GROQ = {"OPENAI_API_KEY": "sk-proj-0123456789ab4f2a"}, {"GROQ_API_KEY": "gsk_0123456789ab4f2a"}
GOOGLE, XAI = {"GEMINI_API_KEY": "AIza0123456789ab4f2a"}, {"XAI_API_KEY": "xai-0123456789ab4f2a"}
MOONSHOT, VERTEX = {"MOONSHOT_API_KEY": "sk-0123456789ab4f2a"}, {"VERTEX_PROJECT": "mine"}
DEEPSEEK = {"OPENAI_API_KEY": "sk-0123456789ab4f2a", "OPENAI_BASE_URL": "https://api.deepseek.com"}
LOCAL = {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide credentials of this machine."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def screen(environ: dict[str, str], today: date = NOW, columns: int | None = None, **changes: Any) -> str:
    """Return the summary of a server with these variables. `changes`: services other than those of the variables."""
    proxy = ProxyHarness(lambda *_: pytest.fail("start-up calls nobody"), **environ)
    stream = io.StringIO()
    services = structs.replace(proxy.services, log=Log(stream, columns=columns), **changes)
    log_startup_summary(services, "http://127.0.0.1:8082", today)
    text = re.sub(r"not set:(\s+[a-z]+)+(?=\n)", "not set: OTHERS", stream.getvalue())
    return text.rstrip()


def findings(environ: dict[str, str], today: date = NOW, **changes: Any) -> str:
    """Return what is ready and the lines that warn."""
    lines = [line.strip() for line in screen(environ, today, **changes).splitlines()]
    ready = [line.partition("   ")[0] for line in lines if line.startswith("ready: ")]
    return "\n".join([*ready, *(line for line in lines if line.startswith(("✕ ", "! ")))])


def test_the_whole_screen(recorded: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env_file = tmp_path / ".env"
    env_file.write_text("\nOPENAI_API_KEY=sk-0123456789ab4f2a\n\nBIG_MODEL=gpt-4.1\n", encoding="utf-8")
    of_file = {"settings": load_settings({}, PROVIDERS, env_file=".env"), "catalog": build_catalog(["a", "b", "c"])}
    with_file = screen({}, **of_file)
    env_file.unlink()
    keyed = {**OPENAI, "PROXY_API_KEY": "a-key-of-the-proxy"}
    every = {**OPENAI, **GOOGLE, **GROQ, **MOONSHOT, **XAI}
    mapped = {**OPENAI, "VERTEX_PROJECT": "p", "BIG_MODEL": "groq/llama-3.3-70b-versatile"}
    recorded(
        {
            "one key in a file, and Ollama": with_file,
            "nothing": screen({}),
            "nothing, 60 columns": screen({}, columns=60),
            "another middle model": screen({**OPENAI, "MIDDLE_MODEL": "o3"}),
            "another model for Opus, with a fallback": screen(
                {**OPENAI, **GROQ, "MODEL_OPUS": "o3", "FALLBACK_OPUS": "groq/x"}
            ),
            **{f"one key, {columns} columns": screen(OPENAI, BEFORE, columns) for columns in (130, 80)},
            **{f"a key of the proxy, {columns} columns": screen(keyed, BEFORE, columns) for columns in (130, 80)},
            "every provider, 60 columns": screen(every, BEFORE, 60),
            **{f"a missing key, {columns} columns": screen(mapped, BEFORE, columns) for columns in (60, 80, 130)},
        }
    )


MISSING: list[dict[str, str]] = [
    {"PREFERRED_PROVIDER": "groq"},
    {"PREFERRED_PROVIDER": "openai"},
    {"PREFERRED_PROVIDER": "openai", **LOCAL},
    {"PREFERRED_PROVIDER": "anthropic"},
    {"PREFERRED_PROVIDER": "anthropic", "PROXY_API_KEY": "p"},
    {**OPENAI, "MODEL_SONNET": "groq/x"},
    {**OPENAI, "SMALL_MODEL": "groq/x", "BIG_MODEL": "xai/y"},
    {**OPENAI, "FALLBACK_OPUS": "groq/x, openai/gpt-5.5, moonshot/y"},
    {**OPENAI, **GROQ, "FALLBACK_OPUS": "groq/x"},
    {"OPENAI_API_KEY": "sk-short-key-12"},
    {"OPENAI_API_KEY": "sk-0123456789abc"},
    {"PREFERRED_PROVIDER": "ollama", "OLLAMA_API_BASE": "http://10.0.0.9:11434"},
]
WITHOUT_EFFECT: list[dict[str, str]] = [
    {**LOCAL, "BIG_MODEL": "qwen3", "SMALL_MODEL": "qwen3"},
    {"GROQ_BASE_URL": "http://127.0.0.1:8000/v1"},
    {**OPENAI, "XAI_BASE_URL": "http://127.0.0.1:8000/v1"},
    {**OPENAI, **XAI, "XAI_BASE_URL": "http://127.0.0.1:8000/v1"},
    {**OPENAI, "OLLAMA_API_BASE": "http://127.0.0.1:8000"},
    {"PREFERRED_PROVIDER": "anthropic", "BIG_MODEL": "gpt-4.1"},
]
RETIRED: list[tuple[dict[str, str], date]] = [
    *((keys, NOW) for keys in (OPENAI, GOOGLE, VERTEX, GROQ, MOONSHOT, XAI)),
    (GROQ, BEFORE),
    (OPENAI, NEXT_YEAR),
    ({**OPENAI, "MODEL_OPUS": "groq/llama-3.3-70b-versatile"}, NOW),
    ({**LOCAL, "PREFERRED_PROVIDER": "openai"}, NEXT_YEAR),
    ({**DEEPSEEK, "BIG_MODEL": "deepseek-chat", "SMALL_MODEL": "deepseek-flash"}, NOW),
    ({**DEEPSEEK, **LOCAL, "BIG_MODEL": "deepseek-chat", "SMALL_MODEL": "gpt-4"}, NOW),
    ({**MOONSHOT, "BIG_MODEL": "kimi-k2.6", "SMALL_MODEL": "kimi-k3"}, NOW),
    ({**MOONSHOT, "BIG_MODEL": "kimi-k2.6", "SMALL_MODEL": "kimi-k3"}, NEXT_YEAR),
]


def title(environ: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in environ.items())


def test_findings(recorded: Compare) -> None:
    texts = {title(environ): findings(environ) for environ in (*MISSING, *WITHOUT_EFFECT)}
    recorded(texts | {f"{today}: {title(environ)}": findings(environ, today) for environ, today in RETIRED})


def test_every_successor_is_known_and_served() -> None:
    for row in PROVIDERS:
        for model, retired in row.retired_models.items():
            assert retired.successor in row.known_models, f"{row.name}/{model} → {retired.successor}"
            assert retired.successor not in row.retired_models, f"{row.name}/{model} → {retired.successor}"
            assert date.fromisoformat(retired.retired_on)


def test_credentials_of_vertex(recorded: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("with", {"project_id": "from-the-file"}), ("without", {})):
        Path(f"{name}_project.json").write_text(json.dumps({"type": "service_account", **content}))
    Path("bad.json").write_text("no json")
    Path("folder").mkdir()
    preferred, project, file = (
        {"PREFERRED_PROVIDER": "vertex"},
        {"VERTEX_PROJECT": "p"},
        "GOOGLE_APPLICATION_CREDENTIALS",
    )
    recorded(
        {
            title(environ): findings(environ | ({file: str(tmp_path / environ[file])} if file in environ else {}))
            for environ in (
                {**preferred, file: "with_project.json"},
                {**preferred, **project, file: "with_project.json"},
                {**preferred, file: "without_project.json"},
                *({**preferred, **project, file: name} for name in ("missing.json", "folder", "bad.json")),
                {**preferred, **project},
                {**OPENAI, **project, file: "missing.json"},
            )
        }
    )


def test_litellm_is_named_with_what_it_lacks() -> None:
    environ = {"PREFERRED_PROVIDER": "litellm", "BIG_MODEL": "mistral/m", "SMALL_MODEL": "mistral/s"}
    if find_spec("litellm") is None:
        assert findings(environ) == "ready: none\n✕ LiteLLM is not installed:  anthropic-proxy add litellm"
    else:
        missing = "✕ mistral has no key: LiteLLM reads it from a variable MISTRAL_…, and none is set."
        assert findings(environ).splitlines()[1:] == [missing]


def test_web_fetch_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {**OPENAI, "FETCH_URLS": "true"}
    usual = findings(OPENAI)
    assert findings(environ) == usual
    hidden: Any = None
    monkeypatch.setitem(sys.modules, "lxml", hidden)
    command = "✕ FETCH_URLS needs lxml to read HTML pages, which is not installed:  anthropic-proxy add fetch"
    assert findings(environ) == f"{usual}\n{command}"
    assert findings(OPENAI) == usual
