"""Shards and Parquet: the same images as a folder, loss of damaged samples only, and remote storage."""

import http.server
import io
import json
import tarfile
import threading
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from siam.cli import command as cli
from siam.data.decode import BrokenImage
from siam.data.loader import ViewLoader
from siam.data.order import Order, grouped_order
from siam.data.sharding import bytes_of, shard
from siam.data.sources import open_images
from siam.data.unreadable import Unreadable, read_or_replace
from siam.errors import DataError, SettingsError
from siam.settings.pretraining import LoaderSettings, Settings, ViewSettings
from tests.conftest import TINY


def paths(images):
    return [images.path(i) for i in range(len(images))]


def assert_same(one, other):
    assert paths(one) == paths(other)
    assert one.classes == other.classes
    assert (one.labels is None and other.labels is None) or (one.labels == other.labels).all()
    assert all(torch.equal(one.read(i), other.read(i)) for i in range(len(one)))


@pytest.fixture
def shards(photos, tmp_path):
    """The 24 photos in several shards of a few each."""
    written = shard(photos, tmp_path / "shards", "8kB")
    assert written["images"] == 24
    assert written["shards"] >= 4
    return tmp_path / "shards"


def test_shards_of_class_folders_hold_the_same_images(classes, tmp_path):
    """Same names, labels, splits and pixels; given as a folder, with braces, and with *."""
    written = shard(classes, tmp_path / "shards", "10kB")
    assert (written["images"], written["unreadable"]) == (36, 0)
    folder = open_images(classes)
    last = max(int(file.stem[-6:]) for file in (tmp_path / "shards").glob("train-*"))
    for name in ("shards", "shards/*.tar", f"shards/{{train,val}}-{{000000..{last:06d}}}.tar"):
        sets = open_images(tmp_path / name)
        assert_same(sets.train, folder.train)
        if "{" not in name:
            assert_same(sets.val, folder.val)
            assert not sets.unreadable_files


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves the tar open
def test_webdataset_reads_the_written_shards(classes, tmp_path):
    """The library itself is the oracle for keys, bytes and classes."""
    wds = pytest.importorskip("webdataset")
    shard(classes / "train", tmp_path / "shards", "1MB")
    read = list(wds.WebDataset(str(tmp_path / "shards" / "train-000000.tar"), shardshuffle=False))
    train = open_images(classes / "train").train
    assert [sample["__key__"] + ".jpg" for sample in read] == paths(train)
    assert [int(sample["cls"]) for sample in read] == train.labels.tolist()
    assert all(sample["jpg"] == train.encoded(i) for i, sample in enumerate(read))
    index = json.loads((tmp_path / "shards" / "index.json").read_text())
    assert [entry["nsamples"] for entry in index["shardlist"]] == [24]


def test_arrays_become_shards_of_png(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([1, 0, 1, 0, 1]))
    shard(tmp_path / "a.npz", tmp_path / "out")
    train = open_images(tmp_path / "out").train
    assert train.labels.tolist() == [1, 0, 1, 0, 1]
    assert all((train.read(i).permute(1, 2, 0).numpy() == images[i]).all() for i in range(5))


@pytest.mark.slow
def test_the_run_is_the_same_from_a_folder_a_tar_and_shards(photos, shards, tmp_path, capsys):
    """Weights and losses, bit for bit."""
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photos, ".")
    results = []
    for data in (photos, tmp_path / "photos.tar", shards, shards / "train-{000000..000004}.tar"):
        run = tmp_path / f"run{len(results)}"
        flags = [*TINY, "--loader.cache", "none", "--loader.workers", "1"]
        assert cli.main(["pretrain", str(data), *flags, "--out", str(run)]) == 0
        lines = (run / "metrics.jsonl").read_text().splitlines()
        losses = [record["loss"] for record in map(json.loads, lines) if record["kind"] == "step"]
        results.append((losses, load_file(run / "encoder.safetensors")))
    for losses, weights in results[1 : 4 if len(list(shards.glob("*.tar"))) == 5 else 3]:
        assert losses == results[0][0]
        assert all(torch.equal(weights[key], value) for key, value in results[0][1].items())


