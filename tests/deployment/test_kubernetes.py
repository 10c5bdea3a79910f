"""The Helm chart and the plain manifests: rendered by Helm, and checked with the strict schemas of Kubernetes."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from msgspec import structs
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.plugin_packages import require_usable_features
from anthropic_proxy.gateway.server.auth import require_auth_if_exposed
from anthropic_proxy.gateway.settings import list_variables, load_settings
from anthropic_proxy.gateway.settings.table import list_secret_variables
from tests.deployment.helm import CHART, KUBERNETES, MANIFEST, find_tools, render, run_tool
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

COMPANY = ROOT / "deploy/helm/values-company.yaml"

USUAL = {"ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service"}
USUAL |= {"ServiceAccount"}
OF_EXTENSIONS = {"ServiceMonitor", "HTTPRoute", "ExternalSecret"}
"""Kinds of the Prometheus operator, the Gateway API and the External Secrets Operator, not of Kubernetes."""
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "defaults": ("{}", ()),
    "all values": (ALL_VALUES, ("Ingress", "ServiceMonitor", "-HorizontalPodAutoscaler")),
    "one pod without policy": (
        "{replicas: 1, maxUnavailable: 1, autoscaling: {enabled: false}, networkPolicy: {enabled: false}}",
        ("-HorizontalPodAutoscaler", "-NetworkPolicy"),
    ),
    "sign-in, alerts and managed settings": (
        """
secretName: company
redis: true
settings: {VIRTUAL_KEYS: true, DASHBOARD_URL: "https://proxy.example.com", OIDC_ISSUER: "https://login.example.com",
  OIDC_CLIENT_ID: proxy}
ledger: true
configuration: |
  [sign_in]
  notice = "Questions: #help"
  [sign_in.groups.developers]
  team = "build"
  budgets = ["100USD/month"]
  [managed_settings."*"]
  cleanupPeriodDays = 30
  [alerts]
  url = { env = "ALERTS_URL" }
  secret = { env = "ALERTS_SECRET" }
extraEnv:
  - {name: SIGN_IN_SECRET, valueFrom: {secretKeyRef: {name: sign-in, key: secret}}}
  - {name: ALERTS_SECRET, valueFrom: {secretKeyRef: {name: alerts, key: secret, optional: true}}}
""",
        (),
    ),
    "configuration of another ConfigMap": ("{configurationMapName: routes}", ()),
    "variables of other sources": (
        "extraEnvFrom: [{secretRef: {name: database}}, {configMapRef: {name: common, optional: true}, prefix: C_}]",
        (),
    ),
    "external secret": (
        "externalSecret: {enabled: true, store: {name: vault}, keys: [proxy/providers, proxy/sign-in]}",
        ("ExternalSecret",),
    ),
    "certificate": ("{tlsSecretName: certificate, service: {type: LoadBalancer, port: 443}}", ()),
    "company authority": (
        """
extraEnv: [{name: SSL_CERT_FILE, value: /etc/company-ca/ca.crt}]
extraVolumes: [{name: authorities, projected: {sources: [{configMap: {name: company-ca}}]}}]
extraVolumeMounts: [{name: authorities, mountPath: /etc/company-ca, readOnly: true}]
""",
        (),
    ),
    "ingress without a certificate": ("ingress: {enabled: true, hosts: [proxy.example.com]}", ("Ingress",)),
    "route of the Gateway API": (
        """
httpRoute:
  enabled: true
  annotations: {example.com/owner: models}
  parentRefs: [{name: public, namespace: gateways, sectionName: https}]
  hostnames: [proxy.example.com]
""",
        ("HTTPRoute",),
    ),
    "autoscaling by streams and CPU": ("autoscaling: {targetStreams: 100, targetCPU: 70, maxReplicas: 40}", ()),
    "autoscaling by CPU only": ("autoscaling: {targetStreams: 0, targetCPU: 60, minReplicas: 3}", ()),
    "strict network policy": (
        """
networkPolicy:
  from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress}}}]
  to:
    - {to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 443, protocol: TCP}]}
    - {to: [{podSelector: {matchLabels: {app: redis}}}], ports: [{port: 6379}]}
""",
        (),
    ),
    "placement": (
        """
