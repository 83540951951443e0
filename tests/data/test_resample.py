"""Resampling agrees with SciPy's and with the sum written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from data.resample import resample
from tests.data.media_files import tone

RATIOS = [(160, 441), (1, 3), (2, 1), (320, 441), (640, 441), (1, 24), (16, 1), (1999, 1998), (80, 189), (401, 2000), (6, 4)]


@pytest.mark.parametrize(("up", "down"), RATIOS)
@pytest.mark.parametrize("length", [1, 7, 441, 30_011])
def test_equals_scipy(up, down, length):
    wave = np.random.default_rng(up + length).normal(size=length).astype(np.float32)
    ours = resample(wave, up, down)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, resample_poly(wave.astype(np.float64), up, down), atol=2e-6 * np.abs(wave).max())


def test_equals_the_sum_written_out():
    up, down, wave = 3, 2, np.random.default_rng(0).normal(size=20).astype(np.float32)
    reach = 10 * max(up, down)
    offsets = range(-reach, reach + 1)
    window = np.kaiser(2 * reach + 1, 5.0)
    taps = {i: window[i + reach] * np.sinc(i / max(up, down)) for i in offsets}
    scale = up / sum(taps.values())
    expected = [sum(x * taps.get(n * down - m * up, 0.0) for m, x in enumerate(wave)) * scale for n in range(30)]
    np.testing.assert_allclose(resample(wave, up, down), expected, atol=1e-6)


def test_a_tone_above_the_new_nyquist_frequency_is_gone_and_one_below_is_kept():
    low, high = tone(1000, 48_000, 1.0), tone(11_000, 48_000, 1.0)
    inner = slice(500, -500)
    np.testing.assert_allclose(resample(low, 1, 3)[inner], tone(1000, 16_000, 1.0)[inner], atol=1e-3)
    assert np.abs(resample(high, 1, 3)[inner]).max() < 1e-3


@settings(max_examples=60, deadline=None)
@given(up=st.integers(1, 300), down=st.integers(1, 300), length=st.integers(0, 400))
def test_length_is_that_of_the_new_rate(up, down, length):
    assert len(resample(np.zeros(length, np.float32), up, down)) == -(-length * up // down)


def test_a_factor_below_one_is_refused():
    with pytest.raises(ValueError, match=r"up, down: must be at least 1, received 0 and 3"):
        resample(np.zeros(4, np.float32), 0, 3)
