from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from search.dataset_file import DatasetMetadata, DatasetTensors, read, write
from search.evaluation.data import CalibrationSource, ImageData, TrainingSource, open_teacher_logits, write_teacher_logits
from search.preprocessing import Preprocessing

STATED = Preprocessing(14, 14, 3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0), range="-1..1")


def write_data(path: Path, images: int = 60, several: bool = False, labelled: bool = True) -> Path:
    generator = np.random.default_rng(0)
    pixels = generator.integers(1, 256, (images, 14, 14, 3), dtype=np.uint8)
    labels = np.arange(images) % 5
    tensors = DatasetTensors(
        pixels,
        np.repeat(np.arange(4, dtype=np.uint8), images // 4),
        (np.eye(5, dtype=np.uint8)[labels] if several else labels) if labelled else None,
        labels[:, None] % 2,
    )
    metadata = DatasetMetadata(STATED, tuple("abcde"), group_values={"site": ("x", "y")}, problems=("something odd",))
    write(path, tensors, metadata)
    return path


@pytest.fixture
def data(tmp_path: Path) -> ImageData:
    return ImageData.open(write_data(tmp_path / "d.safetensors"))


def test_metadata_survives_the_file(data: ImageData):
    metadata = data.metadata
    assert metadata.preprocessing == STATED
    assert metadata.class_names == tuple("abcde")
    assert metadata.group_values == {"site": ("x", "y")}
    assert len(metadata.data_sha256) == 64
    assert DatasetMetadata.from_json(metadata.to_json()) == metadata


def test_what_is_no_dataset_is_refused(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="not a safetensors file"):
        read(tmp_path / "a")
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3)}, str(tmp_path / "b"))
    with pytest.raises(ValueError, match="not a dataset"):
        read(tmp_path / "b")


def test_splits_and_labels(data: ImageData):
    view = data.split("selection")
    assert view.rows.tolist() == list(range(30, 45))
    assert view.labels is not None
    assert view.labels.tolist() == [i % 5 for i in range(30, 45)]
    assert view.classes == 5
    with pytest.raises(ValueError, match="split 'dev' is unknown"):
        data.split("dev")  # type: ignore[arg-type]


def test_normalisation_is_as_stated(data: ImageData):
    view = data.split("test")
    images = view.images(np.array([2, 0]))
    pixels = torch.from_numpy(data.tensors.images[[47, 45]].astype(np.float64)).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (STATED.mean, STATED.std))
    torch.testing.assert_close(images.double(), (pixels / 255 * 2 - 1 - mean) / std, rtol=1e-5, atol=1e-5)
    assert images.dtype == torch.float32
    assert images.is_contiguous()


def test_batches_cover_the_view_in_order(data: ImageData):
    view = data.split("train")
    positions = [p for chunk, _ in view.batches(4) for p in chunk.tolist()]
    assert positions == list(range(15))


def test_larger_samples_contain_smaller_ones(data: ImageData):
    view = data.split("train")
    small, large = view.sample(5, 1), view.sample(9, 1)
    assert set(small.rows) < set(large.rows)
    assert view.sample(99, 1).rows.tolist() == view.rows.tolist()
    assert view.sample(5, 2).rows.tolist() != small.rows.tolist()


def test_data_pickles_as_its_path(data: ImageData):
    source = TrainingSource(data.split("train"), 3)
    text = pickle.dumps(source)
    assert len(text) < 2000
    copy = pickle.loads(text)
    assert_same(next(copy.batches(0, 8)).images, next(source.batches(0, 8)).images)


def test_calibration_is_the_same_every_epoch(data: ImageData):
    source = CalibrationSource(data.split("train"), 7, seed=2)
    assert len(source) == 7
    first, second = (torch.cat([b.images for b in source.batches(e, 3)]) for e in (0, 5))
    assert_same(first, second)
    assert len(first) == 7
    labels = [int(v) for b in source.batches(0, 3) if b.labels is not None for v in b.labels]
    assert len(labels) == 7