nodeSelector: {kubernetes.io/arch: arm64}
tolerations: [{key: models, operator: Equal, value: "yes", effect: NoSchedule}]
affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm:
  {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: proxy}}}}]}}
topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]
priorityClassName: high
podAnnotations: {example.com/scrape: "false"}
podLabels: {team: models}
""",
        (),
    ),
    "resources and a claim": (
        """
resources: {requests: {cpu: 2, memory: 1Gi}, limits: {cpu: "4", memory: 2Gi}}
dataVolume: {ephemeral: {volumeClaimTemplate: {spec: {
  accessModes: [ReadWriteOnce], resources: {requests: {storage: 5Gi}}}}}}
maxUnavailable: 50%
""",
        (),
    ),
    "company": (COMPANY.read_text("utf-8"), ("Ingress", "ServiceMonitor")),
    "operator of Prometheus": (
        "{serviceMonitor: {enabled: true, interval: 1m}, podAnnotations: {}}",
        ("ServiceMonitor",),
    ),
}
"""Values → the kinds of the manifests beside the usual ones, and with `-` those that are missing."""


def documents(text: str) -> dict[str, dict[str, Any]]:
    found = [document for document in yaml.safe_load_all(text) if document]
    return {f"{document['kind']} {document['metadata']['name']}": document for document in found}


@cache
def find_validator(kind: str, api: str, version: str) -> jsonschema.Draft7Validator:
    folder = find_tools() / "schemas" / version
    # without a check of the large schema
    return jsonschema.Draft7Validator(
        json.loads((folder / f"{kind.lower()}-{api}.json").read_bytes()), registry=read_definitions(version)
    )


@cache
def read_definitions(version: str) -> Registry[Any]:
    definitions = json.loads((find_tools() / "schemas" / version / "_definitions.json").read_bytes())
    resource = Resource.from_contents(definitions, default_specification=DRAFT7)
    registry: Registry[Any] = Registry()
    return registry.with_resource("/api/_definitions.json", resource)


def require_valid(document: dict[str, Any], version: str) -> None:
    """Fail if a field is unknown, missing or of a wrong type."""
    api = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", document["apiVersion"])
    if (error := next(find_validator(document["kind"], api, version).iter_errors(document), None)) is not None:
        raise error


@pytest.fixture
def values(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("values") / "values.yaml"
    path.write_text(ALL_VALUES)
    return str(path)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_passes_the_linter_and_the_schemas_of_three_versions(name: str, tmp_path: Path) -> None:
    text, kinds = VARIANTS[name]
    file = tmp_path / "values.yaml"
    file.write_text(text)
    run_tool("helm", "lint", "--strict", str(CHART), "-f", str(file))
    found = documents(render("-f", str(file)))
    own = {document["kind"] for document in found.values()}
    assert own == (USUAL | {kind for kind in kinds if kind[0] != "-"}) - {kind[1:] for kind in kinds}
    for document in found.values():
        if document["kind"] not in OF_EXTENSIONS:
            for version in KUBERNETES:
                require_valid(document, version)
    known = {*list_variables(PROVIDERS), "ANTHROPIC_PROXY_CONFIG"}
    assert [each for each in found["ConfigMap anthropic-proxy"]["data"] if each not in known] == []


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_schemas_reject_an_unknown_field(version: str) -> None:
    document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": 1}}
    with pytest.raises(jsonschema.ValidationError) as error:
        require_valid(document, version)
    assert error.value.message == "Additional properties are not allowed ('port' was unexpected)"


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


def test_resources_of_extensions_have_the_values() -> None:
    external = "externalSecret.enabled=true,externalSecret.store.name=vault,externalSecret.keys={a/b,c}"
    route = "httpRoute.enabled=true,httpRoute.parentRefs[0].name=public,httpRoute.hostnames={proxy.example.com}"
    found = documents(render("--set", external, "--set", route, "--set", "secretName=keys"))
    assert found["ExternalSecret keys"]["spec"] == {
        "refreshInterval": "1h",
        "secretStoreRef": {"kind": "ClusterSecretStore", "name": "vault"},
        "target": {"name": "keys"},
        "dataFrom": [{"extract": {"key": "a/b"}}, {"extract": {"key": "c"}}],
    }
    assert found["HTTPRoute anthropic-proxy"]["spec"] == {
        "parentRefs": [{"name": "public"}],
        "hostnames": ["proxy.example.com"],
        "rules": [{"backendRefs": [{"name": "anthropic-proxy", "port": 8082}], "timeouts": {"request": "0s"}}],
    }


@pytest.mark.parametrize(
    ("values", "metrics"),
    [
        ("autoscaling.maxReplicas=9", ["anthropic_proxy_requests_in_flight 200"]),
        ("autoscaling.targetCPU=70", ["anthropic_proxy_requests_in_flight 200", "cpu 70"]),
        ("autoscaling.targetCPU=70,autoscaling.targetStreams=0", ["cpu 70"]),
    ],
)
def test_pods_are_added_for_running_requests_and_processor_time(values: str, metrics: list[str]) -> None:
    found = documents(render("--set", values))["HorizontalPodAutoscaler anthropic-proxy"]["spec"]["metrics"]
    shown = [
        f"{each['resource']['name']} {each['resource']['target']['averageUtilization']}"
        if each["type"] == "Resource"
        else f"{each['pods']['metric']['name']} {each['pods']['target']['averageValue']}"
        for each in found
    ]
    assert shown == metrics


def test_the_notes_say_how_long_old_pods_stay() -> None:
    words = ("--dry-run=client", "--set", "settings.STOP_TIMEOUT=60,secretName=keys")
    _, _, notes = run_tool("helm", "install", "anthropic-proxy", str(CHART), *words).stdout.partition("NOTES:\n")
    assert [line for line in notes.split("\n") if line] == [
        'The Secret "keys" must exist in namespace default. It holds PROXY_API_KEY and the keys of the providers.',
        "Clients in the cluster:",
        "  ANTHROPIC_BASE_URL=http://anthropic-proxy.default:8082",
        "An upgrade replaces the pods if the image, a setting or the Secret has changed. An old pod serves its replies "
        "for up to 70 s after its successor is ready:",
        "  kubectl --namespace default rollout status deployment/anthropic-proxy",
        "The first pod of a new version migrates the tables of the ledger. `helm rollback` does not migrate them back: "
        "restore a backup of the database for an earlier version.",
        "The pods use no Redis: unless they share a PostgreSQL database, a sign-in to the dashboard is known to one "
        "pod only. Set redis to true, or use one pod.",
    ]


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
        ("dataVolume=large", "at '/dataVolume': got string, want object"),
        ("extraEnv.NAME=x", "at '/extraEnv': got object, want array"),
        ("ingress.host=x", "at '/ingress': additional properties 'host' not allowed"),
        ("ingress.enabled=true", "at '/ingress/hosts': minItems: got 0, want 1"),
        ("httpRoute.enabled=true", "at '/httpRoute/parentRefs': minItems: got 0, want 1"),
        ("httpRoute.parentRefs[0].gateway=x", "at '/httpRoute/parentRefs/0': missing property 'name'"),
        (
            "externalSecret.enabled=true,externalSecret.keys={a}",
            "at '/externalSecret/store/name': minLength: got 0, want 1",
        ),
        (
            "externalSecret.enabled=true,externalSecret.store.name=a",
            "at '/externalSecret/keys': minItems: got 0, want 1",
        ),
        (
            "externalSecret.refreshInterval=often",
            "at '/externalSecret/refreshInterval': 'often' does not match pattern '^[0-9]+(s|m|h)$'",
        ),
        ("secretName=", "at '/secretName': minLength: got 0, want 1"),
        ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern '^(sha256:[0-9a-f]{64})?$'"),
        (
            "image.pullPolicy=Sometimes",
            "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'",
        ),
        (
            "settings.port=1",
            "at '': invalid propertyName 'port'\n  - at '': 'port' does not match pattern '^[A-Z][A-Z0-9_]*$'",
        ),
        (
            "settings.DRAIN_DELAY=soon",
            "at '/settings/DRAIN_DELAY': 'soon' does not match pattern '^[0-9]+(\\\\.[0-9]+)?$'",
        ),
        ("replica=2", "at '': additional properties 'replica' not allowed"),
        ("replicas=two", "at '/replicas': got string, want integer"),
        ("workers=0", "at '/workers': minimum: got 0, want 1"),
        ("service.port=70000", "at '/service/port': maximum: got 70,000, want 65,535"),
        ("maxUnavailable=half", "at '/maxUnavailable': 'half' does not match pattern '^[0-9]+%$'"),
        ("autoscaling.targetStreams=0", "at '/autoscaling/targetCPU': minimum: got 0, want 1"),
        ("resources.memory=1Gi", "at '/resources': additional properties 'memory' not allowed"),
        ("networkPolicy.from.app=x", "at '/networkPolicy/from': got object, want array"),
        ("tolerations[0]=x", "at '/tolerations/0': got string, want object"),
        ("affinity.node=x", "at '/affinity': additional properties 'node' not allowed"),
        ("podLabels.number=1", "at '/podLabels/number': got number, want string"),
    ],
)
def test_a_wrong_value_is_rejected(option: str, message: str) -> None:
    done = run_tool("helm", "template", "x", str(CHART), "--set", option, check=False)
    error = done.stderr[done.stderr.find("Error:") :]  # after remarks of Helm about merged lists
    assert (done.returncode, error) == (
        1,
        "Error: values don't meet the specifications of the schema(s) in the following chart(s):\n"
        f"anthropic-proxy:\n- {message}\n\n",
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "settings.OIDC_CLIENT_SECRET=x",
            "settings.OIDC_CLIENT_SECRET is a secret, and settings are in a ConfigMap: put it into the Secret "
            '"anthropic-proxy"',
        ),
        (
            "configuration=[models],configurationMapName=x",
            "configuration and configurationMapName exclude each other: set one of them",
        ),
        (
            "ingress.enabled=true,ingress.hosts={x},httpRoute.enabled=true,httpRoute.parentRefs[0].name=x",
            "ingress.enabled and httpRoute.enabled exclude each other: set one of them",
        ),
        ("autoscaling.minReplicas=21", "autoscaling.minReplicas (21) is larger than autoscaling.maxReplicas (20)"),
    ],
)
def test_values_that_exclude_each_other_are_rejected(option: str, message: str) -> None:
    require_refused(message, "--set", option)


SHARED_LIMITS = (
    "%s has limits that up to %d pods share by Redis only: set redis to true and put REDIS_URL into the Secret "
    '"anthropic-proxy", or use one pod (autoscaling.enabled false, replicas 1)'
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("settings: {VIRTUAL_KEYS: true}", SHARED_LIMITS % ("VIRTUAL_KEYS", 20)),
        (
            '{settings: {VIRTUAL_KEYS: "Yes"}, replicas: 2, autoscaling: {enabled: false}}',
            SHARED_LIMITS % ("VIRTUAL_KEYS", 2),
        ),
        ('extraEnv: [{name: VIRTUAL_KEYS, value: "true"}]', SHARED_LIMITS % ("VIRTUAL_KEYS", 20)),
        (
            "configuration: |\n  [providers.box]\n  requests_per_minute = 60\n",
            SHARED_LIMITS % ("requests_per_minute", 20),
        ),
    ],
)
def test_limits_that_several_pods_do_not_share_are_refused(values: str, message: str, tmp_path: Path) -> None:
    (file := tmp_path / "values.yaml").write_text(values)
    require_refused(message, "-f", str(file))


@pytest.mark.parametrize(
    "values",
    [
        "{settings: {VIRTUAL_KEYS: true}, redis: true}",
        "{settings: {VIRTUAL_KEYS: true}, extraEnv: [{name: REDIS_URL, valueFrom: {secretKeyRef: {name: r, key: u}}}]}",
        "{settings: {VIRTUAL_KEYS: true}, replicas: 1, autoscaling: {enabled: false}}",
        "{settings: {VIRTUAL_KEYS: true}, autoscaling: {minReplicas: 1, maxReplicas: 1}}",
        "settings: {VIRTUAL_KEYS: false}",
        "configuration: |\n  # requests_per_minute = 60\n",
    ],
)
def test_limits_of_one_pod_and_limits_in_redis_are_accepted(values: str, tmp_path: Path) -> None:
    (file := tmp_path / "values.yaml").write_text(values)
    render("-f", str(file))


def test_pods_with_redis_do_not_start_without_its_address() -> None:
    found = documents(render("--set", "redis=true,secretName=keys"))
    (container,) = found["Deployment anthropic-proxy"]["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [
        {"name": "REDIS_URL", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "REDIS_URL"}}}
    ]


def require_refused(message: str, *words: str) -> None:
    done = run_tool("helm", "template", "x", str(CHART), *words, check=False)
    first, _, _ = done.stderr.partition("\n")
    assert (done.returncode, first) == (
        1,
        f"Error: execution error at (anthropic-proxy/templates/configmap.yaml:1:4): {message}",
    )


@pytest.mark.parametrize(
    "name",
    [
        *list_secret_variables(PROVIDERS),
        "DEEPSEEK_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AZURE_CLIENT_SECRET",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    ],
)
def test_no_secret_is_a_plain_value(name: str) -> None:
    require_refused(
        f'settings.{name} is a secret, and settings are in a ConfigMap: put it into the Secret "keys"',
        *("--set", f"settings.{name}=x", "--set", "secretName=keys"),
    )
    require_refused(
        f'extraEnv has the secret {name} as a plain value: put it into the Secret "keys", or use valueFrom',
        *("--set", f"extraEnv[0].name={name},extraEnv[0].value=x", "--set", "secretName=keys"),
    )


@pytest.mark.parametrize(
    "value",
    [
        "http://user:password@proxy.corp.example:8080",
        "https://collector.example/v1?api_key=0123",
        "https://collector.example/v1?a=b&Access_Token=0123",
        "sk-ant-0123456789",
        '{"type": "service_account", "private_key": "x"}',
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_no_value_with_a_password_is_a_plain_value(value: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps({"settings": {"HTTPS_PROXY": value}}))
    require_refused(
        "settings.HTTPS_PROXY contains a key or password, and settings are in a ConfigMap: "
        'put it into the Secret "anthropic-proxy"',
        *("-f", str(file)),
    )
    file.write_text(json.dumps({"extraEnv": [{"name": "HTTPS_PROXY", "value": value}]}))
    require_refused(
        "extraEnv has the secret HTTPS_PROXY as a plain value: "
        'put it into the Secret "anthropic-proxy", or use valueFrom',
        *("-f", str(file)),
    )


@pytest.mark.parametrize(
    "reference",
    [
        'url = { env = "ALERTS_URL" }',
        "url = {env='ALERTS_URL'}",
        'url = { "env" = "ALERTS_URL" }',
        'url.env = "ALERTS_URL"',
        "url.'env' = 'ALERTS_URL'",
    ],
)
def test_a_variable_that_the_file_names_for_a_secret_is_no_plain_value(reference: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    values = {"configuration": f"[alerts]\n{reference}\n"}
    address = "https://hooks.example/T0/B0"
    file.write_text(json.dumps({**values, "settings": {"ALERTS_URL": address}}))
    require_refused(
        'settings.ALERTS_URL is a secret, and settings are in a ConfigMap: put it into the Secret "anthropic-proxy"',
        *("-f", str(file)),
    )
    file.write_text(json.dumps({**values, "extraEnv": [{"name": "ALERTS_URL", "value": address}]}))
    require_refused(
        "extraEnv has the secret ALERTS_URL as a plain value: "
        'put it into the Secret "anthropic-proxy", or use valueFrom',
        *("-f", str(file)),
    )


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('api_key = "a-key-of-the-company"', "api_key"),
        ("api_key = 'a-key-of-the-company'", "api_key"),
        ('"api_key" = "a-key-of-the-company"', "api_key"),
        ('box.api_key="a-key-of-the-company"', "api_key"),
        ('box = { base_url = "http://h", api_key = "a-key-of-the-company" }', "api_key"),
        ('secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="', "secret"),
        ('headers = { X-Api-Key = "a-key-of-the-company" }', "X-Api-Key"),
        ('Authorization = "Bearer 0123456789"', "Authorization"),
        ('Cookie = "session=0123456789"', "Cookie"),
        ('ANTHROPIC_AUTH_TOKEN = "a-token-of-the-company"', "ANTHROPIC_AUTH_TOKEN"),
        ('password = """a-password"""', "password"),
    ],
)
def test_a_secret_in_the_file_is_refused(line: str, name: str, tmp_path: Path) -> None:
    (file := tmp_path / "values.yaml").write_text(json.dumps({"configuration": f"[providers]\n{line}\n"}))
    require_refused(
        f"configuration has a text as {name}, and it is in a ConfigMap: put it into the Secret "
        '"anthropic-proxy", and write { env = "NAME" } in its place',
        *("-f", str(file)),
    )


@pytest.mark.parametrize(
    "line",
    [
        'x-team = "sk-ant-0123456789abcdef"',
        'x-teams = ["a", "sk-ant-0123456789abcdef"]',
        'note = """\nsk-ant-0123456789abcdef"""',
        'note = "-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBgkqhkiG9w0B"',
        "proxy = 'http://user:password@proxy.example.org:3128'",
        'base_url = "https://models.example.org/v1?api_key=0123"',
    ],
)
def test_a_text_of_the_file_with_a_password_is_refused(line: str, tmp_path: Path) -> None:
    (file := tmp_path / "values.yaml").write_text(json.dumps({"configuration": f"[providers.box]\n{line}\n"}))
    require_refused(
        'configuration contains a key or password, and it is in a ConfigMap: put it into the Secret "anthropic-proxy", '
        'and write { env = "NAME" } in its place',
        *("-f", str(file)),
    )


@pytest.mark.parametrize(
    "line",
    [
        'api_key = { env = "LOCAL_API_KEY" }',
        'api_key = { file = "/run/secrets/key" }',
        'api_key = { command = ["vault", "read", "token"] }',
        'key_header = "x-api-key"',
        'headers = { X-Api-Key = { env = "BOX_KEY" }, x-team = "models" }',
        '# api_key = "a-key-of-the-company"',
        'api_key = ""',
        "api_key.env = 'LOCAL_API_KEY'",
        'pattern = "sk-[a-z0-9]{20,}|https?://[^/@]+@|-----BEGIN [A-Z ]+-----"',
        'model = "sk-model"',
        'prompt_cache_key = "team"',
    ],
)
def test_the_place_of_a_secret_in_the_file_is_accepted(line: str, tmp_path: Path) -> None:
    (file := tmp_path / "values.yaml").write_text(json.dumps({"configuration": f"[providers.box]\n{line}\n"}))
    render("-f", str(file))


def test_other_settings_are_plain_values(tmp_path: Path) -> None:
    settings = {
        "OPENAI_BASE_URL": "https://egress.example.org/v1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/google/key.json",
        "TLS_KEY_FILE": "/etc/tls/key.pem",
        "OIDC_CLIENT_ID": "ann@example.org",
        "BEDROCK_BASE_URL": "https://bedrock-runtime.{region}.amazonaws.com",
    }
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps({"settings": settings}))
    data = documents(render("-f", str(file)))["ConfigMap anthropic-proxy"]["data"]
    assert {name: data[name] for name in settings} == settings


def test_the_values_of_a_company_are_settings_with_which_the_server_starts(tmp_path: Path) -> None:
    found = documents(render("-f", str(COMPANY)))
    (tmp_path / "anthropic-proxy.toml").write_text(
        found["ConfigMap anthropic-proxy-file"]["data"]["anthropic-proxy.toml"], "utf-8"
    )
    secrets = {
        "DATABASE_URL": "postgresql://proxy:password@db.example.org/proxy",
        "REDIS_URL": "rediss://:password@cache.example.org:6379/0",
        "OIDC_CLIENT_SECRET": "secret-of-the-client",
        "SIGN_IN_SECRET": "0123456789abcdef" * 2,
        "MONITOR_API_KEY": "a-key-for-prometheus",
        "OPENAI_API_KEY": "sk-0123456789",
    }
    text = COMPANY.read_text("utf-8")
    assert [name for name in secrets if name not in text] == []
    environ = {**found["ConfigMap anthropic-proxy"]["data"], **secrets, "ANTHROPIC_PROXY_CONFIG": str(tmp_path)}
    settings = load_settings(environ, PROVIDERS, env_file=str(tmp_path / ".env"))
    assert settings.warnings == ()
    assert settings.sign_in is not None
    assert [group.name for group in settings.sign_in.groups] == ["platform-team", "developers"]
    require_auth_if_exposed(structs.replace(settings, host="0.0.0.0"))
    require_usable_features(settings)
