"""Evaluation protocols: their data, what they train, what they leave frozen, and their errors."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression

from siam.convert import vectors as vectors_module
from siam.data.sources.arrays import ArrayImages
from siam.data.subset import Subset, hold_out, labeled_subset
from siam.errors import DataError, RunError
from siam.parts.backbone import build_backbone
from siam.protocols import evaluate as evaluate_module
from siam.protocols.classifier import ClassifierSettings, Compute, Training, labeled_loader
from siam.protocols.evaluate import evaluate
from siam.protocols.linear import LinearSettings, linear
from siam.protocols.probe import STRENGTHS, probe
from siam.protocols.score import score
from siam.runs.encoder import Encoder, load, untrained
from tests.conftest import TINY, run_cli

CPU = Compute(torch.device("cpu"))


def colored(n, classes=3, side=16):
    """Return noisy images, each in the color of its class, which any network can separate."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    images = rng.integers(0, 60, (n, side, side, 3)).astype(np.uint8)
    images[np.arange(n), :, :, labels] += 180
    return ArrayImages("colors", images, labels, ("red", "green", "blue")[:classes])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of seconds on class folders."""
    from tests.conftest import save_images

    root = tmp_path_factory.mktemp("protocols")
    for split, count in (("train", 12), ("val", 6)):
        for name, level in (("dark", 60), ("light", 200)):
            folder = root / "classes" / split / name
            folder.mkdir(parents=True)
            save_images(folder, count, seed=level, level=level)
    run_cli("pretrain", root / "classes", *TINY, "--out", root / "run", check=0)
    return root


@given(st.integers(1, 300), st.integers(1, 5), st.floats(0.001, 1), st.floats(0.001, 1), st.integers(0, 9))
def test_a_fraction_of_the_labels_is_balanced_and_nested(n, classes, one, other, seed):
    labels = np.random.default_rng(seed).integers(0, classes, n)
    images = ArrayImages("x", np.zeros((n, 8, 8, 3), np.uint8), labels, tuple("abcde"[:classes]))
    small, large = (labeled_subset(images, share, seed) for share in sorted([one, other]))
    assert set(small.indices) <= set(large.indices)
    for kind in range(classes):
        members = int((labels == kind).sum())
        expected = min(members, max(1, round(min(one, other) * members)))
        assert int((small.labels == kind).sum()) == expected


@given(st.integers(2, 200), st.floats(0.01, 0.99))
def test_held_out_images_are_disjoint_from_the_rest(n, share):
    images = ArrayImages("x", np.zeros((n, 8, 8, 3), np.uint8), None, ())
    left, held = hold_out(images, share)
    assert sorted([*left.indices, *held.indices]) == list(range(n))
    assert len(held) == min(max(1, round(n * share)), n - 1)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=100), st.floats(0.01, 0.99))
def test_the_held_out_images_are_stratified(kinds, share):
    labels = np.array(kinds)
    images = ArrayImages("x", np.zeros((len(labels), 8, 8, 3), np.uint8), labels, tuple("abcde"))
    if len(set(kinds)) == len(kinds):
        with pytest.raises(DataError, match="only one image of each class, so none can be held out"):
            hold_out(images, share)
        return
    left, held = hold_out(images, share)
    assert len(held) >= 1
    for kind in np.unique(labels):
        members = int((labels == kind).sum())
        expected = min(round(share * members), members - 1)
        assert int((held.labels == kind).sum()) == expected or len(held) == 1
        assert int((left.labels == kind).sum()) >= 1


def test_scores_by_hand():
    scores = torch.tensor([[3.0, 1, 2], [0, 5, 1], [2, 1, 0]])
    found = score(scores, torch.tensor([0, 1, 2]), ("a", "b", "c"))
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["top5"] is None
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert found["per_class"] == {"a": 1.0, "b": 1.0, "c": 0.0}


def test_probe_is_logistic_regression_on_normalized_features():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    x = torch.randn(400, 12, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 12)
    scores, c = probe(x[:300], labels[:300], x[300:], 5)
    scaled = (x / x.norm(dim=1, keepdim=True) * 12**0.5).numpy()
    oracle = LogisticRegression(C=c, max_iter=500, tol=1e-3).fit(scaled[:300], labels[:300].numpy())
    assert c in STRENGTHS
    assert np.allclose(scores[:, :4].exp().numpy(), oracle.predict_proba(scaled[300:]), atol=1e-5)
    assert torch.isinf(scores[:, 4]).all()  # a class without training images


def test_linear_learns_and_leaves_the_encoder_unchanged():
    torch.manual_seed(0)
    encoder = Encoder(build_backbone("resnet10t", 16, width=0.125), 16)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    images = colored(60)
    train, val = hold_out(images, 0.3)
    settings = LinearSettings(epochs=60, batch_size=16, lr=500.0)  # LARS: many steps, or a high rate
    scores, truth = linear(encoder, train, val, settings, CPU)
    assert float((scores.argmax(dim=1) == truth).float().mean()) > 0.9
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_linear_fails_if_frozen_weights_move(monkeypatch):
    encoder = Encoder(build_backbone("resnet10t", 16, width=0.125), 16)

    def careless(training, encode, *args):
        encoder.train()
        encoder(torch.randn(4, 3, 16, 16))  # moves the BN statistics, as released code has done

    monkeypatch.setattr(Training, "fit", careless)
    train, val = hold_out(colored(12), 0.3)
    with pytest.raises(RunError, match=r"changed frozen weights: .*running_mean"):
        linear(encoder, train, val, LinearSettings(epochs=1), CPU)


def test_labeled_views_keep_colors():
    grey = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None] * 10, (20, 24, 24, 3))
    images = ArrayImages("greys", np.ascontiguousarray(grey), np.zeros(20, np.int64), ("grey",))
    settings = ClassifierSettings(epochs=1, batch_size=20, lr=1.0)
    loader = labeled_loader(Subset(images, np.arange(20)), 16, settings, CPU)
    (batch,) = loader.batches()
    assert len(batch.views) == 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (torch.from_numpy(batch.indices)[:, None] * 10 / 255 - mean) / std
    assert torch.allclose(batch.views[0], expected[:, :, None, None].float(), atol=1e-3)


RATES = {
    "knn": [],
    "probe": [],
    "linear": ["--epochs", 30, "--batch-size", 8, "--lr", 500],
    "finetune": ["--epochs", 30, "--batch-size", 8, "--lr", 0.5, "--backbone-lr", 0.01],
}
"""Flags with which each protocol learns from 24 images."""


@pytest.mark.parametrize("protocol", RATES)
def test_every_protocol_separates_light_from_dark(run, protocol):
    command = ["evaluate", run / "run", run / "classes", "--protocol", protocol, *RATES[protocol]]
    result = json.loads(run_cli(*command, "--workers", 0, "--json", check=0).stdout)
    assert result["top1"] >= 0.8
    assert (result["train_images"], result["val_images"]) == (24, 12)
    assert [sum(row) for row in result["confusion"]] == [6, 6]
    report = (run / "run" / "report.html").read_text()
    assert f"<td>{protocol}</td>" in report
    assert f"Confusion matrix ({protocol})" in report
    assert re.search(r"<td>20\d\d-\d\d-\d\d \d\d:\d\d</td></tr>", report)


@pytest.mark.parametrize("protocol", RATES)
def test_no_protocol_separates_light_from_dark_without_the_encoder(run, protocol, tmp_path):
    """With all its weights 0: pixels alone would be enough here, but the protocols measure the encoder."""
    blind = shutil.copytree(run / "run", tmp_path / "blind")
    weights = load_file(blind / "encoder.safetensors")
    zeroed = {name: value if "running" in name else value.zero_() for name, value in weights.items()}
    save_file(zeroed, blind / "encoder.safetensors")
    flags = dict(zip(RATES[protocol][::2], RATES[protocol][1::2], strict=True))
    options = {flag.removeprefix("--").replace("-", "_"): value for flag, value in flags.items()}
    result = evaluate(blind, run / "classes", protocol=protocol, workers=0, **options)
    assert result.top1 == 0.5
    assert sorted(map(sum, zip(*result.confusion, strict=True))) == [0, 12], "one class for all images"


def test_knn_accuracy_is_that_of_the_embedded_vectors(run, tmp_path, monkeypatch):
    """Five neighbors vote, each with weight exp(cos / T), on classes that are too alike to separate."""
    from tests.conftest import save_images

    for split, count in (("train", 12), ("val", 20)):
        for name, level in (("dark", 124), ("light", 132)):
            folder = tmp_path / "classes" / split / name
            folder.mkdir(parents=True)
            save_images(folder, count, seed=level + count, level=level)
    for module in (vectors_module, evaluate_module):
        monkeypatch.setattr(module, "uses_bf16", lambda *_: False)
    vectors, paths = vectors_module.embed(run / "run", tmp_path / "classes", workers=0)
    light = np.array(["light" in path for path in paths])
    correct = []
    for vector, is_light in zip(vectors[24:], light[24:], strict=True):
        cosines = vectors[:24] @ vector / np.linalg.norm(vectors[:24], axis=1) / np.linalg.norm(vector)
        nearest = np.argsort(cosines)[-5:]
        votes = np.exp(cosines[nearest] / 0.1)
        correct.append((votes[light[nearest]].sum() > votes[~light[nearest]].sum()) == is_light)
    assert 0.3 < np.mean(correct) < 0.9
    result = evaluate(run / "run", tmp_path / "classes", k=5, workers=0)
    assert result.top1 == pytest.approx(np.mean(correct))


def test_the_printed_table_names_classes(run):
    shown = run_cli("evaluate", run / "run", run / "classes", "--k", 3, "--workers", 0, check=0).stdout
    assert "dark" in shown
    assert "most confused with" in shown


def test_finetune_leaves_the_run_unchanged(run):
    before = load(run / "run").state_dict()
    evaluate(run / "run", run / "classes", protocol="finetune", epochs=1, workers=0)
    assert all(torch.equal(value, before[name]) for name, value in load(run / "run").state_dict().items())


def test_untrained_is_the_network_before_its_first_step(run):
    """Compared with the run's own kNN at random initialization."""
    records = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    start = next(record for record in records if record["kind"] == "start")
    result = evaluate(run / "run", run / "classes", k=5, untrained=True, workers=0)
    assert result.encoder == "random"
    assert result.top1 == pytest.approx(start["untrained_knn"], abs=1 / 12 + 1e-9)
    assert not torch.equal(
        untrained(run / "run").backbone.conv1.weight, load(run / "run").backbone.conv1.weight
    )


