"""One table of networks: origin, parameters, arithmetic, time here, and accuracy on GlaS where they were trained on it.

    python -m benchmarks.networks [NAME | BUNDLE ...] [--side 512] [--glas NAME=evaluation.json ...] [--record]

Names are those of configurations: the house's five where none is given, `timm:resnet50`, `smp:unet/resnet34` and others
of installed packages. A bundle may hold an exported model. --glas: the evaluation of a bundle on GlaS, as `make glas`
writes it, by the network's name in the table. --record replaces the table between the marks in docs/networks.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import machine
from benchmarks.record import DOCS, Table
from wsi_magnet.config import MAGNET
from wsi_magnet.errors import ConfigError, WsiMagnetError
from wsi_magnet.evaluate.columns import MIOU
from wsi_magnet.geometry import round_up
from wsi_magnet.inference.optimize import inference_form
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.exported import ExportedNet
from wsi_magnet.nets.network import NetworkInfo
from wsi_magnet.nets.registry import OWN_NETWORKS, info_of, network_info, package_of

PAGE = DOCS / "networks.md"
MARKS = "<!-- table of networks -->", "<!-- end of the table -->"

COLUMNS = "network", "origin", "parameters", "multiply-adds/px", "s/megapixel", "mIoU on GlaS %"
UNKNOWN = "–"

FORMS = {"onnx": "ONNX", "torchscript": "TorchScript", "pt2": "torch.export"}
CLASSES = 2

BYTES = 4
"""Bytes of a parameter in an exported file, whose size gives their number but for the program's own share."""


@dataclass(frozen=True)
class Subject:
    """A network to be measured."""

    name: str
    origin: str
    info: NetworkInfo
    network: nn.Module
    side_px: int
    """Side of the patch on which it is measured."""

    @property
    def parameters(self) -> str:
        """Their number; an upper limit for an exported file."""
        exported = [one for one in self.network.modules() if isinstance(one, ExportedNet)]
        if exported:
            return f"≤ {sum(one.model.numel() for one in exported) // BYTES:,}"
        return f"{sum(p.numel() for p in self.network.parameters()):,}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and with --record write. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("networks", nargs="*", metavar="NAME|BUNDLE")
    parser.add_argument("--side", type=int, default=512, help="side of the patches, in pixels [%(default)s]")
    parser.add_argument("--glas", action="append", default=[], metavar="NAME=evaluation.json")
    parser.add_argument("--method", default=MAGNET, help="row of the evaluation [%(default)s]")
    parser.add_argument("--record", action="store_true", help="write the table into docs/networks.md")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    begun = machine()
    try:
        reached = dict(read_miou(text, given.method) for text in given.glas)
        words = given.networks or [name for name in OWN_NETWORKS if name != "identity"]
        rows = [measure(subject_of(word, given.side), reached) for word in words]
    except WsiMagnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    command = " ".join(["python -m benchmarks.networks", *(sys.argv[1:] if arguments is None else arguments)])
    lines = [
        *Table(COLUMNS, rows).lines(),
        "",
        f"One thread, float32, patches of {given.side} px: `{command}`, {begun}.",
    ]
    print("\n".join(lines))
    if given.record:
        PAGE.write_text(between_marks(PAGE.read_text(encoding="utf-8"), lines), encoding="utf-8")
    return 0


def subject_of(word: str, side_px: int) -> Subject:
    """The network of a name, with fresh weights, or of a bundle's path. Raises WsiMagnetError."""
    if word.endswith(".safetensors") or Path(word).is_file():
        bundle = load_bundle(word)
        info, spec = info_of(bundle.spec), bundle.spec
        form = FORMS.get(str(spec.network_args.get("form")))
        origin = f"{form} file" if form else spec.network_package or "here"
        side = spec.patch_px or round_up(side_px, info.input_multiple)
        return Subject(Path(word).stem, origin, info, bundle.backbone, side)
    info = network_info(word)
    network = info.made(CLASSES, {}).eval()
    return Subject(word, package_of(word) or "here", info, network, round_up(side_px, info.input_multiple))


@torch.inference_mode()
def measure(subject: Subject, reached: Mapping[str, str]) -> list[str]:
    """One row of the table."""
    x = torch.rand(1, 3, subject.side_px, subject.side_px, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        subject.info.logits(subject.network, x)
    adds = counter.get_total_flops() / 2 / subject.side_px**2
    folds = subject.info.folds_by_name
    fast = inference_form(subject.network, torch.device("cpu"), torch.float32, folds_by_name=folds)
    seconds = clock(partial(subject.info.logits, fast, x)) * 1e6 / subject.side_px**2
    return [
        subject.name,
        subject.origin,
        subject.parameters,
        f"{adds:,.0f}" if adds else UNKNOWN,
        f"{seconds:.3g}",
        reached.get(subject.name, UNKNOWN),
    ]


def clock(forward: Callable[[], Tensor]) -> float:
    """Seconds for one call, the fastest of three."""
    durations = []
    for _ in range(3):
        started = time.perf_counter()
        forward()
        durations.append(time.perf_counter() - started)
    return min(durations)


def read_miou(text: str, method: str) -> tuple[str, str]:
    """Name, and mIoU in percent with its interval, of "NAME=evaluation.json". Raises ConfigError."""
    name, equals, path = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"--glas {text!r}: give NAME=evaluation.json")
    try:
        rows = {row["name"]: row["measures"] for row in json.loads(Path(path).read_text(encoding="utf-8"))["rows"]}
        found = rows[method][MIOU]
        interval = "" if found["low"] is None else f" ({found['low']:.1%} to {found['high']:.1%})".replace("%", "")
        return name, f"{100 * found['value']:.1f}{interval}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no evaluation with {MIOU} of {method}: {error!r}") from error


def between_marks(page: str, lines: Sequence[str]) -> str:
    """The page with these lines between its marks. Raises ConfigError where it has none."""
    first, last = MARKS
    found = re.subn(f"{first}.*?{last}", lambda _: "\n".join([first, "", *lines, "", last]), page, flags=re.DOTALL)
    if found[1] != 1:
        raise ConfigError(f"{PAGE} has {found[1]} places between {first} and {last}, not 1")
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
