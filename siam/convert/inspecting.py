"""Describe a run or checkpoint, and check its representation for collapse."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from siam.convert.importer import import_checkpoint
from siam.data.given import open_given
from siam.data.loader import choose_workers
from siam.errors import DataError
from siam.measure.collapse import effective_rank, embedding_std, verdict
from siam.measure.features import center_views, extract
from siam.network import Network
from siam.runs.bars import print_sets
from siam.runs.encoder import load_network, load_weights
from siam.runs.folder import SETTINGS, open_run
from siam.system.device import find_device, uses_bf16

_MAX_IMAGES = 2048


def inspect(
    source: str | Path, data: Any = None, backbone: str | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Describe a run or checkpoint: method, backbone, heads, epochs and verdict.

    source: a run folder, or a checkpoint that `siam import` supports. backbone: timm
    name of a checkpoint's backbone; required unless it is a plain ResNet. data: images,
    of which up to 2,048 are used to measure the effective rank of the features (at most
    D) and, if there is a projector, the effective rank of its outputs (at most d) and
    their std x sqrt(d) (about 1 if healthy, 0 if collapsed), with a verdict. Raises
    SettingsError, RunError if `source` is neither a run nor a checkpoint, or DataError
    for fewer than 2 images.
    """
    folder = Path(source).expanduser()
    if (folder / SETTINGS).exists():
        return _inspect_run(folder, data, device)
    with tempfile.TemporaryDirectory() as temporary:
        imported = import_checkpoint(source, Path(temporary) / "run", backbone)
        facts = _inspect_run(Path(imported.run), data, device)
    left = len(imported.left_out)
    return {**facts, "run": str(source), "layout": imported.layout, "keys_left_out": left}


def _inspect_run(folder: Path, data: Any, device: str) -> dict[str, Any]:
    run = open_run(folder)
    s, weights = run.settings, load_network(folder)
    network = Network(s.method, s.backbone, s.views.size, s.width, s.stem)
    load_weights(network, {**network.state_dict(), **weights}, folder)
    latest = {k: v for record in run.metrics() for k, v in record.items() if v is not None}
    heads = [name for name in ("projector", "predictor") if any(k.startswith(f"{name}.") for k in weights)]
    facts: dict[str, Any] = {
        "run": str(folder),
        "method": s.method.name,
        "backbone": s.backbone + (f" x {s.width:g}" if s.width != 1 else ""),
        "parameters": sum(p.numel() for p in network.backbone.parameters()),
        "image_size": s.views.size,
        "heads": ", ".join(heads) or None,
        "dim": s.method.dim if "projector" in heads else None,
        "trained_on": s.data,
        "epochs": f"{latest['epoch'] + 1} of {s.epochs:g}" if "epoch" in latest else None,
        "verdict_in_training": latest.get("verdict"),
    }
    return facts if data is None else {**facts, **_health(network, "projector" in heads, data, device)}


def _health(network: Network, projector: bool, data: Any, device: str) -> dict[str, Any]:
    """Measure the embedding std and effective ranks on center crops, in eval mode.

    Training uses random crops and batch statistics instead, so its verdict may be
    better early on, while BN's running statistics still lag behind.
    """
    found_device = find_device(device)
    sets = open_given(data)
    print_sets(Console(stderr=True), sets)
    images = sets.train
    if len(images) < 2:  # one image would always look collapsed
        raise DataError(f"{images.name} has only one image: the collapse check needs at least 2")
    chosen = np.unique(np.linspace(0, len(images) - 1, min(_MAX_IMAGES, len(images))).astype(np.int64))
    workers = choose_workers(-1, found_device, len(chosen))
    views = center_views(images, network.image_size, chosen, workers=workers)
    backbone = network.backbone.to(found_device)
    features, _ = extract(backbone, views, found_device, uses_bf16("auto", found_device))
    found: dict[str, Any] = {
        "images": len(features),
        "rank": effective_rank(features),
        "features": features.shape[1],
    }
    if projector:
        with torch.no_grad():
            z = network.projector.eval()(features)
        std = float(embedding_std(z))
        rank_z = effective_rank(z)
        found |= {"rank_z": rank_z, "std": std, "verdict": verdict(std, rank=rank_z, max_rank=min(z.shape))}
    return found
