"""Verdicts on torch, GPUs and the run from end to end."""

from __future__ import annotations

from collections.abc import Iterator

from wsi_magnet.doctor.facts import Computing, Gpu, Trial
from wsi_magnet.doctor.lines import Line, byte_text, ok, problem, problem_of, warning
from wsi_magnet.text import counted


def computing(found: Computing) -> Iterator[Line]:
    """What networks run on."""
    if found.bundle_error is not None:
        yield problem_of("bundle", found.bundle_error, "get the file again")
    yield from _no_cuda(found)
    for index, one in enumerate(found.gpus):
        yield from _gpu(index, one, found)
    if found.resolved is None:
        cure = "pass --device cpu, or see to the GPU" if not found.gpus else "name one of those above"
        yield problem("device", f"--device {found.device} is not here", cure)
    else:
        yield ok("device", f"torch {found.torch} on {found.resolved}; --precision auto is {found.precision} here")


def trial(found: Trial) -> Iterator[Line]:
    """What came of a run from end to end."""
    cure = "see the lines above; if they are ok, run a slide with WSI_MAGNET_TRACEBACK=1 set, which shows where it ends"
    unknown = sorted(set(found.labels) - set(found.known))
    if found.error is not None:
        yield problem("trial run", f"{found.where}: {found.error}", cure)
    elif found.failures:
        yield problem("trial run", f"{found.where}: parts could not be analysed; first: {found.failures[0]}", cure)
    elif unknown:
        yield problem("trial run", f"{found.where}: labels that no class has: {unknown}", cure)
    elif not any(count for value, count in found.labels.items() if value):
        yield problem("trial run", f"{found.where}: the mask of a slide with tissue is empty", cure)
    else:
        said = f"{found.where}: a slide of {found.size} px segmented in {found.slide_s:.1f} s"
        yield ok("trial run", f"{said}, {len([v for v in found.labels if v])} classes in its mask")


def _no_cuda(found: Computing) -> Iterator[Line]:
    """Of a machine with a GPU that torch does not see."""
    if found.gpus or not (found.nodes or found.driver):
        if not found.gpus and found.cuda_error and found.device.startswith("cuda"):
            yield warning("GPU", f"torch sees none: {found.cuda_error}", "see that the machine has one, and a driver")
        return
    has = f"this machine has {counted(found.nodes, 'NVIDIA GPU')}, driver {found.driver or 'not loaded'}"
    if found.cuda is None:
        cure = "install torch's CUDA build, as pytorch.org says, if the GPU is to be used"
        yield warning("GPU", f"{has}, but torch {found.torch} is built without CUDA", cure)
    elif found.visible is not None and found.visible.strip() in ("", "-1", "NoDevFiles"):
        cure = "unset CUDA_VISIBLE_DEVICES, or ask the batch system for a GPU"
        yield warning("GPU", f"{has}, but CUDA_VISIBLE_DEVICES hides it", cure)
    else:
        cure = f"update the driver to one for CUDA {found.cuda}, or install torch for the driver's CUDA"
        yield warning("GPU", f"{has}, but torch for CUDA {found.cuda} cannot use it: {found.cuda_error}", cure)


def _gpu(index: int, one: Gpu, found: Computing) -> Iterator[Line]:
    text = f"cuda:{index} {one.name}, {byte_text(one.free_bytes)} of {byte_text(one.total_bytes)} free"
    about = f"(compute capability {one.capability}, driver {found.driver or 'unknown'}, torch for CUDA {found.cuda})"
    if one.error is not None:
        cure = "install a torch built for this GPU, as pytorch.org says, or pass --device cpu"
        yield problem("GPU", f"{text} {about}: {one.error}", cure)
    elif one.free_bytes < one.total_bytes / 2:
        yield warning(
            "GPU", f"{text}: another program uses it", "wait for it, or name another one with --device cuda:N"
        )
    else:
        yield ok("GPU", f"{text} {about}")
