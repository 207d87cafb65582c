"""The AutoAugment controller: a recurrent net that writes policies as sequences of decisions, and PPO that trains it.

Shapes: B sequences, T decisions in each, H hidden units. The kinds of decision (op, probability, magnitude) take turns
along T; decision t is of kind ``t % kinds`` and lies in 0 .. sizes[kind] - 1.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

INITIAL_BOUND = 0.1


class Controller(nn.Module):
    """One-layer LSTM that reads its previous decision and has one softmax head per kind of decision.

    Source: Cubuk et al., "AutoAugment", CVPR 2019, section 3 and its appendix: 100 hidden units, 30 softmax decisions
    (5 sub-policies x 2 ops x 3 kinds), all weights initialised from U(-0.1, 0.1).
    """

    def __init__(self, sizes: Sequence[int], rounds: int, generator: torch.Generator, *, hidden: int = 100) -> None:
        """Make a controller of ``T = rounds * len(sizes)`` decisions.

        Args:
            sizes: choices of each kind of decision, at least 1 each.
            rounds: how often all kinds take their turn; 10 in AutoAugment.
            generator: draws the initial weights.
            hidden: units of the LSTM and length of a decision's embedding.
        """
        super().__init__()
        self.sizes = tuple(sizes)
        self.rounds = rounds
        # Token 0 says "nothing decided yet"; each kind has its own tokens after it.
        self._first_token = tuple(accumulate(self.sizes, initial=1))[:-1]
        with torch.device("meta"):  # so that torch's own initialisation draws nothing from the global generator
            self.embedding = nn.Embedding(1 + sum(self.sizes), hidden)
            self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
            self.heads = nn.ModuleList(nn.Linear(hidden, size) for size in self.sizes)
        self.to_empty(device="cpu")
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INITIAL_BOUND, INITIAL_BOUND, generator=generator)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` sequences, decisions_BT (int64), drawn decision by decision from the softmaxes."""
        hidden_BH = cell_BH = torch.zeros(count, self.lstm.hidden_size)
        token_B, decisions = torch.zeros(count, dtype=torch.int64), []
        for _ in range(self.rounds):
            for head, first_token in zip(self.heads, self._first_token, strict=True):
                state = hidden_BH, cell_BH
                # One step of the LSTM; calling `self.lstm` for each costs three times as much.
                hidden_BH, cell_BH = torch.lstm_cell(self.embedding(token_B), state, *self.lstm.all_weights[0])
                decisions.append(torch.multinomial(head(hidden_BH).softmax(-1), 1, generator=generator)[:, 0])
                token_B = first_token + decisions[-1]
        return torch.stack(decisions, dim=1)

    def log_probabilities(self, decisions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return log_probability_BT of each decision given those before it, and entropy_BT of its softmax, in nats.

        The sum of log_probability_BT over T is the log probability of the sequence.
        """
        log_probabilities, entropies = [], []
        hidden_BTH = self._hidden(decisions_BT)
        kinds = len(self.sizes)
        for kind, head in enumerate(self.heads):
            log_softmax = head(hidden_BTH[:, kind::kinds]).log_softmax(-1)
            log_probabilities.append(log_softmax.gather(2, decisions_BT[:, kind::kinds, None])[..., 0])
            entropies.append(-(log_softmax.exp() * log_softmax).sum(-1))
        return torch.stack(log_probabilities, dim=2).flatten(1), torch.stack(entropies, dim=2).flatten(1)

    def _hidden(self, decisions_BT: Tensor) -> Tensor:
        """Return hidden_BTH from which decision t is made, with the decisions before it given (teacher forcing)."""
        token_BT = decisions_BT + torch.tensor(self._first_token * self.rounds)
        previous_BT = nn.functional.pad(token_BT[:, :-1], (1, 0))
        hidden_BTH: Tensor = self.lstm(self.embedding(previous_BT))[0]
        return hidden_BTH


class PPO:
    """Proximal policy optimisation of a controller, reward by reward against a moving baseline.

    Source: Schulman et al., "Proximal Policy Optimization Algorithms", 2017, eq. 7, with each decision an action and
    the sequence's reward the return of all its decisions; lr 3.5e-4, entropy weight 1e-5 and the baseline (moving
    average of earlier rewards, decay 0.95) as in AutoAugment's section 3. AutoAugment names neither `clip` nor
    `epochs`; they are Schulman's for continuous control, 0.2 and 10. On a made-up reward with a child's noise, one
    epoch learns nothing in 200 children, five learn more slowly, and twenty end no better.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        learning_rate: float = 3.5e-4,
        clip: float = 0.2,
        entropy_weight: float = 1e-5,
        baseline_decay: float = 0.95,
        epochs: int = 10,
    ) -> None:
        self.controller = controller
        self.clip = clip
        self.entropy_weight = entropy_weight
        self.baseline_decay = baseline_decay
        self.epochs = epochs
        self.baseline: float | None = None
        self._adam = torch.optim.Adam(controller.parameters(), lr=learning_rate, fused=True)

    def update(self, decisions_BT: Tensor, old_log_probability_BT: Tensor, reward_B: Tensor) -> None:
        """Learn from a batch of sequences and their rewards.

        Args:
            decisions_BT: the sequences (int64).
            old_log_probability_BT: log probabilities of their decisions when they were sampled.
            reward_B: validation accuracies in [0, 1], in the order they came.
        """
        if self.baseline is None:  # a baseline of 0 would praise whatever comes first
            self.baseline = float(reward_B.mean())
        advantage_B = reward_B - self.baseline
        for _ in range(self.epochs):
            self._adam.zero_grad()
            self.loss(decisions_BT, old_log_probability_BT, advantage_B).backward()  # type: ignore[no-untyped-call]
            self._adam.step()
        for reward in reward_B.tolist():
            self.baseline = self.baseline_decay * self.baseline + (1 - self.baseline_decay) * reward

    def loss(self, decisions_BT: Tensor, old_log_probability_BT: Tensor, advantage_B: Tensor) -> Tensor:
        """Return what Adam minimises: minus the mean over all decisions of clipped surrogate and weighted entropy."""
        log_probability_BT, entropy_BT = self.controller.log_probabilities(decisions_BT)
        ratio_BT = (log_probability_BT - old_log_probability_BT).exp()
        clipped_BT = ratio_BT.clamp(1 - self.clip, 1 + self.clip)
        surrogate_BT = torch.minimum(ratio_BT * advantage_B[:, None], clipped_BT * advantage_B[:, None])
        return -(surrogate_BT + self.entropy_weight * entropy_BT).mean()

    def state_dict(self) -> dict[str, Any]:
        """Return weights, Adam's moments and the baseline; a copy, which later updates leave alone."""
        return {
            "controller": deepcopy(self.controller.state_dict()),
            "adam": deepcopy(self._adam.state_dict()),
            "baseline": self.baseline,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self.controller.load_state_dict(state["controller"])
        self._adam.load_state_dict(deepcopy(state["adam"]))  # Adam would keep and change the caller's tensors
        self.baseline = state["baseline"]
