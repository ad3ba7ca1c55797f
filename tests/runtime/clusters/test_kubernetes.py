"""Manifests for the Dask operator, held against the schema that the operator installs."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from dask_kubernetes.operator import KubeCluster

from wsi_magnet.errors import ClusterError, ConfigError
from wsi_magnet.runtime.clusters.kubernetes import kubernetes_cluster, manifest
from wsi_magnet.runtime.clusters.spec import ClusterSpec, parse_cluster

EXAMPLE = Path(__file__).resolve().parents[3] / "pipelines" / "kubernetes" / "dask-cluster.yaml"
LIMITS = {"limits": {"cpu": "4", "memory": "8Gi"}}


def spec(gpu: bool = False, **options: Any) -> ClusterSpec:
    return parse_cluster(
        {"kind": "kubernetes", "workers": 3, "gpu": gpu, "options": options}, EXAMPLE.parent / "x.yaml"
    )


def container(made: dict[str, Any], part: str = "worker") -> dict[str, Any]:
    one: dict[str, Any] = made["spec"][part]["spec"]["containers"][0]
    return one


def complaints(value: Any, schema: dict[str, Any], name: str = "") -> list[str]:
    """Where a value has not the type that an OpenAPI schema says, lacks what it requires, or has what it lacks."""
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "boolean": bool,
        "number": (int, float),
    }
    if schema.get("x-kubernetes-int-or-string"):
        return [] if isinstance(value, int | str) else [f"{name} is {value!r}"]
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        return [f"{name} is {value!r}, not {schema['type']}"]
    found = [f"{name}.{missing} is missing" for missing in schema.get("required", ()) if missing not in value]
    if isinstance(value, dict) and "properties" in schema:
        for key, one in value.items():
            if key in schema["properties"]:
                found += complaints(one, schema["properties"][key], f"{name}.{key}")
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                found.append(f"{name}.{key} is not known")
    if isinstance(value, list) and "items" in schema:
        for i, one in enumerate(value):
            found += complaints(one, schema["items"], f"{name}[{i}]")
    return found


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """Of a DaskCluster's spec, as the package of the operator has it."""
    path = files("dask_kubernetes") / "operator/deployment/helm/dask-kubernetes-operator/crds/daskcluster.yaml"
    described = yaml.safe_load(path.read_text())
    one: dict[str, Any] = described["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return one


def test_the_schema_finds_what_is_wrong(schema: dict[str, Any]) -> None:
    made = manifest(spec(custom_cluster_spec="dask-cluster.yaml"))
    made["spec"]["worker"]["spec"]["containers"][0]["argh"] = ["dask"]
    made["spec"]["scheduler"]["service"]["ports"] = 8786
    assert len(complaints(made["spec"], schema)) == 2


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    "options",
    [{"image": "registry/wsi-magnet:1", "resources": LIMITS}, {"custom_cluster_spec": "dask-cluster.yaml"}],
    ids=["image", "manifest"],
)
def test_manifests_are_what_the_operator_takes(schema: dict[str, Any], options: dict[str, Any], gpu: bool) -> None:
    made = manifest(spec(gpu, **options), ending="-77")
    assert complaints(made["spec"], schema) == []
    assert (made["kind"], made["apiVersion"]) == ("DaskCluster", "kubernetes.dask.org/v1")
    assert made["metadata"]["name"] == "wsi-magnet-77"
    assert made["spec"]["scheduler"]["service"]["selector"]["dask.org/cluster-name"] == "wsi-magnet-77"
    assert made["spec"]["worker"]["replicas"] == 3
    args = container(made)["args"]
    assert args[args.index("--preload") + 1] == "wsi_magnet.runtime.worker_process"
    threads = args[args.index("--nthreads") + 1]
    assert ("--resources" in args) == gpu
    if gpu:
        assert args[args.index("--resources") + 1] == f"GPU={threads}"
        assert container(made)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in container(made, "scheduler")["resources"]["limits"]
    environment = {one["name"]: one["value"] for one in container(made)["env"]}
    assert environment["DASK_DISTRIBUTED__WORKER__MEMORY__SPILL"] == "False"
    scheduler = {one["name"]: one["value"] for one in container(made, "scheduler")["env"]}
    assert scheduler["DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL"] == "2 minutes"


def test_the_commands_are_ones_that_dask_has() -> None:
    made = manifest(spec(image="i", resources=LIMITS, worker_command="dask-worker"))
    assert container(made)["args"][:2] == ["dask", "worker"]
    assert container(made, "scheduler")["args"][:2] == ["dask", "scheduler"]


@pytest.mark.parametrize(("cpu", "threads"), [("4", "4"), (2, "2"), ("3500m", "3"), ("500m", "1")])
def test_a_pod_has_threads_for_the_processors_that_it_may_use(cpu: object, threads: str) -> None:
    args = container(manifest(spec(image="i", resources={"limits": {"cpu": cpu}})))["args"]
    assert args[args.index("--nthreads") + 1] == threads


def test_what_the_manifest_says_itself_stays(tmp_path: Path) -> None:
    own = yaml.safe_load(EXAMPLE.read_text())
    container(own)["args"] += ["--preload", "mine", "--resources", "GPU=1"]
    container(own)["env"] = [{"name": "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL", "value": "0.9"}]
    made = container(manifest(spec(True, custom_cluster_spec=own)))
    assert made["args"] == container(own)["args"]
    assert made["env"][0]["value"] == "0.9"
    assert "preload" not in str(yaml.safe_load(EXAMPLE.read_text())), "and the example relies on what is added"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "options: image is missing; it must have wsi-magnet in it"),
        ({"image": "i"}, "say how many threads a worker has"),
        ({"image": "i", "cores": 4}, "options: KubeCluster is not given cores"),
        ({"image": "i", "custom_cluster_spec": "dask-cluster.yaml"}, "image stand in custom_cluster_spec"),
        ({"custom_cluster_spec": "nowhere.yaml"}, "nowhere.yaml: .*No such file"),
        ({"custom_cluster_spec": "storage.yaml"}, "is no DaskCluster .*worker"),
        ({"custom_cluster_spec": {"kind": "DaskCluster"}}, "is no DaskCluster .*metadata"),
    ],
)
def test_what_is_no_cluster(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        manifest(spec(**options))


def test_where_there_is_no_kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ClusterError, match=r"does not make the cluster \(.+\); here is neither a kubeconfig"):
        kubernetes_cluster(spec(image="i", resources=LIMITS))
    assert not KubeCluster._instances, "nothing is left to be closed at the end of the program"


class _WithoutOperator(BaseHTTPRequestHandler):
    """A Kubernetes that knows no DaskCluster."""

    def do_GET(self) -> None:
        self._answer(
            *((200, b'{"major": "1", "minor": "31"}') if self.path == "/version" else (404, b"404 page not found"))
        )

    def do_POST(self) -> None:
        self._answer(404, b"404 page not found")

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_kubernetes_without_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _WithoutOperator) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        config = {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "current-context": "c",
        }
        (tmp_path / "config").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        with pytest.raises(ClusterError, match="does not know DaskClusters: install the Dask operator"):
            kubernetes_cluster(spec(image="i", resources=LIMITS))
        server.shutdown()
    assert not KubeCluster._instances


def test_without_dask_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_kubernetes", None)
    with pytest.raises(ClusterError, match=r"needs dask-kubernetes: pip install '\.\[kubernetes\]'"):
        manifest(spec(image="i", resources=LIMITS))
