"""NaN and infinity are named where they enter; threads change results by rounding alone."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lgmnet.config import ConfigError
from lgmnet.operators.matrices import load_matrix
from lgmnet.runtime import Runtime
from lgmnet.training import gradients
from lgmnet.training.loop import train
from lgmnet.training.saver import NonFiniteLoss
from lgmnet.weights import saved
from lgmnet.weights.files import CheckpointError
from lgmnet.weights.measurement import load_measurement, measure_image, save_measurement
from tests.conftest import smooth_image, tiny_config
from tests.test_training import final

CPU = Runtime(torch.device("cpu"))
BAD = [np.nan, np.inf, -np.inf]
# Largest difference between runs with one and more threads, in units of the largest weight.
THREADS_TOLERANCE = 1e-4


def write_npz(path, matrix):
    np.savez(path, phi=matrix)


def write_mat(path, matrix):
    from scipy.io import savemat

    savemat(path, {"phi": matrix})


WRITERS = {
    ".npy": np.save,
    ".npz": write_npz,
    ".mat": write_mat,
    ".safetensors": lambda path, matrix: save_file({"phi": matrix}, path),
}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("suffix", WRITERS)
def test_a_matrix_with_no_number_is_refused_by_name(suffix, value, tmp_path):
    matrix = np.eye(8, 64)
    matrix[3, 5] = value
    WRITERS[suffix](tmp_path / f"bad{suffix}", matrix)
    with pytest.raises(ValueError, match=rf"bad\{suffix} contains NaN or infinity"):
        load_matrix(tmp_path / f"bad{suffix}")


@pytest.mark.parametrize("value", BAD)
def test_a_measurement_with_no_number_is_refused_by_name(value, tmp_path, weights):
    measured = measure_image(saved.load(weights), smooth_image(40, 50), "x")
    values = measured.values.clone()
    values[0, 1, 0, 0] = value
    save_measurement(tmp_path / "bad.safetensors", measured._replace(values=values))
    with pytest.raises(CheckpointError, match=r"bad\.safetensors holds values that are not finite"):
        load_measurement(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("value", BAD)
def test_a_phi_with_no_number_starts_no_run(value, image_folder, tmp_path):
    matrix = np.eye(103, 1024)
    matrix[3, 5] = value
    np.save(tmp_path / "phi.npy", matrix)
    config = tiny_config(image_folder, sampling={"phi_init": str(tmp_path / "phi.npy")})
    with pytest.raises(
        ConfigError, match=r"sampling.phi_init: .*phi\.npy contains NaN or infinity"
    ):
        train(config, tmp_path / "run", CPU)


@pytest.mark.parametrize("value", BAD)
def test_a_gradient_with_no_number_is_named_by_step_and_samples(
    value, image_folder, tmp_path, monkeypatch
):
    original, calls = gradients.backward, []

    def spoiled(model, *arguments):
        terms = original(model, *arguments)
        calls.append(1)
        if len(calls) == 3:
            next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = value
        return terms

    monkeypatch.setattr(gradients, "backward", spoiled)
    with pytest.raises(NonFiniteLoss, match=r"step 3: loss .*samples 8 to 11 of seed 2023"):
        train(tiny_config(image_folder), tmp_path / "run", CPU)
    assert not (tmp_path / "run" / "last.pt").exists()


def trained_with(threads, image_folder, folder, steps):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        train(tiny_config(image_folder, training={"steps_per_epoch": steps}), folder, CPU)
    finally:
        torch.set_num_threads(before)
    return final(folder)


@pytest.mark.parametrize(
    ("counts", "steps"), [([2], 2), pytest.param([2, 3], 6, marks=pytest.mark.long)]
)
def test_threads_change_a_run_by_rounding_alone(counts, steps, image_folder, tmp_path):
    one = trained_with(1, image_folder, tmp_path / "1", steps)
    for threads in counts:
        other = trained_with(threads, image_folder, tmp_path / str(threads), steps)
        for name in one:
            difference = (one[name] - other[name]).abs().max() / one[name].abs().max().clamp_min(1)
            assert difference < THREADS_TOLERANCE, name


@pytest.mark.parametrize(("threads", "steps"), [(1, 2), pytest.param(2, 6, marks=pytest.mark.long)])
def test_the_same_seed_is_the_same_run_to_the_bit(threads, steps, image_folder, tmp_path):
    one, two = (trained_with(threads, image_folder, tmp_path / name, steps) for name in "ab")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
