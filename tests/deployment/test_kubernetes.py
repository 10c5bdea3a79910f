"""The Helm chart and the plain manifests: rendered by Helm, and checked with the strict schemas of Kubernetes."""

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deployment.helm import CHART, MANIFEST, find_tools, render, run_tool
from tests.support.paths import ROOT

ALL_VALUES = """
image: {repository: registry.example.com/proxy, digest: "sha256:%s", pullPolicy: Always}
imagePullSecrets: [{name: registry}]
replicas: 3
workers: 4
settings: {PREFERRED_PROVIDER: openai, STOP_TIMEOUT: 1800.5, DRAIN_DELAY: "30", FETCH_URLS: true}
secretName: keys
configuration: |
  [providers.local]
  base_url = "http://models:8000/v1"
ledger: true
tlsSecretName: certificate
service: {type: LoadBalancer, port: 443}
autoscaling: {enabled: false}
maxUnavailable: 25%%
networkPolicy:
  from: [{podSelector: {matchLabels: {app: ingress}}}]
  to: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]
dataVolume: {persistentVolumeClaim: {claimName: proxy-data}}
extraEnv: [{name: REDIS_URL, valueFrom: {secretKeyRef: {name: redis, key: url}}}]
extraVolumes: [{name: authorities, configMap: {name: company-ca}}]
extraVolumeMounts: [{name: authorities, mountPath: /etc/company-ca, readOnly: true}]
serviceAccount:
  annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::111122223333:role/proxy"}
ingress:
  enabled: true
  className: nginx
  annotations: {nginx.ingress.kubernetes.io/proxy-buffering: "off"}
  hosts: [proxy.example.com, claude.example.com]
  tlsSecretName: front
serviceMonitor:
  enabled: true
  interval: 15s
  labels: {release: prometheus}
  tlsConfig: {insecureSkipVerify: true}
deploymentAnnotations: {secret.reloader.stakater.com/reload: keys}
podLabels: {team: models}
nodeSelector: {kubernetes.io/arch: amd64}
tolerations: [{key: models, operator: Exists}]
affinity: {nodeAffinity: {}}
priorityClassName: high
""" % ("0" * 64)


def documents(text: str) -> dict[str, dict[str, Any]]:
    found = [document for document in yaml.safe_load_all(text) if document]
    return {f"{document['kind']} {document['metadata']['name']}": document for document in found}


def require_valid(document: dict[str, Any]) -> None:
    """Fail if a field is unknown, missing or of a wrong type."""
    version = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", document["apiVersion"])
    folder = find_tools() / "schemas"
    schema = json.loads((folder / f"{document['kind'].lower()}-{version}.json").read_bytes())
    definitions = json.loads((folder / "_definitions.json").read_bytes())
    text = json.dumps(schema | {"$defs": definitions["$defs"]}).replace("/api/_definitions.json#/", "#/")
    errors = jsonschema.Draft7Validator(json.loads(text)).iter_errors(document)  # without a check of the large schema
    if (error := next(errors, None)) is not None:
        raise error


