"""Exports load in other libraries with the same features; imported checkpoints keep theirs."""

import json
import pickle
import tarfile
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml
from torch import nn

import siam
from siam.convert.export import export
from siam.convert.importer import import_checkpoint, read_tensors
from siam.convert.layouts import _from_detectron2, to_detectron2
from siam.data.augment import normalize
from siam.data.sources import open_images
from siam.errors import RunError, SettingsError
from siam.measure.features import center_view
from siam.methods import MOCO_V2, SIMSIAM
from siam.network import Network
from siam.runs.encoder import load, load_network, save_encoder
from siam.runs.folder import open_run, save_settings
from siam.runs.tensors import load_checkpoint, safetensors_file
from siam.settings.pretraining import Settings, ViewSettings
from siam.system.files import write_atomically
from tests.conftest import DATA, TINY, run_cli

SIZE = 64


def warmed(module, size=SIZE):
    """Return the module in eval mode, with BN statistics and scales unlike those of a fresh network."""
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(layer.bias, 0, 0.1, generator=generator)
    return module.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A ResNet-18 run as `siam pretrain` writes it, without the training."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    torch.manual_seed(0)
    settings = Settings(data="photos", backbone="resnet18", views=ViewSettings(size=SIZE))
    network = warmed(Network(settings.method, "resnet18", SIZE))
    save_settings(folder, settings)
    save_encoder(folder, network.backbone, settings)
    write_atomically(folder / "network.safetensors", safetensors_file(network.state_dict()))
    return folder


@pytest.fixture(scope="module")
def x(tmp_path_factory):
    """Real photographs (4, 3, 64, 64), normalized; noise if they are not available."""
    archive = DATA / "photos.tar"
    if archive.exists():
        folder = tmp_path_factory.mktemp("photos")
        with tarfile.open(archive) as tar:
            members = [member for member in tar if member.isfile() and member.name.endswith(".JPEG")][:4]
            tar.extractall(folder, members, filter="data")
        images = open_images(folder).train
        views = torch.stack([center_view(images.read(i), SIZE) for i in range(4)])
        return normalize(views.float() / 255)
    return torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def features(run, x):
    with torch.no_grad():
        return load(run)(x)


def test_torchvision_loads_the_export(run, x, features, tmp_path):
    export(run, "torchvision", tmp_path / "encoder.pth")
    state = torch.load(tmp_path / "encoder.pth", weights_only=True)
    model = torchvision.models.resnet18().eval()
    left = model.load_state_dict(state, strict=False)
    assert set(left.missing_keys) == {"fc.weight", "fc.bias"}
    assert not left.unexpected_keys
    model.fc = nn.Identity()
    with torch.no_grad():
        assert torch.allclose(model(x), features, atol=1e-5)
    about = state._metadata[""]["siam"]
    assert (about["method"], about["backbone"], about["data"]) == ("simsiam", "resnet18", "photos")
    assert about["mean"] == "0.485 0.456 0.406"


