"""Recipes: named base settings, with their expected accuracy; any setting can be overridden."""

from dataclasses import replace
from typing import Any

from siam.errors import SettingsError, did_you_mean
from siam.methods import BYOL, METHODS, MOCO_V2, SIMCLR, SIMSIAM, SWAV, Method
from siam.settings.pretraining import MonitorSettings, OptimizerSettings, Settings, ViewSettings

_LARGE_BATCH = OptimizerSettings(
    name="lars", lr=0.3, weight_decay=1e-6, warmup_epochs=10, predictor_lr="cosine"
)

_PUBLISHED_KNN = MonitorSettings(knn_k=200)

_HIDDEN_BN: dict[str, Any] = {"batch_norm": "hidden"}
_MOCO: dict[str, Any] = {"temperature": 0.2, "momentum": 0.999, "momentum_schedule": "constant"}

PUBLISHED: dict[str, tuple[Method, OptimizerSettings]] = {
    "simsiam": (SIMSIAM, OptimizerSettings()),
    "byol": (
        replace(
            BYOL, **_HIDDEN_BN, projector_layers=2, projector_hidden=4096, dim=256, predictor_hidden=4096,
            momentum=0.99,
        ),
        replace(_LARGE_BATCH, lr=0.45),
    ),
    "simclr": (replace(SIMCLR, **_HIDDEN_BN, projector_layers=3, dim=128), _LARGE_BATCH),
    "swav": (replace(SWAV, **_HIDDEN_BN, projector_layers=3, dim=128), _LARGE_BATCH),
    "moco_v2": (
        replace(MOCO_V2, projector_layers=2, dim=128, batch_norm="none", **_MOCO),
        OptimizerSettings(lr=0.03),
    ),
}  # fmt: skip
"""Each method's heads and optimizer for 100 epochs on ImageNet, from its paper and SimSiam App. C.

- SimSiam (Chen & He 2021), Sec. 3: batch size 256.
- BYOL (Grill et al. 2020), Sec. 3: heads 4096-256, predictor 4096; App.: for 100 epochs, lr 0.45, weight
  decay 1e-6, initial momentum 0.99 (for 1,000 epochs: 0.2, 1.5e-6 and 0.996); batch size 4096.
- SimCLR (Chen et al. 2020), Sec. 2.2 and App. B: temperature 0.1, lr 0.3; batch size 4096. Three
  projector layers, as in SimSiam App. C, instead of two as in the SimCLR paper.
- SwAV (Caron et al. 2020), Sec. 4 and App. A: 3000 prototypes, temperature 0.1; batch size 4096. Three
  projector layers.
- MoCo v2 (Chen et al. 2020b), Sec. 3: head 2048-128 without BN, temperature 0.2, momentum 0.999; batch size
  256. The loss is symmetrized here, as in SimSiam App. C.
"""


def published(method: str) -> tuple[Method, OptimizerSettings]:
    """Return a method's heads and optimizer from PUBLISHED, or the defaults if it is not listed."""
    return PUBLISHED.get(method, (METHODS[method], OptimizerSettings()))


IMAGENET = Settings(monitor=_PUBLISHED_KNN)
"""SimSiam Sec. 3: ResNet-50, 224 pixels, batch size 256. Published linear accuracy at 100 epochs: 68.3 %."""

CIFAR10 = Settings(
    backbone="resnet18",
    epochs=800,
    batch_size=512,
    views=ViewSettings(size=32, blur_p=0.0),
    method=replace(SIMSIAM, projector_layers=2, momentum=0.99, queue=4096, prototypes=512),
    optimizer=OptimizerSettings(lr=0.03, weight_decay=5e-4),
    monitor=_PUBLISHED_KNN,
)
"""SimSiam App. D: CIFAR ResNet-18, 2-layer projector, no blur. Published linear accuracy: 91.8 %."""

