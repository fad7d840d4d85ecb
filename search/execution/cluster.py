"""A Ray cluster that is there already: getting in, with the code, and what its nodes have."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import socket
from dataclasses import dataclass
from pathlib import Path

import ray
from ray._private.state import available_resources_per_node
from ray.util import placement_group_table

from search.errors import ClusterError, RuntimeLostError
from search.process_variables import KEPT_MEMORY, WAIT_POLICY
from search.protocols import TrainDevice

_ANSWER_S = 10.0
_PACKAGES = ("paretopress", "hw_models", "techniques", "search")
_ENVIRONMENT = {**WAIT_POLICY, **KEPT_MEMORY, "RAY_AIR_NEW_OUTPUT": "0"}
"""Of the trials' processes; an embedded runtime inherits it from the worker."""


@dataclass(frozen=True)
class Node:
    """A living node.

    Attributes:
        node_id: Ray's, hexadecimal.
        cpus, gpus: that Ray may give away on it.
    """

    node_id: str
    address: str
    cpus: int
    gpus: int = 0

    def __str__(self) -> str:
        gpus = f", {_count(self.gpus, 'GPU')}" if self.gpus else ""
        return f"{self.node_id[:8]} ({self.address}, {_count(self.cpus, 'CPU')}{gpus})"


@dataclass(frozen=True)
class Claim:
    """What a trial asks Ray for, all of it on one node."""

    cpus: int
    gpus: float = 0.0

    def __str__(self) -> str:
        gpus = f" and {_count(self.gpus, 'GPU')}" if self.gpus else ""
        return f"{_count(self.cpus, 'CPU')}{gpus}"

    @property
    def resources(self) -> dict[str, float]:
        """As Tune takes it."""
        return {"cpu": self.cpus, **({"gpu": self.gpus} if self.gpus else {})}

    def fits(self, node: Node) -> bool:
        """Whether the node has as much, once it is free."""
        return self.cpus <= node.cpus and self.gpus <= node.gpus


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'s' if number != 1 else ''}"


def connect(address: str) -> None:
    """Become a driver of the cluster at ``host:port`` or ``auto``; trials get our packages from here, by content.

    Raises:
        RuntimeLostError: nobody answers; it may come back.
        ClusterError: there is a cluster, but it cannot be used as things are.
    """
    if "://" in address:
        raise ClusterError(
            f"{address}: clients of Ray cannot run a search; start a node on the worker's machine (ray start --address=HOST:PORT) "
            "and set PARETOPRESS_RAY_ADDRESS to HOST:PORT"
        )
    _knock(address)
    environment = {
        "py_modules": [_folder(name) for name in _PACKAGES],
        "excludes": ["**/__pycache__", "*.pyc"],
        "env_vars": _ENVIRONMENT,
    }
    try:
        ray.init(
            address=address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True
        )
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"the cluster at {address} does not let this worker in: {_reason(error)}. Three things must agree: the token "
            "(RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN of the worker, or its ~/.ray/auth_token), the versions of "
            "Ray and Python, and a node of the cluster must run on the worker's own machine"
        ) from error


def _folder(package: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ClusterError(f"the package {package} has no folder that could be sent to a cluster")
    return str(Path(spec.origin).parent)


def _knock(address: str) -> None:
    """Ask for a connection first: Ray itself tries for ten minutes to reach a machine that is not there, without a word."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    try:
        with contextlib.closing(socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S)):
            return
    except (OSError, ValueError) as error:
        raise RuntimeLostError(f"no Ray cluster answers at {address}: {error}") from error


def _reason(error: BaseException) -> str:
    """One line; Ray hides what a token has to do with it in the cause."""
    if "InvalidAuthToken" in f"{error} {error.__cause__}":
        return "its authentication token is another one"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def living_nodes() -> list[Node]:
    """All nodes that Ray takes for alive; it notices a lost one after some seconds."""
    return [
        Node(one["NodeID"], one["NodeManagerAddress"], *(int(one["Resources"].get(name, 0)) for name in ("CPU", "GPU")))
        for one in ray.nodes()
        if one["Alive"]
    ]


def own_node() -> Node:
    """The node on the driver's own machine."""
    own_id = ray.get_runtime_context().get_node_id()
    return next(node for node in living_nodes() if node.node_id == own_id)


def claim_of(threads: int, gpus: float = 0.0) -> Claim:
    """What a trial of so many threads asks Ray for: what fits on the largest node with such GPUs. Its threads stay."""
    largest = max((node.cpus for node in living_nodes() if node.gpus >= gpus), default=0)
    return Claim(min(threads, largest) or threads, gpus)


def gpu_claim(device: TrainDevice, parallel_trials: int) -> float:
    """GPUs that a trial asks Ray for: one, or a share where there are fewer than trials at once; none where it trains on the CPU.

    Raises:
        ClusterError: only GPUs will do, and there is none.
    """
    gpus = sum(node.gpus for node in living_nodes()) if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise ClusterError(
            "PARETOPRESS_TRAIN_DEVICE is cuda, and Ray knows of no GPU here: install the driver and a torch with CUDA, start the "
            "cluster's nodes with --num-gpus, or leave it at auto"
        )
    # As many trials on each: with two thirds of one there is no room for a second trial beside the first.
    return 1 / math.ceil(parallel_trials / gpus) if gpus else 0.0


def has_room() -> bool:
    """Whether Ray has given a node's CPUs to this search; their processes may still be starting."""
    job_id = ray.get_runtime_context().get_job_id()
    groups: dict[str, dict[str, object]] = placement_group_table()
    return any(group_id.endswith(job_id) and group["state"] == "CREATED" for group_id, group in groups.items())


def free_room() -> str:
    """What is free on which node, in words."""
    free: dict[str, dict[str, float]] = available_resources_per_node()
    return ", ".join(_free(node, free.get(node.node_id, {})) for node in living_nodes()) or "there is no node"


def _free(node: Node, free: dict[str, float]) -> str:
    gpus = f" and {_count(free.get('GPU', 0), 'GPU')}" if node.gpus else ""
    return f"{free.get('CPU', 0):g}{gpus} free on {node}"
