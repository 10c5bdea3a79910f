"""`list_backend_variables`: names of the settings on which the replies of models depend.

By these settings, the proxy recognizes results of the command `doctor` that may no longer apply.
"""

from collections.abc import Sequence

from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.engine.providers.registry import Provider
from anthropic_proxy.gateway.settings.load import FIELD_VARIABLES, list_variables

_FIELDS = frozenset(
    {
        "big_model",
        "middle_model",
        "small_model",
        "use_vertex_auth",
        "vertex_project",
        "vertex_location",
        "google_credentials_file",
        "ollama_context_length",
        "ollama_keep_alive",
    }
)
"""Fields of `Settings` that select models, or servers and credentials for them."""


def list_backend_variables(providers: Sequence[Provider]) -> frozenset[str]:
    """Return the names of the variables that select models, their providers, addresses, keys and APIs.

    Aliases are included.
    """
    of_providers = {*list_variables(providers)} - {*list_variables(())}
    of_tiers = {f"{start}{tier.upper()}" for start in ("MODEL_", "FALLBACK_") for tier in TIERS}
    of_fields = {name for field, _, _, names in FIELD_VARIABLES if field in _FIELDS for name in names}
    return frozenset({"PREFERRED_PROVIDER", *of_providers, *of_tiers, *of_fields})
