"""What the parts of a request cost in tokens, by family of models.

`python -m bench.token_counts fit` prints the constants; a test compares them.
"""

import functools

from anthropic_proxy.engine.messages.tokens import DEFAULT_FAMILY, TokenFamily
from anthropic_proxy.engine.patterns import compile_later

FAMILIES: dict[str, TokenFamily] = {
    family.name: family
    for family in (
        TokenFamily(
            name="claude",
            per_request=3.6,
            per_message=7.4,
            per_call=15.99,
            per_result=13.99,
            any_tool=497.95,
            per_tool=31.03,
            per_property=3.28,
            text=1.11,
            tool_text=1.05,
            image_base=8.06,
            per_image_unit=1.03,
            per_page=1558.22,
        ),
        TokenFamily(
            name="claude-5",
            per_request=3.55,
            per_message=0.0,
            per_call=7.01,
            per_result=5.01,
            any_tool=397.33,
            per_tool=18.86,
            per_property=1.16,
            text=1.69,
            tool_text=1.01,
            max_image_units=4784,
            per_page=1700.0,
        ),
        TokenFamily(
            name="openai",
            per_request=2.27,
            per_message=3.11,
            per_call=9.37,
            per_result=7.37,
            any_tool=17.73,
            per_tool=3.35,
            per_property=0.75,
            text=1.04,
            tool_text=1.11,
            image_rule="tiles",
            image_base=85.0,
            per_image_unit=170.0,
            max_image_units=16,
            per_page=250.0,
        ),
        TokenFamily(
            name="openai-mini",
            per_request=3.44,
            per_message=3.41,
            per_call=6.12,
            per_result=4.12,
            any_tool=0.0,
            per_tool=23.24,
            per_property=1.14,
            tool_text=1.21,
            image_rule="patches",
            image_base=93.98,
            per_image_unit=1.2,
            max_image_units=1536,
            per_page=302.15,
        ),
        TokenFamily(
            name="gpt-oss",
            per_request=64.19,
            per_message=4.24,
            per_call=5.76,
            per_result=3.76,
            any_tool=29.27,
            per_tool=9.58,
            per_property=0.98,
            text=0.95,
            image_rule="tiles",
            image_base=85.0,
            per_image_unit=170.0,
            max_image_units=16,
            per_page=500.0,
        ),
        TokenFamily(
            name="gemini-2",
            per_request=0.33,
            per_message=0.0,
            per_call=6.07,
            per_result=4.07,
            any_tool=0.0,
            per_tool=0.0,
            per_property=0.59,
            text=0.95,
            image_rule="cells",
            per_image_unit=258.0,
            max_image_units=65,
            per_page=259.05,
        ),
        TokenFamily(
            name="gemini-2.5",
            per_request=0.77,
            per_message=0.37,
            per_call=8.94,
            per_result=6.94,
            any_tool=0.0,
            per_tool=28.66,
            per_property=2.87,
            text=0.98,
            tool_text=1.13,
            image_rule="flat",
            image_base=258.0,
            per_image_unit=0.0,
            per_page=258.0,
        ),
        TokenFamily(
            name="gemini-3",
            per_request=0.39,
            per_message=0.0,
            any_tool=0.0,
            per_tool=21.89,
            text=1.01,
            tool_text=1.19,
            image_rule="flat",
            image_base=1100.0,
            per_image_unit=0.0,
            per_page=560.0,
        ),
        TokenFamily(
            name="deepseek",
            per_request=4.47,
            per_message=5.67,
            per_call=15.76,
            per_result=13.76,
            any_tool=293.38,
            per_tool=35.45,
            per_property=1.08,
            text=1.11,
            tool_text=1.01,
            per_page=800.0,
        ),
        TokenFamily(
            name="glm",
            per_request=3.7,
            per_message=3.94,
            per_call=9.07,
            per_result=7.07,
            any_tool=128.61,
            per_tool=11.6,
            per_property=1.01,
            text=0.95,
            per_image_unit=0.93,
            per_page=800.0,
        ),
        TokenFamily(
            name="llama-4",
            per_request=4.16,
            per_message=3.2,
            per_call=6.12,
            per_result=4.12,
            any_tool=591.91,
            per_tool=21.06,
            text=1.01,
            image_base=363.57,
            per_image_unit=1.05,
            per_page=400.0,
        ),
        TokenFamily(
            name="mistral",
            per_request=3.41,
            per_message=3.5,
            per_call=7.18,
            per_result=5.18,
            any_tool=30.37,
            per_tool=9.6,
            per_property=1.35,
            text=0.95,
            tool_text=1.01,
            image_base=341.46,
            per_image_unit=2.38,
            per_page=400.0,
        ),
        TokenFamily(
            name="nova",
            per_request=1.95,
            per_message=1.39,
            per_call=7.07,
            per_result=5.07,
            any_tool=534.43,
            per_tool=3.39,
            per_property=0.16,
            text=0.95,
            tool_text=0.96,
            image_base=384.36,
            per_image_unit=0.9,
            per_page=2936.66,
        ),
    )
}

_MODELS = tuple(
    (compile_later(pattern), name)
    for pattern, name in (
        (r"claude-(?:opus-4-[7-9]|(?:fable|mythos|opus|sonnet|haiku)-[5-9](?!\d))", "claude-5"),
        (r"claude", "claude"),
        (r"gpt-oss", "gpt-oss"),
        (r"(?:gpt-|o\d)\S*(?:mini|nano)", "openai-mini"),
        (r"(?:^|[/.-])(?:gpt-\d|o[134](?:-|$)|chatgpt|codex)", "openai"),
        (r"gemini-(?:1|2\.0)", "gemini-2"),
        (r"gemini-2", "gemini-2.5"),
        (r"gemini-", "gemini-3"),
        (r"deepseek-(?:v\d|chat|reasoner)", "deepseek"),
        (r"glm-", "glm"),
        (r"llama-?4-maverick", "llama-4"),
        (r"mistral|ministral|magistral|pixtral|devstral|codestral", "mistral"),
        (r"nova-", "nova"),
    )
)
"""Pattern in a model id in lower case, with `-` for `.` in versions of Claude → name of the family.

The first that matches counts."""


@functools.lru_cache(maxsize=256)
def find_token_family(model: str) -> TokenFamily:
    """Return the family of a model id, also of one with the prefix of a cloud. Unknown models: `DEFAULT_FAMILY`."""
    text = model[:256].lower()
    if "claude" in text:
        text = text.replace(".", "-")
    for pattern, name in _MODELS:
        if pattern.search(text):
            return FAMILIES.get(name, DEFAULT_FAMILY)
    return DEFAULT_FAMILY
