from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from simreg.robustness.corruptions import (
    CORRUPTIONS,
    CorruptionResult,
    PublishedCorruptions,
    load_published,
    published_sweep,
)

N = 8


def brightness(x):
    m = x.mean(dim=(1, 2, 3))
    return torch.stack([0.5 - m, m - 0.5] + [torch.full_like(m, -9.0)] * 8, dim=1)


@pytest.fixture
def folder(tmp_path):
    """Two arrays as they are distributed, for 8 test images in place of 10,000."""
    path = tmp_path / "CIFAR-10-C"
    path.mkdir()
    g = np.random.default_rng(0)
    np.save(path / "labels.npy", np.tile(np.array([0, 1, 9, 0, 1, 1, 0, 1], dtype=np.uint8), 5))
    for name in ("fog", "shot_noise"):
        np.save(path / f"{name}.npy", g.integers(0, 256, (5 * N, 32, 32, 3), dtype=np.uint8))
    return path


def test_arrays_are_mapped_and_missing_ones_named(folder):
    published = load_published(folder)
    assert len(published) == N
    assert published.labels.tolist() == [0, 1, 9, 0, 1, 1, 0, 1]
    assert sorted(published.arrays) == ["fog", "shot_noise"]
    assert all(isinstance(array, np.memmap) for array in published.arrays.values())
    assert set(published.missing) == set(CORRUPTIONS) - {"fog", "shot_noise"}


def test_images_are_those_of_the_severity_and_rows(folder):
    array = np.load(folder / "fog.npy")
    published = load_published(folder)
    for severity in (1, 4, 5):
        images = published.images("fog", severity)
        assert images.dtype == torch.uint8
        assert np.array_equal(images.numpy(), array[(severity - 1) * N : severity * N].transpose(0, 3, 1, 2))
    some = published.images("fog", 2, torch.tensor([7, 0]))
    assert np.array_equal(some.numpy(), array[[N + 7, N]].transpose(0, 3, 1, 2))
    some.zero_()  # a copy: the file stays
    assert np.array_equal(np.load(folder / "fog.npy"), array)


def test_gray_images_are_pillows_luma(folder):
    module = pytest.importorskip("PIL.Image")
    array = np.load(folder / "fog.npy")
    gray = load_published(folder).images("fog", 3, color=False)
    assert gray.shape == (N, 1, 32, 32)
    for i in range(N):
        wanted = np.asarray(module.fromarray(array[2 * N + i]).convert("L"))
        assert np.array_equal(gray[i, 0].numpy(), wanted)


def test_one_corruption_alone(folder):
    published = load_published(folder, corruption="fog")
    assert (list(published.arrays), published.missing) == (["fog"], ())
    with pytest.raises(FileNotFoundError, match=r"shot_noise\.npy was not loaded"):
        published.images("shot_noise", 1)
    with pytest.raises(FileNotFoundError, match=r"does not hold snow\.npy"):
        load_published(folder, corruption="snow")
    with pytest.raises(ValueError, match="Did you mean 'fog'"):
        load_published(folder, corruption="fogg")


@pytest.mark.parametrize("color", [True, False])
def test_sweep_counts_by_corruption_and_severity(folder, color):
    result = published_sweep(brightness, folder, color=color, batch_size=3)
    labels = np.load(folder / "labels.npy")
    for name in ("fog", "shot_noise"):
        images = np.load(folder / f"{name}.npy").astype(np.float64)
        values = images.mean(axis=(1, 2, 3)) if color else (images @ [0.299, 0.587, 0.114]).mean(axis=(1, 2))
        hits = (values > 127.5).astype(int) == labels
        assert result.accuracies[name] == tuple(hits.reshape(5, N).mean(axis=1))
    assert (result.n, result.clean, result.seed, result.is_published) == (N, None, None, True)
    assert result.source == "CIFAR-10-C arrays in CIFAR-10-C"
    assert result.not_run["snow"] == "snow.npy is not in CIFAR-10-C"
    assert len(result.not_run) == 13
    assert result.incomplete_groups["high"] == ("gaussian_noise", "impulse_noise")
    assert CorruptionResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_sweep_of_some_corruptions_severities_and_images(folder):
    published = load_published(folder)
    whole = published_sweep(brightness, published, corruptions=["fog", "snow"], severities=(2, 5))
    assert list(whole.accuracies) == ["fog"]
    assert whole.not_run["shot_noise"] == "not asked for"
    assert "not in CIFAR-10-C" in whole.not_run["snow"]
    first = published_sweep(brightness, published, corruptions=["fog", "snow"], severities=(2, 5), n=3)
    rest = published_sweep(brightness, published, corruptions=["fog", "snow"], severities=(2, 5), first_index=3)
    assert (first.n, rest.n) == (3, 5)
    assert CorruptionResult.join([first, rest]) == whole
    rows = published_sweep(brightness, published, corruptions=["fog"], severities=(2, 5), rows=[0, 1, 2])
    assert rows.accuracies == first.accuracies
    with pytest.raises(ValueError, match="not consecutive"):
        CorruptionResult.join([rest, first])


