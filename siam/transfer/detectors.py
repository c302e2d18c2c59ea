"""Faster R-CNN and Mask R-CNN with a run's ResNet as the backbone (C4 or FPN).

In C4 (He et al. 2017; R50-C4 in Detectron2), the RPN and RoIAlign (14 x 14) operate on
res4, and res5 is the box and mask head. An extra batch norm follows res5, because the
scale of pretrained features varies (MoCo, He et al. 2020, Sec. 4.2; SimSiam, Chen & He
2021, Sec. 6.1). All batch norm layers are trained.
"""

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    fastrcnn_loss,
    maskrcnn_inference,
    maskrcnn_loss,
)
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import roi_align

from siam.data.augment import IMAGENET_MEAN, IMAGENET_STD
from siam.errors import SettingsError
from siam.transfer.settings import TransferSettings

Features = dict[str, Tensor]
Targets = list[dict[str, Tensor]]

_SHAPES = (0.5, 1.0, 2.0)
"""Anchor aspect ratios (height / width)."""
_ROI = 14
"""RoIAlign output size."""
_MASK_CHANNELS = 256  # in C4's mask head
_PYRAMID_CHANNELS = 256  # per level


def build_detector(resnet: nn.Module, classes: int, settings: TransferSettings) -> nn.Module:
    """Build a torchvision detector on `resnet`, with new layers randomly initialized.

    resnet: a timm ResNet. classes: number of classes K, excluding the background. In
    training mode, the detector maps images (float (3, H, W) in [0, 1]) and targets to a
    dict of losses; in eval mode, it maps images to boxes, labels, scores and, for
    segmentation, masks. Raises SettingsError if the backbone is not a ResNet.
    """
    stages = ("conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4")
    if not all(hasattr(resnet, stage) for stage in stages):
        raise SettingsError(
            f"detectors need a ResNet backbone with layer1 to layer4, got {type(resnet).__name__}"
        )
    detector = (
        _c4(resnet, classes, settings) if settings.detector == "c4" else _fpn(resnet, classes, settings)
    )
    return detector.requires_grad_(True)


def _c4(resnet: nn.Module, classes: int, settings: TransferSettings) -> GeneralizedRCNN:
    trunk = Trunk(resnet)
    anchors = AnchorGenerator((settings.anchors,), (_SHAPES,))
    candidates, proposals = (
        {"training": train, "testing": test} for train, test in (settings.candidates, settings.proposals)
    )
    rpn = RegionProposalNetwork(
        anchors,
        RPNHead(trunk.out_channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7, bg_iou_thresh=0.3, batch_size_per_image=256, positive_fraction=0.5,
        pre_nms_top_n=candidates, post_nms_top_n=proposals, nms_thresh=0.7,
    )  # fmt: skip
    head = Res5(resnet)
    masks = MaskPredictor(head.out_channels, classes) if settings.task == "segmentation" else None
    heads = C4Heads(head, BoxPredictor(head.out_channels, classes), masks, settings)
    transform = GeneralizedRCNNTransform(
        settings.train_sides, settings.max_side, list(IMAGENET_MEAN), list(IMAGENET_STD)
    )
    return GeneralizedRCNN(trunk, rpn, heads, transform)


def _fpn(resnet: nn.Module, classes: int, settings: TransferSettings) -> FasterRCNN:
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    widths = [channels_of(getattr(resnet, layer)) for layer in layers]
    kind = MaskRCNN if settings.task == "segmentation" else FasterRCNN
    return kind(
        BackboneWithFPN(resnet, layers, widths, _PYRAMID_CHANNELS),
        num_classes=classes + 1,
        min_size=settings.train_sides,
        max_size=settings.max_side,
        image_mean=list(IMAGENET_MEAN),
        image_std=list(IMAGENET_STD),
        rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in settings.anchors), (_SHAPES,) * 5),
        rpn_pre_nms_top_n_train=settings.candidates[0],
        rpn_pre_nms_top_n_test=settings.candidates[1],
        rpn_post_nms_top_n_train=settings.proposals[0],
        rpn_post_nms_top_n_test=settings.proposals[1],
        box_batch_size_per_image=settings.rois,
        box_score_thresh=settings.score_threshold,
    )


def channels_of(stage: nn.Module) -> int:
    """Return the number of output channels of a ResNet stage."""
    block = list(stage.children())[-1]
    last = [getattr(block, name) for name in ("bn1", "bn2", "bn3") if hasattr(block, name)][-1]
    return int(last.num_features)


class Trunk(nn.Module):
    """ResNet from the stem through res4: (B, 3, H, W) -> {"0": (B, C4, H/16, W/16)}."""

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(resnet, {"layer3": "0"})
        self.out_channels = channels_of(self.body["layer3"])

    def forward(self, x: Tensor) -> Features:
        features: Features = self.body(x)
        return features


