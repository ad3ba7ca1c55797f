"""Conditions for opening a bundle's model: the user's trust, by SHA-256, and onnxruntime. Imports no torch.

TorchScript and torch.export files hold programs; opening one may do whatever its maker wanted. So a bundle with such a
model is opened only where its hash is in the user's list, or came with the task from a client in whose list it is.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.storage.atomic import atomic_file

EXPORTED = "exported"
"""Name of the network whose weights are a model's file."""

RUNNING_FORMS = {"pt2": "a torch.export program", "torchscript": "a TorchScript program"}
"""Forms of models that run code when they are opened; ONNX runs none."""

ONNX_CURE = 'pip install "wsi-magnet[onnx]"'

_HASH = re.compile("[0-9a-f]{64}")


def trust_file() -> Path:
    """The user's list: `wsi-magnet/trusted-models` in the folder of configurations. Raises BundleError."""
    folder = os.environ.get("XDG_CONFIG_HOME")
    try:
        return Path(folder or "~/.config").expanduser() / "wsi-magnet" / "trusted-models"
    except RuntimeError:
        raise BundleError("there is no home folder for the list of trusted models; set XDG_CONFIG_HOME") from None


def trusted_hashes() -> dict[str, str]:
    """Trusted models: notes by hash. Raises BundleError for a list that cannot be read."""
    path = trust_file()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"the list of trusted models, {path}, cannot be read: {error}") from None
    pairs = [line.partition(" ") for line in lines]
    return {sha256: note for sha256, _, note in pairs if _HASH.fullmatch(sha256)}


def trust(sha256: str, note: str, *, forget: bool = False) -> None:
    """Add a model to the list, or take it out. Raises BundleError where the list cannot be written."""
    known = trusted_hashes()
    if forget:
        known.pop(sha256, None)
    else:
        known[sha256] = " ".join(note.split())
    path = trust_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, unique=uuid4().hex) as file:
            file.write("".join(f"{key} {value}\n" for key, value in known.items()).encode())
    except OSError as error:
        raise BundleError(f"the list of trusted models, {path}, cannot be written: {error.strerror or error}") from None


def running_model(spec: BundleSpec) -> str | None:
    """SHA-256 of the model of a bundle from which code would run; None for every other bundle."""
    if spec.network != EXPORTED or spec.network_args.get("form") not in RUNNING_FORMS:
        return None
    return str(spec.network_args.get("sha256"))


def require_runtime(spec: BundleSpec) -> None:
    """Raise BundleError where a bundle needs onnxruntime, and it is not installed here."""
    if spec.network == EXPORTED and spec.network_args.get("form") == "onnx" and find_spec("onnxruntime") is None:
        raise BundleError(f"bundle {spec.name!r} holds an ONNX model; install onnxruntime: {ONNX_CURE}")


def require_trust(spec: BundleSpec, path: Path, given: str | None = None) -> str | None:
    """The hash of a bundle's model, where it is trusted; None for a bundle from which no code runs.

    given: a hash that a client trusts. Raises BundleError for a model that neither it nor the user trusts.
    """
    sha256 = running_model(spec)
    if sha256 is None or sha256 == given or sha256 in trusted_hashes():
        return sha256
    kind = RUNNING_FORMS[str(spec.network_args["form"])]
    raise BundleError(
        f"bundle {path} holds {kind}, whose code would run here; if you know where it comes from: "
        f"wsi-magnet bundle trust {path} (the model's SHA-256 is {sha256})"
    )