def test_timm_loads_the_export(run, x, features, tmp_path):
    export(run, "timm", tmp_path / "encoder")
    model = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        assert torch.allclose(model(x), features, atol=1e-5)
    assert tuple(model.pretrained_cfg["input_size"]) == (3, SIZE, SIZE)
    plain = timm.create_model("resnet18", num_classes=0).eval()
    timm.models.load_checkpoint(plain, str(tmp_path / "encoder" / "model.safetensors"))
    with torch.no_grad():
        assert torch.allclose(plain(x), features, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter's own making
def test_onnxruntime_gives_the_same_features_at_any_batch_size(run, x, features, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export(run, "onnx", tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "encoder.onnx"))
    for n in (4, 1, 3):
        (found,) = session.run(["features"], {"images": x[:n].numpy()})
        assert np.allclose(found, features[:n].numpy(), atol=1e-4, rtol=1e-4)
    about = {p.key: p.value for p in onnx.load(str(tmp_path / "encoder.onnx")).metadata_props}
    assert about["method"] == "simsiam"


def test_detectron2_finds_every_weight_by_its_name(run, tmp_path):
    """The names of build_resnet_backbone, for the 20 convolutions of a ResNet-18."""
    export(run, "detectron2", tmp_path / "encoder.pth")
    contents = torch.load(tmp_path / "encoder.pth", weights_only=True)
    assert contents["matching_heuristics"] is True
    state, own = contents["model"], load(run).backbone.state_dict()
    convolutions = ["stem.conv1"]
    for stage in range(2, 6):
        for block in range(2):
            convolutions += [f"res{stage}.{block}.conv{i}" for i in (1, 2)]
        convolutions += [f"res{stage}.0.shortcut"] if stage > 2 else []
    expected = {f"{name}.weight" for name in convolutions} | {
        f"{name}.norm.{field}"
        for name in convolutions
        for field in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert set(state) == expected
    assert torch.equal(state["res3.0.shortcut.norm.bias"], own["layer2.0.downsample.1.bias"])
    assert torch.equal(state["res5.1.conv2.norm.weight"], own["layer4.1.bn2.weight"])


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_detectron2_names_round_trip(name):
    keys = [key for key in torchvision.models.get_model(name).state_dict() if not key.startswith("fc.")]
    assert [_from_detectron2(to_detectron2(key)) for key in keys] == keys


@pytest.mark.parametrize("form", ["torchvision", "timm", "detectron2", "safetensors"])
def test_import_of_export_is_the_identity(run, tmp_path, form):
    export(run, form, tmp_path / "exported")
    imported = import_checkpoint(tmp_path / "exported", tmp_path / "back")
    assert not imported.left_out
    assert (imported.backbone, imported.method) == ("resnet18", "simsiam")
    before, after = load(run).state_dict(), load(tmp_path / "back").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert open_run(tmp_path / "back").settings.views.size == SIZE


def released_simsiam(dim=128, hidden=32):
    """The released SimSiam (its builder's layers) around torchvision's ResNet-18."""
    encoder = torchvision.models.resnet18(zero_init_residual=True)
    width = encoder.fc.in_features
    encoder.fc = nn.Sequential(
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, dim), nn.BatchNorm1d(dim, affine=False),
    )  # fmt: skip
    predictor = nn.Sequential(
        nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim)
    )
    return warmed(nn.ModuleDict({"encoder": encoder, "predictor": predictor}))


def test_a_released_simsiam_gives_the_same_p_and_z(tmp_path, x):
    model = released_simsiam(dim=2048, hidden=512)
    state = OrderedDict((f"module.{key}", value) for key, value in model.state_dict().items())
    torch.save({"epoch": 100, "arch": "resnet18", "state_dict": state, "optimizer": {}}, tmp_path / "c.pth")
    imported = import_checkpoint(tmp_path / "c.pth", tmp_path / "run")
    assert imported.layout == "SimSiam (released)"
    assert imported.parts == ("backbone", "projector", "predictor")
    assert not imported.left_out

    settings = open_run(tmp_path / "run").settings
    assert (settings.method.dim, settings.method.predictor_hidden) == (2048, 512)
    network = Network(settings.method, settings.backbone, SIZE, stem="standard").eval()
    network.load_state_dict(load_network(tmp_path / "run"))
    with torch.no_grad():
        z = model["encoder"](x)
        p1, p2, z1, z2 = network(x, x.flip(3))
        assert torch.allclose(z1, z, atol=1e-5)
        assert torch.allclose(p1, model["predictor"](z), atol=1e-5)
        assert torch.allclose(z2, model["encoder"](x.flip(3)), atol=1e-5)
        assert not torch.allclose(p2, p1)


