"""Checkpoints as people have them: wrapped, with arguments and other heads, of any ResNet, damaged."""

import argparse
import collections
import datetime
import enum
import json
import os
import pickle
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

import siam
from siam.convert.export import export
from siam.convert.importer import import_checkpoint
from siam.convert.resnets import find_resnet
from siam.errors import RunError, SettingsError
from siam.parts.backbone import build_backbone
from siam.runs.encoder import load
from siam.runs.folder import open_run
from tests.conftest import TINY, run_cli


@pytest.fixture(scope="module")
def resnet():
    """The state dict of a ResNet-18 with a classifier of 10 classes."""
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=10).state_dict()


def backbone(state):
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def taken(tmp_path, contents, **options):
    """Save `contents`, import the file, and return the summary and the run's backbone weights."""
    torch.save(contents, tmp_path / "c.pth")
    imported = import_checkpoint(tmp_path / "c.pth", tmp_path / "run", **options)
    return imported, load_file(tmp_path / "run" / "encoder.safetensors")


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod.", "model.", "net.backbone.",
     "student.encoder.module.", "_forward_module.model.", "_fsdp_wrapped_module.", "base_encoder."],
)  # fmt: skip
def test_prefixes_of_wrappers_and_trainers(tmp_path, resnet, prefix):
    imported, found = taken(tmp_path, {"state_dict": {prefix + key: value for key, value in resnet.items()}})
    assert same(found, backbone(resnet))
    assert imported.left_out == (f"{prefix}fc.weight", f"{prefix}fc.bias")


SEQUENTIAL = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


@pytest.mark.parametrize("prefix", ["0.", ""])
def test_a_resnet_in_a_sequential(tmp_path, resnet, prefix):
    """As fastai and nn.Sequential(*resnet.children()) save it: numbers for the names of layers."""
    state = {}
    for key, value in backbone(resnet).items():
        layer, _, rest = key.partition(".")
        state[f"{prefix}{SEQUENTIAL[layer]}.{rest}"] = value
    assert same(taken(tmp_path, {"model": state})[1], backbone(resnet))


def test_vissl(tmp_path, resnet):
    """facebookresearch/vissl#292"""
    model = {"trunk": {f"_feature_blocks.{key}": v for key, v in backbone(resnet).items()}, "heads": {}}
    contents = {"phase_idx": 1, "classy_state_dict": {"train": True, "base_model": {"model": model}}}
    assert same(taken(tmp_path, contents)[1], backbone(resnet))


def test_mmselfsup(tmp_path, resnet):
    """open-mmlab/mmselfsup#74: both encoders of MoCo are a backbone and a neck, numbered 0 and 1."""
    state = {f"encoder_{one}.0.{key}": v for one in "qk" for key, v in backbone(resnet).items()}
    contents = {"meta": {"epoch": 1}, "state_dict": {**state, "encoder_q.1.mlp.0.weight": torch.ones(2, 2)}}
    imported, found = taken(tmp_path, contents)
    assert same(found, backbone(resnet))
    assert imported.method == "moco_v2"
    assert "encoder_q.1.mlp.0.weight" in imported.left_out


def test_lightly_train(tmp_path, resnet):
    """Its checkpoints hold the embedding model below the names of two wrappers."""
    prefix = "_method.embedding_model.wrapped_model._model."
    state = {prefix + key: value for key, value in backbone(resnet).items()}
    assert same(taken(tmp_path, {"epoch": 1, "state_dict": state})[1], backbone(resnet))


CLIP = {
    "patch_embed.proj": "conv1", "blocks": "transformer.resblocks", "norm_pre": "ln_pre", "norm1": "ln_1",
    "norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "attn.qkv.": "attn.in_proj_",
    "attn.proj": "attn.out_proj", "cls_token": "class_embedding", "pos_embed": "positional_embedding",
}  # fmt: skip


