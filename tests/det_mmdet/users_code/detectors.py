"""Detectors in MMDetection 3.x's shape: one hands its configs on, one builds its parts itself."""
import copy
from typing import List, Tuple, Union

from mmdet.models.detectors import BaseDetector, SingleStageDetector
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList, SampleList
from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig
from mmengine.logging import MessageHub, print_log
from torch import Tensor


@MODELS.register_module()
class MyRetinaNet(SingleStageDetector):

    def __init__(self,
                 backbone: ConfigType,
                 neck: ConfigType,
                 bbox_head: ConfigType,
                 train_cfg: OptConfigType = None,
                 test_cfg: OptConfigType = None,
                 data_preprocessor: OptConfigType = None,
                 init_cfg: OptMultiConfig = None) -> None:
        bbox_head_ = copy.deepcopy(bbox_head)
        bbox_head_.update(train_cfg=train_cfg)
        bbox_head_.update(test_cfg=test_cfg)
        super().__init__(
            backbone=backbone,
            neck=neck,
            bbox_head=bbox_head_,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg)

    def loss(self, batch_inputs: Tensor,
             batch_data_samples: SampleList) -> Union[dict, list]:
        losses = super().loss(batch_inputs, batch_data_samples)
        message_hub = MessageHub.get_current_instance()
        factor = 1.0 if message_hub.get_info('iter') >= 0 else 0.0
        losses['loss_cls'] = [factor * loss for loss in losses['loss_cls']]
        message_hub.update_scalar('train/my_figure', batch_inputs.mean())
        return losses


@MODELS.register_module()
class MyOwnDetector(BaseDetector):

    def __init__(self,
                 backbone: ConfigType,
                 head: ConfigType,
                 neck: OptConfigType = None,
                 train_cfg: OptConfigType = None,
                 test_cfg: OptConfigType = None,
                 data_preprocessor: OptConfigType = None,
                 init_cfg: OptMultiConfig = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        if neck is not None:
            self.neck = MODELS.build(neck)
        head.update(train_cfg=train_cfg)
        head.update(test_cfg=test_cfg)
        self.bbox_head = MODELS.build(head)
        print_log(f'with neck: {self.with_neck}', logger='current')

    def extract_feat(self, batch_inputs: Tensor) -> Tuple[Tensor]:
        x = self.backbone(batch_inputs)
        if self.with_neck:
            x = self.neck(x)
        return x

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict:
        return self.bbox_head.loss(self.extract_feat(batch_inputs), batch_data_samples)

    def predict(self,
                batch_inputs: Tensor,
                batch_data_samples: SampleList,
                rescale: bool = True) -> SampleList:
        results_list = self.bbox_head.predict(
            self.extract_feat(batch_inputs), batch_data_samples, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, results_list)

    def _forward(self,
                 batch_inputs: Tensor,
                 batch_data_samples: OptSampleList = None) -> Tuple[List[Tensor]]:
        return self.bbox_head.forward(self.extract_feat(batch_inputs))
