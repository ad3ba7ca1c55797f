"""SHA-256 of every pixel of the results of real slides, to prove that a change of the program did not alter them.

    python -m benchmarks.mask_hashes [--program DIR] [--record FILE | --check FILE] [--slides NAME,...]

Each slide is segmented by the command line of the program in DIR (default: this checkout) with each of REFINEMENTS and
in each of WAYS. The pixels are hashed decoded, so that chunks and compression do not matter; the hashes of one slide
and refinement are the same in all ways. They hold on one kind of processor and one version of PyTorch.

`--record` writes them to FILE, and continues with what is missing there. `--check` compares with FILE and exits 1,
naming what differs. Slides that are not in the repository lie in the folder that WSI_MAGNET_TEST_DATA names; a slide
that is absent is skipped, and a check that compared nothing fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import count, product, takewhile
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr

ROOT = Path(__file__).resolve().parent.parent
TEST_DATA = "WSI_MAGNET_TEST_DATA"
REFINEMENTS = ("all", "auto", "0.2")
WAYS: Mapping[str, tuple[str, ...]] = {"in-process": (), "two workers": ("--workers", "2")}
PRODUCTS = ("mask", "probabilities", "uncertainty")
BLOCK_BYTES = 64 << 20
"""Pixels that are decoded at once, at most; at least one row of chunks."""


class HashError(Exception):
    """A run or a record that cannot be used."""


@dataclass(frozen=True, slots=True)
class Slide:
    """A slide to segment."""

    path: str
    """Below the repository, or below the folder of test data."""
    in_repository: bool = True
    options: tuple[str, ...] = ()
    """Options of `wsi-magnet run`."""

    def find(self) -> Path | None:
        """The slide's file, or None if it is absent."""
        folder = str(ROOT) if self.in_repository else os.environ.get(TEST_DATA)
        path = Path(folder) / self.path if folder else None
        return path if path and path.is_file() else None


SLIDES: Mapping[str, Slide] = {
    "demo": Slide("demo/rings_P1_D5_9_13.tif", options=("--mpp", "0.93")),
    "CMU-1-Small-Region": Slide("tests/data/CMU-1-Small-Region.svs"),
    "example": Slide("slides/tiff_with_asap_xml/example.tif", in_repository=False),
    "BS9_HE2": Slide("slides/BS9_HE2.tif", in_repository=False),
}


# ---- hashing -----------------------------------------------------------------------------------------------------


def row_blocks(array: zarr.Array[Any]) -> Iterator[np.ndarray[Any, Any]]:
    """The pixels in C order: for each index of the leading axes, blocks of whole rows of chunks."""
    *leading, height, width = array.shape
    chunk_rows = array.chunks[-2]
    row_bytes = max(1, width * array.dtype.itemsize)
    rows = max(1, BLOCK_BYTES // row_bytes // chunk_rows) * chunk_rows
    for index in np.ndindex(*leading):
        for top in range(0, height, rows):
            block = np.asarray(array[(*index, slice(top, top + rows), slice(None))])
            yield np.ascontiguousarray(block, block.dtype.newbyteorder("<"))


def hash_array(array: zarr.Array[Any]) -> str:
    """SHA-256 of the data type and of all decoded pixels in C order, little-endian."""
    digest = hashlib.sha256(array.dtype.newbyteorder("<").str.encode())
    for block in row_blocks(array):
        digest.update(block.tobytes())
    return digest.hexdigest()


Levels = Mapping[str, str]
"""Shape and hash, "1395x2442 a9e7...", by product and level, "mask/0"."""


def hash_result(folder: Path) -> dict[str, str]:
    """Every level of every product in a result folder."""
    levels = {}
    for name in PRODUCTS:
        group = zarr.open_group(folder / f"{name}.ome.zarr", mode="r")
        for level in takewhile(group.__contains__, map(str, count())):
            array = group[level]
            assert isinstance(array, zarr.Array)
            levels[f"{name}/{level}"] = f"{'x'.join(map(str, array.shape))} {hash_array(array)}"
    return levels


# ---- running the program -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """A checkout of the program to run."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """Environment in which Python imports the package from the checkout, not an installed one."""
        return {**os.environ, "PYTHONPATH": str(self.folder)}

    def python(self, *arguments: str) -> str:
        """Standard output of a Python process. Raises HashError, with its error output, if it fails."""
        with tempfile.TemporaryDirectory() as empty:  # `python -m` looks into the working folder first
            done = subprocess.run(
                [sys.executable, *arguments], cwd=empty, env=self.environment(), capture_output=True, text=True
            )
        if done.returncode:
            raise HashError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr.strip()}")
        return done.stdout.strip()

    def describe(self) -> dict[str, str]:
        """Version and commit of the checkout. Raises HashError if Python imports the package from elsewhere."""
        asked = "import wsi_magnet; print(wsi_magnet.__file__, wsi_magnet.__version__, sep='\\n')"
        origin, number = self.python("-c", asked).splitlines()
        if not Path(origin).resolve().is_relative_to(self.folder):
            raise HashError(f"{self.folder} holds no wsi_magnet: Python imports the one in {Path(origin).parent}")
        return {"version": number, "commit": commit_of(self.folder)}

    def segment(self, slide: Path, options: Sequence[str]) -> dict[str, str]:
        """Hashes of the result of one run, which is deleted afterwards."""
        with tempfile.TemporaryDirectory() as out:
            keep = ("--keep", "probabilities,uncertainty", "--device", "cpu")
            self.python("-m", "wsi_magnet", "run", str(slide), "-o", out, *keep, *options)
            return hash_result(next(Path(out).glob("*/mask.ome.zarr")).parent)


