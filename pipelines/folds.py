"""Cross-validation over groups: train and judge K folds, and join them in one table in which each image is judged once.

    python -m pipelines.folds MANIFEST --config C.yaml -o FOLDER [--folds 4] [--methods all]

Each fold holds back its groups from training and validation, and trains by `wsi-magnet train`. When all have, the
methods run on what each fold held back as in `wsi-magnet evaluate`, and `wsi-magnet evaluate --result` scores the
results: rows of a method are joined whatever fold made them. Times and memory are those of the runs. With --backbones
the folds are another study's, and only refinement modules and heads are trained. The same command resumes.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np

from pipelines.dealing import Groups, make_folds
from wsi_magnet.config import Execution
from wsi_magnet.dataset.label_counts import count_manifest_labels
from wsi_magnet.dataset.manifest import Manifest, read_manifest, write_manifest
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.errors import ConfigError, WsiMagnetError
from wsi_magnet.evaluate.comparison import Candidate, Conditions, result_parents, segment_row
from wsi_magnet.evaluate.kept import read_row, write_row
from wsi_magnet.evaluate.methods import MethodRow, all_rows, choose
from wsi_magnet.labels import BACKGROUND_CLASS
from wsi_magnet.methods.build import require_methods
from wsi_magnet.methods.registry import method_class, refining_methods
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.schema import parse
from wsi_magnet.segment.slide import result_folder
from wsi_magnet.storage.atomic import replace_file
from wsi_magnet.system import cpu_threads
from wsi_magnet.train.config import TrainingConfig, read_config

FOLDS = "folds.json"
"""File with the dealt groups."""


@dataclass(frozen=True, slots=True)
class Deal:
    """Contents of folds.json."""

    of: Mapping[str, Any]
    """Options and groups that were dealt."""
    groups: tuple[Groups, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Fold:
    """One fold."""

    number: int
    groups: Groups
    samples: tuple[Sample, ...]
    """Those that are judged."""
    manifest: Path
    bundle: Path


@dataclass(frozen=True, eq=False, slots=True)
class Study:
    """A cross-validation."""

    samples: tuple[Sample, ...]
    folds: tuple[Fold, ...]
    joined: Path
    """Manifest of all images as test rows."""
    folder: Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, judge and join."""
    options = _options(arguments)
    study = prepare(options)
    for fold in study.folds:
        tested, validated = (", ".join(names) for names in (fold.groups.test, fold.groups.validation))
        _notify(f"fold {fold.number} of {len(study.folds)}: tests {tested}; validates on {validated}")
        train(fold, options)
    rows: tuple[MethodRow, ...] = ()
    for fold in study.folds:
        _notify(f"fold {fold.number} of {len(study.folds)}: judges {len(fold.samples)} images")
        rows = judge(study, fold, options)
    results = [("--result", study.folder / "results" / row.name) for row in rows]
    call("evaluate", study.joined, *(part for pair in results for part in pair), "-o", study.folder)


def prepare(options: argparse.Namespace) -> Study:
    """Deal the groups, and write the folds' manifests. Raises WsiMagnetError."""
    manifest, config = read_manifest(options.manifest), read_config(options.config)
    _check_methods(options, config)
    folder: Path = options.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if options.backbones is not None:
        _take_deal(options.backbones / FOLDS, folder / FOLDS)
    dealt = _dealt(manifest, config, options, folder / FOLDS)
    judged = evenly(manifest.samples, options.images)
    folds = []
    for number, groups in enumerate(dealt, 1):
        path = folder / f"fold-{number}.csv"
        write_manifest(path, [replace(sample, split=_split(sample, groups)) for sample in manifest.samples])
        own = tuple(sample for sample in judged if sample.group in groups.test)
        folds.append(Fold(number, groups, own, path, folder / f"fold-{number}.safetensors"))
    joined = folder / "all.csv"
    write_manifest(joined, [replace(sample, split="test") for sample in judged])
    return Study(judged, tuple(folds), joined, folder)


