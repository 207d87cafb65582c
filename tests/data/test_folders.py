"""Folders of image files as data sets, against torchvision's ImageFolder and Pillow."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from dastune.data import build, cache
from dastune.data.dataset import Dataset
from dastune.data.folders import folder
from dastune.data.listing import named
from dastune.data.pixel_file import PixelFile
from dastune.data.table import DATASETS
from dastune.errors import UserError

RANDOM = np.random.default_rng(0)
Written = Callable[..., Path]


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A smooth picture, so that JPEG changes it little."""
    small = Image.fromarray(RANDOM.integers(256, size=(4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Return what writes images under root, by path."""

    def write(images: Mapping[str, Image.Image], **options: object) -> Path:
        for name, image in images.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, **options)
        return tmp_path / "root"

    return write


@pytest.fixture
def two_classes(written: Written) -> Path:
    """Two classes of images of all forms, in files of all kinds."""
    images = {
        "train/cat/2.png": photo(24, 16),
        "train/cat/10.JPG": photo(30, 41),
        "train/cat/grey.png": photo(16, 16, "L"),
        "train/dog/alpha.png": photo(20, 33, "RGBA"),
        "train/dog/palette.png": photo(40, 17, "P"),
        "train/dog/cmyk.jpeg": photo(35, 16, "CMYK"),
        "train/dog/bits.png": photo(19, 19, "1"),
        "train/dog/web.webp": photo(18, 50),
        "test/cat/a.bmp": photo(17, 16),
        "test/dog/thin.png": photo(400, 3),
        "test/dog/b.png": photo(16, 16),
    }
    return written(images)


def loaded(root: Path, side: int = 16) -> Dataset:
    return folder(str(root), side, str(root.parent / "cache"))


def split_of(dataset: Dataset, split: str) -> tuple[np.ndarray, list[int]]:
    pixels, labels = getattr(dataset, f"{split}_pixels"), getattr(dataset, f"{split}_labels")
    assert isinstance(pixels, PixelFile)
    return pixels[:], labels.tolist()


@pytest.mark.parametrize("side", [16, 11, 40])
def test_pixels_and_labels_are_torchvisions(side: int, two_classes: Path) -> None:
    dataset = loaded(two_classes, side)
    for split in ("train", "test"):
        theirs = ImageFolder(two_classes / split, v2.Compose([v2.Resize(side), v2.CenterCrop(side), v2.PILToTensor()]))
        pixels, labels = split_of(dataset, split)
        assert labels == theirs.targets
        assert dataset.classes == len(theirs.classes)
        for place, (image_CHW, _) in enumerate(theirs):
            assert np.array_equal(pixels[place], image_CHW.numpy()), theirs.imgs[place]


def test_a_size_that_images_have_already_changes_no_pixel(written: Written) -> None:
    images = {
        f"{split}/{label}/{place}.png": photo(32, 32) for split in ("train", "test") for label in "ab" for place in "01"
    }
    dataset = loaded(written(images), 32)
    for split in ("train", "test"):
        expected = [np.asarray(image).transpose(2, 0, 1) for name, image in images.items() if name.startswith(split)]
        assert np.array_equal(split_of(dataset, split)[0], expected)


def test_photos_are_turned_as_they_are_seen(written: Written) -> None:
    expected = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        root = written({f"train/a/{orientation}.png": photo(16, 24)}, exif=exif)
        seen = ImageOps.exif_transpose(Image.open(root / f"train/a/{orientation}.png"))
        turned = v2.functional.center_crop(v2.functional.resize(seen, 16), 16)
        expected.append(np.asarray(turned).transpose(2, 0, 1))
    written({f"{name}/0.png": photo(16, 16) for name in ("train/b", "test/a")})
    assert np.array_equal(split_of(loaded(root), "train")[0][:8], expected)


def test_sixteen_bits_become_eight(written: Written) -> None:
    deep = RANDOM.integers(2**16, size=(16, 16), dtype=np.uint16)
    root = written({f"{name}/0.png": Image.fromarray(deep) for name in ("train/a", "train/b", "test/a")})
    assert np.array_equal(split_of(loaded(root), "train")[0][0], np.stack([deep // 256] * 3))


def test_statistics_are_those_of_the_pixels(two_classes: Path) -> None:
    dataset = loaded(two_classes)
    pixels = split_of(dataset, "train")[0]
    in_memory = replace(dataset, train_pixels=pixels)
    assert (dataset.mean, dataset.std) == (in_memory.mean, in_memory.std)


def test_several_blocks_and_processes_are_as_one(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loaded(two_classes)
    shutil.rmtree(two_classes.parent / "cache")
    monkeypatch.setattr(build, "BLOCK", 3)
    cut = loaded(two_classes)
    assert cut.mean == whole.mean
    for split in ("train", "test"):
        assert np.array_equal(split_of(cut, split)[0], split_of(whole, split)[0])


def test_real_images(tmp_path: Path) -> None:
    data = os.environ.get("DASTUNE_TEST_DATA")
    if not data or not (Path(data) / "cifar100_subset").is_dir():
        pytest.skip("DASTUNE_TEST_DATA names no folder with cifar100_subset")
    source = Path(data) / "cifar100_subset"
    names = (source / "classes.txt").read_text().split()
    expected: dict[str, list[np.ndarray]] = {}
    for split in ("train", "test"):
        strip_NHWC = np.asarray(Image.open(source / f"{split}_000.webp").convert("RGB")).reshape(-1, 32, 32, 3)
        labels = np.load(source / f"{split}_labels.npy")[: len(strip_NHWC)]
        for place in np.argsort(labels, kind="stable"):
            path = tmp_path / split / names[labels[place]] / f"{place:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(strip_NHWC[place]).save(path)
            expected.setdefault(split, []).append(strip_NHWC[place].transpose(2, 0, 1))
    dataset = folder(str(tmp_path), 32, str(tmp_path / "cache"))
    assert dataset.classes == 100
    for split, images in expected.items():
        assert np.array_equal(split_of(dataset, split)[0], images)


# The cache.


def cached_files(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (root.parent / "cache").rglob("*.pixels")}


def test_pixels_are_decoded_once(two_classes: Path) -> None:
    first = loaded(two_classes)
    before = cached_files(two_classes)
    again = loaded(two_classes)
    assert cached_files(two_classes) == before
    assert (again.fingerprint, again.mean) == (first.fingerprint, first.mean)
    assert np.array_equal(split_of(again, "test")[0], split_of(first, "test")[0])
    [home] = [path for path in (two_classes.parent / "cache").iterdir() if path.is_dir()]
    assert sorted(path.name for path in home.iterdir()) == ["index.json", "test.pixels", "train.pixels"]
    assert json.loads((home / "index.json").read_text())["classes"] == ["cat", "dog"]


def test_other_files_are_another_data_set(two_classes: Path) -> None:
    first = loaded(two_classes)
    path = two_classes / "train" / "cat" / "2.png"
    changes: dict[str, Callable[[], object]] = {
        "touched": lambda: os.utime(path, ns=(0, 0)),
        "replaced": lambda: photo(24, 16).save(path),
        "added": lambda: photo(24, 16).save(path.with_name("3.png")),
        "renamed": lambda: path.rename(path.with_name("x.png")),
    }
    fingerprints = {first.fingerprint}
    for made, (change, do) in enumerate(changes.items(), 2):
        do()
        fingerprint = loaded(two_classes).fingerprint
        assert len(cached_files(two_classes)) == 2 * made
        assert (fingerprint in fingerprints) == (change == "touched")  # the same pixels
        fingerprints.add(fingerprint)


def test_a_damaged_cache_is_made_again(two_classes: Path) -> None:
    first = loaded(two_classes)
    expected = split_of(first, "train")[0]
    path = Path(first.train_pixels.path)  # type: ignore[union-attr]
    index, size = path.with_name("index.json"), path.stat().st_size
    damages: list[Callable[[], object]] = [
        lambda: os.truncate(path, size - 1),
        lambda: os.truncate(path, size + 1),
        lambda: path.unlink(),
        lambda: index.unlink(),
        lambda: index.write_text(index.read_text()[:40]),
        lambda: index.write_text("{}"),
    ]
    for damage in damages:
        damage()
        again = loaded(two_classes)
        assert np.array_equal(split_of(again, "train")[0], expected)
        assert again.fingerprint == first.fingerprint
        assert path.stat().st_size == size


def test_two_processes_at_once(two_classes: Path) -> None:
    """Each waits for a word, then both build the same; both read the same, and nothing unfinished is left."""
    script = (
        "import sys; from dastune.data.folders import folder; print('ready', flush=True); sys.stdin.readline(); "
        "dataset = folder(sys.argv[1], 16, sys.argv[2]); print(dataset.fingerprint, dataset.train_pixels[:].sum()); "
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", script, str(two_classes), str(two_classes.parent / "cache")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    left = sorted(path.suffix for path in (two_classes.parent / "cache").iterdir())
    assert left == ["", ".lock"]


def test_a_builder_on_a_node_whose_locks_do_not_reach_here(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one has put the same in its place while this one was at work: it is left there."""
    theirs = loaded(two_classes)
    path = Path(theirs.train_pixels.path)  # type: ignore[union-attr]
    before, aside, build_here = path.stat().st_ino, path.parent.with_name("aside"), cache.build
    path.parent.rename(aside)

    def slow(*args: object) -> object:
        made = build_here(*args)  # type: ignore[arg-type]
        aside.rename(path.parent)
        return made

    monkeypatch.setattr(cache, "build", slow)
    loaded(two_classes)
    assert path.stat().st_ino == before
    assert sorted(each.suffix for each in (two_classes.parent / "cache").iterdir()) == ["", ".lock"]


def test_what_a_dead_process_left_is_removed(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    def killed(*args: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(cache.shutil, "rmtree", lambda *_, **__: None)  # who is killed tidies nothing
        patch.setattr(cache, "write_atomic", killed)
        with pytest.raises(KilledError):
            loaded(two_classes)
    assert len(list((two_classes.parent / "cache").glob("*/train.pixels"))) == 1
    loaded(two_classes)
    assert sorted(path.suffix for path in (two_classes.parent / "cache").iterdir()) == ["", ".lock"]


# What users are told.

LAYOUT = "it must hold train/CLASS/ and test/CLASS/ (or val/CLASS/) with png, jpg, jpeg, webp or bmp files"


def refused(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        loaded(root)
    assert not list((root.parent / "cache").glob("*/*"))
    return str(caught.value)


def test_no_root(tmp_path: Path) -> None:
    assert refused(tmp_path / "root") == f"data.root: there is no folder {tmp_path / 'root'}; {LAYOUT}"
    with pytest.raises(
        UserError, match=r"^data\.root: is not given; it is the folder of the images: it must hold train"
    ):
        folder()


def test_no_train_or_no_test(two_classes: Path) -> None:
    (two_classes / "test").rename(two_classes / "tests")
    expected = f"data.root: {two_classes} has no folder test or val; it has tests, train; {LAYOUT}"
    assert refused(two_classes) == expected
    shutil.rmtree(two_classes / "train")
    assert refused(two_classes) == f"data.root: {two_classes} has no folder train; it has tests; {LAYOUT}"
    shutil.rmtree(two_classes / "tests")
    assert refused(two_classes) == f"data.root: {two_classes} has no folder train; it has nothing; {LAYOUT}"


def test_val_is_as_good_as_test(two_classes: Path) -> None:
    first = loaded(two_classes)
    (two_classes / "test").rename(two_classes / "val")
    assert loaded(two_classes).fingerprint == first.fingerprint


def test_a_class_that_is_tested_only(two_classes: Path) -> None:
    for name in ("wolf", "bear", "ant", "elk"):
        (two_classes / "test" / name).mkdir()
    assert refused(two_classes) == (
        f"data.root: {two_classes}/test has classes that {two_classes}/train lacks: ant, bear, elk and 1 more; {LAYOUT}"
    )


def test_a_class_that_is_trained_only(two_classes: Path) -> None:
    shutil.rmtree(two_classes / "test" / "cat")
    assert split_of(loaded(two_classes), "test")[1] == [1, 1]
    shutil.rmtree(two_classes / "test" / "dog")
    assert refused_again(two_classes) == f"data.root: {two_classes} has no test images; {LAYOUT}"


def refused_again(root: Path) -> str:
    shutil.rmtree(root.parent / "cache")
    return refused(root)


def test_an_empty_class(two_classes: Path) -> None:
    (two_classes / "train" / "ant").mkdir()
    (two_classes / "train" / "ant" / ".DS_Store").touch()
    assert refused(two_classes) == f"data.root: {two_classes}/train/ant is a class without images; {LAYOUT}"


def test_one_class(two_classes: Path) -> None:
    shutil.rmtree(two_classes / "train" / "dog")
    expected = f"data.root: {two_classes}/train has one class, cat; two classes at least are needed; {LAYOUT}"
    assert refused(two_classes) == expected
    shutil.rmtree(two_classes / "train" / "cat")
    assert "/train has no folders of classes; two classes at least" in refused(two_classes)


def test_images_outside_classes(two_classes: Path) -> None:
    photo(16, 16).save(two_classes / "train" / "x.PNG")
    (two_classes / "train" / "notes.txt").touch()
    assert f"{two_classes}/train has images outside its folders of classes: x.PNG; it must" in refused(two_classes)


def test_files_that_are_not_called_like_images(two_classes: Path) -> None:
    for name in ("a.txt", "b.gif", "Thumbs.db"):
        (two_classes / "train" / "cat" / name).touch()
    (two_classes / "train" / "cat" / "folder").mkdir()
    assert refused(two_classes) == (
        f"data.root: {two_classes}/train/cat has 4 of 7 entries that are no image files by their names (.png, .jpg, "
        f".jpeg, .webp, .bmp): Thumbs.db, a.txt, b.gif and 1 more; {LAYOUT}"
    )


def test_files_that_are_no_images(two_classes: Path) -> None:
    """Told are all of a folder's, however many blocks they lie in."""
    cat = two_classes / "train" / "cat"
    for place in range(150):
        (cat / f"x{place:03}.png").write_bytes(b"no image")
    whole = (cat / "2.png").read_bytes()
    (cat / "2.png").write_bytes(whole[: len(whole) // 2])
    (cat / "10.JPG").write_bytes(b"GIF89a")
    told = refused(two_classes)
    assert told.startswith(f"data.root: 152 of 161 files cannot be read as images: {cat}/10.JPG (")
    assert f"{cat}/2.png (" in told
    assert told.endswith(f"{cat}/x000.png (cannot identify image file) and 149 more; mend them, or move them away")


def test_a_file_that_kills_its_process(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = build._process

    def dying(source: object) -> object:
        process = real(source)  # type: ignore[arg-type]
        process.kill()
        return process

    monkeypatch.setattr(build, "_process", dying)
    told = refused(two_classes)
    assert told.startswith("data.root: a process died (exit code -9) while it decoded ")


def test_files_that_change_meanwhile(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cache.build

    def and_touch(*args: object) -> object:
        os.utime(two_classes / "train" / "cat" / "2.png", ns=(0, 0))
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "build", and_touch)
    assert refused(two_classes) == f"data.root: files in {two_classes} changed while they were decoded; run it again"


def test_no_room(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage)
    assert refused(two_classes).startswith("data.cache: the pixels take 0.0 GB, and ")


def test_a_cache_that_cannot_be(two_classes: Path) -> None:
    (two_classes.parent / "cache").touch()
    with pytest.raises(
        UserError, match=r"^data\.cache: pixels cannot be kept in .*/cache/folder-16-.* \(File exists\)"
    ):
        loaded(two_classes)


@pytest.mark.parametrize(
    ("names", "count", "text"),
    [
        (["a"], None, "a"),
        (["a", "b", "c"], None, "a, b, c"),
        (["a", "b", "c", "d"], None, "a, b, c and 1 more"),
        (["a", "b", "c"], 5003, "a, b, c and 5,000 more"),
    ],
)
def test_names_in_words(names: list[str], count: int | None, text: str) -> None:
    assert named(names, count) == text


# Tiny ImageNet and ImageNet.


def small(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take 3 classes of 2 training images and 4 test images for the whole data set."""
    entry = replace(DATASETS[name], classes=3, train_images=6, test_images=4)
    monkeypatch.setitem(DATASETS, name, entry)


WNIDS = ("n01", "n02", "n03")
OF_VAL = {"val_0.JPEG": "n03", "val_1.JPEG": "n01", "val_2.JPEG": "n03", "val_3.JPEG": "n02"}


@pytest.mark.parametrize("layout", ["annotated", "folders"])
def test_tiny_imagenet(layout: str, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    small("tiny_imagenet", monkeypatch)
    images = {f"train/{wnid}/images/{wnid}_{place}.JPEG": photo(64, 64) for wnid in WNIDS for place in (0, 1)}
    if layout == "annotated":
        images |= {f"val/images/{name}": photo(64, 64, "L" if "1" in name else "RGB") for name in OF_VAL}
    else:
        images |= {f"val/{wnid}/{name}": photo(64, 64) for name, wnid in OF_VAL.items()}
    root = written(images)
    for wnid in WNIDS:
        (root / "train" / wnid / f"{wnid}_boxes.txt").touch()
    if layout == "annotated":
        lines = [f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in OF_VAL.items()]
        (root / "val" / "val_annotations.txt").write_text("".join(lines))
    dataset = DATASETS["tiny_imagenet"].load(root=str(root), cache=str(root.parent / "cache"))
    ordered = sorted(OF_VAL, key=lambda name: (OF_VAL[name], name))
    folders = {"train": sorted(path for path in images if path.startswith("train"))}
    folders["test"] = [next(path for path in images if path.endswith(name)) for name in ordered]
    for split, paths in folders.items():
        pixels, labels = split_of(dataset, split)
        expected = [np.asarray(Image.open(root / path).convert("RGB")).transpose(2, 0, 1) for path in paths]
        assert np.array_equal(pixels, expected)
        wnids = [OF_VAL[Path(path).name] if split == "test" else path.split("/")[1] for path in paths]
        assert labels == [WNIDS.index(wnid) for wnid in wnids]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("val_0.JPEG\tn09\n", r"val_annotations\.txt has classes that there are no training images of: n09; fetch"),
        ("val_0.JPEG\tn01\nval_9.JPEG\tn01\n", r"are not of the same files: val_9\.JPEG; fetch https://cs231n"),
        ("", r"are not of the same files: val_0\.JPEG; fetch"),
    ],
)
def test_annotations_that_do_not_fit(lines: str, told: str, written: Written) -> None:
    images = {f"train/{wnid}/images/0.JPEG": photo(64, 64) for wnid in WNIDS} | {"val/images/val_0.JPEG": photo(64, 64)}
    root = written(images)
    (root / "val" / "val_annotations.txt").write_text(lines)
    with pytest.raises(UserError, match=told):
        DATASETS["tiny_imagenet"].load(root=str(root), cache=str(root / "cache"))


def test_imagenet(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """EXIF is not looked at: networks that others trained saw the images so."""
    small("imagenet", monkeypatch)
    exif = Image.Exif()
    exif[0x0112] = 6
    images = {f"train/{wnid}/{wnid}_{place}.JPEG": photo(300, 250 + place) for wnid in WNIDS for place in (0, 1)}
    root = written(images | {f"val/{wnid}/{name}": photo(260, 224) for name, wnid in OF_VAL.items()}, exif=exif)
    dataset = DATASETS["imagenet"].load(root=str(root), cache=str(root.parent / "cache"))
    for split, sub in (("train", "train"), ("test", "val")):
        theirs = ImageFolder(root / sub, v2.Compose([v2.Resize(224), v2.CenterCrop(224), v2.PILToTensor()]))
        pixels, labels = split_of(dataset, split)
        assert labels == theirs.targets
        assert all(np.array_equal(mine, image.numpy()) for mine, (image, _) in zip(pixels, theirs, strict=True))


@pytest.mark.parametrize(("name", "where"), [("tiny_imagenet", "tiny-imagenet-200.zip"), ("imagenet", "image-net.org")])
def test_what_is_not_there_is_not_fetched(name: str, where: str, written: Written, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^data\.root: there is no folder {tmp_path}/x; .*{where}.*; the folder must"):
        DATASETS[name].load(root=str(tmp_path / "x"), cache=str(tmp_path / "cache"))
    inner = "images/" if name == "tiny_imagenet" else ""
    images = {f"train/{wnid}/{inner}0.JPEG": photo(8, 8) for wnid in WNIDS} | {"val/n01/0.JPEG": photo(8, 8)}
    with pytest.raises(UserError) as caught:
        DATASETS[name].load(root=str(written(images)), cache=str(tmp_path / "cache"))
    entry = DATASETS[name]
    assert (
        f"has 3 classes, 3 training and 1 test images, and {name} has {entry.classes:,}, {entry.train_images:,} and "
        f"{entry.test_images:,}; for a part of it there is data.name folder, for the whole" in str(caught.value)
    )
