"""The Kubernetes manifests: they fit KubeRay's definitions, in which an unknown key is an error here; pools, spot nodes, closed doors."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster.shipped_files import MANIFESTS, ROOT, read_yaml

DEFINITIONS = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared" / "kuberay_crds"))
RAYCLUSTER, RAYJOB = MANIFESTS


@cache
def definition(kind: str) -> jsonschema.Draft202012Validator:
    """KubeRay's schema of a kind, in which a key that no list of properties has is an error; the operator would drop it in silence."""
    path = DEFINITIONS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"KubeRay's definitions are not in {DEFINITIONS}; KUBERAY_CRDS may name their folder")
    found = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [version] = [version for version in found["spec"]["versions"] if version["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string"}}}
    _close(schema)
    return jsonschema.Draft202012Validator(schema)


def _close(schema: Any) -> None:
    if isinstance(schema, list):
        for item in schema:
            _close(item)
    elif isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
        for item in schema.values():
            _close(item)


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["rayClusterSpec"] if manifest["kind"] == "RayJob" else manifest["spec"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_it_fits_kuberays_definition(path: Path) -> None:
    manifest = read_yaml(path)
    definition(manifest["kind"]).validate(manifest)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        (("spec",), "rayVersoin", "2.60.0"),
        (("spec", "autoscalerOptions"), "idleTimeoutMinutes", 10),
        (("spec", "workerGroupSpecs", 0), "maxReplica", 3),
        (("spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0), "envForm", []),
        (("spec", "workerGroupSpecs", 0), "priority", "high"),
        (("spec", "networkPolicy", "worker"), "ingressRule", []),
    ],
)
def test_a_mistake_is_refused(place: tuple[str | int, ...], key: str, value: object) -> None:
    manifest = read_yaml(RAYCLUSTER)
    section = manifest
    for step in place:
        section = section[step]
    section[key] = value
    with pytest.raises(jsonschema.ValidationError, match=key if key != "priority" else "high"):
        definition("RayCluster").validate(manifest)


def test_the_job_runs_on_the_same_cluster() -> None:
    """But for the dashboard, which the operator must reach."""
    cluster, job = read_yaml(RAYCLUSTER)["spec"], cluster_of(read_yaml(RAYJOB))
    assert cluster["headGroupSpec"]["rayStartParams"].pop("dashboard-host") == "127.0.0.1"
    assert cluster == job


def test_the_job_goes_on_in_the_same_folder_when_its_cluster_is_lost() -> None:
    spec = read_yaml(RAYJOB)["spec"]
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"] is True
    assert "training.output_dir=/runs/" in spec["entrypoint"]
    assert spec["submissionMode"] == "SidecarMode"
    assert "submitterPodTemplate" not in spec  # not allowed in this mode


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_pools(path: Path) -> None:
    cluster = cluster_of(read_yaml(path))
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"  # the first does not know priorities
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    for pool in ("cpu", "gpu"):
        spot, on_demand = groups[f"{pool}-spot"], groups[f"{pool}-on-demand"]
        assert spot["priority"] > on_demand["priority"]
        pods = [group["template"]["spec"] for group in (spot, on_demand)]
        selectors = [pod.pop("nodeSelector") for pod in pods]
        assert selectors[0] != selectors[1] == cluster["headGroupSpec"]["template"]["spec"]["nodeSelector"]
        assert pods[0] == pods[1]
        assert ("nvidia.com/gpu" in pods[0]["containers"][0]["resources"]["limits"]) == (pool == "gpu")
    assert all(group["minReplicas"] == 0 for group in groups.values())


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_pod_is_closed_and_has_time_to_save(path: Path) -> None:
    cluster = cluster_of(read_yaml(path))
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["networkPolicy"]["mode"] == "DenyAllIngress"
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        given = {variable["name"]: variable["value"] for variable in container["env"]}
        for name in ("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "RAY_JOB_STOP_WAIT_TIME_S"):
            assert 60 <= int(given[name]) < pod["terminationGracePeriodSeconds"]
        assert all("secretRef" in source for source in container["envFrom"])
        assert {"/runs", "/dev/shm"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_one_namespace_reaches_the_metrics_and_nothing_else(path: Path) -> None:
    policy = cluster_of(read_yaml(path))["networkPolicy"]
    assert set(policy) == {"mode", "head", "worker"}
    for pods in (policy["head"], policy["worker"]):
        [rule] = pods["ingressRules"]
        [source] = rule["from"]
        assert list(source) == ["namespaceSelector"] and list(source["namespaceSelector"]["matchLabels"]) == ["kubernetes.io/metadata.name"]
        assert rule["ports"] == [{"port": 8080, "protocol": "TCP"}]  # what KubeRay gives `ray start` as --metrics-export-port
