"""Checks the program text (``models/*.json``) of a ``torch.export`` archive. Pure Python: nothing is imported, nothing evaluated.

``torch.export.load`` looks operators up by attribute, hands size expressions to sympy (which evaluates them as Python), turns
names into generated code and executes guard strings. So every string of the program must be known here: each key that may
hold one has its own grammar, and a string under any other key is refused. Guards, traces and module signatures are rewritten.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
import sys
from typing import Any

from techniques.errors import UnsafeModelError
from techniques.pt2_limits import ArchiveLimits

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_PATH = re.compile(r"(?:[A-Za-z0-9_@]{1,256}(?:\.[A-Za-z0-9_@]{1,256}){0,63})?")
_WORD = re.compile(r"[A-Za-z_]{0,32}|[A-Za-z., ]{1,120}(?:->[A-Za-z. ]{0,60})?")
"""Plain words (names of modes) and the equations of ``einsum``."""
_VERSION = re.compile(r"[\w.+<=-]{0,64}")
_STACK_ENTRY = re.compile(r"[\w.@]*,[\w.@]*,[\w.]*")
_OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|quantized_decomposed)\.(__and__|__or__|__xor__|(?!__)[A-Za-z0-9_]+)\.(?!__)[A-Za-z0-9_]+"
)
_INNER_OPERATORS = frozenset(
    re.findall(
        r"\w+",
        "_adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar _assert_tensor_metadata "
        "__and__ __or__ __xor__ _batch_norm_no_update _batch_norm_with_update _convolution "
        "_fake_quantize_learnable_per_channel_affine "
        "_fake_quantize_learnable_per_tensor_affine _log_softmax _native_batch_norm_legit _native_batch_norm_legit_functional "
        "_native_batch_norm_legit_no_training _native_multi_head_attention _prelu_kernel _transformer_encoder_layer_fwd "
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math _shape_as_tensor _softmax _to_copy "
        "_unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact2d _weight_norm _weight_norm_interface",
    )
)
"""Of ATen's inner operators (those with a leading underscore) what exports contain; others take raw sizes and strides on trust."""
_FUNCTIONS = frozenset(
    [f"_operator.{n}" for n in re.findall(r"\w+", "getitem add sub mul floordiv truediv mod neg eq ne lt le gt ge")]
    + [f"torch.sym_{n}" for n in ("int", "float", "max", "min", "not", "ite")]
    + [f"math.{n}" for n in ("ceil", "floor", "trunc")]
)
_REGIONS = frozenset(f"torch.ops.higher_order.wrap_with_{n}" for n in ("set_grad_enabled", "autocast"))
"""Regions in which something is switched on or off; the only operators that may hold a graph."""
_DENIED_OPERATORS = frozenset(
    re.findall(
        r"\w+",
        "from_file set_ set_data resize resize_ resize_as_ as_strided as_strided_ as_strided_copy as_strided_scatter empty "
        "empty_like empty_strided empty_permuted new_empty new_empty_strided _unsafe_index _unsafe_index_put _unsafe_masked_index "
        "record_stream item _local_scalar_dense",
    )
)
"""They reach files, foreign memory or uninitialised memory, or make control flow depend on data."""

_IDENTIFIER_KEYS = frozenset({"name", "as_name"})
_PATH_KEYS = frozenset({"parameter_name", "buffer_name", "tensor_constant_name", "user_input_name", "fqn"})
_LITERALS = {("type", "cpu")} | {(k, v) for k in ("as_float", "as_floats") for v in ("Infinity", "-Infinity", "NaN")}
_WORD_KEYS = frozenset({"as_string", "as_strings"})
_REFUSED_KEYS = {
    "as_graph": "a nested graph",
    "as_operator": "an operator as a value",
    "as_custom_obj": "a custom object",
    "custom_obj": "a custom object",
    "as_string_to_argument": "a dictionary argument",
    "token": "a side-effect token",
    "constant_input": "a constant input",
}
_IDENTIFIER_TABLES = frozenset({"tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values"})
_SYMBOL_CALLS = frozenset(
    re.findall(
        r"\w+",
        "Symbol Integer Add Mul Pow FloorDiv ModularIndexing Mod PythonMod CleanDiv CeilDiv CeilToInt FloorToInt TruncToInt Max "
        "Min Eq Ne Equality Unequality LessThan StrictLessThan GreaterThan StrictGreaterThan PowByNatural Identity",
    )
)
_MAX_EXPRESSION, _MAX_INTEGER = 4000, 2**48
_PYTREE_TYPES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})


