"""Scope ``backbones``: name -> where it lives. Sorted; imported when first built."""
from detcore.plugins import hookimpl
from detcore.registry.scopes import ComponentTable

DETCORE_API = 1


@hookimpl
def detcore_components(components: ComponentTable) -> None:
    """Name this package's components."""
    components.add_many("models", {
        "CSPDarknet": "det_backbones.csp_darknet:CSPDarknet",
        "CSPNeXt": "det_backbones.cspnext:CSPNeXt",
        "ConvNeXt": "det_backbones.convnext:ConvNeXt",
        "Darknet": "det_backbones.darknet:Darknet",
        "EfficientNet": "det_backbones.efficientnet:EfficientNet",
        "HRNet": "det_backbones.hrnet:HRNet",
        "MobileNetV2": "det_backbones.mobilenet:MobileNetV2",
        "PyramidVisionTransformer": "det_backbones.pvt:PyramidVisionTransformer",
        "PyramidVisionTransformerV2": "det_backbones.pvt:PyramidVisionTransformerV2",
        "RegNet": "det_backbones.regnet:RegNet",
        "Res2Net": "det_backbones.res2net:Res2Net",
        "ResLayer": "det_backbones.shared_head:ResLayer",
        "ResNeXt": "det_backbones.resnext:ResNeXt",
        "ResNet": "det_backbones.resnet:ResNet",
        "ResNetV1d": "det_backbones.resnet:ResNetV1d",
        "SSDVGG": "det_backbones.vgg:SSDVGG",
        "SwinTransformer": "det_backbones.swin:SwinTransformer",
    })
