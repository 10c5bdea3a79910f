"""Environment variables with which Claude Code and the Anthropic SDKs use a proxy, for `code`, `run` and `env`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from anthropic_proxy.cli.local_proxy import LocalProxy

MAIN_MODELS = ("claude-opus", "claude-sonnet")
"""Models that Claude Code requests for a conversation, if the user chooses none."""
_SERVER_VARIABLES = (
    *("ANTHROPIC_BASE_URL", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"),
)
_CREDENTIAL_VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
_MODEL_OPTION = re.compile(r"--model(?:=(.+))?")


def client_variables(proxy: LocalProxy, environ: Mapping[str, str], arguments: Sequence[str] = ()) -> dict[str, str]:
    """Return the variables for a client of this proxy: address, credential, and the limits of the model.

    `environ`: variables that the user has set; a limit among them is not replaced. `arguments`: arguments of the
    client; the model of `--model` decides the limits.
    """
    variables = {"ANTHROPIC_BASE_URL": proxy.address}
    if proxy.token:
        variables["ANTHROPIC_AUTH_TOKEN"] = proxy.token
    optional = _find_limits(proxy, _requested_models(environ, arguments))
    optional["CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY"] = "1"
    return variables | {name: value for name, value in optional.items() if name not in environ}


def conflicting_variables(variables: Mapping[str, str]) -> Sequence[str]:
    """Return the names of variables with which a client would use another server or credential than `variables`.

    Variables of credentials are included if `variables` contain a credential.
    """
    return (*_SERVER_VARIABLES, *(_CREDENTIAL_VARIABLES if "ANTHROPIC_AUTH_TOKEN" in variables else ()))


def child_environment(variables: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a client: that of the user, without conflicting variables, with `variables`."""
    conflicts = conflicting_variables(variables)
    return {**{name: value for name, value in environ.items() if name not in conflicts}, **variables}


def _requested_models(environ: Mapping[str, str], arguments: Sequence[str]) -> Sequence[str]:
    for position, argument in enumerate(arguments):
        found = _MODEL_OPTION.fullmatch(argument)
        if found is not None and (model := found[1] or "".join(arguments[position + 1 : position + 2])):
            return (model,)
    model = environ.get("ANTHROPIC_MODEL")
    return (model,) if model else MAIN_MODELS


def _find_limits(proxy: LocalProxy, models: Sequence[str]) -> dict[str, str]:
    """Return the variables for context window and output limit: of several models, the smallest values.

    Empty if the proxy does not list the models. Claude Code otherwise assumes a window of 1,000,000 tokens.
    """
    entries = [entry for model in models if isinstance(entry := proxy.get(f"/v1/models/{model}"), dict)]
    window, output = _smallest(entries, "max_input_tokens"), _smallest(entries, "max_tokens")
    limits: dict[str, str] = {}
    if window is not None:
        limits |= {"CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(window), "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(window)}
    if output is not None:
        limits["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(output)
    return limits


def _smallest(entries: Sequence[Mapping[str, Any]], field: str) -> int | None:
    return min((value for entry in entries if isinstance(value := entry.get(field), int) and value > 0), default=None)
