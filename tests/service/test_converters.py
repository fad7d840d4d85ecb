from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from hw_models.targets import get_target
from paretopress.v1 import dataset_pb2, search_pb2
from search.errors import FieldViolation
from search.preprocessing import Preprocessing
from search.spec import SearchSpec
from service.converters.candidates import candidate_to_proto
from service.converters.enums import METRICS, PREFERENCES, RANGES, SIZES
from service.converters.inputs import dataset_request_from_proto, preprocessing_from_proto, preprocessing_to_proto
from service.converters.searches import Lookups, event_to_proto, search_from_proto
from service.errors import InvalidRequestError
from service.resources import CandidateName, SearchName
from service.store.input_store import StoredInput
from service.store.search_catalogue import StoredEvent
from tests.service.fakes import dataset_facts, model_facts, record


def stored(name: str, facts: dict[str, Any]) -> StoredInput:
    return StoredInput(name, "default", "", "onnx", "0" * 64, 1, facts, 0.0)


def lookups(model: dict[str, Any] | None = None, dataset: dict[str, Any] | None = None) -> Lookups:
    models = stored("projects/default/models/m", {**model_facts(), **(model or {})})
    datasets = stored("projects/default/datasets/d", {**dataset_facts(), **(dataset or {})})
    targets = {"cpu-ort-1t": get_target("cpu-ort-1t")}
    return Lookups({models.name: models}.get, {datasets.name: datasets}.get, targets, lambda: ("low_rank", "int8"))


def request() -> search_pb2.CreateSearchRequest:
    made = search_pb2.CreateSearchRequest(parent="projects/default")
    made.search.model, made.search.dataset = "projects/default/models/m", "projects/default/datasets/d"
    made.search.target = "projects/default/targets/cpu-ort-1t"
    made.search.budget.latency_ms = 2.0
    made.search.budget.max_accuracy_drop_points = 1.0
    return made


def test_a_whole_request_becomes_its_spec() -> None:
    made = request()
    made.search.budget.size_bytes, made.search.budget.size_kind = 1000, search_pb2.Budget.WEIGHT_SIZE
    made.search.budget.batch_size, made.search.budget.confidence = 4, 0.95
    made.search.metric, made.search.preference = search_pb2.MACRO_F1, search_pb2.BALANCED
    made.search.expected_accuracy = 0.9
    made.search.scopes.append("layer*")
    made.search.techniques.append("low_rank")
    made.search.effort.max_trials, made.search.effort.seed, made.search.effort.max_epochs = 7, 5, 0.0
    made.search.effort.max_wall_time.seconds = 90
    spec = search_from_proto(made, lookups()).spec
    assert spec == SearchSpec.from_json(spec.to_json())
    assert (spec.model_sha256, spec.dataset_sha256, spec.target) == ("a" * 64, "d" * 64, "cpu-ort-1t")
    assert (spec.budget.size_name, spec.budget.size_bytes, spec.budget.batch_size) == ("weight_size_bytes", 1000, 4)
    assert (spec.metric, spec.preference, spec.expected_accuracy) == ("macro_f1", "balanced", 0.9)
    assert (spec.scopes, spec.techniques) == (("layer*",), ("low_rank",))
    assert (spec.effort.max_trials, spec.effort.seed, spec.effort.max_epochs) == (7, 5, 0.0)
    assert spec.effort.max_wall_time_s == 90


def test_what_is_not_set_takes_the_defaults() -> None:
    spec = search_from_proto(request(), lookups()).spec
    assert spec.effort == type(spec.effort)()
    assert (spec.metric, spec.preference, spec.scopes, spec.budget.batch_size) == ("top1", "fastest", ("*",), 1)
    assert spec.budget.macs is None


@dataclass(frozen=True)
class Refused:
    """A request that is wrong in one place."""

    id: str
    change: Callable[[search_pb2.Search], Any]
    field: str
    model: dict[str, Any] | None = None
    dataset: dict[str, Any] | None = None


def set_fields(**values: Any) -> Callable[[search_pb2.Search], None]:
    def change(search: search_pb2.Search) -> None:
        for name, value in values.items():
            setattr(search, name, value)

    return change