def test_the_image_encoder_of_open_clip(tmp_path):
    """mlfoundations/open_clip#383: with the text encoder in the same file."""
    name = "vit_xsmall_patch16_clip_224"
    torch.manual_seed(0)
    expected = timm.create_model(name, num_classes=0).state_dict()
    state = {"text_projection": torch.ones(2, 2), "positional_embedding": torch.ones(4, 2)}
    for key, value in expected.items():
        plain = value.squeeze(0).squeeze(0) if key in ("cls_token", "pos_embed") else value
        key = "ln_post" + key[4:] if key.startswith("norm.") else key
        for ours, theirs in CLIP.items():
            key = key.replace(ours, theirs)
        state[f"visual.{key}"] = plain
    contents = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    imported, found = taken(tmp_path, contents, backbone=name)
    assert same(found, expected)
    assert imported.left_out == ("module.text_projection", "module.positional_embedding")


def test_a_wrapper_in_the_middle_of_a_key(tmp_path, resnet):
    state = {f"model.{key.replace('layer1.', 'layer1._orig_mod.')}": v for key, v in resnet.items()}
    assert same(taken(tmp_path, state)[1], backbone(resnet))


class Config(dict):
    """A dict of a type of its own, such as EasyDict."""


class Names(list):
    """A list of a type of its own."""


class Color(enum.Enum):
    RED = 1


@dataclass
class Trainer:
    lr: float = 0.1
    seen: Names | None = None


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, out=Path("runs")),
    "dict": Config(lr=0.1, inner=Config(momentum=0.9)),
    "list": Names([1, 2]),
    "numpy": {"best": np.float64(0.7), "history": np.arange(3.0)},
    "dates": [datetime.datetime(2026, 1, 1), datetime.timedelta(hours=3)],
    "defaultdict": collections.defaultdict(list, {1: [2]}),
    "object": Trainer(),
    "all": [argparse.Namespace(a=Config(b=Names([Color.RED]))), np.float32(1), Trainer(seen=Names())],
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("kind", BESIDE)
def test_objects_beside_the_weights_are_stand_ins(tmp_path, resnet, kind, form):
    contents = {"epoch": 3, "args": BESIDE[kind], "state_dict": resnet}
    torch.save(contents, tmp_path / "c.pth", _use_new_zipfile_serialization=form == "zip")
    import_checkpoint(tmp_path / "c.pth", tmp_path / "run")
    assert same(load_file(tmp_path / "run" / "encoder.safetensors"), backbone(resnet))


def test_a_whole_module_and_one_in_a_dict(tmp_path, resnet):
    model = torchvision.models.resnet18(num_classes=10)
    model.load_state_dict(resnet)
    for name, contents in (
        ("a", model),
        ("b", {"model": model, "epoch": 2}),
        ("c", {"net": {"backbone": model}}),
    ):
        torch.save(contents, tmp_path / f"{name}.pth")
        import_checkpoint(tmp_path / f"{name}.pth", tmp_path / name)
        assert same(load_file(tmp_path / name / "encoder.safetensors"), backbone(resnet))


class Command:
    def __init__(self, function, *arguments):
        self.what = (function, arguments)

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("function", [os.system, subprocess.getoutput, eval, exec, pickle.loads, os.remove])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_functions_are_refused_by_name_and_never_called(tmp_path, resnet, function, form):
    mark = tmp_path / "mark"
    mark.write_text("")
    argument = {
        "system": f"rm {mark}", "getoutput": f"rm {mark}", "remove": str(mark), "loads": b"",
    }.get(function.__name__, f"__import__('os').remove({str(mark)!r})")  # fmt: skip
    torch.save(
        {"state_dict": resnet, "more": Command(function, argument)},
        tmp_path / "c.pth", _use_new_zipfile_serialization=form == "zip",
    )  # fmt: skip
    with pytest.raises(RunError, match=rf"could execute code \(.*{function.__name__}\)"):
        import_checkpoint(tmp_path / "c.pth", tmp_path / "run")
    assert mark.exists()


def test_types_with_side_effects_are_stand_ins_too(tmp_path, resnet):
    """Popen is a type; a stand-in of a type that is not one of the named modules starts nothing either."""
    torch.save({"model": resnet, "more": Command(Path, str(tmp_path))}, tmp_path / "c.pth")
    import_checkpoint(tmp_path / "c.pth", tmp_path / "run")
    torch.save({"model": resnet, "more": Command(subprocess.Popen, ["true"])}, tmp_path / "d.pth")
    with pytest.raises(RunError, match="Popen"):
        import_checkpoint(tmp_path / "d.pth", tmp_path / "other")


