import numpy as np
import pytest
import torch

from lgmnet import complexity
from lgmnet.models.lista import LISTA, SparseCoding, TanhEncoder


@pytest.fixture
def problem():
    dictionary = torch.randn(10, 24, dtype=torch.float64)
    return SparseCoding(dictionary / dictionary.norm(dim=0), alpha=0.3)


@pytest.fixture
def x():
    return torch.randn(50, 10, dtype=torch.float64)


def test_parameter_counts_of_the_paper():
    for n, m, count in ((100, 100, 20_100), (100, 400, 200_400)):
        problem = SparseCoding(torch.randn(n, m), 0.5)
        assert complexity.parameters(LISTA(problem, 3)) == count


@pytest.mark.parametrize("steps", [0, 1, 3, 7])
def test_untrained_lista_is_ista_with_one_more_step(problem, x, steps):
    network = LISTA(problem, steps).double()
    torch.testing.assert_close(network(x), problem.ista(x, steps + 1), rtol=1e-5, atol=1e-6)


def test_a_step_in_numpy(problem, x):
    w, bound = problem.dictionary.numpy(), problem.lipschitz
    z = np.random.default_rng(0).normal(size=(50, 24))
    moved = z - (z @ w.T - x.numpy()) @ w / bound
    expected = np.sign(moved) * np.maximum(np.abs(moved) - 0.3 / bound, 0)
    np.testing.assert_allclose(problem.step(x, torch.from_numpy(z)).numpy(), expected, atol=1e-12)


def test_the_energy_of_ista_falls_and_fista_is_faster(problem, x):
    energies = [float(problem.energy(x, problem.ista(x, k)).mean()) for k in (1, 5, 20, 100, 1000)]
    assert energies == sorted(energies, reverse=True)
    assert float(problem.energy(x, problem.fista(x, 150)).mean()) <= energies[-1] + 1e-6


def test_the_solution_satisfies_the_optimality_conditions(problem, x):
    """Wᵀ(x − Wz) = α sign(z) where z is not zero, and at most α elsewhere."""
    z = problem.fista(x, 20_000)
    gradient = (x - z @ problem.dictionary.T) @ problem.dictionary
    used = z.abs() > 1e-6
    np.testing.assert_allclose(gradient[used], 0.3 * z[used].sign(), atol=1e-5)
    assert float(gradient.abs().max()) <= 0.3 + 1e-5


def test_training_beats_ista_of_the_same_depth(problem, x):
    target = problem.fista(x, 3000).float()
    network = LISTA(problem, 1)
    before = float((network(x.float()) - target).square().sum(1).mean().detach())
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(200):
        loss = (network(x.float()) - target).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * before


@pytest.mark.parametrize("pair", [False, True])
def test_the_baselines_follow_their_formula(problem, x, pair):
    encoder = TanhEncoder(problem, pair).double()
    w = encoder.encoder.detach().numpy() @ x.numpy().T
    single, double = np.tanh(w), np.tanh(w + 1) + np.tanh(w - 1)
    expected = (double if pair else single).T
    np.testing.assert_allclose(encoder(x).detach().numpy(), expected, atol=1e-12)
    encoder(x).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())
