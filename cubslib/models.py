"""The custom CNN, ResNet-18, ResNet-18 with the CUBS blocks, and the embedding head.

Every network maps normalised images to `features` and these, by one dense layer `fc`, to logits or
embeddings; `config` holds what rebuilds it.

Shapes: B images, S × S pixels (32 or more), F features (768 of the custom CNN, 512 of ResNet-18).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cubslib import CubsError
from cubslib.blocks import FASHIONS, GATE_BIAS, CubsAttention
from cubslib.convolution import Conv3x3

STEMS = ("7x7", "3x3")


def conv_bn(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Return a 3 × 3 convolution, batch normalisation and ReLU."""
    return nn.Sequential(
        Conv3x3(in_channels, out_channels, stride),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate that is read from all channels' means (Hu et al., CVPR 2018).

    Args:
        channels: of the map; a sixteenth of them, the paper's choice, are between the two layers.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 16)
        self.excite = nn.Linear(channels // 16, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) of a map (B, C, H, W)."""
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))  # (B, C)
        return x * gate[:, :, None, None]


class CustomCNN(nn.Module):
    """Our own CNN for small images: few layers, wide, and early to 1/2 of the resolution.

    Four stages of 64, 128, 256 and 384 channels at 1/2 to 1/16 of the image: channels double where
    the side halves, so each stage costs about the same; the last is narrower, as its weights are
    many and its positions few. A stage is one convolution that widens and halves, and one whose
    output is added to its input; the third, where objects' parts show, has two of these. The two
    late stages end in squeeze-and-excitation: what the whole image holds decides which channels
    count. The head reads each channel's mean and its maximum: how much of a pattern there is, and
    whether there is any. A last batch normalisation brings both to one scale.

    Args:
        num_classes: the number of logits.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.config = {"network": "custom_cnn", "num_classes": num_classes}
        self.enter1, self.stay1 = conv_bn(3, 64, stride=2), conv_bn(64, 64)
        self.enter2, self.stay2 = conv_bn(64, 128, stride=2), conv_bn(128, 128)
        self.enter3, self.stay3 = conv_bn(128, 256, stride=2), conv_bn(256, 256)
        self.more3, self.gate3 = conv_bn(256, 256), SqueezeExcite(256)
        self.enter4, self.stay4 = conv_bn(256, 384, stride=2), conv_bn(384, 384)
        self.gate4 = SqueezeExcite(384)
        self.norm = nn.BatchNorm1d(2 * 384)
        self.fc = nn.Linear(2 * 384, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return (B, 768) of images (B, 3, S, S)."""
        x = self.enter1(x)  # (B, 64, S/2, S/2)
        x = self.enter2(x + self.stay1(x))  # (B, 128, S/4, S/4)
        x = self.enter3(x + self.stay2(x))  # (B, 256, S/8, S/8)
        x = x + self.stay3(x)
        x = self.enter4(self.gate3(x + self.more3(x)))  # (B, 384, S/16, S/16)
        x = self.gate4(x + self.stay4(x))
        return self.norm(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))  # (B, 768)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, 3, S, S)."""
        return self.fc(self.features(x))


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut (He et al., CVPR 2016, fig. 5 left).

    Args:
        in_channels, out_channels: of x and of the result.
        stride: of the first convolution.
        fashion: a CUBS fashion to attend to the result in; "" for none.
        gate_bias: where its gates start.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        fashion: str = "",
        gate_bias: float = GATE_BIAS,
    ):
        super().__init__()
        self.conv1 = Conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = Conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))
        self.attention = CubsAttention(out_channels, fashion, gate_bias) if fashion else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, H / stride, W / stride) of x (B, in_channels, H, W)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)
        return x if self.attention is None else self.attention(x)


