"""A run that has its folder and its plan: pass after pass over the workers, then the summary."""

from __future__ import annotations

import time
from collections.abc import Set
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

from wsi_magnet.config import Execution, Precision
from wsi_magnet.errors import ResultMismatchError
from wsi_magnet.geometry import Box, ceil_div
from wsi_magnet.inference.devices import gpu_gib, resolve_device
from wsi_magnet.planning.budget import Budget, choose_refined
from wsi_magnet.planning.plan import Cells, ScalePlan, pool_any, square
from wsi_magnet.planning.prepare import PreparedRun
from wsi_magnet.results.describe import describe_images, describe_ome, describe_run
from wsi_magnet.results.events import Note, Observer, ScaleFinished, ScaleStarted, TileFinished, WorkersReady
from wsi_magnet.results.folder import Fingerprint, Products, ResultFolder, write_json
from wsi_magnet.results.journal import History, Journal, Key, TileResult, read_history
from wsi_magnet.results.record import RunRecord
from wsi_magnet.results.summary import RunCounts, RunSummary
from wsi_magnet.runtime.types import Executor
from wsi_magnet.segment.scores import Scores
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.worker.context import RunSpec, worker_contexts
from wsi_magnet.worker.tasks import HalveTask, RecordLost, RunHalve, RunProbe, RunTile


