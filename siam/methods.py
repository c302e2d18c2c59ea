"""Figure 3 of SimSiam (Chen & He 2021, arXiv 2011.10566) as data: one hub, four methods around it.

Two views of an image pass two branches. What tells the methods apart is three choices: is there a
predictor h on the online branch, what is the other branch (the target), and what do they agree on.
A method names only what it changes in SimSiam; its widths and rates as published are in `recipes.py`.
"""

from dataclasses import dataclass, replace
from typing import Literal

from siam.errors import SettingsError
from siam.settings.checks import check_types


@dataclass(frozen=True)
class Method:
    """Who predicts, who is predicted, and how agreement is scored. Defaults are SimSiam's, as published."""

    name: str = "simsiam"
    """The method that the other fields start from."""

    # Figure 3.
    predictor: Literal["learned", "fixed", "none"] = "learned"
    """h on the online branch; `fixed` stays as initialised, `none` is the identity (Table 1)."""
    target: Literal["stop_gradient", "momentum", "gradient"] = "stop_gradient"
    """z: this encoder without gradient, a slow copy of it, or this encoder with gradient."""
    objective: Literal[
        "cosine", "cross_entropy", "nt_xent", "info_nce", "swapped_prediction", "moving_average"
    ] = "cosine"
    """Cosine or softmax (Sec. 4.5); against batch, queue or prototypes; an average of targets (Sec. 5.2)."""
    symmetry: Literal["symmetric", "asymmetric", "asymmetric_2x"] = "symmetric"
    """Each view predicts the other; only the first does; only the first, in two pairs an image (Sec. 4.6)."""

    # The heads (Sec. 3, Tables 3 and App. B).
    projector_layers: int = 3
    """Layers of the projection MLP: 3 on ImageNet, 2 on CIFAR-10."""
    projector_hidden: int = 2048
    """Hidden units of the projector."""
    dim: int = 2048
    """d, the dimension of z and p."""
    predictor_hidden: int = 512
    """Hidden units of the predictor, a bottleneck of d/4 in the paper."""
    batch_norm: Literal["none", "hidden", "default", "all"] = "default"
    """BN in the heads: nowhere, hidden layers, also on the projector's output, also on the predictor's."""
    output_affine: bool = False
    """Scale and shift of the projector's output BN; the released code has none (Sec. 4.4)."""

    # What only some objectives and targets use.
    momentum: float = 0.996
    """Share of the slow copy that stays at each update (target `momentum`)."""
    momentum_schedule: Literal["cosine", "constant"] = "cosine"
    """Towards 1 along a cosine (BYOL) or constant (MoCo)."""
    momentum_every: int = 1
    """Steps between updates of the slow copy; with momentum 0 this is the k-step alternation of Sec. 5.2."""
    temperature: float = 0.1
    """Of the softmax in `nt_xent`, `info_nce` and `swapped_prediction`."""
    queue: int = 65536
    """Keys kept as negatives (objective `info_nce`)."""
    prototypes: int = 3000
    """Clusters (objective `swapped_prediction`)."""

    def __post_init__(self) -> None:
        check_types(self, "method.")

        def require(holds: bool, what: str) -> None:
            if not holds:
                raise SettingsError(f"method.{what}")

        for field in ("projector_hidden", "dim", "predictor_hidden", "momentum_every"):
            require(getattr(self, field) >= 1, f"{field} must be at least 1, got {getattr(self, field)}")
        require(1 <= self.projector_layers <= 4, f"projector_layers: 1 to 4, got {self.projector_layers}")
        require(0 <= self.momentum <= 1, f"momentum must lie in [0, 1], got {self.momentum}")
        require(self.temperature > 0, f"temperature must be above 0, got {self.temperature}")
        require(self.queue >= 1, f"queue must hold at least 1 key, got {self.queue}")
        require(self.prototypes >= 2, f"prototypes: at least 2 clusters are needed, got {self.prototypes}")
        if self.objective in ("info_nce", "moving_average"):
            what = f"objective '{self.objective}' keeps targets"
            require(self.target != "gradient", f"{what}: method.target cannot be 'gradient'")
        if self.objective == "moving_average":
            require(self.symmetry == "symmetric", "symmetry: 'moving_average' knows only 'symmetric'")


SIMSIAM = Method()
BYOL = replace(SIMSIAM, name="byol", target="momentum")
SIMCLR = replace(SIMSIAM, name="simclr", predictor="none", target="gradient", objective="nt_xent")
SWAV = replace(SIMSIAM, name="swav", predictor="none", objective="swapped_prediction")
MOCO_V2 = replace(SIMSIAM, name="moco_v2", predictor="none", target="momentum", objective="info_nce")

METHODS = {method.name: method for method in (SIMSIAM, BYOL, SIMCLR, SWAV, MOCO_V2)}
