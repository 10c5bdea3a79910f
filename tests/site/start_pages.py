"""The start page of each provider, from docs/start/providers.toml."""

import re
import tomllib
from functools import cache

import msgspec
from msgspec import Struct

from tests.site.installation import find_install_command
from tests.site.pages import DOCS
from tests.support.startup_summary import startup_lines

SOURCE = DOCS / "start/providers.toml"
_PLACEHOLDER = re.compile(r"=your-[\w-]+$", re.MULTILINE)

_PAGE = """\
# {title}: first reply in five minutes

<!-- Written by `python3 scripts/fix.py` from providers.toml: change that file instead. -->

## 1. Install

Run this once in a [clone of the repository](../../README.md#1-install) ([other ways](../guide/install.md)):

```sh extra
{install}
```

## 2. {preparation}

{key}

## 3. Choose the provider

{setup}

## 4. Run Claude Code

In the folder of your project:

```sh client
anthropic-proxy code
```

The command starts the proxy and Claude Code. The status line shows the model that replied.
[Claude Code with this proxy](../guide/claude-code.md) explains the rest.

| Claude Code asks for | your model |
| --- | --- |
{mapping}

To test the provider without Claude Code:

```sh key
anthropic-proxy ask "hello"
```

Other clients need a running proxy. Start `anthropic-proxy serve` in another terminal, and open the page of your client:
[VS Code](vscode.md) · [Agent SDK](agent-sdk.md) · [SDKs](sdks.md) · [LangChain](langchain.md) ·
[Pydantic AI](pydantic-ai.md) · [others](other-clients.md).

## Good to know

{notes}
- [Providers](../guide/providers.md) and the [capability matrix](../guide/matrix.md) list what this provider supports.

## If it does not work

| message | help |
| --- | --- |
{problems}
"""
_INIT = """\
```sh client
anthropic-proxy init
```

{init}

<details markdown>
<summary>By hand, without <code>init</code></summary>

{lines}

</details>"""
_LINES = """\
Run `anthropic-proxy config show`. It names a [folder](../guide/configuration.md#where-the-files-belong). Write these
lines into the file `.env` in this folder:

```
{settings}
```

A variable of the environment takes precedence over a line of `.env`. If keys of several providers are set,
`PREFERRED_PROVIDER` selects one of them."""
_PROBLEMS = {
    "rejected-key": "`424` and the name of a setting",
    "provider-key-missing": "`… has no key`",
    "configured-model-not-found": "`… is set by BIG_MODEL`",
    "rate-limit": "`429`",
    "no-server": "`no server responds at …`",
    "prompt-too-long": "`prompt is too long`",
}

_KEY_PROBLEMS = ("rejected-key", "provider-key-missing", "rate-limit")


class ProviderStart(Struct, frozen=True, forbid_unknown_fields=True):
    """One provider: its key, its lines for `.env`, and facts that a new user needs."""

    slug: str
    title: str
    key: str
    settings: str
    notes: tuple[str, ...]
    before: str = ""
    """Command that installs an extra. "": none is needed."""
    init: str = "The command asks for the provider and the key, tests the key, and writes the settings."
    """What `anthropic-proxy init` does. "": it does not offer the provider."""

    def values(self) -> dict[str, str]:
        text = _PLACEHOLDER.sub("=sk-test-0123456789abcdef", self.settings.strip())
        return dict(line.split("=", 1) for line in text.splitlines())


@cache
def providers() -> tuple[ProviderStart, ...]:
    """Return the providers in the order of providers.toml."""
    return msgspec.convert(tomllib.loads(SOURCE.read_text("utf-8"))["provider"], tuple[ProviderStart, ...])


def written_page(provider: ProviderStart) -> str:
    """Return the start page of a provider."""
    has_key = "_API_KEY=" in provider.settings
    anchors = [slug for slug in _PROBLEMS if has_key or slug not in _KEY_PROBLEMS]
    return _PAGE.format(
        title=provider.title.partition(":")[0],
        install="\n".join(filter(None, (find_install_command(), provider.before))),
        preparation="Get a key" if has_key else "Prepare the provider",
        key=provider.key.strip(),
        setup=_setup(provider),
        mapping=_mapping(provider),
        notes="\n".join(f"- {note}" for note in provider.notes),
        problems="\n".join(f"| {_PROBLEMS[slug]} | [cause and remedy](../fix/errors.md#{slug}) |" for slug in anchors),
    )


def _setup(provider: ProviderStart) -> str:
    lines = _LINES.format(settings=provider.settings.strip())
    return _INIT.format(init=provider.init, lines=lines) if provider.init else lines


def _mapping(provider: ProviderStart) -> str:
    lines = (re.fullmatch(r"  (\S.*?) +→ (\S+).*", line) for line in startup_lines(**provider.values()))
    return "\n".join(f"| {line[1]} | `{line[2]}` |" for line in lines if line)