def test_a_released_moco_v2(tmp_path, x):
    query = torchvision.models.resnet18()
    query.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
    warmed(query)
    state = {f"module.encoder_q.{key}": value for key, value in query.state_dict().items()}
    state |= {f"module.encoder_k.{key}": value * 0.5 for key, value in query.state_dict().items()}
    state |= {"module.queue": torch.randn(128, 64), "module.queue_ptr": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "moco.pth")
    imported = import_checkpoint(tmp_path / "moco.pth", tmp_path / "run")
    assert (imported.method, imported.parts) == ("moco_v2", ("backbone", "projector", "target_encoder"))
    assert imported.left_out == ("module.queue", "module.queue_ptr")
    network = Network(open_run(tmp_path / "run").settings.method, "resnet18", 224).eval()
    network.load_state_dict(load_network(tmp_path / "run"))
    with torch.no_grad():
        assert torch.allclose(network(x, x)[0], query(x), atol=1e-5)
    assert torch.equal(network.target_encoder.encoder[0].conv1.weight, query.conv1.weight * 0.5)
    assert network.predictor.__class__ is nn.Identity
    assert open_run(tmp_path / "run").settings.method.objective == MOCO_V2.objective


def lightly_keys(model):
    """lightly's tutorials: backbone = nn.Sequential(*list(resnet.children())[:-1])."""
    children = list(model["encoder"].children())[:-1]
    backbone = nn.Sequential(*children)
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    state |= {f"projection_head.layers.{k}": v for k, v in model["encoder"].fc.state_dict().items()}
    return state | {f"prediction_head.layers.{k}": v for k, v in model["predictor"].state_dict().items()}


def solo_keys(model):
    encoder = {k: v for k, v in model["encoder"].state_dict().items() if not k.startswith("fc.")}
    state = {f"backbone.{key}": value for key, value in encoder.items()}
    state |= {f"projector.{k}": v for k, v in model["encoder"].fc.state_dict().items()}
    state |= {f"predictor.{k}": v for k, v in model["predictor"].state_dict().items()}
    return state | {"classifier.weight": torch.randn(10, 512), "classifier.bias": torch.randn(10)}


@pytest.mark.parametrize(("keys", "left"), [(lightly_keys, 0), (solo_keys, 2)])
def test_lightning_checkpoints_of_lightly_and_solo_learn(tmp_path, x, keys, left):
    model = released_simsiam()
    torch.save({"state_dict": keys(model), "epoch": 3}, tmp_path / "last.ckpt")
    imported = import_checkpoint(tmp_path / "last.ckpt", tmp_path / "run")
    assert imported.parts == ("backbone", "projector", "predictor")
    assert len(imported.left_out) == left
    network = Network(open_run(tmp_path / "run").settings.method, "resnet18", 224).eval()
    network.load_state_dict(load_network(tmp_path / "run"))
    with torch.no_grad():
        assert torch.allclose(network(x, x)[2], model["encoder"](x), atol=1e-5)


def test_torchvision_and_timm_state_dicts(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "tv.pth")
    imported = import_checkpoint(tmp_path / "tv.pth", tmp_path / "tv")
    assert imported.left_out == ("fc.weight", "fc.bias")
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(RunError, match="specify its timm name with --backbone"):
        import_checkpoint(tmp_path / "vit.pth", tmp_path / "vit")
    imported = import_checkpoint(tmp_path / "vit.pth", tmp_path / "vit", backbone="vit_tiny_patch16_224")
    assert imported.left_out == ("head.weight", "head.bias")


