"""WebDataset shards on disk."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.samples import error_of, module_of, read
from tests.stores import png, shard, tar


def write(folder: Path, shards: Mapping[str, bytes]) -> Path:
    for name, content in shards.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_labels_of_cls_files_are_classes_in_numeric_order(tmp_path: Path) -> None:
    module = module_of(write(tmp_path, {f"{i}.tar": shard(i * 60, 60, classes=12) for i in range(2)}))
    splits, names = module.read()
    assert names == [str(i) for i in range(12)]
    assert splits["train"].labels.tolist() == [i % 12 for i in range(120)]
    assert splits["train"].files == [f"{i // 60}.tar/{i:05d}.png" for i in range(120)]
    assert module.layout == "2 WebDataset shards"


@pytest.mark.parametrize(
    ("text", "columns"),
    [('{"label": "bee"}', {}), ('{"cls": 3, "x": [1]}', {}), ('{"label": 1, "kind": "bee"}', {"label": "kind"})],
)
def test_labels_of_json_files_are_read(tmp_path: Path, text: str, columns: dict[str, str]) -> None:
    other = text.replace("bee", "ant").replace("3", "2")
    files = {f"a/{i}.{suffix}": content for i in range(8) for suffix, content in (
        ("png", png(0, i)), ("json", (text if i % 2 else other).encode()))}  # fmt: skip
    splits, names = module_of(write(tmp_path, {"all.tar": tar(files)}), columns=columns).read()
    assert names == (["2", "3"] if "cls" in text else ["ant", "bee"])
    assert splits["train"].labels.tolist() == [0, 1] * 4
    assert splits["train"].files[0] == "all.tar/a/0.png"


@pytest.mark.parametrize("name", ["{split}-00000{n}.tar", "{split}/00000{n}.tar", "my_{split}_{n}.tar"])
def test_splits_are_named_by_shards_or_their_folders(tmp_path: Path, name: str) -> None:
    starts = {"train": (0, 10), "val": (20, 30), "test": (40, 50)}
    shards = {name.format(split=split, n=n): shard(starts[split][n], 10) for split in starts for n in (0, 1)}
    found, _ = read(write(tmp_path, shards))
    for split, files in found.items():
        first = starts[split][0]
        assert [int(Path(file).stem) for file in files] == list(range(first, first + 20))
        assert files[0] == f"{name.format(split=split, n=0)}/{first:05d}.png"
    assert list(found) == list(starts)


def test_shards_without_split_or_labels_are_not_used(tmp_path: Path) -> None:
    unlabelled = tar({f"{i}.png": png(0, i) for i in range(4)})
    described = shard(0, 20)[:-10240] + tar({"about.json": b"{}", "notes.txt": b"made by hand"})
    shards = {"train.tar": described, "test.tar": unlabelled, "extra.tar": shard(50, 4)}
    module = module_of(write(tmp_path, shards))
    module.setup()
    unused = "extra.tar, train.tar/about.json, train.tar/notes.txt and 1 more"
    assert module.layout == f"3 WebDataset shards; splits: train; not used: {unused}"
    assert len(module.files("train")) + len(module.files("val")) + len(module.files("test")) == 20


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"7.json": b"{nothing"}, "7.json: is not JSON (Expecting property name enclosed in double quotes"),
        ({"7.json": b"[" * 100_000}, "7.json: is not JSON (maximum recursion depth exceeded"),
        ({"7.json": b'{"size": 3}'}, "7: has no label; add .cls, or name its key in .json by datamodule.columns"),
        ({"7.cls": b" "}, "7: has no label; add .cls, or name its key in .json by datamodule.columns.label=…"),
        ({"7.cls": b"\xff"}, "7: its label is not UTF-8; write it so"),
        ({"7.cls": b"1", "7.seg.png": png(0, 0)}, "7: has 2 images; a sample of Litmus has one"),
        ({"8.cls": b"1"}, "8: has 0 images; a sample of Litmus has one"),
    ],
)
def test_malformed_sample_is_named_in_one_line(tmp_path: Path, changes: dict[str, bytes], problem: str) -> None:
    files = {"0.png": png(0, 0), "0.cls": b"0", "7.png": png(1, 0), **changes}
    root = write(tmp_path, {"a.tar": tar(files)})
    line = error_of(root)
    assert line.startswith(f"{root / 'a.tar'}: {problem}") and "\n" not in line


@pytest.mark.parametrize("keep", [0, 100, 5 * 512, 6 * 512 + 100, 10 * 1024])
def test_cut_shard_is_refused_wherever_it_ends(tmp_path: Path, keep: int) -> None:
    root = write(tmp_path, {"a.tar": shard(0, 10), "b.tar": shard(10, 10)[:keep]})
    line = error_of(root)
    assert line.startswith(f"datamodule.root: {root / 'b.tar'}: cannot be read (") and line.endswith("is it complete?")
    assert "\n" not in line


def test_corrupt_header_within_a_shard_is_refused(tmp_path: Path) -> None:
    content = bytearray(shard(0, 10))
    start = content.index(b"00005.png")
    content[start + 148 : start + 156] = b"badcheck"
    assert "cannot be read (the end is missing)" in error_of(write(tmp_path, {"a.tar": bytes(content)}))


def test_several_keys_of_the_label_are_refused(tmp_path: Path) -> None:
    module = module_of(write(tmp_path, {"a.tar": shard(0, 10)}), columns={"label": ["a", "b"]})
    with pytest.raises(Exception, match=r"^datamodule\.columns\.label: \['a', 'b'\] are several keys; give one$"):
        module.read()
