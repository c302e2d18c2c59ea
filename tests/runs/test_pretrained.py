"""Weights that exist: from a hub on loopback, a folder and a file. The weights are random."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

import siam
from siam.cli import command as cli
from siam.data.augment import normalize
from siam.errors import RunError, SettingsError
from siam.measure.features import center_view
from siam.network import Network
from siam.parts.backbone import build_backbone
from siam.recipes import CIFAR10
from siam.runs.encoder import load, save_encoder, untrained
from siam.runs.folder import save_settings
from siam.runs.pretrained import is_pretrained
from siam.settings.pretraining import Settings, ViewSettings
from siam.train import pretrain
from siam.train.initialize import init_settings, initialize
from tests.conftest import TINY, save_images
from tests.runs.hub import Hub

VIT, CNN = "test_vit.r160_in1k", "test_byobnet.r160_in1k"
"""Small models of timm's registry; the first normalizes with 0.5, the second with ImageNet's numbers."""
OWN_SIZE = [flag for flag in TINY if flag not in ("--backbone", "resnet10t", "--width", "0.125")]
OWN_SIZE[OWN_SIZE.index("--views.size") + 1] = "64"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with the models as timm saves them for the hub."""
    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(7)
    for name in (VIT, CNN):
        save_for_hf(timm.create_model(name), root / "timm" / name, safe_serialization=True)
    old = root / "someone" / "pickled"
    old.mkdir(parents=True)
    (old / "config.json").write_bytes((root / "timm" / VIT / "config.json").read_bytes())
    (old / "pytorch_model.bin").write_bytes(b"a pickle")
    return root


@pytest.fixture
def hub(models, tmp_path, monkeypatch):
    """A hub with these models, and an empty cache."""
    served = Hub(models)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.endpoint + template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield served
    served.close()


@pytest.fixture
def edited(models, tmp_path):
    """Return a function that copies the ViT with a changed config and changed weights."""

    def make(weights=None, nested=None, **config):
        folder = tmp_path / "edited"
        folder.mkdir()
        plain = json.loads((models / "timm" / VIT / "config.json").read_text()) | config
        plain["pretrained_cfg"] |= nested or {}
        (folder / "config.json").write_text(json.dumps(plain))
        state = load_file(models / "timm" / VIT / "model.safetensors")
        save_file({**state, **(weights or {})}, folder / "model.safetensors")
        return folder

    return make


def test_each_spelling_is_the_encoder_that_timm_builds(hub, models):
    folder = models / "timm" / VIT
    names = [f"timm:{VIT}", f"hf-hub:timm/{VIT}", f"hf-hub:timm/{VIT}@{'c' * 40}", f"timm:hf-hub:timm/{VIT}"]
    names += [folder, f"timm:local-dir:{folder}", folder / "model.safetensors"]
    x = torch.rand(2, 3, 160, 160)
    expected = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()(
        (x - 0.5) / 0.5
    )
    for name in names:
        assert is_pretrained(name)
        encoder = load(name)
        assert (encoder.features, encoder.image_size, encoder.crop.shorter) == (64, 160, 168)
        assert not encoder.training
        torch.testing.assert_close(encoder(normalize(x)), expected, atol=1e-4, rtol=1e-4)
    assert {path.rpartition("/")[2] for path in hub.requests} == {"config.json", "model.safetensors"}


