"""Plain-text tables that the commands print: aligned, without colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wsi_magnet.text import byte_text, counted, duration_text, percent_text, rough_duration_text

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_magnet.planning.estimate import Cost, Seconds, Timing
    from wsi_magnet.planning.prepare import PreparedRun
    from wsi_magnet.results.alarms import Alarm
    from wsi_magnet.results.summary import RunSummary
    from wsi_magnet.scales import Ladder
    from wsi_magnet.slides.types import SlideInfo

FAILURES_SHOWN = 10
"""Number of a cohort's failed slides that are printed."""

REGIONS_SHOWN = 20
"""Number of a slide's regions that are printed."""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns under their headings; the first is aligned left, the others right."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = (
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """One line for each name and its value."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in pairs)


def info_text(info: SlideInfo, ladder: Ladder | str) -> str:
    """Output of `info`. ladder: the scales, or the reason why there are none."""
    mpp = "none; pass --mpp" if info.mpp_xy is None else f"{info.mpp_xy[0]:g} x {info.mpp_xy[1]:g} µm"
    bounds = f"{info.bounds.x0}, {info.bounds.y0}, {info.canvas}" if info.canvas != info.size else "all of level 0"
    head = facts(
        [
            ("slide", info.path),
            ("vendor", f"{info.vendor} (read by {info.reader})"),
            ("size", f"{info.size} px"),
            ("bounds", bounds),
            ("mpp", f"{mpp} (from {info.mpp_source})" if info.mpp_xy else mpp),
            *_scan_facts(info),
            ("identity", f"{info.identity[:16]}… (whole: --json)"),
        ]
    )
    levels = table(
        ["level", "width", "height", "downsample"],
        [[i, v.size.width, v.size.height, f"{v.downsample:.4f}"] for i, v in enumerate(info.levels)],
    )
    return f"{head}\n\n{levels}\n\n{_ladder_text(info, ladder)}"


SCAN_DATES = ("aperio.Date", "hamamatsu.SourceDate", "philips.DICOM_ACQUISITION_DATETIME", "tiff.DateTime")
"""Properties with the date of a scan, the best first."""


def scan_date(info: SlideInfo) -> str | None:
    """Date of the scan as the scanner has written it; None if unknown."""
    date = next((info.properties[name] for name in SCAN_DATES if info.properties.get(name)), None)
    time = info.properties.get("aperio.Time") if date == info.properties.get("aperio.Date") else None
    return f"{date} {time}" if date and time else date


def _scan_facts(info: SlideInfo) -> list[tuple[str, object]]:
    """Objective, date and further images, as far as the file has them."""
    power = info.properties.get("openslide.objective-power")
    pairs = [("objective", f"{power}x" if power else None), ("scanned", scan_date(info))]
    return [(name, value) for name, value in (*pairs, ("also holds", ", ".join(info.pictures))) if value]


def _ladder_text(info: SlideInfo, ladder: Ladder | str) -> str:
    if isinstance(ladder, str):
        return ladder
    from wsi_magnet.scales import best_level

    downsamples = [level.downsample for level in info.levels]
    rows = [
        [
            f"{s.mpp:g} µm/px",
            s.size.width,
            s.size.height,
            f"{max(s.downsample_xy):.4f}",
            best_level(downsamples, min(s.downsample_xy)),
        ]
        for s in ladder.scales
    ]
    text = table(["scale", "width", "height", "downsample", "from level"], rows)
    if finer := [f"{s.mpp:g}" for s in ladder.scales if min(s.downsample_xy) < 1 - 1e-6]:
        text += f"\nUpsampled, finer than the slide: {', '.join(finer)} µm/px"
    if ladder.left_out_mpp:
        text += f"\nLeft out, finer than the slide: {', '.join(f'{m:g}' for m in ladder.left_out_mpp)} µm/px"
    return text


def plan_text(prepared: PreparedRun, cost: Cost, timing: Timing | None) -> str:
    """Output of `plan`. timing: None leaves the time out."""
    total = cost.total
    rows = [[f"{one.mpp:g} µm/px", one.slide_level, *_costs(asdict(one))] for one in cost.scales]
    rows.append(["all scales", "", *_costs(total)])
    head = ["scale", "level", "tiles", "cells with tissue", "patches", "decoded", "disk at most"]
    if timing is not None:
        head.append("time")
        for row, seconds in zip(rows, (*timing.scales, timing.total), strict=True):
            row.append(_range_text(seconds))
    pairs = [
        ("tissue", f"{100 * prepared.plan.tissue_share:.1f} % of the cells"),
        ("memory", f"about {byte_text(cost.memory_bytes)} for each worker, independent of the slide's size"),
        ("disk", f"at most {byte_text(cost.disk_bytes)} before compression"),
    ]
    if timing is not None:
        pairs.insert(0, ("time", _time_text(timing)))
    return "\n".join([table(head, rows), "", facts(pairs), *(f"Note: {note}" for note in prepared.notes)])


def _costs(one: Mapping[str, Any]) -> list[object]:
    return [one["tiles"], one["cells"], one["patches"], byte_text(one["decoded_bytes"]), byte_text(one["disk_bytes"])]


def _time_text(timing: Timing) -> str:
    speed = timing.speed
    where = counted(speed.threads, "thread") + ("" if speed.device == "cpu" else f" and {speed.device}")
    return f"about {_range_text(timing.total)} on this machine with {where}: an estimate, measured now on a few cells"


def _range_text(seconds: Seconds) -> str:
    """Two durations: "12 s", "4 to 7 min", "50 s to 2 min"."""
    least, most = rough_duration_text(seconds.least), rough_duration_text(seconds.most)
    if least == most:
        return most
    (number, _, unit), (_, _, other) = least.partition(" "), most.partition(" ")
    return f"{number if unit == other else least} to {most}"


def run_text(summary: RunSummary) -> str:
    """Output of `run` when it has finished."""
    values: dict[str, Any] = dict(summary.summary)
    lines = []
    if summary.done_before:
        lines.append("Finished before; nothing to do (--restart starts over).")
    bundle = [("bundle", values["bundle"])] if values.get("bundle") else []
    places = [("mask", summary.folder / "mask.ome.zarr"), ("summary", summary.folder / "summary.json")]
    lines.append(facts([*bundle, *places]))
    rows = [[c["name"], f"{c['area_mm2']:.3f}", f"{c['percent']:.1f}"] for c in values["classes"]]
    lines.append(table(["class", "mm²", "% of area"], rows))
    if values.get("background_mm2", 0.0) >= 0.0005:  # 0.1.0 did not count it
        restricted = ", outside the regions" if "regions" in values else ""
        lines.append(
            f"Background (glass, no tissue{restricted}): {values['background_mm2']:.3f} mm², "
            f"{values['not_looked_at_mm2']:.3f} mm² of it not read (tissue.png shows where)."
        )
    if values["gleason"]:
        g = values["gleason"]
        lines.append(
            f"Gleason {g['primary']} + {g['secondary']} = {g['score']}, ISUP grade group {g['grade_group']} "
            "(by area; not for diagnosis)"
        )
    if values.get("regions"):
        lines.append(_regions_table(values["regions"]))
    lines.append(_scales_table(values["scales"]))
    lines.append("Not for diagnosis.")
    if summary.alarms:
        lines.append(alarms_text(summary.alarms))
    return "\n\n".join(lines)


def _regions_table(regions: Sequence[Mapping[str, Any]]) -> str:
    """A row for each region: its area and the shares of the classes in it."""
    names = [one["name"] for one in regions[0]["classes"]]
    rows = [
        [one["name"], f"{one['region_mm2']:.3f}", f"{one['analysed_mm2']:.3f}"]
        + [f"{share['percent']:.1f}" for share in one["classes"]]
        for one in regions[:REGIONS_SHOWN]
    ]
    more = len(regions) - REGIONS_SHOWN
    rest = f"\nand {more} more; summary.json has all" if more > 0 else ""
    return table(["region", "mm²", "classes mm²", *(f"{name} %" for name in names)], rows) + rest


def alarms_text(alarms: Sequence[Alarm]) -> str:
    """A line for each alarm."""
    return "\n".join(f"ALARM, {one.kind}: {one.text}" for one in alarms)


def _scales_table(scales: Sequence[Mapping[str, Any]]) -> str:
    """Cells at each scale, those that were read, and what they changed; a cell that no refinement could change is not
    read. Results of older versions do not count these, nor changes.
    """
    rows = []
    for index, one in enumerate(scales):
        read = one["cells_refined"] - one.get("cells_unaffected", 0)
        changed = one.get("changed_share") if index and read else None
        share = "" if changed is None else percent_text(100 * changed)
        rows.append([f"{one['mpp']:g} µm/px", one["cells"], read, share])
    return table(["scale", "cells with tissue", "segmented", "pixels changed"], rows)


def unreadable_text(summary: RunSummary) -> str:
    """Unreadable cells: one line for each reason with a count, and the contents of the mask there."""
    from wsi_magnet.results.summary import reason_lines

    lines = reason_lines(summary.failures)
    area = summary.summary["not_analysed_mm2"]
    lost = f"{area:.3g} mm² that no scale could read are labelled 255; " if area else ""
    where = f"{lost}elsewhere the coarser result stays" if lost else "the coarser result stays there"
    return "\n".join(lines) + f"; {where} (run.json lists all cells)"


def failures_text(failed: Sequence[Mapping[str, str]]) -> str:
    """Failed slides of a cohort: name, state, reason if there is one to tell, and the command that repeats each."""
    lines = [
        f"{one['name']} ({one['state']}){': ' if one['reason'] else ''}{one['reason']}\n  {one['retry']}".rstrip()
        for one in failed
    ]
    more = len(lines) - FAILURES_SHOWN
    rest = [f"and {more} more; summary.md and --json have all"] if more > 0 else []
    return "\n".join(["Failures, each with the command that repeats it:", *lines[:FAILURES_SHOWN], *rest])


def check_text(found: dict[str, Any]) -> str:
    """Output of `train --check`."""
    return "\n\n".join([_rows_text(found, found["classes"]), "Nothing stands in the way of training."])


def _rows_text(found: dict[str, Any], classes: Sequence[str]) -> str:
    """Images, groups and labelled pixels of each split."""
    rows = [
        [split, len(found["rows"][split]), len(found["groups"][split]), *(f"{p:,}" for p in pixels)]
        for split, pixels in found["pixels_by_class"].items()
    ]
    return table(["split", "images", "groups", *(f"pixels {name}" for name in classes)], rows)


def training_text(report: dict[str, Any], bundle: Path, folder: Path) -> str:
    """Output of `train` when it has finished."""
    classes = [c["name"] for c in report["config"]["classes"]]
    scales = [
        [f"{mpp:g} µm/px", f"{temperature:g}", f"{100 * miou:.1f}"]
        for mpp, temperature, miou in zip(
            report["config"]["mpps"], report["temperature"], report["validation_miou_after_scale"], strict=True
        )
    ]
    parts = ", ".join(f"{name} {duration_text(value)}" for name, value in report["seconds"].items())
    seconds = f"{duration_text(sum(report['seconds'].values()))} ({parts})"
    methods = _trained_methods_text(report)
    before = ["Finished before; nothing to do (--restart starts over)."] if report["done_before"] else []
    return "\n\n".join(
        [
            *before,
            _rows_text(report, classes),
            table(["after scale", "temperature", "validation mIoU, %"], scales),
            *([methods] if methods else []),
            facts([*_start(report), ("bundle", bundle), ("curves", folder / "curves.png"), ("trained in", seconds)]),
            "Validation rows chose steps and thresholds: score the bundle on others, with `wsi-magnet evaluate`.",
            *_outcome(report),
        ]
    )


def _start(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The bundle that a training started from, and heads that it did not have."""
    if "from" not in report:
        return []
    start = report["from"]
    fresh = [("heads that began afresh", ", ".join(start["fresh_heads"]))] if start["fresh_heads"] else []
    return [("started from", f"{start['name']} ({start['sha256'][:12]})"), *fresh]


