"""Studies that load: defaults, overrides, budgets, round trips, and where a study is looked for."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from dastune.config import StudyConfig, load_study, parse_budget
from dastune.config.defaults import DATA_DEFAULTS
from dastune.config.methods import PRESETS
from dastune.config.study import METHODS, AutoAugment, BlackBox, Das, Halving, RandAugment
from dastune.data.table import DATASETS
from dastune.errors import UserError
from dastune.ops.spaces import TORCHVISION, Geometry
from dastune.plan import plan_text
from dastune.policy.policy import Step
from dastune.policy.references import REFERENCES
from dastune.policy.topology import chain, dag

STUDIES = [
    *("cifar100_video", "cifar10_baselines", "cifar10_noise", "cifar10_video", "das_ablation", "digits_baselines"),
    *("digits_noise", "figure10", "imagenet_video", "table10", "table11", "tiny_imagenet_video"),
]
StudyFile = Callable[[str | bytes], Path]


def test_every_data_set_has_defaults() -> None:
    assert DATA_DEFAULTS.keys() == DATASETS.keys()


@pytest.mark.parametrize("data", DATASETS)
def test_a_study_needs_to_say_little(data: str, minimal: str, study_file: StudyFile) -> None:
    named = "folder, root: images" if data == "folder" else data  # one's own images are somewhere
    study = load_study(study_file(minimal.replace("digits", named)))
    assert study.data.name == data
    assert study.space.at_level(0).names[-1] == "identity"
    assert study.final.momentum == 0.9


@pytest.mark.parametrize(("side", "crop_px", "cutout_px"), [(None, 8, 32), (32, 4, 16), (224, 28, 112), (20, 2, 10)])
def test_standard_augmentation_of_a_folder_is_in_proportion_to_its_side(
    side: int | None, crop_px: int, cutout_px: int, minimal: str, study_file: StudyFile
) -> None:
    asked = "folder, root: images" + (f", side: {side}" if side else "")
    study = load_study(study_file(minimal.replace("digits", asked)))
    assert (study.standard.crop_px, study.standard.flip, study.standard.cutout_px) == (crop_px, True, cutout_px)
    own = load_study(study_file(minimal.replace("digits", asked) + "standard: {crop_px: 1}\n"))
    assert (own.standard.crop_px, own.standard.cutout_px) == (1, cutout_px)


@pytest.mark.parametrize(
    ("parts", "images", "told"),
    [
        ("search_images: 80, validation_images: 20", 100, ""),
        ("train_images: 100, search_images: 80, validation_images: 20", 100, ""),
        (
            "search_images: 81, validation_images: 20",
            100,
            "data.validation_images: 20 and the 81 images that a search trains on together exceed the 100 training "
            "images; lower them, for example --set data.search_images=80 --set data.validation_images=20",
        ),
        (
            "train_images: 1101, search_images: 80, validation_images: 20",
            1100,
            "data.train_images: must be at most 1,100, the training images there are, got 1,101",
        ),
    ],
)
def test_parts_of_a_folder_are_checked_once_it_is_read(
    parts: str, images: int, told: str, minimal: str, study_file: StudyFile
) -> None:
    data = load_study(study_file(minimal.replace("digits", f"folder, root: images, {parts}"))).data
    with pytest.raises(UserError) if told else nullcontext() as caught:
        data.check_fits(images)
    assert told == ("" if caught is None else str(caught.value))


def test_another_network_has_not_the_options_of_the_data_sets(minimal: str, study_file: StudyFile) -> None:
    images = minimal.replace("digits", "imagenet")
    assert load_study(study_file(images)).model.label == "resnet-50"
    assert load_study(study_file(images + "model: {stem: small}\n")).model.label == "resnet-50-small"
    assert load_study(study_file(images + "model: {name: small_cnn}\n")).model.label == "small_cnn-16"


def test_final_takes_from_training_what_has_no_default_of_its_own(minimal: str, study_file: StudyFile) -> None:
    study = load_study(study_file(minimal + "training: {batch_size: 7, momentum: 0.5}\nfinal: {momentum: 0.1}\n"))
    assert (study.training.batch_size, study.final.batch_size) == (7, 7)
    assert (study.training.momentum, study.final.momentum) == (0.5, 0.1)


def test_precision_and_clip_of_the_final_training_are_those_of_the_searches_unless_it_has_its_own(
    minimal: str, study_file: StudyFile
) -> None:
    for data, precision in (("digits", "float32"), ("cifar10", "auto")):
        study = load_study(study_file(minimal.replace("digits", data)))
        assert (study.training.precision, study.final.precision) == (precision, precision)
    training = "training: {precision: bfloat16, gradient_clip: 5}\n"
    final = load_study(study_file(minimal + training)).final
    assert (final.precision, final.gradient_clip) == ("bfloat16", 5)
    final = load_study(study_file(minimal + training + "final: {precision: float32, gradient_clip: null}\n")).final
    assert (final.precision, final.gradient_clip) == ("float32", None)


def test_labels_name_methods(minimal: str, study_file: StudyFile) -> None:
    methods = "{das: , paper: {method: das, preset: paper}, none: {}}"
    study = load_study(study_file(minimal.replace("{none: }", methods)))
    assert [type(method).__name__ for method in study.methods.values()] == ["Das", "Das", "NoAugmentation"]


def das_of(options: str, minimal: str, study_file: StudyFile) -> Das:
    """Return what `das: {options}` loads as, after a round trip through the folder's YAML."""
    study = load_study(study_file(minimal.replace("{none: }", f"{{das: {{{options}}}}}")))
    assert as_written(study) == study
    das = study.methods["das"]
    assert isinstance(das, Das)
    return das


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_up_what_is_not_given(preset: str, minimal: str, study_file: StudyFile) -> None:
    plain, own = das_of(f"preset: {preset}", minimal, study_file), "tau_learning_rate: 0.5, estimator: exact"
    changed = das_of(f"preset: {preset}, {own}", minimal, study_file)
    for key, value in PRESETS[preset].items():
        assert getattr(plain, key) == value
        assert getattr(changed, key) == {"tau_learning_rate": 0.5, "estimator": "exact"}.get(key, value)
    assert changed == plain.model_copy(update={"tau_learning_rate": 0.5, "estimator": "exact"})


