"""What is put into the environment for a library that reads its settings there itself."""

import os

from anthropic_proxy.settings.fields import Settings

_FOR_LITELLM = {
    "LITELLM_MODE": "PRODUCTION",  # else it reads a `.env` of its own choice
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it loads tables from the network when it is imported
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    # marks for the cache do not pass the wire: without LiteLLM's own, Claude at Bedrock reads every turn anew
    "LITELLM_ENABLE_ANTHROPIC_PROMPT_CACHING": "true",
}


def lend_to_litellm(settings: Settings) -> None:
    """Put the `.env` file's variables, and how LiteLLM is to start, where it looks; what is there already stays."""
    for name, value in _FOR_LITELLM.items():
        os.environ.setdefault(name, value)
    for name, secret in settings.other_variables.items():
        os.environ.setdefault(name, secret.reveal())
