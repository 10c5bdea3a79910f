"""Values of settings for display: keys and pasted credentials are masked."""

import re

from anthropic_proxy.secrets import Secret

_SECRET_NAME = re.compile(r"_(?:KEY|TOKEN|SECRET|PASSWORD|HEADERS)$")
_USER_INFO = re.compile(r"(?<=://)[^/?#\s]*(?=@)")
_SECRET_PARAMETER = re.compile(r"([?&][^=&#\s]*(?:pass|pwd|secret|token|key)[^=&#\s]*=)[^&#\s]+", re.IGNORECASE)
"""Pattern of a URL parameter that contains a credential: `?sslpassword=…`."""
_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


def is_secret_variable(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def mask_setting(name: str, text: str) -> str:
    """The last four characters of a key remain. User names and passwords in a URL are masked too."""
    if _REFERENCE.fullmatch(text):
        return text
    if is_secret_variable(name):
        return ", ".join(str(Secret(item.strip(" '\""))) for item in text.split(",") if item.strip())
    if "{" in text:
        return str(Secret(text))
    return _SECRET_PARAMETER.sub(r"\1…", _USER_INFO.sub("…", text))


def mask_env_lines(text: str) -> str:
    """Lines of another form than `NAME=value`, such as those of TOML, are unchanged."""
    lines = []
    for line in text.splitlines():
        name, _, value = line.partition("=")
        lines.append(f"{name}={mask_setting(name, value)}" if value and name.isidentifier() else line)
    return "\n".join(lines)
