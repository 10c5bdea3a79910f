"""Detection of the format of another project's configuration file.

`read_configuration` returns the settings in the file as an `ImportPlan`.
"""

import re
from typing import Any

from anthropic_proxy.cli.importing.env_file import has_provider_variable, read_env_file
from anthropic_proxy.cli.importing.litellm_config import LITELLM_SECTIONS, read_litellm_config
from anthropic_proxy.cli.importing.plan import ImportPlan
from anthropic_proxy.cli.importing.router_config import read_router_config
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.installation import build_extra_install_command
from anthropic_proxy.settings.env_writer import decode_env_text, find_invalid_env_line
from anthropic_proxy.settings.values import join_with_or

_MODEL_LIST = re.compile(r"^model_list:", re.MULTILINE)
_SUPPORTED = (
    "Supported are config.json of claude-code-router, config.yaml of LiteLLM's proxy, and .env of an earlier proxy."
)


def read_configuration(content: bytes, input_name: str) -> ImportPlan:
    """Return the settings of this proxy that correspond to `content`, the configuration file of another project.

    Raises `ConfigurationError` for an unknown format or type of value.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{input_name} is not UTF-8 text: byte {error.start} is invalid.") from None
    try:
        return _read(text, input_name)
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        raise ConfigurationError(f"{input_name} has an unexpected structure. {_SUPPORTED}") from error
    except RecursionError:
        raise _reject(input_name, "it nests lists or objects too deeply") from None
    except ValueError:  # Python's limit of digits
        raise _reject(input_name, "a number has too many digits") from None


def _read(text: str, name: str) -> ImportPlan:
    if text.lstrip().startswith(("{", "//", "/*")):
        config = _decode_json(text)
        if isinstance(config, dict) and {"Providers", "providers", "Router", "router"} & {*config}:
            return read_router_config(config)
        raise _reject(name, "it is JSON without Providers and Router")
    if name.lower().endswith((".yaml", ".yml")) or _MODEL_LIST.search(text):
        config = _decode_yaml(text, name)
        if isinstance(config, dict) and LITELLM_SECTIONS & {*config}:
            return read_litellm_config(config)
        raise _reject(name, f"it is YAML without {join_with_or(sorted(LITELLM_SECTIONS))}")
    if line := find_invalid_env_line(text):
        raise _reject(name, f"it is no JSON or YAML, and line {line} does not set a variable")
    variables = decode_env_text(text)
    if not has_provider_variable(variables):
        raise _reject(name, "it sets no key, address or model of a provider, such as OPENAI_API_KEY or BIG_MODEL")
    return read_env_file(variables)


def _reject(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is no configuration of a supported proxy: {reason}. {_SUPPORTED}")


def _decode_json(text: str) -> Any:
    """Return the value of `text`, JSON that may have comments and trailing commas, as claude-code-router permits."""
    import json_repair  # noqa: PLC0415  # needed for this file alone

    return json_repair.loads(text)


def _decode_yaml(text: str, name: str) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]  # noqa: PLC0415  # an extra
    except ImportError:
        raise ConfigurationError(
            f"{name} is YAML, which needs PyYAML. It is not installed:  {build_extra_install_command('import')}"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{name} is not valid YAML: {reason}. {_SUPPORTED}") from None
