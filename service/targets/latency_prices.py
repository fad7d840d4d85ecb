"""What a stored model takes on targets: its operator graph, at a batch size and after a recipe, through their predictors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from hw_models.graph import OperatorGraph
from hw_models.predictor import Prediction, Predictor
from search.protocols import BlobStore
from search.target_facts import facts_of
from service.errors import InvalidRequestError
from service.intake.sandbox import run_in_sandbox
from service.store.input_store import StoredInput
from techniques.facts import TargetFacts


@dataclass(frozen=True)
class Priced:
    """A prediction, and the multiply-accumulates of one run."""

    prediction: Prediction
    macs: int


class LatencyPricing:
    """Prices models. The operator graph of an original lies in the blobs; anything else is made in a sandbox child."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        # Predictors are shared, remember prices, and are not made for several threads at once.
        self._lock = threading.Lock()

    def price(self, model: StoredInput, predictors: Sequence[Predictor], batch_size: int, recipe_json: str) -> list[Priced]:
        """One price per predictor, in their order.

        Raises:
            InvalidRequestError: the recipe cannot be applied to the model.
        """
        if not recipe_json and batch_size == 1:
            graph = OperatorGraph.from_json(self._blobs.get_bytes(model.model.graph_sha256).decode())
            graphs = [graph] * len(predictors)
        else:
            graphs = self._described(model, [facts_of(p.target) for p in predictors], batch_size, recipe_json)
        with self._lock:
            return [Priced(p.predict(g), g.macs()) for p, g in zip(predictors, graphs, strict=True)]

    def _described(
        self, model: StoredInput, facts: Sequence[TargetFacts], batch_size: int, recipe_json: str
    ) -> list[OperatorGraph]:
        distinct = list(dict.fromkeys(facts)) if recipe_json else [facts[0]]
        network = self._blobs.local_path(model.model.canonical_sha256)
        arguments = {
            "network_path": str(network),
            "recipe_json": recipe_json,
            "batch_size": batch_size,
            "facts": [one.to_json() for one in distinct],
        }
        answer = run_in_sandbox("service.child_functions:describe_with_recipe", arguments, readable=[network])
        if "refused" in answer:
            raise InvalidRequestError.of("recipe_json", answer["refused"])
        graphs = dict(zip(distinct, map(OperatorGraph.from_json, answer["graphs"]), strict=True))
        return [graphs[one if recipe_json else distinct[0]] for one in facts]