def test_presets_say_all_that_has_no_default(minimal: str, study_file: StudyFile) -> None:
    assert das_of("", minimal, study_file) == das_of("preset: default", minimal, study_file)
    needed = {name for name, field in Das.model_fields.items() if field.is_required()} - {"method"}
    assert {frozenset(values) for values in PRESETS.values()} == {frozenset(needed)}


@pytest.mark.parametrize(
    ("options", "wiring"),
    [
        ("", chain(1)),
        ("topology: single", chain(1)),
        ("topology: chain-3", chain(3)),
        ("stages: 3", chain(3)),
        ("stages: 2, topology: chain-2", chain(2)),
        ("preset: paper", dag(2, 4)),
        ("preset: paper, stages: 2", chain(2)),
        ("topology: darts-2, selection: argmax", dag(2, 2)),
        ("topology: {}, selection: argmax", dag(2, 4)),
        ("topology: {inputs: 1, nodes: 3, cells: 2, join: sum}, selection: argmax", dag(1, 3, 2, "sum")),
    ],
)
def test_topologies(options: str, wiring: Any, minimal: str, study_file: StudyFile) -> None:
    assert das_of(options, minimal, study_file).wiring == wiring


@pytest.mark.parametrize("method", METHODS)
def test_every_method_but_published_loads_without_options(method: str, minimal: str, study_file: StudyFile) -> None:
    options = "{policy: aa-svhn}" if method == "published" else ""
    minimal = minimal.replace("none:", f"{method}: {options}")
    if method == "das_video":  # frames are moved, and mixed in residual blocks
        minimal += "model: {name: wide_resnet}\nspace: {ops: das-video}\n"
    study = load_study(study_file(minimal))
    assert study.methods[method].method == method
    assert as_written(study) == study


