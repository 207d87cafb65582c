"""Which states edges read, which rows they share, and how many discrete cells there are."""

from itertools import combinations, product

import pytest

from dastune.policy.topology import Link, Topology, chain, dag, named


def sources(topology: Topology) -> list[list[int]]:
    return [[link.source for link in links] for links in topology.nodes]


def rows(topology: Topology) -> list[list[int]]:
    return [[link.row for link in links] for links in topology.nodes]


@pytest.mark.parametrize("length", [1, 2, 6])
def test_a_chain_is_one_edge_after_the_other(length: int) -> None:
    topology = chain(length)
    assert topology.inputs == 1
    assert sources(topology) == rows(topology) == [[stage] for stage in range(length)]
    assert (topology.rows, topology.cell_nodes, topology.kept) == (length, length, None)
    assert topology.is_chain


@pytest.mark.parametrize(("inputs", "nodes", "edges"), [(2, 4, 14), (1, 1, 1), (1, 2, 3), (1, 4, 10), (2, 1, 2)])
def test_every_node_of_a_cell_reads_all_earlier_states(inputs: int, nodes: int, edges: int) -> None:
    topology = dag(inputs, nodes)
    assert sources(topology) == [list(range(inputs + node)) for node in range(nodes)]
    assert [link.row for link in topology.links] == list(range(edges))
    assert (topology.rows, topology.cell_nodes, topology.kept, topology.join) == (edges, nodes, 2, "mean")
    assert [list(topology.incoming_rows(node)) for node in range(nodes)] == rows(topology)
    assert topology.is_chain == (edges == 1)


def test_a_cell_of_two_inputs_reads_the_outputs_of_the_two_cells_before_it() -> None:
    topology = dag(2, 2, cells=4, join="sum")
    # States 0 and 1 are the image; cell c has states 2 + 2 c and 3 + 2 c, of which the second is its output.
    assert sources(topology) == [[0, 1], [0, 1, 2], [1, 3], [1, 3, 4], [3, 5], [3, 5, 6], [5, 7], [5, 7, 8]]
    assert rows(topology) == [[0, 1], [2, 3, 4]] * 4
    assert (topology.rows, topology.cell_nodes, topology.join) == (5, 2, "sum")
    assert topology.links[5:7] == (Link(1, 0), Link(3, 1))


def test_a_cell_of_one_input_reads_the_output_of_the_cell_before_it() -> None:
    topology = dag(1, 2, cells=3)
    assert sources(topology) == [[0], [0, 1], [2], [2, 3], [4], [4, 5]]
    assert rows(topology) == [[0], [1, 2]] * 3
    assert not topology.is_chain
    assert not dag(1, 1, cells=2).is_chain  # its stages share a row


def test_names() -> None:
    assert named("single") == chain(1)
    assert [named(f"chain-{k}") for k in range(1, 7)] == [chain(k) for k in range(1, 7)]
    assert [named(f"darts-{n}") for n in range(1, 7)] == [dag(2, n) for n in range(1, 7)]


@pytest.mark.parametrize("name", ["", "chain", "chain-0", "chain-7", "chain-10", "darts-", "darts-4 ", "Chain-1"])
def test_what_is_no_name_is_told_the_names(name: str) -> None:
    with pytest.raises(ValueError, match="is no topology; they are single, chain-1 to chain-6 and darts-1 to darts-6"):
        named(name)


@pytest.mark.parametrize("topology", [chain(1), chain(3), dag(1, 1), dag(1, 3), dag(2, 2), dag(2, 2, cells=3)])
def test_the_size_is_that_of_all_cells_that_may_be_found(topology: Topology) -> None:
    found = [()]
    for links in topology.nodes[: topology.cell_nodes]:
        kept = combinations(links, min(len(links), topology.kept or len(links)))
        choices = [tuple(zip(some, ops, strict=True)) for some in kept for ops in product("abc", repeat=len(some))]
        found = [(*cell, choice) for cell in found for choice in choices]
    assert len(set(found)) == len(found)
    assert 10 ** topology.size_log10(3) == pytest.approx(len(found))


def test_the_size_of_darts_cell_with_das_ops() -> None:
    assert 10 ** named("darts-4").size_log10(15) == pytest.approx(180 * 15**8)