class Res5(nn.Module):
    """res5 and an extra batch norm: (R, C4, 14, 14) -> (R, C5, 7, 7)."""

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        layer4: Any = resnet.layer4
        self.res5 = nn.Sequential(OrderedDict([("layer4", layer4)]))
        self.out_channels = channels_of(layer4)
        self.norm = nn.BatchNorm2d(self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.res5(x))
        return out


class BoxPredictor(nn.Module):
    """Linear layers for class scores and box offsets, initialized as in Detectron2."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(channels, classes + 1)
        self.bbox_pred = nn.Linear(channels, 4 * classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (R, C5) to scores (R, K + 1) and box offsets (R, 4 (K + 1)).

        Index 0 is the background; its offsets are zero and unused.
        """
        return self.cls_score(x), F.pad(self.bbox_pred(x), (4, 0))


class MaskPredictor(nn.Module):
    """Mask predictor: a deconvolution to 256 channels, then a 1 x 1 convolution."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(channels, _MASK_CHANNELS, kernel_size=2, stride=2)
        self.predictor = nn.Conv2d(_MASK_CHANNELS, classes, kernel_size=1)
        nn.init.kaiming_normal_(self.deconv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.deconv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.predictor.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map features (R, C5, 7, 7) to mask logits (R, K + 1, 14, 14).

        Index 0 is the background; its logits are zero and unused.
        """
        logits: Tensor = self.predictor(F.relu(self.deconv(x)))  # (R, 256, 14, 14) -> (R, K, 14, 14)
        return F.pad(logits, (0, 0, 0, 0, 1, 0))


class C4Heads(RoIHeads):  # type: ignore[misc]
    """RoI heads whose boxes and masks share one res5 pass in training (Detectron2).

    With separate passes, batch norm would see foreground boxes twice.
    """

    def __init__(
        self, head: Res5, boxes: BoxPredictor, masks: MaskPredictor | None, settings: TransferSettings
    ) -> None:
        super().__init__(
            None, head, boxes,
            fg_iou_thresh=0.5, bg_iou_thresh=0.5, batch_size_per_image=settings.rois, positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=settings.score_threshold, nms_thresh=0.5, detections_per_img=100,
        )  # fmt: skip
        self.mask_predictor = masks

    def has_mask(self) -> bool:
        return self.mask_predictor is not None

    def forward(
        self,
        features: Features,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Targets | None = None,
    ) -> tuple[Targets, dict[str, Tensor]]:
        """Return (detections, {}) in eval mode and ([], losses) in training mode.

        proposals: one (P, 4) tensor of boxes per image.
        """
        if self.training:
            return [], self._losses(features["0"], proposals, image_shapes, targets)
        x = self._pooled(features["0"], proposals, image_shapes)  # (R, C5, 7, 7)
        scores, offsets = self.box_predictor(x.mean(dim=(2, 3)))  # (R, K + 1), (R, 4 (K + 1))
        found = self.postprocess_detections(scores.float(), offsets.float(), proposals, image_shapes)
        results = [
            {"boxes": boxes, "scores": score, "labels": labels}
            for boxes, score, labels in zip(*found, strict=True)
        ]
        if self.mask_predictor is not None:
            x = self._pooled(features["0"], found[0], image_shapes)
            masks = maskrcnn_inference(self.mask_predictor(x).float(), found[2])
            for result, mask in zip(results, masks, strict=True):
                result["masks"] = mask
        return results, {}

    def _losses(
        self,
        res4: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Targets | None,
    ) -> dict[str, Tensor]:
        proposals, matched, labels, offsets = self.select_training_samples(proposals, targets)
        x = self._pooled(res4, proposals, image_shapes)  # (R, C5, 7, 7)
        scores, deltas = self.box_predictor(x.mean(dim=(2, 3)))  # (R, K + 1), (R, 4 (K + 1))
        classification, regression = fastrcnn_loss(scores.float(), deltas.float(), labels, offsets)
        losses = {"loss_classifier": classification, "loss_box_reg": regression}
        if self.mask_predictor is not None:
            assert targets is not None
            objects = [label > 0 for label in labels]
            logits = self.mask_predictor(x[torch.cat(objects)]).float()
            losses["loss_mask"] = maskrcnn_loss(
                logits,
                [boxes[chosen] for boxes, chosen in zip(proposals, objects, strict=True)],
                [target["masks"] for target in targets],
                [target["labels"] for target in targets],
                [index[chosen] for index, chosen in zip(matched, objects, strict=True)],
            )
        return losses

    def _pooled(self, res4: Tensor, boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Apply RoIAlign and res5: (B, C4, H/16, W/16) -> (R, C5, 7, 7).

        boxes: one (n, 4) tensor per image, in pixels.
        """
        stride = max(side for shape in image_shapes for side in shape) / max(res4.shape[-2:])
        scale = 2.0 ** -round(math.log2(stride))  # power of two; padding makes `stride` inexact
        pooled = roi_align(res4, boxes, _ROI, spatial_scale=scale, sampling_ratio=0, aligned=True)
        x: Tensor = self.box_head(pooled)  # (R, C4, 14, 14) -> (R, C5, 7, 7)
        return x
