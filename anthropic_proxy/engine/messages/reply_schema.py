"""`ReplySchema`: checks that a reply matches the JSON Schema that the client requires.

It is used for providers that do not enforce the schema. The work is limited, so that a schema or reply cannot block the
process.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from anthropic_proxy.engine.messages.models.raw_json import replace_lone_escapes
from anthropic_proxy.engine.messages.work_budget import WorkBudget

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_CHECK_STEPS = 300_000
"""Maximum steps of one check of a reply. A step applies a schema or keyword to a value and takes some microseconds. An
ordinary reply of 100,000 characters takes 20,000 to 40,000 steps."""
_FREE_CHECK_STEPS, _CHECK_STEPS_PER_BYTE = 30_000, 8
"""Steps of a check for any input, and steps for each byte of the schema and of the JSON. References multiply, so a
small schema can take any number of steps. An ordinary check takes less than one step for each byte."""
_FIELD = "output_config.format.schema"
FENCE = "```"
"""Begin and end of a code block in Markdown."""


class ExtractedJson(NamedTuple):
    json: str
    error: str
    """Validation error. "": the JSON matches the schema."""


def find_json(text: str) -> tuple[str, Any] | None:
    """Return the JSON in the text of a reply, as text and decoded: all of it, a code fence in it, or what is between
    the first and the last bracket. None: it has no JSON.
    """
    fenced: list[str] = []
    inside: list[str] | None = None
    for line in text.split("\n"):
        remainder = line.lstrip()
        if inside is not None:
            if not remainder.startswith(FENCE):
                inside.append(line)
                continue
            fenced.append("\n".join(inside).strip())
            remainder = remainder[len(FENCE) :]
        # an opening fence may follow other text in its line
        _, fence, language = remainder.rpartition(FENCE)
        language = language.strip()
        inside = [] if fence and (not language or language.isalpha()) else None
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    end = max(text.rfind("}"), text.rfind("]"))
    between = [text[min(starts) : end + 1]] if starts and end > min(starts) else []
    for json in [text.strip(), *(fenced if len(fenced) == 1 else ()), *between]:
        try:
            return json, msgspec.json.decode(replace_lone_escapes(json))
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            pass
    return None


REPLY_PATH = "$"
"""Beginning of an error that has a path in the reply, and mostly a value of it."""


class ReplySchema:
    """The JSON Schema (draft 2020-12) that the client requires for a reply.

    The constructor raises `InvalidRequest` if the schema is invalid or too large to process.
    """

    def __init__(self, schema: bytes, *, max_steps: int = MAX_CHECK_STEPS, max_steps_here: int | None = None) -> None:
        # the library is imported for the first schema: most processes need no validation
        from anthropic_proxy.engine.messages import json_validation  # noqa: PLC0415

        self._find_violation = json_validation.find_violation
        self._max_steps = max_steps
        self._schema_bytes = len(schema)
        budget = WorkBudget(_FIELD, purpose="read", max_steps=max_steps, max_steps_here=max_steps_here)
        self._validator: Validator = json_validation.build_validator(schema, budget)

    def extract_json(self, text: str) -> ExtractedJson:
        """Return the JSON in the text of a reply, with the error of its validation by the schema.

        Raises `InvalidRequest` if the validation needs too much work. It also does so if a reference (`$ref`) in the
        schema has no target or refers to itself without end.
        """
        found = find_json(text)
        if found is None:
            return ExtractedJson(text, "it is no JSON" if text.strip() else "it is empty")
        json, value = found
        steps = _FREE_CHECK_STEPS + _CHECK_STEPS_PER_BYTE * (self._schema_bytes + len(json))
        budget = WorkBudget(_FIELD, purpose="check", max_steps=min(steps, self._max_steps))
        return ExtractedJson(json, self._find_violation(self._validator, value, budget))
