"""`scripts/ci.py facts` compares the table of models with the newest SDK packages of the vendors.

It names models that the packages have and the proxy does not know, retirements that differ or are missing, and models
of start pages and defaults that end within a year. The exit status is 1 if an unknown model has no reason in
`accepted.toml`, an entry there accepts nothing, a retirement is missing or differs, a default ends within a year
without an entry in `KEPT_DEFAULTS`, an entry there is not needed, or a start page names a model that ends within 60
days. Without a package index it says so, and the status is 0.
"""

import ast
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import may_chat
from anthropic_proxy.engine.providers.model_facts import find_table_capabilities, load_retired_models
from tests.facts.accepted import Accepted, load_accepted
from tests.site.start_pages import providers

SOON = timedelta(days=60)
YEAR = timedelta(days=365)
_DATE = re.compile(r"(\w+ \d+)(?:st|nd|rd|th), (\d{4})")


class Package(NamedTuple):
    """A package of a vendor, and where it names models."""

    provider: str
    """Name of the provider, or of the server in the entry of OpenAI."""
    files: str
    """Pattern of the files with the names."""
    form: str
    """Regular expression of a name, which is a whole text of a file."""


PACKAGES = {
    "anthropic": Package("anthropic", "anthropic/types/model.py", r"claude-[\w.-]+"),
    "openai": Package("openai", "openai/types/shared/chat_model.py", r"(?:gpt|o\d|chatgpt|codex)[\w.-]*"),
    "google-genai": Package("google", "google/genai/_gaos/types/interactions/model.py", r"gem(?:ini|ma)-[\w.-]+"),
    "groq": Package("groq", "groq/types/chat/completion_create_params.py", r"(?:[\w-]+/)?[a-z][\w.-]*\d[\w.-]*"),
    "xai-sdk": Package("xai", "xai_sdk/types/model.py", r"grok-(?!imagine)[\w.-]+"),
    # without a list of models: those of its examples
    "mistralai": Package("mistral", "mistralai/*.py", r"(?:mi[nx]?i?stral|codestral|devstral|magistral)-[\w.-]+"),
}
_CONTRACT = (
    "the default of the earlier proxies: a `.env` without BIG_MODEL and SMALL_MODEL keeps its models. A model that has "
    "ended is replaced by its successor, and `init` proposes others"
)
KEPT_DEFAULTS = dict.fromkeys(
    (
        *("openai/gpt-4.1", "openai/gpt-4.1-mini"),
        *("gemini/gemini-2.5-pro-preview-03-25", "gemini/gemini-2.0-flash"),
        *("vertex_ai/gemini-2.5-pro-preview-03-25", "vertex_ai/gemini-2.0-flash"),
        *("groq/llama-3.3-70b-versatile", "groq/llama-3.1-8b-instant"),
        *("moonshot/kimi-k2-instruct", "moonshot/kimi-k2-base", "xai/grok-3", "xai/grok-3-mini-beta"),
    ),
    _CONTRACT,
)
"""Default that has ended, or ends within a year → why it stays."""
_RETIREMENTS = "anthropic/_data/deprecated_models.py"


def download(package: str, folder: Path) -> zipfile.ZipFile | None:
    """Return the newest wheel of a package. None: the package index does not answer."""
    words = ("-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", str(folder), package)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob(f"{package.replace('-', '_')}-*.whl"))
    return zipfile.ZipFile(wheels[-1]) if done.returncode == 0 and wheels else None


def read_names(wheel: zipfile.ZipFile, package: Package) -> set[str]:
    """Return the names of models that may chat. An empty set: the package has moved its list."""
    files = [name for name in wheel.namelist() if fnmatchcase(name, package.files)]
    nodes = (node for file in files for node in ast.walk(ast.parse(wheel.read(file))))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if re.fullmatch(package.form, text) and may_chat(text)}


def read_retirements(wheel: zipfile.ZipFile) -> dict[str, date]:
    """Return model → date, of a table with dates such as `January 22nd, 2027`."""
    table = next(node for node in ast.walk(ast.parse(wheel.read(_RETIREMENTS))) if isinstance(node, ast.Dict))
    found = {}
    for name, text in ast.literal_eval(table).items():
        day = _DATE.fullmatch(text)
        assert day, f"{name}: {text}"
        found[name] = datetime.strptime(f"{day[1]} {day[2]}", "%B %d %Y").date()  # a day has no zone
    return found


def is_known(provider: str, name: str) -> bool:
    """True if a row states the model, or a list of the proxy has it or its name without the date of a snapshot."""
    names = {name, re.sub(r"-(?:\d{8}|\d{4}-\d\d-\d\d)$", "", name)}
    row = next((row for row in PROVIDERS if row.name == provider), None)
    if row is not None and not names.isdisjoint({*row.known_models, *row.non_chat_models}):
        return True
    return find_table_capabilities(provider, name).known or not names.isdisjoint(load_retired_models(provider))


def find_unknown(package: str, names: Iterable[str], accepted: Accepted) -> list[str]:
    """Return the names of models that the proxy does not know, and that `accepted.toml` does not accept."""
    unknown = [name for name in sorted(names) if not is_known(PACKAGES[package].provider, name)]
    return [name for name in unknown if accepted.accept(package, f"{name} unknown") is None]


def list_ends(today: date, kept: Mapping[str, str] = KEPT_DEFAULTS) -> Iterator[tuple[str, bool]]:
    """Yield a line for each model of a default or a start page that ends within a year. True: it is an error."""
    pages = {page.slug: page.settings for page in providers()}
    unused = set(kept)
    for row in PROVIDERS:
        for name, retired in row.retired_models.items():
            ends, model = date.fromisoformat(retired.retired_on), f"{row.prefix}/{name}"
            if ends >= today + YEAR:
                continue
            if name in (row.default_big_model, row.default_small_model):
                unused.discard(model)
                if model not in kept:
                    yield f"{model} is a default and ends on {ends}. Replace it, or add it to KEPT_DEFAULTS", True
                else:
                    yield f"{model} is a default that ends on {ends}, and is kept", False
            for slug, settings in pages.items() if today < ends else ():
                if re.search(rf"=(?:{row.prefix}/)?{re.escape(name)}$", settings, re.MULTILINE):
                    yield f"docs/start/{slug}.md names {name}, which ends on {ends}", ends < today + SOON
    for model in sorted(unused):
        yield f"KEPT_DEFAULTS has {model}, which is no default that ends within a year", True


def main() -> int:
    failed = False
    today = date.today()
    accepted, read = load_accepted(), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for name, package in PACKAGES.items():
            wheel = download(name, Path(folder))
            if wheel is None:
                print(f"{name}: not looked up, because the package index does not answer")
                continue
            named = read_names(wheel, package)
            unknown = find_unknown(name, named, accepted)
            failed |= bool(unknown)
            read.append(name)
            version = Path(str(wheel.filename)).name.split("-py")[0]
            print(f"{'error: ' if unknown else ''}{version}: unknown here: {', '.join(unknown) or 'none'}")
            if not named:
                failed = True
                print(f"error: {name} has no names of models in {package.files}")
            for model, day in read_retirements(wheel).items() if name == "anthropic" else ():
                own = PROVIDERS.find(name).retired_models.get(model)
                if own is None or own.retired_on != str(day):
                    failed = True
                    print(f"error: {model} ends on {day} ({own.retired_on if own else 'no date'} here)")
    lines = [*((line, True) for line in accepted.list_unused(read)), *list_ends(today)]
    for line, is_error in lines:
        failed |= is_error
        print(f"{'error: ' if is_error else ''}{line}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
