"""The controller's probabilities against a plain loop and by enumeration, PPO's gradient against the rule by hand."""

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from dastune.search.controller import PPO, Controller


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def opinionated(sizes: tuple[int, ...], rounds: int) -> Controller:
    """A small controller with weights large enough for probabilities far from uniform."""
    controller = Controller(sizes, rounds, seeded(), hidden=8)
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.mul_(15)
    return controller


def every_sequence(sizes: tuple[int, ...], rounds: int) -> Tensor:
    return torch.tensor(list(product(*(range(size) for size in sizes * rounds))))


def loop_log_probability(controller: Controller, decisions: list[int]) -> tuple[list[float], list[float]]:
    """Log probability and entropy of each decision, by the LSTM's equations and one vector at a time."""
    weights = controller.state_dict()
    hidden = cell = torch.zeros(controller.lstm.hidden_size)
    token, log_probabilities, entropies = 0, [], []
    for position, decision in enumerate(decisions):
        kind = position % len(controller.sizes)
        gates = weights["lstm.weight_ih_l0"] @ weights["embedding.weight"][token] + weights["lstm.bias_ih_l0"]
        gates = gates + weights["lstm.weight_hh_l0"] @ hidden + weights["lstm.bias_hh_l0"]
        i, f, g, o = gates.chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        logits = weights[f"heads.{kind}.weight"] @ hidden + weights[f"heads.{kind}.bias"]
        probability = logits.exp() / logits.exp().sum()
        log_probabilities.append(math.log(float(probability[decision])))
        entropies.append(-sum(p * math.log(p) for p in probability.tolist()))
        token = 1 + sum(controller.sizes[:kind]) + decision
    return log_probabilities, entropies


def test_a_policy_is_thirty_decisions_within_their_sizes() -> None:
    decisions_BT = Controller((16, 11, 10), 10, seeded()).sample(64, seeded(1))
    assert decisions_BT.shape == (64, 30)
    assert decisions_BT.dtype == torch.int64
    for kind, size in enumerate((16, 11, 10)):
        assert sorted(set(decisions_BT[:, kind::3].flatten().tolist())) == list(range(size))


