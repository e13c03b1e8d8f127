"""A transform that adds a key, as in the manual, and one that draws and changes pixels."""
import random
from typing import Optional

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class MyTransform(BaseTransform):

    def __init__(self, prob=0.5):
        self.prob = prob

    def transform(self, results):
        results['marked'] = random.random() < self.prob
        return results


@TRANSFORMS.register_module()
class MyNoise(BaseTransform):

    def __init__(self, most: int = 10, flip: bool = False) -> None:
        self.most = most
        self.flip = flip

    @cache_randomness
    def _draw(self, shape) -> np.ndarray:
        return np.random.randint(0, self.most + 1, shape)

    def transform(self, results: dict) -> Optional[dict]:
        img = results['img'].astype(np.int64) + self._draw(results['img'].shape)
        img = mmcv.imrescale(img.clip(0, 255).astype(np.uint8), 1.0)
        results['img'] = mmcv.imflip(img).copy() if self.flip else img
        return results

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(most={self.most})'
