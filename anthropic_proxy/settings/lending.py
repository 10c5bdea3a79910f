"""What is put into the environment for a library that reads its settings there itself."""

import os
from collections.abc import MutableMapping

from anthropic_proxy.settings.fields import Secret, Settings

_FOR_LITELLM = {
    "LITELLM_MODE": "PRODUCTION",  # else it reads a `.env` of its own choice
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it loads tables from the network when it is imported
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    # marks for the cache do not pass the wire: without LiteLLM's own, Claude at Bedrock reads every turn anew
    "LITELLM_ENABLE_ANTHROPIC_PROMPT_CACHING": "true",
}


def lend_to_litellm(settings: Settings, lent: MutableMapping[str, Secret] | None = None) -> None:
    """Put the `.env` file's variables, and how LiteLLM is to start, where it looks; what is there already stays.

    `lent` is what was put there before, for earlier settings: it is taken back, and holds what is lent now.
    """
    for name, secret in (lent or {}).items():
        if os.environ.get(name) == secret.reveal():
            del os.environ[name]
    for name, value in _FOR_LITELLM.items():
        os.environ.setdefault(name, value)
    fresh = {name: secret for name, secret in settings.other_variables.items() if name not in os.environ}
    os.environ.update({name: secret.reveal() for name, secret in fresh.items()})
    if lent is not None:
        lent.clear()
        lent.update(fresh)
