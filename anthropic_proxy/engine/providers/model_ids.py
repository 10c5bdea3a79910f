"""Names of models: those that a user may write, those that a server may list, and which of them mean the same model.

A stranger may have written the list. Its names become settings, parts of commands and texts of pages, so a name that
could be a variable, a command, a pattern or a way out of a folder there is none. Each listed name is also one that a
user may write.
"""

from typing import Any, NewType

from anthropic_proxy.engine.patterns import compile_anchored

ModelId = NewType("ModelId", str)
"""A name that `read_model_id` has accepted, or one that is part of this program or of its settings."""

MAX_ID_CHARACTERS = 256
_NAME = compile_anchored(r"[^\s\x00-\x1f,\ud800-\udfff]+")
"""Without lone surrogates, which stand for bytes that are not UTF-8."""
_ID = compile_anchored(r"[A-Za-z0-9@~/_.][A-Za-z0-9@~/_.:+\\-]*(?:#[A-Za-z0-9@~/_.:+\\-]+)*")
"""ASCII without blanks, quotes, brackets, and what has a meaning in a shell, a pattern or a list. Servers list paths of
files too: `/models/qwen3.gguf` (vLLM, llama.cpp), with a backslash on Windows. Inside a name, `#` begins no comment:
Fireworks writes a deployment behind it. A user can name a model of another form in the settings."""


def is_model_name(text: str) -> bool:
    """Return True for a name of a model in a setting, with or without the prefix of a provider.

    It may be the path of a file or folder, as servers name models without an alias: `my//models/qwen3.gguf`. Only the
    prefix of a provider, `openai/`, is no name.
    """
    first, slash, rest = text.partition("/")
    has_model = bool(rest.strip("/")) if slash else bool(first)
    return has_model and text.isprintable() and _NAME.fullmatch(text) is not None


def read_model_id(value: Any) -> ModelId | None:
    """Return None for what is no name of a model."""
    if not isinstance(value, str) or len(value) > MAX_ID_CHARACTERS or not _ID.fullmatch(value):
        return None
    if not is_model_name(value):
        return None
    if ".." in value.replace("\\", "/").split("/"):
        return None
    return ModelId(value)


_DATE_LENGTH = len("-20251001")
_DATE = compile_anchored(r"-20\d{6}|@20\d{6}")
_OTHER_VERSION = compile_anchored(r"\w|[-.]\d{1,2}(?!\d)")
"""What follows the name of a model in that of another one: `-8` in `claude-opus-4-8`, but no date."""


def is_id_of_model(named: str, model: str) -> bool:
    """Return True if the id of a vendor, which may have a date, means the model `model` of a provider:
    `claude-haiku-4-5-20251001` for `anthropic.claude-haiku-4-5-v1:0`.
    """
    name, known = named.lower(), model.lower()
    if _DATE.fullmatch(name[-_DATE_LENGTH:]):
        name = name[:-_DATE_LENGTH]
    known = known if name in known else known.replace(".", "-")  # gateways write `claude-haiku-4.5`
    return name in known and not _OTHER_VERSION.match(known, known.index(name) + len(name))
