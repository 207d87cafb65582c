"""Found policies on the page: which are shown, how they are drawn, and what becomes of a stranger's files."""

import base64
import os
import zlib
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from dastune.folder import StudyFolder, write_atomic
from dastune.ops.table import OPS
from dastune.orchestration.png import png
from dastune.policy.policy import Choice, Clip, Edge, Genotype, Stages, Step, SubPolicies, SubPolicy, policy_text
from dastune.report.figures.cells import MOST_STATES, TOP_OPS, TOP_SUB_POLICIES, policy_figure
from dastune.report.figures.ops import MOST_DOTS, ops_figure
from dastune.report.figures.style import PAPER
from dastune.report.found import Applied, findings
from dastune.report.pictures import MOST_BYTES
from dastune.report.plan import Plan
from dastune.report.results import read_results
from dastune.report.sections.ops import ops_tables
from dastune.report.sections.policies import MOST_PICTURE_CHARACTERS, MOST_SHOWN, median_rows, policies

PICTURE = png(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))


def step(op, probability=1.0):
    low, high = sorted((OPS[op].low, OPS[op].high))
    return Step(op=op, low=low, high=high, probability=probability)


def page_of(folder, output):
    return policies(read_results(folder, output))


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def edges(figure):
    """Return (dashed, width, alpha) of each edge of a graph; boxes are drawn by other patches."""
    patches = [patch for axes in figure.axes for patch in axes.patches if type(patch).__name__ == "PathPatch"]
    return [
        (patch.get_linestyle() not in ("-", "solid"), patch.get_linewidth(), patch.get_alpha()) for patch in patches
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_median_is_the_one_that_as_many_are_above_as_below(search_row, count):
    random = np.random.default_rng(count)
    rows = [search_row("das", 4, seed) for seed in random.permutation(count).tolist()]
    accuracies = dict(enumerate(random.random(count).tolist()))
    [row] = median_rows(rows, {("das", 4): accuracies})
    own = accuracies.pop(row.search_seed)
    above = sum(value > own for value in accuracies.values())
    assert above - (len(accuracies) - above) in (0, 1)


def test_without_test_accuracies_it_is_the_first_seed(search_row):
    rows = [search_row(method, 4, seed) for method in ("b", "a") for seed in (2, 1)]
    assert [row.id for row in median_rows(rows, {})] == ["b-n4-s1", "a-n4-s1"]
    assert [row.id for row in median_rows(rows, {("a", 4): {2: 0.5}})] == ["b-n4-s1", "a-n4-s2"]


def test_a_cell_has_an_arc_for_each_edge():
    """Node 1 is read by nobody: its edges are pale."""
    cell = Genotype(
        inputs=2,
        nodes=(
            (Edge(source=0, step=step("rotate")), Edge(source=1, step=step("constant"))),
            (Edge(source=2, step=step("invert", 0.25)),),
            (Edge(source=2, step=step("cutout")),),
        ),
    )
    drawn = policy_figure(cell)
    assert sorted(texts(drawn)) == sorted(
        ["image", "image", "0", "1", "output", "rotate", "constant", "invert p 0.25", "cutout"]
    )
    found = edges(drawn)
    assert [dashed for dashed, _, _ in found] == [False, True, False, False]
    assert [alpha < 0.5 for _, _, alpha in found] == [False, False, True, False]


def fixed(source, op, argument=0.0):
    return Edge(source=source, step=Step(op=op, low=argument, high=argument, signed=False))


CLIP = Clip(
    inputs=2,
    nodes=(
        (fixed(0, "translate_x", 0.083), fixed(1, "zoom", -0.12)),
        (fixed(0, "rotate", -9.4), fixed(2, "translate_y", -0.05)),
        (fixed(2, "shear_x", 0.06), fixed(3, "identity")),
    ),
)


def test_the_cell_of_a_clip_says_what_each_edge_does_from_one_frame_to_the_next():
    drawn = policy_figure(CLIP)
    assert sorted(texts(drawn)) == sorted(
        [
            *("image", "image", "0", "1", "output", "identity", "shear_x 0.06", "translate_x 8.3 %"),
            *("translate_y -5 %", "zoom by 0.88", "rotate -9.4°"),
        ]
    )
    assert [dashed for dashed, _, _ in edges(drawn)] == [False] * 6


def test_no_text_of_a_clips_cell_runs_into_another():
    """The cell of DARTS: two inputs, four nodes of two edges; the longest texts there are."""
    nodes = tuple((fixed(node, "translate_x", -0.12), fixed(node + 1, "translate_y", -0.12)) for node in range(4))
    drawn = policy_figure(Clip(inputs=2, nodes=nodes))
    drawn.draw_without_rendering()
    boxes = [text.get_window_extent() for text in drawn.axes[0].texts]
    assert not any(one.overlaps(two) for index, one in enumerate(boxes) for two in boxes[:index])
    assert all(drawn.bbox.x0 < box.x0 and box.x1 < drawn.bbox.x1 for box in boxes)


def test_edges_of_a_stage_are_as_thick_as_their_ops_are_likely():
    weights = {
        "rotate": 8.0,
        "constant": 4.0,
        "invert": 2.0,
        "equalize": 1.0,
        "color": 0.9,
        "cutout": 0.6,
        "identity": 0.5,
    }
    stage = tuple(Choice(weight=weight / 17, step=step(op)) for op, weight in [*weights.items()][::-1])
    rest = (Choice(weight=0.0, step=step("shear_x")),)
    drawn = policy_figure(Stages(stages=(stage + rest, stage + rest)))
    shown = [text for text in texts(drawn) if "%" in text]
    total = sum(weights.values())
    expected = [f"{op} {100 * weight / total:.0f} %" for op, weight in [*weights.items()][:3]]
    assert shown[:3] == expected
    assert len(shown) == TOP_OPS + 1
    assert shown[-1] == f"1 more {100 * 0.5 / total:.1f} %"
    assert "2 such stages in a row" in texts(drawn)
    widths = [width for _, width, _ in edges(drawn)]
    assert widths[0] / widths[1] == pytest.approx(2)
    assert [dashed for dashed, _, _ in edges(drawn)] == [False, True] + [False] * 5


def test_ops_that_are_all_as_likely_are_one_edge_and_skipped_ones_another():
    stage = tuple(Choice(weight=1, step=step(op, 0.5)) for op in [*OPS][:12])
    assert [text for text in texts(policy_figure(Stages(stages=(stage,)))) if "%" in text] == [
        "each of 12 ops 4.2 %",
        "nothing 50 %",
    ]


def test_the_heaviest_sub_policies_are_drawn():
    subs = tuple(SubPolicy(steps=(step("rotate"), step("invert", index / 10)), weight=index) for index in range(10))
    found = texts(policy_figure(SubPolicies(sub_policies=subs)))
    assert [text for text in found if "invert" in text] == [f"invert p {index / 10:.1g}" for index in range(9, 3, -1)]
    assert [text for text in found if "%" in text] == [
        f"{100 * index / 45:.{0 if index / 45 >= 0.1 else 1}f} %" for index in range(9, 9 - TOP_SUB_POLICIES, -1)
    ]


@pytest.mark.parametrize(
    "policy",
    [
        Stages(),
        SubPolicies(sub_policies=(SubPolicy(steps=()),)),
        Genotype(nodes=tuple((Edge(source=node, step=step("rotate")),) for node in range(MOST_STATES))),
        Genotype(nodes=((Edge(source=0, step=step("rotate")),) * 21,)),
    ],
)
def test_what_no_graph_can_show(policy):
    assert policy_figure(policy) is None


def test_long_policies_are_cut_short():
    stages = tuple((Choice(weight=1, step=step(op)),) for op in [*OPS][:9])
    assert "and 6 more" in texts(policy_figure(Stages(stages=stages)))
    long = SubPolicies(sub_policies=(SubPolicy(steps=(step("rotate"),) * 9), SubPolicy(steps=())))
    assert texts(policy_figure(long)).count("rotate") == 4
    assert "..." in texts(policy_figure(long))


@pytest.fixture
def two_found(search_row):
    """Return a function from a number of seeds to what two methods found, of three ops."""

    def make(seeds):
        rows = [search_row(method, 1, seed) for method in ("a", "b") for seed in range(seeds)]
        shares = {"a": {"rotate": 0.75, "constant": 0.25}, "b": {"invert": 1.0}}
        applied = {row.id: Applied(1.0, shares[row.method]) for row in rows}
        return findings(rows, applied, Plan({}, (), (), {1: ("rotate", "invert", "constant", "no such op")}))

    return make


def test_bars_are_mean_shares_and_noise_is_hollow(two_found):
    first, second = ops_figure(two_found(3), {"a": 0, "b": 3}, ("rotate", "invert", "constant")).axes
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == ["invert", "rotate", "constant"]  # by mean share, noise ops last
    assert [bar.get_width() for bar in first.patches] == [0, 75, 25]
    assert [bar.get_width() for bar in second.patches] == [100, 0, 0]
    hollow = [to_hex(bar.get_facecolor()) == PAPER for bar in first.patches]
    assert hollow == [False, False, True]
    dots = [line for line in first.lines if line.get_marker() == "o"]
    assert sorted(dots[0].get_xdata()) == [0] * 3 + [25] * 3 + [75] * 3
    assert first.get_xlim() == second.get_xlim()


def test_dots_of_many_seeds_are_a_range(two_found):
    axes = ops_figure(two_found(MOST_DOTS + 1), {"a": 0, "b": 1}, ()).axes[0]
    assert not [line for line in axes.lines if line.get_marker() == "o"]
    [ranges] = axes.collections
    assert [segment[:, 0].tolist() for segment in ranges.get_segments()] == [[0, 0], [75, 75], [25, 25]]


def test_a_study_is_shown(make_study, tmp_path):
    folder = make_study()
    write_atomic(folder.picture("das-n4-s1"), PICTURE)
    page = page_of(folder, tmp_path)
    # accuracies grow with the seed, so that the middle one has the median; `none` does not search
    assert [f"<code>{method}-n4-s1</code>: test" in page for method in ("das", "rand_augment", "random", "none")] == [
        *(True, True, True, False)
    ]
    assert page.count("<svg") == 4
    assert page.count("The policy as text") == 3
    assert f'src="data:image/png;base64,{base64.b64encode(PICTURE).decode()}" alt="Training images' in page
    assert "</img>" not in page
    assert "All searches at 0 noise ops: 12" in page
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {
        f"{name}.{form}" for name in ("policy_1", "policy_2", "policy_3", "ops") for form in ("png", "svg", "pdf")
    }
    before = {name: (tmp_path / name).read_bytes() for name in names}
    assert page_of(folder, tmp_path) == page
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


@pytest.mark.parametrize(
    ("order", "caption"),
    [
        ("time", "in time; the middle one, on black, is the image"),
        ("shuffled", "in the order drawn for it"),
        ("one", ""),
    ],
)
def test_a_film_strip_is_told_to_be_one(make_study, tmp_path, order, caption):
    folder = make_study(methods=("das",), levels=(4,), seeds=(0,))
    write_atomic(folder.picture("das-n4-s0"), PICTURE)
    write_atomic(folder.policy("das-n4-s0"), policy_text(CLIP.model_copy(update={"order": order}), {}))
    page = page_of(folder, tmp_path)
    assert caption in page
    assert ("Film strips" in page) == (order != "one")
    assert ("Top: training images" in page) == (order == "one")
    assert "translate_x 0.083 of the width a step" in page


def bomb():
    """Return a small PNG of a huge picture."""
    chunk = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return PICTURE[:8] + b"\x00\x00\x00\r" + chunk + zlib.crc32(chunk).to_bytes(4, "big")


@pytest.mark.parametrize("content", [b"", b"<svg onload=x>", PICTURE[:12], PICTURE + bytes(MOST_BYTES), bomb()])
def test_what_is_no_picture_is_not_shown(make_study, tmp_path, content):
    folder = make_study(methods=("das",), levels=(4,), seeds=(0,))
    write_atomic(folder.picture("das-n4-s0"), content)
    write_atomic(folder.policy("das-n4-s0"), policy_text(Stages(), {}))
    page = page_of(folder, tmp_path)
    assert "its picture is no PNG of at most 300 kB" in page
    assert "<img" not in page


def test_pictures_from_elsewhere_are_not_read(make_study, tmp_path, search_row):
    folder = make_study(methods=("das",), levels=(4,), seeds=(0,))
    write_atomic(tmp_path / "secret.png", PICTURE)
    folder.pictures.mkdir()
    folder.picture("das-n4-s0").symlink_to(tmp_path / "secret.png")
    os.mkfifo(folder.pictures / "pipe-n4-s0.png")
    for name in ("../../secret", "pipe-n4-s0"):
        row = replace(search_row(name), id=name, noise_level=4, policy="policies/das-n4-s0.json")
        folder.add_search(row)
    write_atomic(folder.policy("das-n4-s0"), policy_text(Stages(), {}))
    assert "<img" not in page_of(folder, tmp_path / "out")


def test_pictures_that_would_make_the_page_too_large_are_named(make_study, tmp_path):
    methods = tuple("abcdef")
    folder = make_study(methods=methods, levels=(4,), seeds=(0,))
    large = PICTURE + bytes(MOST_BYTES - len(PICTURE))
    for method in methods:
        write_atomic(folder.picture(f"{method}-n4-s0"), large)
        write_atomic(folder.policy(f"{method}-n4-s0"), policy_text(Stages(), {}))  # no graph to draw
    page = page_of(folder, tmp_path)
    url = f"data:image/png;base64,{base64.b64encode(large).decode()}"
    assert page.count("<img") == MOST_PICTURE_CHARACTERS // len(url) < len(methods)
    assert "in the study&#x27;s folder: pictures/f-n4-s0.png" in page


@pytest.mark.parametrize("damage", ["missing", "damaged", "outside"])
def test_a_policy_that_cannot_be_read_is_told_in_its_place(make_study, tmp_path, damage):
    folder = make_study(methods=("das", "random"), levels=(4,))
    path = folder.policy("das-n4-s1")
    path.unlink()
    if damage == "damaged":
        path.write_text('{"format": "dastune-policy"')
    if damage == "outside":
        write_atomic(tmp_path / "elsewhere.json", policy_text(Stages(), {}))
        path.symlink_to(tmp_path / "elsewhere.json")
    page = page_of(folder, tmp_path / "out")
    told = "is outside this folder and was not read" if damage == "outside" else "file is missing or cannot be read"
    assert f"Nothing to show: its policy {told}." in page
    assert "<code>random-n4-s1</code>: test" in page


def test_many_methods_are_bounded_and_said_so(make_study, tmp_path):
    methods = tuple(f"method_{index}" for index in range(30))
    folder = make_study(methods=methods, levels=(4,), seeds=(0,))
    for method in methods[1:]:
        write_atomic(folder.policy(f"{method}-n4-s0"), policy_text(Stages(), {}))  # no graph to draw
    page = page_of(folder, tmp_path)
    assert page.count("<article>") == MOST_SHOWN
    assert f"Not drawn, {30 - MOST_SHOWN} more: method_{MOST_SHOWN}, " in page
    assert page.count("method_29") > 1  # in the list as well


def test_names_are_text(make_study, tmp_path, search_row):
    folder = make_study(methods=("das",), levels=(4,), seeds=(0,))
    odd = '<img src="x" onerror=y> $x_1^2$ \x1b[31m \U0001f600'
    folder.add_search(replace(search_row(odd), id=odd, noise_level=4, policy="policies/das-n4-s0.json"))
    page = page_of(folder, tmp_path)
    assert "<img" not in page
    assert "&lt;img src=&quot;x&quot; onerror=y&gt;" in page


@pytest.mark.parametrize("without", ["study.yaml", "finals.jsonl", "policies"])
def test_partial_folders(make_study, tmp_path, without):
    folder = make_study(methods=("das",), levels=(0,), seeds=(0,))
    (folder.root / without).rename(tmp_path / "away")
    page = page_of(folder, tmp_path / "out")
    assert ("no test accuracy yet" in page) == (without == "finals.jsonl")
    assert ("Nothing to show" in page) == (without == "policies")


def test_nothing_at_all(tmp_path):
    results = read_results(StudyFolder(tmp_path / "nothing"), tmp_path)
    assert "No search is in yet." in policies(results)
    assert ops_tables(results) == []


def test_controls_alone_have_a_table_and_no_graph(make_study, tmp_path):
    page = page_of(make_study(methods=("none",)), tmp_path)
    assert "<article>" not in page
    assert "<svg" not in page
    assert "The most frequent ops as a table" in page


def test_the_table_of_ops(make_study, tmp_path):
    [table] = ops_tables(read_results(make_study(methods=("das",)), tmp_path))
    assert table.rows == [["das", "rotate\n75.0 ± 0.0", "pixel_shuffle (noise)\n25.0 ± 0.0", "-", "-", "-"]]
    assert table.frame.to_dict("records")[1] == {
        **{"method": "das", "noise_level": 0, "op": "pixel_shuffle", "noise": True},
        **{"n": 3, "share_mean": 0.25, "share_sd": 0.0},
    }
