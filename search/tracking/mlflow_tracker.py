"""Candidates in MLflow: one parent run per search, one child run per candidate, found by tag before they are created."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE
from mlflow.utils.time import get_current_time_millis

from search.protocols import CandidateRecord
from search.tracking.base import EndState, TrackingError, TrackingRefusedError, metric_name
from search.tracking.described import TITLE, search_description
from techniques.recipe import Recipe

SEARCH_TAG, CANDIDATE_TAG = "paretopress.search", "paretopress.candidate"
_MAX_PARAM_LENGTH, _MAX_TAG_LENGTH = 6000, 5000
_BATCH = 100
STATE_TAG = "paretopress.state"
_STATUS: Mapping[EndState, str] = {"SUCCEEDED": "FINISHED", "INFEASIBLE": "FAILED", "CANCELLED": "KILLED", "FAILED": "FAILED"}
"""MLflow shows these by colour: only what found something is green."""
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
# MLflow's client tries for minutes by default, and the search waits with it; and it sends a request that creates a run again as it
# is, which may make two. The outbox tries later instead, and looks for the run first.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
# Lines for people in a log that may be JSON.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


class MlflowTracker:
    """A `search.tracking.base.Tracker` on any MLflow tracking URI.

    Args:
        tracking_uri: such as ``sqlite:////data/mlflow.db`` or ``http://mlflow:5000``.
        experiment: created when it is missing.
        artifact_location: for a new experiment on a database backend; a server decides for itself.
    """

    def __init__(self, tracking_uri: str, experiment: str = "paretopress", artifact_location: str | None = None) -> None:
        self._client = MlflowClient(tracking_uri=tracking_uri)
        self._experiment_name = experiment
        self._artifact_location = artifact_location
        self._experiment_id: str | None = None
        self._run_ids: dict[tuple[str, str], str] = {}

    def start_search(self, search_name: str, parameters: Mapping[str, str]) -> str:
        """Create or find the parent run; returns its id. It is called by the search's title where there is one, and described.
        MLflow's parameters stay what they were first, so those of an extended search become tags."""
        with _translated():
            run_id = self.parent_run(search_name)
            known = self._client.get_run(run_id).data.params
            self._log(run_id, {name: value for name, value in parameters.items() if name not in known}, {})
            for name, value in parameters.items():
                if name in known and known[name] != value[:_MAX_PARAM_LENGTH]:
                    self._client.set_tag(run_id, f"paretopress.{name}", value[:_MAX_TAG_LENGTH])
            shown = {MLFLOW_RUN_NAME: parameters.get(TITLE, ""), MLFLOW_RUN_NOTE: search_description(parameters)}
            for name, value in shown.items():
                if value:
                    self._client.set_tag(run_id, name, value[:_MAX_TAG_LENGTH])
            self._client.set_tag(run_id, STATE_TAG, "RUNNING")
            self._client.update_run(run_id, "RUNNING")  # one that goes on may have been closed
            return run_id

    def log_candidate(self, search_name: str, record: CandidateRecord) -> str:
        """Create or update the child run: parameters are the flat recipe, metrics the measurements."""
        with _translated():
            parent = self.parent_run(search_name)
            tags = {MLFLOW_PARENT_RUN_ID: parent}
            began = get_current_time_millis() - round(1000 * record.duration_s)
            run_id = self._find_or_create(search_name, record.candidate_id, record.candidate_id, tags, began)
            parameters = {**Recipe.from_json(record.recipe_json).flat(), "seed": str(record.seed)}
            parameters |= {f"policy.{name}": str(value) for name, value in record.policy.items()}
            self._log(run_id, parameters, candidate_metrics(record))
            shown = f"{record.candidate_id} (best)" if record.state == "best" else record.candidate_id
            tags = {STATE_TAG: record.state, "paretopress.feasible": str(record.feasible), MLFLOW_RUN_NAME: shown}
            for name, value in tags.items():
                self._client.set_tag(run_id, name, value)
            recipe = json.dumps({**json.loads(record.recipe_json), "rung": record.rung, "seed": record.seed}, indent=1)
            self._client.log_text(run_id, recipe, "recipe.json")
            began = self._client.get_run(run_id).info.start_time
            ended = began + round(1000 * record.duration_s)
            self._client.set_terminated(run_id, "FAILED" if record.state == "failed" else "FINISHED", ended)
            return run_id

    def log_artifact(self, search_name: str, candidate_id: str | None, path: Path, artifact_name: str) -> None:
        """Attach a file under its own name; its bytes are read where they lie."""
        with _translated():
            if candidate_id:
                run_id = self._find_or_create(search_name, candidate_id, candidate_id, {})
            else:
                run_id = self.parent_run(search_name)
            folder, _, leaf = artifact_name.rpartition("/")
            if path.name != leaf:
                raise ValueError(f"artifact file {path.name!r} must be called {leaf!r}")
            self._client.log_artifact(run_id, str(path), folder or None)

    def end_search(self, search_name: str, metrics: Mapping[str, float], state: EndState) -> None:
        """Close the parent run with the best candidate's numbers."""
        with _translated():
            run_id = self.parent_run(search_name)
            self._log(run_id, {}, metrics)
            self._client.set_tag(run_id, STATE_TAG, state)
            self._client.set_terminated(run_id, _STATUS[state])

    def parent_run(self, search_name: str) -> str:
        """The id of the search's run as it is, created if there is none."""
        return self._find_or_create(search_name, "", search_name.rpartition("/")[2], {})

    def _find_or_create(
        self, search_name: str, candidate_id: str, run_name: str, tags: Mapping[str, str], began: int | None = None
    ) -> str:
        key = (search_name, candidate_id)
        if key not in self._run_ids:
            experiment = self._experiment()
            found = self._find(experiment, search_name, candidate_id)
            all_tags = {**tags, SEARCH_TAG: search_name, CANDIDATE_TAG: candidate_id, MLFLOW_RUN_NAME: run_name}
            run = found or self._client.create_run(experiment, began, all_tags, run_name)
            self._run_ids[key] = run.info.run_id
        return self._run_ids[key]

    def _find(self, experiment: str, search_name: str, candidate_id: str) -> Run | None:
        query = f"tags.`{SEARCH_TAG}` = '{search_name}' and tags.`{CANDIDATE_TAG}` = '{candidate_id}'"
        runs = self._client.search_runs([experiment], query, max_results=1)
        return runs[0] if runs else None

    def _experiment(self) -> str:
        if self._experiment_id is None:
            found = self._client.get_experiment_by_name(self._experiment_name)
            if found is None:
                self._experiment_id = self._client.create_experiment(self._experiment_name, self._artifact_location)
            else:
                self._experiment_id = found.experiment_id
        return str(self._experiment_id)

    def _log(self, run_id: str, parameters: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        now = get_current_time_millis()
        values = [Metric(name, value, now, 0) for name, value in metrics.items() if math.isfinite(value)]
        params = [Param(name[:250], value[:_MAX_PARAM_LENGTH]) for name, value in parameters.items()]
        tags: list[RunTag] = []
        for start in range(0, max(len(params), len(values)), _BATCH):
            part = slice(start, start + _BATCH)
            self._client.log_batch(run_id, values[part], params[part], tags)


def candidate_metrics(record: CandidateRecord) -> dict[str, float]:
    """A candidate's numbers as flat metrics; predicted latency never shares a name with the measured one."""
    metrics: dict[str, float] = {"rung": float(record.rung), "duration_s": record.duration_s}
    for split, value in record.accuracy.items():
        metrics[f"accuracy_{split}"] = value
    for split, (estimate, low, high) in record.drop_points.items():
        metrics |= {f"drop_points_{split}": estimate, f"drop_points_{split}_low": low, f"drop_points_{split}_high": high}
    for name, measurement in record.measurements.items():
        name = metric_name(name, measurement)
        metrics[name] = measurement.value
        if measurement.spread:
            metrics[f"{name}_spread"] = measurement.spread
    return metrics


class _translated:  # noqa: N801 - reads as a statement
    """Turn MLflow's and connections' failures into those of the tracker's contract."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, MlflowException) and error.error_code in _REFUSALS:
            raise TrackingRefusedError(f"MLflow refuses it: {error.message}") from error
        if isinstance(error, MlflowException | OSError):
            raise TrackingError(f"MLflow did not take it: {error}") from error
