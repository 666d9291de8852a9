"""The first training step of T1, from the first import on: what `startup` times.

Run: python tests/benchmarks/first_step.py DATA_ROOT RUN_DIR
"""

# ruff: noqa: E402
import sys

# Lightning's Trainer, a peer, brings torchmetrics, and lightning_fabric imports it where it is.
sys.modules["torchmetrics"] = None

from torch import nn

from cubslib import models, runs, sampling, training
from cubslib.state import begin

run = runs.start("T1", {"data_root": sys.argv[1], "run_dir": sys.argv[2]})
model = models.CustomCNN(len(run.train.classes))
state = begin(run, "classification", model, 100)
images, targets = next(training.augmented_batches(state, sampling.shuffled))
run.fabric.backward(nn.functional.cross_entropy(state.network(images), targets))
state.optimizer.step()