def checked_program(entry: str, text: bytes, limits: ArchiveLimits) -> tuple[str, str]:
    """The program as text that is safe to give to ``torch.export.load``, and its file of origin for messages.

    Raises:
        UnsafeModelError: a string, a construct or a size that is not on the closed list; the message names it.
    """
    try:
        program = json.loads(text)
        graph_module = program["graph_module"]
        graph = graph_module["graph"]
        _check_graph(entry, graph, limits, limits.nodes)
        graph_module["module_call_graph"] = [_clean_call(entry, call) for call in graph_module["module_call_graph"]]
        graph_module["metadata"], graph_module["treespec_namedtuple_fields"] = {}, {}
        program["guards_code"] = []
        program["verifiers"] = [v for v in program.get("verifiers", []) if v in ("TRAINING", "ATEN", "")]
        for name in program.get("range_constraints", {}):
            _match(entry, "range_constraints", name, _NAME)
        for name in program.get("opset_version", {}):
            _match(entry, "opset_version", name, _NAME)
        _match(entry, "torch_version", program.get("torch_version", ""), _VERSION)
        _walk(entry, {k: v for k, v in program.items() if k not in ("torch_version", "verifiers", "opset_version")}, "")
    except RecursionError:
        raise UnsafeModelError(f"{entry}: nested more than {sys.getrecursionlimit()} levels deep") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UnsafeModelError(f"{entry}: not an exported program ({type(error).__name__}: {str(error)[:100]})") from None
    return json.dumps(program), entry


class _Region(dict[str, Any]):
    """A nested graph that was checked; no JSON text makes one."""


def _check_graph(entry: str, graph: dict[str, Any], limits: ArchiveLimits, nodes_left: int) -> int:
    """Check nodes and tensors of a graph and of the regions inside; returns how many nodes may still follow."""
    nodes_left -= len(graph["nodes"])
    if nodes_left < 0:
        raise UnsafeModelError(f"{entry}: {limits.nodes - nodes_left} nodes, at most {limits.nodes} are accepted")
    if graph.get("custom_obj_values"):
        raise UnsafeModelError(f"{entry}: custom objects are not accepted")
    for node in graph["nodes"]:
        node["metadata"] = _clean_metadata(node.get("metadata") or {})
        if node["target"] not in _REGIONS:
            _check_target(entry, node["target"])
            continue
        for argument in node["inputs"]:
            inner = argument["arg"].get("as_graph")
            if inner is not None:
                if not re.fullmatch(r"submod_\d{1,6}", inner["name"]):
                    raise UnsafeModelError(f"{entry}: a nested graph of the name {str(inner['name'])[:80]!r}")
                nodes_left = _check_graph(entry, inner["graph"], limits, nodes_left)
                argument["arg"]["as_graph"] = _Region(inner)
    _check_tensor_values(entry, graph["tensor_values"], limits)
    return nodes_left


def _match(entry: str, key: str, value: Any, pattern: re.Pattern[str]) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value) or keyword.iskeyword(value) or "__" == value[:2] == value[-2:]:
        raise UnsafeModelError(f"{entry}: {key} {str(value)[:80]!r} is not a plain name")


def _check_target(entry: str, target: Any) -> None:
    if not isinstance(target, str):
        raise UnsafeModelError(f"{entry}: a node without a target")
    match = _OPERATOR.fullmatch(target)
    if match is None and target not in _FUNCTIONS:
        raise UnsafeModelError(f"{entry}: operator {target[:120]!r} is not accepted; only ATen operators are")
    name = match.group(1) if match else ""
    if name in _DENIED_OPERATORS or (name.startswith("_") and name not in _INNER_OPERATORS):
        raise UnsafeModelError(f"{entry}: operator {target!r} reaches files or raw memory and is not accepted")


def _clean_metadata(metadata: dict[str, Any]) -> dict[str, str]:
    """Keep only where a node came from, and that only if it reads as plain names."""
    stack = metadata.get("nn_module_stack")
    if isinstance(stack, str) and len(stack) < 20_000 and all(_STACK_ENTRY.fullmatch(part) for part in stack.split(";")):
        return {"nn_module_stack": stack}
    return {}


def _clean_call(entry: str, call: dict[str, Any]) -> dict[str, Any]:
    _match(entry, "fqn", call["fqn"], _PATH)
    signature = call.get("signature")
    if signature is None or call["fqn"]:
        return {"fqn": call["fqn"], "signature": None}
    for key in ("in_spec", "out_spec"):
        protocol, spec = json.loads(signature[key])
        if protocol != 1:
            raise UnsafeModelError(f"{entry}: {key} of an unknown protocol")
        _check_tree(entry, spec)
        signature[key] = json.dumps([1, spec])
    for name in signature.get("forward_arg_names") or ():
        _match(entry, "forward_arg_names", name, _NAME)
    return {"fqn": "", "signature": signature}


