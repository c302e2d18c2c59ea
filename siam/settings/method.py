"""The `method` settings group: Figure 3's three choices, the heads, and options for some methods."""

from dataclasses import dataclass
from typing import Annotated, Literal

from siam.errors import SettingsError, did_you_mean
from siam.plugins import names
from siam.settings.checks import Above, AtLeast, AtMost, Within, check


@dataclass(frozen=True)
class Method:
    """Predictor, target, objective and heads. The defaults are SimSiam's, as published."""

    name: str = "simsiam"
    """Method to train; it sets the defaults for the other settings in this group."""

    # Figure 3
    predictor: Literal["learned", "fixed", "none"] = "learned"
    """Predictor h: `learned`, `fixed` at its random initialization, or `none` for the identity (Table 1)."""
    target: Literal["stop_gradient", "momentum", "gradient"] = "stop_gradient"
    """Target branch: the encoder with stop-gradient, a momentum encoder, or the encoder with gradient."""
    objective: str = "cosine"
    """Loss: cosine, cross_entropy (Sec. 4.5), nt_xent, info_nce, swapped_prediction, moving_average (5.2)."""
    symmetry: Literal["symmetric", "asymmetric", "asymmetric_2x"] = "symmetric"
    """Both views predict each other, or only the first predicts the second; `_2x`: two pairs (Sec. 4.6)."""

    # The heads (Sec. 3, Table 3 and App. B)
    projector_layers: Annotated[int, Within(1, 4)] = 3
    """Number of layers in the projector: 3 for ImageNet, 2 for CIFAR-10."""
    projector_hidden: Annotated[int, AtLeast(1), AtMost(65536)] = 2048
    """Number of hidden units in the projector."""
    dim: Annotated[int, AtLeast(1), AtMost(65536)] = 2048
    """Dimension d of z and p."""
    predictor_hidden: Annotated[int, AtLeast(1), AtMost(65536)] = 512
    """Number of hidden units in the predictor, a bottleneck: d/4 in the paper."""
    batch_norm: Literal["none", "hidden", "default", "all"] = "default"
    """BN in the heads: `none`, `hidden` layers, `default` (also the projector's output), `all` (Table 3)."""
    output_affine: bool = False
    """Learn scale and shift in the projector's output BN, unlike the released code (Sec. 4.4)."""

    # Options for some targets and objectives
    momentum: Annotated[float, Within(0, 1)] = 0.996
    """Momentum encoder: fraction of its old weights kept at each update (target `momentum`)."""
    momentum_schedule: Literal["cosine", "constant"] = "cosine"
    """Increase the momentum to 1 on a cosine schedule (BYOL), or keep it constant (MoCo)."""
    momentum_every: Annotated[int, AtLeast(1)] = 1
    """Steps between momentum-encoder updates; with momentum 0 this is the k-step alternation of Sec. 5.2."""
    temperature: Annotated[float, Above(0)] = 0.1
    """Softmax temperature (objectives `nt_xent`, `info_nce`, `swapped_prediction`)."""
    queue: Annotated[int, AtLeast(1), AtMost(2**24)] = 65536
    """Number of keys from earlier batches, used as negatives (objective `info_nce`)."""
    prototypes: Annotated[int, AtLeast(2, "clusters"), AtMost(2**20, "clusters")] = 3000
    """Number of clusters (objective `swapped_prediction`)."""

    def __post_init__(self) -> None:
        check(self, "method.")
        known = names("siam.objectives")
        if self.objective not in known:
            raise SettingsError(
                f"method.objective must be one of {', '.join(known)}, got '{self.objective}'"
                f"{did_you_mean(self.objective, known)}"
            )

    @property
    def is_symmetric(self) -> bool:
        """True if each view predicts the other."""
        return self.symmetry == "symmetric"


def require_targets_without_gradient(method: Method) -> None:
    """Raise SettingsError if the targets carry gradient, for objectives that keep targets between steps."""
    if method.target == "gradient":
        raise SettingsError(
            f"objective '{method.objective}' keeps targets between steps, so method.target "
            "cannot be 'gradient': choose 'momentum' or 'stop_gradient'"
        )
