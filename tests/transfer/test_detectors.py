"""The paper's C4, layer by layer, and the run's weights in every detector."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from siam.errors import SettingsError
from siam.parts.backbone import build_backbone
from siam.runs.encoder import load
from siam.transfer.detectors import C4Heads, build_detector
from siam.transfer.settings import SMALL, TransferSettings
from tests.transfer.conftest import make_run


def backbone_weights(detector):
    """Return the parameters and buffers that came from the run, by their names in encoder.safetensors."""
    prefixes = ("backbone.body.", "roi_heads.box_head.res5.")
    return {
        key.removeprefix(prefix): value
        for key, value in detector.state_dict().items()
        for prefix in prefixes
        if key.startswith(prefix)
    }


def bottlenecks(prefix, blocks, inside, width, out):
    """Return the shapes of a ResNet-50 stage: 1x1, 3x3, 1x1, each with BN, and the first shortcut."""
    table = {}
    for i in range(blocks):
        channels = inside if i == 0 else out
        shapes = {
            "conv1": (width, channels, 1, 1),
            "conv2": (width, width, 3, 3),
            "conv3": (out, width, 1, 1),
        }
        for n, (name, shape) in enumerate(shapes.items(), start=1):
            table[f"{prefix}.{i}.{name}.weight"] = shape
            table[f"{prefix}.{i}.bn{n}.weight"] = table[f"{prefix}.{i}.bn{n}.bias"] = shape[:1]
        if i == 0:
            table[f"{prefix}.{i}.downsample.0.weight"] = (out, channels, 1, 1)
            table[f"{prefix}.{i}.downsample.1.weight"] = table[f"{prefix}.{i}.downsample.1.bias"] = (out,)
    return table


def published_c4(classes, masks):
    """Return the parameters of Detectron2's R50-C4 with BN and the extra BN after res5, in our names.

    From its Base-RCNN-C4: 15 anchors (5 sizes x 3 shapes) on res4's 1024 channels; Res5ROIHeads with
    offsets per class; the mask head is a deconvolution to 256 and 1x1.
    """
    body, head = "backbone.body", "roi_heads.box_head"
    table = {f"{body}.conv1.weight": (64, 3, 7, 7), f"{body}.bn1.weight": (64,), f"{body}.bn1.bias": (64,)}
    table |= bottlenecks(f"{body}.layer1", 3, 64, 64, 256)  # res2
    table |= bottlenecks(f"{body}.layer2", 4, 256, 128, 512)  # res3
    table |= bottlenecks(f"{body}.layer3", 6, 512, 256, 1024)  # res4
    table |= {
        "rpn.head.conv.0.0.weight": (1024, 1024, 3, 3),
        "rpn.head.conv.0.0.bias": (1024,),
        "rpn.head.cls_logits.weight": (15, 1024, 1, 1),
        "rpn.head.cls_logits.bias": (15,),
        "rpn.head.bbox_pred.weight": (60, 1024, 1, 1),
        "rpn.head.bbox_pred.bias": (60,),
    }
    table |= bottlenecks(f"{head}.res5.layer4", 3, 1024, 512, 2048)  # res5
    table |= {
        f"{head}.norm.weight": (2048,),
        f"{head}.norm.bias": (2048,),
        "roi_heads.box_predictor.cls_score.weight": (classes + 1, 2048),
        "roi_heads.box_predictor.cls_score.bias": (classes + 1,),
        "roi_heads.box_predictor.bbox_pred.weight": (4 * classes, 2048),
        "roi_heads.box_predictor.bbox_pred.bias": (4 * classes,),
    }
    if masks:
        table |= {
            "roi_heads.mask_predictor.deconv.weight": (2048, 256, 2, 2),
            "roi_heads.mask_predictor.deconv.bias": (256,),
            "roi_heads.mask_predictor.predictor.weight": (classes, 256, 1, 1),
            "roi_heads.mask_predictor.predictor.bias": (classes,),
        }
    return table


@pytest.mark.parametrize(("task", "classes"), [("detection", 20), ("segmentation", 80)])
def test_c4_has_the_published_parameters(task, classes):
    settings = TransferSettings(task=task)
    with torch.device("meta"):
        detector = build_detector(build_backbone("resnet50", 224), classes, settings)
    found = {name: tuple(p.shape) for name, p in detector.named_parameters()}
    assert found == published_c4(classes, masks=task == "segmentation")
    # 23,454,912 convolutions and 53,120 BN of ResNet-50; RPN 9,515,083; head and masks
    backbone = 23_454_912 + 53_120
    rpn = 1024 * 1024 * 9 + 1024 + 15 * 1025 + 60 * 1025
    head = 2 * 2048 + (classes + 1) * 2049 + 4 * classes * 2049
    masks = 2048 * 256 * 4 + 256 + classes * 257 if task == "segmentation" else 0
    assert sum(p.numel() for p in detector.parameters()) == backbone + rpn + head + masks
    assert all(p.requires_grad for p in detector.parameters())


@pytest.mark.parametrize("detector", ["c4", "fpn"])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize(
    ("backbone", "width", "size"), [("resnet18", 0.25, 128), ("resnet10t", 0.25, 32), ("resnet50", 0.125, 64)]
)
def test_every_weight_of_the_run_is_in_the_detector(tmp_path, detector, task, backbone, width, size):
    """By name, number and value; small-image stems, deep stems and bottlenecks train and detect."""
    run = make_run(tmp_path / "run", backbone, width, size)
    settings = replace(
        SMALL, task=task, detector=detector, train_sides=(64,), test_side=64, max_side=96,
        anchors=(8, 16, 24, 32, 48), candidates=(50, 50), proposals=(20, 20), rois=8,
    )  # fmt: skip
    torch.manual_seed(0)
    network = build_detector(load(run).backbone, 3, settings)
    found, saved = backbone_weights(network), load_file(run / "encoder.safetensors")
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], saved[name]) for name in saved)

    images = [torch.rand(3, 70, 90), torch.rand(3, 90, 60)]
    target = {"boxes": torch.tensor([[10.0, 10, 40, 50]]), "labels": torch.tensor([2])}
    target["masks"] = torch.zeros(1, 70, 90, dtype=torch.uint8)
    target["masks"][0, 10:50, 10:40] = 1
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    nothing["masks"] = torch.zeros(0, 90, 60, dtype=torch.uint8)
    losses = network.train()(images, [target, nothing])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None for p in network.parameters())
    with torch.no_grad():
        results = network.eval()(images)
    assert [set(result) for result in results] == [
        {"boxes", "labels", "scores"} | ({"masks"} if task == "segmentation" else set())
    ] * 2


def test_boxes_and_masks_share_one_forward_pass_of_res5(encoder):
    """BN counts one batch per step, as in Detectron2, with no second one for the positives."""
    settings = replace(SMALL, task="segmentation", train_sides=(64,), max_side=96, rois=8)
    detector = build_detector(load(encoder).backbone, 3, settings).train()
    assert isinstance(detector.roi_heads, C4Heads)
    before = {name: int(b) for name, b in detector.named_buffers() if name.endswith("num_batches_tracked")}
    target = {
        "boxes": torch.tensor([[10.0, 10, 40, 50]]), "labels": torch.tensor([2]),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
    }  # fmt: skip
    detector([torch.rand(3, 64, 64)], [target])
    after = {name: int(b) for name, b in detector.named_buffers() if name.endswith("num_batches_tracked")}
    assert {after[name] - before[name] for name in before} == {1}


def test_the_empty_class_is_never_predicted(encoder):
    """The first score is the background's, whose offsets and mask are unused."""
    detector = build_detector(load(encoder).backbone, 3, replace(SMALL, task="segmentation"))
    scores, offsets = detector.roi_heads.box_predictor(torch.randn(5, 128))
    assert scores.shape == (5, 4)
    assert offsets.shape == (5, 16)
    assert not offsets[:, :4].any()
    masks = detector.roi_heads.mask_predictor(torch.randn(2, 128, 7, 7))
    assert masks.shape == (2, 4, 14, 14)
    assert not masks[:, 0].any()


def test_detectors_are_for_resnets():
    with pytest.raises(SettingsError, match="need a ResNet backbone with layer1 to layer4"):
        build_detector(build_backbone("vit_tiny_patch16_224", 64), 3, SMALL)
