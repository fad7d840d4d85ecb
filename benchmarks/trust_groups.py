"""Torch-Pruning's groups beside ours, on the torchvision models that its repository tests: where its own are right, ours hold them.

A group of Torch-Pruning counts as right where the network that it prunes by it computes what the original does with zeros in all
places that the group names. Both look at the same lifted graph, so that layers have the same names.
"""

from __future__ import annotations

import copy
import gc
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
import torchvision
from torch import nn

from benchmarks.families import offered_macs_share, with_own_values
from benchmarks.harness import Check, Results, Row, measured_apart
from techniques import lift
from techniques.apply import apply_recipe
from techniques.channels.channel_map import channel_map
from techniques.channels.groups import channel_groups
from techniques.channels.proof import TOLERANCE, difference, relative_difference
from techniques.context import TechniqueContext
from techniques.errors import FAILURES, TechniqueError, UnsupportedNetworkError
from techniques.network import Network
from techniques.pruning import structured
from techniques.recipe import Recipe, Step

NAME = "trust_groups"
MODELS = (
    "vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14", "convnext_tiny", "convnext_small", "convnext_base",
    "convnext_large", "alexnet",
    "densenet121", "densenet169", "densenet201", "densenet161", *(f"efficientnet_b{size}" for size in range(8)),
    "efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l", "googlenet", "inception_v3", "mnasnet0_5", "mnasnet0_75",
    "mnasnet1_0", "mnasnet1_3", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_y_400mf", "regnet_y_800mf",
    "regnet_y_1_6gf", "regnet_y_3_2gf", "regnet_y_8gf", "regnet_y_16gf", "regnet_y_32gf", "regnet_y_128gf", "regnet_x_400mf",
    "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf", "regnet_x_8gf", "regnet_x_16gf", "regnet_x_32gf", "resnet18", "resnet34",
    "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2",
    "fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large", "squeezenet1_0", "squeezenet1_1", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn",
    "vgg16_bn", "vgg19_bn",
)  # fmt: skip
"""All that https://github.com/VainF/Torch-Pruning tests/test_torchvision_models.py names."""
FREE = TechniqueContext(channel_multiple=1)
_SIZE, _SIZES = 64, {"inception_v3": 128, "vit": 224}
_LIMIT_S = 3600.0
_LARGE = ("vit_l_16", "vit_l_32", "regnet_y_128gf", "vit_h_14")
"""Measured last: they take most of the time, and gigabytes."""


def measure(name: str) -> Row:
    """One row for a model."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = next((value for key, value in _SIZES.items() if name.startswith(key)), _SIZE)
    row: Row = {"input_size": size}
    start = time.perf_counter()
    try:
        network = lift.from_module(_module(name), (3, size, size)).eval()
    except UnsupportedNetworkError as error:
        return {**row, "refused": str(error)[:300], "refused_s": round(time.perf_counter() - start, 2)}
    row["lift_s"] = round(time.perf_counter() - start, 2)
    try:
        row |= _own(network)
    except (TechniqueError, RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
    return row | _beside(network)


def _module(name: str) -> nn.Module:
    more: dict[str, Any] = {"weights_backbone": None} if name.startswith(("fcn", "deeplab", "lraspp")) else {}
    more |= {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module: nn.Module = torchvision.models.get_model(name, weights=None, **more)
    return with_own_values(module).eval()


def _own(network: Network) -> Row:
    """Everything that is offered at half, proven."""
    offered = structured.offered_groups(network, FREE)
    known, removed = channel_map(network), np.zeros(channel_map(network).count, np.bool_)
    scores = np.random.default_rng(1).random(known.count)
    for name in offered:
        removed[structured.weakest(network, channel_groups(network)[name], 0.5, scores, FREE)] = True
    error = difference(network, known, removed)[0]
    pruned = apply_recipe(network, Recipe((Step("structured_pruning", {"ratios": dict.fromkeys(offered, 0.5)}),)), FREE)
    return {
        "groups": len(offered),
        "unproven": len(structured.unproven(network, FREE)),
        "offered_macs_share": offered_macs_share(network),
        "pruned_error": error,
        "parameters": network.parameter_count(),
        "parameters_pruned": pruned.parameter_count(),
    }


def _beside(network: Network) -> Row:
    """Torch-Pruning's groups by their first layer: which are right, and which of those ours hold."""
    try:
        graph = _dependencies(network.graph, network)
        roots = [
            str(found[0].dep.target.name).split(" ")[0] for found in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear])
        ]
    except Exception as error:  # a library's failure is a finding about it
        return {"torch_pruning_error": f"{type(error).__name__}: {str(error)[:200]}"}
    sound = _right(network, roots)
    verdicts = {root: _compared(network, graph, root) for root in sound}
    smaller = sorted(f"{root}: {verdict}" for root, verdict in verdicts.items() if verdict not in ("equal", "larger"))
    return {
        "torch_pruning_groups": len(roots),
        "torch_pruning_right": len(sound),
        "equal": sum(verdict == "equal" for verdict in verdicts.values()),
        "larger": sum(verdict == "larger" for verdict in verdicts.values()),
        "smaller": smaller,
        "not_equal_or_larger": len(smaller),
    }


def _dependencies(graph: nn.Module, network: Network) -> Any:
    return tp.DependencyGraph().build_dependency(graph, example_inputs=network.example_input(1))


def _group(graph: Any, module: nn.Module) -> Any:
    return graph.get_pruning_group(module, graph.get_pruner_of_module(module).prune_out_channels, idxs=[1])


