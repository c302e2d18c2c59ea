"""What the server of forks does once: import every reader of Siam, and make the intact inputs."""

import torch

import siam.convert.importer
import siam.data.sources
import siam.report.curves
import siam.report.page
import siam.runs.encoder
import siam.transfer.data  # noqa: F401
from tests.fuzz.cases import case_of, subjects

torch.set_num_threads(1)
for name in subjects():
    case_of(name, 0, 0)
