"""A finished rung on disk: weights as safetensors, the rest as JSON in the file's own metadata. Written atomically."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from techniques.errors import TechniqueError
from techniques.network import Network

_MOMENTUM, _MEAN = "momentum:", "mean:"


@dataclass(frozen=True)
class RungCheckpoint:
    """State after a rung.

    Attributes:
        key: digest of everything that decides the training; a checkpoint with another key is of another training.
        rung: the last finished one.
        next_epoch: the data epoch at which the next rung starts.
        momenta: of the optimiser, in the order of its parameters.
        mean: the mean of the rung's last weights by name; empty where none is taken.
    """

    key: str
    rung: int
    next_epoch: int
    momenta: tuple[Tensor, ...] = ()
    mean: Mapping[str, Tensor] = field(default_factory=dict)

    def save(self, path: Path, network: Network) -> None:
        """Write weights and state; a reader sees the old file or the new one, never half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        state = {"type": "rung_checkpoint", "version": 2, "key": self.key, "rung": self.rung, "next_epoch": self.next_epoch}
        tensors = {
            **{name: tensor.cpu() for name, tensor in _tensors(network).items()},
            **{f"{_MOMENTUM}{index:06d}": tensor for index, tensor in enumerate(self.momenta)},
            **{f"{_MEAN}{name}": tensor.cpu() for name, tensor in self.mean.items()},
        }
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, str(temporary), metadata={"state": json.dumps(state)}
        )
        os.replace(temporary, path)

    @staticmethod
    def load(path: Path, network: Network) -> RungCheckpoint:
        """Read the state and copy the weights into ``network``.

        Raises:
            TechniqueError: the file is no checkpoint, or not of a network of this structure.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                state = json.loads(file.metadata()["state"])
                if state["type"] != "rung_checkpoint" or state["version"] != 2:
                    raise ValueError(f"unknown type or version {state['type']!r} {state['version']!r}")
                own, names = _tensors(network), sorted(file.keys())
                if {name for name in names if not name.startswith((_MOMENTUM, _MEAN))} != set(own):
                    raise ValueError("it holds other tensors than the network")
                with torch.no_grad():
                    for name, tensor in own.items():
                        tensor.copy_(file.get_tensor(name))
                momenta = tuple(file.get_tensor(name) for name in names if name.startswith(_MOMENTUM))
                mean = {name.removeprefix(_MEAN): file.get_tensor(name) for name in names if name.startswith(_MEAN)}
            return RungCheckpoint(str(state["key"]), int(state["rung"]), int(state["next_epoch"]), momenta, mean)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise TechniqueError(f"checkpoint {path} cannot be used ({error}); delete it to train from the start") from error


def peek_key(path: Path) -> tuple[str, int] | None:
    """Key and rung of a checkpoint file, or None if there is none that can be read."""
    try:
        with safe_open(str(path), framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            return str(state["key"]), int(state["rung"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def held_rung(path: Path) -> int:
    """The last rung that a file holds, -1 if it is none."""
    found = peek_key(path)
    return -1 if found is None else found[1]


def training_key(network: Network, *facts: object) -> str:
    """Digest of a network's weights and of the facts (config, seed, steps) that decide a training from there."""
    digest = hashlib.sha256(repr(facts).encode())
    for name, tensor in sorted(_tensors(network).items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _tensors(network: Network) -> dict[str, Tensor]:
    """Every stored tensor once, by name; shared ones under their first name."""
    return {name: t.detach() for name, t in [*network.graph.named_parameters(), *network.graph.named_buffers()]}
