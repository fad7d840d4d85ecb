"""Models in MLflow's registry: fetched by alias or version, registered under an alias; found by tag before they are made."""

from __future__ import annotations

import contextlib
import posixpath
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow.onnx
import onnx
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from search.tracking.base import TrackingError
from search.tracking.mlflow_tracker import SEARCH_TAG, MlflowTracker
from search.tracking.registry import OnnxModel, RegistryRefusedError

_REFUSALS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND", "PERMISSION_DENIED")
_FLAVOUR, _DESCRIPTION = "onnx", "MLmodel"
_ARTIFACT_FOLDER = "registered_model"
_REQUIREMENTS = ["onnxruntime"]


class MlflowRegistry:
    """A `search.tracking.registry.ModelRegistry` on any MLflow tracking URI.

    Args:
        tracker: of the same MLflow; a registered result belongs to its search's run.
    """

    def __init__(self, tracking_uri: str, tracker: MlflowTracker) -> None:
        self._uri = tracking_uri
        self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        self._tracker = tracker

    def version_of(self, model_name: str, alias: str) -> str:
        """The version that an alias points at now."""
        with _translated(f"models:/{model_name}@{alias}"):
            return str(self._client.get_model_version_by_alias(model_name, alias).version)

    def download(self, model_name: str, version: str, folder: Path, max_bytes: int) -> OnnxModel:
        """Fetch a version into an empty folder."""
        where = f"models:/{model_name}/{version}"
        with _translated(where):
            repository = get_artifact_repository(where, tracking_uri=self._uri, registry_uri=self._uri)
            size = sum(size for _, size in _files(repository, ""))
            if size > max_bytes:
                raise RegistryRefusedError(f"{where} has {size:,} bytes, and this server takes models of at most {max_bytes:,}")
            repository.download_artifacts("", str(folder))
            return OnnxModel(folder, _onnx_file(folder, where))

    def register(self, model_name: str, alias: str, search_name: str, onnx_path: Path) -> str:
        """Register a search's result under an alias."""
        with _translated(f"models:/{model_name}@{alias}"):
            known = self._registered(model_name, search_name)
            version = known or self._create(model_name, search_name, onnx_path)
            self._client.set_registered_model_alias(model_name, alias, version)
            return version

    def _registered(self, model_name: str, search_name: str) -> str:
        found = self._client.search_model_versions(f"name = '{model_name}' and tags.`{SEARCH_TAG}` = '{search_name}'")
        return str(found[0].version) if found else ""

    def _create(self, model_name: str, search_name: str, onnx_path: Path) -> str:
        try:
            self._client.create_registered_model(model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        run_id = self._tracker.parent_run(search_name)
        with tempfile.TemporaryDirectory(prefix="paretopress-register-") as folder:
            packed = Path(folder) / _ARTIFACT_FOLDER
            mlflow.onnx.save_model(onnx.load(onnx_path), packed, pip_requirements=_REQUIREMENTS, save_as_external_data=False)
            self._client.log_artifacts(run_id, str(packed), _ARTIFACT_FOLDER)
        source = posixpath.join(self._client.get_run(run_id).info.artifact_uri, _ARTIFACT_FOLDER)
        tags = {SEARCH_TAG: search_name}
        made: ModelVersion = self._client.create_model_version(model_name, source, run_id, tags=tags)
        return str(made.version)


def _files(repository: ArtifactRepository, folder: str) -> Iterator[tuple[str, int]]:
    for entry in repository.list_artifacts(folder):
        if entry.is_dir:
            yield from _files(repository, entry.path)
        else:
            yield entry.path, int(entry.file_size or 0)


def _onnx_file(folder: Path, where: str) -> Path:
    flavours = Model.load(str(folder / _DESCRIPTION)).flavors if (folder / _DESCRIPTION).is_file() else {}
    if _FLAVOUR not in flavours:
        words = f"has the flavours {sorted(flavours)}" if flavours else "is no logged model"
        raise RegistryRefusedError(
            f"{where} {words}; only models of the onnx flavour can be taken: log it with mlflow.onnx.log_model"
        )
    path = (folder / str(flavours[_FLAVOUR].get("data", ""))).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise RegistryRefusedError(f"{where}: its ONNX file is missing; log it again with mlflow.onnx.log_model")
    return path


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    """MLflow's errors: what the registry refuses apart from what may pass."""
    try:
        yield
    except MlflowException as error:
        if error.error_code in _REFUSALS:
            raise RegistryRefusedError(f"{where}: {error.message}; check the name, and that the alias is set") from error
        raise TrackingError(f"{where}: MLflow did not answer: {error}") from error
    except OSError as error:
        raise TrackingError(f"{where}: MLflow could not be reached: {error}") from error