class Run:
    """A run that has its folder and its plan."""

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
        self._counts = RunCounts(self._plan)

    def complete(self, execution: Execution | Executor, wanted: Fingerprint, *, go_on: bool) -> RunSummary:
        """Do what is not done yet; unless it goes on, what lies in the folder is deleted once the workers are ready."""
        begun = time.perf_counter()
        run = self._spec(execution.device)
        if go_on:
            run = run.with_precision(self._begun_in(run.config.precision))
        executor = start(execution) if isinstance(execution, Execution) else execution
        try:
            self._observe(WorkersReady(executor.description, executor.dashboard))
            run = run.with_precision(next(iter(executor.map(RunProbe(run), [None], notify=self._tell))))
            if not go_on:
                self._folder.empty()
            description = describe_run(self._prepared, self._sha256, wanted.parts, run.config.precision)
            history = read_history(self._folder.journal)
            self._check_whole(history)
            for pyramid in self._pyramids.values():
                pyramid.sweep()  # what a killed or refused writer left takes the space that may be needed now
            self._lay_out(description)
            self._passes(executor, run, history)
        finally:
            if isinstance(execution, Execution):
                executor.close()
            worker_contexts.discard(run)
        return self._finish(description, time.perf_counter() - begun)

    def _begun_in(self, asked: Precision) -> Precision:
        """The arithmetic of the run that is gone on with: a mask is of one kind, also where its workers change.

        Not where it was a GPU's and the workers may have none now.
        """
        record = self._folder.read_run()
        begun = (record and record.precision) or "fp32"  # once there was no other on processors
        return begun if asked == "auto" and begun != "fp16" else asked

    def _check_whole(self, history: History) -> None:
        """Raises ResultMismatchError where the journal counts on pixels that are gone."""
        for one in self._plan.passes:
            if not history.keys(one.scale.index):
                continue
            level, needed = one.layout.mask_level, ["mask"]
            if self._products.uncertainty:
                needed.append("uncertainty")
            if self._products.probabilities or (level and one.scale.index + 1 not in history.passes):
                needed.append("probabilities")
            for name in needed:
                if not self._pyramids[name].has_level(level):
                    raise ResultMismatchError(
                        f"{self._folder.path}/{name}.ome.zarr has lost its level {level}, which was finished; "
                        "begin again with --restart",
                        cure="--restart",
                    )

    def _lay_out(self, description: RunRecord) -> None:
        """Everything that the workers write into or read from; what is there already stays."""
        self._folder.write_run(description)
        for pyramid in self._pyramids.values():
            pyramid.create()
        if self._prepared.config.tissue:
            with storage_errors(self._folder.tissue_png):
                self._prepared.tissue.save(self._folder.tissue_png)

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
            self._prepared.tissue.downsample_xy if config.tissue else None,
        )

    def _passes(self, executor: Executor, run: RunSpec, history: History) -> None:
        with Journal(self._folder.journal, self._folder.check_lock) as journal:
            coarser, spent = None, 0
            for one in self._plan.passes:
                scores = Scores(one.tissue)
                for result in history.of_scale(one.scale.index):
                    scores.add(result)
                    self._counts.add(result)
                if one.scale.index in history.passes:
                    self._observe(Note(f"{one.scale.mpp:g} µm/px was finished before"))
                else:
                    refined = self._choose(one, coarser, spent)
                    self._pass(one, refined, set(history.keys(one.scale.index)), scores, (executor, run, journal))
                coarser = scores
                spent += scores.refined if one.scale.index else 0
        for name in self._prepared.config.kept:
            self._build_pyramid(executor, run, name, self._plan.passes[-1])

    def _pass(
        self, one: ScalePlan, refined: Cells, done: Set[Key], scores: Scores, tools: tuple[Executor, RunSpec, Journal]
    ) -> None:
        """One scale: the tiles that are not done, then the mask's pyramid, then the mask shows it."""
        begun = time.perf_counter()
        executor, run, journal = tools
        self._observe(
            ScaleStarted(
                one.scale.index,
                len(self._plan.passes),
                one.scale.mpp,
                int(one.tiles.sum()),
                len(done),
                int(refined.sum()),
                int(one.tissue.sum()),
            )
        )
        missing = (task for task in one.tasks(refined) if task.key not in done)
        tile, on_lost = RunTile(run, self._set_fencing_token(one)), self._record_lost(run)
        # Closed, since the traceback of an error would keep it, and so the tiles that it has submitted, alive.
        with closing(executor.map(tile, missing, on_lost=on_lost, retry_if=_unread, notify=self._tell)) as results:
            for result in results:
                journal.tile(result)
                scores.add(result)
                self._counts.add(result)
                self._observe(TileFinished(result))
        self._build_pyramid(executor, run, "mask", one)
        self._publish(one)
        journal.pass_done(one.scale.index)
        if one.scale.index and not self._products.probabilities:
            self._pyramids["probabilities"].remove_level(one.layout.mask_level + 1)
        self._observe(ScaleFinished(one.scale.index, one.scale.mpp, time.perf_counter() - begun))

    def _record_lost(self, run: RunSpec) -> RecordLost:
        prepared = self._prepared
        return RecordLost(run, prepared.spec, prepared.tissue if prepared.config.tissue else None)

    def _set_fencing_token(self, one: ScalePlan) -> str:
        """From now on workers may write what is of this run and this scale, and nothing else."""
        token = f"{self._ticket} {one.scale.index}"
        self._folder.set_fencing_token(token)
        return token

    def _tell(self, text: str) -> None:
        self._observe(Note(text))

    def _choose(self, one: ScalePlan, coarser: Scores | None, spent: int) -> Cells:
        """Which cells to refine: all of the first scale, of the others those whose parent's quarter is uncertain.

        spent: cells refined at the scales before.
        """
        index, spec, refine = one.scale.index, self._prepared.spec, self._prepared.config.refine
        if coarser is None or refine == "all":
            return one.tissue.copy()
        budget = Budget.of(refine, [int(p.tissue.sum()) for p in self._plan.passes[1:]], index, spent)
        return choose_refined(one.tissue, coarser.of(one.tissue), refine, spec.refine_above[index - 1], budget)

    def _build_pyramid(self, executor: Executor, run: RunSpec, product: str, one: ScalePlan) -> None:
        """Make all levels coarser than a pass from its own, level by level."""
        tiles, token = one.tiles, self._set_fencing_token(one)
        for level in range(one.layout.mask_level + 1, len(self._products.sizes)):
            tiles = pool_any(tiles, 2)
            grid, side = Box.of(self._products.sizes[level]), one.layout.tile_px
            assert tiles.shape == (ceil_div(grid.y1, side), ceil_div(grid.x1, side))
            boxes = (
                square(r, c, side).intersect(grid)
                for r in range(tiles.shape[0])
                for c in range(tiles.shape[1])
                if tiles[r, c]
            )
            tasks = (HalveTask(product, level, box) for box in boxes)
            with closing(executor.map(RunHalve(run, token), tasks, notify=self._tell)) as halved:
                for _ in halved:
                    pass

    def _publish(self, one: ScalePlan) -> None:
        """From now on the images begin at this scale."""
        told = (self._prepared, self._products, self._classes, one.layout.mask_level)
        for name, text in describe_ome(*told).items():
            self._pyramids[name].describe_ome(text)
        for name, attributes in describe_images(*told).items():
            self._pyramids[name].describe(attributes)

    def _finish(self, description: RunRecord, seconds: float) -> RunSummary:
        self._folder.clear_fencing_token()
        self._publish(self._plan.passes[-1])
        if not self._products.probabilities:
            self._pyramids["probabilities"].remove()
        for pyramid in self._pyramids.values():
            pyramid.sweep()
        failed = self._counts.failures
        summary = {"slide": self._prepared.info.path, **self._counts.summary(self._classes)}
        write_json(self._folder.summary_json, summary)
        state = "finished with errors" if failed else "finished"
        self._folder.write_run(
            description.but(
                state=state, failures=failed, finished=now(), seconds_since_start=round(seconds, 3), summary=summary
            )
        )
        return RunSummary(self._folder.path, False, failed, summary)


def start(execution: Execution) -> Executor:
    """The executor that is asked for; Dask is imported only here."""
    from wsi_magnet.runtime.start import start_executor
    from wsi_magnet.system import cpu_threads

    threads = cpu_threads()
    here = execution.workers is None and execution.scheduler is None and execution.cluster is None
    if here and (processes := feeding(execution.device, threads)):
        return start_executor(replace(execution, workers=processes), 2 * threads)  # half of them wait for the GPU
    return start_executor(execution, threads)


def feeding(device: str, threads: int) -> int:
    """Processes that feed a GPU, 0 without one: a single one's threads cannot read and write as fast as it computes,
    because they share Python's lock. Each has its own networks and buffers there, so a small GPU gets fewer.
    """
    resolved = resolve_device(device)
    if resolved.type != "cuda":
        return 0
    return max(1, min(4 if gpu_gib(resolved) >= 30 else 2, threads // 4))


def _unread(result: TileResult) -> bool:
    """True where a part of a tile could not be read, which may be the worker's fault and not the slide's."""
    return any(cell.failure for cell in result.cells)


def now() -> str:
    """The time, for run.json."""
    return datetime.now(UTC).isoformat(timespec="seconds")
