"""SimSiam's two MLPs (Chen & He 2021, Sec. 3): the projector (the last part of f) and the predictor (h)."""

from torch import nn

from siam.methods import Method


def build_projector(features: int, method: Method) -> nn.Sequential:
    """Build the projector, (B, D) -> (B, d). features: number of backbone features, D.

    "BN applied to each fc layer, including its output fc. Its output fc has no ReLU." The output BN is affine
    only if `output_affine` is set. Otherwise, z has zero mean over the batch, so at full collapse one image
    points away from all others, and std x sqrt(d) is about 2 / sqrt(B) instead of 0.
    """
    hidden_bn = method.batch_norm != "none"
    output_bn = method.batch_norm in ("default", "all")
    layers: list[nn.Module] = []
    width = features
    for _ in range(method.projector_layers - 1):
        layers += _hidden_layer(width, method.projector_hidden, hidden_bn)  # (B, width) -> (B, hidden)
        width = method.projector_hidden
    layers.append(nn.Linear(width, method.dim, bias=not output_bn))  # (B, width) -> (B, d)
    if output_bn:
        layers.append(nn.BatchNorm1d(method.dim, affine=method.output_affine))
    return nn.Sequential(*layers)


def build_predictor(method: Method) -> nn.Module:
    """Build h: (B, d) -> (B, d). "BN applied to its hidden fc layer. Its output fc does not have BN or ReLU."

    h is a bottleneck: d to d/4 and back. `fixed` means untrained (Table 1b), `none` the identity.
    """
    if method.predictor == "none":
        return nn.Identity()
    output_bn = method.batch_norm == "all"
    layers = [
        *_hidden_layer(method.dim, method.predictor_hidden, bn=method.batch_norm != "none"),  # -> (B, d/4)
        nn.Linear(method.predictor_hidden, method.dim, bias=not output_bn),  # -> (B, d)
    ]
    if output_bn:
        layers.append(nn.BatchNorm1d(method.dim))
    return nn.Sequential(*layers).requires_grad_(method.predictor == "learned")


def _hidden_layer(inputs: int, outputs: int, bn: bool) -> list[nn.Module]:
    norm = [nn.BatchNorm1d(outputs)] if bn else []
    return [nn.Linear(inputs, outputs, bias=not bn), *norm, nn.ReLU(inplace=True)]
