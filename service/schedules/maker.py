"""From a template to the search of one run: model and dataset are looked up as they are now."""

from __future__ import annotations

from dataclasses import replace

from service.errors import PreconditionError
from service.estimate import Estimator
from service.matching import mismatches
from service.schedules.spec import SearchTemplate
from service.store.input_store import InputStore, StoredInput
from service.store.search_catalogue import NewSearch


class SearchMaker:
    """Makes searches that can be queued. In a write transaction nothing that it has looked up is deleted meanwhile."""

    def __init__(self, models: InputStore, datasets: InputStore, estimator: Estimator) -> None:
        self._models = models
        self._datasets = datasets
        self._estimator = estimator

    def make(self, template: SearchTemplate, project: str, name: str, model_name: str) -> NewSearch:
        """A valid search of a model.

        Raises:
            PreconditionError: model or dataset are gone, or no longer go together; the message says what to do.
        """
        model = _present(self._models, model_name)
        dataset = _present(self._datasets, template.dataset)
        model_sha256, dataset_sha256 = model.model.canonical_sha256, dataset.dataset.canonical_sha256
        spec = replace(template.spec, model_sha256=model_sha256, dataset_sha256=dataset_sha256)
        found = mismatches(spec, model, dataset)
        if found:
            words = "; ".join(f"{violation.field}: {violation.description}" for violation in found)
            raise PreconditionError(f"{model.name} and the template do not go together: {words}; update the schedule's template")
        return NewSearch(
            name=name,
            project=project,
            display_name=template.display_name,
            model=model.name,
            dataset=dataset.name,
            spec=spec,
            estimated_duration_s=self._estimator.plan(spec, model, dataset).duration_s,
            dataset_notes=dataset.dataset.notes,
        )


def _present(inputs: InputStore, name: str) -> StoredInput:
    found = inputs.find(name)
    if found is None:
        raise PreconditionError(f"{name} does not exist any more; upload it again, or update the schedule's template")
    return found
