"""The monitor's values against their definitions in numpy, in one process and in two."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from siam.data.sources import open_images
from siam.measure.features import center_view
from siam.methods import SIMSIAM
from siam.metrics import retrieval
from siam.network import Network
from siam.processes.launch import launch
from siam.processes.rendezvous import process_group
from siam.settings.pretraining import LoaderSettings, MonitorSettings, Settings, ViewSettings
from siam.train.monitor import Monitor
from tests.conftest import save_images

K, T = 5, 0.2
LEVELS = {"dark": 116, "grey": 128, "light": 140}  # near enough for all measures to err
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture
def shades(tmp_path):
    """Three classes of 13 training images, one of them broken, and 9 validation images."""
    root = tmp_path / "shades"
    for split, count in (("train", 13), ("val", 9)):
        for name, level in LEVELS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            save_images(folder, count, seed=level + count, level=level)
    (root / "train" / "grey" / "003.jpg").write_bytes(b"")
    return root


def monitor_of(data, size=16, **more):
    """Return a monitor and an untrained network."""
    torch.manual_seed(0)
    method = replace(SIMSIAM, projector_layers=2, projector_hidden=16, dim=12, predictor_hidden=4)
    network = Network(method, "resnet10t", image_size=size, width=0.125)
    settings = Settings(
        batch_size=8, method=method, views=ViewSettings(size=size), loader=LoaderSettings(workers=0),
        monitor=MonitorSettings(knn_k=K, knn_temperature=T, knn_every=2, **more),
    )  # fmt: skip
    return Monitor(open_images(data), settings, torch.device("cpu"), bf16=False), network


# The definitions.


def views_of(files, size=16):
    """Return views uint8 (N, 3, S, S) and the class of each, from its folder."""
    views = []
    for file in files:
        images = open_images(file.parent).train
        at = [images.path(i) for i in range(len(images))].index(file.name)
        views.append(center_view(images.read(at), size).numpy())
    return np.stack(views), np.array([sorted(LEVELS).index(file.parent.name) for file in files])


def normalized(views):
    return (views / 255 - MEAN[:, None, None]) / STD[:, None, None]


def features_of(network, views):
    """Return the outputs of the backbone (N, D) and of the projector (N, d)."""
    network.eval()
    with torch.no_grad():
        features = network.backbone(torch.from_numpy(normalized(views)).float())
        z = network.projector(features)
    network.train()
    return features.numpy().astype(np.float64), z.numpy().astype(np.float64)


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def knn(bank, labels, queries, truth):
    """Return the kNN accuracy: the k most similar images vote, each with weight exp(cos / T)."""
    right = 0
    for query, its in zip(queries, truth, strict=True):
        cosines = np.array([cosine(query, image) for image in bank])
        votes = np.zeros(len(LEVELS))
        for i in np.argsort(-cosines)[:K]:
            votes[labels[i]] += np.exp(cosines[i] / T)
        right += votes.argmax() == its
    return right / len(truth)


def rank(features):
    """Return exp of the entropy of the normalized singular values (Garrido et al. 2023, Eq. 1)."""
    s = np.linalg.svd(features, compute_uv=False)
    p = s[s > 0] / s.sum()
    return np.exp(-(p * np.log(p)).sum())


def readable(folder):
    return [file for file in sorted(folder.rglob("*.jpg")) if file.stat().st_size]


def expect_what_the_definitions_give(monitor, network, bank, labels, queries, truth):
    """Check all values of `monitor`. bank, queries: pixels (N, 3, S, S) and classes."""
    features, z = features_of(network, bank)
    accuracy = knn(features, labels, features_of(network, queries)[0], truth)
    pixels = [normalized(views).reshape(len(views), -1) for views in (bank, queries)]
    assert 0.2 < accuracy < 0.9, "neither is trivial"
    measured = monitor.measure(network, epoch=1)
    assert measured.values["knn"] == pytest.approx(accuracy)
    assert measured.values["rank"] == pytest.approx(rank(features), rel=1e-4)
    assert measured.values["rank_z"] == pytest.approx(rank(z), rel=1e-4)
    assert measured.max_rank == min(len(bank), 12)
    baselines = monitor.baselines(network)
    assert baselines["untrained_knn"] == pytest.approx(accuracy)
    assert baselines["pixel_knn"] == pytest.approx(knn(pixels[0], labels, pixels[1], truth))
    assert monitor.measure(network, epoch=0).values == {**measured.values, "knn": None}, "not due"


# Alone.


def test_the_bank_is_the_training_set_and_the_queries_the_validation_set(shades):
    monitor, network = monitor_of(shades)
    train, val = readable(shades / "train"), readable(shades / "val")
    assert (len(train), len(val)) == (38, 27)
    expect_what_the_definitions_give(monitor, network, *views_of(train), *views_of(val))


def test_without_a_validation_set_every_fifth_image_is_a_query(shades):
    """Every fifth readable image, which is then not in the bank."""
    monitor, network = monitor_of(shades / "train")
    files = readable(shades / "train")
    queries, bank = files[::5], [file for i, file in enumerate(files) if i % 5]
    expect_what_the_definitions_give(monitor, network, *views_of(bank), *views_of(queries))
    names = [monitor_name(shades / "train", i) for i in monitor.bank_indices]
    assert names == [f"{file.parent.name}/{file.name}" for file in bank]


def monitor_name(data, index):
    return open_images(data).train.path(int(index))


def test_a_large_set_is_sampled_evenly(shades):
    monitor, network = monitor_of(shades, bank=20, queries=11)
    train, val = (sorted((shades / split).rglob("*.jpg")) for split in ("train", "val"))
    bank = [train[int(38 * i / 19)] for i in range(20)]  # from the first of 39 to the last
    queries = [val[int(26 * i / 10)] for i in range(11)]
    bank = [file for file in bank if file.stat().st_size]
    expect_what_the_definitions_give(monitor, network, *views_of(bank), *views_of(queries))


def test_without_labels_no_knn_is_measured(photos):
    monitor, network = monitor_of(photos)
    images = open_images(photos).train
    features, z = features_of(network, np.stack([center_view(images.read(i), 16) for i in range(24)]))
    measured = monitor.measure(network, epoch=1).values
    assert measured["knn"] is None
    assert measured["rank"] == pytest.approx(rank(features), rel=1e-4)
    assert measured["rank_z"] == pytest.approx(rank(z), rel=1e-4)
    found = monitor.baselines(network)
    assert found["pixel_knn"] is found["untrained_knn"] is None


def test_large_views_are_downsampled_before_their_pixels_are_compared(shades):
    """From 64 pixels to 32, by squares of four."""
    monitor, network = monitor_of(shades, size=64)
    flat = []
    for split in ("train", "val"):
        views, labels = views_of(readable(shades / split), 64)
        squares = views.reshape(len(views), 3, 32, 2, 32, 2).mean(axis=(3, 5))
        flat += [normalized(squares).reshape(len(views), -1), labels]
    expected = knn(*flat)
    assert 0.2 < expected < 0.9
    assert monitor.baselines(network)["pixel_knn"] == pytest.approx(expected)


def test_neighbors_are_the_most_similar_others(shades):
    """For images spread evenly over the bank, nearest first, with the pixels of each."""
    monitor, network = monitor_of(shades)
    bank, _ = views_of(readable(shades / "train"))
    features, _ = features_of(network, bank)
    chosen, nearest = monitor.neighbors(network, queries=4, count=6)
    assert chosen.tolist() == [0, 12, 24, 37]
    for query, found in zip(chosen, nearest, strict=True):
        cosines = [-np.inf if i == query else cosine(features[query], features[i]) for i in range(len(bank))]
        assert found.tolist() == np.argsort(cosines)[::-1][:6].tolist()
    assert np.array_equal(monitor.views(nearest.ravel()).numpy(), bank[nearest.ravel()])


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_network_unchanged(shades, training):
    """BN statistics and the mode of every layer."""
    monitor, network = monitor_of(shades)
    network.train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    monitor.measure(network, epoch=1)
    monitor.neighbors(network, 2, 2)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert {module.training for module in network.modules()} == {training}


# Together.


def all_values(data):
    monitor, network = monitor_of(Path(data))
    measured = monitor.measure(network, epoch=1)
    values = measured.values
    chosen, nearest = monitor.neighbors(network, queries=4, count=6)
    return {
        "own": len(monitor.bank), "knn": values["knn"], "retrieval": values["retrieval"],
        "ranks": (values["rank"], values["rank_z"]), "max_rank": measured.max_rank,
        "baselines": monitor.baselines(network),
        "images": monitor.bank_indices.tolist(), "chosen": chosen.tolist(), "nearest": nearest.tolist(),
        "pixels": monitor.views(nearest.ravel()).numpy(),
    }  # fmt: skip


def each_data(*data):
    torch.set_num_threads(1)
    with process_group("cpu", 60):
        return [all_values(one) for one in data]


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_two_processes_measure_the_same_as_one(shades, photos):
    """With a validation set, with every fifth image as a query, and without labels."""
    data = [str(shades), str(shades / "train"), str(photos)]
    for one, two in zip(each_data(*data), launch(2, each_data, *data), strict=True):
        assert one.pop("own") > two.pop("own") > 0, "each holds its part"
        assert two.pop("ranks") == pytest.approx(one.pop("ranks"), rel=1e-5)
        assert np.array_equal(two.pop("pixels"), one.pop("pixels"))
        assert two == one


def test_a_baseline_without_labels_is_measured_if_it_needs_no_queries(photos, monkeypatch):
    """And none is measured whose metric is switched off."""
    monkeypatch.setattr("siam.metrics.rank.BASELINES", True, raising=False)
    monitor, network = monitor_of(photos)
    found = monitor.baselines(network)
    assert found["pixel_knn"] is found["untrained_knn"] is None
    images = open_images(photos).train
    views = np.stack([center_view(images.read(i), 16) for i in range(24)])
    assert found["pixel_rank"] == pytest.approx(rank(normalized(views).reshape(24, -1)), rel=1e-4)
    assert found["untrained_rank"] == pytest.approx(rank(features_of(network, views)[0]), rel=1e-4)


def test_a_metric_that_is_off_costs_no_pass(shades, monkeypatch):
    monitor, network = monitor_of(shades)
    monitor.settings = replace(monitor.settings, monitor=replace(monitor.settings.monitor, knn_every=0))
    monkeypatch.setattr(retrieval, "BASELINES", False)
    monkeypatch.setattr(monitor, "_features", None)
    assert monitor.baselines(network) == {"pixel_knn": None, "untrained_knn": None}


def test_view_retrieval_is_that_of_the_pairs_features(photos):
    """Of the trained network, of pixels and of the network before training; without labels."""
    monitor, network = monitor_of(photos)
    views = monitor.pairs.flatten(0, 1).numpy()
    features = features_of(network, views)[0]
    own = nearest_is_own(features.reshape(-1, 2, features.shape[1]))
    assert monitor.measure(network, epoch=0).values["retrieval"] == pytest.approx(own)
    found = monitor.baselines(network)
    assert found["untrained_retrieval"] == pytest.approx(own)
    pixels = normalized(views).reshape(len(monitor.pairs), 2, -1)
    assert found["pixel_retrieval"] == pytest.approx(nearest_is_own(pixels))


def nearest_is_own(views):
    """Return the share of views (n, 2, D) whose nearest by cosine is the other view of their image."""
    a, b = np.moveaxis(views / np.linalg.norm(views, axis=2, keepdims=True), 1, 0)
    own = np.arange(len(a))
    return np.mean([(a @ b.T).argmax(axis=axis) == own for axis in (0, 1)])


def test_unlabeled_images_neither_vote_nor_count():
    """Each query's nearest neighbor is unlabeled; the next has its class. The last query has no label."""
    from siam.metrics import Look, knn
    from siam.settings.pretraining import MonitorSettings

    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    settings = MonitorSettings(knn_k=1)
    labels, truth = torch.tensor([-1, 0, -1, 1]), torch.tensor([0, 1, -1])
    assert knn.measure(Look(settings, bank, bank, None, labels, 2, queries, truth)) == 1.0
    nothing = torch.full((4,), -1)
    assert knn.measure(Look(settings, bank, bank, None, nothing, 2, queries, truth)) is None
    assert knn.measure(Look(settings, bank, bank, None, labels, 2, queries, nothing[:3])) is None


def test_without_labeled_validation_images_a_fifth_of_the_bank_is_classified(classes):
    for file in list((classes / "val").rglob("*.jpg")):
        file.rename(classes / "val" / f"{file.parent.name}{file.name}")
    monitor, _ = monitor_of(classes)
    assert (len(monitor.bank), len(monitor.queries)) == (19, 5)
    assert monitor.query_labels.tolist() == [0, 0, 0, 1, 1]


def test_only_classes_that_both_splits_have_are_classified(classes):
    """Without any, a fifth of the training images is."""
    (classes / "val" / "dark").rename(classes / "val" / "other")
    monitor, _ = monitor_of(classes)
    assert (len(monitor.bank), monitor.query_labels.tolist()) == (24, [1] * 6 + [-1] * 6)
    (classes / "val" / "light").rename(classes / "val" / "another")
    monitor, _ = monitor_of(classes)
    assert (len(monitor.bank), monitor.query_labels.tolist()) == (19, [0, 0, 0, 1, 1])
