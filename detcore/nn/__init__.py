"""What networks are made of: modules that initialise themselves, and convolution blocks."""

from detcore.nn.activations import HSigmoid, Swish
from detcore.nn.base_module import BaseModule, ModuleDict, ModuleList, Sequential
from detcore.nn.build import (
    build_activation_layer,
    build_conv_layer,
    build_linear_layer,
    build_norm_layer,
    build_padding_layer,
    build_plugin_layer,
    build_upsample_layer,
    is_norm,
)
from detcore.nn.checkpointing import checkpointed
from detcore.nn.conv_module import ConvModule
from detcore.nn.conv_ws import ConvWS2d
from detcore.nn.csp import ChannelAttention, CSPLayer, CSPNeXtBlock, DarknetBottleneck
from detcore.nn.deform_conv import (
    DeformConv2d,
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
)
from detcore.nn.depthwise import DepthwiseSeparableConvModule
from detcore.nn.drop import DropPath
from detcore.nn.init import (
    bias_init_with_prob,
    caffe2_xavier_init,
    constant_init,
    kaiming_init,
    normal_init,
    trunc_normal_init,
    uniform_init,
    xavier_init,
)
from detcore.nn.initializers import initialize
from detcore.nn.layer_norm import LayerNorm2d

__all__ = [
    "BaseModule",
    "CSPLayer",
    "CSPNeXtBlock",
    "ChannelAttention",
    "ConvModule",
    "ConvWS2d",
    "DarknetBottleneck",
    "DeformConv2d",
    "DeformConv2dPack",
    "DepthwiseSeparableConvModule",
    "DropPath",
    "HSigmoid",
    "LayerNorm2d",
    "ModulatedDeformConv2d",
    "ModulatedDeformConv2dPack",
    "ModuleDict",
    "ModuleList",
    "Sequential",
    "Swish",
    "bias_init_with_prob",
    "build_activation_layer",
    "build_conv_layer",
    "build_linear_layer",
    "build_norm_layer",
    "build_padding_layer",
    "build_plugin_layer",
    "build_upsample_layer",
    "caffe2_xavier_init",
    "checkpointed",
    "constant_init",
    "initialize",
    "is_norm",
    "kaiming_init",
    "normal_init",
    "trunc_normal_init",
    "uniform_init",
    "xavier_init",
]
