"""Blur and downsampling: convention, kernels, settings, bad input."""

import numpy as np
import pytest
import torch
from scipy.io import savemat
from scipy.ndimage import convolve

from lgmnet.build import Source, build_model
from lgmnet.config import ConfigError, config_from_dict
from lgmnet.models import FISTA
from lgmnet.operators import BlurDown, kernels
from lgmnet.runtime import Runtime
from lgmnet.training import gradients


def uneven(height=5, width=3):
    """A kernel without any symmetry."""
    values = torch.arange(1, height * width + 1, dtype=torch.float64).view(height, width) ** 2
    return values / values.sum()


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_it_is_a_circular_convolution_of_which_the_upper_left_pixels_are_kept(scale):
    image = torch.rand(1, 3, 24, 36, dtype=torch.float64)
    expected = np.stack([convolve(c, uneven().numpy(), mode="wrap") for c in image[0].numpy()])
    y = BlurDown(uneven(), scale, channels=3)(image)[0]
    np.testing.assert_allclose(y.numpy(), expected[:, ::scale, ::scale], atol=1e-14)


@pytest.mark.parametrize("negative", [False, True])
def test_lipschitz_is_the_largest_eigenvalue_of_a_dense_matrix(negative):
    kernel = uneven(3, 3)
    if negative:
        kernel = torch.tensor([[-0.2, 0.1, 0.0], [0.1, 1.0, 0.1], [0.0, 0.1, -0.2]]).double()
    operator = BlurDown(kernel, 2).double()
    unit = torch.eye(24 * 24, dtype=torch.float64).view(-1, 1, 24, 24)
    matrix = operator(unit).flatten(1)
    largest = float(torch.linalg.eigvalsh(matrix.T @ matrix).max())
    assert operator.lipschitz() == pytest.approx(largest, rel=1e-9)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_bicubic_interpolation_keeps_pixels_and_a_parabola(scale):
    """Cubic convolution with a = -1/2 gives polynomials of degree 2 exactly; within the border."""
    operator = BlurDown(torch.ones(1, 1), scale)
    columns = torch.arange(12 * scale, dtype=torch.float64)
    image = (0.3 + 0.02 * columns + 0.001 * columns**2).expand(1, 1, 8 * scale, -1)
    enlarged = operator.bicubic(operator(image))
    inside = slice(scale, 10 * scale)
    torch.testing.assert_close(enlarged[..., inside], image[..., inside])
    assert torch.equal(enlarged[..., ::scale, ::scale], operator(image))


@pytest.mark.shared
def test_the_kernels_by_formula_are_those_of_the_file(reference):
    held = kernels.load_kernels(reference.parent / "kernels/kernels_12.mat")
    assert held.shape == (12, 25, 25)
    torch.testing.assert_close(kernels.gaussians(), held[:8], rtol=0, atol=1e-7)


def test_a_gaussian_has_its_variances_and_direction():
    kernel = kernels.gaussian(6.0, 2.0, 45.0, side=41)
    steps = torch.arange(41).double() - 20
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    found = [float((kernel * a * b).sum()) for a, b in ((y, y), (x, x), (x, y))]
    assert found == pytest.approx([4.0, 4.0, 2.0], abs=1e-4)
    flat = kernels.gaussian(6.0, 2.0, 0.0, side=41)
    assert float((flat * x * x).sum()) == pytest.approx(6.0, abs=1e-4)


def test_a_cell_array_of_kernels_of_several_sizes_is_read(tmp_path):
    cells = np.empty((1, 2), dtype=object)
    cells[0, 0], cells[0, 1] = uneven(3, 3).numpy(), uneven(5, 7).numpy()
    savemat(tmp_path / "k.mat", {"kernels": cells})
    found = kernels.load_kernels(tmp_path / "k.mat")
    assert found.shape == (2, 5, 7)
    torch.testing.assert_close(found[0, 1:4, 2:5], uneven(3, 3).float())
    assert float(found[0].sum()) == pytest.approx(1)
    np.save(tmp_path / "one.npy", uneven().numpy())
    assert torch.equal(kernels.load_kernels(tmp_path / "one.npy")[0], uneven().float())


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (uneven() * 1.01, "sum to 1.01, expected 1"),
        (uneven() * torch.nan, "sum to nan, expected 1"),
        (uneven(4, 3), "has 4 x 3 pixels, expected odd numbers"),
        (torch.ones(5), r"the kernel has shape \(5,\), expected \(h, w\)"),
    ],
)
def test_what_is_no_kernel_is_refused(kernel, message):
    with pytest.raises(ValueError, match=message):
        BlurDown(kernel)


