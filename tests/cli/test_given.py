"""What Python gives: pictures in any form, paths with ~, numbers that are none, names of before."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import siam
from siam.data.given import open_given
from siam.data.random import permutation
from siam.errors import DataError, SettingsError
from siam.methods import SIMSIAM
from siam.network import Network
from siam.protocols.settings import EvaluateSettings
from siam.runs.encoder import save_encoder, save_network
from siam.runs.folder import save_settings
from siam.settings.overrides import Overrides
from siam.settings.pretraining import CheckpointSettings, MonitorSettings, Settings, ViewSettings
from siam.transfer.settings import TransferSettings
from tests.conftest import run_cli


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    torch.manual_seed(0)
    method = replace(SIMSIAM, dim=16, projector_hidden=16, predictor_hidden=4)
    settings = Settings(backbone="resnet10t", width=0.125, views=ViewSettings(size=32), method=method)
    network = Network(method, settings.backbone, 32, settings.width)
    save_settings(folder, settings)
    save_encoder(folder, network.backbone, settings)
    save_network(folder, network)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Two PNG files, and their pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3)).astype(np.uint8)
    files = [tmp_path / "a.png", tmp_path / "b.PNG"]
    for file, one in zip(files, pixels, strict=True):
        Image.fromarray(one).save(file)
    return files, pixels


def test_embed_takes_pictures_in_any_form_alike(run, pictures):
    (first, second), pixels = pictures
    expected, paths = siam.embed(run, first.parent)
    assert (expected.shape, paths) == ((2, 64), ["a.png", "b.PNG"])
    alike = [
        [first, str(second)], [Image.open(first), Image.open(second)], pixels, list(pixels),
        torch.from_numpy(pixels).permute(0, 3, 1, 2), [str(first), pixels[1]],
    ]  # fmt: skip
    for given in alike:
        np.testing.assert_allclose(siam.embed(run, given)[0], expected, atol=1e-5)
    for given in (first, str(first), Image.open(first), pixels[0], (first,)):
        np.testing.assert_allclose(siam.embed(run, given)[0], expected[:1], atol=1e-5)
    assert siam.embed(run, [first, str(second)])[1] == [str(first), str(second)]
    assert siam.embed(run, Image.open(first))[1] == [str(first)]
    assert siam.embed(run, pixels)[1] == ["000000", "000001"]


def test_gray_pictures_and_those_with_transparency(run):
    gray = np.random.default_rng(0).integers(0, 256, (40, 48)).astype(np.uint8)
    rgb = np.repeat(gray[..., None], 3, axis=2)
    expected, _ = siam.embed(run, rgb)
    for given in (gray, gray[None], gray[..., None], Image.fromarray(gray), torch.from_numpy(gray)[None]):
        np.testing.assert_allclose(siam.embed(run, given)[0], expected, atol=1e-5)
    opaque = Image.fromarray(rgb).convert("RGBA")
    np.testing.assert_allclose(siam.embed(run, opaque)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [(np.zeros((4, 4, 3)), r"uint8 arrays .*, got float64 \(4, 4, 3\)"), ([], "the list is empty"),
     (np.zeros((4, 4, 5, 2), np.uint8), r"got uint8 \(4, 4, 5, 2\)"), (3, "got int"), ([{}], "got dict"),
     (np.zeros((0, 4, 4, 3), np.uint8), "got uint8"), (np.array(["a.jpg"]), "got <U5"),
     (torch.zeros(3, 8, 8), "got float32"), ("nowhere.jpg", "no such file or folder: nowhere.jpg"),
     (["nowhere.jpg"], "none of the images in the list can be read")],
)  # fmt: skip
def test_other_forms_are_refused_in_a_sentence(run, given, said):
    with pytest.raises(DataError, match=said):
        siam.embed(run, given)


def test_a_picture_from_the_shell(run, pictures, tmp_path):
    (first, _), _ = pictures
    out = tmp_path / "v.parquet"
    done = run_cli("embed", run, first, "--out", out, "--workers", 0, "--json", check=0)
    assert '"images": 1' in done.stdout


def test_a_list_is_unlabeled_whatever_its_folders(pictures, tmp_path):
    (first, second), _ = pictures
    for name, file in (("cats", first), ("dogs", second)):
        (tmp_path / name).mkdir()
        file.rename(tmp_path / name / file.name)
    sets = open_given([tmp_path / "cats" / "a.png", tmp_path / "dogs" / "b.PNG"])
    assert (sets.train.labels, sets.train.classes, sets.val) == (None, (), None)


def test_verbs_that_need_a_set_by_name_say_so(run, pictures):
    with pytest.raises(SettingsError, match="data must be a string"):
        siam.pretrain([str(pictures[0][0])])
    with pytest.raises(DataError, match="DATA must be a name or a path, got list: write the paths to a"):
        siam.evaluate(run, [str(pictures[0][0])])
    assert siam.inspect(run, pictures[1], device="cpu")["images"] == 2


def test_the_home_folder_in_paths_from_python(run, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "run").symlink_to(run, target_is_directory=True)
    assert siam.embed("~/run", "~/a.png")[1] == [str(tmp_path / "a.png")]
    assert len(siam.embed("~/run", ["~/a.png", "~/b.PNG"])[0]) == 2
    siam.export("~/run", "safetensors", "~/e.safetensors")
    siam.import_("~/e.safetensors", "~/again")
    assert siam.inspect("~/again")["backbone"] == "resnet10t x 0.125"
    monkeypatch.chdir(tmp_path)
    assert len(siam.embed("run", "a.png")[0]) == 1, "and relative ones"
    assert not os.path.exists("~")


@pytest.mark.parametrize("seed", [2**31, 2**32 + 1, 2**63, 2**64 - 1])
def test_large_seeds(seed):
    for kind in (Settings, EvaluateSettings, TransferSettings):
        assert kind(seed=seed).seed == seed
    torch.manual_seed(seed)
    assert sorted(permutation(seed, 3, 50)) == list(range(50))
    assert list(permutation(seed, 3, 50)) != list(permutation(seed - 1, 3, 50))


@pytest.mark.parametrize("kind", [Settings, EvaluateSettings, TransferSettings])
@pytest.mark.parametrize("seed", [2**64, 10**30, -1, 1.5, math.nan])
def test_impossible_seeds_are_refused(kind, seed):
    with pytest.raises(
        SettingsError, match=r"seed must (not be negative|be below 2\*\*64|be a whole number), got"
    ):
        kind(seed=seed)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "change",
    [
        lambda v: Overrides({"optimizer": {"lr": v}}).over(Settings()),
        lambda v: Overrides({"optimizer": {"weight_decay": v}}).over(Settings()),
        lambda v: Overrides({"method": {"temperature": v}}).over(Settings()),
        lambda v: MonitorSettings(knn_temperature=v),
        lambda v: ViewSettings(scale=(v, 1.0)),
        lambda v: ViewSettings(blur_sigma=(0.1, v)),
        lambda v: EvaluateSettings(temperature=v),
        lambda v: EvaluateSettings(lr=v),
        lambda v: EvaluateSettings(labels=v),
        lambda v: TransferSettings(lr=v),
        lambda v: TransferSettings(drops=(0.5, v)),
        lambda v: TransferSettings(score_threshold=v),
        lambda v: Settings(width=v),
        lambda v: CheckpointSettings(every=f"{v}s"),
    ],
)
def test_numbers_that_are_none_are_refused(change, value):
    with pytest.raises(SettingsError, match=r"must (be|lie)"):
        change(value)


def test_what_a_settings_file_may_ask_for_is_bounded():
    for group, name, value in (
        ("views", "size", 10**9), ("method", "dim", 10**9), ("method", "projector_hidden", 10**12),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=rf"{group}\.{name} must be at most"):
            Overrides({group: {name: value}}).over(Settings())
    with pytest.raises(SettingsError, match="width must be at most 16"):
        Settings(width=1e9)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"network": {"dim": 4}}, "'network'; did you mean method"),
     ({"accumulate": 2}, "'accumulate'; did you mean grad_accum"),
     ({"recompute": True}, "'recompute'; did you mean activation_checkpointing"),
     ({"loader": {"resident": "yes"}}, "'loader.resident'; did you mean loader.cache"),
     ({"views": {"grey_p": 0.1}}, "'views.grey_p'; did you mean views.grayscale_p"),
     ({"lr": 0.1}, "'lr'; did you mean optimizer.lr"),
     ({"workers": 0}, "'workers'; did you mean loader.workers"),
     ({"momentum": 0.9}, "did you mean method.momentum or optimizer.momentum"),
     ({"epoch": 3}, "'epoch'; did you mean epochs")],
)  # fmt: skip
def test_old_and_misplaced_names_from_python(tmp_path, settings, said):
    with pytest.raises(SettingsError, match=said):
        siam.pretrain("demo", out=tmp_path / "run", **settings)


def test_an_old_name_of_an_evaluation(run, tmp_path):
    with pytest.raises(SettingsError, match="'random_init'; did you mean untrained"):
        siam.evaluate(run, tmp_path, random_init=True)
    with pytest.raises(SettingsError, match="batch_size must be a whole number, got nan"):
        siam.embed(run, tmp_path, batch_size=math.nan)
