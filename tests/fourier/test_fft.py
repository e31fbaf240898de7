"""Transforms are centred on pixel n // 2, invert each other, and are unitary where they say so."""

import numpy as np
import pytest
import torch

from parhelion.fourier.fft import as_tensor, fft_threads, irfft2, irfft3, rfft2, rfft3


@pytest.mark.parametrize("shape", [(6, 6), (7, 7), (5, 8)])
def test_a_point_at_the_centre_has_a_flat_transform(shape):
    image = np.zeros(shape, np.float32)
    image[shape[0] // 2, shape[1] // 2] = 1
    np.testing.assert_allclose(rfft2(image), 1, atol=1e-6)


@pytest.mark.parametrize("unitary", [False, True])
@pytest.mark.parametrize("n", [8, 9])
def test_backward_inverts_forward(n, unitary):
    data = np.random.default_rng(0).normal(size=(2, n, n, n)).astype(np.float32)
    np.testing.assert_allclose(
        irfft3(rfft3(data, unitary=unitary), (n, n, n), unitary=unitary), data, atol=1e-5
    )
    np.testing.assert_allclose(irfft2(rfft2(data, unitary=unitary), (n, n), unitary=unitary), data, atol=1e-5)


def test_agrees_with_numpy_on_centred_data():
    data = np.random.default_rng(1).normal(size=(7, 6))
    np.testing.assert_allclose(rfft2(data), np.fft.rfft2(np.fft.ifftshift(data)), atol=1e-12)


def test_white_noise_has_unit_power_per_component_when_unitary():
    noise = np.random.default_rng(2).normal(size=(200, 16, 16)).astype(np.float32)
    assert abs(np.mean(np.abs(rfft2(noise, unitary=True)) ** 2) - 1) < 0.02


def test_kind_of_array_comes_back_and_input_is_left_alone():
    tensor = torch.ones(4, 4)
    assert isinstance(rfft2(tensor), torch.Tensor)
    half = np.arange(16, dtype=np.float16).reshape(4, 4)
    half.setflags(write=False)
    assert isinstance(rfft2(half), np.ndarray)
    swapped = np.arange(16, dtype=">f4").reshape(4, 4)[::-1]
    np.testing.assert_array_equal(as_tensor(swapped).numpy(), swapped.astype(np.float32))


def test_thread_count_is_restored():
    before = torch.get_num_threads()
    with fft_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
