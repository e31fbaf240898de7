"""Which device a run computes on."""

import platform

from parhelion.errors import ResourceError


def resolve(device: str) -> tuple[str, ...]:
    """Torch device names for what the user asked for: ``auto``, ``cpu``, ``cuda`` or ``cuda:0,1``.

    ``auto`` takes every GPU, or the CPU where there is none. Raises ResourceError where a GPU was asked
    for and is not there.
    """
    if device == "cpu":
        return ("cpu",)
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return tuple(f"cuda:{i}" for i in range(count)) or ("cpu",)
    if count == 0:
        raise ResourceError(
            f"--device {device}: no usable GPU found (torch {torch.__version__}"
            f"{', built without CUDA' if torch.version.cuda is None else ''}); use --device cpu or auto"
        )
    if device == "cuda":
        return tuple(f"cuda:{i}" for i in range(count))
    numbers = [int(n) for n in device.removeprefix("cuda:").split(",")]
    missing = [n for n in numbers if n >= count]
    if missing:
        raise ResourceError(
            f"--device {device}: GPU {missing[0]} does not exist, this machine has GPU 0 to {count - 1}"
        )
    return tuple(f"cuda:{n}" for n in numbers)


def describe(devices: tuple[str, ...], threads: int) -> str:
    """What a run says about where it computes."""
    if devices == ("cpu",):
        return f"CPU ({_processor()}, {threads} thread{'s' if threads > 1 else ''})"
    import torch

    return ", ".join(f"{torch.cuda.get_device_name(name)} ({name})" for name in devices)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