def test_images_are_prepared_as_timm_prepares_them(models):
    """Within rounding: timm resizes with Pillow."""
    rng = np.random.default_rng(0)
    soft = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).resize((300, 200))
    model = timm.create_model(f"local-dir:{models / 'timm' / VIT}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    expected = transform(soft)
    encoder = load(models / "timm" / VIT)
    view = center_view(torch.from_numpy(np.array(soft)).permute(2, 0, 1), encoder.crop)
    seen = []
    encoder.backbone.model.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    encoder(normalize(view[None].float() / 255))
    assert (seen[0] - expected).abs().max() < 3 / 255 / 0.5


def test_what_was_downloaded_needs_no_network(hub, monkeypatch):
    x = torch.rand(1, 3, 160, 160)
    first = load(f"timm:{CNN}")(x)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert torch.equal(load(f"timm:{CNN}")(x), first)
    assert len(hub.requests) == asked
    with pytest.raises(RunError, match=rf"timm/{VIT} is not in the local cache, and HF_HUB_OFFLINE is set"):
        load(f"timm:{VIT}")


def test_without_a_network_the_error_names_the_hub(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between tries
    hub.close()
    with pytest.raises(RunError, match=rf"not in the local cache, and {hub.endpoint} cannot be reached: run"):
        load(f"timm:{VIT}")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("timm:test_vit.r160_in1", SettingsError, "no weights 'r160_in1' for test_vit: choose r160_in1k"),
        ("timm:resnett18", SettingsError, "timm has no model 'resnett18'; did you mean resnet18"),
        ("timm:qqqqqqqq", SettingsError, r"timm has no model 'qqqqqqqq'; timm.list_pretrained\(\) in Python"),
        ("timm:someone/pickled", SettingsError, "for one of the hub, write hf-hub:someone/pickled"),
        ("timm:gcvit_tiny.in1k", SettingsError, "timm has no weights for gcvit_tiny.in1k on the hub"),
        ("hf-hub:pickled", SettingsError, "'pickled' is not a model of the hub: its name has the form"),
        ("hf-hub:a/b c", SettingsError, "'a/b c' is not a model of the hub"),
        ("hf-hub:someone/pickled", RunError, "has no model.safetensors: only safetensors"),
        ("hf-hub:someone/nothing", RunError, "there is no model someone/nothing on http://127.0.0.1"),
        ("hf-hub:someone/restricted", RunError, "is restricted: accept its terms there"),
        (f"hf-hub:timm/{VIT}@old", RunError, "has no revision 'old'"),
    ],
)  # fmt: skip
def test_a_name_that_is_not_one(hub, name, error, message):
    with pytest.raises(error, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    assert not [path for path in hub.requests if path.endswith(".bin")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet_of_mine"}, "does not name an architecture of timm, but 'resnet_of_mine'"),
        ({"architecture": "test_resnet"}, "do not fit test_resnet: .*img_size"),
        ({"weights": {"norm.weight": torch.ones(3)}}, "do not fit test_vit: Error.*"),
        ({"weights": {"more": torch.ones(3)}}, 'do not fit test_vit: .*Unexpected key.*"more"'),
        ({"weights": {"norm.weight": torch.full((64,), torch.nan)}}, "corrupt: norm.weight has NaN"),
        ({"nested": {"input_size": [1, 160, 160]}}, "takes inputs of 1 x 160 x 160: Siam's are square RGB"),
        ({"nested": {"input_size": [3, 160, 96]}}, "takes inputs of 3 x 160 x 96: Siam's are square RGB"),
        ({"nested": {"mean": "0.5"}}, "is corrupt: mean is '0.5', not three numbers"),
        ({"nested": {"std": [0.5, 0, 0.5]}}, r"is corrupt: std is \[0.5, 0.0, 0.5\]"),
        ({"nested": {"crop_pct": 0}}, "is corrupt: crop_pct is 0"),
        ({"model_args": {"embed_dim": 2**17}}, "do not fit test_vit: it has [0-9,]+ values, and the"),
        ({"model_args": {"depht": 3}}, "do not fit test_vit: .*depht"),
        ({"num_classes": "many"}, "do not fit test_vit"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit(edited, changes, message):
    with pytest.raises(RunError, match=message) as caught:
        load(edited(**changes))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_files_that_say_too_little(models, tmp_path):
    weights = (models / "timm" / VIT / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights)
    for name in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(RunError, match="does not say which network its weights belong to: put"):
            load(name)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config.json cannot be read: "):
        load(tmp_path)
    (tmp_path / "config.json").write_bytes((models / "timm" / VIT / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(RunError, match=f"the weights of {tmp_path} do not fit test_vit"):
        load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(RunError, match=f"{tmp_path} has no model.safetensors: other files are read"):
        load(tmp_path)


def test_verbs_that_need_a_run_say_so():
    with pytest.raises(RunError, match="timm:resnet18 is not a run: siam pretrain DATA --init"):
        siam.export("timm:resnet18", "timm", "out")
    with pytest.raises(RunError, match="has no projector"):
        load(f"timm:{VIT}", layer="projector")


def test_untrained_is_the_same_network_with_other_weights(models):
    trained, random = load(models / "timm" / VIT), untrained(models / "timm" / VIT)
    assert random.crop == trained.crop
    own, other = trained.state_dict(), random.state_dict()
    assert own.keys() == other.keys()
    assert not torch.equal(own["backbone.model.patch_embed.proj.weight"],
                           other["backbone.model.patch_embed.proj.weight"])  # fmt: skip


@pytest.mark.parametrize(
    ("name", "size"), [(f"timm:{VIT}", 160), (f"hf-hub:timm/{VIT}", 64), (f"timm:{CNN}", 64)]
)
def test_init_gives_the_run_the_encoder(hub, name, size):
    """The images' size where the network takes any; its own normalization becomes part of the first layer."""
    settings = init_settings(name, CIFAR10)
    assert (settings.backbone, settings.views.size) == ("test_vit" if VIT in name else "test_byobnet", size)
    network = Network(settings.method, settings.backbone, size, settings.width, settings.stem).eval()
    message = initialize(settings, network)
    assert message == f"initialized backbone from {name}; projector and predictor newly initialized"
    x = torch.randn(2, 3, size, size)
    torch.testing.assert_close(network.backbone(x).detach(), load(name)(x), atol=1e-4, rtol=1e-4)


def test_a_network_that_settings_cannot_describe_is_not_trained(edited):
    folder = edited(model_args={"act_layer": "relu"})
    assert load(folder).features == 64
    settings = init_settings(str(folder), CIFAR10)
    network = Network(settings.method, settings.backbone, settings.views.size)
    with pytest.raises(RunError, match=r"Siam cannot train .* options that settings\.yaml does not"):
        initialize(settings, network)


def test_init_refuses_another_backbone_than_that_of_the_weights(models):
    settings = replace(init_settings(str(models / "timm" / CNN), CIFAR10), backbone="test_vit")
    with pytest.raises(RunError, match="differs in shape from this run's: leave out backbone"):
        initialize(settings, Network(settings.method, "test_vit", 64))


def test_a_file_that_siam_exported_is_an_encoder(tmp_path):
    """Of any width and stem, which timm's folders cannot express."""
    settings = Settings(backbone="resnet10t", width=0.125, views=ViewSettings(size=16))
    (tmp_path / "run").mkdir()
    save_settings(tmp_path / "run", settings)
    save_encoder(tmp_path / "run", build_backbone("resnet10t", 16, 0.125), settings)
    file = tmp_path / "encoder.safetensors"
    siam.export(tmp_path / "run", "safetensors", file)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(load(file)(x), load(tmp_path / "run")(x))
    begun = init_settings(str(file), Settings(views=ViewSettings(size=32)))
    assert (begun.width, begun.stem, begun.views.size) == (0.125, "auto", 16)
    network = Network(begun.method, begun.backbone, 16, begun.width, begun.stem).eval()
    initialize(begun, network)
    assert torch.equal(network.backbone(x).detach(), load(tmp_path / "run")(x))


def test_evaluate_and_embed_take_them(models, tmp_path, capsys):
    for name, level in (("train/a", 60), ("train/b", 200), ("val/a", 60), ("val/b", 200)):
        (tmp_path / name).mkdir(parents=True)
        save_images(tmp_path / name, 2, seed=level, level=level)
    folder = str(models / "timm" / CNN)
    before = sorted(os.listdir(folder))
    assert cli.main(["evaluate", folder, str(tmp_path), "--json", "--workers", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["val_images"] == 4
    assert sorted(os.listdir(folder)) == before  # the result is printed only
    image = tmp_path / "val" / "a" / "000.jpg"
    vectors, paths = siam.embed(folder, image, workers=0)
    encoder = load(folder)
    view = center_view(torch.from_numpy(np.array(Image.open(image))).permute(2, 0, 1), encoder.crop)
    assert paths == [str(image)]
    torch.testing.assert_close(torch.from_numpy(vectors), encoder(normalize(view[None] / 255)))


@pytest.mark.slow
def test_a_run_begins_with_them_and_resumes_without_the_hub(hub, photos, tmp_path, capsys, monkeypatch):
    flags = [*OWN_SIZE, "--out", str(tmp_path / "run"), "--device", "cpu"]
    args = ["pretrain", str(photos), *flags, "--init", f"timm:{CNN}"]
    with monkeypatch.context() as patch:
        end_epoch = pretrain._end_epoch

        def fail_in_the_second(run, settings, epoch, measured):
            if epoch == 1:
                raise RunError("failed in the second epoch")
            end_epoch(run, settings, epoch, measured)

        patch.setattr(pretrain, "_end_epoch", fail_in_the_second)
        assert cli.main(args) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"initialized backbone from timm:{CNN}" in said
    assert "failed in the second epoch" in said
    hub.close()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    assert cli.main([*args, "--resume"]) == 0
    assert "(resumed)" in capsys.readouterr().err


def test_the_environment_of_huggingface_hub_is_respected(models, tmp_path):
    """In processes of their own, because huggingface_hub reads it when it is imported."""
    served = Hub(models)
    env = {**os.environ, "HF_ENDPOINT": served.endpoint, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    code = f"from siam.runs.hub import download; print(download('timm/{VIT}', 'config.json'))"
    answers = []
    for offline in ("0", "1"):
        env["HF_HUB_OFFLINE"] = offline
        args = [sys.executable, "-c", code]
        answers.append(subprocess.run(args, env=env, capture_output=True, text=True, check=True).stdout)
        if offline == "0":
            served.close()
    assert answers[0] == answers[1]
    assert answers[0].startswith(str(tmp_path))
    assert len(served.requests) == 2  # HEAD and GET
