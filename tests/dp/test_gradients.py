"""One private step: clipping, noise, divisor, empty batches - each with the control that breaks it."""

import numpy as np
import pytest
import torch
from torch import nn

from fedmodels.dp.clipping.prepare import prepare
from fedmodels.dp.gradients import PrivateOptimizer, clip_factors
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.errors import PrivacyError
from fedmodels.models.weights import flatten


def plan(noise: float = 1e-9, clip: float = 1.0) -> Plan:
    return Plan(0.1, clip, noise, 1, 1, 1e-5)


class Step:
    """A linear model without bias under one private optimizer; learning rate 1, so a step moves by -gradient."""

    def __init__(self, noise: float = 1e-9, clip: float = 1.0, divisor: float = 1.0, width: int = 3) -> None:
        torch.manual_seed(0)
        prepared = prepare(nn.Linear(width, 1, bias=False))
        self.model = prepared.model
        self.weight = next(self.model.parameters())
        sgd = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self.optimizer = PrivateOptimizer(prepared, sgd, plan(noise, clip), divisor, SecureSource())

    def move(self, *chunks: torch.Tensor) -> np.ndarray:
        before = self.weight.detach().clone()
        for x in chunks:
            self.model(x).sum().backward()
            self.optimizer.accumulate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return (before - self.weight.detach()).numpy().ravel()


def test_a_record_scaled_by_a_million_moves_the_step_by_at_most_the_clip() -> None:
    x = torch.tensor([[0.1, 0.2, 0.0], [1e6, 0.0, 0.0]])
    with_record, without = Step().move(x), Step().move(x[:1])
    assert np.linalg.norm(with_record - without) <= 1.0 + 1e-6
    assert np.linalg.norm(with_record - without) > 0.999


