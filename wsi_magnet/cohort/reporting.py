"""Results and slides that a report shows for the folders named on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wsi_magnet.cohort.paths import is_cohort, result_folders
from wsi_magnet.cohort.state import SlideState, States
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.report.pages import Unsegmented
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.location import Location


@dataclass(frozen=True, slots=True)
class Sources:
    """Contents of a report."""

    results: tuple[Location, ...]
    """Result folders, of which each gets a page."""
    others: tuple[Unsegmented, ...]
    """Slides without a result that can be shown."""


def report_sources(paths: Iterable[Location]) -> Sources:
    """Find the results in output folders of runs and batches, with the slides that have none; other paths are results.

    Raises StoreError, CohortError.
    """
    results: list[Location] = []
    others: list[Unsegmented] = []
    for path in paths:
        states = States(path).read() if is_cohort(path) else {}
        shown: set[str] = set()
        for folder in result_folders(path):
            state = states.get(folder.name)
            if state is not None and state.state == "failed":
                continue  # what lies there is no result
            reason = "" if folder == path else _refusal(folder)
            if not reason:
                results.append(folder)
                shown.add(folder.name)
            elif state is None:
                others.append(Unsegmented(folder.name, "not shown", reason))
        others += [_unsegmented(state) for name, state in states.items() if name not in shown]
    return Sources(tuple(results), tuple(others))


def _refusal(folder: Location) -> str:
    """Reason why a result cannot be shown; empty if it can."""
    try:
        Result(folder)
    except WsiMagnetError as error:
        return str(error)
    return ""


def _unsegmented(state: SlideState) -> Unsegmented:
    failure = state.failure
    return Unsegmented(state.name, state.state, state.error or "", failure["retry"] if failure else "")
