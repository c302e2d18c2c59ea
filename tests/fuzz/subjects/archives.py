"""Tar files and WebDataset shards."""

import io
import json
import tarfile
from pathlib import Path

from siam.data.sources import open_images
from tests.fuzz.cases import Case, write
from tests.fuzz.mutate import json_value, tar_header, word
from tests.fuzz.reading import read_some, small_images

SPECIAL = {".tar": (tar_header,), ".json": (json_value, word)}


def seeds() -> dict[str, Case]:
    jpg, png = small_images()
    members = {"cat/a.jpg": jpg, "cat/b.png": png, "dog/c.jpg": jpg, "dog/sub/d.png": png}
    samples = {
        f"{n:04d}.{end}": data for n in range(3) for end, data in (("jpg", jpg), ("cls", b"%d" % (n % 2)))
    }
    long = {"x" * 120 + f"/{n}.jpg": jpg for n in range(2)} | {"é\n\x1b.png": png, "meta.json": b'{"a": 1}'}
    index = {"shardlist": [{"url": f"train-{n:06d}.tar", "nsamples": 3} for n in range(2)], "wids_version": 1}
    shard = _tar(samples, tarfile.USTAR_FORMAT)
    return {
        "ustar": {"set.tar": _tar(members, tarfile.USTAR_FORMAT)},
        "pax": {"set.tar": _tar(long, tarfile.PAX_FORMAT)},
        "gnu": {"set.tar": _tar(long, tarfile.GNU_FORMAT)},
        "links": {"set.tar": _tar(members, tarfile.GNU_FORMAT, links=True)},
        "shards": {
            "train-000000.tar": shard, "train-000001.tar": shard, "val-000000.tar": shard,
            "index.json": json.dumps(index).encode(),
        },
    }  # fmt: skip


def _tar(members: dict[str, bytes], kind: int, links: bool = False) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=kind) as tar:
        for name, contents in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            tar.addfile(member, io.BytesIO(contents))
        for name, kind_of in (("s.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)) if links else ():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind_of, "../../etc/passwd"
            tar.addfile(member)
    return data.getvalue()


def check(case: Case, folder: Path) -> None:
    write(case, folder)
    read_some(open_images(folder / "set.tar" if "set.tar" in case else folder))