class _Pruned:
    """A copy pruned by Torch-Pruning, and one with zeros in the places that its groups name; group after group."""

    def __init__(self, network: Network) -> None:
        gc.collect()  # of the copies before, which are cycles
        self.smaller, self.zeroed = copy.deepcopy(network.graph), copy.deepcopy(network.graph)
        self.graph, self.images = _dependencies(self.smaller, network), network.example_input(1)
        self.names = {module: name for name, module in self.smaller.named_modules()}
        self.is_whole = True

    def holds(self, root: str) -> bool:
        """Prune channel 1 of the root; whether both copies still compute the same. A group that does not hold is put back, and
        where it cannot be (it holds parameters of no layer), the copies are not whole any more."""
        touched: list[tuple[nn.Module, dict[str, Any]]] = []
        try:
            group = _group(self.graph, self.smaller.get_submodule(root))
            if not self.graph.check_pruning_group(group):
                return False  # it would take all channels of a layer
            for dep, places in group:
                module = dep.target.module
                self.is_whole &= not isinstance(module, nn.Parameter)  # changed in place
                touched.append((module, _state(module)))
                if module in self.names:
                    layer = self.zeroed.get_submodule(self.names[module])
                    touched.append((layer, _state(layer)))
                    _zero(layer, places, self.graph.is_out_channel_pruning_fn(dep.handler))
            group.prune()
            with torch.no_grad():
                if relative_difference(self.smaller(self.images), self.zeroed(self.images)) <= TOLERANCE:
                    self.is_whole = True
                    return True
        except (TechniqueError, *FAILURES):
            pass
        for module, state in reversed(touched):
            module.__dict__.update(state)
        return False


def _state(module: nn.Module) -> dict[str, Any]:
    """What pruning changes of a module, to be put back: it makes new tensors, and so does `_zero`."""
    return {name: dict(value) if name in ("_parameters", "_buffers") else value for name, value in module.__dict__.items()}


def _right(network: Network, roots: Sequence[str]) -> list[str]:
    """The roots whose groups hold; what fails behind others is tried again alone."""
    right: list[str] = []
    copies, pruned = _Pruned(network), 0
    for root in roots:
        holds = copies.holds(root)
        if not holds and (pruned or not copies.is_whole):
            del copies  # before there are others: large networks fill the memory
            copies, pruned = _Pruned(network), 0
            holds = copies.holds(root)
        pruned += holds
        right += [root] if holds else []
    return right


def _zero(module: Any, places: Sequence[int], outputs: bool) -> None:
    if not outputs or not hasattr(module, "weight"):
        return
    for leaf in ("weight", "bias", "running_mean"):
        tensor = getattr(module, leaf, None)
        if isinstance(tensor, torch.Tensor) and max(places) < len(tensor):
            changed = tensor.detach().clone()
            changed[places] = 0
            held = module._parameters if leaf in module._parameters else module._buffers
            held[leaf] = nn.Parameter(changed) if leaf in module._parameters else changed


def _compared(network: Network, graph: Any, root: str) -> str:
    """Whether the classes of channel 1 of the root take every position that Torch-Pruning takes with it."""
    known = channel_map(network)
    ours = known.axes.get((root, "out"))
    if ours is None or ours[1] == 0:
        return "not offered"
    names = {module: name for name, module in network.graph.named_modules()}
    theirs: dict[tuple[str, str], set[int]] = {}
    for dep, places in _group(graph, network.graph.get_submodule(root)):
        kind = "out" if graph.is_out_channel_pruning_fn(dep.handler) else "in"
        if dep.target.module in names:
            theirs.setdefault((names[dep.target.module], kind), set()).update(int(place) for place in places)
    larger = False
    for key, places in theirs.items():
        found = [own for (name, own_kind), own in known.axes.items() if name == key[0] and own_kind in (key[1], "norm")]
        if not found:
            return f"{key[0]} not among ours"
        mine = set(np.flatnonzero(found[0] == ours[1]).tolist())
        if not places <= mine:
            return f"{key}: {sorted(places - mine)[:5]}"
        larger |= places != mine
    mine_all = {key for key, classes in known.axes.items() if (classes == ours[1]).any()}
    return "larger" if larger or len({name for name, _ in mine_all}) > len({name for name, _ in theirs}) else "equal"


def run(results: Results) -> None:
    """Measure the models that have no row yet, and again those that failed."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"  # of the processes below: weights that are let go are the system's again
    for name in sorted(MODELS, key=lambda name: _LARGE.index(name) + 1 if name in _LARGE else 0):
        again = "error" in (results.find(name) or {})
        results.cell(name, lambda name=name: measured_apart(measure, name, limit_s=_LIMIT_S), again=again)  # type: ignore[misc]


def checks(rows: list[Row]) -> list[Check]:
    """Line 4 of "trust"."""
    passed = [r for r in rows if "error" not in r and "refused" not in r and not r["unproven"] and r["pruned_error"] <= TOLERANCE]
    right = sum(row.get("torch_pruning_right", 0) for row in rows)
    return [
        Check("trust 4 models of Torch-Pruning's list pass", len(passed), f">= {len(MODELS)}"),
        Check("trust 4 of its groups, right ones compared", right, ">= 500"),
        Check("trust 4 right ones that ours do not hold", sum(row.get("not_equal_or_larger", 0) for row in rows), "<= 0"),
    ]
