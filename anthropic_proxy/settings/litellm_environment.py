"""Variables that LiteLLM reads from the environment."""

import os
from collections.abc import MutableMapping

from anthropic_proxy.settings.fields import Secret, Settings

_FOR_LITELLM = {
    "LITELLM_MODE": "PRODUCTION",  # otherwise LiteLLM loads a `.env` file itself
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise its import downloads tables
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    # the wire drops cache marks: without those of LiteLLM, Claude on Bedrock caches no prompt
    "LITELLM_ENABLE_ANTHROPIC_PROMPT_CACHING": "true",
}


def export_to_litellm(settings: Settings, exported: MutableMapping[str, Secret] | None = None) -> None:
    """Set the variables of `.env` and the start options of LiteLLM in `os.environ`, unless they are set.

    `exported`: variables set by an earlier call. They are removed, and the dict is filled with the present ones.
    """
    for name, secret in (exported or {}).items():
        if os.environ.get(name) == secret.reveal():
            del os.environ[name]
    for name, value in _FOR_LITELLM.items():
        os.environ.setdefault(name, value)
    fresh = {name: secret for name, secret in settings.other_variables.items() if name not in os.environ}
    os.environ.update({name: secret.reveal() for name, secret in fresh.items()})
    if exported is not None:
        exported.clear()
        exported.update(fresh)