def test_initial_weights_are_uniform_within_a_tenth_and_only_from_the_generator() -> None:
    before = torch.get_rng_state()
    controller = Controller((16, 11, 10), 10, seeded())
    assert torch.equal(torch.get_rng_state(), before)
    assert controller.lstm.hidden_size == 100
    for parameter in controller.parameters():
        assert parameter.abs().max() <= 0.1
    weights = torch.cat([parameter.detach().flatten() for parameter in controller.parameters()])
    assert weights.std() == pytest.approx(0.2 / math.sqrt(12), rel=0.02)
    again = Controller((16, 11, 10), 10, seeded())
    assert all(torch.equal(a, b) for a, b in zip(controller.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("make", [lambda: Controller((16, 11, 10), 10, seeded()), lambda: opinionated((5, 4, 3), 4)])
def test_log_probabilities_match_a_plain_loop(make: Callable[[], Controller]) -> None:
    controller = make()
    decisions_BT = controller.sample(3, seeded(1))
    log_probability_BT, entropy_BT = controller.log_probabilities(decisions_BT)
    expected = [loop_log_probability(controller, decisions) for decisions in decisions_BT.tolist()]
    torch.testing.assert_close(log_probability_BT, torch.tensor([pair[0] for pair in expected]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy_BT, torch.tensor([pair[1] for pair in expected]), rtol=1e-4, atol=1e-5)


def test_thirty_log_probabilities_sum_to_that_of_the_sequence() -> None:
    controller = Controller((16, 11, 10), 10, seeded())
    (decisions_T,) = controller.sample(1, seeded(1))
    log_probabilities, _ = loop_log_probability(controller, decisions_T.tolist())
    assert len(log_probabilities) == 30
    probability = math.prod(map(math.exp, log_probabilities))
    log_probability_BT, _ = controller.log_probabilities(decisions_T[None])
    assert float(log_probability_BT.detach().double().sum().exp()) == pytest.approx(probability, rel=1e-4)


def test_probabilities_of_all_sequences_sum_to_one() -> None:
    sequences_BT = every_sequence((2, 3, 2), 2)
    probability_B = opinionated((2, 3, 2), 2).log_probabilities(sequences_BT)[0].detach().sum(1).exp()
    assert len(probability_B) == 144
    assert float(probability_B.sum()) == pytest.approx(1, abs=1e-5)
    assert probability_B.max() > 5 / 144  # no test of a uniform distribution only


def test_samples_are_as_frequent_as_their_probabilities_say() -> None:
    controller, count = opinionated((2, 3), 2), 20_000
    sequences_BT = every_sequence((2, 3), 2)
    probability_B = controller.log_probabilities(sequences_BT)[0].detach().sum(1).exp()
    samples_BT = controller.sample(count, seeded(1))
    share_B = (samples_BT[:, None] == sequences_BT).all(2).float().mean(0)
    four_sigma_B = 4 * (probability_B * (1 - probability_B) / count).sqrt()
    assert ((share_B - probability_B).abs() <= four_sigma_B + 1e-4).all()


def test_ppo_gradient_is_the_rule_by_hand() -> None:
    controller = opinionated((2, 3), 1)
    ppo = PPO(controller, entropy_weight=0.01)
    decisions_BT = torch.tensor([[0, 2], [1, 0], [1, 1]])
    advantage = [0.5, -0.3, 0.2]
    log_probability_BT, entropy_BT = controller.log_probabilities(decisions_BT)
    ratio = [[1.3, 1.1], [0.7, 1.4], [0.5, 1.0]]
    old_BT = log_probability_BT.detach() - torch.tensor(ratio).log()
    # Clipped (no gradient): a gain above 1.2 with praise, a loss below 0.8 with blame; not the other way round.
    passes = [[False, True], [False, True], [True, True]]
    value = [[1.2 * 0.5, 1.1 * 0.5], [0.8 * -0.3, 1.4 * -0.3], [0.5 * 0.2, 1.0 * 0.2]]

    loss = ppo.loss(decisions_BT, old_BT, torch.tensor(advantage))
    expected_loss = -sum(map(sum, value)) / 6 - 0.01 * entropy_BT.mean().item()
    assert loss.item() == pytest.approx(expected_loss, rel=1e-5)

    weights = list(controller.parameters())
    expected = [-0.01 * g for g in torch.autograd.grad(entropy_BT.mean(), weights, retain_graph=True)]
    for b, t in product(range(3), range(2)):
        gradient = torch.autograd.grad(log_probability_BT[b, t], weights, retain_graph=True, materialize_grads=True)
        if passes[b][t]:  # d(ratio) = ratio * d(log probability)
            expected = [e - advantage[b] * ratio[b][t] * g / 6 for e, g in zip(expected, gradient, strict=True)]
    torch.testing.assert_close(list(torch.autograd.grad(loss, weights)), expected, rtol=1e-4, atol=1e-7)


def test_update_makes_the_better_sequence_likelier_and_the_worse_less() -> None:
    controller = Controller((4, 3, 2), 2, seeded())
    decisions_BT = torch.tensor([[0, 0, 0, 1, 1, 1], [3, 2, 1, 2, 0, 0]])
    before_BT = controller.log_probabilities(decisions_BT)[0].detach()
    PPO(controller).update(decisions_BT, before_BT, torch.tensor([0.9, 0.8]))
    change_B = (controller.log_probabilities(decisions_BT)[0] - before_BT).sum(1)
    assert change_B[0] > 0 > change_B[1]


def test_baseline_starts_at_the_first_rewards_and_follows_at_a_twentieth() -> None:
    ppo = PPO(Controller((2, 3), 1, seeded()))
    decisions_BT, old_BT = torch.tensor([[0, 1], [1, 2]]), torch.full((2, 2), -1.0)
    ppo.update(decisions_BT, old_BT, torch.tensor([0.4, 0.6]))
    after_first = 0.95 * (0.95 * 0.5 + 0.05 * 0.4) + 0.05 * 0.6
    assert ppo.baseline == pytest.approx(after_first, abs=1e-6)
    ppo.update(decisions_BT[:1], old_BT[:1], torch.tensor([1.0]))
    assert ppo.baseline == pytest.approx(0.95 * after_first + 0.05, abs=1e-6)


def test_state_is_a_copy_in_both_directions() -> None:
    decisions_BT, old_BT = torch.tensor([[0, 1], [1, 2]]), torch.full((2, 2), -1.0)

    def update(ppo: PPO) -> Tensor:
        ppo.update(decisions_BT, old_BT, torch.tensor([0.4, 0.6]))
        return torch.cat([parameter.detach().flatten() for parameter in ppo.controller.parameters()])

    first = PPO(Controller((2, 3), 1, seeded()))
    update(first)
    state = first.state_dict()
    expected = update(first)
    for seed in (1, 2):
        resumed = PPO(Controller((2, 3), 1, seeded(seed)))
        resumed.load_state_dict(state)
        assert torch.equal(update(resumed), expected)
