"""Two branches that share an encoder f, a predictor h on one of them, and the place where gradients stop.

Letters as in the paper: x a view, f the encoder (backbone and projector), h the predictor, p = h(f(x)) a
prediction, z the target that it should meet.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from siam.methods import SIMSIAM, Method
from siam.parts.backbone import build_backbone, features_of, require_fit
from siam.parts.heads import build_predictor, build_projector
from siam.parts.momentum import MomentumEncoder


class Network(nn.Module):
    """Both branches of Figure 3.

    method: which predictor and which target. backbone: any timm name. image_size: side of a view in pixels,
    which chooses the stem. Each view passes f on its own, as in the paper: BN statistics are per view.
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
        self.backbone = build_backbone(backbone, image_size, width, stem)
        require_fit(self.backbone, backbone, image_size)
        self.projector = build_projector(features_of(self.backbone), method)
        self.predictor = build_predictor(method)
        self.target_encoder = MomentumEncoder(self.encoder) if method.target == "momentum" else None

    @property
    def encoder(self) -> nn.Sequential:
        """f: (B, 3, H, W) -> (B, d), sharing this network's weights."""
        return nn.Sequential(self.backbone, self.projector)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x1, x2: two views (B, 3, H, W), normalised. Returns p1, p2, z1, z2, each (B, d)."""
        f = self.encoder
        if self.target == "momentum":
            assert self.target_encoder is not None
            z1, z2 = (
                self.target_encoder(x1),
                self.target_encoder(x2),
            )  # before f keeps its activations, which saves memory
        f1, f2 = f(x1), f(x2)  # (B, d)
        if self.target == "stop_gradient":
            z1, z2 = f1.detach(), f2.detach()
        if self.target == "gradient":
            z1, z2 = f1, f2
        p1, p2 = self.predictor(f1), self.predictor(f2)  # (B, d)
        return p1, p2, z1, z2

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Let the slow copy follow; without one there is nothing to do."""
        if self.target_encoder is not None:
            self.target_encoder.update(self.encoder, momentum)