def test_order_follows_seed_and_epoch(data: ImageData):
    def order(seed: int, epoch: int) -> list[int]:
        source = TrainingSource(data.split("train"), seed, "none")
        return [int(v) for b in source.batches(epoch, 4) for v in b.images[:, 0].sum((1, 2)).mul(1000).round()]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(0, 0)) == sorted(order(1, 7))


@pytest.mark.parametrize("augment", ["shift", "shift_flip"])
def test_augmentation_is_a_pure_function_of_seed_view_and_image(augment: str, data: ImageData):
    source = TrainingSource(data.split("train"), 4, augment, views=2)  # type: ignore[arg-type]
    everyone = np.arange(15)
    whole = source.view_images(1, everyone)
    for position in (0, 7, 14):
        assert_same(source.view_images(1, np.array([position])), whole[position : position + 1])
    assert not torch.equal(source.view_images(0, everyone), whole)
    assert not torch.equal(replace(source, seed=5).view_images(1, everyone), whole)


def test_shift_moves_by_at_most_a_fourteenth_and_never_mirrors(data: ImageData):
    view = data.split("train")
    source = TrainingSource(view, 0, "shift", views=80)
    original = view.images(np.array([0]))[0]
    moves = set()
    for v in range(80):
        moved = source.view_images(v, np.array([0]))[0]
        moves |= {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if torch.equal(inner(moved, 0, 0), inner(original, y, x))}
    assert len(moves) == 9


def test_flip_mirrors_about_half(data: ImageData):
    source = TrainingSource(data.split("train"), 0, "shift_flip", views=100)
    original = data.split("train").images(np.array([0]))[0]
    straight = 0
    for v in range(100):
        moved = source.view_images(v, np.array([0]))[0]
        straight += any(torch.equal(inner(moved, 0, 0), inner(original, y, x)) for y in (-1, 0, 1) for x in (-1, 0, 1))
    assert 30 < straight < 70


def inner(image: Tensor, y: int, x: int) -> Tensor:
    return image[:, 2 + y : 12 + y, 2 + x : 12 + x]


def test_teacher_logits_belong_to_the_very_views_trained_on(data: ImageData, tmp_path: Path):
    def network(images: Tensor) -> Tensor:
        return images.flatten(1)[:, ::50].cumsum(1)

    source = TrainingSource(data.split("train"), 1, "shift_flip", views=3)
    path = tmp_path / "teacher.npy"
    write_teacher_logits(network, source, path, batch=4)
    logits = open_teacher_logits(path)
    assert logits.shape == (3, 15, 12)
    assert isinstance(logits, np.memmap)
    assert [p.name for p in tmp_path.glob("teacher*")] == ["teacher.npy"]
    taught = replace(source, teacher_logits=logits)
    for epoch in range(5):
        for batch in taught.batches(epoch, 6):
            assert batch.teacher_logits is not None
            torch.testing.assert_close(batch.teacher_logits, network(batch.images), rtol=1e-6, atol=1e-5)


def test_teacher_logits_of_other_views_are_refused(data: ImageData):
    with pytest.raises(ValueError, match=r"\(views, images\)"):
        TrainingSource(data.split("train"), teacher_logits=np.zeros((1, 15, 5)), views=2)


def test_images_with_several_labels_or_none_train_on_the_teacher_alone(tmp_path: Path):
    for several, labelled in ((True, True), (False, False)):
        data = ImageData.open(write_data(tmp_path / "d", several=several, labelled=labelled))
        assert next(TrainingSource(data.split("train")).batches(0, 4)).labels is None


def assert_same(a: Tensor, b: Tensor) -> None:
    assert torch.equal(a, b)


@pytest.mark.parametrize(("size", "side"), [((987, 376), 384), ((376, 987), 384), ((500, 375), 256), ((333, 500), 232)])
def test_the_longer_side_is_torchvisions_to_the_pixel(size: tuple[int, int], side: int):
    image = Image.new("RGB", size)
    scaled = Preprocessing(200, 200, 3, resize="shortest_side", resize_size=side, crop="center")._shortest_side(image)
    assert scaled.size == functional.resize(image, side).size
