"""Models of timm as backbones: ``type='timm.EfficientNet'``, ``'timm.resnet50'``, ``'timm.TIMMBackbone'``."""
