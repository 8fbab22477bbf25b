"""Images to evaluate on: datasets, folders and arrays, and what is said of those that are none."""

import numpy as np
import pytest
import torch

from simreg.data import load_split
from simreg.evaluation import EvaluationData, load_evaluation_data
from simreg.evaluation.data import read_arrays, with_strengths
from simreg.evaluation.suites import strengths_of

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
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.array([-1, 0])}, "count from 0, got -1"),
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
    with pytest.raises(ValueError, match=r"second \.npy file with their labels, --labels FILE"):
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


def four_arrays(path, dtype=np.uint8):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 6), ("test", 4)):
        pixels = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
        arrays[f"{part}_images"] = pixels if dtype == np.uint8 else (pixels / 255).astype(dtype)
        arrays[f"{part}_labels"] = np.arange(n) % 3
    np.savez(path, **arrays)
    return arrays


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_parts_of_one_archive(tmp_path, dtype):
    arrays = four_arrays(tmp_path / "set.npz")
    four_arrays(tmp_path / "set.npz", dtype)
    for part in ("train", "test"):
        images, labels = read_arrays(tmp_path / "set.npz", part)
        assert torch.equal(images, torch.from_numpy(arrays[f"{part}_images"]).permute(0, 3, 1, 2))
        assert labels.tolist() == arrays[f"{part}_labels"].tolist()
    data = load_evaluation_data(str(tmp_path / "set.npz"))
    assert len(data.labels) == 4
    assert torch.equal(data.training()[0], read_arrays(tmp_path / "set.npz", "train")[0])
    assert load_evaluation_data(str(tmp_path / "set.npz"), limit=2).training.key() == data.training.key()


def test_other_training_arrays_have_another_key(tmp_path):
    """A surrogate is kept under the key of its images: the file's name alone would mix two data sets."""
    four_arrays(tmp_path / "set.npz")
    before = load_evaluation_data(str(tmp_path / "set.npz")).training.key()
    np.savez(tmp_path / "set.npz", **{**dict(np.load(tmp_path / "set.npz")), "train_labels": np.zeros(6, int)})
    assert load_evaluation_data(str(tmp_path / "set.npz")).training.key() != before


def test_archive_without_training_images_is_no_training_data(tmp_path):
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.zeros(2, int))
    assert load_evaluation_data(str(tmp_path / "set.npz")).training is None
    with pytest.raises(ValueError, match="must hold 'train_images'; it has images, labels"):
        read_arrays(tmp_path / "set.npz", "train")


@pytest.mark.parametrize(
    ("dataset", "strengths", "linf", "recorded"),
    [
        ("", "auto", 8 / 255, "photographs"),
        ("", "digits", 0.3, "digits"),
        ("cifar100", "digits", 0.3, "digits"),
        ("mnist", "auto", 0.3, "digits"),
        ("mnist", "photographs", 8 / 255, "photographs"),
    ],
)
def test_strengths_can_be_chosen_and_are_recorded(dataset, strengths, linf, recorded):
    data = EvaluationData("set", torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64), dataset=dataset)
    chosen = with_strengths(data, strengths)
    assert strengths_of(chosen.dataset).threat_linf == linf
    assert chosen.to_dict()["strengths"] == recorded
    assert chosen.fingerprint == data.fingerprint


def test_strengths_of_a_named_dataset_stay_its_own():
    """The 8 x 8 digits have a smaller transferred budget than MNIST, CIFAR-100 than other photographs."""
    images = torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64)
    for dataset, strengths in (("digits", "digits"), ("cifar100", "photographs")):
        data = EvaluationData("set", *images, dataset=dataset)
        assert with_strengths(data, strengths).dataset == dataset
    with pytest.raises(ValueError, match="strengths='digit' is not one of"):
        with_strengths(data, "digit")


def test_no_images_are_an_error(tmp_path):
    np.savez(tmp_path / "empty.npz", images=np.zeros((0, 8, 8, 3), np.uint8), labels=np.zeros(0, int))
    with pytest.raises(ValueError, match="holds no images"):
        load_evaluation_data(str(tmp_path / "empty.npz"))
