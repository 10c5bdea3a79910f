"""The nightly comparison with the SDK packages: which names it reads, and which ends of models it does not accept."""

import io
import zipfile
from datetime import date

import pytest

from tests.facts.__main__ import KEPT_DEFAULTS, PACKAGES, find_unknown, is_known, list_ends, read_names
from tests.facts.accepted import Acceptance, Accepted

TODAY = date(2026, 11, 27)


def new_wheel(**files: str) -> zipfile.ZipFile:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return zipfile.ZipFile(content)


@pytest.mark.parametrize(
    ("package", "file", "names"),
    [
        ("google-genai", "google/genai/_gaos/types/interactions/model.py", {"gemini-4-neon", "gemma-4-31b-it"}),
        ("groq", "groq/types/chat/completion_create_params.py", {"openai/gpt-oss-120b", "llama-3.3-70b-versatile"}),
        ("xai-sdk", "xai_sdk/types/model.py", {"grok-4.3"}),
        ("mistralai", "mistralai/client/chat.py", {"mistral-large-latest", "ministral-14b-2512"}),
    ],
)
def test_names_of_models_are_read_from_the_package_of_each_vendor(package: str, file: str, names: set[str]) -> None:
    others = ("auto", "low", "grok-imagine-image", "gemini-embedding-001", "mistral-embed", "x")
    text = f"Model = Literal[{', '.join(map(repr, (*names, *others)))}]"
    wheel = new_wheel(**{file: text, "other/module.py": 'NAME = "gemini-9-pro"'})
    assert read_names(wheel, PACKAGES[package]) == names
    assert read_names(new_wheel(**{"moved.py": text}), PACKAGES[package]) == set()


@pytest.mark.parametrize(
    ("provider", "name", "known"),
    [
        ("google", "gemini-4-neon", True),
        ("google", "gemini-9-pro", False),
        ("mistral", "mistral-large-latest", True),
        ("mistral", "pixtral-12b-2409", True),
        ("mistral", "mixtral-9", False),
        ("xai", "grok-4.20-multi-agent", True),
        ("xai", "grok-9", False),
        ("openai", "gpt-4o-2024-08-06", True),
        ("anthropic", "claude-haiku-9", False),
        ("openai", "gpt-6.9-sol", False),
    ],
)
def test_a_vendor_with_an_entry_or_a_server_of_its_own_knows_its_models(provider: str, name: str, known: bool) -> None:
    assert is_known(provider, name) == known


def test_an_unknown_model_of_a_package_needs_a_reason() -> None:
    names = ["gemini-omni-9-flash", "gemini-9-pro", "gemini-4-neon"]
    accepted = Accepted([Acceptance("google-genai", "gemini-omni-* unknown", "a model for video")])
    assert find_unknown("google-genai", names, accepted) == ["gemini-9-pro"]
    assert find_unknown("openai", names[:1], accepted) == ["gemini-omni-9-flash"]
    assert [*accepted.list_unused(["google-genai"])] == []


def test_a_default_that_ends_within_a_year_needs_a_reason() -> None:
    assert not [line for line, is_error in list_ends(TODAY) if is_error]
    kept = {name: reason for name, reason in KEPT_DEFAULTS.items() if name != "openai/gpt-4.1"}
    assert [line for line, is_error in list_ends(TODAY, kept) if is_error] == [
        "openai/gpt-4.1 is a default and ends on 2027-01-14. Replace it, or add it to KEPT_DEFAULTS"
    ]
    assert [line for line, is_error in list_ends(TODAY, {**KEPT_DEFAULTS, "openai/gpt-9": "it lasts"}) if is_error] == [
        "KEPT_DEFAULTS has openai/gpt-9, which is no default that ends within a year"
    ]
