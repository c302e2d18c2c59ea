"""Compare a resumed run with the one that began: its images, its settings and the machine."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from siam.data.fingerprint import Fingerprint, changes
from siam.errors import RunError
from siam.processes.agree import on_rank_zero
from siam.processes.gather import world_size
from siam.runs.checkpoint import checkpoints, load_last
from siam.settings.plain import to_dict

if TYPE_CHECKING:
    from siam.runs.session import Session

MAY_CHANGE = ("data", "device", "threads", "timeout", "loader.", "workers", "checkpoint.")
"""Names, or beginnings of names, of settings that may change on resume.

The images may be at another place, as long as they are the same images.
"""

_MANY = 200_000
"""Images whose fingerprint takes seconds: a million in a folder take 8 s, and longer on a file server."""


@dataclass(frozen=True)
class Machine:
    """What the last bits of a result depend on, other than settings and images."""

    device: str
    precision: str
    processes: int
    threads: int
    library: str
    """The version of torch."""

    @classmethod
    def of(cls, device: torch.device, bf16: bool) -> Self:
        """Describe the machine of this process."""
        return cls(
            device=device.type,
            precision="bf16" if bf16 else "float32",
            processes=world_size(),
            threads=torch.get_num_threads(),
            library=f"torch {torch.__version__}",
        )


@dataclass(frozen=True)
class Job:
    """A run's images, settings and machine, as stored in its checkpoints."""

    images: Fingerprint
    settings: dict[str, Any]
    machine: Machine

    def plain(self) -> dict[str, Any]:
        """Return the job as plain values."""
        return asdict(self)


def require_same_job(run: "Session", images: Callable[[], Fingerprint], fix: str, count: int = 0) -> None:
    """Raise RunError if images or settings differ from those of the checkpoint; say how the machine differs.

    Call after `restore` and before `begin`, on all ranks. images: called on rank 0 only. fix: an alternative
    to restoring images and settings, for the error message. count: number of images.
    """
    before = run.progress.job
    if count >= _MANY:
        run.print(f"reading the names and sizes of {count:,} images")
    job = Job(on_rank_zero(images), to_dict(run.settings), Machine.of(run.device, run.bf16))
    if before:
        run.moved = on_rank_zero(lambda: compare(before, job, run.folder, fix))
    if run.moved:
        run.print(run.moved)
    run.progress.job = job.plain()


def require_same_images(before: Fingerprint, now: Fingerprint, run: str | Path, fix: str) -> None:
    """Raise RunError if the images changed since the run began. fix: what to do about it."""
    found = changes(before, now)
    if found:
        raise RunError(f"the images changed since {run} began ({', '.join(found)}): restore them, or {fix}")


def require_images_of(folder: Path, now: Callable[[], Fingerprint], fix: str) -> None:
    """Raise RunError if the images are not those of the run's checkpoint, if it has one."""
    job = load_last(folder)[0]["progress"].get("job") if checkpoints(folder) else None
    if job:
        require_same_images(job["images"], now(), folder, fix)


def compare(before: dict[str, Any], now: Job, folder: Path, fix: str) -> str:
    """Compare a resumed job with the stored one; return a message about a different machine, or "".

    fix: an alternative to restoring images and settings. Raises RunError if the images differ, or settings
    other than MAY_CHANGE.
    """
    require_same_images(before["images"], now.images, folder, fix)
    one, other = _flat(before["settings"]), _flat(now.settings)
    changed = [
        f"{name} ({one.get(name)} and {other.get(name)})"
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name) and not name.startswith(MAY_CHANGE)
    ]
    if changed:
        raise RunError(
            f"the settings in {folder} were edited since its last checkpoint: {', '.join(changed)}; "
            f"restore them, or {fix}"
        )
    machine = asdict(now.machine)
    moved = [
        f"{name} {machine[name]} instead of {value}"
        for name, value in before["machine"].items()
        if machine[name] != value
    ]
    return (
        f"resumed with {', '.join(moved)}: the result may differ from an uninterrupted run in its last bits"
        if moved
        else ""
    )


def _flat(settings: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{path}{name}.") if isinstance(value, dict) else {path + name: value}
    return flat


def train_on(folder: Path) -> str:
    """Return the end of a message that says how to go on with other images or settings."""
    return f"start another run from its weights with --init {folder} --out OTHER"