@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_is_a_published_policy(name: str, minimal: str, study_file: StudyFile) -> None:
    options = f"x: {{method: published, policy: {name}}}"
    assert load_study(study_file(minimal.replace("none: ", options))).methods["x"].policy == name


def rand_augment_of(options: str, minimal: str, study_file: StudyFile) -> RandAugment:
    study = load_study(study_file(minimal.replace("none: ", f"rand_augment: {options}")))
    assert as_written(study) == study
    found = study.methods["rand_augment"]
    assert isinstance(found, RandAugment)
    return found


@pytest.mark.parametrize(
    ("options", "m"),
    [
        ("", range(1, 11)),
        ("{scale: paper}", range(1, 11)),
        ("{scale: torchvision}", range(3, 31, 3)),
        ("{scale: torchvision, m: [0, 25]}", (0, 25)),
        ("{m: [10, 0]}", (10, 0)),
    ],
)
def test_rand_augments_magnitudes_go_to_the_end_of_its_scale(
    options: str, m: Any, minimal: str, study_file: StudyFile
) -> None:
    found = rand_augment_of(options, minimal, study_file)
    assert found.m == tuple(m)
    assert found.n == tuple(range(1, 11))


@pytest.mark.parametrize("method", ["auto_augment", "rand_augment", "random"])
def test_children_are_trained_one_by_one_and_whole_unless_a_study_says_otherwise(
    method: str, minimal: str, study_file: StudyFile
) -> None:
    stated = {"": (1, None), "{children_in_parallel: 2, halving: {}}": (2, Halving(children=8, eta=2))}
    stated["{halving: {children: 9, eta: 3}}"] = (1, Halving(children=9, eta=3))
    for options, (parallel, halving) in stated.items():
        study = load_study(study_file(minimal.replace("none: ", f"{method}: {options}")))
        found = study.methods[method]
        assert isinstance(found, BlackBox)
        assert (found.children_in_parallel, found.halving) == (parallel, halving)
        assert as_written(study) == study


def test_under_halving_a_round_is_proposed_at_once_whatever_the_controllers_batch(
    minimal: str, study_file: StudyFile
) -> None:
    options = "auto_augment: {controller_batch: 3, children_in_parallel: 2, halving: {}}"
    found = load_study(study_file(minimal.replace("none: ", options))).methods["auto_augment"]
    assert isinstance(found, AutoAugment)
    assert found.controller_batch == 3


def test_methods_are_those_a_study_may_name_in_order() -> None:
    searches = ("das", "das_video", "auto_augment", "rand_augment", "random")
    assert (*searches, "uniform", "trivial", "standard", "none", "published") == METHODS


def test_the_readme_has_digits_noise_as_it_is(study_file: StudyFile) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    shown = readme.split("```yaml\n")[1].split("```")[0]
    assert load_study(study_file(shown)) == load_study("digits_noise")


def test_a_study_is_frozen(minimal: str, study_file: StudyFile) -> None:
    study = load_study(study_file(minimal))
    with pytest.raises(ValidationError, match="frozen"):
        study.name = "other"  # type: ignore[misc]


def test_exponents_need_no_point(minimal: str, study_file: StudyFile) -> None:
    study = load_study(study_file(minimal + "training: {learning_rate: 1e-3, weight_decay: 5E-4}\n"))
    assert (study.training.learning_rate, study.training.weight_decay) == (1e-3, 5e-4)


def test_merge_keys_are_not_keys_given_twice(minimal: str, study_file: StudyFile) -> None:
    text = minimal + "training: &recipe {batch_size: 8}\nfinal: {<<: *recipe, batch_size: 9}\n"
    study = load_study(study_file(text))
    assert (study.training.batch_size, study.final.batch_size) == (8, 9)