def commit_of(folder: Path) -> str:
    """The commit of a checkout, with "+" where its package was changed since; "unknown" outside git."""
    git = ["git", "-C", str(folder)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--", "wsi_magnet"], capture_output=True, text=True)
    return head.stdout.strip() + "+" * bool(changed.stdout.strip()) if head.returncode == 0 else "unknown"


def describe_machine() -> dict[str, str]:
    """The processor and the versions on which the hashes depend."""
    return {"cpu": cpu_model(), "numpy": version("numpy"), "torch": version("torch")}


def cpu_model() -> str:
    """The processor's name, family and model from Linux; elsewhere from Python's `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = known.get("model name", platform.machine())
    return f"{name}, family {known.get('cpu family', '?')}, model {known.get('model', '?')}"


# ---- the record --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Record:
    """Hashes of one program on one machine, in the order of slides and refinements."""

    program: Mapping[str, str]
    """Version and commit of the program."""
    machine: Mapping[str, str]
    """The processor and the versions on which the hashes depend."""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By slide and refinement: the ways that gave these hashes, and the levels."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises HashError."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError) as error:
            raise HashError(f"{path} is not a record of hashes: {error}") from error

    def save(self, path: Path) -> None:
        """Write the record as JSON, atomically."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True)
        unfinished = path.with_name(f"{path.name}.part")
        unfinished.write_text(f"{text}\n", encoding="utf-8")
        unfinished.replace(path)

    def levels(self, slide: str, refine: str) -> Levels | None:
        """The hashes of one slide and refinement; None where there are none."""
        run = self.runs.get(slide, {}).get(refine)
        return run and run["levels"]

    def has(self, slide: str, refine: str, way: str) -> bool:
        """True where a run in this way gave these hashes."""
        return way in self.runs.get(slide, {}).get(refine, {}).get("ways", ())

    def add(self, slide: str, refine: str, way: str, levels: Levels) -> None:
        """Store the hashes of a run, or note that this way gave the same ones."""
        new = {"ways": [], "levels": dict(levels)}
        self.runs.setdefault(slide, {}).setdefault(refine, new)["ways"].append(way)


def compare(expected: Levels, found: Levels) -> list[str]:
    """The levels that differ, each with the reason."""
    differences = []
    for name in sorted({*expected, *found}):
        if name not in found:
            differences.append(f"{name} is missing")
        elif name not in expected:
            differences.append(f"{name} is not in the record")
        elif expected[name] != found[name]:
            differences.append(f"{name} is {found[name]}, not {expected[name]}")
    return differences


# ---- the command -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Session:
    """One call of the command: its runs, and the differences found."""

    segment: Callable[[Path, Sequence[str]], Levels]
    """Function that runs the program on a slide with given options."""
    record: Record
    save_to: Path | None = None
    fixed: bool = False
    """True for a check: a run that the record lacks is a difference, and the record stays as it is."""
    compared: int = 0
    differences: list[str] = field(default_factory=list)

    def run_all(self, names: Iterable[str]) -> None:
        """Segment these slides with every refinement and in every way, and print the hashes."""
        for name in names:
            path = SLIDES[name].find()
            if path is None:
                print(f"{name} skipped: {SLIDES[name].path} is absent; {TEST_DATA} names the folder of test data")
                continue
            for refine, way in product(REFINEMENTS, WAYS):
                self.run(name, path, refine, way)

    def run(self, name: str, path: Path, refine: str, way: str) -> None:
        """Segment a slide once, unless the record that is being written has this run."""
        if not self.fixed and self.record.has(name, refine, way):
            print(f"{name} {refine} {way}: recorded before", flush=True)
            return
        found = self.segment(path, (*SLIDES[name].options, "--refine", refine, *WAYS[way]))
        for level, one in found.items():
            print(name, refine, way, *level.split("/"), one, flush=True)
        self.settle(name, refine, way, found)

    def settle(self, name: str, refine: str, way: str, found: Levels) -> None:
        """Compare a run with the record, and store it there unless this is a check."""
        expected = self.record.levels(name, refine)
        if expected is None and self.fixed:
            self.differences.append(f"{name} {refine} {way}: is not in the record")
            return
        self.compared += expected is not None
        differing = compare(found if expected is None else expected, found)
        self.differences += [f"{name} {refine} {way}: {difference}" for difference in differing]
        if not (self.fixed or differing):
            self.record.add(name, refine, way, found)
            if self.save_to:
                self.record.save(self.save_to)

    def close(self) -> int:
        """Print the differences, and return the exit status."""
        for difference in self.differences:
            print(f"DIFFERS: {difference}")
        if self.fixed and not self.compared:
            print("FAILED: nothing was compared")
            return 1
        print(f"{self.compared} runs compared, {len(self.differences)} differences")
        return 1 if self.differences else 0


def open_session(options: argparse.Namespace) -> Session:
    """The session that the options ask for. Raises HashError where a record is another program's or machine's."""
    program = Program(options.program.resolve())
    new = Record(program.describe(), describe_machine())
    if options.check:
        record = Record.load(options.check)
        for key in new.machine.keys() | record.machine.keys():
            if record.machine.get(key) != new.machine.get(key):
                print(f"NOTE: recorded with {key} {record.machine.get(key)}, and this is {new.machine.get(key)}")
        return Session(program.segment, record, fixed=True)
    if options.record and options.record.exists():
        record = Record.load(options.record)
        if (record.program, record.machine) != (new.program, new.machine):
            raise HashError(f"{options.record} is of another program or machine: delete it or name another file")
        return Session(program.segment, record, options.record)
    return Session(program.segment, new, options.record)


def slide_names(text: str) -> list[str]:
    """Names of SLIDES, separated by a comma."""
    names = text.split(",")
    if unknown := [name for name in names if name not in SLIDES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(SLIDES)}")
    return names


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mask_hashes", description="Hash the results of real slides."
    )
    parser.add_argument("--program", type=Path, default=ROOT, metavar="DIR", help="checkout to run [this one]")
    parser.add_argument("--slides", type=slide_names, default=list(SLIDES), metavar="NAME,...", help="[all]")
    purpose = parser.add_mutually_exclusive_group()
    purpose.add_argument("--record", type=Path, metavar="FILE", help="write the hashes, or continue with them")
    purpose.add_argument("--check", type=Path, metavar="FILE", help="compare with hashes that were recorded")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse_options(arguments)
    try:
        session = open_session(options)
        session.run_all(options.slides)
    except HashError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    return session.close()


if __name__ == "__main__":
    sys.exit(main())
