"""Other names and colours for the classes of a finished result: run.json, summary.json and the images' metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

from wsi_magnet.config import CHUNK_PX
from wsi_magnet.errors import ResultMismatchError, StoreError
from wsi_magnet.geometry import Size, halved_until
from wsi_magnet.labels import LabelClass, with_reserved
from wsi_magnet.nets.classes import ClassChanges
from wsi_magnet.results import ngff
from wsi_magnet.results.alarms import Alarm
from wsi_magnet.results.folder import Products, ResultFolder, write_json
from wsi_magnet.results.grading import can_grade, gleason
from wsi_magnet.results.ome_xml import Product, image_of, ome_xml
from wsi_magnet.results.pyramid import Pyramid, read_attributes
from wsi_magnet.results.reader import Result
from wsi_magnet.results.record import RunRecord
from wsi_magnet.storage.location import Location


def relabel(folder: Location, classes: Sequence[LabelClass]) -> None:
    """Give the classes of a finished result other names and colours; values, pixels and areas stay.

    classes: of the same values. run.json is replaced first and all else is derived from it, so that the same call
    completes one that was killed. Raises StoreError and ResultMismatchError for a folder that is no finished result,
    ResultMismatchError for classes of other values, ResultBusyError while a run works in the folder.
    """
    result = ResultFolder(folder)
    require_relabelable(folder, classes)
    with result.locked():
        record = _relabelled(_finished(result), classes)
        result.write_run(record)
        if record.summary is not None:
            write_json(result.summary_json, record.summary)
        for name, image in images_of(record, folder).items():
            _describe(name, image, record)


def require_relabelable(folder: Location, classes: Sequence[LabelClass]) -> None:
    """Raise what `relabel` would raise before it writes anything; nothing for a result that it can relabel."""
    record = _relabelled(_finished(ResultFolder(folder)), classes)
    for image in images_of(record, folder).values():
        read_attributes(image.spec.path)
    Result(folder)


def classes_with(changes: ClassChanges, folder: Location) -> tuple[LabelClass, ...]:
    """Classes of a finished result with changes, some of which it may have already.

    Raises StoreError, ResultMismatchError, and ConfigError for changes that are not possible.
    """
    record = _finished(ResultFolder(folder))
    return changes.of(record.bundle.classes, record.renamed_classes)


def _finished(result: ResultFolder) -> RunRecord:
    record = result.read_run()
    if record is None:
        raise StoreError(f"{result.path} is no result folder: it has no run.json of this program")
    if record.running:
        raise ResultMismatchError(f"{result.path} is not finished; resume it with `wsi-magnet run` first")
    return record


def _relabelled(record: RunRecord, classes: Sequence[LabelClass]) -> RunRecord:
    new = {one.value: one for one in classes}
    if {one.value for one in record.bundle.classes} != set(new):
        values = ", ".join(str(one.value) for one in record.bundle.classes)
        raise ResultMismatchError(f"the classes of {record.slide.name}'s result have the values {values}; keep these")
    ordered = tuple(new[one.value] for one in record.bundle.classes)
    description = dict(record.bundle.description)
    if "classes" in description:
        description["classes"] = [{**asdict(one), "color": list(one.color)} for one in ordered]
    bundle = replace(record.bundle, classes=ordered, description=description)
    names = {one.name: new[one.value].name for one in record.bundle.classes}
    earlier = {old: names.get(present, present) for old, present in record.renamed_classes.items()}
    return record.but(
        bundle=bundle,
        summary=_renamed(record.summary, new, names),
        renamed_classes={**earlier, **{old: name for old, name in names.items() if old != name}},
    )


def _renamed(
    summary: Mapping[str, Any] | None, classes: Mapping[int, LabelClass], names: Mapping[str, str]
) -> Mapping[str, Any] | None:
    """A summary with the classes' new names; patterns are graded by their names, so the grade may appear or go."""
    if summary is None or "classes" not in summary:
        return summary
    areas = [{**one, "name": classes[one["value"]].name} for one in summary["classes"]]
    by_value = {one["value"]: one["area_mm2"] for one in areas}
    grade = gleason(by_value) if can_grade(list(classes.values())) else None
    renamed = {**summary, "classes": areas, "gleason": asdict(grade) if grade else None}
    if "alarms" in summary:
        renamed["alarms"] = [_renamed_alarm(one, names).to_json() for one in Alarm.all_of(summary)]
    return renamed


def _renamed_alarm(alarm: Alarm, names: Mapping[str, str]) -> Alarm:
    """The alarm with the new name of the class that it is about, if any. names: new by old."""
    old = alarm.values.get("class")
    if not isinstance(old, str) or old not in names:
        return alarm
    text = alarm.text.replace(repr(old), repr(names[old]))
    return replace(alarm, text=text, values={**alarm.values, "class": names[old]})


def images_of(record: RunRecord, folder: Location) -> dict[Product, Pyramid]:
    """Images of a finished result by product: the mask, and what its run was to keep."""
    config = record.config
    sizes = halved_until([Size(*scale.size_wh) for scale in reversed(record.scales)], CHUNK_PX)
    classes = len(record.bundle.classes)
    products = Products(sizes, classes, config.ngff, config.tile_px, True, config.keep_uncertainty)
    made = products.pyramids(folder)
    return {name: made[name] for name in get_args(Product) if name in ("mask", *config.kept)}


def _describe(product: Product, image: Pyramid, record: RunRecord) -> None:
    """Write an image's OME-Zarr metadata and OME-XML with the classes of run.json; all else stays."""
    classes, ngff_version = record.bundle.classes, record.config.ngff
    attributes = read_attributes(image.spec.path)
    entries = attributes["ome"] if ngff_version == "0.5" else attributes
    if product == "mask":
        entries["image-label"] = ngff.image_label(with_reserved(classes), ngff_version)
    elif product == "probabilities":
        entries["omero"] = ngff.omero_channels(classes)
    image.describe(attributes)
    about = attributes.get("wsi-magnet", {})
    xml = image_of(product, image.spec.sizes[0], record.scales[-1].mpp, classes, about)
    image.describe_ome(ome_xml(xml, tiff=False))
