"""Devices are what the user asked for, or an error that says what there is."""

import pytest

from parhelion.errors import ResourceError
from parhelion.run import devices


@pytest.fixture
def gpus(monkeypatch):
    def there_are(count: int) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)

    return there_are


@pytest.mark.parametrize(
    ("asked", "count", "found"),
    [
        ("cpu", 2, ("cpu",)),
        ("auto", 0, ("cpu",)),
        ("auto", 2, ("cuda:0", "cuda:1")),
        ("cuda", 2, ("cuda:0", "cuda:1")),
        ("cuda:1", 2, ("cuda:1",)),
        ("cuda:0,2", 3, ("cuda:0", "cuda:2")),
    ],
)
def test_devices_found(gpus, asked: str, count: int, found: tuple[str, ...]) -> None:
    gpus(count)
    assert devices.resolve(asked) == found


@pytest.mark.parametrize(
    ("asked", "count", "said"),
    [("cuda", 0, "no usable GPU"), ("cuda:0", 0, "no usable GPU"), ("cuda:0,2", 2, "GPU 2 does not exist")],
)
def test_what_is_not_there_is_an_error(gpus, asked: str, count: int, said: str) -> None:
    gpus(count)
    with pytest.raises(ResourceError, match=said):
        devices.resolve(asked)


def test_cpu_is_described_with_its_threads() -> None:
    assert devices.describe(("cpu",), 1).endswith("1 thread)")
    assert devices.describe(("cpu",), 8).endswith("8 threads)")
