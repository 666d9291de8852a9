"""Two processes, joined as torchrun joins them, against one."""

import socket

import pytest
import small
import torch
from small import assert_same, leaves, shorten

from cubslib import settings

begin, data_root, short = small.begin, small.data_root, small.short


@pytest.mark.parametrize("metric", [True, False], ids=["multi_similarity", "cross_entropy"])
def test_two_processes_train_as_one_does(metric, begin, monkeypatch):
    monkeypatch.setattr(settings, "precision", lambda device: "32-true")
    shorten(lr=0.01)
    found, histories = [], []
    for world in (1, 2):
        run = begin("T1", run_dir=f"world{world}")
        run.release()
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        arguments = [(rank, world, port, run, metric) for rank in range(world)]
        processes = [small.FORKS.Process(target=small.share, args=own) for own in arguments]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        found.append([torch.load(run.folder / f"rank{rank}.pt") for rank in range(world)])
        histories.append(run.history())
    (one,), (first, second) = found
    assert (one["world"], first["world"]) == (1, 2)
    together = [torch.cat(pair) for pair in zip(first["images"], second["images"], strict=True)]
    assert_same(together, one["images"])
    assert all(a.abs().max() > 0 for a in leaves(one["gradients"]).values())
    for rank in (first, second):
        torch.testing.assert_close(rank["gradients"], one["gradients"], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(rank["outputs"], one["outputs"], rtol=1e-3, atol=1e-5)
        assert rank["recall"] == one["recall"]
    for a, b in zip(*histories, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert [v for k, v in a.items() if "val" in k] == [v for k, v in b.items() if "val" in k]
