"""Synthetic spectral cubes: their spectra, their edges, and that they depend on the seed."""

import numpy as np
import pytest

from lgmnet.data import synthetic_cubes
from lgmnet.data.images import read_pixels
from lgmnet.data.synthetic_cubes import MATERIALS, cube_of, spectra, write_cubes
from tests.test_scripts import run_main

RANDOM = np.random.default_rng


def test_spectra_are_smooth_and_reach_one():
    drawn = spectra(20, 28, RANDOM(0))
    assert drawn.shape == (20, 28)
    np.testing.assert_allclose(drawn.max(1), 1)
    assert drawn.min() > 0
    assert np.abs(np.diff(drawn, axis=1)).max() < 0.25
    assert np.abs(np.corrcoef(drawn)[np.triu_indices(20, 1)]).min() < 0.2


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_cube_has_the_edges_of_its_photograph(channels):
    """It changes where the photograph does, and nowhere else; black stays black."""
    photo = np.full((12, 10, *channels), 0.8)
    photo[:, 5:] = 0.3
    photo[0] = 0
    cube = cube_of(photo, 8, RANDOM(1))
    assert cube.shape == (12, 10, 8)
    assert not cube[0].any()
    jumps = np.abs(np.diff(cube[1:], axis=1)).max((0, 2))
    assert jumps[4] > 0.05
    assert np.delete(jumps, 4).max() < 1e-12
    assert 0 <= cube.min() <= cube.max() <= 1


def test_a_cube_has_few_materials():
    photo = RANDOM(0).random((20, 20, 3))
    values = np.linalg.svd(cube_of(photo, 28, RANDOM(2)).reshape(400, 28), compute_uv=False)
    assert values[MATERIALS - 1] > 1e-3
    assert values[MATERIALS] < 1e-9 * values[0]


def test_files_hold_a_cube_its_white_and_its_origin(tmp_path):
    paths = write_cubes(tmp_path, 2, (24, 32), bands=6, part="test")
    assert [path.name for path in paths] == ["synthetic_000.npz", "synthetic_001.npz"]
    pixels = read_pixels(paths[0])
    assert pixels.shape == (24, 32, 6)
    assert pixels.dtype == np.float32
    assert 0 <= pixels.min() < pixels.max() <= 1
    with np.load(paths[0]) as held:
        assert str(held["origin"]).startswith("synthetic spectra (seed (0, 0)) over")
    again = write_cubes(tmp_path / "again", 1, (24, 32), bands=6, part="test")
    other = write_cubes(tmp_path / "other", 1, (24, 32), bands=6, part="test", seed=1)
    assert np.array_equal(read_pixels(again[0]), pixels)
    assert not np.array_equal(read_pixels(other[0]), pixels)


def test_a_photograph_that_is_too_small_is_enlarged():
    photo = RANDOM(0).random((10, 15)).astype(np.float32)
    part = synthetic_cubes._crop(photo, (20, 17), RANDOM(0))
    assert part.shape == (20, 17)
    assert 0 <= part.min() <= part.max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count is 0, expected at least 1"),
        ({"size": (0, 8)}, "size is 0"),
        ({"bands": 0}, "bands is 0"),
        ({"part": "all"}, "part is 'all', expected one of train, test"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_cubes(tmp_path, **{"count": 1, "size": (8, 8)} | options)


def test_the_command(tmp_path, monkeypatch, capsys):
    arguments = [tmp_path, "--count", "1", "--size", "8", "9", "--bands", "4"]
    assert run_main("scripts/make_cubes.py", arguments, monkeypatch) == 0
    assert "wrote 1 synthetic cubes" in capsys.readouterr().out
    assert run_main("scripts/make_cubes.py", [tmp_path, "--count", "0"], monkeypatch) == 1
    assert "make_cubes.py: count is 0" in capsys.readouterr().err
