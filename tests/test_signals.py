"""Signals: synthetic ECG, their wavelets, their scores, and the commands of docs/signals.md."""

import re
import shlex

import numpy as np
import pytest
import torch

from lgmnet.data import stacks
from lgmnet.data.signals import LOWEST, SAMPLING_RATE, WAVES, ecg, fold, heartbeat, prd, snr, unfold
from lgmnet.models.ista_transforms import SCALING_FILTERS
from lgmnet.models.signal_wavelet import SignalWavelet
from lgmnet.operators import BlockSampling, matrices
from tests.conftest import PROJECT
from tests.test_scripts import run_main

PAGE = PROJECT / "docs" / "signals.md"


def test_signals_depend_on_seed_and_number_alone():
    np.testing.assert_array_equal(ecg(500, 1, 2), ecg(500, 1, 2))
    assert not np.array_equal(ecg(500, 1, 2), ecg(500, 1, 3))
    assert not np.array_equal(ecg(500, 1, 2), ecg(500, 2, 2))


@pytest.mark.parametrize("number", range(6))
def test_a_signal_has_50_to_110_beats_per_minute(number):
    """R waves are counted as runs above half of the largest value."""
    high = ecg(60 * SAMPLING_RATE, 7, number)
    high = high > high.max() / 2
    beats = np.count_nonzero(high[1:] & ~high[:-1]) + high[0]
    assert 45 <= beats <= 120


def test_a_heartbeat_is_a_sum_of_bumps():
    found = heartbeat(np.array([0.0, 0.28]), 1.0, WAVES)
    expected = [
        sum(h * np.exp(-0.5 * ((t - c) / w) ** 2) for c, w, h in WAVES) for t in (0.0, 0.28)
    ]
    np.testing.assert_allclose(found, expected)
    assert found[0] > 1
    assert found[1] == pytest.approx(0.3, abs=0.01)


def test_a_block_of_a_folded_signal_is_a_piece_of_it():
    signals = np.stack([ecg(3 * 64, 0, k) for k in range(2)])
    images = fold(signals, 8)
    assert images.shape == (2, 24, 8)
    np.testing.assert_allclose(unfold(images), signals)
    operator = BlockSampling(matrices.gaussian(5, 64), 8, learned=False).double()
    y = operator(torch.from_numpy(images[:, None]))
    piece = (signals[1, 64:128] - LOWEST) / 3
    np.testing.assert_allclose(y[1, :, 1, 0].numpy(), operator.matrix.numpy() @ piece)


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        (np.zeros((1, 65)), "65 samples are not in whole blocks of 8 x 8"),
        (np.full((1, 64), 3.0), "3 mV, expected -1 to 2 mV"),
    ],
)
def test_signals_that_do_not_fit_are_refused(signals, message):
    with pytest.raises(ValueError, match=message):
        fold(signals, 8)


def test_prd_and_snr_by_hand():
    signal = np.array([4.0, 6.0])  # without its mean: -1, 1
    assert prd(signal + 0.1, signal) == pytest.approx(10)
    assert snr(signal + 0.1, signal) == pytest.approx(20)
    assert snr(signal, signal) == np.inf
    for other, truth in ((signal[:1], signal), (np.ones(2), np.ones(2))):
        with pytest.raises(ValueError, match="expected equal shapes and a signal that is not"):
            prd(other, truth)


@pytest.mark.parametrize("name", SCALING_FILTERS)
def test_the_wavelets_of_a_signal_are_orthonormal(name):
    prior = SignalWavelet(name, 3).double()
    image = torch.randn(2, 1, 4, 8, dtype=torch.float64)
    bands = prior.analysis(prior.signal(image))
    assert [band.shape[3] for band in bands] == [4, 4, 8, 16]
    energy = sum(band.square().sum() for band in bands)
    torch.testing.assert_close(energy, image.square().sum(), rtol=1e-6, atol=0)
    back = prior.synthesis(bands).reshape(image.shape)
    torch.testing.assert_close(back, image, rtol=0, atol=1e-6)