def test_timms_training_checkpoint_names_its_backbone(tmp_path):
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64).state_dict()
    contents = {
        "state_dict": vit,
        "arch": "vit_tiny_patch16_224",
        "args": argparse.Namespace(lr=1),
        "version": 2,
    }
    imported, found = taken(tmp_path, contents)
    assert imported.backbone == "vit_tiny_patch16_224"
    assert open_run(tmp_path / "run").settings.views.size == 64, "from the position embeddings"
    assert same(found, vit)


def test_a_teacher_is_preferred_to_its_student(tmp_path, resnet):
    teacher = {f"module.backbone.{key}": value for key, value in backbone(resnet).items()}
    student = {key: value * 0 for key, value in teacher.items()}
    head = {
        "module.head.mlp.0.weight": torch.zeros(2, 512),
        "module.head.last_layer.weight_g": torch.ones(3, 1),
    }
    contents = {
        "student": student,
        "teacher": {**teacher, **head},
        "args": argparse.Namespace(arch="resnet18"),
    }
    imported, found = taken(tmp_path, contents)
    assert same(found, backbone(resnet))
    assert imported.left_out == tuple(head)
    flat = {f"teacher.{k}": v for k, v in teacher.items()} | {f"student.{k}": v for k, v in student.items()}
    torch.save(flat, tmp_path / "flat.pth")
    import_checkpoint(tmp_path / "flat.pth", tmp_path / "flat")
    assert same(load_file(tmp_path / "flat" / "encoder.safetensors"), backbone(resnet))


def test_heads_of_other_methods_are_left_out_and_named(tmp_path, resnet):
    swav = {f"module.{key}": value for key, value in backbone(resnet).items()}
    heads = {
        "module.projection_head.0.weight": torch.randn(512, 512),
        "module.projection_head.0.bias": torch.randn(512),
        "module.prototypes.weight": torch.randn(30, 128),
    }  # fmt: skip
    imported, found = taken(tmp_path, swav | heads)
    assert imported.left_out == tuple(heads)
    assert same(found, backbone(resnet))


def test_a_head_unlike_siams_is_left_out(tmp_path, resnet):
    """A projector whose hidden layer has a bias before batch norm, as in other libraries."""
    state = {f"backbone.{key}": value for key, value in backbone(resnet).items()}
    head = torch.nn.Sequential(
        torch.nn.Linear(512, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Linear(32, 16)
    ).state_dict()
    head = {f"projector.{key}": value for key, value in head.items()}
    imported, _ = taken(tmp_path, {"state_dict": state | head})
    assert imported.parts == ("backbone",)
    assert imported.left_out == tuple(head)
    assert "verdict" not in siam.inspect(tmp_path / "run", np.zeros((4, 32, 32, 3), np.uint8), device="cpu")
    with pytest.raises(RunError, match="has no projector"):
        load(tmp_path / "run", layer="projector")


def test_decoders_and_mask_tokens(tmp_path):
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    extra = {
        "mask_token": torch.zeros(1, 1, 192), "decoder_embed.weight": torch.zeros(9, 192),
        "decoder_blocks.0.norm1.weight": torch.zeros(9),
    }  # fmt: skip
    imported, found = taken(tmp_path, {"model": vit | extra}, backbone="vit_tiny_patch16_224")
    assert imported.left_out == tuple(extra)
    assert same(found, vit)


def test_dinov2_as_released_and_as_trained(tmp_path):
    name = "vit_small_patch14_dinov2"
    own = timm.create_model(name, num_classes=0, img_size=70).state_dict()
    released = own | {"mask_token": torch.zeros(1, 384)}
    imported, found = taken(tmp_path, released, backbone=name)
    assert (imported.left_out, open_run(tmp_path / "run").settings.views.size) == (("mask_token",), 70)
    assert same(found, own)

    def chunked(key):
        number = key.split(".")[1] if key.startswith("blocks.") else None
        return (
            key
            if number is None
            else key.replace(f"blocks.{number}.", f"blocks.{int(number) // 4}.{number}.")
        )

    trained = {f"backbone.{chunked(key)}": value for key, value in released.items()}
    torch.save({"teacher": trained | {"dino_head.mlp.0.weight": torch.zeros(2)}}, tmp_path / "t.pth")
    again = import_checkpoint(tmp_path / "t.pth", tmp_path / "trained", backbone=name)
    assert set(again.left_out) == {"backbone.mask_token", "dino_head.mlp.0.weight"}
    assert same(load_file(tmp_path / "trained" / "encoder.safetensors"), own)


def test_a_transformer_at_another_image_size(tmp_path):
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    _, found = taken(tmp_path, vit, backbone="vit_tiny_patch16_224", image_size=96)
    assert found["pos_embed"].shape == (1, 1 + 6 * 6, 192)
    assert torch.equal(found["pos_embed"][:, 0], vit["pos_embed"][:, 0]), "the class token is not resampled"


@pytest.mark.parametrize(
    "name", ["wide_resnet50_2", "resnext50_32x4d", "resnext101_32x8d", "resnet26d", "resnet50t", "resnet14t"]
)
def test_resnets_are_told_apart_by_their_shapes(name):
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=0).state_dict()
    assert find_resnet(state) == (name, 1.0)