def as_written(study: StudyConfig) -> StudyConfig:
    """Send a study through the YAML that a study's folder keeps."""
    Path("resolved.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    return load_study("resolved.yaml")


@pytest.mark.parametrize("name", STUDIES)
def test_packaged_studies_survive_the_round_trip(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = load_study(name)
    assert study.name == name
    assert as_written(study) == study
    assert plan_text(study).startswith(f"{name}: ")


@pytest.mark.parametrize(
    "ops",
    [
        "[identity, {rotate: {degrees: 20}}]",
        "[identity, rotate: {degrees: [5, 20]}, posterize: {bits: [8, 2]}, invert: {}]",
        "[{op: rotate, low: 3, high: 7.5}]",
        "ra",
    ],
)
def test_op_lists_survive_the_round_trip(ops: str, minimal: str, study_file: StudyFile) -> None:
    study = load_study(study_file(f"{minimal}space: {{ops: {ops}, noise: {{levels: [0, 3]}}}}\n"))
    assert as_written(study) == study


def test_shifts(minimal: str, study_file: StudyFile) -> None:
    shift = "[rotate: {degrees: 40}, invert: {probability: 0.5}, posterize: {bits: [8, 2], probability: 1}, color]"
    text = minimal.replace("{name: digits}", f"{{name: digits, shift: {shift}}}")
    study = load_study(study_file(text))
    assert [item.step for item in study.data.shift] == [
        Step(op="rotate", low=0, high=40),
        Step(op="invert", probability=0.5),
        Step(op="posterize", low=2, high=8),
        Step(op="color", low=0, high=0.9),
    ]
    assert as_written(study) == study
    assert load_study(study_file(minimal)).data.shift == ()


def test_ranges_of_ops(minimal: str, study_file: StudyFile) -> None:
    text = "[identity, rotate: {degrees: 20}, shear_x: {slope: [0.1, 0.2]}, posterize: {bits: 2}]"
    ops = load_study(study_file(f"{minimal}space: {{ops: {text}}}\n")).space.at_level(0).ops
    assert [(op.low, op.high) for op in ops] == [(0, 0), (0, 20), (0.1, 0.2), (8, 2)]


def test_noise_joins_level_by_level(minimal: str, study_file: StudyFile) -> None:
    text = "{ops: [identity], noise: {ops: [constant, pixel_shuffle], levels: [0, 1, 2]}}"
    space = load_study(study_file(f"{minimal}space: {text}\n")).space
    assert [space.at_level(level).names for level in (0, 1, 2)] == [
        ("identity",),
        ("identity", "constant"),
        ("identity", "constant", "pixel_shuffle"),
    ]
    assert space.at_level(2).uniform_noise_share == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("final.epochs=10", ["final", "epochs"], 10),
        ("training.learning_rate=1e-3", ["training", "learning_rate"], 1e-3),
        ("seeds.search=[4, 5]", ["seeds", "search"], (4, 5)),
        ("space.noise.levels=[0,8]", ["space", "noise", "levels"], (0, 8)),
        ("tracking.uri=http://host:5000", ["tracking", "uri"], "http://host:5000"),
        ("tracking.experiment=a=b", ["tracking", "experiment"], "a=b"),
        ("tracking.uri=", ["tracking", "uri"], None),
    ],
)
def test_overrides(override: str, path: list[str], value: Any, minimal: str, study_file: StudyFile) -> None:
    found: Any = load_study(study_file(minimal), overrides=[override])
    for key in path:
        found = getattr(found, key)
    assert found == value