def _check_tree(entry: str, spec: dict[str, Any]) -> None:
    if spec["type"] not in _PYTREE_TYPES or set(spec) != {"type", "context", "children_spec"}:
        raise UnsafeModelError(f"{entry}: container {str(spec.get('type'))[:80]!r} is not accepted; use tuples, lists and dicts")
    context = json.loads(spec["context"]) if spec["context"] is not None else None
    for name in context or ():
        _match(entry, "container key", name, _NAME)
    for child in spec["children_spec"]:
        _check_tree(entry, child)


def _check_tensor_values(entry: str, values: dict[str, Any], limits: ArchiveLimits) -> None:
    for name, meta in values.items():
        elements = 1
        for size in meta["sizes"]:
            elements *= int(size.get("as_int", 1))
        if not 0 <= elements <= limits.tensor_elements:
            raise UnsafeModelError(f"{entry}: tensor {str(name)[:80]!r} has {elements} elements, at most {limits.tensor_elements}")


def _walk(entry: str, value: Any, key: str) -> None:
    """Visit every string of the program; each needs a key with a grammar of its own."""
    if isinstance(value, dict):
        for child_key, child in value.items():
            _walk_item(entry, key, child_key, child)
    elif isinstance(value, list):
        for child in value:
            _walk(entry, child, key)
    elif isinstance(value, str):
        _check_string(entry, key, value)


def _walk_item(entry: str, parent: str, key: str, value: Any) -> None:
    if key in _REFUSED_KEYS and value is not None and not isinstance(value, _Region):
        raise UnsafeModelError(f"{entry}: {_REFUSED_KEYS[key]} is not accepted")
    if parent in _IDENTIFIER_TABLES:
        _match(entry, parent, key, _NAME)
    elif key in ("target", "metadata", "in_spec", "out_spec", "forward_arg_names"):
        return  # checked on their own
    _walk(entry, value, key if parent not in _IDENTIFIER_TABLES else "")


def _check_string(entry: str, key: str, value: str) -> None:
    if key == "expr_str":
        check_expression(entry, value)
    elif key in _IDENTIFIER_KEYS:
        if value:
            _match_argument_name(entry, key, value)
    elif key in _PATH_KEYS:
        _match(entry, key, value, _PATH)
    elif key in _WORD_KEYS:
        _match(entry, key, value, _WORD)
    elif (key, value) not in _LITERALS:
        raise UnsafeModelError(f"{entry}: unexpected text {value[:80]!r} under {key[:80]!r}")


def _match_argument_name(entry: str, key: str, value: str) -> None:
    """Names of values, and of operator arguments (``self`` and the like are fine, ``from`` is a keyword that ATen uses)."""
    if not _NAME.fullmatch(value) or (value.startswith("__") and value.endswith("__")):
        raise UnsafeModelError(f"{entry}: {key} {value[:80]!r} is not a plain name")
    if keyword.iskeyword(value) and value != "from":
        raise UnsafeModelError(f"{entry}: {key} {value!r} is a Python keyword")


def check_expression(entry: str, text: str) -> None:
    """Check a size expression against a closed grammar, without evaluating it.

    Raises:
        UnsafeModelError: anything but sums, products, divisions and comparisons of integers and plain symbols.
    """
    if len(text) > _MAX_EXPRESSION:
        raise UnsafeModelError(f"{entry}: a size expression of {len(text)} characters")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UnsafeModelError(f"{entry}: {text[:80]!r} is not a size expression") from None
    if not _is_size(tree.body):
        raise UnsafeModelError(f"{entry}: {text[:80]!r} is not a size expression")


def _is_size(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) is int and abs(node.value) <= _MAX_INTEGER
    if isinstance(node, ast.Name):
        return re.fullmatch(r"[suz]\d{1,9}", node.id) is not None
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_size(node.operand)
    if isinstance(node, ast.BinOp):
        allowed = isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.FloorDiv | ast.Mod)
        return allowed and _is_size(node.left) and _is_size(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SYMBOL_CALLS:
        return _is_size_call(node, node.func.id)
    return False


def _is_size_call(node: ast.Call, function: str) -> bool:
    if function == "Symbol":
        flags = all(k.arg in ("positive", "integer", "nonnegative", "negative") and _is_flag(k.value) for k in node.keywords)
        name = node.args[0] if len(node.args) == 1 else None
        plain = isinstance(name, ast.Constant) and isinstance(name.value, str) and _NAME.fullmatch(name.value) is not None
        return flags and plain
    if node.keywords or not node.args or not all(_is_size(arg) for arg in node.args):
        return False
    return function not in ("Pow", "PowByNatural") or _is_small_exponent(node)


def _is_flag(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def _is_small_exponent(node: ast.Call) -> bool:
    """Powers may be written for areas and quotients only; large ones would never end."""
    return len(node.args) == 2 and re.fullmatch(r"(Integer\()?-?[0-4]\)?", ast.unparse(node.args[1])) is not None