@pytest.mark.shared
def test_cells_of_a_matlab_73_file_are_read(reference):
    """Levin's eight kernels of camera shake; h5py shows MATLAB's columns as rows."""
    h5py = pytest.importorskip("h5py")
    path = reference.parent / "kernels/Levin09.mat"
    found = kernels.load_kernels(path)
    assert len(found) == 8
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(8), rtol=0, atol=1e-3)
    with h5py.File(path) as file:
        first = np.array(file[file["kernels"][0, 0]]).T
    top, left = ((side - own) // 2 for side, own in zip(found.shape[1:], first.shape, strict=True))
    inside = found[0, top : top + first.shape[0], left : left + first.shape[1]]
    np.testing.assert_allclose(inside.numpy(), first, atol=1e-7)


def test_bicubic_kernels_of_authors_may_be_rounded():
    BlurDown(uneven() * 0.9999)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 25, 24), "image height 25 is not a multiple of 3"),
        ((1, 1, 3, 24), "the kernel has 5 x 3 pixels .* the image only 3 x 24"),
        ((1, 3, 24, 24), r"expected \(batch, 1, H, W\)"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        BlurDown(uneven(), 3)(torch.rand(shape))


def test_a_measurement_or_setting_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"expected \(batch, 3, H/2, W/2\)"):
        BlurDown(uneven(), 2, channels=3).adjoint(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="the kernel has 5 x 3 pixels"):
        BlurDown(uneven(), 2).adjoint(torch.rand(1, 1, 2, 8))
    with pytest.raises(ValueError, match="scale is 5, expected 1, 2, 3 or 4"):
        BlurDown(uneven(), 5)
    with pytest.raises(ValueError, match="channels is 2"):
        BlurDown(uneven(), 2, channels=2)
    with pytest.raises(ValueError, match="weight of a quadratic step is 0"):
        BlurDown(uneven(), 2).solve(torch.rand(1, 1, 8, 8), 0, torch.rand(1, 1, 8, 8))


def test_fingerprints_tell_kernel_scale_and_channels():
    two = torch.stack([uneven(), uneven().flip(0)])
    operators = [BlurDown(two, 2), BlurDown(two, 3), BlurDown(two, 2, channels=3)]
    prints = [operator.fingerprint() for operator in (*operators, operators[0].choose(1))]
    assert len(set(prints)) == 4
    assert BlurDown(two[1], 2).fingerprint() == prints[3]


def test_every_image_of_a_batch_may_have_its_own_kernel():
    """All methods give what one operator for every image gives; features are those of an image."""
    whole = BlurDown(torch.stack([uneven(), uneven().flip(0), uneven().flip(1)]), 2, 3).double()
    numbers = (2, 0, 0, 1)
    each = whole.each(numbers)
    x, z = torch.rand(2, 4, 3, 12, 16, dtype=torch.float64)
    y = each(x)

    def singly(method, *tensors):
        rows = [
            getattr(whole.choose(number), method)(*(t[k : k + 1] for t in tensors))
            for k, number in enumerate(numbers)
        ]
        return torch.cat(rows)

    torch.testing.assert_close(y, singly("forward", x))
    torch.testing.assert_close(each.adjoint(y), singly("adjoint", y))
    torch.testing.assert_close(each.project(x, y), singly("project", x, y))
    solved = [
        whole.choose(number).solve(z[k : k + 1], 0.1, x[k : k + 1])
        for k, number in enumerate(numbers)
    ]
    torch.testing.assert_close(each.solve(z, 0.1, x), torch.cat(solved))
    features = torch.cat([x, z], dim=1)
    torch.testing.assert_close(each.gram(features), singly("gram", features))
    torch.testing.assert_close(each.part(1, 2)(x[1:3]), y[1:3])
    assert each.lipschitz() == max(whole.choose(k).lipschitz() for k in range(3))
    assert whole.choose(1).part(1, 2).chosen == 1
    with pytest.raises(ValueError, match="the batch has 3 images, but the operator 4 kernels"):
        each(x[:3])