def test_overrides_reach_into_methods_given_without_options(minimal: str, study_file: StudyFile) -> None:
    overrides = ["methods.das.stages=2", "methods.paper.method=das", "methods.paper.preset=paper"]
    study = load_study(study_file(minimal), overrides=[*overrides, "methods.paper.topology.nodes=3", "methods.none="])
    assert list(study.methods) == ["none", "das", "paper"]
    assert study.methods["das"].topology == "chain-2"
    assert study.methods["paper"].wiring == dag(2, 3)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("x", "--set x: must be KEY.PATH=VALUE, for example --set final.epochs=10"),
        ("=3", "--set =3: must be KEY.PATH=VALUE, for example --set final.epochs=10"),
        ("a..b=3", "--set a..b=3: must be KEY.PATH=VALUE, for example --set final.epochs=10"),
        ("final.epochs=[1", "--set final.epochs=[1: '[1' is not valid YAML"),
        ("name.x=3", "--set name.x=3: name is 'small', which has no keys; set name itself"),
        ("final.epochs=abc", "study.yaml: 1 fault\n  final.epochs: must be a whole number, got 'abc'"),
        ("final.epoch=3", "study.yaml: 1 fault\n  final.epoch: unknown key; did you mean 'epochs'?"),
        ("fianl.epochs=3", "study.yaml: 1 fault\n  fianl: unknown key; did you mean 'final'?"),
    ],
)
def test_refused_overrides(override: str, line: str, minimal: str, refused: Callable[..., str]) -> None:
    assert refused(minimal, override) == line


def test_all_refused_overrides_at_once(minimal: str, refused: Callable[..., str]) -> None:
    assert len(refused(minimal, "x", "final.epochs=1", "a..b=3").splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90 cpu-seconds", {"cpu_hours": 0.025}),
        ("90cpu-seconds", {"cpu_hours": 0.025}),
        (" 1 CPU-Hour ", {"cpu_hours": 1.0}),
        ("30 gpu-minutes", {"gpu_hours": 0.5}),
        ("2.4e1 gpu-hours", {"gpu_hours": 24.0}),
        ("2000 steps", {"steps": 2000}),
        ("1e3 steps", {"steps": 1000}),
        ("1 step", {"steps": 1}),
    ],
)
def test_budgets(text: str, budget: dict[str, float]) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text",
    [
        *("", "24", "gpu-hours", "90 seconds", "90 cpu_seconds", "-1 steps", "0 steps", "nan cpu-hours"),
        *("inf gpu-hours", "1e400 cpu-hours", "1..2 cpu-hours", "24 gpu-hourss", "24 tpu-hours"),
    ],
)
def test_refused_budgets(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_budget(text)
    assert str(caught.value) == (
        f"--budget {text!r}: must be a positive amount and a unit: cpu-seconds, cpu-minutes, cpu-hours, gpu-seconds, "
        'gpu-minutes, gpu-hours or steps; for example --budget "90 cpu-seconds"'
    )


def test_a_budget_in_parts_of_steps() -> None:
    with pytest.raises(UserError, match=r"^--budget '1.5 steps': must be a whole number of steps$"):
        parse_budget("1.5 steps")


def test_a_budget_replaces_the_studys(minimal: str, study_file: StudyFile) -> None:
    budget = load_study(study_file(minimal), budget="50 steps").budget
    assert (budget.cpu_hours, budget.steps) == (None, 50)
    assert (budget.per_search().seconds, budget.per_search().steps) == (None, 50)
    assert load_study(study_file(minimal), budget="90 cpu-seconds").budget.per_search().seconds == pytest.approx(90)


def test_a_gpu_budget_on_a_study_without_gpus(minimal: str, refused: Callable[..., str]) -> None:
    assert refused(minimal, budget="1 gpu-hour").splitlines()[1] == (
        "  budget.gpu_hours: a GPU budget needs resources.gpus above 0, got 0; set resources.gpus, or give cpu_hours"
    )


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("", f"no study is given; give a YAML file, or one that comes with dastune: {', '.join(STUDIES)}"),
        (".", ".: is a folder; give a YAML file"),
        ("old", "old: is a folder; give a YAML file; to go on with the study in it: dastune resume old"),
        (
            "digits_nois",
            "digits_nois: no such file, and no study of that name comes with dastune; did you mean 'digits_noise'?",
        ),
        (
            "sub/digits_noise.yaml",
            "sub/digits_noise.yaml: no such file, and no study of that name comes with dastune; did you mean "
            "'digits_noise'?",
        ),
        ("zzz", f"zzz: no such file, and no study of that name comes with dastune; legal: {', '.join(STUDIES)}"),
    ],
)
def test_no_such_study(source: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old").mkdir()
    Path("old/study.yaml").touch()
    with pytest.raises(UserError) as caught:
        load_study(source)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("devices", "model"), [("alike", None), ("mixed", None), ("A100", "A100"), ("M1-Max", "M1-Max")]
)
def test_which_devices_searches_may_get(devices: str, model: str | None) -> None:
    study = load_study("cifar10_noise", overrides=[f"resources.devices={devices}"])
    assert (study.resources.devices, study.resources.model) == (devices, model)
    assert load_study("cifar10_noise").resources.devices == "alike"


