import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lgmnet.build import Source, build_model
from lgmnet.runtime import Runtime
from lgmnet.training.learner import make_optimizer
from lgmnet.training.loop import train
from lgmnet.training.muon import Muon, orthogonalise
from lgmnet.weights import files
from tests.conftest import tiny_config
from tests.test_training import final, records, train_steps

CPU = Runtime(torch.device("cpu"))


@pytest.mark.parametrize("shape", [(3, 4, 9), (2, 9, 4), (1, 5, 5)])
def test_singular_values_become_nearly_one_and_directions_stay(shape):
    matrices = torch.randn(shape, dtype=torch.float64)
    u, sigma, v = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalise(matrices)
    became = (u.mT @ result @ v.mT).diagonal(dim1=1, dim2=2)
    assert ((became > 0.6) & (became < 1.25))[sigma > 0.05].all()
    torch.testing.assert_close(u @ torch.diag_embed(became) @ v, result)


def test_in_bfloat16_the_directions_are_those_of_float32():
    """As on a GPU."""
    matrices = torch.randn(4, 8, 72)
    result = orthogonalise(matrices, torch.bfloat16)
    assert result.dtype == torch.float32
    difference = (result - orthogonalise(matrices)).norm(dim=(1, 2))
    assert (difference < 0.03 * result.norm(dim=(1, 2))).all()
    assert (difference > 0).all()


def steps_of(optimizer, parameters, gradients):
    for gradient in gradients:
        for parameter, g in zip(parameters, gradient, strict=True):
            parameter.grad = g.clone()
        optimizer.step()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_on_matrices_it_is_the_muon_of_torch():
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((6, 10), (6, 10), (12, 5))]
    theirs = copy.deepcopy(ours)
    gradients = [[torch.randn(p.shape) for p in ours] for _ in range(5)]
    mine = Muon([{"params": ours, "muon": True}], lr=0.01, weight_decay=0.1)
    reference = torch.optim.Muon(
        theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )  # fmt: skip
    steps_of(mine, ours, gradients)
    steps_of(reference, theirs, gradients)
    for a, b in zip(ours, theirs, strict=True):
        # theirs iterates in bfloat16
        torch.testing.assert_close(a, b, rtol=0, atol=5 * 0.01 * 0.02)


def test_a_kernel_moves_as_its_matrix_and_the_rest_by_adamw():
    kernel, bias = (torch.nn.Parameter(torch.randn(s)) for s in ((4, 2, 3, 3), (4,)))
    matrix, other = torch.nn.Parameter(kernel.detach().flatten(1)), copy.deepcopy(bias)
    gradients = [[torch.randn(p.shape) for p in (kernel, bias)] for _ in range(3)]
    groups = [{"params": [kernel], "muon": True}, {"params": [bias]}]
    steps_of(Muon(groups, lr=0.01), [kernel, bias], gradients)
    flat = [[g.flatten(1)] for g, _ in gradients]
    steps_of(Muon([{"params": [matrix], "muon": True}], lr=0.01), [matrix], flat)
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())
    steps_of(torch.optim.AdamW([other], lr=0.01), [other], [[b] for _, b in gradients])
    torch.testing.assert_close(bias, other)


