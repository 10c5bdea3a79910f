"""Shell commands that install the proxy and its extras, as error messages and the documentation show them.

An extra is a set of optional packages, which is installed by a name in brackets: `[otel]`. `PUBLISHED` is True after
the first release to a package index. Before this release, the commands are for a checkout of the repository.
"""

PUBLISHED = False
"""True after the first release to a package index. Before, a package of this name in an index could belong to another
project."""
PACKAGE = "anthropic-proxy"
"""Name under which this project is published in a package index."""


def build_extra_install_command(extra: str, *, is_published: bool = PUBLISHED) -> str:
    """Return the shell command that installs an extra, a set of optional packages.

    If the proxy is published in a package index, the command uses pip. Otherwise it runs `scripts/setup.py` in a
    checkout.
    """
    return f"pip install '{PACKAGE}[{extra}]'" if is_published else f"python3 scripts/setup.py {extra}"


def build_uv_install_command(extra: str, *, is_published: bool = PUBLISHED) -> str:
    """Return the shell command that installs an extra with the tool uv."""
    return f"uv tool install '{PACKAGE}[{extra}]'" if is_published else f"uv sync --extra {extra}"


def list_start_commands(*, is_published: bool = PUBLISHED) -> tuple[tuple[str, str], ...]:
    """Return the shell commands that install or start the proxy: pairs of a command and a description of its effect."""
    if is_published:
        return (
            (f"uvx {PACKAGE}", "serves on `http://127.0.0.1:8082` without an installation; options follow"),
            (f"uv tool install {PACKAGE}", f"installs the command `{PACKAGE}`"),
            (f"pipx install {PACKAGE}", "the same with pipx"),
            (f"pip install {PACKAGE}", "the same in the present environment"),
        )
    return (
        (
            "python3 scripts/serve.py",
            "creates `.venv` from the lock files and serves on `http://127.0.0.1:8082`; options follow, for example "
            "`--port 8083`",
        ),
        (f"uv run {PACKAGE}", "the same, with an environment of uv"),
        (f"uvx --from . {PACKAGE}", "the same, in a temporary environment"),
        ("pipx install .", f"installs the command `{PACKAGE}` from the checkout"),
    )
