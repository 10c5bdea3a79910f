"""What the parts of a request cost in tokens, by family of models.

`python -m bench.token_counts` writes the constants in `token_families.json`; a test compares them.
"""

import functools
from pathlib import Path

import msgspec

from anthropic_proxy.engine.messages.tokens import DEFAULT_FAMILY, TokenFamily
from anthropic_proxy.engine.patterns import compile_later

FAMILIES_FILE = Path(__file__).with_name("token_families.json")
FAMILIES = {family.name: family for family in msgspec.json.decode(FAMILIES_FILE.read_bytes(), type=list[TokenFamily])}

_MAX_NAME_CHARACTERS = 512
_MODELS = tuple(
    (compile_later(pattern, most=_MAX_NAME_CHARACTERS), name)
    for pattern, name in (
        (r"claude-opus-4-7", "claude-opus-4-7"),
        (r"claude-(?:opus-4-[89]|(?:fable|mythos|opus|sonnet|haiku)-[5-9](?!\d))", "claude-5"),
        (r"claude-(?:3|4(?:-1)?-(?:opus|sonnet)|(?:opus|sonnet)-4(?!\d|-(?:[2-9]|\d\d)(?!\d)))", "claude-4"),
        (r"claude", "claude"),
        (r"gpt-oss", "gpt-oss"),
        (r"gpt-\S*nano", "openai-nano"),
        (r"gpt-4o-mini", "openai-4o-mini"),
        (r"(?:gpt-|o\d)\S*mini", "openai-mini"),
        (r"(?:^|[/.-])(?:gpt-\d|o[134](?:-|$)|chatgpt|codex)", "openai"),
        (r"gemini-(?:1|2\.0)", "gemini-2"),
        (r"gemini-2", "gemini-2.5"),
        (r"gemini-", "gemini-3"),
        (r"deepseek[-.]r\d", "deepseek-r1"),
        (r"deepseek-(?:v[4-9]|flash|pro)", "deepseek-4"),
        (r"deepseek-(?:v\d|chat|reasoner)", "deepseek"),
        (r"glm-", "glm"),
        (r"qwen-?\d[\d.]*-coder", "qwen-coder"),
        (r"qwen", "qwen"),
        (r"llama-?4-(?:maverick|scout)", "llama-4"),
        (r"^(?!.*deepseek).*llama-?3[.-][1-3]", "llama-3"),
        (r"pixtral", "pixtral"),
        (r"mistral|ministral|magistral|devstral|codestral", "mistral"),
        (r"nova-[2-9]", "nova-2"),
        (r"nova-", "nova"),
    )
)
"""Pattern in a model id in lower case, with `-` for `.` in versions of Claude → name of the family.

The first that matches counts."""


@functools.lru_cache(maxsize=256)
def find_token_family(model: str) -> TokenFamily:
    """Return the family of a model id, also of one with the prefix of a cloud. Unknown models: `DEFAULT_FAMILY`."""
    return FAMILIES.get(find_family_name(model), DEFAULT_FAMILY)


def find_family_name(model: str) -> str:
    text = model[:256].lower()
    if "claude" in text:
        text = text.replace(".", "-")
    return next((name for pattern, name in _MODELS if pattern.search(text)), DEFAULT_FAMILY.name)
