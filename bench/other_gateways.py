"""Other translators, each set up for the same job: the Messages API in front, the bench's Chat Completions behind.

`scripts/ci.py peers` installs them by name, each into its own folder of the user's cache. A missing one is left out.
Each runs in one process with its own defaults, but for these: its log goes to a file or nowhere, and nothing makes it
look for anything beyond this machine.
"""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from msgspec import structs

from bench.processes import Process
from bench.subjects import Subject, bare_environment

PLACE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anthropic-proxy" / "peers"
_KEY = "sk-bench-0000"
_LITELLM = """
model_list:
  - model_name: "*"
    litellm_params: {{model: "openai/*", api_base: "http://127.0.0.1:{upstream}/v1", api_key: "{key}"}}
litellm_settings: {{use_chat_completions_url_for_anthropic_messages: true}}
"""
_OA2A = """
openai_api_key = "{key}"
openai_base_url = "http://127.0.0.1:{upstream}/v1"
host = "127.0.0.1"
port = {port}
"""


def _start_litellm(directory: Path, port: int, upstream: int, *, workers: int = 1) -> Process:
    configuration = directory / f"litellm-{port}.yaml"
    configuration.write_text(_LITELLM.format(upstream=upstream, key=_KEY))
    options = ["--config", str(configuration), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    options += ["--num_workers", str(workers)]
    keyless = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}  # no proxy here asks clients for a key
    return _run(
        "litellm", ["bin/litellm", *options], directory, port, {"LITELLM_LOCAL_MODEL_COST_MAP": "True", **keyless}
    )


def _start_claude_code_router(directory: Path, port: int, upstream: int) -> Process:
    provider = {
        "name": "bench",
        "api_base_url": f"http://127.0.0.1:{upstream}/v1/chat/completions",
        "api_key": _KEY,
        "models": ["bench-whole"],
    }
    configuration = {"PORT": port, "LOG": False, "Providers": [provider], "Router": {"default": "bench,bench-whole"}}
    home = directory / f"claude-code-router-{port}"
    (home / ".claude-code-router").mkdir(parents=True)
    (home / ".claude-code-router" / "config.json").write_text(json.dumps(configuration))
    return _run("claude-code-router", ["node_modules/.bin/ccr", "start"], directory, port, {"SERVICE_PORT": str(port)})


def _start_ant2oai(directory: Path, port: int, upstream: int, *, workers: int = 1) -> Process:
    address = f"http://127.0.0.1:{upstream}/v1/chat/completions"
    options = ["--upstream", address, "--port", str(port), "--workers", str(workers)]
    return _run("ant2oai", ["bin/a2o", *options], directory, port, {})


def _start_local_openai2anthropic(directory: Path, port: int, upstream: int) -> Process:
    home = directory / f"local-openai2anthropic-{port}"
    (home / ".oa2a").mkdir(parents=True)
    (home / ".oa2a" / "config.toml").write_text(_OA2A.format(key=_KEY, upstream=upstream, port=port))
    # It counts with an encoding that it would fetch at every stream, and LiteLLM brings along.
    found = next((PLACE / "litellm").glob("lib/*/site-packages/litellm/litellm_core_utils/tokenizers"), None)
    offline = {"TIKTOKEN_CACHE_DIR": str(found)} if found else {}
    return _run("local-openai2anthropic", ["bin/oa2a"], directory, port, offline)


def _run(name: str, command: list[str], directory: Path, port: int, further: Mapping[str, str]) -> Process:
    """Start the gateways installed below `PLACE`, each in its own home directory."""
    home = directory / f"{name}-{port}"
    home.mkdir(exist_ok=True)
    environment = {**bare_environment(), "HOME": str(home), **further}
    environment.pop("VIRTUAL_ENV", None)
    program = str(PLACE / name / command[0])
    return Process([program, *command[1:]], home, environment, f"{name}-{port}", directory)


PEERS = {
    "litellm": Subject(name="LiteLLM", start=_start_litellm, translates=True, model="{}", share=1 / 16, optional=True),
    "claude-code-router": Subject(
        name="claude-code-router",
        start=_start_claude_code_router,
        translates=True,
        model="bench,{}",
        share=1 / 8,
        optional=True,
    ),
    "ant2oai": Subject(
        name="ant2oai", start=_start_ant2oai, translates=True, share=1 / 4, optional=True, accepts_late_system=False
    ),
    "local-openai2anthropic": Subject(
        name="local-openai2anthropic", start=_start_local_openai2anthropic, translates=True, share=1 / 8, optional=True
    ),
}
"""Directory below `PLACE` → the subject that runs there."""


def find_other_gateways() -> tuple[list[Subject], list[str]]:
    """Return the installed peers, and a line for each that is missing."""
    here = [subject for place, subject in PEERS.items() if (PLACE / place).is_dir()]
    missing = [f"{peer.name} is not installed: scripts/ci.py peers" for peer in PEERS.values() if peer not in here]
    return here, missing


def find_other_gateways_with_workers(workers: int) -> list[Subject]:
    """Return the installed peers, started with so many workers; for more than one, only those able to do that."""
    here, _ = find_other_gateways()
    able = {"LiteLLM": _start_litellm, "ant2oai": _start_ant2oai}
    return [
        structs.replace(subject, start=partial(able[subject.name], workers=workers))
        if subject.name in able
        else subject
        for subject in here
        if workers == 1 or subject.name in able
    ]


def find_version(place: str) -> str:
    """Return the version of an installed peer; "" where it gives none."""
    manifests = (PLACE / place).glob("node_modules/**/claude-code-router/package.json")
    for manifest in manifests:
        return str(json.loads(manifest.read_text())["version"])
    for found in (PLACE / place).glob(f"lib/*/site-packages/{place.replace('-', '_')}-*.dist-info"):
        return found.name.removesuffix(".dist-info").rpartition("-")[2]
    return ""