def _trained_methods_text(report: Mapping[str, Any]) -> str:
    """Other methods of a training with their figures, Downsample first, from which they start."""
    others = report.get("methods", {})
    if not others:
        return ""
    mious = {"Downsample": report["upsampled_miou"], **{name: one["validation_miou"] for name, one in others.items()}}
    fitted = {"Downsample": {}, **{name: one["parameters"] for name, one in others.items()}}
    return methods_text({name: [f"{100 * one:.1f}"] for name, one in mious.items()}, ["validation mIoU, %"], fitted)


def methods_text(
    shown: Mapping[str, Sequence[str]], head: Sequence[str], fitted: Mapping[str, Mapping[str, float]]
) -> str:
    """Table of other methods, "" where there are none. shown: cells by name, under `head`, before fitted parameters."""
    rows = [[name, *cells, _fitted_text(fitted[name])] for name, cells in shown.items()]
    return table(["other method", *head, "fitted"], rows) if rows else ""


def _fitted_text(parameters: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in parameters.items()) or "-"


def _outcome(report: Mapping[str, Any]) -> list[str]:
    """Conclusion and alarms of a training; nothing in a report of an older version."""
    from wsi_magnet.results.alarms import Alarm

    lines = [f"Outcome: {report['conclusion']}."] if report.get("conclusion") else []
    return ["\n".join([*lines, alarms_text(Alarm.all_of(report))]).strip()] if lines else []
