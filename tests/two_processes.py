"""What each of the processes of test_parallel.py runs: gradients, and a training, of every kind of task."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from tiny_training import make_encoder, make_texts
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from minibert.training import (
    Combined,
    CosineRegression,
    Examples,
    InBatchNegatives,
    LayerTask,
    Matryoshka,
    SentenceTask,
    Settings,
    SimilarityMatrix,
    Softmax,
    TeacherVectors,
    Triplet,
    parallel,
    train,
)

ROWS = 16  # batches of 7, 7 and 2: of most, one process has more than the other
U, V, W = (make_texts(ROWS, seed) for seed in range(3))
SETTINGS = Settings(steps=3, batch_size=7, learning_rate=1e-3, accumulate=2)


def make_tasks() -> dict[str, SentenceTask]:
    """The same in every process: the objectives' own weights are seeded."""
    torch.manual_seed(0)
    teacher = torch.randn(ROWS, 9, dtype=torch.float64)
    pairs, triplets, texts = [U, V], [U, V, W], [U]
    objectives = {
        "softmax": (Softmax(32), Examples(pairs, torch.arange(ROWS) % 3)),
        "cosine": (CosineRegression(), Examples(pairs, torch.linspace(-1, 1, ROWS))),
        "triplet": (Triplet(), Examples(triplets)),
        "negatives": (InBatchNegatives(), Examples(triplets)),
        "matryoshka": (Matryoshka(InBatchNegatives(), [32, 5]), Examples(pairs)),
        "teacher": (Combined([TeacherVectors(widths=(32, 9)), SimilarityMatrix()]), Examples(texts, teacher)),
    }
    tasks = {name: SentenceTask(make_encoder(), *values) for name, values in objectives.items()}
    tasks["chunks"] = SentenceTask(make_encoder(), InBatchNegatives(), Examples(pairs), chunk_size=2)
    wide = make_encoder(layers=3, width=40)
    tasks["layers"] = LayerTask(make_encoder(), wide, {0: 1, 1: 2}, Examples(pairs), InBatchNegatives(), weight=0.5)
    return tasks


def results() -> dict[str, dict[str, torch.Tensor]]:
    """Per task its loss and gradients, averaged over the processes; and its weights after some steps."""
    found = {}
    for name, task in make_tasks().items():
        loss = task.loss(np.arange(ROWS - 1))
        loss.backward()
        parallel.average_gradients(task)
        found[name] = {f"gradient {key}": value.grad.clone() for key, value in task.named_parameters()}
        found[name]["loss"] = torch.tensor(parallel.mean(loss.detach()), dtype=torch.float64)
    for name, task in make_tasks().items():
        records = train(task, SETTINGS)
        found[f"{name}, trained"] = {key: value.clone() for key, value in task.state_dict().items()}
        found[f"{name}, trained"]["losses"] = torch.tensor([record["loss"] for record in records])
    return found


def encoded_before_and_after() -> torch.Tensor:
    """Vectors of an encoder that had encoded with weights of its own before it was given the first one's."""
    encoder = make_encoder(dtype=torch.float32)
    with torch.no_grad():
        encoder.model.layers[0].feed_forward.up.weight.mul_(1 + parallel.rank())
    before = encoder.encode(U, convert_to_tensor=True)
    parallel.same_weights(encoder)
    return torch.stack([before, encoder.encode(U, convert_to_tensor=True, fast=True)])


def trained_in_shards(*, sharded: bool = True) -> torch.Tensor:
    """Vectors after a step of FSDP2, which an `encode` comes before: what it leaves in the model must be trainable."""
    encoder = make_encoder(dtype=torch.float32)
    if sharded:
        mesh = init_device_mesh("cpu", (parallel.world(),))
        for part in (*encoder.model.layers, encoder.model):
            fully_shard(part, mesh=mesh)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01)
    encoder.encode(U)
    encoder.train()
    encoder(**encoder.tokenize(U)).square().sum().backward()
    optimizer.step()
    encoder.eval()
    return encoder.encode(U, convert_to_tensor=True)


def main(folder: Path) -> None:
    """Write this process's results; then train as a user's script would, which knows nothing of processes."""
    torch.set_num_threads(1)
    with parallel.joined(torch.device("cpu")):
        rank = parallel.rank()
        torch.save(results(), folder / f"results-{rank}.pt")
        torch.save(encoded_before_and_after(), folder / f"encoded-{rank}.pt")
        torch.save(trained_in_shards(), folder / f"sharded-{rank}.pt")
    task = SentenceTask(make_encoder(dropout=0.3), InBatchNegatives(), Examples([U, V]))
    drawn = []
    task.model.register_forward_hook(lambda *_: drawn.append(torch.initial_seed()))
    train(task, SETTINGS, folder=folder / "out", save_every=2, evaluate=lambda _: {"score": 1.0})
    torch.save({"weights": task.state_dict(), "seeds": drawn}, folder / f"trained-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
