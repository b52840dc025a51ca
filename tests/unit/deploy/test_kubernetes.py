"""The manifests are what Kubernetes accepts, and all that they name exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from flower.urls import handlers as flower_handlers

from statesync.cli.serve import serve
from statesync.settings import Settings
from statesync.web.catalog import METRICS
from statesync.web.probes import routes
from statesync.worker.config import celery_settings
from tests.alerts import promtool
from tests.unit.deploy.named import (
    ALIVE_PROBE,
    ROOT,
    check_command,
    check_environment,
    documents,
)

FOLDER = ROOT / "deploy" / "kubernetes"
[KUSTOMIZATION] = documents(FOLDER / "kustomization.yaml")
[SECRET] = documents(FOLDER / "secret.example.yaml")
LITERALS = dict(one.split("=", 1) for one in KUSTOMIZATION["configMapGenerator"][0]["literals"])
FILES = sorted(
    path
    for path in FOLDER.rglob("*.yaml")
    if path.name not in {"kustomization.yaml", "secret.example.yaml"}
)
OBJECTS: list[dict[str, Any]] = [one for path in FILES for one in documents(path)]
OURS = {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}
"""Kinds that a cluster has only with an operator."""


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    found = [one for one in OBJECTS if one["kind"] in kinds]
    assert found
    return found


PODS = of_kind("Deployment", "Job")
by_name = pytest.mark.parametrize("made", PODS, ids=lambda one: one["metadata"]["name"])


def pod_of(made: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = made["spec"]["template"]["spec"]
    return spec


def container_of(made: dict[str, Any]) -> dict[str, Any]:
    [container] = pod_of(made)["containers"]
    checked: dict[str, Any] = container
    return checked


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_objects_are_what_kubernetes_accepts(path: Path) -> None:
    for one in documents(path):
        if one["apiVersion"] not in OURS:
            kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("folder", [FOLDER, FOLDER / "monitoring", FOLDER / "autoscaling"])
def test_kustomize_takes_every_file(folder: Path) -> None:
    [listed] = documents(folder / "kustomization.yaml")
    assert {path.name for path in FILES if path.parent == folder} == {*listed["resources"]}


def test_components_that_are_offered_exist() -> None:
    offered = re.findall(r"^#  - (\w+)$", (FOLDER / "kustomization.yaml").read_text(), re.MULTILINE)
    assert {*offered} == {path.name for path in FOLDER.iterdir() if path.is_dir()}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kustomize_makes_all_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, folder)
    file = folder / "kustomization.yaml"
    file.write_text(re.sub(r"^#(components:|  - )", r"\1", file.read_text(), flags=re.MULTILINE))
    ran = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    made = list(yaml.safe_load_all(ran.stdout))
    for one in made:
        if one["apiVersion"] not in OURS:
            kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == "statesync"
    workers = {one["metadata"]["name"]: one for one in made if one["kind"] == "Deployment"}
    assert "replicas" not in workers["worker"]["spec"]
    assert {container_of(one)["image"] for one in workers.values()} == {
        "registry.example.com/statesync:0.1.0"
    }
    step = [one["kind"] for one in made if "statesync.step" in one["metadata"].get("labels", {})]
    assert sorted(step) == ["ConfigMap", "Job", "Namespace"]


def test_the_settings_and_the_secrets_are_accepted() -> None:
    settings = LITERALS | {
        k: v for k, v in SECRET["stringData"].items() if k != "FLOWER_BASIC_AUTH"
    }
    migration = settings.pop("MIGRATE_DATABASE_URL")
    settings = {k: v.replace("PASSWORD", "a-long-password") for k, v in settings.items()}
    assert Settings.from_env(settings).liveness_file
    assert Settings.from_env(settings | {"STATESYNC_DATABASE_URL": migration})


def test_secrets_are_those_of_the_example() -> None:
    used = set()
    for made in PODS:
        for variable in container_of(made)["env"]:
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert reference["name"] == SECRET["metadata"]["name"]
                used.add(reference["key"])
    assert used == {*SECRET["stringData"]}


@by_name
def test_commands_and_variables_exist(made: dict[str, Any]) -> None:
    container = container_of(made)
    check_command(container["command"])
    check_environment([variable["name"] for variable in container["env"]])
    check_environment(LITERALS)
    [source] = container["envFrom"]
    generator = KUSTOMIZATION["configMapGenerator"][0]["name"]
    assert source["configMapRef"]["name"] == generator
    assert container["image"] == KUSTOMIZATION["images"][0]["name"]


@by_name
def test_a_pod_may_do_nothing_but_its_work(made: dict[str, Any]) -> None:
    pod, container = pod_of(made), container_of(made)
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} <= {*container["resources"]}
    # The address of a service named flower would else be the variable FLOWER_PORT.
    assert pod["enableServiceLinks"] is False


@by_name
def test_probes_ask_what_exists(made: dict[str, Any]) -> None:
    container = container_of(made)
    paths = {route.path for route in routes}
    paths |= {one[0] if isinstance(one, tuple) else one.regex.pattern for one in flower_handlers}
    for name in {"livenessProbe", "startupProbe", "readinessProbe"} & container.keys():
        if "exec" in container[name]:
            command = ALIVE_PROBE.format(LITERALS["STATESYNC_LIVENESS_FILE"])
            assert container[name]["exec"]["command"] == ["sh", "-c", command]
        else:
            assert container[name]["httpGet"]["path"] in paths
            assert container[name]["httpGet"]["port"] in {one["name"] for one in container["ports"]}
    if made["kind"] == "Deployment":
        assert "livenessProbe" in container


def test_the_migration_can_be_applied_by_itself() -> None:
    step = {"statesync.step": "migrate"}
    needed = [*of_kind("Namespace"), *of_kind("Job")]
    assert all(one["metadata"]["labels"].items() >= step.items() for one in needed)
    assert KUSTOMIZATION["configMapGenerator"][0]["options"]["labels"] == step


def test_workers_have_time_to_end() -> None:
    soft = celery_settings(Settings())["worker_soft_shutdown_timeout"]
    for made in of_kind("Deployment"):
        if "worker" in container_of(made)["command"]:
            assert pod_of(made)["terminationGracePeriodSeconds"] > soft + 10


def test_a_budget_leaves_room_for_a_drain() -> None:
    replicas = {one["metadata"]["name"]: one["spec"]["replicas"] for one in of_kind("Deployment")}
    for budget in of_kind("PodDisruptionBudget"):
        name = budget["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]
        assert 1 <= budget["spec"]["minAvailable"] < replicas[name]


def test_ports_lead_to_containers() -> None:
    names = {one["metadata"]["name"]: container_of(one) for one in of_kind("Deployment")}
    for service in of_kind("Service"):
        container = names[service["spec"]["selector"]["app.kubernetes.io/name"]]
        [port], [behind] = service["spec"]["ports"], container["ports"]
        assert port["targetPort"] == behind["name"]
        assert port["port"] == behind["containerPort"]
        assert any(str(port["port"]) in word for word in container["command"])
    [default] = [option.default for option in serve.params if option.name == "port"]
    assert names["serve"]["ports"][0]["containerPort"] == default


def test_what_selects_finds_something() -> None:
    pods = {one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] for one in PODS}
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind("NetworkPolicy")}
    assert policies["closed"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    [pages] = policies["pages"]["podSelector"]["matchExpressions"]
    assert {*pages["values"]} <= pods
    assert policies["scrape"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] in pods
    labels = {one["metadata"]["name"]: one["metadata"]["labels"] for one in of_kind("Service")}
    [monitor] = of_kind("ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels["serve"].items()


def test_the_monitor_asks_for_our_metrics() -> None:
    [monitor] = of_kind("ServiceMonitor")
    assert monitor["spec"].keys() <= {"selector", "endpoints", "namespaceSelector", "jobLabel"}
    [endpoint] = monitor["spec"]["endpoints"]
    assert (endpoint["path"], endpoint["port"]) == ("/metrics", "http")


def test_the_autoscaler_is_as_keda_has_it() -> None:
    [scaled] = of_kind("ScaledObject")
    spec = scaled["spec"]
    assert spec.keys() <= {
        *("scaleTargetRef", "pollingInterval", "cooldownPeriod", "initialCooldownPeriod"),
        *("idleReplicaCount", "minReplicaCount", "maxReplicaCount", "fallback", "advanced"),
        "triggers",
    }
    [trigger] = spec["triggers"]
    assert trigger.keys() <= {"type", "metricType", "metadata", "name", "useCachedMetrics"}
    assert trigger["metadata"].keys() == {"serverAddress", "query", "threshold"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "worker"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"},
            "maxReplicas": spec["maxReplicaCount"],
            "behavior": spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
        },
    }
    kubernetes_validate.validate(hpa, kubernetes_validate.latest_version(), strict=True)
    [target] = [
        one
        for one in of_kind("Deployment")
        if one["metadata"]["name"] == spec["scaleTargetRef"]["name"]
    ]
    command = container_of(target)["command"]
    processes = int(command[command.index("-c") + 1])
    assert spec["maxReplicaCount"] * processes * 2 < 100


def test_the_autoscalers_metrics_exist(tmp_path: Path) -> None:
    [scaled] = of_kind("ScaledObject")
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    names = {*re.findall(r"statesync_\w+", query)}
    assert len(names) == 3
    assert names <= {metric.name for metric in METRICS}
    rule = tmp_path / "rules.yml"
    rules = [{"record": "workers", "expr": query}]
    rule.write_text(yaml.safe_dump({"groups": [{"name": "keda", "rules": rules}]}))
    promtool("check", "rules", str(rule))