def test_y_may_be_rounded_to_8_bits_before_noise_is_added():
    plain, rounded, detector = (
        build_model(
            config_from_dict(
                {"model": {"name": "bicubic"}, "sampling": {"operator": "blur_down", **changes}}
            )
        )
        for changes in ({}, {"lr_quantise": True}, {"quantise": 8, "clip": [0, 1]})
    )
    image = torch.rand(1, 3, 32, 32)
    y, stored = plain.measure(image), rounded.measure(image)
    assert 0 < (y - stored).abs().max() <= 0.5 / 255 + 1e-6
    torch.testing.assert_close((255 * stored).round() / 255, stored)
    torch.testing.assert_close(detector.measure(image), stored)
    assert not torch.equal(detector.measure(2 * image - 0.5), rounded.operator(2 * image - 0.5))
    torch.testing.assert_close(detector.measure(2 * image - 0.5), rounded.measure(2 * image - 0.5))
    assert torch.equal(rounded.operator(image), plain.operator(image))
    rounded.noise_std = plain.noise_std = 0.1
    difference = rounded.measure(image, "name") - plain.measure(image, "name")
    torch.testing.assert_close(difference, stored - y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_a_batch_keep_the_kernels_of_their_samples(parts):
    """Gradients of a training step, against those of four steps with one crop each."""
    sampling = settings(scale=2)
    config = config_from_dict(
        {
            "model": {"name": "usrnet", "stages": 2, "widths": [4, 8]},
            "sampling": {"operator": "blur_down", "scale": 2},
            "training": {"batch_size": 4, "accumulate": parts},
        }
    )
    torch.manual_seed(0)
    model = build_model(config)
    operator = sampling.draw(model.operator, np.random.default_rng(3), samples=4)
    assert len(operator.kernels.unique(dim=0)) > 1
    batch = torch.randint(256, (4, 3, 26, 26), dtype=torch.uint8)
    losses = []
    for k in range(4):
        target = batch[k : k + 1] / 255
        found = model(target, model.operator.variant(kernels=operator.kernels[k : k + 1]))
        losses.append((found.image - target).square().mean())
    torch.stack(losses).mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    cpu = Runtime(torch.device("cpu"))
    gradients.backward(model, model, batch, operator, config.training, cpu)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)


def settings(**changes):
    tree = {"model": {"name": "fista"}, "sampling": {"operator": "blur_down", **changes}}
    return config_from_dict(tree).sampling


def test_every_kernel_of_the_settings_is_a_condition():
    sampling = settings(scale=3, kernel_numbers=[2, 7])
    operator = sampling.make(Source())
    assert sampling.conditions == ("x3_k2", "x3_k7")
    assert (sampling.label, settings().label) == ("x3_k2-k7", "x2_k1-k8")
    assert settings(kernel_numbers=[7]).label == "x2_k7"
    assert torch.equal(sampling.at(operator, "x3_k7").kernel, kernels.gaussians()[6])
    with pytest.raises(ConfigError, match="the condition is 'x3_k1', expected one of x3_k2, x3_k7"):
        sampling.at(operator, "x3_k1")
    random = np.random.default_rng(0)
    drawn = sampling.draw(operator, random, samples=20)
    assert torch.equal(drawn.kernels.unique(dim=0), operator.kernels.unique(dim=0))
    assert operator.picture().shape == (25, 25)
    assert operator.picture().max() == 1


def test_each_setting_reaches_the_operator(tmp_path):
    np.save(tmp_path / "k.npy", uneven().numpy())
    changed = {"scale": 4, "channels": 1, "noise_std": 0.1, "kernels": str(tmp_path / "k.npy")}
    operator = settings(kernel_numbers=[1], **changed).make(Source())
    assert (operator.scale, operator.channels, operator.noise_std) == (4, 1, 0.1)
    assert torch.equal(operator.kernels, uneven().float()[None])
    assert settings().sizes() == settings().make(Source()).sizes() == {"image_channels": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 5}, "sampling.scale is 5, expected 1, 2, 3 or 4"),
        ({"channels": 2}, "sampling.channels is 2"),
        ({"kernel_numbers": [0]}, r"sampling.kernel_numbers is \[0\], expected different"),
        ({"kernel_numbers": [2, 2]}, r"is \[2, 2\], expected different"),
        ({"kernel_numbers": [9]}, "asks for kernel 9, but gaussian has 8; name some of 1 to 8"),
        ({"kernels": "motion"}, "sampling.kernels is 'motion', expected a file, or gaussian"),
        ({"kernels": "none.mat"}, "sampling.kernels: there is no file of kernels at none.mat"),
    ],
)
def test_settings_that_cannot_be_meant_are_explained(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(**changes).make(Source())


def test_a_file_with_a_bad_kernel_names_it(tmp_path):
    np.save(tmp_path / "k.npy", torch.stack([uneven(), 2 * uneven()]).numpy())
    with pytest.raises(ConfigError, match="kernel 2: the values of the kernel sum to 2"):
        settings(kernels=str(tmp_path / "k.npy"), kernel_numbers=[1]).make(Source())


def test_total_variation_rebuilds_the_channels_together():
    """FISTA takes any operator; it comes closer to a colour edge than nearest pixels do."""
    image = torch.zeros(1, 3, 24, 24)
    image[:, 0, :, 9:] = 0.8
    image[:, 2, 7:] = 0.5
    operator = BlurDown(kernels.gaussian(1.0, 1.0, 0.0, side=7).float(), 2, channels=3)
    y = operator(image)
    rebuilt = FISTA(prior="tv", iterations=100, weight=1e-3)(y, operator).image
    nearest = torch.nn.functional.interpolate(y, scale_factor=2)
    errors = [float((x - image).square().mean()) for x in (rebuilt, nearest)]
    assert errors[0] < 0.5 * errors[1]
