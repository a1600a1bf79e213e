"""Which device a run uses, and what it computes in."""

from collections.abc import Mapping

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


def has_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16; without, a CPU takes many times as long."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Not every torch of the allowed range can say it of a CPU, and what is not known to be there is not relied on.
    known: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return any(known.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))