def test_haar_details_of_a_signal_go_on_from_row_to_row():
    """Rows of three samples: the pairs are (0, 1), (2, 3), (4, 5)."""
    prior = SignalWavelet("haar", 1)
    image = torch.tensor([0.0, 1, 5, 5, 2, 2]).reshape(1, 1, 2, 3)
    _, detail = prior.analysis(prior.signal(image))
    torch.testing.assert_close(detail.abs().ravel(), torch.tensor([0.5**0.5, 0, 0]))
    assert float(prior.largest(image)) == pytest.approx(0.5**0.5)


def test_the_prior_keeps_the_mean_and_shrinks_the_rest():
    prior, image = SignalWavelet("db4", 3, shifts=4), torch.rand(3, 2, 4, 16)
    none, small, huge = (prior(image, torch.full((3, 1, 1, 1), t)) for t in (0.0, 0.1, 100.0))
    torch.testing.assert_close(none, image)
    assert image.var() > small.var() > huge.var()
    torch.testing.assert_close(huge.mean((2, 3)), image.mean((2, 3)))


def test_shifts_are_those_of_the_signal():
    image, threshold = torch.rand(2, 1, 4, 8), torch.full((2, 1, 1, 1), 0.2)
    plain = SignalWavelet("db4", 2)
    flat = image.reshape(2, 1, 1, 32)
    shifted = [plain(flat.roll(s, 3), threshold).roll(-s, 3) for s in (0, 2)]
    expected = (sum(shifted) / 2).reshape(image.shape)
    torch.testing.assert_close(SignalWavelet("db4", 2, shifts=2)(image, threshold), expected)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="shifts is 5, expected 1 to 4"):
        SignalWavelet("db4", 2, shifts=5)
    with pytest.raises(ValueError, match="3 x 3 samples is no multiple of 4; set a smaller"):
        SignalWavelet("db4", 2).largest(torch.zeros(1, 1, 3, 3))


def test_the_files_of_the_script_are_read_as_signals(tmp_path, monkeypatch):
    output = tmp_path / "new" / "ecg.npz"
    arguments = ["--count", 2, "--blocks", 2, "--block-size", 8, "--seed", 3, "--output", output]
    assert run_main("scripts/make_signals.py", arguments, monkeypatch) == 0
    images = np.stack([stacks.read(path) for path in stacks.members(output)])
    assert images.shape == (2, 16, 8)
    np.testing.assert_allclose(unfold(images)[1], ecg(128, 3, 1), atol=1e-6)


def test_mistakes_get_one_line(tmp_path, monkeypatch, capsys):
    assert run_main("scripts/make_signals.py", ["--count", 0], monkeypatch) == 1
    assert "make_signals.py: count, blocks, block size and seed are" in capsys.readouterr().err
    np.savez(tmp_path / "x.npz", images=np.zeros((1, 64, 64, 1), np.float32))
    assert run_main("scripts/score_signals.py", ["--data", tmp_path / "x.npz"], monkeypatch) == 1
    assert "expected signals that are one block of 32 samples wide" in capsys.readouterr().err


def test_the_commands_of_the_page_work(tmp_path, monkeypatch, capsys):
    """At small size. The reconstruction is better than the start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LGMNET_DATA", str(tmp_path / "data"))
    block = re.search(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[1]
    commands = [shlex.split(line) for line in block.replace("\\\n", "").splitlines() if line]
    assert [words[1] for words in commands] == [
        "scripts/make_signals.py", "scripts/score_signals.py", "scripts/score_signals.py",
    ]  # fmt: skip
    for _, script, *words in commands:
        if script.endswith("make_signals.py"):
            words += ["--count", "2", "--blocks", "2"]
        else:
            words = shlex.split(re.sub(r"(--seeds 1) 2 3", r"\1 2", " ".join(words)))
            at = words.index("--overrides") + 1
            words[at:at] = ["model.shifts=1", "model.iterations=150"]
            words[words.index("--weights") + 1] = str(PROJECT / "configs/signals.yaml")
        capsys.readouterr()
        assert run_main(script, words, monkeypatch) == 0
    line = re.search(r"^\| mean \(range\) *\|(.*)\|$", capsys.readouterr().out, re.MULTILINE)[1]
    start, _, _, result, *_ = (float(cell.split()[0]) for cell in line.split("|"))
    assert 0 < result < start / 2
    assert (tmp_path / "signals.png").stat().st_size > 1000
