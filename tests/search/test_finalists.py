from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from hw_models.predictor import Predictor
from hw_models.targets import get_target
from search import baseline
from search.composition import sparing
from search.errors import BaselineError
from search.evaluation.file_proof import FileDiffersError
from search.finalists import export
from search.pricing import Pricer
from search.runtimes.onnx_runtime import OnnxFile
from techniques.apply import apply_recipe
from techniques.context import TechniqueContext
from techniques.lift import from_module
from techniques.network import Network
from techniques.quantization.layers import QuantizedConv2d
from techniques.recipe import Recipe, Step
from tests.search.memory import FolderBlobs
from tests.search.records import candidate
from tests.techniques.digits import TensorSource

IMAGES = torch.randn(16, 1, 12, 12, generator=torch.Generator().manual_seed(0))
TARGET = get_target("cpu-ort-1t")
INT8 = Recipe((Step("int8_quantization", {"reduce_range": True}),))


def network() -> Network:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten()
    )
    return from_module(nn.Sequential(*module, nn.Linear(512, 4)).eval(), (1, 12, 12)).eval()


PRICER = Pricer(network(), Predictor.uncalibrated(TARGET))


@dataclass
class Evaluator:
    """Builds the recipe; a bias of layer 3, once it is on integers, is one that wraps in the runtime if ``wraps``."""

    wraps: bool = False
    built: list[Recipe] = field(default_factory=list)
    read_networks: list[Network] = field(default_factory=list)
    files: Any = field(default_factory=lambda: SimpleNamespace(checkpoint=lambda number: Path(f"c{number}")))

    def build(self, recipe: Recipe, rung: int, checkpoint: Path | None, last_steps: int = 0) -> Network:
        self.built.append(recipe)
        result = apply_recipe(network(), recipe, TechniqueContext(calibration=TensorSource(IMAGES)))
        layer = result.layers()["3"]
        if self.wraps and isinstance(layer, QuantizedConv2d):
            with torch.no_grad():
                layer.weight_scale[:4] = 1e-12
                layer.bias[:4] = 0.8  # type: ignore[index]
        return result

    def read(self, network: Network) -> dict[str, Any]:
        self.read_networks.append(network)
        return {"accuracy": 0.5, "interval": [0.4, 0.6], "drop_points": [40.0, 39.0, 41.0]}

    def loaded(self) -> Any:
        def batches(size: int) -> Iterator[tuple[None, Tensor]]:
            yield None, IMAGES[:size]

        return SimpleNamespace(validation=SimpleNamespace(batches=batches))


def test_counts_are_those_of_the_file_and_not_of_the_price(tmp_path: Path) -> None:
    blobs, record = FolderBlobs(tmp_path), replace(candidate(1, 0.0, 1.0), recipe_json=INT8.to_json())
    evaluator = Evaluator()
    exported = export(record, evaluator, PRICER, blobs, TARGET)  # type: ignore[arg-type]
    found = exported.record
    assert found.measurements["macs"].value == 100 * 8 * 9 + 64 * 8 * 72 + 2048
    assert found.measurements["parameters"].value == (72 + 8) + (576 + 8) + (2048 + 4)
    assert found.state == "finalist"
    assert found.recipe_json == record.recipe_json
    assert (exported.note, evaluator.read_networks) == ("", [])
    assert found.measurements["predicted_latency_ms"] == record.measurements["latency_ms"]


def test_layers_in_which_the_file_differs_stay_float(tmp_path: Path) -> None:
    blobs, record = FolderBlobs(tmp_path), replace(candidate(1, 0.0, 1.0), recipe_json=INT8.to_json())
    evaluator = Evaluator(wraps=True)
    exported = export(record, evaluator, PRICER, blobs, TARGET)  # type: ignore[arg-type]
    recipe = Recipe.from_json(exported.record.recipe_json)
    assert recipe.steps[0].config == {"reduce_range": True, "exclude": ["3"]}
    assert evaluator.built == [INT8, recipe]
    assert blobs.get_bytes(exported.record.artifacts["recipe.json"]).decode() == recipe.to_json()
    constants = {t.name: t for t in onnx.load_from_string(exported.file).graph.initializer}
    assert any(t.data_type == onnx.TensorProto.FLOAT and tuple(t.dims) == (8, 8, 3, 3) for t in constants.values())


def test_a_finalist_that_was_changed_is_read_and_priced_anew_and_says_so(tmp_path: Path) -> None:
    tried = candidate(1, 0.0, 1.0, split="validation")
    record, evaluator = replace(tried, recipe_json=INT8.to_json(), policy={"bits": "int8_quantization:int8"}), Evaluator(wraps=True)
    exported = export(record, evaluator, PRICER, FolderBlobs(tmp_path), TARGET)  # type: ignore[arg-type]
    found, price = exported.record, PRICER.price(Recipe.from_json(exported.record.recipe_json))
    assert len(evaluator.read_networks) == 1
    assert not isinstance(evaluator.read_networks[0].layers()["3"], QuantizedConv2d)
    assert found.accuracy == {"validation": 0.5}
    assert found.accuracy_interval == {"validation": (0.4, 0.6)}
    assert found.drop_points == {"validation": (40.0, 39.0, 41.0)}
    assert found.measurements["latency_ms"] == found.measurements["predicted_latency_ms"] == price.latency
    assert price.latency.value != PRICER.price(INT8).latency.value
    assert found.policy == record.policy
    assert exported.note.startswith("c0001 was changed after it was tried")


def test_a_file_that_still_differs_fails_with_its_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = replace(candidate(1, 0.0, 1.0), recipe_json=INT8.to_json())
    monkeypatch.setattr("search.finalists.sparing", lambda recipe, layers: None)
    with pytest.raises(FileDiffersError, match=r"layers 3\)"):
        export(record, Evaluator(wraps=True), PRICER, FolderBlobs(tmp_path), TARGET)  # type: ignore[arg-type]


def test_an_original_whose_file_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original, wrong = network(), from_module(nn.Sequential(nn.Flatten(), nn.Linear(144, 4)).eval(), (1, 12, 12))
    write = OnnxFile.write
    monkeypatch.setattr(OnnxFile, "write", lambda self, network, batch: write(self, wrong, batch))
    view = SimpleNamespace(batches=lambda size: iter([(None, IMAGES[:size])]))
    spec = SimpleNamespace(budget=SimpleNamespace(batch_size=1), target="cpu-ort-1t")
    with pytest.raises(BaselineError, match="exported faithfully"):
        baseline._proven_file(spec, original, SimpleNamespace(split=lambda name: view), get_target("cpu-ort-1t"))  # type: ignore[arg-type]


def test_a_recipe_without_integers_has_nothing_to_keep_in_float() -> None:
    assert sparing(Recipe((Step("structured_pruning", {"ratios": {}}),)), ["3"]) is None
    assert sparing(INT8, []) is None
    assert sparing(sparing(INT8, ["3"]) or INT8, ["3"]) is None
