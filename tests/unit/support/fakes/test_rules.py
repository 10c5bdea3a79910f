"""Each rule of the fake servers, and the refusals of requests that break it: `golden_texts/fakes`.

An input is the body of a request, at some servers with their kind or the model before it, and `count` or
`vertex-count` before the model of a count. `a×5` stands for `aaaaa`, and `{"×": 5, "name": "t#"}` in a list for five
objects, with the names `t0` to `t4`.
"""

import json
import random
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from messages_conformance.backends.gemini.rules import check_count
from tests.support.fakes import anthropic, gemini, ollama, openai_chat, openai_responses
from tests.support.fakes.compatible import KINDS
from tests.support.fakes.gemini.signatures import Signatures
from tests.support.fakes.ollama.models import find_model
from tests.support.fakes.openai_responses.samples import ISSUED
from tests.support.fakes.server import ContractViolation
from tests.support.golden_texts import GOLDEN, Check
from tests.support.paths import FAKES

Violations = Iterable[ContractViolation]


def check_ollama(_: str, body: Any) -> Violations:
    found = find_model(body.get("model", "qwen3:8b"))
    assert found is not None
    return ollama.rules.check_body(body, *found)


def check_gemini(kind: str, body: Any) -> Violations:
    counted, _, model = kind.rpartition(" ")
    if counted:
        return check_count(body, model, vertex=counted == "vertex-count")
    return gemini.rules.check_body(body, model, gemini.models.MODELS[model], Signatures(random.Random(1)), vertex=False)


CHECKS: dict[str, Callable[[str, Any], Violations]] = {
    "anthropic": lambda _, body: anthropic.rules.check_body(
        body, anthropic.models.MODELS[body.get("model", "claude-sonnet-5-5")]
    ),
    "compatible": lambda kind, body: KINDS[kind].check(body, KINDS[kind].models[body["model"]]),
    "gemini": check_gemini,
    "ollama": check_ollama,
    "openai_chat": lambda _, body: openai_chat.rules.check_body(
        body, openai_chat.models.MODELS[body.get("model", "gpt-4.1")]
    ),
    "openai_responses": lambda _, body: openai_responses.rules.check_body(
        body, openai_chat.models.MODELS[body["model"]], ISSUED
    ),
}


def expand(value: Any) -> Any:
    if isinstance(value, dict):
        return {expand(name): expand(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [one for inner in value for one in repeat(expand(inner))]
    if isinstance(value, str) and (match := re.fullmatch(r"(.)×(\d+)", value)):
        return match[1] * int(match[2])
    return value


def repeat(item: Any) -> list[Any]:
    if not isinstance(item, dict) or "×" not in item:
        return [item]
    text = json.dumps({name: inner for name, inner in item.items() if name != "×"})
    return [json.loads(text.replace("#", str(number))) for number in range(item["×"])]


@pytest.mark.parametrize("name", CHECKS)
def test_rules(name: str, golden: Check) -> None:
    def show(given: str) -> str:
        kind, brace, rest = given.partition("{")
        violations = CHECKS[name](kind.strip(), expand(json.loads(brace + rest)))
        return "\n".join(f"{one.rule} ({one.param}, {one.code}): {one.message}" for one in violations)

    golden(f"fakes/{name}", show)


@pytest.mark.parametrize("name", CHECKS)
def test_every_rule_is_broken_by_a_request(name: str) -> None:
    text = "\n".join(
        path.read_text("utf-8") for path in (FAKES / name).glob("*.py") if path.name not in ("server.py", "quirks.py")
    )
    named = set(re.findall(r'(?:ContractViolation|\bempty)\(\s*"(\w+)"', text))
    broken = set(re.findall(r"^> (\w+) \(", (GOLDEN / f"fakes/{name}.txt").read_text("utf-8"), re.MULTILINE))
    assert named - broken == set()