AGREEMENT = set_fields(metric=search_pb2.AGREEMENT, expected_accuracy=0.9)
CASES = [
    Refused("unknown technique", lambda s: s.techniques.append("magic"), "search.techniques"),
    Refused("expected accuracy at chance", set_fields(expected_accuracy=0.1), "search.expected_accuracy"),
    Refused("expected accuracy of agreement", AGREEMENT, "search.expected_accuracy"),
    Refused("labels are missing", lambda s: None, "search.metric", dataset={"labeled": False}),
    Refused("no classifier", lambda s: None, "search.metric", model={"is_classifier": False}),
    Refused("other image size", lambda s: None, "search.dataset", model={"input_shape": [3, 32, 32]}),
    Refused("more classes than outputs", lambda s: None, "search.dataset", model={"outputs": 9}),
    Refused("classes that one logit cannot tell apart", lambda s: None, "search.dataset", model={"outputs": 1}),
    Refused("no limit", lambda s: s.ClearField("budget"), "search.budget"),
    Refused("unknown preference", set_fields(preference=42), "search.preference"),
    Refused("endless title", set_fields(display_name="x" * 1001), "search.display_name"),
    Refused("title that a terminal obeys", set_fields(display_name="a\x1b[31m"), "search.display_name"),
    Refused("endless pattern", lambda s: s.scopes.extend(["a", "x" * 1001]), "search.scopes[1]"),
    Refused("patterns without end", lambda s: s.scopes.extend(["*"] * 1001), "search.scopes"),
    Refused("name of another collection", set_fields(model="projects/default/datasets/d"), "search.model"),
    Refused("infinite latency", lambda s: set_fields(latency_ms=math.inf)(s.budget), "search.budget.latency_ms"),  # type: ignore[arg-type]
    Refused("negative wall time", lambda s: setattr(s.effort.max_wall_time, "seconds", -1), "search.effort.max_wall_time"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_field_is_named(case: Refused) -> None:
    made = request()
    case.change(made.search)
    with pytest.raises(InvalidRequestError) as error:
        search_from_proto(made, lookups(case.model, case.dataset))
    assert case.field in {v.field for v in error.value.violations}


def test_label_free_data_goes_with_agreement() -> None:
    made = request()
    made.search.metric = search_pb2.AGREEMENT
    facts: dict[str, Any] = {"labeled": False, "class_names": []}
    assert search_from_proto(made, lookups({"is_classifier": False}, facts)).spec.metric == "agreement"


def test_a_single_logit_tells_two_classes_apart() -> None:
    made = search_from_proto(request(), lookups({"outputs": 1}, {"class_names": ["even", "odd"]}))
    assert made.spec.metric == "top1"


@pytest.mark.parametrize("pairs", [METRICS, PREFERENCES, SIZES, RANGES], ids=["metric", "preference", "size", "range"])
def test_every_word_has_its_number(pairs: Any) -> None:
    for number, word in pairs._words.items():
        assert pairs.number(word) == number
        assert pairs.word(number, "x", []) == word


def test_preprocessing_goes_there_and_back() -> None:
    stated = Preprocessing(24, 32, 3, "shortest_side", "center", 40, (0.1, 0.2, 0.3), (1.0,), "nchw", "0..255", "bicubic")
    assert preprocessing_from_proto(preprocessing_to_proto(stated), "p", []) == stated


def test_names_of_classes_reach_intake_in_their_order_and_each_once() -> None:
    stated = preprocessing_to_proto(Preprocessing(8, 8, 1))
    dataset = dataset_pb2.Dataset(format=dataset_pb2.Dataset.ZIP, preprocessing=stated)

    def read(*names: str) -> tuple[dict[str, Any], list[str]]:
        options = dataset_pb2.DatasetOptions(class_names=names)
        request = dataset_pb2.ImportDatasetRequest(parent="projects/default", dataset=dataset, options=options)
        found: list[FieldViolation] = []
        return dataset_request_from_proto(request, found).options, [f"{v.field} {v.description}" for v in found]

    assert read("2", "10", "1") == ({"skip_bad": False, "augment": "shift", "class_names": ["2", "10", "1"]}, [])
    assert "class_names" not in read()[0]
    assert read("\u00e9", "e\u0301")[1] == ["options.class_names must have each name once, got '\u00e9' again"]
    assert read("a", " ")[1] == ["options.class_names must not have an empty name"]


def test_a_candidate_keeps_what_is_not_known_unset() -> None:
    proto = candidate_to_proto("projects/p/searches/s", replace(record(1), feasible=None, drop_points={}))
    assert not proto.HasField("feasible")
    assert not proto.accuracies["validation"].HasField("drop_points")
    assert not proto.accuracies["validation"].HasField("low")
    assert proto.accuracies["selection"].high == 0.92


def test_infinities_in_events_become_words() -> None:
    event = event_to_proto(StoredEvent(1, "front", "x", {"a": [math.inf, {"b": math.nan}], "c": 1.5}, 0.0))
    assert event.payload["a"][0] == "inf"
    assert event.payload["a"][1]["b"] == "nan"
    assert event.payload["c"] == 1.5


def test_names_are_parsed_and_built_in_one_place() -> None:
    name = CandidateName.from_name("projects/p/searches/s/candidates/c0001")
    assert (name.candidate, name.search_name) == ("c0001", "projects/p/searches/s")
    assert SearchName("p", "s").name == "projects/p/searches/s"
    for bad in ("", "projects/p", "projects/p/searches/S", "projects/p/searches/s/", "projects/../searches/s"):
        with pytest.raises(InvalidRequestError):
            SearchName.from_name(bad)
