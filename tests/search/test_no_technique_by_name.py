"""The search knows axes, places, losses and prices, and no technique by name (contract 12)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from techniques.registry import all_techniques

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("search", "service", "paretopress")
NAMES = [technique.name for technique in all_techniques()]
CLASSES = [type(technique).__name__ for technique in all_techniques()]


def _sources() -> Iterator[Path]:
    for room in ROOMS:
        yield from (path for path in (ROOT / room).rglob("*.py") if "v1" not in path.parts)


def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
    return "\n".join(line.partition("  #")[0] for line in lines)


@pytest.mark.parametrize("name", [*NAMES, *CLASSES])
def test_no_technique_is_known_by_name(name: str) -> None:
    word = re.compile(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])")
    found = [str(path.relative_to(ROOT)) for path in _sources() if word.search(_without_docstrings(path.read_text()))]
    assert found == []


def test_the_search_imports_no_technique() -> None:
    modules = "|".join(re.escape(type(technique).__module__) for technique in all_techniques())
    imports = re.compile(rf"^(?:from|import) (?:{modules})\b", re.MULTILINE)
    assert [str(path.relative_to(ROOT)) for path in _sources() if imports.search(path.read_text())] == []
