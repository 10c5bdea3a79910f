"""Gemini's rules on a request that depend on the model: thinking, sampling, limits, signatures."""

from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.gemini.rules import check_rules
from tests.support.fakes.gemini.models import Model
from tests.support.fakes.gemini.shapes import check_request
from tests.support.fakes.gemini.signatures import Signatures, check_signatures
from tests.support.fakes.server import ContractViolation

_RANGES = {"temperature": (0.0, 2.0), "topP": (0.0, 1.0), "topK": (1.0, 1_000.0)}


def _check_thinking(config: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    thinking = config.get("thinkingConfig")
    if thinking is None:
        return
    if not model.thinks:
        yield ContractViolation("thinking", "Unable to submit request because thinking is not supported by this model.")
        return
    level, budget = thinking.get("thinkingLevel"), thinking.get("thinkingBudget")
    if level is not None and not model.levels:
        yield ContractViolation("thinking_level", "Thinking level is not supported for this model.")
    elif level is not None and level.lower() not in model.levels:
        text = (
            f"Thinking level {level.upper()} is not supported for this model. Please retry with other thinking level."
        )
        yield ContractViolation("thinking_level", text)
    if budget is None:
        return
    if model.budgets is None:
        yield ContractViolation(
            "thinking_budget", "Thinking budget is not supported for this model, use thinking level."
        )
    elif budget == 0 and not model.turns_off:
        yield ContractViolation("thinking_budget", "Budget 0 is invalid. This model only works in thinking mode.")
    elif budget not in (0, -1) and not model.budgets[0] <= budget <= model.budgets[1]:
        low, high = model.budgets
        text = f"The thinking budget {budget} is invalid. Please choose a value between {low} and {high}."
        yield ContractViolation("thinking_budget", text)
    if budget == 0 and thinking.get("includeThoughts"):
        text = "The thinking_config.include_thoughts is only enabled when thinking is enabled."
        yield ContractViolation("thinking_shown", text)


def _check_config(config: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    yield from _check_thinking(config, model)
    limit = config.get("maxOutputTokens")
    if limit is not None and not 1 <= limit <= model.output:
        text = (
            f"Unable to submit request because it has a maxOutputTokens value of {limit} but the supported range is "
            f"from 1 (inclusive) to {model.output + 1} (exclusive). Update the value and try again."
        )
        yield ContractViolation("output_limit", text)
    for name, (low, high) in _RANGES.items():
        value = config.get(name)
        if value is None:
            continue
        if model.sampling == "refused":
            yield ContractViolation(
                "sampling", f"* GenerateContentRequest.generation_config.{name}: not supported by this model.\n"
            )
        elif not low <= value <= high:
            yield ContractViolation(
                "sampling", f"* GenerateContentRequest.generation_config.{name}: must be in [{low}, {high}].\n"
            )
    if model.signs and any(config.get(name) for name in ("frequencyPenalty", "presencePenalty")):
        yield ContractViolation("penalty", "Penalty is not enabled for this model")


def check_body(
    body: dict[str, Any], name: str, model: Model, signatures: Signatures, *, vertex: bool
) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks; the real server would name the first, or all of one kind."""
    shapes = list(check_request(body, vertex=vertex))
    yield from shapes
    if any(breach.rule == "type" for breach in shapes):
        return
    yield from check_rules(body, name, model, vertex=vertex)
    yield from check_signatures(body.get("contents") or [], model, name, signatures)
    yield from _check_config(body.get("generationConfig") or {}, model)
