import pytest
import torch

from lgmnet.losses import CHARBONNIER_EPSILON, distance, orthogonality, total_loss
from lgmnet.models import Reconstruction
from lgmnet.operators import BlockSampling, matrices


def test_distances_by_hand():
    image, target = torch.tensor([0.0, 0.5]), torch.tensor([0.0, 0.1])
    assert float(distance(image, target, "mse")) == pytest.approx(0.16 / 2)
    assert float(distance(image, target, "l1")) == pytest.approx(0.4 / 2)
    epsilon = CHARBONNIER_EPSILON
    expected = (epsilon + (0.16 + epsilon**2) ** 0.5) / 2
    assert float(distance(image, target, "charbonnier")) == pytest.approx(expected)


def test_nmse_is_the_mean_over_images_of_relative_errors():
    target = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).view(2, 1, 1, 2)
    image = target + torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    assert float(distance(image, target, "nmse")) == pytest.approx((1 / 5 + 1 / 2) / 2)


def test_nmse_has_a_gradient_at_a_perfect_and_at_a_black_image():
    image = torch.full((2, 1, 4, 4), 0.5).requires_grad_()
    target = torch.stack([torch.full((1, 4, 4), 0.5), torch.zeros(1, 4, 4)])
    distance(image, target, "nmse").backward()
    assert not image.grad[0].any()
    assert image.grad[1].isfinite().all()
    assert (image.grad[1] > 0).all()


def test_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="expected mse, l1, charbonnier or nmse"):
        distance(torch.zeros(1), torch.zeros(1), "ssim")


def test_orthogonality_is_zero_for_orthonormal_rows_alone():
    rows = matrices.orthonormal(4, 16)
    assert float(orthogonality(BlockSampling(rows, 4)).detach()) < 1e-12
    doubled = BlockSampling(2 * rows, 4)  # ΦΦᵀ = 4 I, so 3² on the diagonal of 4 x 4
    assert float(orthogonality(doubled).detach()) == pytest.approx(9 * 4 / 16)


def test_every_term_is_named_and_weighted():
    operator = BlockSampling(2 * matrices.orthonormal(4, 16), 4)
    target = torch.rand(1, 1, 8, 8)
    image = target + 0.1
    reconstruction = Reconstruction(image, {"symmetry": torch.tensor(0.25)})
    total, terms = total_loss(reconstruction, target, operator, "mse", 0.5, 0.01)
    assert set(terms) == {"mse", "symmetry", "measurement", "phi_orthogonality"}
    residual = operator(image) - operator(target)
    torch.testing.assert_close(terms["measurement"], 0.5 * residual.square().mean())
    torch.testing.assert_close(terms["phi_orthogonality"], 0.01 * orthogonality(operator))
    torch.testing.assert_close(total, sum(terms.values()))


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_an_absolute_term_joins_the_main_loss(kind):
    """Beside an l1 loss too: the two terms have names of their own."""
    operator = BlockSampling(matrices.orthonormal(4, 16), 4)
    image, target = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    total, terms = total_loss(Reconstruction(image), target, operator, kind, l1_weight=0.1)
    torch.testing.assert_close(terms["absolute"], 0.1 * (image - target).abs().mean())
    torch.testing.assert_close(total, distance(image, target, kind) + terms["absolute"])


def test_terms_of_weight_zero_are_not_computed():
    operator = BlockSampling(matrices.orthonormal(4, 16), 4)
    image = torch.rand(1, 1, 8, 8)
    assert set(total_loss(Reconstruction(image), image, operator)[1]) == {"mse"}


def test_the_orthogonality_term_reaches_phi():
    operator = BlockSampling(2 * matrices.orthonormal(4, 16), 4)
    image = torch.rand(1, 1, 8, 8)
    total_loss(Reconstruction(image), image, operator, orthogonality_weight=1.0)[0].backward()
    assert operator.matrix.grad.abs().sum() > 0
