"""Where to compute: a device by its name, or the best there is."""

from __future__ import annotations

import torch


def find_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; None: a GPU if torch sees one, otherwise the CPU.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is unknown: cpu, cuda, cuda:1, mps ({error})") from None
    if (found.type == "cuda" and not torch.cuda.is_available()) or (found.type == "mps" and not _has_mps()):
        raise ValueError(f"device {device!r}: this machine has no {found.type} that torch can use")
    return found


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
