"""Rows of the table: the configuration of another proxy, from the file to the settings that `import` would write."""

import contextlib
import json
import os
import tempfile
from functools import partial
from pathlib import Path

from anthropic_proxy.cli.importing.files import prepare_files
from anthropic_proxy.cli.importing.reading import read_plan
from anthropic_proxy.errors import ConfigurationError
from tests.growth.measure import NO_WIRE, Row
from tests.growth.operations import reading
from tests.growth.rows_texts import row, shapes

FOLDER = tempfile.TemporaryDirectory()
URL = "https://api{}.example.org/v1/chat/completions"


def read(suffix: str, text: str) -> None:
    file = Path(FOLDER.name, f"config-{os.getpid()}{suffix}")
    file.write_text(text)
    prepare_files(read_plan(file), Path(FOLDER.name))


def read_invalid(suffix: str, text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        read(suffix, text)


def router(servers: list[object], **entries: object) -> str:
    return json.dumps({"Providers": servers, "Router": {"default": "own0,m"}, **entries})


def server(name: str, url: str = "", **fields: object) -> dict[str, object]:
    return {"name": name, "api_base_url": URL.format(url), "api_key": "x", "models": ["m"], **fields}


def name_servers(n: int) -> str:
    return router([server(f"own{index}", str(index)) for index in range(n)])


def repeat_a_name(n: int) -> str:
    return router([server("own0", str(index)) for index in range(n)])


def repeat_an_address(n: int) -> str:
    return router([server(f"own{index}", api_key=f"key-{index}") for index in range(n)])


def write_headers(n: int) -> str:
    return router([server("own0", extraHeaders={f"X-{index}": "a" for index in range(n)})])


def write_invalid_headers(n: int) -> str:
    return router([server("own0", extraHeaders={f"X {index}": "a" for index in range(n)})])


def write_wrong_models(n: int) -> str:
    return router([server("own0", models=[[] for _ in range(n)])])


def write_rules(n: int) -> str:
    rules = [{"type": "model-prefix", "name": "r", "pattern": f"x{index}", "target": "own0,m"} for index in range(n)]
    return json.dumps({"Providers": [server("own0")], "Router": {"default": "own0,m", "rules": rules}})


def write_targets(n: int) -> str:
    """Each rule has a model that its server, one of n, does not list."""
    servers = [server(f"own{index}", str(index)) for index in range(n)]
    rules = [{"type": "model-prefix", "name": "r", "pattern": "x", "target": f"own{index}/a"} for index in range(n)]
    return json.dumps({"Providers": servers, "Router": {"default": "own0,m", "rules": rules}})


def write_models(n: int) -> str:
    rows = [{"model_name": f"m{index}", "litellm_params": {"model": f"openai/x{index}"}} for index in range(n)]
    return f"model_list: {json.dumps(rows)}"


def write_group(n: int) -> str:
    addresses = [URL.format(index) for index in range(n)]
    rows = [{"model_name": "m", "litellm_params": {"model": "openai/x", "api_base": each}} for each in addresses]
    return f"model_list: {json.dumps(rows)}"


def write_aliases(n: int) -> str:
    return "model_list:\n- &a {model_name: a, litellm_params: {model: openai/x}}\n" + "- *a\n" * n


JSON = (
    *(name_servers, repeat_a_name, repeat_an_address, write_headers, write_invalid_headers, write_wrong_models),
    write_rules,
    write_targets,
)
YAML = (write_models, write_group, write_aliases)
ROWS = [
    row(
        "import: JSON5",
        partial(read_invalid, ".json"),
        *shapes(("{", "{a:"), ("'\\", '"\\', "'", "/*", "//\n", ",//\n", ",/*", "a ", "a:", "[", "\n", " ")),
        n=4_000,
    ),
    row(
        "import: YAML",
        partial(read_invalid, ".yaml"),
        *shapes(
            ("model_list: ", "model_list: [", "model_list:\n- model_name: 1", 'model_list: "', "model_list: &a ["),
            ("a,", "a ", ":00", "_", "&a a,", "*a,", "- ", "? ", "{a: b},", "\\n", "\n", "'", "%41", "#"),
        ),
        n=1_000,
    ),
    *(
        Row(f"import: {write.__name__.replace('_', ' ')}", NO_WIRE, reading(partial(read, suffix), write), 50)
        for suffix, functions in ((".json", JSON), (".yaml", YAML))
        for write in functions
    ),
]