def test_small_gradients_are_not_changed() -> None:
    assert Step().move(torch.tensor([[0.1, 0.2, 0.3]])) == pytest.approx([0.1, 0.2, 0.3], abs=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_record_with_an_overflowing_gradient_contributes_nothing(bad: float) -> None:
    x = torch.tensor([[0.1, 0.2, 0.3], [bad, 1.0, bad]])
    assert Step().move(x) == pytest.approx([0.1, 0.2, 0.3], abs=1e-5)


def test_chunks_of_a_batch_add_up_to_the_batch() -> None:
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    assert Step().move(x[:3], x[3:6], x[6:]) == pytest.approx(Step().move(x), abs=1e-6)


def test_many_chunks_are_added_up_in_double_precision() -> None:
    """In single precision, 1 added to 2^26 is lost a hundred times."""
    one, large = torch.tensor([[1.0, 0.0, 0.0]]), 2.0**26
    moved = Step(clip=2.0 * large).move(large * one, *[one] * 100)[0]
    assert moved == pytest.approx((large + 100) * float(clip_factors(torch.tensor([0.0]).double(), 1.0)), abs=20)


def test_the_divisor_is_the_public_one_whatever_the_batch() -> None:
    """Also the N-invariance: 320 or 321 records, the rest of the step is scaled alike."""
    x = torch.full((321, 3), 0.001)
    moves = [Step(divisor=64.0).move(x[:n]) for n in (320, 321)]
    assert moves[0] * 321 / 320 == pytest.approx(moves[1], rel=1e-4)


def test_an_empty_batch_takes_a_step_of_full_noise() -> None:
    moved = Step(noise=2.0, clip=0.5, width=100_000).move()
    assert moved.std() == pytest.approx(1.0, rel=0.02)


def test_noise_has_the_plans_standard_deviation_and_is_fresh() -> None:
    step = Step(noise=1.5, clip=2.0, divisor=10.0, width=100_000)
    first, second = step.move(), step.move(torch.zeros(1, 100_000))
    assert first.std() == pytest.approx(0.3 * (1 + 1 / 256), rel=0.01)
    assert second.std() == pytest.approx(0.3 * (1 + 1 / 256), rel=0.01)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_noise_is_also_for_what_rounding_adds_to_the_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(SecureSource, "add_normal", lambda self, values, deviation, scale: seen.append(deviation))
    Step(noise=1.5, clip=2.0).move()
    assert seen == [3.0 * (1 + 1 / 256)]


def test_noise_ignores_torchs_seed() -> None:
    torch.manual_seed(3)
    first = Step(noise=1.0).move()
    torch.manual_seed(3)
    assert not np.allclose(first, Step(noise=1.0).move())


def test_clip_factors_never_exceed_the_clip_and_are_zero_for_what_is_not_finite() -> None:
    norms = torch.tensor([0.0, 0.5, 1.0, 3.0, float("inf"), float("nan")], dtype=torch.float64)
    factors = clip_factors(norms, 1.0)
    assert bool((factors[:4] * norms[:4] * (1.0 + 1e-5) <= 1.0).all())  # norms may be wrong by so much
    assert factors[4:].tolist() == [0.0, 0.0]
    assert factors[1].item() == pytest.approx(1.0, abs=5e-5)


@pytest.mark.parametrize("divisor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_divisor_that_is_no_positive_number_is_refused(divisor: float) -> None:
    with pytest.raises(PrivacyError):
        Step(divisor=divisor)


def test_an_optimizer_of_other_parameters_is_refused() -> None:
    prepared = prepare(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
    for parameters in (prepared.model[0].parameters(), nn.Linear(2, 2).parameters()):
        with pytest.raises(PrivacyError, match="not the trainable parameters"):
            PrivateOptimizer(prepared, torch.optim.SGD(parameters, lr=1.0), plan(), 1.0, SecureSource())


def test_the_order_of_an_opacus_loop_works_without_accumulate() -> None:
    step, x = Step(), torch.tensor([[0.1, 0.2, 0.3]])
    before = step.weight.detach().clone()
    step.optimizer.zero_grad()
    step.model(x).sum().backward()
    step.optimizer.step()
    assert (before - step.weight.detach()).numpy().ravel() == pytest.approx([0.1, 0.2, 0.3], abs=1e-5)


def test_what_zero_grad_dropped_is_in_no_later_step() -> None:
    step, x = Step(), torch.tensor([[0.1, 0.2, 0.3]])
    step.model(x).sum().backward()
    step.optimizer.accumulate()
    step.model(x).sum().backward()
    step.optimizer.zero_grad()
    assert step.move(x) == pytest.approx([0.1, 0.2, 0.3], abs=1e-5)


def test_closures_and_skipped_steps_are_refused() -> None:
    with pytest.raises(PrivacyError, match="closure"):
        Step().optimizer.step(lambda: 0.0)
    with pytest.raises(PrivacyError, match="not skipped"):
        Step().optimizer.signal_skip_step()


class Two(nn.Module):
    """Parameters are listed in another order than their names have."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Linear(3, 2)
        self.a = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(self.b(x))


def test_the_clipped_sum_is_in_the_order_of_flatten_bounded_and_taken_once() -> None:
    torch.manual_seed(0)
    template = Two()
    prepared = prepare(template)
    sgd = torch.optim.SGD(prepared.model.parameters(), lr=1.0)
    optimizer = PrivateOptimizer(prepared, sgd, plan(clip=0.5), 1.0, SecureSource())
    assert optimizer.clipped_sum().tolist() == [0.0] * len(flatten(template))
    x = 10 * torch.randn(1, 3)
    prepared.model(x).sum().backward()
    optimizer.accumulate()
    template(x).sum().backward()
    gradient = np.concatenate([p.grad.numpy().ravel() for _, p in sorted(template.named_parameters())])
    expected = 0.5 * gradient / np.linalg.norm(gradient)
    assert optimizer.clipped_sum().numpy() == pytest.approx(expected, abs=1e-5)
    assert not optimizer.clipped_sum().any()
