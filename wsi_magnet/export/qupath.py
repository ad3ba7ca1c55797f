"""QuPath's form of objects: names of classes and measurements, fields of a feature, and limits of their number.

The rules are those that QuPath 0.5.1, 0.6 and 0.7 were seen to follow: a feature a polygon, since a multipolygon of one
part is refused by 0.5 and one of thousands is slow; a colour with every class, as [r, g, b]; no null but where allowed.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import shapely

from wsi_magnet.export.objects import SlideObject
from wsi_magnet.labels import NOT_ANALYSED, NOT_ANALYSED_NAME, LabelClass

ObjectType = Literal["annotation", "detection", "tile"]

Naming = Literal["flat", "derived"]
"""Name of a Gleason pattern: "flat" is "Gleason 3", "derived" is "Tumor: Gleason 3", which counts as Tumor too."""

CLASSIFIER = "MagNet"
"""Prefix of the names of measurements, as QuPath names those of its pixel classifiers."""

TUMOUR = "Tumor"
"""QuPath's own name of the class."""

MANY_ANNOTATIONS = 5000
"""Number of annotations above which QuPath becomes slow, and detections are the better choice."""

BUILT_IN = ("Tumor", "Stroma", "Immune cells", "Necrosis", "Other", "Positive", "Negative")
"""Classes that QuPath has from the beginning; another "stroma" would stand beside its "Stroma"."""

SAME_RESULT = 13
"""Number of characters at the beginning of an id that all objects of a kind of one result share."""


@dataclass(frozen=True, slots=True)
class FeatureStyle:
    """Options that the features of an export share."""

    object_type: ObjectType = "annotation"
    naming: Naming = "flat"
    identity: str = ""
    """Identity of the result: the same object of the same result has the same id, so that QuPath notices a second
    import."""
    metadata: Mapping[str, str] | None = None
    """Stored with every annotation. (For each other object that has some, QuPath 0.5 logs an error.)"""
    locked: bool = False
    """True for objects that QuPath does not let one edit."""


def class_names(label: LabelClass, naming: Naming) -> list[str]:
    """The levels of a class's name in QuPath. A colon would divide it, and a "*" at its end makes QuPath ignore it."""
    if label.value == NOT_ANALYSED:
        return [NOT_ANALYSED_NAME]
    name = class_name(label)
    return [TUMOUR, name] if naming == "derived" and is_tumour(label) else [name]


def class_name(label: LabelClass) -> str:
    """Name in QuPath, of one level; in the letters of a class that QuPath has from the beginning, if it is one."""
    name = label.name.replace(":", " -").strip().rstrip("*").strip() or f"class {label.value}"
    return built_in(name)


def built_in(name: str) -> str:
    """A name in the letters of the class that QuPath has from the beginning, if it is one."""
    return next((one for one in BUILT_IN if one.lower() == name.lower()), name)


def is_tumour(label: LabelClass) -> bool:
    """True for Gleason patterns."""
    return label.name.lower().startswith("gleason ")


def classification(label: LabelClass, naming: Naming) -> dict[str, Any]:
    """The "classification" of a feature."""
    names = class_names(label, naming)
    color = list(label.color)
    return {"name": names[0], "color": color} if len(names) == 1 else {"names": names, "color": color}


def measurements(one: SlideObject) -> dict[str, float]:
    """Measurements of an object, with the names that QuPath's own pixel classifiers use."""
    found = {f"{CLASSIFIER}: {class_name(one.label)} area µm^2": round(one.area_um2, 3)}
    if one.mean_probability is not None:
        found[f"{CLASSIFIER}: mean probability"] = round(one.mean_probability, 4)
    if one.mean_uncertainty is not None:
        found[f"{CLASSIFIER}: mean uncertainty"] = round(one.mean_uncertainty, 4)
    return found


def object_id(result: str, place: str) -> str:
    """UUID of an object: the same whenever it is exported. Its first `SAME_RESULT` characters depend on `result` only.

    result: identity of the result, and what is exported of it. place: identity of the object in it.
    """
    first, rest = (hashlib.sha256(text.encode()).digest() for text in (result, f"{result} {place}"))
    # Version 8 of RFC 9562: what its bits mean is for the program to say, but for those of version and variant.
    number = int.from_bytes(first[:6] + rest[:10], "big") & ~(0xF000C << 60) | 0x80008 << 60
    return str(uuid.UUID(int=number))


def feature(one: SlideObject, style: FeatureStyle) -> dict[str, Any]:
    """One object as a GeoJSON feature."""
    rings = [one.polygon.exterior, *one.polygon.interiors]
    coordinates = [_points(ring) for ring in rings]
    return {
        "type": "Feature",
        "id": object_id(style.identity, one.place),
        "geometry": {"type": "Polygon", "coordinates": coordinates},
        "properties": {
            "objectType": style.object_type,
            "classification": classification(one.label, style.naming),
            **({"isLocked": True} if style.locked else {}),
            "measurements": measurements(one),
            **({"metadata": dict(style.metadata)} if style.metadata and style.object_type == "annotation" else {}),
        },
    }


def _points(ring: shapely.LinearRing) -> list[list[float]]:
    """Points of a ring with two decimals, or without any if all are whole."""
    points = np.round(shapely.get_coordinates(ring), 2)
    whole = points.astype(np.int64)
    return (whole if (whole == points).all() else points).tolist()  # type: ignore[no-any-return]
