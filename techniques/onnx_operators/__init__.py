"""One function per ONNX operator: writes it as ATen calls. What an operator cannot express raises `UnsupportedOperatorError`."""

from techniques.onnx_graph import Converter
from techniques.onnx_operators.elementwise import ELEMENTWISE
from techniques.onnx_operators.indexing import INDEXING
from techniques.onnx_operators.layers import LAYERS
from techniques.onnx_operators.moves import MOVES
from techniques.onnx_operators.norms import NORMS
from techniques.onnx_operators.pools import POOLS
from techniques.onnx_operators.quantized import QUANTIZED
from techniques.onnx_operators.recurrent import RECURRENT
from techniques.onnx_operators.reductions import REDUCTIONS
from techniques.onnx_operators.resize import RESIZES

OPERATORS: dict[str, Converter] = (
    LAYERS | NORMS | POOLS | RECURRENT | ELEMENTWISE | REDUCTIONS | MOVES | INDEXING | RESIZES | QUANTIZED
)
"""Operators with a mapping for values that depend on the image."""
