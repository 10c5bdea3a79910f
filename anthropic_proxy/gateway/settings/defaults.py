"""Default of each setting as text, for lists of the settings.

`list_defaults` derives the texts from the defaults of the `Settings` fields.
"""

from collections.abc import Sequence

from anthropic_proxy.engine.options import Timeouts
from anthropic_proxy.engine.providers.registry import Provider
from anthropic_proxy.gateway.settings.fields import Settings
from anthropic_proxy.gateway.settings.load import FIELD_VARIABLES

_FIRST_BYTE, _IDLE, _CONNECT = "UPSTREAM_FIRST_BYTE_TIMEOUT", "UPSTREAM_IDLE_TIMEOUT", "UPSTREAM_CONNECT_TIMEOUT"


def list_defaults(providers: Sequence[Provider]) -> dict[str, str]:
    """Return the default of each setting as text, by variable. Variables without a default are absent."""
    # default models and base URLs are absent, because they depend on other settings
    plain, timeouts = Settings(), Timeouts()
    defaults = {
        variables[0]: _format(getattr(plain, field))
        for field, _, _, variables in FIELD_VARIABLES
        if getattr(plain, field) not in (None, ())
    }
    defaults |= {
        _CONNECT: _format(timeouts.connect_seconds),
        _FIRST_BYTE: _format(timeouts.first_byte_seconds),
        _IDLE: _format(timeouts.idle_seconds),
    }
    return defaults | {f"{row.env_prefix}_WIRE": "auto" for row in providers if row.env_prefix}


def _format(value: object) -> str:
    """Return a default value as the text that a user would set: `true`, `25`, `127.0.0.1`."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
