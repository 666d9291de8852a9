"""The processes of one torchrun: which one this is, who goes first, whose sentence all end with.

They meet in the store that torchrun serves at MASTER_ADDR:MASTER_PORT. A notebook's kernel inherits
these names: it has the number of the command that started it.
"""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import distributed
from torch.distributed import DistError, PrefixStore, Store

from cubslib import CubsError, machine

LOST = "another process ended: the same command goes on from the last epoch that is saved."
PATIENCE = timedelta(seconds=20)  # an end is noticed at once, but told some seconds later


def rank() -> int:
    """Return this process's number from 0, over all machines; 0 without torchrun."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def count() -> int:
    """Return how many processes torchrun began, over all machines; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def refuse_uneven(batch_size: int) -> None:
    """Refuse a global batch that the processes cannot share evenly, by a CubsError."""
    if batch_size % count():
        raise CubsError(
            f"batch_size is {batch_size}; with {count()} processes it must be a multiple of "
            f"{count()}."
        )


class _Joined(DDPStrategy):
    """DDP among processes that are there: it launches none, so a notebook's kernel may join."""

    def _configure_launcher(self) -> None:
        """Leave out the launcher, which refuses kernels."""


def fabric(task: str, device: str, precision: str) -> Fabric:
    """Return what computes, launched: one device, or this process's among all.

    Args:
        task: the notebook, `T1` … `T4`; each one's processes meet anew.
        device: `cuda`, `mps` or `cpu`.
        precision: Fabric's name of it.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # not a word a launch
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if count() > 1 else 1
    place = {"devices": here, "num_nodes": count() // here}
    place |= {"strategy": _Joined()} if count() > 1 else {}
    if count() > 1 and not distributed.is_initialized():  # Fabric's keys would be every notebook's
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "nccl" if device == "cuda" else "gloo"
        distributed.init_process_group(backend, store=_store(task), rank=rank(), world_size=count())
    if device == "cpu":
        machine.keep_freed_memory()
    found = Fabric(accelerator=device, precision=precision, **place)
    found.launch()
    return found


@contextmanager
def first_alone(task: str) -> Iterator[None]:
    """Let process 0 go through the body first, the others when it is through.

    Args:
        task: the notebook, `T1` … `T4`; one torchrun may run several.

    Raises:
        CubsError: in the others, where one failed before that: its sentence.
    """
    store = _store(task) if count() > 1 else None
    if store and rank() and (said := store.get("first").decode()):  # waits
        raise CubsError(said)
    yield
    if store and not rank():
        store.set("first", "")


@contextmanager
def together(task: str) -> Iterator[None]:
    """End with the sentence of the process that fails first, where one fails.

    Args:
        task: the notebook, `T1` … `T4`.

    Raises:
        CubsError: the body's, or that of the process that brought this one down.
    """
    store = _store(task) if count() > 1 else None
    if store:  # so torchrun ends the others, where one has ended
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (CubsError, ConnectionError, KeyboardInterrupt) as error:
        if not store:
            raise
        raise _first(store, error) from None


def lost(name: str, text: str) -> bool:
    """Say whether an error, by its name and text, is that another process could not be reached."""
    return count() > 1 and (name.startswith("Dist") or "gloo" in text)


def _store(task: str) -> Store:
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # one store serves them all
    return PrefixStore(f"cubslib {task} {attempt}", next(distributed.rendezvous("env://"))[0])


def _first(store: Store, error: BaseException) -> BaseException:
    """Return what all end with: what was said first, or `error`, which is said first then."""
    sentence = str(error)
    with suppress(DistError):  # the store ends with the machine that serves it
        if isinstance(error, KeyboardInterrupt) and not store.check(["failed"]):
            return error
        if isinstance(error, ConnectionError):
            with suppress(DistError):
                store.wait(["failed"], PATIENCE)
        sentence = store.compare_set("failed", "", sentence).decode()
        store.set("first", sentence)  # some may wait for process 0 yet
    return CubsError(sentence)