@pytest.mark.parametrize(("name", "width"), [("resnet10t", 0.125), ("resnet18", 0.5), ("resnet50", 1.5)])
@pytest.mark.parametrize("size", [32, 64])
def test_narrow_and_wide_runs_are_told_by_their_channels(name, width, size):
    with torch.device("meta"):
        state = build_backbone(name, size, width).state_dict()
    assert find_resnet(state) == (name, width)


def test_a_wide_resnet_is_imported_as_one(tmp_path):
    torch.manual_seed(0)
    model = torchvision.models.wide_resnet50_2().eval()
    imported, _ = taken(tmp_path, model.state_dict())
    assert imported.backbone == "wide_resnet50_2"
    model.fc = torch.nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(load(tmp_path / "run")(x), model(x), atol=1e-5)


def test_a_deeper_network_is_not_cut_to_a_shallower_one(tmp_path):
    state = torchvision.models.resnet34().state_dict()
    with pytest.raises(RunError, match=r"unexpected keys: .*specify its timm name with --backbone"):
        taken(tmp_path, state, backbone="resnet18")


def transformers_resnet(key):
    """Transformers' name of a torchvision key."""
    for old, new in (
        ("conv1.weight", "embedder.embedder.convolution.weight"), ("bn1.", "embedder.embedder.normalization.")
    ):  # fmt: skip
        if key.startswith(old):
            return key.replace(old, new, 1)
    stage, block, rest = key.removeprefix("layer").split(".", 2)
    where = f"encoder.stages.{int(stage) - 1}.layers.{block}."
    if rest.startswith("downsample"):
        return where + rest.replace("downsample.0", "shortcut.convolution").replace(
            "downsample.1", "shortcut.normalization"
        )
    kind, number, field = (
        rest[: -len(rest.partition(".")[2]) - 2],
        int(rest.partition(".")[0][-1]),
        rest.partition(".")[2],
    )
    return f"{where}layer.{number - 1}.{'convolution' if kind == 'conv' else 'normalization'}.{field}"


def test_a_folder_of_transformers_with_a_resnet(tmp_path, resnet):
    folder = tmp_path / "resnet-18"
    folder.mkdir()
    own = backbone(resnet)
    state = {f"resnet.{transformers_resnet(key)}": value for key, value in own.items()}
    torch.save(state | {"classifier.1.weight": torch.zeros(3, 512)}, folder / "pytorch_model.bin")
    config = {"architectures": ["ResNetForImageClassification"], "model_type": "resnet", "hidden_sizes": [64]}
    (folder / "config.json").write_text(json.dumps(config))
    imported = import_checkpoint(folder, tmp_path / "run")
    assert (imported.backbone, imported.left_out) == ("resnet18", ("classifier.1.weight",))
    assert same(load_file(tmp_path / "run" / "encoder.safetensors"), own)


def transformers_vit(state):
    """A timm ViT's state under the names of Transformers, with separate queries, keys and values."""
    names = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection", "blocks.": "encoder.layer.",
        "attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
        "norm1": "layernorm_before", "norm2": "layernorm_after",
    }  # fmt: skip
    found = {}
    for key, value in state.items():
        new = "layernorm" + key.removeprefix("norm") if key.startswith("norm.") else key
        for old, other in names.items():
            new = new.replace(old, other)
        if "attn.qkv" in new:
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[new.replace("attn.qkv", f"attention.attention.{part}")] = piece.clone()
        else:
            found[new] = value
    return found


