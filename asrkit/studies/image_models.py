"""Classifiers of 32 × 32 images: a small one for a CPU, and ResNet-18."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class ImageModel(nn.Module):
    """A body that maps an image to a vector, and a last layer.

    Args:
        body: (B, 3, H, W) to (B, width).
        width: of the vector.
        classes: of the images.
    """

    def __init__(self, body: nn.Module, width: int, classes: int = 10) -> None:
        super().__init__()
        self.body, self.output = body, nn.Linear(width, classes)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) to (B, width), what the last layer reads."""
        vector: torch.Tensor = self.body(x)
        return vector

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) to logits (B, classes)."""
        logits: torch.Tensor = self.output(self.embed(x))
        return logits


def small_cnn(first: int = 16, second: int = 32, third: int = 64) -> ImageModel:
    """Three 3 × 3 convolutions with these channels and batch normalization, and the mean over positions."""
    body = nn.Sequential(
        _convolution(3, first),
        nn.ReLU(),
        nn.MaxPool2d(2),
        _convolution(first, second),
        nn.ReLU(),
        nn.MaxPool2d(2),
        _convolution(second, third),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return ImageModel(body, third)


def resnet18() -> ImageModel:
    """ResNet-18 (He et al. 2016, arXiv 1512.03385) with the stem for small images: 3 × 3, no pooling; 11,173,962
    parameters for 10 classes."""
    layers: list[nn.Module] = [_convolution(3, 64), nn.ReLU()]
    width = 64
    for new, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [ResidualBlock(width, new, stride), ResidualBlock(new, new, 1)]
        width = new
    return ImageModel(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int, new: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(width, new, stride), _convolution(new, new)
        same = stride == 1 and width == new
        self.past = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(width, new, 1, stride, bias=False), nn.BatchNorm2d(new))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, H, W) to (B, new, H / stride, W / stride)."""
        return functional.relu(self.second(functional.relu(self.first(x))) + self.past(x))


def _convolution(width: int, new: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, new, 3, stride, padding=1, bias=False), nn.BatchNorm2d(new))
