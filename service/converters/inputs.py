"""Models, datasets and their uploads."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paretopress.v1 import dataset_pb2, model_pb2, upload_pb2
from search.errors import FieldViolation
from search.preprocessing import Preprocessing
from service.converters import enums
from service.errors import InvalidRequestError
from service.resources import ID_RULE, DatasetName, ModelName, ProjectName, is_resource_id, new_id
from service.store.input_store import InputKind, StoredInput
from service.store.upload_store import UploadProgress, UploadSpec

MAX_TEXT_LENGTH = 1000


@dataclass(frozen=True)
class ModelUpload:
    """A valid announcement of a model."""

    name: str
    project: str
    display_name: str
    format: str
    options: dict[str, Any]
    upload: UploadSpec

    @property
    def options_sha256(self) -> str:
        """Of what decides, beside the bytes, what the model is."""
        return _options_sha256(self.options)


@dataclass(frozen=True)
class DatasetRequest:
    """A valid announcement of a dataset, uploaded or on the server."""

    name: str
    project: str
    display_name: str
    format: str
    preprocessing: Preprocessing
    options: dict[str, Any]

    @property
    def options_sha256(self) -> str:
        """Of what decides, beside the bytes, what the dataset is."""
        return _options_sha256({**self.options, "preprocessing": self.preprocessing.to_json()})


def _options_sha256(options: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


def parse_parent(parent: str, found: list[FieldViolation]) -> ProjectName:
    """The project of a request; a violation is noted for what is none."""
    try:
        return ProjectName.from_name(parent, "parent")
    except InvalidRequestError as error:
        found.extend(error.violations)
        return ProjectName("default")


def choose_id(given: str, prefix: str, field: str, found: list[FieldViolation]) -> str:
    """The id that the client wants, or a fresh one."""
    if given and not is_resource_id(given):
        found.append(FieldViolation(field, f"must be {ID_RULE}, got {given!r}"))
    return given or new_id(prefix)


def check_text(text: str, field: str, found: list[FieldViolation]) -> None:
    """A title or a pattern: it comes back in every list, so it must be short; and a terminal must not obey it."""
    if len(text) > MAX_TEXT_LENGTH:
        found.append(FieldViolation(field, f"must have at most {MAX_TEXT_LENGTH:,} characters, got {len(text):,}"))
    elif any(unicodedata.category(character) == "Cc" for character in text):
        found.append(FieldViolation(field, "must not have control characters"))


def upload_spec(header: upload_pb2.UploadHeader, project: str, kind: InputKind, found: list[FieldViolation]) -> UploadSpec:
    """The announced file."""
    spec = UploadSpec(project, kind, header.upload_id, header.size_bytes, header.sha256)
    found.extend(spec.violations())
    if header.offset < 0:
        found.append(FieldViolation("upload.offset", f"must not be negative, got {header.offset}"))
    return spec


def model_upload_from_proto(metadata: model_pb2.UploadModelMetadata) -> ModelUpload:
    """Read the first message of a model upload.

    Raises:
        InvalidRequestError: with every bad field.
    """
    found: list[FieldViolation] = []
    project = parse_parent(metadata.parent, found)
    model_id = choose_id(metadata.model_id, "m", "model_id", found)
    check_text(metadata.model.display_name, "model.display_name", found)
    format_name = enums.MODEL_FORMATS.word(metadata.model.format, "model.format", found)
    if (format_name == "architecture") != bool(metadata.model.architecture):
        found.append(FieldViolation("model.architecture", "must be given for format ARCHITECTURE, and for no other"))
    asked = metadata.architecture_options
    sizes = {"channels": asked.channels, "height": asked.height, "width": asked.width, "num_classes": asked.num_classes}
    if format_name != "architecture" and any(sizes.values()):
        found.append(FieldViolation("architecture_options", "only go with format ARCHITECTURE"))
    found += [
        FieldViolation(f"architecture_options.{name}", f"must not be negative, got {value}")
        for name, value in sizes.items()
        if value < 0
    ]
    upload = upload_spec(metadata.upload, project.project, "model", found)
    if found:
        raise InvalidRequestError(found)
    options = {"architecture": metadata.model.architecture, **sizes} if format_name == "architecture" else {}
    name = ModelName(project.project, model_id).name
    return ModelUpload(name, project.project, metadata.model.display_name, format_name, options, upload)


def dataset_request_from_proto(
    request: dataset_pb2.UploadDatasetMetadata | dataset_pb2.ImportDatasetRequest, found: list[FieldViolation]
) -> DatasetRequest:
    """What an upload and an import of a dataset share; violations are collected by the caller."""
    project = parse_parent(request.parent, found)
    dataset_id = choose_id(request.dataset_id, "d", "dataset_id", found)
    check_text(request.dataset.display_name, "dataset.display_name", found)
    format_name = enums.DATASET_FORMATS.word(request.dataset.format, "dataset.format", found)
    preprocessing = preprocessing_from_proto(request.dataset.preprocessing, "dataset.preprocessing", found)
    augment = enums.AUGMENTATIONS.word(request.options.augmentation, "options.augmentation", found)
    options: dict[str, Any] = {"skip_bad": request.options.skip_bad, "augment": augment}
    if request.options.class_names:
        options["class_names"] = _class_names(request.options.class_names, found)
    name = DatasetName(project.project, dataset_id).name
    return DatasetRequest(name, project.project, request.dataset.display_name, format_name, preprocessing, options)


def _class_names(names: Sequence[str], found: list[FieldViolation]) -> list[str]:
    """Stated names; what is empty or there twice cannot name an output."""
    field = "options.class_names"
    for name in dict.fromkeys(names):
        check_text(name, field, found)
    if not all(name.strip() for name in names):
        found.append(FieldViolation(field, "must not have an empty name"))
    twice = [name for name, count in Counter(unicodedata.normalize("NFC", name) for name in names).items() if count > 1]
    if twice:
        found.append(FieldViolation(field, f"must have each name once, got {twice[0]!r} again"))
    return list(names)


def dataset_upload_from_proto(metadata: dataset_pb2.UploadDatasetMetadata) -> tuple[DatasetRequest, UploadSpec]:
    """Read the first message of a dataset upload.

    Raises:
        InvalidRequestError: with every bad field.
    """
    found: list[FieldViolation] = []
    request = dataset_request_from_proto(metadata, found)
    upload = upload_spec(metadata.upload, request.project, "dataset", found)
    if found:
        raise InvalidRequestError(found)
    return request, upload


def preprocessing_from_proto(proto: dataset_pb2.Preprocessing, prefix: str, found: list[FieldViolation]) -> Preprocessing:
    """The stated preprocessing."""
    result = Preprocessing(
        height=proto.height,
        width=proto.width,
        channels=proto.channels or 3,
        resize=enums.RESIZES.word(proto.resize, f"{prefix}.resize", found),
        crop=enums.CROPS.word(proto.crop, f"{prefix}.crop", found),
        resize_size=proto.resize_size,
        mean=tuple(proto.mean) or (0.0,),
        std=tuple(proto.std) or (1.0,),
        layout=enums.LAYOUTS.word(proto.layout, f"{prefix}.layout", found),
        range=enums.RANGES.word(proto.range, f"{prefix}.range", found),
        interpolation=enums.INTERPOLATIONS.word(proto.interpolation, f"{prefix}.interpolation", found),
    )
    found.extend(result.violations(f"{prefix}."))
    return result


def preprocessing_to_proto(value: Preprocessing) -> dataset_pb2.Preprocessing:
    """The same as a proto."""
    return dataset_pb2.Preprocessing(
        height=value.height,
        width=value.width,
        channels=value.channels,
        resize=enums.RESIZES.number(value.resize),
        crop=enums.CROPS.number(value.crop),
        resize_size=value.resize_size,
        mean=value.mean,
        std=value.std,
        layout=enums.LAYOUTS.number(value.layout),
        range=enums.RANGES.number(value.range),
        interpolation=enums.INTERPOLATIONS.number(value.interpolation),
    )


def model_to_proto(stored: StoredInput) -> model_pb2.Model:
    """A stored model."""
    known = stored.model
    return model_pb2.Model(
        name=stored.name,
        display_name=stored.display_name,
        format=enums.MODEL_FORMATS.number(stored.format),
        architecture=known.architecture,
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
        input_shape=known.input_shape,
        outputs=known.outputs,
        is_classifier=known.is_classifier,
        parameters=known.parameters,
        macs=known.macs,
        onnx_size_bytes=known.onnx_size_bytes,
        size_is_free=known.size_is_free,
        size_note=known.size_note,
        erased=known.erased,
        create_time=enums.timestamp(stored.create_time),
        etag=stored.etag,
    )


def dataset_to_proto(stored: StoredInput) -> dataset_pb2.Dataset:
    """A stored dataset."""
    known = stored.dataset
    return dataset_pb2.Dataset(
        name=stored.name,
        display_name=stored.display_name,
        format=enums.DATASET_FORMATS.number(stored.format),
        preprocessing=preprocessing_to_proto(known.preprocessing),
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
        image_count=known.image_count,
        split_sizes=known.split_sizes,
        split_note=known.split_note,
        class_names=known.class_names,
        labeled=known.labeled,
        group_columns=known.group_columns,
        problems=[dataset_pb2.DatasetProblem(place=place, description=what) for place, what in known.problems],
        problem_count=known.problem_count,
        create_time=enums.timestamp(stored.create_time),
        etag=stored.etag,
    )


def upload_status_to_proto(progress: UploadProgress) -> upload_pb2.UploadStatus:
    """How far an upload has come."""
    return upload_pb2.UploadStatus(
        committed_size_bytes=progress.committed_size_bytes, size_bytes=progress.size_bytes, resource=progress.resource
    )