def harm(file, how):
    data = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "corrupt":
        file.write_bytes(b"\x55" * len(data))
    elif how == "truncated":
        with tarfile.open(file) as tar:
            second = tar.getmembers()[1]
        file.write_bytes(data[: second.offset_data + second.size // 2])
    elif how == "flipped":  # the header of the second image
        with tarfile.open(file) as tar:
            at = tar.getmembers()[1].offset
        file.write_bytes(data[: at + 20] + b"\xff" * 100 + data[at + 120 :])


@pytest.mark.parametrize(
    ("how", "says", "kept"),
    [
        ("missing", "skipped because it is missing", 0),
        ("corrupt", "skipped because it is corrupt or not a tar", 0),
        ("truncated", "before the corrupt part are used (2)", 1), ("flipped", "are used (1)", 1),
    ],
)  # fmt: skip
def test_a_damaged_shard_costs_only_its_own_samples_and_is_reported(
    shards, photos, tmp_path, capsys, how, says, kept
):
    """The other shards are complete, its readable samples are kept, and the run names it."""
    files = sorted(shards.glob("*.tar"))
    with tarfile.open(files[1]) as tar:
        inside = {member.name for member in tar}
    harm(files[1], how)
    assert list(open_images(shards).unreadable_files) == [
        str(files[1])
    ]  # as a folder, whose index knows them all
    name = f"{shards}/train-{{000000..{len(files) - 1:06d}}}.tar"
    sets = open_images(name)
    assert list(sets.unreadable_files) == [str(files[1])]
    assert says in sets.unreadable_files[str(files[1])]
    readable, reasons = [], []
    for i, path in enumerate(paths(sets.train)):
        try:
            sets.train.read(i)
            readable.append(path)
        except BrokenImage as error:
            reasons.append(error.reason)
    assert all("is truncated" in reason for reason in reasons)
    whole = paths(open_images(photos).train)
    assert set(whole) - set(readable) <= inside
    assert len(inside & set(readable)) == kept
    if how == "missing":
        run = tmp_path / "run"
        assert cli.main(["pretrain", name, *TINY, "--batch-size", "4", "--out", str(run)]) == 0
        assert f"{files[1]}: {says}" in capsys.readouterr().err
        assert says in (run / "unreadable.txt").read_text()


def test_a_shard_that_vanishes_during_the_run_is_skipped_as_a_whole(shards):
    """All its images are replaced by the next image outside it."""
    images = open_images(shards).train
    images.files[1].unlink()
    unreadable = Unreadable()
    first, until = int(images.starts[1]), int(images.starts[2])
    _, used = read_or_replace(images, first, unreadable, images.read)
    assert used == until
    assert list(unreadable) == [images.path(first)]
    assert "No such file" in unreadable[images.path(first)]


def test_a_set_without_readable_shards_is_refused(shards):
    for file in shards.glob("*.tar"):
        file.write_bytes(b"no tar")
    with pytest.raises(DataError, match=r"no images in the \d+ shards"):
        open_images(shards)
    with pytest.raises(DataError, match="no files match"):
        open_images(f"{shards}/none-*.tar")


@pytest.mark.parametrize("batch", [8, 12])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_order_by_groups_visits_few_at_a_time_and_each_image_once(batch, seed):
    sizes = np.random.default_rng(seed).integers(5, 40, 30)
    groups = np.cumsum([0, *sizes])
    order = grouped_order(seed, 0, groups, batch)
    assert order.shape == (groups[-1] // batch, batch)
    assert len(np.unique(order)) == order.size
    group = np.searchsorted(groups, order, side="right") - 1
    lanes = max(n for n in range(1, 17) if batch % n == 0)
    for lane in np.split(group, lanes, axis=1):
        early = lane[: len(lane) * 2 // 3]  # before other lanes' rests come in
        seen = [np.unique(early[at : at + 1]) for at in range(len(early))]
        spans = [np.flatnonzero([g in s for s in seen]) for g in np.unique(early)]
        assert all(len(np.unique(np.concatenate(seen[s[0] : s[-1] + 1]))) <= 6 for s in spans)
    other = grouped_order(seed, 1, groups, batch)
    assert not np.array_equal(order, other)
    settings = Settings(batch_size=batch, epochs=1, seed=seed)
    halves = [list(Order(int(groups[-1]), settings, (0, 0), r, 2, groups)) for r in (0, 1)]
    assert np.array_equal(order, np.concatenate([[i for _, _, i in half] for half in halves], axis=1))


def parquet(photos, file, struct, labels=None, names=None, rows=5):
    data = [path.read_bytes() for path in sorted(photos.iterdir())]
    cells = [{"bytes": b, "path": f"{i:03d}.jpg"} for i, b in enumerate(data)] if struct else data
    columns = {"image": pa.array(cells)}
    if labels is not None:
        columns["label"] = pa.array(labels)
    table = pa.table(columns)
    if names:
        noted = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(noted)})
    pq.write_table(table, file, row_group_size=rows)


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_files_hold_the_images_of_the_folder(photos, tmp_path, struct):
    labels = [i % 2 for i in range(24)]
    parquet(photos, tmp_path / "a.parquet", struct, labels, ["cat", "dog"] if struct else None)
    images, folder = open_images(tmp_path / "a.parquet").train, open_images(photos).train
    assert all(torch.equal(images.read(i), folder.read(i)) for i in (0, 23, 7, 8, 7))
    assert images.labels.tolist() == labels
    assert images.classes == (("cat", "dog") if struct else ("0", "1"))
    assert images.path(3) == ("003.jpg" if struct else "a.parquet#3")
    assert images.groups.tolist() == [0, 5, 10, 15, 20, 24]


def test_a_folder_of_parquet_files_trains_without_its_damaged_file(photos, tmp_path, capsys):
    folder = tmp_path / "set"
    folder.mkdir()
    for n in range(3):
        parquet(photos, folder / f"train-{n}.parquet", struct=True)
    parquet(photos, folder / "validation-0.parquet", struct=True)
    (folder / "train-1.parquet").write_bytes(b"PAR1 no more")
    sets = open_images(folder)
    assert (len(sets.train), len(sets.val)) == (48, 24)
    assert list(sets.unreadable_files) == [str(folder / "train-1.parquet")]
    run = tmp_path / "run"
    flags = [*TINY, "--loader.cache", "none", "--loader.workers", "1"]
    assert cli.main(["pretrain", str(folder), *flags, "--out", str(run)]) == 0
    assert "train-1.parquet: skipped, " in capsys.readouterr().err


def test_parquet_without_images_is_refused_by_name(tmp_path):
    pq.write_table(pa.table({"x": [1], "text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column of encoded images, only x \(int64\), text \(string\)"):
        open_images(tmp_path / "a.parquet")


@pytest.fixture
def server(shards, monkeypatch, tmp_path):
    """Serve the shards over http on this machine; count requests, and refuse those in `refused`."""
    pytest.importorskip("aiohttp")
    asked, refused = [], set()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path in refused:
                self.send_error(503)
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(shards)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("SIAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("siam.data.remote._ATTEMPTS", 2)
    server.url, server.asked, server.refused = f"http://127.0.0.1:{server.server_port}", asked, refused
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("index", [True, False])
def test_shards_behind_a_url_are_fetched_once_and_hold_the_same_images(server, shards, photos, index):
    """With an index a shard is fetched when first read; without, all are fetched once to count images."""
    if not index:
        (shards / "index.json").unlink()
    count = len(list(shards.glob("*.tar")))
    images = open_images(f"{server.url}/train-{{000000..{count - 1:06d}}}.tar").train
    assert sum(path.endswith(".tar") for path in server.asked) == (0 if index else count)
    folder = open_images(photos).train
    assert len(images) == len(folder)
    assert all(torch.equal(images.read(i), folder.read(i)) for i in range(24))
    assert sum(path.endswith(".tar") for path in server.asked) == count


def test_a_remote_shard_that_cannot_be_fetched_costs_only_its_own_images(server, shards):
    count = len(list(shards.glob("*.tar")))
    images = open_images(f"{server.url}/train-{{000000..{count - 1:06d}}}.tar").train
    server.refused.add("/train-000001.tar")
    unreadable = Unreadable()
    first, until = int(images.groups[1]), int(images.groups[2])
    assert read_or_replace(images, first, unreadable, images.read)[1] == until
    assert "cannot be downloaded" in next(iter(unreadable.values()))


def test_the_cache_evicts_the_least_recently_used(server, shards, tmp_path, monkeypatch):
    monkeypatch.setenv("SIAM_CACHE_SIZE", str(25e3 / 1e9))
    count = len(list(shards.glob("*.tar")))
    images = open_images(f"{server.url}/train-{{000000..{count - 1:06d}}}.tar").train
    for i in range(24):
        images.read(i)
    kept = [file for file in (tmp_path / "cache").iterdir() if file.suffix == ".tar"]
    assert 1 <= len(kept) < count
    assert sum(file.stat().st_size for file in kept) <= 25e3
    assert any(file.name.endswith(f"train-{count - 1:06d}.tar") for file in kept)


def test_a_position_in_a_stream_resumes(server, shards):
    """Batches from the middle on equal those of the whole stream, for any number of workers."""
    count = len(list(shards.glob("*.tar")))
    images = open_images(f"{server.url}/train-{{000000..{count - 1:06d}}}.tar").train
    views = ViewSettings(size=16)
    settings = Settings(epochs=2, batch_size=4, views=views, loader=LoaderSettings(0, "none"))
    whole = list(ViewLoader(images, settings, torch.device("cpu")).batches())
    rest = list(ViewLoader(images, settings, torch.device("cpu")).batches(1, 2))
    assert [(b.epoch, b.step) for b in rest] == [(1, s) for s in range(2, 6)]
    for one, other in zip(whole[-4:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.views, other.views, strict=True))


def test_unsupported_urls_are_refused():
    with pytest.raises(DataError, match=r"cannot read nowhere:// URLs"):
        open_images("nowhere://bucket/x-{000..001}.tar")


def test_sizes():
    assert [bytes_of(text) for text in ("512MB", "1.5 GB", "8KB")] == [512_000_000, 1_500_000_000, 8000]
    with pytest.raises(SettingsError, match="size must look like 512MB"):
        bytes_of("many")


def test_a_nonempty_folder_is_refused(photos, capsys):
    assert cli.main(["shard", str(photos), "--out", str(photos)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_names_become_webdataset_keys(photos, tmp_path):
    """A key ends at the first dot: names with several dots stay distinct."""
    (photos / "000.jpg").rename(photos / "a.one.jpg")
    (photos / "001.jpg").rename(photos / "a.two.jpg")
    shard(photos, tmp_path / "out")
    with tarfile.open(next((tmp_path / "out").glob("*.tar"))) as tar:
        names = tar.getnames()
        assert {"a_one.jpg", "a_two.jpg"} <= set(names)
        data = tar.extractfile("a_one.jpg").read()
    assert data == (photos / "a.one.jpg").read_bytes()
    assert torch.equal(open_images(tmp_path / "out").train.read(0), open_images(photos).train.read(0))
    assert io.BytesIO(data).read(2) == b"\xff\xd8"
