"""`decode_env_text`: returns the variables in the text of a `.env` file."""

import io


def decode_env_text(text: str) -> dict[str, str]:
    """Return the value of each variable in the text of a `.env` file. Invalid lines are ignored.

    A reference to another variable in a value (`${NAME}`) stays unchanged.
    """
    from dotenv import dotenv_values  # noqa: PLC0415  # needed by the command import alone

    found = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name: value for name, value in found.items() if value is not None}
