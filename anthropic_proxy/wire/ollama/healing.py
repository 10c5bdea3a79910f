"""What a refusal teaches about a model: whether it takes `think`, and how."""

from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.wire.contract import Call, Healing
from anthropic_proxy.wire.ollama.dialect import Dialect

_DROP, _SWITCH = "drop think", "switch think"


def find_healing(call: Call, error: UpstreamError) -> Healing | None:
    """Return what to do differently after a 400 about `think`; None where the refusal stands."""
    if error.status != 400 or error.parameter != "think":
        return None
    # servers before 0.11 read a boolean only; later ones say of a model that it does not think
    name = _SWITCH if call.dialect.thinking == "level" and "support" not in error.message else _DROP
    return None if heal(call.dialect, name) == call.dialect else Healing(name)


def heal(dialect: Dialect, name: str) -> Dialect:
    """Return the dialect with one thing learned; an unknown name changes nothing."""
    if name == _SWITCH:
        return structs.replace(dialect, thinking="switch")
    return structs.replace(dialect, thinking="never") if name == _DROP else dialect
