"""Run a tier of the gate, one of its parts, or a measurement: `ci.py NAME [options]`. Without a name, list them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from environments import (
    INSTALL,
    PYTHON,
    ROOT,
    add_packages,
    become,
    cache,
    create,
    open_environment,
    open_newest_python,
    python_of,
    run,
)
from environments import set_up as _set_up
from tiers import ALL_TESTS
from tiers import run as _run_tier

PYTEST = (PYTHON, "-m", "pytest")
AT_A_TIME = ("-n", "4", "--dist", "worksteal")


def attacks(*options: str) -> None:
    """Send hostile input of clients, models and providers to the real server process; print delay, memory and result.

    Words select attacks: `ci.py attacks "tool schema" pipelined`.
    """
    _run_module("tests.attacks", *options)


def audit() -> None:
    """Look up the locked packages in the security advisories, and write dist/sbom.json (CycloneDX).

    Fails on a known vulnerability. Without an advisory service it lists the packages that were not looked up.
    """
    python = open_environment("audit")
    (ROOT / "dist").mkdir(exist_ok=True)
    bill = ("--pyproject", "pyproject.toml", "--output-reproducible", "-o", "dist/sbom.json", "locks/runtime.lock")
    run(python, "-W", "ignore", "-m", "cyclonedx_py", "requirements", *bill)
    components = (ROOT / "dist/sbom.json").read_text("utf-8").count('"purl"')
    print(f"dist/sbom.json lists {components} components.")
    total = unknown = 0
    for lock in sorted(ROOT.glob("locks/*.lock")):
        flags = ("--progress-spinner", "off", "--disable-pip", "--require-hashes", "-r")
        command = [python, "-m", "pip_audit", *flags, lock]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        answered = re.search("^No known vulnerabilities", done.stdout, re.MULTILINE)
        unreachable = re.search(r"Could not connect|requests\.exceptions\.|ServiceError", done.stdout)
        if re.search(r"^Found \d", done.stdout, re.MULTILINE) or not (answered or unreachable):
            sys.exit(done.stdout)
        packages = lock.read_text("utf-8").count("==")
        skipped = done.stdout.count("could not be audited") if answered else packages
        print(f"locks/{lock.name}: {packages - skipped} of {packages} packages looked up.")
        total, unknown = total + packages, unknown + skipped
    if unknown:
        print(f"{unknown} of {total} packages were not looked up: the advisory service does not answer for them.")


def bench(*options: str) -> None:
    """Measure the cost of the proxy over a direct call: CPU time, start time, memory. Options: bench/README.md."""
    _run_module("bench", *options)


def clients(*options: str) -> None:
    """Follow the pages of client programs in docs/start with the real programs. Options go to pytest.

    Each is installed into the user's cache by pip or npm, with the versions that its page names.
    """
    if shutil.which("npm") is None:
        sys.exit("npm is needed; it comes with Node.js")
    _run_module("pytest", "tests/clients", *options)


def company(*options: str) -> None:
    """Sign in with Claude Code at identity providers of other people, before four instances behind nginx. Needs npm.

    The providers are oidc-provider and Canaille, the stores Redis and PostgreSQL. Words select runs: `ci.py company
    canaille`.
    """
    if shutil.which("npm") is None:
        sys.exit("npm is needed; it comes with Node.js")
    _run_module("tests.fleet", "company", open_environment("company"), *options)


def conformance(*names: str) -> None:
    """Run the conformance suite against other servers with the Messages API, and write the page about it.

    Needs pip and npm. Names select packages: `litellm`.
    """
    _run_module("bench.conformance", *names)


def cover(*options: str) -> None:
    """Run the tests with branch coverage, server processes included, and list the lines that no test reaches."""
    _run_module("pytest", "--cov", "--cov-report=term-missing", "--cov-report=html", *_with_folders(options))


def databases(*options: str) -> None:
    """Run the tests of the ledger on a private PostgreSQL server. Options go to pytest."""
    _run_module("tests.databases", *options)


def deployment(*options: str) -> None:
    """Check the files of deploy/ with Helm, nginx, Caddy and HAProxy; --write renders the manifests of Kubernetes."""
    _run_module("tests.deployment", *options)


def differential(*options: str) -> None:
    """Compare our translation of requests with LiteLLM's. Options go to pytest.

    That version of LiteLLM conflicts with the packages of the tests, so it has an environment of its own.
    """
    python = open_environment("differential")
    os.environ["PYTHONPATH"] = str(ROOT)
    become(python, "-m", "pytest", "tests/differential", *options)


def docs() -> None:
    """Build the documentation site in dist/docs/site, strictly; fails if a page loads a file from another host."""
    _set_up("dev")
    become(PYTHON, "-m", "tests.site", "build", open_environment("docs"), "dist/docs")


def e2e(*options: str) -> None:
    """Run Claude Code and the TypeScript SDK against the proxy as a process. Options go to pytest. Needs npm.

    Both are installed into the user's cache; ANTHROPIC_PROXY_E2E_CACHE names another folder.
    """
    if shutil.which("npm") is None:
        sys.exit("npm is needed; it comes with Node.js")
    _run_module("pytest", "tests/e2e", "-m", "not slow", *options)


def engine(*options: str) -> None:
    """Run the tests against llama.cpp's own server with a tiny random model. Options go to pytest.

    Its package is large and kept in the user's cache. On a platform without a wheel nothing is tested.
    """
    _set_up("dev")
    if add_packages("engine"):
        become(*PYTEST, "tests/local_engine", *options)
    sys.stderr.write("There is no wheel of llama.cpp for this platform: nothing was tested.\n")


def facts(*options: str) -> None:
    """Compare the table of models with the newest SDK packages, and name models that end soon.

    Needs the package index.
    """
    _run_module("tests.facts", *options)


def catalogues(*options: str) -> None:
    """Compare the facts about models with the newest catalogues of other projects, and name what no row states.

    Needs the package indexes of Python and npm. --all prints the accepted differences too.
    """
    _run_module("tests.facts.catalogues", *options)


def faults(*options: str) -> None:
    """Run every failure of a provider or client on every wire and print the results; --write updates its page.

    Words select cases: `ci.py faults "retry-after"`.
    """
    _run_module("tests.faults", *options)


def fleet(*options: str) -> None:
    """Run several instances behind nginx on one PostgreSQL and one Redis; compare all tokens and limits.

    `ci.py fleet outages [seconds] [instances] [seed]`: parts are stopped; defaults: 60 seconds, 4 instances, seed 1.
    `ci.py fleet limits [seconds] [outage]`: a budget and a rate, also while Redis is stopped; defaults: 70, 5 seconds.
    `ci.py fleet bills [requests] [seed] [redis|postgres]`: tokens and dollars by team, cost center, person, kind, model
    and day, and budgets; defaults: 2000 requests, seed 1, with Redis.
    `ci.py fleet upgrade [seconds] [revision]`: an earlier commit beside this code; defaults: 30 seconds, the newest one
    before the latest migration. It needs the history of the repository.
    `ci.py fleet people [revision]`: people who are signed in at an earlier commit, and then at this code.
    """
    _run_module("tests.fleet", *options)


def fuzz(*options: str) -> None:
    """Feed mutated input to every decoder and to the request path: `ci.py fuzz [target|all] [bytes] [seed]`.

    Defaults: all, 10 million bytes per target besides its seeds, seed 1. Failing inputs are stored in tests/fuzz/kept,
    which the tests replay. atheris guides the mutations by coverage, where it has a wheel for the platform.
    """
    _set_up("dev")
    if not add_packages("fuzz"):
        sys.stderr.write("There is no wheel of atheris for this platform: the mutations are not guided.\n")
    become(PYTHON, "-m", "tests.fuzz", *options)


def growth(*options: str) -> None:
    """Measure how work and memory grow with each dimension of input, on every wire; --write writes the growth page.

    Words select measurements: `ci.py growth "call id"`.
    """
    _run_module("tests.growth", *options)


def hidden_posix(*options: str) -> None:
    """Run the tests as on a system without POSIX: its modules, signals and loop methods hidden. Options go to pytest.

    The newest Python of this machine runs them. The skips are listed with their number and reason.
    """
    _set_up("dev")
    python = open_newest_python() or PYTHON
    hidden = ("-p", "tests.support.hidden_posix", "-rs")
    become(python, "-m", "pytest", *AT_A_TIME, *hidden, *_with_folders(options))


def later_day(*options: str) -> None:
    """Run the tests 400 days later, when models have retired that are in use today. Options go to pytest."""
    _set_up("dev")
    os.environ["CLOCK_AHEAD_SECONDS"] = str(400 * 86_400)
    become(PYTHON, "-m", "pytest", *AT_A_TIME, *(options or ("tests/unit", "tests/integration")))


def litellm(*options: str) -> None:
    """Run the tests of the LiteLLM transport, with Claude Code among them. Options go to pytest.

    LiteLLM is large, so it has an environment of its own in the user's cache.
    """
    python = open_environment("litellm")
    run(python, "-m", "pip", *INSTALL, "--no-deps", "--no-build-isolation", "-e", ".")
    tests = ("unit/upstream/test_litellm.py", "integration/test_litellm.py", "e2e/test_claude_code_litellm.py")
    become(python, "-m", "pytest", *(f"tests/{test}" for test in tests), *options)


def merge(*words: str) -> None:
    """Run the merge tier, as .ci/run does. Words select steps: `ci.py merge redis`."""
    sys.exit(_run_tier("merge", words))


def nightly(*words: str) -> None:
    """Run the nightly tier: what is too slow for each merge. Words select steps: `ci.py nightly growth attacks`."""
    sys.exit(_run_tier("nightly", words))


def matrix(*options: str) -> None:
    """Compare the matrix page with the behavior of the code; --write updates the page."""
    _run_module("tests.matrix", *options)


def peers(option: str = "") -> None:
    """Install the other gateways that `ci.py bench --peers` measures. Needs pip and npm; --upgrade installs the newest.

    Each has a folder of its own in the user's cache. One that cannot be installed is left out.
    """
    folder, upgrade = cache() / "peers", ["--upgrade"] if option == "--upgrade" else []
    folder.mkdir(parents=True, exist_ok=True)
    packages = {"litellm": ["litellm[proxy]"], "ant2oai": ["ant2oai"]}
    for name, wanted in (*packages.items(), ("local-openai2anthropic", ["local-openai2anthropic", "jinja2"])):
        if not any(_installs(folder / name, python, [*upgrade, *wanted]) for python in _pythons(folder / name)):
            shutil.rmtree(folder / name, ignore_errors=True)
            sys.stderr.write(f"{name} cannot be installed here\n")
    name, npm = "claude-code-router", shutil.which("npm") or "npm"
    quiet = ("--silent", "--no-audit", "--no-fund", "--prefix", str(folder / name))
    # 3.1.1 needs a package that its registry does not have; then the newest version that can be installed is measured
    if all(
        subprocess.run([npm, "install", *quiet, f"@musistudio/{name}@{version}"], check=False).returncode
        for version in (["latest", "2"] if upgrade else ["2"])
    ):
        shutil.rmtree(folder / name, ignore_errors=True)
        sys.stderr.write(f"{name} cannot be installed here\n")


def pictures(*options: str) -> None:
    """Draw the terminal pictures of the docs: the demo with Claude Code, Claude Code at a company, single commands.

    Needs npm and tmux.
    """
    _set_up("dev")
    run(PYTHON, "-m", "tests.site.picture", *options)
    run(PYTHON, "-m", "tests.site.company_pictures", *options)
    become(PYTHON, "-m", "tests.site.recordings", *options)


def packages(*options: str) -> None:
    """Build wheel and sdist, install them with pip, uv, pipx and uvx, each extra by itself, and use the result.

    Needs the package index. Options go to pytest.
    """
    _run_module("pytest", "tests/packages", "-m", "not slow", *options)


def pages(*options: str) -> None:
    """Open the pages of the dashboard in Chromium: tests, `--pictures` for dist/pictures, or `--paint` for figures."""
    _run_module("tests.pages", *options)


def prometheus(*options: str) -> None:
    """Run the queries of the Grafana dashboard and the alert rules in a real Prometheus. Options go to pytest."""
    _run_module("tests.prometheus", *options)


def redis(*options: str) -> None:
    """Run the tests of stores on memory, SQLite and a private Redis server, or Valkey: `ci.py redis valkey`.

    Options go to pytest.
    """
    _run_module("tests.redis_server", *options)


def release(version: str, url: str) -> None:
    """Check and build a release: `ci.py release 1.0.0 https://host/folder`. Refuses a dirty tree and a wrong version.

    Runs the whole gate, then writes packages and manifests to dist/release. Nothing is uploaded and no tag is set.
    """
    _set_up("dev")
    run(PYTHON, "-m", "tests.release", "check", version)
    run("bash", ".ci/run")
    run(PYTHON, "scripts/ci.py", "nightly")
    run(PYTHON, "-m", "tests.release", "check", version)
    run(PYTHON, "-m", "tests.release", "build", version, url)
    print(f"Next: git tag v{version}, push the tag, and upload the files of dist/release.")


def soak(*options: str) -> None:
    """Run the server for minutes with failing providers and disconnecting clients, and look for leaks.

    `ci.py soak [minutes] [seed]`; defaults: 2 minutes, seed 1.
    """
    _run_module("tests.soak", *options)


def strangers(*options: str) -> None:
    """Run commands and servers in directories with hostile files, as an installed program and in a checkout.

    Options go to pytest.
    """
    _run_module("pytest", "tests/strangers", "-n", "2", "--dist", "loadgroup", *options)


def _with_folders(options: tuple[str, ...]) -> tuple[str, ...]:
    """Return options of pytest with the folders of all tests, unless they name a file or folder themselves."""
    names_one = any((ROOT / option.partition("::")[0]).exists() for option in options)
    return options if names_one else (*options, *ALL_TESTS.split())


def _run_module(name: str, *options: str) -> None:
    _set_up("dev")
    become(PYTHON, "-m", name, *options)


def _pythons(environment: Path) -> list[str]:
    """Return interpreters for a gateway: that of its environment, if it exists, else each newer one of this machine."""
    own = python_of(environment)
    return (
        [own]
        if Path(own).exists()
        else [sys.executable, *filter(None, map(shutil.which, ("python3.12", "python3.13")))]
    )


def _installs(environment: Path, python: str, packages: list[str]) -> bool:
    if python != python_of(environment):
        create(environment, python)
    command = [python_of(environment), "-m", "pip", *INSTALL, *packages]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0


def _main(name: str = "", *options: str) -> None:
    here = {each.replace("_", "-"): value for each, value in globals().items() if _is_part(value)}
    part: Callable[..., None] | None = here.get(name)
    if part is not None:
        part(*options)
        return
    sentences = {each: (value.__doc__ or "").partition("\n")[0] for each, value in here.items()}
    listed = "".join(f"  {f'scripts/ci.py {each}':<28}{sentence}\n" for each, sentence in sentences.items())
    text = f"Tiers of the gate, their parts, and measurements:\n{listed}"
    if name:
        sys.exit(f'There is no part "{name}".\n\n{text}')
    print(text, end="")


def _is_part(value: object) -> bool:
    return callable(value) and value.__module__ == __name__ and not value.__name__.startswith("_")


if __name__ == "__main__":
    _main(*sys.argv[1:])