@pytest.fixture
def values(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("values") / "values.yaml"
    path.write_text(ALL_VALUES)
    return str(path)


def test_the_chart_passes_the_linter_and_each_manifest_the_schema(values: str) -> None:
    run_tool("helm", "lint", "--strict", str(CHART))
    run_tool("helm", "lint", "--strict", str(CHART), "-f", values)
    for rendered in (render(), render("-f", values)):
        for document in documents(rendered).values():
            if document["kind"] != "ServiceMonitor":  # of the Prometheus operator, not of Kubernetes
                require_valid(document)
    with pytest.raises(jsonschema.ValidationError):
        require_valid({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": 1}})


def test_the_plain_manifests_are_those_of_the_chart_and_kustomize_reads_them() -> None:
    assert MANIFEST.read_text("utf-8") == render(), "run: python3 scripts/ci.py deployment --write"
    built = run_tool("kubectl", "kustomize", str(MANIFEST.parent)).stdout
    assert documents(built).keys() == documents(MANIFEST.read_text("utf-8")).keys()


def test_all_values_have_an_effect(values: str) -> None:
    found = documents(render("-f", values))
    assert "HorizontalPodAutoscaler anthropic-proxy" not in found
    assert found["ConfigMap anthropic-proxy"]["data"] == {
        "ALLOW_UNAUTHENTICATED": "false",
        "ANTHROPIC_PROXY_CONFIG": "/etc/anthropic-proxy/config",
        "DRAIN_DELAY": "30",
        "FETCH_URLS": "true",
        "LOG_FORMAT": "json",
        "PREFERRED_PROVIDER": "openai",
        "STOP_TIMEOUT": "1800.5",
        "TLS_CERT_FILE": "/etc/anthropic-proxy/tls/tls.crt",
        "TLS_KEY_FILE": "/etc/anthropic-proxy/tls/tls.key",
    }
    assert "[providers.local]" in found["ConfigMap anthropic-proxy-file"]["data"]["anthropic-proxy.toml"]
    deployment = found["Deployment anthropic-proxy"]["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["replicas"] == 3
    assert container["image"] == f"registry.example.com/proxy@sha256:{'0' * 64}"
    assert container["args"][-3:] == ["--workers", "4", "--watch-config"]
    assert pod["terminationGracePeriodSeconds"] == 30 + 1801 + 20
    assert container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert container["envFrom"][1] == {"secretRef": {"name": "keys"}}
    assert container["env"][0]["name"] == "REDIS_URL"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]} == {
        "/tmp": {"name": "temporary", "emptyDir": {"sizeLimit": "256Mi"}},
        "/data": {"name": "data", "persistentVolumeClaim": {"claimName": "proxy-data"}},
        "/etc/anthropic-proxy/config": {"name": "configuration", "configMap": {"name": "anthropic-proxy-file"}},
        "/etc/anthropic-proxy/tls": {"name": "tls", "secret": {"secretName": "certificate", "defaultMode": 288}},
        "/etc/company-ca": {"name": "authorities", "configMap": {"name": "company-ca"}},
    }
    assert found["Deployment anthropic-proxy"]["metadata"]["annotations"] == {
        "secret.reloader.stakater.com/reload": "keys"
    }
    account = found["ServiceAccount anthropic-proxy"]
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/proxy"}
    ingress = found["Ingress anthropic-proxy"]
    assert ingress["spec"]["tls"] == [{"hosts": ["proxy.example.com", "claude.example.com"], "secretName": "front"}]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == ["proxy.example.com", "claude.example.com"]
    backend = {"service": {"name": "anthropic-proxy", "port": {"name": "https"}}}
    assert ingress["spec"]["rules"][0]["http"]["paths"] == [{"path": "/", "pathType": "Prefix", "backend": backend}]
    monitor = found["ServiceMonitor anthropic-proxy"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"] == {
        "selector": {"matchLabels": found["Service anthropic-proxy"]["spec"]["selector"]},
        "endpoints": [
            {
                "port": "https",
                "path": "/metrics",
                "scheme": "https",
                "interval": "15s",
                "authorization": {"credentials": {"name": "keys", "key": "MONITOR_API_KEY"}},
                "tlsConfig": {"insecureSkipVerify": True},
            }
        ],
    }
    assert (pod["nodeSelector"], pod["priorityClassName"]) == ({"kubernetes.io/arch": "amd64"}, "high")


def test_the_pods_keep_rows_that_wait_for_the_database_while_their_container_restarts() -> None:
    """The data folder of the image is a volume of the pod: the root file system is read-only."""
    (folder,) = re.findall(r"XDG_DATA_HOME=(\S+)", (ROOT / "Dockerfile").read_text("utf-8"))
    pod = documents(render())["Deployment anthropic-proxy"]["spec"]["template"]["spec"]
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == folder]
    assert not mount.get("readOnly")
    assert {"name": mount["name"], "emptyDir": {"sizeLimit": "1Gi"}} in pod["volumes"]


def test_a_change_replaces_the_pods_only_if_they_cannot_reload_it() -> None:
    def annotations(*options: str) -> dict[str, str]:
        template = documents(render(*options))["Deployment anthropic-proxy"]["spec"]["template"]
        found: dict[str, str] = template["metadata"]["annotations"]
        return found

    file = ("--set", "configuration=[prices]")
    assert annotations(*file, "--set", "settings.LOG_LEVEL=debug") != annotations(*file)
    assert annotations("--set", "configuration=[models]") == annotations(*file)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("dataVolume=large", "got string, want object"),
        ("extraEnv.NAME=x", "got object, want array"),
        ("ingress.host=x", "additional properties 'host' not allowed"),
        ("ingress.enabled=true", "minItems: got 0, want 1"),
        ("secretName=", "minLength: got 0, want 1"),
        ("image.digest=latest", "does not match pattern"),
        ("settings.proxy_api_key=x", "does not match pattern"),
        ("replica=2", "additional properties 'replica' not allowed"),
    ],
)
def test_a_wrong_value_is_rejected(option: str, message: str) -> None:
    done = run_tool("helm", "template", "x", str(CHART), "--set", option, check=False)
    assert done.returncode == 1
    assert message in done.stderr
