"""Classes that are registered under another name than their own.

Pure-Python configs import the class and so write its own name; older ones write what it is registered as.
"""

from detcore.registry.scopes import ComponentTable

REGISTERED_AS = {
    "models": {
        "CARAFEPack": "carafe",
        "ConvAWS2d": "ConvAWS",
        "ConvWS2d": "ConvWS",
        "DeformConv2dPack": "DCN",
        "FrozenBatchNorm2d": "FrozenBN",
        "ModulatedDeformConv2dPack": "DCNv2",
        "PixelShufflePack": "pixel_shuffle",
        "SAConv2d": "SAC",
    },
    "weight_initializers": {
        "Caffe2XavierInit": "Caffe2Xavier",
        "ConstantInit": "Constant",
        "KaimingInit": "Kaiming",
        "NormalInit": "Normal",
        "PretrainedInit": "Pretrained",
        "TruncNormalInit": "TruncNormal",
        "UniformInit": "Uniform",
        "XavierInit": "Xavier",
    },
}


def add_class_names(components: ComponentTable) -> None:
    """Let a class's own name mean what it is registered as, with the reason why that is not there."""
    for registry, names in REGISTERED_AS.items():
        for name, registered in names.items():
            components.alias(registry, name, registered)
            known = components.absence(registry, registered)
            if known is not None:
                components.absent(registry, name, known.reason, takes=known.takes)
