"""Families of torchvision and timm through the whole way: lift, prune by half with proof, factor, quantise, export, run the file.

Each is built with random weights and batch norm statistics of its own. Times are of one run each and say the order of magnitude.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.harness import Check, Results, Row, measured_apart
from search.errors import SearchError
from search.evaluation.file_proof import prove_file
from techniques import architectures, export, lift, network_checks
from techniques.apply import apply_recipe
from techniques.context import Batch, TechniqueContext
from techniques.errors import TechniqueError, UnsupportedNetworkError
from techniques.low_rank.decompose import decomposable_layers
from techniques.network import Network
from techniques.pruning import structured
from techniques.recipe import Recipe, Step
from techniques.shapes import layer_macs

NAME = "families"
PRUNING_RATIO = 0.5
CONTEXT = TechniqueContext(channel_multiple=1)
TORCHVISION = (
    "alexnet", "vgg11_bn", "vgg16", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "squeezenet1_1",
    "densenet121", "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0", "efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny",
    "maxvit_t", "swin_t", "vit_b_32",
)  # fmt: skip
TIMM = (
    "resnet10t", "resnetblur50", "seresnet18", "ecaresnet26t", "skresnet18", "resnest14d", "res2net50_26w_4s", "dpn48b",
    "hrnet_w18_small", "dla34", "vovnet39a", "ese_vovnet19b_dw", "selecsls42b", "cspresnet50", "cspdarknet53", "darknet53",
    "ghostnet_050", "repghostnet_050", "rexnet_100", "mobilenetv4_conv_small", "mixnet_s", "tinynet_e", "fbnetc_100",
    "hardcorenas_a", "lcnet_050", "spnasnet_100", "efficientnet_lite0", "repvgg_a0", "mobileone_s0", "convnextv2_atto",
    "edgenext_xx_small", "inception_next_atto", "inception_resnet_v2", "inception_v4", "xception41", "nf_resnet50",
    "eca_nfnet_l0", "gcresnext26ts", "lambda_resnet26t", "botnet26t_256", "halonet26t", "bat_resnext26ts", "fastvit_t8",
    "mobilevit_xxs", "hgnet_tiny", "tresnet_m", "visformer_tiny", "gernet_s", "starnet_s1", "rdnet_tiny", "regnetv_040",
)  # fmt: skip
MODELS = (*TORCHVISION, *(f"timm/{name}" for name in TIMM))
_SIZES = {
    "inception_v3": 299, "vit_b_32": 224, "swin_t": 224, "maxvit_t": 224, "timm/halonet26t": 256, "timm/botnet26t_256": 256,
    "timm/visformer_tiny": 224, "timm/bat_resnext26ts": 256,
}  # fmt: skip
_DEFAULT_SIZE = 128
_REFUSED_WITHIN_S = 10.0
_LIMIT_S = 900.0
_PROVEN_IMAGES = 4


class _Images:
    """Seeded noise, as images to calibrate on."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._images = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        for start in range(0, len(self), batch_size):
            yield Batch(self._images[start : start + batch_size])


def _module(name: str) -> nn.Module:
    """A seeded random network whose batch norms have statistics of their own, and in which every parameter matters."""
    torch.manual_seed(0)
    module = architectures._timm(name[5:], 1000, 3) if name.startswith("timm/") else architectures._torchvision(name, 1000)
    return with_own_values(module).eval()


def with_own_values(module: nn.Module) -> nn.Module:
    """The same module: heads, biases and layer scales that start at nothing, and norms that change nothing, would hide errors."""
    for part in module.modules():
        if isinstance(part, _BatchNorm) and part.running_mean is not None and part.running_var is not None:
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    for parameter in module.parameters():
        if float(parameter.detach().abs().max()) < 1e-3:
            nn.init.normal_(parameter, std=0.1)
    return module


def _seconds(start: float) -> float:
    return round(time.perf_counter() - start, 2)


def _file_error(network: Network) -> float:
    """ONNX Runtime against torch as `prove_file` compares them; quantised networks value by value."""
    images = torch.randn(_PROVEN_IMAGES, *network.input_shape, generator=torch.Generator().manual_seed(1))
    return prove_file(network, export.to_onnx(network), images).error


def offered_macs_share(network: Network) -> float:
    """Of the multiply-accumulates, those in layers that some group which is offered takes channels from."""
    macs = layer_macs(network)
    layers = {layer for group in structured.offered_groups(network, CONTEXT).values() for layer in group.layers}
    return round(sum(count for layer, count in macs.items() if layer in layers) / max(sum(macs.values()), 1), 4)


