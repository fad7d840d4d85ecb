"""From a `Network` to files: ``model.onnx`` (stripped, batch 1) and ``model.pt2`` (batch free, read back bit for bit)."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.ao.quantization.fx._decomposed  # registers the quantized_decomposed operators
from torch.export import Dim, ExportedProgram
from torch.nn.utils.parametrize import is_parametrized

from techniques.errors import UnsupportedNetworkError
from techniques.export_rewrites import exact_operations
from techniques.folding import fold_batch_norms
from techniques.network import Network

OPSET = 21
"""Opset of written ONNX files: the first with blocked and 4-bit quantisation, and read by every runtime of our targets."""

_ENDS = ("paretopress.input", "paretopress.output")
"""Names while the exporter works: the network's own may be ones that it gives to other values."""


def _check(network: Network) -> None:
    """Refuse what is not a network to be used: one without weights, or with what only training needs."""
    if network.is_meta:
        raise UnsupportedNetworkError("a network on the meta device has no weights to export")
    left = [name for name, module in network.graph.named_modules() if is_parametrized(module)]
    if left:
        raise UnsupportedNetworkError(f"{', '.join(left[:5])}: parametrizations of training are left; the regime must finish first")


def to_onnx(network: Network, dynamic_batch: bool = False) -> bytes:
    """The network as an ONNX file: original input signature, batch norms folded, integer weights stored as integers.

    Args:
        network: any device but meta; its input and output names are kept.
        dynamic_batch: leave the batch free; otherwise it is 1, which runtimes plan best for.

    Raises:
        UnsupportedNetworkError: an operation has no ONNX form; the message names it.
    """
    from techniques import onnx_registry
    from techniques.onnx_compaction import compact

    _check(network)
    onnx_registry.keep()
    folded = exact_operations(fold_batch_norms(network)).rebuilt()
    example = torch.zeros(2 if dynamic_batch else 1, *network.input_shape)
    shapes = ({0: Dim.DYNAMIC},) if dynamic_batch else None
    try:
        with _quiet():
            program = torch.onnx.export(
                folded.graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(_ENDS[:1]),
                output_names=list(_ENDS[1:]),
                dynamic_shapes=shapes,
                verbose=False,
            )
    except Exception as error:
        raise UnsupportedNetworkError(f"no ONNX form: {_reason(error, folded)}") from error
    if program is None:
        raise UnsupportedNetworkError("no ONNX form: the exporter returned nothing")
    model = compact(program.model_proto, dict(zip(_ENDS, (network.input_name, network.output_name), strict=True)))
    return bytes(model.SerializeToString(deterministic=True))


def _reason(error: Exception, network: Network) -> str:
    """What the exporter stumbled over: the operation, where one of its causes names it, else its first line."""
    cause: BaseException | None = error
    while cause is not None:
        found = re.search(r"aten\.\w+(\.\w+)?", str(cause))
        if found:
            places = [n.name for n in network.graph.graph.nodes if str(n.target).startswith(found.group())]
            return f"the exporter knows none for {found.group()}" + (f" (node {places[0]})" if places else "")
        cause = cause.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"\x1b\[\d+m", "", lines[0])[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from printing and warning; its errors still come through."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def to_pt2(network: Network, path: Path) -> None:
    """Write a ``torch.export`` archive with a free batch, and ``extra/network.json`` with what the graph does not say.

    Raises:
        UnsupportedNetworkError: the graph cannot be exported again.
    """
    _check(network)
    facts = {
        "type": "network",
        "version": 1,
        "input_name": network.input_name,
        "output_name": network.output_name,
        "size_note": network.size_note,
        "erased": list(network.erased),
    }
    program = _exported(network.clone().eval())
    program._example_inputs = None  # sample inputs would be stored as a pickle
    with tempfile.NamedTemporaryFile(suffix=".pt2", dir=path.parent) as file:
        torch.export.save(program, file.name, extra_files={"network.json": json.dumps(facts, sort_keys=True)})
        path.write_bytes(Path(file.name).read_bytes())


def _exported(network: Network) -> ExportedProgram:
    example = torch.zeros(2, *network.input_shape)
    try:
        return torch.export.export(network.graph, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UnsupportedNetworkError(f"the graph cannot be exported: {first_line}") from error


def onnx_size_bytes(onnx: bytes) -> int:
    """Size of a stripped ONNX file, as `to_onnx` writes it."""
    return len(onnx)


def weight_size_bytes(network: Network) -> int:
    """Bytes of all stored weights and buffers that inference reads; a layer with ``weight_bits`` counts its weights by them.

    Counters of batch norms are not part of it. Works on meta networks.
    """
    bits, seen = 0, set[int]()
    for module in network.graph.modules():
        weight_bits = getattr(module, "weight_bits", None)
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if id(tensor) in seen or name == "num_batches_tracked":
                continue
            seen.add(id(tensor))
            packed = name == "weight" and weight_bits is not None
            bits += tensor.numel() * (int(weight_bits) if packed else 8 * tensor.element_size())  # type: ignore[arg-type]
    return (bits + 7) // 8
