"""A metric over BaseMetric."""
from typing import Dict, List, Optional, Sequence

import numpy as np
from mmdet.evaluation.functional import eval_recalls
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger


@METRICS.register_module()
class MyRecall(BaseMetric):

    default_prefix: Optional[str] = 'my'

    def __init__(self,
                 iou_thr: float = 0.5,
                 collect_device: str = 'cpu',
                 prefix: Optional[str] = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.iou_thr = iou_thr

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for data_sample in data_samples:
            gt, pred = data_sample['gt_instances'], data_sample['pred_instances']
            self.results.append((gt['bboxes'].cpu().numpy(), pred['bboxes'].cpu().numpy()))

    def compute_metrics(self, results: List) -> Dict[str, float]:
        logger: MMLogger = MMLogger.get_current_instance()
        logger.info(f'{len(results)} images of {self.dataset_meta["classes"]}')
        gts, preds = zip(*results)
        recalls = eval_recalls(list(gts), list(preds), 100, self.iou_thr, logger=logger)
        return dict(recall=float(np.mean(recalls)), images=len(results))
