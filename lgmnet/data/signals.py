"""Synthetic signals like an electrocardiogram (ECG), stored as images one block wide.

No patient was measured. Each heartbeat is a sum of five Gaussian bumps, the waves P, Q, R, S and T.
This is the idea of P. E. McSharry et al., IEEE Trans. Biomedical Engineering 50(3), 2003; their
differential equations are not solved here, and all numbers below are our choices.
"""

import numpy as np

# Samples per second.
SAMPLING_RATE = 360
# P, Q, R, S, T: centre before or after R in seconds at 60 beats per minute, width in seconds, mV.
WAVES = np.array([
    (-0.18, 0.025, 0.15), (-0.035, 0.010, -0.10), (0.0, 0.011, 1.1), (0.035, 0.012, -0.25),
    (0.28, 0.050, 0.30),
])  # fmt: skip
# Values of an image: 0 is the lowest and 1 the highest voltage, in mV.
LOWEST, HIGHEST = -1.0, 2.0


def ecg(samples: int, seed: int, number: int) -> np.ndarray:
    """Signal ``number`` of a seed, ``(samples,)`` float64, in mV.

    The rate is 50 to 110 beats per minute and varies from beat to beat by 5 % (standard deviation).
    Waves differ between signals by up to 25 %, and between beats by 3 %. The baseline moves by up
    to 0.1 mV with the breath.
    """
    random = np.random.default_rng((seed, number))
    seconds = np.arange(samples) / SAMPLING_RATE
    period = 60 / random.uniform(50, 110)
    waves = WAVES * random.uniform(0.75, 1.25, WAVES.shape)
    breath = random.uniform(0.2, 0.4) * seconds + random.uniform()
    signal = random.uniform(0, 0.1) * np.sin(2 * np.pi * breath)
    beat = random.uniform(-1, 0) * period
    while beat < seconds[-1] + 1:
        now = max(0.5, random.normal(1, 0.05)) * period
        signal += heartbeat(seconds - beat, now, waves * random.normal(1, 0.03, waves.shape))
        beat += now
    return signal


def heartbeat(seconds: np.ndarray, period: float, waves: np.ndarray) -> np.ndarray:
    """One beat in mV; the time is 0 at its R wave. In a fast heart P and T come closer to R.

    Args:
        waves: centre, width and height of the five waves, ``(5, 3)``, as in `WAVES`.
    """
    centres, widths, heights = waves.T[..., None]
    distance = (seconds - centres * np.sqrt(period)) / widths
    return (heights * np.exp(-np.square(distance) / 2)).sum(0)


def fold(signals: np.ndarray, width: int) -> np.ndarray:
    """Signals in mV ``(count, samples)`` -> images ``(count, samples / width, width)`` in [0, 1].

    Rows follow each other in time. So a block of ``width x width`` pixels is a piece of width²
    samples.

    Raises:
        ValueError: the samples do not fill whole blocks, or a value is outside the range in mV.
    """
    if width < 1 or signals.shape[1] % width**2:
        raise ValueError(
            f"{signals.shape[1]} samples are not in whole blocks of {width} x {width} samples"
        )
    if signals.min() < LOWEST or signals.max() > HIGHEST:
        raise ValueError(
            f"the signals have {signals.min():g} to {signals.max():g} mV, expected {LOWEST:g} to "
            f"{HIGHEST:g} mV"
        )
    return ((signals - LOWEST) / (HIGHEST - LOWEST)).reshape(len(signals), -1, width)


def unfold(images: np.ndarray) -> np.ndarray:
    """Images ``(count, H, W)`` in [0, 1] -> signals ``(count, H·W)`` in mV."""
    return images.reshape(len(images), -1) * (HIGHEST - LOWEST) + LOWEST


def prd(rebuilt: np.ndarray, signal: np.ndarray) -> float:
    """Percent root-mean-square difference, 100 ‖x̂ − x‖ / ‖x − mean(x)‖; 0 is perfect.

    Without the mean in the denominator the offset of the recorder would make the number small.

    Raises:
        ValueError: the shapes differ, or the signal is constant.
    """
    if rebuilt.shape != signal.shape or np.ptp(signal) == 0:
        raise ValueError(
            f"the signals have shapes {rebuilt.shape} and {signal.shape}, expected equal shapes "
            "and a signal that is not constant"
        )
    spread = np.linalg.norm(signal - signal.mean())
    return float(100 * np.linalg.norm(rebuilt - signal) / spread)


def snr(rebuilt: np.ndarray, signal: np.ndarray) -> float:
    """Signal-to-noise ratio in dB, −20 log₁₀(`prd` / 100); infinite if nothing differs."""
    difference = prd(rebuilt, signal)
    return float(-20 * np.log10(difference / 100)) if difference else float("inf")
