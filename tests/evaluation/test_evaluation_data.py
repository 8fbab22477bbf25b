"""Images to evaluate on: datasets, folders and arrays, and what is said of those that are none."""

import numpy as np
import pytest
import torch

from simreg.data import load_split
from simreg.evaluation import load_evaluation_data

Image = pytest.importorskip("PIL.Image")


def write_images(folder, classes=("cat", "dog"), each=4):
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(np.full((8, 8, 3), 40 * label + i, np.uint8)).save(folder / name / f"{i}.png")


def test_folder_with_parts_and_folder_of_classes_alike(tmp_path):
    write_images(tmp_path / "set" / "test")
    write_images(tmp_path / "set" / "train", each=6)
    parts = load_evaluation_data(str(tmp_path / "set"))
    flat = load_evaluation_data(str(tmp_path / "set" / "test"))
    assert torch.equal(parts.images, flat.images)
    assert sorted(parts.labels.tolist()) == [0] * 4 + [1] * 4
    assert parts.labels.tolist() != sorted(parts.labels.tolist())  # attacks take the first so many: of all classes
    assert parts.fingerprint == flat.fingerprint
    assert flat.training is None
    assert parts.training()[0].shape == (12, 3, 8, 8)


def test_only_some_images_are_the_same_ones_every_time(tmp_path):
    write_images(tmp_path / "test")
    write_images(tmp_path / "train")
    whole = load_split(str(tmp_path))
    some = load_split(str(tmp_path), limit=5)
    fewer = load_split(str(tmp_path), limit=2)
    assert torch.equal(some.images, whole.images[some.rows])
    assert torch.equal(fewer.rows, some.rows[:2])
    assert torch.equal(load_split(str(tmp_path), limit=100).rows[:5], some.rows)
    assert whole.rows.tolist() == list(range(8))


def test_missing_part_is_named(tmp_path):
    write_images(tmp_path / "train")
    with pytest.raises(ValueError, match="no folder 'test'"):
        load_split(str(tmp_path))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
def test_arrays_in_any_usual_layout(tmp_path, layout):
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    stored = {"NHWC": images.transpose(0, 2, 3, 1), "NCHW": images, "NHW": images[:, 0]}[layout]
    np.savez(tmp_path / "set.npz", images=stored, labels=np.arange(6))
    data = load_evaluation_data(str(tmp_path / "set.npz"))
    wanted = torch.from_numpy(images[:, :1] if layout == "NHW" else images)
    assert torch.equal(data.images, wanted[data.labels])
    assert sorted(data.labels.tolist()) == list(range(6))
    np.save(tmp_path / "x.npy", stored)
    np.save(tmp_path / "y.npy", np.arange(6))
    other = load_evaluation_data(str(tmp_path / "x.npy"), labels=tmp_path / "y.npy")
    assert other.fingerprint == data.fingerprint
    assert len(load_evaluation_data(str(tmp_path / "set.npz"), limit=4).labels) == 4


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 8, 8, 3), np.uint8)}, "must hold 'labels'"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.zeros(3, int)}, "2 integers"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.zeros(2)}, "2 integers"),
        ({"images": np.zeros((2, 8, 8, 3), np.int64), "labels": np.zeros(2, int)}, "uint8 or floating point"),
        ({"images": np.full((2, 8, 8, 3), 2.5), "labels": np.zeros(2, int)}, r"must lie in \[0, 1\]"),
        ({"images": np.full((2, 8, 8, 3), -1.0), "labels": np.zeros(2, int)}, "before normalisation"),
        ({"images": np.zeros((2, 8)), "labels": np.zeros(2, int)}, r"\(N, C, H, W\)"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_evaluation_data(str(tmp_path / "set.npz"))


def test_unreadable_arrays(tmp_path):
    (tmp_path / "set.npz").write_bytes(b"no array")
    with pytest.raises(ValueError, match="no readable NumPy file"):
        load_evaluation_data(str(tmp_path / "set.npz"))
    np.save(tmp_path / "x.npy", np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"second \.npy file"):
        load_evaluation_data(str(tmp_path / "x.npy"))
    with pytest.raises(FileNotFoundError):
        load_evaluation_data(str(tmp_path / "none.npz"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set.npz", {"array": True}, "name it .npy"),
        ("x.npy", {"archive": True}, "name it .npz"),
        ("set.npz", {"cut": True}, "no readable"),
    ],
)
def test_files_under_the_wrong_name_or_cut_short(tmp_path, name, content, message):
    images, labels, path = np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, int), tmp_path / name
    with path.open("wb") as file:
        if "array" in content:
            np.save(file, images)
        else:
            np.savez(file, images=images, labels=labels)
    if "cut" in content:
        path.write_bytes(path.read_bytes()[:200])
    np.save(tmp_path / "y.npy", labels)
    options = {"labels": tmp_path / "y.npy"} if name.endswith(".npy") else {}
    with pytest.raises(ValueError, match=message):
        load_evaluation_data(str(path), **options)


def test_labels_beside_an_archive_are_refused(tmp_path):
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.zeros(2, int))
    with pytest.raises(ValueError, match="brings its own"):
        load_evaluation_data(str(tmp_path / "set.npz"), labels="none.npy")


def test_only_named_datasets_choose_the_strength_of_distortions(tmp_path):
    np.savez(tmp_path / "digits.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.zeros(2, int))
    assert load_evaluation_data(str(tmp_path / "digits.npz")).dataset == ""
    assert load_evaluation_data("digits", limit=3, color=False).dataset == "digits"