def test_an_imported_run_trains_on_embeds_and_evaluates(classes, photos, tmp_path):
    """Every verb works on it, and pretraining starts from its weights."""
    torch.save({"state_dict": released_simsiam().state_dict()}, tmp_path / "c.pth")
    run_cli("import", tmp_path / "c.pth", "--out", tmp_path / "run", "--image-size", 32, check=0)
    shown = json.loads(run_cli("inspect", tmp_path / "run", classes, "--json", check=0).stdout)
    assert (shown["method"], shown["heads"]) == ("simsiam", "projector, predictor")
    vectors, paths = siam.embed(tmp_path / "run", classes, workers=0)
    assert paths[23].startswith("train/")
    s = np.linalg.svd(vectors[:24].astype(np.float64), compute_uv=False)
    assert shown["rank"] == pytest.approx(np.exp(-(s / s.sum() * np.log(s / s.sum())).sum()), rel=1e-3)
    for image in [*photos.iterdir()][1:]:
        image.unlink()
    assert "needs at least 2" in run_cli("inspect", tmp_path / "run", photos, check=2).said()
    run_cli("evaluate", tmp_path / "run", classes, "--k", 3, "--workers", 0, check=0)
    run_cli("embed", tmp_path / "run", classes, "--workers", 0, "--out", tmp_path / "v.parquet", check=0)
    flags = [*TINY[TINY.index("--epochs") :]]
    for name in ("--method.dim", "--method.projector-hidden", "--method.predictor-hidden",
                 "--method.projector-layers", "--views.size"):  # fmt: skip
        at = flags.index(name)
        del flags[at : at + 2]
    done = run_cli("pretrain", classes, "--init", tmp_path / "run", *flags, "--out", tmp_path / "on", check=0)
    assert "initialized backbone, projector, predictor from" in " ".join(done.stderr.split())
    settings = yaml.safe_load((tmp_path / "on" / "settings.yaml").read_text())
    assert (settings["backbone"], settings["method"]["dim"]) == ("resnet18", 128)


class Payload:
    """Calls print when unpickled."""

    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("how", ["zip", "legacy", "plain pickle"])
@pytest.mark.parametrize("read", [read_tensors, load_checkpoint])
def test_nothing_in_a_checkpoint_is_executed(tmp_path, capsys, how, read):
    contents = {"state_dict": {"conv1.weight": torch.zeros(1)}, "more": Payload()}
    file = tmp_path / "evil.pth"
    if how == "plain pickle":
        file.write_bytes(pickle.dumps(contents))
    else:
        torch.save(contents, file, _use_new_zipfile_serialization=how == "zip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zipped = how == "zip" or read is read_tensors  # a run's own checkpoint is always a zip
        said = "contains objects other than tensors; loading them could execute code"
        with pytest.raises(RunError, match=said if zipped else "cannot be read"):
            read(file)
    with pytest.raises(RunError):
        import_checkpoint(file, tmp_path / "run")
    assert "executed" not in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04 cut off", b"not a checkpoint at all"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_and_foreign_files_are_an_error_of_one_line(tmp_path, contents, suffix):
    file = tmp_path / f"c{suffix}"
    file.write_bytes(contents)
    done = run_cli("import", file, "--out", tmp_path / "run", check=2)
    assert done.stderr.count("\n") == 1
    assert "cannot be read" in done.stderr
    assert "objects other than tensors" not in done.stderr


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = {f"module.{k}": v for k, v in released_simsiam().state_dict().items()}
    del state["module.encoder.layer3.0.conv1.weight"]
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    with pytest.raises(RunError, match=r"has missing keys: backbone\.layer3\.0\.conv1\.weight"):
        import_checkpoint(tmp_path / "c.pth", tmp_path / "run")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "odd.pth")
    with pytest.raises(RunError, match=r"keys match no known layout \(first keys: weight\)"):
        import_checkpoint(tmp_path / "odd.pth", tmp_path / "run")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(RunError, match="does not contain a state dict"):
        import_checkpoint(tmp_path / "list.pth", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_networks_that_torchvision_and_timm_cannot_build_are_refused(tmp_path):
    for name, backbone, width, size in (
        ("narrow", "resnet18", 0.5, 64), ("small", "resnet18", 1.0, 32), ("other", "resnet10t", 1.0, 64)
    ):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        settings = Settings(backbone=backbone, width=width, views=ViewSettings(size=size), method=SIMSIAM)
        network = Network(settings.method, backbone, size, width)
        save_settings(folder, settings)
        save_encoder(folder, network.backbone, settings)
        with pytest.raises(RunError, match=r"export as .*onnx or safetensors"):
            export(folder, "torchvision", tmp_path / "x.pth")
        export(folder, "safetensors", tmp_path / f"{name}.safetensors")
    with pytest.raises(SettingsError, match="unknown format 'onx'; did you mean onnx"):
        export(tmp_path / "narrow", "onx", tmp_path / "x")
