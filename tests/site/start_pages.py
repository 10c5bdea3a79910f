"""The start page of each provider, from docs/start/providers.toml."""

import re
import tomllib
from functools import cache

import msgspec
from msgspec import Struct

from tests.site.installation import SERVE, find_install_command
from tests.site.pages import DOCS
from tests.support.startup_summary import startup_lines

SOURCE = DOCS / "start/providers.toml"
_PLACEHOLDER = re.compile(r"=your-[\w-]+$", re.MULTILINE)

_PAGE = """\
# {title}: first reply in five minutes

<!-- Written by `python3 scripts/fix.py` from providers.toml: change that file instead. -->

## 1. Program

With uv and Python 3.11 or newer, once, in a copy of this repository ([other ways](../guide/install.md)):

```sh extra
{install}
```

## 2. Key

{key}

## 3. Settings

{setup}
into the file `.env` in [the folder](../guide/configuration.md#where-the-files-belong) that
`anthropic-proxy config show` names:

```
{settings}
```

The environment takes precedence over `.env`. If keys of several providers are set, `PREFERRED_PROVIDER` selects one.

## 4. Start

```sh{extra}
{commands}
```

It serves until Ctrl+C. The start-up message shows the mapping of the models, and `ready: …` with the provider. `✕`
marks what cannot work and names the remedy.

| the client requests | model |
| --- | --- |
{mapping}

## 5. First reply

In another terminal:

```sh key
anthropic-proxy ask "hello"
```

The reply must come from the model, not from the demo. The log of the proxy shows two lines for the request.

## 6. Client

```sh client
anthropic-proxy code
```

Run in the folder of your project, this starts Claude Code with address, credential and context window of the model.
[Claude Code with this proxy](../guide/claude-code.md) explains what it shows. Other clients: [VS Code](vscode.md) ·
[Agent SDK](agent-sdk.md) · [SDKs](sdks.md) · [LangChain](langchain.md) · [Pydantic AI](pydantic-ai.md) ·
[others](other-clients.md).

## Good to know

{notes}
- What this provider supports: [Providers](../guide/providers.md), [capability matrix](../guide/matrix.md).

## If it does not work

| message | page |
| --- | --- |
{problems}
"""
_PROBLEMS = {
    "rejected-key": "`401` and the name of a setting",
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
    short: str = ""
    """Title in the README. "": the title."""
    before: str = ""
    """Command that installs an extra. "": none is needed."""
    init: str = "asks for provider and key, tests the key and writes lines such as these."
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
        install=find_install_command(),
        key=provider.key,
        setup=_setup(provider),
        settings=provider.settings.strip(),
        commands="\n".join(filter(None, (provider.before, SERVE))),
        mapping=_mapping(provider),
        extra=" extra" if provider.before else "",
        notes="\n".join(f"- {note}" for note in provider.notes),
        problems="\n".join(f"| {_PROBLEMS[slug]} | [cause and remedy](../fix/errors.md#{slug}) |" for slug in anchors),
    )


def _setup(provider: ProviderStart) -> str:
    return f"`anthropic-proxy init` {provider.init} By hand, write them" if provider.init else "Write these lines"


def _mapping(provider: ProviderStart) -> str:
    lines = (re.fullmatch(r"  (\S.*?) +→ (\S+).*", line) for line in startup_lines(**provider.values()))
    return "\n".join(f"| {line[1]} | `{line[2]}` |" for line in lines if line)