def _offered(network: Network) -> Row:
    """How much of the network is offered, and why the other layers are left alone."""
    reasons = structured.left_alone(network, CONTEXT)
    told = [f"{layer}: {reason}" for layer, reason in reasons.items()]
    return {
        "offered_macs_share": offered_macs_share(network),
        "left_alone": told,
        "unproven": len(structured.unproven(network, CONTEXT)),
    }


def _factored(network: Network) -> Row:
    """Half of the rank of up to three layers."""
    layers = list(decomposable_layers(network, CONTEXT).items())[:3]
    if not layers:
        return {"factored_layers": 0}
    ranks = {name: max(1, min(layer.weight.shape[:2]) // 4) for name, layer in layers}
    smaller = apply_recipe(network, Recipe((Step("low_rank", {"ranks": ranks}),)), CONTEXT)
    return {"factored_layers": len(ranks), "factored_runs": smaller(network.example_input(2)).shape[0] == 2}


def measure(name: str) -> Row:
    """One row; an error is part of it, not the end."""
    size = _SIZES.get(name, _DEFAULT_SIZE)
    row: Row = {"input_size": size}
    torch.set_num_threads(1)
    module = _module(name)
    start = time.perf_counter()
    try:
        network = lift.from_module(module, (3, size, size))
    except UnsupportedNetworkError as error:
        return {**row, "refused": str(error)[:300], "refused_s": _seconds(start)}
    row["lift_s"] = _seconds(start)
    try:
        images = torch.randn(2, *network.input_shape)
        with torch.no_grad():
            row["lift_error"] = network_checks.relative_error(network(images), module(images))
        start = time.perf_counter()
        row |= {"groups": len(structured.groups(network, CONTEXT)), "grouping_s": _seconds(start)}
        start = time.perf_counter()
        row |= _offered(network)
        row["proof_s"] = _seconds(start)
        ratios = dict.fromkeys(structured.offered_groups(network, CONTEXT), PRUNING_RATIO)
        pruned = apply_recipe(network, Recipe((Step("structured_pruning", {"ratios": ratios}),)), CONTEXT)
        row |= {"parameters": network.parameter_count(), "parameters_pruned": pruned.parameter_count()}
        row["onnx_error_pruned"] = _file_error(pruned)
        row |= _factored(network)
        start = time.perf_counter()
        context = TechniqueContext(channel_multiple=1, calibration=_Images(network.input_shape))
        quantised = apply_recipe(pruned, Recipe((Step("int8_quantization", {}),)), context)
        row["quantise_s"] = _seconds(start)
        row["onnx_error_int8"] = _file_error(quantised)
    except (
        TechniqueError,
        SearchError,
        RuntimeError,
        ValueError,
        IndexError,
        AssertionError,
        TypeError,
        AttributeError,
        KeyError,
    ) as error:
        row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
    return row


def run(results: Results) -> None:
    """Measure the families that have no row yet, and again those that failed."""
    for name in MODELS:
        failed = "error" in (results.find(name) or {})
        results.cell(name, lambda name=name: measured_apart(measure, name, limit_s=_LIMIT_S), again=failed)  # type: ignore[misc]


def checks(rows: list[Row]) -> list[Check]:
    """Gates of line 2 of "trust", computed from the rows; what has no row does not count."""
    whole = [row for row in rows if "error" not in row and "refused" not in row]
    good = [r for r in whole if not r["unproven"] and r["lift_error"] <= 1e-5 and r["onnx_error_pruned"] <= 1e-3]
    refused = [row for row in rows if row.get("refused_s", _REFUSED_WITHIN_S + 1) <= _REFUSED_WITHIN_S]
    share = [row["offered_macs_share"] for row in whole]
    slowest = {row["cell"]: row["grouping_s"] for row in whole}
    mean = float(np.mean(share)) if share else None
    return [
        Check("trust 2 families with a row", len(rows), f">= {len(MODELS)}"),
        Check("trust 2 whole way or refused in 10 s", (len(good) + len(refused)) / max(len(rows), 1), ">= 0.95"),
        Check("trust 2 mean share of MACs offered", mean, ">= 0.85"),
        Check("trust 2 mean share of MACs offered", mean, ">= 0.95", "goal"),
        Check("trust 3 grouping of resnet50, s", slowest.get("resnet50"), "<= 2"),
        Check("trust 3 grouping of hrnet, s", slowest.get("timm/hrnet_w18_small"), "<= 10"),
    ]