def transposed(tensor):
    """The same values, the first axis fastest in memory."""
    return tensor.movedim(0, -1).contiguous().movedim(-1, 0)


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((4, 2, 3, 3), channels_last),
        ((2, 5, 4, 3), channels_last),  # also of a transposed convolution: inputs first
        ((6, 4, 1, 1), channels_last),
        ((1, 3, 3, 3), channels_last),
        ((4, 1, 3, 3), channels_last),
        ((5, 1, 1), transposed),
        ((6, 10), transposed),
        ((4, 2, 3, 3), transposed),
    ],
)
def test_a_step_does_not_depend_on_the_order_in_memory(shape, layout, weight_decay):
    """Neither of the kernels nor of the gradients."""
    plain = [torch.nn.Parameter(torch.randn(shape)) for _ in range(2)]
    other = [torch.nn.Parameter(layout(p.detach().clone())) for p in plain]
    mixed = copy.deepcopy(other)
    gradients = [[torch.randn(shape) for _ in plain] for _ in range(3)]
    laid_out = [[layout(g) for g in pair] for pair in gradients]
    for parameters, several in ((plain, gradients), (other, laid_out), (mixed, gradients)):
        optimizer = Muon(
            [{"params": parameters, "muon": True}], lr=0.01, weight_decay=weight_decay
        )  # fmt: skip
        steps_of(optimizer, parameters, several)
        assert all(optimizer.state[p]["average"].stride() == p.stride() for p in parameters)
    for a, b, c in zip(plain, other, mixed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        torch.testing.assert_close(a, c, rtol=0, atol=1e-6)


class Count(TorchDispatchMode):
    """Counts operations other than views, and notes the strides in those on several tensors."""

    def __init__(self):
        super().__init__()
        self.operations = 0
        self.strides = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.operations += not function.is_view
        if "_foreach_" in str(function):
            lists = [a for a in arguments if isinstance(a, (list, tuple))]
            self.strides += [{t.stride() for t in tensors} for tensors in zip(*lists, strict=True)]
        return function(*arguments, **(options or {}))


def operations(kernels, weight_decay=0.0):
    parameters = [
        torch.nn.Parameter(channels_last(torch.randn(4, 2, 3, 3))) for _ in range(kernels)
    ]
    optimizer = Muon([{"params": parameters, "muon": True}], weight_decay=weight_decay)
    gradients = [torch.randn_like(p) for p in parameters]
    steps_of(optimizer, parameters, [gradients])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    with Count() as count:
        optimizer.step()
    assert all(parameter.grad is None for parameter in parameters)
    return count.operations


def test_more_kernels_of_one_shape_are_not_more_operations():
    assert operations(2) == operations(12)
    assert operations(2, weight_decay=0.1) == operations(2) + 1
    assert operations(2) < 30


@pytest.mark.parametrize(
    "shape", [(6, 4, 3, 3), (6, 4, 1, 1), (9, 1, 2, 2), (1, 4, 3, 3), (5, 1, 1)]
)
def test_what_moves_together_lies_alike_in_memory(shape):
    """On a GPU tensors of other strides would be moved one by one."""
    kernel = torch.nn.Parameter(torch.randn(shape))
    if kernel.ndim == 4:  # in memory (out, h, w, in), by strides that 1 x 1 leaves open
        kernel = torch.nn.Parameter(kernel.detach().permute(0, 2, 3, 1).contiguous())
        kernel = torch.nn.Parameter(kernel.detach().permute(0, 3, 1, 2))
    optimizer = Muon([{"params": [kernel], "muon": True}])
    kernel.grad = channels_last(torch.randn(shape)) if kernel.ndim == 4 else torch.randn(shape)
    with Count() as count:
        optimizer.step()
    assert len(count.strides) >= 3
    assert all(len(strides) == 1 for strides in count.strides)


def test_kernels_of_the_network_get_muon_and_phi_does_not():
    model = build_model(tiny_config())
    optimizer = make_optimizer(model, tiny_config(training={"optimizer": "muon"}).training)
    kernels = next(group["params"] for group in optimizer.param_groups if group.get("muon"))
    expected = [p for p in model.network.parameters() if p.ndim > 1]
    assert {id(p) for p in kernels} == {id(p) for p in expected}
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(model.parameters()))


@pytest.mark.parametrize("training", [{"optimizer": "muon"}, {"phi_rate": 0.1}])
def test_stopped_and_resumed_equals_uninterrupted(image_folder, tmp_path, monkeypatch, training):
    config = tiny_config(image_folder, training=training)
    train(config, tmp_path / "whole", CPU)
    train_steps(config, tmp_path / "parts", 3, monkeypatch)
    plain = tiny_config(image_folder)
    with pytest.raises(files.CheckpointError, match=r"training\.optimizer"):
        train(plain, tmp_path / "parts", CPU, resume=True)
    train(config, tmp_path / "parts", CPU, resume=True)
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_muon_lowers_the_loss(image_folder, tmp_path):
    config = tiny_config(
        image_folder, model={"phity_skip": True}, data={"source": "device"},
        training={"optimizer": "muon", "steps_per_epoch": 60, "rate": 2e-3, "log_every": 10},
    )  # fmt: skip
    train(config, tmp_path / "run", CPU)
    losses = [line["loss"] for line in records(tmp_path / "run", "train")]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("factor", [1.0, 0.01])
def test_phi_has_a_rate_of_its_own(image_folder, tmp_path, factor):
    """Adam's first step is the rate itself, whatever the gradient."""
    settings = {"phi_rate": factor, "steps_per_epoch": 1, "log_every": 1, "schedule": "constant"}
    config = tiny_config(image_folder, training=settings)
    train(config, tmp_path / "run", CPU)
    start = config.sampling.make(Source(seed=config.training.seed)).matrix.detach()
    moved = (final(tmp_path / "run")["operator.matrix"] - start).abs().median()
    assert float(moved) == pytest.approx(1e-3 * factor, rel=0.02)
