"""The functions behind `dastune policy`: pictures of every kind of policy, exchange through files, faults in words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from dastune import policy_commands
from dastune.data.table import DatasetEntry
from dastune.errors import UserError
from dastune.exchange.table import FORMATS
from dastune.ops.spaces import Geometry
from dastune.policy.policy import (
    Choice,
    Clip,
    Edge,
    Genotype,
    Policy,
    Stages,
    Step,
    SubPolicies,
    SubPolicy,
    load_policy,
    load_policy_file,
    policy_text,
)
from dastune.report.figures import SHEET_LINES, contact_sheet

INVERT = Step(op="invert")
TURN = Step(op="rotate", low=5, high=20, probability=0.5)
ZOOM = Edge(source=0, step=Step(op="zoom", low=0.1, high=0.1, signed=False))
STILL = Edge(source=0, step=Step(op="identity"))
KINDS: dict[str, Policy] = {
    "sub-policies": SubPolicies(sub_policies=(SubPolicy(steps=(INVERT, TURN)), SubPolicy(steps=()))),
    "stages": Stages(stages=((Choice(weight=1, step=INVERT), Choice(weight=2, step=Step(op="constant"))),)),
    "cell": Genotype(nodes=((Edge(source=0, step=INVERT), Edge(source=0, step=TURN)),)),
    "clip": Clip(frames=4, nodes=((ZOOM, STILL),)),
    "shuffled clip": Clip(frames=4, order="shuffled", nodes=((ZOOM,),)),
    "frame of a clip": Clip(frames=4, order="one", nodes=((ZOOM,),)),
    "nothing": Stages(),
}
LIST = '[[["Invert", 0.1, 0.2], ["Contrast", 0.9, 0.8]]]'


@pytest.fixture
def policy_file(tmp_path: Path) -> Any:
    def write(policy: Policy) -> Path:
        path = tmp_path / "policy.json"
        path.write_text(policy_text(policy, {"study": "x"}))
        return path

    return write


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_words_and_a_picture(kind: str, policy_file: Any, tmp_path: Path) -> None:
    path, output = policy_file(KINDS[kind]), tmp_path / "deep" / "picture.png"
    lines = policy_commands.shown(path)
    assert lines[-2:] == ["provenance:", "  study: x"]
    policy_commands.draw(path, output, "photographs", None, images=2, draws=3, seed=0)
    assert pixels(output).std() > 20
    assert [file.name for file in output.parent.iterdir()] == ["picture.png"]


def test_a_picture_shows_the_images_and_the_draws(policy_file: Any, tmp_path: Path) -> None:
    path = policy_file(Stages(stages=((Choice(weight=1, step=INVERT),),)))
    rows = policy_commands._augmented(policy_commands._photographs(16), load_policy(path), draws=2, seed=0).numpy()
    assert rows.shape == (16, 3, 104, 104, 3)
    assert np.array_equal(rows[:, 1], 255 - rows[:, 0])
    assert len({row.tobytes() for row in rows[:, 0]}) == 16
    china = load_sample_images().images[0][:426].reshape(213, 2, 320, 2, 3).mean((1, 3))
    assert np.abs(rows[0, 0] - china[:104, 108:212]).max() <= 0.5


def test_beside_an_image_stands_its_clip(policy_file: Any) -> None:
    images = policy_commands._photographs(3)
    for order in ("time", "shuffled"):
        policy = load_policy(policy_file(Clip(frames=5, order=order, nodes=((ZOOM,),))))
        rows = policy_commands._augmented(images, policy, draws=2, seed=0).numpy()
        assert rows.shape == (3, 6, 104, 104, 3)
        same = [[np.array_equal(tile, row[0]) for tile in row[1:]] for row in rows]
        assert [sum(row) for row in same] == [1, 1, 1]
        if order == "time":
            assert all(row[2] for row in same)
    one = policy_commands._augmented(images, policy.model_copy(update={"order": "one"}), draws=2, seed=0)
    assert one.shape == (3, 3, 104, 104, 3)


def test_seeds_draw_anew_and_alike(policy_file: Any, tmp_path: Path) -> None:
    path = policy_file(KINDS["sub-policies"])
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        policy_commands.draw(path, tmp_path / f"{name}.png", "digits", None, images=3, draws=2, seed=seed)
    one, same, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert one == same != other


def test_long_policies_are_shortened_in_pictures_only(policy_file: Any) -> None:
    subs = tuple(SubPolicy(steps=(TURN,) * (1 + n % 5)) for n in range(60))
    lines = policy_commands.shown(policy_file(SubPolicies(sub_policies=subs)))
    assert len(lines) > 60
    figure = contact_sheet(np.zeros((2, 3, 8, 8, 3), np.uint8), "名.json $x$", lines, "draws")
    title, *_, text = [text.get_text() for text in figure.texts]
    assert title == "\\u540d.json $x$"
    assert len(text.splitlines()) == SHEET_LINES
    assert text.splitlines()[-1].startswith("and ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": Path("x.pdf")}, "x.pdf: a picture is a .png; write x.png"),
        ({"data": "digit"}, "--data 'digit' is no data set; did you mean 'digits'?"),
        ({"data_dir": "here", "data": "digits"}, "digits comes with its library"),
        ({"images": 17}, "there are 16 patches of photographs"),
        ({"output": Path("x" * 300 + ".png")}, "x...: cannot be written (File name too long)"),
        ({"output": Path("x" * 999 + ".jpg")}, "x...: a picture is a .png"),
        ({"output": Path()}, "a picture is a .png"),
        ({"data": "\x1b" * 999}, "--data '\\x1b"),
        ({"output": Path("/dev/null/x.png")}, "/dev/null/x.png: cannot be written"),
    ],
)
def test_faults_of_a_picture(changes: dict[str, Any], message: str, policy_file: Any, tmp_path: Path) -> None:
    arguments = {
        "output": tmp_path / "x.png",
        "data": "photographs",
        "data_dir": None,
        "images": 1,
    }
    with pytest.raises(UserError) as caught:
        policy_commands.draw(policy_file(KINDS["stages"]), **{**arguments, **changes}, draws=1, seed=0)
    assert message in str(caught.value)
    assert not (tmp_path / "x.png").exists()


def test_a_fill_that_no_image_of_a_picture_has_is_told(policy_file: Any, tmp_path: Path) -> None:
    path = policy_file(Stages(geometry=Geometry(fill=(0.1, 0.2))))
    with pytest.raises(UserError, match="its fill has 2 channels"):
        policy_commands.draw(path, tmp_path / "x.png", "photographs", None, images=1, draws=1, seed=0)


def test_a_missing_data_set_names_the_remedy(policy_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(entry: DatasetEntry, root: str) -> None:
        raise UserError(f"it is not in {root}")

    monkeypatch.setattr(DatasetEntry, "load", load)
    with pytest.raises(UserError, match=r"it is not in here\. Here that is --data-dir FOLDER"):
        policy_commands.draw(policy_file(Stages()), tmp_path / "x.png", "cifar10", "here", images=1, draws=1, seed=0)


def test_a_policy_goes_out_and_comes_back(policy_file: Any, tmp_path: Path) -> None:
    again = tmp_path / "again.json"
    again.write_text(policy_commands.imported(LIST, "published", {}))
    text, note = policy_commands.export(again, "published")
    assert json.loads(text) == [[["Invert", 0.1, 0.0], ["Contrast", 0.9, 0.8]]]
    assert note == ""
    exported = tmp_path / "list.json"
    exported.write_text(text)
    file = json.loads(policy_commands.imported(str(exported), "published", {}))
    assert file["policy"] == json.loads(again.read_text())["policy"]
    assert file["provenance"]["read_from"] == str(exported)


def test_provenance_says_what_a_policy_was_read_from(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    path = tmp_path / "policy.json"
    source = "rand_augment_transform('rand-m9-n2-inc1', {'interpolation': 0})"
    path.write_text(policy_commands.imported(source, "timm", {}))
    provenance = load_policy_file(path).provenance
    assert provenance["read_from"] == source
    assert provenance["form"] == "timm"
    assert set(provenance) == {"read_from", "form", "timm_version", "dastune_version"}
    path.write_text(policy_commands.imported('[[["Cutout", 0.5, 0.5]]]', "published", {"grey_cutout": True}))
    assert load_policy_file(path).provenance["grey_cutout"] is True


def test_a_cell_that_averages_is_exported_with_a_note(policy_file: Any) -> None:
    blend = Genotype(nodes=((Edge(source=0, step=INVERT), Edge(source=0, step=Step(op="equalize"))),))
    text, note = policy_commands.export(policy_file(blend), "published")
    assert len(json.loads(text)) == 2
    assert "one" in note
    assert policy_commands.export(policy_file(blend.model_copy(update={"node": "sample"})), "published")[1] == ""
    for nodes, noted in ((((ZOOM, STILL),), True), (((ZOOM,),), False)):
        _, note = policy_commands.export(policy_file(Clip(order="one", nodes=nodes)), "torchvision")
        assert bool(note) == noted


def test_a_clip_is_refused_with_what_to_do(policy_file: Any) -> None:
    with pytest.raises(UserError, match=r'a clip of each image, of 8 frames.* With "order": "one"'):
        policy_commands.export(policy_file(Clip(nodes=((ZOOM,),))), "torchvision")


@pytest.mark.parametrize("form", FORMATS)
def test_a_cell_that_adds_images_up_is_refused(form: str, policy_file: Any) -> None:
    adding = Genotype(node="sum", nodes=((Edge(source=0, step=INVERT), Edge(source=0, step=Step(op="identity"))),))
    pytest.importorskip(FORMATS[form].library or "dastune")
    with pytest.raises(UserError, match="adds up images"):
        policy_commands.export(policy_file(adding), form)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.json", "missing.json: there is no such file"),
        ("deep/missing.py", "there is no such file"),
        ("[" * 5000, "lists 5,000 deep"),
        ("x\0y", "is no list"),
        ("é" * 300, "is no list"),
        (".", "is no list"),
    ],
)
def test_sources_that_cannot_be_read(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        policy_commands.imported(source, "published", {})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary, large = tmp_path / "binary", tmp_path / "large"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is no text in UTF-8"):
        policy_commands.imported(str(binary), "published", {})
    with large.open("wb") as file:
        file.truncate(20_000_000)
    with pytest.raises(UserError, match="is larger than"):
        policy_commands.imported(str(large), "published", {})


def test_files_are_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    policy_commands.write_new(path, "one", overwrite=False)
    with pytest.raises(UserError, match="exists already; --overwrite replaces it"):
        policy_commands.write_new(path, "two", overwrite=False)
    assert path.read_text() == "one"
    policy_commands.write_new(path, "two", overwrite=True)
    assert path.read_text() == "two"
    with pytest.raises(UserError, match="cannot be written"):
        policy_commands.write_new(path / "below", "three", overwrite=False)
    with pytest.raises(UserError, match=r"x\.\.\.: cannot be written \(File name too long\); give another --output"):
        policy_commands.write_new(tmp_path / ("x" * 300), "four", overwrite=False)


@pytest.mark.parametrize(("text", "size"), [("32", (32, 32)), ("224x320", (224, 320))])
def test_image_sizes(text: str, size: tuple[int, int]) -> None:
    assert policy_commands.image_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "x", "32x", "-3", "32x32x3", "3.5"])
def test_what_is_no_image_size(text: str) -> None:
    with pytest.raises(UserError, match="such as 32"):
        policy_commands.image_size(text)
