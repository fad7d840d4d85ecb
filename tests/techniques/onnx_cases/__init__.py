"""Tiny ONNX models around one operator or a few, those that are read and those that are refused."""

from tests.techniques.onnx_cases.elementwise import ARITHMETIC, COMPARED, LOGIC
from tests.techniques.onnx_cases.indexed import BAKED, DEEP, INDEXED, ODD, RECURRENT, WRAPPED
from tests.techniques.onnx_cases.layers import CONVOLVED, POOLED, PRODUCTS, REDUCED
from tests.techniques.onnx_cases.models import Case
from tests.techniques.onnx_cases.moves import MOVED
from tests.techniques.onnx_cases.refusals import REFUSALS, Refusal
from tests.techniques.onnx_cases.resizes import RESIZED, ROUNDED

NUMBERS = [*ARITHMETIC, *COMPARED, *LOGIC, *REDUCED, *ODD]
LAYERS = [*POOLED, *CONVOLVED, *PRODUCTS, *DEEP, *RECURRENT, *RESIZED, *ROUNDED]
CASES = [*NUMBERS, *LAYERS, *MOVED, *INDEXED, *WRAPPED, *BAKED]

__all__ = ["CASES", "REFUSALS", "Case", "Refusal"]