def evenly(samples: Sequence[Sample], most: int | None) -> tuple[Sample, ...]:
    """At most that many images of each group, evenly over its images in their order; None: all."""
    of_group: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        of_group.setdefault(sample.group, []).append(index)
    chosen: set[int] = set()
    for own in of_group.values():
        count = min(len(own), most or len(own))
        chosen |= {own[(2 * i + 1) * len(own) // (2 * count)] for i in range(count)}
    return tuple(samples[index] for index in sorted(chosen))


def train(fold: Fold, options: argparse.Namespace) -> None:
    """Train the fold's bundle; one that is finished is left as it is."""
    device = ("--device", options.device, "--threads", options.threads)
    backbone = () if options.backbones is None else ("--backbone", options.backbones / fold.bundle.name)
    call("train", fold.manifest, "--config", options.config, *backbone, "-o", fold.bundle, *device)


def judge(study: Study, fold: Fold, options: argparse.Namespace) -> tuple[MethodRow, ...]:
    """Run each method on the fold's images, one method after the other; what is finished is left as it is."""
    spec, sha256 = read_spec(fold.bundle)
    rows = _rows(options, spec.methods)
    require_methods(spec, [row.method for row in rows])
    results = study.folder / "results"
    conditions = Conditions(options.tissue, Execution(device=options.device), results, keep_results=True)
    for row in rows:
        folder = results / row.name
        parents = result_parents(study.samples, folder)
        if all(_is_judged(row, sha256, one, parents[one], folder, options.tissue) for one in fold.samples):
            continue
        candidate = Candidate(row.name, row, fold.bundle)
        folder.mkdir(parents=True, exist_ok=True)
        write_row(folder, *segment_row(candidate, fold.samples, folder, conditions, _notify, study.samples))
    return rows


def _rows(options: argparse.Namespace, fitted: Iterable[str]) -> tuple[MethodRow, ...]:
    """Rows of the table. fitted: methods of the bundle. Raises ConfigError for an unknown method."""
    names = [name for name in options.methods.split(",") if name.strip()]
    return choose(all_rows(options.fast), names, sorted(fitted))


def _check_methods(options: argparse.Namespace, config: TrainingConfig) -> None:
    """Raises ConfigError, before hours of training, for a method that the bundles will not have."""
    trained = {name.lower() for name in config.methods}
    rows = [row.method for row in _rows(options, config.methods) if row.method in refining_methods()]
    if missing := [name for name in rows if method_class(name).info.needs.head and name.lower() not in trained]:
        listed = ", ".join(missing)
        raise ConfigError(f"--methods has {listed}, which {options.config} does not train; add to its `methods`")


def call(*arguments: object) -> None:
    """Run `wsi-magnet`; end with its exit code if it fails. A stop of this process stops it too, and waits for it."""
    with subprocess.Popen([sys.executable, "-m", "wsi_magnet", *map(str, arguments)]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # a terminal has sent it to both
            process.wait()
            raise
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        sys.exit(code)


def _dealt(manifest: Manifest, config: TrainingConfig, options: argparse.Namespace, path: Path) -> list[Groups]:
    """The folds' groups: those that were dealt before, else new ones. Raises ConfigError where these are of others."""
    images = Counter(sample.group for sample in manifest.samples)
    of: dict[str, Any] = {
        "folds": options.folds,
        "validation": options.validation,
        "seed": options.seed,
        "images": dict(sorted(images.items())),
    }
    if path.exists():
        earlier = _read_deal(path)
        if earlier.of != of:
            raise ConfigError(f"{path} has folds of other groups or options; choose another folder with -o")
        return list(earlier.groups)
    groups = make_folds(_contents(manifest, config), options.folds, options.validation, options.seed)
    replace_file(path, json.dumps(asdict(Deal(of, tuple(groups))), indent=2).encode() + b"\n")
    return groups


def _read_deal(path: Path) -> Deal:
    """Raises ConfigError where the file is damaged or cannot be read."""
    try:
        deal: Deal = parse(Deal, json.loads(path.read_text(encoding="utf-8")), "folds")
        tested = Counter(name for one in deal.groups for name in one.test)
        if max(tested.values(), default=0) != 1 or tested.keys() != deal.of.get("images", {}).keys():
            raise ValueError("its folds do not test each group once")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be used: {error}; remove it, and the command that made it deals the same folds again"
        ) from None
    return deal


def _take_deal(theirs: Path, ours: Path) -> None:
    """Copy another study's folds, or compare them with those that are there. Raises ConfigError."""
    if not theirs.exists():
        raise ConfigError(f"{theirs} is not there; --backbones takes the output folder of an earlier command")
    if not ours.exists():
        _read_deal(theirs)
        ours.write_bytes(theirs.read_bytes())
    elif _read_deal(ours) != _read_deal(theirs):
        raise ConfigError(f"{ours} has other folds than {theirs}; choose another folder with -o")


def _contents(manifest: Manifest, config: TrainingConfig) -> dict[str, list[float]]:
    """Number of images, and pixels by class at the coarsest scale, of each group."""
    classes = config.class_infos()
    painted = next((one.name for one in classes if one.value == BACKGROUND_CLASS.value), None)
    everything = Manifest(manifest.path, tuple(replace(sample, split="train") for sample in manifest.samples))
    counts = count_manifest_labels(everything, classes, config.mpps[0], ("train",), cpu_threads(), painted)
    contents: dict[str, list[float]] = {}
    for sample, one in counts.items():
        own = np.array([1.0, *one.class_pixels(len(classes))])
        contents[sample.group] = (own + contents.get(sample.group, 0.0)).tolist()
    return contents


def _split(sample: Sample, groups: Groups) -> Any:
    if sample.group in groups.test:
        return "test"
    return "validation" if sample.group in groups.validation else "train"


def _is_judged(row: MethodRow, sha256: str, sample: Sample, parent: Path, folder: Path, tissue: bool) -> bool:
    """True for a finished result of this row and bundle whose time is known."""
    result = result_folder(sample.image, parent)
    record, kept = ResultFolder(result).read_run(), read_row(folder)
    if (
        record is None
        or record.running
        or kept is None
        or str(Path(str(result)).relative_to(folder)) not in kept.seconds
    ):
        return False
    same = (record.bundle.sha256, record.config.method, record.config.refine, record.config.tissue)
    return same == (sha256, row.method, row.refine, tissue)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="annotated images; its splits are not used")
    parser.add_argument("--config", type=Path, required=True, metavar="C.yaml", help="as of `train`")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="for bundles and results")
    parser.add_argument("--folds", type=int, default=4, help="number of folds (default: 4)")
    parser.add_argument("--validation", type=float, default=0.2, help="share of a fold's other groups (default: 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the dealing")
    parser.add_argument("--methods", default="", metavar="NAME,...", help="as of `evaluate`")
    parser.add_argument("--fast", type=float, default=0.25, help="as of `evaluate` (default: 0.25)")
    parser.add_argument("--images", type=int, metavar="N", help="most images of a group that are judged (default: all)")
    parser.add_argument("--backbones", type=Path, metavar="FOLDER", help="a study whose folds and backbones to use")
    parser.add_argument("--no-tissue", dest="tissue", action="store_false", help="as of `evaluate`")
    parser.add_argument("--device", default="auto", help="as of `train` and `evaluate`")
    parser.add_argument("--threads", type=int, default=cpu_threads(), help="of a training (default: all)")
    options = parser.parse_args(arguments)
    if options.images is not None and options.images < 1:
        parser.error(f"--images is {options.images}, not a number of images from 1 on")
    if not 0 <= options.fast <= 1:
        parser.error(f"--fast is {options.fast:g}, not a share between 0 and 1")
    return options


def _notify(text: str) -> None:
    print(text, file=sys.stderr)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    try:
        main()
    except (WsiMagnetError, OSError) as problem:
        sys.exit(f"Error: {problem}")
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command resumes.")
