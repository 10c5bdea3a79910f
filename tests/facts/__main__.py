"""`scripts/ci.py facts` compares the table of models with the newest SDK packages of Anthropic and OpenAI.

It names models that the packages have and the proxy does not know, retirements that differ or are missing, and models
of start pages and defaults that end within a year. The exit status is 1 if a retirement is missing or differs, or a
start page names a model that ends within 60 days. Without a package index it says so, and the status is 0.
"""

import ast
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

from anthropic_proxy.engine.providers import PROVIDERS, Provider
from tests.site.start_pages import providers

SOON = timedelta(days=60)
YEAR = timedelta(days=365)
_DATE = re.compile(r"(\w+ \d+)(?:st|nd|rd|th), (\d{4})")
_PACKAGES = {
    "anthropic": ("anthropic/types/model.py", r"claude-[\w.-]+"),
    "openai": ("openai/types/shared/chat_model.py", r"(?:gpt|o\d|chatgpt|codex)[\w.-]*"),
}
"""Provider, which is also the name of its package → file with the names of models, and their form."""
_RETIREMENTS = "anthropic/_data/deprecated_models.py"


def download(package: str, folder: Path) -> zipfile.ZipFile | None:
    """Return the newest wheel of a package. None: the package index does not answer."""
    words = ("-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", str(folder), package)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob(f"{package}-*.whl"))
    return zipfile.ZipFile(wheels[-1]) if done.returncode == 0 and wheels else None


def read_names(wheel: zipfile.ZipFile, file: str, form: str) -> set[str]:
    texts = (node.value for node in ast.walk(ast.parse(wheel.read(file))) if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and re.fullmatch(form, text)}


def read_retirements(wheel: zipfile.ZipFile) -> dict[str, date]:
    """Return model → date, of a table with dates such as `January 22nd, 2027`."""
    table = next(node for node in ast.walk(ast.parse(wheel.read(_RETIREMENTS))) if isinstance(node, ast.Dict))
    found = {}
    for name, text in ast.literal_eval(table).items():
        day = _DATE.fullmatch(text)
        assert day, f"{name}: {text}"
        found[name] = datetime.strptime(f"{day[1]} {day[2]}", "%B %d %Y").date()  # a day has no zone
    return found


def is_known(row: Provider, name: str) -> bool:
    """True if the proxy lists the model, or its name without the date of a snapshot."""
    names = {name, re.sub(r"-(?:\d{8}|\d{4}-\d\d-\d\d)$", "", name)}
    return not names.isdisjoint({*row.known_models, *row.retired_models, *row.non_chat_models})


def list_ends(today: date) -> Iterator[tuple[str, bool]]:
    """Yield a line for each model of a default or a start page that ends within a year. True: it is an error."""
    pages = {page.slug: page.settings for page in providers()}
    for row in PROVIDERS:
        for name, retired in row.retired_models.items():
            ends = date.fromisoformat(retired.retired_on)
            if not today < ends < today + YEAR:
                continue
            if name in (row.default_big_model, row.default_small_model):
                yield f"{row.prefix}/{name} is a default and ends on {ends}", False
            for slug, settings in pages.items():
                if re.search(rf"=(?:{row.prefix}/)?{re.escape(name)}$", settings, re.MULTILINE):
                    yield f"docs/start/{slug}.md names {name}, which ends on {ends}", ends < today + SOON


def main() -> int:
    failed = False
    today = date.today()
    with tempfile.TemporaryDirectory() as folder:
        for package, (file, form) in _PACKAGES.items():
            wheel, row = download(package, Path(folder)), PROVIDERS.find(package)
            if wheel is None:
                print(f"{package}: not looked up, because the package index does not answer")
                continue
            unknown = sorted(name for name in read_names(wheel, file, form) if not is_known(row, name))
            print(f"{Path(str(wheel.filename)).name.split('-py')[0]}: unknown here: {', '.join(unknown) or 'none'}")
            for name, day in read_retirements(wheel).items() if package == "anthropic" else ():
                own = row.retired_models.get(name)
                if own is None or own.retired_on != str(day):
                    failed = True
                    print(f"error: {name} ends on {day} ({own.retired_on if own else 'no date'} here)")
    for line, is_error in list_ends(today):
        failed |= is_error
        print(f"{'error: ' if is_error else ''}{line}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
