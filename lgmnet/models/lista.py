"""LISTA: sparse codes of small patches by a few learned iterations.

The first deep-unfolding network. It reconstructs no image: it predicts the sparse code that
minimises ½‖x − Wz‖² + α‖z‖₁ for a dictionary W.

Paper:     K. Gregor and Y. LeCun, "Learning fast approximations of sparse coding", ICML 2010.
Differences from the original: the initial values are those of ISTA instead of random values. The
thresholds are not constrained, as in the original.
"""

import torch
from torch import Tensor, nn

from lgmnet.unfolding.blocks import soft_threshold

# Step sizes of ISTA and FISTA stay this factor below 1 / λ_max(WᵀW).
SAFETY = 1.01


class SparseCoding:
    """The sparse coding problem, and its classical solvers.

    Args:
        dictionary: W ``(n, m)``, columns of norm one.
        alpha: weight of the ℓ₁ norm.

    Shapes:
        x: ``(batch, n)``;  z: ``(batch, m)``.
    """

    def __init__(self, dictionary: Tensor, alpha: float) -> None:
        self.dictionary = dictionary
        self.alpha = alpha
        self.lipschitz = SAFETY * float(torch.linalg.matrix_norm(dictionary, 2) ** 2)

    def energy(self, x: Tensor, z: Tensor) -> Tensor:
        """½‖x − Wz‖² + α‖z‖₁ of each sample."""
        error = x - z @ self.dictionary.T
        return 0.5 * error.square().sum(1) + self.alpha * z.abs().sum(1)

    def step(self, x: Tensor, z: Tensor) -> Tensor:
        """One step of ISTA from z."""
        gradient = (z @ self.dictionary.T - x) @ self.dictionary
        return soft_threshold(z - gradient / self.lipschitz, self.alpha / self.lipschitz)

    def ista(self, x: Tensor, steps: int) -> Tensor:
        z = x.new_zeros(len(x), self.dictionary.shape[1])
        for _ in range(steps):
            z = self.step(x, z)
        return z

    def fista(self, x: Tensor, steps: int) -> Tensor:
        """Beck and Teboulle, SIAM J. Imaging Sciences 2009."""
        z = point = x.new_zeros(len(x), self.dictionary.shape[1])
        t = 1.0
        for _ in range(steps):
            previous, z = z, self.step(x, point)
            t_next = (1 + (1 + 4 * t**2) ** 0.5) / 2
            point = z + (t - 1) / t_next * (z - previous)
            t = t_next
        return z


class LISTA(nn.Module):
    """z ← h_θ(W_e x + S z), ``steps`` times from z = h_θ(W_e x); W_e, S and θ shared and learned.

    Before training it is ISTA with ``steps + 1`` steps. With ``steps=0`` there is no S.
    """

    def __init__(self, problem: SparseCoding, steps: int) -> None:
        super().__init__()
        dictionary, bound = problem.dictionary.float(), problem.lipschitz
        codes = dictionary.shape[1]
        self.steps = steps
        self.encoder = nn.Parameter(dictionary.T / bound)
        if steps:
            self.inhibition = nn.Parameter(torch.eye(codes) - dictionary.T @ dictionary / bound)
        self.threshold = nn.Parameter(torch.full((codes,), problem.alpha / bound))

    def forward(self, x: Tensor) -> Tensor:
        encoded = x @ self.encoder.T
        z = soft_threshold(encoded, self.threshold)
        for _ in range(self.steps):
            z = soft_threshold(encoded + z @ self.inhibition.T, self.threshold)
        return z


class TanhEncoder(nn.Module):
    """D tanh(W_e x), or with ``pair`` D (tanh(W_e x + u) + tanh(W_e x − u)), flat near zero.

    D is diagonal. These are the baselines of the paper.
    """

    def __init__(self, problem: SparseCoding, pair: bool) -> None:
        super().__init__()
        dictionary = problem.dictionary.float()
        self.encoder = nn.Parameter(dictionary.T / problem.lipschitz)
        self.scale = nn.Parameter(torch.ones(dictionary.shape[1]))
        self.offset = nn.Parameter(torch.ones(dictionary.shape[1])) if pair else None

    def forward(self, x: Tensor) -> Tensor:
        encoded = x @ self.encoder.T
        if self.offset is None:
            return self.scale * encoded.tanh()
        return self.scale * ((encoded + self.offset).tanh() + (encoded - self.offset).tanh())
