"""The moving average of each image's targets (SimSiam Sec. 5.2, without a predictor), written out."""

import numpy as np
import torch

from siam.objectives.moving_average import MovingAverage


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_moving_average_by_hand_over_three_batches():
    rng = np.random.default_rng(0)
    objective = MovingAverage(images=5, dim=4, momentum=0.8)
    eta = {}
    for batch in ([0, 1, 2], [2, 3, 4], [0, 2, 4]):
        p1, p2, z1, z2 = rng.normal(size=(4, 3, 4))
        loss, new = 0.0, {}
        for i, image in enumerate(batch):
            to1 = unit(z2)[i] if image not in eta else 0.8 * eta[image] + 0.2 * unit(z2)[i]
            to2 = unit(z1)[i] if image not in eta else 0.8 * eta[image] + 0.2 * unit(z1)[i]
            for p, to in ((p1, to1), (p2, to2)):
                loss -= unit(p)[i] @ to / np.linalg.norm(to) / 2 / len(batch)
            new[image] = (to1 + to2) / 2
        eta |= new
        objective.before_step(torch.tensor(batch), epoch=0)
        found = objective(*(torch.from_numpy(x).float() for x in (p1, p2, z1, z2)))
        assert abs(float(found) - loss) < 1e-5
    for image, expected in eta.items():
        assert np.allclose(objective.eta[image].numpy(), expected, atol=1e-5)


def test_no_gradient_reaches_the_averages():
    objective = MovingAverage(images=3, dim=4)
    objective.before_step(torch.arange(3), epoch=0)
    p, z = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    for _ in range(2):
        objective(p, p, z, z).backward()
    assert z.grad is None
    assert p.grad is not None