IMAGENETTE = Settings(
    backbone="resnet18",
    epochs=800,
    batch_size=256,
    views=ViewSettings(size=128),
    method=replace(SIMSIAM, momentum=0.99, queue=4096, prototypes=512),
    optimizer=OptimizerSettings(lr=0.06, weight_decay=5e-4),
    monitor=_PUBLISHED_KNN,
)
"""ResNet-18, 128 pixels. Published by lightly: 87.2 % kNN accuracy on Imagenette after 800 epochs."""

DEMO = Settings(
    backbone="resnet10t",
    width=0.375,
    epochs=10,
    batch_size=32,
    views=ViewSettings(
        size=16, scale=(0.4, 1.0), brightness=0.15, contrast=0.15, hue=0.0, grayscale_p=0.9, blur_p=0.0
    ),
    method=replace(
        SIMSIAM, projector_layers=2, projector_hidden=512, dim=512, predictor_hidden=128,
        batch_norm="hidden", momentum=0.99, queue=1024, prototypes=64,
    ),
    optimizer=OptimizerSettings(lr=0.8, weight_decay=5e-4, warmup_epochs=1),  # lr 0.1 for a batch of 32
    monitor=MonitorSettings(bank=5000, queries=1000),
)  # fmt: skip
"""The demo dataset, in minutes on two CPU cores: small batches, small d. kNN accuracy: 83 to 88 %.

The views do not change the hue, because the fast pipeline rotates hue in YIQ and the published pipeline in
HSV (docs/views.md). The projector's output has no BN (Table 3: 67.4 vs. 68.1) because BN would hide
collapse in batches of 32 (see `std_at_collapse`).
"""

RECIPES = {"imagenet": IMAGENET, "cifar10": CIFAR10, "imagenette": IMAGENETTE, "demo": DEMO}


def require_method(name: str) -> str:
    """Return the name of a method. Raises SettingsError, with a suggestion, if it does not exist."""
    if name not in METHODS:
        raise SettingsError(
            f"unknown method '{name}'{did_you_mean(name, METHODS)}; choose from {', '.join(METHODS)}"
        )
    return name


def starting_point(recipe: str | None, method: str, data: str, side: int, size: int) -> Settings:
    """Return a recipe's settings, adapted to the method and dataset; the user's settings override them.

    recipe: name, or None to choose a recipe that suits the images. side: length of a typical image's shorter
    side, in pixels. size: number of images. Raises SettingsError if the method or recipe is unknown.
    """
    require_method(method)
    if recipe is not None and recipe not in RECIPES:
        raise SettingsError(
            f"unknown recipe '{recipe}'{did_you_mean(recipe, RECIPES)}; choose from {', '.join(RECIPES)}"
        )
    base = RECIPES[recipe or _fitting(data, side)]
    if base is CIFAR10:
        base = replace(base, views=replace(base.views, size=min(max(side, 16), 64)))
    batch = base.batch_size
    while batch > max(min(size, 8), size // 4):  # several steps per epoch, and enough images for BN
        batch //= 2
    chosen, optimizer = published(method)
    if base is not IMAGENET:  # same widths and learning rate for all methods, for a fair comparison
        chosen, optimizer = _with_sizes_of(base.method, chosen), base.optimizer
    return replace(base, data=data, method=chosen, optimizer=optimizer, batch_size=batch)


def _fitting(data: str, side: int) -> str:
    """Return `demo` for the demo dataset, otherwise the recipe for the images' shorter side, in pixels."""
    if data == "demo":
        return "demo"
    return "cifar10" if side <= 64 else "imagenette" if side <= 160 else "imagenet"


def _with_sizes_of(sizes: Method, method: Method) -> Method:
    """Return `method` with the heads, momentum, queue size and number of prototypes of `sizes`."""
    heads = ["projector_layers", "projector_hidden", "dim", "predictor_hidden", "batch_norm"]
    names = [*heads, "momentum", "queue", "prototypes"]
    return replace(method, **{name: getattr(sizes, name) for name in names})
