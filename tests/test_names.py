"""Names are bytes that anyone chooses: a hostile set of them through every verb."""

import json
import os
import re
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision

import siam
from siam.cli import command as cli
from siam.data.sources import open_images
from siam.system.names import shown, stored
from tests.conftest import TINY, run_cli

HOSTILE = [
    b"caf\xe9.jpg",  # Latin-1
    b"\xff\xfe.jpg",
    b"1\x1b]0;owned\x07.jpg",  # sets a terminal's title
    b"2\x1b[2J\x1b[31m.jpg",  # clears the screen
    b"3\rsiam: all is well.jpg",
    b"4\nsiam: all is well.jpg",
    b"[bold]5[red].jpg",
    b"[link=x]6[blink].jpg",
    b":smile:.jpg",
    b"-dash.jpg",
    b"--out.jpg",
    b"a\tb.jpg",
    b"<script>alert(1)<script>.jpg",
    b"'\"&.jpg",
    "\u202egpj.exe.jpg".encode(),  # right to left
    "\u2028\x85\x9b31m.jpg".encode(),  # C1 controls
    "日本 😀.jpg".encode(),
    b"{0..3}.jpg",
    b"*?[.jpg",
    b"%20#1.jpg",
    b"n" * 251 + b".jpg",
]
CLASSES = (b"caf\xe9 \x1b[31m", b"[red]x\n")


def unsafe(text):
    """Return the characters of a text that could do harm in a terminal."""
    return sorted(set(re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]", text)))


@pytest.fixture
def hostile(photos, tmp_path):
    """Two class folders with images of hostile names; one file of each class is no image."""
    root = os.fsencode(tmp_path / "set")
    data = [file.read_bytes() for file in sorted(photos.iterdir())]
    for kind in CLASSES:
        os.makedirs(os.path.join(root, kind))
        for i, name in enumerate(HOSTILE):
            with open(os.path.join(root, kind, name), "wb") as file:
                file.write(data[i])
        for name in (b"broken\x1b]0;owned\x07.jpg", b"broken\xe9\n.jpg"):
            with open(os.path.join(root, kind, name), "wb") as file:
                file.write(b"no image")
    return tmp_path / "set"


@pytest.fixture
def run(hostile, tmp_path, capfd):
    folder = tmp_path / os.fsdecode(b"run\xe9\x1b[31m")
    flags = [*TINY, "--epochs", "1", "--out", str(folder)]
    assert cli.main(["pretrain", str(hostile), *flags]) == 0
    captured = capfd.readouterr()
    assert not unsafe(captured.out + captured.err)
    assert r"run\xe9\x1b[31m" in captured.out
    return folder


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("a\x1b]0;b\x07\n\t\x85", r"a\x1b]0;b\x07\n\t\x85"),
        ("\u202eabc\ufeff\u2028", r"\u202eabc\ufeff\u2028"),
        ("\ud83d", r"\ud83d"),
        ("日本 é 😀 \u00a0\u202f👩\u200d💻 \\", "日本 é 😀 \u00a0\u202f👩\u200d💻 \\"),
    ],
)
def test_a_name_is_shown_on_one_line_of_harmless_characters(name, text):
    assert shown(name) == text
    assert shown(text) == text


def test_a_name_in_a_file_of_utf8_keeps_all_but_foreign_bytes():
    assert stored("a\nb \u202e é") == "a\nb \u202e é"
    assert stored(os.fsdecode(b"caf\xe9\n")) == "caf\\xe9\n"


