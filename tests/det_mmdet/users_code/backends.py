"""A receiver of figures, over BaseVisBackend."""
import os
import os.path as osp
from typing import Optional, Union

import numpy as np
import torch
from mmdet.registry import VISBACKENDS
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.visualization import BaseVisBackend
from mmengine.visualization.vis_backend import force_init_env


@VISBACKENDS.register_module()
class MyVisBackend(BaseVisBackend):

    def __init__(self, save_dir: str, name: str = 'mine') -> None:
        super().__init__(save_dir)
        self._name = name

    @property
    @force_init_env
    def experiment(self) -> dict:
        return self._figures

    def _init_env(self) -> None:
        if not osp.exists(self._save_dir):
            os.makedirs(self._save_dir, exist_ok=True)
        self._figures = {}

    @force_init_env
    def add_config(self, config: Config, **kwargs) -> None:
        self._config = config.pretty_text

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs) -> None:
        self.experiment[name] = list(image.shape)

    @force_init_env
    def add_scalar(self, name: str, value: Union[int, float, torch.Tensor, np.ndarray],
                   step: int = 0, **kwargs) -> None:
        self.experiment.setdefault(name, []).append(float(value))

    @force_init_env
    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: Optional[str] = None,
                    **kwargs) -> None:
        for key, value in scalar_dict.items():
            self.add_scalar(key, value, step, **kwargs)

    def close(self) -> None:
        dump(self.experiment, osp.join(self._save_dir, f'{self._name}.json'))
