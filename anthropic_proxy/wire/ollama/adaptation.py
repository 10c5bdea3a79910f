"""Changes of the next Ollama request after the server rejected the field `think` (reasoning) of the last one.

An adaptation is a named change of the dialect, the settings for a server. `find_adaptation` chooses one by the error,
`apply_adaptation` applies it.
"""

from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.wire.contract import Adaptation, Call
from anthropic_proxy.wire.failures import PARAMETER_ERROR_STATUSES
from anthropic_proxy.wire.ollama.dialect import Dialect

_DROP, _SWITCH = "drop think", "switch think"


def find_adaptation(call: Call[Dialect], error: UpstreamError) -> Adaptation | None:
    """Return the adaptation that changes `think`, if the server rejected the field. None: any other error."""
    if error.status not in PARAMETER_ERROR_STATUSES or error.parameter != "think":
        return None
    # a server that knows booleans only, or fewer levels, rejects the value; else the model does not think at all
    levels = call.dialect.think_form in ("level", "only_level")
    name = _SWITCH if levels and "does not support thinking" not in error.message else _DROP
    return None if apply_adaptation(call.dialect, name) == call.dialect else Adaptation(name)


def apply_adaptation(dialect: Dialect, name: str) -> Dialect:
    """Return the dialect with the named adaptation applied. An unknown name returns it unchanged."""
    if name == _SWITCH:
        return structs.replace(dialect, think_form="switch")
    return structs.replace(dialect, think_form="never") if name == _DROP else dialect