def test_parts_by_rows_join_without_places(folder):
    rows = torch.tensor([5, 1, 7, 2])
    whole = published_sweep(brightness, folder, rows=rows)
    parts = [published_sweep(brightness, folder, rows=rows[a:b]) for a, b in ((0, 3), (3, 4))]
    assert CorruptionResult.join(parts) == whole


def test_set_is_named_by_its_classes(folder):
    np.save(folder / "labels.npy", np.tile(np.array([0, 1, 99, 0, 1, 1, 0, 1], dtype=np.uint8), 5))
    model = lambda x: torch.zeros(len(x), 100)  # noqa: E731
    assert published_sweep(model, folder).source == "CIFAR-100-C arrays in CIFAR-10-C"


def test_whole_array_is_not_read_for_few_rows(folder, monkeypatch):
    published = load_published(folder)
    seen = []

    class Watch:
        def __getitem__(self, index):
            seen.append(np.asarray(index).tolist())
            return np.zeros((len(index), 32, 32, 3), dtype=np.uint8)

    watched = PublishedCorruptions(published.folder, {"fog": Watch()}, published.labels, ())
    published_sweep(brightness, watched, corruptions=["fog"], severities=[3], n=2)
    assert seen == [[2 * N, 2 * N + 1]]


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist\. Unpack"):
        load_published(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="does not hold one of the 15 arrays"):
        load_published(tmp_path)
    with pytest.raises(FileNotFoundError, match="none of the arrays of snow"):
        published_sweep(brightness, folder, corruptions=["snow"])
    (folder / "labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels\.npy is missing"):
        load_published(folder)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((5 * N - 1, 32, 32, 3), dtype=np.uint8), r"shape \(40, H, W, 3\) to fit its labels, got uint8 \(39"),
        (np.zeros((5 * N, 3, 32, 32), dtype=np.uint8), r"shape \(40, H, W, 3\)"),
        (np.zeros((5 * N, 32, 32, 3), dtype=np.float32), "uint8 images .* got float32"),
        (np.zeros((5 * N, 32, 32), dtype=np.uint8), r"got uint8 \(40, 32, 32\)"),
    ],
)
def test_wrong_arrays_are_refused(folder, array, words):
    np.save(folder / "snow.npy", array)
    with pytest.raises(ValueError, match=r"snow\.npy must hold.*" + words):
        load_published(folder)


def test_damaged_files_are_refused(folder):
    whole = (folder / "fog.npy").read_bytes()
    for content in (whole[: len(whole) // 2], b"nothing", b"", b"PK\x03\x04 no archive"):
        (folder / "fog.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"fog\.npy is no readable NumPy array .* unpack it again"):
            load_published(folder)
    np.savez(folder / "fog.npz", a=np.zeros(3))
    (folder / "fog.npz").replace(folder / "fog.npy")
    with pytest.raises(ValueError, match=r"fog\.npy must hold one NumPy array"):
        load_published(folder)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros(5 * N, dtype=np.float32), r"integers of shape \(5 n,\)"),
        (np.zeros((5, N), dtype=np.uint8), r"got uint8 \(5, 8\)"),
        (np.zeros(5 * N + 1, dtype=np.uint8), r"got uint8 \(41,\)"),
        (np.arange(5 * N, dtype=np.uint8), "repeat the same labels"),
    ],
)
def test_wrong_labels_are_refused(folder, labels, words):
    np.save(folder / "labels.npy", labels)
    with pytest.raises(ValueError, match=words):
        load_published(folder)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n": 9}, ValueError, "n=9 ask for images beyond the 8"),
        ({"first_index": 8}, ValueError, "first_index=8"),
        ({"n": 0}, ValueError, "n must be at least 1"),
        ({"n": 2, "rows": [0]}, ValueError, "not both"),
        ({"rows": []}, ValueError, "at least one image"),
        ({"rows": [0, 8]}, ValueError, "between 0 and 7, got 0 to 8"),
        ({"rows": [0.5]}, TypeError, "rows must be integers"),
        ({"rows": "all"}, TypeError, "rows must be integers"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"severities": [0]}, ValueError, "from 1 to 5"),
    ],
)
def test_bad_options_are_named(folder, options, error, words):
    with pytest.raises(error, match=words):
        published_sweep(brightness, folder, **options)


def test_model_with_too_few_classes_is_told(folder):
    with pytest.raises(ValueError, match="labels hold class 9 but the model has 2"):
        published_sweep(lambda x: brightness(x)[:, :2], folder)
