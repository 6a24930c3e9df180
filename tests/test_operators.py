import threading

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch.utils._python_dispatch import TorchDispatchMode

from lgmnet import operators
from lgmnet.models import LGMNet, SensingModel
from lgmnet.models.fista_net import AlistaAdjoint
from lgmnet.operators import (
    BlockSampling,
    BlurDown,
    CodedAperture,
    FourierMask,
    LinearOperator,
    ParallelBeam,
    PatternSampling,
    masks,
    matrices,
)
from lgmnet.operators.base import in_full_precision
from lgmnet.operators.noise import add_noise
from lgmnet.unfolding.starts import LinearStart

BLOCKS = {"matrix": matrices.xavier(5, 16), "block_size": 4}


PATTERNS = {"patterns": torch.randn(5, 16), "scale": torch.tensor(0.25), "block_size": 4}


def kernel(height, width):
    """No symmetry, and every frequency passes."""
    values = torch.rand(height, width, generator=torch.Generator().manual_seed(0)) / 10
    values[height // 2, 0] += 1
    return (values / values.sum())[None].double()


# Sides are not equal, to catch swapped axes, and even or odd, as the highest frequency differs.
CASES = {
    "blocks": (BlockSampling, BLOCKS),
    "blocks convolved": (BlockSampling, BLOCKS),
    **{
        f"patterns {values}": (PatternSampling, PATTERNS | {"values": values})
        for values in ("binary", "sign", "8bit")
    },
    "mask even": (FourierMask, {"mask": masks.variable_density((8, 12), 0.4)}),
    "mask odd": (FourierMask, {"mask": masks.variable_density((9, 5), 0.4)}),
    "mask odd and even": (FourierMask, {"mask": masks.cartesian((7, 8), 0.5)}),
    "mask complex": (FourierMask, {"mask": masks.cartesian((8, 12), 0.5), "channels": 2}),
    "beam odd": (ParallelBeam, {"side": 7, "angles": (0, 45, 90, 110)}),
    "beam with few rays": (ParallelBeam, {"side": 8, "angles": (10, 100), "detectors": 8}),
    "mask complex odd": (
        FourierMask,
        {"mask": masks.variable_density((9, 5), 0.4), "channels": 2},
    ),
    "aperture": (CodedAperture, {"mask": torch.rand(8, 12), "bands": 4}),
    "aperture odd": (CodedAperture, {"mask": torch.rand(7, 5), "bands": 3, "step": 1}),
    "aperture of 0 and 1": (
        CodedAperture,
        {"mask": masks.variable_density((8, 6), 0.3), "bands": 4, "step": 3},
    ),
    "blur": (BlurDown, {"kernel": kernel(3, 1), "scale": 1}),
    "blur x2 colour": (BlurDown, {"kernel": kernel(3, 5), "scale": 2, "channels": 3}),
    "blur x3": (BlurDown, {"kernel": kernel(5, 3), "scale": 3}),
    "blur x4": (BlurDown, {"kernel": kernel(3, 7), "scale": 4}),
}


def image_for(operator, images=1, batch=2):
    side = operator.multiple * max(1, 4 // operator.multiple)
    sides = operator.size or (2 * side, 3 * side)
    return torch.randn(batch, images * operator.channels, *sides, dtype=torch.float64)


@pytest.fixture(params=CASES)
def operator(request):
    """Every operator; block sampling by matrix products and by strided convolutions."""
    kind, settings = CASES[request.param]
    operator = kind(**settings).double()
    if kind is BlockSampling:
        operator.gathers = "convolved" not in request.param
    return operator


def test_every_operator_is_tested():
    ours = {kind for kind in LinearOperator.__subclasses__() if hasattr(operators, kind.__name__)}
    ours |= set(BlockSampling.__subclasses__())
    assert {kind for kind, _ in CASES.values()} == ours


def test_adjoint_is_the_transpose(operator):
    """⟨Φx, y⟩ = ⟨x, Φᵀy⟩."""
    image = image_for(operator)
    measurement = torch.randn_like(operator(image))
    left = (operator(image) * measurement).sum()
    right = (image * operator.adjoint(measurement)).sum()
    torch.testing.assert_close(left, right, rtol=1e-10, atol=0)


def test_measuring_is_linear(operator):
    a, b = image_for(operator), image_for(operator)
    torch.testing.assert_close(operator(2 * a - 3 * b), 2 * operator(a) - 3 * operator(b))


def test_measurement_has_the_promised_shape(operator):
    image = image_for(operator)
    assert operator(image).shape[1:] == operator.measurement_shape(*image.shape[2:])


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_gram_of_features_is_the_gram_of_each_image(operator, scale):
    images = image_for(operator, images=3)
    if any(side % scale for side in images.shape[2:]):
        pytest.skip("such an image has no half")
    expected = torch.cat(
        [operator.adjoint(operator(image)) for image in images.split(operator.channels, dim=1)],
        dim=1,
    )
    features = torch.nn.functional.pixel_unshuffle(images, scale)
    gram = torch.nn.functional.pixel_shuffle(operator.gram(features, scale), scale)
    torch.testing.assert_close(gram, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("side", "scale"), [(8, 1), (8, 2), (8, 4), (9, 3), (9, 2)])
def test_both_forms_agree_with_their_gradients(side, scale):
    """Gathered blocks against strided convolutions; a block of 9 has no half."""
    features = torch.randn(1, 2 * scale**2, 72, 144, dtype=torch.float64)
    image = torch.randn(2, 1, 72, 144, dtype=torch.float64)
    measurement = torch.randn(2, 5, 72 // side, 144 // side, dtype=torch.float64)
    phi = torch.randn(5, side**2, dtype=torch.float64)
    calls = {
        "gram": (features, lambda operator, tensor: operator.gram(tensor, scale)),
        "forward": (image, lambda operator, tensor: operator(tensor)),
        "adjoint": (measurement, lambda operator, tensor: operator.adjoint(tensor)),
    }
    for name, (tensor, call) in calls.items():
        results = []
        for gathers in (True, False):
            operator = BlockSampling(phi, side)
            operator.gathers = gathers
            result = call(operator, tensor.requires_grad_())
            weight = torch.cos(torch.arange(result.numel()).double()).view(result.shape)
            sources = [tensor, operator.matrix]
            results.append((result, *torch.autograd.grad((result * weight).sum(), sources)))
        for gathered, convolved in zip(*results, strict=True):
            torch.testing.assert_close(
                gathered, convolved, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )


class Convolutions(TorchDispatchMode):
    """Counts convolutions, which may round to TF32 on a GPU."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.convolution.default
        return function(*args, **(kwargs or {}))


def test_phi_is_never_a_convolution_unless_asked_for():
    operator = BlockSampling(matrices.xavier(5, 16), 4)
    start = LinearStart(5, 4, "adjoint")
    alista = AlistaAdjoint(5, 4)
    for part in (start, alista):
        part.fit(operator.matrix)
    for gathers, expected in ((True, 0), (False, 6)):
        operator.gathers = gathers
        with torch.no_grad(), Convolutions() as found:
            y = operator(torch.rand(1, 1, 8, 12))
            back = operator.adjoint(y)
            assert start(y).shape == alista(y).shape == back.shape
            operator.gram(torch.rand(1, 3, 8, 12))
            operator.first(2).gram(torch.rand(1, 16, 2, 3), 4)
        assert found.count == expected
    # A fitted start is no part of the operator, and never a convolution.
    torch.testing.assert_close(start(y), back)


def test_the_reduced_gram_multiplies_in_bf16():
    operator = BlockSampling(matrices.orthonormal(40, 64), 8).requires_grad_(False)
    features = torch.randn(1, 8, 32, 32, dtype=torch.bfloat16)
    full = operator.gram(features, 2)
    operator.reduced_gram = True
    reduced = operator.gram(features, 2)
    assert full.dtype == reduced.dtype == torch.bfloat16
    assert not torch.equal(full, reduced)
    torch.testing.assert_close(full, reduced, rtol=0.05, atol=0.05)
    assert operator.first(3).reduced_gram
    single = operator.gram(features.float(), 2)
    assert single.dtype == torch.float32
    assert torch.equal(single.bfloat16(), full)


def test_a_system_without_solution_is_nan_in_solve_and_an_error_in_project():
    operator = BlockSampling(torch.ones(2, 16), 4)  # the same row twice
    image = torch.rand(1, 1, 8, 8)
    # Far below the rounding of ΦΦᵀ, whose entries are 16.
    assert operator.solve(image, 1e-12, image).isnan().all()
    assert operator.solve(image, torch.zeros(()), image).isnan().any()
    with pytest.raises(ValueError, match="linearly dependent"):
        operator.project(image, operator(image))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("scale", [1, 2])
def test_gram_and_its_gradient_keep_the_memory_format(channels_last, scale):
    operator = BlockSampling(matrices.xavier(5, 64), 8).double()
    plain = torch.randn(2, 8, 24, 16, dtype=torch.float64)
    weight = torch.randn_like(plain)
    kind = torch.channels_last if channels_last else torch.contiguous_format
    results = []
    for features in (plain, plain.to(memory_format=kind)):
        features.requires_grad_()
        gram = operator.gram(features, scale)
        (gradient,) = torch.autograd.grad((gram * weight).sum(), features)
        results.append((gram, gradient))
    for result, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(result, expected)
        assert result.is_contiguous(memory_format=kind)


def test_features_that_are_not_in_whole_blocks_are_refused():
    operator = BlockSampling(torch.randn(5, 64), 8)
    with pytest.raises(ValueError, match="multiple of 4, multiple of 4. at scale 2"):
        operator.gram(torch.randn(1, 4, 4, 6), 2)


@pytest.mark.parametrize("weight", [0.01, 1.0, 30.0])
def test_solve_satisfies_the_normal_equations(operator, weight):
    image = image_for(operator)
    target = operator.adjoint(operator(image_for(operator)))
    solution = operator.solve(image, weight, target)
    left = operator.gram(solution) + weight * solution
    torch.testing.assert_close(left, target + weight * image, rtol=1e-9, atol=1e-10)


def test_projection_is_the_closest_image_with_that_measurement(operator):
    image, other = image_for(operator), image_for(operator)
    measurement = operator(other)
    projected = operator.project(image, measurement)
    torch.testing.assert_close(operator(projected), measurement, rtol=1e-9, atol=1e-10)
    again = operator.project(projected, measurement)
    torch.testing.assert_close(again, projected, rtol=1e-10, atol=1e-10)
    # Closest: the change is orthogonal to every direction that Φ does not see.
    unseen = other - operator.project(torch.zeros_like(other), measurement)
    assert float(((projected - image) * unseen).sum().detach().abs()) < 1e-9


def test_gradients_with_respect_to_images_and_weight(operator):
    image, other = image_for(operator, batch=1), image_for(operator, batch=1)
    operator.requires_grad_(False)
    measurement = operator(other)
    weight = torch.tensor(0.7, dtype=torch.float64)
    for call, inputs in (
        (operator, (image,)),
        (operator.adjoint, (measurement,)),
        (operator.gram, (image,)),
        (operator.solve, (image, weight, other)),
        (operator.project, (image, measurement)),
    ):
        assert torch.autograd.gradcheck(call, [tensor.requires_grad_() for tensor in inputs])
        for tensor in inputs:
            tensor.requires_grad_(False)


def test_a_reduced_type_comes_back_and_is_computed_in_float32(operator):
    operator = operator.float().requires_grad_(False)
    image = image_for(operator).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = operator(image)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, operator(image.float()).bfloat16())
        back = operator.adjoint(y)
        solved = operator.solve(image, 0.5, back)
        wide = operator.solve(image.float(), 0.5, back.float())
    assert back.dtype == solved.dtype == torch.bfloat16
    assert torch.equal(solved, wide.bfloat16())


def test_what_any_operator_can_do_agrees_with_closed_forms(operator):
    """Conjugate gradients and power iteration: what an operator without closed forms inherits."""
    image, other = image_for(operator), image_for(operator)
    back = operator.adjoint(operator(other))
    for weight in (0.05, 3.0):
        found = LinearOperator.solve(operator, image, weight, back)
        expected = operator.solve(image, weight, back)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    y = operator(other)
    found = LinearOperator.project(operator, image, y)
    torch.testing.assert_close(found, operator.project(image, y), rtol=1e-9, atol=1e-9)
    assert LinearOperator.lipschitz(operator) == pytest.approx(operator.lipschitz(), rel=0.05)


def test_conjugate_gradients_pass_gradients_and_leave_a_solution_alone():
    operator = BlockSampling(matrices.xavier(5, 16), 4, learned=False).double()
    image, weight = image_for(operator)[:1, :, :4, :4].requires_grad_(), torch.tensor(0.7).double()
    inputs = (image, weight.requires_grad_())
    for solve in (LinearOperator.solve, BlockSampling.solve):
        assert torch.autograd.gradcheck(lambda x, w, s=solve: s(operator, x, w, x), inputs)
    zeros = torch.zeros(2, 1, 8, 8).double()
    assert torch.equal(LinearOperator.solve(operator, zeros, 1.0, zeros), zeros)


@pytest.mark.parametrize("method", ["forward", "adjoint", "gram", "solve", "project"])
def test_a_complex_tensor_is_refused(operator, method):
    image = image_for(operator)
    operator.requires_grad_(False)
    arguments = {
        "forward": (image,),
        "adjoint": (operator(image),),
        "gram": (image,),
        "solve": (image, 0.5, image),
        "project": (image, operator(image)),
    }[method]
    call = getattr(operator, method)
    name = type(operator).__name__
    expected = f"{name}.* given a complex tensor .torch.complex128., expected a real one"
    with pytest.raises(TypeError, match=expected):
        call(arguments[0].to(torch.complex128), *arguments[1:])


class Rotation(torch.nn.Module):
    @in_full_precision
    def forward(self, image):
        return 1j * image


def test_a_complex_result_does_not_lose_its_imaginary_part():
    with pytest.raises(TypeError, match="Rotation.forward has computed a complex tensor"):
        Rotation()(torch.ones(2))


def test_gradients_reach_phi_through_every_method(operator):
    if not list(operator.parameters()):
        pytest.skip("nothing of it is learned")
    image = image_for(operator)
    for result in (
        operator(image),
        operator.adjoint(operator(image).detach()),
        operator.solve(image, 0.5, image),
    ):
        operator.zero_grad()
        result.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in operator.parameters())


def test_lipschitz_bounds_the_gram(operator):
    image = image_for(operator)
    bound = operator.lipschitz()
    operator.requires_grad_(False)
    for _ in range(2000):  # power iteration
        image = operator.gram(image)
        largest = image.norm()
        image = image / largest
    assert float(largest) == pytest.approx(bound, rel=1e-3)


def test_block_sampling_equals_the_matrix_on_each_block():
    operator = BlockSampling(matrices.gaussian(7, 25), block_size=5).double()
    image = torch.randn(1, 1, 10, 15, dtype=torch.float64)
    block = image[0, 0, 5:10, 10:15].reshape(-1)  # row-major pixels of block (1, 2)
    torch.testing.assert_close(operator(image)[0, :, 1, 2], operator.matrix @ block)


def test_autocast_leaves_the_measurement_in_full_precision():
    operator = BlockSampling(matrices.orthonormal(20, 1024))
    image = torch.rand(1, 1, 32, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = operator(image)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, operator(image), rtol=0, atol=0)


def test_fixed_phi_is_no_parameter_but_is_saved():
    operator = BlockSampling(matrices.orthonormal(4, 16), block_size=4, learned=False)
    assert not list(operator.parameters())
    assert "matrix" in operator.state_dict()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 1, 250, 256), "height 250 is not a multiple of 32"),
        (torch.rand(1, 1, 64, 33), "width 33"),
        (torch.rand(1, 3, 64, 64), "one luma channel"),
        (torch.rand(64, 64), "expected \\(batch, 1, H, W\\)"),
        (torch.rand(1, 1, 0, 64), "height 0"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        BlockSampling(matrices.xavier(3, 1024))(image)


def test_a_measurement_of_another_ratio_is_refused():
    with pytest.raises(ValueError, match=r"expected \(batch, 3, "):
        BlockSampling(matrices.xavier(3, 1024)).adjoint(torch.rand(1, 4, 2, 2))


def test_a_matrix_for_another_block_size_is_refused_with_the_right_one():
    with pytest.raises(ValueError, match="pass block_size=33"):
        BlockSampling(torch.zeros(10, 1089), block_size=32)


def test_repr_names_the_shapes():
    text = repr(BlockSampling(matrices.xavier(103, 1024)))
    assert "learned Φ (103, 1024): (batch, 1, H, W) -> (batch, 103, H/32, W/32)" in text


@pytest.mark.parametrize(
    ("ratio", "rounding", "block", "m"),
    [
        (0.01, "ceil", 32, 11), (0.04, "ceil", 32, 41), (0.1, "ceil", 32, 103),
        (0.25, "ceil", 32, 256), (0.5, "ceil", 32, 512), (0.3, "floor", 32, 307),
        (0.04, "floor", 32, 40), (0.1, "round", 32, 102), (0.01, "table33", 33, 10),
        (0.04, "table33", 33, 43), (0.1, "table33", 33, 109), (0.5, "table33", 33, 545),
        (0.01, "ceil", 33, 11), (1.0, "ceil", 32, 1024), (0.0001, "floor", 32, 1),
    ],
)  # fmt: skip
def test_measurement_counts(ratio, rounding, block, m):
    """The table of published roundings, and its ends."""
    assert matrices.measurement_count(ratio, block, rounding) == m


def test_table33_refuses_other_blocks_and_ratios():
    with pytest.raises(ValueError, match="block size 33"):
        matrices.measurement_count(0.1, 32, "table33")
    with pytest.raises(ValueError, match="0.15"):
        matrices.measurement_count(0.15, 33, "table33")


def test_xavier_has_the_published_spread():
    assert float(matrices.xavier(103, 1024).std()) == pytest.approx((2 / 1127) ** 0.5, rel=0.02)


def test_orthonormal_rows():
    matrix = matrices.orthonormal(103, 1024).double()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(103).double(), rtol=0, atol=1e-6)


def test_pca_finds_the_strong_directions_in_order():
    basis = matrices.orthonormal(3, 16)
    coefficients = torch.randn(5000, 3) * torch.tensor([9.0, 3.0, 1.0])
    found = matrices.pca(coefficients @ basis + 0.01 * torch.randn(5000, 16), 3)
    agreement = (found @ basis.T).abs()
    torch.testing.assert_close(agreement, torch.eye(3), rtol=0, atol=0.05)


def test_pca_of_too_few_blocks_is_refused():
    with pytest.raises(ValueError, match="at least 16 training blocks"):
        matrices.pca(torch.rand(10, 16), 3)


def span(rows):
    """The projector onto what rows measure, for comparison: it knows no order and no scale."""
    basis = torch.linalg.qr(rows.double().T).Q
    return basis @ basis.T


def test_nested_matrices_measure_what_each_of_them_does():
    blocks = torch.randn(500, 16) * torch.linspace(3, 0.5, 16)
    few, many = torch.randn(3, 16), torch.randn(7, 16)
    found = matrices.nested([many, few], blocks, 16)
    torch.testing.assert_close(found @ found.T, torch.eye(16), rtol=0, atol=1e-5)
    torch.testing.assert_close(span(found[:3]), span(few), rtol=0, atol=1e-5)
    # Of the larger one as much as fits beside the smaller: four directions, none of which is new.
    added = found[3:7].double()
    torch.testing.assert_close(added @ span(many), added, rtol=0, atol=1e-5)
    # What is added together is ordered by its strength in the blocks, and not correlated.
    for group in (found[:3], found[3:7], found[7:]):
        products = (blocks @ group.T).T @ (blocks @ group.T)
        strength = products.diagonal()
        assert (strength.diff() < 0).all()
        torch.testing.assert_close(products, strength.diag(), rtol=0, atol=1e-2)


def test_all_rows_of_nested_matrices_measure_what_pca_measures():
    blocks = torch.randn(500, 16) * torch.linspace(3, 0.5, 16)
    found, pca = matrices.nested([torch.randn(3, 16)], blocks, 9), matrices.pca(blocks, 9)
    torch.testing.assert_close(span(found), span(pca), rtol=0, atol=1e-5)
    assert not torch.allclose(span(found[:3]), span(pca[:3]), atol=0.1)
    alone = matrices.nested([], blocks, 9)
    torch.testing.assert_close((alone @ pca.T).abs(), torch.eye(9), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(3, 16), (3, 16)], "3, 3 rows, expected different numbers"),
        ([(3, 16), (10, 16)], "3, 10 rows, .* all below 9"),
        ([(9, 16)], "9 rows, .* all below 9"),
        ([(3, 25)], "blocks have 16 pixels, .* 25 columns; use matrices of one block size"),
    ],
)
def test_matrices_that_do_not_nest_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        matrices.nested([torch.rand(shape) for shape in shapes], torch.rand(50, 16), 9)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".safetensors"])
def test_a_matrix_survives_every_file_format(tmp_path, suffix):
    matrix = np.random.default_rng(0).normal(size=(3, 16))
    path = tmp_path / f"phi{suffix}"
    if suffix == ".npy":
        np.save(path, matrix)
    elif suffix == ".npz":
        np.savez(path, phi=matrix, other=np.zeros(2))
    elif suffix == ".mat":
        savemat(path, {"phi": matrix})
    else:
        from safetensors.numpy import save_file

        save_file({"matrix": matrix}, path)
    np.testing.assert_array_equal(matrices.load_matrix(path).numpy(), matrix.astype(np.float32))


def test_unusable_matrix_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no sampling matrix"):
        matrices.load_matrix(tmp_path / "none.npy")
    np.save(tmp_path / "vector.npy", np.zeros(4))
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        matrices.load_matrix(tmp_path / "vector.npy")
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="name the sampling matrix"):
        matrices.load_matrix(tmp_path / "two.npz")
    np.save(tmp_path / "nan.npy", np.full((2, 4), np.nan))
    with pytest.raises(ValueError, match="contains NaN or infinity"):
        matrices.load_matrix(tmp_path / "nan.npy")
    (tmp_path / "broken.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="broken.npy"):
        matrices.load_matrix(tmp_path / "broken.npy")


def test_named_noise_is_the_same_in_every_run_and_differs_between_images():
    clean = torch.zeros(1, 5, 8, 8)
    first = add_noise(clean, 0.1, "Monarch")
    torch.manual_seed(99)
    assert torch.equal(first, add_noise(clean, 0.1, "Monarch"))
    assert not torch.equal(first, add_noise(clean, 0.1, "Parrots"))
    assert float(first.std()) == pytest.approx(0.1, rel=0.15)
    assert add_noise(clean, 0.0) is clean


def test_noise_lies_only_where_something_is_measured():
    clean = torch.zeros(3, 2, 4, 6)
    support = torch.rand(4, 6) < 0.5
    for name in (None, "Monarch"):
        noisy = add_noise(clean, 0.1, name, support)
        assert torch.equal(noisy != 0, support.expand_as(noisy))
    # Elsewhere it is the noise without a support.
    everywhere = add_noise(clean, 0.1, "Monarch")
    assert torch.equal(add_noise(clean, 0.1, "Monarch", support), everywhere * support)


def test_a_sensing_model_gives_noise_the_support_of_its_operator():
    mask = masks.cartesian((8, 12), 0.4)
    network = LGMNet(D=1, dim=2, dimf=2, scales=1)
    image = torch.rand(2, 1, 8, 12)
    noisy = SensingModel(FourierMask(mask), network, 0.1).measure(image, "Monarch")
    assert torch.equal(noisy != 0, mask.expand_as(noisy))
    blocks = SensingModel(BlockSampling(matrices.xavier(5, 16), 4), network, 0.1)
    expected = add_noise(blocks.operator(image), 0.1, "Monarch")
    assert torch.equal(blocks.measure(image, "Monarch"), expected)


def test_two_threads_with_different_phi_do_not_disturb_each_other():
    """The public code keeps Φ in a module global; here nothing is shared."""
    network = LGMNet(D=1, dim=2, dimf=2, scales=2).eval()
    models = [SensingModel(BlockSampling(matrices.xavier(m, 1024)), network) for m in (20, 60)]
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        expected = [model(image).image for model in models]
    wrong = []

    def work(k):
        for _ in range(10):
            with torch.no_grad():
                if not torch.equal(models[k](image).image, expected[k]):
                    wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
