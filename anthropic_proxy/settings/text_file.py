"""Reader of the text files with settings: `.env` and `anthropic-proxy.toml`."""

import os
from pathlib import Path

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.os_errors import describe_os_error


def read_settings_file(path: str, warnings: list[str]) -> str:
    """Return the text of a settings file. "": the file is missing, or the path is a folder.

    Raises `ConfigurationError` if the file is unreadable or not UTF-8.
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
