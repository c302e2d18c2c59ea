"""The two branches of a Siamese network: a shared encoder f, a predictor h, and stop-gradient.

Notation follows the paper: x is a view, f the encoder (backbone and projector), h the predictor, p = h(f(x))
a prediction, and z the target for p. Stop-gradient is applied in `Network.forward`, not in the objectives.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from siam.methods import SIMSIAM, Method
from siam.parts.backbone import build_backbone, features_of, require_fit
from siam.parts.heads import build_predictor, build_projector
from siam.parts.momentum import MomentumEncoder


class Network(nn.Module):
    """A Siamese network (SimSiam Figure 3) with the method's predictor and target branch.

    backbone: name of any timm model. image_size: side length of a view, in pixels; also determines the stem
    if `stem` is auto. Each view passes through f separately, as in the paper, so BN statistics are computed
    per view. Raises SettingsError if the backbone is unknown or does not support this image size.
    """

    def __init__(
        self,
        method: Method = SIMSIAM,
        backbone: str = "resnet50",
        image_size: int = 224,
        width: float = 1.0,
        stem: Literal["auto", "small", "standard"] = "auto",
    ) -> None:
        super().__init__()
        self.target, self.image_size = method.target, image_size
        self.backbone = build_backbone(backbone, image_size, width, stem)  # (B, 3, H, W) -> (B, D)
        require_fit(self.backbone, backbone, image_size)
        self.projector = build_projector(features_of(self.backbone), method)  # (B, D) -> (B, d)
        self.predictor = build_predictor(method)  # (B, d) -> (B, d)
        self.target_encoder = MomentumEncoder(self.encoder) if method.target == "momentum" else None

    @property
    def encoder(self) -> nn.Sequential:
        """The encoder f, (B, 3, H, W) -> (B, d); it shares this network's weights."""
        return nn.Sequential(self.backbone, self.projector)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map two normalized views x1, x2, each (B, 3, H, W), to p1, p2, z1, z2, each (B, d)."""
        f, h = self.encoder, self.predictor
        if self.target_encoder is not None:  # first, before f's activations take up memory
            with torch.no_grad():  # a momentum encoder receives no gradient
                z1, z2 = self.target_encoder(x1), self.target_encoder(x2)  # (B, 3, H, W) -> (B, d)
        f1, f2 = f(x1), f(x2)  # (B, 3, H, W) -> (B, d)
        if self.target == "stop_gradient":
            z1, z2 = f1.detach(), f2.detach()  # SimSiam's stop-gradient
        elif self.target == "gradient":
            z1, z2 = f1, f2  # gradient flows into both branches
        return h(f1), h(f2), z1, z2  # (B, d) -> (B, d)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Update the momentum encoder toward f; a no-op for methods without one."""
        if self.target_encoder is not None:
            self.target_encoder.update(self.encoder, momentum)
