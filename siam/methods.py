"""SimSiam and four related methods, as in Figure 3 of SimSiam (Chen & He 2021, arXiv 2011.10566).

A method is defined by the predictor h on its online branch, its target branch, and the objective that scores
the agreement between the branches (a module in siam/objectives). Each method is SimSiam with a few fields
replaced, so adding a method takes one line.
"""

from dataclasses import replace

from siam.settings.method import Method as Method

# fmt: off
SIMSIAM = Method()
BYOL    = replace(SIMSIAM, name="byol",                      target="momentum")
SIMCLR  = replace(SIMSIAM, name="simclr",  predictor="none", target="gradient", objective="nt_xent")
SWAV    = replace(SIMSIAM, name="swav",    predictor="none",                    objective="swapped_prediction")
MOCO_V2 = replace(SIMSIAM, name="moco_v2", predictor="none", target="momentum", objective="info_nce")
# fmt: on

METHODS = {method.name: method for method in list(vars().values()) if isinstance(method, Method)}
if len(METHODS) < sum(isinstance(value, Method) for value in vars().values()):
    raise ValueError("two methods have the same name: give each method a unique name=")

TITLES = {"simsiam": "SimSiam", "byol": "BYOL", "simclr": "SimCLR", "swav": "SwAV", "moco_v2": "MoCo v2"}


def title(name: str) -> str:
    """Return a method's display name: its entry in TITLES, or else its name in title case (Barlow Twins)."""
    return TITLES.get(name, name.replace("_", " ").title())
