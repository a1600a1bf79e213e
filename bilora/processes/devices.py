"""Which device a run uses."""

import torch

from bilora.errors import SettingsError


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``, or for ``auto`` the best one that this machine has."""
    # Asked here and not left to torch, whose own error comes from the first tensor and names no setting.
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind = name.split(":")[0]
    if kind not in available:
        raise SettingsError(f"device is {name!r}; allowed: auto, cpu, cuda, cuda:N, mps")
    if not available[kind]:
        allowed = ", ".join(device for device, there in available.items() if there)
        raise SettingsError(f"device is {name!r}, which this machine does not have; here: {allowed} (or auto)")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"device is {name!r}; allowed: auto, cpu, cuda, cuda:N, mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise SettingsError(f"device is {name!r}, but this machine has {count} of them, from cuda:0")
    return device
