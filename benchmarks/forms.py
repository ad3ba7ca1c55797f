"""One network in the house and exported as .pt2, TorchScript and ONNX: labels of real tissue, and masks by tiles.

    python -m benchmarks.forms [--slide demo/rings_P1_D5_9_13.tif] [--mpp 0.93] [--bundle BUNDLE] [--workers 2]

The network is that of a bundle, whose finest scale is segmented alone. PyTorch's own exporters write the files; ONNX
needs onnx and onnxscript besides onnxruntime. Each form runs with tiles of 512 and 1024 pixels in threads, and with
worker processes. The exit code is 1 where labels differ in more than one of 10,000, or a mask depends on tiles or
workers.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import zarr

from benchmarks.measure import machine
from benchmarks.record import Table
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.nets.bundle import Bundle, load_bundle, save_bundle
from wsi_magnet.nets.import_model import ModelDescription, import_model
from wsi_magnet.nets.registry import info_of
from wsi_magnet.nets.spec import single_scale
from wsi_magnet.segment.slide import segment_slide

DEMO = Path(__file__).resolve().parents[1] / "demo" / "rings_P1_D5_9_13.tif"
DEMO_MPP = 0.93

NEEDED = 0.9999
"""Least share of labels that are equal."""

TILES_PX = (512, 1024)
COLUMNS = "form", "equal labels %", "same in other tiles", "same with workers"

Labels = npt.NDArray[np.uint8]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--slide", type=Path, default=DEMO)
    parser.add_argument("--mpp", type=float, help="microns per pixel where the slide does not state them")
    parser.add_argument("--bundle", help="the bundle that ships by default")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    mpp = given.mpp or (DEMO_MPP if given.slide == DEMO else None)
    begun = machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["XDG_CONFIG_HOME"] = str(folder)  # the list of trusted models is that of this folder
        try:
            rows = list(_rows(load_bundle(given.bundle), given.slide, mpp, given.workers, folder))
        except WsiMagnetError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print("\n".join(Table(COLUMNS, [[name, f"{100 * equal:.4f}", *same] for name, equal, same in rows]).lines()))
    print(f"\n{given.slide.name}, {begun}")
    fine = all(equal >= NEEDED and set(same) == {"yes"} for _, equal, same in rows)
    return 0 if fine else 1


def _rows(
    bundle: Bundle, slide: Path, mpp: float | None, workers: int, folder: Path
) -> Iterator[tuple[str, float, list[str]]]:
    """Name of a form, share of the house's labels, and answers on tiles and workers."""
    spec = single_scale(bundle.spec, len(bundle.spec.mpps) - 1)
    save_bundle(folder / "house.safetensors", spec, bundle.backbone, [])
    house: Labels | None = None
    for name in ("house", "pt2", "torchscript", "onnx"):
        path = folder / f"{name}.safetensors"
        if name != "house":
            made = write(name, bundle, folder)
            if made is None:
                print("onnx is left out: onnx and onnxscript, which write its files, are not installed")
                continue
            described = ModelDescription(
                classes=tuple(one.name for one in spec.classes),
                mpps=spec.mpps,
                input_multiple=max(32, info_of(spec).input_multiple),
                mean=spec.mean,
                std=spec.std,
                cell_px=spec.cell_px,
            )
            import_model(made, path, described, trusted=True)
        masks = [_mask(path, slide, mpp, tile_px, Execution(device="cpu"), folder) for tile_px in TILES_PX]
        masks.append(_mask(path, slide, mpp, TILES_PX[0], Execution(device="cpu", workers=workers), folder))
        house = masks[0] if house is None else house
        same = ["yes" if np.array_equal(masks[0], other) else "NO" for other in masks[1:]]
        yield name, float((masks[0] == house).mean()), same


def write(form: str, bundle: Bundle, folder: Path) -> Path | None:
    """The network's file in a form; None for ONNX where no exporter is installed."""
    network, path = bundle.backbone, folder / f"network.{form}"
    multiple = max(32, info_of(bundle.spec).input_multiple)
    x = torch.rand(1, 3, 4 * multiple, 5 * multiple)
    sides = {2 + i: multiple * torch.export.Dim(name, min=2, max=64) for i, name in enumerate(("rows", "columns"))}
    with warnings.catch_warnings(action="ignore"):  # about checks of sides that become constants
        if form == "torchscript":
            torch.jit.save(torch.jit.trace(network, x), path)
            return path
        program = torch.export.export(network, (x,), dynamic_shapes=(sides,))
        if form == "pt2":
            torch.export.save(program, path)
            return path
        if find_spec("onnx") is None or find_spec("onnxscript") is None:
            return None
        torch.onnx.export(program, (), path, dynamo=True, external_data=True, verbose=False)
    return path


def _mask(bundle: Path, slide: Path, mpp: float | None, tile_px: int, execution: Execution, folder: Path) -> Labels:
    name = f"{bundle.stem} {tile_px} {execution.workers}"
    config = RunConfig(mpp=mpp, tile_px=tile_px, precision="fp32")
    done = segment_slide(slide, folder, name=name, bundle=bundle, config=config, execution=execution)
    return np.asarray(zarr.open_array(str(done.folder / "mask.ome.zarr" / "0"), mode="r")[...], np.uint8)


if __name__ == "__main__":
    sys.exit(main())
