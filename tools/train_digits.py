"""Train models/digits-cnn.onnx: a small convolutional network that reads handwritten digits.

It has what passes and quantizers work on: BatchNorm after each convolution, depthwise convolutions,
residual sums, ReLU6, pooling and a fully connected layer. Rows 0..1199 of digits.csv.gz train it;
the recipe calibrates on 1200..1263 and evaluates on the rest.

Example:
  python tools/train_digits.py path/to/digits.csv.gz models/digits-cnn.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from edgekit.toolchain.readers.digits_csv import MAX_GREY, SIDE, load_rows

TRAIN_ROWS = 1200
EPOCHS = 60
BATCH = 64
OPSET = 17


class Separable(nn.Module):
    """Depthwise and pointwise convolution; the input is added where the shapes allow it."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False
        )
        self.norm1 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU6()
        self.pointwise = nn.Conv2d(channels, out, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.residual = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float32[N, channels, H, W] to float32[N, out, H / stride, W / stride]."""
        y = self.act(self.norm1(self.depthwise(x)))
        y = self.norm2(self.pointwise(y))
        return x + y if self.residual else y


def network() -> nn.Module:
    """Return the untrained network: float32[N, 1, 8, 8], 0..1, to logits float32[N, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU6(),
        Separable(24, 24, 1),
        Separable(24, 48, 2),
        Separable(48, 48, 1),
        nn.Conv2d(48, 64, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Train in place with Adam, small shifts and a cosine schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            shift = tuple(int(v) for v in torch.randint(-1, 2, (2,)))
            pictures = nn.functional.pad(images[batch], (1, 1, 1, 1)).roll(shift, dims=(2, 3))
            optimizer.zero_grad()
            loss_of(model(pictures[:, :, 1:-1, 1:-1]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def export(model: nn.Module, path: Path) -> None:
    """Write ONNX with its BatchNorm nodes kept, as many exporters leave them."""
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, SIDE, SIDE),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        opset_version=OPSET,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )


def main() -> None:
    """Train, report the accuracy on the rows that were not trained on, and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="digits.csv.gz of scikit-learn's wheel")
    parser.add_argument("out", type=Path, help="the ONNX file to write")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    rows = load_rows(arguments.data)
    # The reader's arithmetic: grey values as bytes, then 0..1.
    grey = torch.from_numpy(rows[:, :-1] * 255 // MAX_GREY).float() / 255
    images, labels = grey.reshape(-1, 1, SIDE, SIDE), torch.from_numpy(rows[:, -1].copy())
    model = network()
    train(model, images[:TRAIN_ROWS], labels[:TRAIN_ROWS])
    with torch.no_grad():
        right = model(images[TRAIN_ROWS:]).argmax(1) == labels[TRAIN_ROWS:]
    print(f"accuracy {right.float().mean().item():.3f} over {len(right)} held-out digits")
    export(model, arguments.out)
    print(f"{arguments.out}  {arguments.out.stat().st_size / 1024:.1f} kB")


if __name__ == "__main__":
    main()
