"""A planned run on workers: scale after scale, then the summary."""

from __future__ import annotations

import time
from collections.abc import Set
from contextlib import closing
from uuid import uuid4

import numpy as np

from wsi_magnet.config import Execution, Precision
from wsi_magnet.errors import ResultMismatchError
from wsi_magnet.geometry import Box, ceil_div
from wsi_magnet.methods.registry import course_of
from wsi_magnet.nets.trust import running_model
from wsi_magnet.planning.areas import Areas
from wsi_magnet.planning.budget import Budget, choose_refined
from wsi_magnet.planning.estimate import planned_patches
from wsi_magnet.planning.plan import Cells, ScalePlan, grid_box, pool_any
from wsi_magnet.planning.prepare import PreparedRun
from wsi_magnet.results.alarms import alarms_of
from wsi_magnet.results.describe import describe_images, describe_ome, describe_run, numbers_of
from wsi_magnet.results.event_log import now
from wsi_magnet.results.events import (
    Note,
    Observer,
    RunPlanned,
    ScaleFinished,
    ScaleStarted,
    TileFinished,
    WorkersReady,
)
from wsi_magnet.results.folder import Fingerprint, Products, ResultFolder, write_json
from wsi_magnet.results.journal import History, Journal, Key, TileResult, read_history
from wsi_magnet.results.pyramid import count_chunks
from wsi_magnet.results.record import RunRecord
from wsi_magnet.results.summary import RunCounts, RunSummary
from wsi_magnet.runtime.types import Executor
from wsi_magnet.segment.cell_uncertainty import CellUncertainty
from wsi_magnet.segment.executors import start_workers
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.worker.context import RunSpec, worker_contexts
from wsi_magnet.worker.tasks import HalveTask, RecordLost, RunHalve, RunProbe, RunTile