class ResNet18(nn.Module):
    """ResNet-18 (He et al., CVPR 2016, table 1), with the parameter names that torchvision uses.

    Args:
        num_classes: the number of logits.
        stem: `7x7`, stride 2 and max-pool, as published; `3x3`, stride 1, for small images.
        fashion: a CUBS fashion to attend to each residual block's result in; "" for none.
        gate_bias: where its gates start.
    """

    def __init__(
        self,
        num_classes: int,
        stem: str = "7x7",
        fashion: str = "",
        gate_bias: float = GATE_BIAS,
    ):
        super().__init__()
        if stem not in STEMS:
            raise CubsError(f"stem is {stem!r}; it is one of {', '.join(STEMS)}.")
        self.config = {"network": "resnet18", "num_classes": num_classes, "stem": stem}
        kernel, stride = (7, 2) if stem == "7x7" else (3, 1)
        self.conv1 = nn.Conv2d(3, 64, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if stem == "7x7" else nn.Identity()
        channels = 64
        for stage, width in enumerate((64, 128, 256, 512), start=1):
            first = BasicBlock(channels, width, 1 if stage == 1 else 2, fashion, gate_bias)
            second = BasicBlock(width, width, 1, fashion, gate_bias)
            self.add_module(f"layer{stage}", nn.Sequential(first, second))
            channels = width
        self.fc = nn.Linear(512, num_classes)
        for module in self.modules():
            # The gates' convolutions to one channel keep their own start near the identity.
            if isinstance(module, nn.Conv2d) and module.out_channels > 1:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """Return (B, 512) of images (B, 3, S, S)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))  # S/4, or S with 3x3
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 512, S/32 or S/8, …)
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, 3, S, S)."""
        return self.fc(self.features(x))


def resnet18(num_classes: int, stem: str = "7x7") -> ResNet18:
    """Return ResNet-18 with random weights; see `ResNet18`."""
    return ResNet18(num_classes, stem)


def cubs_resnet18(
    num_classes: int, fashion: str, stem: str = "7x7", gate_bias: float = GATE_BIAS
) -> ResNet18:
    """Return ResNet-18 with both CUBS blocks after each residual block, random weights.

    The trunk keeps ResNet-18's parameter names: its state loads with only the blocks' keys missing.

    Args:
        num_classes: the number of logits.
        fashion: one of `blocks.FASHIONS`.
        stem: as for `resnet18`.
        gate_bias: where the gates start, as for `blocks.CubsAttention`.

    Raises:
        CubsError: `fashion` or `stem` is none.
    """
    if fashion not in FASHIONS:
        raise CubsError(f"fashion is {fashion!r}; it is one of {', '.join(FASHIONS)}.")
    model = ResNet18(num_classes, stem, fashion, gate_bias)
    model.config |= {"network": "cubs_resnet18", "fashion": fashion}
    return model


def embed(model: nn.Module, embedding_dim: int) -> nn.Module:
    """Cut off the classification layer of `model` and put an embedding layer in its place.

    Where the embedding has as many dimensions as the features it starts as the identity, so that
    training begins at the features' own recall; elsewhere it starts at random.

    Args:
        model: a network of this module; it is changed and returned.
        embedding_dim: the length of an embedding.
    """
    head = nn.Linear(model.fc.in_features, embedding_dim)
    if head.in_features == head.out_features:
        nn.init.eye_(head.weight)
        nn.init.zeros_(head.bias)
    model.fc = head.to(model.fc.weight.device)
    model.config |= {"embedding_dim": embedding_dim}
    return model


NETWORKS = {"custom_cnn": CustomCNN, "resnet18": resnet18, "cubs_resnet18": cubs_resnet18}


def rebuild(config: dict) -> nn.Module:
    """Return a network with random weights from the `config` of another.

    Raises:
        CubsError: `config` names no network of ours.
    """
    arguments = dict(config)
    network, embedding_dim = arguments.pop("network", None), arguments.pop("embedding_dim", 0)
    if network not in NETWORKS:
        raise CubsError(f"network is {network!r}; it is one of {', '.join(NETWORKS)}, or one's own "
                        "that is given: training.load(run_dir, network).")  # fmt: skip
    model = NETWORKS[network](**arguments)
    return embed(model, embedding_dim) if embedding_dim else model


def num_parameters(model: nn.Module) -> int:
    """Return the number of trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