def test_a_run_shows_them_in_its_files_and_on_its_page(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert not unsafe(page)
    assert "<script>alert" not in page
    assert r"run\xe9\x1b[31m" in page
    lines = (run / "unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert 0 < len(lines) <= 4  # of those that the first epoch reads
    assert all(line.endswith("\tis not an image") for line in lines)
    assert not unsafe("".join(lines).replace("\t", ""))
    with (run / "metrics.jsonl").open(encoding="ascii") as file:
        assert all(json.loads(line) for line in file)


def test_embeddings_lead_back_to_the_files(run, hostile, tmp_path, capfd):
    out = tmp_path / "v.parquet"
    assert cli.main(["embed", str(run), str(hostile), "--workers", "0", "--out", str(out)]) == 0
    captured = capfd.readouterr()
    assert not unsafe(captured.out + captured.err)
    assert r"broken\xe9\n.jpg (is not an image)" in captured.err
    table = pq.read_table(out)
    paths = table["path"].to_pylist()
    assert len(set(paths)) == len(paths) == 2 * len(HOSTILE)
    _, found = siam.embed(run, hostile, workers=0)
    assert [stored(path) for path in found] == paths
    assert all((hostile / path).is_file() for path in found)
    assert set(table["label"].to_pylist()) == {"caf\\xe9 \x1b[31m", "[red]x\n"}
    listed = (tmp_path / "v.parquet.unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert len(listed) == 4


def test_shards_keep_every_image(hostile, tmp_path, capfd):
    assert cli.main(["shard", str(hostile), "--out", str(tmp_path / "shards"), "--size", "20kB"]) == 0
    captured = capfd.readouterr()
    assert not unsafe(captured.out + captured.err)
    whole, sharded = open_images(hostile).train, open_images(tmp_path / "shards").train
    assert len(sharded) == len(whole)
    assert sharded.classes == whole.classes
    assert sharded.labels.tolist() == whole.labels.tolist()
    assert [sharded.encoded(i) for i in range(len(sharded))] == [whole.encoded(i) for i in range(len(whole))]


def test_evaluate_and_inspect_show_them(run, hostile, capfd):
    assert cli.main(["evaluate", str(run), str(hostile), "--workers", "0", "--device", "cpu"]) == 0
    evaluated = capfd.readouterr()
    assert not unsafe(evaluated.out + evaluated.err)
    assert r"[red]x\n" in evaluated.out
    assert cli.main(["inspect", str(run), str(hostile), "--device", "cpu"]) == 0
    inspected = capfd.readouterr()
    assert not unsafe(inspected.out + inspected.err)
    assert not unsafe((run / "report.html").read_text(encoding="utf-8"))


def test_a_run_of_any_name_is_exported_imported_and_resumed(run, tmp_path, capfd):
    exported = tmp_path / os.fsdecode(b"\xe9\x1b[31m[bold]")
    assert cli.main(["export", str(run), "--format", "safetensors", "--out", str(exported)]) == 0
    again = tmp_path / os.fsdecode(b"\xe9\nagain")
    weights = tmp_path / os.fsdecode(b"\xe9\x1b[31m[bold].pth")
    with weights.open("wb") as file:
        torch.save(torchvision.models.resnet18().state_dict(), file)
    assert cli.main(["import", str(weights), "--out", str(again)]) == 0
    assert (again / "network.safetensors").is_file()
    assert cli.main(["pretrain", str(tmp_path / "set"), "--out", str(run)]) == 2
    assert cli.main(["pretrain", str(tmp_path / "set"), "--resume", "--out", str(run)]) == 0
    captured = capfd.readouterr()
    assert not unsafe(captured.out + captured.err)


def test_bench_shows_the_name_of_its_data(hostile, tmp_path):
    renamed = tmp_path / os.fsdecode(b"\xe9\x1b[31m[bold]")
    hostile.rename(renamed)
    done = run_cli("bench", renamed, *TINY, check=0)
    assert not unsafe(done.stdout + done.stderr)
    assert r"\xe9\x1b[31m[bold]" in done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ["pretrain", "nothing\x1b]0;\x07\n\udce9.tar"],
        ["embed", "no run\x1b[31m", "demo", "--out", "x"],
        ["inspect", "no\nrun\udcff"],
        ["pretrain\x1b[31m"],
        ["pretrain", "demo", "--method", "\x1b[31m"],
        ["pretrain", "demo", "--\x1b[31m\udce9", "1"],
    ],
)
def test_errors_are_one_line_of_harmless_characters(args, capfd):
    assert cli.main(args) == 2
    said = capfd.readouterr().err
    assert said.splitlines()[-1].startswith("siam: ")
    assert said.count("\n") == 1 + ("demo: " in said)
    assert not unsafe(said)


def test_null_characters_cost_only_their_image(photos, tmp_path):
    (tmp_path / "list.txt").write_bytes(b"photos/000.jpg\nphotos/0\x000.jpg\nphotos/001.jpg\n")
    images = open_images(tmp_path / "list.txt").train
    with pytest.raises(siam.data.decode.BrokenImage, match="NUL character"):
        images.read(1)
    data = (photos / "000.jpg").read_bytes()
    table = pa.table({"image": pa.array([{"bytes": data, "path": f"a\0{i}.jpg"} for i in range(3)])})
    pq.write_table(table, tmp_path / "a.parquet")
    run_cli("shard", tmp_path / "a.parquet", "--out", tmp_path / "shards", check=0)
    assert len(open_images(tmp_path / "shards").train) == 3


def test_names_that_meet_in_a_shard_are_told_apart(photos, tmp_path):
    """Keys end at the first dot, so dots become underscores: other names may already have them."""
    names = ["a.b.jpg", "a_b.jpg", "a_b.png", "a#b.JPG", "a_b-1.jpg", "a.b..jpg"]
    (tmp_path / "set").mkdir()
    for name, file in zip(names, sorted(photos.iterdir()), strict=False):
        file.rename(tmp_path / "set" / name)
    run_cli("shard", tmp_path / "set", "--out", tmp_path / "shards", check=0)
    whole, sharded = open_images(tmp_path / "set").train, open_images(tmp_path / "shards").train
    assert [sharded.encoded(i) for i in range(6)] == [whole.encoded(i) for i in range(6)]
    with tarfile.open(tmp_path / "shards" / "train-000000.tar") as tar:
        keys = [name.partition(".")[0] for name in tar.getnames()]
    assert len(set(keys)) == 6


def test_names_that_meet_across_shards_get_the_shards_name(photos, tmp_path):
    for n in range(2):
        with tarfile.open(tmp_path / f"x-{n}.tar", "w") as tar:
            tar.add(sorted(photos.iterdir())[n], "0.jpg")
    images = open_images(tmp_path / "x-{0..1}.tar").train
    assert [images.path(i) for i in range(2)] == ["x-0.tar/0.jpg", "x-1.tar/0.jpg"]


def test_hidden_names_in_tables_survive_sharding(photos, tmp_path):
    """Readers of tars skip hidden folders, and extraction refuses names that lead out of the folder."""
    names = [".hidden/a.jpg", "../a.jpg", "/a.jpg", "a//b.jpg", "x/", "__MACOSX/a.jpg", ".jpg"]
    data = [file.read_bytes() for file in sorted(photos.iterdir())][: len(names)]
    cells = [{"bytes": one, "path": name} for one, name in zip(data, names, strict=True)]
    pq.write_table(pa.table({"image": pa.array(cells)}), tmp_path / "a.parquet")
    run_cli("shard", tmp_path / "a.parquet", "--out", tmp_path / "shards", check=0)
    sharded = open_images(tmp_path / "shards").train
    assert [sharded.encoded(i) for i in range(len(sharded))] == data


def test_a_data_set_of_255_bytes_has_a_run_folder(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos.rename("n" * 255)
    assert cli.main(["pretrain", "n" * 255, *TINY, "--epochs", "1"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert len(run.name) < 100