def test_a_fraction_of_labels_and_a_set_without_a_split(run):
    train = run / "classes" / "train"
    result = evaluate(run / "run", train, protocol="probe", labels=0.5, workers=0)
    assert result.held_out
    assert result.val_images == 4
    assert result.train_images in (9, 10, 11)


def test_invalid_evaluations_are_refused(run, photos):
    with pytest.raises(DataError, match="has no labels: put its images into one folder per class"):
        evaluate(run / "run", photos, workers=0)
    grey = run / "classes" / "train" / "grey"
    shutil.copytree(run / "classes" / "train" / "dark", grey)
    try:
        done = run_cli("evaluate", run / "run", run / "classes", "--workers", "0", check=0)
        assert "3 classes (no validation images for grey)" in done.stderr
    finally:
        shutil.rmtree(grey)
    done = run_cli("evaluate", run / "run", run / "classes", "--protocol", "knnn", check=2)
    assert done.stderr.count("\n") == 1
    assert "knn" in done.stderr
    done = run_cli("evaluate", run / "run", run / "classes", "--labels", "1.5", check=2)
    assert done.stderr == "siam: labels must lie in [0, 1], got 1.5\n"


def test_a_class_without_a_vote_is_not_among_the_top_five():
    """The nearest neighbors are of two classes of seven, so the others are wrong, whichever their number."""
    scores = torch.full((7, 7), -torch.inf)
    scores[:, 5], scores[:, 6] = 0.7, 0.3
    assert score(scores, torch.arange(7), tuple("abcdefg"))["top5"] == pytest.approx(2 / 7)


def test_knn_evaluation_counts_only_classes_with_a_vote_in_top5(run, tmp_path):
    """With k = 1, top-5 accuracy is top-1 accuracy."""
    from tests.conftest import save_images

    for split, count in (("train", 3), ("val", 4)):
        for kind in range(7):
            folder = tmp_path / split / f"{kind}"
            folder.mkdir(parents=True)
            save_images(folder, count, seed=kind + count)
    result = evaluate(run / "run", tmp_path, k=1, workers=0)
    assert result.top5 == result.top1 < 1
