import sys

import numpy as np
import pytest
import torch

from simreg.data import load_dataset, load_images, load_split, with_channels

pytest.importorskip("PIL")
from PIL import Image


def write_image(path, value, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    pixels = np.full((height, width, 3), value, dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes, three training images and one test image each."""
    for split, count in (("train", 3), ("test", 1)):
        for value, name in ((10, "cat"), (200, "dog")):
            for i in range(count):
                write_image(tmp_path / "pets" / split / name / f"{i}.png", value + i)
    return tmp_path / "pets"


def test_image_folder_gives_labels_in_order_of_class_names(folder):
    data = load_dataset(str(folder))
    assert data.classes == ("cat", "dog")
    assert (data.train_images.shape, data.train_images.dtype) == ((6, 1, 8, 8), torch.uint8)
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train_images[:, 0, 0, 0].tolist() == [10, 11, 12, 200, 201, 202]
    assert data.test_labels.tolist() == [0, 1]
    assert data.source == f"image folder {folder}"
    assert load_dataset(str(folder), color=True).train_images.shape == (6, 3, 8, 8)


def test_image_folder_of_jpeg_files_says_so(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            write_image(tmp_path / split / name / "0.jpg", 100)
    assert "JPEG" in load_dataset(str(tmp_path)).source


def test_image_folder_ignores_hidden_and_other_files(folder):
    (folder / "train" / "cat" / ".hidden.png").write_bytes(b"no image")
    (folder / "train" / "cat" / "notes.txt").write_text("no image either")
    assert len(load_dataset(str(folder)).train_labels) == 6


def test_unreadable_files_are_counted_and_the_first_ones_named(folder):
    for i in range(5):
        (folder / "train" / "dog" / f"broken{i}.jpg").write_bytes(b"this is no image")
    with pytest.raises(ValueError, match=r"5 of 11 image files cannot be read: .*broken0\.jpg.*broken2\.jpg.*; \.\.\."):
        load_dataset(str(folder))


def test_truncated_file_is_unreadable(folder):
    path = folder / "train" / "cat" / "big.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"1 of 7 image files cannot be read: .*big\.png.*Replace or remove"):
        load_dataset(str(folder), size=8)


def test_different_sizes_raise_without_size_and_are_cut_with_it(folder):
    write_image(folder / "train" / "cat" / "wide.png", 30, size=(8, 20))
    with pytest.raises(ValueError, match=r"2 image sizes \(height x width: 8x8, 8x20\).*size=32"):
        load_dataset(str(folder))
    assert load_dataset(str(folder), size=6).train_images.shape == (7, 1, 6, 6)


@pytest.mark.parametrize("size", [0, -3, 2.5, True, "32"])
def test_wrong_size_raises(size):
    with pytest.raises(ValueError, match="size must be a positive whole number"):
        load_dataset("digits", size=size)


def test_parts_of_different_sizes_raise(folder):
    for name in ("cat", "dog"):
        write_image(folder / "test" / name / "0.png", 30, size=(8, 20))
    with pytest.raises(ValueError, match=r"2 image sizes \(height x width: 8x8, 8x20\).*size=32"):
        load_dataset(str(folder))


def test_folder_without_train_and_test_raises(folder):
    with pytest.raises(ValueError, match=r"no folder 'train'.*train/<class>"):
        load_dataset(str(folder / "test"))
    assert load_split(str(folder / "test")).labels.tolist() == [0, 1]


def test_empty_class_folder_raises(folder):
    (folder / "train" / "emu").mkdir()
    with pytest.raises(ValueError, match="emu holds no image files"):
        load_dataset(str(folder))


def test_test_class_without_training_images_raises(folder):
    write_image(folder / "test" / "emu" / "0.png", 1)
    with pytest.raises(ValueError, match=r"without training images: .'emu'"):
        load_dataset(str(folder))


def test_unknown_name_lists_names_and_a_near_match():
    with pytest.raises(ValueError, match=r"name='cifra10' is neither a folder nor one of .*Did you mean 'cifar10'"):
        load_dataset("cifra10")


def test_archive_is_told_to_be_unpacked(tmp_path):
    archive = tmp_path / "cifar.tar.gz"
    archive.write_bytes(b"")
    with pytest.raises(ValueError, match="It is a file: unpack it"):
        load_dataset(str(archive))


def test_gray_is_the_luma_of_pil():
    generator = torch.Generator().manual_seed(0)
    colors = torch.randint(0, 256, (50, 3, 8, 8), generator=generator, dtype=torch.uint8)
    gray = with_channels(colors, color=False)
    for color, ours in zip(colors, gray, strict=True):
        theirs = np.asarray(Image.fromarray(color.permute(1, 2, 0).numpy()).convert("L"))
        assert np.array_equal(ours[0].numpy(), theirs)


def test_digits_are_the_same_every_time_and_fill_the_range():
    pytest.importorskip("sklearn")
    state = torch.get_rng_state()
    first, second = load_dataset("digits"), load_dataset("digits")
    assert torch.equal(first.train_images, second.train_images)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.train_images.shape[1:] == (1, 32, 32)
    assert len(first.train_labels) + len(first.test_labels) == 1797
    assert first.test_labels.bincount().min() >= 35
    assert first.train_images.min() == 0
    assert first.train_images.max() == 255


def test_digits_at_their_own_size_are_the_original_values():
    datasets = pytest.importorskip("sklearn.datasets")
    images = torch.as_tensor(datasets.load_digits().images)
    data = load_dataset("digits", size=8)
    ours = torch.cat([data.train_images, data.test_images]).flatten(1).double().sum()
    assert ours == pytest.approx(float(images.sum()) * 255 / 16, rel=1e-3)


def fake_torchvision(monkeypatch, dataset_class):
    monkeypatch.setattr(pytest.importorskip("torchvision.datasets"), "CIFAR10", dataset_class)


class Missing:
    """A torchvision dataset that is not on disk and whose download fails."""

    def __init__(self, root, *, train, download):
        raise RuntimeError("connection reset" if download else "Dataset not found or corrupted.")


def test_missing_dataset_names_the_reason_and_the_alternatives(monkeypatch, tmp_path):
    fake_torchvision(monkeypatch, Missing)
    with pytest.raises(FileNotFoundError, match=r"reset\. Either point data_dir.*--data-dir.*image folder.*digits"):
        load_dataset("cifar10", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"\(download=False\): Dataset not found or corrupted"):
        load_dataset("cifar10", data_dir=tmp_path, download=False)


def test_missing_dataset_with_an_archive_beside_it_says_unpack(monkeypatch, tmp_path):
    fake_torchvision(monkeypatch, Missing)
    (tmp_path / "cifar10.tar.gz").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"holds cifar10\.tar\.gz.*unpack"):
        load_dataset("cifar10", data_dir=tmp_path, download=False)


def test_torchvision_dataset_on_disk_is_converted(monkeypatch, tmp_path):
    class Present:
        classes = ("a", "b")

        def __init__(self, root, *, train, download):
            self.data = np.full((4 if train else 2, 32, 32, 3), 7, dtype=np.uint8)
            self.targets = [0, 1] * (2 if train else 1)

    fake_torchvision(monkeypatch, Present)
    data = load_dataset("CIFAR-10", data_dir=tmp_path)
    assert data.train_images.shape == (4, 1, 32, 32)
    assert data.train_images.unique().tolist() == [7]
    assert data.test_labels.tolist() == [0, 1]
    assert data.source.startswith("torchvision CIFAR10")


def test_named_dataset_is_found_as_image_folders(tmp_path):
    for split in ("train", "test"):
        for label in range(10):
            write_image(tmp_path / "mnist" / split / str(label) / "0.png", 20 * label, size=(28, 28))
    data = load_dataset("mnist", data_dir=tmp_path, download=False)
    assert data.name == "mnist"
    assert data.test_images.shape == (10, 1, 28, 28)


def test_load_images_reads_sub_folders_and_spreads_the_limit(tmp_path):
    for i in range(10):
        write_image(tmp_path / f"part{i % 2}" / f"{i}.png", 20 * i, size=(40, 30))
    images = load_images(tmp_path, size=16)
    assert images.shape == (10, 1, 16, 16)
    assert load_images(tmp_path, size=16, limit=5).flatten(1)[:, 0].tolist() == [0, 80, 160, 60, 140]


def test_load_images_names_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_images(tmp_path / "nowhere", size=8)
    with pytest.raises(ValueError, match="holds no image files"):
        load_images(tmp_path, size=8)


@pytest.mark.parametrize(
    ("name", "package", "blocked"), [("digits", "scikit-learn", "sklearn"), ("cifar10", "torchvision", "torchvision")]
)
def test_missing_package_names_the_extra(monkeypatch, tmp_path, name, package, blocked):
    for module in [m for m in sys.modules if m.split(".")[0] == blocked]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(ImportError, match=rf"{package} is needed.*simreg\[examples\]"):
        load_dataset(name, data_dir=tmp_path)
