"""A box loss after the manual's MyLoss: element-wise kernel, weights, reduction, override."""
import torch.nn as nn
from mmdet.models.losses.utils import weighted_loss
from mmdet.registry import LOSSES


@weighted_loss
def log_distance(pred, target, scale=1.0):
    if pred.shape != target.shape:
        raise ValueError('one target a prediction')
    return (1 + (pred - target).abs() / scale).log()


@LOSSES.register_module()
class MyLoss(nn.Module):

    def __init__(self, scale=1.0, reduction='mean', loss_weight=1.0):
        super(MyLoss, self).__init__()
        self.scale = scale
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(self, pred, target, weight=None, avg_factor=None, reduction_override=None):
        reduction = reduction_override or self.reduction
        loss = log_distance(
            pred, target, weight, scale=self.scale, reduction=reduction, avg_factor=avg_factor)
        return self.loss_weight * loss