def test_importing_config_imports_nothing_heavy() -> None:
    code = (
        "import sys, dastune.config\n"
        "heavy = 'torch torchvision ray mlflow optuna numpy pandas scipy sklearn matplotlib rich typer'.split()\n"
        "print(*[name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_cifar10_study_is_figure_9() -> None:
    study = load_study("cifar10_noise")
    assert study.budget.gpu_hours == 24
    assert study.space.noise.levels == tuple(range(9))
    assert len(study.seeds.search) == 5
    assert (study.training.batch_size, study.training.learning_rate, study.training.schedule) == (96, 0.1, "cosine")
    assert (study.final.epochs, study.final.batch_size, study.final.weight_decay) == (200, 128, 5e-4)


def commented(name: str, beginning: str) -> list[str]:
    """Return the --set options of the command in a packaged study's comments that begins so."""
    path = next(folder / "search_spaces" for folder in Path(__file__).parents if (folder / "search_spaces").is_dir())
    comment = (path / f"{name}.yaml").read_text().partition(f"  dastune run {name} {beginning}")[2]
    words = shlex.split(re.split(r"\n#? *\n|\nname:", comment)[0].replace("\\\n#", ""))
    return [word for before, word in pairwise(["--set", *words]) if before == "--set"]


def test_the_small_form_in_the_cifar10_studys_comments_loads() -> None:
    overrides = commented("cifar10_noise", '--budget "60 cpu-seconds" --set')
    study = load_study("cifar10_noise", overrides=overrides, budget="60 cpu-seconds")
    assert len(overrides) == 11
    assert study.resources.gpus == 0
    assert study.data.train_images == 4000


def test_the_small_form_of_the_baselines_loads() -> None:
    overrides = commented("cifar10_baselines", "--set")
    study = load_study("cifar10_baselines", overrides=overrides)
    assert len(overrides) == 7
    assert (study.resources.gpus, study.model.model_dump()["depth"], study.final.epochs) == (0, 10, 60)
    assert len(study.seeds.search) == 3


def test_the_ablation_on_cifar10_in_its_comments_loads() -> None:
    overrides = commented("das_ablation", '--budget "10 cpu-seconds" --set')
    study = load_study("das_ablation", overrides=overrides, budget="10 cpu-seconds")
    assert len(overrides) == 6
    assert study.training.schedule == "step"
    assert "standard" in study.methods


def test_baselines_do_not_search() -> None:
    study = load_study("cifar10_baselines")
    assert not any(isinstance(options, Das | BlackBox) for options in study.methods.values())
    assert study.budget.steps == 1
    assert (study.data.train_images, study.final.epochs) == (4000, 500)


def test_a_named_space_brings_its_geometry_and_signs(minimal: str, study_file: StudyFile) -> None:
    named = load_study(study_file(minimal + "space: {ops: aa-paper}\n")).space
    assert named.geometry == TORCHVISION
    space = named.at_level(0)
    assert space.geometry == TORCHVISION
    assert {op.name: op.signed for op in space.ops}["rotate"]
    color = next(op for op in space.ops if op.name == "color")
    assert (color.low, color.high, color.signed) == (-0.9, 0.9, False)
    stated = load_study(study_file(minimal + "space: {ops: aa-paper, geometry: {sampling: once}}\n")).space
    assert stated.geometry == Geometry(sampling="once")
    assert load_study(study_file(minimal + "space: {ops: [rotate]}\n")).space.geometry == Geometry()
