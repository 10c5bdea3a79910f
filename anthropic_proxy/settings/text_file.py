"""Reader of the text files with settings: `.env` and `anthropic-proxy.toml`."""

import os
from pathlib import Path

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.os_errors import describe_os_error


def read_settings_file(path: str, warnings: list[str]) -> str:
    """Return the text of a settings file without byte order mark. "": the file is missing, or the path is a folder.

    For a folder, a warning is added to `warnings`. Raises `ConfigurationError` for a file that cannot be read or is not
    UTF-8 text.
    """
    if os.path.isdir(path):
        warnings.append(f"{path} is a folder, so nothing was read from it.")
        return ""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} is not UTF-8 text: byte {error.start} is invalid. Save it as UTF-8."
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {describe_os_error(error)}.") from None
