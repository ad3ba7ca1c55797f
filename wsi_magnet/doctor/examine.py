"""The whole examination on one screen: each fact is gathered, judged and told before the next."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace

from wsi_magnet.doctor import computing_verdicts, software_verdicts, verdicts
from wsi_magnet.doctor.apart import apart
from wsi_magnet.doctor.asked import Asked
from wsi_magnet.doctor.disk import gather_folder
from wsi_magnet.doctor.facts import (
    BundleFacts,
    Codecs,
    Computing,
    Cost,
    Ended,
    Folder,
    ObjectStore,
    OpenSlideFacts,
    SlideFacts,
    Trial,
)
from wsi_magnet.doctor.hardware import gather_memory, gather_open_files, gather_processors
from wsi_magnet.doctor.lines import Line
from wsi_magnet.doctor.objects import gather_output
from wsi_magnet.doctor.report import Notify, Report
from wsi_magnet.doctor.software import gather_software

READING_S, COMPUTING_S = 120.0, 300.0
"""How long a part may say nothing. On a busy machine, or from a slow disk, torch alone takes a minute to load."""

_TRY_DECODERS = {"OPENSLIDE_DEBUG": "synthetic"}
"""Has OpenSlide open the pictures that it brings to try its decoders; read when the library is loaded."""


def examine(asked: Asked, tell: Notify) -> Report:
    """Find out whether a run would work; nothing is raised for what would not, and nothing is left behind."""
    report = Report(tell)
    _software(report)
    if not _temporary(report):
        return report  # nothing else can be tried
    _reading(report, asked)
    _machine(report, asked)
    _computing(report, asked)
    if asked.remote:
        from wsi_magnet.doctor.cluster import examine_cluster  # with Dask and torch

        examine_cluster(report, asked)
    return report


def _software(report: Report) -> None:
    found = gather_software()
    report.add(found, software_verdicts.software(found))


def _temporary(report: Report) -> bool:
    """True where there is a folder for temporary files: all that is tried is tried there."""
    try:
        found = gather_folder(tempfile.gettempdir())
    except OSError as error:  # no folder at all that can be written
        tried = os.environ.get("TMPDIR", "/tmp")
        found = Folder(tried, tried, error.strerror or str(error))
    passed_over = verdicts.temporary_elsewhere(os.environ.get("TMPDIR"), found.path)
    report.add(found, [*passed_over, *verdicts.folder(found, "temporary")])
    return found.error is None


def _reading(report: Report, asked: Asked) -> None:
    part = "wsi_magnet.doctor.reading:read_all"
    for fact in apart(part, asked, during="reading slides", silence_s=READING_S, environment=_TRY_DECODERS):
        report.add(fact, _said_of_reading(fact))


def _said_of_reading(fact: object) -> Iterator[Line]:
    match fact:
        case OpenSlideFacts():
            yield from verdicts.openslide(fact)
        case Codecs():
            yield from verdicts.codecs(fact)
        case BundleFacts():
            yield from verdicts.bundle(fact)
        case SlideFacts():
            yield from verdicts.slide(fact)
        case Ended():
            yield from verdicts.ended(fact)


def _machine(report: Report, asked: Asked) -> None:
    cost: Cost | None = report.found(Cost)
    processors, memory, files = gather_processors(), gather_memory(), gather_open_files()
    report.add(processors, verdicts.processors(processors))
    report.add(memory, verdicts.memory(memory, cost, asked))
    report.add(files, verdicts.open_files(files))
    if asked.output is not None:
        output = gather_output(asked.output)
        if isinstance(output, ObjectStore):
            report.add(output, verdicts.object_store(output))
        else:
            report.add(output, verdicts.folder(output, "output", cost))


def _computing(report: Report, asked: Asked) -> None:
    header: BundleFacts | None = report.found(BundleFacts)
    store: ObjectStore | None = report.found(ObjectStore)
    if store is not None and store.error is not None:
        asked = replace(asked, output=None)  # the trial run would only say so again
    for fact in apart("wsi_magnet.doctor.computing:compute_all", asked, during="computing", silence_s=COMPUTING_S):
        if isinstance(fact, Computing) and header is not None and header.error is not None:
            fact = replace(fact, bundle_error=None)  # was told before
        report.add(fact, _said_of_computing(fact))


def _said_of_computing(fact: object) -> Iterator[Line]:
    match fact:
        case Computing():
            yield from computing_verdicts.computing(fact)
        case Trial():
            yield from computing_verdicts.trial(fact)
        case Ended():
            yield from verdicts.ended(fact)
