"""Checkpoints: written atomically, read without running code, refused by another training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from wsi_magnet.errors import TrainingError
from wsi_magnet.storage.atomic import atomic_file
from wsi_magnet.storage.errors import storage_errors

FORMAT = "wsi-magnet-checkpoint-1"


def save_checkpoint(path: Path, states: dict[str, Any], fingerprint: str) -> None:
    """Replace a checkpoint at once; it stays there after a power cut. Raises StoreError."""
    with storage_errors(path), atomic_file(path) as file:
        torch.save({"format": FORMAT, "fingerprint": fingerprint, **states}, file)


def load_checkpoint(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Read a checkpoint, tensors on the CPU; None where there is none. Raises TrainingError for another training's."""
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found, kind = saved["fingerprint"], saved["format"]
    except OSError as error:
        raise TrainingError(f"checkpoint {path} cannot be read: {error.strerror or error}") from None
    except Exception:
        # A file of another kind ends in whatever its bytes lead to: KeyError, EOFError, RuntimeError and more.
        raise TrainingError(f"checkpoint {path} is damaged; delete it, or start again with --restart") from None
    if kind != FORMAT or found != fingerprint:
        raise TrainingError(
            f"checkpoint {path} belongs to another configuration or other data; start again with --restart, or choose "
            "another output with -o"
        )
    return dict(saved)
