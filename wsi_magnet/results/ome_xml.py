"""OME-XML of a result's images: pixel size, channels, names of labels.

OME-Zarr's own metadata have the same values, but the Bio-Formats inside QuPath 0.6 and 0.7 ignores them: without this
text it shows pixels without a size, and "Channel 1". It is written as UTF-8: Bio-Formats reads no character reference,
and takes a TIFF with "&#181;" for "µ" in its comment for a plain one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

from wsi_magnet.geometry import Size
from wsi_magnet.labels import LabelClass, with_reserved

Product = Literal["mask", "probabilities", "uncertainty"]

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_SCHEMA = f"{NAMESPACE} {NAMESPACE}/ome.xsd"
_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
_WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class OmeImage:
    """Description of a uint8 image in OME's terms."""

    name: str
    size: Size
    """Size of its finest level."""
    mpp: float
    """Microns per pixel of that level."""
    channels: tuple[LabelClass, ...]
    """Name and colour of each channel."""
    maps: Mapping[str, Mapping[str, str]]
    """Key-value pairs of the image, by topic."""


def image_of(
    product: Product, size: Size, mpp: float, classes: Sequence[LabelClass], about: Mapping[str, Any]
) -> OmeImage:
    """Description of a product. about: its provenance, in values of JSON."""
    provenance = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    maps = {"provenance": provenance}
    channels: tuple[LabelClass, ...] = (LabelClass(0, product, _WHITE),)
    if product == "mask":
        labels = with_reserved(classes)
        maps["labels"] = {str(c.value): c.name for c in labels}
        maps["label-colors"] = {str(c.value): "#{:02X}{:02X}{:02X}".format(*c.color) for c in labels}
    elif product == "probabilities":
        # A black channel would be invisible.
        channels = tuple(LabelClass(c.value, c.name, c.color if any(c.color) else _WHITE) for c in classes)
    if product != "mask":
        maps["scale"] = {"0": "0.0", "255": "1.0"}
    return OmeImage(product, size, mpp, channels, maps)


def ome_xml(image: OmeImage, *, tiff: bool) -> str:
    """OME-XML (2016-06) of one image.

    tiff: True if its channels are the pages of the file that holds this text, in order; False if the pixels lie
    elsewhere. There the image does not refer to its key-value pairs: the Bio-Formats inside QuPath does not find them.
    To be written as UTF-8.
    """
    root = _element(
        None,
        "OME",
        {"xmlns": NAMESPACE, "xmlns:xsi": _INSTANCE, "xsi:schemaLocation": _SCHEMA, "Creator": "wsi-magnet"},
    )
    node = _element(root, "Image", {"ID": "Image:0", "Name": image.name})
    pixels = _element(node, "Pixels", _pixels(image))
    for number, channel in enumerate(image.channels):
        named = {"Name": channel.name, "SamplesPerPixel": "1", "Color": str(_packed(channel.color))}
        _element(pixels, "Channel", {"ID": f"Channel:0:{number}", **named})
    if not tiff:
        _element(pixels, "MetadataOnly", {})
    for number in range(len(image.channels) if tiff else 0):
        place = {"IFD": str(number), "FirstC": str(number), "FirstZ": "0", "FirstT": "0", "PlaneCount": "1"}
        _element(pixels, "TiffData", place)
    annotations = _element(root, "StructuredAnnotations", {})
    for number, (about, pairs) in enumerate(image.maps.items()):
        if tiff:
            _element(node, "AnnotationRef", {"ID": f"Annotation:{number}"})
        place = {"ID": f"Annotation:{number}", "Namespace": f"wsi-magnet/{about}"}
        value = _element(_element(annotations, "MapAnnotation", place), "Value", {})
        for key, text in pairs.items():
            _element(value, "M", {"K": key}).text = _printable(text)
    return '<?xml version="1.0" encoding="UTF-8"?>' + ElementTree.tostring(root, "unicode")


def _pixels(image: OmeImage) -> dict[str, str]:
    micron = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    sizes = {
        "SizeX": image.size.width,
        "SizeY": image.size.height,
        "SizeC": len(image.channels),
        "SizeZ": 1,
        "SizeT": 1,
    }
    return {
        "ID": "Pixels:0",
        "DimensionOrder": "XYCZT",
        "Type": "uint8",
        "BigEndian": "false",
        "Interleaved": "false",
        **{name: str(value) for name, value in sizes.items()},
        "PhysicalSizeX": repr(image.mpp),
        "PhysicalSizeY": repr(image.mpp),
        **micron,
    }


def _packed(color: tuple[int, int, int]) -> int:
    """Colour in OME: RGBA as a signed integer of 32 bits."""
    red, green, blue = color
    return int.from_bytes(bytes((red, green, blue, 255)), "big", signed=True)


def _element(parent: ElementTree.Element | None, tag: str, attributes: Mapping[str, str]) -> ElementTree.Element:
    clean = {name: _printable(text) for name, text in attributes.items()}
    return ElementTree.Element(tag, clean) if parent is None else ElementTree.SubElement(parent, tag, clean)


def _printable(text: str) -> str:
    """Text without the control characters that XML 1.0 lacks, and that a slide's name may have."""
    return "".join(c if c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff" else "?" for c in text)