class Run:
    """A planned run of one slide that holds the lock of its result folder."""

    def __init__(
        self, prepared: PreparedRun, folder: ResultFolder, sha256: str, bundle: str | None, observe: Observer
    ) -> None:
        self._prepared, self._plan, self._folder, self._observe = prepared, prepared.plan, folder, observe
        self._sha256, self._bundle = sha256, bundle
        self._ticket = uuid4().hex
        config = prepared.config
        self._products = Products(
            self._plan.pyramid_sizes,
            len(prepared.spec.classes),
            config.ngff,
            config.tile_px,
            config.keep_probabilities,
            config.keep_uncertainty,
        )
        self._pyramids = self._products.pyramids(folder.path)
        self._classes = [one.label for one in prepared.spec.classes]
        self._counts = RunCounts(self._plan, self._restriction)

    def execute(self, execution: Execution | Executor, wanted: Fingerprint, *, resume: bool) -> RunSummary:
        """Compute the tiles that are missing and finish the result.

        resume: False deletes the contents of the folder once the workers are ready. Raises ResultMismatchError where an
        earlier run's images are incomplete.
        """
        started = time.perf_counter()
        run = self._spec(execution.device)
        if resume:
            run = run.with_precision(self._precision_of_earlier_run(run.config.precision))
        executor = start_workers(execution) if isinstance(execution, Execution) else execution
        try:
            self._observe(WorkersReady(executor.description, executor.dashboard))
            run = run.with_precision(next(iter(executor.map(RunProbe(run), [None], notify=self._notify))))
            if not resume:
                self._folder.empty()
            description = describe_run(self._prepared, self._sha256, wanted.parts, run.config.precision)
            history = self._history()
            self._check_images(history)
            for pyramid in self._pyramids.values():
                pyramid.sweep()  # partial files of a killed writer take space
            self._create_store(description)
            self._run_scales(executor, run, history)
        finally:
            if isinstance(execution, Execution):
                executor.close()
            worker_contexts.discard(run)
        return self._finish(description, time.perf_counter() - started)

    def _precision_of_earlier_run(self, requested: Precision) -> Precision:
        """Precision of the run that is resumed, so that a mask has one precision although its workers change.

        The exception is fp16: the earlier workers had a GPU, and the workers of today may have none.
        """
        record = self._folder.read_run()
        earlier = (record and record.precision) or "fp32"  # the only one of early versions on a CPU
        return earlier if requested == "auto" and earlier != "fp16" else requested

    def _history(self) -> History:
        """The journal's tiles that belong to the plan, up to the first scale that is not complete."""
        history = read_history(self._folder.journal, self._is_planned)
        for scale_plan in self._plan.scales:
            index, planned = scale_plan.scale.index, int(scale_plan.tiles.sum())
            missing = planned - len(history.keys(index))
            if missing and index in history.finished_scales:
                mpp, journal = scale_plan.scale.mpp, self._folder.journal
                self._observe(Note(f"{journal} is damaged: {missing} of {planned} tiles of {mpp:g} µm/px are missing"))
            if missing or index not in history.finished_scales:
                return history.up_to(index)
        return history

    def _is_planned(self, result: TileResult) -> bool:
        """True for a tile of the plan with exactly its cells, and with counts of no other regions than the run's."""
        if result.scale >= len(self._plan.scales) or not result.cells:
            return False
        regions = len(self._restriction.regions) if self._restriction else 0
        if any(not 0 <= index < regions for index in result.region_pixels):
            return False
        cells = sorted((cell.row, cell.col) for cell in result.cells)
        return cells == list(self._plan.scales[result.scale].cells_of(result.row, result.col))

    def _check_images(self, history: History) -> None:
        """Raises ResultMismatchError where images lack a level that the journal calls finished."""
        for scale_plan in self._plan.scales:
            if not history.keys(scale_plan.scale.index):
                continue
            level, needed = scale_plan.layout.mask_level, ["mask"]
            if self._products.uncertainty:
                needed.append("uncertainty")
            if self._products.probabilities or (level and scale_plan.scale.index + 1 not in history.finished_scales):
                needed.append("probabilities")
            for name in needed:
                if not self._pyramids[name].has_level(level):
                    raise ResultMismatchError(
                        f"{self._folder.path}/{name}.ome.zarr lacks its level {level}, which was finished; "
                        "start again with --restart",
                        cure="--restart",
                    )

    def _create_store(self, description: RunRecord) -> None:
        """Create run.json, the images and tissue.png; existing pixels stay."""
        self._folder.write_run(description)
        for pyramid in self._pyramids.values():
            pyramid.create()
        if self._prepared.config.tissue:
            with storage_errors(self._folder.tissue_png):
                self._prepared.tissue.save(self._folder.tissue_png)
        if self._prepared.areas is not None:
            with storage_errors(self._folder.areas_json):
                self._prepared.areas.save(self._folder.areas_json)

    def _spec(self, device: str) -> RunSpec:
        info, config = self._prepared.info, self._prepared.config
        return RunSpec(
            info.path,
            info.identity,
            self._bundle,
            self._sha256,
            self._folder.path,
            config,
            self._plan.layouts,
            self._products,
            device,
            self._prepared.tissue.reference if config.tissue else None,
            self._prepared.only_scale,
            running_model(self._prepared.spec),  # the client has looked for it in the user's list
            None if self._restriction is None else self._restriction.digest,
        )

    @property
    def _restriction(self) -> Areas | None:
        """Areas to which the run is restricted; None for a whole slide."""
        areas = self._prepared.areas
        return areas if areas is not None and areas.restrict else None

    def _run_scales(self, executor: Executor, run: RunSpec, history: History) -> None:
        refine, tissue = self._prepared.config.refine, [int(one.tissue.sum()) for one in self._plan.scales]
        patches = planned_patches(self._plan, refine, self._prepared.config.method)
        self._observe(RunPlanned(tuple(tissue), tuple(patches), decided_later=refine == "auto"))
        with Journal(self._folder.journal, self._folder.check_lock) as journal:
            coarser, spent = None, 0
            for scale_plan in self._plan.scales:
                uncertainty = CellUncertainty(scale_plan.tissue)
                for result in history.of_scale(scale_plan.scale.index):
                    uncertainty.add(result)
                    self._counts.add(result)
                if scale_plan.scale.index in history.finished_scales:
                    self._observe(Note(f"{scale_plan.scale.mpp:g} µm/px was finished before"))
                else:
                    refined = self._choose(scale_plan, coarser, spent)
                    done = set(history.keys(scale_plan.scale.index))
                    self._run_scale(scale_plan, refined, done, uncertainty, (executor, run, journal))
                coarser = uncertainty
                spent += uncertainty.refined if scale_plan.scale.index else 0
        for name in self._prepared.config.kept:
            self._build_pyramid(executor, run, name, self._plan.scales[-1])

    def _run_scale(
        self,
        scale_plan: ScalePlan,
        refined: Cells,
        done: Set[Key],
        uncertainty: CellUncertainty,
        tools: tuple[Executor, RunSpec, Journal],
    ) -> None:
        """Compute the tiles of one scale that are not done, then the pyramid of the mask, then publish them."""
        started = time.perf_counter()
        executor, run, journal = tools
        self._observe(
            ScaleStarted(
                scale_plan.scale.index,
                len(self._plan.scales),
                scale_plan.scale.mpp,
                int(scale_plan.tiles.sum()),
                len(done),
                int(refined.sum()),
                int(scale_plan.tissue.sum()),
            )
        )
        missing = (task for task in scale_plan.tasks(refined) if task.key not in done)
        tile, on_lost = RunTile(run, self._set_fencing_token(scale_plan)), self._record_lost(run)
        # Closed, since the traceback of an error would keep it, and so the tiles that it has submitted, alive.
        with closing(
            executor.map(tile, missing, on_lost=on_lost, retry_if=_has_unreadable_cell, notify=self._notify)
        ) as results:
            for result in results:
                journal.tile(result)
                uncertainty.add(result)
                self._counts.add(result)
                self._observe(TileFinished(result))
        self._build_pyramid(executor, run, "mask", scale_plan)
        self._publish(scale_plan)
        journal.scale_done(scale_plan.scale.index)
        if scale_plan.scale.index and not self._products.probabilities:
            self._pyramids["probabilities"].remove_level(scale_plan.layout.mask_level + 1)
        self._observe(ScaleFinished(scale_plan.scale.index, scale_plan.scale.mpp, time.perf_counter() - started))

    def _record_lost(self, run: RunSpec) -> RecordLost:
        prepared = self._prepared
        tissue = prepared.tissue if prepared.config.tissue else None
        return RecordLost(run, prepared.spec, tissue, self._restriction)

    def _set_fencing_token(self, scale_plan: ScalePlan) -> str:
        """Allow workers to write results of this run and this scale only; returns the token."""
        token = f"{self._ticket} {scale_plan.scale.index}"
        self._folder.set_fencing_token(token)
        return token

    def _notify(self, text: str) -> None:
        self._observe(Note(text))

    def _choose(self, scale_plan: ScalePlan, coarser: CellUncertainty | None, spent: int) -> Cells:
        """Cells to refine: all of the first scale; of the others the cells that the coarser scale is uncertain about.

        spent: cells refined at the coarser scales, without the first.
        """
        index, spec, refine = scale_plan.scale.index, self._prepared.spec, self._prepared.config.refine
        course, count = course_of(self._prepared.config.method), len(self._plan.scales)
        if index and not course.refines_at(index, count):
            return np.zeros_like(scale_plan.tissue)
        if coarser is None or refine == "all":
            return scale_plan.tissue.copy()
        cells = [int(one.tissue.sum()) for one in self._plan.scales]
        if course.refines == "last":
            budget = Budget.of(refine, cells[-1:], 1, spent)
        else:
            budget = Budget.of(refine, cells[1:], index, spent)
        return choose_refined(
            scale_plan.tissue, coarser.of(scale_plan.tissue), refine, spec.refine_above[index - 1], budget
        )

    def _build_pyramid(self, executor: Executor, run: RunSpec, product: str, scale_plan: ScalePlan) -> None:
        """Build all levels coarser than a scale's own from it, level by level."""
        tiles, token = scale_plan.tiles, self._set_fencing_token(scale_plan)
        for level in range(scale_plan.layout.mask_level + 1, len(self._products.sizes)):
            tiles = pool_any(tiles, 2)
            grid, side = Box.of(self._products.sizes[level]), scale_plan.layout.tile_px
            assert tiles.shape == (ceil_div(grid.y1, side), ceil_div(grid.x1, side))
            boxes = (
                grid_box(r, c, side).intersect(grid)
                for r in range(tiles.shape[0])
                for c in range(tiles.shape[1])
                if tiles[r, c]
            )
            tasks = (HalveTask(product, level, box) for box in boxes)
            with closing(executor.map(RunHalve(run, token), tasks, notify=self._notify)) as halved:
                for _ in halved:
                    pass

    def _publish(self, scale_plan: ScalePlan) -> None:
        """Describe the images as complete from this scale's level on."""
        described = (self._prepared, self._products, self._classes, scale_plan.layout.mask_level)
        for name, text in describe_ome(*described).items():
            self._pyramids[name].describe_ome(text)
        for name, attributes in describe_images(*described).items():
            self._pyramids[name].describe(attributes)

    def _finish(self, description: RunRecord, seconds: float) -> RunSummary:
        self._folder.clear_fencing_token()
        self._publish(self._plan.scales[-1])
        if not self._products.probabilities:
            self._pyramids["probabilities"].remove()
        for pyramid in self._pyramids.values():
            pyramid.sweep()
        failed = self._counts.failures
        counts = self._counts.summary(self._classes)
        alarms = [one.to_json() for one in alarms_of(counts, numbers_of(self._prepared))]
        spec = self._prepared.spec
        bundle = {"bundle": spec.name, "bundle_made_for": spec.card.get("intended use")}
        summary = {"slide": self._prepared.info.path, **bundle, **counts, "alarms": alarms}
        write_json(self._folder.summary_json, summary)
        state = "finished with errors" if failed else "finished"
        kept = ("mask", *self._prepared.config.kept)
        self._folder.write_run(
            description.but(
                state=state,
                failures=failed,
                finished=now("seconds"),
                seconds_since_start=round(seconds, 3),
                summary=summary,
                chunks={name: count for name in kept if (count := count_chunks(self._pyramids[name].spec.path))},
            )
        )
        return RunSummary(self._folder.path, False, failed, summary)


def _has_unreadable_cell(result: TileResult) -> bool:
    """True where a cell of the tile could not be read, which may be a fault of the worker and not of the slide."""
    return any(cell.failure for cell in result.cells)
