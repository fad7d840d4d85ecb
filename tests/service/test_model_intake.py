from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from hw_models.graph import OperatorGraph
from service.intake.errors import IntakeError
from service.intake.limits import IntakeLimits
from service.intake.model_readers import _usual_shape
from service.intake.models import ModelFormat, ModelOptions, import_model
from service.intake.pickles import refuse_pickle
from techniques.lift import from_pt2


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.fc = nn.Conv2d(8, 16, 3, 2, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.bn1(self.conv1(x)).relu()).relu()
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)


def small_net() -> SmallNet:
    torch.manual_seed(0)
    return SmallNet().eval()


def export_pt2(module: nn.Module, path: Path) -> Path:
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3, 12, 12),)), path)
    return path


def refused(path: Path, format: ModelFormat = "pt2", options: ModelOptions | None = None, **given: object) -> IntakeError:
    with pytest.raises(IntakeError) as caught:
        import_model(path, format, options, scratch=path.parent, **given)  # type: ignore[arg-type]
    return caught.value


@pytest.fixture(scope="module")
def pt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_pt2(small_net(), tmp_path_factory.mktemp("upload") / "small.pt2")


def test_pt2_gives_facts_and_three_files_that_agree(pt2: Path, tmp_path: Path):
    facts = import_model(pt2, "pt2", scratch=tmp_path)
    module = small_net()
    assert facts.input_shape == (3, 12, 12)
    assert (facts.outputs, facts.is_classifier, facts.size_is_free) == (5, True, True)
    assert facts.parameters == sum(p.numel() for p in module.parameters())
    assert facts.macs == 144 * 8 * 27 + 36 * 16 * 72 + 80
    assert facts.onnx_size_bytes == facts.onnx_path.stat().st_size
    assert OperatorGraph.from_json(facts.operator_graph_path.read_text()).macs() == facts.macs
    images = torch.randn(1, 3, 12, 12)
    with torch.inference_mode():
        expected = module(images)
        torch.testing.assert_close(from_pt2(facts.network_path)(images), expected, rtol=1e-5, atol=1e-5)
    session = onnxruntime.InferenceSession(facts.onnx_path)
    outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(outputs[0], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_onnx_is_read(tmp_path: Path):
    module = small_net()
    torch.onnx.export(module, (torch.zeros(1, 3, 12, 12),), tmp_path / "up.onnx", dynamo=True, external_data=False, verbose=False)
    facts = import_model(tmp_path / "up.onnx", "onnx", scratch=tmp_path)
    images = torch.randn(7, 3, 12, 12)
    with torch.inference_mode():
        torch.testing.assert_close(from_pt2(facts.network_path)(images), module(images), rtol=1e-4, atol=1e-5)


def test_architecture_with_weights_is_built(tmp_path: Path):
    from safetensors.torch import save_file
    from timm import create_model

    module = create_model("resnet10t", num_classes=4).eval()
    save_file(module.state_dict(), str(tmp_path / "w.safetensors"))
    options = ModelOptions("timm/resnet10t", height=64, width=64, num_classes=4)
    facts = import_model(tmp_path / "w.safetensors", "architecture", options, scratch=tmp_path)
    assert facts.input_shape == (3, 64, 64)
    assert facts.outputs == 4
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(from_pt2(facts.network_path)(images), module(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet18", (3, 224, 224)), ("inception_v3", (3, 299, 299)), ("timm/efficientnet_b1", (3, 240, 240))]
)
def test_usual_shape_of_an_architecture(name: str, shape: tuple[int, int, int]):
    assert _usual_shape(name) == shape


def test_unknown_architecture_is_told(pt2: Path):
    error = refused(pt2, "architecture", ModelOptions("resnet19"))
    assert error.code in ("bad_option", "unsupported")
    assert "resnet19" in error.message


# --- pickles


@dataclass(frozen=True)
class Pickled:
    write: Callable[[Path, Path], None]


PICKLED = {
    "module": Pickled(lambda path, marker: torch.save({"a": Payload(marker)}, path)),
    "state dict": Pickled(lambda path, marker: torch.save(small_net().state_dict(), path)),
    "old format": Pickled(lambda path, marker: torch.save({"a": Payload(marker)}, path, _use_new_zipfile_serialization=False)),
    "plain pickle": Pickled(lambda path, marker: path.write_bytes(pickle.dumps(Payload(marker))) and None),
    "protocol 0": Pickled(lambda path, marker: path.write_bytes(pickle.dumps(Payload(marker), protocol=0)) and None),
    "torchscript": Pickled(lambda path, marker: torch.jit.save(torch.jit.trace(small_net(), torch.zeros(1, 3, 12, 12)), str(path))),
}


@pytest.mark.parametrize("case", PICKLED.values(), ids=PICKLED.keys())
def test_pickles_are_refused_with_the_lines_that_export(case: Pickled, tmp_path: Path):
    path, marker = tmp_path / "model.pt2", tmp_path / "payload-ran"
    case.write(path, marker)
    error = refused(path)
    assert error.code in ("pickled", "unsafe")
    assert "torch.export.save(program" in error.message
    assert not marker.exists()


def test_a_proper_program_is_no_pickle(pt2: Path):
    refuse_pickle(pt2, IntakeLimits())


def test_payload_inside_a_pt2_does_not_run(pt2: Path, tmp_path: Path):
    marker, hostile = tmp_path / "payload-ran", tmp_path / "hostile.pt2"
    torch.save(Payload(marker), tmp_path / "payload.pt")
    replaced = 0
    with zipfile.ZipFile(pt2) as source, zipfile.ZipFile(hostile, "w") as target:
        for info in source.infolist():
            is_pickle = "sample_inputs" in info.filename
            replaced += is_pickle
            target.writestr(info.filename, (tmp_path / "payload.pt").read_bytes() if is_pickle else source.read(info))
    assert replaced == 1
    error = refused(hostile)
    assert error.code == "unsafe"
    assert "sample_inputs" in error.message
    assert not marker.exists()


# --- what else is refused


def test_empty_large_missing_and_linked_files(pt2: Path, tmp_path: Path):
    (tmp_path / "empty").touch()
    assert refused(tmp_path / "empty").code == "unreadable"
    assert refused(pt2, limits=IntakeLimits(model_bytes=1000)).code == "too_large"
    assert refused(tmp_path / "missing").code == "not_found"
    (tmp_path / "link").symlink_to(pt2)
    assert refused(tmp_path / "link").code == "not_found"


@pytest.mark.parametrize("format", ["pt2", "onnx", "architecture"])
def test_rubbish_is_refused(format: ModelFormat, tmp_path: Path):
    (tmp_path / "up").write_bytes(b"rubbish" * 1000)
    options = ModelOptions("resnet18") if format == "architecture" else None
    assert refused(tmp_path / "up", format, options).code in ("unsafe", "unsupported", "bad_option")


@dataclass(frozen=True)
class BadOption:
    format: str
    options: ModelOptions
    field: str


BAD_OPTIONS = {
    "format": BadOption("keras", ModelOptions(), "format"),
    "no architecture": BadOption("architecture", ModelOptions(), "architecture"),
    "options beside a pt2": BadOption("pt2", ModelOptions(height=8), "architecture"),
    "negative": BadOption("architecture", ModelOptions("resnet18", num_classes=-1), "num_classes"),
    "huge": BadOption("architecture", ModelOptions("resnet18", height=10**6), "height"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_bad_options_name_the_field(case: BadOption, pt2: Path):
    error = refused(pt2, case.format, case.options)  # type: ignore[arg-type]
    assert (error.code, error.field) == ("bad_option", case.field)