def test_a_sharded_folder_of_transformers_with_a_vit(tmp_path):
    folder = tmp_path / "vit"
    folder.mkdir()
    own = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    state = {f"vit.{key}": value.contiguous() for key, value in transformers_vit(own).items()}
    halves = [dict(list(state.items())[i::2]) for i in range(2)]
    for i, half in enumerate(halves):
        save_file(half, folder / f"model-{i}.safetensors")
    index = {"weight_map": {key: f"model-{i}.safetensors" for i, half in enumerate(halves) for key in half}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {"model_type": "vit", "hidden_size": 192, "patch_size": 16, "image_size": 224}
    (folder / "config.json").write_text(json.dumps(config))
    imported = import_checkpoint(folder, tmp_path / "run")
    assert (imported.backbone, imported.left_out) == ("vit_tiny_patch16_224", ())
    assert same(load_file(tmp_path / "run" / "encoder.safetensors"), own)
    index["weight_map"]["x"] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RunError, match="does not list the files of the weights next to it"):
        import_checkpoint(folder, tmp_path / "other")


def test_a_folder_of_timm_with_an_older_config(tmp_path):
    folder = tmp_path / "timm"
    folder.mkdir()
    state = timm.create_model("resnet18", num_classes=3).state_dict()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "input_size": [3, 96, 96]}))
    imported = import_checkpoint(folder, tmp_path / "run")
    assert open_run(tmp_path / "run").settings.views.size == 96
    assert set(imported.left_out) == {"fc.weight", "fc.bias"}
    for broken in ("[]", "{", '{"architecture": "resnet18", "input_size": "large"}'):
        (folder / "config.json").write_text(broken)
        with pytest.raises(RunError, match=r"config\.json cannot be read|image_size must lie in"):
            import_checkpoint(folder, tmp_path / "other")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A trained run, an eighth as wide, with the small-image stem."""
    from tests.conftest import save_images

    root = tmp_path_factory.mktemp("narrow")
    (root / "photos").mkdir()
    save_images(root / "photos", 16, seed=0)
    run_cli("pretrain", root / "photos", *TINY, "--epochs", 1, "--out", root / "run", check=0)
    return root / "run"


@pytest.mark.parametrize("name", ["encoder.safetensors", "checkpoint.pt", "."])
def test_a_runs_own_files_are_imported(tmp_path, narrow, name):
    imported = import_checkpoint(narrow / name, tmp_path / "again")
    before, after = open_run(narrow).settings, open_run(tmp_path / "again").settings
    assert (after.backbone, after.width, after.views.size) == (before.backbone, 0.125, 16)
    assert same(load(tmp_path / "again").state_dict(), load(narrow).state_dict())
    heads = () if name == "encoder.safetensors" else ("projector", "predictor")
    assert imported.parts == ("backbone", *heads)
    assert siam.inspect(narrow / name)["backbone"] == "resnet10t x 0.125"


def test_a_checkpoint_far_from_its_run_and_old_weights_without_metadata(tmp_path, narrow):
    (tmp_path / "moved.pt").write_bytes((narrow / "checkpoint.pt").read_bytes())
    imported = import_checkpoint(tmp_path / "moved.pt", tmp_path / "a", image_size=16)
    assert imported.parts == ("backbone", "projector", "predictor")
    save_file(load_file(narrow / "encoder.safetensors"), tmp_path / "bare.safetensors")
    import_checkpoint(tmp_path / "bare.safetensors", tmp_path / "b")
    assert same(load(tmp_path / "b").state_dict(), load(narrow).state_dict())
    with pytest.raises(RunError, match=r"is a file of the run .*: specify the folder instead"):
        load(narrow / "checkpoint.pt")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [({"image_size": "large"}, "image_size must lie in"), ({"image_size": "1e12"}, "image_size must lie in"),
     ({"width": "nan"}, "width must lie in"), ({"width": "-1"}, "width must lie in"),
     ({"method": "simsam"}, "unknown method 'simsam'"),
     ({"backbone": "resnet17"}, "unknown backbone 'resnet17'"),
     ({"width": "4"}, "missing keys|mismatched shapes")],
)  # fmt: skip
def test_metadata_is_doubted(tmp_path, resnet, metadata, said):
    save_file(backbone(resnet), tmp_path / "c.safetensors", metadata)
    with pytest.raises((RunError, SettingsError), match=said):
        import_checkpoint(tmp_path / "c.safetensors", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damage_is_named(tmp_path, resnet):
    file, out = tmp_path / "c.pth", tmp_path / "run"
    torch.save(resnet, file)
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    file.write_bytes(whole)
    with pytest.raises(RunError, match=r"it is corrupt: the checksum of .* is wrong"):
        import_checkpoint(file, out)
    torch.save({**resnet, "conv1.weight": torch.zeros(1).expand(64, 3, 7, 7, 10**6)}, file)
    with pytest.raises(RunError, match=r"conv1\.weight claims 9,408,000,000 values"):
        import_checkpoint(file, out)
    torch.save({**resnet, "bn1.weight": torch.full((64,), torch.nan)}, file)
    with pytest.raises(RunError, match=r"bn1\.weight has NaN"):
        import_checkpoint(file, out)
    torch.save({**resnet, "bn1.weight": torch.zeros(64).to_sparse()}, file)
    with pytest.raises(RunError, match=r"bn1\.weight is not a dense tensor"):
        import_checkpoint(file, out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but people have the files
        torch.jit.script(torch.nn.ReLU()).save(file)
    with pytest.raises(RunError, match="TorchScript"):
        import_checkpoint(file, out)
    assert not out.exists()


def test_timm_adapts_the_export_to_other_classes_and_channels(tmp_path, resnet):
    taken(tmp_path, resnet, image_size=64)
    export(tmp_path / "run", "timm", tmp_path / "timm")
    plain = load(tmp_path / "run")
    for options in ({"num_classes": 7}, {"num_classes": 0, "in_chans": 1}, {"num_classes": 5, "in_chans": 4}):
        model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, **options)
        assert torch.equal(model.layer4[0].conv1.weight, plain.backbone.layer4[0].conv1.weight)
        assert model.num_classes == options["num_classes"]


def test_timm_adapts_the_export_of_a_transformer(tmp_path):
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    taken(tmp_path, vit, backbone="vit_tiny_patch16_224", image_size=64)
    export(tmp_path / "run", "timm", tmp_path / "timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, num_classes=3, img_size=64)
    assert torch.equal(model.blocks[3].attn.qkv.weight, vit["blocks.3.attn.qkv.weight"])


def test_odd_shapes_and_names_are_one_sentence(tmp_path):
    """Weights of a small network as scalars, as vectors of nothing, and under other names."""
    torch.manual_seed(0)
    small = build_backbone("resnet10t", 64, 0.125).state_dict()
    state = {f"backbone.{key}": value for key, value in small.items()}
    state |= {
        "projector.0.weight": torch.zeros(8, 64), "projector.0.bias": torch.zeros(8),
        "projector.1.running_mean": torch.zeros(8), "predictor.0.weight": torch.zeros(4, 8),
    }  # fmt: skip
    random = np.random.default_rng(0)
    for turn in range(24):
        key = list(state)[random.integers(len(state))]
        broken = {k: v for k, v in state.items() if k != key}
        broken[f"{key}.x" if turn % 3 == 0 else key] = torch.zeros(()) if turn % 3 == 1 else torch.zeros(0, 1)
        save_file(broken, tmp_path / "c.safetensors")
        try:
            import_checkpoint(tmp_path / "c.safetensors", tmp_path / f"run{turn}")
        except (RunError, SettingsError) as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert not (tmp_path / f"run{turn}").exists()


def test_the_same_dict_many_times_is_read_once(tmp_path, resnet):
    """Six levels of a hundred references to one dict would be a million million dicts."""
    inner = {"state": resnet}
    for _ in range(6):
        inner = {f"k{i}": inner for i in range(100)}
    torch.save(inner, tmp_path / "c.pth")
    with pytest.raises(RunError):
        import_checkpoint(tmp_path / "c.pth", tmp_path / "run")
