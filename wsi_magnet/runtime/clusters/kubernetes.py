"""Kubernetes through dask-kubernetes and its operator: the manifest of a cluster, and the cluster made of it."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from wsi_magnet.errors import ClusterError, ConfigError
from wsi_magnet.runtime.clusters.spec import ClusterSpec
from wsi_magnet.runtime.worker_settings import PRELOAD, SCHEDULER_ENVIRONMENT, WORKER_ENVIRONMENT

OF_THE_MANIFEST = ("name", "image", "resources", "env", "worker_command", "scheduler_service_type", "idle_timeout")
"""Options that become part of a manifest which dask-kubernetes makes; `custom_cluster_spec` stands in for all.
Scheduler and workers share them; the GPU of `gpu: true` is for the workers alone."""

OF_THE_CLUSTER = ("namespace", "port_forward_cluster_ip", "resource_timeout", "scheduler_forward_port")
"""Options that are for dask-kubernetes' class alone."""

OLD_COMMANDS = {"dask-worker": ["dask", "worker"], "dask-scheduler": ["dask", "scheduler"]}
"""dask-kubernetes still calls them by names that Dask no longer has."""


def kubernetes_cluster(spec: ClusterSpec) -> Any:
    """A cluster under the Dask operator, its pods on their way.

    Its name gets an ending of its own, so that two runs never share one. Raises ConfigError for options that cannot be
    used, ClusterError where Kubernetes or the operator does not answer.
    """
    cls = _operator(spec).KubeCluster
    described = manifest(spec, ending=f"-{uuid4().hex[:6]}")
    options = {name: spec.options[name] for name in OF_THE_CLUSTER if name in spec.options}
    before = set(cls._instances)
    try:
        return cls(custom_cluster_spec=described, quiet=True, **options)
    except Exception as error:  # of httpx, kr8s, their own: whatever speaks to Kubernetes
        _let_go(cls, before)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ClusterError(
            f"{spec.path}: Kubernetes does not make the cluster ({reason:.300}); {_cure(error)}; "
            f"`wsi-magnet cluster {spec.path}` shows the manifest"
        ) from error


def _let_go(cls: Any, before: set[Any]) -> None:
    """Of what was made by halves; dask-kubernetes would try it as the program ends, with a traceback where it fails."""
    for half in set(cls._instances) - before:
        with suppress(Exception):
            half.close(timeout=10)
        cls._instances.discard(half)


def _cure(error: Exception) -> str:
    if "valid credentials" in str(error):
        return (
            "here is neither a kubeconfig (~/.kube/config, or where KUBECONFIG says) nor a pod's service account; "
            "`kubectl get pods` must work where the run is started"
        )
    if getattr(getattr(error, "response", None), "status_code", None) == 404:
        return "it does not know DaskClusters: install the Dask operator (https://kubernetes.dask.org)"
    return "it needs the Dask operator, and a service account that may use it"


def manifest(spec: ClusterSpec, ending: str = "") -> dict[str, Any]:
    """The DaskCluster resource: the user's, or dask-kubernetes' own, with what every run needs where it is missing."""
    unknown = sorted(set(spec.options) - {*OF_THE_MANIFEST, *OF_THE_CLUSTER, "custom_cluster_spec"})
    if unknown:
        raise ConfigError(f"{spec.path}: options: KubeCluster is not given {', '.join(unknown)}")
    made = _own(spec) if "custom_cluster_spec" in spec.options else _default(spec)
    try:
        name = f"{made['metadata']['name']}{ending}"
        worker, scheduler = made["spec"]["worker"], made["spec"]["scheduler"]
        made["metadata"]["name"] = name
        worker["replicas"] = spec.at_first
        scheduler["service"]["selector"]["dask.org/cluster-name"] = name
        _prepare_worker(worker["spec"]["containers"][0], spec)
        _prepare_scheduler(scheduler["spec"]["containers"][0])
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise ConfigError(
            f"{spec.path}: custom_cluster_spec is no DaskCluster with metadata.name, spec.worker and spec.scheduler "
            f"({type(error).__name__}: {error})"
        ) from error
    return made


def _own(spec: ClusterSpec) -> dict[str, Any]:
    if both := sorted(set(spec.options) & set(OF_THE_MANIFEST)):
        raise ConfigError(f"{spec.path}: options: {', '.join(both)} stand in custom_cluster_spec, not beside it")
    given = spec.options["custom_cluster_spec"]
    if isinstance(given, dict):
        return copy.deepcopy(given)
    path = spec.path.parent / Path(str(given)).expanduser()
    try:
        made: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{spec.path}: custom_cluster_spec {path}: {' '.join(str(error).split())}") from error
    return made


def _default(spec: ClusterSpec) -> dict[str, Any]:
    asked = {name: copy.deepcopy(spec.options[name]) for name in OF_THE_MANIFEST if name in spec.options}
    if "image" not in asked:
        raise ConfigError(f"{spec.path}: options: image is missing; it must have wsi-magnet in it")
    values = {"name": "wsi-magnet", "env": {}, "worker_command": ["dask", "worker"], **asked}
    # Taken apart, since scheduler and workers share what was said once.
    made: dict[str, Any] = json.loads(json.dumps(_operator(spec).make_cluster_spec(**values)))
    return made


def _prepare_worker(container: dict[str, Any], spec: ClusterSpec) -> None:
    args = _command(container)
    if "--preload" not in args:
        args += ["--preload", PRELOAD]
    if "--nthreads" not in args:
        args += ["--nthreads", str(_processors(container, spec))]
    if spec.gpu and "--resources" not in args:
        args += ["--resources", f"GPU={args[args.index('--nthreads') + 1]}"]
    container["args"] = args
    if spec.gpu:
        _ask_for_gpu(container)
    _add_environment(container, WORKER_ENVIRONMENT)


def _prepare_scheduler(container: dict[str, Any]) -> None:
    container["args"] = _command(container)
    _add_environment(container, SCHEDULER_ENVIRONMENT)


def _command(container: dict[str, Any]) -> list[str]:
    args = [str(one) for one in container["args"]]
    return [*OLD_COMMANDS.get(args[0], args[:1]), *args[1:]]


def _processors(container: dict[str, Any], spec: ClusterSpec) -> int:
    """Whole processors that a pod is limited to; Dask itself would take all of its node's for its own."""
    resources = container.get("resources") or {}
    asked = str((resources.get("limits") or resources.get("requests") or {}).get("cpu", ""))
    try:
        processors = float(asked[:-1]) / 1000 if asked.endswith("m") else float(asked)
    except ValueError:
        raise ConfigError(
            f"{spec.path}: say how many threads a worker has: --nthreads among its args, or resources: limits: cpu"
        ) from None
    return max(1, int(processors))


def _ask_for_gpu(container: dict[str, Any]) -> None:
    resources = container["resources"] = container.get("resources") or {}
    limits = resources["limits"] = resources.get("limits") or {}
    if not any("gpu" in name for name in limits):
        limits["nvidia.com/gpu"] = 1


def _add_environment(container: dict[str, Any], wanted: dict[str, str]) -> None:
    there = container.get("env") or []
    named = {one["name"] for one in there}
    container["env"] = there + [{"name": k, "value": v} for k, v in wanted.items() if k not in named]


def _operator(spec: ClusterSpec) -> Any:
    try:
        from dask_kubernetes import operator
    except ImportError as error:
        raise ClusterError(
            f"{spec.path}: kind kubernetes needs dask-kubernetes: pip install '.[kubernetes]' in wsi-magnet's checkout"
        ) from error
    return operator
